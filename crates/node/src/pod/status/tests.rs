#![allow(clippy::unwrap_used)]

use super::*;
use crate::pod::observed::{ContainerState, Record, Sandbox};
use crate::pod::plan::Verdicts;
use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::{Value, json};

const S: i64 = 1_000_000_000;

struct World {
    pod: Pod,
    observed: Observed,
    probes: Probes,
    hindrances: Hindrances,
    to_restart: Restarts,
    verdict: Option<Verdict>,
    ending: bool,
    ended: bool,
}

fn world(spec: Value, records: Vec<Record>) -> World {
    let pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec}),
    )
    .unwrap();
    let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.2".into()], ..Default::default() };
    let mut observed = Observed { sandboxes: vec![sandbox], records, life: 0 };
    observed.sort();
    World {
        pod,
        observed,
        probes: Probes::new(),
        hindrances: Hindrances::new(),
        to_restart: Restarts::new(),
        verdict: None,
        ending: false,
        ended: false,
    }
}

fn rec(name: &str, state: ContainerState, attempt: u32, exit_code: i32) -> Record {
    Record {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox_id: "s".into(),
        state,
        attempt,
        exit_code,
        created_at: i64::from(attempt) * S + S,
        started_at: 5 * S,
        finished_at: if state == ContainerState::Exited { 9 * S } else { 0 },
        ..Default::default()
    }
}

impl World {
    fn status(&self) -> PodStatus {
        status(&Facts {
            pod: &self.pod,
            observed: &self.observed,
            probes: &self.probes,
            hindrances: &self.hindrances,
            to_restart: &self.to_restart,
            verdict: self.verdict.as_ref(),
            ending: self.ending,
            ended: self.ended,
            applied: &Default::default(),
            node_ips: &["192.168.0.1".to_owned()],
            now: 100 * S,
        })
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }
}

fn condition(s: &PodStatus, type_: &str) -> (String, String) {
    let c = s.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
    (c.status.clone(), c.reason.clone().unwrap_or_default())
}

use ContainerState::{Exited, Running};

#[test]
fn phases() {
    let two = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    let stopped = |mut w: World| {
        w.observed.sandboxes[0].ready = false;
        w
    };
    for (policy, a, b, want) in [
        ("Always", Some((Running, 0)), None, "Pending"),
        ("Always", Some((Running, 0)), Some((Running, 0)), "Running"),
        ("Always", Some((Exited, 0)), Some((Exited, 1)), "Running"),
        ("OnFailure", Some((Exited, 0)), Some((Exited, 1)), "Running"),
        ("OnFailure", Some((Exited, 0)), Some((Exited, 0)), "Succeeded"),
        ("Never", Some((Exited, 0)), Some((Exited, 1)), "Failed"),
        ("Never", Some((Exited, 0)), Some((Exited, 0)), "Succeeded"),
        ("Never", Some((Exited, 0)), Some((Running, 0)), "Running"),
    ] {
        let records =
            [("a", a), ("b", b)].into_iter().filter_map(|(n, s)| s.map(|(s, code)| rec(n, s, 0, code))).collect();
        let w = stopped(world(two(policy), records));
        assert_eq!(w.phase(), want, "{policy} {a:?} {b:?}");
    }
}

#[test]
fn waiting_for_init_is_pending() {
    let spec = json!({"restartPolicy": "Always", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let s = world(spec.clone(), vec![rec("i", Running, 0, 0)]).status();
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&s, "Initialized"), ("False".into(), "ContainersNotInitialized".into()));
    let state = s.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("PodInitializing"));
    let s = world(spec, vec![rec("i", Exited, 0, 0), rec("a", Running, 0, 0)]).status();
    assert_eq!(condition(&s, "Initialized").0, "True");
    assert_eq!(condition(&s, "Ready").0, "True");
    assert!(s.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn what_was_stopped_to_start_again_has_not_ended() {
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}]});
    let mut w = world(spec, vec![rec("a", Exited, 0, 0)]);
    w.to_restart.insert("a0".into(), crate::pod::plan::KillReason::Resized);
    let s = w.status();
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert!(c.state.as_ref().unwrap().waiting.is_some());
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 0);
    assert_eq!(s.phase.as_deref(), Some("Running"));
}

#[test]
fn a_pod_that_restarts_lives_on() {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "t", "restartPolicy": "Never", "restartPolicyRules": rules}]});
    let told = |a: ContainerState| {
        let mut w = world(spec.clone(), vec![rec("i", Exited, 0, 0), rec("a", a, 0, 137), rec("t", Exited, 0, 42)]);
        w.pod.status = Some(PodStatus { phase: Some("Running".into()), ..Default::default() });
        w.observed.life = crate::pod::restart_all::life(w.pod.spec.as_ref().unwrap(), &w.observed);
        w.status()
    };
    for (a, restarting) in [(Running, ("True", "RestartAllContainersStarted")), (Exited, ("False", ""))] {
        let s = told(a);
        assert_eq!(s.phase.as_deref(), Some("Running"));
        assert_eq!(condition(&s, "AllContainersRestarting"), (restarting.0.into(), restarting.1.into()));
        let t = &s.container_statuses.as_ref().unwrap()[1];
        assert_eq!(
            t.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
            Some("RestartingAllContainers")
        );
        assert_eq!(t.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 42);
        assert!(!s.init_container_statuses.unwrap()[0].ready, "it is to run again");
    }
}

