//! Requests that end at a node, a Pod or a Service rather than in the store.
//!
//! The server only authorizes and finds the way: streams (exec, attach, port-forward) pass through as raw bytes, and
//! the node speaks their protocols.

pub mod forward;
pub mod kubelet;

use crate::pki::{Leaf, Pki};
use caravel_api::status::ApiError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;

pub use forward::{Target, check_address, forward};

/// What goes wrong with our own certificates.
fn unusable(e: impl std::fmt::Display) -> ApiError {
    ApiError::internal(format!("the certificate shown to nodes cannot be used: {e}"))
}

/// TLS towards nodes: shows the kubelet client certificate. A node's serving certificate is verified against the
/// cluster's CA when it was signed by it; the node is identified by the address its Node object carries.
pub fn kubelet_tls(pki: &Pki) -> Result<Arc<rustls::ClientConfig>, ApiError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca.cert_pem().as_bytes()) {
        roots.add(certificate.map_err(unusable)?).map_err(unusable)?;
    }
    client_config(rustls::ClientConfig::builder().with_root_certificates(roots), &pki.leaves().kubelet_client)
}

/// TLS towards Pods and Services (`https:name:port`): upstream does not verify these either, since their certificates
/// are the application's own; no certificate of ours is shown.
pub fn unverified_tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.unwrap_or_else(|_| rustls::ClientConfig::builder());
    Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider))).with_no_client_auth())
}

fn client_config(
    builder: rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
    leaf: &Leaf,
) -> Result<Arc<rustls::ClientConfig>, ApiError> {
    let chain = CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).map_err(unusable)?;
    Ok(Arc::new(builder.with_client_auth_cert(chain, key).map_err(unusable)?))
}

/// Takes any certificate, but still demands that the other side holds its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
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
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
