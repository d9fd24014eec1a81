//! The `scale` subresource: `autoscaling/v1` Scale as a view of the object.

use super::options::WriteOptions;
use super::update::{Change, validation};
use caravel_api::decode;
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::kinds::{Gvk, Kind};
use caravel_api::meta;
use caravel_api::patch;
use caravel_api::selector::format_label_selector;
use caravel_api::status::ApiError;
use serde_json::{Value, json};

/// Where replicas are, in an object of `kind`: pointers to the wanted and the present number, and to the selector.
struct Paths {
    wanted: String,
    present: String,
    selector: Option<String>,
}

fn pointer(json_path: &str) -> String {
    json_path.replace('.', "/")
}

fn paths(kind: &Kind) -> Paths {
    match kind.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(scale) => Paths {
            wanted: pointer(&scale.spec_replicas),
            present: pointer(&scale.status_replicas),
            selector: scale.label_selector.as_deref().map(pointer),
        },
        None => Paths { wanted: "/spec/replicas".into(), present: "/status/replicas".into(), selector: None },
    }
}

/// The Scale of an object.
pub fn of(kind: &Kind, object: &Value) -> Value {
    let paths = paths(kind);
    let number = |at: &str| object.pointer(at).and_then(Value::as_i64).unwrap_or(0);
    let selector = match (&paths.selector, kind.is_custom()) {
        (Some(at), _) => object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned(),
        (None, true) => String::new(),
        (None, false) if kind.plural == "replicationcontrollers" => {
            // A plain map, not a LabelSelector.
            let map = object.pointer("/spec/selector").cloned().unwrap_or_default();
            format_label_selector(Some(&json!({"matchLabels": map})))
        }
        (None, false) => format_label_selector(object.pointer("/spec/selector")),
    };
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata[field] = value.clone();
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {}, "status": {"replicas": number(&paths.present)},
    });
    if number(&paths.wanted) != 0 {
        scale["spec"]["replicas"] = json!(number(&paths.wanted));
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// The object with the replicas that a changed Scale asks for.
pub fn change(
    kind: &Kind,
    old: &Value,
    change: &Change,
    options: &WriteOptions,
    mut warn: impl FnMut(String),
) -> Result<Value, ApiError> {
    let present = of(kind, old);
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    let target = decode::Target::of_gvk(&gvk).ok_or_else(|| ApiError::internal("the kind Scale has no schema"))?;
    let patched = match change {
        Change::Replace(scale) => scale.clone(),
        Change::JsonPatch(operations) => patch::json::apply(present, operations)?,
        Change::MergePatch(merge) | Change::Apply(merge) => patch::merge::apply(present, merge.clone()),
        Change::Strategic(merge) => patch::strategic::apply(target.schema.root(), present, merge.clone())?,
        Change::Rewrite => present,
        Change::With(with) => {
            let mut scale = present;
            with(&mut scale)?;
            scale
        }
    };
    let read = decode::Options { unknown: validation(options), ..decode::Options::default() };
    let decoded = decode::value(&target, patched, &read)?;
    decoded.warnings.into_iter().for_each(&mut warn);
    let scale = decoded.value;
    let name = meta::name(old);
    let given = meta::name(&scale);
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let spec = FieldPath::root("spec");
        let error = FieldError::invalid(&spec.child("replicas"), replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid("autoscaling", "Scale", name, &[error]));
    }
    let mut next = old.clone();
    for field in ["resourceVersion", "uid"] {
        match scale.pointer(&format!("/metadata/{field}")) {
            Some(value) => next["metadata"][field] = value.clone(),
            None => {
                meta::metadata_mut(&mut next).remove(field);
            }
        }
    }
    set(&mut next, &paths(kind).wanted, json!(replicas));
    Ok(next)
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for step in pointer.split('/').filter(|step| !step.is_empty()) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[step];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_api::kinds::KindTable;

    #[test]
    fn a_scale_is_a_view() {
        let kind = KindTable::builtin().resource("apps", "v1", "deployments").unwrap().clone();
        let object = json!({
            "metadata": {"name": "d", "namespace": "n", "resourceVersion": "5", "uid": "u"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}}}, "status": {"replicas": 2},
        });
        let scale = of(&kind, &object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=x"}));
        let patched = change(
            &kind,
            &object,
            &Change::MergePatch(json!({"spec": {"replicas": 7}})),
            &WriteOptions::default(),
            |_| {},
        )
        .unwrap();
        assert_eq!(patched["spec"]["replicas"], 7);
        assert_eq!(patched["metadata"]["resourceVersion"], "5");
        let negative = change(
            &kind,
            &object,
            &Change::MergePatch(json!({"spec": {"replicas": -1}})),
            &WriteOptions::default(),
            |_| {},
        );
        assert_eq!(negative.unwrap_err().code, 422);
    }
}
