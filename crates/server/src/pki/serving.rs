//! What TLS asks of the PKI: the newest serving certificate, and a verifier that lets any client certificate through
//! the handshake. As upstream, a certificate that our authority did not sign is not a broken connection but an
//! answer 401: the chain is verified by the authenticator (`authn::x509`).

use super::{Leaf, PkiError};
use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;

/// Gives every handshake the newest serving certificate.
pub struct ServingResolver {
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for ServingResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServingResolver")
    }
}

impl ServingResolver {
    pub(super) fn new(leaf: &Leaf) -> Result<Self, PkiError> {
        Ok(Self { current: RwLock::new(certified(leaf)?) })
    }

    pub(super) fn replace(&self, leaf: &Leaf) -> Result<(), PkiError> {
        *self.current.write() = certified(leaf)?;
        Ok(())
    }
}

impl ResolvesServerCert for ServingResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

fn certified(leaf: &Leaf) -> Result<Arc<CertifiedKey>, PkiError> {
    let key = rustls::crypto::ring::sign::any_supported_type(&leaf.key()?)
        .map_err(|e| PkiError::Make { what: "a serving key", reason: e.to_string() })?;
    Ok(Arc::new(CertifiedKey::new(leaf.chain()?, key)))
}

/// Asks for a client certificate and takes whatever comes, or none; possession of its key is proven by the handshake.
#[derive(Debug)]
pub struct AcceptAnyClient {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl AcceptAnyClient {
    /// `authorities` are named to clients as acceptable issuers, so that they choose the right certificate.
    pub fn new(authorities: &[&CertificateDer<'static>], provider: Arc<CryptoProvider>) -> Self {
        let hints = authorities
            .iter()
            .filter_map(|der| {
                let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
                Some(DistinguishedName::from(cert.subject().as_raw().to_vec()))
            })
            .collect();
        Self { hints, provider }
    }
}

impl ClientCertVerifier for AcceptAnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
