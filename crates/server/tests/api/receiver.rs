//! An HTTPS server in the test's process that takes whatever is posted to it.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// One request that the receiver got.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    pub authorization: String,
    pub body: Value,
}

/// The receiver; it ends when dropped.
pub struct Receiver {
    pub port: u16,
    /// PEM of its own certificate, which is good for 127.0.0.1 and `localhost`.
    pub ca: String,
    calls: mpsc::UnboundedReceiver<Call>,
    task: tokio::task::JoinHandle<()>,
}

type Answer = dyn Fn(&Call) -> Response<Full<Bytes>> + Send + Sync;

/// An answer without a body.
pub fn status(code: u16) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::default()).unwrap()
}

/// An answer of JSON.
pub fn json(value: &Value) -> Response<Full<Bytes>> {
    Response::builder().header("content-type", "application/json").body(Full::new(value.to_string().into())).unwrap()
}

impl Receiver {
    pub async fn start(answer: impl Fn(&Call) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, calls) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), told, Arc::new(answer)));
        Self { port, ca: certificate.pem(), calls, task }
    }

    /// The next request.
    pub async fn call(&mut self) -> Call {
        tokio::time::timeout(Duration::from_secs(30), self.calls.recv()).await.expect("a call in time").unwrap()
    }

    /// What came and was not looked at yet.
    pub fn rest(&mut self) -> Vec<Call> {
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }

    /// A kubeconfig-shaped file that names it, in `dir`.
    pub fn kubeconfig(&self, dir: &std::path::Path, path: &str) -> std::path::PathBuf {
        std::fs::write(dir.join("receiver.pem"), &self.ca).unwrap();
        let file = dir.join("receiver.yaml");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\ncontexts:\n- {{ name: it, context: {{ cluster: it, user: me }} }}\n\
             clusters:\n- {{ name: it, cluster: {{ server: \"https://127.0.0.1:{}{path}\", certificate-authority: receiver.pem }} }}\n\
             users:\n- {{ name: me, user: {{ token: let-me-in }} }}\n",
            self.port
        );
        std::fs::write(&file, text).unwrap();
        file
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    told: mpsc::UnboundedSender<Call>,
    answer: Arc<Answer>,
) {
    // Its connections end with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, told, answer) = (acceptor.clone(), told.clone(), answer.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (told, answer) = (told.clone(), answer.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    let authorization = parts.headers.get("authorization").and_then(|v| v.to_str().ok());
                    let call = Call {
                        path: parts.uri.to_string(),
                        authorization: authorization.unwrap_or_default().to_owned(),
                        body: serde_json::from_slice(&bytes).unwrap_or_default(),
                    };
                    let response = answer(&call);
                    let _ = told.send(call);
                    Ok::<_, Infallible>(response)
                }
            });
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
