//! A certificate authority and the leaf certificates that it signs.

use super::{PkiError, files};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::path::Path;

/// Authorities live for ten years.
const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(3650 * 24);
/// Certificates are valid from a little before now, because machines' clocks differ.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// What a leaf certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Both (a kubelet's self-made pair).
    Both,
}

/// What a leaf certificate says.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    /// Common name: the user name of a client certificate.
    pub common_name: String,
    /// Organization: the group of a client certificate.
    pub organization: Option<String>,
    /// DNS subject alternative names.
    pub dns: Vec<String>,
    /// Address subject alternative names.
    pub ips: Vec<IpAddr>,
    /// Extended key usage.
    pub usage: Usage,
}

impl LeafSpec {
    /// A client certificate for the user `name`, in `group`.
    pub fn client(name: &str, group: Option<&str>) -> Self {
        Self {
            common_name: name.into(),
            organization: group.map(Into::into),
            dns: vec![],
            ips: vec![],
            usage: Usage::Client,
        }
    }

    /// A serving certificate.
    pub fn server(name: &str, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self { common_name: name.into(), organization: None, dns, ips, usage: Usage::Server }
    }
}

/// A certificate with its private key.
#[derive(Clone)]
pub struct Leaf {
    /// PEM of the certificate.
    pub cert_pem: String,
    /// PEM (PKCS#8) of the private key.
    pub key_pem: String,
    /// Last instant at which it is valid.
    pub not_after: Timestamp,
}

impl Leaf {
    /// The chain to show (here always one certificate).
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| PkiError::Make { what: "a certificate chain", reason: e.to_string() })
    }

    /// The private key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| PkiError::Make { what: "a private key", reason: e.to_string() })
    }
}

/// A certificate authority: its certificate, and its key to sign with.
pub struct Authority {
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `dir/<file>.crt` and `.key`, or makes a self-signed authority named `common_name` there.
    pub fn open(dir: &Path, file: &str, common_name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let cert_path = dir.join(format!("{file}.crt"));
        let key_path = dir.join(format!("{file}.key"));
        let (cert_pem, key_pem) = match (files::read(&cert_path)?, files::read(&key_path)?) {
            (Some(cert), Some(key)) => (text(&cert_path, cert)?, text(&key_path, key)?),
            _ => {
                let (cert, key) = make_authority(common_name, now)?;
                files::write(&key_path, key.as_bytes(), 0o600)?;
                files::write(&cert_path, cert.as_bytes(), 0o644)?;
                (cert, key)
            }
        };
        let bad = |what: &'static str| {
            let path = cert_path.clone();
            move |reason: String| PkiError::Unusable { path, what, reason }
        };
        let key = KeyPair::from_pem(&key_pem).map_err(|e| PkiError::Unusable {
            path: key_path,
            what: "private key",
            reason: e.to_string(),
        })?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|e| bad("CA certificate")(e.to_string()))?;
        let cert_der =
            CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| bad("CA certificate")(e.to_string()))?;
        Ok(Self { cert_pem, cert_der, issuer })
    }

    /// PEM of the authority's certificate: the trust root that clients need.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// PEM (PKCS#8) of the authority's key, for the controller that signs certificate requests.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// DER of the authority's certificate.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert_der
    }

    /// Makes a new key and a certificate for it.
    pub fn issue(&self, spec: &LeafSpec, now: Timestamp, lifetime: SignedDuration) -> Result<Leaf, PkiError> {
        let failed = |e: rcgen::Error| PkiError::Make { what: "a certificate", reason: e.to_string() };
        let key = KeyPair::generate().map_err(failed)?;
        let (params, not_after) = leaf_params(spec, now, lifetime)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem(), not_after })
    }

    /// Signs a PKCS#10 request (PEM) as it stands, subject and names included, for `usage`. Whoever calls this has
    /// checked that the requester may have that subject.
    pub fn sign_request(
        &self,
        request_pem: &str,
        usage: Usage,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<String, PkiError> {
        let failed = |e: rcgen::Error| PkiError::Make { what: "a certificate from a request", reason: e.to_string() };
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).map_err(failed)?;
        set_validity(&mut request.params, now, lifetime)?;
        set_usage(&mut request.params, usage);
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.serial_number = Some(serial());
        Ok(request.signed_by(&self.issuer).map_err(failed)?.pem())
    }

    /// Reads `dir/<file>.crt` and `.key`; makes them anew when absent, signed by another authority, too old or not
    /// covering the names of `spec`.
    pub fn open_leaf(
        &self,
        dir: &Path,
        file: &str,
        spec: &LeafSpec,
        now: Timestamp,
        lifetime: SignedDuration,
        renew_before: SignedDuration,
    ) -> Result<Leaf, PkiError> {
        let cert_path = dir.join(format!("{file}.crt"));
        let key_path = dir.join(format!("{file}.key"));
        if let (Some(cert), Some(key)) = (files::read(&cert_path)?, files::read(&key_path)?) {
            let (cert_pem, key_pem) = (text(&cert_path, cert)?, text(&key_path, key)?);
            if let Some(not_after) = self.still_good(&cert_pem, spec)
                && now < not_after.saturating_sub(renew_before).unwrap_or(not_after)
            {
                return Ok(Leaf { cert_pem, key_pem, not_after });
            }
        }
        let leaf = self.issue(spec, now, lifetime)?;
        files::write(&key_path, leaf.key_pem.as_bytes(), 0o600)?;
        files::write(&cert_path, leaf.cert_pem.as_bytes(), 0o644)?;
        Ok(leaf)
    }

    /// The certificate's end when it is ours and covers `spec`.
    fn still_good(&self, cert_pem: &str, spec: &LeafSpec) -> Option<Timestamp> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).ok()?;
        let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
        let (_, ca) = x509_parser::parse_x509_certificate(&self.cert_der).ok()?;
        cert.verify_signature(Some(ca.public_key())).ok()?;
        let mut names = vec![];
        let mut ips = vec![];
        if let Ok(Some(san)) = cert.subject_alternative_name() {
            for name in &san.value.general_names {
                match name {
                    x509_parser::extensions::GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    x509_parser::extensions::GeneralName::IPAddress(bytes) => ips.push(bytes.to_vec()),
                    _ => {}
                }
            }
        }
        let covered = spec.dns.iter().all(|n| names.contains(n))
            && spec.ips.iter().all(|ip| {
                ips.contains(&match ip {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                })
            });
        covered.then(|| Timestamp::from_second(cert.validity().not_after.timestamp()).ok()).flatten()
    }
}

