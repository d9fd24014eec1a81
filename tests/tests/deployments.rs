//! Deployments, ReplicaSets and ReplicationControllers over the wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{
    Namespace, Objects, condition, condition_of, list_and_delete_collection, name_of, pod_of, scale_endpoints, sleeper,
    status_endpoints,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": sleeper(name)},
    })
}

fn replica_set(name: &str, app: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": sleeper(app)},
    })
}

fn rc(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"app": name}, "template": sleeper(name)},
    })
}

/// A template that answers with its own name on port 8080.
fn responder(app: &str) -> Value {
    let mut template = sleeper(app);
    template["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", "mkdir -p /tmp/w && hostname > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w"]);
    template["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    template["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1});
    template
}

fn ready(n: i64) -> impl Fn(&Value) -> bool {
    move |o| o["status"]["readyReplicas"] == n && o["status"]["observedGeneration"] == o["metadata"]["generation"]
}

/// A rollout is complete as `kubectl rollout status` has it.
fn complete(d: &Value) -> bool {
    let n = &d["spec"]["replicas"];
    let s = &d["status"];
    s["observedGeneration"] == d["metadata"]["generation"]
        && s["updatedReplicas"] == *n
        && s["replicas"] == *n
        && s["availableReplicas"] == *n
        && s["unavailableReplicas"].is_null()
}

