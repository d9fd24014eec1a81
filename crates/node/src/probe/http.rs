//! HTTP requests of probes and hooks: no certificate is verified, redirects are followed on the same host only.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What of a body is read.
const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// A request.
#[derive(Debug, Clone)]
pub struct Get {
    /// `http` or `https`.
    pub scheme: String,
    /// An address or name.
    pub host: String,
    /// A port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers in addition; `Host` replaces the host named.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The beginning of its body.
    pub body: String,
    /// It led to another host and was not followed.
    pub foreign_redirect: bool,
}

impl Get {
    /// The URL.
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let path = if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) };
        format!("{}://{host}:{}{path}", self.scheme, self.port)
    }
}

/// Asks, within `timeout` for everything. The error is worded as Go words it.
pub async fn get(request: &Get, timeout: Duration) -> Result<Answer, String> {
    let url = request.url();
    match tokio::time::timeout(timeout, follow(request)).await {
        Ok(Ok(a)) => Ok(a),
        Ok(Err(e)) => Err(format!("Get \"{url}\": {e}")),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn follow(request: &Get) -> Result<Answer, String> {
    let mut at = request.clone();
    for _ in 0..MAX_REDIRECTS {
        let (status, location, body) = once(&at).await?;
        let redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
        let Some(to) = location.filter(|_| redirect) else {
            return Ok(Answer { status, body, foreign_redirect: false });
        };
        match target(&at, &to) {
            Some(next) if next.host == request.host => at = next,
            _ => return Ok(Answer { status, body, foreign_redirect: true }),
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn target(from: &Get, to: &str) -> Option<Get> {
    if let Some(path) = to.strip_prefix('/').filter(|p| !p.starts_with('/')) {
        return Some(Get { path: format!("/{path}"), ..from.clone() });
    }
    if !to.contains("://") && !to.starts_with("//") {
        let base = from.path.rsplit_once('/').map_or("", |(b, _)| b);
        return Some(Get { path: format!("{base}/{to}"), ..from.clone() });
    }
    let whole = if to.starts_with("//") { format!("{}:{to}", from.scheme) } else { to.to_owned() };
    let uri: Uri = whole.parse().ok()?;
    let host = uri.host()?;
    let scheme = uri.scheme_str().unwrap_or("http").to_owned();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Some(Get { scheme, host: host.trim_matches(['[', ']']).to_owned(), port, path, headers: from.headers.clone() })
}

async fn once(get: &Get) -> Result<(u16, Option<String>, String), String> {
    let stream = super::tcp::connect(&get.host, get.port).await?;
    if get.scheme.eq_ignore_ascii_case("https") {
        let name = rustls_pki_types::ServerName::try_from(get.host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(tls::client()?);
        let stream = connector.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
        exchange(TokioIo::new(stream), get).await
    } else {
        exchange::<TokioIo<TcpStream>>(TokioIo::new(stream), get).await
    }
}

async fn exchange<S>(io: S, get: &Get) -> Result<(u16, Option<String>, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let text = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let result = async {
        let response = sender.send_request(build(get)?).await.map_err(text)?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        // A body past the limit is cut, which is no failure.
        let mut body = Vec::new();
        let mut limited = Limited::new(response.into_body(), MAX_BODY);
        while let Some(Ok(frame)) = limited.frame().await {
            if let Ok(data) = frame.into_data() {
                body.extend_from_slice(&data);
            }
        }
        Ok((status, location, String::from_utf8_lossy(&body).into_owned()))
    };
    let result = result.await;
    driver.abort();
    result
}

fn build(get: &Get) -> Result<Request<Empty<Bytes>>, String> {
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let default_port = if get.scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    let bare = if get.host.contains(':') { format!("[{}]", get.host) } else { get.host.clone() };
    let host = if get.port == default_port { bare } else { format!("{bare}:{}", get.port) };
    let given = |name: &str| get.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut request = Request::builder().method("GET").uri(path).header("Connection", "close");
    if !given("Host") {
        request = request.header("Host", host);
    }
    if !given("User-Agent") {
        request = request.header("User-Agent", "kube-probe/1.36");
    }
    if !given("Accept") {
        request = request.header("Accept", "*/*");
    }
    for (name, value) in &get.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        // An empty Accept or User-Agent removes the header.
        if value.is_empty() && (name == http::header::ACCEPT || name == http::header::USER_AGENT) {
            continue;
        }
        request = request.header(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    request.body(Empty::new()).map_err(|e| e.to_string())
}

/// TLS that trusts anyone: a probe asks whether something answers, not who.
mod tls {
    use std::sync::{Arc, OnceLock};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    struct Anyone(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    /// The one configuration.
    pub fn client() -> Result<Arc<ClientConfig>, String> {
        static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        if let Some(c) = CONFIG.get() {
            return Ok(c.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn at(path: &str) -> Get {
        Get { scheme: "http".into(), host: "127.0.0.1".into(), port: 80, path: path.into(), headers: vec![] }
    }

    #[test]
    fn redirects_stay_on_the_host() {
        assert_eq!(target(&at("/a/b"), "/c").unwrap().path, "/c");
        assert_eq!(target(&at("/a/b"), "c").unwrap().path, "/a/c");
        let far = target(&at("/"), "https://x.io/y?z").unwrap();
        assert_eq!((far.host.as_str(), far.port, far.path.as_str()), ("x.io", 443, "/y?z"));
    }

    #[tokio::test]
    async fn a_server_is_asked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in [
                "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
            ] {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut buf = [0; 1024];
                let n = s.read(&mut buf).await.unwrap();
                seen.push(String::from_utf8_lossy(&buf[..n]).into_owned());
                s.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        let mut get_ = at("/here");
        get_.port = port;
        get_.headers.push(("X-A".into(), "b".into()));
        let a = get(&get_, Duration::from_secs(5)).await.unwrap();
        assert_eq!((a.status, a.body.as_str()), (503, "no"));
        let seen = served.await.unwrap();
        assert!(seen[0].starts_with("GET /here ") && seen[1].starts_with("GET /there "));
        assert!(seen[0].contains("kube-probe/1.36") && seen[0].to_lowercase().contains("x-a: b"));
        let e = get(&get_, Duration::from_secs(5)).await.unwrap_err();
        assert!(e.contains("connect: connection refused"), "{e}");
    }
}
