//! Jobs over the wire: counting, indexes, policies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Objects, condition, condition_of, name_of};
use serde_json::{Value, json};

/// A Job that runs a shell script; `spec` is merged over the rest.
fn job(name: &str, script: &str, restart: &str, spec: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": {
            "restartPolicy": restart, "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        }}},
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

const INDEXED: &str = "Indexed";
const SLEEP: &str = "exec sleep 3600";

struct World {
    ns: Namespace,
    jobs: Objects,
    pods: Objects,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        World { jobs: ns.objects("batch/v1", "jobs"), pods: ns.objects("v1", "pods"), ns }
    }

    fn ends(&self, name: &str, how: &str) -> Value {
        self.jobs.until(name, how, |j| condition(j, how) == "True")
    }

    fn active(&self, name: &str, n: usize) -> Vec<Value> {
        self.pods.until_all(&format!("job-name={name}"), &format!("{n} running pods"), |all| {
            (all.len() == n && all.iter().all(|p| p["status"]["phase"] == "Running")).then(|| all.to_vec())
        })
    }
}

fn reason<'a>(job: &'a Value, type_: &str) -> &'a str {
    condition_of(job, type_).and_then(|c| c["reason"].as_str()).unwrap_or_default()
}

fn count(job: &Value, field: &str) -> i64 {
    job["status"][field].as_i64().unwrap_or(0)
}

#[test]
fn tasks_that_fail_are_restarted_locally() {
    let w = World::new("jlocal");
    let script = "if [ -e /data/seen ]; then exit 0; fi; touch /data/seen; exit 1";
    w.jobs.create(&job("j", script, "OnFailure", json!({"completions": 2, "parallelism": 2})));
    let done = w.ends("j", "Complete");
    assert_eq!((count(&done, "succeeded"), count(&done, "failed"), count(&done, "active")), (2, 0, 0));
    assert!(done["status"]["completionTime"].is_string());
    assert_eq!((condition(&done, "SuccessCriteriaMet"), reason(&done, "Complete")), ("True", "CompletionsReached"));
    for pod in w.pods.list("job-name=j") {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
        assert!(pod["metadata"]["finalizers"].is_null(), "counted pods are free to go");
    }
}

#[test]
fn an_exit_code_fails_the_job_early() {
    let w = World::new("jcode");
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}}]});
    let spec = json!({"completions": 2, "parallelism": 2, "backoffLimit": 6, "completionMode": INDEXED, "podFailurePolicy": policy});
    let script = format!("[ $JOB_COMPLETION_INDEX = 0 ] && exit 42; {SLEEP}");
    w.jobs.create(&job("j", &script, "Never", spec));
    let failed = w.ends("j", "Failed");
    assert_eq!((reason(&failed, "FailureTarget"), reason(&failed, "Failed")), ("PodFailurePolicy", "PodFailurePolicy"));
    let message = condition_of(&failed, "Failed").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("exit code 42") && message.contains("FailJob rule at index 0"), "{message}");
    assert_eq!(
        (count(&failed, "active"), count(&failed, "failed")),
        (0, 2),
        "the other is stopped and counts as failed"
    );
}

#[test]
fn disruption_is_ignored_when_a_policy_says_so() {
    let w = World::new("jdisr");
    let policy =
        json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    let spec = json!({"completions": 2, "parallelism": 2, "backoffLimit": 0, "completionMode": INDEXED, "podFailurePolicy": policy});
    let mut object = job("j", "until [ -e /go/on ]; do sleep 0.1; done", "Never", spec);
    let pod = &mut object["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "data", "configMap": {"name": "go", "optional": true}}]);
    pod["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/go");
    w.jobs.create(&object);
    let running = w.active("j", 2);
    for pod in &running {
        let name = name_of(pod);
        // The finalizer keeps the pod until it is counted: its condition can be read.
        let (code, said) = w.pods.post(
            &format!("{name}/eviction"),
            &json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}),
        );
        assert_eq!(code, 201, "{said}");
    }
    w.ns.objects("v1", "configmaps")
        .create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "go"}, "data": {"on": "1"}}));
    let done = w.ends("j", "Complete");
    assert_eq!((count(&done, "succeeded"), count(&done, "failed")), (2, 0));
    for pod in &running {
        w.pods.until_gone(name_of(pod));
    }
}

