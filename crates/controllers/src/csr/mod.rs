//! Certificate signing requests: approving kubelets' own, signing for the built-in signers, cleaning up.

mod request;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::common::*;
use crate::context::{Context, enqueue_each};
use request::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};
use sign::Authority;

/// Requests that were issued or denied are kept this long, and so are issued ones that nobody fetched.
const KEPT: i64 = 3600;
/// Requests that nobody decides are kept this long.
const UNDECIDED: i64 = 24 * 3600;

fn condition<'a>(csr: &'a CertificateSigningRequest, type_: &str) -> Option<&'a CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

fn issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

fn with_condition(
    csr: &CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> CertificateSigningRequest {
    let now = Some(stored_time(now));
    let mut changed = csr.clone();
    changed.status.get_or_insert_default().conditions.get_or_insert_default().push(
        CertificateSigningRequestCondition {
            type_: type_.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: now.clone(),
            last_transition_time: now,
        },
    );
    changed
}

/// A Node's addresses may become known this much later than its kubelet asks for a certificate, seconds.
const NODE_KNOWN: i64 = 60;

/// Runs the approver: kubelets get their client certificates without a person, if their requester may have them; and
/// serving certificates, if a node asks for its own and for no other names than its Node has (upstream leaves the latter
/// to add-ons).
///
/// # Errors
/// Never by itself.
pub async fn run_approver(context: Context) -> anyhow::Result<()> {
    let requests: Informer<CertificateSigningRequest> = context.cluster.informer();
    let queue = WorkQueue::new();
    enqueue_each(&requests, &queue);
    requests.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let (csr, client, now) = (requests.get(&key), client.clone(), context.now());
        async move {
            let Some(csr) = csr else { return Ok(None) };
            let decided = issued(&csr) || condition(&csr, "Approved").is_some() || condition(&csr, "Denied").is_some();
            if decided || ![KUBELET_CLIENT, KUBELET_SERVING].contains(&csr.spec.signer_name.as_str()) {
                return Ok(None);
            }
            let Ok(r) = request::parse(&csr) else { return Ok(None) };
            if csr.spec.signer_name == KUBELET_SERVING {
                return approve_serving(&client, &csr, &r, now).await;
            }
            if request::kubelet_client(&csr, &r).is_err() {
                return Ok(None);
            }
            let kinds: &[(&str, &str)] = &[
                ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
                ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
            ];
            for (sub, message) in kinds.iter().filter(|(s, _)| *s == "nodeclient" || request::own(&csr, &r)) {
                if allowed(&client, &csr, sub).await? {
                    let approved = with_condition(&csr, "Approved", "AutoApproved", (*message).to_owned(), now);
                    let api: Api<CertificateSigningRequest> = Api::all(client);
                    api.replace_subresource("approval", &key.name, &PostParams::default(), &approved).await?;
                    return Ok(None);
                }
            }
            Ok(None)
        }
    };
    context.work(queue, 2, reconcile).await;
    Ok(())
}

/// Approves a node's own serving certificate for the names that its Node has.
async fn approve_serving(
    client: &kube::Client,
    csr: &CertificateSigningRequest,
    r: &rcgen::CertificateSigningRequestParams,
    now: Timestamp,
) -> anyhow::Result<Option<Duration>> {
    let from_a_node = csr.spec.groups.iter().flatten().any(|group| group == "system:nodes") && request::own(csr, r);
    if !from_a_node || request::grantable(csr, r).is_err() {
        return Ok(None);
    }
    let node = request::node_of(r);
    let known = Api::<Node>::all(client.clone()).get_opt(&node).await?;
    let addresses = known.and_then(|n| n.status?.addresses).unwrap_or_default();
    let addresses: Vec<&str> = addresses.iter().map(|a| a.address.as_str()).collect();
    if !request::names_are_of(r, &node, &addresses) {
        let young = until(plus(created(csr), NODE_KNOWN), now).is_some();
        return Ok(young.then_some(Duration::from_secs(2)));
    }
    let message = "Auto approving the serving certificate of a node for its own names.".to_owned();
    let approved = with_condition(csr, "Approved", "AutoApproved", message, now);
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    api.replace_subresource("approval", name(csr), &PostParams::default(), &approved).await?;
    Ok(None)
}

/// Whether the requester may have this kind of certificate without a person's approval.
async fn allowed(client: &kube::Client, csr: &CertificateSigningRequest, sub: &str) -> anyhow::Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(sub.into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    Ok(api.create(&PostParams::default(), &review).await?.status.is_some_and(|s| s.allowed))
}

/// Runs the signer; without an authority in the configuration it has nothing to sign with.
///
/// # Errors
/// When the authority cannot be read.
pub async fn run_signer(context: Context) -> anyhow::Result<()> {
    let Some((certificate, key)) = &context.config.signing_ca else {
        context.stop.cancelled().await;
        return Ok(());
    };
    let authority = Arc::new(Authority::new(certificate, key, context.config.signing_duration)?);
    let requests: Informer<CertificateSigningRequest> = context.cluster.informer();
    let queue = WorkQueue::new();
    enqueue_each(&requests, &queue);
    requests.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let (csr, authority, now) = (requests.get(&key), authority.clone(), context.now());
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        async move {
            let Some(csr) = csr else { return Ok(None) };
            let ours = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&csr.spec.signer_name.as_str());
            let open = condition(&csr, "Approved").is_some() && condition(&csr, "Failed").is_none() && !issued(&csr);
            if !ours || !open || condition(&csr, "Denied").is_some() {
                return Ok(None);
            }
            let written = match sign(&authority, &csr, now) {
                Ok(certificate) => {
                    let mut changed = (*csr).clone();
                    changed.status.get_or_insert_default().certificate = Some(ByteString(certificate.into_bytes()));
                    changed
                }
                Err(why) => with_condition(&csr, "Failed", "SignerValidationFailure", why, now),
            };
            put_status(&api, &written).await?;
            Ok(None)
        }
    };
    context.work(queue, 2, reconcile).await;
    Ok(())
}

