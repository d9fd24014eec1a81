//! The certificate that the node's HTTPS API shows, signed by the cluster's authority and renewed while we run.

use anyhow::Result;
use caravel_node::server::ServingCert;
use caravel_server::pki::{Leaf, LeafSpec, Pki};
use jiff::{SignedDuration, Timestamp};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// It lives for a year, and is made anew when a third of that is left.
const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(120 * 24);
/// The wall clock can jump while timers do not, so it is looked at this often.
const LOOK: Duration = Duration::from_secs(3600);

/// See the module documentation.
pub struct Certificate {
    pki: Arc<Pki>,
    spec: LeafSpec,
    serving: Arc<ServingCert>,
}

impl Certificate {
    /// Reads it from the PKI's directory, or makes it.
    pub fn open(pki: Arc<Pki>, node: &str, address: IpAddr) -> Result<Certificate> {
        let spec = LeafSpec::server(&format!("system:node:{node}"), vec![node.to_owned()], vec![address]);
        let leaf = leaf(&pki, &spec)?;
        let serving = ServingCert::from_pem(&leaf.cert_pem, &leaf.key_pem)?;
        Ok(Certificate { pki, spec, serving })
    }

    /// What TLS asks at every handshake.
    pub fn serving(&self) -> Arc<ServingCert> {
        self.serving.clone()
    }

    /// Renews it when it is due, until `stop`.
    pub async fn renew_until(self, stop: CancellationToken) {
        loop {
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(LOOK) => {} }
            let renewed = leaf(&self.pki, &self.spec).and_then(|l| self.serving.replace(&l.cert_pem, &l.key_pem));
            if let Err(error) = renewed {
                tracing::error!(%error, "the node's certificate could not be renewed");
            }
        }
    }
}

fn leaf(pki: &Pki, spec: &LeafSpec) -> Result<Leaf> {
    Ok(pki.ca.open_leaf(pki.dir(), "kubelet", spec, Timestamp::now(), LIFETIME, RENEW_BEFORE)?)
}
