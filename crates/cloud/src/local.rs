//! Load balancers without a cloud: the nodes' own addresses.
//!
//! A port of the nodes can belong to one Service only, so Services that want a taken one wait, and are told so by an Event. A
//! Service with a `loadBalancerClass` is somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Cluster, Key, ListSelector, Recorder, WorkQueue, object_ref, run_workers};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Nodes with this label are not offered to the outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A Service at this port of the nodes would lock their administrators out.
const SSH: i32 = 22;

/// A transport protocol with a port number.
pub type Port = (String, i32);

/// What a Service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These addresses; none when it wants none of us.
    Addresses(Vec<IpAddr>),
    /// Nothing, for this reason.
    Waits(String),
}

/// What is decided upon.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// All Services.
    pub services: Vec<Arc<Service>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Ports that the nodes themselves use.
    pub reserved: BTreeSet<Port>,
}

fn type_of(service: &Service) -> &str {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP")
}

fn class_of(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.load_balancer_class.as_deref()
}

fn present(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

fn wanted_ports(service: &Service) -> BTreeSet<Port> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports.map(|p| (p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.port)).collect()
}

/// The addresses at which the ready nodes are reached.
fn addresses(nodes: &[Arc<Node>]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = nodes.iter().filter(|n| is_offered(n)).filter_map(|n| internal_ip(n)).collect();
    all.sort();
    all
}

fn is_offered(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED));
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && !excluded && node.metadata.deletion_timestamp.is_none()
}

fn internal_ip(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()
}

/// Decides for every Service whose status is ours to write. Who has a port keeps it; then the older Service comes first.
pub fn plan(snapshot: &Snapshot) -> BTreeMap<String, Verdict> {
    let nodes = addresses(&snapshot.nodes);
    let mut verdicts = BTreeMap::new();
    let mut balanced: Vec<&Arc<Service>> = vec![];
    for service in &snapshot.services {
        let key = Key::of(service.as_ref()).to_string();
        match (type_of(service), class_of(service)) {
            ("LoadBalancer", None) if service.metadata.deletion_timestamp.is_none() => balanced.push(service),
            ("LoadBalancer", _) => {}
            _ if !present(service).is_empty() => {
                verdicts.insert(key, Verdict::Addresses(vec![]));
            }
            _ => {}
        }
    }
    balanced.sort_by_key(|s| {
        let created = s.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (present(s).is_empty(), created, Key::of(s.as_ref()).to_string())
    });
    let mut taken: BTreeMap<Port, String> =
        snapshot.reserved.iter().map(|p| (p.clone(), "the node itself".to_owned())).collect();
    for service in balanced {
        let key = Key::of(service.as_ref()).to_string();
        let ports = wanted_ports(service);
        let verdict = match ports.iter().find_map(|p| Some((p, taken.get(p)?))) {
            Some(((protocol, port), owner)) => {
                Verdict::Waits(format!("port {port}/{protocol} of the nodes is used by {owner}"))
            }
            None => {
                taken.extend(ports.into_iter().map(|p| (p, format!("Service {key}"))));
                Verdict::Addresses(nodes.clone())
            }
        };
        verdicts.insert(key, verdict);
    }
    verdicts
}

/// What of a node matters here; heartbeats do not.
fn relevant(node: &Node) -> (bool, Option<IpAddr>, Option<i32>) {
    (is_offered(node), internal_ip(node), kubelet_port(node))
}

fn kubelet_port(node: &Node) -> Option<i32> {
    Some(node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port)
}

/// Runs the controller until `stop`.
///
/// # Errors
/// Never by itself.
pub async fn run(cluster: Cluster, stop: CancellationToken) -> anyhow::Result<()> {
    let services = cluster.informer::<Service>();
    let nodes = cluster.informer::<Node>();
    let api_server = cluster.informer_with::<EndpointSlice>(ListSelector {
        namespace: Some("default".into()),
        fields: Some("metadata.name=kubernetes".into()),
        labels: None,
    });
    let recorder = cluster.recorder("local-load-balancer");
    // One key: every decision is about all Services together.
    let queue: WorkQueue<&'static str> = WorkQueue::new();
    let wake = queue.clone();
    services.on_change(move |change| match change {
        Change::Updated { old, new } if old.spec == new.spec && old.status == new.status => {}
        change if matters(change) => wake.add("all"),
        _ => {}
    });
    let wake = queue.clone();
    nodes.on_change(move |change| match change {
        Change::Updated { old, new } if relevant(old) == relevant(new) => {}
        _ => wake.add("all"),
    });
    services.synced().await;
    nodes.synced().await;
    api_server.synced().await;
    queue.add("all");
    let client = cluster.client();
    let work = run_workers(queue.clone(), 1, |_| {
        let mut reserved: BTreeSet<Port> =
            nodes.list().iter().filter_map(|n| kubelet_port(n)).map(|p| ("TCP".to_owned(), p)).collect();
        let ports = api_server.list();
        let ports = ports.iter().flat_map(|s| s.ports.iter().flatten()).filter_map(|p| p.port);
        reserved.extend(ports.chain([SSH]).map(|p| ("TCP".to_owned(), p)));
        let snapshot = Snapshot { services: services.list(), nodes: nodes.list(), reserved };
        let (client, recorder) = (client.clone(), recorder.clone());
        async move {
            let verdicts = plan(&snapshot);
            for service in &snapshot.services {
                if let Some(verdict) = verdicts.get(&Key::of(service.as_ref()).to_string()) {
                    apply(&client, &recorder, service, verdict).await?;
                }
            }
            Ok(None::<Duration>)
        }
    });
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => queue.shut_down(),
    }
    Ok(())
}