fn sign(authority: &Authority, csr: &CertificateSigningRequest, now: Timestamp) -> Result<String, String> {
    let r = request::parse(csr)?;
    request::grantable(csr, &r).map_err(str::to_owned)?;
    authority.sign(csr, r, now).map_err(|e| e.to_string())
}

/// When a request is to be deleted: an hour after it was decided, a day after it was made if it was not.
fn expires(csr: &CertificateSigningRequest) -> Timestamp {
    let at = |c: &CertificateSigningRequestCondition| c.last_update_time.as_ref().map(|t| plus(t.0, KEPT));
    let decided = ["Approved", "Denied", "Failed"].iter().filter_map(|t| condition(csr, t));
    let approved_unsigned = condition(csr, "Approved").is_some() && !issued(csr) && condition(csr, "Failed").is_none();
    match decided.filter_map(at).max() {
        Some(at) if !approved_unsigned => at,
        _ => plus(created(csr), UNDECIDED),
    }
}

/// Runs the cleaner.
///
/// # Errors
/// Never by itself.
pub async fn run_cleaner(context: Context) -> anyhow::Result<()> {
    let requests: Informer<CertificateSigningRequest> = context.cluster.informer();
    let queue = WorkQueue::new();
    enqueue_each(&requests, &queue);
    requests.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let (csr, now) = (requests.get(&key), context.now());
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        async move {
            let Some(csr) = csr else { return Ok(None) };
            if let Some(wait) = until(expires(&csr), now) {
                return Ok(Some(wait.max(Duration::from_secs(1))));
            }
            gone_is_fine(api.delete(&key.name, &DeleteParams::default()).await)?;
            Ok(None)
        }
    };
    context.work(queue, 1, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    fn csr(signer: &str, organization: &str, name: &str, sans: &[&str], usages: &[&str]) -> CertificateSigningRequest {
        let key = KeyPair::generate().unwrap();
        let mut p = CertificateParams::new(sans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(DnType::OrganizationName, organization);
        p.distinguished_name.push(DnType::CommonName, name);
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(p.serialize_request(&key).unwrap().pem().unwrap().into_bytes()),
                signer_name: signer.into(),
                usages: Some(usages.iter().map(|u| (*u).to_owned()).collect()),
                username: Some(name.into()),
                expiration_seconds: Some(3600),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut p = CertificateParams::new(vec![]).unwrap();
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = p.self_signed(&key).unwrap();
        Authority::new(&ca.pem(), &key.serialize_pem(), Duration::from_secs(86_400)).unwrap()
    }

    #[test]
    fn signers_grant_what_is_theirs() {
        let a = authority();
        let client = ["digital signature", "client auth"];
        let server = ["digital signature", "key encipherment", "server auth"];
        let node = ("system:nodes", "system:node:n1");
        for (request, good) in [
            (csr(CLIENT, "team", "jane", &[], &client), true),
            (csr(CLIENT, "team", "jane", &[], &server), false),
            (csr(KUBELET_CLIENT, node.0, node.1, &[], &client), true),
            (csr(KUBELET_CLIENT, node.0, node.1, &["n1"], &client), false),
            (csr(KUBELET_CLIENT, "team", node.1, &[], &client), false),
            (csr(KUBELET_CLIENT, node.0, "jane", &[], &client), false),
            (csr(KUBELET_SERVING, node.0, node.1, &["n1", "10.0.0.1"], &server), true),
            (csr(KUBELET_SERVING, node.0, node.1, &[], &server), false),
            (csr(KUBELET_SERVING, node.0, node.1, &["n1"], &client), false),
        ] {
            let result = sign(&a, &request, Timestamp::now());
            assert_eq!(result.is_ok(), good, "{} {:?}", request.spec.signer_name, result.err());
        }
    }

    #[test]
    fn a_node_may_serve_under_its_own_names_only() {
        let server = ["digital signature", "server auth"];
        for (sans, good) in [
            (&["n1", "10.0.0.1"][..], true),
            (&["n1"][..], true),
            (&["n2"][..], false),
            (&["n1", "10.0.0.2"][..], false),
            (&["kubernetes.default.svc"][..], false),
        ] {
            let c = csr(KUBELET_SERVING, "system:nodes", "system:node:n1", sans, &server);
            let r = request::parse(&c).unwrap();
            assert_eq!(request::node_of(&r), "n1");
            assert_eq!(request::names_are_of(&r, "n1", &["10.0.0.1", "n1"]), good, "{sans:?}");
        }
    }

    #[test]
    fn a_forged_request_is_refused() {
        let mut c = csr(CLIENT, "team", "jane", &[], &["client auth"]);
        c.spec.request =
            ByteString(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_vec());
        assert!(sign(&authority(), &c, Timestamp::now()).is_err());
    }

    #[test]
    fn requests_expire() {
        let mut c = csr(CLIENT, "team", "jane", &[], &["client auth"]);
        assert_eq!(expires(&c), plus(created(&c), UNDECIDED));
        c = with_condition(&c, "Approved", "r", String::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(expires(&c), plus(created(&c), UNDECIDED), "it waits for its signer");
        let at = condition(&c, "Approved").unwrap().last_update_time.clone().unwrap().0;
        c.status.as_mut().unwrap().certificate = Some(ByteString(vec![1]));
        assert_eq!(expires(&c), plus(at, KEPT));
    }
}
