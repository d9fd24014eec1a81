//! What Pods are made by, and what leads to them.

use super::finding::{Finding, grouped};
use super::pod;
use super::world::{World, condition, controls, is_true, name, number, text};
use serde_json::Value;

/// The replicas that are asked for: 1 when nothing is said.
fn wanted(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// Whether the controller has seen the newest version.
fn unseen(object: &Value, about: &str) -> Option<Finding> {
    let (made, seen) = (number(&object["metadata"]["generation"]), number(&object["status"]["observedGeneration"]));
    (seen < made).then(|| {
        Finding::wrong(about, "its newest version has not been seen by its controller yet")
            .mend("when this lasts: `caravel status` tells whether the controllers run")
    })
}

/// The Pods of an owner that are not well.
fn bad_pods(world: &World, owner: &Value) -> Vec<Finding> {
    grouped(world.pods_of(owner).into_iter().map(|p| pod::pod(world, p)).filter(|f| !f.fine))
}

/// What stops an owner from making its Pods.
fn cannot_make(world: &World, owner: &Value) -> Option<Finding> {
    let told = match condition(owner, "ReplicaFailure").filter(|c| c["status"] == "True") {
        Some(failure) => text(&failure["message"]),
        None => world.warning(owner, &["FailedCreate"])?.1,
    };
    let mend = if told.contains("exceeded quota") {
        "raise the ResourceQuota, or ask for less"
    } else if told.contains("webhook") {
        "mend the webhook's server, or its configuration"
    } else if told.contains("PodSecurity") || told.contains("violates") {
        "make the Pods as the namespace's Pod security level demands, or lower that level"
    } else if told.contains("serviceaccount") {
        "make the ServiceAccount that the Pods name"
    } else {
        "the message names who refused, and why"
    };
    Some(Finding::wrong("the API", format!("it refuses the Pods: {told}")).mend(mend))
}

/// Why a Deployment is not as it should be.
pub fn deployment(world: &World, object: &Value) -> Finding {
    let about = format!("Deployment {}", name(object));
    if let Some(unseen) = unseen(object, &about) {
        return unseen;
    }
    let (wanted, status) = (wanted(object), &object["status"]);
    let (updated, available) = (number(&status["updatedReplicas"]), number(&status["availableReplicas"]));
    if wanted == 0 {
        return Finding::fine(about, "it is scaled to 0");
    }
    let well = updated >= wanted && available >= wanted && number(&status["replicas"]) == updated;
    let newest = world.replica_sets.iter().filter(|r| controls(object, r)).max_by_key(|r| {
        text(&r["metadata"]["annotations"]["deployment.kubernetes.io/revision"]).parse::<i64>().unwrap_or(0)
    });
    if well {
        return Finding::fine(about, format!("{available} of {wanted} replicas are available"));
    }
    if object["spec"]["paused"] == true {
        return Finding::wrong(about, format!("its rollout is paused, with {updated} of {wanted} replicas updated"))
            .mend(format!("kubectl rollout resume deployment -n {}", name(object).replace('/', " ")));
    }
    let late = condition(object, "Progressing").is_some_and(|c| c["reason"] == "ProgressDeadlineExceeded");
    let late = if late { ", and its rollout has made no progress within its deadline" } else { "" };
    let says = format!("{available} of {wanted} replicas are available, {updated} updated{late}");
    let mut causes: Vec<Finding> = newest.map(|r| replica_set(world, r)).into_iter().filter(|f| !f.fine).collect();
    if causes.is_empty() {
        // The newest is well: what is left of the older ones is on its way out.
        let older = world.replica_sets.iter().filter(|r| controls(object, r) && number(&r["status"]["replicas"]) > 0);
        causes.extend(older.map(|r| replica_set(world, r)).filter(|f| !f.fine));
    }
    let mut finding = Finding::wrong(about, says).because(causes);
    if !late.is_empty() {
        finding = finding.mend(format!(
            "back to what ran before: kubectl rollout undo deployment -n {}",
            name(object).replace('/', " ")
        ));
    }
    finding
}

/// How many Pods there are of how many, and, when these are not the wanted ones, why.
fn replicas(world: &World, object: &Value) -> Result<String, (String, Vec<Finding>)> {
    let (wanted, available) = (wanted(object), number(&object["status"]["availableReplicas"]));
    let says = format!("{available} of {wanted} replicas are available");
    if available >= wanted && number(&object["status"]["replicas"]) <= wanted {
        return Ok(says);
    }
    let mut causes = bad_pods(world, object);
    if (world.pods_of(object).len() as i64) < wanted {
        causes.extend(cannot_make(world, object));
    }
    Err((says, causes))
}

/// Why a ReplicaSet has not its Pods.
pub fn replica_set(world: &World, object: &Value) -> Finding {
    let about = format!("ReplicaSet {}", name(object));
    if let Some(unseen) = unseen(object, &about) {
        return unseen;
    }
    let (says, causes) = match replicas(world, object) {
        Ok(says) => return Finding::fine(about, says),
        Err(wrong) => wrong,
    };
    let soon = if causes.is_empty() { "; its Pods run, and become available after minReadySeconds" } else { "" };
    Finding::wrong(about, format!("{says}{soon}")).because(causes)
}

/// Why a StatefulSet has not its Pods.
pub fn stateful_set(world: &World, object: &Value) -> Finding {
    let about = format!("StatefulSet {}", name(object));
    if let Some(unseen) = unseen(object, &about) {
        return unseen;
    }
    let (says, causes) = match replicas(world, object) {
        Ok(says) => return Finding::fine(about, says),
        Err(wrong) => wrong,
    };
    let ordered = object["spec"]["podManagementPolicy"] != "Parallel" && !causes.is_empty();
    let order = if ordered { ": one after another, and this one holds up those after it" } else { "" };
    Finding::wrong(about, format!("{says}{order}")).because(causes)
}

/// Why a DaemonSet has not its Pods.
pub fn daemon_set(world: &World, object: &Value) -> Finding {
    let about = format!("DaemonSet {}", name(object));
    if let Some(unseen) = unseen(object, &about) {
        return unseen;
    }
    let status = &object["status"];
    let (wanted, available) = (number(&status["desiredNumberScheduled"]), number(&status["numberAvailable"]));
    if wanted == 0 {
        return Finding::wrong(about, "no node matches its node selector, affinity and tolerations")
            .mend("label a node as its template's nodeSelector demands, or tolerate the nodes' taints");
    }
    if available >= wanted && number(&status["numberMisscheduled"]) == 0 {
        return Finding::fine(about, format!("it is available on {available} of {wanted} nodes"));
    }
    let mut causes = bad_pods(world, object);
    if causes.is_empty() {
        causes.extend(cannot_make(world, object));
    }
    Finding::wrong(about, format!("it is available on {available} of {wanted} nodes")).because(causes)
}

/// Why a Job is not done.
pub fn job(world: &World, object: &Value) -> Finding {
    let about = format!("Job {}", name(object));
    let status = &object["status"];
    if is_true(object, "Complete") {
        return Finding::fine(about, "it is complete");
    }
    let mut causes = bad_pods(world, object);
    if let Some(failed) = condition(object, "Failed").filter(|c| c["status"] == "True") {
        let mend = match text(&failed["reason"]) {
            "BackoffLimitExceeded" => {
                "mend what its Pods fail at, then make the Job anew; spec.backoffLimit is how often it tries"
            }
            "DeadlineExceeded" => "raise spec.activeDeadlineSeconds, or make it quicker",
            "PodFailurePolicy" => "its podFailurePolicy gave it up at the first such failure",
            _ => "make the Job anew when the cause is mended",
        };
        return Finding::wrong(about, format!("it failed: {}: {}", text(&failed["reason"]), text(&failed["message"])))
            .mend(mend)
            .because(causes);
    }
    if object["spec"]["suspend"] == true {
        return Finding::wrong(about, "it is suspended")
            .mend("set spec.suspend to false (or whoever queues Jobs does)");
    }
    let (active, done) = (number(&status["active"]), number(&status["succeeded"]));
    let of = object["spec"]["completions"].as_i64().map_or_else(String::new, |n| format!(" of {n}"));
    if active == 0 {
        causes.extend(cannot_make(world, object));
    }
    let failed = number(&status["failed"]);
    let says = format!("{active} Pods are at work, {done}{of} succeeded, {failed} failed");
    if causes.is_empty() { Finding::fine(about, says) } else { Finding::wrong(about, says).because(causes) }
}

/// Whether a Pod has all labels of a Service's selector.
fn selected(selector: &Value, pod: &Value) -> bool {
    let mut pairs = selector.as_object().into_iter().flatten();
    pairs.all(|(key, value)| pod["metadata"]["labels"][key] == *value)
}

/// Why nothing answers at a Service.
pub fn service(world: &World, object: &Value) -> Finding {
    let about = format!("Service {}", name(object));
    let spec = &object["spec"];
    if spec["type"] == "ExternalName" {
        return Finding::fine(about, format!("it is another name for {}", text(&spec["externalName"])));
    }
    let selector = &spec["selector"];
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        return Finding::fine(about, "it has no selector: whoever made it also makes its EndpointSlices");
    }
    let pods: Vec<&Value> = world.pods.iter().filter(|p| selected(selector, p)).collect();
    if pods.is_empty() {
        return no_pods(world, about, selector);
    }
    let found: Vec<Finding> = pods.iter().map(|p| pod::pod(world, p)).collect();
    let all = found.len();
    let (fine, bad): (Vec<_>, Vec<_>) = found.into_iter().partition(|f| f.fine);
    if fine.is_empty() {
        return Finding::wrong(about, format!("none of its {all} Pods is ready")).because(grouped(bad));
    }
    if let Some(unnamed) = spec["ports"].as_array().into_iter().flatten().find(|port| !is_served(port, &pods)) {
        let port = text(&unnamed["targetPort"]);
        return Finding::wrong(
            about,
            format!("no container of its Pods has a port named {port:?}, where port {} leads", unnamed["port"]),
        )
        .mend("name the port so in the Pods, or use its number as targetPort");
    }
    if spec["type"] == "LoadBalancer"
        && object["status"]["loadBalancer"]["ingress"].as_array().is_none_or(Vec::is_empty)
    {
        return Finding::wrong(about, "it has no external address yet: nothing here gives it one")
            .mend("its cluster IP works within the cluster; outside use type NodePort, or a load-balancer controller");
    }
    let says = format!("{} of its {all} Pods are ready", fine.len());
    if bad.is_empty() { Finding::fine(about, says) } else { Finding::wrong(about, says).because(grouped(bad)) }
}

