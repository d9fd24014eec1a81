//! DefaultIngressClass: an Ingress that names no class gets the one marked as default.

use super::{Context, Operation, Plugin, Request};
use caravel_api::meta;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Value, json};

const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How classes were named before there was a field; whoever uses it has chosen.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// The plug-in.
pub struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && request.is("networking.k8s.io", "ingresses")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(ingress) = request.object.as_mut() else { return Ok(()) };
            let named = ingress.pointer("/spec/ingressClassName").is_some_and(|class| !class.is_null());
            if named || meta::annotation(ingress, OLD_CLASS).is_some() {
                return Ok(());
            }
            let classes = context.registry.objects("networking.k8s.io", "ingressclasses", "").await?;
            if let Some(class) = default_class(&classes) {
                ingress["spec"]["ingressClassName"] = json!(class);
            }
            Ok(())
        })
    }
}

/// Of several defaults the newest, then the first by name.
fn default_class(classes: &[Value]) -> Option<&str> {
    let mut all: Vec<&Value> = classes.iter().filter(|c| meta::annotation(c, IS_DEFAULT) == Some("true")).collect();
    all.sort_by(|a, b| {
        let born = |class: &Value| meta::text(class, "creationTimestamp").to_owned();
        born(b).cmp(&born(a)).then_with(|| meta::name(a).cmp(meta::name(b)))
    });
    all.first().map(|class| meta::name(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_class_is_taken() {
        let class =
            |name: &str, default: &str| json!({"metadata": {"name": name, "annotations": {IS_DEFAULT: default}}});
        assert_eq!(default_class(&[class("a", "false"), class("b", "true"), class("c", "true")]), Some("b"));
        assert_eq!(default_class(&[class("a", "false")]), None);
    }
}
