//! Asking one hook, and doing what it says.

use super::super::matching::kind_at;
use super::super::{Context, Request};
use super::Hook;
use super::review::{self, Verdict};
use crate::handlers::fresh_uid;
use crate::registry::options::WriteOptions;
use crate::registry::scale;
use crate::registry::update::Change;
use crate::rules;
use caravel_api::decode::{self, Target, Unknown};
use caravel_api::kinds::Kind;
use caravel_api::patch;
use caravel_api::status::ApiError;
use serde_json::{Value, json};
use std::sync::Arc;

/// A hook that is to be asked.
pub(super) struct Asked<'a> {
    pub hook: &'a Hook,
    /// The row in whose version the object is shown.
    pub kind: &'a Arc<Kind>,
    pub round: u8,
    pub index: usize,
}

impl Asked<'_> {
    /// Asks, and changes the object as the hook wants it; whether it did.
    pub(super) async fn mutate(&self, request: &mut Request, context: &Context<'_>) -> Result<bool, ApiError> {
        let (object, old) = self.shown(request, context).await?;
        let verdict = match self.ask(true, request, &object, &old, context).await? {
            Some(verdict) => verdict,
            None => return Ok(false),
        };
        let before = object.clone();
        let after = match (verdict.patch, object) {
            (None, _) => None,
            (Some(Value::Array(operations)), _) if operations.is_empty() => None,
            (Some(_), None) => {
                return Err(ApiError::internal(format!(
                    "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                    self.hook.name
                )));
            }
            (Some(operations), Some(object)) => Some(self.patched(request, object, &operations)?),
        };
        let changed = after.is_some() && after != before;
        let (round, index) = (self.round, self.index);
        let noted = json!({"configuration": self.hook.configuration, "webhook": self.hook.name, "mutated": changed});
        context.annotate(format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}"), noted.to_string());
        if let Some(after) = after.filter(|_| changed) {
            self.put_back(request, after, context).await?;
        }
        Ok(changed)
    }

    /// Asks whether the request may pass.
    pub(super) async fn validate(&self, request: &Request, context: &Context<'_>) -> Result<(), ApiError> {
        let (object, old) = self.shown(request, context).await?;
        self.ask(false, request, &object, &old, context).await.map(|_| ())
    }

    /// `None` when the call failed and that is to be ignored.
    async fn ask(
        &self,
        mutating: bool,
        request: &Request,
        object: &Option<Value>,
        old: &Option<Value>,
        context: &Context<'_>,
    ) -> Result<Option<Verdict>, ApiError> {
        let hook = self.hook;
        if request.dry_run && !hook.without_effects {
            return Err(ApiError::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
        }
        let uid = fresh_uid();
        let question = review::question(hook, &uid, request, self.kind, object.as_ref(), old.as_ref());
        let answered = match &hook.extension {
            Err(error) => Err(error.clone()),
            Ok(extension) => extension
                .post(context.registry, &question, hook.timeout)
                .await
                .map_err(|why| format!("failed to call webhook: {why}"))
                .and_then(|answer| {
                    review::answer(hook, &uid, mutating, &answer)
                        .map_err(|why| format!("received invalid webhook response: {why}"))
                }),
        };
        let verdict = match answered {
            Ok(verdict) => verdict,
            Err(why) => {
                let error = format!("failed calling webhook {:?}: {why}", hook.name);
                if !hook.fails_open {
                    tracing::warn!(configuration = %hook.configuration, %error, "a webhook failed, and its request is refused");
                    return Err(ApiError::internal(error));
                }
                tracing::warn!(configuration = %hook.configuration, %error, "a webhook failed, and its request goes on");
                let what = if mutating { "mutation" } else { "validating" };
                let key =
                    format!("failed-open.{what}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index);
                context.annotate(key, &hook.name);
                return Ok(None);
            }
        };
        for (key, value) in &verdict.annotations {
            context.annotate(key, value);
        }
        for warning in &verdict.warnings {
            context.warn(warning);
        }
        if verdict.allowed { Ok(Some(verdict)) } else { Err(review::refusal(&hook.name, &verdict.status)) }
    }

    /// Object and old object as the hook is shown them: in its version, and at `scale` as a Scale.
    async fn shown(
        &self,
        request: &Request,
        context: &Context<'_>,
    ) -> Result<(Option<Value>, Option<Value>), ApiError> {
        let show = |value: Option<Value>| async move {
            let Some(value) = value else { return Ok(None) };
            if request.subresource == "scale" {
                return Ok(Some(scale::of(&request.kind, &value)));
            }
            // What is created at a subresource (a Binding, options of a connection) has one version.
            if kind_at(&request.kind, &request.subresource) != request.kind.gvk() {
                return Ok(Some(value));
            }
            context.registry.convert(value, &request.kind, self.kind).await.map(Some)
        };
        Ok((show(request.object.clone()).await?, show(request.old.clone()).await?))
    }

    fn patched(&self, request: &Request, object: Value, operations: &Value) -> Result<Value, ApiError> {
        let fault = |why: String| ApiError::internal(format!("webhook {:?}: {why}", self.hook.name));
        let patched = patch::json::apply(object, operations).map_err(|e| fault(e.to_string()))?;
        let gvk = kind_at(self.kind, &request.subresource);
        let target = if gvk == self.kind.gvk() { Some(Target::of(self.kind)) } else { Target::of_gvk(&gvk) };
        let target = target.ok_or_else(|| fault(format!("the kind {gvk} has no schema")))?;
        let read = decode::Options { unknown: Unknown::Ignore, ..decode::Options::default() };
        let mut value = decode::value(&target, patched, &read).map_err(|e| fault(e.to_string()))?.value;
        if gvk == self.kind.gvk() {
            rules::default(self.kind, &mut value);
        }
        Ok(value)
    }

    async fn put_back(&self, request: &mut Request, after: Value, context: &Context<'_>) -> Result<(), ApiError> {
        let next = if request.subresource == "scale" {
            let present = request.object.take().unwrap_or_default();
            let options = WriteOptions::default();
            scale::change(&request.kind, &present, &Change::Replace(after), &options, |text| context.warn(text))?
        } else if kind_at(&request.kind, &request.subresource) == request.kind.gvk() {
            context.registry.convert(after, self.kind, &request.kind).await?
        } else {
            after
        };
        request.object = Some(next);
        Ok(())
    }
}
