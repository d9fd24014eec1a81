//! RuntimeClass: a Pod of a class takes over what its sandbox needs (overhead) and where it can run (KEP-585, KEP-688).

use super::{Context, Operation, Plugin, Request};
use caravel_api::quota::amounts;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Value, json};

/// The plug-in.
pub struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let name = class_of(request).to_owned();
            if name.is_empty() {
                return Ok(());
            }
            let Some(class) = context.registry.object("node.k8s.io", "runtimeclasses", "", &name).await? else {
                return Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")));
            };
            let Some(spec) = request.object.as_mut().and_then(|pod| pod.get_mut("spec")) else { return Ok(()) };
            apply(spec, &class).map_err(|why| request.forbidden(why))
        })
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let overhead = request.object.as_ref().and_then(|pod| pod.pointer("/spec/overhead"));
            let Some(overhead) = overhead.filter(|o| o.as_object().is_some_and(|map| !map.is_empty())) else {
                return Ok(());
            };
            let name = class_of(request);
            let class = match name {
                "" => None,
                name => context.registry.object("node.k8s.io", "runtimeclasses", "", name).await?,
            };
            match class.as_ref().and_then(|class| class.pointer("/overhead/podFixed")) {
                None => Err(request
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
                Some(fixed) if amounts(Some(fixed)) == amounts(Some(overhead)) => Ok(()),
                Some(_) => {
                    Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
                }
            }
        })
    }
}

fn class_of(request: &Request) -> &str {
    let pod = request.object.as_ref();
    pod.and_then(|pod| pod.pointer("/spec/runtimeClassName")).and_then(Value::as_str).unwrap_or_default()
}

/// Writes the class's demands into a pod spec.
fn apply(spec: &mut Value, class: &Value) -> Result<(), String> {
    if let Some(fixed) = class.pointer("/overhead/podFixed").filter(|f| f.is_object()) {
        let said = spec.get("overhead").filter(|o| o.as_object().is_some_and(|map| !map.is_empty()));
        if said.is_some_and(|said| amounts(Some(said)) != amounts(Some(fixed))) {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        spec["overhead"] = fixed.clone();
    }
    let selector = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object);
    for (key, value) in selector.into_iter().flatten() {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        match spec["nodeSelector"].get(key) {
            Some(present) if present != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    present.as_str().unwrap_or_default()
                ));
            }
            _ => spec["nodeSelector"][key] = value.clone(),
        }
    }
    let tolerations = class.pointer("/scheduling/tolerations").and_then(Value::as_array);
    for toleration in tolerations.into_iter().flatten() {
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(all) if all.contains(toleration) => {}
            Some(all) => all.push(toleration.clone()),
            None => spec["tolerations"] = json!([toleration]),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_adds_what_it_needs() {
        let class = json!({"overhead": {"podFixed": {"cpu": "1000m"}}, "scheduling": {
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "t", "operator": "Exists"}]}});
        let mut spec = json!({"nodeSelector": {"c": "d"}, "overhead": {"cpu": "1"}});
        apply(&mut spec, &class).unwrap();
        assert_eq!(spec["nodeSelector"], json!({"a": "b", "c": "d"}));
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1);
        assert!(apply(&mut json!({"nodeSelector": {"a": "x"}}), &class).unwrap_err().starts_with("conflict"));
        assert!(apply(&mut json!({"overhead": {"cpu": "2"}}), &class).is_err());
    }
}
