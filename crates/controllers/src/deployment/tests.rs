//! Table tests of the decisions, and rollouts played against a model of the ReplicaSet controller.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::*;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Plan, Snapshot, plan};
use super::status;
use super::util::*;
use crate::common::name;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some([("app".into(), "a".into())].into()), ..Default::default() }),
        spec: Some(PodSpec {
            containers: vec![Container { name: "c".into(), image: Some(image.into()), ..Default::default() }],
            ..Default::default()
        }),
    }
}

fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    let value = |s: &str| s.parse().map_or(IntOrString::String(s.into()), IntOrString::Int);
    Deployment {
        metadata: ObjectMeta {
            name: Some("d".into()),
            namespace: Some("ns".into()),
            uid: Some("d-uid".into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            revision_history_limit: Some(2),
            progress_deadline_seconds: Some(600),
            selector: LabelSelector { match_labels: Some([("app".into(), "a".into())].into()), ..Default::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(value(surge)),
                    max_unavailable: Some(value(unavailable)),
                }),
            }),
            template: template("v1"),
            ..Default::default()
        }),
        status: None,
    }
}

/// A small world: the objects, and a ReplicaSet controller whose pods become available one at a time.
struct World {
    d: Deployment,
    sets: Vec<ReplicaSet>,
    clock: i64,
    events: Vec<String>,
    broken_images: Vec<&'static str>,
}

impl World {
    fn new(d: Deployment) -> Self {
        Self { d, sets: vec![], clock: 0, events: vec![], broken_images: vec![] }
    }

    fn plan(&self) -> Plan {
        plan(&Snapshot {
            deployment: &self.d,
            replica_sets: self.sets.iter().cloned().map(Arc::new).collect(),
            pods: HashMap::new(),
            now: at(self.clock),
        })
    }

    /// One round; returns whether anything was written.
    fn round(&mut self) -> bool {
        let p = self.plan();
        self.clock += 1;
        let mut wrote = false;
        for (k, v) in p.annotations {
            let a = self.d.metadata.annotations.get_or_insert_default();
            match v {
                Some(v) => a.insert(k, v),
                None => a.remove(&k),
            };
            wrote = true;
        }
        for rs in p.update {
            let there = self.sets.iter_mut().find(|r| name(*r) == name(&rs)).unwrap();
            *there = rs;
            wrote = true;
        }
        let mut new_status = p.status;
        if let Some(mut rs) = p.create {
            assert!(self.sets.iter().all(|r| name(r) != name(&rs)), "never made twice");
            rs.metadata.creation_timestamp = Some(Time(at(self.clock)));
            rs.metadata.uid = Some(format!("uid-{}", self.sets.len()));
            rs.status = Some(ReplicaSetStatus::default());
            let mut s = new_status.or(self.d.status.clone()).unwrap_or_default();
            set_condition(&mut s, status::created(name(&rs), None, at(self.clock)));
            new_status = Some(s);
            self.sets.push(rs);
            wrote = true;
        }
        for rs in p.delete {
            self.sets.retain(|r| name(r) != name(&*rs));
            wrote = true;
        }
        if let Some(s) = new_status {
            self.d.status = Some(s);
            wrote = true;
        }
        self.events.extend(p.events.into_iter().map(|e| e.note));
        wrote
    }

    /// The ReplicaSet controller: surplus goes at once (unavailable first), missing ones come, and one pod becomes available.
    fn pods_step(&mut self) -> bool {
        let mut changed = false;
        let mut one = true;
        for rs in &mut self.sets {
            let wanted = rs_replicas(rs);
            let image =
                rs.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone();
            let broken = self.broken_images.contains(&image.as_deref().unwrap());
            let s = rs.status.get_or_insert_default();
            let before = s.clone();
            s.replicas = wanted;
            let available = s.available_replicas.unwrap_or(0).min(wanted);
            s.available_replicas = Some(available);
            if one && available < wanted && !broken {
                s.available_replicas = Some(available + 1);
                one = false;
            }
            s.ready_replicas = s.available_replicas;
            s.observed_generation = rs.metadata.generation;
            changed |= *s != before;
        }
        changed
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(rs_replicas).sum()
    }

