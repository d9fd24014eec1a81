//! Objects that a node's programs live by, as the API keeps them: sources, templates, leases, runtime classes, and what
//! it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

fn invalid(answer: &(u16, Value)) -> &str {
    assert_eq!((answer.0, answer.1["reason"].as_str()), (422, Some("Invalid")), "{}", answer.1);
    answer.1["message"].as_str().unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

#[test]
fn keys_of_sources_are_not_empty() {
    let ns = Namespace::new("keys");
    let map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"":"value-1"}});
    let said = ns.wire().post(&format!("/api/v1/namespaces/{}/configmaps", ns.name), &map);
    assert!(invalid(&said).contains("data[]"), "{}", said.1);
    let secret = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"":"dmFsdWUtMQ=="}});
    let said = ns.wire().post(&format!("/api/v1/namespaces/{}/secrets", ns.name), &secret);
    assert!(invalid(&said).contains("data[]"), "{}", said.1);
}

/// Created, watched, patched, found by label in all namespaces, deleted by label.
#[test]
fn config_maps_live_and_are_updated() {
    let ns = Namespace::new("configmaps");
    let all = format!("/api/v1/namespaces/{}/configmaps", ns.name);
    let label = format!("test-configmap-static%3D{}", ns.name);
    let watch = ns.wire().watch(&format!("{all}?watch=true&labelSelector={label}"));
    ns.make("configmaps", &json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","labels":{"test-configmap-static":ns.name}},"data":{"valueName":"value"}}));
    watch.until("the creation", |e| e["type"] == "ADDED" && e["object"]["metadata"]["name"] == "c");
    let path = ns.path("configmap/c");
    let (code, said) = ns
        .wire()
        .strategic(&path, &json!({"metadata":{"labels":{"test-configmap":"patched"}},"data":{"valueName":"value1"}}));
    assert_eq!(code, 200, "{said}");
    watch.until("the patch", |e| e["type"] == "MODIFIED" && e["object"]["data"]["valueName"] == "value1");
    let now = ns.get("configmap/c");
    assert_eq!(
        (&now["data"]["valueName"], &now["metadata"]["labels"]["test-configmap"]),
        (&json!("value1"), &json!("patched"))
    );
    let (_, found) = ns.wire().get(&format!("/api/v1/configmaps?labelSelector={label}"));
    assert_eq!((names(&found), &found["items"][0]["data"]["valueName"]), (vec!["c"], &json!("value1")));
    let mut changed = now;
    changed["data"] = json!({"data":"value"});
    assert_eq!(ns.wire().put(&path, &changed).0, 200);
    assert_eq!(ns.get("configmap/c")["data"], json!({"data":"value"}));
    assert_eq!(ns.wire().delete(&format!("{all}?labelSelector={label}")).0, 200);
    watch.until("the deletion", |e| e["type"] == "DELETED");
    let (_, none) = ns.wire().get(&format!("{all}?labelSelector={label}"));
    assert!(names(&none).is_empty());
}

#[test]
fn a_secret_is_patched_and_deleted_by_its_label() {
    let ns = Namespace::new("secrets");
    let label = format!("testsecret%3D{}", ns.name);
    ns.make("secrets", &json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","labels":{"testsecret-constant":"true"}},"data":{"key":"dmFsdWU="}}));
    let (_, all) = ns.wire().get("/api/v1/secrets?labelSelector=testsecret-constant%3Dtrue");
    assert!(
        all["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|s| s["metadata"]["namespace"] == ns.name.as_str() && s["metadata"]["name"] == "s")
    );
    let (code, said) = ns.wire().strategic(
        &ns.path("secret/s"),
        &json!({"metadata":{"labels":{"testsecret":ns.name}},"data":{"key":"dmFsdWUx"}}),
    );
    assert_eq!((code, &said["data"]["key"]), (200, &json!("dmFsdWUx")));
    let now = ns.get("secret/s");
    assert_eq!((&now["data"]["key"], &now["metadata"]["labels"]["testsecret"]), (&json!("dmFsdWUx"), &json!(ns.name)));
    let all = format!("/api/v1/namespaces/{}/secrets?labelSelector={label}", ns.name);
    assert_eq!(ns.wire().delete(&all).0, 200);
    assert!(names(&ns.wire().get(&all).1).is_empty());
    let (_, all) = ns.wire().get(&format!("/api/v1/secrets?labelSelector={label}"));
    assert!(names(&all).is_empty());
}

#[test]
fn pod_templates_live_are_replaced_and_deleted_together() {
    let ns = Namespace::new("templates");
    let all = format!("/api/v1/namespaces/{}/podtemplates", ns.name);
    let template = |name: &str, labels: Value| {
        json!({"apiVersion":"v1","kind":"PodTemplate","metadata":{"name":name,"labels":labels},
            "template":{"spec":{"containers":[{"name":"nginx","image":"test/busybox:1"}]}}})
    };
    ns.make("podtemplates", &template("one", json!({"podtemplate-static":"true"})));
    let (code, said) =
        ns.wire().strategic(&ns.path("podtemplate/one"), &json!({"metadata":{"labels":{"podtemplate":"patched"}}}));
    assert_eq!((code, &said["metadata"]["labels"]["podtemplate"]), (200, &json!("patched")));
    let mut now = ns.get("podtemplate/one");
    assert_eq!(
        (&now["metadata"]["labels"]["podtemplate"], &now["template"]["spec"]["containers"][0]["imagePullPolicy"]),
        (&json!("patched"), &json!("IfNotPresent"))
    );
    let (_, found) = ns.wire().get("/api/v1/podtemplates?labelSelector=podtemplate%3Dpatched");
    assert!(names(&found).contains(&"one"));
    now["metadata"]["annotations"] = json!({"updated":"true"});
    let (code, said) = ns.wire().put(&ns.path("podtemplate/one"), &now);
    assert_eq!((code, &said["metadata"]["annotations"]["updated"]), (200, &json!("true")));
    // One that was replaced cannot be replaced again from an old version.
    assert_eq!(ns.wire().put(&ns.path("podtemplate/one"), &now).0, 409);
    assert_eq!(ns.wire().delete(&ns.path("podtemplate/one")).0, 200);
    assert!(ns.try_get("podtemplate/one").unwrap_err().contains("NotFound"));
    for name in ["t1", "t2", "t3"] {
        ns.make("podtemplates", &template(name, json!({"podtemplate-set":"true"})));
    }
    ns.make("podtemplates", &template("other", json!({})));
    let set = format!("{all}?labelSelector=podtemplate-set%3Dtrue");
    assert_eq!(names(&ns.wire().get(&set).1), ["t1", "t2", "t3"]);
    assert_eq!(ns.wire().delete(&set).0, 200);
    assert!(names(&ns.wire().get(&set).1).is_empty());
    assert_eq!(names(&ns.wire().get(&all).1), ["other"]);
}

#[test]
fn leases_are_kept_as_they_are_written() {
    let ns = Namespace::new("leases");
    let all = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", ns.name);
    let spec = |holder: &str, seconds: u32, transitions: u32, time: &str| json!({"holderIdentity":holder,"leaseDurationSeconds":seconds,"acquireTime":time,"renewTime":time,"leaseTransitions":transitions});
    let first = spec("holder", 30, 0, "2026-01-02T03:04:05.000006Z");
    let lease = |name: &str, labels: Value, spec: &Value| json!({"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":name,"labels":labels},"spec":spec});
    ns.make("leases", &lease("lease", json!({}), &first));
    let mut now = ns.get("leases/lease");
    assert_eq!(now["spec"], first);
    let second = spec("holder2", 60, 1, "2026-01-02T03:04:35.000006Z");
    now["spec"] = second.clone();
    assert_eq!(ns.wire().put(&ns.path("leases/lease"), &now).0, 200);
    assert_eq!(ns.get("leases/lease")["spec"], second);
    let third = spec("holder3", 50, 2, "2026-01-02T03:05:35.000006Z");
    assert_eq!(ns.wire().strategic(&ns.path("leases/lease"), &json!({"spec":third})).0, 200);
    assert_eq!(ns.get("leases/lease")["spec"], third);
    ns.make("leases", &lease("lease2", json!({"deletecollection":"true"}), &first));
    assert_eq!(names(&ns.wire().get(&all).1), ["lease", "lease2"]);
    assert_eq!(ns.wire().delete(&format!("{all}?labelSelector=deletecollection%3Dtrue")).0, 200);
    assert_eq!(names(&ns.wire().get(&all).1), ["lease"]);
    assert_eq!(ns.wire().delete(&ns.path("leases/lease")).0, 200);
    assert!(ns.try_get("leases/lease").unwrap_err().contains("NotFound"));
}

fn runtime_class(name: &str, handler: &str, more: Value) -> Value {
    let mut class =
        json!({"apiVersion":"node.k8s.io/v1","kind":"RuntimeClass","metadata":{"name":name},"handler":handler});
    for (key, value) in more.as_object().unwrap() {
        class[key] = value.clone();
    }
    class
}

const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

/// Runtime classes belong to no namespace: those of a test go with it.
struct Classes<'a>(&'a Namespace);

impl Classes<'_> {
    fn make(&self, name: &str, handler: &str, more: Value) -> String {
        let name = format!("{}-{name}", self.0.name);
        let mut class = runtime_class(&name, handler, more);
        class["metadata"]["labels"] = json!({"test":self.0.name});
        let (code, said) = self.0.wire().post(CLASSES, &class);
        assert_eq!(code, 201, "{said}");
        name
    }
}