fn owner(object: &Value) -> &str {
    object["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default()
}

fn wait_for_pods(pods: &Objects, app: &str, n: usize) -> Vec<Value> {
    pods.until_all(&format!("app={app}"), &format!("{n} ready pods of {app}"), |all| {
        let up = all.iter().filter(|p| condition(p, "Ready") == "True").count();
        (all.len() == n && up == n).then(|| all.to_vec())
    })
}

#[test]
fn status_of_a_deployment() {
    let ns = Namespace::new("dstat");
    let all = ns.objects("apps/v1", "deployments");
    all.create(&deployment("web", 1));
    all.until("web", "ready", ready(1));
    status_endpoints(&all, "web", "app=web");
    // The controller's own conditions come back.
    all.merge("web", &json!({"spec": {"replicas": 2}}));
    let now = all.until("web", "ready again", |d| complete(d) && condition(d, "Available") == "True");
    assert_eq!(condition_of(&now, "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
}

#[test]
fn scale_of_a_deployment() {
    let ns = Namespace::new("dscale");
    let all = ns.objects("apps/v1", "deployments");
    all.create(&deployment("web", 1));
    all.until("web", "ready", ready(1));
    scale_endpoints(&all, "web", "app=web");
}

#[test]
fn lifecycle_of_a_deployment() {
    let ns = Namespace::new("dlife");
    let all = ns.objects("apps/v1", "deployments");
    let mut watch = all.watch("kind=static", &all.revision());
    let mut web = deployment("web", 2);
    web["metadata"]["labels"] = json!({"kind": "static"});
    all.create(&web);
    let added = watch.until("ADDED", |_| true);
    assert_eq!(added["metadata"]["generation"], 1);
    watch.until("MODIFIED", |d| d["status"]["readyReplicas"] == 2);
    let patched = all.strategic(
        "web",
        &json!({"metadata": {"labels": {"extra": "yes"}}, "spec": {"replicas": 1, "template": {"spec": {
            "containers": [{"name": "c", "env": [{"name": "V", "value": "2"}]}]}}}}),
    );
    assert_eq!(patched["spec"]["template"]["spec"]["containers"][0]["image"], "test/busybox:1", "merged by name");
    watch.until("MODIFIED", |d| d["metadata"]["labels"]["extra"] == "yes" && complete(d));
    assert_eq!(all.everywhere().list("kind=static,extra=yes").len(), 1);
    // Written status is told, and mended by the controller.
    let patch =
        json!({"metadata": {"labels": {"extra": "status"}}, "status": {"readyReplicas": 0, "availableReplicas": 0}});
    let patched = all.strategic("web/status", &patch);
    assert_eq!(patched["metadata"]["labels"]["extra"], "yes", "labels do not come through the status of a Deployment");
    watch.until("MODIFIED", |d| d["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0);
    watch.until("MODIFIED", |d| d["status"]["readyReplicas"] == 1);
    all.update("web/status", |d| d["status"]["availableReplicas"] = json!(0));
    watch.until("MODIFIED", |d| d["status"]["availableReplicas"] == 1);
    all.delete_collection("kind=static");
    watch.until("DELETED", |d| name_of(d) == "web");
    let sets = ns.objects("apps/v1", "replicasets");
    sets.until_all("app=web", "its ReplicaSets go", |all| all.is_empty().then_some(()));
    ns.objects("v1", "pods").until_all("app=web", "its pods go", |all| all.is_empty().then_some(()));
}

#[test]
fn a_collection_of_deployments() {
    let ns = Namespace::new("dcoll");
    list_and_delete_collection(&ns.objects("apps/v1", "deployments"), |n| deployment(n, 0), "coll=deployments-of-test");
}

#[test]
fn rolling_update_adopts_and_counts_on() {
    let ns = Namespace::new("droll");
    let (all, sets, pods) =
        (ns.objects("apps/v1", "deployments"), ns.objects("apps/v1", "replicasets"), ns.objects("v1", "pods"));
    let mut old = replica_set("old", "web", 1);
    old["metadata"]["annotations"] = json!({REVISION: "3546343826724305832"});
    sets.create(&old);
    let before = wait_for_pods(&pods, "web", 1);
    let mut web = deployment("web", 1);
    web["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "V", "value": "2"}]);
    let made = all.create(&web);
    let now = all.until("web", "complete", complete);
    assert_eq!(now["metadata"]["annotations"][REVISION], "3546343826724305833");
    let sets = sets.list("app=web");
    assert_eq!(sets.len(), 2, "{sets:?}");
    for set in &sets {
        assert_eq!(owner(set), made["metadata"]["uid"], "adopted");
        let wanted = if name_of(set) == "old" { 0 } else { 1 };
        assert_eq!(set["spec"]["replicas"], wanted);
        if wanted == 1 {
            let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
            assert_eq!(name_of(set), format!("web-{hash}"));
            assert_eq!(set["metadata"]["annotations"][REVISION], "3546343826724305833");
            assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"], "1");
            assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "2");
        }
    }
    let after = wait_for_pods(&pods, "web", 1);
    assert_ne!(name_of(&before[0]), name_of(&after[0]));
    let events = ns.objects("v1", "events").list("");
    assert!(events.iter().any(|e| e["reason"] == "ScalingReplicaSet" && e["involvedObject"]["name"] == "web"));
}

#[test]
fn recreate_never_runs_old_and_new_together() {
    let ns = Namespace::new("drecr");
    let (all, pods) = (ns.objects("apps/v1", "deployments"), ns.objects("v1", "pods"));
    let mut web = deployment("web", 2);
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    web["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    all.create(&web);
    all.until("web", "complete", complete);
    let old: Vec<String> = pods.list("app=web").iter().map(|p| name_of(p).to_owned()).collect();
    let mut watch = pods.watch("app=web", &pods.revision());
    all.strategic("web", &json!({"spec": {"template": {"metadata": {"labels": {"v": "2"}}}}}));
    // An old pod no longer runs when it is gone, or its node says that it ended.
    let mut running: BTreeSet<String> = old.into_iter().collect();
    let mut new = 0;
    while new < 2 {
        let (kind, pod) = watch.advance();
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        if kind == "DELETED" || ended {
            running.remove(name_of(&pod));
        }
        if kind == "ADDED" {
            assert!(running.is_empty(), "{} comes while {running:?} run", name_of(&pod));
            new += 1;
        }
    }
    all.until("web", "complete", complete);
}

#[test]
fn old_replica_sets_go_by_the_limit_of_history() {
    let ns = Namespace::new("dhist");
    let (all, sets, pods) =
        (ns.objects("apps/v1", "deployments"), ns.objects("apps/v1", "replicasets"), ns.objects("v1", "pods"));
    sets.create(&replica_set("old", "web", 1));
    wait_for_pods(&pods, "web", 1);
    let mut web = deployment("web", 1);
    web["spec"]["revisionHistoryLimit"] = json!(0);
    web["spec"]["template"]["metadata"]["labels"]["v"] = json!("2");
    let mut watch = sets.watch("app=web", &sets.revision());
    all.create(&web);
    watch.until("DELETED", |s| name_of(s) == "old");
    all.until("web", "complete", complete);
    assert_eq!(sets.list("app=web").len(), 1);
}

#[test]
fn rollover_of_a_rollout_that_hangs() {
    let ns = Namespace::new("dover");
    let (all, sets, pods) =
        (ns.objects("apps/v1", "deployments"), ns.objects("apps/v1", "replicasets"), ns.objects("v1", "pods"));
    sets.create(&replica_set("old", "web", 1));
    wait_for_pods(&pods, "web", 1);
    let mut web = deployment("web", 1);
    web["spec"]["minReadySeconds"] = json!(2);
    web["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    web["spec"]["template"]["spec"]["containers"][0]["image"] = json!("test/no-such-image:1");
    web["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    all.create(&web);
    // The first rollout hangs: one new pod, the old one stays.
    all.until("web", "one of two", |d| {
        d["status"]["updatedReplicas"] == 1 && d["status"]["replicas"] == 2 && d["status"]["unavailableReplicas"] == 1
    });
    assert_eq!(sets.get("old")["spec"]["replicas"], 1);
    let hung = sets.list("app=web").into_iter().find(|s| name_of(s) != "old").unwrap();
    all.strategic(
        "web",
        &json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "test/busybox:1"}]}}}}),
    );
    let mut watch = all.watch("app=web", "0");
    // Ready does not yet mean available.
    watch.until("MODIFIED", |d| {
        d["status"]["observedGeneration"] == 2
            && d["status"]["updatedReplicas"] == 1
            && d["status"]["readyReplicas"].as_i64().unwrap_or(0) == 2
            && d["status"]["availableReplicas"].as_i64().unwrap_or(0) == 1
    });
    all.until("web", "complete", complete);
    for name in ["old", name_of(&hung)] {
        sets.until(name, "no replicas", |s| s["spec"]["replicas"] == 0 && s["status"]["replicas"] == 0);
    }
    assert_eq!(all.get("web")["metadata"]["annotations"][REVISION], "2");
}

#[test]
fn scaling_a_rollout_is_proportional() {
    let ns = Namespace::new("dprop");
    let (all, sets) = (ns.objects("apps/v1", "deployments"), ns.objects("apps/v1", "replicasets"));
    let mut web = deployment("web", 5);
    web["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2, "maxSurge": 3}});
    all.create(&web);
    all.until("web", "complete", complete);
    let first = name_of(&sets.list("app=web")[0]).to_owned();
    // What comes now runs nowhere.
    all.strategic("web", &json!({"spec": {"template": {"spec": {"nodeSelector": {"no-such": "node"}}}}}));
    let second = sets.until_all("app=web", "3 old and 5 new", |all| {
        let old = all.iter().find(|s| name_of(s) == first)?;
        let new = all.iter().find(|s| name_of(s) != first)?;
        let is = |s: &Value, n: i64| s["spec"]["replicas"] == n && s["status"]["replicas"] == n;
        (is(old, 3) && is(new, 5)).then(|| name_of(new).to_owned())
    });
    all.until("web", "status of the halt", |d| d["status"]["availableReplicas"] == 3 && d["status"]["replicas"] == 8);
    all.merge("web/scale", &json!({"spec": {"replicas": 12}}));
    // 15 in all, in proportion 3 to 5.
    sets.until(&first, "6", |s| s["spec"]["replicas"] == 6);
    sets.until(&second, "9", |s| s["spec"]["replicas"] == 9);
    all.until("web", "15", |d| d["status"]["replicas"] == 15);
    assert_eq!(sets.get(&second)["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "15");
}

#[test]
fn a_paused_deployment_waits_and_a_late_one_says_so() {
    let ns = Namespace::new("dpause");
    let (all, sets) = (ns.objects("apps/v1", "deployments"), ns.objects("apps/v1", "replicasets"));
    let mut web = deployment("web", 1);
    web["spec"]["paused"] = json!(true);
    all.create(&web);
    let now = all.until("web", "observed", |d| condition(d, "Progressing") == "Unknown");
    assert_eq!(condition_of(&now, "Progressing").unwrap()["reason"], "DeploymentPaused");
    assert!(sets.list("app=web").is_empty());
    all.merge(
        "web",
        &json!({"spec": {"paused": false, "progressDeadlineSeconds": 1, "minReadySeconds": 0,
            "template": {"spec": {"nodeSelector": {"no-such": "node"}}}}}),
    );
    let late = all.until("web", "late", |d| condition(d, "Progressing") == "False");
    assert_eq!(condition_of(&late, "Progressing").unwrap()["reason"], "ProgressDeadlineExceeded");
    assert_eq!(condition(&late, "Available"), "False");
}

#[test]
fn status_of_a_replica_set() {
    let ns = Namespace::new("rsstat");
    let all = ns.objects("apps/v1", "replicasets");
    all.create(&replica_set("web", "web", 1));
    all.until("web", "ready", ready(1));
    status_endpoints(&all, "web", "app=web");
}

#[test]
fn scale_of_a_replica_set() {
    let ns = Namespace::new("rsscale");
    let all = ns.objects("apps/v1", "replicasets");
    all.create(&replica_set("web", "web", 1));
    all.until("web", "ready", ready(1));
    scale_endpoints(&all, "web", "app=web");
}

#[test]
fn a_collection_of_replica_sets() {
    let ns = Namespace::new("rscoll");
    list_and_delete_collection(&ns.objects("apps/v1", "replicasets"), |n| replica_set(n, n, 1), "coll=sets-of-test");
}

#[test]
fn a_replica_set_is_replaced_and_patched() {
    let ns = Namespace::new("rsrep");
    let (all, pods) = (ns.objects("apps/v1", "replicasets"), ns.objects("v1", "pods"));
    let mut watch = all.watch("app=web", &all.revision());
    all.create(&replica_set("web", "web", 1));
    watch.until("MODIFIED", |s| s["status"]["availableReplicas"] == 1);
    all.update("web/scale", |s| s["spec"]["replicas"] = json!(2));
    watch.until("MODIFIED", |s| s["spec"]["replicas"] == 2 && s["status"]["readyReplicas"] == 2);
    wait_for_pods(&pods, "web", 2);
    let patch = json!({"metadata": {"labels": {"extra": "yes"}}, "spec": {"replicas": 3, "template": {
        "metadata": {"labels": {"extra": "yes"}}, "spec": {"containers": [{"name": "c", "env": [{"name": "V", "value": "2"}]}]}}}});
    all.strategic("web", &patch);
    let now =
        watch.until("MODIFIED", |s| s["metadata"]["labels"]["extra"] == "yes" && s["status"]["readyReplicas"] == 3);
    assert_eq!(now["status"]["fullyLabeledReplicas"], 1, "only the new pod has all labels of the template");
}

#[test]
fn each_replica_answers() {
    let ns = Namespace::new("rsserve");
    let pods = ns.objects("v1", "pods");
    let mut set = replica_set("set", "set", 2);
    set["spec"]["template"] = responder("set");
    ns.objects("apps/v1", "replicasets").create(&set);
    let mut controller = rc("rc", 1);
    controller["spec"]["template"] = responder("rc");
    ns.objects("v1", "replicationcontrollers").create(&controller);
    for (app, n) in [("set", 2), ("rc", 1)] {
        for pod in wait_for_pods(&pods, app, n) {
            let (code, body) = pods.try_get(&format!("{}:8080/proxy/", name_of(&pod)));
            assert_eq!((code, body.as_str().map(str::trim)), (200, Some(name_of(&pod))), "{body}");
        }
    }
}

/// Adoption of an orphan and release of a pod whose labels changed; for both kinds.
fn adopts_and_releases(ns: &Namespace, owners: &Objects, object: &Value, kind: &str) {
    let pods = ns.objects("v1", "pods");
    pods.create(&pod_of("orphan", &sleeper("web")));
    let made = owners.create(object);
    let adopted = pods.until("orphan", "adopted", |p| owner(p) == made["metadata"]["uid"]);
    let reference = &adopted["metadata"]["ownerReferences"][0];
    assert_eq!(
        (reference["kind"].as_str(), reference["controller"].as_bool(), reference["blockOwnerDeletion"].as_bool()),
        (Some(kind), Some(true), Some(true))
    );
    owners.until("web", "one replica", |s| s["status"]["replicas"] == 1);
    assert_eq!(pods.list("app=web").len(), 1, "the orphan counts");
    pods.merge("orphan", &json!({"metadata": {"labels": {"app": "not-web"}}}));
    let released = pods.until("orphan", "released", |p| owner(p).is_empty());
    assert!(released["metadata"]["deletionTimestamp"].is_null());
    wait_for_pods(&pods, "web", 1);
}

#[test]
fn a_replica_set_adopts_and_releases() {
    let ns = Namespace::new("rsadopt");
    adopts_and_releases(&ns, &ns.objects("apps/v1", "replicasets"), &replica_set("web", "web", 1), "ReplicaSet");
}

#[test]
fn an_rc_adopts_and_releases() {
    let ns = Namespace::new("rcadopt");
    adopts_and_releases(&ns, &ns.objects("v1", "replicationcontrollers"), &rc("web", 1), "ReplicationController");
}

/// A quota that is used up is a condition of the owner, which goes when fewer pods are asked for.
fn says_replica_failure(ns: &Namespace, owners: &Objects, object: &Value) {
    let quotas = ns.objects("v1", "resourcequotas");
    quotas.create(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}}));
    quotas.until("two", "counted", |q| q["status"]["hard"]["pods"] == "2");
    owners.create(object);
    let now = owners.until("web", "a failure", |o| condition(o, "ReplicaFailure") == "True");
    let failure = condition_of(&now, "ReplicaFailure").unwrap();
    assert_eq!(failure["reason"], "FailedCreate");
    assert!(failure["message"].as_str().unwrap().contains("exceeded quota: two"), "{failure}");
    owners.until("web", "two replicas", |o| o["status"]["replicas"] == 2);
    owners.update("web", |o| o["spec"]["replicas"] = json!(2));
    owners.until("web", "no failure", |o| condition_of(o, "ReplicaFailure").is_none());
}

#[test]
fn an_rc_says_that_a_quota_is_used_up() {
    let ns = Namespace::new("rcquota");
    says_replica_failure(&ns, &ns.objects("v1", "replicationcontrollers"), &rc("web", 3));
}

#[test]
fn a_replica_set_says_that_a_quota_is_used_up() {
    let ns = Namespace::new("rsquota");
    says_replica_failure(&ns, &ns.objects("apps/v1", "replicasets"), &replica_set("web", "web", 3));
}

#[test]
fn scale_of_an_rc() {
    let ns = Namespace::new("rcscale");
    let all = ns.objects("v1", "replicationcontrollers");
    all.create(&rc("web", 1));
    all.until("web", "ready", ready(1));
    scale_endpoints(&all, "web", "app=web");
}

#[test]
fn lifecycle_of_an_rc() {
    let ns = Namespace::new("rclife");
    let all = ns.objects("v1", "replicationcontrollers");
    let mut watch = all.watch("kind=static", &all.revision());
    let mut object = rc("web", 1);
    object["metadata"]["labels"] = json!({"kind": "static"});
    all.create(&object);
    watch.until("ADDED", |_| true);
    watch.until("MODIFIED", |r| r["status"]["readyReplicas"] == 1);
    all.strategic("web", &json!({"metadata": {"labels": {"extra": "patched"}}}));
    watch.until("MODIFIED", |r| r["metadata"]["labels"]["extra"] == "patched");
    all.strategic("web/status", &json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    watch.until("MODIFIED", |r| {
        let n = |f: &str| r["status"][f].as_i64().unwrap_or(0);
        (n("readyReplicas"), n("availableReplicas")) == (0, 0)
    });
    watch.until("MODIFIED", |r| r["status"]["readyReplicas"] == 1);
    assert_eq!(all.get("web/status")["metadata"]["name"], "web");
    all.strategic("web/scale", &json!({"spec": {"replicas": 2}}));
    watch.until("MODIFIED", |r| r["spec"]["replicas"] == 2 && r["status"]["readyReplicas"] == 2);
    assert_eq!(all.everywhere().list("kind=static,extra=patched").len(), 1);
    all.update("web", |r| r["spec"]["replicas"] = json!(1));
    watch.until("MODIFIED", |r| r["spec"]["replicas"] == 1 && r["status"]["replicas"] == 1);
    all.delete_collection("kind=static");
    watch.until("DELETED", |r| name_of(r) == "web");
}

/// The replicas of the present template, and of all others.
fn spread(ns: &Namespace, d: &Value) -> (i64, i64) {
    let sets = ns.objects("apps/v1", "replicasets").list("");
    let present = &d["spec"]["template"]["spec"]["containers"];
    let (new, old): (Vec<_>, Vec<_>) =
        sets.iter().partition(|rs| rs["spec"]["template"]["spec"]["containers"] == *present);
    let sum = |l: &[&Value]| l.iter().filter_map(|rs| rs["status"]["readyReplicas"].as_i64()).sum();
    (sum(&new), sum(&old))
}

/// One pod of four is of the new template until somebody says so; then half; then, at once, all.
#[test]
fn a_canary_goes_on_when_it_is_promoted() {
    let ns = Namespace::new("canary");
    let all = ns.objects("apps/v1", "deployments");
    let mut wanted = deployment("web", 4);
    wanted["metadata"]["annotations"] = json!({"caravel.dev/canary-steps": "25%,50%"});
    all.create(&wanted);
    all.until("web", "complete", complete);
    all.until("web", "noted as good", |d| {
        d["metadata"]["annotations"]["caravel.dev/last-complete-replica-set"].is_string()
    });
    let env =
        json!([{"op": "add", "path": "/spec/template/spec/containers/0/env", "value": [{"name": "V", "value": "2"}]}]);
    all.json_patch("web", &env);
    for (how, share) in [("next", (1, 3)), ("all", (2, 2))] {
        let held = |d: &Value| condition_of(d, "Progressing").is_some_and(|c| c["reason"] == "CanaryPaused");
        let d = ns.eventually(&format!("held at {share:?}"), || {
            let d = all.get("web");
            if held(&d) && spread(&ns, &d) == share { Ok(d) } else { Err(d["status"].to_string()) }
        });
        assert_eq!(condition(&d, "Progressing"), "Unknown");
        all.merge("web", &json!({"metadata": {"annotations": {"caravel.dev/canary-promote": how}}}));
        all.until("web", "promoted", |d| d["metadata"]["annotations"]["caravel.dev/canary-promote"].is_null());
    }
    all.until("web", "complete", complete);
    let d = all.until("web", "over", |d| d["metadata"]["annotations"]["caravel.dev/canary-state"].is_null());
    assert_eq!(condition_of(&d, "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
}

/// Its container ends again and again: the template before comes back, and the others never noticed.
#[test]
fn a_canary_that_crashes_is_given_up() {
    let ns = Namespace::new("crashing");
    let all = ns.objects("apps/v1", "deployments");
    let mut wanted = deployment("web", 3);
    wanted["metadata"]["annotations"] =
        json!({"caravel.dev/canary-steps": "30%", "caravel.dev/rollback-on-failures": "0"});
    wanted["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    all.create(&wanted);
    all.until("web", "complete", complete);
    let good = all.until("web", "noted as good", |d| {
        d["metadata"]["annotations"]["caravel.dev/last-complete-replica-set"].is_string()
    });
    all.json_patch(
        "web",
        &json!([{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["false"]}]),
    );
    let back =
        all.until("web", "given up", |d| d["metadata"]["annotations"]["caravel.dev/rolled-back-from"].is_string());
    assert_eq!(back["spec"]["template"], good["spec"]["template"]);
    all.until("web", "complete", complete);
    let sets = ns.objects("apps/v1", "replicasets");
    let kept = good["metadata"]["annotations"]["caravel.dev/last-complete-replica-set"].as_str().unwrap();
    assert_eq!(sets.get(kept)["status"]["readyReplicas"], 3);
    ns.objects("v1", "events").until_all("", "the event of the rollback", |all| {
        all.iter().find(|e| e["reason"] == "DeploymentRolledBack").cloned()
    });
}
