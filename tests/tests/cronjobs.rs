//! CronJobs over the wire. One test lets two real minutes pass; in the others a time that was missed is made up for at once, as each
//! moves the time of the last run back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Objects, name_of, rfc3339_ago};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

fn cron(name: &str, script: &str, spec: Value) -> Value {
    let mut cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"schedule": "*/1 * * * *", "jobTemplate": {"metadata": {"labels": {"app": name}}, "spec": {"template": {"spec": {
            "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script]}],
        }}}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        cron["spec"][key] = value.clone();
    }
    cron
}

/// A Job such as the CronJob would have made some minutes ago.
fn earlier_job(owner: &Value, name: &str) -> Value {
    let mut spec = owner["spec"]["jobTemplate"]["spec"].clone();
    spec["parallelism"] = json!(1);
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "labels": {"app": "cron"}, "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "CronJob", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true}]},
        "spec": spec,
    })
}

struct World {
    ns: Namespace,
    crons: Objects,
    jobs: Objects,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        World { crons: ns.objects("batch/v1", "cronjobs"), jobs: ns.objects("batch/v1", "jobs"), ns }
    }

    /// Lets a time be missed.
    fn miss(&self) {
        self.crons.merge("cron/status", &json!({"status": {"lastScheduleTime": rfc3339_ago(130)}}));
    }

    fn active(&self, n: usize) -> Value {
        self.crons.until("cron", &format!("{n} active"), |c| c["status"]["active"].as_array().map_or(0, Vec::len) == n)
    }

    fn event(&self, reason: &str) {
        let events = self.ns.objects("v1", "events");
        events.until_all("", reason, |all| all.iter().any(|e| e["reason"] == reason).then_some(()));
    }

    /// One running Job that the CronJob knows of.
    fn with_earlier(&self, policy: &str) -> Value {
        let made =
            self.crons.create(&cron("cron", "exec sleep 3600", json!({"concurrencyPolicy": policy, "suspend": true})));
        let job = self.jobs.create(&earlier_job(&made, "cron-earlier"));
        self.jobs.until("cron-earlier", "active", |j| j["status"]["active"] == 1);
        let reference = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "cron-earlier", "namespace": &self.ns.name, "uid": job["metadata"]["uid"]});
        self.crons
            .merge("cron/status", &json!({"status": {"active": [reference], "lastScheduleTime": rfc3339_ago(130)}}));
        self.crons.merge("cron", &json!({"spec": {"suspend": false}}));
        job
    }
}

