//! Certificate signing requests: who may approve and sign for a signer, and what nobody may ask for.

use super::{Context, Operation, Plugin, Request};
use crate::authz::{Attributes, ResourceTarget, Target};
use base64::Engine as _;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::Value;
use x509_parser::prelude::FromDer as _;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn signer(request: &Value) -> &str {
    request.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default()
}

/// Whether the user may `verb` for this signer, or for all signers of its domain.
fn may(request: &Request, context: &Context<'_>, verb: &str, signer: &str) -> bool {
    let all = signer.split_once('/').map(|(domain, _)| format!("{domain}/*")).unwrap_or_default();
    [signer, &all].iter().any(|name| {
        let target = ResourceTarget { group: GROUP, version: "*", resource: "signers", name, ..Default::default() };
        let attributes = Attributes { user: &request.user, verb, target: Target::Resource(target) };
        context.registry.authorizer.authorize(&attributes).allowed()
    })
}

fn is(request: &Request, subresource: &str) -> bool {
    request.kind.group == GROUP
        && request.kind.plural == "certificatesigningrequests"
        && request.subresource == subresource
}

/// CertificateApproval.
pub struct Approval;

impl Plugin for Approval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Update && is(request, "approval")
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let signer = request.old.as_ref().map(signer).unwrap_or_default();
            if may(request, context, "approve", signer) {
                return Ok(());
            }
            Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
        })
    }
}

/// CertificateSigning.
pub struct Signing;

impl Plugin for Signing {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Update && is(request, "status")
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let part =
                |object: &Option<Value>, pointer: &str| object.as_ref().and_then(|o| o.pointer(pointer)).cloned();
            let same = |pointer: &str| {
                part(&request.object, pointer).unwrap_or_default() == part(&request.old, pointer).unwrap_or_default()
            };
            if same("/status/certificate") && same("/status/conditions") {
                return Ok(());
            }
            let signer = request.old.as_ref().map(signer).unwrap_or_default();
            if may(request, context, "sign", signer) {
                return Ok(());
            }
            Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
        })
    }
}

/// CertificateSubjectRestriction: nobody becomes an administrator by a certificate of the client signer.
pub struct SubjectRestriction;

impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && is(request, "")
    }

    fn validate<'a>(&'a self, request: &'a Request, _: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let object = request.object.as_ref().unwrap_or(&Value::Null);
            if signer(object) != CLIENT_SIGNER {
                return Ok(());
            }
            let groups = organizations(object)
                .map_err(|why| request.forbidden(format!("failed to parse CertificateSigningRequest: {why}")))?;
            if groups.iter().any(|group| group == crate::authn::GROUP_MASTERS) {
                return Err(request.forbidden(format!(
                    "use of {CLIENT_SIGNER} signer with {} group is not allowed",
                    crate::authn::GROUP_MASTERS
                )));
            }
            Ok(())
        })
    }
}

/// The organizations in the subject of the request inside.
fn organizations(object: &Value) -> Result<Vec<String>, String> {
    let encoded = object.pointer("/spec/request").and_then(Value::as_str).unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|e| e.to_string())?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|e| e.to_string())?;
    let subject = &request.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect())
}
