//! PodDisruptionBudgets and the eviction subresource over the wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Objects, condition, condition_of, name_of, pod_of, sleeper};
use serde_json::{Value, json};

fn budget(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

struct World {
    ns: Namespace,
    budgets: Objects,
    pods: Objects,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        World { budgets: ns.objects("policy/v1", "poddisruptionbudgets"), pods: ns.objects("v1", "pods"), ns }
    }

    fn run(&self, n: usize) {
        for i in 0..n {
            self.pods.create(&pod_of(&format!("web-{i}"), &sleeper("web")));
        }
        for i in 0..n {
            self.pods.until(&format!("web-{i}"), "ready", |p| condition(p, "Ready") == "True");
        }
    }

    fn evict(&self, pod: &str) -> (u16, Value) {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        self.pods.post(&format!("{pod}/eviction"), &body)
    }

    fn observed(&self, name: &str) -> Value {
        self.budgets.until(name, "observed", |b| b["status"]["observedGeneration"] == b["metadata"]["generation"])
    }
}

#[test]
fn create_update_patch_delete() {
    let w = World::new("pdbcrud");
    w.budgets.create(&budget("b", json!({"minAvailable": 1})));
    w.observed("b");
    let updated = w.budgets.update("b", |b| b["spec"]["minAvailable"] = json!(2));
    assert_eq!(
        (updated["spec"]["minAvailable"].as_i64(), updated["metadata"]["generation"].as_i64()),
        (Some(2), Some(2))
    );
    w.observed("b");
    let patched = w.budgets.merge("b", &json!({"spec": {"minAvailable": "50%"}}));
    assert_eq!(patched["spec"]["minAvailable"], "50%");
    w.observed("b");
    w.budgets.delete("b");
    w.budgets.until_gone("b");
    let (code, said) = w.budgets.try_create(&budget("both", json!({"minAvailable": 1, "maxUnavailable": 1})));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
}

#[test]
fn list_and_delete_a_collection() {
    let w = World::new("pdbcoll");
    let other = Namespace::new("pdbcoll2");
    let label = format!("of={}", w.ns.name);
    let there = other.objects("policy/v1", "poddisruptionbudgets");
    for (budgets, name) in [(&w.budgets, "a"), (&w.budgets, "b"), (&there, "c")] {
        let mut object = budget(name, json!({"maxUnavailable": 1}));
        object["metadata"]["labels"] = json!({"of": &w.ns.name});
        budgets.create(&object);
    }
    assert_eq!(w.budgets.everywhere().list(&label).len(), 3);
    assert_eq!(w.budgets.list(&label).len(), 2);
    w.budgets.delete_collection(&label);
    w.budgets.until_all(&label, "none here", |all| all.is_empty().then_some(()));
    assert_eq!(there.list(&label).len(), 1, "another namespace's stay");
}

#[test]
fn the_status_counts_pods() {
    let w = World::new("pdbstat");
    w.budgets.create(&budget("b", json!({"minAvailable": 1})));
    let none = w.observed("b");
    assert_eq!(none["status"]["disruptionsAllowed"], 0);
    assert_eq!(condition_of(&none, "DisruptionAllowed").unwrap()["reason"], "InsufficientPods");
    w.run(2);
    let now = w.budgets.until("b", "one may go", |b| b["status"]["disruptionsAllowed"] == 1);
    let n = |f: &str| now["status"][f].as_i64().unwrap();
    assert_eq!((n("currentHealthy"), n("desiredHealthy"), n("expectedPods")), (2, 1, 2));
    let allowed = condition_of(&now, "DisruptionAllowed").unwrap();
    assert_eq!((allowed["status"].as_str(), allowed["reason"].as_str()), (Some("True"), Some("SufficientPods")));
}

#[test]
fn the_status_is_updated_and_patched() {
    let w = World::new("pdbwrite");
    w.budgets.create(&budget("b", json!({"minAvailable": 1})));
    w.observed("b");
    w.run(2);
    w.budgets.until("b", "one may go", |b| b["status"]["disruptionsAllowed"] == 1);
    // A pod that an API server is about to evict: the controller keeps it for two minutes.
    let now = w.pods.get("web-0")["metadata"]["creationTimestamp"].clone();
    let updated = w.budgets.update("b/status", |b| {
        b["status"]["disruptedPods"] = json!({"web-0": now});
    });
    assert_eq!(updated["status"]["disruptedPods"]["web-0"], now);
    let patched = w.budgets.merge("b/status", &json!({"status": {"disruptedPods": {"web-0": null}}}));
    assert!(patched["status"]["disruptedPods"].as_object().is_none_or(|o| o.is_empty()), "{patched}");
    assert_eq!(w.budgets.get("b/status")["metadata"]["name"], "b");
}

#[test]
fn an_eviction_is_refused_until_the_budget_allows_it() {
    let w = World::new("pdbevict");
    w.run(3);
    w.budgets.create(&budget("b", json!({"minAvailable": 3})));
    w.budgets.until("b", "counted", |b| b["status"]["currentHealthy"] == 3);
    let (code, said) = w.evict("web-0");
    assert_eq!((code, said["reason"].as_str()), (429, Some("TooManyRequests")), "{said}");
    assert_eq!(said["details"]["causes"][0]["reason"], "DisruptionBudget", "{said}");
    let text = said["details"]["causes"][0]["message"].as_str().unwrap();
    assert!(text.contains("budget b needs 3 healthy pods and has 3 currently"), "{text}");
    assert!(w.pods.get("web-0")["metadata"]["deletionTimestamp"].is_null());
    w.budgets.update("b", |b| b["spec"]["minAvailable"] = json!(2));
    w.budgets.until("b", "one may go", |b| b["status"]["disruptionsAllowed"] == 1);
    let mut watch = w.pods.watch("app=web", &w.pods.revision());
    let (code, said) = w.evict("web-0");
    assert_eq!((code, said["status"].as_str()), (201, Some("Success")), "{said}");
    let gone = watch.until("DELETED", |p| name_of(p) == "web-0");
    let why = condition_of(&gone, "DisruptionTarget").expect("an evicted pod says so");
    assert_eq!((why["status"].as_str(), why["reason"].as_str()), (Some("True"), Some("EvictionByEvictionAPI")));
    // Used up again.
    w.budgets
        .until("b", "none may go", |b| b["status"]["disruptionsAllowed"] == 0 && b["status"]["currentHealthy"] == 2);
    assert_eq!(w.evict("web-1").0, 429);
    // And with a patch that lets one more go.
    w.budgets.merge("b", &json!({"spec": {"minAvailable": 1}}));
    w.budgets.until("b", "one may go", |b| b["status"]["disruptionsAllowed"] == 1);
    assert_eq!(w.evict("web-1").0, 201);
}

#[test]
fn two_budgets_on_one_pod_are_an_error() {
    let w = World::new("pdbtwo");
    w.run(1);
    for n in ["a", "b"] {
        w.budgets.create(&budget(n, json!({"maxUnavailable": 1})));
        w.observed(n);
    }
    let (code, said) = w.evict("web-0");
    assert_eq!((code, said["reason"].as_str()), (500, Some("InternalError")), "{said}");
}
