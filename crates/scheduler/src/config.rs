//! What can be set.

use std::sync::Arc;
use std::time::Duration;

use crate::extend::ExtenderConfig;
use crate::model::{NodeRule, NodeTerm};
use crate::plugins::PluginSet;
use crate::plugins::fit::Scoring;
use crate::plugins::spread::Defaults;

/// Weights of scores; 0 turns one off. The defaults are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Untolerated preferences of nodes.
    pub taints: i64,
    /// Preferred node affinity.
    pub node_affinity: i64,
    /// Soft topology spreading.
    pub spread: i64,
    /// Preferences between pods.
    pub interpod: i64,
    /// How full the node is.
    pub fit: i64,
    /// How evenly it is used.
    pub balanced: i64,
    /// Images that are there.
    pub images: i64,
    /// Devices that are rather wanted than others.
    pub devices: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { taints: 3, node_affinity: 2, spread: 2, interpod: 2, fit: 1, balanced: 1, images: 1, devices: 1 }
    }
}

/// What a profile changes about which nodes will do.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Filters that are turned off.
    pub off: PluginSet,
    /// Resources outside the built-in ones that others look after: they need not fit.
    pub ignored: Vec<String>,
    /// The same by what stands before the slash of their names.
    pub ignored_groups: Vec<String>,
    /// Node affinity that every pod has beside its own.
    pub added: Option<NodeRule>,
    /// Preferences that every pod has beside its own.
    pub preferences: Vec<(i64, NodeTerm)>,
}

impl Rules {
    /// Whether a resource need not fit.
    pub fn ignores(&self, resource: &str) -> bool {
        self.ignored.iter().any(|name| name == resource)
            || resource.split_once('/').is_some_and(|(group, _)| self.ignored_groups.iter().any(|g| g == group))
    }
}

/// How pods make room for more important ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Whether they do at all.
    pub enabled: bool,
    /// So many percent of the nodes are enough candidates.
    pub percentage: usize,
    /// But at least so many.
    pub absolute: usize,
}

impl Default for Preemption {
    fn default() -> Self {
        Self { enabled: true, percentage: 10, absolute: 100 }
    }
}

/// One scheduler by name, as pods choose with `spec.schedulerName`.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The name.
    pub name: Arc<str>,
    /// Weights of scores.
    pub weights: Weights,
    /// How full nodes are liked.
    pub fit: Scoring,
    /// Spreading of pods that say nothing about it.
    pub spread: Defaults,
    /// What a required affinity of a pod that is there counts for in scoring.
    pub hard_affinity_weight: i64,
    /// How many percent of the nodes are enough to choose among; `None` adapts to the size of the cluster.
    pub percentage_of_nodes: Option<u32>,
    /// What is changed about filters.
    pub rules: Arc<Rules>,
    /// Preferences of pods that are there do not count for pods that have none themselves.
    pub ignore_preferences_of_others: bool,
    /// Making room.
    pub preemption: Preemption,
    /// How long claims may take to be bound before the pod is tried elsewhere.
    pub bind_timeout: Duration,
    /// How long devices may take to be ready for their node before others are looked for.
    pub device_timeout: Duration,
}

impl Profile {
    /// The defaults under a name.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            weights: Weights::default(),
            fit: Scoring::default(),
            spread: Defaults::System,
            hard_affinity_weight: 1,
            percentage_of_nodes: None,
            rules: Arc::default(),
            ignore_preferences_of_others: false,
            preemption: Preemption::default(),
            bind_timeout: Duration::from_secs(600),
            device_timeout: Duration::from_secs(600),
        }
    }
}

/// The scheduler's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The profiles; their names differ.
    pub profiles: Vec<Profile>,
    /// First and longest wait of a pod that could not be scheduled, in seconds.
    pub backoff: (f64, f64),
    /// How many bindings may be under way at once.
    pub parallel_binds: usize,
    /// HTTP services that have a say.
    pub extenders: Vec<ExtenderConfig>,
    /// The file that it is of, without what nobody else should know.
    pub told: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::named("default-scheduler")],
            backoff: (1.0, 10.0),
            parallel_binds: 64,
            extenders: Vec::new(),
            told: None,
        }
    }
}
