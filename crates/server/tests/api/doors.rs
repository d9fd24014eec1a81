//! More of what somebody with bad intentions would send: through proxies, upgrades and the rights to hand out rights.

use crate::harness::{Client, Cluster, MAPS, config_map};
use crate::https::{Served, serve_with};
use caravel_server::UserInfo;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const IN_DEFAULT: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

/// An address of this machine at which others reach it, for what lists loopback is refused by design.
pub fn own_address() -> IpAddr {
    // Nothing is sent: the kernel only chooses where it would be sent from.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").expect("this test needs a route beside loopback");
    socket.local_addr().unwrap().ip()
}

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"}})
}

/// Gives a user these rights in the namespace `default`, and waits until they hold: `probe` is allowed by the last of them.
async fn give(cluster: &Cluster, user: &str, rules: Value, probe: (&str, &str, &str)) -> Client {
    let admin = cluster.admin();
    assert_eq!(admin.post(&format!("{IN_DEFAULT}/roles"), role("Role", user, rules)).await.0, 201);
    assert_eq!(admin.post(&format!("{IN_DEFAULT}/rolebindings"), binding(user, "Role", user, user)).await.0, 201);
    let (verb, group, resource) = probe;
    let ask = json!({"spec": {"user": user, "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": "default"}}});
    for _ in 0..500 {
        let (_, said) = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", ask.clone()).await;
        if said["status"]["allowed"] == true {
            return cluster.client(UserInfo::new(user, &[]));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the rights of {user} do not hold");
}

fn rule(resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": resources, "verbs": verbs})
}

/// Each of the rights `bind`, `escalate` and `impersonate` opens what it is for, and none of them another's door.
#[tokio::test]
async fn rights_to_hand_out_rights_stay_apart() {
    let cluster = Cluster::new().await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let strong = role("Role", "strong", everything.clone());
    assert_eq!(cluster.admin().post(&format!("{IN_DEFAULT}/roles"), strong.clone()).await.0, 201);
    let write = ["create", "update", "patch", "get"];
    let roles = rule(&["roles", "rolebindings"], &write);
    let weak = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);

    // Only writing: what one has, and no more; not by an update, a patch or an apply either.
    let plain = give(&cluster, "plain", json!([roles, weak[0]]), ("get", "", "configmaps")).await;
    let at = |what: &str| format!("{IN_DEFAULT}/{what}");
    assert_eq!(plain.post(&at("roles"), role("Role", "mine", weak.clone())).await.0, 201);
    assert_eq!(plain.post(&at("roles"), role("Role", "more", everything.clone())).await.0, 403);
    assert_eq!(plain.put(&at("roles/mine"), role("Role", "mine", everything.clone())).await.0, 403);
    assert_eq!(plain.patch(&at("roles/mine"), json!({"rules": everything})).await.0, 403);
    let apply = plain
        .call_as(
            "PATCH",
            &at("roles/mine?fieldManager=m&force=true"),
            "application/apply-patch+yaml",
            role("Role", "mine", everything.clone()).to_string(),
        )
        .await;
    assert_eq!(apply.0, 403, "{}", apply.1);
    assert_eq!(plain.post(&at("rolebindings"), binding("mine", "Role", "strong", "plain")).await.0, 403);
    assert_eq!(plain.post(&at("rolebindings"), binding("mine", "Role", "mine", "plain")).await.0, 201);
    assert_eq!(plain.post(&at("rolebindings"), binding("top", "ClusterRole", "cluster-admin", "plain")).await.0, 403);
    // A binding of more is there: who may write it may not put oneself into it.
    assert_eq!(cluster.admin().post(&at("rolebindings"), binding("others", "Role", "strong", "somebody")).await.0, 201);
    let me = json!({"subjects": [{"kind": "User", "name": "plain", "apiGroup": "rbac.authorization.k8s.io"}]});
    assert_eq!(plain.patch(&at("rolebindings/others"), me).await.0, 403);

    // `bind` on one role: that role, and no other; and no role grows by it.
    let bind = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "resourceNames": ["strong"], "verbs": ["bind"]});
    let binder = give(
        &cluster,
        "binder",
        json!([roles, bind, rule(&["roles"], &["list"])]),
        ("list", "rbac.authorization.k8s.io", "roles"),
    )
    .await;
    assert_eq!(binder.post(&at("roles"), role("Role", "grown", everything.clone())).await.0, 403);
    assert_eq!(binder.post(&at("rolebindings"), binding("b1", "ClusterRole", "cluster-admin", "binder")).await.0, 403);
    assert_eq!(
        binder
            .post(&format!("{RBAC}/clusterrolebindings"), binding("b1", "ClusterRole", "cluster-admin", "binder"))
            .await
            .0,
        403
    );
    assert_eq!(binder.post(&at("rolebindings"), binding("b2", "Role", "strong", "friend")).await.0, 201);

    // `escalate` on roles: roles may grow, but whom they are bound to is another matter.
    let escalate = rule(&["roles"], &["escalate", "list"]);
    let climber =
        give(&cluster, "climber", json!([roles, escalate]), ("list", "rbac.authorization.k8s.io", "roles")).await;
    assert_eq!(climber.post(&at("roles"), role("Role", "tall", everything.clone())).await.0, 201);
    assert_eq!(climber.post(&at("rolebindings"), binding("c1", "Role", "tall", "climber")).await.0, 403);
    assert_eq!(climber.post(&format!("{RBAC}/clusterroles"), role("ClusterRole", "tall", everything)).await.0, 403);

    // Aggregation collects rules that somebody else writes: that needs all of them.
    let aggregate = json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let (clusterwide, name) = (json!([rule(&["clusterroles"], &["create", "list"])]), "collector");
    let admin = cluster.admin();
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), role("ClusterRole", name, clusterwide)).await.0, 201);
    assert_eq!(
        admin.post(&format!("{RBAC}/clusterrolebindings"), binding(name, "ClusterRole", name, name)).await.0,
        201
    );
    let collector = cluster.client(UserInfo::new(name, &[]));
    for _ in 0..500 {
        if collector.get(&format!("{RBAC}/clusterroles")).await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(collector.post(&format!("{RBAC}/clusterroles"), aggregate).await.0, 403);
}

