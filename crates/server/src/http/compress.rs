//! Gzip for large answers, when the client asks for it.

use super::body::{Body, Pieces};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http::{HeaderMap, Response};
use std::io::Write;

/// Upstream compresses what is larger than this; below, the cost is not worth it.
pub const THRESHOLD: u64 = 128 * 1024;

/// About as much is compressed at a time.
const SLICE: usize = 256 * 1024;

/// Whether the client takes gzip.
pub fn wanted(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|p| !matches!(p.replace(' ', "").as_str(), "q=0" | "q=0.0"))
    })
}

/// Compresses the answer if it is known to be large. Works piece by piece as the pieces are sent, so that a
/// long list is never held twice.
pub fn gzip(mut response: Response<Body>) -> Response<Body> {
    let about = match response.body() {
        Body::Pieces { about, .. } => *about,
        body => body.len().unwrap_or_default(),
    };
    if about <= THRESHOLD || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let pieces: Pieces = match std::mem::take(response.body_mut()) {
        // A slice at a time, so that one huge piece does not hold the thread for long.
        Body::Full(mut bytes) => {
            Box::new(std::iter::from_fn(move || (!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(SLICE)))))
        }
        Body::Pieces { rest, .. } => rest,
        other => {
            *response.body_mut() = other;
            return response;
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(CONTENT_LENGTH);
    let encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    let state = (pieces, Some(encoder));
    *response.body_mut() = Body::stream(futures::stream::try_unfold(state, |(mut pieces, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok(None) };
        let mut taken = 0;
        for piece in pieces.by_ref() {
            encoder.write_all(&piece)?;
            taken += piece.len();
            let out = encoder.get_mut();
            if out.len() >= 32 * 1024 || taken >= SLICE {
                let chunk = Bytes::from(std::mem::take(out));
                tokio::task::yield_now().await;
                return Ok(Some((chunk, (pieces, Some(encoder)))));
            }
        }
        let last = Bytes::from(encoder.finish()?);
        Ok::<_, super::BoxError>(Some((last, (pieces, None))))
    }));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::io::Read;

    #[tokio::test]
    async fn what_is_compressed_is_the_same() {
        let text: Vec<u8> = (0..400_000u32).flat_map(|i| (i % 977).to_le_bytes()).collect();
        let response = gzip(Response::new(Body::pieces(
            text.chunks(300_000).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter(),
            text.len() as u64,
        )));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let packed = response.into_body().collect().await.unwrap().to_bytes();
        assert!(packed.len() < text.len());
        let mut back = vec![];
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
        assert!(back == text);
    }

    #[test]
    fn small_answers_stay_as_they_are() {
        let response = gzip(Response::new(Body::from("small")));
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn clients_say_whether_they_want_it() {
        for (text, yes) in [("gzip, deflate", true), ("identity", false), ("gzip;q=0", false), ("br, gzip;q=1.0", true)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, text.parse().unwrap());
            assert_eq!(wanted(&headers), yes, "{text}");
        }
    }
}