#[test]
fn indexes_are_told_to_the_pods() {
    let w = World::new("jindex");
    let spec = json!({"completions": 4, "parallelism": 2, "completionMode": INDEXED});
    let script =
        "[ \"$(hostname)\" = \"j-$JOB_COMPLETION_INDEX\" ] && echo $JOB_COMPLETION_INDEX > /dev/termination-log";
    let mut object = job("j", script, "Never", spec);
    object["spec"]["template"]["spec"]["subdomain"] = json!("sub");
    w.jobs.create(&object);
    let done = w.ends("j", "Complete");
    assert_eq!((count(&done, "succeeded"), done["status"]["completedIndexes"].as_str()), (4, Some("0-3")));
    let pods = w.pods.list("job-name=j,batch.kubernetes.io/job-name=j");
    let mut indexes: Vec<String> = pods
        .iter()
        .map(|p| {
            let index = p["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap();
            assert!(name_of(p).starts_with(&format!("j-{index}-")), "{}", name_of(p));
            assert_eq!(p["spec"]["hostname"], format!("j-{index}"));
            assert_eq!(p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], index);
            let told = &p["status"]["containerStatuses"][0]["state"]["terminated"]["message"];
            assert_eq!(told.as_str().map(str::trim), Some(index));
            index.to_owned()
        })
        .collect();
    indexes.sort();
    assert_eq!(indexes, ["0", "1", "2", "3"]);
}

#[test]
fn a_limit_per_index_lets_the_others_run() {
    let w = World::new("jperidx");
    let spec = json!({"completions": 4, "parallelism": 4, "completionMode": INDEXED, "backoffLimitPerIndex": 1});
    w.jobs.create(&job("j", "exit $((JOB_COMPLETION_INDEX % 2))", "Never", spec));
    let failed = w.ends("j", "Failed");
    assert_eq!(reason(&failed, "Failed"), "FailedIndexes");
    let texts = |f: &str| failed["status"][f].as_str().unwrap_or_default().to_owned();
    assert_eq!((texts("failedIndexes"), texts("completedIndexes")), ("1,3".into(), "0,2".into()));
    assert_eq!((count(&failed, "failed"), count(&failed, "succeeded")), (4, 2), "each failing index is tried twice");
}

#[test]
fn an_index_is_failed_by_policy() {
    let w = World::new("jfailidx");
    let policy = json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": INDEXED, "backoffLimitPerIndex": 1, "podFailurePolicy": policy});
    w.jobs.create(&job("j", "[ $JOB_COMPLETION_INDEX = 0 ] && exit 42; exit 0", "Never", spec));
    let failed = w.ends("j", "Failed");
    assert_eq!(reason(&failed, "Failed"), "FailedIndexes");
    assert_eq!(failed["status"]["failedIndexes"], "0");
    assert_eq!(failed["status"]["completedIndexes"], "1");
    assert_eq!((count(&failed, "failed"), count(&failed, "succeeded")), (1, 1), "not tried again");
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let w = World::new("jmaxfail");
    // One at a time: what else ran would be killed, and count as failed or not as it happens.
    let spec = json!({"completions": 4, "parallelism": 1, "completionMode": INDEXED, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0});
    w.jobs.create(&job("j", "exit 1", "Never", spec));
    let failed = w.ends("j", "Failed");
    assert_eq!(reason(&failed, "Failed"), "MaxFailedIndexesExceeded");
    assert_eq!(reason(&failed, "FailureTarget"), "MaxFailedIndexesExceeded");
    assert_eq!(failed["status"]["failedIndexes"], "0");
    assert_eq!(failed["status"]["completedIndexes"].as_str().unwrap_or_default(), "");
    assert_eq!((count(&failed, "failed"), count(&failed, "succeeded")), (1, 0), "the others never ran");
    assert_eq!((count(&failed, "active"), count(&failed, "terminating")), (0, 0));
}

/// The outcome of an indexed Job of `n` whose index 0 ends well (and the others, if `all`).
fn success(w: &World, n: i32, all: bool, policy: Value) -> Value {
    let spec = json!({"completions": n, "parallelism": n, "completionMode": INDEXED, "successPolicy": policy});
    let script = if all { "exit 0".to_owned() } else { format!("[ $JOB_COMPLETION_INDEX = 0 ] && exit 0; {SLEEP}") };
    w.jobs.create(&job("j", &script, "Never", spec));
    let done = w.ends("j", "Complete");
    assert_eq!((reason(&done, "SuccessCriteriaMet"), reason(&done, "Complete")), ("SuccessPolicy", "SuccessPolicy"));
    assert_eq!(condition(&done, "SuccessCriteriaMet"), "True");
    done
}

#[test]
fn success_policy_all_indexes() {
    let w = World::new("jsuccall");
    let done = success(&w, 2, true, json!({"rules": [{"succeededIndexes": "0,1"}]}));
    assert_eq!((done["status"]["completedIndexes"].as_str(), count(&done, "succeeded")), (Some("0,1"), 2));
}

#[test]
fn success_policy_some_indexes() {
    let w = World::new("jsuccidx");
    let done = success(&w, 3, false, json!({"rules": [{"succeededIndexes": "0"}]}));
    assert_eq!((done["status"]["completedIndexes"].as_str(), count(&done, "succeeded")), (Some("0"), 1));
    w.pods.until_all("job-name=j", "the others are stopped", |all| (all.len() == 1).then_some(()));
}

#[test]
fn success_policy_count() {
    let w = World::new("jsucccnt");
    let done = success(&w, 3, false, json!({"rules": [{"succeededCount": 1}]}));
    assert_eq!((done["status"]["completedIndexes"].as_str(), count(&done, "succeeded")), (Some("0"), 1));
}

