//! ValidatingAdmissionPolicy at work.

use super::compiled::{Policy, Validation};
use super::table::Bound;
use super::{Table, concerned, params};
use crate::admission::{Context, Plugin, Request};
use crate::expressions::review::{self, Ask, NULL, Sight};
use caravel_api::kinds::{Kind, convert};
use caravel_api::status::ApiError;
use caravel_cel::{Budget, REQUEST_BUDGET, Val};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 << 10;
/// Longest value of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 10 << 10;

/// The plug-in.
pub struct ValidatingPolicies(pub Arc<Table>);

impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, request: &Request) -> bool {
        concerned(request) && !self.0.snapshot().validating.is_empty()
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let snapshot = self.0.snapshot();
            let mut denied = None;
            let namespace = namespace_of(request, context).await?;
            for bound in &snapshot.validating {
                let refusal = one_policy(bound, request, context, namespace.as_ref()).await;
                denied = denied.or(refusal);
            }
            match denied {
                Some(denied) => Err(denied.refuse(request)),
                None => Ok(()),
            }
        })
    }
}

/// The namespace of what the request is about, or none.
pub(super) async fn namespace_of(request: &Request, context: &Context<'_>) -> Result<Option<Value>, ApiError> {
    if !request.kind.namespaced || request.namespace.is_empty() {
        return Ok(None);
    }
    context.registry.object("", "namespaces", "", &request.namespace).await
}

/// The object in the version that a policy is written for.
pub(super) fn in_version(object: Option<&Value>, from: &Kind, to: &Kind) -> Option<Value> {
    let mut object = object?.clone();
    if from.version != to.version {
        if from.is_custom() {
            object["apiVersion"] = json!(to.api_version());
        } else {
            convert::convert(&mut object, from, to);
        }
    }
    Some(object)
}

/// A refusal.
struct Denied {
    policy: String,
    binding: String,
    message: String,
    reason: String,
}

impl Denied {
    fn refuse(self, request: &Request) -> ApiError {
        let Denied { policy, binding, message, reason } = self;
        let binding = if binding.is_empty() { String::new() } else { format!(" with binding '{binding}'") };
        let message = format!("ValidatingAdmissionPolicy '{policy}'{binding} denied request: {message}");
        let code = match reason.as_str() {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        let mut error = request.forbidden(&message);
        error.code = code;
        error.reason = reason;
        error.with_cause("", message, "")
    }
}

/// What became of one validation.
struct Failure {
    message: String,
    reason: String,
    /// Which of the policy's validations.
    index: usize,
}

async fn one_policy(
    bound: &Bound,
    request: &Request,
    context: &Context<'_>,
    namespace: Option<&Value>,
) -> Option<Denied> {
    let policy = &bound.policy;
    let kinds = context.registry.kinds();
    let matched = policy.matching.matches(request, &kinds, namespace)?;
    let object = in_version(request.object.as_ref(), &request.kind, &matched);
    let old = in_version(request.old.as_ref(), &request.kind, &matched);
    let value = review::request_value(request, &matched);
    let mut denied: Option<Denied> = None;
    for binding in &bound.bindings {
        if binding.matching.as_ref().is_some_and(|m| m.matches(request, &kinds, namespace).is_none()) {
            continue;
        }
        let mut refuse = |message: String, reason: &str| {
            let one = Denied {
                policy: policy.name.clone(),
                binding: binding.name.clone(),
                message,
                reason: reason.to_owned(),
            };
            denied.get_or_insert(one);
        };
        let all = match params::find(policy, binding, request, context).await {
            Ok(all) => all,
            Err(why) => {
                if policy.fails {
                    refuse(format!("failed to configure binding: {why}"), "Invalid");
                }
                continue;
            }
        };
        for params in &all {
            let ask = Ask::new(&context.registry.authorizer, request);
            let sight = Sight {
                object: object.as_ref().unwrap_or(&NULL),
                old: old.as_ref().unwrap_or(&NULL),
                request: &value,
                params,
                namespace: namespace.unwrap_or(&NULL),
                authorizer: &ask,
            };
            for failure in evaluate(policy, &sight, context) {
                let Failure { message, reason, index } = failure;
                if binding.actions.deny {
                    refuse(message.clone(), &reason);
                }
                if binding.actions.warn {
                    context.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                        policy.name, binding.name
                    ));
                }
                if binding.actions.audit {
                    let note = json!([{"message": message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": index, "validationActions": actions(binding.actions)}]);
                    context.annotate("validation.policy.admission.k8s.io/validation_failure", note.to_string());
                }
            }
        }
    }
    denied
}

fn actions(actions: super::compiled::Actions) -> Vec<&'static str> {
    [("Deny", actions.deny), ("Warn", actions.warn), ("Audit", actions.audit)]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect()
}

/// The validations that do not hold.
fn evaluate(policy: &Policy, sight: &Sight<'_>, context: &Context<'_>) -> Vec<Failure> {
    let mut activation = sight.activation();
    activation.compose(&policy.variables);
    let failed = |index: usize, message: String| {
        let failure = Failure { message, reason: "Invalid".into(), index };
        if policy.fails { vec![failure] } else { vec![] }
    };
    match policy.conditions.hold_in(&activation) {
        Ok(true) => {}
        Ok(false) => return vec![],
        Err(why) => return failed(0, why),
    }
    let budget = Budget::new(REQUEST_BUDGET);
    let mut out = vec![];
    for (index, validation) in policy.validations.iter().enumerate() {
        match validation.program.evaluate(&activation, &budget) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => {
                let message = message(validation, &activation, &budget);
                out.push(Failure { message, reason: validation.reason.clone(), index });
            }
            Ok(_) => out.extend(failed(
                index,
                format!("cel expression '{}' must evaluate to bool", validation.program.source()),
            )),
            Err(error) => {
                let source = validation.program.source();
                out.extend(failed(index, format!("expression '{source}' resulted in error: {error}")));
                if error.is_cost() {
                    return out;
                }
            }
        }
    }
    for (key, program) in &policy.annotations {
        match program.evaluate(&activation, &budget) {
            Ok(Val::String(text)) => {
                let text = text.as_str().trim();
                let end = text.char_indices().map(|(i, _)| i).take_while(|i| *i <= MAX_ANNOTATION).last().unwrap_or(0);
                let text = if text.len() > MAX_ANNOTATION { &text[..end] } else { text };
                if !text.is_empty() {
                    context.annotate(format!("{}/{key}", policy.name), text);
                }
            }
            Ok(_) => {}
            Err(error) => {
                out.extend(failed(0, format!("valueExpression '{}' resulted in error: {error}", program.source())))
            }
        }
    }
    out
}

fn message<'a>(validation: &'a Validation, activation: &caravel_cel::Activation<'a>, budget: &Budget) -> String {
    let made = validation.message_program.as_ref().and_then(|program| {
        let made = program.evaluate(activation, budget).ok()?;
        let text = made.as_str()?.trim().to_owned();
        (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then_some(text)
    });
    made.unwrap_or_else(|| {
        let said = validation.message.trim();
        if said.is_empty() {
            format!("failed expression: {}", validation.program.source().trim())
        } else {
            said.to_owned()
        }
    })
}
