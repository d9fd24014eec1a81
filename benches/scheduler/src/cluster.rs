//! Fake nodes, templates of pods, and the loop that is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caravel_scheduler::core::Core;
use caravel_scheduler::decide::{Decision, Turn, decide};
use caravel_scheduler::model::PodInfo;
use caravel_scheduler::preempt::{Outcome, preempt};
use caravel_scheduler::testing::{NodeBuilder, PodBuilder, node, pod};
use caravel_scheduler::{Config, Profile};
use k8s_openapi::api::core::v1 as core;

use crate::machine;

/// Zones of the fake nodes.
pub const ZONES: usize = 3;

/// Nodes as scheduler_perf makes them: 4 cores, 32 GiB, 110 pods, in [`ZONES`] zones.
pub fn nodes(count: usize) -> impl Iterator<Item = NodeBuilder> {
    (0..count).map(|i| {
        let zone = format!("zone{}", i % ZONES);
        node(&format!("node-{i:05}")).cpu(4000).memory(32 << 30).pods(110).zone(&zone)
    })
}

/// A template of many pods.
#[derive(Clone)]
pub struct Template {
    name: &'static str,
    builder: PodBuilder,
    object: Option<core::Pod>,
    /// Sets the one node that pod number `i` may go to.
    daemon: bool,
}

/// Pods that ask for a tenth of a core and 500 MiB.
pub fn pods(name: &'static str) -> Template {
    let builder = pod(name).cpu(100).memory(500 << 20);
    Template { name, builder, object: None, daemon: false }
}

impl Template {
    /// Changes the pods.
    pub fn with(mut self, change: impl FnOnce(PodBuilder) -> PodBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// A label of every pod.
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(|p| p.label(key, value))
    }

    /// Hard spreading over zones.
    pub fn spread_zone(self, labels: &str) -> Self {
        self.with(|p| p.spread("topology.kubernetes.io/zone", 5, "DoNotSchedule", labels))
    }

    /// Each pod names its node, as those of a DaemonSet do.
    pub fn daemon(mut self) -> Self {
        self.daemon = true;
        self
    }

    /// Pod number `i`, as the scheduler sees it.
    pub fn info(&self, i: usize) -> PodInfo {
        let mut object = self.object.clone().unwrap_or_else(|| self.builder.object());
        let name = format!("{}-{i:06}", self.name);
        object.metadata.uid = Some(format!("uid-{name}"));
        object.metadata.name = Some(name);
        if self.daemon
            && let Some(spec) = &mut object.spec
        {
            let term = core::NodeSelectorTerm {
                match_fields: Some(vec![core::NodeSelectorRequirement {
                    key: "metadata.name".into(),
                    operator: "In".into(),
                    values: Some(vec![format!("node-{i:05}")]),
                }]),
                match_expressions: None,
            };
            let required = core::NodeSelector { node_selector_terms: vec![term] };
            spec.affinity = Some(core::Affinity {
                node_affinity: Some(core::NodeAffinity {
                    required_during_scheduling_ignored_during_execution: Some(required),
                    ..core::NodeAffinity::default()
                }),
                ..core::Affinity::default()
            });
        }
        PodInfo::new(&object)
    }

    /// The first `count` pods.
    pub fn make(mut self, count: usize) -> Vec<Arc<PodInfo>> {
        self.object = Some(self.builder.object());
        (0..count).map(|i| Arc::new(self.info(i))).collect()
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Figures {
    pub decisions: usize,
    pub placed: usize,
    pub preempted: usize,
    pub looked_at: usize,
    pub wall: Duration,
    pub cpu: Duration,
    pub notes: Vec<String>,
}

impl Figures {
    /// Decisions a second of CPU time: this thread shares its machine with others.
    pub fn per_second(&self) -> f64 {
        self.decisions as f64 / self.cpu.as_secs_f64().max(1e-9)
    }
}

/// A scheduler without an API.
pub struct Bench {
    pub core: Core,
    profile: Profile,
    turn: Turn,
    /// The clock: it goes on only where a scenario says so.
    pub now: Instant,
}

impl Bench {
    pub fn new() -> Self {
        let config = Config::default();
        let profile = config.profiles.first().cloned().unwrap_or_else(|| Profile::named("default-scheduler"));
        Self { core: Core::new(&config), profile, turn: Turn { start: 0, seed: 42 }, now: Instant::now() }
    }

    pub fn add_nodes(&mut self, nodes: impl IntoIterator<Item = NodeBuilder>) {
        for node in nodes {
            self.core.set_node(&node.object(), self.now);
        }
    }

    /// Pods come to be scheduled.
    pub fn arrive(&mut self, pods: &[Arc<PodInfo>]) {
        for pod in pods {
            self.core.set_pod(None, pod.clone(), self.now);
        }
    }

    /// Decides on everything that is ready, and gives what that cost; `every` is called after each decision.
    pub fn drain(&mut self, mut every: impl FnMut(&mut Self, usize)) -> Figures {
        let mut figures = Figures::default();
        let (wall, cpu) = (Instant::now(), machine::cpu());
        while let Some(pod) = self.core.queue.pop(self.now) {
            self.one(pod, &mut figures);
            figures.decisions += 1;
            every(self, figures.decisions);
        }
        figures.wall = wall.elapsed();
        figures.cpu = machine::cpu().saturating_sub(cpu);
        figures
    }

    fn one(&mut self, pod: Arc<PodInfo>, figures: &mut Figures) {
        match decide(&mut self.core.state, &self.profile, &pod, &mut self.turn) {
            Decision::Node { node, evaluated, .. } => {
                figures.looked_at += evaluated;
                figures.placed += 1;
                self.core.state.assume(pod.clone(), node);
                // What the informer says a moment later.
                let mut bound = (*pod).clone();
                bound.node = Some(self.core.state.node(node).name.clone());
                self.core.set_pod(Some(&pod), bound.into(), self.now);
            }
            Decision::Nowhere(failure) => {
                figures.looked_at += failure.rejects.len();
                let outcome = preempt(&mut self.core.state, &self.profile, &pod, &failure, &mut self.turn);
                if let Outcome::Make(candidate) = outcome {
                    let name = self.core.state.node(candidate.node).name.clone();
                    let mut hoping = (*pod).clone();
                    hoping.nominated = Some(name.clone());
                    let hoping = Arc::new(hoping);
                    self.core.state.nominate(hoping.clone(), &name);
                    self.core.queue.set(hoping, self.now);
                    self.core.queue.unschedulable(&pod.key, failure.plugins, self.now);
                    figures.preempted += candidate.victims.len();
                    for victim in &candidate.victims {
                        self.core.remove_pod(victim, self.now);
                    }
                    return;
                }
                self.core.queue.unschedulable(&pod.key, failure.plugins, self.now);
            }
        }
    }
}
