//! The Endpoints controller: the older API for the same facts, one object a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use super::model::{self, address_in, can_serve, headless, hostname, selects, target_port, target_ref};
use super::slices::HEADLESS;
use crate::common::*;
use crate::context::{Context, enqueue_each, record_on};

const WORKERS: usize = 5;
/// More addresses than this are cut off: the object would be too large for every watcher.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Objects with this annotation are locks of the old leader election and no endpoints.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    recorder: Recorder,
}

/// Runs the Endpoints controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        services: context.cluster.informer(),
        pods: context.pods(),
        endpoints: context.cluster.informer(),
        recorder: context.cluster.recorder("endpoint-controller"),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.services, &queue);
    super::wake_services_of_pods(&c.pods, &c.services, &queue);
    c.services.synced().await;
    c.pods.synced().await;
    c.endpoints.synced().await;
    // Those present at the start may be left over from services deleted meanwhile; later only losses matter.
    for e in c.endpoints.list().iter().filter(|e| annotation(&***e, LEADER).is_none()) {
        queue.add(Key::of(&**e));
    }
    let wake = queue.clone();
    let services = c.services.clone();
    c.endpoints.on_change(move |change| {
        let key = Key::of(&**change.object());
        let ours = services.get(&key).is_some_and(|s| model::has_endpoints(&s));
        if ours || matches!(change, Change::Deleted(_)) {
            wake.add(key);
        }
    });
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let api: Api<Endpoints> = Api::namespaced(self.context.client(), &key.namespace);
        let current = self.endpoints.get(&key);
        let Some(service) = self.services.get(&key) else {
            if current.is_some() {
                gone_is_fine(api.delete(&key.name, &DeleteParams::default()).await)?;
            }
            return Ok(None);
        };
        if !model::has_endpoints(&service) {
            return Ok(None);
        }
        let pods: Vec<Arc<Pod>> =
            self.pods.list_in(&key.namespace).into_iter().filter(|p| selects(&service, p)).collect();
        let Some(wanted) = plan(&service, &pods, current.as_deref()) else { return Ok(None) };
        let made = current.is_none();
        let result = if made {
            api.create(&PostParams::default(), &wanted).await
        } else {
            api.replace(&key.name, &PostParams::default(), &wanted).await
        };
        match result {
            Ok(_) => Ok(None),
            Err(e) if is_namespace_terminating(&e) => Ok(None),
            // It is there, and the informer will tell.
            Err(e) if made && is_already_exists(&e) => Ok(None),
            Err(e) => {
                let (reason, what) =
                    if made { ("FailedToCreateEndpoint", "create") } else { ("FailedToUpdateEndpoint", "update") };
                let note = format!("Failed to {what} endpoint {key}: {}", message_of(&e));
                record_on(&self.recorder, &*service, &[Event::warning(reason, note)]);
                Err(e.into())
            }
        }
    }
}

/// The Endpoints object to write, if it is not what stands.
fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let mut wanted_labels = labels(service).clone();
    wanted_labels.remove(HEADLESS);
    if headless(service) {
        wanted_labels.insert(HEADLESS.into(), String::new());
    }
    wanted_labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(wanted_labels);
    wanted.subsets = Some(subsets).filter(|s| !s.is_empty());
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    let empty = annotations.is_empty();
    if empty {
        wanted.metadata.annotations = None;
    }
    let same = current.is_some_and(|c| {
        c.metadata.labels == wanted.metadata.labels
            && c.metadata.annotations.as_ref().filter(|a| !a.is_empty()) == wanted.metadata.annotations.as_ref()
            && c.subsets.as_ref().filter(|s| !s.is_empty()) == wanted.subsets.as_ref()
    });
    (!same).then_some(wanted)
}

type Port = (String, i32, String, Option<String>);

