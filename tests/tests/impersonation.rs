//! Acting as another for some requests only (KEP-5284), with stock kubectl and tokens of service accounts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Wire, cluster_dir};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A service account of `ns`, and a token of it with this TokenRequest's spec.
fn token(ns: &Namespace, name: &str, spec: Value) -> String {
    ns.make("serviceaccounts", &json!({"metadata": {"name": name}}));
    let path = ns.path(&format!("serviceaccount/{name}"));
    let (code, said) = ns.wire().post(&format!("{path}/token"), &json!({"spec": spec}));
    assert_eq!(code, 201, "{said}");
    said["status"]["token"].as_str().unwrap().to_owned()
}

fn wire(token: &str) -> Wire {
    let text = std::fs::read_to_string(cluster_dir().join("kubeconfig")).unwrap();
    let mut config: Value = serde_yaml::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_yaml::to_string(&config).unwrap()).unwrap();
    Wire::new(file.path())
}

fn subject(ns: &Namespace, account: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": account, "namespace": ns.name})
}

/// Gives these rights in the namespace.
fn give(ns: &Namespace, name: &str, subject: Value, rules: Value) {
    ns.make("roles", &json!({"metadata": {"name": name}, "rules": rules}));
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    ns.make("rolebindings", &json!({"metadata": {"name": name}, "subjects": [subject], "roleRef": role}));
}

/// Rights everywhere, until this is dropped.
struct Everywhere<'a>(&'a Namespace);

impl<'a> Everywhere<'a> {
    fn give(ns: &'a Namespace, subject: Value, rules: Value) -> Self {
        let role = json!({"metadata": {"name": ns.name}, "rules": rules});
        assert_eq!(ns.wire().post(&format!("{RBAC}/clusterroles"), &role).0, 201);
        let all = Self(ns);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ns.name});
        let binding = json!({"metadata": {"name": ns.name}, "subjects": [subject], "roleRef": role});
        assert_eq!(ns.wire().post(&format!("{RBAC}/clusterrolebindings"), &binding).0, 201);
        all
    }
}

impl Drop for Everywhere<'_> {
    fn drop(&mut self) {
        for kind in ["clusterroles", "clusterrolebindings"] {
            self.0.wire().delete(&format!("{RBAC}/{kind}/{}", self.0.name));
        }
    }
}

fn refused(said: &(u16, Value), why: &str) {
    let (code, said) = said;
    assert!(*code == 403 && said["message"].as_str().unwrap().contains(why), "{code} {said}, not {why}");
}

/// `kubectl --as`: Pods may be listed in another's name, and not be deleted, though that other may do both.
#[test]
fn kubectl_acts_as_somebody_for_some_requests() {
    let ns = Namespace::new("deputy");
    let jane = format!("jane-{}", ns.name);
    let person = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": jane});
    let pods = |verbs: Value| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
    give(&ns, "jane", person, pods(json!(["get", "list", "delete"])));
    give(&ns, "deputy", subject(&ns, "deputy"), pods(json!(["impersonate-on:user-info:list"])));
    // kubectl asks for the kinds of the cluster first, in the same name.
    let _all = Everywhere::give(
        &ns,
        subject(&ns, "deputy"),
        json!([
            {"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": [jane], "verbs": ["impersonate:user-info"]},
            {"nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*"], "verbs": ["impersonate-on:user-info:get"]},
        ]),
    );
    ns.make("pods", &json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": {"no-such": "node"}, "containers": [{"name": "c", "image": "i"}]}}));
    let token = token(&ns, "deputy", json!({}));
    let nobody = ns.without_credentials();
    let said = format!("--token={token}");
    let kubectl = |words: &[&str]| nobody.try_kubectl(&[&[said.as_str()], words].concat());
    let whom = format!("--as={jane}");
    let listed = ns.eventually("a list in another's name", || kubectl(&["get", "pods", "-o", "name", whom.as_str()]));
    assert_eq!(listed.trim(), "pod/p");
    let told = kubectl(&["delete", "pod", "p", whom.as_str()]).expect_err("no deletion in another's name");
    let why = "cannot impersonate-on:user-info:delete resource \"pods\" in API group \"\" in the namespace";
    assert!(told.contains(why), "{told}");
    let deputy = wire(&token);
    let here = ns.wire().collection(&ns.name, "pods").unwrap();
    let get = |path: &str, headers: &[(&str, &str)]| deputy.send("GET", path, headers, vec![]);
    let as_jane = ("impersonate-user", jane.as_str());
    refused(&get(&format!("{here}/p"), &[as_jane]), "cannot impersonate-on:user-info:get resource \"pods\"");
    refused(
        &get("/api/v1/pods", &[as_jane]),
        "cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" at the cluster scope",
    );
    refused(&get(&here, &[("impersonate-user", "joe")]), "users.authentication.k8s.io \"joe\" is forbidden");
    refused(
        &get(&here, &[as_jane, ("impersonate-group", "dev")]),
        "cannot impersonate:user-info resource \"groups\" in API group \"authentication.k8s.io\"",
    );
    refused(
        &get(&here, &[as_jane, ("impersonate-group", "system:masters")]),
        "impersonating the system:masters group is not allowed",
    );
    refused(&get(&here, &[]), "cannot list resource \"pods\"");
    assert_eq!(ns.get("pod/p")["metadata"].get("deletionTimestamp"), None);
}

