//! Upstream's bootstrap RBAC objects, read from `policy.tbl`, and the rule by which they are reconciled at start-up:
//! permissions and subjects that are missing are put back, additions of the administrator stay, and an object
//! annotated `rbac.authorization.kubernetes.io/autoupdate=false` is left alone.

use crate::authz::escalation::missing;
use crate::authz::rbac::{GROUP, Rule};
use serde_json::{Map, Value, json};

const TABLE: &str = include_str!("policy.tbl");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One object to be: its plural resource name and the object.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyObject {
    /// `clusterroles`, `clusterrolebindings`, `roles` or `rolebindings`.
    pub resource: &'static str,
    /// The object.
    pub object: Value,
}

/// What the storage migrator may, where it runs (upstream adds it with its feature gate).
const MIGRATOR: &str = "controller storage-version-migrator-controller
  create,list,patch * *
  update storagemigration.k8s.io storageversionmigrations/status
";

/// All bootstrap objects, aggregated roles already filled in. Roles come before bindings.
pub fn objects() -> Vec<PolicyObject> {
    read(TABLE)
}

/// The objects that go with storage migration.
pub fn migrator() -> Vec<PolicyObject> {
    read(MIGRATOR)
}

fn read(table: &str) -> Vec<PolicyObject> {
    let mut roles: Vec<PolicyObject> = vec![];
    let mut bindings: Vec<PolicyObject> = vec![];
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.split_first() {
            None | Some((&"#", _)) => {}
            Some((&"role", [name, options @ ..])) => roles.push(cluster_role(name, options)),
            Some((&"nrole", [namespace, name])) => roles.push(namespaced_role(namespace, name)),
            Some((&"controller", [name])) => {
                let full = format!("system:controller:{name}");
                roles.push(cluster_role(&full, &[]));
                let account = format!("s:kube-system:{name}");
                bindings.push(binding("", &full, &full, &[&account]));
            }
            Some((&"bind", [name, role, subjects @ ..])) => bindings.push(binding("", name, role, subjects)),
            Some((&"nbind", [namespace, name, role, subjects @ ..])) => {
                bindings.push(binding(namespace, name, role, subjects));
            }
            Some((verbs, rest)) if line.starts_with(' ') => {
                if let Some(role) = roles.last_mut()
                    && let Some(rules) = role.object["rules"].as_array_mut()
                {
                    rules.push(rule(verbs, rest).to_value());
                }
            }
            Some(_) => {}
        }
    }
    aggregate(&mut roles);
    roles.append(&mut bindings);
    roles
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn rule(verbs: &str, rest: &[&str]) -> Rule {
    let mut all: Vec<String> = vec![];
    for verb in verbs.split(',') {
        match verb {
            "R" => all.extend(["get", "list", "watch"].map(String::from)),
            "W" => all.extend(["create", "delete", "deletecollection", "patch", "update"].map(String::from)),
            "E" => all.extend(["create", "patch", "update"].map(String::from)),
            other => all.push(other.to_owned()),
        }
    }
    all.sort();
    all.dedup();
    match rest {
        ["url", paths] => Rule { verbs: all, paths: list(paths), ..Rule::default() },
        [groups, resources, names @ ..] => Rule {
            verbs: all,
            groups: groups.split(',').map(|g| if g == "core" { "" } else { g }.to_owned()).collect(),
            resources: list(resources),
            names: names.first().map(|n| list(n)).unwrap_or_default(),
            paths: vec![],
        },
        _ => Rule::default(),
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn cluster_role(name: &str, options: &[&str]) -> PolicyObject {
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata("", name), "rules": [],
    });
    for option in options {
        if let Some(label) = option.strip_prefix("label=") {
            object["metadata"]["labels"][format!("{GROUP}/{label}")] = json!("true");
        } else if let Some(label) = option.strip_prefix("aggregate=") {
            object["aggregationRule"] =
                json!({"clusterRoleSelectors": [{"matchLabels": {format!("{GROUP}/{label}"): "true"}}]});
        }
    }
    PolicyObject { resource: "clusterroles", object }
}

fn namespaced_role(namespace: &str, name: &str) -> PolicyObject {
    PolicyObject {
        resource: "roles",
        object: json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata(namespace, name),
            "rules": [],
        }),
    }
}

fn binding(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> PolicyObject {
    let (resource, kind, role_kind) = if namespace.is_empty() {
        ("clusterrolebindings", "ClusterRoleBinding", "ClusterRole")
    } else {
        ("rolebindings", "RoleBinding", "Role")
    };
    let subjects: Vec<Value> = subjects.iter().map(|s| subject(s)).collect();
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata(namespace, name),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = Value::Array(subjects);
    }
    PolicyObject { resource, object }
}

