//! `matchConstraints`, `matchResources` and webhooks' `rules`: which requests are meant.

use crate::admission::{Operation, Request};
use caravel_api::kinds::{Kind, KindTable};
use caravel_api::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;

/// A rule of resources and operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let all = value.get(field).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    /// Reads `resourceRules[*]` or a webhook's `rules[*]`.
    pub fn from_value(value: &Value) -> Self {
        Self {
            operations: texts(value, "operations"),
            groups: texts(value, "apiGroups"),
            versions: texts(value, "apiVersions"),
            resources: texts(value, "resources"),
            names: texts(value, "resourceNames"),
            scope: value.get("scope").and_then(Value::as_str).unwrap_or("*").to_owned(),
        }
    }

    /// All rules of a list.
    pub fn all_of(list: Option<&Value>) -> Vec<Self> {
        list.and_then(Value::as_array).into_iter().flatten().map(Self::from_value).collect()
    }

    /// The groups, versions and resources, when none is a wildcard.
    pub fn concrete(&self) -> Option<(&[String], &[String], &[String])> {
        let plain = |list: &[String]| !list.is_empty() && list.iter().all(|s| !s.contains('*'));
        (plain(&self.groups) && plain(&self.versions) && plain(&self.resources)).then_some((
            &*self.groups,
            &*self.versions,
            &*self.resources,
        ))
    }

    /// Whether the rule means this operation on this kind.
    pub fn matches(&self, operation: Operation, kind: &Kind, subresource: &str, name: &str) -> bool {
        let scope = match self.scope.as_str() {
            "Namespaced" => kind.namespaced,
            "Cluster" => !kind.namespaced,
            _ => true,
        };
        scope
            && any(&self.operations, operation.name())
            && any(&self.groups, &kind.group)
            && any(&self.versions, &kind.version)
            && (self.names.is_empty() || self.names.iter().any(|n| n == name))
            && self.resources.iter().any(|resource| {
                let (main, sub) = resource.split_once('/').unwrap_or((resource, ""));
                (main == "*" || main == kind.plural) && (sub == subresource || (sub == "*" && resource.contains('/')))
            })
    }
}

/// Which requests are meant.
#[derive(Clone, Debug)]
pub struct MatchResources {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    equivalent: bool,
    /// A binding without rules leaves the policy's own choice as it is.
    everything: bool,
}

impl MatchResources {
    /// Reads `matchConstraints` (of a policy) or `matchResources` (of a binding, which may leave the rules out).
    ///
    /// # Errors
    /// A selector that cannot be read.
    pub fn from_value(value: &Value, binding: bool) -> Result<Self, String> {
        let selector = |field: &str| {
            let said = value.get(field).filter(|v| !v.is_null());
            match said {
                Some(said) => LabelSelector::from_value(Some(said)).map_err(|e| e.to_string()),
                None => Ok(LabelSelector::everything()),
            }
        };
        let rules = Rule::all_of(value.get("resourceRules"));
        Ok(Self {
            everything: binding && rules.is_empty(),
            rules,
            excluded: Rule::all_of(value.get("excludeResourceRules")),
            namespaces: selector("namespaceSelector")?,
            objects: selector("objectSelector")?,
            equivalent: value.get("matchPolicy").and_then(Value::as_str) != Some("Exact"),
        })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The kind as which the request is meant: its own, or (matchPolicy Equivalent) another version of it.
    pub fn matches(&self, request: &Request, kinds: &KindTable, namespace: Option<&Value>) -> Option<Arc<Kind>> {
        if !self.selects(request, namespace) {
            return None;
        }
        let meant = |rules: &[Rule], kind: &Kind| {
            rules.iter().any(|r| r.matches(request.operation, kind, &request.subresource, &request.name))
        };
        if meant(&self.excluded, &request.kind) {
            return None;
        }
        if self.everything || meant(&self.rules, &request.kind) {
            return Some(request.kind.clone());
        }
        if !self.equivalent {
            return None;
        }
        kinds
            .versions(&request.kind.group, &request.kind.plural)
            .find(|k| k.version != request.kind.version && meant(&self.rules, k))
            .cloned()
    }

    fn selects(&self, request: &Request, namespace: Option<&Value>) -> bool {
        if !self.namespaces.is_everything() {
            let is_namespace = request.kind.group.is_empty() && request.kind.plural == "namespaces";
            let holder = if is_namespace { request.object.as_ref().or(request.old.as_ref()) } else { namespace };
            match holder {
                Some(holder) if !self.namespaces.matches_object(holder) => return false,
                // What is in no namespace is not selected by one.
                _ => {}
            }
        }
        self.objects.is_everything()
            || [&request.object, &request.old].into_iter().flatten().any(|o| self.objects.matches_object(o))
    }
}
