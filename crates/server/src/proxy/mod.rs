//! Requests that are passed on: to nodes (logs, exec, attach, port-forward, the node's own endpoints), and to Pods and
//! Services. Upgraded connections are tunnelled as raw bytes: the node terminates the streaming protocols.

mod connect;
pub(crate) mod forward;
mod locate;
mod rewrite;

pub(crate) use forward::{Backend, forward};

use crate::pki::Pki;
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
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
        let blind = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
            .with_no_client_auth();
        Ok(Self {
            pki: pki.clone(),
            kubelet: RwLock::new((leaves.kubelet_client.cert_pem.clone(), config)),
            blind: Arc::new(blind),
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

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Kubelets show certificates of the cluster's authority for the address they are reached at, as upstream with
/// `--kubelet-certificate-authority`: whoever took a node's address cannot read what is typed into `kubectl exec`.
fn kubelet_config(pki: &Pki) -> Result<Arc<ClientConfig>, String> {
    let leaves = pki.leaves();
    let leaf = &leaves.kubelet_client;
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.cert_der().clone()).map_err(|e| e.to_string())?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(leaf.chain().map_err(|e| e.to_string())?, leaf.key().map_err(|e| e.to_string())?)
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(config))
}

/// Takes any server certificate whose key the server has.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
