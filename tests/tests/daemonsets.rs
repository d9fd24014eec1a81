//! DaemonSets and their ControllerRevisions over the wire. The shared cluster has one node: where more are needed a Node object stands
//! in for one, tainted so that only the test's own pods are sent there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{
    Namespace, Objects, StandIn, condition, list_and_delete_collection, name_of, sleeper, status_endpoints,
};
use serde_json::{Value, json};

const HASH: &str = "controller-revision-hash";

struct World {
    ns: Namespace,
    sets: Objects,
    pods: Objects,
    nodes: Objects,
    node: String,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        let nodes = ns.cluster_objects("v1", "nodes");
        let node = nodes
            .list("kubernetes.io/os=linux")
            .iter()
            .map(name_of)
            .find(|n| !n.starts_with("zz-"))
            .unwrap()
            .to_owned();
        World { sets: ns.objects("apps/v1", "daemonsets"), pods: ns.objects("v1", "pods"), nodes, node, ns }
    }

    /// A set on the real node alone.
    fn set(&self, name: &str) -> Value {
        let mut template = sleeper(name);
        template["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": self.nodes.get(&self.node)["metadata"]["labels"]["kubernetes.io/hostname"]});
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
        })
    }

    fn on_all(&self, n: i64) -> Value {
        self.sets.until("ds", &format!("on {n} nodes"), |d| {
            let s = &d["status"];
            s["observedGeneration"] == d["metadata"]["generation"]
                && s["desiredNumberScheduled"] == n
                && s["numberReady"] == n
                && s["updatedNumberScheduled"] == n
                && s["numberAvailable"] == n
        })
    }

    fn pod(&self) -> Value {
        self.pods.until_all("app=ds", "one ready pod", |all| match all {
            [one] if condition(one, "Ready") == "True" => Some(one.clone()),
            _ => None,
        })
    }
}

#[test]
fn status() {
    let w = World::new("dsstat");
    w.sets.create(&w.set("ds"));
    w.on_all(1);
    status_endpoints(&w.sets, "ds", "app=ds");
}

#[test]
fn a_collection() {
    let w = World::new("dscoll");
    list_and_delete_collection(&w.sets, |n| w.set(n), "coll=daemonsets-of-test");
}

#[test]
fn a_deleted_pod_comes_back() {
    let w = World::new("dssimple");
    w.sets.create(&w.set("ds"));
    w.on_all(1);
    let pod = w.pod();
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
    let tolerated: Vec<&str> =
        pod["spec"]["tolerations"].as_array().unwrap().iter().filter_map(|t| t["key"].as_str()).collect();
    for key in ["not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
        assert!(tolerated.contains(&format!("node.kubernetes.io/{key}").as_str()), "{tolerated:?}");
    }
    w.pods.delete(name_of(&pod));
    w.pods.until_gone(name_of(&pod));
    assert_ne!(name_of(&w.pod()), name_of(&pod));
}

#[test]
fn a_failed_pod_is_made_again() {
    let w = World::new("dsfail");
    w.sets.create(&w.set("ds"));
    w.on_all(1);
    let pod = w.pod();
    let mut watch = w.pods.watch("app=ds", pod["metadata"]["resourceVersion"].as_str().unwrap());
    w.pods.update(&format!("{}/status", name_of(&pod)), |p| p["status"] = json!({"phase": "Failed"}));
    watch.until("DELETED", |p| name_of(p) == name_of(&pod));
    assert_ne!(name_of(&w.pod()), name_of(&pod));
    let events = w.ns.objects("v1", "events").list("");
    assert!(events.iter().any(|e| e["reason"] == "FailedDaemonPod" && e["involvedObject"]["name"] == "ds"));
}

#[test]
fn labels_of_nodes_decide() {
    let w = World::new("dslabel");
    let key = format!("test/{}", w.ns.name);
    let label = |value: Option<&str>| w.nodes.merge(&w.node, &json!({"metadata": {"labels": {&*key: value}}}));
    let mut object = w.set("ds");
    object["spec"]["template"]["spec"]["nodeSelector"][&*key] = json!("blue");
    w.sets.create(&object);
    w.sets.until("ds", "nowhere", |d| {
        d["status"]["observedGeneration"] == 1 && d["status"]["desiredNumberScheduled"] == 0
    });
    assert!(w.pods.list("app=ds").is_empty());
    label(Some("blue"));
    w.on_all(1);
    let first = w.pod();
    label(Some("green"));
    w.pods.until_all("app=ds", "its pod goes", |all| all.is_empty().then_some(()));
    // The set follows the node.
    w.sets.merge(
        "ds",
        &json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}, "template": {"spec": {"nodeSelector": {&*key: "green"}}}}}),
    );
    w.on_all(1);
    assert_ne!(name_of(&w.pod()), name_of(&first));
    label(None);
}

#[test]
fn rolling_update() {
    let w = World::new("dsroll");
    w.sets.create(&w.set("ds"));
    w.on_all(1);
    let revisions = w.ns.objects("apps/v1", "controllerrevisions");
    let (before, first) = (w.pod(), revisions.list("app=ds"));
    assert_eq!((first.len(), first[0]["revision"].as_i64()), (1, Some(1)));
    let hash = &first[0]["metadata"]["labels"][HASH];
    assert_eq!(before["metadata"]["labels"][HASH], *hash);
    assert_eq!(name_of(&first[0]), format!("ds-{}", hash.as_str().unwrap()));
    w.sets.strategic(
        "ds",
        &json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "V", "value": "2"}]}]}}}}),
    );
    let mut watch = w.pods.watch("app=ds", before["metadata"]["resourceVersion"].as_str().unwrap());
    watch.until("DELETED", |p| name_of(p) == name_of(&before));
    w.on_all(1);
    let after = w.pod();
    let all = revisions.list("app=ds");
    let second = all.iter().find(|r| r["revision"] == 2).expect("a second revision");
    assert_eq!(all.len(), 2);
    assert_eq!(after["metadata"]["labels"][HASH], second["metadata"]["labels"][HASH]);
    assert_eq!(after["spec"]["containers"][0]["env"][0]["value"], "2");
}

