//! One real listener: TLS, client certificates, tokens, anonymous health, kubectl, shutdown.

use crate::harness::{Cluster, MAPS, config_map};
use caravel_server::UserInfo;
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

pub struct Served {
    pub cluster: Cluster,
    pub port: u16,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn serve() -> Served {
    serve_with(|_| {}).await
}

/// A server that listens, with a configuration of the test's own.
pub async fn serve_with(change: impl FnOnce(&mut caravel_server::Config)) -> Served {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cluster = Cluster::with(|config| {
        config.port = port;
        config.tokens = vec![("secret-token".into(), UserInfo::new("tom", &["readers"]))];
        config.drain = Duration::from_secs(2);
        change(config);
    })
    .await;
    let stop = CancellationToken::new();
    let (server, token) = (cluster.server.clone(), stop.clone());
    let task = tokio::spawn(async move { server.serve(listener, token).await.unwrap() });
    Served { cluster, port, stop, task }
}

impl Served {
    /// Ends it, orderly.
    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("an orderly end").unwrap();
    }

    /// One HTTP/1.1 request over a connection of its own; status and body.
    pub async fn ask(&self, head: &str, client: Option<(&str, &str)>) -> (u16, String) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.cluster.server.pki().ca.cert_der().clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                use rustls_pki_types::pem::PemObject as _;
                let chain = vec![rustls_pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("kubernetes.default.svc.cluster.local").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        stream.write_all(format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut out = vec![];
        let _ = stream.read_to_end(&mut out).await;
        let text = String::from_utf8_lossy(&out).into_owned();
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, text)
    }
}

#[tokio::test]
async fn who_is_who_over_tls() {
    let served = serve().await;
    assert_eq!(served.ask("GET /readyz HTTP/1.1", None).await.0, 200);
    assert_eq!(served.ask("GET /livez HTTP/1.1", None).await.0, 200);
    assert_eq!(served.ask("GET /version HTTP/1.1", None).await.0, 401);
    assert_eq!(served.ask("GET /api/v1/pods HTTP/1.1", None).await.0, 401);
    let token = |t: &str, path: &str| format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {t}");
    assert_eq!(served.ask(&token("secret-token", "/version"), None).await.0, 200);
    assert_eq!(served.ask(&token("secret-token", "/api/v1/pods"), None).await.0, 403);
    assert_eq!(served.ask(&token("wrong", "/version"), None).await.0, 401);
    assert_eq!(served.ask(&token("a.b.c", "/readyz"), None).await.0, 401);
    let leaves = served.cluster.server.pki().leaves();
    let admin = Some((leaves.admin.cert_pem.as_str(), leaves.admin.key_pem.as_str()));
    assert_eq!(served.ask("GET /api/v1/pods HTTP/1.1", admin).await.0, 200);
    // A certificate of another authority is an answer, not a broken connection.
    let front = Some((leaves.front_proxy_client.cert_pem.as_str(), leaves.front_proxy_client.key_pem.as_str()));
    assert_eq!(served.ask("GET /api/v1/pods HTTP/1.1", front).await.0, 401);
    served.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), served.task).await.expect("an orderly end").unwrap();
}

#[tokio::test]
async fn requests_cannot_be_smuggled() {
    let served = serve().await;
    let leaves = served.cluster.server.pki().leaves();
    let admin = Some((leaves.admin.cert_pem.as_str(), leaves.admin.key_pem.as_str()));
    let both = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nhost: x\r\nconnection: close\r\n\r\n0\r\n\r\nGET /api/v1/secrets HTTP/1.1";
    let (status, text) = served.ask(both, admin).await;
    // The second request is bytes behind a closed conversation, or the whole is refused; it is never answered.
    assert!(status >= 400 || status == 0, "{text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    let twice = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6";
    let (status, text) = served.ask(twice, admin).await;
    assert!(status >= 400 || status == 0, "{text}");
    assert_eq!(served.ask("GET /readyz HTTP/1.1", None).await.0, 200);
    served.stop.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn kubectl_works() {
    let served = serve().await;
    let path = served.cluster.dir.path().join("kubeconfig");
    std::fs::write(&path, served.cluster.server.admin_kubeconfig(&format!("https://127.0.0.1:{}", served.port)))
        .unwrap();
    let kubectl = |arguments: &'static [&'static str]| {
        let path = path.clone();
        async move {
            let output = tokio::process::Command::new("kubectl")
                .args(arguments)
                .env("KUBECONFIG", &path)
                .env("HOME", path.parent().unwrap())
                .stdin(Stdio::null())
                .output()
                .await
                .expect("kubectl is installed");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
            text
        }
    };
    assert!(kubectl(&["create", "configmap", "made", "--from-literal=a=b"]).await.contains("configmap/made created"));
    assert!(kubectl(&["get", "cm", "made", "-o", "jsonpath={.data.a}"]).await.contains('b'));
    assert!(kubectl(&["get", "ns"]).await.contains("kube-node-lease"));
    assert!(kubectl(&["api-resources"]).await.contains("deployments"));
    assert!(kubectl(&["explain", "pod.spec"]).await.contains("containers"));
    assert!(kubectl(&["auth", "can-i", "create", "pods"]).await.contains("yes"));
    assert!(kubectl(&["auth", "whoami"]).await.contains("kubernetes-admin"));
    assert!(kubectl(&["create", "serviceaccount", "robot"]).await.contains("created"));
    assert_eq!(kubectl(&["create", "token", "robot"]).await.matches('.').count(), 2);
    assert!(kubectl(&["create", "deployment", "web", "--image=nginx"]).await.contains("created"));
    assert!(kubectl(&["scale", "deployment", "web", "--replicas=3"]).await.contains("scaled"));
    assert!(kubectl(&["get", "deployment", "web"]).await.contains("0/3"));
    assert!(kubectl(&["label", "deployment", "web", "x=y"]).await.contains("labeled"));
    assert!(kubectl(&["delete", "deployment", "web"]).await.contains("deleted"));
    served.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), served.task).await.expect("an orderly end").unwrap();
}

#[tokio::test]
async fn the_end_is_orderly() {
    let served = serve().await;
    let admin = served.cluster.admin();
    let mut watch = admin.watch(&format!("{MAPS}?watch=true")).await;
    admin.post(MAPS, config_map("x")).await;
    assert_eq!(watch.step().await.0, "ADDED");
    served.stop.cancel();
    assert!(watch.next().await.is_none());
    tokio::time::timeout(Duration::from_secs(10), served.task).await.expect("an orderly end").unwrap();
    let (code, text) = admin.get("/readyz?verbose").await;
    assert_eq!(code, 500);
    let Value::String(text) = text else { panic!("{text}") };
    assert!(text.contains("[-]shutdown failed"), "{text}");
    let _ = json!({});
}
