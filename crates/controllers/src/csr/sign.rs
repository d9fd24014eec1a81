//! Signing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};

/// Clocks may differ by this much.
const BACKDATE: u64 = 300;
/// No certificate is shorter-lived.
const SHORTEST: u64 = 600;

/// The authority that signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    longest: Duration,
}

impl Authority {
    /// From the PEM of its certificate and key; no certificate lives longer than `longest`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(certificate: &str, key: &str, longest: Duration) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(certificate, key)?, longest })
    }

    /// The certificate for a request, in PEM.
    ///
    /// # Errors
    /// When the request holds what a certificate cannot.
    pub fn sign(
        &self,
        csr: &CertificateSigningRequest,
        mut r: CertificateSigningRequestParams,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let asked = csr.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
        let life = asked.map_or(self.longest.as_secs(), |s| s.max(SHORTEST)).min(self.longest.as_secs());
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        let p = &mut r.params;
        p.not_before = epoch + Duration::from_secs(now - BACKDATE.min(now));
        p.not_after = epoch + Duration::from_secs(now + life);
        let mut serial: [u8; 16] = rand::random();
        // Positive and of full length.
        serial[0] = serial[0] & 0x7f | 0x40;
        p.serial_number = Some(SerialNumber::from_slice(&serial));
        p.is_ca = IsCa::ExplicitNoCa;
        p.use_authority_key_identifier_extension = true;
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        p.key_usages = usages.iter().filter_map(|u| key_usage(u)).collect();
        p.extended_key_usages = usages.iter().filter_map(|u| purpose(u)).collect();
        Ok(r.signed_by(&self.issuer)?.pem())
    }
}

fn key_usage(u: &str) -> Option<KeyUsagePurpose> {
    Some(match u {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn purpose(u: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match u {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}