impl Drop for Classes<'_> {
    fn drop(&mut self) {
        self.0.wire().delete(&format!("{CLASSES}?labelSelector=test%3D{}", self.0.name));
    }
}

#[test]
fn runtime_classes_are_served() {
    let ns = Namespace::new("classes");
    let classes = Classes(&ns);
    let (_, groups) = ns.wire().get("/apis");
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "node.k8s.io").unwrap();
    assert!(group["versions"].as_array().unwrap().iter().any(|v| v["version"] == "v1"));
    let (_, group) = ns.wire().get("/apis/node.k8s.io");
    assert_eq!(group["preferredVersion"]["groupVersion"], "node.k8s.io/v1");
    let (_, resources) = ns.wire().get("/apis/node.k8s.io/v1");
    let row = resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == "runtimeclasses").unwrap();
    for verb in ["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"] {
        assert!(row["verbs"].as_array().unwrap().iter().any(|v| v == verb), "{verb}");
    }
    let one = classes.make("one", "handler", json!({}));
    assert_eq!(ns.wire().post(CLASSES, &runtime_class(&one, "handler", json!({}))).0, 409);
    classes.make("two", "handler2", json!({}));
    let mine = format!("{CLASSES}?labelSelector=test%3D{}", ns.name);
    let watch = ns.wire().watch(&format!("{mine}&watch=true"));
    classes.make("three", "handler3", json!({}));
    watch.until("the third", |e| e["type"] == "ADDED" && e["object"]["handler"] == "handler3");
    let path = format!("{CLASSES}/{one}");
    let (_, got) = ns.wire().get(&path);
    assert_eq!(got["handler"], "handler");
    assert_eq!(names(&ns.wire().get(&mine).1).len(), 3);
    let (code, mut patched) = ns.wire().merge(&path, &json!({"metadata":{"annotations":{"patched":"true"}}}));
    assert_eq!((code, &patched["metadata"]["annotations"]["patched"]), (200, &json!("true")));
    patched["metadata"]["annotations"]["updated"] = json!("true");
    let (code, updated) = ns.wire().put(&path, &patched);
    assert_eq!((code, &updated["metadata"]["annotations"]["updated"]), (200, &json!("true")));
    watch.until("the update", |e| {
        e["type"] == "MODIFIED" && e["object"]["metadata"]["annotations"]["updated"] == "true"
    });
    // The handler is for good.
    let mut other = updated;
    other["handler"] = json!("another");
    assert!(invalid(&ns.wire().put(&path, &other)).contains("immutable"));
    assert_eq!(ns.wire().delete(&path).0, 200);
    assert_eq!(ns.wire().get(&path).0, 404);
    assert_eq!(names(&ns.wire().get(&mine).1).len(), 2);
    assert_eq!(ns.wire().delete(&mine).0, 200);
    assert!(names(&ns.wire().get(&mine).1).is_empty());
}