#[test]
fn init_containers_that_never_ran_keep_the_others_waiting() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let mut w = world(spec, vec![rec("i", Exited, 0, 1)]);
    w.observed.sandboxes[0].ready = false;
    w.ended = true;
    let s = w.status();
    assert_eq!(s.phase.as_deref(), Some("Failed"));
    let reason = |list: &Option<Vec<ContainerStatus>>, i: usize| {
        list.as_ref().unwrap()[i].state.as_ref().unwrap().waiting.as_ref().unwrap().reason.clone().unwrap()
    };
    assert_eq!(reason(&s.container_statuses, 0), "PodInitializing");
    assert_eq!(reason(&s.init_container_statuses, 1), "PodInitializing");
}

#[test]
fn crash_loop_is_waiting_with_a_last_state() {
    let mut w = world(json!({"restartPolicy": "Always", "containers": [{"name": "a"}]}), vec![rec("a", Exited, 2, 7)]);
    w.hindrances.insert("a".into(), Hindrance { reason: "CrashLoopBackOff".into(), message: "back-off".into() });
    let s = w.status();
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 7);
    assert_eq!((c.restart_count, c.ready, c.started), (2, false, Some(false)));
    assert_eq!(s.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&s, "Ready"), ("False".into(), "ContainersNotReady".into()));
}

#[test]
fn probes_decide_ready_and_started() {
    let spec = json!({"containers": [{"name": "a", "readinessProbe": {}, "startupProbe": {}}]});
    let mut w = world(spec, vec![rec("a", Running, 0, 0)]);
    let flags = |w: &World| {
        let s = w.status();
        let c = &s.container_statuses.as_ref().unwrap()[0];
        (c.started.unwrap(), c.ready)
    };
    assert_eq!(flags(&w), (false, false));
    w.probes.insert("a0".into(), Verdicts { startup: Some(true), ..Default::default() });
    assert_eq!(flags(&w), (true, false));
    w.probes.insert("a0".into(), Verdicts { startup: Some(true), readiness: Some(true), ..Default::default() });
    assert_eq!(flags(&w), (true, true));
}

#[test]
fn readiness_gates_hold_ready_back() {
    let mut w = world(
        json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]}),
        vec![rec("a", Running, 0, 0)],
    );
    let s = w.status();
    assert_eq!(condition(&s, "ContainersReady").0, "True");
    assert_eq!(condition(&s, "Ready"), ("False".into(), "ReadinessGatesNotReady".into()));
    w.pod.status = Some(serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap());
    assert_eq!(condition(&w.status(), "Ready").0, "True");
}

#[test]
fn verdicts_fail_the_pod() {
    let mut w = world(json!({"containers": [{"name": "a"}]}), vec![rec("a", Running, 0, 0)]);
    w.verdict = Some(Verdict {
        reason: "Evicted".into(),
        message: "m".into(),
        disruption: Some("TerminationByKubelet".into()),
    });
    let s = w.status();
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(condition(&s, "DisruptionTarget"), ("True".into(), "TerminationByKubelet".into()));
}

#[test]
fn what_is_over_stays_over() {
    let mut w = world(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}), vec![]);
    w.pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}], "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [{"name": "a", "image": "i", "imageID": "x", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]})).unwrap());
    w.observed.sandboxes.clear();
    let s = w.status();
    assert_eq!((s.phase.as_deref(), s.pod_ip.as_deref()), (Some("Succeeded"), Some("10.0.0.9")));
    assert_eq!(s.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 0);
    assert_eq!(serde_json::to_value(s.start_time).unwrap(), json!("2026-01-01T00:00:00Z"));
}

#[test]
fn a_lost_container_is_told() {
    let mut w = world(json!({"containers": [{"name": "a"}]}), vec![]);
    w.pod.status = Some(serde_json::from_value(json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "i", "imageID": "x", "ready": true, "restartCount": 1, "state": {"running": {}}}]})).unwrap());
    w.ended = true;
    let s = w.status();
    let t = s.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((t.exit_code, t.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!(s.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_lost_container_is_counted_once() {
    let mut w = world(json!({"containers": [{"name": "a"}]}), vec![]);
    w.pod.status = Some(serde_json::from_value(json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "i", "imageID": "x", "containerID": "containerd://1", "ready": true, "restartCount": 1, "state": {"running": {}}}]})).unwrap());
    for _ in 0..2 {
        let s = w.status();
        let told = &s.container_statuses.as_ref().unwrap()[0];
        assert_eq!(told.restart_count, 2);
        assert!(super::containers::told_lost(told));
        w.pod.status = Some(s);
    }
}

#[test]
fn transition_times_move_only_with_the_status() {
    let mut w = world(json!({"containers": [{"name": "a"}]}), vec![rec("a", Running, 0, 0)]);
    w.pod.status = Some(
        serde_json::from_value(json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}))
        .unwrap(),
    );
    let s = w.status();
    let time =
        |t: &str| s.conditions.iter().flatten().find(|c| c.type_ == t).unwrap().last_transition_time.clone().unwrap();
    assert_eq!(crate::time::ns(&time("Ready")), 1_577_836_800 * S);
    assert_eq!(crate::time::ns(&time("ContainersReady")), 100 * S);
}
