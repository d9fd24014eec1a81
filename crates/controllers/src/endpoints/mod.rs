//! Which pods stand behind a Service: EndpointSlices, the legacy Endpoints, and slices mirrored from hand-made Endpoints.

mod legacy;
mod mirroring;
mod model;
mod slices;

pub use legacy::run as run_endpoints;
pub use mirroring::run as run_mirroring;

use std::collections::BTreeSet;
use std::sync::Arc;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::common::*;
use crate::context::{Context, enqueue_each, record_on};
use model::{Zones, relevant, selects};
use slices::{Parent, Plan, SERVICE_NAME};

const WORKERS: usize = 5;
const MANAGER: &str = "endpointslice-controller.k8s.io";

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    expectations: Arc<Expectations>,
    recorder: Recorder,
}

/// Runs the EndpointSlice controller.
///
/// # Errors
/// Never by itself.
pub async fn run_slices(context: Context) -> anyhow::Result<()> {
    let slices = slice_informer(&context);
    let c = Controller {
        services: context.cluster.informer(),
        pods: context.pods(),
        nodes: context.cluster.informer(),
        slices,
        expectations: Arc::new(Expectations::new()),
        recorder: context.cluster.recorder("endpoint-slice-controller"),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.services, &queue);
    wake_services_of_pods(&c.pods, &c.services, &queue);
    track_slices(&c.slices, &queue, c.expectations.clone(), MANAGER);
    wake_on_zone_change(&c.nodes, &c.services, &queue);
    c.services.synced().await;
    c.pods.synced().await;
    c.nodes.synced().await;
    c.slices.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// The informer of slices, indexed by service (`namespace/name`).
fn slice_informer(context: &Context) -> Informer<EndpointSlice> {
    let slices = context.cluster.informer::<EndpointSlice>();
    slices.add_index(SERVICE_NAME, |s| {
        labels(s).get(SERVICE_NAME).map(|n| format!("{}/{n}", namespace(s))).into_iter().collect()
    });
    slices
}

/// The slices of one service that a manager made.
fn slices_of(slices: &Informer<EndpointSlice>, key: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let all = slices.by_index(SERVICE_NAME, &format!("{}/{}", key.namespace, key.name));
    all.into_iter().filter(|s| labels(&**s).get(slices::MANAGED_BY).is_some_and(|m| m == manager)).collect()
}

/// Pods that change in what matters wake the services that select them, or selected them.
fn wake_services_of_pods(pods: &Informer<Pod>, services: &Informer<Service>, queue: &WorkQueue<Key>) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_change(move |c| {
        let (now, before) = match c {
            Change::Updated { old, new } if !relevant(old, new) => return,
            Change::Updated { old, new } => (new, (labels(&**old) != labels(&**new)).then_some(old)),
            Change::Added(p) | Change::Deleted(p) => (p, None),
        };
        for s in services.list_in(namespace(&**now)) {
            if selects(&s, now) || before.is_some_and(|p| selects(&s, p)) {
                queue.add(Key::of(&*s));
            }
        }
    });
}

/// Somebody else's changes to our slices wake their service; creations are observed.
fn track_slices(
    slices: &Informer<EndpointSlice>,
    queue: &WorkQueue<Key>,
    expectations: Arc<Expectations>,
    manager: &'static str,
) {
    let queue = queue.clone();
    slices.on_change(move |c| {
        let slice = c.object();
        let l = labels(&**slice);
        if l.get(slices::MANAGED_BY).is_none_or(|m| m != manager) {
            // A slice whose manager was changed is ours no more; its service may need another.
            if let Change::Updated { old, .. } = c
                && let Some(service) = labels(&**old).get(SERVICE_NAME)
            {
                queue.add(Key::new(namespace(&**slice), service.clone()));
            }
            return;
        }
        let Some(service) = l.get(SERVICE_NAME) else { return };
        let key = Key::new(namespace(&**slice), service.clone());
        if matches!(c, Change::Added(_)) {
            expectations.creation_observed(&key);
        }
        queue.add(key);
    });
}

/// A node whose zone became known or changed wakes all services: endpoints carry their node's zone.
fn wake_on_zone_change(nodes: &Informer<Node>, services: &Informer<Service>, queue: &WorkQueue<Key>) {
    let (services, queue) = (services.clone(), queue.clone());
    nodes.on_change(move |c| {
        let changed = match c {
            Change::Updated { old, new } => model::zone_of(old) != model::zone_of(new),
            // A node that comes or goes with no zone says nothing about endpoints.
            Change::Added(n) | Change::Deleted(n) => model::zone_of(n).is_some(),
        };
        if changed {
            services.list().iter().for_each(|s| queue.add(Key::of(&**s)));
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(service) = self.services.get(&key) else {
            // The slices are owned by the service and go with it.
            self.expectations.forget(&key);
            return Ok(None);
        };
        if !model::has_endpoints(&service) || deleting(&*service) {
            return Ok(None);
        }
        if !self.expectations.satisfied(&key) {
            // The creation that is awaited wakes us; the delay is for one that was lost.
            return Ok(Some(std::time::Duration::from_secs(5)));
        }
        let existing = slices_of(&self.slices, &key, MANAGER);
        let pods: Vec<Arc<Pod>> =
            self.pods.list_in(&key.namespace).into_iter().filter(|p| selects(&service, p)).collect();
        let zones = Zones::new(|node| self.nodes.get(&Key::cluster(node)).and_then(|n| model::zone_of(&n)));
        let types = model::address_types(&service);
        let wanted = model::groups(&service, &pods, &types, &zones);
        let parent = Parent::of_service(&service, MANAGER);
        let plan = slices::plan(&existing, wanted, &parent, self.context.config.max_endpoints_per_slice, &types);
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client(), &key.namespace);
        if let Err(e) = apply(&api, plan, &self.expectations, &key).await
            && !is_namespace_terminating(&e)
        {
            let note = format!("Error updating Endpoint Slices for Service {key}: {}", message_of(&e));
            record_on(&self.recorder, &*service, &[Event::warning("FailedToUpdateEndpointSlices", note)]);
            return Err(e.into());
        }
        Ok(None)
    }
}

/// Carries out a plan: first what is new, so that no endpoint is missing meanwhile, then changes, then deletions.
async fn apply(
    api: &Api<EndpointSlice>,
    plan: Plan,
    expectations: &Expectations,
    key: &Key,
) -> Result<(), kube::Error> {
    for slice in &plan.create {
        expectations.expect_creations(key, 1);
        if let Err(e) = api.create(&PostParams::default(), slice).await {
            expectations.creation_observed(key);
            return Err(e);
        }
    }
    for slice in &plan.update {
        api.replace(name(slice), &PostParams::default(), slice).await?;
    }
    for slice in &plan.delete {
        let params = DeleteParams::default()
            .preconditions(Preconditions { uid: slice.metadata.uid.clone(), resource_version: None });
        gone_is_fine(api.delete(name(&**slice), &params).await)?;
    }
    Ok(())
}

/// Which kinds of address a set of texts has, for the mirror.
fn families(addresses: impl Iterator<Item = String>) -> BTreeSet<&'static str> {
    addresses.filter_map(|a| model::family(&a)).collect()
}
