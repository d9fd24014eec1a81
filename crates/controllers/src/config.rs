//! Settings of all controllers, in one place.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::LegacyTokens;

/// Controllers that `*` does not mean: what they work on is not served by default.
const OFF_BY_DEFAULT: [&str; 1] = [crate::MIGRATOR];

/// Settings of the controllers; [`Default`] has upstream's values.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which controllers run, as kube-controller-manager's `--controllers`: `*` is all that are on by default, a name adds, `-name` removes.
    pub enabled: Vec<String>,
    /// PEM of the certificate authority of the API server, published as ConfigMap `kube-root-ca.crt` in every namespace.
    pub root_ca: String,
    /// PEM certificate and private key of the authority that signs CSRs of the `kubernetes.io/*` signers; none signs then.
    pub signing_ca: Option<(String, String)>,
    /// Life of signed certificates (`--cluster-signing-duration`).
    pub signing_duration: Duration,
    /// The network that nodes' pod networks are cut from (address and prefix length); none allocates then.
    pub cluster_cidr: Option<(IpAddr, u8)>,
    /// Prefix length of one node's pod network.
    pub node_cidr_mask: u8,
    /// Detection of and reaction to lost nodes.
    pub node: NodeTimes,
    /// Finished pods that may exist before the oldest are deleted (`--terminated-pod-gc-threshold`; 0 is no limit).
    pub terminated_pod_threshold: usize,
    /// How often the pod autoscaler looks at metrics (`--horizontal-pod-autoscaler-sync-period`).
    pub hpa_sync_period: Duration,
    /// Endpoints that one slice holds at most.
    pub max_endpoints_per_slice: usize,
    /// When tokens in Secrets that nobody uses go.
    pub legacy_tokens: LegacyTokens,
    /// What the wall clock says. Tests set it; waiting is by tokio's clock.
    pub clock: fn() -> Timestamp,
}

/// The times by which the loss of a node is noticed and answered.
#[derive(Clone, Debug)]
pub struct NodeTimes {
    /// Without a sign of life for this long a node's conditions become Unknown (`--node-monitor-grace-period`).
    pub grace: Duration,
    /// The same for a node that never reported anything.
    pub startup_grace: Duration,
    /// Longest time between two looks at a node's lease (`--node-monitor-period`).
    pub monitor: Duration,
}

impl Default for NodeTimes {
    fn default() -> Self {
        Self { grace: Duration::from_secs(50), startup_grace: Duration::from_secs(60), monitor: Duration::from_secs(5) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: vec!["*".to_owned()],
            root_ca: String::new(),
            signing_ca: None,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            cluster_cidr: None,
            node_cidr_mask: 24,
            node: NodeTimes::default(),
            terminated_pod_threshold: 12_500,
            hpa_sync_period: Duration::from_secs(15),
            max_endpoints_per_slice: 100,
            legacy_tokens: LegacyTokens::default(),
            clock: Timestamp::now,
        }
    }
}

impl Config {
    /// Whether a controller runs; the first entry that speaks of it decides.
    pub fn is_enabled(&self, name: &str) -> bool {
        let mut star = false;
        for entry in &self.enabled {
            if entry == name {
                return true;
            }
            if entry.strip_prefix('-') == Some(name) {
                return false;
            }
            star |= entry == "*";
        }
        star && !OFF_BY_DEFAULT.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabling() {
        let c = |l: &[&str]| Config { enabled: l.iter().map(|s| (*s).to_owned()).collect(), ..Default::default() };
        assert!(c(&["*"]).is_enabled("a"));
        assert!(!c(&["*", "-a"]).is_enabled("a"));
        assert!(c(&["a"]).is_enabled("a"));
        assert!(!c(&["a"]).is_enabled("b"));
        assert!(!c(&["*"]).is_enabled(crate::MIGRATOR));
        assert!(c(&["*", crate::MIGRATOR]).is_enabled(crate::MIGRATOR));
    }
}
