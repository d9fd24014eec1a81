//! StatefulSets over the wire: identity, order, revisions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{
    Events, Namespace, Objects, condition, list_and_delete_collection, name_of, scale_endpoints, sleeper,
    status_endpoints,
};
use serde_json::{Value, json};

const HASH: &str = "controller-revision-hash";

/// A set whose pods are ready while `/tmp/ready` is there; it is made at their start unless `waits`.
fn set(name: &str, replicas: i32, waits: bool) -> Value {
    let mut template = sleeper(name);
    let container = &mut template["spec"]["containers"][0];
    let begin = if waits { "" } else { "touch /tmp/ready; " };
    container["command"] = json!(["sh", "-c", format!("{begin}exec sleep 3600")]);
    container["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": name}}, "template": template},
    })
}

struct World {
    ns: Namespace,
    sets: Objects,
    pods: Objects,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        let (sets, pods) = (ns.objects("apps/v1", "statefulsets"), ns.objects("v1", "pods"));
        ns.objects("v1", "services").create(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"clusterIP": "None", "selector": {"app": "ss"}, "ports": [{"port": 80}]},
        }));
        World { ns, sets, pods }
    }

    /// Makes a pod ready, or unready.
    fn readiness(&self, pod: &str, ready: bool) {
        let command = if ready { "touch /tmp/ready" } else { "rm -f /tmp/ready" };
        self.ns.ok(&["exec", pod, "--", "sh", "-c", command]);
        let wanted = if ready { "True" } else { "False" };
        self.pods.until(pod, &format!("Ready {wanted}"), |p| condition(p, "Ready") == wanted);
    }

    fn all_ready(&self, n: i64) -> Value {
        self.sets.until("ss", &format!("{n} ready"), |s| {
            let status = &s["status"];
            status["observedGeneration"] == s["metadata"]["generation"]
                && status["readyReplicas"] == n
                && status["replicas"] == n
                && status["availableReplicas"] == n
        })
    }

    /// The revision that each pod carries, by ordinal.
    fn hashes(&self, n: usize) -> Vec<String> {
        let hash = |i| self.pods.get(&format!("ss-{i}"))["metadata"]["labels"][HASH].as_str().unwrap().to_owned();
        (0..n).map(hash).collect()
    }

    fn revisions(&self) -> (String, String) {
        let s = self.sets.until("ss", "observed", |s| s["status"]["observedGeneration"] == s["metadata"]["generation"]);
        let get = |f: &str| s["status"][f].as_str().unwrap_or_default().to_owned();
        (get("currentRevision"), get("updateRevision"))
    }

    fn set_env(&self, value: &str) {
        let container = json!({"name": "c", "env": [{"name": "V", "value": value}]});
        self.sets.strategic("ss", &json!({"spec": {"template": {"spec": {"containers": [container]}}}}));
    }

    fn uid(&self, pod: &str) -> String {
        self.pods.get(pod)["metadata"]["uid"].as_str().unwrap().to_owned()
    }
}

/// The names of the next `n` pods that events of a type tell, each once.
fn order(watch: &mut Events, kind: &str, n: usize) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    while out.len() < n {
        let pod = watch.until(kind, |_| true);
        if out.iter().all(|o| o != name_of(&pod)) {
            out.push(name_of(&pod).to_owned());
        }
    }
    out
}

#[test]
fn status() {
    let w = World::new("ssstat");
    w.sets.create(&set("ss", 1, false));
    w.all_ready(1);
    status_endpoints(&w.sets, "ss", "app=ss");
}

#[test]
fn scale() {
    let w = World::new("ssscale");
    w.sets.create(&set("ss", 1, false));
    w.all_ready(1);
    scale_endpoints(&w.sets, "ss", "app=ss");
}

