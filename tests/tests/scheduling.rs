//! The scheduler, preemption and eviction by taints over the wire. What has to be scarce is a resource of the test's own, so that
//! tests do not take anything from each other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Objects, StandIn, condition, condition_of, name_of, pod_of, sleeper};
use serde_json::{Value, json};

struct World {
    ns: Namespace,
    pods: Objects,
    nodes: Objects,
    classes: Objects,
    /// The one real node.
    node: String,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        let nodes = ns.cluster_objects("v1", "nodes");
        let node = nodes.list("").iter().map(name_of).find(|n| !n.starts_with("zz-")).unwrap().to_owned();
        let classes = ns.cluster_objects("scheduling.k8s.io/v1", "priorityclasses");
        World { pods: ns.objects("v1", "pods"), nodes, node, classes, ns }
    }

    /// A resource of the test's own, of which the real node has `n`.
    fn scarce(&self, n: u32) -> Scarce<'_> {
        let name = format!("test.example/{}", self.ns.name);
        let amounts = json!({name.clone(): n.to_string()});
        self.nodes
            .merge(&format!("{}/status", self.node), &json!({"status": {"capacity": amounts, "allocatable": amounts}}));
        Scarce { world: self, name }
    }

    /// A priority class of the test's own.
    fn class(&self, suffix: &str, value: i32) -> Class<'_> {
        let name = format!("{}-{suffix}", self.ns.name);
        self.classes.create(&json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        }));
        Class { world: self, name }
    }

    fn running(&self, pod: &str) -> Value {
        self.pods.until(pod, "running", |p| p["status"]["phase"] == "Running")
    }

    fn unschedulable(&self, pod: &str) -> String {
        let now = self.pods.until(pod, "unschedulable", |p| {
            condition_of(p, "PodScheduled").is_some_and(|c| c["status"] == "False" && c["reason"] == "Unschedulable")
        });
        condition_of(&now, "PodScheduled").unwrap()["message"].as_str().unwrap().to_owned()
    }
}

/// Taken off the node when dropped.
struct Scarce<'a> {
    world: &'a World,
    name: String,
}

impl Drop for Scarce<'_> {
    fn drop(&mut self) {
        let gone = json!({&*self.name: null});
        let patch = json!({"status": {"capacity": gone, "allocatable": gone}});
        let at = format!("{}/status", self.world.node);
        let _ = self.world.nodes.send("PATCH", &at, "application/merge-patch+json", Some(&patch));
    }
}

/// Deleted when dropped.
struct Class<'a> {
    world: &'a World,
    name: String,
}

impl Drop for Class<'_> {
    fn drop(&mut self) {
        let _ = self.world.classes.send("DELETE", &self.name, "application/json", None);
    }
}

fn asking(name: &str, resource: &str, n: u32) -> Value {
    let mut pod = pod_of(name, &sleeper(name));
    let amounts = json!({resource: n.to_string()});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
    pod
}

#[test]
fn requests_beyond_a_node_are_not_placed() {
    let w = World::new("limits");
    let small = StandIn::new(&w.ns, "", json!({"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi"}));
    let wants = |name: &str, resource: &str, amount: &str| {
        let mut pod = pod_of(name, &sleeper(name));
        small.attract(&w.ns, &mut pod);
        pod["spec"]["containers"][0]["resources"] =
            json!({"requests": {resource: amount}, "limits": {resource: amount}});
        w.pods.create(&pod)
    };
    wants("filler", "cpu", "1400m");
    w.pods.until("filler", "placed", |p| p["spec"]["nodeName"] == *small.name);
    wants("more", "cpu", "700m");
    assert!(w.unschedulable("more").contains("1 Insufficient cpu"), "{}", w.unschedulable("more"));
    let events = w.ns.objects("v1", "events");
    events.until_all("", "an event", |all| {
        all.iter().any(|e| e["reason"] == "FailedScheduling" && e["involvedObject"]["name"] == "more").then_some(())
    });
    wants("memory", "memory", "2Gi");
    assert!(w.unschedulable("memory").contains("Insufficient memory"));
    wants("storage", "ephemeral-storage", "20Gi");
    assert!(w.unschedulable("storage").contains("Insufficient ephemeral-storage"));
    // As soon as there is room it goes there.
    w.pods.delete_with("filler", &json!({"gracePeriodSeconds": 0}));
    w.pods.until("more", "placed", |p| p["spec"]["nodeName"] == *small.name);
}

