//! What may be used only where a quota covers it (`limitedResources` of a ResourceQuotaConfiguration): the configuration of the
//! cluster, not of a namespace.

use super::scope::{Selector, selectors};
use super::{Charge, amounts, delta, in_scope, is_about, usage};
use crate::quantity::Quantity;
use serde::Deserialize;
use serde_json::Value;

/// One entry of `limitedResources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limited {
    /// API group of the objects.
    pub api_group: String,
    /// Plural name of their kind.
    pub resource: String,
    /// Names of resources that contain one of these texts must be covered when an object uses any.
    pub match_contains: Vec<String>,
    /// Objects of one of these scopes must be covered by a quota of that scope.
    pub match_scopes: Vec<Selector>,
}

impl Limited {
    /// # Errors
    /// Which field is wrong, and why.
    pub fn check(&self) -> Result<(), String> {
        if self.resource.is_empty() { Err("resource: Required value".to_owned()) } else { Ok(()) }
    }
}

/// Whether the quotas of the namespace cover what a write uses of limited resources.
///
/// # Errors
/// In upstream's words, to be told with 403.
pub fn covered(limited: &[Limited], quotas: &[Value], charge: &Charge<'_>) -> Result<(), String> {
    if delta(charge)?.is_empty() {
        return Ok(());
    }
    let takes = |selector: &&Selector| selector.takes(charge.group, charge.plural, charge.object);
    let hard: Vec<String> = quotas
        .iter()
        .filter(|quota| in_scope(quota, charge.group, charge.plural, charge.object))
        .flat_map(|quota| amounts(quota.pointer("/status/hard")).into_keys())
        .filter(|name| is_about(charge.group, charge.plural, name))
        .collect();
    let about = limited.iter().filter(|one| one.api_group == charge.group && one.resource == charge.plural);
    let texts: Vec<&String> = about.flat_map(|one| &one.match_contains).collect();
    let used = usage(charge.group, charge.plural, charge.object, charge.now);
    let uncovered: Vec<&str> = used
        .iter()
        .filter(|(name, amount)| **amount > Quantity::ZERO && texts.iter().any(|text| name.contains(text.as_str())))
        .map(|(name, _)| name.as_str())
        .filter(|name| !hard.iter().any(|covered| covered == name))
        .collect();
    if !uncovered.is_empty() {
        return Err(format!("insufficient quota to consume: {}", uncovered.join(",")));
    }
    let there: Vec<String> =
        quotas.iter().flat_map(selectors).filter(|s| takes(&s)).map(|selector| selector.scope_name).collect();
    let uncovered: Vec<String> = limited
        .iter()
        .flat_map(|one| &one.match_scopes)
        .filter(takes)
        .filter(|selector| !there.contains(&selector.scope_name))
        .map(|selector| format!("{{{} {} [{}]}}", selector.scope_name, selector.operator, selector.values.join(" ")))
        .collect();
    if uncovered.is_empty() {
        return Ok(());
    }
    Err(format!("insufficient quota to match these scopes: [{}]", uncovered.join(" ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::Timestamp;
    use serde_json::json;

    fn limited() -> Vec<Limited> {
        let read = json!([
            {"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high", "top"]}]},
            {"resource": "persistentvolumeclaims", "matchContains": ["gold.storageclass.storage.k8s.io/requests.storage"]},
        ]);
        serde_json::from_value(read).unwrap()
    }

    fn said(quotas: &[Value], plural: &str, object: &Value, old: Option<&Value>) -> String {
        let charge = Charge { group: "", plural, object, old, now: Timestamp::UNIX_EPOCH };
        covered(&limited(), quotas, &charge).err().unwrap_or_default()
    }

    #[test]
    fn scopes_must_be_covered() {
        let pod = |class: &str| json!({"spec": {"priorityClassName": class, "containers": [{"name": "c"}]}});
        let refused = "insufficient quota to match these scopes: [{PriorityClass In [high top]}]";
        assert_eq!(said(&[], "pods", &pod("high"), None), refused);
        assert_eq!(said(&[], "pods", &pod("low"), None), "");
        let plain = json!({"status": {"hard": {"pods": "5"}}});
        assert_eq!(
            said(std::slice::from_ref(&plain), "pods", &pod("high"), None),
            refused,
            "a quota without the scope"
        );
        let scoped = |class: &str| {
            json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": [class]}]}},
                "status": {"hard": {"pods": "5"}}})
        };
        assert_eq!(said(&[plain.clone(), scoped("high")], "pods", &pod("high"), None), "");
        assert_eq!(said(&[plain, scoped("low")], "pods", &pod("high"), None), refused, "of another class");
    }

    #[test]
    fn amounts_must_be_covered() {
        let claim = |class: &str, size: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}});
        let refused = "insufficient quota to consume: gold.storageclass.storage.k8s.io/requests.storage";
        assert_eq!(said(&[], "persistentvolumeclaims", &claim("gold", "1Gi"), None), refused);
        assert_eq!(said(&[], "persistentvolumeclaims", &claim("lead", "1Gi"), None), "");
        let quota = json!({"status": {"hard": {"gold.storageclass.storage.k8s.io/requests.storage": "10Gi"}}});
        assert_eq!(said(&[quota], "persistentvolumeclaims", &claim("gold", "1Gi"), None), "");
        let (small, large) = (claim("gold", "1Gi"), claim("gold", "2Gi"));
        assert_eq!(said(&[], "persistentvolumeclaims", &large, Some(&small)), refused);
        assert_eq!(said(&[], "persistentvolumeclaims", &small, Some(&small)), "", "nothing more is used");
    }
}
