//! Managed fields: who owns which field (server-side apply, KEP-555). The rules are `caravel_api::patch::apply`; here it is
//! said who writes, and through which door.

use super::Call;
use super::options::WriteOptions;
use crate::clock::rfc3339_seconds;
use caravel_api::decode;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::patch::apply as ssa;
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
    pub fn applier(options: &WriteOptions) -> Result<Self, ApiError> {
        if options.field_manager.is_empty() {
            return Err(ApiError::new(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            )
            .with_cause(
                "FieldValueRequired",
                "Required value: is required for apply patch",
                "fieldManager",
            ));
        }
        Ok(Self(options.field_manager.clone()))
    }
}

/// Fields that a door does not write, so nobody who comes through it owns them.
fn ignored(kind: &Kind, subresource: &str) -> &'static [&'static str] {
    match subresource {
        "" | "scale" if kind.subresource("status").is_some() => &["status"],
        "status" if (&*kind.group, &*kind.plural) == ("", "pods") => {
            &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]
        }
        "status" if (&*kind.group, &*kind.plural) == ("apps", "deployments") => &["spec", "metadata.labels"],
        "status" => &["spec"],
        _ => &[],
    }
}

/// Records in `object` what `manager` changed compared with `old`.
pub fn track(
    kind: &Kind,
    subresource: &str,
    old: Option<&Value>,
    object: &mut Value,
    manager: &Manager,
    now: Timestamp,
) {
    let now = rfc3339_seconds(now);
    let api_version = kind.api_version();
    let write = ssa::Write {
        manager: &manager.0,
        api_version: &api_version,
        subresource,
        now: &now,
        ignored: ignored(kind, subresource),
    };
    ssa::track_update(&kind.schema(), old, object, write);
}

/// A configuration to be applied.
pub struct Apply<'a> {
    /// Row of the object.
    pub kind: &'a Kind,
    /// The door.
    pub subresource: &'a str,
    /// The configuration as sent.
    pub configuration: &'a Value,
    /// Who applies.
    pub manager: &'a Manager,
    /// Fields of others are taken.
    pub force: bool,
    /// What is done about unknown fields.
    pub unknown: decode::Unknown,
}

impl Apply<'_> {
    /// Applies it to `live` (`None` when there is no object yet): the next object, and warnings.
    pub fn to(&self, live: Option<&Value>, now: Timestamp) -> Result<(Value, Vec<String>), ApiError> {
        let target = decode::Target::of(self.kind);
        for (field, wanted) in [("apiVersion", self.kind.api_version()), ("kind", self.kind.kind.to_string())] {
            let said = self.configuration.get(field).and_then(Value::as_str).unwrap_or_default();
            if said.is_empty() {
                return Err(ApiError::bad_request(format!(
                    "invalid object type: the applied configuration has no {field}; it must say {wanted:?}"
                )));
            }
        }
        // Whatever the request says of unknown fields: what the schema does not have cannot be managed.
        let mut undeclared = ssa::undeclared(&target.schema, self.configuration);
        if !undeclared.is_empty() {
            undeclared.truncate(20);
            let list = match undeclared.as_slice() {
                [one] => one.clone(),
                several => format!("errors:\n  {}", several.join("\n  ")),
            };
            let text = |field: &str| meta::text(self.configuration, field);
            let whose =
                format!("{}/{}; {}, Kind={}", text("namespace"), text("name"), self.kind.api_version(), self.kind.kind);
            let whose = whose.trim_start_matches('/');
            return Err(ApiError::new(500, "", format!("failed to create typed patch object ({whose}): {list}")));
        }
        let read = decode::Options { unknown: self.unknown, fill: false, ..decode::Options::default() };
        let decoded = decode::value(&target, self.configuration.clone(), &read)?;
        let now = rfc3339_seconds(now);
        let api_version = self.kind.api_version();
        let write = ssa::Write {
            manager: &self.manager.0,
            api_version: &api_version,
            subresource: self.subresource,
            now: &now,
            ignored: ignored(self.kind, self.subresource),
        };
        let schema = target.schema;
        let next = ssa::apply(&schema, live, &decoded.value, write, self.force)?;
        let filled = decode::value(
            &decode::Target::of(self.kind),
            next,
            &decode::Options { unknown: decode::Unknown::Ignore, ..decode::Options::default() },
        )?;
        Ok((filled.value, decoded.warnings))
    }
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