#[test]
fn a_node_selector_is_respected() {
    let w = World::new("select");
    let key = format!("test/{}", w.ns.name);
    w.nodes.merge(&w.node, &json!({"metadata": {"labels": {&*key: "42"}}}));
    let select = |name: &str, value: &str| {
        let mut pod = pod_of(name, &sleeper(name));
        pod["spec"]["nodeSelector"] = json!({&*key: value});
        w.pods.create(&pod);
    };
    select("matching", "42");
    assert_eq!(w.running("matching")["spec"]["nodeName"], *w.node);
    select("other", "43");
    let message = w.unschedulable("other");
    assert!(message.contains("didn't match Pod's node affinity/selector"), "{message}");
    w.nodes.merge(&w.node, &json!({"metadata": {"labels": {&*key: null}}}));
}

/// A node whose kubelet does not say that it knows what a Pod is built upon does not get it (KEP-5328).
#[test]
fn nodes_declare_what_they_know() {
    let w = World::new("declared");
    let node = StandIn::new(&w.ns, "", json!({"cpu": "4", "memory": "4Gi"}));
    let mut pod = pod_of("new", &sleeper("new"));
    node.attract(&w.ns, &mut pod);
    let container = &mut pod["spec"]["containers"][0];
    container["restartPolicy"] = json!("Never");
    container["restartPolicyRules"] =
        json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    w.pods.create(&pod);
    let message = w.unschedulable("new");
    let why = "node declared features check failed - unsatisfied requirements: RestartAllContainersOnContainerExits";
    assert!(message.contains(why), "{message}");
    let declared = json!({"status": {"declaredFeatures": ["RestartAllContainersOnContainerExits"]}});
    w.ns.cluster_objects("v1", "nodes").merge(&format!("{}/status", node.name), &declared);
    w.pods.until("new", "placed", |p| p["spec"]["nodeName"] == *node.name);
}

#[test]
fn host_ports_conflict_with_the_wildcard() {
    let w = World::new("hostport");
    let node = StandIn::new(&w.ns, "", json!({"cpu": "4", "memory": "4Gi"}));
    let on = |name: &str, ip: &str, protocol: &str| {
        let mut pod = pod_of(name, &sleeper(name));
        node.attract(&w.ns, &mut pod);
        let mut port = json!({"containerPort": 8080, "hostPort": 54322, "protocol": protocol});
        if !ip.is_empty() {
            port["hostIP"] = json!(ip);
        }
        pod["spec"]["containers"][0]["ports"] = json!([port]);
        w.pods.create(&pod);
    };
    let placed = |name: &str| w.pods.until(name, "placed", |p| p["spec"]["nodeName"] == *node.name);
    on("wildcard", "", "TCP");
    placed("wildcard");
    on("specific", "127.0.0.1", "TCP");
    let message = w.unschedulable("specific");
    assert!(message.contains("didn't have free ports for the requested pod ports"), "{message}");
    on("udp", "127.0.0.1", "UDP");
    placed("udp");
    on("another-address", "127.0.0.2", "UDP");
    placed("another-address");
}

#[test]
fn a_more_important_pod_takes_the_place_of_a_lesser() {
    let w = World::new("preempt");
    let scarce = w.scarce(3);
    let (low, mid, high) = (w.class("low", 1), w.class("mid", 100), w.class("high", 1000));
    for (name, class) in [("low", &low), ("mid", &mid)] {
        let mut pod = asking(name, &scarce.name, 1);
        pod["spec"]["priorityClassName"] = json!(class.name);
        w.pods.create(&pod);
        w.running(name);
    }
    let mut watch = w.pods.watch("", &w.pods.revision());
    let mut pod = asking("high", &scarce.name, 2);
    pod["spec"]["priorityClassName"] = json!(high.name);
    w.pods.create(&pod);
    let gone = watch.until("DELETED", |_| true);
    assert_eq!(name_of(&gone), "low", "the least important one goes");
    let why = condition_of(&gone, "DisruptionTarget").expect("a victim says so");
    assert_eq!((why["status"].as_str(), why["reason"].as_str()), (Some("True"), Some("PreemptionByScheduler")));
    assert_eq!(w.running("high")["spec"]["priority"], 1000);
    assert!(w.pods.get("mid")["metadata"]["deletionTimestamp"].is_null(), "and only that");
    w.ns.objects("v1", "events").until_all("", "an event of it", |all| {
        all.iter().any(|e| e["reason"] == "Preempted" && e["involvedObject"]["name"] == "low").then_some(())
    });
}