/// Who may act as one user is not in that user's groups, nor anybody else.
#[tokio::test]
async fn acting_as_one_is_acting_as_no_other() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let rules = json!([
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), role("ClusterRole", "actor", rules)).await.0, 201);
    assert_eq!(
        admin.post(&format!("{RBAC}/clusterrolebindings"), binding("actor", "ClusterRole", "actor", "actor")).await.0,
        201
    );
    let actor = cluster.client(UserInfo::new("actor", &["readers"]));
    for _ in 0..500 {
        if actor.get(MAPS).await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let as_whom = async |headers: &[(&str, &str)]| actor.send("POST", review, headers, "{}").await.status().as_u16();
    assert_eq!(as_whom(&[("content-type", "application/json"), ("impersonate-user", "bob")]).await, 201);
    for more in [
        vec![("impersonate-user", "alice")],
        vec![("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
        vec![("impersonate-user", "bob"), ("impersonate-uid", "1")],
        vec![("impersonate-user", "bob"), ("impersonate-extra-scopes", "all")],
        vec![("impersonate-user", "system:serviceaccount:kube-system:default")],
        vec![("impersonate-user", "system:anonymous")],
        vec![("impersonate-user", "BOB")],
    ] {
        let code = as_whom(&more).await;
        assert!(code == 403 || code == 400, "{more:?}: {code}");
    }
    // As bob, one has bob's rights, and not one's own.
    assert_eq!(actor.send("GET", MAPS, &[("impersonate-user", "bob")], "").await.status(), 403);
}

/// Dots and encoded slashes lead from no resource to another.
#[tokio::test]
async fn paths_lead_nowhere_else() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    assert_eq!(
        admin
            .post(
                "/api/v1/namespaces/default/secrets",
                json!({"metadata": {"name": "s"}, "stringData": {"a": "hidden"}})
            )
            .await
            .0,
        201
    );
    assert_eq!(admin.post(MAPS, config_map("m")).await.0, 201);
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps", "pods/proxy", "services/proxy", "pods/log"], "verbs": ["get", "create"]}]);
    let mallory = give(&cluster, "mallory", rules, ("get", "", "configmaps")).await;
    assert_eq!(mallory.get(&format!("{MAPS}/m")).await.0, 200);
    for path in [
        "/api/v1/namespaces/default/configmaps/../secrets/s",
        "/api/v1/namespaces/default/configmaps/%2e%2e/secrets/s",
        "/api/v1/namespaces/default/configmaps/..%2fsecrets%2fs",
        "/api/v1/namespaces/default/configmaps/m/../../secrets/s",
        "/api/v1/namespaces/default/configmaps/m%2f..%2f..%2fsecrets%2fs",
        "/api/v1/namespaces/default%2fsecrets%2fs",
        "/api/v1/namespaces/default/pods/p/proxy/../../../secrets/s",
        "/api/v1/namespaces/default/pods/p/proxy/%2e%2e/%2e%2e/%2e%2e/secrets/s",
        "/api/v1/namespaces/default/services/s/proxy/../../../../secrets",
        "/api/v1/namespaces/default/pods/..%2fsecrets/log",
        "/api/v1/namespaces/default/pods/p/log%2f..%2f..%2f..%2fsecrets",
        "/api/v1/namespaces/../secrets",
        "/api/v1/namespaces/%2e%2e/secrets/s",
        "//api/v1/namespaces/default/secrets/s",
        "/api//v1/namespaces/default/secrets/s",
        "/api/v1/./namespaces/default/secrets/s",
        "/apis/../api/v1/namespaces/default/secrets/s",
        "/openapi/../api/v1/namespaces/default/secrets/s",
        "/healthz/../api/v1/namespaces/default/secrets/s",
    ] {
        for method in ["GET", "POST"] {
            let (code, said) = mallory.call_as(method, path, "application/json", "{}").await;
            assert!(code >= 300 && !said.to_string().contains("aGlkZGVu"), "{method} {path}: {code} {said}");
            assert!(code != 500, "{method} {path}: {said}");
        }
    }
    // Names that are no names of subresources.
    for sub in ["exec%20", "Exec", "exec%00", "..", "%2e%2e", "log%2fx", "status%0d%0ax:y"] {
        let (code, said) = admin.get(&format!("/api/v1/namespaces/default/configmaps/m/{sub}")).await;
        assert!((400..500).contains(&code), "{sub}: {code} {said}");
    }
}

/// Nodes write their own addresses. None leads to what listens on this machine for itself, nor to this server in the
/// administrator's name.
#[tokio::test]
async fn nodes_lead_nowhere_inside() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    for (name, address, kubelet) in
        [("a", "127.0.0.1", 10250), ("b", "169.254.169.254", 10250), ("c", "127.0.0.1", 6443), ("d", "10.0.0.1", 6443)]
    {
        assert_eq!(admin.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.0, 201);
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}], "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet}}}});
        let (code, said) = admin.patch(&format!("/api/v1/nodes/{name}/status"), status).await;
        assert_eq!(code, 200, "{said}");
    }
    for (path, wanted) in [
        (format!("/api/v1/nodes/a:{port}/proxy/"), 400),
        (format!("/api/v1/nodes/http:a:{port}/proxy/"), 400),
        (format!("/api/v1/nodes/https:a:{port}/proxy/"), 400),
        ("/api/v1/nodes/b:80/proxy/latest/meta-data/".into(), 400),
        ("/api/v1/nodes/c/proxy/api/v1/secrets".into(), 500),
        ("/api/v1/nodes/d/proxy/api/v1/secrets".into(), 500),
        ("/api/v1/nodes/d:6443/proxy/api/v1/secrets".into(), 500),
    ] {
        let (code, said) = admin.get(&path).await;
        assert_eq!(code, wanted, "{path}: {said}");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), inside.accept()).await.is_err(), "somebody was led inside");
}