#[test]
fn list_patch_and_delete_collection() {
    let w = World::new("sscoll");
    w.sets.create(&set("ss", 1, false));
    w.all_ready(1);
    let patched = w.sets.strategic(
        "ss",
        &json!({"metadata": {"labels": {"ss": "patched"}}, "spec": {"replicas": 2, "template": {"spec": {
            "containers": [{"name": "c", "env": [{"name": "V", "value": "patched"}]}]}}}}),
    );
    assert_eq!(patched["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"], "patched");
    let now = w.all_ready(2);
    assert_eq!(now["metadata"]["labels"]["ss"], "patched");
    list_and_delete_collection(&w.sets, |n| set(n, 1, true), "coll=statefulsets-of-test");
}

#[test]
fn pods_have_identity() {
    let w = World::new("ssid");
    w.sets.create(&set("ss", 2, false));
    w.all_ready(2);
    for i in ["0", "1"] {
        let pod = w.pods.get(&format!("ss-{i}"));
        let name = format!("ss-{i}");
        assert_eq!((pod["spec"]["hostname"].as_str(), pod["spec"]["subdomain"].as_str()), (Some(&*name), Some("web")));
        assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], name);
        assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], i);
        assert_eq!(w.ns.ok(&["exec", &name, "--", "hostname"]).trim(), name);
    }
}

