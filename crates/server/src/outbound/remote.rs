//! Posting JSON to a server that a kubeconfig-shaped file names. Connections are kept for the next request.

use super::kubeconfig::{self, Credential};
use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::path::Path;
use std::time::Duration;

/// Connecting to one address may take this long (and never longer than the request).
const CONNECT: Duration = Duration::from_secs(10);
/// After this an idle connection is closed.
const IDLE: Duration = Duration::from_secs(90);
/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// How much of a refusal is repeated in the error, in bytes.
const SHOWN: usize = 256;

/// A server outside did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("Post {url:?}: {why}")]
pub struct RemoteError {
    url: String,
    why: String,
    passes: bool,
}

impl RemoteError {
    /// Whether another attempt may succeed: nothing was decided yet.
    pub fn passes(&self) -> bool {
        self.passes
    }
}

/// A server outside that its owner named in a file.
pub struct Remote {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    credential: Credential,
}

impl Remote {
    /// Reads a kubeconfig-shaped file; nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn read(path: &Path) -> Result<Self, String> {
        let target = kubeconfig::read(path)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let mut builder = HttpsConnectorBuilder::new().with_tls_config(target.tls).https_or_http();
        if let Some(name) = target.server_name {
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8)
            .build(builder.enable_http1().wrap_connector(tcp));
        Ok(Self { client, url: target.url, credential: target.credential })
    }

    /// Sends a JSON body; all within `deadline`. A redirect is a refusal like any other.
    ///
    /// # Errors
    /// A text: no connection, no answer in time, or an answer that is no success.
    pub async fn post(&self, body: Bytes, deadline: Duration) -> Result<(), String> {
        self.ask(body, deadline).await.map(|_| ()).map_err(|e| e.to_string())
    }

    /// [`Remote::post`] with the answer, of at most 64 KiB.
    ///
    /// # Errors
    /// As there, and which of them may pass.
    pub async fn ask(&self, body: Bytes, deadline: Duration) -> Result<Bytes, RemoteError> {
        let url = format!("{}?timeout={}s", self.url, deadline.as_secs());
        let failed = |passes: bool, why: String| RemoteError { url: url.clone(), why, passes };
        let work = async {
            let request = self.request(&url, body).map_err(|why| failed(false, why))?;
            let response = self.client.request(request).await.map_err(|e| failed(true, reasons(&e)))?;
            let status = response.status();
            let read = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            if status.is_success() {
                return Ok(read.map_err(|e| failed(false, e.to_string()))?.to_bytes());
            }
            let bytes = read.map(|all| all.to_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).trim().to_owned();
            let passes = status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS;
            Err(failed(passes, format!("the server answered {status}: {text}")))
        };
        let result = tokio::time::timeout(deadline, work).await;
        result.unwrap_or_else(|_| Err(failed(true, "context deadline exceeded".to_owned())))
    }

    fn request(&self, url: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::post(url).body(Full::new(body)).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        let said = match &self.credential {
            Credential::None => None,
            Credential::Header(value) => Some(value.clone()),
            Credential::TokenFile(path) => {
                let token = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                Some(format!("Bearer {}", token.trim()))
            }
        };
        if let Some(said) = said {
            let mut value = HeaderValue::try_from(said).map_err(|_| "the credential is no header's text".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// An error with what caused it.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
