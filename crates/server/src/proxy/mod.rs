//! Requests that are passed on: to nodes (logs, exec, attach, port-forward, the node's own endpoints), and to Pods and
//! Services. Upgraded connections are tunnelled as raw bytes: the node terminates the streaming protocols.

mod connect;
pub(crate) mod forward;
mod kubelet;
mod locate;
mod rewrite;

pub(crate) use forward::{Backend, forward, strip_named};

use crate::outbound::{Trust, client_tls};
use crate::pki::Pki;
use parking_lot::RwLock;
use rustls::ClientConfig;
use std::sync::Arc;

/// How the server reaches nodes and other backends.
pub struct Nodes {
    pki: Arc<Pki>,
    kubelet: RwLock<(String, Arc<ClientConfig>)>,
    /// TLS to Pods and Services behind `https:`, whose certificates nobody vouches for.
    pub(crate) blind: Arc<ClientConfig>,
}

impl Nodes {
    /// With the client certificate of `pki`.
    pub fn new(pki: &Arc<Pki>) -> Result<Self, String> {
        let leaves = pki.leaves();
        let config = kubelet_config(pki)?;
        Ok(Self {
            pki: pki.clone(),
            kubelet: RwLock::new((leaves.kubelet_client.cert_pem.clone(), config)),
            blind: client_tls(Trust::Anyone, None)?,
        })
    }

    /// TLS to a kubelet, with the present client certificate.
    pub(crate) fn kubelet(&self) -> Arc<ClientConfig> {
        let leaves = self.pki.leaves();
        {
            let kept = self.kubelet.read();
            if kept.0 == leaves.kubelet_client.cert_pem {
                return kept.1.clone();
            }
        }
        match kubelet_config(&self.pki) {
            Ok(config) => {
                *self.kubelet.write() = (leaves.kubelet_client.cert_pem.clone(), config.clone());
                config
            }
            Err(error) => {
                tracing::warn!(%error, "the renewed kubelet client certificate cannot be used");
                self.kubelet.read().1.clone()
            }
        }
    }
}

/// Kubelets show certificates of the cluster's authority for the address they are reached at, as upstream with
/// `--kubelet-certificate-authority`: whoever took a node's address cannot read what is typed into `kubectl exec`.
fn kubelet_config(pki: &Pki) -> Result<Arc<ClientConfig>, String> {
    let leaves = pki.leaves();
    let leaf = &leaves.kubelet_client;
    let identity = (leaf.chain().map_err(|e| e.to_string())?, leaf.key().map_err(|e| e.to_string())?);
    client_tls(Trust::Bundle(pki.ca.cert_pem().as_bytes()), Some(identity))
}
