//! A kubelet API before a real containerd, and enough of an API server before that for kubectl.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use caravel_node::server::{Config as ServerConfig, ServingCert, serve};
use caravel_node::{ContainerView, PodSource, PodView};
use caravel_runtime::containerd::{Config, Containerd, Programs, purge};
use caravel_runtime::images::build::{Builder, FileSource};
use caravel_runtime::{ContainerConfig, NamespaceMode, Runtime, SandboxConfig, SandboxMetadata, SecurityProfile};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// Pods `p` (with containers `main` and `tty`) in `default`.
#[derive(Default)]
pub struct Pods(pub Mutex<Vec<PodView>>);

impl PodSource for Pods {
    fn pods(&self) -> Vec<PodView> {
        self.0.lock().clone()
    }
    fn pod(&self, namespace: &str, name: &str) -> Option<PodView> {
        let is = |v: &&PodView| {
            v.pod.metadata.name.as_deref() == Some(name) && v.pod.metadata.namespace.as_deref() == Some(namespace)
        };
        self.0.lock().iter().find(is).cloned()
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub daemon: Arc<Containerd>,
    pub pods: Arc<Pods>,
    pub kubelet: SocketAddr,
    pub api: SocketAddr,
    pub tls: Arc<rustls::ClientConfig>,
    pub anonymous: Arc<rustls::ClientConfig>,
    pub sandbox_id: String,
    pub sandbox: SandboxConfig,
    stop: CancellationToken,
}

struct Pki {
    ca: String,
    server: (String, String),
    client: (String, String),
}

fn pki() -> Pki {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "ca");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&ca, &ca_key);
    let make = |name: &str, usage, sans: Vec<String>| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    Pki {
        ca: ca_cert.pem(),
        server: make("system:node:n", ExtendedKeyUsagePurpose::ServerAuth, vec!["127.0.0.1".into()]),
        client: make("kube-apiserver-kubelet-client", ExtendedKeyUsagePurpose::ClientAuth, vec![]),
    }
}

fn client_config(pki: &Pki, with_certificate: bool) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(pki.ca.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(if with_certificate {
        let chain = vec![rustls_pki_types::CertificateDer::from_pem_slice(pki.client.0.as_bytes()).unwrap()];
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(pki.client.1.as_bytes()).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    } else {
        builder.with_no_client_auth()
    })
}

impl World {
    /// `None` where no containers can be run.
    pub async fn start(name: &str) -> Option<World> {
        if !nix::unistd::geteuid().is_root() || Programs::find().is_err() || !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: needs root, containerd, runc and busybox-static");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("cvl-").tempdir().unwrap();
        let mut config = Config::new(dir.path(), 0);
        config.cgroup_root = format!("/caravel-node-{name}-{}", std::process::id());
        config.run_dir = dir.path().join("run");
        let daemon = match Containerd::start(config.clone()).await {
            Ok(daemon) => daemon,
            Err(error) => {
                let _ = purge(&config).await;
                panic!("{error}");
            }
        };
        let bundle = tokio::task::spawn_blocking(busybox).await.unwrap();
        daemon.images().put(&bundle, true).await.unwrap();

        let pki = pki();
        let pods = Arc::new(Pods::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kubelet = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = ServerConfig {
            node_name: "n".into(),
            serving: ServingCert::from_pem(&pki.server.0, &pki.server.1).unwrap(),
            client_ca: pki.ca.clone(),
            root_dir: dir.path().into(),
            log_dir: dir.path().join("logs"),
            reviewer: None,
        };
        tokio::spawn(serve(listener, server, pods.clone(), daemon.dyn_runtime(), stop.clone()));
        let tls = client_config(&pki, true);
        let anonymous = client_config(&pki, false);
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = front.local_addr().unwrap();
        tokio::spawn(fake_api(front, kubelet, tls.clone(), pods.clone()));

        let mut sandbox = SandboxConfig {
            metadata: SandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "default".into(), attempt: 0 },
            log_directory: dir.path().join("logs/pods/default_p_u").to_string_lossy().into_owned(),
            cgroup_parent: format!("{}/besteffort/podu", config.cgroup_root),
            ..Default::default()
        };
        sandbox.security.namespaces.network = NamespaceMode::Node;
        sandbox.security.namespaces.pid = NamespaceMode::Container;
        sandbox.security.seccomp = Some(SecurityProfile::RuntimeDefault);
        let sandbox_id = daemon.runtime().run_sandbox(&sandbox, "").await.unwrap();
        Some(World { dir, config, daemon, pods, kubelet, api, tls, anonymous, sandbox_id, sandbox, stop })
    }

