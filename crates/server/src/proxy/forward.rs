//! Handing a request through to another server, upgraded connections (WebSocket, SPDY) included.

use crate::http::{Body, BoxError, RequestBody};
use bytes::Bytes;
use caravel_api::status::ApiError;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long a connection to the other server may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Buffer of each direction of an upgraded connection, bytes.
const COPY_BUFFER: usize = 16 << 10;

/// Headers that speak of one connection only (RFC 9110 §7.6.1), and the caller's credentials, which are ours to keep.
const NOT_FORWARDED: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "authorization",
];

/// Where a request goes.
#[derive(Clone)]
pub struct Target {
    /// Host name or address to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS settings; plain HTTP without.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name the certificate must carry, when it is not `host`.
    pub server_name: Option<String>,
    /// Path and query there.
    pub path_and_query: String,
    /// The path by which the caller reaches the other server's root; redirects are rewritten to lie below it.
    pub prefix: Option<String>,
}

/// An address that users may have the server connect to: loopback and link-local ones are the server's own
/// neighbourhood, and none of a user's business.
pub fn check_address(host: &str) -> Result<(), ApiError> {
    let Ok(ip) = host.parse::<IpAddr>() else { return Ok(()) };
    let refused = match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || (v6.segments()[0] & 0xffc0) == 0xfe80
        }
    };
    if refused { Err(ApiError::bad_request(format!("address not allowed: {ip}"))) } else { Ok(()) }
}

/// Sends `request` to `target` and returns the answer. When both sides agree to an upgrade, the two connections are
/// joined, and bytes pass unchanged until either side ends.
pub async fn forward(target: &Target, mut request: Request<RequestBody>) -> Result<Response<Body>, ApiError> {
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    let ours = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let outgoing = rewrite(target, request, wants_upgrade)?;
    let unreachable = |e: &dyn std::fmt::Display| {
        ApiError::service_unavailable(format!("error trying to reach service: {}:{}: {e}", target.host, target.port))
    };
    let mut answer = send(target, outgoing).await.map_err(|e| unreachable(&e))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(ours) = ours else {
            return Err(ApiError::internal("the other server upgraded a connection that was not asked to be"));
        };
        let theirs = hyper::upgrade::on(&mut answer);
        tokio::spawn(join(ours, theirs));
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, Body::Empty));
    }
    let (mut parts, body) = answer.into_parts();
    drop_connection_headers(&mut parts.headers, false);
    if let Some(prefix) = &target.prefix {
        rewrite_location(&mut parts.headers, target, prefix);
    }
    Ok(Response::from_parts(parts, Body::Through(body)))
}

fn rewrite(target: &Target, request: Request<RequestBody>, upgrade: bool) -> Result<Request<RequestBody>, ApiError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = target
        .path_and_query
        .parse::<Uri>()
        .map_err(|e| ApiError::bad_request(format!("{} is no path to ask for: {e}", target.path_and_query)))?;
    parts.version = http::Version::HTTP_11;
    drop_connection_headers(&mut parts.headers, upgrade);
    let host = if target.port == 80 || target.port == 443 {
        target.host.clone()
    } else if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    let host = HeaderValue::from_str(&host).map_err(|_| ApiError::bad_request("the host's name is not valid"))?;
    parts.headers.insert(HOST, host);
    let body = if upgrade { RequestBody::new(Empty::<Bytes>::new().map_err(|never| match never {})) } else { body };
    let mut request = Request::from_parts(parts, body);
    // What hyper remembers of the caller's connection does not belong to the next one.
    *request.extensions_mut() = http::Extensions::new();
    Ok(request)
}

fn drop_connection_headers(headers: &mut HeaderMap, upgrade: bool) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| *name != UPGRADE)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in NOT_FORWARDED {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// An absolute path, or an address of the other server itself, becomes a path below `prefix`.
fn rewrite_location(headers: &mut HeaderMap, target: &Target, prefix: &str) {
    let Some(location) = headers.get(LOCATION).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<Uri>().ok()) else {
        return;
    };
    if location.host().is_some_and(|h| h != target.host) {
        return;
    }
    let Some(path) = location.path_and_query() else { return };
    if let Ok(value) = HeaderValue::from_str(&format!("{}{path}", prefix.trim_end_matches('/'))) {
        headers.insert(LOCATION, value);
    }
}

async fn send(target: &Target, request: Request<RequestBody>) -> Result<Response<RequestBody>, BoxError> {
    let connecting = TcpStream::connect((target.host.as_str(), target.port));
    let stream = tokio::time::timeout(CONNECT, connecting)
        .await
        .map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))??;
    stream.set_nodelay(true)?;
    match &target.tls {
        None => exchange(stream, request).await,
        Some(tls) => {
            let name = target.server_name.clone().unwrap_or_else(|| target.host.clone());
            let connector = tokio_rustls::TlsConnector::from(tls.clone());
            exchange(connector.connect(ServerName::try_from(name)?, stream).await?, request).await
        }
    }
}

async fn exchange<S>(stream: S, request: Request<RequestBody>) -> Result<Response<RequestBody>, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let answer = sender.send_request(request).await?;
    Ok(answer.map(|body| RequestBody::new(body.map_err(Into::into))))
}

/// Passes bytes both ways until both sides have ended.
async fn join(ours: hyper::upgrade::OnUpgrade, theirs: hyper::upgrade::OnUpgrade) {
    let (ours, theirs) = match tokio::try_join!(ours, theirs) {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "a connection was not upgraded");
            return;
        }
    };
    let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut theirs, COPY_BUFFER, COPY_BUFFER).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "an upgraded connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<RequestBody> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = RequestBody::new(Empty::<Bytes>::new().map_err(|never| match never {}));
        request.body(body).expect("a request")
    }

    fn target(port: u16) -> Target {
        Target {
            host: "127.0.0.1".into(),
            port,
            tls: None,
            server_name: None,
            path_and_query: "/there?x=1".into(),
            prefix: Some("/api/v1/namespaces/n/pods/p/proxy".into()),
        }
    }

    /// Answers one connection with `answer` and returns what it was asked.
    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.expect("read");
            stream.write_all(answer.as_bytes()).await.expect("write");
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (port, task)
    }

    #[tokio::test]
    async fn credentials_and_connection_headers_stay_here_and_redirects_stay_below() {
        let (port, asked) =
            server("HTTP/1.1 302 Found\r\nLocation: /next?a=b\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n").await;
        let headers = [("authorization", "Bearer secret"), ("connection", "x-mine"), ("x-mine", "1"), ("x-kept", "2")];
        let answer = forward(&target(port), request("/here", &headers)).await.expect("an answer");
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("GET /there?x=1 HTTP/1.1\r\n"), "{asked}");
        assert!(!asked.contains("secret") && !asked.contains("x-mine") && asked.contains("x-kept: 2"), "{asked}");
        assert!(!answer.headers().contains_key("keep-alive"));
        assert_eq!(answer.headers()[LOCATION], "/api/v1/namespaces/n/pods/p/proxy/next?a=b");
    }

    #[tokio::test]
    async fn nobody_there_is_said_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let error = forward(&target(port), request("/", &[])).await.err().expect("an error");
        assert_eq!(error.code, 503);
        assert!(error.message.contains("error trying to reach service"), "{}", error.message);
    }

    #[test]
    fn the_servers_own_neighbourhood_is_not_proxied_to() {
        for host in ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "fe80::1", "224.0.0.1"] {
            assert!(check_address(host).is_err(), "{host}");
        }
        for host in ["10.244.0.7", "fd00::7", "node-1"] {
            assert!(check_address(host).is_ok(), "{host}");
        }
    }
}