#[test]
fn a_critical_pod_takes_the_place_of_a_lesser() {
    let w = World::new("critical");
    let scarce = w.scarce(1);
    let low = w.class("low", -1);
    let mut pod = asking("low", &scarce.name, 1);
    pod["spec"]["priorityClassName"] = json!(low.name);
    w.pods.create(&pod);
    w.running("low");
    let system = w.pods.in_namespace("kube-system");
    let name = format!("critical-{}", w.ns.name);
    let mut pod = asking(&name, &scarce.name, 1);
    pod["spec"]["priorityClassName"] = json!("system-cluster-critical");
    system.create(&pod);
    w.pods.until_gone("low");
    let now = system.until(&name, "running", |p| p["status"]["phase"] == "Running");
    assert_eq!(now["spec"]["priority"], 2_000_000_000);
    system.delete(&name);
}

/// A node with one `test.example/room`. Whoever makes room takes the hope of all less important pods for the same node, so a test
/// that looks at who is nominated needs a node to itself.
fn with_one_room(w: &World) -> StandIn {
    StandIn::new(&w.ns, "", json!({"cpu": "4", "memory": "4Gi", ROOM: "1"}))
}

const ROOM: &str = "test.example/room";

/// A pod that asks for that room, and for no time to end.
fn of_room(w: &World, node: &StandIn, name: &str, class: &Class) -> Value {
    let mut pod = asking(name, ROOM, 1);
    node.attract(&w.ns, &mut pod);
    pod["spec"]["priorityClassName"] = json!(class.name);
    pod
}

#[test]
fn a_victim_with_a_finalizer_says_why_it_goes() {
    let w = World::new("victim");
    let node = with_one_room(&w);
    let (low, high) = (w.class("low", 1), w.class("high", 1000));
    let placed = |name: &str| w.pods.until(name, "placed", |p| p["spec"]["nodeName"] == *node.name);
    let mut pod = of_room(&w, &node, "victim", &low);
    pod["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
    w.pods.create(&pod);
    placed("victim");
    node.runs(&w.pods, "victim");
    w.pods.create(&of_room(&w, &node, "preemptor", &high));
    let waits = w.pods.until("preemptor", "hopes for the node", |p| p["status"]["nominatedNodeName"] == *node.name);
    assert!(waits["spec"]["nodeName"].is_null());
    let victim = w.pods.until("victim", "on its way out", |p| p["metadata"]["deletionTimestamp"].is_string());
    let why = condition_of(&victim, "DisruptionTarget").unwrap();
    assert_eq!(why["reason"], "PreemptionByScheduler");
    assert!(why["message"].as_str().unwrap().contains("preempting"), "{why}");
    w.pods.json_patch("victim", &json!([{"op": "remove", "path": "/metadata/finalizers"}]));
    placed("preemptor");
}

#[test]
fn replica_sets_of_rising_importance() {
    let w = World::new("prerun");
    let scarce = w.scarce(10);
    let sets = w.ns.objects("apps/v1", "replicasets");
    let classes: Vec<Class> = (1..=4).map(|i| w.class(&format!("p{i}"), i)).collect();
    let set = |i: usize, replicas: u32, each: u32| {
        let name = format!("p{i}");
        let mut template = asking("x", &scarce.name, each);
        template["metadata"] = json!({"labels": {"app": name}});
        template["spec"]["priorityClassName"] = json!(classes[i - 1].name);
        sets.create(&json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": template["metadata"], "spec": template["spec"]}},
        }));
    };
    // 4×1 + 2×2 + 1×2 = 10 of 10.
    for (i, replicas, each) in [(1, 4, 1), (2, 2, 2), (3, 1, 2)] {
        set(i, replicas, each);
        sets.until(&format!("p{i}"), "all placed", |s| s["status"]["readyReplicas"] == replicas);
    }
    set(4, 1, 5);
    sets.until("p4", "placed", |s| s["status"]["readyReplicas"] == 1);
    // Five may stay: who matters most comes first, as long as there is room. The others go, and what replaces them finds none.
    for (i, left) in [(1, 1), (2, 1), (3, 1)] {
        sets.until(&format!("p{i}"), &format!("{left} left"), |s| {
            s["status"]["readyReplicas"].as_i64().unwrap_or(0) == left
        });
    }
}