fn subject(text: &str) -> Value {
    match text.split_at(2) {
        ("u:", name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        ("g:", name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        (_, account) => {
            let (namespace, name) = account.split_once(':').unwrap_or(("", account));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
    }
}

/// Fills the aggregated roles (repeatedly: `admin` takes in `edit`, which takes in `view`).
fn aggregate(roles: &mut [PolicyObject]) {
    for _ in 0..3 {
        for at in 0..roles.len() {
            let selector = roles[at].object.pointer("/aggregationRule/clusterRoleSelectors/0/matchLabels").cloned();
            let Some(Value::Object(selector)) = selector else { continue };
            let mut rules: Vec<Value> = vec![];
            for role in roles.iter().filter(|role| labelled(&role.object, &selector)) {
                for rule in role.object["rules"].as_array().into_iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
            roles[at].object["rules"] = Value::Array(rules);
        }
    }
}

fn labelled(object: &Value, wanted: &Map<String, Value>) -> bool {
    let labels = object.pointer("/metadata/labels");
    wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// What the present object must become so that it grants at least what `wanted` grants; `None` when it does, or is
/// not to be touched.
pub fn reconcile(present: &Value, wanted: &Value) -> Option<Value> {
    let annotation = present.pointer("/metadata/annotations").and_then(|a| a.get(AUTOUPDATE));
    if annotation.and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut next = present.clone();
    for field in ["labels", "annotations"] {
        let Some(Value::Object(more)) = wanted.pointer(&format!("/metadata/{field}")) else { continue };
        if !next["metadata"][field].is_object() {
            next["metadata"][field] = json!({});
        }
        for (key, value) in more {
            next["metadata"][field][key] = value.clone();
        }
    }
    if let Some(aggregation) = wanted.get("aggregationRule") {
        // The rules of an aggregated role belong to the controller that aggregates.
        if next.get("aggregationRule").is_none() {
            next["aggregationRule"] = aggregation.clone();
        }
    } else if wanted.get("rules").is_some() {
        let owned = Rule::all_of(present);
        let lacking = missing(&owned, &Rule::all_of(wanted));
        if !lacking.is_empty() {
            let mut rules: Vec<Value> = present.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
            rules.extend(lacking.iter().map(Rule::to_value));
            next["rules"] = Value::Array(rules);
        }
    }
    if let Some(wanted) = wanted.get("subjects").and_then(Value::as_array) {
        let mut subjects: Vec<Value> = present.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
        for subject in wanted {
            if !subjects.contains(subject) {
                subjects.push(subject.clone());
            }
        }
        next["subjects"] = Value::Array(subjects);
    }
    (next != *present).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(all: &'a [PolicyObject], resource: &str, name: &str) -> &'a Value {
        &all.iter().find(|o| o.resource == resource && o.object["metadata"]["name"] == name).unwrap().object
    }

    #[test]
    fn every_line_of_the_table_is_understood() {
        for line in TABLE.lines().chain(MIGRATOR.lines()).filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let good = match words[0] {
                "role" => words.len() >= 2,
                "nrole" => words.len() == 3,
                "controller" => words.len() == 2,
                "bind" => words.len() >= 3,
                "nbind" => words.len() >= 4,
                _ => line.starts_with("  ") && (3..=4).contains(&words.len()),
            };
            assert!(good, "{line}");
        }
    }

    #[test]
    fn bindings_refer_to_roles_that_exist() {
        let all = objects();
        for one in all.iter().filter(|o| o.resource.ends_with("bindings")) {
            let role = &one.object["roleRef"];
            let resource = if role["kind"] == "Role" { "roles" } else { "clusterroles" };
            find(&all, resource, role["name"].as_str().unwrap());
        }
    }

    #[test]
    fn admin_contains_edit_contains_view() {
        let all = objects();
        let rules = |name| Rule::all_of(find(&all, "clusterroles", name));
        assert!(missing(&rules("admin"), &rules("edit")).is_empty());
        assert!(missing(&rules("edit"), &rules("view")).is_empty());
        assert!(!missing(&rules("view"), &rules("edit")).is_empty());
        assert!(!missing(&rules("edit"), &rules("admin")).is_empty());
    }

    #[test]
    fn reconciling_adds_and_never_takes_away() {
        let all = objects();
        let wanted = find(&all, "clusterroles", "system:kube-dns");
        assert_eq!(reconcile(wanted, wanted), None);
        let mut present = wanted.clone();
        present["rules"] = json!([{"apiGroups": ["x"], "resources": ["y"], "verbs": ["z"]}]);
        let next = reconcile(&present, wanted).unwrap();
        assert!(missing(&Rule::all_of(&next), &Rule::all_of(wanted)).is_empty());
        assert!(next["rules"].as_array().unwrap().contains(&present["rules"][0]));
        present["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(&present, wanted), None);
    }
}
