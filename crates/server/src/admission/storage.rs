//! Storage: claims that name no class get the default one, claims grow only where their class allows it, and claims and
//! volumes are born with the finalizer that protects them while they are in use.

use super::{Context, Operation, Plugin, Request};
use caravel_api::meta;
use caravel_api::quantity::Quantity;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Value, json};

const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// DefaultStorageClass.
pub struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && request.is("", "persistentvolumeclaims")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(claim) = request.object.as_mut() else { return Ok(()) };
            let named = claim.pointer("/spec/storageClassName").is_some_and(|class| !class.is_null());
            if named || meta::annotation(claim, OLD_CLASS).is_some() {
                return Ok(());
            }
            let classes = context.registry.objects("storage.k8s.io", "storageclasses", "").await?;
            if let Some(class) = default_class(&classes) {
                claim["spec"]["storageClassName"] = json!(class);
            }
            Ok(())
        })
    }
}

/// Of several defaults the newest, then the first by name.
fn default_class(classes: &[Value]) -> Option<&str> {
    let marked = |class: &&Value| IS_DEFAULT.iter().any(|key| meta::annotation(class, key) == Some("true"));
    let mut all: Vec<&Value> = classes.iter().filter(marked).collect();
    all.sort_by(|a, b| {
        let born = |class: &Value| meta::text(class, "creationTimestamp").to_owned();
        born(b).cmp(&born(a)).then_with(|| meta::name(a).cmp(meta::name(b)))
    });
    all.first().map(|class| meta::name(class))
}

/// PersistentVolumeClaimResize.
pub struct ClaimResize;

impl Plugin for ClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Update && request.is("", "persistentvolumeclaims")
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let size = |claim: Option<&Value>| {
                claim.and_then(|c| c.pointer("/spec/resources/requests/storage")).map(Quantity::from_value)
            };
            let (Some(Ok(new)), Some(Ok(old))) = (size(request.object.as_ref()), size(request.old.as_ref())) else {
                return Ok(());
            };
            if new <= old {
                return Ok(());
            }
            let before = request.old.as_ref().unwrap_or(&Value::Null);
            if before.pointer("/status/phase").and_then(Value::as_str) != Some("Bound") {
                return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
            }
            let class = meta::annotation(before, OLD_CLASS)
                .or_else(|| before.pointer("/spec/storageClassName").and_then(Value::as_str))
                .unwrap_or_default();
            let found = context.registry.object("storage.k8s.io", "storageclasses", "", class).await?;
            if found.is_some_and(|class| class.get("allowVolumeExpansion") == Some(&Value::Bool(true))) {
                return Ok(());
            }
            Err(request.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ))
        })
    }
}

/// StorageObjectInUseProtection.
pub struct InUseProtection;

impl Plugin for InUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create
            && (request.is("", "persistentvolumeclaims") || request.is("", "persistentvolumes"))
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, _: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let claim = request.kind.plural == "persistentvolumeclaims";
            let finalizer = if claim { "kubernetes.io/pvc-protection" } else { "kubernetes.io/pv-protection" };
            let Some(object) = request.object.as_mut() else { return Ok(()) };
            if meta::finalizers(object).all(|f| f != finalizer) {
                let mut all: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
                all.push(finalizer.into());
                meta::set(object, "finalizers", json!(all));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, born: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": born, "annotations": {IS_DEFAULT[0]: default}}});
        let all = [
            class("c", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-02T00:00:00Z", "true"),
            class("z", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(default_class(&all), Some("a"));
        assert_eq!(default_class(&all[3..]), None);
    }
}
