//! Specs that cannot be right: refused as upstream refuses them, or told of by an event, and never fought about.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "bad_specs/cases.rs"]
mod cases;

use caravel_tests::{Namespace, sleeper};
use serde_json::{Value, json};

fn set(base: &Value, pointer: &str, value: Value) -> Value {
    let mut object = base.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut object } else { object.pointer_mut(parent).unwrap() };
    parent[field] = value;
    object
}

/// Merges as RFC 7386 does.
fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut object[key], value);
        }
    }
}

/// (resource, pointer, value, field of the cause, part of its message)
type Case = (&'static str, &'static str, Value, &'static str, &'static str);

#[test]
fn what_is_impossible_is_refused() {
    let ns = Namespace::new("badspec");
    let workload = |kind: &str| {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": sleeper("x")}})
    };
    let mut job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": sleeper("x")}});
    job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}}});
    let hpa = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}, "maxReplicas": 3}});
    let pdb = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "minAvailable": 1}});
    let base = |resource: &str| match resource {
        "deployments" => ("apps/v1", workload("Deployment")),
        "replicasets" => ("apps/v1", workload("ReplicaSet")),
        "statefulsets" => ("apps/v1", workload("StatefulSet")),
        "daemonsets" => ("apps/v1", workload("DaemonSet")),
        "jobs" => ("batch/v1", job.clone()),
        "cronjobs" => ("batch/v1", cron.clone()),
        "horizontalpodautoscalers" => ("autoscaling/v2", hpa.clone()),
        "replicationcontrollers" => {
            let spec = json!({"selector": {"app": "x"}, "template": sleeper("x")});
            (
                "v1",
                json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "x"}, "spec": spec}),
            )
        }
        "pods" => ("v1", caravel_tests::pod_of("x", &sleeper("x"))),
        _ => ("policy/v1", pdb.clone()),
    };
    let other = json!({"matchLabels": {"app": "other"}});
    let nothing = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]});
    let cases: Vec<Case> = vec![
        ("deployments", "/spec/replicas", json!(-1), "spec.replicas", "must be greater than or equal to 0"),
        (
            "deployments",
            "/spec/selector",
            other.clone(),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "deployments",
            "/spec/selector",
            nothing.clone(),
            "spec.selector.matchExpressions[0].values",
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        ("deployments", "/spec/selector", json!({}), "spec.selector", "empty selector is invalid for deployment"),
        (
            "deployments",
            "/spec/minReadySeconds",
            json!(-5),
            "spec.minReadySeconds",
            "must be greater than or equal to 0",
        ),
        (
            "deployments",
            "/spec/progressDeadlineSeconds",
            json!(0),
            "spec.progressDeadlineSeconds",
            "must be greater than minReadySeconds",
        ),
        (
            "deployments",
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable",
            "may not be 0 when `maxSurge` is 0",
        ),
        ("replicasets", "/spec/replicas", json!(-1), "spec.replicas", "must be greater than or equal to 0"),
        (
            "replicasets",
            "/spec/selector",
            other.clone(),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        ("statefulsets", "/spec/replicas", json!(-3), "spec.replicas", "must be greater than or equal to 0"),
        (
            "statefulsets",
            "/spec/selector",
            other.clone(),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "daemonsets",
            "/spec/selector",
            other,
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "daemonsets",
            "/spec/minReadySeconds",
            json!(-1),
            "spec.minReadySeconds",
            "must be greater than or equal to 0",
        ),
        ("jobs", "/spec/parallelism", json!(-1), "spec.parallelism", "must be greater than or equal to 0"),
        ("jobs", "/spec/completions", json!(-1), "spec.completions", "must be greater than or equal to 0"),
        ("jobs", "/spec/backoffLimit", json!(-1), "spec.backoffLimit", "must be greater than or equal to 0"),
        (
            "jobs",
            "/spec/activeDeadlineSeconds",
            json!(-1),
            "spec.activeDeadlineSeconds",
            "must be greater than or equal to 0",
        ),
        ("cronjobs", "/spec/timeZone", json!("Mars/Olympus"), "spec.timeZone", "unknown time zone Mars/Olympus"),
        ("cronjobs", "/spec/timeZone", json!("Local"), "spec.timeZone", "must be an explicit time zone"),
        ("cronjobs", "/spec/schedule", json!("0 0 32 * *"), "spec.schedule", "end of range (32) above maximum (31)"),
        (
            "cronjobs",
            "/spec/successfulJobsHistoryLimit",
            json!(-1),
            "spec.successfulJobsHistoryLimit",
            "must be greater than or equal to 0",
        ),
        (
            "horizontalpodautoscalers",
            "/spec/minReplicas",
            json!(5),
            "spec.maxReplicas",
            "must be greater than or equal to `minReplicas`",
        ),
        ("horizontalpodautoscalers", "/spec/maxReplicas", json!(0), "spec.maxReplicas", "must be greater than 0"),
        (
            "poddisruptionbudgets",
            "/spec/minAvailable",
            json!(-1),
            "spec.minAvailable",
            "must be greater than or equal to 0",
        ),
        (
            "poddisruptionbudgets",
            "/spec/minAvailable",
            json!("120%"),
            "spec.minAvailable",
            "must not be greater than 100%",
        ),
        (
            "poddisruptionbudgets",
            "/spec/maxUnavailable",
            json!(1),
            "spec",
            "minAvailable and maxUnavailable cannot be both set",
        ),
    ];
    let single = cases.into_iter().map(|(resource, pointer, value, field, message)| {
        (resource, set(&base(resource).1, pointer, value.clone()), format!("{pointer}={value}"), field, message)
    });
    let many = [cases::workloads(), cases::jobs(), cases::policies(), cases::pods()].into_iter().flatten();
    let many = many.map(|(resource, patch, field, message)| {
        let mut object = base(resource).1;
        merge(&mut object, &patch);
        (resource, object, patch.to_string(), field, message)
    });
    let mut wrong = vec![];
    for (resource, object, shown, field, message) in single.chain(many) {
        let (code, said) = ns.objects(base(resource).0, resource).try_create(&object);
        let causes = said["details"]["causes"].as_array().cloned().unwrap_or_default();
        let told =
            causes.iter().any(|c| c["field"] == field && c["message"].as_str().unwrap_or_default().contains(message));
        if code != 422 || said["reason"] != "Invalid" || !told {
            wrong.push(format!("{resource} {shown}: {code} {}", said["message"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What is no quantity is no Pod.
    for amount in ["1x", "much", "1.5.2", "--1"] {
        let mut pod = base("pods").1;
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": amount}});
        let (code, said) = ns.objects("v1", "pods").try_create(&pod);
        let message = said["message"].as_str().unwrap_or_default();
        assert!(code == 400 && message.contains("quantities must match"), "{amount:?}: {code} {message}");
    }
}

/// 30 February never comes: the CronJob is there, makes nothing, and is not written again.
#[test]
fn a_day_that_never_comes() {
    let ns = Namespace::new("feb30");
    let crons = ns.objects("batch/v1", "cronjobs");
    let mut template = sleeper("x");
    template["spec"]["restartPolicy"] = json!("Never");
    let make = |name: &str, schedule: &str| {
        crons.create(&json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
            "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": template}}}}))
    };
    let made = make("never", "0 0 30 2 *");
    crons.merge("never/status", &json!({"status": {"lastScheduleTime": caravel_tests::rfc3339_ago(86_400 * 800)}}));
    let before = crons.get("never")["metadata"]["resourceVersion"].clone();
    // The other one, made later, is seen through meanwhile.
    make("now", "* * * * *");
    crons.merge("now/status", &json!({"status": {"lastScheduleTime": caravel_tests::rfc3339_ago(130)}}));
    crons.until("now", "started", |c| c["status"]["active"].is_array());
    let after = crons.get("never");
    assert_eq!(
        (after["metadata"]["uid"].clone(), after["metadata"]["resourceVersion"].clone()),
        (made["metadata"]["uid"].clone(), before)
    );
}

/// Owners in a circle: the garbage collector lets them live as long as all do, and takes all of them when one is deleted in the foreground.
#[test]
fn a_circle_of_owners() {
    let ns = Namespace::new("circle");
    let maps = ns.objects("v1", "configmaps");
    let names = ["a", "b", "c"];
    let made: Vec<Value> = names
        .iter()
        .map(|n| maps.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": n}})))
        .collect();
    for (i, name) in names.iter().enumerate() {
        let owner = &made[(i + 1) % 3]["metadata"];
        maps.merge(
            name,
            &json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"],
            "uid": owner["uid"], "blockOwnerDeletion": true}]}}),
        );
    }
    maps.delete_with("a", &json!({"propagationPolicy": "Foreground"}));
    names.iter().for_each(|n| maps.until_gone(n));
}

