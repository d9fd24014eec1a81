//! Whether the rules of a CustomResourceDefinition compile, yield a bool, and cannot cost too much.

use super::conditions::check_expression;
use super::custom::environment;
use caravel_api::field::{FieldError, FieldPath};
use caravel_cel::shapes::of_schema;
use caravel_cel::types::ListKind;
use caravel_cel::{Estimate, Shape, Ty};
use serde_json::Value;
use std::sync::Arc;

/// Most that one rule may be estimated to cost, over all places it runs at.
const RULE_LIMIT: u64 = 10_000_000;
/// Most that all rules of a schema may be estimated to cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// Longest rule, message or expression.
const MAX_RULE: usize = 100_000;
const MAX_MESSAGE: usize = 2048;
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// All errors of all versions' rules.
pub fn check(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut out = vec![];
    let versions = |o: &Value| o.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = old.map(versions).unwrap_or_default();
    let all = versions(object);
    let schema_of = |version: &Value| version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    // Where all versions have one schema, upstream speaks of it as the definition's.
    let one = all.iter().all(|v| schema_of(v) == schema_of(&all[0]));
    for (i, version) in all.iter().enumerate() {
        let schema = schema_of(version);
        let known = before.iter().any(|b| b.get("name") == version.get("name") && schema_of(b) == schema);
        if known || (one && i > 0) {
            continue;
        }
        let spec = FieldPath::root("spec");
        let (list, validation) = (spec.child("versions"), spec.child("validation"));
        let at = list.index(i);
        let at = at.child("schema");
        let holder = if one { validation } else { at };
        let mut checker = Checker { out: &mut out, total: 0 };
        let path = holder.child("openAPIV3Schema");
        checker.schema(&path, &schema, Position { root: true, cardinality: 1, correlatable: true });
        if checker.total > SCHEMA_LIMIT {
            let why = format!(
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema {}",
                over(checker.total, SCHEMA_LIMIT)
            );
            out.push(FieldError::forbidden(&path, why));
        }
    }
    out
}