/// Two minutes by the clock: one CronJob of each policy, and one that is suspended, side by side.
#[test]
fn two_real_minutes() {
    let w = World::new("cjreal");
    for (name, extra) in [
        ("allow", json!({"concurrencyPolicy": "Allow"})),
        ("forbid", json!({"concurrencyPolicy": "Forbid"})),
        ("replace", json!({"concurrencyPolicy": "Replace"})),
        ("suspended", json!({"suspend": true})),
    ] {
        w.crons.create(&cron(name, "exec sleep 3600", extra));
    }
    let names = |app: &str| -> Vec<String> {
        let active = w.crons.get(app)["status"]["active"].as_array().cloned().unwrap_or_default();
        active.iter().map(|a| a["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    // A watch waits for the minutes; each job's coming is one event. A minute is as long as the patience of the other tests.
    let path =
        format!("/apis/batch/v1/namespaces/{}/jobs?watch=true&labelSelector=app%3Dallow&timeoutSeconds=200", w.ns.name);
    let jobs = w.ns.wire().watch(&path);
    let added = || loop {
        let event = jobs.next(Duration::from_secs(90)).expect("a job within a minute");
        if event["type"] == "ADDED" {
            return event["object"].clone();
        }
    };
    let first = added();
    w.jobs.until_all("app=replace", "the first to be replaced", |all| (!all.is_empty()).then_some(()));
    w.jobs.until_all("app=forbid", "the first to wait for", |all| (!all.is_empty()).then_some(()));
    let before = w.jobs.list("app=replace");
    let second = added();
    assert_ne!(name_of(&first), name_of(&second));
    let minute = |job: &Value| -> i64 { name_of(job).rsplit('-').next().unwrap().parse().unwrap() };
    assert_eq!(minute(&second) - minute(&first), 1, "one each minute");

    // Allow: both run.
    w.crons.until("allow", "two are active", |c| c["status"]["active"].as_array().map_or(0, Vec::len) == 2);
    w.jobs.until_all("app=allow", "two run", |all| {
        (all.len() == 2 && all.iter().all(|j| j["status"]["active"] == 1)).then_some(())
    });
    // Forbid: the second was not made, and that is told.
    w.ns.objects("v1", "events").until_all("", "one is skipped", |all| {
        all.iter().any(|e| e["reason"] == "JobAlreadyActive" && e["involvedObject"]["name"] == "forbid").then_some(())
    });
    assert_eq!((w.jobs.list("app=forbid").len(), names("forbid").len()), (1, 1));
    // Replace: the second took the place of the first.
    w.jobs.until_gone(name_of(&before[0]));
    w.crons.until("replace", "the second is active", |_| {
        let now = names("replace");
        now.len() == 1 && now[0] != name_of(&before[0])
    });
    assert_eq!(w.jobs.list("app=replace").len(), 1);
    // Suspended: nothing, all the while.
    assert!(w.jobs.list("app=suspended").is_empty() && names("suspended").is_empty());
}

#[test]
fn allow_runs_several_at_once() {
    let w = World::new("cjallow");
    w.with_earlier("Allow");
    let now = w.active(2);
    let jobs = w.jobs.list("app=cron");
    assert_eq!(jobs.len(), 2);
    let new = jobs.iter().find(|j| name_of(j) != "cron-earlier").unwrap();
    assert_eq!(new["metadata"]["ownerReferences"][0]["uid"], now["metadata"]["uid"]);
    // The name tells the minute for which it was made, and so does an annotation.
    let minute: i64 = name_of(new).rsplit('-').next().unwrap().parse().unwrap();
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64 / 60;
    assert!((unix - 2..=unix).contains(&minute), "{}", name_of(new));
    assert!(new["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].is_string());
    w.event("SuccessfulCreate");
}

#[test]
fn forbid_waits_for_the_running_one() {
    let w = World::new("cjforbid");
    w.with_earlier("Forbid");
    w.event("JobAlreadyActive");
    assert_eq!(w.jobs.list("app=cron").len(), 1);
    assert_eq!(w.crons.get("cron")["status"]["active"].as_array().unwrap().len(), 1);
}

#[test]
fn replace_ends_the_running_one() {
    let w = World::new("cjreplace");
    let earlier = w.with_earlier("Replace");
    w.jobs.until_gone("cron-earlier");
    w.crons.until("cron", "another is active", |c| {
        let active = c["status"]["active"].as_array().cloned().unwrap_or_default();
        active.len() == 1 && active[0]["uid"] != earlier["metadata"]["uid"]
    });
    assert_eq!(w.jobs.list("app=cron").len(), 1);
}

#[test]
fn a_suspended_one_makes_nothing() {
    let w = World::new("cjsuspend");
    w.crons.create(&cron("cron", "exit 0", json!({"suspend": true})));
    w.miss();
    // A second one, missed later, is seen through while the first makes nothing.
    w.crons.create(&cron("other", "exit 0", json!({})));
    w.crons.merge("other/status", &json!({"status": {"lastScheduleTime": rfc3339_ago(130)}}));
    w.jobs.until_all("app=other", "the other's job", |all| (!all.is_empty()).then_some(()));
    assert!(w.jobs.list("app=cron").is_empty());
    w.crons.merge("cron", &json!({"spec": {"suspend": false}}));
    w.jobs.until_all("app=cron", "its job once it is not suspended", |all| (all.len() == 1).then_some(()));
}

#[test]
fn history_and_success_are_kept() {
    let w = World::new("cjhist");
    let made = w.crons.create(&cron(
        "cron",
        "exit 0",
        json!({"suspend": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1}),
    ));
    w.jobs.create(&earlier_job(&made, "cron-1"));
    w.jobs.until("cron-1", "complete", |j| caravel_tests::condition(j, "Complete") == "True");
    w.miss();
    w.crons.merge("cron", &json!({"spec": {"suspend": false}}));
    w.jobs.until_gone("cron-1");
    w.crons.until("cron", "time of success", |c| {
        c["status"]["lastSuccessfulTime"].is_string() && c["status"]["active"].is_null()
    });
}

#[test]
fn a_wrong_schedule_is_refused() {
    let w = World::new("cjbad");
    for (spec, field) in [
        (json!({"schedule": "61 * * * *"}), "spec.schedule"),
        (json!({"schedule": "TZ=UTC 1 * * * *"}), "spec.schedule"),
        (json!({"concurrencyPolicy": "Sometimes"}), "spec.concurrencyPolicy"),
    ] {
        let (code, said) = w.crons.try_create(&cron("cron", "exit 0", spec));
        assert_eq!(code, 422, "{said}");
        assert_eq!(said["details"]["causes"][0]["field"], field, "{said}");
    }
}

#[test]
fn operations() {
    let w = World::new("cjapi");
    let label = format!("of={}", w.ns.name);
    let make = |name: &str| {
        let mut object = cron(name, "exit 0", json!({"suspend": true}));
        object["metadata"]["labels"]["of"] = json!(&w.ns.name);
        object
    };
    let resources = w.ns.ok(&["get", "--raw", "/apis/batch/v1"]);
    let resources: Value = serde_json::from_str(&resources).unwrap();
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"cronjobs") && names.contains(&"cronjobs/status"), "{names:?}");
    let made = w.crons.create(&make("a"));
    assert_eq!(made["spec"]["successfulJobsHistoryLimit"], 3, "defaulted");
    let (code, said) = w.crons.try_create(&make("a"));
    assert_eq!((code, said["reason"].as_str()), (409, Some("AlreadyExists")));
    for n in ["b", "c"] {
        w.crons.create(&make(n));
    }
    assert_eq!(w.crons.get("a")["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(w.crons.list(&label).len(), 3);
    assert_eq!(w.crons.everywhere().list(&label).len(), 3);
    let mut watch = w.crons.watch(&label, made["metadata"]["resourceVersion"].as_str().unwrap());
    w.crons.merge("a", &json!({"metadata": {"annotations": {"patched": "true"}}}));
    watch.until("MODIFIED", |c| c["metadata"]["annotations"]["patched"] == "true");
    w.crons.update("a", |c| c["metadata"]["annotations"]["updated"] = json!("true"));
    watch.until("MODIFIED", |c| c["metadata"]["annotations"]["updated"] == "true");
    let time = rfc3339_ago(600);
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"lastScheduleTime": time}});
    let patched = w.crons.merge("a/status", &patch);
    assert_eq!(
        (&patched["status"]["lastScheduleTime"], &patched["metadata"]["annotations"]["patchedstatus"]),
        (&json!(time), &json!("true"))
    );
    let later = rfc3339_ago(300);
    let updated = w.crons.update("a/status", |c| c["status"]["lastScheduleTime"] = json!(later));
    assert_eq!(updated["status"]["lastScheduleTime"], later);
    let read = w.crons.get("a/status");
    assert_eq!(
        (read["metadata"]["uid"].clone(), read["status"]["lastScheduleTime"].clone()),
        (made["metadata"]["uid"].clone(), json!(later))
    );
    w.crons.delete("a");
    w.crons.until_gone("a");
    watch.until("DELETED", |c| name_of(c) == "a");
    assert_eq!(w.crons.list(&label).len(), 2);
    w.crons.delete_collection(&label);
    w.crons.until_all(&label, "none", |all| all.is_empty().then_some(()));
}
