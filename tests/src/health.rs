//! A gRPC server of `grpc.health.v1.Health` that says SERVING, for probes: no program in the tests' image speaks gRPC.

use crate::block_on;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The server; it ends when dropped.
pub struct Health {
    port: u16,
    checks: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Health {
    /// Listens at this address, on a port that is free.
    pub fn start(ip: &str) -> Health {
        let (address, checks) = (format!("{ip}:0"), Arc::new(AtomicUsize::new(0)));
        let counter = checks.clone();
        let (port, task) = block_on(async move {
            let listener = TcpListener::bind(&address).await.unwrap();
            (listener.local_addr().unwrap().port(), tokio::spawn(serve(listener, counter)))
        });
        Health { port, checks, task }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often it was asked.
    pub fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, checks: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let checks = checks.clone();
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            checks.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Infallible>(serving()) }
        });
        tokio::spawn(async move {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Frames = futures::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>;

/// `HealthCheckResponse{status: SERVING}` and a good end.
fn serving() -> http::Response<StreamBody<Frames>> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 0x08, 1]))), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames));
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}