    /// Makes and starts a container of the pod `p`, and shows it to the server.
    pub async fn run(&self, name: &str, command: &[&str], tty: bool) -> String {
        let cri = self.daemon.runtime();
        let mut spec = ContainerConfig {
            name: name.into(),
            image: BUSYBOX.into(),
            command: command.iter().map(|c| c.to_string()).collect(),
            log_path: format!("{name}/0.log"),
            stdin: tty,
            tty,
            ..Default::default()
        };
        for (key, value) in [("io.kubernetes.pod.uid", "u"), ("io.kubernetes.container.name", name)] {
            spec.labels.insert(key.into(), value.into());
        }
        spec.security.namespaces.network = NamespaceMode::Node;
        spec.security.namespaces.pid = NamespaceMode::Container;
        spec.security.seccomp = Some(SecurityProfile::RuntimeDefault);
        let id = cri.create_container(&self.sandbox_id, &spec, &self.sandbox).await.unwrap();
        cri.start_container(&id).await.unwrap();
        let mut pods = self.pods.0.lock();
        if pods.is_empty() {
            pods.push(PodView {
                pod: Arc::default(),
                sandbox_id: Some(self.sandbox_id.clone()),
                ips: vec!["127.0.0.1".into()],
                containers: Vec::new(),
            });
        }
        let log_path = format!("{}/{name}/0.log", self.sandbox.log_directory);
        let view = ContainerView { name: name.into(), id: id.clone(), attempt: 0, running: true, log_path };
        pods[0].containers.push(view);
        let containers: Vec<Value> = pods[0]
            .containers
            .iter()
            .map(|c| json!({"name": c.name, "tty": c.name == "tty", "stdin": c.name == "tty"}))
            .collect();
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": containers}, "status": {"phase": "Running"},
        }))
        .unwrap();
        pods[0].pod = Arc::new(pod);
        id
    }

    /// kubectl against the fake API server.
    pub fn kubectl(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("kubectl");
        command
            .args(["--server", &format!("http://{}", self.api), "--cache-dir"])
            .arg(self.dir.path().join("cache"))
            .args(args)
            .env("KUBECONFIG", "/dev/null")
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// A plain GET: status and body.
    pub async fn get(&self, path: &str, tls: &Arc<rustls::ClientConfig>) -> (u16, String) {
        let mut stream = connect(self.kubelet, tls).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body =
            if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { dechunk(body) } else { body.into() };
        (status, body)
    }

    pub async fn finish(self) {
        self.stop.cancel();
        self.daemon.stop().await;
        purge(&self.config).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.daemon.release();
            let config = self.config.clone();
            let _ = std::thread::spawn(move || {
                if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    let _ = runtime.block_on(purge(&config));
                }
            })
            .join();
        }
    }
}

fn dechunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

fn busybox() -> caravel_runtime::images::Bundle {
    let mut builder = Builder::new(BUSYBOX).unwrap();
    builder.file("bin/busybox", FileSource::Path("/bin/busybox".into()), 0o755).unwrap();
    for applet in ["sh", "sleep", "cat", "true", "nc", "echo", "stty", "seq", "head", "wc", "md5sum", "dd"] {
        builder.file(&format!("bin/{applet}"), FileSource::Link("busybox".into()), 0o777).unwrap();
    }
    builder.build().unwrap()
}

pub async fn connect(
    kubelet: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpStream::connect(kubelet).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(tls.clone()).connect(name, socket).await.unwrap()
}

/// Answers discovery and the Pod itself, and tunnels the rest to the kubelet as the API server does.
async fn fake_api(listener: TcpListener, kubelet: SocketAddr, tls: Arc<rustls::ClientConfig>, pods: Arc<Pods>) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(one(socket, kubelet, tls.clone(), pods.clone()));
    }
}

async fn one(mut socket: TcpStream, kubelet: SocketAddr, tls: Arc<rustls::ClientConfig>, pods: Arc<Pods>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8(head).unwrap();
    let (line, headers) = text.split_once("\r\n").unwrap();
    let mut words = line.split(' ');
    let (method, uri) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    if let Some(body) = local(path, &pods) {
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = socket.write_all(answer.as_bytes()).await;
        return;
    }
    let container = query.split('&').find_map(|p| p.strip_prefix("container=")).unwrap_or("main");
    let target = match path.strip_prefix("/api/v1/namespaces/default/pods/p/") {
        Some("exec") => format!("/exec/default/p/{container}?{query}"),
        Some("attach") => format!("/attach/default/p/{container}?{query}"),
        Some("portforward") => format!("/portForward/default/p?{query}"),
        Some("log") => format!("/containerLogs/default/p/{container}?{query}"),
        _ => {
            let _ = socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            return;
        }
    };
    // A second request on this connection must come here, not to the kubelet.
    let upgrades =
        headers.to_ascii_lowercase().contains("\r\nupgrade:") || headers.to_ascii_lowercase().starts_with("upgrade:");
    let close = if upgrades { "" } else { "Connection: close\r\n" };
    let mut onward = connect(kubelet, &tls).await;
    onward.write_all(format!("{method} {target} HTTP/1.1\r\n{close}{headers}").as_bytes()).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut socket, &mut onward).await;
}

fn local(path: &str, pods: &Pods) -> Option<Value> {
    let verbs = json!(["create", "delete", "get", "list"]);
    match path {
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        "/api/v1" => Some(json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": verbs, "shortNames": ["po"]},
        ]})),
        "/api/v1/namespaces/default/pods/p" => {
            let pod = pods.0.lock().first().map(|v| v.pod.clone())?;
            let mut value = serde_json::to_value(pod.as_ref()).unwrap();
            value["kind"] = json!("Pod");
            value["apiVersion"] = json!("v1");
            Some(value)
        }
        _ => None,
    }
}