fn of_class(name: &str, class: &str) -> Value {
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},"spec":{"runtimeClassName":class,"automountServiceAccountToken":false,"terminationGracePeriodSeconds":0,
        "containers":[{"name":"c","image":"test/busybox:1","command":["true"]}]}})
}

/// A Pod takes over what its class says, and one of a class that does not exist is refused.
#[test]
fn a_pod_is_what_its_runtime_class_makes_of_it() {
    let ns = Namespace::new("class");
    let classes = Classes(&ns);
    let pods = format!("/api/v1/namespaces/{}/pods", ns.name);
    let refused = |class: &str| {
        let (code, said) = ns.wire().post(&pods, &of_class("refused", class));
        assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")), "{said}");
        assert!(said["message"].as_str().unwrap().contains(&format!("RuntimeClass \"{class}\" not found")), "{said}");
    };
    refused(&format!("{}-nonexistent", ns.name));
    let deleted = classes.make("delete-me", "runc", json!({}));
    assert_eq!(ns.wire().delete(&format!("{CLASSES}/{deleted}")).0, 200);
    assert_eq!(ns.wire().get(&format!("{CLASSES}/{deleted}")).0, 404);
    refused(&deleted);

    let plain = classes.make("plain", "test-handler", json!({}));
    let made = ns.make("pods", &of_class("plain", &plain));
    assert!(made["spec"]["overhead"].is_null(), "{made}");
    let heavy = classes.make("heavy", "test-handler", json!({"overhead":{"podFixed":{"cpu":"10m","memory":"1Mi"}},"scheduling":{"nodeSelector":{"kubernetes.io/os":"linux"},"tolerations":[{"key":"k","operator":"Exists"}]}}));
    let made = ns.make("pods", &of_class("heavy", &heavy));
    assert_eq!(made["spec"]["overhead"], json!({"cpu":"10m","memory":"1Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"kubernetes.io/os":"linux"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().iter().any(|t| t["key"] == "k"));
    for pod in ["plain", "heavy"] {
        ns.until_that(&format!("pod/{pod}"), |p| p["spec"]["nodeName"].is_string());
    }
    // No node has this handler: the node says so, and the Pod stays Pending.
    ns.eventually("the node tells of it", || {
        let (_, events) = ns.wire().get(&format!("/api/v1/namespaces/{}/events", ns.name));
        let told = events["items"].as_array().unwrap().iter().any(|e| {
            e["reason"] == "FailedCreatePodSandBox" && e["message"].as_str().unwrap().contains("test-handler")
        });
        if told { Ok(()) } else { Err(events.to_string()) }
    });
    assert_eq!(ns.field("pod/plain", "{.status.phase}"), "Pending");
    let mut own = of_class("own", &plain);
    own["spec"]["overhead"] = json!({"cpu":"1"});
    assert_eq!(ns.wire().post(&pods, &own).0, 403);
}

/// Every wrong name is told, the right ones are not.
#[test]
fn kernel_parameters_have_names() {
    let ns = Namespace::new("sysctl");
    let sysctl = |name: &str| json!({"name":name,"value":"1"});
    let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"securityContext":{"sysctls":[sysctl("foo-"), sysctl("kernel.shmmax"), sysctl("safe-and-unsafe.x"), sysctl("bar..")]},
        "containers":[{"name":"c","image":"test/busybox:1","command":["true"]}]}});
    let said = ns.wire().post(&format!("/api/v1/namespaces/{}/pods", ns.name), &pod);
    let text = invalid(&said);
    assert!(text.contains("Invalid value: \"foo-\"") && text.contains("Invalid value: \"bar..\""), "{text}");
    assert!(!text.contains("kernel.shmmax") && !text.contains("safe-and-unsafe"), "{text}");
}