#[test]
fn a_pod_that_never_preempts_waits() {
    let w = World::new("never");
    let scarce = w.scarce(1);
    w.pods.create(&asking("holder", &scarce.name, 1));
    w.running("holder");
    let polite = format!("{}-polite", w.ns.name);
    w.classes
        .create(&json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": polite},
        "value": 1000, "preemptionPolicy": "Never"}));
    let mut pod = asking("polite", &scarce.name, 1);
    pod["spec"]["priorityClassName"] = json!(polite);
    let made = w.pods.create(&pod);
    assert_eq!(made["spec"]["preemptionPolicy"], "Never");
    let message = w.unschedulable("polite");
    assert!(message.contains("not eligible due to preemptionPolicy=Never"), "{message}");
    w.pods.delete("holder");
    w.running("polite");
    w.classes.delete(&polite);
}

#[test]
fn a_lost_nomination_is_taken_back() {
    let w = World::new("nominate");
    let node = with_one_room(&w);
    let (low, mid, high) = (w.class("low", 1), w.class("mid", 10), w.class("high", 100));
    let hopes = |name: &str| w.pods.until(name, "hopes", |p| p["status"]["nominatedNodeName"] == *node.name);
    let placed = |name: &str| w.pods.until(name, "placed", |p| p["spec"]["nodeName"] == *node.name);
    // It keeps its room until it is killed: nobody ends it, and its time is long.
    let mut victim = of_room(&w, &node, "victim", &low);
    victim["spec"]["terminationGracePeriodSeconds"] = json!(600);
    w.pods.create(&victim);
    placed("victim");
    node.runs(&w.pods, "victim");
    w.pods.create(&of_room(&w, &node, "mid", &mid));
    hopes("mid");
    w.pods.create(&of_room(&w, &node, "high", &high));
    hopes("high");
    w.pods.until("mid", "hopes no more", |p| p["status"]["nominatedNodeName"].as_str().is_none_or(str::is_empty));
    w.pods.delete_with("victim", &json!({"gracePeriodSeconds": 0}));
    placed("high");
    assert!(w.unschedulable("mid").contains("Insufficient"));
}

#[test]
fn gates_hold_a_pod_back() {
    let w = World::new("gates");
    let mut pod = pod_of("gated", &sleeper("gated"));
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    w.pods.create(&pod);
    let now = w.pods.until("gated", "gated", |p| condition(p, "PodScheduled") == "False");
    assert_eq!(condition_of(&now, "PodScheduled").unwrap()["reason"], "SchedulingGated");
    w.pods.json_patch("gated", &json!([{"op": "remove", "path": "/spec/schedulingGates"}]));
    w.running("gated");
}

/// Taints a stand-in with NoExecute.
fn taint(node: &StandIn, on: bool) {
    node.nodes.update(&node.name, |n| {
        let taints = n["spec"]["taints"].as_array_mut().unwrap();
        taints.retain(|t| t["key"] != "evict");
        if on {
            taints.push(json!({"key": "evict", "value": "yes", "effect": "NoExecute"}));
        }
    });
}

