//! What a certificate signing request asks for, and whether its signer may grant it (certificates.k8s.io signers).

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};

/// Client certificates of any user.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Anything, with no promise of trust.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Reads and verifies the request inside.
///
/// # Errors
/// When it is not a well-formed, self-signed request.
pub fn parse(csr: &CertificateSigningRequest) -> Result<CertificateSigningRequestParams, String> {
    let text = std::str::from_utf8(&csr.spec.request.0).map_err(|_| "the request is not PEM".to_owned())?;
    CertificateSigningRequestParams::from_pem(text)
        .map_err(|e| format!("unable to parse csr {:?}: {e}", crate::common::name(csr)))
}

/// One part of the subject, empty when absent.
pub fn subject(r: &CertificateSigningRequestParams, part: &DnType) -> String {
    match r.params.distinguished_name.get(part) {
        Some(DnValue::Utf8String(s)) => s.clone(),
        Some(DnValue::PrintableString(s)) => s.as_str().to_owned(),
        Some(DnValue::Ia5String(s)) => s.as_str().to_owned(),
        _ => String::new(),
    }
}

/// Whether the wanted usages are exactly these, with or without key encipherment.
fn usages_are(csr: &CertificateSigningRequest, purpose: &str) -> bool {
    let mut have: Vec<&str> =
        csr.spec.usages.iter().flatten().map(String::as_str).filter(|u| *u != "key encipherment").collect();
    have.sort_unstable();
    have == [purpose, "digital signature"] || have == ["digital signature", purpose]
}

fn of_a_node(r: &CertificateSigningRequestParams) -> Result<(), &'static str> {
    if subject(r, &DnType::OrganizationName) != NODES {
        return Err("subject organization is not system:nodes");
    }
    if !subject(r, &DnType::CommonName).starts_with(NODE_PREFIX) {
        return Err("subject common name does not begin with system:node:");
    }
    Ok(())
}

fn named(r: &CertificateSigningRequestParams, wanted: fn(&SanType) -> bool) -> bool {
    r.params.subject_alt_names.iter().any(wanted)
}

/// The node whose certificate it is to be.
pub fn node_of(r: &CertificateSigningRequestParams) -> String {
    subject(r, &DnType::CommonName).trim_start_matches(NODE_PREFIX).to_owned()
}

/// Whether all names asked for are the node's name or one of its addresses.
pub fn names_are_of(r: &CertificateSigningRequestParams, node: &str, addresses: &[&str]) -> bool {
    r.params.subject_alt_names.iter().all(|name| match name {
        SanType::DnsName(dns) => dns.as_str() == node || addresses.contains(&dns.as_str()),
        SanType::IpAddress(ip) => addresses.iter().any(|a| a.parse() == Ok(*ip)),
        _ => false,
    })
}

/// Whether a kubelet asks for its client certificate.
///
/// # Errors
/// Why it is none.
pub fn kubelet_client(
    csr: &CertificateSigningRequest,
    r: &CertificateSigningRequestParams,
) -> Result<(), &'static str> {
    of_a_node(r)?;
    if !r.params.subject_alt_names.is_empty() {
        return Err("subject alternative names are not allowed");
    }
    if !usages_are(csr, "client auth") {
        return Err("usages did not match [digital signature, key encipherment, client auth]");
    }
    Ok(())
}

/// Whether the signer may grant what is asked.
///
/// # Errors
/// Why it may not.
pub fn grantable(csr: &CertificateSigningRequest, r: &CertificateSigningRequestParams) -> Result<(), &'static str> {
    match csr.spec.signer_name.as_str() {
        CLIENT => {
            let usages = csr.spec.usages.as_deref().unwrap_or_default();
            let known = |u: &String| matches!(u.as_str(), "digital signature" | "key encipherment" | "client auth");
            if !usages.iter().all(known) || !usages.iter().any(|u| u == "client auth") {
                return Err("usages did not match [digital signature, key encipherment, client auth]");
            }
            Ok(())
        }
        KUBELET_CLIENT => kubelet_client(csr, r),
        KUBELET_SERVING => {
            of_a_node(r)?;
            if named(r, |s| matches!(s, SanType::Rfc822Name(_) | SanType::URI(_))) {
                return Err("email and URI subject alternative names are not allowed");
            }
            if !named(r, |s| matches!(s, SanType::DnsName(_) | SanType::IpAddress(_))) {
                return Err("a DNS name or IP address is required");
            }
            if !usages_are(csr, "server auth") {
                return Err("usages did not match [digital signature, key encipherment, server auth]");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether the requester asks for its own certificate rather than a first one.
pub fn own(csr: &CertificateSigningRequest, r: &CertificateSigningRequestParams) -> bool {
    csr.spec.username.as_deref() == Some(subject(r, &DnType::CommonName).as_str())
}
