//! Bodies of answers and requests.

use bytes::{Bytes, BytesMut};
use caravel_api::status::ApiError;
use futures::Stream;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, whatever it came from.
pub type RequestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// Makes the pieces of a body.
pub type Pieces = Box<dyn Iterator<Item = Bytes> + Send>;

/// The body of an answer.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// One piece.
    Full(Bytes),
    /// Pieces that are made as they are sent, such as the items of a list: a long answer is never held whole.
    Pieces {
        /// What is still to be sent.
        rest: Pieces,
        /// About how many bytes that is.
        about: u64,
    },
    /// Pieces that come over time, such as a watch.
    Stream(Chunks),
    /// A body handed through from another server.
    Through(RequestBody),
}

impl Body {
    /// A body of pieces, of `about` bytes in all.
    pub fn pieces(pieces: impl Iterator<Item = Bytes> + Send + 'static, about: u64) -> Self {
        Self::Pieces { rest: Box::new(pieces.filter(|piece| !piece.is_empty())), about }
    }

    /// A body that comes over time.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// Length in bytes when it is known.
    pub fn len(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::Pieces { .. } | Self::Stream(_) | Self::Through(_) => None,
        }
    }

    /// Whether there is certainly nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Pieces { rest, .. } => Poll::Ready(rest.next().map(|piece| Ok(Frame::data(piece)))),
            Self::Stream(stream) => stream.as_mut().poll_next(cx).map(|next| next.map(|piece| piece.map(Frame::data))),
            Self::Through(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Through(body) => body.is_end_stream(),
            other => other.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Through(body) => body.size_hint(),
            other => other.len().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// What is read and thrown away of a body that is too large, so that a client that is still sending gets to read the
/// answer instead of a broken connection; more than this, or slower, is cut off.
const DRAIN: usize = 16 << 20;
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(5);

async fn drain(body: &mut RequestBody) {
    let mut left = DRAIN;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > left {
                return;
            }
            left -= length;
        }
    };
    // Cut off or not, the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// Reads a whole request body of at most `limit` bytes.
pub async fn read_limited(mut body: RequestBody, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("limit is {limit}"));
    if body.size_hint().lower() > limit as u64 {
        drain(&mut body).await;
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad_request(format!("the request's body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + data.len() > limit {
            drain(&mut body).await;
            return Err(too_large());
        }
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(head) => {
                rest.reserve(head.len() + data.len());
                rest.extend_from_slice(&head);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    fn body(bytes: &'static [u8]) -> RequestBody {
        RequestBody::new(Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}))
    }

    #[tokio::test]
    async fn reading_stops_at_the_limit() {
        assert_eq!(read_limited(body(b"12345"), 5).await.unwrap(), "12345");
        assert_eq!(read_limited(body(b"123456"), 5).await.unwrap_err().code, 413);
        let pieces: Vec<Result<Frame<Bytes>, BoxError>> =
            (0..4).map(|_| Ok(Frame::data(Bytes::from_static(b"ab")))).collect();
        let stream = http_body_util::StreamBody::new(futures::stream::iter(pieces));
        assert_eq!(read_limited(RequestBody::new(stream), 7).await.unwrap_err().code, 413);
    }

    #[tokio::test]
    async fn pieces_are_sent_one_by_one() {
        let body = Body::pieces([Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")].into_iter(), 3);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
