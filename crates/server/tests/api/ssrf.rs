//! Requests that this server makes for others must not lead where only it can go: to what listens on its machine for itself,
//! and to the metadata services of clouds. Users write Services, their endpoints, and (with more rights) webhooks and APIServices.
//! (Nodes, Pods and what proxied backends answer: `doors.rs` and `hostile.rs`; redirections of audit webhooks: `audit.rs`.)

use crate::harness::{Client, Cluster, MAPS, config_map};
use crate::receiver::{Receiver, status};
use caravel_server::UserInfo;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};
use std::time::Duration;

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Something that listens on this machine for itself.
struct Inside(std::net::TcpListener);

impl Inside {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Nobody connected: what connects is there before the request that caused it is answered.
    fn untouched(&self, after: &str) {
        let found = self.0.accept();
        assert!(found.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "{after}: {found:?}");
    }
}

async fn until(what: &str, mut attempt: impl AsyncFnMut() -> Result<(), String>) {
    let mut last = String::new();
    for _ in 0..1500 {
        match attempt().await {
            Ok(()) => return,
            Err(why) => last = why,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {last}");
}

fn hook(name: &str, config: Value) -> Value {
    json!({"metadata": {"name": name}, "webhooks": [{
        "name": format!("{name}.example.com"), "clientConfig": config, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}]}]})
}

/// A definition of two versions, the second of which only a webhook makes.
fn definition(group: &str, config: Value) -> Value {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema":
            {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!({"metadata": {"name": format!("things.{group}")}, "spec": {
        "group": group, "scope": "Cluster", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [version("v1", true), version("v2", false)],
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]}}}})
}

/// Has a thing of the group converted; what is said of it.
async fn converted(admin: &Client, group: &str, config: Value) -> (u16, String) {
    let (code, said) = admin.post(DEFINITIONS, definition(group, config)).await;
    assert_eq!(code, 201, "{said}");
    let thing = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "t"}});
    until("the kind is served", async || match admin.post(&format!("/apis/{group}/v1/things"), thing.clone()).await {
        (201, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    })
    .await;
    let (code, said) = admin.get(&format!("/apis/{group}/v2/things/t")).await;
    (code, said["message"].as_str().unwrap_or_default().to_owned())
}

/// Has a ConfigMap admitted by the webhook; what is said of it.
async fn admitted(admin: &Client, name: &str, config: Value) -> String {
    let (code, said) = admin.post(HOOKS, hook(name, config)).await;
    assert_eq!(code, 201, "{said}");
    let mut message = String::new();
    until("the webhook is asked", async || match admin.post(&format!("{MAPS}?dryRun=All"), config_map("m")).await {
        (500, said) => {
            message = said["message"].as_str().unwrap_or_default().to_owned();
            Ok(())
        }
        (code, said) => Err(format!("{code} {said}")),
    })
    .await;
    assert_eq!(admin.call("DELETE", &format!("{HOOKS}/{name}"), json!({})).await.0, 200);
    message
}

#[tokio::test]
async fn endpoints_are_no_addresses_of_this_machine() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    for (kind, address, why) in [
        ("IPv4", "127.0.0.1", "may not be in the loopback range"),
        ("IPv4", "127.8.9.10", "may not be in the loopback range"),
        ("IPv6", "::1", "may not be in the loopback range"),
        ("IPv4", "169.254.169.254", "may not be in the link-local range"),
        ("IPv6", "fe80::1", "may not be in the link-local range"),
        ("IPv4", "0.0.0.0", "may not be unspecified"),
        ("IPv6", "::", "may not be unspecified"),
        ("IPv4", "224.0.0.1", "may not be in the link-local multicast range"),
        ("IPv6", "ff02::1", "may not be in the link-local multicast range"),
        // Other ways to write them.
        ("IPv6", "::ffff:127.0.0.1", "must be a valid IPv6 address"),
        ("IPv6", "::ffff:a9fe:a9fe", "must be a valid IPv6 address"),
        ("IPv4", "::ffff:127.0.0.1", ""),
        ("IPv4", "127.1", "must be a valid IPv4 address"),
        ("IPv4", "2130706433", "must be a valid IPv4 address"),
        ("IPv4", "0x7f.0.0.1", "must be a valid IPv4 address"),
        ("IPv4", "0177.0.0.1", ""),
        ("IPv4", "localhost", "must be a valid IPv4 address"),
    ] {
        let slice = json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": [{"addresses": [address]}]});
        let (code, said) = admin.post(SLICES, slice).await;
        assert_eq!((code, said["message"].as_str().unwrap().contains(why)), (422, true), "{address}: {said}");
        let old = json!({"metadata": {"name": "s"}, "subsets": [{"addresses": [{"ip": address}]}]});
        let (code, said) = admin.post("/api/v1/namespaces/default/endpoints", old).await;
        assert_eq!(code, 422, "{address}: {said}");
    }
}

