//! Kubelets that refuse, break off or are gone: what clients of logs, exec, attach and port-forward hear then.

use crate::doors::own_address;
use crate::https::{Served, serve_with};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const POD: &str = "/api/v1/namespaces/default/pods/p";
/// The three ways in, as kubectl asks for them with SPDY and with WebSocket.
const SPDY: &str = "connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io";
const WEBSOCKET: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io";

fn doors() -> Vec<String> {
    let mut out = vec![];
    for door in ["exec?command=sh&stdout=true", "attach?stdout=true", "portforward"] {
        out.push(format!("POST {POD}/{door} HTTP/1.1\r\ncontent-length: 0\r\n{SPDY}"));
        out.push(format!("GET {POD}/{door} HTTP/1.1\r\n{WEBSOCKET}"));
    }
    out
}

/// A server with a Pod on a node, whose kubelet is whatever listens at `listener`.
struct World {
    served: Served,
    listener: TcpListener,
    admin: (String, String),
}

impl World {
    async fn new() -> Self {
        let served = serve_with(|_| {}).await;
        let address = own_address();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let admin = served.cluster.admin();
        admin.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        assert_eq!(admin.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.0, 201);
        let kubelet = listener.local_addr().unwrap().port();
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet}}}});
        let (code, said) = admin.patch("/api/v1/nodes/n/status", status).await;
        assert_eq!(code, 200, "{said}");
        let pod =
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(admin.post("/api/v1/namespaces/default/pods", pod).await.0, 201);
        let leaves = served.cluster.server.pki().leaves();
        let admin = (leaves.admin.cert_pem.clone(), leaves.admin.key_pem.clone());
        Self { served, listener, admin }
    }

    /// Status code and Status, or text, of an answer.
    async fn ask(&self, head: &str) -> (u16, Value) {
        let (code, text) = self.served.ask(head, Some((self.admin.0.as_str(), self.admin.1.as_str()))).await;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (code, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// TLS of a kubelet at this address.
    fn tls(&self, address: &str) -> Arc<rustls::ServerConfig> {
        use caravel_server::pki::LeafSpec;
        let pki = self.served.cluster.server.pki();
        let spec = LeafSpec::server("system:node:n", vec![], vec![address.parse().unwrap()]);
        let leaf = pki.ca.issue(&spec, jiff::Timestamp::now(), jiff::SignedDuration::from_hours(1)).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        Arc::new(builder.with_single_cert(leaf.chain().unwrap(), leaf.key().unwrap()).unwrap())
    }

    /// Answers one request so; its request line.
    async fn answer(&self, answer: &str) -> String {
        let (stream, _) = self.listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls(&own_address().to_string()));
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
        let head = String::from_utf8(head).unwrap();
        head.lines().next().unwrap_or_default().to_owned()
    }

    /// What both kinds of requests are told when the kubelet is met in this way, and what a log is.
    async fn all_are_told<F: Future<Output = ()>>(&self, kubelet: impl Fn() -> F, why: &str) {
        for door in doors() {
            let ((), (code, said)) = tokio::join!(kubelet(), self.ask(&door));
            assert_eq!((code, &said["code"]), (500, &json!(500)), "{door}: {said}");
            assert_eq!((said.get("reason"), &said["message"]), (None, &json!(why)), "{door}");
        }
        let log = format!("GET {POD}/log HTTP/1.1");
        let ((), (code, said)) = tokio::join!(kubelet(), self.ask(&log));
        let url = format!("https://{}/containerLogs/default/p/c", self.address());
        let why = why.trim_start_matches("error dialing backend: ");
        assert_eq!((code, &said["message"]), (500, &json!(format!("Get {url:?}: {why}"))), "{said}");
    }
}

