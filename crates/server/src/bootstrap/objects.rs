//! The objects that every cluster has: system namespaces, RBAC, priority classes, flow schemas, the service range, and the
//! `kubernetes` Service with its endpoints. Written at every start, where they are missing or differ in what is ours.

use super::{flow_objects, policy, policy_watch};
use crate::authn::UserInfo;
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry, services};
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use futures::future::try_join_all;
use serde_json::{Value, json};
use std::sync::Arc;

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

struct Writer<'a> {
    registry: &'a Arc<Registry>,
    call: Call,
}

/// How a present object becomes what it must be; `None` when it is.
type Mend = fn(&Value, &Value) -> Option<Value>;

impl Writer<'_> {
    /// Makes sure that `object` exists and, by `mend`, is as it must be.
    async fn ensure(&self, group: &str, plural: &str, object: Value, mend: Mend) -> Result<(), ApiError> {
        let kind = self.registry.row(group, plural)?;
        let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        let options = WriteOptions::default();
        for _ in 0..5 {
            let present = self.registry.object(group, plural, &namespace, &name).await?;
            let Some(present) = present else {
                let made = self.registry.create(&self.call, &kind, &namespace, &name, object.clone(), &options).await;
                match made {
                    Err(error) if error.reason == "AlreadyExists" => continue,
                    other => return other.map(|_| ()),
                }
            };
            let Some(next) = mend(&present, &object) else { return Ok(()) };
            match self.replace(&kind, &namespace, &name, next).await {
                Err(error) if error.reason == "Conflict" => {}
                other => return other,
            }
        }
        Err(ApiError::server_timeout(group, plural, "update", 1))
    }

    async fn replace(&self, kind: &Arc<Kind>, namespace: &str, name: &str, object: Value) -> Result<(), ApiError> {
        let options = WriteOptions::default();
        let update =
            Update { kind, namespace, name, subresource: "", change: Change::Replace(object), options: &options };
        self.registry.update(&self.call, update).await.map(|_| ())
    }
}

fn keep(_: &Value, _: &Value) -> Option<Value> {
    None
}

/// Puts the wanted top-level fields (other than metadata and status) into the present object.
fn overwrite(present: &Value, wanted: &Value) -> Option<Value> {
    let mut next = present.clone();
    let fields = wanted.as_object()?.iter();
    for (field, value) in fields.filter(|(f, _)| !matches!(f.as_str(), "metadata" | "status" | "kind" | "apiVersion")) {
        next[field.as_str()] = value.clone();
    }
    (next != *present).then_some(next)
}

/// As [`overwrite`], unless the administrator has taken the object over.
fn overwrite_automatic(present: &Value, wanted: &Value) -> Option<Value> {
    let automatic = meta::annotation(present, "apf.kubernetes.io/autoupdate-spec") != Some("false");
    if automatic { overwrite(present, wanted) } else { None }
}

/// The `kubernetes` Service keeps what others added (labels, addresses), its ports are ours.
fn mend_service(present: &Value, wanted: &Value) -> Option<Value> {
    let mut next = present.clone();
    next["spec"]["ports"] = wanted["spec"]["ports"].clone();
    (next != *present).then_some(next)
}

/// Writes everything.
pub async fn write(server: &Arc<Server>) -> Result<(), ApiError> {
    let user = Arc::new(UserInfo::system_masters("system:apiserver"));
    let writer = Writer { registry: &server.registry, call: Call::new(user, "kube-apiserver") };
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    try_join_all(NAMESPACES.map(|name| writer.ensure("", "namespaces", namespace(name), keep))).await?;
    let migrator = server.registry.row("storagemigration.k8s.io", "storageversionmigrations").ok();
    try_join_all(
        policy::objects()
            .into_iter()
            .chain(migrator.into_iter().flat_map(|_| policy::migrator()))
            .map(|o| writer.ensure("rbac.authorization.k8s.io", o.resource, o.object, policy::reconcile)),
    )
    .await?;
    policy_watch::refresh(server).await?;
    try_join_all(
        priority_classes().into_iter().map(|o| writer.ensure("scheduling.k8s.io", "priorityclasses", o, keep)),
    )
    .await?;
    let group = "flowcontrol.apiserver.k8s.io";
    try_join_all(
        flow_objects::levels()
            .into_iter()
            .map(|o| ("prioritylevelconfigurations", o))
            .chain(flow_objects::schemas().into_iter().map(|o| ("flowschemas", o)))
            .map(|(plural, o)| writer.ensure(group, plural, o, overwrite_automatic)),
    )
    .await?;
    writer.ensure("networking.k8s.io", "servicecidrs", service_range(server), keep).await?;
    mark_range_ready(server, &writer).await?;
    services::repair(&server.registry).await?;
    writer.ensure("", "services", kubernetes_service(server), mend_service).await?;
    endpoints(server, &writer).await?;
    writer.ensure("", "configmaps", authentication_map(server), overwrite).await
}

fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, text: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": text,
        })
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

fn service_range(server: &Server) -> Value {
    let cidrs: Vec<String> = server.registry.services.ranges().iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
    })
}

async fn mark_range_ready(server: &Arc<Server>, writer: &Writer<'_>) -> Result<(), ApiError> {
    let kind = server.registry.row("networking.k8s.io", "servicecidrs")?;
    let now = crate::clock::rfc3339_seconds(server.config.clock.now());
    let options = WriteOptions::default();
    let change = Change::With(Box::new(move |range: &mut Value| {
        let ready = range
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .is_some_and(|all| all.iter().any(|c| c.get("type").and_then(Value::as_str) == Some("Ready")));
        if !ready {
            range["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
                "message": "Kubernetes default Service CIDR is ready",
            }]);
        }
        Ok(())
    }));
    let update =
        Update { kind: &kind, namespace: "", name: "kubernetes", subresource: "status", change, options: &options };
    server.registry.update(&writer.call, update).await.map(|_| ())
}

fn kubernetes_service(server: &Server) -> Value {
    let ip = server.registry.services.ranges().first().map(|r| r.nth(0).to_string()).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": server.config.port}],
        },
    })
}

/// The endpoints of the `kubernetes` Service: this server. A loopback address is no endpoint (nobody else could reach it), so
/// a server that has no other one has none.
async fn endpoints(server: &Arc<Server>, writer: &Writer<'_>) -> Result<(), ApiError> {
    let address = server.config.advertise_address;
    if address.is_loopback() || address.is_unspecified() {
        return Ok(());
    }
    let ports = json!([{"name": "https", "port": server.config.port, "protocol": "TCP"}]);
    let subset = json!({"addresses": [{"ip": address.to_string()}], "ports": ports});
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [subset],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    writer.ensure("", "endpoints", endpoints, overwrite).await?;
    writer.ensure("discovery.k8s.io", "endpointslices", slice, overwrite).await
}

/// What extension servers read to know whose certificates and request headers to trust.
fn authentication_map(server: &Server) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": server.pki.ca.cert_pem(),
            "requestheader-client-ca-file": server.pki.front_proxy_ca.cert_pem(),
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        },
    })
}