#[test]
fn rollback_restarts_only_what_was_updated() {
    let w = World::new("dsback");
    let other = StandIn::new(&w.ns, "", json!({"cpu": "4", "memory": "4Gi"}));
    let name = &other.name;
    let label = json!({"metadata": {"labels": {"pool": &w.ns.name}}});
    w.nodes.merge(&w.node, &label);
    let mut object = w.set("ds");
    object["spec"]["template"]["spec"]["nodeSelector"] = json!({"pool": &w.ns.name});
    object["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "stand-in", "operator": "Exists"}]);
    object["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}});
    w.sets.create(&object);
    let elsewhere = w.pods.until_all("app=ds", "a pod on each node", |all| {
        all.iter().find(|p| p["spec"]["nodeName"] == **name).filter(|_| all.len() == 2).cloned()
    });
    // The stand-in runs its pod, says its status.
    other.runs(&w.pods, name_of(&elsewhere));
    w.on_all(2);
    let before: Vec<Value> = w.pods.list("app=ds");
    // The update hangs at the first node that it takes.
    let broken = json!({"name": "c", "image": "test/no-such-image:1", "imagePullPolicy": "Never"});
    w.sets.strategic("ds", &json!({"spec": {"template": {"spec": {"containers": [broken]}}}}));
    let hung = w.sets.until("ds", "one of two", |d| {
        d["status"]["observedGeneration"] == d["metadata"]["generation"]
            && d["status"]["updatedNumberScheduled"] == 1
            && d["status"]["numberUnavailable"] == 1
    });
    assert_eq!(hung["status"]["numberAvailable"], 1);
    let spared = w.pods.until_all("app=ds", "one spared", |all| {
        let mut old = all.iter().filter(|p| before.iter().any(|b| b["metadata"]["uid"] == p["metadata"]["uid"]));
        let one = old.next()?.clone();
        (all.len() == 2 && old.next().is_none()).then_some(one)
    });
    // Back, by the revision, as kubectl does it.
    w.ns.ok(&["rollout", "undo", "daemonset/ds"]);
    let restarted = w.pods.until_all("app=ds", "the broken pod is replaced", |all| {
        let new = all.iter().find(|p| p["metadata"]["uid"] != spared["metadata"]["uid"])?;
        (all.len() == 2 && new["spec"]["containers"][0]["image"] == "test/busybox:1").then(|| new.clone())
    });
    if restarted["spec"]["nodeName"] == **name {
        other.runs(&w.pods, name_of(&restarted));
    }
    w.on_all(2);
    assert_eq!(w.pods.get(name_of(&spared))["metadata"]["uid"], spared["metadata"]["uid"], "not restarted");
    w.sets.delete("ds");
    w.nodes.merge(&w.node, &json!({"metadata": {"labels": {"pool": null}}}));
}

#[test]
fn lifecycle_of_controller_revisions() {
    let w = World::new("dscr");
    let revisions = w.ns.objects("apps/v1", "controllerrevisions");
    let label = format!("app=ds,of={}", w.ns.name);
    let mut object = w.set("ds");
    object["metadata"]["labels"]["of"] = json!(&w.ns.name);
    object["spec"]["template"]["metadata"]["labels"]["of"] = json!(&w.ns.name);
    w.sets.create(&object);
    w.on_all(1);
    let all = revisions.everywhere().list(&label);
    assert_eq!(all.len(), 1);
    let first = &all[0];
    assert_eq!(first["metadata"]["ownerReferences"][0]["name"], "ds");
    let patched = revisions.strategic(name_of(first), &json!({"metadata": {"labels": {name_of(first): "patched"}}}));
    assert_eq!(patched["metadata"]["labels"][name_of(first)], "patched");
    // One more with the same data under another name.
    let mut second = first.clone();
    second["metadata"] = json!({"name": "ds-another", "labels": {"app": "ds", "of": &w.ns.name, "another": "yes", HASH: "another"},
        "ownerReferences": first["metadata"]["ownerReferences"]});
    second["revision"] = json!(first["revision"].as_i64().unwrap() + 1);
    let second = revisions.create(&second);
    assert_eq!(revisions.list(&label).len(), 2);
    revisions.delete(name_of(first));
    revisions.until_all(&label, "one left", |all| matches!(all, [one] if name_of(one) == "ds-another").then_some(()));
    let updated = revisions.update(name_of(&second), |r| r["metadata"]["labels"]["ds-another"] = json!("updated"));
    assert_eq!(updated["metadata"]["labels"]["ds-another"], "updated");
    // Recorded data is never changed.
    let mut bad = updated.clone();
    bad["data"] = json!({"spec": {}});
    let (code, said) = revisions.send("PUT", "ds-another", "application/json", Some(&bad));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
    w.sets.strategic("ds", &json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}));
    revisions.until_all(&label, "two", |all| (all.len() == 2).then_some(()));
    revisions.delete_collection("ds-another=updated");
    let last = revisions.until_all(&label, "one left", |all| match all {
        [one] => Some(one.clone()),
        _ => None,
    });
    assert_eq!(last["revision"], 3);
}