#[test]
fn scales_in_order_and_halts_when_a_pod_is_unready() {
    let w = World::new("ssorder");
    let mut up = w.pods.watch("app=ss", &w.pods.revision());
    w.sets.create(&set("ss", 3, true));
    // The second comes only when the first is ready.
    for i in 0..3 {
        let pod = format!("ss-{i}");
        let made = up.until("ADDED", |_| true);
        assert_eq!(name_of(&made), pod);
        w.pods.until(&pod, "running", |p| p["status"]["phase"] == "Running");
        let count = w.pods.list("app=ss").len();
        assert_eq!(count, i + 1, "one at a time");
        w.readiness(&pod, true);
    }
    w.all_ready(3);
    // Scaling up halts while one is unready.
    w.readiness("ss-1", false);
    w.sets.merge("ss/scale", &json!({"spec": {"replicas": 4}}));
    w.sets.until("ss", "seen", |s| s["status"]["observedGeneration"] == s["metadata"]["generation"]);
    assert_eq!(w.pods.list("app=ss").len(), 3);
    w.sets.merge("ss/scale", &json!({"spec": {"replicas": 3}}));
    // Down, too, and it goes from the last to the first, each as it becomes ready again.
    w.readiness("ss-0", false);
    w.readiness("ss-2", false);
    w.sets.until("ss", "none is ready", |s| s["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0);
    w.sets.merge("ss/scale", &json!({"spec": {"replicas": 0}}));
    w.sets.until("ss", "seen", |s| s["status"]["observedGeneration"] == s["metadata"]["generation"]);
    assert_eq!(w.pods.list("app=ss").len(), 3);
    let mut down = w.pods.watch("app=ss", &w.pods.revision());
    for pod in ["ss-2", "ss-1"] {
        assert!(
            w.pods.list("app=ss").iter().all(|p| p["metadata"]["deletionTimestamp"].is_null()),
            "halted before {pod}"
        );
        w.ns.ok(&["exec", pod, "--", "touch", "/tmp/ready"]);
        let gone = down.until("DELETED", |_| true);
        assert_eq!(name_of(&gone), pod);
    }
    // The first that is unready may go.
    assert_eq!(name_of(&down.until("DELETED", |_| true)), "ss-0");
    w.sets.until("ss", "nothing left", |s| s["status"]["replicas"] == 0);
}

#[test]
fn burst_scaling_goes_on_with_unready_pods() {
    let w = World::new("ssburst");
    let mut object = set("ss", 2, true);
    object["spec"]["podManagementPolicy"] = json!("Parallel");
    w.sets.create(&object);
    w.sets.until("ss", "2 replicas", |s| s["status"]["replicas"] == 2);
    for i in 0..2 {
        w.pods.until(&format!("ss-{i}"), "running", |p| p["status"]["phase"] == "Running");
    }
    let now = w.sets.get("ss");
    assert_eq!(now["status"]["readyReplicas"].as_i64().unwrap_or(0), 0, "none is ready, and yet all are there");
    w.sets.merge("ss/scale", &json!({"spec": {"replicas": 3}}));
    w.pods.until("ss-2", "running", |p| p["status"]["phase"] == "Running");
    w.sets.merge("ss/scale", &json!({"spec": {"replicas": 0}}));
    w.pods.until_all("app=ss", "all go at once", |all| all.is_empty().then_some(()));
    w.sets.until("ss", "nothing left", |s| s["status"]["replicas"] == 0);
}

#[test]
fn rolling_update_and_rollback() {
    let w = World::new("ssroll");
    w.sets.create(&set("ss", 3, false));
    w.all_ready(3);
    let (first, update) = w.revisions();
    assert_eq!(first, update);
    assert_eq!(w.hashes(3), vec![first.clone(); 3]);
    assert!(first.starts_with("ss-"), "a revision is named after its set: {first}");
    // While a pod is unready the rollout does not begin.
    w.readiness("ss-1", false);
    let mut watch = w.pods.watch("app=ss", &w.pods.revision());
    w.set_env("2");
    let (current, second) = w.revisions();
    assert_eq!(current, first);
    assert_ne!(second, first);
    assert_eq!(w.hashes(3), vec![first.clone(); 3]);
    w.readiness("ss-1", true);
    let order_of = |watch: &mut Events| order(watch, "ADDED", 3);
    assert_eq!(order_of(&mut watch), ["ss-2", "ss-1", "ss-0"], "from the last to the first");
    let done = w.sets.until("ss", "complete", |s| s["status"]["currentRevision"] == second);
    assert_eq!(done["status"]["updatedReplicas"], 3);
    assert_eq!(w.hashes(3), vec![second.clone(); 3]);
    w.all_ready(3);
    // Back: the earlier revision is used again and becomes the newest.
    let mut watch = w.pods.watch("app=ss", &w.pods.revision());
    w.sets.json_patch("ss", &json!([{"op": "remove", "path": "/spec/template/spec/containers/0/env"}]));
    assert_eq!(w.revisions(), (second.clone(), first.clone()));
    assert_eq!(order_of(&mut watch), ["ss-2", "ss-1", "ss-0"]);
    w.sets.until("ss", "complete", |s| s["status"]["currentRevision"] == first);
    assert_eq!(w.hashes(3), vec![first.clone(); 3]);
    let revisions = w.ns.objects("apps/v1", "controllerrevisions");
    let numbers = |n: &str| revisions.get(n)["revision"].as_i64().unwrap();
    assert_eq!((numbers(&first), numbers(&second), revisions.list("app=ss").len()), (3, 2, 2));
}

#[test]
fn a_partition_holds_pods_back() {
    let w = World::new("sspart");
    let partition =
        |n: i32| json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}}});
    let mut object = set("ss", 3, false);
    object["spec"]["updateStrategy"] = partition(3)["spec"]["updateStrategy"].clone();
    w.sets.create(&object);
    w.all_ready(3);
    w.set_env("2");
    let (old, new) = w.revisions();
    assert_ne!(old, new);
    assert_eq!(w.hashes(3), vec![old.clone(); 3], "the partition is beyond all pods");
    // The canary.
    w.sets.merge("ss", &partition(2));
    w.pods.until("ss-2", "new and ready", |p| p["metadata"]["labels"][HASH] == new && condition(p, "Ready") == "True");
    assert_eq!(w.hashes(3), [old.clone(), old.clone(), new.clone()]);
    let now = w.sets.until("ss", "counted", |s| s["status"]["updatedReplicas"] == 1);
    assert_eq!(now["status"]["currentReplicas"], 2);
    // What is deleted comes back as the partition says.
    for pod in ["ss-0", "ss-2"] {
        let before = w.uid(pod);
        w.pods.delete(pod);
        w.pods.until(pod, "another", |p| p["metadata"]["uid"] != before && condition(p, "Ready") == "True");
    }
    assert_eq!(w.hashes(3), [old.clone(), old.clone(), new.clone()]);
    // In phases to the end.
    w.sets.merge("ss", &partition(1));
    w.pods.until("ss-1", "new", |p| p["metadata"]["labels"][HASH] == new && condition(p, "Ready") == "True");
    assert_eq!(w.hashes(3), [old.clone(), new.clone(), new.clone()]);
    w.sets.merge("ss", &partition(0));
    w.sets.until("ss", "complete", |s| s["status"]["currentRevision"] == new && s["status"]["updatedReplicas"] == 3);
    assert_eq!(w.hashes(3), vec![new; 3]);
}

