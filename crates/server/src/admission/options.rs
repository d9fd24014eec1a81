//! Plug-ins that are off unless the configuration names them, as upstream: DenyServiceExternalIPs and
//! OwnerReferencesPermissionEnforcement.

use super::{Context, Operation, Plugin, Request};
use crate::authz::{Attributes, ResourceTarget, Target};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::Value;

/// DenyServiceExternalIPs: no Service takes an address that the network was not asked for.
pub struct DenyServiceExternalIps;

impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, request: &Request) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "services")
    }

    fn validate<'a>(&'a self, request: &'a Request, _: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let addresses = |object: &Option<Value>| -> Vec<Value> {
                let list = object.as_ref().and_then(|o| o.pointer("/spec/externalIPs")).and_then(Value::as_array);
                list.cloned().unwrap_or_default()
            };
            let old = addresses(&request.old);
            if addresses(&request.object).iter().any(|address| !old.contains(address)) {
                return Err(request.forbidden("Use of external IPs is denied by admission control."));
            }
            Ok(())
        })
    }
}

/// OwnerReferencesPermissionEnforcement: who makes an object block the deletion of its owner must be allowed to set the
/// owner's finalizers, and who changes owners must be allowed to delete the object.
pub struct OwnerReferences;

impl Plugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, request: &Request) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.subresource != "status"
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let owners = |object: &Option<Value>| -> Vec<Value> {
                let list = object.as_ref().and_then(|o| o.pointer("/metadata/ownerReferences"));
                list.and_then(Value::as_array).cloned().unwrap_or_default()
            };
            let (new, old) = (owners(&request.object), owners(&request.old));
            if new == old {
                return Ok(());
            }
            let may = |verb: &str, target: ResourceTarget<'_>| {
                let attributes = Attributes { user: &request.user, verb, target: Target::Resource(target) };
                context.registry.authorizer.authorize(&attributes).allowed()
            };
            let itself = ResourceTarget {
                group: &request.kind.group,
                version: &request.kind.version,
                namespace: &request.namespace,
                resource: &request.kind.plural,
                subresource: &request.subresource,
                name: &request.name,
            };
            if request.operation == Operation::Update && !may("delete", itself) {
                return Err(request.forbidden("cannot set an ownerRef on a resource you can't delete"));
            }
            let blocks = |owner: &&Value| owner.get("blockOwnerDeletion") == Some(&Value::Bool(true));
            for owner in new.iter().filter(blocks).filter(|owner| !old.contains(owner)) {
                let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
                let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
                let kinds = context.registry.kinds();
                let row = kinds.kind(group, version, text("kind")).cloned();
                let Some(row) = row else {
                    return Err(request.forbidden(format!(
                        "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}",
                        text("apiVersion"),
                        text("kind")
                    )));
                };
                let finalizers = ResourceTarget {
                    group: &row.group,
                    version: &row.version,
                    namespace: if row.namespaced { &request.namespace } else { "" },
                    resource: &row.plural,
                    subresource: "finalizers",
                    name: text("name"),
                };
                if !may("update", finalizers) {
                    return Err(request.forbidden(
                        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on",
                    ));
                }
            }
            Ok(())
        })
    }
}
