//! Priority: a Pod's `priorityClassName` becomes its `priority` and `preemptionPolicy`, once, at creation.

use super::{Context, Operation, Plugin, Request};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Value, json};

/// Classes that begin with this are the system's.
const SYSTEM_PREFIX: &str = "system-";
/// The highest priority that users may define.
const HIGHEST_USER: i64 = 1_000_000_000;

/// The plug-in.
pub struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, request: &Request) -> bool {
        let pod = request.is("", "pods") && matches!(request.operation, Operation::Create | Operation::Update);
        let class = request.is("scheduling.k8s.io", "priorityclasses")
            && matches!(request.operation, Operation::Create | Operation::Update);
        pod || class
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if request.kind.plural != "pods" {
                return Ok(());
            }
            if request.operation == Operation::Update {
                keep(request);
                return Ok(());
            }
            let spec = request.object.as_ref().and_then(|pod| pod.get("spec"));
            let wanted = spec.and_then(|s| s.get("priorityClassName")).and_then(Value::as_str).unwrap_or_default();
            let given = spec.and_then(|s| s.get("priority")).and_then(Value::as_i64);
            let given_policy = spec.and_then(|s| s.get("preemptionPolicy")).and_then(Value::as_str).map(str::to_owned);
            let class = if wanted.is_empty() {
                default_class(context).await?
            } else {
                let found = context.registry.object("scheduling.k8s.io", "priorityclasses", "", wanted).await?;
                Some(found.ok_or_else(|| request.forbidden(format!("no PriorityClass with name {wanted} was found")))?)
            };
            let name = class.as_ref().and_then(|c| c.pointer("/metadata/name")).and_then(Value::as_str);
            let value = class.as_ref().and_then(|c| c.get("value")).and_then(Value::as_i64).unwrap_or(0);
            let policy = class
                .as_ref()
                .and_then(|c| c.get("preemptionPolicy"))
                .and_then(Value::as_str)
                .unwrap_or("PreemptLowerPriority");
            if given.is_some_and(|given| given != value) {
                let why = format!(
                    "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
                    given.unwrap_or_default()
                );
                return Err(request.forbidden(why));
            }
            if given_policy.as_deref().is_some_and(|given| given != policy) {
                let why = format!(
                    "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name",
                    given_policy.unwrap_or_default()
                );
                return Err(request.forbidden(why));
            }
            let name = name.map(str::to_owned);
            let policy = policy.to_owned();
            if let Some(spec) = request.object.as_mut().and_then(|pod| pod.get_mut("spec")) {
                if let Some(name) = name {
                    spec["priorityClassName"] = json!(name);
                }
                spec["priority"] = json!(value);
                spec["preemptionPolicy"] = json!(policy);
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if request.kind.plural != "priorityclasses" {
                return Ok(());
            }
            let Some(class) = request.object.as_ref() else { return Ok(()) };
            let value = class.get("value").and_then(Value::as_i64).unwrap_or(0);
            if value > HIGHEST_USER && !request.name.starts_with(SYSTEM_PREFIX) {
                return Err(
                    request.forbidden(format!("maximum allowed value of a user defined priority is {HIGHEST_USER}"))
                );
            }
            if class.get("globalDefault").and_then(Value::as_bool) == Some(true)
                && let Some(other) = default_class(context).await?
            {
                let other = other.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                if other != request.name {
                    return Err(request.forbidden(format!(
                        "PriorityClass {other} is already marked as default. Only one default can exist"
                    )));
                }
            }
            Ok(())
        })
    }
}

/// What was computed at creation stays when an update leaves it out.
fn keep(request: &mut Request) {
    let Some(old) = request.old.as_ref().and_then(|pod| pod.get("spec")).cloned() else { return };
    let Some(spec) = request.object.as_mut().and_then(|pod| pod.get_mut("spec")).and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["priority", "preemptionPolicy"] {
        if !spec.contains_key(field)
            && let Some(value) = old.get(field)
        {
            spec.insert(field.into(), value.clone());
        }
    }
}

/// The class marked `globalDefault`; of several the one with the lowest value, as upstream. Every Pod that is created asks, so
/// only classes that can be it are decoded.
async fn default_class(context: &Context<'_>) -> Result<Option<Value>, ApiError> {
    let registry = context.registry;
    let row = registry.row("scheduling.k8s.io", "priorityclasses")?;
    let mut default: Option<Value> = None;
    for entry in registry.entries(&row, "").await? {
        if caravel_api::meta::member(&entry.value, "globalDefault") != Some(b"true") {
            continue;
        }
        let class = registry.parse(&row, &entry)?;
        let value = |class: &Value| class.get("value").and_then(Value::as_i64).unwrap_or(0);
        if default.as_ref().is_none_or(|other| value(&class) < value(other)) {
            default = Some(class);
        }
    }
    Ok(default)
}
