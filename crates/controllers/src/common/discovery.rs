//! What resources the server has, for the controllers that work on all of them.

use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};

/// One kind of resource, in the version that its group prefers.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Group, version, kind and plural.
    pub api: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The verbs it understands.
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether it understands a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Access to its objects in a namespace, or to all objects of a cluster-wide resource.
    pub fn objects(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.api)
        } else {
            Api::all_with(client.clone(), &self.api)
        }
    }

    /// `plural` or `plural.group`.
    pub fn display(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }
}

/// What discovery found, and the groups whose servers did not answer.
#[derive(Clone, Debug, Default)]
pub struct Discovered {
    /// Every resource once.
    pub resources: Vec<Resource>,
    /// `group/version: why` of those that could not be asked.
    pub failed: Vec<String>,
}

/// Asks the server for all its resources.
///
/// # Errors
/// When discovery itself cannot be read.
pub async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    let mut found = Discovered::default();
    for group in core.items.into_iter().chain(groups.items) {
        let group_name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        let mut seen: Vec<String> = vec![];
        for version in group.versions {
            let version_name = version.version.unwrap_or_default();
            if version.freshness.as_deref() == Some("Stale") {
                found.failed.push(format!("{group_name}/{version_name}: stale GroupVersion discovery"));
            }
            for r in version.resources {
                let (Some(plural), Some(kind)) = (r.resource, r.response_kind.and_then(|k| k.kind)) else { continue };
                // Versions come in the group's order of preference: the first that has the resource is the one.
                if seen.contains(&plural) {
                    continue;
                }
                seen.push(plural.clone());
                let gvk = GroupVersionKind::gvk(&group_name, &version_name, &kind);
                found.resources.push(Resource {
                    api: ApiResource::from_gvk_with_plural(&gvk, &plural),
                    namespaced: r.scope.as_deref() == Some("Namespaced"),
                    verbs: r.verbs,
                });
            }
        }
    }
    Ok(found)
}
