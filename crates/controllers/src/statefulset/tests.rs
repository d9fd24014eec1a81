//! StatefulSets played against a small world of pods and claims.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::apps::v1::*;
use k8s_openapi::api::core::v1::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Plan, Revision, Snapshot, plan};
use crate::common::history::HASH_LABEL;
use crate::common::pod::testing::at;
use crate::common::{deleting, name, pod};

struct World {
    set: StatefulSet,
    pods: Vec<Pod>,
    claims: Vec<PersistentVolumeClaim>,
    templates: Vec<(String, PodTemplateSpec)>,
    serial: usize,
    clock: i64,
    broken: Vec<String>,
    log: Vec<String>,
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

impl World {
    fn new(replicas: i32, policy: &str) -> Self {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some("data".into());
        let set = StatefulSet {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("ns".into()),
                uid: Some("set".into()),
                generation: Some(1),
                ..Default::default()
            },
            spec: Some(StatefulSetSpec {
                replicas: Some(replicas),
                pod_management_policy: Some(policy.into()),
                service_name: Some("svc".into()),
                selector: LabelSelector {
                    match_labels: Some([("app".into(), "a".into())].into()),
                    ..Default::default()
                },
                template: template("v1"),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateStatefulSetStrategy {
                        partition: Some(0),
                        max_unavailable: None,
                    }),
                }),
                volume_claim_templates: Some(vec![claim]),
                ..Default::default()
            }),
            status: None,
        };
        Self {
            set,
            pods: vec![],
            claims: vec![],
            templates: vec![("r1".into(), template("v1"))],
            serial: 0,
            clock: 0,
            broken: vec![],
            log: vec![],
        }
    }

    fn spec(&mut self) -> &mut StatefulSetSpec {
        self.set.spec.as_mut().unwrap()
    }

    fn update(&mut self, image: &str) {
        self.spec().template = template(image);
        self.templates.push((format!("r{}", self.templates.len() + 1), template(image)));
    }

    fn rolling(&mut self) -> &mut RollingUpdateStatefulSetStrategy {
        self.spec().update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap()
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let current = self.set.status.as_ref().and_then(|s| s.current_revision.clone());
        let last = self.templates.last().unwrap();
        let current = self.templates.iter().find(|(n, _)| Some(n) == current.as_ref()).unwrap_or(last);
        let claims = |n: &str| self.claims.iter().find(|c| name(*c) == n).cloned().map(Arc::new);
        plan(&Snapshot {
            set: &self.set,
            pods: &pods,
            claims: &claims,
            current: Revision { name: &current.0, template: &current.1 },
            update: Revision { name: &last.0, template: &last.1 },
            collisions: 0,
            now: at(self.clock),
        })
    }

    fn round(&mut self) -> bool {
        let p = self.plan();
        let wrote = p != Plan { again: p.again, ..Plan::default() };
        self.claims.extend(p.create_claims);
        for c in p.update_claims {
            let there = self.claims.iter_mut().find(|x| name(*x) == name(&c)).unwrap();
            *there = c;
        }
        for mut new in p.create {
            assert!(self.pods.iter().all(|x| name(x) != name(&new)), "{} twice", name(&new));
            self.serial += 1;
            new.metadata.uid = Some(format!("u{}", self.serial));
            new.status = Some(PodStatus { phase: Some("Pending".into()), ..Default::default() });
            self.log.push(format!("+{}", name(&new)));
            self.pods.push(new);
        }
        for d in p.delete {
            let there = self.pods.iter_mut().find(|x| name(*x) == name(&*d)).unwrap();
            there.metadata.deletion_timestamp = Some(Time(at(self.clock)));
            self.log.push(format!("-{}", name(&*d)));
        }
        if let Some(s) = p.status {
            self.set.status = Some(s);
        }
        wrote
    }

    fn nodes(&mut self) -> bool {
        let before = self.pods.len();
        self.pods.retain(|p| !deleting(p));
        let mut changed = before != self.pods.len();
        for p in &mut self.pods {
            let image = p.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            let s = p.status.as_mut().unwrap();
            if s.phase.as_deref() == Some("Pending") && !self.broken.contains(&image) {
                s.phase = Some("Running".into());
                s.conditions = Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(Time(at(self.clock))),
                    ..Default::default()
                }]);
                changed = true;
            }
        }
        changed
    }

    fn settle(&mut self) {
        for _ in 0..300 {
            let a = self.round();
            let b = self.nodes();
            self.clock += 1;
            if !a && !b && self.plan() == Plan::default() {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.plan());
    }

    fn log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    fn revisions(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.pods.iter().map(|p| (name(p), p.metadata.labels.as_ref().unwrap()[HASH_LABEL].clone())).collect();
        all.sort();
        all.into_iter().map(|(_, r)| r).collect()
    }
}

