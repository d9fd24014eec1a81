//! The gRPC health protocol (`grpc.health.v1.Health/Check`), small enough to be spoken without a gRPC library.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

const MAX_BODY: usize = 64 * 1024;
const SERVING: u64 = 1;

/// Asks a service for its health.
pub async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, check(host, port, service)).await {
        Ok(r) => r,
        Err(_) => Err(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}: context deadline exceeded",
            caravel_api::duration::text_std(timeout)
        )),
    }
}

async fn check(host: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = super::tcp::connect(host, port).await?;
    let text = |e: hyper::Error| format!("error: health rpc probe failed: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(message(service)))
        .map_err(|e| e.to_string())?;
    let result = async {
        let response = sender.send_request(request).await.map_err(text)?;
        if let Some(code) = code(response.headers()).filter(|c| c != "0") {
            return Err(refused(&code));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        if let Some(code) = body.trailers().and_then(code).filter(|c| c != "0") {
            return Err(refused(&code));
        }
        match status(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            other => Err(format!("service unhealthy (responded with \"{}\")", name(other))),
        }
    };
    let result = result.await;
    driver.abort();
    result
}

fn code(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn refused(code: &str) -> String {
    match code {
        "12" => "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        "5" => "error: health rpc probe failed: the server does not know the service".into(),
        other => format!("error: health rpc probe failed with gRPC code {other}"),
    }
}

fn name(status: Option<u64>) -> &'static str {
    match status {
        Some(SERVING) => "SERVING",
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// `HealthCheckRequest{service = 1}` with gRPC's five-byte prefix.
fn message(service: &str) -> Bytes {
    let mut inner = BytesMut::new();
    if !service.is_empty() {
        inner.put_u8(0x0a);
        varint(&mut inner, service.len() as u64);
        inner.put_slice(service.as_bytes());
    }
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(inner.len() as u32);
    out.put_slice(&inner);
    out.freeze()
}

fn varint(out: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8((n as u8) | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

/// `HealthCheckResponse{status = 1}`: an absent field is 0, `UNKNOWN`.
fn status(frame: &[u8]) -> Option<u64> {
    let body = frame.get(5..)?;
    match body {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire() {
        assert_eq!(&message("ab")[..], &[0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(&message("")[..], &[0, 0, 0, 0, 0]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[1]), None);
    }
}
