//! Role-based access control, compiled: rules and bindings indexed by subject, kept current by the store's watch.
//!
//! A decision looks only at the bindings of the user and of each of its groups, never at all bindings.

use super::{Attributes, Decision, ResourceTarget, Target};
use crate::authn::{SERVICE_ACCOUNT_PREFIX, UserInfo};
use parking_lot::RwLock;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The API group of RBAC objects.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// One `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, or `*`.
    pub resources: Vec<String>,
    /// Names; empty means all.
    pub names: Vec<String>,
    /// Plain paths; a trailing `*` matches any rest.
    pub paths: Vec<String>,
}

impl Rule {
    /// Reads `rules[*]` of a role.
    pub fn from_value(value: &Value) -> Self {
        let texts = |key: &str| -> Vec<String> {
            value
                .get(key)
                .and_then(Value::as_array)
                .map(|all| all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
                .unwrap_or_default()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    /// All rules of a role.
    pub fn all_of(role: &Value) -> Vec<Self> {
        role.get("rules")
            .and_then(Value::as_array)
            .map(|rules| rules.iter().map(Self::from_value).collect())
            .unwrap_or_default()
    }

    /// As a `PolicyRule`.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        for (key, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ] {
            if !list.is_empty() {
                out[key] = json!(list);
            }
        }
        out
    }

    fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == "*" || v == verb)
    }

    /// Whether the rule allows `verb` on `target`.
    pub fn allows(&self, verb: &str, target: Target<'_>) -> bool {
        match target {
            Target::Resource(resource) => self.has_verb(verb) && self.covers(&resource),
            Target::Path(path) => self.has_verb(verb) && self.paths.iter().any(|p| path_matches(p, path)),
        }
    }

    fn covers(&self, target: &ResourceTarget<'_>) -> bool {
        self.groups.iter().any(|g| g == "*" || g == target.group)
            && self.resources.iter().any(|r| resource_matches(r, target.resource, target.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| n == target.name))
    }
}

/// `pods`, `pods/log`, `*/log` and `*` against a resource and its subresource.
pub fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((r, s)) => s == subresource && (r == "*" || r == resource),
        None => false,
    }
}

/// A `nonResourceURLs` entry against a path.
pub fn path_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// Whom a binding binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

impl Subject {
    fn from_value(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = value.get("name")?.as_str()?.to_owned();
        match value.get("kind")?.as_str()? {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let namespace = value
                    .get("namespace")
                    .and_then(Value::as_str)
                    .filter(|ns| !ns.is_empty())
                    .unwrap_or(binding_namespace);
                (!namespace.is_empty()).then(|| Self::User(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")))
            }
            _ => None,
        }
    }
}

/// Namespace (empty for cluster scope) and name of a role or binding.
type Key = (String, String);

#[derive(Clone, Debug)]
struct Binding {
    subjects: Vec<Subject>,
    /// The role: namespace (empty for a ClusterRole) and name.
    role: Key,
}

#[derive(Default)]
struct Policy {
    roles: HashMap<Key, Arc<[Rule]>>,
    bindings: HashMap<Key, Binding>,
    /// (namespace of the binding, subject) → bindings.
    index: HashMap<(String, Subject), HashSet<Key>>,
}

impl Policy {
    fn remove_binding(&mut self, key: &Key) {
        if let Some(old) = self.bindings.remove(key) {
            for subject in old.subjects {
                let at = (key.0.clone(), subject);
                if let Some(set) = self.index.get_mut(&at) {
                    set.remove(key);
                    if set.is_empty() {
                        self.index.remove(&at);
                    }
                }
            }
        }
    }