fn refusal(code: u16, text: &str) -> String {
    format!("HTTP/1.1 {code} x\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

async fn take(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

#[tokio::test]
async fn what_a_kubelet_refuses_is_handed_on() {
    let world = World::new().await;
    for (code, text) in [(401, "Unauthorized"), (403, "Forbidden (user=x)"), (404, "pod does not exist"), (500, "boom")]
    {
        let answer = refusal(code, text);
        for door in doors() {
            let (asked, (status, said)) = tokio::join!(world.answer(&answer), world.ask(&door));
            assert_eq!((status, &said), (code, &json!(text)), "{door}, as {asked}");
        }
    }
    let log = format!("GET {POD}/log?follow=true HTTP/1.1");
    for (code, text, reason, message) in [
        (
            401,
            "Unauthorized",
            "Unauthorized",
            "the server has asked for the client to provide credentials ( pods/log p)",
        ),
        (403, "Forbidden (user=x)", "Forbidden", "Forbidden (user=x) ( pods/log p)"),
        (404, "gone", "NotFound", "the server could not find the requested resource ( pods/log p)"),
        (400, "container \"c\" is waiting to start", "BadRequest", "container \"c\" is waiting to start"),
        (500, "boom", "InternalError", "Internal error occurred: boom"),
        (503, "busy", "ServiceUnavailable", "the server is currently unable to handle the request ( pods/log p)"),
    ] {
        let answer = refusal(code, text);
        let (asked, (status, said)) = tokio::join!(world.answer(&answer), world.ask(&log));
        assert_eq!(asked, "GET /containerLogs/default/p/c?follow=true HTTP/1.1");
        assert_eq!((status, &said["reason"], &said["message"]), (code, &json!(reason), &json!(message)), "{said}");
    }
    // Nobody is sent elsewhere by a kubelet, nor is this server.
    let moved = "HTTP/1.1 302 Found\r\nlocation: https://169.254.169.254/x\r\ncontent-length: 0\r\n\r\n";
    let (_, (code, said)) = tokio::join!(world.answer(moved), world.ask(&log));
    assert_eq!((code, &said["message"]), (500, &json!("Get \"https://169.254.169.254/x\": redirects forbidden")));
    for door in doors() {
        for (answer, status) in [(moved, 302), ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200)] {
            let (_, (code, said)) = tokio::join!(world.answer(answer), world.ask(&door));
            let why = format!("invalid upgrade response: status code {status}");
            assert_eq!((code, &said["message"]), (500, &json!(why)), "{door}");
        }
    }
    world.served.end().await;
}

#[tokio::test]
async fn what_is_no_kubelet_is_told_apart() {
    let world = World::new().await;
    let address = world.address();
    // Another node's certificate.
    let wrong = world.tls("192.0.2.7");
    let kubelet = || async {
        let acceptor = tokio_rustls::TlsAcceptor::from(wrong.clone());
        assert!(acceptor.accept(take(&world.listener).await).await.is_err(), "it was believed");
    };
    let host = own_address();
    let why = "error dialing backend: tls: failed to verify certificate: x509: certificate is valid for 192.0.2.7, not";
    world.all_are_told(kubelet, &format!("{why} {host}")).await;
    // Somebody whom nobody vouches for.
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec![host.to_string()]).unwrap().self_signed(&key).unwrap();
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let stranger = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], private)
        .unwrap();
    let stranger = Arc::new(stranger);
    let kubelet = || async {
        let acceptor = tokio_rustls::TlsAcceptor::from(stranger.clone());
        assert!(acceptor.accept(take(&world.listener).await).await.is_err(), "it was believed");
    };
    let why = "error dialing backend: tls: failed to verify certificate: x509: certificate signed by unknown authority";
    world.all_are_told(kubelet, why).await;
    // No TLS at all.
    let kubelet = || async {
        let mut stream = take(&world.listener).await;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut vec![]).await;
    };
    world.all_are_told(kubelet, "error dialing backend: tls: first record does not look like a TLS handshake").await;
    // It hangs up, before and behind the handshake.
    world.all_are_told(|| async { drop(take(&world.listener).await) }, "error dialing backend: EOF").await;
    let kubelet = || async { drop(world.answer("").await) };
    world.all_are_told(kubelet, "unexpected EOF").await;

    // Gone.
    let World { served, listener, admin } = world;
    drop(listener);
    let ask = async |head: &str| served.ask(head, Some((admin.0.as_str(), admin.1.as_str()))).await.1;
    for door in doors() {
        let said = ask(&door).await;
        let why = format!("error dialing backend: dial tcp {address}: connect: connection refused");
        assert!(said.starts_with("HTTP/1.1 500") && said.contains(&why), "{door}: {said}");
    }
    let said = ask(&format!("GET {POD}/log HTTP/1.1")).await;
    let why = format!("containerLogs/default/p/c\\\": dial tcp {address}: connect: connection refused");
    assert!(said.starts_with("HTTP/1.1 500") && said.contains(&why), "{said}");
    served.end().await;
}

#[tokio::test]
async fn without_a_kubelet_there_is_nobody_to_ask() {
    let world = World::new().await;
    let admin = world.served.cluster.admin();
    // No upgrade asked for: the kubelet is not bothered.
    for door in ["exec?command=sh&stdout=true", "attach?stdout=true", "portforward"] {
        let (code, said) = world.ask(&format!("POST {POD}/{door} HTTP/1.1\r\ncontent-length: 0")).await;
        assert_eq!((code, &said["message"]), (400, &json!("Upgrade request required")));
    }
    // Not scheduled yet: there is no log, and nothing to go into.
    let pod = json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/pods", pod).await.0, 201);
    let log = "GET /api/v1/namespaces/default/pods/q/log HTTP/1.1";
    assert_eq!(world.ask(log).await, (204, json!("")));
    for door in doors() {
        let (code, said) = world.ask(&door.replace("/pods/p/", "/pods/q/")).await;
        assert_eq!((code, &said["message"]), (400, &json!("pod q does not have a host assigned")));
    }
    // Its node is gone, or has no address.
    let status =
        json!([{"op": "replace", "path": "/status/addresses", "value": [{"type": "Hostname", "address": "n"}]}]);
    let (code, said) =
        admin.call_as("PATCH", "/api/v1/nodes/n/status", "application/json-patch+json", status.to_string()).await;
    assert_eq!(code, 200, "{said}");
    let (code, said) = world.ask(&doors()[0]).await;
    assert_eq!((code, &said["message"]), (500, &json!("no preferred addresses found; known addresses: [n]")));
    assert_eq!(admin.call("DELETE", "/api/v1/nodes/n", json!({})).await.0, 200);
    for door in doors() {
        let (code, said) = world.ask(&door).await;
        assert_eq!((code, &said["message"]), (404, &json!("nodes \"n\" not found")), "{door}");
    }
    world.served.end().await;
}