/// Who reads a node's own API is asked for a token, and the API server says what it may.
#[test]
fn a_node_lets_in_whom_the_api_lets_in() {
    let ns = Namespace::new("kubelet");
    let (_, nodes) = ns.wire().get("/api/v1/nodes");
    let node = &nodes["items"][0];
    let name = node["metadata"]["name"].as_str().unwrap();
    let address =
        node["status"]["addresses"].as_array().unwrap().iter().find(|a| a["type"] == "InternalIP").unwrap()["address"]
            .as_str()
            .unwrap();
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let token = |account: &str| {
        ns.make("serviceaccounts", &json!({"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":account}}));
        let path = format!("{}/token", ns.path(&format!("serviceaccount/{account}")));
        let (code, said) =
            ns.wire().post(&path, &json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}));
        assert_eq!(code, 201, "{said}");
        said["status"]["token"].as_str().unwrap().to_owned()
    };
    let (reader, nobody) = (token("reader"), token("nobody"));
    let (role, binding) = (format!("{}-metrics", ns.name), format!("{}-binding", ns.name));
    ns.create(&json!({"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":role},"rules":[{"apiGroups":[""],"resources":["nodes/metrics"],"verbs":["get"]}]},
        {"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":binding},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":role},"subjects":[{"kind":"ServiceAccount","name":"reader","namespace":ns.name}]}]}).to_string());
    let ca = tempfile::NamedTempFile::new().unwrap();
    let config = std::fs::read_to_string(caravel_tests::cluster_dir().join("kubeconfig")).unwrap();
    let config: serde_yaml::Value = serde_yaml::from_str(&config).unwrap();
    use base64::Engine;
    let pem = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    std::fs::write(ca.path(), base64::engine::general_purpose::STANDARD.decode(pem).unwrap()).unwrap();
    // curl checks the node's certificate against the cluster's authority, as the server does.
    let ask = |token: &str, path: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--cacert"]).arg(ca.path());
        curl.args(["-H", &format!("Authorization: Bearer {token}"), &format!("https://{address}:{port}{path}")]);
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    };
    assert_eq!(ask(&reader, "/metrics/resource"), "200");
    assert_eq!(ask(&reader, "/pods"), "403");
    assert_eq!(ask(&nobody, "/metrics/resource"), "403");
    assert_eq!(ask("wrong", "/metrics/resource"), "401");
    let (code, page) = (200, ns.wire().text(&format!("/api/v1/nodes/{name}/proxy/metrics/resource")).unwrap());
    assert!(code == 200 && page.contains("node_memory_working_set_bytes"), "{page}");
    for (kind, name) in [("clusterrolebindings", binding), ("clusterroles", role)] {
        ns.wire().delete(&format!("/apis/rbac.authorization.k8s.io/v1/{kind}/{name}"));
    }
}

