//! The configurations, compiled.

use super::super::matching::Matcher;
use super::super::{Context, Request};
use super::conditions::{Compiled, Condition, Evaluator};
use crate::follow;
use crate::outbound::Extension;
use crate::registry::Registry;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "admissionregistration.k8s.io";

/// One webhook of one configuration.
pub struct Hook {
    /// Name of the webhook.
    pub name: String,
    /// Name of its configuration.
    pub configuration: String,
    /// Configuration and webhook: unlike any other.
    pub(super) uid: String,
    pub(super) extension: Result<Extension, String>,
    matcher: Matcher,
    /// A call that fails lets the request through.
    pub(super) fails_open: bool,
    pub(super) timeout: Duration,
    /// `v1` or `v1beta1`: the first of `admissionReviewVersions` that this server speaks.
    pub(super) version: &'static str,
    /// It may be asked when nothing will be stored.
    pub(super) without_effects: bool,
    pub(super) again_if_needed: bool,
    conditions: Option<Result<Arc<dyn Compiled>, String>>,
    /// The definition that it was made from, to be told from a changed one.
    source: Value,
}

impl Hook {
    fn of(configuration: &str, source: &Value, evaluator: Option<&dyn Evaluator>) -> Self {
        let text = |field: &str| source.get(field).and_then(Value::as_str).unwrap_or_default();
        let versions = source.get("admissionReviewVersions").and_then(Value::as_array).into_iter().flatten();
        let version = versions.filter_map(Value::as_str).find_map(|one| match one {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        let seconds = source.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
        let config = source.get("clientConfig").unwrap_or(&Value::Null);
        let (matcher, broken) = match Matcher::of(source) {
            Ok(matcher) => (matcher, None),
            Err(error) => (Matcher::default(), Some(error)),
        };
        let extension = match broken {
            Some(error) => Err(error),
            None => Extension::from_client_config(config),
        };
        Self {
            name: text("name").to_owned(),
            configuration: configuration.to_owned(),
            uid: format!("{configuration}/{}", text("name")),
            extension,
            matcher,
            fails_open: text("failurePolicy") == "Ignore",
            timeout: Duration::from_secs(seconds.clamp(1, 30)),
            version: version.unwrap_or("v1"),
            without_effects: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            again_if_needed: text("reinvocationPolicy") == "IfNeeded",
            conditions: compile(source, evaluator),
            source: source.clone(),
        }
    }

    /// Whether the hook is to be asked; then the row in whose version the object must be shown.
    pub(super) async fn is_asked(
        &self,
        request: &Request,
        context: &Context<'_>,
    ) -> Result<Option<Arc<Kind>>, ApiError> {
        let Some(kind) = self.matcher.matches(request, context.registry).await? else { return Ok(None) };
        let held = match &self.conditions {
            None => Ok(true),
            Some(Ok(conditions)) => conditions.hold(request, context).await,
            Some(Err(error)) => Err(error.clone()),
        };
        match held {
            Ok(true) => Ok(Some(kind)),
            Ok(false) => Ok(None),
            Err(error) if self.fails_open => {
                tracing::warn!(hook = %self.name, %error, "match conditions failed, and the hook is passed over");
                Ok(None)
            }
            Err(error) => Err(request.forbidden(error)),
        }
    }
}

fn compile(source: &Value, evaluator: Option<&dyn Evaluator>) -> Option<Result<Arc<dyn Compiled>, String>> {
    let all = source.get("matchConditions").and_then(Value::as_array).filter(|all| !all.is_empty())?;
    let text = |one: &Value, field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all: Vec<Condition> =
        all.iter().map(|one| Condition { name: text(one, "name"), expression: text(one, "expression") }).collect();
    Some(match evaluator {
        Some(evaluator) => evaluator.compile(&all),
        None => Err("match conditions cannot be evaluated by this server".to_owned()),
    })
}

type List = Arc<Vec<Arc<Hook>>>;

/// All webhooks.
#[derive(Default)]
pub struct Hooks {
    mutating: RwLock<List>,
    validating: RwLock<List>,
    evaluator: RwLock<Option<Arc<dyn Evaluator>>>,
}

impl Hooks {
    /// Gives in who knows CEL. Before the configurations are read.
    pub fn set_evaluator(&self, evaluator: Arc<dyn Evaluator>) {
        *self.evaluator.write() = Some(evaluator);
    }

    pub(super) fn has_mutating(&self) -> bool {
        !self.mutating.read().is_empty()
    }

    pub(super) fn has_validating(&self) -> bool {
        !self.validating.read().is_empty()
    }

    pub(super) fn mutating(&self) -> List {
        self.mutating.read().clone()
    }

    pub(super) fn validating(&self) -> List {
        self.validating.read().clone()
    }

    /// Takes in all configurations of one kind, in the order of their names. Hooks that did not change are kept, with their
    /// connections.
    fn take(&self, mutating: bool, configurations: &[Value]) {
        let list = if mutating { &self.mutating } else { &self.validating };
        let old = list.read().clone();
        let evaluator = self.evaluator.read().clone();
        let mut next = vec![];
        for configuration in configurations {
            let name = meta::name(configuration);
            let hooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten();
            for source in hooks {
                let same = old.iter().find(|hook| hook.configuration == name && hook.source == *source);
                next.push(match same {
                    Some(hook) => hook.clone(),
                    None => Arc::new(Hook::of(name, source, evaluator.as_deref())),
                });
            }
        }
        *list.write() = Arc::new(next);
    }
}

/// Reads the configurations, and follows them until `stop`.
///
/// # Errors
/// The store did not answer.
pub async fn follow(registry: &Arc<Registry>, stop: &CancellationToken) -> Result<(), ApiError> {
    for (plural, mutating) in [("mutatingwebhookconfigurations", true), ("validatingwebhookconfigurations", false)] {
        let hooks = registry.hooks.clone();
        follow::objects(registry, GROUP, plural, stop, move |all| hooks.take(mutating, all)).await?;
    }
    Ok(())
}