/// Two Deployments that select each other's Pods: each has its own, and both come to rest.
#[test]
fn overlapping_deployments_leave_each_other_alone() {
    let ns = Namespace::new("overlap");
    let deployments = ns.objects("apps/v1", "deployments");
    for (name, extra) in [("x", "1"), ("y", "2")] {
        let mut template = sleeper("same");
        template["spec"]["containers"][0]["env"] = json!([{"name": "OF", "value": extra}]);
        deployments.create(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "same"}}, "template": template}}));
    }
    let rest = |name: &str| {
        deployments.until(name, "available", |d| d["status"]["availableReplicas"] == 1 && d["status"]["replicas"] == 1)
    };
    rest("x");
    rest("y");
    assert_eq!(ns.objects("v1", "pods").list("app=same").len(), 2);
    assert_eq!(ns.objects("apps/v1", "replicasets").list("app=same").len(), 2);
}

/// An owner in another namespace is none: its dependent goes, and an event says why. A cluster-wide object with an owner in a namespace
/// is told of, too, and stays.
#[test]
fn owners_in_other_namespaces() {
    let ns = Namespace::new("owner-far");
    let other = Namespace::new("owner-there");
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let owner = other.objects("v1", "configmaps").create(&map("owner"));
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]});
    let told = |namespace: &str, kind: &str, name: &str| {
        let events = ns.objects("v1", "events").in_namespace(namespace);
        let (kind, name) = (kind.to_owned(), name.to_owned());
        events.until_all("", "the event", move |all| {
            let of =
                |e: &&Value| e["reason"] == "OwnerRefInvalidNamespace" && e["involvedObject"]["name"] == name.as_str();
            all.iter().find(of).filter(|e| e["involvedObject"]["kind"] == kind.as_str()).cloned()
        })
    };
    let maps = ns.objects("v1", "configmaps");
    let mut far = map("far");
    far["metadata"]["ownerReferences"] = json!([reference]);
    maps.create(&far);
    maps.until_gone("far");
    let event = told(&ns.name, "ConfigMap", "far");
    assert_eq!(event["type"], "Warning", "{event}");
    assert!(event["message"].as_str().unwrap().contains("does not exist in"), "{event}");

    let roles = ns.cluster_objects("rbac.authorization.k8s.io/v1", "clusterroles");
    let name = ns.name.clone();
    roles.create(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "ownerReferences": [reference]}, "rules": []}));
    told("default", "ClusterRole", &name);
    let before = roles.get(&name)["metadata"]["resourceVersion"].clone();
    // The collector goes on with others, and leaves it alone.
    maps.create(&far);
    maps.until_gone("far");
    assert_eq!(roles.get(&name)["metadata"]["resourceVersion"], before);
    roles.delete(&name);
}

