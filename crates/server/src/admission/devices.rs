//! Dynamic resource allocation: what of claims, templates and classes takes the language of expressions or a look at the namespace.
//!
//! Selectors must compile and be cheap (KEP-4381); access to devices that others have (`adminAccess`) is only for namespaces that an
//! administrator labelled for it (KEP-5018).

use super::{Context, Operation, Plugin, Request, device_status};
use crate::clock::rfc3339_seconds;
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::status::ApiError;
use caravel_cel::device::{MAX_COST, MAX_LENGTH, Selector};
use futures::future::BoxFuture;
use serde_json::Value;

const GROUP: &str = "resource.k8s.io";
/// The namespace's label, and the value that allows it.
const ADMIN: &str = "resource.kubernetes.io/admin-access";

/// The plug-in.
pub struct Devices;

impl Plugin for Devices {
    fn name(&self) -> &'static str {
        "DeviceRequests"
    }

    fn handles(&self, request: &Request) -> bool {
        request.kind.group == GROUP
            && matches!(request.operation, Operation::Create | Operation::Update)
            && matches!(
                &*request.kind.plural,
                "resourceclaims" | "resourceclaimtemplates" | "deviceclasses" | "resourceslices"
            )
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if request.is(GROUP, "resourceslices")
                && let Some(slice) = &mut request.object
            {
                date_taints(slice, &rfc3339_seconds(context.registry.clock.now()));
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let (Some(object), old) = (&request.object, &request.old) else { return Ok(()) };
            if request.kind.plural == "resourceslices" {
                return Ok(());
            }
            let mut wrong = Vec::new();
            if request.kind.plural == "resourceclaims" && request.subresource == "status" {
                wrong = device_status::check(request, &context.registry.authorizer);
            }
            if request.subresource.is_empty() {
                let (path, pointer) = place(&request.kind.plural);
                let spec = object.pointer(pointer).unwrap_or(&Value::Null);
                // What is stored was good when it was written, and cannot be changed any more.
                if old.as_ref().and_then(|o| o.pointer(pointer)) != Some(spec) {
                    selectors(&mut wrong, &FieldPath::root(path), spec);
                }
            }
            if is_new(request, object) && !admin_namespace(request, context).await? {
                let why =
                    format!("admin access to devices requires the `{ADMIN}: true` label on the containing namespace");
                wrong.push(FieldError::forbidden(&FieldPath::root(""), why));
            }
            if wrong.is_empty() {
                return Ok(());
            }
            Err(ApiError::invalid(&request.kind.group, &request.kind.kind, &request.name, &wrong))
        })
    }
}

/// Taints of devices that do not say since when they are there are there from now on (KEP-5055: evictions count from then).
fn date_taints(slice: &mut Value, now: &str) {
    let devices = slice.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        // Version v1beta1 has `basic` between.
        let place = if device.get("basic").is_some() { "/basic/taints" } else { "/taints" };
        let taints = device.pointer_mut(place).and_then(Value::as_array_mut).into_iter().flatten();
        for taint in taints.filter(|t| t.get("timeAdded").is_none_or(Value::is_null)) {
            taint["timeAdded"] = now.into();
        }
    }
}

/// Where the requests (of classes: the selectors) stand.
fn place(plural: &str) -> (&'static str, &'static str) {
    match plural {
        "resourceclaims" => ("spec.devices", "/spec/devices"),
        "resourceclaimtemplates" => ("spec.spec.devices", "/spec/spec/devices"),
        _ => ("spec", "/spec"),
    }
}

fn items<'a>(holder: &'a Value, field: &str) -> &'a [Value] {
    holder.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// All selectors of the requests of a claim, or of a class.
fn selectors(wrong: &mut Vec<FieldError>, at: &FieldPath<'_>, holder: &Value) {
    expressions(wrong, at, holder);
    let requests = at.child("requests");
    for (i, request) in items(holder, "requests").iter().enumerate() {
        let at = requests.index(i);
        // Version v1beta1 has no `exactly` between.
        expressions(wrong, &at, request);
        if let Some(exactly) = request.get("exactly") {
            expressions(wrong, &at.child("exactly"), exactly);
        }
        let alternatives = at.child("firstAvailable");
        for (i, alternative) in items(request, "firstAvailable").iter().enumerate() {
            expressions(wrong, &alternatives.index(i), alternative);
        }
    }
}

