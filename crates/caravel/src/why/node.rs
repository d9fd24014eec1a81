//! Nodes and namespaces.

use super::finding::Finding;
use super::world::{condition, is_true, name, text};
use serde_json::Value;

/// Why a Node does not take or run Pods.
pub fn node(node: &Value) -> Finding {
    let about = format!("Node {}", name(node));
    let short = name(node);
    match condition(node, "Ready") {
        None => {
            return Finding::wrong(about, "it was made, but no kubelet has reported for it").mend(format!(
                "start the program on that machine (`caravel agent`), or `kubectl delete node {short}`"
            ));
        }
        Some(ready) if ready["status"] == "Unknown" => {
            let since = text(&ready["lastHeartbeatTime"]);
            return Finding::wrong(
                about,
                format!("it has been silent since {since}: its kubelet, its machine or the network between is down"),
            )
            .mend("on that machine: `caravel status` tells whether the program runs; `caravel agent` starts it")
            .mend(format!("a machine that is gone for good: `kubectl delete node {short}`"));
        }
        Some(ready) if ready["status"] != "True" => {
            return Finding::wrong(about, format!("it is not Ready: {}", text(&ready["message"])))
                .mend("on that machine: `caravel status`, and the log in the data directory's logs/caravel.log");
        }
        Some(_) => {}
    }
    for (pressure, lacks, mend) in [
        ("MemoryPressure", "memory", "end Pods there, or give them memory requests and limits so that they spread"),
        ("DiskPressure", "disk space", "remove images and logs there, or give its disk more room"),
        ("PIDPressure", "process ids", "end the Pods that start so many processes"),
    ] {
        if is_true(node, pressure) {
            let message = condition(node, pressure).map_or("", |c| text(&c["message"]));
            return Finding::wrong(
                about,
                format!("it runs out of {lacks} and takes no more Pods that may wait: {message}"),
            )
            .mend(mend);
        }
    }
    if node["spec"]["unschedulable"] == true {
        return Finding::wrong(about, "it is cordoned: no new Pods go there").mend(format!("kubectl uncordon {short}"));
    }
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let hard: Vec<String> = taints
        .filter(|t| t["effect"] != "PreferNoSchedule")
        .map(|t| format!("{}={}:{}", text(&t["key"]), text(&t["value"]), text(&t["effect"])))
        .collect();
    if hard.is_empty() {
        return Finding::fine(about, "it is Ready and takes Pods");
    }
    Finding::fine(about, format!("it is Ready; Pods that do not tolerate its taints stay away: {}", hard.join(", ")))
}

/// Why a Namespace does not go.
pub fn namespace(namespace: &Value) -> Finding {
    let about = format!("Namespace {}", name(namespace));
    if namespace["status"]["phase"] != "Terminating" {
        return Finding::fine(about, "it is active");
    }
    let mut causes = Vec::new();
    for (kind, what, mend) in [
        (
            "NamespaceDeletionDiscoveryFailure",
            "not all kinds of objects can be found out",
            "an APIService has no server behind it: `kubectl get apiservices` shows which; mend or delete it",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "an API group has a name that cannot be read",
            "delete the APIService with that name",
        ),
        (
            "NamespaceDeletionContentFailure",
            "something in it cannot be deleted",
            "the message tells what refused: often a webhook whose server is gone; mend or delete the webhook's configuration",
        ),
        (
            "NamespaceContentRemaining",
            "objects are still there",
            "they go when their own deletion is done: `caravel why KIND/NAME -n NAMESPACE` for one of them",
        ),
        (
            "NamespaceFinalizersRemaining",
            "finalizers hold objects",
            "the controller that set them removes them; if it is gone for good, take them off by hand",
        ),
    ] {
        if let Some(found) = condition(namespace, kind).filter(|c| c["status"] == "True") {
            causes.push(Finding::wrong(what, text(&found["message"])).mend(mend));
        }
    }
    let since = text(&namespace["metadata"]["deletionTimestamp"]);
    let finalizers: Vec<&str> = namespace["spec"]["finalizers"].as_array().into_iter().flatten().map(text).collect();
    let foreign: Vec<&str> = finalizers.iter().copied().filter(|f| *f != "kubernetes").collect();
    if !foreign.is_empty() {
        causes.push(
            Finding::wrong("its own finalizers", foreign.join(", "))
                .mend("whoever set them takes them off through the namespace's `finalize` subresource"),
        );
    }
    Finding::wrong(about, format!("it is being deleted since {since}")).because(causes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes() {
        let with = |spec: Value, conditions: Value| json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}});
        let ready = json!({"type": "Ready", "status": "True"});
        for (object, says, mend, fine) in [
            (with(json!({}), json!([])), "no kubelet has reported", "caravel agent", false),
            (
                with(json!({}), json!([{"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "T"}])),
                "silent since T",
                "kubectl delete node n",
                false,
            ),
            (
                with(json!({}), json!([{"type": "Ready", "status": "False", "message": "no runtime"}])),
                "no runtime",
                "caravel status",
                false,
            ),
            (
                with(json!({}), json!([ready, {"type": "DiskPressure", "status": "True"}])),
                "disk space",
                "images",
                false,
            ),
            (with(json!({"unschedulable": true}), json!([ready])), "cordoned", "kubectl uncordon n", false),
            (
                with(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}), json!([ready])),
                "k=:NoSchedule",
                "",
                true,
            ),
            (with(json!({}), json!([ready])), "takes Pods", "", true),
        ] {
            let got = node(&object);
            assert!(got.says.contains(says) && got.fine == fine, "{got:?}");
            assert!(got.mends.iter().any(|m| m.contains(mend)) || mend.is_empty(), "{got:?}");
        }
    }

    #[test]
    fn namespaces() {
        assert!(namespace(&json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}})).fine);
        let stuck = namespace(&json!({
            "metadata": {"name": "a", "deletionTimestamp": "T"}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Terminating", "conditions": [
                {"type": "NamespaceDeletionDiscoveryFailure", "status": "False"},
                {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "example.com/x in 1 resource instances"}]},
        }));
        assert_eq!(stuck.because.len(), 1);
        assert!(stuck.because[0].says.contains("example.com/x"));
    }
}
