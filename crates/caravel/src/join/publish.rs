//! What the cluster publishes for nodes that want to join, written at every start.

use super::{ClusterSettings, INFO, SETTINGS, SETTINGS_KEY};
use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Field manager of these objects.
const MANAGER: &str = "caravel";
/// The group of all nodes.
const NODES: &str = "system:nodes";
/// The group of those who show a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// What is published.
pub struct Published {
    /// The API server's URL as other machines reach it.
    pub server: String,
    /// PEM of the cluster's authority.
    pub ca_pem: String,
    /// The cluster's settings.
    pub settings: ClusterSettings,
}

/// Writes the objects; tries until it succeeds or `stop`. Nothing of one machine depends on it.
pub async fn publish(client: kube::Client, what: Published, stop: CancellationToken) {
    let mut wait = Duration::from_millis(200);
    loop {
        match write(&client, &what).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "nodes cannot join yet"),
        }
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

async fn write(client: &kube::Client, what: &Published) -> Result<()> {
    for object in objects(what)? {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = version.split_once('/').unwrap_or(("", version.as_str()));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("{kind} {name}"))?;
    }
    Ok(())
}

fn objects(what: &Published) -> Result<Vec<Value>> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "", "cluster": {
            "server": what.server,
            "certificate-authority-data": super::bootstrap::base64(what.ca_pem.as_bytes()),
        }}],
        "contexts": [], "users": [], "current-context": "", "preferences": {},
    });
    let kubeconfig = serde_yaml::to_string(&kubeconfig)?;
    let settings = serde_json::to_string(&what.settings)?;
    let rbac = "rbac.authorization.k8s.io/v1";
    let role = |namespace: &str, name: &str, rules: Value| json!({"apiVersion": rbac, "kind": "Role", "metadata": {"namespace": namespace, "name": name}, "rules": rules});
    let bind = |namespace: Option<&str>, kind: &str, name: &str, groups: &[&str]| {
        let subjects: Vec<Value> = groups
            .iter()
            .map(|group| json!({"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}))
            .collect();
        let mut binding = json!({
            "apiVersion": rbac, "kind": format!("{kind}Binding"), "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": subjects,
        });
        if let Some(namespace) = namespace {
            binding["metadata"]["namespace"] = json!(namespace);
        }
        binding
    };
    let map = |(namespace, name): (&str, &str), data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": data});
    let read_map = |name: &str| json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}]);
    let read = json!(["get", "list", "watch"]);
    Ok(vec![
        map(INFO, json!({"kubeconfig": kubeconfig})),
        map(SETTINGS, json!({SETTINGS_KEY: settings})),
        role(INFO.0, "caravel:cluster-info", read_map(INFO.1)),
        bind(Some(INFO.0), "Role", "caravel:cluster-info", &["system:unauthenticated", "system:authenticated"]),
        role(SETTINGS.0, "caravel:node-settings", read_map(SETTINGS.1)),
        bind(Some(SETTINGS.0), "Role", "caravel:node-settings", &[NODES, BOOTSTRAPPERS]),
        // The network of a node: service proxy, DNS, routes and policies.
        json!({
            "apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "caravel:node-network"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "nodes", "namespaces", "pods"], "verbs": read},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
                {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
            ],
        }),
        bind(None, "ClusterRole", "caravel:node-network", &[NODES]),
        role(
            "kube-system",
            "caravel:node-dns",
            json!([
                {"apiGroups": [""], "resources": ["services"], "verbs": ["create"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["create", "patch"]},
            ]),
        ),
        bind(Some("kube-system"), "Role", "caravel:node-dns", &[NODES]),
    ])
}
