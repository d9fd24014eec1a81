//! Which requests a rule is about: shared by webhooks and admission policies.
//!
//! A rule names groups, versions, resources, operations and a scope. With `matchPolicy: Equivalent` a rule also meets a
//! request for the same objects in another version; the match then says in which version the object must be shown.

use super::{Operation, Request};
use crate::registry::Registry;
use caravel_api::kinds::{Gvk, Kind};
use caravel_api::selector::LabelSelector;
use caravel_api::status::ApiError;
use serde_json::Value;
use std::sync::Arc;

/// Group of webhook configurations and admission policies, whose objects no webhook and no policy may hold up.
const EXEMPT_GROUP: &str = "admissionregistration.k8s.io";

/// One entry of `rules` (or `resourceRules`).
#[derive(Clone, Debug, Default)]
pub struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    operations: Vec<String>,
    scope: String,
    names: Vec<String>,
}

impl Rule {
    /// From its JSON.
    pub fn of(rule: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            let all = rule.get(field).and_then(Value::as_array).into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            operations: texts("operations"),
            scope: rule.get("scope").and_then(Value::as_str).unwrap_or("*").to_owned(),
            names: texts("resourceNames"),
        }
    }

    fn matches(&self, request: &Request, kind: &Kind) -> bool {
        let among = |all: &[String], one: &str| all.iter().any(|each| each == "*" || each == one);
        among(&self.operations, request.operation.name())
            && among(&self.groups, &kind.group)
            && among(&self.versions, &kind.version)
            && self.is_in_scope(request)
            && self.resources.iter().any(|pattern| covers(pattern, &kind.plural, &request.subresource))
            && (self.names.is_empty() || self.names.contains(&request.name))
    }

    fn is_in_scope(&self, request: &Request) -> bool {
        // Requests for a namespace itself carry its name as their namespace, and are of the cluster all the same.
        let cluster = request.namespace.is_empty() || is_namespace(&request.kind);
        match self.scope.as_str() {
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => true,
        }
    }
}

/// Whether `pods`, `pods/status`, `*`, `*/scale`, `pods/*` or `*/*` covers a resource and subresource.
fn covers(pattern: &str, resource: &str, subresource: &str) -> bool {
    let (wanted, door) = pattern.split_once('/').unwrap_or((pattern, ""));
    (wanted == "*" || wanted == resource) && (door == "*" || door == subresource)
}

fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}

/// Rules, selectors and how strictly versions count.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Matcher {
    /// From a webhook (`rules`) or a policy's `matchConstraints` or `matchResources` (`resourceRules` and
    /// `excludeResourceRules`). An absent selector matches everything.
    ///
    /// # Errors
    /// A selector that is none, which validation lets nobody store.
    pub fn of(value: &Value) -> Result<Self, String> {
        let rules = |field: &str| -> Vec<Rule> {
            value.get(field).and_then(Value::as_array).into_iter().flatten().map(Rule::of).collect()
        };
        let selector = |field: &str| match value.get(field).filter(|v| !v.is_null()) {
            None => Ok(LabelSelector::everything()),
            some => LabelSelector::from_value(some).map_err(|e| e.0),
        };
        let mut all = rules("rules");
        all.extend(rules("resourceRules"));
        Ok(Self {
            rules: all,
            excluded: rules("excludeResourceRules"),
            equivalent: value.get("matchPolicy").and_then(Value::as_str) != Some("Exact"),
            namespaces: selector("namespaceSelector")?,
            objects: selector("objectSelector")?,
        })
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the request is matched; then the row in whose version the object must be shown.
    ///
    /// # Errors
    /// The namespace of the request is not there, or cannot be read.
    pub async fn matches(&self, request: &Request, registry: &Registry) -> Result<Option<Arc<Kind>>, ApiError> {
        if !self.objects.is_everything()
            && ![&request.object, &request.old].into_iter().flatten().any(|object| self.objects.matches_object(object))
        {
            return Ok(None);
        }
        let Some(kind) = self.by_rule(&self.rules, request, registry) else { return Ok(None) };
        if self.by_rule(&self.excluded, request, registry).is_some() {
            return Ok(None);
        }
        Ok(self.in_namespace(request, registry).await?.then_some(kind))
    }

    fn by_rule(&self, rules: &[Rule], request: &Request, registry: &Registry) -> Option<Arc<Kind>> {
        if rules.is_empty() {
            return None;
        }
        if rules.iter().any(|rule| rule.matches(request, &request.kind)) {
            return Some(request.kind.clone());
        }
        if !self.equivalent {
            return None;
        }
        let others = equivalents(registry, &request.kind);
        others.into_iter().find(|kind| rules.iter().any(|rule| rule.matches(request, kind)))
    }

    async fn in_namespace(&self, request: &Request, registry: &Registry) -> Result<bool, ApiError> {
        let itself = is_namespace(&request.kind);
        if self.namespaces.is_everything() || (request.namespace.is_empty() && !itself) {
            return Ok(true);
        }
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if itself && request.subresource.is_empty() && writes {
            return Ok(request.object.as_ref().is_some_and(|object| self.namespaces.matches_object(object)));
        }
        let name = if itself { &request.name } else { &request.namespace };
        let found = registry.object("", "namespaces", "", name).await?;
        let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        Ok(self.namespaces.matches_object(&found))
    }
}

