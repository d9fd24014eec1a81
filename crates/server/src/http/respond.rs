//! Making answers.

use super::body::Body;
use super::negotiate::MediaType;
use bytes::Bytes;
use caravel_api::kinds::Gvk;
use caravel_api::protobuf;
use caravel_api::schema::Schema;
use caravel_api::status::ApiError;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::Value;

/// An answer with a JSON (or YAML) value.
pub fn value(status: StatusCode, value: &Value, media: MediaType) -> Response<Body> {
    let bytes = match media {
        MediaType::Json => {
            let mut out = serde_json::to_vec(value).unwrap_or_default();
            out.push(b'\n');
            out
        }
        MediaType::Yaml => serde_yaml::to_string(value).unwrap_or_default().into_bytes(),
        MediaType::Protobuf => match to_protobuf(value) {
            Some(bytes) => bytes,
            // What has no protobuf form goes out as JSON, which every client reads, too.
            None => return self::value(status, value, MediaType::Json),
        },
    };
    with(status, media.header(), bytes)
}

/// The protobuf form of an object, list or Status in its envelope.
pub fn to_protobuf(value: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let schema = Schema::of_kind(&Gvk::from_object(text("apiVersion"), text("kind")))?;
    match protobuf::encode(&schema, value) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, kind = text("kind"), "an object cannot be written as protobuf");
            None
        }
    }
}

/// An answer with stored JSON bytes, turned into YAML or protobuf when that was asked for.
pub fn stored(status: StatusCode, bytes: Bytes, media: MediaType) -> Response<Body> {
    match media {
        MediaType::Json => with(status, media.header(), bytes),
        MediaType::Yaml | MediaType::Protobuf => match serde_json::from_slice::<Value>(&bytes) {
            Ok(parsed) => value(status, &parsed, media),
            Err(e) => error(&ApiError::internal(format!("a stored object is not JSON: {e}")), MediaType::Json),
        },
    }
}

/// An answer with `body` of the given content type.
pub fn with(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    // A 304 speaks of the kept answer, whose type it must not change.
    if status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = with(status, "text/plain; charset=utf-8", text);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// The answer to a failure: a `Status` with its code.
pub fn error(error: &ApiError, media: MediaType) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(status, &error.to_status(), media);
    if let Some(seconds) = error.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code == 401 {
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer realm=\"caravel\""));
    }
    response
}

/// Adds a `Warning: 299` header (RFC 7234 §5.5) for each text. Quotes are escaped, control characters dropped, and the
/// whole kept within bounds.
pub fn warnings(response: &mut Response<Body>, texts: &[String]) {
    const MOST: usize = 4096;
    let mut total = 0;
    for text in texts {
        let clean: String = text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        total += clean.len();
        if total > MOST {
            return;
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{clean}\"").as_bytes()) {
            response.headers_mut().append("warning", value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_cannot_break_out_of_their_header() {
        let mut response = text(StatusCode::OK, "");
        warnings(&mut response, &["a \"b\"\r\nx: y".into()]);
        assert_eq!(response.headers()["warning"], "299 - \"a \\\"b\\\"x: y\"");
    }
}
