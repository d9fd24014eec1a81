//! Who may write which part of a ResourceClaim's status (upstream's DRAResourceClaimGranularStatusAuthorization).
//!
//! Beside `resourceclaims/status`, giving devices to a claim or reserving it takes the right to `resourceclaims/binding`, for all
//! namespaces; telling of devices takes the right to `resourceclaims/driver` of the driver's name, with the verb
//! `arbitrary-node:VERB`, or `associated-node:VERB` for a service account on the node that the claim is for.

use super::Request;
use crate::authz::{Attributes, Authorizer, Decision, ResourceTarget, Target};
use caravel_api::field::{FieldError, FieldPath};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

fn list<'a>(status: &'a Value, field: &str) -> &'a [Value] {
    status.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether devices are given or taken, or users come or go.
fn binds(new: &Value, old: &Value) -> bool {
    new.get("allocation") != old.get("allocation") || list(new, "reservedFor") != list(old, "reservedFor")
}

/// The drivers of whose devices something else is told than before.
fn drivers(new: &Value, old: &Value) -> BTreeSet<String> {
    let id = |d| ["driver", "pool", "device", "shareID"].map(|f| Value::get(d, f).and_then(Value::as_str));
    let by_id = |status| -> BTreeMap<[Option<&str>; 4], &Value> {
        list(status, "devices").iter().map(|d| (id(d), d)).collect()
    };
    let (new, old) = (by_id(new), by_id(old));
    let changed = new.keys().chain(old.keys()).filter(|id| new.get(*id) != old.get(*id));
    changed.filter_map(|id| id[0].map(str::to_owned)).collect()
}

/// The one node that a claim's devices are for, if they are for one by its name.
fn node(status: &Value) -> Option<&str> {
    let terms = status.pointer("/allocation/nodeSelector/nodeSelectorTerms")?.as_array()?;
    let [term] = &terms[..] else { return None };
    let [field] = list(term, "matchFields") else { return None };
    let [value] = list(field, "values") else { return None };
    let is = |key: &str, value: &str| field.get(key).and_then(Value::as_str) == Some(value);
    let by_name = list(term, "matchExpressions").is_empty() && is("key", "metadata.name") && is("operator", "In");
    value.as_str().filter(|_| by_name)
}

/// What is wrong with a change of the status.
pub fn check(request: &Request, authorizer: &Authorizer) -> Vec<FieldError> {
    let of = |object: &Option<Value>| object.as_ref().and_then(|o| o.get("status")).cloned().unwrap_or(Value::Null);
    let (new, old) = (of(&request.object), of(&request.old));
    let verb = if request.patch { "patch" } else { "update" };
    let ask = |verb: &str, subresource: &str, namespace: &str, name: &str| {
        let target = ResourceTarget {
            group: &request.kind.group,
            version: &request.kind.version,
            namespace,
            resource: "resourceclaims",
            subresource,
            name,
        };
        authorizer.authorize(&Attributes { user: &request.user, verb, target: Target::Resource(target) })
    };
    let because = |decision: &Decision| match decision {
        Decision::Denied(why) | Decision::NoOpinion(why) if !why.is_empty() => format!(": {why}"),
        _ => String::new(),
    };
    let at = FieldPath::root("status");
    let mut wrong = Vec::new();
    if binds(&new, &old) {
        let decision = ask(verb, "binding", "", "");
        if !decision.allowed() {
            wrong.push(FieldError::forbidden(
                &at,
                format!(
                    "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" \
                     permission: User {:?} cannot {verb} it at the cluster scope{}",
                    request.user.name,
                    because(&decision)
                ),
            ));
        }
    }
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if node(&new).is_some_and(|node| request.user.token_node() == Some(node)) {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    for driver in drivers(&new, &old) {
        if !verbs.iter().any(|verb| ask(verb, "driver", &request.namespace, &driver).allowed()) {
            wrong.push(FieldError::forbidden(
                &at,
                format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: User {:?} \
                     has it not for {driver:?}",
                    verbs.join(" "),
                    request.user.name
                ),
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changes() {
        let device =
            |name: &str, ready: bool| json!({"driver": "d", "pool": "p", "device": name, "data": {"ready": ready}});
        let other = json!({"driver": "e", "pool": "p", "device": "x"});
        for (name, old, new, want) in [
            ("nothing", json!([device("x", true)]), json!([device("x", true)]), ""),
            ("one more", json!([]), json!([device("x", true)]), "d"),
            ("one less", json!([device("x", true), other]), json!([device("x", true)]), "e"),
            ("another state", json!([device("x", true)]), json!([device("x", false)]), "d"),
            ("another order", json!([device("x", true), other]), json!([other, device("x", true)]), ""),
            ("two drivers", json!([]), json!([device("x", true), other]), "d e"),
        ] {
            let got = drivers(&json!({"devices": new}), &json!({"devices": old}));
            assert_eq!(got.into_iter().collect::<Vec<_>>().join(" "), want, "{name}");
        }
        let has = |users: Value| json!({"allocation": {"devices": {}}, "reservedFor": users});
        assert!(binds(&has(json!([])), &json!({})));
        assert!(binds(&has(json!([{"uid": "u"}])), &has(json!([]))));
        assert!(!binds(&json!({"reservedFor": []}), &Value::Null));
    }

    #[test]
    fn whose_node() {
        let by = |key: &str, values: Value| {
            json!({"allocation": {"nodeSelector": {"nodeSelectorTerms": [
                {"matchFields": [{"key": key, "operator": "In", "values": values}]}]}}})
        };
        assert_eq!(node(&by("metadata.name", json!(["n"]))), Some("n"));
        assert_eq!(node(&by("metadata.name", json!(["n", "m"]))), None);
        assert_eq!(node(&by("other", json!(["n"]))), None);
        assert_eq!(node(&json!({"allocation": {}})), None);
    }
}
