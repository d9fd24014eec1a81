//! Health check node ports: load balancers ask each node whether it has endpoints of a Service with
//! `externalTrafficPolicy: Local`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::compile::HealthCheck;

/// Most connections at a time, of one port; load balancers ask every few seconds.
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for a request's head.
const PATIENCE: Duration = Duration::from_secs(5);

type State = Arc<RwLock<(String, HealthCheck)>>;

/// The listeners of all Services.
pub struct HealthServer {
    stop: CancellationToken,
    ports: BTreeMap<u16, (State, CancellationToken)>,
}

impl HealthServer {
    /// No listeners.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, ports: BTreeMap::new() }
    }

    /// Opens, changes and closes listeners to match.
    pub async fn set(&mut self, wanted: BTreeMap<u16, (String, HealthCheck)>) {
        self.ports.retain(|port, (_, stop)| {
            let keep = wanted.contains_key(port);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (port, check) in wanted {
            if let Some((state, _)) = self.ports.get(&port) {
                *state.write() = check;
                continue;
            }
            let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(listener) => listener,
                Err(error) => {
                    let service = &check.0;
                    tracing::warn!(%error, port, service, "cannot open the health check port");
                    continue;
                }
            };
            let state: State = Arc::new(RwLock::new(check));
            let stop = self.stop.child_token();
            tokio::spawn(accept(listener, state.clone(), stop.clone()));
            self.ports.insert(port, (state, stop));
        }
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        for (_, stop) in self.ports.values() {
            stop.cancel();
        }
    }
}

async fn accept(listener: TcpListener, state: State, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely; they come back.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let state = state.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
                let response = respond(&state.read());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that goes away is its own affair.
            let _ = connection.await;
        });
    }
}

/// The answer in upstream's form: 200 when there is an endpoint here, else 503.
fn respond((service, check): &(String, HealthCheck)) -> Response<Full<Bytes>> {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let body = serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": true,
    });
    let status = if check.local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    headers.insert("x-load-balancing-endpoint-weight", hyper::header::HeaderValue::from(check.local_endpoints));
    response
}