/// Whether a change can concern load balancers; most Services never do.
fn matters(change: &Change<Service>) -> bool {
    let concerned = |s: &Service| type_of(s) == "LoadBalancer" || !present(s).is_empty();
    match change {
        Change::Updated { old, new } => concerned(old) || concerned(new),
        other => concerned(other.object()),
    }
}

async fn apply(
    client: &kube::Client,
    recorder: &Recorder,
    service: &Service,
    verdict: &Verdict,
) -> Result<(), caravel_client::Error> {
    let wanted = match verdict {
        Verdict::Addresses(addresses) => addresses.as_slice(),
        Verdict::Waits(why) => {
            recorder.event(&object_ref(service), "Warning", "SyncLoadBalancerFailed", "EnsuringLoadBalancer", why);
            &[]
        }
    };
    if present(service) == wanted {
        return Ok(());
    }
    let key = Key::of(service);
    let ingress: Vec<_> = wanted.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    // An absent list, not an empty one, says that there is no balancer.
    let ingress = if ingress.is_empty() { json!(null) } else { json!(ingress) };
    let patch = json!({
        "metadata": {"uid": service.metadata.uid},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    let api: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
    match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other?,
    };
    if !wanted.is_empty() {
        recorder.event(
            &object_ref(service),
            "Normal",
            "EnsuredLoadBalancer",
            "EnsuringLoadBalancer",
            "Ensured load balancer",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    fn service(name: &str, created: u32, spec: Value, ingress: &[&str]) -> Arc<Service> {
        let ingress: Vec<_> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
                "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
            }))
            .unwrap(),
        )
    }

    fn node(name: &str, ip: &str, ready: &str, labels: Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": labels},
                "status": {"addresses": [{"type": "InternalIP", "address": ip}], "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    }

    fn balanced(port: i32) -> Value {
        json!({"type": "LoadBalancer", "ports": [{"port": port}]})
    }

    #[test]
    fn each_port_has_one_owner_and_every_ready_node_serves_it() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let snapshot = Snapshot {
            services: vec![
                service("late", 9, balanced(80), &[]),
                service("early", 1, balanced(80), &[]),
                service("udp", 2, json!({"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "UDP"}]}), &[]),
                service("api", 0, balanced(6443), &[]),
                service(
                    "other",
                    3,
                    json!({"type": "LoadBalancer", "loadBalancerClass": "x/y", "ports": [{"port": 81}]}),
                    &["192.0.2.9"],
                ),
                service("was", 4, json!({"type": "ClusterIP", "ports": [{"port": 82}]}), &["192.0.2.1"]),
                service("plain", 5, json!({"ports": [{"port": 83}]}), &[]),
            ],
            nodes: vec![
                node("b", "192.0.2.2", "True", json!({})),
                node("a", "192.0.2.1", "True", json!({})),
                node("c", "192.0.2.3", "False", json!({})),
                node("d", "192.0.2.4", "True", json!({EXCLUDED: ""})),
            ],
            reserved: BTreeSet::from([("TCP".to_owned(), 6443)]),
        };
        let verdicts = plan(&snapshot);
        let nodes = Verdict::Addresses(vec![ip("192.0.2.1"), ip("192.0.2.2")]);
        assert_eq!(verdicts.get("n/early"), Some(&nodes));
        assert_eq!(verdicts.get("n/udp"), Some(&nodes));
        assert!(matches!(verdicts.get("n/late"), Some(Verdict::Waits(why)) if why.contains("Service n/early")));
        assert!(matches!(verdicts.get("n/api"), Some(Verdict::Waits(why)) if why.contains("the node itself")));
        assert_eq!(verdicts.get("n/was"), Some(&Verdict::Addresses(vec![])));
        assert_eq!((verdicts.get("n/other"), verdicts.get("n/plain")), (None, None));
    }

    #[test]
    fn who_has_a_port_keeps_it() {
        let snapshot = Snapshot {
            services: vec![service("old", 1, balanced(80), &[]), service("new", 9, balanced(80), &["192.0.2.1"])],
            nodes: vec![node("a", "192.0.2.1", "True", json!({}))],
            reserved: BTreeSet::new(),
        };
        let verdicts = plan(&snapshot);
        assert!(matches!(verdicts.get("n/old"), Some(Verdict::Waits(_))));
        assert!(matches!(verdicts.get("n/new"), Some(Verdict::Addresses(all)) if all.len() == 1));
    }
}