#[tokio::test]
async fn services_lead_nowhere_inside() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let inside = Inside::new();
    let port = inside.port();
    for (i, host) in ["127.0.0.1", "localhost", "169.254.169.254"].into_iter().enumerate() {
        let name = format!("evil{i}");
        let service = json!({"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": host}});
        let (code, said) = admin.post(SERVICES, service).await;
        assert_eq!(code, 201, "{said}");
        let config = json!({"service": {"namespace": "default", "name": name, "port": port, "path": "/"}});

        // The proxy knows endpoints only.
        for named in
            [format!("{name}:{port}"), format!("http:{name}:{port}"), format!("https:{name}:{port}"), name.clone()]
        {
            let (code, said) = admin.get(&format!("{SERVICES}/{named}/proxy/latest/meta-data/")).await;
            assert_eq!(code, 503, "{named}: {said}");
            assert!(said["message"].as_str().unwrap().contains("no endpoints available"), "{said}");
        }
        inside.untouched("services/proxy");
        let said = admitted(&admin, &name, config.clone()).await;
        assert!(said.contains("failed calling webhook") && said.contains("address not allowed"), "{said}");
        inside.untouched("an admission webhook");
        let (code, said) = converted(&admin, &format!("{name}.example.com"), config).await;
        assert!(code == 500 && said.contains("address not allowed"), "{code} {said}");
        inside.untouched("a conversion webhook");

        let group = format!("{name}.example.org");
        let api = json!({"metadata": {"name": format!("v1.{group}")}, "spec": {
            "group": group, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
            "service": {"namespace": "default", "name": name, "port": port}}});
        let services = "/apis/apiregistration.k8s.io/v1/apiservices";
        assert_eq!(admin.post(services, api).await.0, 201);
        until("it is found to be out of reach", async || {
            let (_, now) = admin.get(&format!("{services}/v1.{group}")).await;
            let found = now["status"]["conditions"][0].clone();
            let refused = found["message"].as_str().is_some_and(|text| text.contains("address not allowed"));
            if found["status"] == "False" && refused { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
        assert_eq!(admin.get(&format!("/apis/{group}/v1/things")).await.0, 503);
        inside.untouched("an aggregated API");
    }
    // A name among the endpoints is not looked up.
    let service = json!({"metadata": {"name": "named"}, "spec": {"ports": [{"port": 80, "targetPort": port}]}});
    assert_eq!(admin.post(SERVICES, service).await.0, 201);
    let slice = json!({"metadata": {"name": "named", "labels": {"kubernetes.io/service-name": "named"}}, "addressType": "FQDN",
        "endpoints": [{"addresses": ["localhost.localdomain"]}], "ports": [{"port": port}]});
    let (code, said) = admin.post(SLICES, slice).await;
    assert_eq!(code, 201, "{said}");
    assert_eq!(admin.get(&format!("{SERVICES}/named:80/proxy/")).await.0, 503);
    inside.untouched("endpoints with names");
}

/// A URL of a webhook has a host and a path, and nothing that could mislead or be leaked. Which host it is, is up to who may write
/// webhooks, the administrators: that it may be one of this machine is upstream's rule, too.
#[tokio::test]
async fn urls_of_webhooks_are_plain() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    for (url, why) in [
        ("http://example.com/x", "'https' is the only allowed URL scheme"),
        ("file:///etc/passwd", "'https' is the only allowed URL scheme"),
        ("gopher://example.com/", "'https' is the only allowed URL scheme"),
        ("example.com/x", "'https' is the only allowed URL scheme"),
        ("https://", "host must be specified"),
        ("https:///x", "host must be specified"),
        ("https://user:secret@example.com/x", "user information is not permitted in the URL"),
        ("https://example.com@127.0.0.1/x", "user information is not permitted in the URL"),
        ("https://@example.com/x", "user information is not permitted in the URL"),
        ("https://example.com/x#fragment", "fragments are not permitted in the URL"),
        ("https://example.com#@127.0.0.1/", "fragments are not permitted in the URL"),
        ("https://example.com/x?a=b", "query parameters are not permitted in the URL"),
        ("https://exa mple.com/", ""),
        ("https://example.com\\@127.0.0.1/", ""),
        ("https://[::1/x", ""),
        ("https://example.com:port/", ""),
        ("https://example.com/\r\nhost: other", ""),
    ] {
        let mut said = vec![admin.post(HOOKS, hook("h", json!({"url": url}))).await];
        let mutating = HOOKS.replace("validating", "mutating");
        said.push(admin.post(&mutating, hook("h", json!({"url": url}))).await);
        said.push(admin.post(DEFINITIONS, definition("urls.example.com", json!({"url": url}))).await);
        for (code, said) in said {
            assert_eq!((code, said["message"].as_str().unwrap().contains(why)), (422, true), "{url}: {said}");
        }
    }
}

/// Webhooks cannot send this server elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed() {
    let mut elsewhere = Receiver::start(|_| status(200)).await;
    let place = format!("https://127.0.0.1:{}/elsewhere", elsewhere.port);
    for code in [301, 302, 303, 307, 308] {
        let place = place.clone();
        let receiver = Receiver::start(move |_| {
            let to = Response::builder().status(code).header("location", &place);
            to.body(Full::default()).unwrap()
        })
        .await;
        // Whoever vouches for one vouches for both.
        let bundle = [receiver.ca.as_str(), elsewhere.ca.as_str()].concat();
        use base64::Engine as _;
        let bundle = base64::engine::general_purpose::STANDARD.encode(bundle);
        let config = json!({"url": format!("https://127.0.0.1:{}/x", receiver.port), "caBundle": bundle});
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = receiver.kubeconfig(dir.path(), "/authorize");
        let file = dir.path().join("authorization.json");
        let gate = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": [
            {"type": "Webhook", "name": "gate", "webhook": {
                "timeout": "5s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
                "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig.to_str().unwrap()}}}]});
        std::fs::write(&file, gate.to_string()).unwrap();
        let cluster = Cluster::with(|config| config.authorization = Some(file)).await;
        let admin = cluster.admin();
        assert_eq!(
            cluster.client(UserInfo::new("ann", &[])).get(MAPS).await.0,
            403,
            "an authorization webhook: {code}"
        );
        let said = admitted(&admin, "h", config.clone()).await;
        assert!(said.contains("redirects are not followed"), "an admission webhook: {code}: {said}");
        let (_, said) = converted(&admin, "moved.example.com", config).await;
        assert!(said.contains("redirects are not followed"), "a conversion webhook: {code}: {said}");
        assert!(elsewhere.rest().is_empty(), "{code} was followed");
    }
}
