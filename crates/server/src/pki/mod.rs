//! The cluster's own public key infrastructure, kept under `DIR/pki`.
//!
//! Two authorities (the cluster's and the front proxy's), the serving certificate, the client certificates that
//! the server and the administrator use, and the key that signs service-account tokens. Everything is created
//! at the first start and read back afterwards. Leaf certificates are renewed in the running process well before
//! they expire: [`Pki::renew`] is called by a task, and TLS asks [`Pki::serving`] at every handshake.

mod authority;
mod files;
mod kubeconfig;
mod serving;

pub use authority::{Authority, Leaf, LeafSpec, Usage};
pub use kubeconfig::kubeconfig;

/// Writes key material that only the owner may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    files::write(path, bytes, 0o600)
}
pub use serving::{AcceptAnyClient, ServingResolver};

use crate::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file under the PKI directory could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A stored certificate or key cannot be understood.
    #[error("{path} does not hold a usable {what}: {reason}; remove it to have a new one made")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was expected there.
        what: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// A certificate or key could not be made.
    #[error("cannot make {what}: {reason}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// The generator's words.
        reason: String,
    },
}

/// Names under which the server can be reached, for its serving certificate.
#[derive(Clone, Debug)]
pub struct ServingNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl ServingNames {
    /// The names every API server answers to, plus `extra` names or addresses.
    pub fn new(cluster_domain: &str, service_ip: IpAddr, extra: &[String]) -> Self {
        let mut dns: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(String::from).to_vec();
        dns.push(format!("kubernetes.default.svc.{cluster_domain}"));
        let mut ips = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST), service_ip];
        for name in extra {
            match name.parse::<IpAddr>() {
                Ok(ip) => {
                    if !ips.contains(&ip) {
                        ips.push(ip);
                    }
                }
                Err(_) => {
                    if !dns.contains(name) {
                        dns.push(name.clone());
                    }
                }
            }
        }
        Self { dns, ips }
    }
}

/// Leaf certificates live for a year.
const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Renewed when less than this is left: a third of their life.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(120 * 24);

/// The leaf certificates in use at the moment.
pub struct Leaves {
    /// What the server shows.
    pub serving: Leaf,
    /// What the server shows to kubelets (`kube-apiserver-kubelet-client`, `system:masters`).
    pub kubelet_client: Leaf,
    /// What the server shows to aggregated servers.
    pub front_proxy_client: Leaf,
    /// The administrator's certificate (`kubernetes-admin`, `system:masters`).
    pub admin: Leaf,
}

/// All keys and certificates of a cluster.
pub struct Pki {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    names: ServingNames,
    /// Signs client and serving certificates of the cluster.
    pub ca: Authority,
    /// Signs the certificates of request-header proxies.
    pub front_proxy_ca: Authority,
    /// PKCS#8 DER of the ES256 key that signs service-account tokens.
    pub service_account_key: Vec<u8>,
    leaves: RwLock<Arc<Leaves>>,
    resolver: Arc<ServingResolver>,
}

impl Pki {
    /// Reads the PKI under `dir`, making what is missing. Stale leaf certificates, and a serving certificate that
    /// lacks one of `names`, are made anew.
    pub fn open(dir: &Path, names: ServingNames, clock: Arc<dyn Clock>) -> Result<Self, PkiError> {
        files::private_dir(dir)?;
        let now = clock.now();
        let ca = Authority::open(dir, "ca", "kubernetes", now)?;
        let front_proxy_ca = Authority::open(dir, "front-proxy-ca", "front-proxy-ca", now)?;
        let service_account_key = authority::open_signing_key(dir, "sa")?;
        let leaves = Arc::new(open_leaves(dir, &ca, &front_proxy_ca, &names, now)?);
        let resolver = Arc::new(ServingResolver::new(&leaves.serving)?);
        Ok(Self {
            dir: dir.to_owned(),
            clock,
            names,
            ca,
            front_proxy_ca,
            service_account_key,
            leaves: RwLock::new(leaves),
            resolver,
        })
    }

    /// The leaf certificates in use.
    pub fn leaves(&self) -> Arc<Leaves> {
        self.leaves.read().clone()
    }

    /// Where the PKI lives.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Hands out the serving certificate at every TLS handshake, always the newest.
    pub fn serving(&self) -> Arc<ServingResolver> {
        self.resolver.clone()
    }