    fn available(&self) -> i32 {
        // What the specs leave of the available ones: a pod is lost as soon as it is not wanted.
        self.sets.iter().map(|rs| rs_available(rs).min(rs_replicas(rs))).sum()
    }

    /// Plays until nothing changes, checking `invariant` after each step.
    fn settle(&mut self, invariant: impl Fn(&World)) {
        for _ in 0..2000 {
            let a = self.round();
            invariant(self);
            let b = self.pods_step();
            invariant(self);
            if !a && !b {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.plan());
    }

    fn set_image(&mut self, image: &str) {
        self.d.spec.as_mut().unwrap().template = template(image);
        self.d.metadata.generation = Some(self.d.metadata.generation.unwrap() + 1);
    }

    fn set_replicas(&mut self, n: i32) {
        self.d.spec.as_mut().unwrap().replicas = Some(n);
        self.d.metadata.generation = Some(self.d.metadata.generation.unwrap() + 1);
    }

    fn reason(&self, type_: &str) -> String {
        let s = self.d.status.clone().unwrap();
        let c = condition(&s, type_).unwrap();
        format!("{} {}", c.status, c.reason.clone().unwrap())
    }
}

#[test]
fn rolls_within_the_fenceposts() {
    for (replicas, surge, unavailable, most, least) in [
        (10, "25%", "25%", 13, 8),
        (10, "0", "1", 10, 9),
        (10, "1", "0", 11, 10),
        (3, "25%", "25%", 4, 3),
        (4, "100%", "0", 8, 4),
        (1, "0", "0", 1, 0),
        (7, "2", "3", 9, 4),
    ] {
        let mut w = World::new(deployment(replicas, surge, unavailable));
        w.settle(|w| assert!(w.total() <= most));
        assert_eq!(w.reason("Progressing"), "True NewReplicaSetAvailable");
        assert_eq!(w.reason("Available"), "True MinimumReplicasAvailable");
        for image in ["v2", "v3", "v4", "v1"] {
            w.set_image(image);
            w.settle(|w| {
                assert!(w.total() <= most, "surge of {surge}");
                assert!(w.available() >= least, "{} available, unavailable {unavailable}", w.available());
            });
            let new = find_new(&w.d, &w.sets.iter().cloned().map(Arc::new).collect::<Vec<_>>()).unwrap().clone();
            assert_eq!(rs_replicas(&new), replicas);
            assert!(w.sets.len() <= 3, "the history limit of 2 and the current one");
        }
        assert_eq!(revision_of(&w.d), 5);
        assert!(complete(&w.d, w.d.status.as_ref().unwrap()));
    }
}

#[test]
fn a_return_to_an_old_template_takes_its_replica_set_and_a_new_number() {
    let mut w = World::new(deployment(2, "1", "0"));
    w.settle(|_| ());
    w.set_image("v2");
    w.settle(|_| ());
    w.set_image("v1");
    w.settle(|_| ());
    assert_eq!(w.sets.len(), 2);
    let v1 = w.sets.iter().find(|r| rs_replicas(r) == 2).unwrap();
    let a = v1.metadata.annotations.as_ref().unwrap();
    assert_eq!((a[REVISION].as_str(), a[REVISION_HISTORY].as_str()), ("3", "1"));
    assert_eq!(revision_of(&w.d), 3);
}

#[test]
fn a_scaling_amid_a_rollout_is_spread() {
    let mut w = World::new(deployment(10, "3", "2"));
    w.settle(|_| ());
    w.broken_images.push("v2");
    w.set_image("v2");
    w.settle(|_| ());
    let sizes = |w: &World| w.sets.iter().map(rs_replicas).collect::<Vec<_>>();
    assert_eq!(sizes(&w), [8, 5]);
    w.set_replicas(15);
    w.settle(|w| assert!(w.total() <= 18));
    // The documentation's example: 5 more are shared 3 to 2.
    assert_eq!(sizes(&w), [11, 7]);
    assert!(w.events.iter().any(|e| e.starts_with("Scaled up replica set d-") && e.ends_with("from 8 to 11")));
    w.set_replicas(0);
    w.settle(|_| ());
    assert_eq!(sizes(&w), [0, 0]);
}

#[test]
fn the_deadline_passes_when_nothing_moves() {
    let mut w = World::new(deployment(4, "1", "1"));
    w.settle(|_| ());
    w.broken_images.push("v2");
    w.set_image("v2");
    w.settle(|_| ());
    assert_eq!(w.reason("Progressing"), "True ReplicaSetUpdated");
    assert!(w.plan().again.unwrap().as_secs() <= 601);
    w.clock += 602;
    assert!(w.round());
    assert_eq!(w.reason("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(w.plan(), Plan::default(), "and then all is quiet");
    // A mended image goes on and succeeds.
    w.set_image("v3");
    w.settle(|_| ());
    assert_eq!(w.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn paused_makes_nothing_new_but_scales() {
    let mut w = World::new(deployment(2, "1", "0"));
    w.settle(|_| ());
    w.d.spec.as_mut().unwrap().paused = Some(true);
    w.set_image("v2");
    w.settle(|_| ());
    assert_eq!(w.sets.len(), 1);
    assert_eq!(w.reason("Progressing"), "Unknown DeploymentPaused");
    w.set_replicas(5);
    w.settle(|_| ());
    assert_eq!(w.total(), 5);
    w.d.spec.as_mut().unwrap().paused = None;
    w.settle(|_| ());
    assert_eq!(w.sets.len(), 2);
    assert_eq!(w.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn recreate_waits_for_the_last_pod() {
    let mut d = deployment(3, "1", "1");
    d.spec.as_mut().unwrap().strategy =
        Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    let mut w = World::new(d);
    w.settle(|_| ());
    w.set_image("v2");
    let old_uid = w.sets[0].metadata.uid.clone().unwrap();
    w.settle(|w| assert!(w.sets.iter().filter(|r| rs_replicas(r) > 0).count() <= 1));
    assert_eq!(w.sets.len(), 2);
    // As long as a pod of the old template lives, even one that the ReplicaSet does not count any more, nothing new is made.
    w.sets.truncate(1);
    let lingering = Pod::default();
    let p = plan(&Snapshot {
        deployment: &w.d,
        replica_sets: w.sets.iter().cloned().map(Arc::new).collect(),
        pods: [(old_uid, vec![Arc::new(lingering)])].into(),
        now: at(w.clock),
    });
    assert_eq!(p.create, None);
}

#[test]
fn an_empty_selector_is_refused() {
    let mut d = deployment(1, "1", "1");
    d.spec.as_mut().unwrap().selector = LabelSelector::default();
    let w = World::new(d);
    let p = w.plan();
    assert_eq!(p.events[0].reason, "SelectingAll");
    assert!(p.create.is_none());
}

#[test]
fn rollback_by_annotation() {
    let mut w = World::new(deployment(1, "1", "0"));
    w.settle(|_| ());
    w.set_image("v2");
    w.settle(|_| ());
    w.d.metadata.annotations.get_or_insert_default().insert(ROLLBACK_TO.into(), "0".into());
    let p = w.plan();
    assert_eq!(p.events[0].note, "Rolled back deployment \"d\" to revision 1");
    let back = p.rollback.unwrap();
    assert!(same_template(&back.spec.unwrap().template, &template("v1")));
    assert!(!back.metadata.annotations.unwrap().contains_key(ROLLBACK_TO));
}

fn annotated(mut d: Deployment, with: &[(&str, &str)]) -> Deployment {
    d.metadata.annotations = Some(with.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    d
}

/// (old, new) sizes: the new one is that of the present template.
fn sizes(w: &World) -> (i32, i32) {
    let new = |rs: &&ReplicaSet| {
        same_template(rs.spec.as_ref().unwrap().template.as_ref().unwrap(), &w.d.spec.as_ref().unwrap().template)
    };
    let n = w.sets.iter().filter(new).map(rs_replicas).sum();
    (w.total() - n, n)
}

#[test]
fn a_canary_goes_step_by_step() {
    for (surge, unavailable, least) in [("25%", "25%", 8), ("0", "1", 9), ("1", "0", 10)] {
        let mut w =
            World::new(annotated(deployment(10, surge, unavailable), &[("caravel.dev/canary-steps", "10%:5m,50%")]));
        w.settle(|_| ());
        assert_eq!(sizes(&w), (0, 10), "the first rollout has nothing to be compared with");
        w.set_image("v2");
        let check = |w: &World| assert!(w.available() >= least, "{} of {least}", w.available());
        w.settle(check);
        assert_eq!((sizes(&w), w.reason("Progressing").as_str()), ((9, 1), "Unknown CanaryPaused"));
        assert_eq!(w.plan().again.map(|a| a.as_secs() <= 300), Some(true));
        // The deadline of ten minutes does not pass while it stands on purpose.
        w.clock += 302;
        w.settle(check);
        assert_eq!((sizes(&w), w.reason("Progressing").as_str()), ((5, 5), "Unknown CanaryPaused"));
        w.clock += 10_000;
        assert_eq!(w.plan(), Plan::default(), "it waits to be promoted, and writes nothing");
        w.d.metadata.annotations.as_mut().unwrap().insert("caravel.dev/canary-promote".into(), "next".into());
        w.settle(check);
        assert_eq!((sizes(&w), w.reason("Progressing").as_str()), ((0, 10), "True NewReplicaSetAvailable"));
        let left: Vec<_> = w.d.metadata.annotations.as_ref().unwrap().keys().filter(|k| k.contains("canary")).collect();
        assert_eq!(left, ["caravel.dev/canary-steps"]);
        assert!(w.events.iter().any(|e| e.contains("canary step 1 of 2") && e.contains("1 of 10")), "{:?}", w.events);
    }
}

#[test]
fn a_canary_that_is_not_ready_passes_its_deadline_and_goes_back_at_once() {
    let asked = [("caravel.dev/canary-steps", "10%,50%"), ("caravel.dev/rollback-on-deadline", "true")];
    let mut w = World::new(annotated(deployment(10, "1", "1"), &asked));
    w.settle(|_| ());
    w.broken_images.push("v2");
    w.set_image("v2");
    w.settle(|_| ());
    assert_eq!(sizes(&w).1, 1);
    w.clock += 602;
    w.round();
    let back = w.plan().rollback.expect("rolled back");
    assert!(same_template(&back.spec.as_ref().unwrap().template, &template("v1")));
    w.d = back;
    w.d.metadata.generation = Some(w.d.metadata.generation.unwrap() + 1);
    w.settle(|w| assert!(w.available() >= 9));
    assert_eq!((sizes(&w), w.reason("Progressing").as_str()), ((0, 10), "True NewReplicaSetAvailable"));
}

#[test]
fn too_many_failures_roll_back() {
    let mut w = World::new(annotated(deployment(3, "1", "0"), &[("caravel.dev/rollback-on-failures", "2")]));
    w.settle(|_| ());
    w.set_image("v2");
    w.round();
    w.round();
    let pod = |restarts: i32, phase: &str| -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "status": {"phase": phase,
            "containerStatuses": [{"name": "c", "restartCount": restarts, "ready": true, "image": "", "imageID": ""}]}}))
            .unwrap(),
        )
    };
    let new = w.sets.iter().find(|rs| rs_replicas(rs) < 3).unwrap().metadata.uid.clone().unwrap();
    let decided = |w: &World, pods: Vec<Arc<Pod>>| {
        plan(&Snapshot {
            deployment: &w.d,
            replica_sets: w.sets.iter().cloned().map(Arc::new).collect(),
            pods: [(new.clone(), pods)].into(),
            now: at(w.clock),
        })
    };
    for (pods, gives_up) in [
        (vec![], false),
        (vec![pod(2, "Running")], false),
        (vec![pod(1, "Running"), pod(1, "Failed")], true),
        (vec![pod(3, "Running")], true),
    ] {
        assert_eq!(decided(&w, pods.clone()).rollback.is_some(), gives_up, "{pods:?}");
    }
    let p = decided(&w, vec![pod(3, "Running")]);
    assert!(p.events[0].note.contains("had 3 failures and restarts, and 2 are allowed"), "{:?}", p.events);
    // Complete is complete: what restarts later is no matter of the rollout.
    w.settle(|_| ());
    assert!(decided(&w, vec![pod(9, "Running")]).rollback.is_none());
}
