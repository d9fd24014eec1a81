//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going away, and the namespaces that
//! the cluster needs stay.

use super::{Context, Operation, Plugin, Request};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;

/// Namespaces that cannot be deleted.
pub const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plug-in.
pub struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, request: &Request) -> bool {
        match request.operation {
            Operation::Delete => request.is("", "namespaces"),
            Operation::Create => !request.namespace.is_empty() && request.kind.plural != "namespaces",
            _ => false,
        }
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if request.operation == Operation::Delete {
                if IMMORTAL.contains(&request.name.as_str()) {
                    return Err(request.forbidden("this namespace may not be deleted"));
                }
                return Ok(());
            }
            // Reviews are questions, not things in a namespace.
            if request.kind.group == "authorization.k8s.io" {
                return Ok(());
            }
            let Some(ends) = context.registry.namespace_ends(&request.namespace).await? else {
                return Err(ApiError::not_found("", "namespaces", &request.namespace));
            };
            if ends {
                let why = format!(
                    "unable to create new content in namespace {} because it is being terminated",
                    request.namespace
                );
                return Err(request.forbidden(why).with_cause(
                    "NamespaceTerminating",
                    format!("namespace {} is being terminated", request.namespace),
                    "metadata.namespace",
                ));
            }
            Ok(())
        })
    }
}