/// What may not be changed once it is there.
#[test]
fn what_is_fixed_stays() {
    let ns = Namespace::new("fixed");
    let mut template = sleeper("x");
    template["spec"]["restartPolicy"] = json!("Never");
    let jobs = ns.objects("batch/v1", "jobs");
    let job = |name: &str, more: Value| {
        let mut object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"suspend": true, "template": template}});
        merge(&mut object["spec"], &more);
        jobs.create(&object);
    };
    job("plain", json!({"completions": 2}));
    job("indexed", json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    let sets = ns.objects("apps/v1", "statefulsets");
    sets.create(&json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": sleeper("x")}}));
    let pods = ns.objects("v1", "pods");
    let mut gated = caravel_tests::pod_of("gated", &sleeper("x"));
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    pods.create(&gated);
    let refused = [
        (&jobs, "plain", json!({"spec": {"completions": 3}}), "spec.completions", "field is immutable"),
        (
            &jobs,
            "plain",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}),
            "spec.selector",
            "field is immutable",
        ),
        (
            &jobs,
            "plain",
            json!({"spec": {"template": {"spec": {"hostname": "h"}}}}),
            "spec.template.spec",
            "field is immutable",
        ),
        (
            &jobs,
            "plain",
            json!({"spec": {"template": {"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}}}}}),
            "spec.template.spec",
            "field is immutable",
        ),
        (
            &jobs,
            "plain",
            json!({"spec": {"template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "other"}}}}}),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            &jobs,
            "indexed",
            json!({"spec": {"completions": 3}}),
            "spec.completions",
            "can only be modified in tandem with spec.parallelism",
        ),
        (
            &jobs,
            "indexed",
            json!({"spec": {"completionMode": "NonIndexed"}}),
            "spec.completionMode",
            "field is immutable",
        ),
        (
            &jobs,
            "indexed",
            json!({"spec": {"podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": [{"type": "Ready"}]}]}}}),
            "spec.podFailurePolicy",
            "field is immutable",
        ),
        (
            &sets,
            "set",
            json!({"spec": {"serviceName": "other"}}),
            "spec",
            "updates to statefulset spec for fields other than",
        ),
        (
            &sets,
            "set",
            json!({"spec": {"podManagementPolicy": "Parallel"}}),
            "spec",
            "updates to statefulset spec for fields other than",
        ),
        (
            &pods,
            "gated",
            json!({"spec": {"schedulingGates": [{"name": "example.com/wait"}, {"name": "example.com/more"}]}}),
            "spec.schedulingGates",
            "only deletion is allowed, but found new scheduling gates",
        ),
        (&pods, "gated", json!({"spec": {"hostname": "h"}}), "spec", "pod updates may not change fields other than"),
    ];
    let mut wrong = vec![];
    for (objects, name, patch, field, message) in refused {
        let (code, said) = objects.send("PATCH", name, "application/merge-patch+json", Some(&patch));
        let causes = said["details"]["causes"].as_array().cloned().unwrap_or_default();
        let told = |c: &Value| c["field"] == field && c["message"].as_str().unwrap_or_default().contains(message);
        if code != 422 || !causes.iter().any(told) {
            wrong.push(format!("{name} {patch}: {code} {}", said["message"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A suspended Job may be placed and sized, and an indexed one grows with its parallelism.
    let placed = json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "fast"},
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "10m"}}}]}}}});
    jobs.strategic("plain", &placed);
    jobs.merge("indexed", &json!({"spec": {"completions": 3, "parallelism": 3}}));
}

