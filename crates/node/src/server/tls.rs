//! The server's certificate, and who may show one to it.

use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate that can be replaced while connections use it.
#[derive(Debug)]
pub struct ServingCert(RwLock<Arc<CertifiedKey>>);

impl ServingCert {
    /// A chain and its key, both PEM.
    pub fn from_pem(chain: &str, key: &str) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(ServingCert(RwLock::new(load(chain, key)?))))
    }

    /// New connections get this one.
    pub fn replace(&self, chain: &str, key: &str) -> anyhow::Result<()> {
        *self.0.write() = load(chain, key)?;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

fn load(chain: &str, key: &str) -> anyhow::Result<Arc<CertifiedKey>> {
    let chain = certificates(chain).context("the kubelet's serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("the kubelet's serving key is not PEM")?;
    let key = ring::sign::any_supported_type(&key).context("the kubelet's serving key is of an unknown kind")?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
    anyhow::ensure!(!found.is_empty(), "there is no PEM certificate in it");
    Ok(found)
}

/// Client certificates are asked for but not demanded; one from another authority ends the handshake.
pub(super) fn server_config(serving: Arc<ServingCert>, client_ca: &str) -> anyhow::Result<rustls::ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(client_ca).context("the authority of client certificates")? {
        roots.add(certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    // Upgrades need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