#[test]
fn ordered_up_down_and_rolling() {
    let mut w = World::new(3, "OrderedReady");
    w.round();
    w.round();
    assert_eq!(w.pods.len(), 1, "the second waits for the first");
    w.settle();
    assert_eq!(w.log(), "+web-0 +web-1 +web-2");
    let s = w.set.status.clone().unwrap();
    assert_eq!((s.replicas, s.ready_replicas, s.current_revision.as_deref()), (3, Some(3), Some("r1")));
    let one = &w.pods[1];
    assert_eq!(one.metadata.labels.as_ref().unwrap()["apps.kubernetes.io/pod-index"], "1");
    let spec = one.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-1"), Some("svc")));
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-1");
    assert_eq!(w.claims.len(), 3);
    w.update("v2");
    w.settle();
    assert_eq!(w.log(), "-web-2 +web-2 -web-1 +web-1 -web-0 +web-0");
    assert_eq!(w.set.status.as_ref().unwrap().current_revision.as_deref(), Some("r2"));
    w.spec().replicas = Some(1);
    w.settle();
    assert_eq!(w.log(), "-web-2 -web-1");
    assert_eq!(w.claims.len(), 3, "claims stay");
}

#[test]
fn parallel_makes_all_at_once() {
    let mut w = World::new(3, "Parallel");
    w.round();
    assert_eq!(w.pods.len(), 3);
    w.settle();
    w.log();
    w.spec().replicas = Some(0);
    w.round();
    assert_eq!(w.log(), "-web-2 -web-1 -web-0");
}

#[test]
fn a_partition_holds_back_and_survives_deletion() {
    let mut w = World::new(3, "OrderedReady");
    w.settle();
    w.rolling().partition = Some(2);
    w.update("v2");
    w.settle();
    assert_eq!(w.revisions(), ["r1", "r1", "r2"]);
    assert_eq!(w.set.status.as_ref().unwrap().updated_replicas, Some(1));
    w.pods.retain(|p| name(p) != "web-0" && name(p) != "web-2");
    w.settle();
    assert_eq!(w.revisions(), ["r1", "r1", "r2"], "each comes back in its revision");
    w.rolling().partition = Some(0);
    w.settle();
    assert_eq!(w.revisions(), ["r2", "r2", "r2"]);
}

#[test]
fn max_unavailable_replaces_several_at_once() {
    let mut w = World::new(5, "Parallel");
    w.settle();
    w.rolling().max_unavailable = Some(IntOrString::Int(2));
    w.update("v2");
    w.log();
    w.round();
    assert_eq!(w.log(), "-web-4 -web-3");
    w.round();
    assert_eq!(w.log(), "", "not more than two are down");
    w.settle();
    assert_eq!(w.revisions(), ["r2"; 5]);
}

#[test]
fn a_broken_update_stops_and_a_broken_old_pod_does_not_hold_it_up() {
    let mut w = World::new(3, "Parallel");
    w.settle();
    w.broken.push("v2".into());
    w.update("v2");
    w.settle();
    assert_eq!(w.revisions(), ["r1", "r1", "r2"], "the others are left in peace");
    w.update("v3");
    w.settle();
    assert_eq!(w.revisions(), ["r3", "r3", "r3"]);
}

#[test]
fn start_ordinal_and_failed_pods() {
    let mut w = World::new(2, "OrderedReady");
    w.spec().ordinals = Some(StatefulSetOrdinals { start: Some(5) });
    w.settle();
    assert_eq!(w.log(), "+web-5 +web-6");
    w.pods[0].status.as_mut().unwrap().phase = Some("Failed".into());
    let p = w.plan();
    assert_eq!(p.events[0].reason, "RecreatingFailedPod");
    w.settle();
    assert_eq!(w.log(), "-web-5 +web-5");
}

#[test]
fn retention_follows_the_policy() {
    let mut w = World::new(2, "OrderedReady");
    w.spec().persistent_volume_claim_retention_policy = Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some("Delete".into()),
        when_scaled: Some("Delete".into()),
    });
    w.settle();
    let owners = |w: &World, n: &str| -> Vec<String> {
        let claim = w.claims.iter().find(|c| name(*c) == n).unwrap();
        claim.metadata.owner_references.iter().flatten().map(|o| o.kind.clone()).collect()
    };
    assert_eq!(owners(&w, "data-web-1"), ["StatefulSet"]);
    w.spec().replicas = Some(1);
    w.round();
    assert_eq!(owners(&w, "data-web-1"), ["Pod"], "it goes with its pod");
    assert_eq!(owners(&w, "data-web-0"), ["StatefulSet"]);
    w.settle();
    // A pod does not come back onto a claim that is about to go.
    w.spec().replicas = Some(2);
    w.log();
    w.round();
    assert_eq!(w.log(), "");
    w.claims.retain(|c| name(c) != "data-web-1");
    w.settle();
    assert_eq!(w.log(), "+web-1");
}

#[test]
fn min_ready_seconds_delay_the_next() {
    let mut w = World::new(2, "OrderedReady");
    w.spec().min_ready_seconds = Some(10);
    for _ in 0..5 {
        w.round();
        w.nodes();
        w.clock += 1;
    }
    assert_eq!(w.pods.len(), 1);
    assert!(w.plan().again.is_some());
    w.settle();
    assert_eq!(w.pods.iter().filter(|p| pod::ready(p)).count(), 2);
}