#[test]
fn a_deleted_job_takes_its_pods() {
    let w = World::new("jdelete");
    w.jobs.create(&job("j", SLEEP, "Never", json!({"completions": 4, "parallelism": 2})));
    w.active("j", 2);
    w.jobs.until("j", "two active", |j| count(j, "active") == 2 && count(j, "ready") == 2);
    w.jobs.delete_with("j", &json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}));
    w.jobs.until_gone("j");
    w.pods.until_all("job-name=j", "no pods", |all| all.is_empty().then_some(()));
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    let w = World::new("jadopt");
    let made = w.jobs.create(&job("j", SLEEP, "Never", json!({"completions": 4, "parallelism": 2})));
    let pod = w.active("j", 2)[0].clone();
    let name = name_of(&pod);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    w.pods.json_patch(name, &json!([{"op": "remove", "path": "/metadata/ownerReferences"}]));
    w.pods.until(name, "adopted again", |p| {
        p["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
            && p["metadata"]["ownerReferences"][0]["controller"] == true
    });
    w.pods.json_patch(name, &json!([{"op": "remove", "path": "/metadata/labels"}]));
    w.pods.until(name, "released", |p| p["metadata"]["ownerReferences"].is_null());
    w.active("j", 2);
}

#[test]
fn status() {
    let w = World::new("jstatus");
    w.jobs.create(&job("j", SLEEP, "Never", json!({"completions": 4, "parallelism": 2})));
    w.active("j", 2);
    w.jobs.until("j", "two ready", |j| count(j, "ready") == 2);
    let mut watch = w.jobs.watch("app=j", &w.jobs.revision());
    let custom = |n: u8| json!([{"type": format!("Custom{n}"), "status": "True"}]);
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"conditions": custom(1)}});
    let patched = w.jobs.merge("j/status", &patch);
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    assert_eq!(condition(&patched, "Custom1"), "True");
    watch.until("MODIFIED", |j| condition(j, "Custom1") == "True");
    let updated = w.jobs.update("j/status", |j| j["status"]["conditions"] = custom(2));
    assert_eq!(condition(&updated, "Custom2"), "True");
    assert_eq!(condition(&w.jobs.get("j/status"), "Custom2"), "True");
    // Nonsense is refused: a Job is not Complete and Failed.
    let (code, said) = w.jobs.send(
        "PATCH",
        "j/status",
        "application/merge-patch+json",
        Some(&json!({"status": {"conditions": [{"type": "Complete", "status": "True"}, {"type": "Failed", "status": "True"}]}})),
    );
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
}

#[test]
fn lifecycle_of_a_suspended_job() {
    let w = World::new("jlife");
    let label = format!("of={}", w.ns.name);
    let mut object = job("j", "exit 0", "Never", json!({"suspend": true, "parallelism": 2, "completions": 2}));
    object["metadata"]["labels"]["of"] = json!(&w.ns.name);
    let mut watch = w.jobs.watch(&label, &w.jobs.revision());
    w.jobs.create(&object);
    watch.until("ADDED", |_| true);
    watch.until("MODIFIED", |j| condition(j, "Suspended") == "True" && reason(j, "Suspended") == "JobSuspended");
    assert!(w.pods.list("job-name=j").is_empty());
    w.jobs.strategic("j", &json!({"metadata": {"labels": {"j": "patched"}}}));
    watch.until("MODIFIED", |j| j["metadata"]["labels"]["j"] == "patched");
    w.jobs.update("j", |j| j["metadata"]["annotations"]["updated"] = json!("true"));
    watch.until("MODIFIED", |j| j["metadata"]["annotations"]["updated"] == "true");
    assert_eq!(w.jobs.everywhere().list(&format!("{label},j=patched")).len(), 1);
    w.jobs.merge("j", &json!({"spec": {"suspend": false}}));
    let done = w.ends("j", "Complete");
    assert_eq!((condition(&done, "Suspended"), reason(&done, "Suspended")), ("False", "JobResumed"));
    w.jobs.delete_collection(&label);
    watch.until("DELETED", |_| true);
    assert!(w.jobs.list(&label).is_empty());
}

#[test]
fn limits_of_time_and_tries() {
    let w = World::new("jlimits");
    w.jobs.create(&job("late", SLEEP, "Never", json!({"activeDeadlineSeconds": 1})));
    w.jobs.create(&job("tries", "exit 1", "Never", json!({"backoffLimit": 0})));
    w.jobs.create(&job("brief", "exit 0", "Never", json!({"ttlSecondsAfterFinished": 0})));
    assert_eq!(reason(&w.ends("late", "Failed"), "Failed"), "DeadlineExceeded");
    let failed = w.ends("tries", "Failed");
    assert_eq!((reason(&failed, "Failed"), count(&failed, "failed")), ("BackoffLimitExceeded", 1));
    w.jobs.until_gone("brief");
}
