//! The guard on RBAC objects: whoever writes a role or a binding must already have what it grants (see
//! [`super::escalation`]), or the verb `escalate` on the role, or `bind` on the role that is bound.

use super::escalation::{describe, missing};
use super::rbac::{GROUP, Rule};
use super::{Attributes, ResourceTarget, Target};
use crate::authn::GROUP_MASTERS;
use crate::registry::{Call, Registry};
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use serde_json::Value;

/// Refuses an object that hands out more than `call.user` has. `old` is the present object of an update.
pub async fn check(
    registry: &Registry,
    call: &Call,
    kind: &Kind,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if call.user.in_group(GROUP_MASTERS) {
        return Ok(());
    }
    let namespace = meta::namespace(object);
    let name = meta::name(object);
    let may = |verb: &str, resource: &str, namespace: &str, name: &str| {
        registry
            .authorizer
            .authorize(&Attributes {
                user: &call.user,
                verb,
                target: Target::Resource(ResourceTarget {
                    group: GROUP,
                    version: "v1",
                    namespace,
                    resource,
                    subresource: "",
                    name,
                }),
            })
            .allowed()
    };
    let wanted = match &*kind.plural {
        "roles" | "clusterroles" => {
            let same = |field: &str| old.is_some_and(|old| old.get(field) == object.get(field));
            if same("rules") && same("aggregationRule") {
                return Ok(());
            }
            if may("escalate", &kind.plural, namespace, name) {
                return Ok(());
            }
            if object.get("aggregationRule").is_some() && !same("aggregationRule") {
                // Whoever aggregates may receive anything.
                vec![
                    Rule {
                        verbs: vec!["*".into()],
                        groups: vec!["*".into()],
                        resources: vec!["*".into()],
                        ..Rule::default()
                    },
                    Rule { verbs: vec!["*".into()], paths: vec!["*".into()], ..Rule::default() },
                ]
            } else {
                Rule::all_of(object)
            }
        }
        "rolebindings" | "clusterrolebindings" => {
            if old.is_some_and(|old| {
                old.get("subjects") == object.get("subjects") && old.get("roleRef") == object.get("roleRef")
            }) {
                return Ok(());
            }
            let role = object.pointer("/roleRef/name").and_then(Value::as_str).unwrap_or_default();
            let is_role = object.pointer("/roleRef/kind").and_then(Value::as_str) == Some("Role");
            let (resource, role_namespace) = if is_role { ("roles", namespace) } else { ("clusterroles", "") };
            if may("bind", resource, namespace, role) {
                return Ok(());
            }
            // From the store: the compiled policy may not know yet that the role was made, or that it grew.
            match registry.object(GROUP, resource, role_namespace, role).await? {
                Some(found) => Rule::all_of(&found),
                None => {
                    return Err(ApiError::not_found(GROUP, if is_role { "role" } else { "clusterrole" }, role));
                }
            }
        }
        _ => return Ok(()),
    };
    let owned = registry.authorizer.rbac.rules_for(&call.user, namespace);
    let lacking = missing(&owned, &wanted);
    if lacking.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = lacking.iter().take(20).map(describe).collect();
    let groups: Vec<String> = call.user.groups.iter().map(|g| format!("{g:?}")).collect();
    let why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        call.user.name,
        groups.join(" "),
        list.join("\n")
    );
    Err(ApiError::forbidden(&kind.group, &kind.plural, name, why))
}
