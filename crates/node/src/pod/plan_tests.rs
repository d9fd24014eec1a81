#![allow(clippy::unwrap_used)]

use super::*;
use crate::pod::observed::Sandbox;
use serde_json::json;

const S: i64 = 1_000_000_000;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn sandbox() -> Sandbox {
    Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.2".into()], created_at: 1, ..Default::default() }
}

fn rec(name: &str, state: ContainerState, attempt: u32, exit_code: i32) -> Record {
    Record {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox_id: "s".into(),
        attempt,
        state,
        exit_code,
        created_at: i64::from(attempt) + 2,
        finished_at: if state == ContainerState::Exited { 100 * S } else { 0 },
        ..Default::default()
    }
}

struct World {
    pod: Pod,
    observed: Observed,
    probes: Probes,
    backoff: Backoff,
    to_restart: Restarts,
    now: i64,
}

fn world(spec: serde_json::Value, records: Vec<Record>) -> World {
    let mut observed = Observed { sandboxes: vec![sandbox()], records, life: 0 };
    observed.sort();
    World {
        pod: pod(spec),
        observed,
        probes: Probes::new(),
        backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
        to_restart: Restarts::new(),
        now: 100 * S,
    }
}

impl World {
    fn plan(&self) -> PodPlan {
        plan(&Input {
            pod: &self.pod,
            observed: &self.observed,
            probes: &self.probes,
            backoff: &self.backoff,
            to_restart: &self.to_restart,
            now: self.now,
        })
    }

    /// The plan in a word or two.
    fn short(&self) -> String {
        let p = self.plan();
        let mut out: Vec<String> = Vec::new();
        if p.stop_pod {
            out.push("stop".into());
        }
        out.extend(p.sandbox.map(|a| format!("sandbox{a}")));
        out.extend(p.kill.iter().map(|k| format!("-{}", k.id)));
        out.extend(p.start.iter().map(|s| format!("+{}{}", s.name, s.attempt)));
        out.extend(p.waiting.iter().map(|w| format!("?{}", w.name)));
        out.join(" ")
    }
}

use ContainerState::{Created, Exited, Running, Unknown};

#[test]
fn restart_policies() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]});
    for (policy, records, want) in [
        ("Always", vec![], "+a0"),
        ("Always", vec![rec("a", Running, 0, 0)], ""),
        ("Always", vec![rec("a", Created, 0, 0)], "+a1"),
        ("Always", vec![rec("a", Unknown, 0, 0)], "-a0 +a1"),
        ("Always", vec![rec("a", Exited, 0, 0)], "+a1"),
        ("Always", vec![rec("a", Exited, 1, 1), rec("a", Exited, 0, 1)], "+a2"),
        ("OnFailure", vec![rec("a", Exited, 0, 0)], "stop"),
        ("OnFailure", vec![rec("a", Exited, 0, 3)], "+a1"),
        ("Never", vec![rec("a", Exited, 0, 3)], "stop"),
        ("Never", vec![rec("a", Exited, 0, 0)], "stop"),
        ("Never", vec![], "+a0"),
    ] {
        assert_eq!(world(spec(policy), records.clone()).short(), want, "{policy} {records:?}");
    }
}

/// What was made last counts, also when the clock was set back before.
#[test]
fn the_clock_does_not_order() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a"}]});
    let early = Record { created_at: 1, ..rec("a", Running, 1, 0) };
    assert_eq!(world(spec, vec![rec("a", Exited, 0, 1), early]).short(), "");
}

#[test]
fn one_of_two_done_keeps_the_pod() {
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(world(spec.clone(), vec![rec("a", Exited, 0, 0), rec("b", Running, 0, 0)]).short(), "");
    assert_eq!(world(spec, vec![rec("a", Exited, 0, 0), rec("b", Exited, 0, 0)]).short(), "stop");
}

#[test]
fn container_rules_override_the_pod() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
    assert_eq!(world(spec.clone(), vec![rec("a", Exited, 0, 42)]).short(), "+a1");
    assert_eq!(world(spec, vec![rec("a", Exited, 0, 1)]).short(), "stop");
}

#[test]
fn the_end_of_one_restarts_all() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}},
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1, 42]}}]);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "t", "restartPolicy": "Never", "restartPolicyRules": rules}]});
    let new = |name: &str, state, code| Record { life: 1, ..rec(name, state, 1, code) };
    let first = |a, code| vec![rec("i", Exited, 0, 0), rec("a", a, 0, 0), rec("t", Exited, 0, code)];
    let more = |more: Vec<Record>| [first(Exited, 42), more].concat();
    for (what, records, want) in [
        ("the first rule counts", first(Running, 1), "+t1"),
        ("the others end first", first(Running, 42), "-a0"),
        ("then from the beginning", first(Exited, 42), "+i1"),
        ("init runs", more(vec![new("i", Running, 0)]), ""),
        ("init has passed", more(vec![new("i", Exited, 0)]), "+a1 +t1"),
        ("it goes on", more(vec![new("i", Exited, 0), new("a", Running, 0), new("t", Running, 0)]), ""),
        ("done", more(vec![new("i", Exited, 0), new("a", Exited, 0), new("t", Exited, 0)]), "stop"),
        ("init fails", more(vec![new("i", Exited, 3)]), "stop"),
    ] {
        let mut w = world(spec.clone(), records);
        w.now = 200 * S;
        w.observed.life = crate::pod::restart_all::life(w.pod.spec.as_ref().unwrap(), &w.observed);
        assert_eq!(w.short(), want, "{what}");
    }
}