/// Whether any Pod has the port to which a Service's port leads.
fn is_served(port: &Value, pods: &[&Value]) -> bool {
    let Some(named) = port["targetPort"].as_str() else { return true };
    let containers = pods.iter().flat_map(|p| p["spec"]["containers"].as_array().into_iter().flatten());
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.any(|p| p["name"] == named)
}

fn no_pods(world: &World, about: String, selector: &Value) -> Finding {
    let pairs: Vec<String> =
        selector.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
    let matching = |pod: &Value| {
        selector.as_object().into_iter().flatten().filter(|(k, v)| pod["metadata"]["labels"][k.as_str()] == **v).count()
    };
    let finding = Finding::wrong(about, format!("no Pod has the labels of its selector: {}", pairs.join(", ")));
    let nearest = world.pods.iter().max_by_key(|p| matching(p)).filter(|p| matching(p) > 0 || pairs.len() == 1);
    let Some(nearest) = nearest else {
        return finding.mend("make Pods with these labels in this namespace, or mend the selector");
    };
    let labels = nearest["metadata"]["labels"].as_object().into_iter().flatten();
    let labels: Vec<String> = labels.map(|(k, v)| format!("{k}={}", text(v))).collect();
    finding.mend("make the selector and the Pods' labels agree").because([Finding::wrong(
        format!("the nearest, Pod {}", name(nearest)),
        format!("it has {}", labels.join(", ")),
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(owner: &str, name: &str, reason: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"},
            "ownerReferences": [{"controller": true, "uid": owner}]},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http"}]}]},
        "status": match reason {
            "" => json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
            reason => json!({"phase": "Pending", "containerStatuses":
                [{"name": "c", "image": "i", "ready": false, "state": {"waiting": {"reason": reason, "message": "m"}}}]}),
        }})
    }

    fn owner(uid: &str, spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": uid, "namespace": "a", "uid": uid}, "spec": spec, "status": status})
    }

    #[test]
    fn a_deployment_down_to_its_pods() {
        let mut set = owner("r", json!({"replicas": 2}), json!({"replicas": 2}));
        set["metadata"]["ownerReferences"] = json!([{"controller": true, "uid": "d"}]);
        let world = World {
            replica_sets: vec![set],
            pods: vec![pod("r", "p1", "ErrImagePull"), pod("r", "p2", "ErrImagePull")],
            ..World::default()
        };
        let stuck = owner(
            "d",
            json!({"replicas": 2}),
            json!({"replicas": 2, "updatedReplicas": 2, "conditions":
            [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}),
        );
        let text = deployment(&world, &stuck).render();
        assert!(
            text.starts_with("Deployment a/d: 0 of 2 replicas are available, 2 updated, and its rollout"),
            "{text}"
        );
        assert!(text.contains("  because ReplicaSet a/r: 0 of 2"), "{text}");
        assert!(
            text.contains("    because Pod a/p1 (and 1 more like it): container \"c\" cannot have its image"),
            "{text}"
        );
        assert!(text.contains("kubectl rollout undo deployment -n a d"), "{text}");
    }

    #[test]
    fn the_other_ends_of_a_deployment() {
        let world = World::default();
        for (spec, status, says, fine) in [
            (json!({"replicas": 0}), json!({}), "scaled to 0", true),
            (
                json!({"replicas": 1}),
                json!({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}),
                "1 of 1",
                true,
            ),
            (json!({"paused": true}), json!({"replicas": 1}), "paused", false),
        ] {
            let got = deployment(&world, &owner("d", spec, status));
            assert!(got.says.contains(says) && got.fine == fine, "{got:?}");
        }
        let mut unseen = owner("d", json!({}), json!({"observedGeneration": 1}));
        unseen["metadata"]["generation"] = json!(2);
        assert!(deployment(&world, &unseen).says.contains("has not been seen"));
    }

    #[test]
    fn pods_that_the_api_refuses() {
        let world = World {
            events: vec![
                json!({"involvedObject": {"uid": "s"}, "type": "Warning", "reason": "FailedCreate", "message": "exceeded quota: q"}),
            ],
            ..World::default()
        };
        let failing = json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity \"restricted\""}]});
        let got = replica_set(&world, &owner("r", json!({"replicas": 1}), failing));
        assert!(got.because[0].mends[0].contains("Pod security level"), "{got:?}");
        let got = stateful_set(&world, &owner("s", json!({"replicas": 1}), json!({})));
        assert!(got.because[0].mends[0].contains("ResourceQuota"), "{got:?}");
    }

    #[test]
    fn jobs() {
        let world = World { pods: vec![pod("j", "p", "CreateContainerConfigError")], ..World::default() };
        for (spec, status, says, causes, fine) in [
            (json!({}), json!({"conditions": [{"type": "Complete", "status": "True"}]}), "complete", 0, true),
            (json!({"suspend": true}), json!({}), "suspended", 0, false),
            (json!({"completions": 3}), json!({"active": 1, "succeeded": 1}), "1 Pods are at work, 1 of 3", 1, false),
            (
                json!({}),
                json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}]}),
                "BackoffLimitExceeded: m",
                1,
                false,
            ),
        ] {
            let got = job(&world, &owner("j", spec, status));
            assert!(got.says.contains(says) && got.fine == fine && got.because.len() == causes, "{got:?}");
        }
    }

    #[test]
    fn daemon_sets() {
        let world = World { pods: vec![pod("ds", "p", "ErrImagePull")], ..World::default() };
        let of = |wanted: i64, available: i64| {
            daemon_set(
                &world,
                &owner("ds", json!({}), json!({"desiredNumberScheduled": wanted, "numberAvailable": available})),
            )
        };
        assert!(of(0, 0).mends[0].contains("nodeSelector"));
        assert!(of(2, 2).fine);
        assert_eq!(of(2, 1).because.len(), 1);
    }

    #[test]
    fn services() {
        let world = World { pods: vec![pod("r", "good", ""), pod("r", "bad", "ErrImagePull")], ..World::default() };
        let of = |spec: Value| service(&world, &owner("s", spec, json!({})));
        for (spec, says, fine) in [
            (json!({"type": "ExternalName", "externalName": "x.org"}), "x.org", true),
            (json!({}), "no selector", true),
            (json!({"selector": {"app": "wbe"}}), "no Pod has the labels of its selector: app=wbe", false),
            (
                json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "https"}]}),
                "named \"https\"",
                false,
            ),
            (
                json!({"selector": {"app": "web"}, "type": "LoadBalancer", "ports": [{"port": 80, "targetPort": "http"}]}),
                "no external address",
                false,
            ),
            (
                json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
                "1 of its 2 Pods",
                false,
            ),
        ] {
            let got = of(spec);
            assert!(got.says.contains(says) && got.fine == fine, "{got:?}");
        }
        assert_eq!(of(json!({"selector": {"app": "wbe"}})).because[0].says, "it has app=web");
        let none = World { pods: vec![pod("r", "bad", "ErrImagePull")], ..World::default() };
        let got = service(&none, &owner("s", json!({"selector": {"app": "web"}}), json!({})));
        assert_eq!((got.says.as_str(), got.because.len()), ("none of its 1 Pods is ready", 1));
    }
}
