//! `matchConditions` of webhooks and policies: all must hold, else the request is not theirs.

use super::review::{self, Ask, NULL, Sight};
use crate::admission::webhook::conditions::{Compiled, Condition, Evaluator};
use crate::admission::{Context, Request};
use caravel_api::field::{FieldError, FieldPath};
use caravel_cel::{Budget, Environment, MATCH_CONDITIONS_BUDGET, Program, Ty, Val};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;

/// CEL for the match conditions of webhooks.
pub struct Cel;

impl Evaluator for Cel {
    fn compile(&self, conditions: &[Condition]) -> Result<Arc<dyn Compiled>, String> {
        let list: Vec<Value> = conditions.iter().map(|c| json!({"name": c.name, "expression": c.expression})).collect();
        Ok(Arc::new(MatchConditions::compile(&Value::Array(list))?))
    }
}

impl Compiled for MatchConditions {
    fn hold<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<bool, String>> {
        let value = review::request_value(request, &request.kind);
        let ask = Ask::new(&context.registry.authorizer, request);
        let sight = Sight {
            object: request.object.as_ref().unwrap_or(&NULL),
            old: request.old.as_ref().unwrap_or(&NULL),
            request: &value,
            params: &NULL,
            namespace: &NULL,
            authorizer: &ask,
        };
        let held = self.hold_in(&sight.activation());
        Box::pin(async move { held })
    }
}

/// Compiled match conditions.
#[derive(Clone, Debug, Default)]
pub struct MatchConditions {
    all: Vec<(String, Program)>,
}

impl MatchConditions {
    /// Compiles the `matchConditions` of a webhook.
    ///
    /// # Errors
    /// The first that does not compile, with its name.
    pub fn compile(list: &Value) -> Result<Self, String> {
        Self::compile_in(&review::environment(false), list)
    }

    /// The same in an environment with more variables.
    ///
    /// # Errors
    /// The first that does not compile, with its name.
    pub fn compile_in(environment: &Environment, list: &Value) -> Result<Self, String> {
        let mut all = vec![];
        for condition in list.as_array().into_iter().flatten() {
            let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text("name").to_owned();
            match environment.compile(text("expression")) {
                Ok(program) => all.push((name, program)),
                Err(error) => return Err(format!("matchCondition {name:?}: compilation failed: {error}")),
            }
        }
        Ok(Self { all })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all hold over these variables. One that is false decides, whatever goes wrong in others (KEP-3716).
    ///
    /// # Errors
    /// What went wrong, when none is false.
    pub fn hold_in<'a>(&'a self, activation: &caravel_cel::Activation<'a>) -> Result<bool, String> {
        let budget = Budget::new(MATCH_CONDITIONS_BUDGET);
        let mut failed = vec![];
        for (name, program) in &self.all {
            match program.evaluate(activation, &budget) {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => failed.push(format!("{name}: it did not yield a bool")),
                Err(error) if error.is_cost() => {
                    return Err(format!("expression '{}' resulted in error: {error}", program.source()));
                }
                Err(error) => failed.push(format!("expression '{}' resulted in error: {error}", program.source())),
            }
        }
        if failed.is_empty() { Ok(true) } else { Err(failed.join(", ")) }
    }
}

/// One expression that must be of one of these types.
pub(super) fn check_expression(
    out: &mut Vec<FieldError>,
    environment: &Environment,
    at: &FieldPath<'_>,
    source: &str,
    wanted: &[Ty],
) -> Option<Program> {
    if source.trim().is_empty() {
        // That it is required was said before.
        return None;
    }
    match environment.compile(source) {
        Err(error) => out.push(FieldError::invalid(at, source, format!("compilation failed: {error}"))),
        Ok(program) if wanted.is_empty() || wanted.iter().any(|ty| program.may_be(ty)) => return Some(program),
        Ok(_) => {
            let names: Vec<String> =
                wanted.iter().map(|ty| if *ty == Ty::Null { "null_type".into() } else { ty.to_string() }).collect();
            let why = match names.as_slice() {
                [one] => format!("must evaluate to {one}"),
                several => format!("must evaluate to one of [{}]", several.join(" ")),
            };
            out.push(FieldError::invalid(at, source, why));
        }
    }
    None
}

/// The match conditions of one holder.
pub(super) fn check_conditions(
    out: &mut Vec<FieldError>,
    environment: &Environment,
    list: &FieldPath<'_>,
    holder: &Value,
) {
    for (i, one) in holder.get("matchConditions").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let source = one.get("expression").and_then(Value::as_str).unwrap_or_default();
        check_expression(out, environment, &list.index(i).child("expression"), source, &[Ty::Bool]);
    }
}

/// The match conditions of all webhooks of a configuration.
pub(super) fn check_webhooks(object: &Value) -> Vec<FieldError> {
    let mut out = vec![];
    let environment = review::environment(false);
    let list = FieldPath::root("webhooks");
    for (i, hook) in object.get("webhooks").and_then(Value::as_array).into_iter().flatten().enumerate() {
        check_conditions(&mut out, &environment, &list.index(i).child("matchConditions"), hook);
    }
    out
}
