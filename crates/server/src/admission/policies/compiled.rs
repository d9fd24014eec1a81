//! Policies and bindings, compiled.

use super::matching::MatchResources;
use crate::expressions::{MatchConditions, review};
use caravel_api::meta;
use caravel_cel::{Environment, Program};
use serde_json::Value;
use std::collections::BTreeMap;

/// A policy.
#[derive(Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Errors refuse the request (`failurePolicy: Fail`).
    pub fails: bool,
    /// Which requests are meant.
    pub matching: MatchResources,
    /// `apiVersion` and `kind` of its parameters.
    pub param_kind: Option<(String, String)>,
    /// What must hold for it to be meant.
    pub conditions: MatchConditions,
    /// `variables.*`
    pub variables: Vec<(String, Program)>,
    /// What must hold.
    pub validations: Vec<Validation>,
    /// Key and value of annotations in the audit record.
    pub annotations: Vec<(String, Program)>,
    /// What is changed.
    pub mutations: Vec<Mutation>,
    /// Run again when others changed the object afterwards.
    pub reinvoked: bool,
}

/// One validation.
#[derive(Debug)]
pub struct Validation {
    /// What must hold.
    pub program: Program,
    /// What to say when it does not.
    pub message: String,
    /// What yields what to say.
    pub message_program: Option<Program>,
    /// `Invalid`, `Forbidden`, `Unauthorized`, `RequestEntityTooLarge`.
    pub reason: String,
}

/// One mutation.
#[derive(Debug)]
pub enum Mutation {
    /// Yields an `Object` that is merged in as server-side apply does.
    Apply(Program),
    /// Yields a list of `JSONPatch`.
    Patch(Program),
}

/// What is done about a validation that does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Refuse the request.
    pub deny: bool,
    /// Say it in a `Warning` header.
    pub warn: bool,
    /// Note it in the audit record.
    pub audit: bool,
}

/// A binding of a policy.
#[derive(Debug)]
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The policy's name.
    pub policy: String,
    /// What is done.
    pub actions: Actions,
    /// Which of the policy's requests are meant; all if none.
    pub matching: Option<MatchResources>,
    /// Where the parameters are.
    pub params: Option<ParamRef>,
}

/// Where parameters are.
#[derive(Clone, Debug, Default)]
pub struct ParamRef {
    /// One object of this name.
    pub name: String,
    /// In this namespace; empty for that of the request.
    pub namespace: String,
    /// All objects with these labels.
    pub selector: Option<Value>,
    /// Without parameters the request is refused (else the binding does not apply).
    pub deny_missing: bool,
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

impl Policy {
    /// Compiles a policy of either kind.
    ///
    /// # Errors
    /// What does not compile: stored policies were checked, so only old ones under newer rules.
    pub fn compile(object: &Value) -> Result<Self, String> {
        let spec = object.get("spec").unwrap_or(&review::NULL);
        let param_kind = spec
            .get("paramKind")
            .filter(|k| k.is_object())
            .map(|k| (text(k, "apiVersion").to_owned(), text(k, "kind").to_owned()));
        let mut environment = review::environment(param_kind.is_some());
        let conditions = spec.get("matchConditions").unwrap_or(&review::NULL);
        let conditions = MatchConditions::compile_in(&environment, conditions)?;
        let variables = Self::variables(&mut environment, spec)?;
        let compile = |environment: &Environment, source: &str| environment.compile(source).map_err(|e| e.to_string());
        let mut validations = vec![];
        for one in list(spec, "validations") {
            let message = Some(text(one, "messageExpression")).filter(|m| !m.trim().is_empty());
            let reason = text(one, "reason");
            validations.push(Validation {
                program: compile(&environment, text(one, "expression"))?,
                message: text(one, "message").to_owned(),
                message_program: message.map(|m| compile(&environment, m)).transpose()?,
                reason: if reason.is_empty() { "Invalid" } else { reason }.to_owned(),
            });
        }
        let mut annotations = vec![];
        for one in list(spec, "auditAnnotations") {
            annotations.push((text(one, "key").to_owned(), compile(&environment, text(one, "valueExpression"))?));
        }
        environment.messages = true;
        let mut mutations = vec![];
        for one in list(spec, "mutations") {
            let source = |field: &str| one.get(field).map(|c| text(c, "expression")).unwrap_or_default();
            mutations.push(match text(one, "patchType") {
                "JSONPatch" => Mutation::Patch(compile(&environment, source("jsonPatch"))?),
                _ => Mutation::Apply(compile(&environment, source("applyConfiguration"))?),
            });
        }
        Ok(Self {
            name: meta::name(object).to_owned(),
            fails: text(spec, "failurePolicy") != "Ignore",
            matching: MatchResources::from_value(spec.get("matchConstraints").unwrap_or(&review::NULL), false)?,
            param_kind,
            conditions,
            variables,
            validations,
            annotations,
            mutations,
            reinvoked: text(spec, "reinvocationPolicy") == "IfNeeded",
        })
    }

    fn variables(environment: &mut Environment, spec: &Value) -> Result<Vec<(String, Program)>, String> {
        let mut known = BTreeMap::new();
        let mut out = vec![];
        for one in list(spec, "variables") {
            environment.composed = Some(known.clone());
            let program = environment.compile(text(one, "expression")).map_err(|e| e.to_string())?;
            known.insert(text(one, "name").to_owned(), program.ty().clone());
            out.push((text(one, "name").to_owned(), program));
        }
        environment.composed = Some(known);
        Ok(out)
    }
}

impl Binding {
    /// Reads a binding of either kind.
    ///
    /// # Errors
    /// A selector that cannot be read.
    pub fn read(object: &Value) -> Result<Self, String> {
        let spec = object.get("spec").unwrap_or(&review::NULL);
        let has = |action: &str| list(spec, "validationActions").any(|a| a.as_str() == Some(action));
        let params = spec.get("paramRef").filter(|p| p.is_object()).map(|p| ParamRef {
            name: text(p, "name").to_owned(),
            namespace: text(p, "namespace").to_owned(),
            selector: p.get("selector").filter(|s| s.is_object()).cloned(),
            deny_missing: text(p, "parameterNotFoundAction") != "Allow",
        });
        let matching = spec.get("matchResources").filter(|m| m.is_object());
        Ok(Self {
            name: meta::name(object).to_owned(),
            policy: text(spec, "policyName").to_owned(),
            actions: Actions { deny: has("Deny"), warn: has("Warn"), audit: has("Audit") },
            matching: matching.map(|m| MatchResources::from_value(m, true)).transpose()?,
            params,
        })
    }
}