    /// When the next leaf certificate must be renewed.
    pub fn renew_at(&self) -> Timestamp {
        let leaves = self.leaves();
        [&leaves.serving, &leaves.kubelet_client, &leaves.front_proxy_client, &leaves.admin]
            .into_iter()
            .map(|leaf| leaf.not_after.saturating_sub(RENEW_BEFORE).unwrap_or(leaf.not_after))
            .min()
            .unwrap_or(Timestamp::MAX)
    }

    /// Renews the leaf certificates that are due. True when anything changed: new connections then see the new
    /// certificates, and the administrator's kubeconfig should be written again.
    pub fn renew(&self) -> Result<bool, PkiError> {
        let now = self.clock.now();
        if now < self.renew_at() {
            return Ok(false);
        }
        let leaves = Arc::new(open_leaves(&self.dir, &self.ca, &self.front_proxy_ca, &self.names, now)?);
        self.resolver.replace(&leaves.serving)?;
        *self.leaves.write() = leaves;
        Ok(true)
    }

    /// How long until [`Pki::renew`] should be called again; never more than an hour, because the wall clock can
    /// jump while timers do not.
    pub fn next_check(&self) -> std::time::Duration {
        let left = self.renew_at().duration_since(self.clock.now());
        let hour = SignedDuration::from_hours(1);
        std::time::Duration::try_from(left.clamp(SignedDuration::from_secs(1), hour)).unwrap_or_default()
    }
}

fn open_leaves(
    dir: &Path,
    ca: &Authority,
    front_proxy_ca: &Authority,
    names: &ServingNames,
    now: Timestamp,
) -> Result<Leaves, PkiError> {
    let open = |file: &str, authority: &Authority, spec: LeafSpec| {
        authority.open_leaf(dir, file, &spec, now, LEAF_LIFETIME, RENEW_BEFORE)
    };
    Ok(Leaves {
        serving: open("apiserver", ca, LeafSpec::server("kube-apiserver", names.dns.clone(), names.ips.clone()))?,
        kubelet_client: open(
            "apiserver-kubelet-client",
            ca,
            LeafSpec::client("kube-apiserver-kubelet-client", Some("system:masters")),
        )?,
        front_proxy_client: open("front-proxy-client", front_proxy_ca, LeafSpec::client("front-proxy-client", None))?,
        admin: open("admin", ca, LeafSpec::client("kubernetes-admin", Some("system:masters")))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn names() -> ServingNames {
        ServingNames::new("cluster.local", IpAddr::from([10, 96, 0, 1]), &["example.test".into()])
    }

    #[test]
    fn reopening_keeps_keys_and_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::now()));
        let first = Pki::open(dir.path(), names(), clock.clone()).unwrap();
        let second = Pki::open(dir.path(), names(), clock).unwrap();
        assert_eq!(first.ca.cert_pem(), second.ca.cert_pem());
        assert_eq!(first.service_account_key, second.service_account_key);
        assert_eq!(first.leaves().serving.cert_pem, second.leaves().serving.cert_pem);
    }

    #[test]
    fn a_new_name_makes_a_new_serving_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::now()));
        let first = Pki::open(dir.path(), names(), clock.clone()).unwrap();
        let more = ServingNames::new("cluster.local", IpAddr::from([10, 96, 0, 1]), &["other.test".into()]);
        let second = Pki::open(dir.path(), more, clock).unwrap();
        assert_ne!(first.leaves().serving.cert_pem, second.leaves().serving.cert_pem);
        assert_eq!(first.leaves().admin.cert_pem, second.leaves().admin.cert_pem);
    }

    #[test]
    fn leaves_are_renewed_in_the_running_process() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::now()));
        let pki = Pki::open(dir.path(), names(), clock.clone()).unwrap();
        let before = pki.leaves();
        assert!(!pki.renew().unwrap());
        clock.advance(SignedDuration::from_hours(300 * 24));
        assert!(pki.renew().unwrap());
        let after = pki.leaves();
        assert_ne!(before.serving.cert_pem, after.serving.cert_pem);
        assert_ne!(before.admin.cert_pem, after.admin.cert_pem);
        assert!(after.serving.not_after > before.serving.not_after);
        assert!(!pki.renew().unwrap());
    }
}