/// Whoever selects the same Pods as another takes only those that nobody has: each has its own, and none writes any more. No node is
/// good enough for the Pods, so that only the controllers have a say.
#[test]
fn overlapping_controllers_come_to_rest() {
    let ns = Namespace::new("overlap-all");
    let labels = json!({"matchLabels": {"app": "same"}});
    let mut template = sleeper("same");
    template["spec"]["nodeSelector"] = json!({"example.com/nowhere": "really"});
    let make = |version: &str, plural: &str, kind: &str, name: &str| {
        let objects = ns.objects(version, plural);
        let selector = if version == "v1" { labels["matchLabels"].clone() } else { labels.clone() };
        objects.create(&json!({"apiVersion": version, "kind": kind, "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": selector, "template": template}}));
        (objects, name.to_owned())
    };
    let own = |kind: &str| if kind == "StatefulSet" { "updatedReplicas" } else { "fullyLabeledReplicas" };
    let mut made = vec![];
    for (version, plural, kind) in [
        ("apps/v1", "replicasets", "ReplicaSet"),
        ("apps/v1", "statefulsets", "StatefulSet"),
        ("v1", "replicationcontrollers", "ReplicationController"),
    ] {
        for i in 0..2 {
            made.push((make(version, plural, kind, &format!("{}-{i}", kind.to_lowercase())), own(kind)));
        }
    }
    let seen = |(objects, name): &(caravel_tests::Objects, String), field: &str| {
        objects.until(name, "its status", |o| o["status"]["replicas"] == 1 && o["status"][field] == 1)
    };
    made.iter().for_each(|(one, field)| drop(seen(one, field)));
    // One that is made later and seen through gives all others the time to do something, the first time what is still to be
    // done, the second time nothing.
    let barrier = |name: &str| drop(seen(&make("apps/v1", "replicasets", "ReplicaSet", name), own("ReplicaSet")));
    barrier("late");
    let revisions = || -> Vec<Value> {
        made.iter().map(|((objects, name), _)| objects.get(name)["metadata"]["resourceVersion"].clone()).collect()
    };
    let before = revisions();
    barrier("later");
    assert_eq!(revisions(), before, "nobody writes");
    let pods = ns.objects("v1", "pods").list("app=same");
    assert_eq!(pods.len(), made.len() + 2);
    for ((objects, name), _) in &made {
        let uid = objects.get(name)["metadata"]["uid"].clone();
        let of = |p: &&Value| p["metadata"]["ownerReferences"][0]["uid"] == uid;
        assert_eq!(pods.iter().filter(of).count(), 1, "{name} has one of its own");
    }
}
