//! An HTTPS server in the test's process that extends the cluster: a webhook, a conversion webhook, an aggregated API.

use crate::{Namespace, block_on};
use base64::Engine as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// One request that the server got.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// In the order of their arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    /// JSON, or null.
    pub body: Value,
    /// Whether the client showed a certificate.
    pub with_certificate: bool,
}

impl Call {
    /// All values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// `request` of an AdmissionReview or ConversionReview.
    pub fn request(&self) -> &Value {
        &self.body["request"]
    }
}

/// What the server answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with JSON.
    Json(Value),
    /// A status with headers and a body.
    Plain(u16, Vec<(String, String)>, Vec<u8>),
    /// The same, later.
    After(Duration, Box<Reply>),
}

/// The server; it ends when dropped.
pub struct Extension {
    /// Where it listens.
    pub address: IpAddr,
    pub port: u16,
    /// PEM of the authority that signed its certificate.
    pub ca: String,
    calls: Arc<Mutex<Vec<Call>>>,
    task: tokio::task::JoinHandle<()>,
}

type Answer = dyn Fn(&Call) -> Reply + Send + Sync;

impl Extension {
    /// Starts one behind a Service `name` of the namespace: at the node's address, with a certificate for the Service.
    pub fn start(ns: &Namespace, name: &str, answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Extension {
        let (_, nodes) = ns.wire().get("/api/v1/nodes");
        let addresses = nodes["items"][0]["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let address = addresses.iter().find(|a| a["type"] == "InternalIP").expect("the node has an address");
        let address: IpAddr = address["address"].as_str().unwrap().parse().unwrap();
        let names = vec![format!("{name}.{}.svc", ns.name), "localhost".to_owned(), address.to_string()];
        let extension = Self::listen(address, names, answer);
        extension.publish(ns, name);
        extension
    }

    /// Starts one on loopback, without a Service.
    pub fn on_loopback(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Extension {
        let address = IpAddr::from([127, 0, 0, 1]);
        Self::listen(address, vec!["localhost".to_owned(), address.to_string()], answer)
    }

    fn listen(
        address: IpAddr,
        names: Vec<String>,
        answer: impl Fn(&Call) -> Reply + Send + Sync + 'static,
    ) -> Extension {
        let (ca, tls) = certificates(names);
        let calls = Arc::new(Mutex::new(vec![]));
        let (kept, answer): (_, Arc<Answer>) = (calls.clone(), Arc::new(answer));
        let (port, task) = block_on(async move {
            let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            (port, tokio::spawn(serve(listener, tls, kept, answer)))
        });
        Extension { address, port, ca, calls, task }
    }

    fn publish(&self, ns: &Namespace, name: &str) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": self.port}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [self.address.to_string()]}], "ports": [{"name": "https", "port": self.port}],
        });
        for (what, object) in [("services/x", service), ("endpointslices.discovery.k8s.io/x", slice)] {
            let path = ns.path(what);
            let (code, said) = ns.wire().post(path.trim_end_matches("/x"), &object);
            assert_eq!(code, 201, "{said}");
        }
    }

    /// The authority, as `caBundle` wants it.
    pub fn bundle(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(&self.ca)
    }

    /// `clientConfig` of a webhook behind the Service.
    pub fn service(&self, ns: &Namespace, name: &str, path: &str) -> Value {
        json!({"service": {"namespace": ns.name, "name": name, "path": path}, "caBundle": self.bundle()})
    }

    /// `clientConfig` of a webhook at its URL.
    pub fn url(&self, path: &str) -> Value {
        json!({"url": format!("https://{}:{}{path}", self.address, self.port), "caBundle": self.bundle()})
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn certificates(names: Vec<String>) -> (String, Arc<rustls::ServerConfig>) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test extension authority");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyClient(provider)))
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (ca_pem, Arc::new(config))
}

/// Asks for a client certificate and takes any, or none.
#[derive(Debug)]
struct AnyClient(Arc<rustls::crypto::CryptoProvider>);

impl rustls::server::danger::ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    calls: Arc<Mutex<Vec<Call>>>,
    answer: Arc<Answer>,
) {
    let acceptor = TlsAcceptor::from(tls);
    // Its connections end with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, calls, answer) = (acceptor.clone(), calls.clone(), answer.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let with_certificate = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (calls, answer) = (calls.clone(), answer.clone());
                async move { Ok::<_, Infallible>(respond(request, with_certificate, &calls, &*answer).await) }
            });
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    with_certificate: bool,
    calls: &Mutex<Vec<Call>>,
    answer: &Answer,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let headers = parts.headers.iter();
    let call = Call {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: headers.map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect(),
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
        with_certificate,
    };
    calls.lock().unwrap().push(call.clone());
    let mut reply = answer(&call);
    loop {
        let (status, headers, body) = match reply {
            Reply::After(time, then) => {
                tokio::time::sleep(time).await;
                reply = *then;
                continue;
            }
            Reply::Json(value) => {
                (200, vec![("content-type".to_owned(), "application/json".to_owned())], value.to_string().into_bytes())
            }
            Reply::Plain(status, headers, body) => (status, headers, body),
        };
        let mut response = Response::builder().status(status);
        for (key, value) in headers {
            response = response.header(key, value);
        }
        return response.body(Full::new(body.into())).unwrap();
    }
}

/// The AdmissionReview that answers `call`, with these fields of `response` beside its uid.
pub fn review(call: &Call, response: Value) -> Reply {
    let mut response = response;
    response["uid"] = call.request()["uid"].clone();
    Reply::Json(json!({"kind": "AdmissionReview", "apiVersion": call.body["apiVersion"], "response": response}))
}

/// The request passes.
pub fn allow(call: &Call) -> Reply {
    review(call, json!({"allowed": true}))
}

/// The request is refused for this reason.
pub fn deny(call: &Call, message: &str) -> Reply {
    review(call, json!({"allowed": false, "status": {"message": message}}))
}

/// The request passes with the object changed by these operations of a JSON patch.
pub fn change(call: &Call, operations: Value) -> Reply {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    review(call, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}
