//! Slices mirrored from Endpoints that people made for services without selectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_client::{Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Api;

use super::legacy::LEADER;
use super::model::family;
use super::slices::{self, Group, Parent, Plan};
use super::{apply, families, slice_informer, slices_of, track_slices};
use crate::common::*;
use crate::context::{Context, enqueue_each};

const WORKERS: usize = 2;
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses mirrored of one subset at most.
const MAX_PER_SUBSET: usize = 1000;

struct Controller {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    expectations: Arc<Expectations>,
}

/// Runs the mirroring controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        services: context.cluster.informer(),
        endpoints: context.cluster.informer(),
        slices: slice_informer(&context),
        expectations: Arc::new(Expectations::new()),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.services, &queue);
    enqueue_each(&c.endpoints, &queue);
    track_slices(&c.slices, &queue, c.expectations.clone(), MANAGER);
    c.services.synced().await;
    c.endpoints.synced().await;
    c.slices.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        if !self.expectations.satisfied(&key) {
            return Ok(Some(std::time::Duration::from_secs(5)));
        }
        let existing = slices_of(&self.slices, &key, MANAGER);
        let endpoints = self.endpoints.get(&key).filter(|e| mirrored(e, self.services.get(&key).as_deref()));
        let plan = match &endpoints {
            None => Plan { delete: existing, ..Plan::default() },
            Some(e) => {
                let addresses =
                    e.subsets.iter().flatten().flat_map(|s| s.addresses.iter().chain(&s.not_ready_addresses));
                let types: Vec<_> = families(addresses.flatten().map(|a| a.ip.clone())).into_iter().collect();
                let parent = Parent::of_endpoints(e, MANAGER);
                slices::plan(&existing, groups(e), &parent, MAX_PER_SUBSET, &types)
            }
        };
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client(), &key.namespace);
        match apply(&api, plan, &self.expectations, &key).await {
            Err(e) if !is_namespace_terminating(&e) => Err(e.into()),
            _ => Ok(None),
        }
    }
}

/// Whether these Endpoints are to be mirrored: made by hand, for a service that selects nothing.
fn mirrored(e: &Endpoints, service: Option<&Service>) -> bool {
    let skip = labels(e).get("endpointslice.kubernetes.io/skip-mirror").is_some_and(|v| v == "true");
    let selects = |s: &Service| s.spec.as_ref().is_some_and(|s| s.selector.as_ref().is_some_and(|m| !m.is_empty()));
    !skip && annotation(e, LEADER).is_none() && !deleting(e) && service.is_some_and(|s| !selects(s) && !deleting(s))
}

fn groups(e: &Endpoints) -> Vec<Group> {
    let mut result: Vec<Group> = vec![];
    for subset in e.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: p.protocol.clone(),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let mut by_type: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)));
        for (address, ready) in all.take(MAX_PER_SUBSET) {
            if let Some(type_) = family(&address.ip) {
                by_type.entry(type_).or_default().push(endpoint(address, ready));
            }
        }
        for (type_, endpoints) in by_type {
            let same = |g: &&mut Group| g.address_type == type_ && g.ports == ports;
            match result.iter_mut().find(same) {
                Some(g) => g.endpoints.extend(endpoints),
                None => result.push(Group { address_type: type_.into(), ports: ports.clone(), endpoints }),
            }
        }
    }
    result
}

fn endpoint(a: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![a.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        target_ref: a.target_ref.clone(),
        node_name: a.node_name.clone(),
        hostname: a.hostname.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EndpointSubset, ServiceSpec};

    #[test]
    fn mirrors_only_what_people_made() {
        let e = Endpoints::default();
        let plain = Service::default();
        let selecting = Service {
            spec: Some(ServiceSpec { selector: Some([("a".into(), "b".into())].into()), ..Default::default() }),
            ..Default::default()
        };
        assert!(mirrored(&e, Some(&plain)));
        assert!(!mirrored(&e, Some(&selecting)));
        assert!(!mirrored(&e, None));
        let mut skip = e.clone();
        skip.metadata.labels = Some([("endpointslice.kubernetes.io/skip-mirror".into(), "true".into())].into());
        assert!(!mirrored(&skip, Some(&plain)));
    }

    #[test]
    fn splits_families_and_keeps_readiness() {
        let address = |ip: &str| EndpointAddress { ip: ip.into(), ..Default::default() };
        let e = Endpoints {
            subsets: Some(vec![EndpointSubset {
                addresses: Some(vec![address("10.0.0.1"), address("fd00::1")]),
                not_ready_addresses: Some(vec![address("10.0.0.2")]),
                ports: None,
            }]),
            ..Default::default()
        };
        let g = groups(&e);
        assert_eq!(
            g.iter().map(|g| (g.address_type.as_str(), g.endpoints.len())).collect::<Vec<_>>(),
            [("IPv4", 2), ("IPv6", 1)]
        );
        assert_eq!(g[0].endpoints[1].conditions.as_ref().and_then(|c| c.ready), Some(false));
    }
}
