//! Answers.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

/// The body of every answer.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;
/// Every answer.
pub(super) type Reply = Response<Body>;

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}

/// Plain text; upstream's kubelet answers errors so, and the API server wraps them into a Status.
pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Reply {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

pub(super) fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the answer: {error}")),
    }
}

/// A body that is sent as it comes; ends with the sender.
pub(super) fn stream(content_type: &'static str, parts: mpsc::Receiver<Result<Bytes, std::io::Error>>) -> Reply {
    let frames = futures::stream::unfold(parts, |mut parts| async {
        let part = parts.recv().await?;
        Some((part.map(Frame::data), parts))
    });
    let mut reply = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}

/// 101: the connection goes on in another protocol.
pub(super) fn switching(headers: &[(&'static str, String)]) -> Reply {
    let mut reply = with_type(StatusCode::SWITCHING_PROTOCOLS, "text/plain", Bytes::new());
    reply.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in headers {
        if let Ok(value) = header::HeaderValue::try_from(value) {
            reply.headers_mut().append(*name, value);
        }
    }
    reply
}
