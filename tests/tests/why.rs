//! `caravel why`, asked about real objects: the chain goes from what was asked about down to the Pod, with the mend.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, cluster_dir, program};
use serde_json::{Value, json};
use std::process::Command;

fn why(ns: &Namespace, what: &str) -> Result<String, String> {
    let kubeconfig = cluster_dir().join("kubeconfig");
    let output = Command::new(program())
        .args(["why", what, "-n", &ns.name, "--kubeconfig"])
        .arg(kubeconfig)
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Asks until the answer has all of `wanted`.
fn tells(ns: &Namespace, what: &str, wanted: &[&str]) -> String {
    ns.eventually(&format!("why {what} tells {wanted:?}"), || {
        let text = why(ns, what)?;
        match wanted.iter().find(|w| !text.contains(**w)) {
            None => Ok(text),
            Some(missing) => Err(format!("{missing:?} is missing in:\n{text}")),
        }
    })
}

fn pod(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn shell(script: &str) -> Value {
    json!({"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script]})
}

#[test]
fn a_deployment_and_its_service_down_to_the_image() {
    let ns = Namespace::new("why-image");
    ns.objects("apps/v1", "deployments").create(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "test/is-not-there:1", "imagePullPolicy": "Never"}]}}},
    }));
    ns.objects("v1", "services").create(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }));
    let text = tells(&ns, "deploy/web", &["(and 1 more like it)", "imagePullPolicy: Never", "caravel image"]);
    let depth = |word: &str| {
        let line = text.lines().find(|l| l.trim_start().trim_start_matches("because ").starts_with(word)).expect(word);
        line.len() - line.trim_start().len()
    };
    assert_eq!((depth("Deployment"), depth("ReplicaSet"), depth("Pod")), (0, 2, 4), "{text}");
    assert!(text.starts_with(&format!("Deployment {}/web: 0 of 2 replicas are available", ns.name)), "{text}");
    tells(&ns, "svc/web", &["none of its 2 Pods is ready", "imagePullPolicy: Never"]);
}

#[test]
fn a_pending_pod_with_the_nearest_node() {
    let ns = Namespace::new("why-pending");
    let pods = ns.objects("v1", "pods");
    let mut container = shell("sleep 1000");
    container["resources"] = json!({"requests": {"cpu": "5000"}});
    pods.create(&pod("large", &json!({"containers": [container]})));
    let wanted = ["it waits for a node: 0/", "Insufficient cpu", "the nearest fit is Node ", "it asks for 5000"];
    let text = tells(&ns, "pod/large", &wanted);
    assert!(text.contains("mend: "), "{text}");
}

#[test]
fn a_crashing_an_unready_and_a_running_pod() {
    let ns = Namespace::new("why-pods");
    let pods = ns.objects("v1", "pods");
    let quick = |container: Value| json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
    pods.create(&pod("crash", &quick(shell("exit 3"))));
    let mut unready = shell("sleep 1000");
    unready["readinessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    pods.create(&pod("unready", &quick(unready)));
    pods.create(&pod("well", &quick(shell("sleep 1000"))));
    let mut config = shell("true");
    config["envFrom"] = json!([{"configMapRef": {"name": "absent"}}]);
    pods.create(&pod("unset", &quick(config)));
    tells(&ns, "po/crash", &["crashes again and again", "ended with code 3", "--previous"]);
    tells(&ns, "po/unready", &["runs but is not ready, as its readiness probe says", "mend: "]);
    tells(&ns, "po/unset", &["\"absent\" not found", "optional"]);
    tells(&ns, "po/well", &["it runs and is ready"]);
}

#[test]
fn what_is_held_by_finalizers() {
    let ns = Namespace::new("why-held");
    let pods = ns.objects("v1", "pods");
    let mut held = pod("held", &json!({"terminationGracePeriodSeconds": 0, "containers": [shell("sleep 1000")]}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    pods.create(&held);
    pods.delete("held");
    tells(&ns, "pod/held", &["finalizers hold it: example.com/hold", "take it off"]);
    pods.merge("held", &json!({"metadata": {"finalizers": null}}));
    pods.until_gone("held");
    let error = why(&ns, "pod/held").unwrap_err();
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn claims_services_nodes_and_what_is_unknown() {
    let ns = Namespace::new("why-rest");
    ns.objects("v1", "persistentvolumeclaims").create(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"storageClassName": "there-is-none", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }));
    ns.objects("v1", "services").create(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "lost"},
        "spec": {"selector": {"app": "nobody"}, "ports": [{"port": 80}]},
    }));
    let claimed = json!({"containers": [shell("true")], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    ns.objects("v1", "pods").create(&pod("user", &claimed));
    tells(&ns, "pvc/data", &["there is no StorageClass \"there-is-none\""]);
    tells(&ns, "svc/lost", &["no Pod has the labels of its selector: app=nobody"]);
    tells(&ns, "pod/user", &["it waits for a node", "because PersistentVolumeClaim ", "there-is-none"]);
    let nodes = ns.cluster_objects("v1", "nodes");
    let node = nodes
        .list("")
        .iter()
        .map(|n| n["metadata"]["name"].as_str().unwrap().to_owned())
        .find(|n| !n.starts_with("zz-"));
    tells(&ns, &format!("node/{}", node.unwrap()), &["Ready"]);
    tells(&ns, &format!("ns/{}", ns.name), &["it is active"]);
    assert!(why(&ns, "secret/x").unwrap_err().contains("cannot be explained; these can: Pod, Deployment"));
}