/// The rows under which the same objects are served besides `kind`, in the order of their names.
fn equivalents(registry: &Registry, kind: &Kind) -> Vec<Arc<Kind>> {
    let kinds = registry.kinds();
    let same = |other: &Kind| {
        other.plural == kind.plural
            && other.storage_group == kind.storage_group
            && other.storage_version == kind.storage_version
            && (other.group != kind.group || other.version != kind.version)
    };
    kinds.iter().filter(|other| same(other)).cloned().collect()
}

/// Whether no webhook and no policy may be asked about the request: its own configuration must stay within reach, or a
/// broken one could not be mended.
pub fn is_exempt(request: &Request) -> bool {
    request.kind.group == EXEMPT_GROUP
}

/// The kind of the object that a request at this row and subresource carries: `Scale` for `scale` and so on.
pub fn kind_at(kind: &Kind, subresource: &str) -> Gvk {
    kind.subresource(subresource).map_or_else(|| kind.gvk(), |found| found.kind.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;
    use caravel_api::kinds::KindTable;
    use serde_json::json;

    fn request(group: &str, plural: &str, subresource: &str, namespace: &str) -> Request {
        Request {
            operation: Operation::Create,
            kind: KindTable::builtin().resource(group, "v1", plural).unwrap().clone(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: "x".into(),
            user: Arc::new(UserInfo::default()),
            dry_run: false,
            object: Some(json!({})),
            old: None,
            options: Value::Null,
            patch: false,
        }
    }

    #[test]
    fn rules() {
        let rule = |groups: &str, resources: &str, operations: &str, scope: &str| {
            Rule::of(&json!({
                "apiGroups": [groups], "apiVersions": ["v1"], "resources": [resources], "operations": [operations], "scope": scope,
            }))
        };
        let pod = request("", "pods", "", "ns");
        let status = request("", "pods", "status", "ns");
        let namespace = request("", "namespaces", "", "ns");
        for (rule, request, wanted) in [
            (rule("", "pods", "CREATE", "*"), &pod, true),
            (rule("", "*", "*", "Namespaced"), &pod, true),
            (rule("", "pods", "UPDATE", "*"), &pod, false),
            (rule("apps", "pods", "CREATE", "*"), &pod, false),
            (rule("*", "*", "*", "Cluster"), &pod, false),
            (rule("*", "*", "*", "*"), &status, false),
            (rule("*", "*/*", "*", "*"), &status, true),
            (rule("*", "*/status", "*", "*"), &status, true),
            (rule("*", "pods/*", "*", "*"), &status, true),
            (rule("*", "pods/exec", "*", "*"), &status, false),
            (rule("*", "*", "*", "Cluster"), &namespace, true),
            (rule("*", "*", "*", "Namespaced"), &namespace, false),
        ] {
            assert_eq!(rule.matches(request, &request.kind), wanted, "{rule:?} {}", request.kind.plural);
        }
    }
}