/// A Pod whose address is this machine's, and a listener behind it.
async fn backend(served: &Served) -> (TcpListener, String) {
    let address = own_address();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let admin = served.cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/pods", pod).await.0, 201);
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    let (code, said) = admin.patch("/api/v1/namespaces/default/pods/p/status", status).await;
    assert_eq!(code, 200, "{said}");
    (listener, format!("/api/v1/namespaces/default/pods/p:{port}/proxy"))
}

/// The head of a request.
async fn head(stream: &mut TcpStream) -> String {
    let mut text = vec![];
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(text).unwrap()
}

/// What a client sends behind an upgrade that the backend refuses is the client's next request to this server, and never the
/// backend's (CVE-2018-1002105).
#[tokio::test]
async fn a_refused_upgrade_is_no_tunnel() {
    let served = serve_with(|_| {}).await;
    let (listener, proxy) = backend(&served).await;
    let leaves = served.cluster.server.pki().leaves();
    let admin = Some((leaves.admin.cert_pem.as_str(), leaves.admin.key_pem.as_str()));
    let upgrade = format!(
        "GET {proxy}/ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nGET /smuggled HTTP/1.1"
    );
    for answer in [
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nconnection: Upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nno",
    ] {
        let refuse = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let first = head(&mut stream).await;
            assert!(
                first.starts_with("GET /ws HTTP/1.1\r\n") && first.to_lowercase().contains("upgrade: websocket"),
                "{first}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut more = vec![];
            // It ends when the client's side does.
            let _ = stream.read_to_end(&mut more).await;
            String::from_utf8_lossy(&more).into_owned()
        };
        let (more, (_, text)) = tokio::join!(refuse, served.ask(&upgrade, admin));
        assert_eq!(more, "", "bytes of the client reached the backend");
        assert!(!text.starts_with("HTTP/1.1 101"), "{text}");
        let second = text.matches("HTTP/1.1 ").count();
        assert!(second == 1 || (second == 2 && text.contains("HTTP/1.1 404")), "the second is for this server: {text}");
    }
    served.end().await;
}

