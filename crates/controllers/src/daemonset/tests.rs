//! DaemonSets played against a small world of nodes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::*;
use k8s_openapi::api::core::v1::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Plan, Snapshot, plan};
use super::template::target;
use crate::common::history::HASH_LABEL;
use crate::common::pod::testing::at;
use crate::common::{deleting, name, pod};

struct World {
    ds: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Pod>,
    hash: String,
    clock: i64,
    serial: usize,
    broken: String,
}

fn node(n: &str) -> Arc<Node> {
    Arc::new(Node {
        metadata: ObjectMeta {
            name: Some(n.into()),
            labels: Some([("name".to_owned(), n.to_owned())].into()),
            ..Default::default()
        },
        spec: Some(NodeSpec::default()),
        status: None,
    })
}

impl World {
    fn new(count: usize, update: RollingUpdateDaemonSet) -> Self {
        let mut ds = DaemonSet { spec: Some(DaemonSetSpec::default()), ..Default::default() };
        ds.metadata.name = Some("d".into());
        ds.spec.as_mut().unwrap().update_strategy =
            Some(DaemonSetUpdateStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(update) });
        Self {
            ds,
            nodes: (0..count).map(|i| node(&format!("n{i}"))).collect(),
            pods: vec![],
            hash: "v1".into(),
            clock: 0,
            serial: 0,
            broken: String::new(),
        }
    }

    fn plan_with(&self, patience: Option<Duration>) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        plan(&Snapshot {
            ds: &self.ds,
            nodes: &self.nodes,
            pods: &pods,
            hash: &self.hash,
            patience: &|_| patience,
            may_act: true,
            collisions: None,
            now: at(self.clock),
        })
    }

    fn round(&mut self) -> bool {
        let p = self.plan_with(None);
        let wrote = p != Plan::default();
        for d in p.delete {
            let there = self.pods.iter_mut().find(|x| name(*x) == name(&*d)).unwrap();
            there.metadata.deletion_timestamp = Some(Time(at(self.clock)));
        }
        for mut new in p.create {
            self.serial += 1;
            new.metadata.name = Some(format!("p{}", self.serial));
            new.metadata.creation_timestamp = Some(Time(at(self.clock)));
            new.status = Some(PodStatus { phase: Some("Pending".into()), ..Default::default() });
            self.pods.push(new);
        }
        if let Some(s) = p.status {
            self.ds.status = Some(s);
        }
        wrote
    }

    fn kubelets(&mut self) -> bool {
        let before = self.pods.len();
        self.pods.retain(|p| !deleting(p));
        let mut changed = before != self.pods.len();
        for p in &mut self.pods {
            let place = target(p).unwrap();
            let hash = p.metadata.labels.as_ref().unwrap()[HASH_LABEL].clone();
            p.spec.as_mut().unwrap().node_name = Some(place);
            let s = p.status.as_mut().unwrap();
            if s.phase.as_deref() == Some("Pending") && hash != self.broken {
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

    fn settle(&mut self, invariant: impl Fn(&World)) {
        for _ in 0..200 {
            let a = self.round();
            invariant(self);
            let b = self.kubelets();
            invariant(self);
            self.clock += 1;
            if !a && !b {
                return;
            }
        }
        panic!("does not come to rest");
    }

    fn serving(&self) -> usize {
        self.pods.iter().filter(|p| pod::ready(p) && !deleting(*p)).count()
    }

    fn on(&self, hash: &str) -> usize {
        self.pods.iter().filter(|p| p.metadata.labels.as_ref().unwrap()[HASH_LABEL] == hash).count()
    }
}

fn update(unavailable: i32, surge: i32) -> RollingUpdateDaemonSet {
    RollingUpdateDaemonSet {
        max_unavailable: Some(IntOrString::Int(unavailable)),
        max_surge: Some(IntOrString::Int(surge)),
    }
}

#[test]
fn one_on_each_node_and_rolled_within_the_limits() {
    let mut w = World::new(6, update(2, 0));
    w.settle(|_| ());
    let s = w.ds.status.clone().unwrap();
    assert_eq!((s.desired_number_scheduled, s.number_ready, s.updated_number_scheduled), (6, 6, Some(6)));
    w.hash = "v2".into();
    w.settle(|w| {
        assert!(w.serving() >= 4);
        assert!(w.pods.len() <= 6);
    });
    assert_eq!((w.on("v2"), w.on("v1")), (6, 0));
    // A broken version stops at the limit, and the next one mends it.
    w.broken = "v3".into();
    w.hash = "v3".into();
    w.settle(|w| assert!(w.serving() >= 4));
    assert_eq!((w.on("v3"), w.on("v2")), (2, 4));
    w.hash = "v4".into();
    w.settle(|w| assert!(w.serving() >= 4));
    assert_eq!(w.on("v4"), 6);
}

#[test]
fn surge_keeps_all_serving() {
    let mut w = World::new(5, update(0, 2));
    w.settle(|_| ());
    w.hash = "v2".into();
    w.settle(|w| {
        assert!(w.serving() >= 5);
        assert!(w.pods.iter().filter(|p| !deleting(*p)).count() <= 7);
    });
    assert_eq!((w.on("v2"), w.on("v1"), w.pods.len()), (5, 0, 5));
}

#[test]
fn nodes_come_and_go_and_taints_matter() {
    let mut w = World::new(2, update(1, 0));
    w.settle(|_| ());
    w.nodes.push(node("n2"));
    w.settle(|_| ());
    assert_eq!(w.pods.len(), 3);
    let taint = |n: &mut Arc<Node>, key: &str, effect: &str| {
        let mut changed = (**n).clone();
        changed.spec.as_mut().unwrap().taints =
            Some(vec![Taint { key: key.into(), effect: effect.into(), ..Default::default() }]);
        *n = Arc::new(changed);
    };
    taint(&mut w.nodes[0], "mine", "NoSchedule");
    w.settle(|_| ());
    assert_eq!(w.pods.len(), 3, "what runs stays");
    assert_eq!(w.ds.status.as_ref().unwrap().number_misscheduled, 1);
    taint(&mut w.nodes[0], "mine", "NoExecute");
    w.settle(|_| ());
    assert_eq!(w.pods.len(), 2);
    taint(&mut w.nodes[0], "node.kubernetes.io/unreachable", "NoExecute");
    w.settle(|_| ());
    assert_eq!(w.pods.len(), 3, "daemons tolerate the node's own troubles");
}

#[test]
fn selectors_choose_nodes() {
    let mut w = World::new(3, update(1, 0));
    w.ds.spec.as_mut().unwrap().template.spec =
        Some(PodSpec { node_selector: Some([("name".to_owned(), "n1".to_owned())].into()), ..Default::default() });
    w.settle(|_| ());
    assert_eq!(w.pods.iter().filter_map(target).collect::<Vec<_>>(), ["n1"]);
}

#[test]
fn failed_pods_are_replaced_with_patience() {
    let mut w = World::new(1, update(1, 0));
    w.settle(|_| ());
    w.pods[0].status.as_mut().unwrap().phase = Some("Failed".into());
    let wait = Duration::from_secs(3);
    let p = w.plan_with(Some(wait));
    assert_eq!((p.delete.len(), p.again), (0, Some(wait)));
    let p = w.plan_with(None);
    assert_eq!((p.delete.len(), p.events[0].reason, p.failed_on.len()), (1, "FailedDaemonPod", 1));
    w.settle(|_| ());
    assert_eq!(w.serving(), 1);
}