#[test]
fn sandboxes() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    let mut w = world(spec("Always"), vec![]);
    w.observed.sandboxes.clear();
    assert_eq!(w.short(), "sandbox0");
    let mut w = world(spec("Always"), vec![rec("a", Running, 0, 0)]);
    w.observed.sandboxes[0].ready = false;
    assert_eq!(w.short(), "stop sandbox1");
    w.observed.records[0].state = Exited;
    assert_eq!(w.short(), "sandbox1");
    let mut w = world(spec("Never"), vec![rec("a", Exited, 0, 0)]);
    w.observed.sandboxes[0].ready = false;
    assert_eq!(w.short(), "stop");
    let mut w = world(spec("OnFailure"), vec![rec("a", Exited, 0, 0)]);
    w.observed.sandboxes[0].ready = false;
    assert_eq!(w.short(), "stop");
    let mut w = world(spec("Always"), vec![]);
    w.observed.sandboxes[0].ips.clear();
    assert_eq!(w.short(), "stop sandbox1");
}

#[test]
fn init_containers_run_in_order() {
    let spec = json!({"restartPolicy": "Always", "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    for (records, want) in [
        (vec![], "+i0"),
        (vec![rec("i", Running, 0, 0)], ""),
        (vec![rec("i", Exited, 0, 0)], "+j0"),
        (vec![rec("i", Exited, 0, 1)], "+i1"),
        (vec![rec("i", Exited, 0, 0), rec("j", Running, 0, 0)], ""),
        (vec![rec("j", Exited, 0, 0)], "+a0"),
        (vec![rec("i", Exited, 0, 0), rec("j", Exited, 0, 0), rec("a", Exited, 0, 1)], "+a1"),
    ] {
        assert_eq!(world(spec.clone(), records.clone()).short(), want, "{records:?}");
    }
}

#[test]
fn failed_init_ends_a_pod_that_never_restarts() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    assert_eq!(world(spec, vec![rec("i", Exited, 0, 1)]).short(), "stop");
}

#[test]
fn sidecars() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [
        {"name": "s", "restartPolicy": "Always", "startupProbe": {}}, {"name": "i"}], "containers": [{"name": "a"}]});
    let mut w = world(spec.clone(), vec![rec("s", Running, 0, 0)]);
    assert_eq!(w.short(), "", "the next waits for its startup probe");
    w.probes.insert("s0".into(), Verdicts { startup: Some(true), ..Default::default() });
    assert_eq!(w.short(), "+i0");
    assert_eq!(world(spec.clone(), vec![rec("s", Exited, 0, 1), rec("i", Running, 0, 0)]).short(), "+s1");
    assert_eq!(
        world(spec.clone(), vec![rec("s", Exited, 0, 0), rec("i", Exited, 0, 0), rec("a", Running, 0, 0)]).short(),
        "+s1"
    );
    assert_eq!(world(spec, vec![rec("s", Running, 0, 0), rec("a", Exited, 0, 0)]).short(), "stop");
}

#[test]
fn probes_and_changes_restart() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "new"}]});
    let mut w = world(spec.clone(), vec![rec("a", Running, 0, 0)]);
    w.probes.insert("a0".into(), Verdicts { liveness: Some(false), ..Default::default() });
    assert_eq!(w.short(), "-a0");
    let mut w = world(spec, vec![Record { hash: "other".into(), ..rec("a", Running, 0, 0) }]);
    assert_eq!(w.short(), "-a0");
    assert_eq!(w.plan().kill[0].reason, KillReason::Changed);
    w.observed.records[0].hash = spec::hash(&w.pod.spec.as_ref().unwrap().containers[0]);
    assert_eq!(w.short(), "");
}

#[test]
fn killed_to_restart_starts_whatever_its_code() {
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}]});
    let mut w = world(spec, vec![rec("a", Exited, 0, 0)]);
    w.to_restart.insert("a0".into(), KillReason::Resized);
    assert_eq!(w.short(), "+a1");
    assert_eq!(w.plan().start[0].after, None, "our own kill is not a crash");
    w.to_restart.insert("a0".into(), KillReason::Liveness);
    assert_eq!(w.plan().start[0].after, Some(100 * S), "a failed probe is");
}

#[test]
fn crash_loops_wait() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a"}]});
    let mut w = world(spec, vec![rec("a", Exited, 1, 1)]);
    let key = key(&w.pod, &w.pod.spec.as_ref().unwrap().containers[0]);
    w.backoff.next(&key, 95 * S, 95 * S);
    w.now = 101 * S;
    let p = w.plan();
    assert_eq!(p.waiting[0].message, "back-off 10s restarting failed container=a pod=p_n(u)");
    assert_eq!(p.wake, Some(110 * S));
    assert!(p.is_idle());
    w.now = 110 * S;
    assert_eq!(w.short(), "+a2");
}

#[test]
fn starts_are_counted_on_when_the_runtime_has_forgotten_them() {
    let mut w = world(json!({"containers": [{"name": "a"}, {"name": "b"}]}), vec![]);
    w.pod.status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 2, "containerID": "containerd://x"},
        {"name": "b", "image": "i", "imageID": "", "ready": false, "restartCount": 0}]}))
    .unwrap();
    assert_eq!(w.short(), "+a3 +b0");
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}], "ephemeralContainers": [{"name": "d"}]});
    assert_eq!(world(spec.clone(), vec![rec("a", Running, 0, 0)]).short(), "+d0");
    assert_eq!(world(spec, vec![rec("a", Running, 0, 0), rec("d", Exited, 0, 1)]).short(), "");
}