fn tolerating(w: &World, node: &StandIn, name: &str, seconds: Option<Option<u32>>) -> Value {
    let mut pod = pod_of(name, &sleeper(name));
    pod["spec"]["nodeName"] = json!(node.name);
    pod["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
    pod["spec"]["tolerations"] = match seconds {
        None => json!([]),
        Some(None) => json!([{"key": "evict", "operator": "Equal", "value": "yes", "effect": "NoExecute"}]),
        Some(Some(s)) => {
            json!([{"key": "evict", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": s}])
        }
    };
    w.pods.create(&pod)
}

fn free(w: &World) {
    for pod in w.pods.list("") {
        let patch = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
        let _ = w.pods.send("PATCH", name_of(&pod), "application/json-patch+json", Some(&patch));
    }
}

#[test]
fn a_taint_evicts_after_the_tolerated_time() {
    let w = World::new("taint");
    let node = StandIn::new(&w.ns, "", json!({"cpu": "4", "memory": "4Gi"}));
    for (name, seconds) in [("none", None), ("short", Some(Some(1))), ("long", Some(Some(300))), ("ever", Some(None))] {
        tolerating(&w, &node, name, seconds);
    }
    taint(&node, true);
    for name in ["none", "short"] {
        let going = w.pods.until(name, "evicted", |p| p["metadata"]["deletionTimestamp"].is_string());
        let why = condition_of(&going, "DisruptionTarget").unwrap();
        assert_eq!((why["status"].as_str(), why["reason"].as_str()), (Some("True"), Some("DeletionByTaintManager")));
    }
    for name in ["long", "ever"] {
        assert!(w.pods.get(name)["metadata"]["deletionTimestamp"].is_null(), "{name}");
    }
    let events = w.ns.objects("v1", "events");
    events.until_all("", "an event", |all| {
        all.iter().any(|e| e["reason"] == "TaintManagerEviction" && e["involvedObject"]["name"] == "none").then_some(())
    });
    free(&w);
}

#[test]
fn taking_the_taint_off_cancels_the_eviction() {
    let w = World::new("untaint");
    let node = StandIn::new(&w.ns, "", json!({"cpu": "4", "memory": "4Gi"}));
    tolerating(&w, &node, "spared", Some(Some(3)));
    taint(&node, true);
    taint(&node, false);
    // A second one, tainted later for as long, goes: by then the first would have gone, too.
    let other = StandIn::new(&w.ns, "-b", json!({"cpu": "4", "memory": "4Gi"}));
    tolerating(&w, &other, "evicted", Some(Some(4)));
    taint(&other, true);
    w.pods.until("evicted", "evicted", |p| p["metadata"]["deletionTimestamp"].is_string());
    assert!(w.pods.get("spared")["metadata"]["deletionTimestamp"].is_null());
    let events = w.ns.objects("v1", "events");
    events.until_all("", "the cancellation is told", |all| {
        let text = |e: &Value| e["message"].as_str().unwrap_or_default().contains("Cancelling deletion");
        all.iter()
            .any(|e| e["reason"] == "TaintManagerEviction" && e["involvedObject"]["name"] == "spared" && text(e))
            .then_some(())
    });
    free(&w);
}

#[test]
fn priority_classes() {
    let w = World::new("prio");
    let label = format!("of={}", w.ns.name);
    let make = |suffix: &str, value: i32| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": format!("{}-{suffix}", w.ns.name), "labels": {"of": &w.ns.name}}, "value": value})
    };
    for (suffix, value) in [("p1", 1), ("p2", 2)] {
        let made = w.classes.create(&make(suffix, value));
        assert_eq!(
            (made["value"].as_i64(), made["preemptionPolicy"].as_str()),
            (Some(value.into()), Some("PreemptLowerPriority"))
        );
    }
    assert_eq!(w.classes.list(&label).len(), 2);
    let p1 = format!("{}-p1", w.ns.name);
    // What it means never changes; how it is described does.
    for (field, value) in [("value", json!(10)), ("preemptionPolicy", json!("Never"))] {
        let (code, said) = w.classes.send("PATCH", &p1, "application/merge-patch+json", Some(&json!({field: value})));
        assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
        let mut object = w.classes.get(&p1);
        object[field] = value;
        let (code, said) = w.classes.send("PUT", &p1, "application/json", Some(&object));
        assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
        assert_eq!(said["details"]["causes"][0]["field"], field);
    }
    let patched = w.classes.merge(&p1, &json!({"description": "patched"}));
    assert_eq!(patched["description"], "patched");
    assert_eq!(w.classes.update(&p1, |c| c["description"] = json!("updated"))["description"], "updated");
    assert_eq!(w.classes.get(&p1)["value"], 1);
    // Too high is for the system alone.
    assert_eq!(w.classes.try_create(&make("high", 1_000_000_001)).0, 422);
    let mut reserved = make("x", 1);
    reserved["metadata"]["name"] = json!(format!("system-{}", w.ns.name));
    assert_eq!(w.classes.try_create(&reserved).0, 422);
    w.classes.delete_collection(&label);
    assert!(w.classes.list(&label).is_empty());
    let (code, said) = w.pods.try_create(&{
        let mut pod = pod_of("p", &sleeper("p"));
        pod["spec"]["priorityClassName"] = json!("no-such-class");
        pod
    });
    assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")), "{said}");
}
