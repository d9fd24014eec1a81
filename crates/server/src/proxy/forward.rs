//! Passing one request on to another server, its answer back, and after an upgrade the raw bytes both ways.

use crate::http::body::{Body, BoxError, RequestBody};
use crate::outbound;
use caravel_api::status::ApiError;
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const CONNECT: Duration = Duration::from_secs(10);

/// Where to pass a request on to.
pub struct Backend {
    /// Addresses to try, in order.
    pub addresses: Vec<SocketAddr>,
    /// The `Host` header.
    pub host: String,
    /// TLS, or plain.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name that its certificate must be for; its address, when none is given.
    pub server_name: Option<String>,
    /// What to call it in errors.
    pub what: String,
}

/// Headers that concern one hop only (RFC 9110 §7.6.1).
const HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"];

/// Removes the headers that concern one hop only, and those that `Connection` names as such.
pub(crate) fn strip(headers: &mut HeaderMap) {
    strip_named(headers);
    for name in HOP {
        headers.remove(name);
    }
}

/// Removes the headers that `Connection` names, and what it says of them. To be called before this server says something in
/// headers: else the client could name these, and they would not arrive. What a change of protocol needs stays.
pub(crate) fn strip_named(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    headers.remove(CONNECTION);
    for name in &named {
        if name == "upgrade" {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        } else if let Ok(name) = name.parse::<HeaderName>() {
            headers.remove(name);
        }
    }
}

/// Why there is no answer to hand on.
#[derive(Debug)]
pub enum Unreachable {
    /// The request cannot be passed on.
    Request(ApiError),
    /// No connection, in the words of Go's dialer.
    Dial(String),
    /// There was one, but no proper answer.
    Answer(String),
}

impl Unreachable {
    /// As it is said of Services, Pods and whatever listens on nodes.
    pub fn error(self, what: &str) -> ApiError {
        match self {
            Self::Request(error) => error,
            Self::Dial(why) | Self::Answer(why) => {
                ApiError::service_unavailable(format!("error trying to reach {what}: {why}"))
            }
        }
    }
}

/// Passes the request on with `path_and_query` as its target.
///
/// # Errors
/// Why there is no answer.
pub async fn forward(
    mut parts: Parts,
    body: RequestBody,
    backend: &Backend,
    path_and_query: &str,
    stop: CancellationToken,
) -> Result<Response<Body>, Unreachable> {
    let refuse = |why: String| Unreachable::Request(ApiError::bad_request(why));
    let target: Uri =
        path_and_query.parse().map_err(|_| refuse(format!("the path {path_and_query:?} cannot be passed on")))?;
    let upgrade = upgrade_of(&parts);
    let io = connect(backend).await.map_err(Unreachable::Dial)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(256 * 1024)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| Unreachable::Answer(e.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend ended with an error");
        }
    });
    // The client's side of an upgrade travels in the extensions; they are not passed on.
    let on_client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    strip(&mut parts.headers);
    if let Some(protocol) = &upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, protocol.clone());
    } else {
        parts.headers.remove(UPGRADE);
    }
    let host = HeaderValue::try_from(&backend.host).map_err(|e| refuse(e.to_string()))?;
    parts.headers.insert(HOST, host);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target;
    *request.headers_mut() = parts.headers;
    let mut response = sender.send_request(request).await.map_err(broken)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if upgrade.is_none() {
            return Err(Unreachable::Answer("it answered with an upgrade that nobody asked for".into()));
        }
        let Some(on_client) = on_client else {
            return Err(refuse("this connection cannot be upgraded".to_owned()));
        };
        let on_backend = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (client, backend) = match tokio::try_join!(on_client, on_backend) {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "an upgrade did not come about");
                    return;
                }
            };
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut backend) => {}
                () = stop.cancelled() => {}
            }
        });
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = response.headers().clone();
        return Ok(answer);
    }
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    let body: RequestBody = RequestBody::new(body.map_err(|e| -> BoxError { e.into() }));
    Ok(Response::from_parts(head, Body::Through(body)))
}

/// A connection that ended in the middle, as Go says it.
fn broken(error: hyper::Error) -> Unreachable {
    let ended = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    Unreachable::Answer(if ended { "unexpected EOF".to_owned() } else { error.to_string() })
}

/// The protocol that the request asks to change to.
pub(super) fn upgrade_of(parts: &Parts) -> Option<HeaderValue> {
    let asks = parts
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    asks.then(|| parts.headers.get(UPGRADE).cloned()).flatten()
}

/// A byte stream to a backend.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn connect(backend: &Backend) -> Result<Box<dyn Io>, String> {
    let mut last = "it has no address".to_owned();
    for address in &backend.addresses {
        let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                last = format!("dial tcp {address}: {}", outbound::refusal(&error));
                continue;
            }
            Err(_) => {
                last = format!("dial tcp {address}: i/o timeout");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Some(tls) = &backend.tls else { return Ok(Box::new(stream)) };
        let wanted = backend.server_name.clone().unwrap_or_else(|| address.ip().to_string());
        let name = ServerName::try_from(wanted.clone()).map_err(|e| format!("{wanted:?}: {e}"))?;
        match tokio::time::timeout(CONNECT, TlsConnector::from(tls.clone()).connect(name, stream)).await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => last = outbound::explain(&error, &wanted),
            Err(_) => last = "net/http: TLS handshake timeout".to_owned(),
        }
    }
    Err(last)
}
