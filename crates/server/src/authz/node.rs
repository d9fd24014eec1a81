//! The Node authorizer: a node may read what Pods bound to it refer to, and no more of it (KEP-279).
//!
//! The graph is an index from node to the Pods bound to it with what they refer to, kept by the store's watch. RBAC gives
//! nodes the rest of their rights through the role `system:node`, whose rules are consulted here, as the role has no subjects.

use super::{Attributes, Decision, ResourceTarget, Target};
use crate::authz::rbac::Rule;
use crate::bootstrap::policy;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// What one Pod refers to in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    secrets: HashSet<String>,
    config_maps: HashSet<String>,
    claims: HashSet<String>,
    resource_claims: HashSet<String>,
    service_account: String,
}

impl References {
    /// Collects the references of a Pod, given its name, specification and status.
    pub fn of(name: &str, pod: &Value) -> Self {
        let mut out = Self::default();
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        collect(spec, &mut out);
        let volumes = spec.get("volumes").and_then(Value::as_array);
        for volume in volumes.into_iter().flatten() {
            if volume.get("ephemeral").is_some()
                && let Some(volume) = volume.get("name").and_then(Value::as_str)
            {
                out.claims.insert(format!("{name}-{volume}"));
            }
        }
        if let Some(account) = spec.get("serviceAccountName").and_then(Value::as_str) {
            out.service_account = account.to_owned();
        }
        for pointer in ["/spec/resourceClaims", "/status/resourceClaimStatuses"] {
            let claims = pod.pointer(pointer).and_then(Value::as_array);
            out.resource_claims.extend(
                claims
                    .into_iter()
                    .flatten()
                    .filter_map(|c| c.get("resourceClaimName").and_then(Value::as_str).map(str::to_owned)),
            );
        }
        let extended = pod.pointer("/status/extendedResourceClaimStatus/resourceClaimName").and_then(Value::as_str);
        out.resource_claims.extend(extended.map(str::to_owned));
        out
    }
}

/// Finds `secretRef`, `configMapKeyRef` and their kin wherever they stand in a spec.
fn collect(value: &Value, out: &mut References) {
    match value {
        Value::Array(all) => all.iter().for_each(|v| collect(v, out)),
        Value::Object(map) => {
            for (key, value) in map {
                let name = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
                match key.as_str() {
                    "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => out.secrets.extend(name("name")),
                    "configMapRef" | "configMapKeyRef" => out.config_maps.extend(name("name")),
                    "configMap" => out.config_maps.extend(name("name")),
                    "secret" => out.secrets.extend(name("secretName").or_else(|| name("name"))),
                    "imagePullSecrets" => {
                        let all = value.as_array().into_iter().flatten();
                        out.secrets
                            .extend(all.filter_map(|r| r.get("name").and_then(Value::as_str).map(str::to_owned)));
                    }
                    "azureFile" => out.secrets.extend(name("secretName")),
                    "persistentVolumeClaim" => out.claims.extend(name("claimName")),
                    _ => {}
                }
                collect(value, out);
            }
        }
        _ => {}
    }
}

#[derive(Default)]
struct Graph {
    /// Pod (namespace, name) → its node.
    nodes: HashMap<(String, String), String>,
    /// Node → namespace → Pod → references.
    pods: HashMap<String, HashMap<String, HashMap<String, References>>>,
}

impl Graph {
    fn remove(&mut self, namespace: &str, name: &str) {
        let Some(node) = self.nodes.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        if let Some(by_namespace) = self.pods.get_mut(&node) {
            if let Some(pods) = by_namespace.get_mut(namespace) {
                pods.remove(name);
                if pods.is_empty() {
                    by_namespace.remove(namespace);
                }
            }
            if by_namespace.is_empty() {
                self.pods.remove(&node);
            }
        }
    }
}

/// Which node may see what.
#[derive(Default)]
pub struct NodeGraph {
    graph: RwLock<Graph>,
}