/// A service account acts as another one, and as the node that its token is bound to; no further.
#[test]
fn service_accounts_act_as_others_and_as_their_own_node() {
    let ns = Namespace::new("deputy-sa");
    let rule = |group: &str, resource: &str, names: &[&str], verb: &str| json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": [verb]});
    give(
        &ns,
        "app",
        subject(&ns, "app"),
        json!([rule("", "configmaps", &[], "list"), rule("", "configmaps", &[], "create")]),
    );
    let mine = json!([
        rule("authentication.k8s.io", "serviceaccounts", &["app"], "impersonate:serviceaccount"),
        rule("", "configmaps", &[], "impersonate-on:serviceaccount:list"),
    ]);
    give(&ns, "deputy", subject(&ns, "deputy"), mine);
    let node = format!("node-{}", ns.name);
    let made = json!({"metadata": {"name": node}, "spec": {"unschedulable": true}});
    let (code, made) = ns.wire().post("/api/v1/nodes", &made);
    assert_eq!(code, 201, "{made}");
    let bound =
        json!({"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": node, "uid": made["metadata"]["uid"]}});
    let deputy = wire(&token(&ns, "deputy", bound));
    let _all = Everywhere::give(
        &ns,
        subject(&ns, "deputy"),
        json!([
            rule("authentication.k8s.io", "nodes", &[], "impersonate:associated-node"),
            rule("", "nodes", &[], "impersonate-on:associated-node:get"),
        ]),
    );
    let send = |method: &str, path: &str, whom: &str| {
        let headers = [("content-type", "application/json"), ("impersonate-user", whom)];
        let body = if method == "POST" { br#"{"metadata":{"name":"m"}}"#.to_vec() } else { vec![] };
        deputy.send(method, path, &headers, body)
    };
    let ok = |what: &str, path: &str, whom: &str| {
        ns.eventually(what, || match send("GET", path, whom) {
            (200, said) => Ok(said),
            (code, said) => Err(format!("{code} {said}")),
        })
    };
    let maps = ns.wire().collection(&ns.name, "configmaps").unwrap();
    let account = |name: &str| format!("system:serviceaccount:{}:{name}", ns.name);
    ok("a list as another service account", &maps, &account("app"));
    refused(
        &send("POST", &maps, &account("app")),
        "cannot impersonate-on:serviceaccount:create resource \"configmaps\"",
    );
    refused(&send("GET", &maps, &account("default")), "serviceaccounts.authentication.k8s.io \"default\" is forbidden");
    refused(&deputy.get(&maps), "cannot list resource \"configmaps\"");

    let (own, whom) = (format!("/api/v1/nodes/{node}"), format!("system:node:{node}"));
    assert_eq!(ok("its node as itself", &own, &whom)["metadata"]["name"], node.as_str());
    refused(&send("DELETE", &own, &whom), "cannot impersonate-on:associated-node:delete resource \"nodes\"");
    refused(&send("GET", &own, "system:node:another"), "cannot impersonate-on:arbitrary-node:get resource \"nodes\"");
    // Of the same service account, but not on that node.
    let (_, said) = ns.wire().post(&ns.path("serviceaccount/deputy/token"), &json!({"spec": {}}));
    let elsewhere = wire(said["status"]["token"].as_str().unwrap());
    let said = elsewhere.send("GET", &own, &[("impersonate-user", whom.as_str())], vec![]);
    refused(&said, "cannot impersonate-on:arbitrary-node:get resource \"nodes\"");
    ns.wire().delete(&own);
}
