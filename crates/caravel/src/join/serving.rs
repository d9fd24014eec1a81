//! The serving certificate of a node that joined: signed by the cluster's authority once the Node is known to it.

use super::bootstrap::{self, Wanted};
use super::credentials::{Pair, is_old, request, subject};
use anyhow::{Context, Result};
use caravel_node::server::ServingCert;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, SanType};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SIGNER: &str = "kubernetes.io/kubelet-serving";
const LOOK: Duration = Duration::from_secs(3600);
/// After a refusal; the Node's addresses may not be known yet.
const RETRY: Duration = Duration::from_secs(15);

/// The certificate that the node's API shows.
pub struct Serving {
    pair: Pair,
    node: String,
    address: IpAddr,
    shown: Arc<ServingCert>,
}

impl Serving {
    /// The one in the directory; else one that the node signs itself, until the cluster's authority has signed one.
    pub fn open(pki: &Path, node: &str, address: IpAddr) -> Result<Serving> {
        let pair = Pair::new(pki, "kubelet-serving");
        let (certificate, key) = match pair.read() {
            Some(kept) => kept,
            None => {
                let key = KeyPair::generate()?;
                (params(node, address)?.self_signed(&key)?.pem(), key.serialize_pem())
            }
        };
        let shown = ServingCert::from_pem(&certificate, &key)?;
        Ok(Serving { pair, node: node.to_owned(), address, shown })
    }

    /// What TLS asks at every handshake.
    pub fn shown(&self) -> Arc<ServingCert> {
        self.shown.clone()
    }

    /// Asks for one when there is none or it is old, until `stop`.
    pub async fn keep(self, client: kube::Client, stop: CancellationToken) {
        loop {
            let wait = match self.renew(&client).await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the node's serving certificate is not signed yet");
                    RETRY
                }
            };
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
        }
    }

    async fn renew(&self, client: &kube::Client) -> Result<()> {
        if self.pair.read().is_some_and(|(certificate, _)| !is_old(&certificate, Timestamp::now())) {
            return Ok(());
        }
        let (key, request_pem) = request(params(&self.node, self.address)?)?;
        let wanted = Wanted { signer: SIGNER, purpose: "server auth", request_pem };
        let certificate = bootstrap::certificate(client, wanted).await?;
        self.pair.write(&certificate, &key)?;
        self.shown.replace(&certificate, &key)
    }
}

fn params(node: &str, address: IpAddr) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(node);
    let name = node.to_owned().try_into().context("the node's name cannot stand in a certificate")?;
    params.subject_alt_names = vec![SanType::DnsName(name), SanType::IpAddress(address)];
    Ok(params)
}