impl NodeGraph {
    /// Takes in a created or changed Pod, of which `spec` and `status` are looked at.
    pub fn put(&self, namespace: &str, name: &str, pod: &Value) {
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        let mut graph = self.graph.write();
        graph.remove(namespace, name);
        if node.is_empty() {
            return;
        }
        graph.nodes.insert((namespace.to_owned(), name.to_owned()), node.to_owned());
        graph
            .pods
            .entry(node.to_owned())
            .or_default()
            .entry(namespace.to_owned())
            .or_default()
            .insert(name.to_owned(), References::of(name, pod));
    }

    /// Takes out a deleted Pod.
    pub fn remove(&self, namespace: &str, name: &str) {
        self.graph.write().remove(namespace, name);
    }

    /// Namespace and name of every known Pod.
    pub fn names(&self) -> Vec<(String, String)> {
        self.graph.read().nodes.keys().cloned().collect()
    }

    fn any(&self, node: &str, namespace: &str, test: impl Fn(&References) -> bool) -> bool {
        let graph = self.graph.read();
        graph
            .pods
            .get(node)
            .and_then(|by_namespace| by_namespace.get(namespace))
            .is_some_and(|pods| pods.values().any(test))
    }

    /// Decides for nodes; has no opinion on anybody else.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = attributes.user.node_name() else { return Decision::NoOpinion(String::new()) };
        if let Target::Resource(target) = attributes.target
            && let Some(decision) = self.guarded(node, attributes.verb, &target)
        {
            return decision;
        }
        if node_rules().iter().any(|rule| rule.allows(attributes.verb, attributes.target)) {
            return Decision::Allowed(String::new());
        }
        Decision::NoOpinion(String::new())
    }

    /// The resources of which a node sees only its own; `None` for all others.
    fn guarded(&self, node: &str, verb: &str, target: &ResourceTarget<'_>) -> Option<Decision> {
        let related = |yes: bool| {
            if yes {
                Decision::Allowed(String::new())
            } else {
                Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
            }
        };
        let no = |why: &str| Decision::NoOpinion(why.to_owned());
        let reads = matches!(verb, "get" | "list" | "watch");
        let ns = target.namespace;
        match (target.group, target.resource, target.subresource) {
            ("", "secrets" | "configmaps", "") => {
                if !reads {
                    return Some(no("can only read resources of this type"));
                }
                // Lists and watches are for one named object: metadata.name in the field selector.
                if target.name.is_empty() {
                    return Some(no("can only read namespaced object of this type"));
                }
                let secret = target.resource == "secrets";
                Some(related(self.any(node, ns, |r| {
                    if secret { r.secrets.contains(target.name) } else { r.config_maps.contains(target.name) }
                })))
            }
            ("", "persistentvolumeclaims", "" | "status") => {
                let allowed_verb = match target.subresource {
                    "" => verb == "get",
                    _ => matches!(verb, "get" | "update" | "patch"),
                };
                if !allowed_verb {
                    return Some(no("can only get individual resources of this type"));
                }
                Some(related(self.any(node, ns, |r| r.claims.contains(target.name))))
            }
            ("resource.k8s.io", "resourceclaims", "") => {
                if verb != "get" {
                    return Some(no("can only get individual resources of this type"));
                }
                Some(related(self.any(node, ns, |r| r.resource_claims.contains(target.name))))
            }
            ("", "serviceaccounts", "token") => {
                if verb != "create" {
                    return Some(no("only the create verb is allowed on serviceaccounts/token"));
                }
                Some(related(self.any(node, ns, |r| r.service_account == target.name)))
            }
            ("", "serviceaccounts", "") => {
                if verb != "get" {
                    return Some(no("can only get individual resources of this type"));
                }
                Some(related(self.any(node, ns, |r| r.service_account == target.name)))
            }
            ("coordination.k8s.io", "leases", "") => {
                if ns != "kube-node-lease" {
                    return Some(no("can only access leases in the \"kube-node-lease\" system namespace"));
                }
                match verb {
                    "create" => Some(related(target.name.is_empty() || target.name == node)),
                    "get" | "update" | "patch" | "delete" => {
                        if target.name == node {
                            Some(Decision::Allowed(String::new()))
                        } else {
                            Some(no("can only access node lease with the same name as the requesting node"))
                        }
                    }
                    _ => Some(no("can only get, create, update, patch, or delete a node lease")),
                }
            }
            ("storage.k8s.io", "csinodes", "") => match verb {
                "create" => Some(Decision::Allowed(String::new())),
                "get" | "update" | "patch" | "delete" if target.name == node => Some(Decision::Allowed(String::new())),
                _ => Some(no("can only access CSINode with the same name as the requesting node")),
            },
            _ => None,
        }
    }
}

