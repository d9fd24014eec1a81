//! Pods.

use super::finding::Finding;
use super::world::{World, condition, is_true, name, number, text};
use super::{node, storage};
use serde_json::Value;

/// What is wrong with a Pod: the first thing that keeps it from running and being ready.
pub fn pod(world: &World, pod: &Value) -> Finding {
    let about = format!("Pod {}", name(pod));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return terminating(world, pod, about);
    }
    match text(&pod["status"]["phase"]) {
        "Succeeded" => return Finding::fine(about, "it has run to its end"),
        "Failed" => return failed(pod, about),
        _ => {}
    }
    if text(&pod["spec"]["nodeName"]).is_empty() {
        return waiting_for_node(world, pod, about);
    }
    if let Some(down) = node_down(world, pod) {
        return Finding::wrong(about, "its node does not answer").because([down]);
    }
    let mut none = true;
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for status in pod["status"][list].as_array().into_iter().flatten() {
            none = false;
            if let Some(found) = container(world, pod, status, list == "initContainerStatuses") {
                return Finding { about, ..found };
            }
        }
    }
    if none {
        return starting(world, pod, about, "its kubelet has not begun with it yet");
    }
    unready(world, pod, about)
}

fn words(pod: &Value) -> String {
    format!("-n {} {}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
}

fn node_down(world: &World, pod: &Value) -> Option<Finding> {
    let found = world.nodes.iter().find(|n| n["metadata"]["name"] == pod["spec"]["nodeName"])?;
    (!is_true(found, "Ready")).then(|| node::node(found))
}

fn terminating(world: &World, pod: &Value, about: String) -> Finding {
    let until = text(&pod["metadata"]["deletionTimestamp"]);
    let held: Vec<&str> = pod["metadata"]["finalizers"].as_array().into_iter().flatten().map(text).collect();
    let ended = matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
    if let Some(down) = node_down(world, pod).filter(|_| !ended) {
        return Finding::wrong(
            about,
            format!("it was to end by {until}, but its node does not answer, so nobody can tell that it has"),
        )
        .mend(format!("when the machine is gone for good: `kubectl delete pod {} --force`", words(pod)))
        .because([down]);
    }
    if !held.is_empty() {
        let state = if ended { "its containers have ended" } else { "it is being deleted" };
        return Finding::wrong(about, format!("{state} (deadline {until}), and finalizers hold it: {}", held.join(", "))).mend(
            "whoever set a finalizer removes it when its clean-up is done; if that controller is gone for good, take it off: \
             kubectl patch --type=merge -p '{\"metadata\":{\"finalizers\":null}}'",
        );
    }
    let grace = number(&pod["metadata"]["deletionGracePeriodSeconds"]);
    Finding::wrong(about, format!("it is ending: its containers have {grace} s, until {until}")).mend(
        "a program that ignores SIGTERM uses all of that: handle the signal, or lower terminationGracePeriodSeconds",
    )
}

fn failed(pod: &Value, about: String) -> Finding {
    let (reason, message) = (text(&pod["status"]["reason"]), text(&pod["status"]["message"]));
    if !reason.is_empty() {
        let mend = match reason {
            "Evicted" => {
                "give it requests for what it uses, or its node more room; a controller makes another Pod in its place"
            }
            "DeadlineExceeded" => "raise spec.activeDeadlineSeconds, or make it quicker",
            "UnexpectedAdmissionError" | "OutOfcpu" | "OutOfmemory" | "OutOfpods" => {
                "the node had no room when it came: delete it, and let its controller make another"
            }
            _ => "delete it; a controller makes another Pod in its place",
        };
        return Finding::wrong(about, format!("it failed: {reason}: {message}")).mend(mend);
    }
    let all = ["initContainerStatuses", "containerStatuses"].into_iter();
    let bad = all
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
        .find(|s| number(&s["state"]["terminated"]["exitCode"]) != 0);
    match bad {
        Some(status) => {
            let container = text(&status["name"]);
            Finding::wrong(
                about,
                format!("it failed: container {container:?} {}", ended(&status["state"]["terminated"])),
            )
            .mend(format!("kubectl logs {} -c {container}", words(pod)))
        }
        None => Finding::wrong(about, "it failed"),
    }
}

fn waiting_for_node(world: &World, pod: &Value, about: String) -> Finding {
    let gates: Vec<&str> =
        pod["spec"]["schedulingGates"].as_array().into_iter().flatten().map(|g| text(&g["name"])).collect();
    if !gates.is_empty() {
        return Finding::wrong(about, format!("it has scheduling gates: {}", gates.join(", ")))
            .mend("whoever set them removes them when it may be scheduled; without such a controller remove spec.schedulingGates");
    }
    let mut causes = Vec::new();
    for wanted in storage::claims_of(pod) {
        match world.claims.iter().find(|c| c["metadata"]["name"] == wanted) {
            Some(claim) => causes.push(storage::claim(world, claim)),
            None => causes.push(
                Finding::wrong(format!("PersistentVolumeClaim {wanted}"), "there is none of that name")
                    .mend("make the claim"),
            ),
        }
    }
    causes.retain(|c| !c.fine);
    let says = match condition(pod, "PodScheduled").map(|c| text(&c["message"])).filter(|m| !m.is_empty()) {
        Some(message) => format!("it waits for a node: {message}"),
        None => "it waits for a node".to_owned(),
    };
    let ask = Some((text(&pod["metadata"]["namespace"]).to_owned(), text(&pod["metadata"]["name"]).to_owned()));
    Finding { ask, ..Finding::wrong(about, says).because(causes) }
}

/// How a container ended, in words.
fn ended(state: &Value) -> String {
    let (code, signal) = (number(&state["exitCode"]), number(&state["signal"]));
    let how = match (text(&state["reason"]), code) {
        ("OOMKilled", _) => "was killed for using more memory than its limit".to_owned(),
        (_, 0) => "ended by itself with code 0".to_owned(),
        (_, 126) => "ended with code 126: its command is not executable".to_owned(),
        (_, 127) => "ended with code 127: its command was not found".to_owned(),
        (_, 137) => "was killed (SIGKILL): by the kubelet after its grace period, or for lack of memory".to_owned(),
        (_, 139) => "crashed (SIGSEGV)".to_owned(),
        (_, 143) => "was told to end (SIGTERM)".to_owned(),
        _ if signal > 0 => format!("was ended by signal {signal}"),
        _ => format!("ended with code {code}"),
    };
    match text(&state["message"]).trim() {
        "" => how,
        message => format!("{how}: {message}"),
    }
}

/// What is wrong with a container; its Pod's name is put in by the caller.
fn container(world: &World, pod: &Value, status: &Value, init: bool) -> Option<Finding> {
    let called = text(&status["name"]);
    let what = if init { format!("init container {called:?}") } else { format!("container {called:?}") };
    let logs = format!("kubectl logs {} -c {called}", words(pod));
    let waiting = &status["state"]["waiting"];
    let (reason, message) = (text(&waiting["reason"]), text(&waiting["message"]));
    let image = text(&status["image"]);
    let last = &status["lastState"]["terminated"];
    let wrong = |says: String| Some(Finding::wrong("", says));
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            let told = world.warning(pod, &["Failed"]).map_or(message, |(_, told)| told);
            wrong(format!("{what} cannot have its image {image:?}: {told}")).map(|f| {
                f.mend("see that the name and tag are right, that the registry answers, and that imagePullSecrets are right for it")
                    .mend(format!("without a registry: `caravel image build -t {image} DIRECTORY`, or `caravel image` to import it"))
            })
        }
        "InvalidImageName" => wrong(format!("{what} has an image name that is none: {image:?}"))
            .map(|f| f.mend("name it REGISTRY/NAME:TAG")),
        "ErrImageNeverPull" => wrong(format!(
            "{what} must not pull its image {image:?} (imagePullPolicy: Never), and it is not on the node"
        ))
        .map(|f| f.mend("bring the image to the node (`caravel image`), or use imagePullPolicy: IfNotPresent")),
        "CreateContainerConfigError" => wrong(format!("{what} cannot be made: {message}"))
            .map(|f| f.mend("make the ConfigMap, Secret or key that it names, or mark the reference optional")),
        "CreateContainerError" | "RunContainerError" | "StartError" => {
            wrong(format!("{what} cannot be started: {message}")).map(|f| {
                f.mend(
                    "the message names what the runtime refused: often a command that is not in the image, or a mount",
                )
            })
        }
        "CrashLoopBackOff" => {
            let restarts = number(&status["restartCount"]);
            let mut found =
                Finding::wrong("", format!("{what} crashes again and again ({restarts} restarts): it {}", ended(last)))
                    .mend(format!("{logs} --previous"));
            if text(&last["reason"]) == "OOMKilled" {
                found = found.mend("raise its memory limit, or make it use less");
            }
            if let Some((_, told)) =
                world.warning(pod, &["Unhealthy"]).filter(|_| matches!(number(&last["exitCode"]), 137 | 143))
            {
                found = found.because([Finding::wrong("its probe", told)]);
            }
            Some(found)
        }
        "ContainerCreating" | "PodInitializing" if !init && initializing(pod) => None,
        "" if !status["state"]["terminated"].is_null() => {
            let code = number(&status["state"]["terminated"]["exitCode"]);
            (code != 0)
                .then(|| Finding::wrong("", format!("{what} {}", ended(&status["state"]["terminated"]))).mend(logs))
        }
        "" if !status["state"]["running"].is_null() => {
            let sidecar = init && status["started"] == true;
            if init && !sidecar {
                return wrong(format!("{what} is still running, and the others wait for it")).map(|f| f.mend(logs));
            }
            None
        }
        _ => Some(starting(world, pod, String::new(), &format!("{what} is being started"))),
    }
}

