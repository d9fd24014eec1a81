//! Nobody hands out more than they have: creating or widening a role needs its permissions (or the verb `escalate`),
//! binding a role needs its permissions (or the verb `bind`).

use super::rbac::{Rule, path_matches, resource_matches};

/// One rule broken into its smallest parts: one verb, one group, one resource, one name or path.
fn parts(rule: &Rule) -> Vec<Rule> {
    let mut all = vec![];
    for verb in &rule.verbs {
        for group in &rule.groups {
            for resource in &rule.resources {
                let one = |names: Vec<String>| Rule {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    names,
                    paths: vec![],
                };
                if rule.names.is_empty() {
                    all.push(one(vec![]));
                } else {
                    all.extend(rule.names.iter().map(|name| one(vec![name.clone()])));
                }
            }
        }
        all.extend(rule.paths.iter().map(|path| Rule {
            verbs: vec![verb.clone()],
            paths: vec![path.clone()],
            ..Rule::default()
        }));
    }
    all
}

fn covers_resource(owned: &str, wanted: &str) -> bool {
    match wanted.split_once('/') {
        _ if owned == "*" || owned == wanted => true,
        Some((resource, subresource)) => resource_matches(owned, resource, subresource),
        None => false,
    }
}

/// Whether one owned rule contains the smallest part `wanted`.
fn contains(owned: &Rule, wanted: &Rule) -> bool {
    let any = |owned: &[String], wanted: &[String]| wanted.iter().all(|w| owned.iter().any(|o| o == "*" || o == w));
    if !any(&owned.verbs, &wanted.verbs) {
        return false;
    }
    if !wanted.paths.is_empty() {
        return wanted.paths.iter().all(|w| owned.paths.iter().any(|o| path_matches(o, w)));
    }
    any(&owned.groups, &wanted.groups)
        && wanted.resources.iter().all(|w| owned.resources.iter().any(|o| covers_resource(o, w)))
        && (owned.names.is_empty()
            || (!wanted.names.is_empty() && wanted.names.iter().all(|w| owned.names.contains(w))))
}

/// What of `wanted` the owner of `owned` does not have, in the smallest parts; empty when all is covered.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(parts).filter(|part| !owned.iter().any(|o| contains(o, part))).collect()
}

/// As upstream writes a rule in its refusals.
pub fn describe(rule: &Rule) -> String {
    let list = |l: &[String]| {
        let quoted: Vec<String> = l.iter().map(|t| format!("{t:?}")).collect();
        format!("[{}]", quoted.join(" "))
    };
    let mut text = String::from("{");
    for (key, values) in [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.paths),
        ("Verbs", &rule.verbs),
    ] {
        if !values.is_empty() {
            if text.len() > 1 {
                text.push_str(", ");
            }
            text.push_str(&format!("{key}:{}", list(values)));
        }
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(value: Value) -> Vec<Rule> {
        Rule::all_of(&json!({"rules": value}))
    }

    #[test]
    fn coverage() {
        let owned = rules(json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]},
            {"nonResourceURLs": ["/logs/*"], "verbs": ["get"]},
        ]));
        let table = [
            (json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]), 0),
            (json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"]}]), 1),
            (json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]}]), 0),
            (json!([{"apiGroups": ["*"], "resources": ["pods"], "verbs": ["get"]}]), 1),
            (json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]), 1),
            (json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}]), 0),
            (json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get"]}]), 1),
            (json!([{"nonResourceURLs": ["/logs/x"], "verbs": ["get"]}]), 0),
            (json!([{"nonResourceURLs": ["*"], "verbs": ["get"]}]), 1),
        ];
        for (wanted, count) in table {
            assert_eq!(missing(&owned, &rules(wanted.clone())).len(), count, "{wanted}");
        }
    }
}