/// The rules of the role `system:node`.
fn node_rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| {
        policy::objects()
            .iter()
            .find(|o| o.object.pointer("/metadata/name").and_then(Value::as_str) == Some("system:node"))
            .map(|o| Rule::all_of(&o.object))
            .unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;
    use serde_json::json;

    #[test]
    fn a_node_sees_what_its_pods_refer_to() {
        let graph = NodeGraph::default();
        graph.put("ns", "p", &json!({"spec": {
            "nodeName": "n1", "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}], "envFrom": [{"configMapRef": {"name": "cm"}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "vol"}}, {"name": "b", "projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "root"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "pvc"}}, {"name": "d", "ephemeral": {}}],
            "resourceClaims": [{"name": "x", "resourceClaimName": "given"}, {"name": "y", "resourceClaimTemplateName": "t"}],
        }, "status": {"resourceClaimStatuses": [{"name": "y", "resourceClaimName": "made"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "special", "requestMappings": []}}}));
        let n1 = UserInfo::new("system:node:n1", &["system:nodes"]);
        let n2 = UserInfo::new("system:node:n2", &["system:nodes"]);
        let ask = |user: &UserInfo,
                   verb: &str,
                   group: &str,
                   resource: &str,
                   subresource: &str,
                   ns: &str,
                   name: &str| {
            let target =
                Target::Resource(ResourceTarget { group, version: "v1", namespace: ns, resource, subresource, name });
            graph.authorize(&Attributes { user, verb, target }).allowed()
        };
        for secret in ["pull", "env", "vol", "proj"] {
            assert!(ask(&n1, "get", "", "secrets", "", "ns", secret), "{secret}");
            assert!(!ask(&n2, "get", "", "secrets", "", "ns", secret));
            assert!(!ask(&n1, "get", "", "secrets", "", "other", secret));
            assert!(!ask(&n1, "update", "", "secrets", "", "ns", secret));
        }
        assert!(!ask(&n1, "list", "", "secrets", "", "ns", ""));
        assert!(ask(&n1, "watch", "", "configmaps", "", "ns", "cm"));
        assert!(ask(&n1, "get", "", "configmaps", "", "ns", "root"));
        for claim in ["pvc", "p-d"] {
            assert!(ask(&n1, "get", "", "persistentvolumeclaims", "", "ns", claim));
        }
        for claim in ["given", "made", "special"] {
            assert!(ask(&n1, "get", "resource.k8s.io", "resourceclaims", "", "ns", claim), "{claim}");
            assert!(!ask(&n2, "get", "resource.k8s.io", "resourceclaims", "", "ns", claim), "{claim}");
            assert!(!ask(&n1, "update", "resource.k8s.io", "resourceclaims", "", "ns", claim), "{claim}");
        }
        assert!(ask(&n1, "create", "", "serviceaccounts", "token", "ns", "sa"));
        assert!(!ask(&n1, "create", "", "serviceaccounts", "token", "ns", "other"));
        assert!(ask(&n1, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"));
        assert!(!ask(&n1, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2"));
        assert!(ask(&n1, "list", "", "pods", "", "", ""));
        assert!(ask(&n1, "patch", "", "nodes", "status", "", "n1"));
        assert!(!ask(&n1, "create", "apps", "deployments", "", "ns", ""));
        graph.remove("ns", "p");
        assert!(!ask(&n1, "get", "", "secrets", "", "ns", "vol"));
    }
}