    fn visit(&self, user: &UserInfo, namespace: &str, mut visit: impl FnMut(&Key, &Key, &Rule) -> bool) {
        let mut subjects: Vec<Subject> = Vec::with_capacity(user.groups.len() + 1);
        subjects.push(Subject::User(user.name.clone()));
        subjects.extend(user.groups.iter().cloned().map(Subject::Group));
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for scope in scopes {
            for subject in &subjects {
                let Some(keys) = self.index.get(&((*scope).to_owned(), subject.clone())) else { continue };
                for key in keys {
                    let Some(binding) = self.bindings.get(key) else { continue };
                    let Some(rules) = self.roles.get(&binding.role) else { continue };
                    for rule in rules.iter() {
                        if !visit(key, &binding.role, rule) {
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// The compiled policy.
#[derive(Default)]
pub struct Rbac {
    policy: RwLock<Policy>,
}

/// Which of the four RBAC resources an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// `roles` and `clusterroles`.
    Role,
    /// `rolebindings` and `clusterrolebindings`.
    Binding,
}

impl PolicyKind {
    /// By plural name.
    pub fn of(resource: &str) -> Option<Self> {
        match resource {
            "roles" | "clusterroles" => Some(Self::Role),
            "rolebindings" | "clusterrolebindings" => Some(Self::Binding),
            _ => None,
        }
    }
}

impl Rbac {
    /// Takes in a created or changed object.
    pub fn put(&self, kind: PolicyKind, namespace: &str, name: &str, object: &Value) {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            PolicyKind::Role => {
                let rules = Rule::all_of(object).into();
                self.policy.write().roles.insert(key, rules);
            }
            PolicyKind::Binding => {
                let subjects: Vec<Subject> = object
                    .get("subjects")
                    .and_then(Value::as_array)
                    .map(|all| all.iter().filter_map(|s| Subject::from_value(s, namespace)).collect())
                    .unwrap_or_default();
                let role_name = object.pointer("/roleRef/name").and_then(Value::as_str).unwrap_or_default();
                let is_role = object.pointer("/roleRef/kind").and_then(Value::as_str) == Some("Role");
                let role = (if is_role { namespace.to_owned() } else { String::new() }, role_name.to_owned());
                let mut policy = self.policy.write();
                policy.remove_binding(&key);
                for subject in &subjects {
                    policy.index.entry((namespace.to_owned(), subject.clone())).or_default().insert(key.clone());
                }
                policy.bindings.insert(key, Binding { subjects, role });
            }
        }
    }

    /// Takes out a deleted object.
    pub fn remove(&self, kind: PolicyKind, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut policy = self.policy.write();
        match kind {
            PolicyKind::Role => {
                policy.roles.remove(&key);
            }
            PolicyKind::Binding => policy.remove_binding(&key),
        }
    }

    /// Namespace and name of every known object, namespaced or not.
    pub fn names(&self, kind: PolicyKind, namespaced: bool) -> Vec<(String, String)> {
        let policy = self.policy.read();
        let keep = |key: &&Key| key.0.is_empty() != namespaced;
        match kind {
            PolicyKind::Role => policy.roles.keys().filter(keep).cloned().collect(),
            PolicyKind::Binding => policy.bindings.keys().filter(keep).cloned().collect(),
        }
    }

    /// Decides. Never denies: what no rule allows is left without opinion.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let namespace = match attributes.target {
            Target::Resource(r) => r.namespace,
            Target::Path(_) => "",
        };
        let mut reason = None;
        self.policy.read().visit(attributes.user, namespace, |binding, role, rule| {
            if rule.allows(attributes.verb, attributes.target) {
                reason = Some(describe(binding, role));
                return false;
            }
            true
        });
        match reason {
            Some(reason) => Decision::Allowed(reason),
            None => Decision::NoOpinion(String::new()),
        }
    }

    /// All rules that hold for `user` in `namespace` (cluster-wide ones included).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut seen = HashSet::new();
        let mut rules = vec![];
        self.policy.read().visit(user, namespace, |_, _, rule| {
            if seen.insert(rule.clone()) {
                rules.push(rule.clone());
            }
            true
        });
        rules
    }

    /// The rules of a role; namespace empty for a ClusterRole. `None` when there is no such role.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.policy.read().roles.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

fn describe(binding: &Key, role: &Key) -> String {
    let role_kind = if role.0.is_empty() { "ClusterRole" } else { "Role" };
    if binding.0.is_empty() {
        format!("RBAC: allowed by ClusterRoleBinding {:?} of {role_kind} {:?}", binding.1, role.1)
    } else {
        format!("RBAC: allowed by RoleBinding \"{}/{}\" of {role_kind} {:?}", binding.1, binding.0, role.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rbac() -> Rbac {
        let rbac = Rbac::default();
        let role = json!({"rules": [
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
            {"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["update"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["*"]},
            {"nonResourceURLs": ["/logs/*", "/healthz"], "verbs": ["get"]},
        ]});
        rbac.put(PolicyKind::Role, "", "reader", &role);
        rbac.put(
            PolicyKind::Role,
            "ns",
            "reader",
            &json!({"rules": [
            {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}]}),
        );
        rbac.put(
            PolicyKind::Binding,
            "",
            "all",
            &json!({
            "subjects": [{"kind": "Group", "name": "readers"}], "roleRef": {"kind": "ClusterRole", "name": "reader"}}),
        );
        rbac.put(
            PolicyKind::Binding,
            "ns",
            "one",
            &json!({
            "subjects": [{"kind": "ServiceAccount", "name": "sa"}, {"kind": "User", "name": "jane"}],
            "roleRef": {"kind": "Role", "name": "reader"}}),
        );
        rbac.put(
            PolicyKind::Binding,
            "ns",
            "two",
            &json!({
            "subjects": [{"kind": "User", "name": "joe"}], "roleRef": {"kind": "ClusterRole", "name": "reader"}}),
        );
        rbac
    }

    #[test]
    fn decisions() {
        let rbac = rbac();
        let reader = UserInfo::new("r", &["readers"]);
        let jane = UserInfo::new("jane", &[]);
        let sa = UserInfo::new("system:serviceaccount:ns:sa", &[]);
        let joe = UserInfo::new("joe", &[]);
        // user, verb, group, namespace, resource, subresource, name, allowed
        let table: &[(&UserInfo, [&str; 6], bool)] = &[
            (&reader, ["get", "", "any", "pods", "", "p"], true),
            (&reader, ["get", "", "any", "pods", "log", "p"], true),
            (&reader, ["get", "", "any", "pods", "exec", "p"], false),
            (&reader, ["delete", "", "any", "pods", "", "p"], false),
            (&reader, ["list", "apps", "", "pods", "", ""], false),
            (&reader, ["update", "apps", "x", "deployments", "scale", "d"], true),
            (&reader, ["update", "apps", "x", "deployments", "", "d"], false),
            (&reader, ["delete", "", "x", "secrets", "", "one"], true),
            (&reader, ["delete", "", "x", "secrets", "", "two"], false),
            (&reader, ["list", "", "x", "secrets", "", ""], false),
            (&jane, ["delete", "apps", "ns", "deployments", "status", "d"], true),
            (&jane, ["delete", "apps", "other", "deployments", "", "d"], false),
            (&jane, ["list", "apps", "", "deployments", "", ""], false),
            (&sa, ["create", "apps", "ns", "deployments", "", ""], true),
            (&joe, ["list", "", "ns", "pods", "", ""], true),
            (&joe, ["list", "", "other", "pods", "", ""], false),
        ];
        for (user, [verb, group, namespace, resource, subresource, name], allowed) in table {
            let target =
                Target::Resource(ResourceTarget { group, version: "v1", namespace, resource, subresource, name });
            let attributes = Attributes { user, verb, target };
            assert_eq!(rbac.authorize(&attributes).allowed(), *allowed, "{} {attributes:?}", user.name);
        }
        for (path, allowed) in [("/logs/x", true), ("/healthz", true), ("/healthz/x", false), ("/metrics", false)] {
            let attributes = Attributes { user: &reader, verb: "get", target: Target::Path(path) };
            assert_eq!(rbac.authorize(&attributes).allowed(), allowed, "{path}");
        }
    }

    #[test]
    fn removing_takes_effect() {
        let rbac = rbac();
        let jane = UserInfo::new("jane", &[]);
        assert_eq!(rbac.rules_for(&jane, "ns").len(), 1);
        rbac.remove(PolicyKind::Binding, "ns", "one");
        assert!(rbac.rules_for(&jane, "ns").is_empty());
    }
}