/// The logs of a Pod that is gone can still be read on its node.
#[test]
fn logs_outlive_their_pod() {
    let ns = Namespace::new("logs-stay");
    ns.create(&json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Never","terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"test/busybox:1","command":["echo","last words"]}]}}).to_string());
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Succeeded");
    ns.wire().delete(&ns.path("pod/p"));
    ns.until_gone("pod/p");
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let path = format!(
        "/api/v1/nodes/{}/proxy/logs/pods/{}_p_{}/c/0.log",
        text(&p["spec"]["nodeName"]),
        ns.name,
        text(&p["metadata"]["uid"])
    );
    assert!(ns.wire().text(&path).unwrap().ends_with(" stdout F last words\n"));
}

/// A log that grows past ten megabytes is set aside, and reading goes on in the new one.
#[test]
fn a_long_log_is_rotated() {
    let ns = Namespace::new("rotate");
    let script = "i=0; while [ $i -lt 48 ]; do head -c 262144 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; while true; do echo on; sleep 0.2; done";
    ns.create(&json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"test/busybox:1","command":["sh","-c",script]}]}}).to_string());
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Running");
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let dir = format!(
        "/api/v1/nodes/{}/proxy/logs/pods/{}_p_{}/c/",
        text(&p["spec"]["nodeName"]),
        ns.name,
        text(&p["metadata"]["uid"])
    );
    ns.eventually("the log is set aside", || {
        let listing = ns.wire().text(&dir)?;
        if listing.contains("0.log.20") { Ok(()) } else { Err(listing) }
    });
    let (before, path) = (ns.log("p", "c").unwrap().len(), format!("{}/log?tailLines=1", ns.path("pod/p")));
    // The new one is empty at first.
    ns.eventually("its last line is told", || match ns.wire().text(&path)? {
        line if line == "on\n" => Ok(()),
        other => Err(format!("it is {other:?}")),
    });
    ns.eventually("it is written on", || {
        let now = ns.log("p", "c")?.len();
        if now > before { Ok(()) } else { Err(format!("{now} bytes, as before")) }
    });
}
