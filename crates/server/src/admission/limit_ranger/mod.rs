//! LimitRanger: containers that say nothing about their resources get the defaults of the namespace's LimitRanges, and what is
//! outside of their bounds is refused. Containers, whole Pods and claims have bounds of their own.

mod bounds;
mod defaults;

use super::{Context, Operation, Plugin, Request};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::Value;

/// The plug-in.
pub struct LimitRanger;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, request: &Request) -> bool {
        if !request.kind.group.is_empty() {
            return false;
        }
        matches!(
            (request.operation, &*request.kind.plural, request.subresource.as_str()),
            (Operation::Create, "pods" | "persistentvolumeclaims", "")
                | (Operation::Update, "pods", "resize")
                | (Operation::Update, "persistentvolumeclaims", "")
        )
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            // Resized containers say what they want; claims have no defaults.
            if request.kind.plural != "pods" || request.operation != Operation::Create {
                return Ok(());
            }
            for range in context.registry.objects("", "limitranges", &request.namespace).await? {
                if let Some(pod) = request.object.as_mut() {
                    defaults::fill(pod, &range);
                }
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if request.old.as_ref().is_some_and(caravel_api::meta::is_deleting) {
                return Ok(());
            }
            let object = request.object.as_ref().unwrap_or(&Value::Null);
            for range in context.registry.objects("", "limitranges", &request.namespace).await? {
                let broken = match &*request.kind.plural {
                    "pods" => bounds::pod(object, &range),
                    _ => bounds::claim(object, &range),
                };
                match broken.as_slice() {
                    [] => {}
                    [one] => return Err(request.forbidden(one)),
                    many => return Err(request.forbidden(format!("[{}]", many.join(", ")))),
                }
            }
            Ok(())
        })
    }
}

/// The items of a LimitRange.
fn items(range: &Value) -> impl Iterator<Item = &Value> {
    range.pointer("/spec/limits").and_then(Value::as_array).into_iter().flatten()
}

/// The type of an item: `Container`, `Pod` or `PersistentVolumeClaim`.
fn type_of(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or_default()
}
