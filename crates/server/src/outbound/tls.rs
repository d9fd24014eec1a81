//! TLS to extensions: whom to trust, and why a certificate was refused in words that people know.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;

/// Where this machine keeps the authorities that it trusts.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Whose certificates are good.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those that lead to one of these (PEM).
    Bundle(&'a [u8]),
    /// Those that lead to an authority which this machine trusts.
    System,
    /// Any.
    Anyone,
}

/// A certificate chain and its key, to be shown to servers.
pub type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// TLS for a client that trusts `trust` and shows `identity`.
///
/// # Errors
/// A text: the bundle holds no certificate, or the key does not fit.
pub fn client_tls(trust: Trust<'_>, identity: Option<ClientIdentity>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(trust, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    anyone: bool,
    /// `None` when nobody is trusted.
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are trusted for what they are: a self-signed one that serves is its own authority.
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(trust: Trust<'_>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let known = match trust {
            Trust::Anyone => return Ok(Self { provider, anyone: true, chains: None, pinned: vec![] }),
            Trust::Bundle(pem) => certificates(pem),
            Trust::System => {
                let bundle = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok());
                certificates(&bundle.unwrap_or_default())
            }
        };
        if matches!(trust, Trust::Bundle(_)) && known.is_empty() {
            return Err("the caBundle holds no PEM certificate".to_owned());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(known.iter().cloned());
        let chains = if roots.is_empty() {
            None
        } else {
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            Some(built.map_err(|e| e.to_string())?)
        };
        let pinned = if matches!(trust, Trust::Bundle(_)) { known } else { vec![] };
        Ok(Self { provider, anyone: false, chains, pinned })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.anyone {
            return Ok(ServerCertVerified::assertion());
        }
        let refused = match &self.chains {
            Some(chains) => match chains.verify_server_cert(leaf, more, name, ocsp, now) {
                Ok(verified) => return Ok(verified),
                Err(refused) => refused,
            },
            None => CertificateError::UnknownIssuer.into(),
        };
        if self.pinned.iter().any(|known| known.as_ref() == leaf.as_ref()) && is_good(leaf, name, now) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a pinned certificate is for this name and of this time.
fn is_good(leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(leaf) else { return false };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = cert.validity();
    if seconds < validity.not_before.timestamp() || seconds > validity.not_after.timestamp() {
        return false;
    }
    let Ok(Some(names)) = cert.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|one| match (one, name) {
        (GeneralName::DNSName(pattern), ServerName::DnsName(wanted)) => covers(pattern, wanted.as_ref()),
        (GeneralName::IPAddress(bytes), ServerName::IpAddress(wanted)) => match std::net::IpAddr::from(*wanted) {
            std::net::IpAddr::V4(ip) => ip.octets()[..] == **bytes,
            std::net::IpAddr::V6(ip) => ip.octets()[..] == **bytes,
        },
        _ => false,
    })
}

/// `*.example.com` covers one label.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

/// A failed handshake in the words of Go's TLS.
pub(crate) fn explain(error: &std::io::Error, name: &str) -> String {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return "EOF".to_owned();
    }
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(why)) => why,
        Some(rustls::Error::InvalidMessage(_)) => {
            return "tls: first record does not look like a TLS handshake".to_owned();
        }
        _ => return format!("remote error: tls: {error}"),
    };
    let why = match why {
        CertificateError::UnknownIssuer => "x509: certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } | CertificateError::NotValidYet => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            // `DnsName("a.example")`, `IpAddress(10.0.0.1)`
            let bare = |one: &String| {
                let inner = one.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
                inner.unwrap_or(one).trim_matches('"').to_owned()
            };
            let names: Vec<String> = presented.iter().map(bare).collect();
            format!("x509: certificate is valid for {}, not {name}", names.join(", "))
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("x509: certificate is not valid for any names, but wanted to match {name}")
        }
        other => format!("x509: {other:?}"),
    };
    format!("tls: failed to verify certificate: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_one_label() {
        assert!(covers("*.n.svc", "s.n.svc"));
        assert!(!covers("*.n.svc", "a.s.n.svc"));
        assert!(covers("S.n.svc", "s.N.svc"));
        assert!(!covers("s.n.svc", "t.n.svc"));
    }

    #[test]
    fn an_empty_bundle_is_refused() {
        assert!(client_tls(Trust::Bundle(b"rubbish"), None).is_err());
        assert!(client_tls(Trust::Anyone, None).is_ok());
        assert!(client_tls(Trust::System, None).is_ok());
    }
}
