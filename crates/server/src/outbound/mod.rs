//! Calls to programs that extend this server: webhooks (admission and conversion) and aggregated API servers.
//!
//! An [`Extension`] is one `clientConfig`: where it is, whom it must prove to be, and a few idle connections. A call is one
//! POST of JSON with a deadline and a bounded answer. Redirects are answers like any other that is not a success: they are
//! never followed, so an extension cannot send this server elsewhere.

mod answer;
mod kubeconfig;
mod remote;
mod resolve;
mod tls;

pub use remote::Remote;
pub use resolve::is_allowed;
pub(crate) use tls::explain;
pub use tls::{Trust, client_tls};

use crate::registry::Registry;
use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connecting to one address may take this long (and never longer than the call).
const CONNECT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes: as large as the largest request body.
pub const MAX_ANSWER: usize = 3 << 20;
/// Idle connections that are kept for the next call.
const IDLE_MOST: usize = 8;
/// After this an idle connection is no longer used.
const IDLE: Duration = Duration::from_secs(30);

/// Where an extension listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a URL.
    Url {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Behind a Service; its endpoints are looked up at every connection.
    Service {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
        /// Port of the Service.
        port: u16,
    },
}

impl Place {
    /// `host:port`, as URLs in messages and `Host` headers show it.
    pub fn authority(&self) -> String {
        match self {
            Self::Url { host, port: 443 } => host.clone(),
            Self::Url { host, port } => format!("{host}:{port}"),
            Self::Service { port, .. } => format!("{}:{port}", self.server_name()),
        }
    }

    /// The name that the certificate must be for.
    pub fn server_name(&self) -> String {
        match self {
            Self::Url { host, .. } => host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            Self::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
        }
    }
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// A program that is called over HTTPS.
pub struct Extension {
    place: Place,
    /// The path (and query), beginning with a slash.
    path: String,
    tls: Result<Arc<ClientConfig>, String>,
    idle: Mutex<Vec<Idle>>,
}

impl Extension {
    /// From the `clientConfig` of a webhook.
    ///
    /// # Errors
    /// When it names no place that could be called; validation lets none of these be stored.
    pub fn from_client_config(config: &Value) -> Result<Self, String> {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (place, path) = match config.get("url").and_then(Value::as_str) {
            Some(url) => place_of_url(url)?,
            None => {
                let port = config.pointer("/service/port").and_then(Value::as_u64).unwrap_or(443);
                let port = u16::try_from(port).map_err(|_| format!("the port {port} is none"))?;
                let (namespace, name) = (text("/service/namespace"), text("/service/name"));
                if namespace.is_empty() || name.is_empty() {
                    return Err("neither a url nor a service is named".to_owned());
                }
                (Place::Service { namespace, name, port }, text("/service/path"))
            }
        };
        let bundle = text("/caBundle");
        let tls = match base64::engine::general_purpose::STANDARD.decode(&bundle) {
            Ok(pem) if pem.is_empty() => client_tls(Trust::System, None),
            Ok(pem) => client_tls(Trust::Bundle(&pem), None),
            Err(_) => Err("the caBundle is not base64".to_owned()),
        };
        Ok(Self { place, path: clean_path(&path), tls, idle: Mutex::default() })
    }

    /// The URL as messages show it.
    pub fn url(&self, query: &str) -> String {
        format!("https://{}{}{query}", self.place.authority(), self.path)
    }

    /// Sends `body` and reads a JSON answer, all within `deadline`. What goes wrong is said in the words of Go's HTTP
    /// client, which people search for.
    ///
    /// # Errors
    /// A text: no connection, no answer in time, an answer that is no success, is too large or is no JSON.
    pub async fn post(&self, registry: &Registry, body: &Value, deadline: Duration) -> Result<Value, String> {
        let query = format!("?timeout={}s", deadline.as_secs());
        let failed = |why: String| format!("Post {:?}: {why}", self.url(&query));
        let bytes = Bytes::from(serde_json::to_vec(body).map_err(|e| e.to_string())?);
        let work = async {
            let response = self.send(registry, &query, bytes).await.map_err(&failed)?;
            answer::read(response).await
        };
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or_else(|_| Err(failed("context deadline exceeded".to_owned())))
    }

    /// Reads the JSON document at the URL, all within `deadline`.
    ///
    /// # Errors
    /// A text, as of [`Extension::post`].
    pub async fn read(&self, registry: &Registry, deadline: Duration) -> Result<Value, String> {
        let failed = |why: String| format!("Get {:?}: {why}", self.url(""));
        let work = async {
            let mut request = self.request("", Bytes::new())?;
            *request.method_mut() = http::Method::GET;
            request.headers_mut().remove(CONTENT_TYPE);
            let mut sender = self.connect(registry).await.map_err(&failed)?;
            let response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
            answer::read(response).await
        };
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or_else(|_| Err(failed("context deadline exceeded".to_owned())))
    }