/// One subset for each set of ports, its addresses sorted.
fn subsets(s: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = s.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let family = model::address_types(s).first().copied().unwrap_or("IPv4");
    let service_ports = spec.ports.unwrap_or_default();
    let mut by_ports: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for p in pods.iter().filter(|p| can_serve(p, publish)) {
        let Some(ip) = address_in(p, family) else { continue };
        let ports: BTreeSet<Port> = service_ports
            .iter()
            .filter_map(|sp| {
                let protocol = sp.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((sp.name.clone().unwrap_or_default(), target_port(p, sp)?, protocol, sp.app_protocol.clone()))
            })
            .collect();
        if ports.is_empty() && !(headless(s) && service_ports.is_empty()) {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(p, s),
            node_name: Some(pod::node_name(p).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(target_ref(p)),
        };
        let (ready, not_ready) = by_ports.entry(ports.into_iter().collect()).or_default();
        if publish || pod::ready(p) { ready.push(address) } else { not_ready.push(address) }
    }
    let list = |mut all: Vec<EndpointAddress>| {
        all.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(all).filter(|l| !l.is_empty())
    };
    let port = |(name, port, protocol, app_protocol): Port| EndpointPort {
        name: Some(name).filter(|n| !n.is_empty()),
        port,
        protocol: Some(protocol),
        app_protocol,
    };
    by_ports
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(not_ready),
            ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
        })
        .collect()
}

/// Cuts the addresses to the capacity, ready ones kept before others. Returns whether anything was cut.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let count = |l: &Option<Vec<EndpointAddress>>| l.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| count(&s.addresses) + count(&s.not_ready_addresses)).sum();
    if total <= CAPACITY {
        return false;
    }
    let mut left = CAPACITY;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(l) = list {
            l.truncate(left);
            left -= l.len();
        }
        *list = list.take().filter(|l| !l.is_empty());
    };
    subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
    subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::common::pod::testing::pod;
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

    fn service() -> Service {
        Service {
            metadata: ObjectMeta { name: Some("s".into()), namespace: Some("ns".into()), ..Default::default() },
            spec: Some(ServiceSpec {
                cluster_ip: Some("10.96.0.9".into()),
                ports: Some(vec![ServicePort { port: 80, ..Default::default() }]),
                ..Default::default()
            }),
            status: None,
        }
    }

    fn with_ip(i: usize, ready: bool) -> Arc<Pod> {
        let mut p = pod(&format!("p{i}"), "n", "Running", ready.then_some(0), 0);
        p.status.as_mut().unwrap().pod_ip = Some(format!("10.1.{}.{}", i / 250, i % 250));
        Arc::new(p)
    }

    #[test]
    fn ready_and_not_ready() {
        let e = plan(&service(), &[with_ip(2, true), with_ip(1, true), with_ip(3, false)], None).unwrap();
        let subset = &e.subsets.as_ref().unwrap()[0];
        let ips: Vec<_> = subset.addresses.as_ref().unwrap().iter().map(|a| a.ip.as_str()).collect();
        assert_eq!(ips, ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 1);
        assert_eq!(plan(&service(), &[with_ip(1, true), with_ip(2, true), with_ip(3, false)], Some(&e)), None);
    }

    #[test]
    fn no_pods_is_an_object_without_subsets() {
        let e = plan(&service(), &[], None).unwrap();
        assert_eq!(e.subsets, None);
        assert_eq!(plan(&service(), &[], Some(&e)), None);
    }

    #[test]
    fn a_thousand_is_the_most_and_the_ready_ones_stay() {
        let pods: Vec<_> = (0..1200).map(|i| with_ip(i, i % 2 == 0)).collect();
        let e = plan(&service(), &pods, None).unwrap();
        let s = &e.subsets.as_ref().unwrap()[0];
        assert_eq!((s.addresses.as_ref().unwrap().len(), s.not_ready_addresses.as_ref().unwrap().len()), (600, 400));
        assert_eq!(annotation(&e, OVER_CAPACITY), Some("truncated"));
    }
}