fn expressions(wrong: &mut Vec<FieldError>, at: &FieldPath<'_>, holder: &Value) {
    let all = at.child("selectors");
    for (i, one) in items(holder, "selectors").iter().enumerate() {
        let Some(text) = one.pointer("/cel/expression").and_then(Value::as_str) else { continue };
        let one = all.index(i);
        let cel = one.child("cel");
        let at = cel.child("expression");
        if text.len() > MAX_LENGTH {
            wrong.push(FieldError::too_long(&at, MAX_LENGTH));
            continue;
        }
        match Selector::compile(text) {
            Err(why) => wrong.push(FieldError::invalid(&at, text, why.to_string())),
            Ok(selector) if selector.most_cost() > MAX_COST => {
                wrong.push(FieldError::forbidden(&at, "too complex, exceeds cost limit"));
            }
            Ok(_) => {}
        }
    }
}

/// Whether some request or result of an object wants admin access.
fn wants_admin(object: &Value) -> bool {
    let says = |one: &Value| one.get("adminAccess") == Some(&Value::Bool(true));
    let requests = ["/spec/devices", "/spec/spec/devices"].iter().filter_map(|p| object.pointer(p));
    let mut requests = requests.flat_map(|devices| items(devices, "requests"));
    let results = object.pointer("/status/allocation/devices").map(|d| items(d, "results")).unwrap_or_default();
    requests.any(|r| says(r) || r.get("exactly").is_some_and(says)) || results.iter().any(says)
}

/// Whether admin access is wanted that was not there before.
fn is_new(request: &Request, object: &Value) -> bool {
    request.kind.plural != "deviceclasses" && wants_admin(object) && !request.old.as_ref().is_some_and(wants_admin)
}

async fn admin_namespace(request: &Request, context: &Context<'_>) -> Result<bool, ApiError> {
    let namespace = context.registry.object("", "namespaces", "", &request.namespace).await?;
    let labels = namespace.as_ref().and_then(|n| n.pointer("/metadata/labels"));
    Ok(labels.and_then(|l| l.get(ADMIN)).is_some_and(|value| value == "true"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn first(devices: Value) -> String {
        let mut wrong = Vec::new();
        selectors(&mut wrong, &FieldPath::root("spec.devices"), &devices);
        wrong.first().map(|e| format!("{}: {}", e.field, e.body())).unwrap_or_default()
    }

    #[test]
    fn expressions_must_compile_and_be_cheap() {
        let of = |text: &str| json!({"requests": [{"name": "r", "exactly": {"selectors": [{"cel": {"expression": text}}]}}]});
        assert_eq!(first(of("device.driver == 'x'")), "");
        let wrong = first(of("device.none"));
        assert!(
            wrong.starts_with("spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value"),
            "{wrong}"
        );
        assert!(wrong.contains("undefined field 'none'"), "{wrong}");
        assert!(first(of(&"x".repeat(MAX_LENGTH + 1))).contains("Too long"));
        let nested = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, d != a))))";
        assert!(first(of(nested)).contains("too complex, exceeds cost limit"));
        let sub =
            json!({"requests": [{"name": "r", "firstAvailable": [{"selectors": [{"cel": {"expression": "1"}}]}]}]});
        assert!(first(sub).contains("firstAvailable[0].selectors[0]"));
        let class = json!({"selectors": [{"cel": {"expression": "1"}}]});
        assert!(first(class).contains("must evaluate to bool"));
    }

    #[test]
    fn taints_are_dated_once() {
        let taint = |time: Option<&str>| {
            let mut taint = json!({"key": "k", "effect": "NoExecute"});
            if let Some(time) = time {
                taint["timeAdded"] = json!(time);
            }
            taint
        };
        let of = |a: Value, b: Value| json!({"spec": {"devices": [{"name": "x", "taints": [a]}, {"name": "y", "basic": {"taints": [b]}}, {"name": "z"}]}});
        let mut slice = of(taint(None), taint(Some("2020-01-01T00:00:00Z")));
        date_taints(&mut slice, "2026-01-01T00:00:00Z");
        let dated = of(taint(Some("2026-01-01T00:00:00Z")), taint(Some("2020-01-01T00:00:00Z")));
        assert_eq!(slice, dated);
        date_taints(&mut slice, "2027-01-01T00:00:00Z");
        assert_eq!(slice, dated);
    }

    #[test]
    fn who_wants_admin_access() {
        let of = |admin: bool| json!({"name": "r", "exactly": {"adminAccess": admin}});
        assert!(wants_admin(&json!({"spec": {"devices": {"requests": [of(false), of(true)]}}})));
        assert!(wants_admin(&json!({"spec": {"spec": {"devices": {"requests": [of(true)]}}}})));
        assert!(wants_admin(&json!({"status": {"allocation": {"devices": {"results": [{"adminAccess": true}]}}}})));
        assert!(!wants_admin(&json!({"spec": {"devices": {"requests": [of(false)]}}})));
    }
}