    async fn send(&self, registry: &Registry, query: &str, body: Bytes) -> Result<Response<Incoming>, String> {
        while let Some(mut sender) = self.take_idle() {
            // A connection that the other side closed meanwhile refuses the request untouched, and another is made.
            match sender.try_send_request(self.request(query, body.clone())?).await {
                Ok(response) => {
                    self.keep(sender);
                    return Ok(response);
                }
                Err(mut error) => {
                    if error.take_message().is_none() {
                        return Err(error.into_error().to_string());
                    }
                }
            }
        }
        let mut sender = self.connect(registry).await?;
        let response = sender.send_request(self.request(query, body)?).await.map_err(|e| e.to_string())?;
        self.keep(sender);
        Ok(response)
    }

    fn request(&self, query: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let target: Uri = format!("{}{query}", self.path).parse().map_err(|_| "invalid path".to_owned())?;
        let host = HeaderValue::try_from(self.place.authority()).map_err(|e| e.to_string())?;
        let mut request = Request::post(target).body(Full::new(body)).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver-admission"));
        Ok(request)
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some(one) = idle.pop() {
            // One that is still reading its last answer is not ready: it was cut short, and is closed by being dropped.
            if one.since.elapsed() < IDLE && one.sender.is_ready() {
                return Some(one.sender);
            }
        }
        None
    }

    /// Kept before its answer is read: it is ready again when it was read whole.
    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock();
        idle.retain(|one| one.since.elapsed() < IDLE && !one.sender.is_closed());
        if idle.len() < IDLE_MOST {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    async fn connect(&self, registry: &Registry) -> Result<SendRequest<Full<Bytes>>, String> {
        let tls = self.tls.clone()?;
        let addresses = registry.addresses_of(&self.place).await?;
        let stream = dial(&addresses, &self.place.server_name(), tls).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(256 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an extension ended with an error");
            }
        });
        Ok(sender)
    }
}

/// One request over a connection of its own: the answer, whose body is at most `most` bytes.
///
/// # Errors
/// A text: no connection, or the answer broke off or is too large.
pub async fn fetch(
    addresses: &[SocketAddr],
    server_name: &str,
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Response<Bytes>, String> {
    let stream = dial(addresses, server_name, tls).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let work = async {
        let (parts, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
        Ok(Response::from_parts(parts, answer::limited(body, most).await?))
    };
    let result = work.await;
    driver.abort();
    result
}

/// Why a connection did not come about, in the words of Go's dialer.
pub(crate) fn refusal(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// A TLS connection to the first of `addresses` that takes one.
///
/// # Errors
/// What the last of them said.
pub async fn dial(
    addresses: &[SocketAddr],
    server_name: &str,
    tls: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(|e| format!("{server_name:?}: {e}"))?;
    let mut last = "there is no address to call".to_owned();
    for address in addresses {
        let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                last = format!("dial tcp {address}: {}", refusal(&error));
                continue;
            }
            Err(_) => {
                last = format!("dial tcp {address}: i/o timeout");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        match TlsConnector::from(tls.clone()).connect(name.clone(), stream).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = tls::explain(&error, server_name),
        }
    }
    Err(last)
}

fn place_of_url(url: &str) -> Result<(Place, String), String> {
    let uri: Uri = url.parse().map_err(|_| format!("the url {url:?} is none"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("the url {url:?} must begin with https://"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| format!("the url {url:?} names no host"))?;
    Ok((Place::Url { host: host.to_owned(), port: uri.port_u16().unwrap_or(443) }, uri.path().to_owned()))
}

/// A path as it goes into a request line: it begins with a slash, and what could end it or break the line is encoded.
fn clean_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'%' | b'/' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' | b'!' | b'$' | b'&' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_read() {
        let service = json!({"service": {"namespace": "n", "name": "s", "port": 8443, "path": "/a"}});
        let service = Extension::from_client_config(&service).unwrap();
        assert_eq!(service.url("?timeout=1s"), "https://s.n.svc:8443/a?timeout=1s");
        let url = Extension::from_client_config(&json!({"url": "https://h.example/x/y"})).unwrap();
        assert_eq!(url.url(""), "https://h.example/x/y");
        for bad in [json!({}), json!({"url": "http://h"}), json!({"url": "file:///etc/passwd"})] {
            assert!(Extension::from_client_config(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_stays_a_path() {
        for (path, wanted) in [
            ("", "/"),
            ("a", "/a"),
            ("/a?b=c#d", "/a%3Fb=c%23d"),
            ("//evil.example/x", "//evil.example/x"),
            ("/a b\r\nHost: x", "/a%20b%0D%0AHost:%20x"),
            ("/../../etc", "/../../etc"),
            ("@evil.example/", "/@evil.example/"),
        ] {
            assert_eq!(clean_path(path), wanted);
        }
    }
}
