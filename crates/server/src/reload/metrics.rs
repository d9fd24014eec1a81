//! How often configurations were read again, under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    status: &'static str,
}

/// The reloads of one configuration. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    total: Family<Labels, Counter>,
    last: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl Reloads {
    /// Fresh metrics of the controller `name` (`authentication_config`, `encryption_config`).
    pub fn register(registry: &mut Registry, name: &str) -> Self {
        let new = Self::default();
        let metric = |what: &str| format!("apiserver_{name}_controller_{what}");
        registry.register(
            metric("automatic_reloads"),
            "Reloads of the configuration file by their outcome",
            new.total.clone(),
        );
        registry.register(
            metric("automatic_reload_last_timestamp_seconds"),
            "When the last reload of this outcome was",
            new.last.clone(),
        );
        new
    }

    /// Counts one.
    pub fn count(&self, good: bool) {
        let labels = Labels { status: if good { "success" } else { "failure" } };
        self.total.get_or_create(&labels).inc();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last.get_or_create(&labels).set(now.as_secs_f64());
    }
}