/// Reads or makes the ES256 key `dir/<file>.key` (PKCS#8 PEM) with its public half beside it; gives the DER.
pub fn open_signing_key(dir: &Path, file: &str) -> Result<Vec<u8>, PkiError> {
    let path = dir.join(format!("{file}.key"));
    let pem = match files::read(&path)? {
        Some(bytes) => text(&path, bytes)?,
        None => {
            let key = KeyPair::generate()
                .map_err(|e| PkiError::Make { what: "the token signing key", reason: e.to_string() })?;
            files::write(&path, key.serialize_pem().as_bytes(), 0o600)?;
            files::write(&dir.join(format!("{file}.pub")), key.public_key_pem().as_bytes(), 0o644)?;
            key.serialize_pem()
        }
    };
    let key =
        KeyPair::from_pem(&pem).map_err(|e| PkiError::Unusable { path, what: "private key", reason: e.to_string() })?;
    Ok(key.serialize_der())
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, PkiError> {
    String::from_utf8(bytes).map_err(|_| PkiError::Unusable {
        path: path.to_owned(),
        what: "PEM file",
        reason: "it is not text".into(),
    })
}

fn make_authority(common_name: &str, now: Timestamp) -> Result<(String, String), PkiError> {
    let failed = |e: rcgen::Error| PkiError::Make { what: "a certificate authority", reason: e.to_string() };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(serial());
    set_validity(&mut params, now, CA_LIFETIME)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn leaf_params(
    spec: &LeafSpec,
    now: Timestamp,
    lifetime: SignedDuration,
) -> Result<(CertificateParams, Timestamp), PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = &spec.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, spec.common_name.as_str());
    for name in &spec.dns {
        let name = name.as_str().try_into().map_err(|e: rcgen::Error| PkiError::Make {
            what: "a certificate",
            reason: format!("{name:?} is not a DNS name: {e}"),
        })?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(spec.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    set_usage(&mut params, spec.usage);
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    let not_after = set_validity(&mut params, now, lifetime)?;
    Ok((params, not_after))
}

fn set_usage(params: &mut CertificateParams, usage: Usage) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
}

fn set_validity(
    params: &mut CertificateParams,
    now: Timestamp,
    lifetime: SignedDuration,
) -> Result<Timestamp, PkiError> {
    let at = |t: Timestamp| {
        let date = t.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month() as u8, date.day() as u8)
            + std::time::Duration::from_secs(t.as_second().rem_euclid(86_400) as u64)
    };
    let out_of_range = |e: jiff::Error| PkiError::Make { what: "a certificate", reason: e.to_string() };
    let start = now.checked_sub(BACKDATE).map_err(out_of_range)?;
    let end = now.checked_add(lifetime).map_err(out_of_range)?;
    params.not_before = at(start);
    params.not_after = at(end);
    Timestamp::from_second(end.as_second()).map_err(out_of_range)
}

/// A random positive serial of 128 bits (RFC 5280 allows up to 20 octets).
fn serial() -> SerialNumber {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}
