//! `status.typeChecking`: what the expressions of a policy would do wrong with the kinds that it is for.
//!
//! Only warnings: a policy is evaluated over whatever it meets. Kinds are known where a rule names group, version and
//! resource without wildcards.

use super::matching::Rule;
use caravel_api::kinds::{Kind, KindTable, split_api_version};
use caravel_cel::shapes::of_kind;
use caravel_cel::{Environment, Ty};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most kinds that one policy is checked against.
const MAX_KINDS: usize = 10;

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn kinds_of(spec: &Value, kinds: &KindTable) -> Vec<Arc<Kind>> {
    let mut found: Vec<Arc<Kind>> = vec![];
    for rule in Rule::all_of(spec.pointer("/matchConstraints/resourceRules")) {
        let Some((groups, versions, resources)) = rule.concrete() else { continue };
        for (group, version, resource) in groups
            .iter()
            .flat_map(|g| versions.iter().map(move |v| (g, v)))
            .flat_map(|(g, v)| resources.iter().map(move |r| (g, v, r)))
        {
            if let Some(kind) = kinds.resource(group, version, resource)
                && found.len() < MAX_KINDS
                && !found.iter().any(|k| Arc::ptr_eq(k, kind))
            {
                found.push(kind.clone());
            }
        }
    }
    found
}

/// The next status of a ValidatingAdmissionPolicy.
pub fn status(policy: &Value, kinds: &KindTable) -> Value {
    let spec = policy.get("spec").cloned().unwrap_or_default();
    let mut warnings: Vec<(String, Vec<String>)> = vec![];
    let params = spec.get("paramKind").and_then(|k| {
        let (group, version) = split_api_version(k.get("apiVersion").and_then(Value::as_str)?);
        kinds.kind(group, version, k.get("kind").and_then(Value::as_str)?).cloned()
    });
    for kind in kinds_of(&spec, kinds) {
        let mut environment = crate::expressions::review::environment(spec.get("paramKind").is_some());
        let object = of_kind(kind.schema().root()).ty();
        environment.variables.insert("object".into(), object.clone());
        environment.variables.insert("oldObject".into(), object);
        if let Some(params) = &params {
            environment.variables.insert("params".into(), of_kind(params.schema().root()).ty());
        }
        let title = format!("{}, Kind={}", kind.api_version(), kind.kind);
        for (place, said) in problems(&mut environment, &spec) {
            let said = format!("{title}: {said}");
            match warnings.iter_mut().find(|(p, _)| *p == place) {
                Some((_, all)) => all.push(said),
                None => warnings.push((place, vec![said])),
            }
        }
    }
    let mut checking = json!({});
    if !warnings.is_empty() {
        let all: Vec<Value> =
            warnings.into_iter().map(|(at, all)| json!({"fieldRef": at, "warning": all.join("\n")})).collect();
        checking["expressionWarnings"] = json!(all);
    }
    let mut status = policy.get("status").filter(|s| s.is_object()).cloned().unwrap_or_else(|| json!({}));
    status["observedGeneration"] = json!(caravel_api::meta::generation(policy));
    status["typeChecking"] = checking;
    status
}

fn problems(environment: &mut Environment, spec: &Value) -> Vec<(String, String)> {
    let mut out = vec![];
    let mut known = BTreeMap::new();
    for (i, one) in list(spec, "variables") {
        environment.composed = Some(known.clone());
        let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
        let ty = match environment.compile(text("expression")) {
            Ok(program) => program.ty().clone(),
            Err(error) => {
                out.push((format!("spec.variables[{i}].expression"), error.to_string()));
                Ty::Dyn
            }
        };
        known.insert(text("name").to_owned(), ty);
    }
    environment.composed = Some(known);
    for (holder, field) in [
        ("validations", "expression"),
        ("validations", "messageExpression"),
        ("auditAnnotations", "valueExpression"),
        ("matchConditions", "expression"),
    ] {
        for (i, one) in list(spec, holder) {
            let source = one.get(field).and_then(Value::as_str).unwrap_or_default();
            if !source.trim().is_empty()
                && let Err(error) = environment.compile(source)
            {
                out.push((format!("spec.{holder}[{i}].{field}"), error.to_string()));
            }
        }
    }
    out
}
