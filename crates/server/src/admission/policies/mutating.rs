//! MutatingAdmissionPolicy at work.

use super::compiled::{Binding, Mutation, Policy};
use super::table::Bound;
use super::validating::{in_version, namespace_of};
use super::{Table, concerned, params};
use crate::admission::rounds::{Party, Rounds};
use crate::admission::{Context, Operation, Plugin, Request};
use crate::expressions::review::{self, Ask, NULL, Sight};
use caravel_api::decode::{self, Target};
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::patch;
use caravel_api::status::ApiError;
use caravel_cel::{Budget, REQUEST_BUDGET, Val};
use futures::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;

/// The plug-in.
pub struct MutatingPolicies(pub Arc<Table>);

impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, request: &Request) -> bool {
        // What has no object cannot be changed.
        concerned(request)
            && matches!(request.operation, Operation::Create | Operation::Update)
            && !self.0.snapshot().mutating.is_empty()
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let snapshot = self.0.snapshot();
            let namespace = namespace_of(request, context).await?;
            context.rounds.lock().begin(sort, request.object.as_ref());
            let before = request.object.clone();
            for bound in &snapshot.mutating {
                one_policy(bound, request, context, namespace.as_ref()).await?;
            }
            let mut rounds = context.rounds.lock();
            if request.object != before {
                // As upstream has it, who made the change is asked again, too.
                rounds.changed(sort);
            }
            rounds.policies.leave(request.object.as_ref());
            Ok(())
        })
    }
}

fn sort(rounds: &mut Rounds) -> &mut Party {
    &mut rounds.policies
}

/// What is told apart in the second round: a policy under a binding with a parameter.
fn invocation(bound: &Bound, binding: &Binding, params: &Value) -> String {
    format!("{}/{}/{}/{}", bound.policy.name, binding.name, meta::namespace(params), meta::name(params))
}

async fn one_policy(
    bound: &Bound,
    request: &mut Request,
    context: &Context<'_>,
    namespace: Option<&Value>,
) -> Result<(), ApiError> {
    let policy = &bound.policy;
    let kinds = context.registry.kinds();
    let Some(matched) = policy.matching.matches(request, &kinds, namespace) else { return Ok(()) };
    for binding in &bound.bindings {
        if binding.matching.as_ref().is_some_and(|m| m.matches(request, &kinds, namespace).is_none()) {
            continue;
        }
        let refuse = |request: &Request, why: String| {
            request.forbidden(format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name))
        };
        let all = match params::find(policy, binding, request, context).await {
            Ok(all) => all,
            Err(why) if policy.fails => return Err(refuse(request, format!("failed to configure binding: {why}"))),
            Err(_) => continue,
        };
        for params in &all {
            let who = invocation(bound, binding, params);
            if !context.rounds.lock().is_due(sort, &who) {
                continue;
            }
            match changed(policy, request, &matched, params, namespace, context) {
                Ok(Some(next)) => {
                    let mut rounds = context.rounds.lock();
                    if request.object.as_ref() != Some(&next) {
                        rounds.changed(sort);
                    }
                    request.object = Some(next);
                    if policy.reinvoked {
                        rounds.policies.waits(who);
                    }
                }
                Ok(None) => {}
                Err(why) if policy.fails => return Err(refuse(request, why)),
                Err(_) => {}
            }
        }
    }
    Ok(())
}

/// The object as the policy wants it, in the version of the request; none when it is not meant.
fn changed(
    policy: &Policy,
    request: &Request,
    matched: &Kind,
    params: &Value,
    namespace: Option<&Value>,
    context: &Context<'_>,
) -> Result<Option<Value>, String> {
    let Some(mut object) = in_version(request.object.as_ref(), &request.kind, matched) else { return Ok(None) };
    let old = in_version(request.old.as_ref(), &request.kind, matched);
    let value = review::request_value(request, matched);
    let ask = Ask::new(&context.registry.authorizer, request);
    let budget = Budget::new(REQUEST_BUDGET);
    for (index, mutation) in policy.mutations.iter().enumerate() {
        let next = {
            let sight = Sight {
                object: &object,
                old: old.as_ref().unwrap_or(&NULL),
                request: &value,
                params,
                namespace: namespace.unwrap_or(&NULL),
                authorizer: &ask,
            };
            let mut activation = sight.activation();
            activation.compose(&policy.variables);
            // The conditions are about the object as it came.
            if index == 0 && !policy.conditions.hold_in(&activation)? {
                return Ok(None);
            }
            let program = match mutation {
                Mutation::Apply(program) | Mutation::Patch(program) => program,
            };
            let made = program
                .evaluate(&activation, &budget)
                .map_err(|e| format!("expression '{}' resulted in error: {e}", program.source()))?;
            match mutation {
                Mutation::Apply(_) => apply(matched, &object, &made)?,
                Mutation::Patch(_) => json_patch(&object, &made)?,
            }
        };
        object = decoded(matched, next)?;
    }
    Ok(in_version(Some(&object), matched, &request.kind))
}

fn apply(kind: &Kind, object: &Value, made: &Val<'_>) -> Result<Value, String> {
    if !matches!(made, Val::Message(..)) {
        return Err(format!("ApplyConfiguration must yield an Object, but it yielded a {}", made.type_name()));
    }
    let configuration = made.to_json().ok_or("the configuration holds a value that JSON has no form for")?;
    for field in ["apiVersion", "kind"] {
        if configuration.get(field).is_some_and(|said| object.get(field) != Some(said)) {
            return Err(format!("the configuration may not change {field}"));
        }
    }
    for field in ["name", "namespace", "uid", "generateName"] {
        if configuration.pointer(&format!("/metadata/{field}")).is_some() {
            return Err(format!("the configuration may not set metadata.{field}"));
        }
    }
    let schema = kind.schema();
    let undeclared = patch::apply::undeclared(&schema, &configuration);
    if let Some(first) = undeclared.first() {
        return Err(format!("error applying patch: {first}"));
    }
    patch::apply::merged(&schema, object.clone(), &configuration).map_err(|e| e.to_string())
}

fn json_patch(object: &Value, made: &Val<'_>) -> Result<Value, String> {
    let Val::List(list) = made else {
        return Err(format!("JSONPatch must yield a list, but it yielded a {}", made.type_name()));
    };
    if list.iter().any(|one| !matches!(&one, Val::Message(name, _) if &**name == "JSONPatch")) {
        return Err("JSONPatch must yield a list of JSONPatch values".to_owned());
    }
    let operations = made.to_json().ok_or("a patch holds a value that JSON has no form for")?;
    patch::json::apply(object.clone(), &operations).map_err(|e| format!("error applying JSON patch: {e}"))
}

/// The result must still be an object of its kind.
fn decoded(kind: &Kind, object: Value) -> Result<Value, String> {
    let read = decode::Options { unknown: decode::Unknown::Strict, ..decode::Options::default() };
    decode::value(&Target::of(kind), object, &read).map(|d| d.value).map_err(|e| e.to_string())
}
