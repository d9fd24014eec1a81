//! Whether the expressions of an admission policy compile and yield what is wanted of them.

use super::conditions::{check_conditions, check_expression};
use super::review;
use caravel_api::field::{FieldError, FieldPath};
use caravel_cel::{Environment, Ty};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

fn list<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    spec.get(field).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What `variables.*` are, compiled one after the other: each may use those before it.
pub(super) fn variables(out: &mut Vec<FieldError>, environment: &mut Environment, spec: &Value) {
    let at = FieldPath::root("spec");
    let at = at.child("variables");
    environment.composed = Some(BTreeMap::new());
    for (i, one) in list(spec, "variables") {
        let place = at.index(i);
        let program = check_expression(out, environment, &place.child("expression"), text(one, "expression"), &[]);
        let ty = program.map_or(Ty::Dyn, |p| p.ty().clone());
        if let Some(known) = &mut environment.composed {
            known.insert(text(one, "name").to_owned(), ty);
        }
    }
}

/// All errors of a policy's expressions.
pub fn check(object: &Value, mutating: bool) -> Vec<FieldError> {
    let mut out = vec![];
    let spec = object.get("spec").unwrap_or(&review::NULL);
    let root = FieldPath::root("spec");
    let mut environment = review::environment(spec.get("paramKind").is_some());
    check_conditions(&mut out, &environment, &root.child("matchConditions"), spec);
    variables(&mut out, &mut environment, spec);
    if mutating {
        mutations(&mut out, environment, spec);
        return out;
    }
    let at = root.child("validations");
    for (i, one) in list(spec, "validations") {
        let place = at.index(i);
        check_expression(&mut out, &environment, &place.child("expression"), text(one, "expression"), &[Ty::Bool]);
        let message = text(one, "messageExpression");
        check_expression(&mut out, &environment, &place.child("messageExpression"), message, &[Ty::String]);
    }
    let at = root.child("auditAnnotations");
    for (i, one) in list(spec, "auditAnnotations") {
        let place = at.index(i);
        let source = text(one, "valueExpression");
        check_expression(&mut out, &environment, &place.child("valueExpression"), source, &[Ty::String, Ty::Null]);
    }
    out
}

fn mutations(out: &mut Vec<FieldError>, mut environment: Environment, spec: &Value) {
    environment.messages = true;
    let root = FieldPath::root("spec");
    let at = root.child("mutations");
    for (i, one) in list(spec, "mutations") {
        let place = at.index(i);
        let (field, other) = match text(one, "patchType") {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "" => {
                out.push(FieldError::required(&place.child("patchType"), ""));
                continue;
            }
            unknown => {
                let known = ["ApplyConfiguration", "JSONPatch"];
                out.push(FieldError::not_supported(&place.child("patchType"), unknown, &known));
                continue;
            }
        };
        if one.get(other).is_some() {
            let why = format!("must not be specified when patchType is {}", text(one, "patchType"));
            out.push(FieldError::forbidden(&place.child(other), why));
        }
        let source = one.get(field).map(|c| text(c, "expression")).unwrap_or_default();
        let inner = place.child(field);
        let at = inner.child("expression");
        if source.trim().is_empty() {
            out.push(FieldError::required(&at, ""));
            continue;
        }
        let wanted = match field {
            "jsonPatch" => Ty::List(Arc::new(Ty::Message("JSONPatch".into()))),
            _ => Ty::Message("Object".into()),
        };
        // An empty list of patches, or one made by a loop, is of any type.
        let loose = Ty::List(Arc::new(Ty::Dyn));
        let wanted = if field == "jsonPatch" { vec![wanted, loose] } else { vec![wanted] };
        check_expression(out, &environment, &at, source, &wanted);
    }
}