/// Whether init containers are still to come, so that the others rightly wait.
fn initializing(pod: &Value) -> bool {
    condition(pod, "Initialized").is_some_and(|c| c["status"] == "False")
}

fn starting(world: &World, pod: &Value, about: String, says: &str) -> Finding {
    let (kind, told) =
        match world.warning(pod, &["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedMapVolume"]) {
            None => return Finding::wrong(about, format!("{says}; nothing has gone wrong so far")),
            Some(warning) => warning,
        };
    let mend = match kind {
        "FailedCreatePodSandBox" => "the Pod network or the runtime refused: `caravel status` on its node",
        _ => "make what the volume names (a ConfigMap, Secret or claim), or mend the storage behind it",
    };
    Finding::wrong(about, format!("{says}, and that fails: {told}")).mend(mend)
}

/// It runs: is it ready?
fn unready(world: &World, pod: &Value, about: String) -> Finding {
    let statuses = || pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    if let Some(status) = statuses().find(|s| s["ready"] != true && s["state"]["terminated"].is_null()) {
        let called = text(&status["name"]);
        let probe = if status["started"] == false { "startup" } else { "readiness" };
        let told = world.warning(pod, &["Unhealthy"]).map_or_else(String::new, |(_, told)| format!(": {told}"));
        return Finding::wrong(about, format!("container {called:?} runs but is not ready, as its {probe} probe says{told}"))
            .mend(format!("kubectl logs {} -c {called}", words(pod)))
            .mend("see that the probe asks the right port and path, and gives it enough time (initialDelaySeconds, timeoutSeconds, failureThreshold)");
    }
    for gate in pod["spec"]["readinessGates"].as_array().into_iter().flatten().map(|g| text(&g["conditionType"])) {
        if !is_true(pod, gate) {
            return Finding::wrong(about, format!("it runs, but its readiness gate {gate} is not True"))
                .mend("the controller that is responsible for that condition sets it");
        }
    }
    if !is_true(pod, "Ready") {
        return Finding::wrong(about, "it runs; its kubelet has not called it ready yet");
    }
    let restarts: i64 = statuses().map(|s| number(&s["restartCount"])).sum();
    let again = if restarts > 0 { format!(" (after {restarts} restarts)") } else { String::new() };
    Finding::fine(about, format!("it runs and is ready, on {}{again}", text(&pod["spec"]["nodeName"])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn world() -> World {
        let node = |name: &str, status: &str| json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        World {
            nodes: vec![node("up", "True"), node("down", "Unknown")],
            events: vec![
                json!({"involvedObject": {"uid": "p"}, "type": "Warning", "reason": "Unhealthy", "message": "Readiness probe failed: 503", "lastTimestamp": "2026-01-02T00:00:00Z"}),
                json!({"involvedObject": {"uid": "p"}, "type": "Warning", "reason": "Failed", "message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"}),
                json!({"involvedObject": {"uid": "p"}, "type": "Warning", "reason": "Failed", "message": "no such host", "lastTimestamp": "2026-01-02T00:00:00Z"}),
                json!({"involvedObject": {"uid": "m"}, "type": "Warning", "reason": "FailedMount", "message": "configmap \"x\" not found"}),
            ],
            ..World::default()
        }
    }

    fn with(node: &str, more: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "p"}, "spec": {"nodeName": node}, "status": {"phase": "Pending"}});
        for part in ["metadata", "spec", "status"] {
            for (key, value) in more[part].as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        pod
    }

    fn running(state: Value, more: Value) -> Value {
        let mut status = json!({"name": "c", "image": "i:1", "state": state, "ready": false});
        for (key, value) in more.as_object().into_iter().flatten() {
            status[key] = value.clone();
        }
        with("up", json!({"status": {"containerStatuses": [status]}}))
    }

    #[test]
    fn every_state_has_its_cause_and_mend() {
        let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let crash = |code: i64, reason: &str| json!({"restartCount": 4, "lastState": {"terminated": {"exitCode": code, "reason": reason}}});
        let none = json!({});
        let table: Vec<(Value, &str, &str)> = vec![
            (
                running(waiting("ImagePullBackOff", "back-off"), none.clone()),
                "cannot have its image \"i:1\": no such host",
                "imagePullSecrets",
            ),
            (running(waiting("ErrImageNeverPull", ""), none.clone()), "imagePullPolicy: Never", "caravel image"),
            (running(waiting("InvalidImageName", ""), none.clone()), "image name that is none", "REGISTRY"),
            (
                running(waiting("CreateContainerConfigError", "secret \"s\" not found"), none.clone()),
                "secret \"s\" not found",
                "optional",
            ),
            (
                running(waiting("RunContainerError", "no such file"), none.clone()),
                "cannot be started: no such file",
                "command",
            ),
            (
                running(waiting("CrashLoopBackOff", ""), crash(1, "Error")),
                "(4 restarts): it ended with code 1",
                "--previous",
            ),
            (running(waiting("CrashLoopBackOff", ""), crash(127, "Error")), "command was not found", "--previous"),
            (
                running(waiting("CrashLoopBackOff", ""), crash(137, "OOMKilled")),
                "more memory than its limit",
                "memory limit",
            ),
            (
                running(json!({"running": {}}), json!({"started": true})),
                "readiness probe says: Readiness probe failed: 503",
                "right port",
            ),
            (running(json!({"running": {}}), json!({"started": false})), "startup probe", "right port"),
            (running(json!({"terminated": {"exitCode": 3}}), none), "ended with code 3", "kubectl logs -n a p -c c"),
            (with("down", json!({})), "does not answer", ""),
            (
                with("", json!({"spec": {"schedulingGates": [{"name": "g/x"}]}})),
                "gates: g/x",
                "remove spec.schedulingGates",
            ),
            (
                with("up", json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}})),
                "Evicted: low on memory",
                "requests",
            ),
            (with("up", json!({"metadata": {"uid": "m"}})), "that fails: configmap \"x\" not found", "ConfigMap"),
            (
                with(
                    "up",
                    json!({"metadata": {"deletionTimestamp": "T", "finalizers": ["e.com/x"]}, "status": {"phase": "Succeeded"}}),
                ),
                "have ended (deadline T), and finalizers hold it: e.com/x",
                "finalizers",
            ),
            (with("down", json!({"metadata": {"deletionTimestamp": "T"}})), "nobody can tell", "--force"),
            (
                with("up", json!({"metadata": {"deletionTimestamp": "T", "deletionGracePeriodSeconds": 30}})),
                "have 30 s, until T",
                "SIGTERM",
            ),
        ];
        for (object, says, mend) in table {
            let got = pod(&world(), &object);
            assert!(got.says.contains(says) && !got.fine, "{says}: {got:?}");
            assert!(mend.is_empty() || got.mends.iter().any(|m| m.contains(mend)), "{mend}: {got:?}");
            assert_eq!(got.about, "Pod a/p");
        }
    }

    #[test]
    fn init_containers_come_first() {
        let status = |name: &str, state: Value| json!({"name": name, "state": state, "ready": false});
        let object = with(
            "up",
            json!({"status": {
            "conditions": [{"type": "Initialized", "status": "False"}],
            "initContainerStatuses": [status("first", json!({"running": {}}))],
            "containerStatuses": [status("main", json!({"waiting": {"reason": "PodInitializing"}}))]}}),
        );
        assert!(pod(&world(), &object).says.starts_with("init container \"first\" is still running"));
    }

    #[test]
    fn what_is_well_is_said_to_be() {
        let ready = with(
            "up",
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}}}]}}),
        );
        let got = pod(&world(), &ready);
        assert!(got.fine && got.says.contains("on up (after 2 restarts)"), "{got:?}");
        assert!(pod(&world(), &with("up", json!({"status": {"phase": "Succeeded"}}))).fine);
    }

    #[test]
    fn a_pod_without_a_node_is_asked_about_with_its_claims() {
        let object = with(
            "",
            json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}}),
        );
        let got = pod(&world(), &object);
        assert_eq!(got.ask, Some(("a".into(), "p".into())));
        assert!(got.says.ends_with("0/1 nodes") && got.because[0].about == "PersistentVolumeClaim none");
    }
}
