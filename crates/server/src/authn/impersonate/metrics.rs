//! What impersonation tells of itself, under upstream's names.

use super::modes::Mode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    mode: &'static str,
    decision: &'static str,
}

/// Counts and durations (seconds) of something that is decided.
#[derive(Clone, Debug)]
struct Kind {
    count: Family<Labels, Counter>,
    took: Family<Labels, Histogram>,
}

impl Kind {
    fn register(registry: &mut Registry, name: &str, what: &str) -> Self {
        let count = Family::default();
        let took =
            Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15)));
        registry.register(name, format!("{what}, by mode and decision"), count.clone());
        registry.register(format!("{name}_duration_seconds"), format!("How long one took: {what}"), took.clone());
        Self { count, took }
    }

    fn add(&self, mode: &'static str, allowed: bool, took: Duration) {
        let labels = Labels { mode, decision: if allowed { "allowed" } else { "denied" } };
        self.count.get_or_create(&labels).inc();
        self.took.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

/// The counters. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct ImpersonationMetrics {
    attempts: Kind,
    checks: Kind,
}

impl ImpersonationMetrics {
    /// Fresh counters in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let attempts = Kind::register(registry, "apiserver_impersonation_attempts", "Attempts to act as another");
        let name = "apiserver_impersonation_authorization_attempts";
        let checks = Kind::register(registry, name, "Questions to authorizers whether one may act as another");
        Self { attempts, checks }
    }

    /// A request was allowed in this way, or in none.
    pub fn attempted(&self, mode: Option<Mode>, took: Duration) {
        self.attempts.add(mode.map_or("", Mode::name), mode.is_some(), took);
    }

    /// An authorizer was asked.
    pub fn asked(&self, mode: Mode, allowed: bool, took: Duration) {
        self.checks.add(mode.name(), allowed, took);
    }
}