fn over(cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let shown = if factor > 100.0 { "more than 100x".to_owned() } else { format!("{factor:.1}x") };
    format!(
        "exceeds budget by factor of {shown} (try simplifying the rule(s), or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[derive(Clone, Copy)]
struct Position {
    root: bool,
    /// How often a value is there, at most.
    cardinality: u64,
    /// Whether a value's former state can be found.
    correlatable: bool,
}

struct Checker<'o> {
    out: &'o mut Vec<FieldError>,
    total: u64,
}

impl Checker<'_> {
    fn schema(&mut self, at: &FieldPath<'_>, schema: &Value, position: Position) {
        let shape = of_schema(schema, position.root);
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array).map(Vec::as_slice);
        let list = at.child("x-kubernetes-validations");
        for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
            match &shape {
                Some(shape) => self.rule(&list.index(i), rule, shape, schema, position),
                None => self.out.push(FieldError::invalid(
                    &list.index(i),
                    "",
                    "x-kubernetes-validations rules need a schema that states a type",
                )),
            }
        }
        let below = |cardinality: u64, correlatable: bool| Position { root: false, cardinality, correlatable };
        let properties = at.child("properties");
        for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.schema(&properties.key(name), child, below(position.cardinality, position.correlatable));
        }
        let many = shape.as_deref().map_or(1, Estimate::elements).saturating_mul(position.cardinality);
        if let Some(child) = schema.get("additionalProperties").filter(|c| c.is_object()) {
            self.schema(&at.child("additionalProperties"), child, below(many, position.correlatable));
        }
        if let Some(child) = schema.get("items").filter(|c| c.is_object()) {
            let keyed = shape.as_deref().is_some_and(|s| matches!(s.list, ListKind::Map(_)));
            self.schema(&at.child("items"), child, below(many, position.correlatable && keyed));
        }
    }

    fn rule(&mut self, at: &FieldPath<'_>, rule: &Value, shape: &Arc<Shape>, schema: &Value, position: Position) {
        let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
        let source = text("rule");
        if source.trim().is_empty() {
            return self.out.push(FieldError::required(&at.child("rule"), "rule is not specified"));
        }
        if source.len() > MAX_RULE {
            return self.out.push(FieldError::too_long(&at.child("rule"), MAX_RULE));
        }
        self.texts(at, rule, schema);
        let optional = rule.get("optionalOldSelf").and_then(Value::as_bool) == Some(true);
        let environment = environment(shape, optional);
        let Some(program) = check_expression(self.out, &environment, &at.child("rule"), source, &[Ty::Bool]) else {
            return;
        };
        if program.mentions("oldSelf") && !position.correlatable {
            let why = "oldSelf cannot be used on the uncorrelatable portion of the schema";
            self.out.push(FieldError::invalid(&at.child("rule"), source, why));
        }
        if optional && !program.mentions("oldSelf") {
            let why = "may not be set if oldSelf is not used in rule";
            self.out.push(FieldError::invalid(&at.child("optionalOldSelf"), true, why));
        }
        let estimate = Estimate::new(&[("self", shape.clone()), ("oldSelf", shape.clone())]);
        let cost = estimate.of(&program).saturating_mul(position.cardinality);
        self.total = self.total.saturating_add(cost);
        if cost > RULE_LIMIT {
            let why = format!("estimated rule cost {}", over(cost, RULE_LIMIT));
            self.out.push(FieldError::forbidden(&at.child("rule"), why));
        }
        let message = text("messageExpression");
        if let Some(program) =
            check_expression(self.out, &environment, &at.child("messageExpression"), message, &[Ty::String])
        {
            let cost = estimate.of(&program).saturating_mul(position.cardinality);
            self.total = self.total.saturating_add(cost);
            if cost > RULE_LIMIT {
                let why = format!("estimated messageExpression cost {}", over(cost, RULE_LIMIT));
                self.out.push(FieldError::forbidden(&at.child("messageExpression"), why));
            }
        }
    }

    fn texts(&mut self, at: &FieldPath<'_>, rule: &Value, schema: &Value) {
        let text = |key: &str| rule.get(key).and_then(Value::as_str);
        if let Some(message) = text("message").filter(|m| !m.is_empty()) {
            let at = at.child("message");
            if message.trim().is_empty() {
                self.out.push(FieldError::invalid(&at, message, "message must be non-empty if specified"));
            } else if message.contains('\n') {
                self.out.push(FieldError::invalid(&at, message, "message must not contain line breaks"));
            } else if message.len() > MAX_MESSAGE {
                self.out.push(FieldError::too_long(&at, MAX_MESSAGE));
            }
        } else if text("rule").is_some_and(|r| r.contains('\n')) && text("messageExpression").is_none_or(str::is_empty)
        {
            let why = "message must be specified if rule contains line breaks";
            self.out.push(FieldError::required(&at.child("message"), why));
        }
        if let Some(message) = text("messageExpression").filter(|m| !m.is_empty() && m.trim().is_empty()) {
            let why = "messageExpression must be non-empty if specified";
            self.out.push(FieldError::required(&at.child("messageExpression"), format!("{why}: {message:?}")));
        }
        if let Some(reason) = text("reason").filter(|r| !r.is_empty() && !REASONS.contains(r)) {
            self.out.push(FieldError::not_supported(&at.child("reason"), reason, &REASONS));
        }
        if let Some(path) = text("fieldPath").filter(|p| !p.is_empty())
            && !leads_somewhere(path, schema)
        {
            let why = "fieldPath must be a valid path: does not refer to a valid field";
            self.out.push(FieldError::invalid(&at.child("fieldPath"), path, why));
        }
    }
}

/// Whether a path such as `.spec.x` or `.labels['a']` names a place of the schema.
fn leads_somewhere(path: &str, schema: &Value) -> bool {
    let mut place = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = if let Some(inner) = rest.strip_prefix("['") {
            match inner.split_once("']") {
                Some(found) => found,
                None => return false,
            }
        } else if let Some(inner) = rest.strip_prefix('.') {
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            inner.split_at(end)
        } else {
            return false;
        };
        let found = place.get("properties").and_then(|p| p.get(name)).or_else(|| place.get("additionalProperties"));
        match found {
            Some(found) if !name.is_empty() => place = found,
            _ => return false,
        }
        rest = after;
    }
    true
}
