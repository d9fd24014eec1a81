//! Client certificates: the common name is the user, the organizations are the groups, and an attribute of Kubernetes' own the uid.

use super::{AuthnError, UserInfo};
use crate::clock::Clock;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;
use std::time::Duration;

/// The attribute of a subject that holds the user's uid (AllowParsingUserUIDFromCertAuth, Kubernetes 1.34).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// Verifies chains against the authorities that the server trusts for clients.
pub struct X509 {
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Arc<dyn Clock>,
}

/// The identity that a connection's certificate gives, as long as the certificate lasts.
#[derive(Clone, Debug)]
pub struct CertificateIdentity {
    /// Who it is.
    pub user: Arc<UserInfo>,
    /// The certificate's end.
    pub not_after: Timestamp,
}

impl X509 {
    /// Trusts client certificates signed by any of `authorities`.
    pub fn new(authorities: &[&CertificateDer<'static>], clock: Arc<dyn Clock>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for der in authorities {
            roots.add((*der).clone()).map_err(|e| e.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { verifier, clock })
    }

    /// Checks a chain (leaf first) and reads the identity from its leaf.
    pub fn authenticate(&self, chain: &[CertificateDer<'_>]) -> Result<CertificateIdentity, AuthnError> {
        let (leaf, rest) = chain.split_first().ok_or_else(|| AuthnError::Certificate("there is none".into()))?;
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or(0);
        self.verifier
            .verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(Duration::from_secs(now)))
            .map_err(|e| AuthnError::Certificate(e.to_string()))?;
        identity(leaf)
    }

    /// The identity again for a later request on the same connection; the certificate may have ended meanwhile.
    pub fn recheck(&self, identity: &CertificateIdentity) -> Result<Arc<UserInfo>, AuthnError> {
        if self.clock.now() > identity.not_after {
            return Err(AuthnError::Certificate("it has expired".into()));
        }
        Ok(identity.user.clone())
    }
}

fn identity(leaf: &CertificateDer<'_>) -> Result<CertificateIdentity, AuthnError> {
    let (_, cert) = x509_parser::parse_x509_certificate(leaf).map_err(|e| AuthnError::Certificate(e.to_string()))?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = cert.subject().iter_common_name().find_map(text).unwrap_or_default();
    if name.is_empty() {
        return Err(AuthnError::Certificate("its subject has no common name, so it names no user".into()));
    }
    let groups = cert.subject().iter_organization().filter_map(text).collect();
    let mut uids = cert.subject().iter_attributes().filter(|a| a.attr_type().to_id_string() == UID);
    let uid = match (uids.next(), uids.next()) {
        (None, _) => String::new(),
        (Some(one), None) => text(one).ok_or_else(|| AuthnError::Certificate("its uid is no text".into()))?,
        _ => return Err(AuthnError::Certificate("its subject has more than one uid".into())),
    };
    let mut user = UserInfo { name, groups, uid, ..UserInfo::default() };
    let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={hex}")]);
    user.authenticated();
    let not_after = Timestamp::from_second(cert.validity().not_after.timestamp())
        .map_err(|e| AuthnError::Certificate(e.to_string()))?;
    Ok(CertificateIdentity { user: Arc::new(user), not_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::pki::{Authority, LeafSpec};
    use jiff::SignedDuration;

    #[test]
    fn the_subject_may_hold_one_uid() {
        let with = |uids: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
            for uid in uids {
                let kind = rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
                params.distinguished_name.push(kind, *uid);
            }
            let key = rcgen::KeyPair::generate().unwrap();
            identity(params.self_signed(&key).unwrap().der()).unwrap().user.uid.clone()
        };
        assert_eq!((with(&[]), with(&["u-1"])), (String::new(), "u-1".to_owned()));
    }

    #[test]
    fn certificates_name_users_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let clock = Arc::new(ManualClock::new(now));
        let ca = Authority::open(dir.path(), "ca", "ca", now).unwrap();
        let other = Authority::open(dir.path(), "other", "other", now).unwrap();
        let x509 = X509::new(&[ca.cert_der()], clock.clone()).unwrap();
        let day = SignedDuration::from_hours(24);
        let leaf = ca.issue(&LeafSpec::client("jane", Some("dev")), now, day).unwrap();
        let identity = x509.authenticate(&leaf.chain().unwrap()).unwrap();
        assert_eq!(identity.user.name, "jane");
        assert_eq!(identity.user.groups, ["dev", "system:authenticated"]);
        let forged = other.issue(&LeafSpec::client("root", Some("system:masters")), now, day).unwrap();
        assert!(matches!(x509.authenticate(&forged.chain().unwrap()), Err(AuthnError::Certificate(_))));
        let serving = ca.issue(&LeafSpec::server("web", vec!["web".into()], vec![]), now, day).unwrap();
        assert!(x509.authenticate(&serving.chain().unwrap()).is_err(), "a serving certificate is no client's");
        clock.advance(SignedDuration::from_hours(25));
        assert!(x509.recheck(&identity).is_err());
        assert!(x509.authenticate(&leaf.chain().unwrap()).is_err());
    }
}
