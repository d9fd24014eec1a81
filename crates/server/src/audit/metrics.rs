//! What audit tells of itself, under upstream's names.

use super::policy::Level;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PluginLabels {
    plugin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// The counters. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct AuditMetrics {
    events: Counter,
    errors: Family<PluginLabels, Counter>,
    levels: Family<LevelLabels, Counter>,
    rejected: Counter,
}

impl AuditMetrics {
    /// Fresh counters in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        registry.register("apiserver_audit_event", "Audit events that were made", new.events.clone());
        registry.register("apiserver_audit_error", "Audit events that a backend lost", new.errors.clone());
        registry.register("apiserver_audit_level", "Requests by the level of the audit policy", new.levels.clone());
        registry.register(
            "apiserver_audit_requests_rejected",
            "Requests that were refused because they could not be recorded",
            new.rejected.clone(),
        );
        new
    }

    /// An event was made.
    pub fn event(&self) {
        self.events.inc();
    }

    /// A request was judged.
    pub fn level(&self, level: Level) {
        self.levels.get_or_create(&LevelLabels { level: level.name() }).inc();
    }

    /// A request was refused because it could not be recorded.
    pub fn rejected(&self) {
        self.rejected.inc();
    }

    /// A backend (`log`, `buffered`, `truncate` or `webhook`) lost events: they are counted and told of.
    pub fn lost(&self, plugin: &'static str, count: usize, why: &str) {
        self.errors.get_or_create(&PluginLabels { plugin }).inc_by(count as u64);
        tracing::error!(plugin, count, why, "audit events are lost");
    }

    /// How many events a backend lost so far.
    pub fn lost_by(&self, plugin: &'static str) -> u64 {
        self.errors.get_or_create(&PluginLabels { plugin }).get()
    }
}