#[test]
fn on_delete_updates_only_what_is_deleted() {
    let w = World::new("ssondel");
    let mut object = set("ss", 2, false);
    object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    w.sets.create(&object);
    w.all_ready(2);
    w.set_env("2");
    let (old, new) = w.revisions();
    let before = w.uid("ss-1");
    w.pods.delete("ss-1");
    w.pods.until("ss-1", "another", |p| p["metadata"]["uid"] != before && condition(p, "Ready") == "True");
    assert_eq!(w.hashes(2), [old, new]);
}

#[test]
fn a_pod_that_its_node_refuses_is_made_again() {
    let w = World::new("ssevict");
    let node = w.ns.cluster_objects("v1", "nodes").list("")[0]["metadata"]["name"].clone();
    let ports = json!([{"containerPort": 21017, "hostPort": 21017}]);
    let mut blocker = caravel_tests::pod_of("blocker", &sleeper("blocker"));
    blocker["spec"]["nodeName"] = node.clone();
    blocker["spec"]["containers"][0]["ports"] = ports.clone();
    w.pods.create(&blocker);
    w.pods.until("blocker", "running", |p| p["status"]["phase"] == "Running");
    let mut object = set("ss", 1, false);
    // Bound by name: the node itself has to refuse it.
    object["spec"]["template"]["spec"]["nodeName"] = node;
    object["spec"]["template"]["spec"]["containers"][0]["ports"] = ports;
    let mut watch = w.pods.watch("app=ss", &w.pods.revision());
    w.sets.create(&object);
    let failed = watch.until("MODIFIED", |p| p["status"]["phase"] == "Failed");
    assert_eq!(failed["status"]["reason"], "NodePorts", "{}", failed["status"]);
    let gone = watch.until("DELETED", |p| name_of(p) == "ss-0");
    let again = watch.until("ADDED", |p| name_of(p) == "ss-0");
    assert_ne!(gone["metadata"]["uid"], again["metadata"]["uid"]);
    w.pods.delete("blocker");
    w.all_ready(1);
}

#[test]
fn claims_follow_their_retention_policy() {
    let w = World::new("sspvc");
    let claims = w.ns.objects("v1", "persistentvolumeclaims");
    let mut object = set("ss", 2, false);
    object["spec"]["podManagementPolicy"] = json!("Parallel");
    object["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Delete", "whenDeleted": "Retain"});
    object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "none-of-it", "resources": {"requests": {"storage": "1Mi"}}}}]);
    w.sets.create(&object);
    claims.until("data-ss-0", "made", |c| c["metadata"]["labels"]["app"] == "ss");
    claims.until("data-ss-1", "made", |_| true);
    w.sets.merge("ss/scale", &json!({"spec": {"replicas": 1}}));
    claims.until_gone("data-ss-1");
    w.sets.delete("ss");
    w.pods.until_gone("ss-0");
    assert!(claims.get("data-ss-0")["metadata"]["deletionTimestamp"].is_null());
}