/// A backend that upgrades unasked, or answers twice, harms only itself.
#[tokio::test]
async fn backends_cannot_answer_for_others() {
    let served = serve_with(|_| {}).await;
    let (listener, proxy) = backend(&served).await;
    let leaves = served.cluster.server.pki().leaves();
    let admin = Some((leaves.admin.cert_pem.as_str(), leaves.admin.key_pem.as_str()));
    let answering = |answer: &'static str| {
        let listener = &listener;
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let first = head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
            first
        }
    };
    let ask = format!("GET {proxy}/x HTTP/1.1\r\ncookie: a=b\r\nauthorization: Bearer secret");
    let plain = format!("GET {proxy}/x HTTP/1.1");
    let (first, (code, text)) = tokio::join!(
        answering("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        served.ask(&plain, admin)
    );
    assert_eq!(code, 503, "{first} {text}");
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let pipelined = format!("GET {proxy}/x HTTP/1.1\r\nhost: x\r\n\r\nGET /readyz HTTP/1.1");
    let (_, (code, text)) = tokio::join!(answering(twice), served.ask(&pipelined, admin));
    assert!(code == 200 && !text.contains("poison"), "{text}");
    // A redirect goes to the client, and is not followed.
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n";
    let (_, (code, text)) = tokio::join!(answering(elsewhere), served.ask(&plain, admin));
    assert!(code == 302 && text.contains("169.254.169.254"), "{text}");
    // Credentials for this server stay here. (The certificate says who asks; the token is not looked at.)
    let (first, _) = tokio::join!(answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), served.ask(&ask, admin));
    assert!(!first.to_lowercase().contains("authorization"), "{first}");
    served.end().await;
}
