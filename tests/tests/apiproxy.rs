//! The API server as a proxy to Pods, Services and nodes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Asked, Namespace, Net, Said, Serving};
use serde_json::{Value, json};

const VERBS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// The status, headers and body of an answer, as they are.
struct Raw {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Raw {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

struct World {
    ns: Namespace,
    client: kube::Client,
    serving: Vec<Serving>,
}

impl World {
    /// Pod `p` with named ports `dest1` (160) and `tlsdest1` (460), and Service `s` in front of it.
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        let ports = json!([{"containerPort": 80}, {"name": "dest1", "containerPort": 160}, {"name": "tlsdest1", "containerPort": 460}]);
        ns.make(
            "pods",
            &json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "p"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"], "ports": ports}]},
            }),
        );
        let ports = json!([
            {"name": "portname1", "port": 80, "targetPort": "dest1"}, {"name": "portname2", "port": 81, "targetPort": 162},
            {"name": "tlsportname1", "port": 443, "targetPort": "tlsdest1"}, {"name": "tlsportname2", "port": 444, "targetPort": 462}]);
        ns.make(
            "services",
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"selector": {"app": "p"}, "ports": ports}}),
        );
        ns.make(
            "services",
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain"},
            "spec": {"selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": 80}]}}),
        );
        let pod = Net::of(&ns, "p");
        let says =
            |port: u16, tls: bool, text: &'static str| pod.serve_http(port, tls, move |_| Said::ok("text/html", text));
        let mut serving = vec![
            says(1080, false, r#"<a href="/rewriteme">test</a>"#),
            says(160, false, "foo"),
            says(162, false, "bar"),
            says(443, true, r#"<a href="/tlsrewriteme">test</a>"#),
            says(460, true, "tls baz"),
            says(462, true, "tls qux"),
        ];
        serving.push(pod.serve_http(80, false, first_port));
        let client = caravel_tests::block_on(client());
        World { ns, client, serving }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Raw {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::from(body.as_bytes().to_vec())).unwrap();
        let client = self.client.clone();
        caravel_tests::block_on(async move {
            let response = client.send(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect_bytes().await.unwrap();
            Raw {
                status: head.status.as_u16(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            }
        })
    }

    fn pod(&self, name: &str) -> String {
        self.ns.under(&format!("api/v1/pods/{name}/proxy"))
    }

    fn service(&self, name: &str) -> String {
        self.ns.under(&format!("api/v1/services/{name}/proxy"))
    }
}

/// A client that takes the first answer, whatever it is.
async fn client() -> kube::Client {
    let file = kube::config::Kubeconfig::read_from(caravel_tests::cluster_dir().join("kubeconfig")).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

/// Port 80: a page at `/`, elsewhere what was asked.
fn first_port(asked: &Asked) -> Said {
    match asked.target.as_str() {
        "/page" => Said::ok("text/html; charset=utf-8", r#"<a href="/rewriteme">test</a>"#),
        "/moved" => Said(302, vec![("Location".into(), "/elsewhere?x=y".into())], String::new()),
        "/away" => Said(302, vec![("Location".into(), "http://example.com/".into())], String::new()),
        "/teapot" => Said(
            418,
            vec![("Content-Type".into(), "text/plain".into()), ("Access-Control-Allow-Origin".into(), "*".into())],
            "short and stout".into(),
        ),
        _ => {
            let seen = json!({"method": asked.method, "target": asked.target, "body": asked.body,
                "authorization": asked.header("authorization"), "uri": asked.header("x-forwarded-uri"), "type": asked.header("content-type")});
            let mut said = Said::ok("application/json", seen.to_string());
            said.1.push(("X-Method".into(), asked.method.clone()));
            said
        }
    }
}

#[test]
fn pods_and_services_are_reached_by_names_numbers_and_schemes() {
    let w = World::new("proxy");
    let page = |path: &str, to: &str| format!(r#"<a href="{path}/{to}">test</a>"#);
    let mut expected: Vec<(String, String)> = vec![];
    for (name, says) in [
        ("s:portname1", "foo"),
        ("http:s:portname1", "foo"),
        ("s:portname2", "bar"),
        ("http:s:portname2", "bar"),
        ("s:80", "foo"),
        ("s:81", "bar"),
        ("https:s:tlsportname1", "tls baz"),
        ("https:s:tlsportname2", "tls qux"),
        ("https:s:444", "tls qux"),
    ] {
        expected.push((w.service(name), says.into()));
    }
    for (name, says) in [
        ("p:160", "foo"),
        ("http:p:160", "foo"),
        ("p:162", "bar"),
        ("http:p:162", "bar"),
        ("p:dest1", "foo"),
        ("https:p:460", "tls baz"),
        ("https:p:462", "tls qux"),
    ] {
        expected.push((w.pod(name), says.into()));
    }
    for (name, to) in [("p:1080", "rewriteme"), ("http:p:1080", "rewriteme"), ("https:p:443", "tlsrewriteme")] {
        let path = w.pod(name);
        expected.push((path.clone(), page(&path, to)));
    }
    for (path, says) in expected {
        w.ns.eventually(&path, || {
            let got = w.ask("GET", &format!("{path}/"), &[], "");
            if got.status == 200 {
                let _: () = assert_eq!(got.body, says, "{path}");
                Ok(())
            } else {
                Err(format!("{} {}", got.status, got.body))
            }
        });
    }
    // The first port of the Pod, when none is named.
    let path = w.pod("p");
    assert_eq!(w.ask("GET", &format!("{path}/page"), &[], "").body, page(&path, "rewriteme"));
    drop(w.serving);
}

fn echoed(w: &World, method: &str, path: &str) -> Value {
    let got = w.ns.eventually(&format!("{method} {path}"), || {
        let got = w.ask(method, path, &[("content-type", "text/x-test")], if method == "GET" { "" } else { "sent" });
        if got.status == 200 { Ok(got) } else { Err(format!("{} {}", got.status, got.body)) }
    });
    assert_eq!(got.header("x-method"), method, "{path}");
    if method == "HEAD" {
        assert_eq!(got.body, "");
        return json!({"target": null});
    }
    serde_json::from_str(&got.body).unwrap()
}

#[test]
fn every_method_reaches_a_path() {
    let w = World::new("proxypath");
    for base in [w.pod("p"), w.service("plain")] {
        for verb in VERBS {
            let seen = echoed(&w, verb, &format!("{base}/some/path%20with/{verb}?a=b%26c&d"));
            if verb == "HEAD" {
                continue;
            }
            assert_eq!(seen["target"], format!("/some/path%20with/{verb}?a=b%26c&d"));
            assert_eq!(seen["uri"], format!("{base}/some/path%20with/{verb}"));
            assert_eq!(seen["authorization"], "");
            if verb != "GET" {
                assert_eq!((&seen["body"], &seen["type"]), (&json!("sent"), &json!("text/x-test")), "{verb}");
            }
        }
    }
}

#[test]
fn every_method_reaches_the_root_and_reads_are_sent_there() {
    let w = World::new("proxyroot");
    for base in [w.pod("p"), w.service("plain")] {
        for verb in ["DELETE", "OPTIONS", "PATCH", "POST", "PUT"] {
            let seen = echoed(&w, verb, &format!("{base}?method={verb}"));
            assert_eq!(seen["target"], format!("/?method={verb}"));
        }
        // Relative links of a page would miss the proxy without the final slash.
        for verb in ["GET", "HEAD"] {
            let got = w.ask(verb, &format!("{base}?method={verb}"), &[], "");
            assert_eq!((got.status, got.header("location")), (301, format!("{base}/?method={verb}").as_str()));
        }
        for verb in ["GET", "HEAD"] {
            echoed(&w, verb, &format!("{base}/?method={verb}"));
        }
    }
}

#[test]
fn answers_pass_as_they_are_and_redirections_lead_back() {
    let w = World::new("proxyback");
    let base = w.pod("p");
    let got = w.ns.eventually("the server answers", || {
        let got = w.ask("GET", &format!("{base}/teapot"), &[], "");
        if got.status == 418 { Ok(got) } else { Err(format!("{} {}", got.status, got.body)) }
    });
    assert_eq!((got.body.as_str(), got.header("content-type")), ("short and stout", "text/plain"));
    assert_eq!(got.header("access-control-allow-origin"), "");
    let moved = w.ask("GET", &format!("{base}/moved"), &[], "");
    assert_eq!((moved.status, moved.header("location")), (302, format!("{base}/elsewhere?x=y").as_str()));
    assert_eq!(w.ask("GET", &format!("{base}/away"), &[], "").header("location"), "http://example.com/");
}

#[test]
fn what_cannot_be_reached_is_said_to_be_so() {
    let w = World::new("proxyno");
    let refused = |path: String, status: u16, reason: &str| {
        let got = w.ask("GET", &format!("{path}/"), &[], "");
        let said: Value = serde_json::from_str(&got.body).unwrap_or_else(|_| panic!("{path}: {}", got.body));
        assert_eq!(
            (got.status, said["kind"].as_str(), said["reason"].as_str()),
            (status, Some("Status"), Some(reason)),
            "{path}: {said}"
        );
    };
    refused(w.pod("nobody"), 404, "NotFound");
    refused(w.service("nobody"), 404, "NotFound");
    refused(w.pod("p:1"), 503, "ServiceUnavailable");
    refused(w.service("s:99"), 503, "ServiceUnavailable");
    w.ns.make(
        "services",
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "empty"},
        "spec": {"selector": {"app": "nothing"}, "ports": [{"port": 80}]}}),
    );
    refused(w.service("empty"), 503, "ServiceUnavailable");
    refused(w.pod("ftp:p:80"), 400, "BadRequest");
}

#[test]
fn nodes_are_reached_through_their_api() {
    let w = World::new("proxynode");
    let nodes = w.ns.must("GET", "/api/v1/nodes", &Value::Null);
    let node = nodes["items"][0]["metadata"]["name"].as_str().unwrap();
    let port = &nodes["items"][0]["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    for name in [node.to_owned(), format!("{node}:{port}")] {
        let health = w.ask("GET", &format!("/api/v1/nodes/{name}/proxy/healthz"), &[], "");
        assert_eq!((health.status, health.body.as_str()), (200, "ok"), "{name}");
        let pods: Value =
            serde_json::from_str(&w.ask("GET", &format!("/api/v1/nodes/{name}/proxy/pods"), &[], "").body).unwrap();
        assert!(pods["items"].as_array().unwrap().iter().any(|p| p["metadata"]["namespace"] == w.ns.name.as_str()));
    }
}

#[test]
fn kubectl_proxy_serves_the_api_and_what_is_behind_it() {
    use std::io::{BufRead, BufReader};
    let w = World::new("proxykubectl");
    let mut child = w.ns.command(&["proxy", "--port=0"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().rsplit(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
    let ask = |path: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    let version = ask("/version");
    let page = w.ns.eventually("the page behind it", || {
        let said = ask(&format!("{}/", w.pod("p:1080")));
        if said.contains("rewriteme") { Ok(said) } else { Err(said) }
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(version.contains("gitVersion"), "{version}");
    assert!(page.contains(&format!(r#"<a href="{}/rewriteme">"#, w.pod("p:1080"))), "{page}");
}
