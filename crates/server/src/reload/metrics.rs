//! How often configurations were read again, under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    status: &'static str,
    apiserver_id_hash: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Used {
    apiserver_id_hash: Arc<str>,
    hash: String,
}

/// The reloads of one configuration. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Reloads {
    identity: Arc<str>,
    total: Family<Labels, Counter>,
    last: Family<Labels, Gauge<f64, AtomicU64>>,
    used: Family<Used, Gauge>,
}

impl Reloads {
    /// Fresh metrics of the controller `name` (`authentication_config`, `authorization_config`, `encryption_config`) of the
    /// server with this identity.
    pub fn register(registry: &mut Registry, name: &str, identity: &str) -> Self {
        let new = Self {
            identity: hash(identity).into(),
            total: Family::default(),
            last: Family::default(),
            used: Family::default(),
        };
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
        registry.register(
            metric("last_config_info"),
            "The configuration that is in use, by its hash",
            new.used.clone(),
        );
        new
    }

    /// Counts one.
    pub fn count(&self, good: bool) {
        let status = if good { "success" } else { "failure" };
        let labels = Labels { status, apiserver_id_hash: self.identity.clone() };
        self.total.get_or_create(&labels).inc();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last.get_or_create(&labels).set(now.as_secs_f64());
    }

    /// This text is in use from now on.
    pub fn uses(&self, text: &str) {
        self.used.clear();
        self.used.get_or_create(&Used { apiserver_id_hash: self.identity.clone(), hash: hash(text) }).set(1);
    }
}

/// As upstream writes the hash of an identity, and of a file.
fn hash(text: &str) -> String {
    let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_upstreams() {
        // What `sha256sum` says of an empty input.
        assert_eq!(hash(""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn only_the_text_in_use_is_told() {
        let mut registry = Registry::default();
        let reloads = Reloads::register(&mut registry, "x", "me");
        reloads.uses("a");
        reloads.uses("b");
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &registry).unwrap();
        let lines: Vec<&str> = out.lines().filter(|line| line.contains("last_config_info{")).collect();
        assert_eq!(lines.len(), 1, "{out}");
        assert!(lines[0].contains(&hash("b")) && lines[0].contains(&hash("me")), "{out}");
    }
}
