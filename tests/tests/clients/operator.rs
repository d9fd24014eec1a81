//! A controller written with `kube-runtime` does its work here as elsewhere, and goes on when the server comes back.

use super::gardener::{FINALIZER, Garden, MANAGER, Running, Spec, definition, kind, plant};
use caravel_tests::{ControlPlane, Namespace, PATIENCE, cluster_dir};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use kube_runtime::wait::{Condition, await_condition, conditions};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::time::Duration;

/// A namespace with the kind, and the operator at work.
struct World {
    client: Client,
    ns: String,
    kind: ApiResource,
    gardens: Api<Garden>,
    maps: Api<ConfigMap>,
    operator: Running,
}

impl World {
    async fn new(client: Client, ns: &str, group: &str) -> World {
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let definition = definition(group);
        definitions.create(&PostParams::default(), &definition).await.unwrap();
        let known =
            await_condition(definitions, definition.meta().name.as_ref().unwrap(), conditions::is_crd_established());
        tokio::time::timeout(PATIENCE, known).await.expect("the definition is established").unwrap();
        let kind = kind(group);
        World {
            gardens: Api::namespaced_with(client.clone(), ns, &kind),
            maps: Api::namespaced(client.clone(), ns),
            operator: Running::start(client.clone(), ns, kind.clone(), 5),
            ns: ns.to_owned(),
            client,
            kind,
        }
    }

    /// Waits, by watching the object, until it is as wanted.
    async fn until<K>(&self, api: &Api<K>, name: &str, what: &str, wanted: impl Condition<K>) -> Option<K>
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
    {
        let reached = async {
            loop {
                // It gives up at the first answer that is none, such as that of a server which is busy.
                match await_condition(api.clone(), name, |now: Option<&K>| wanted.matches_object(now)).await {
                    Ok(found) => return found,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{what}: it is {:?}\nthe operator stumbled over:\n{}",
                api.get_opt(name).await,
                self.operator.troubles()
            ),
        }
    }

    async fn until_motto(&self, motto: &str) -> ConfigMap {
        let of = |map: &ConfigMap| map.data.as_ref()?.get("motto").cloned();
        let wanted = |map: Option<&ConfigMap>| map.and_then(of).as_deref() == Some(motto);
        self.until(&self.maps, "g", &format!("the motto is {motto}"), wanted).await.unwrap()
    }

    async fn until_ready(&self, ready: i32) -> Garden {
        let wanted = |garden: Option<&Garden>| {
            garden.is_some_and(|garden| {
                garden.status.as_ref().is_some_and(|status| {
                    status.ready == ready && Some(status.observed_generation) == garden.metadata.generation
                })
            })
        };
        self.until(&self.gardens, "g", &format!("{ready} are ready"), wanted).await.unwrap()
    }

    async fn merge<K: Clone + Debug + DeserializeOwned>(&self, api: &Api<K>, change: serde_json::Value) {
        api.patch("g", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    }

    /// The events about an object with this reason.
    async fn events(&self, about: &ObjectReference, reason: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.ns);
        let selector = format!("reason={reason},regarding.uid={}", about.uid.as_ref().unwrap());
        events.list(&ListParams::default().fields(&selector)).await.unwrap().items
    }

    async fn end(self, group: &str) {
        self.operator.end().await;
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client);
        definitions.delete(&format!("gardens.{group}"), &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_converges_and_cleans_up() {
    let ns = tokio::task::spawn_blocking(|| Namespace::new("operator")).await.unwrap();
    let group = format!("{}.caravel.example", ns.name);
    let client = caravel_tests::client(cluster_dir().join("kubeconfig")).await;
    let world = World::new(client.clone(), &ns.name, &group).await;

    let made = plant(&world.gardens, &world.kind, "g", Spec { motto: "grow".into(), replicas: 1 }).await;
    let ready = world.until_ready(1).await;
    assert_eq!(ready.finalizers(), [FINALIZER]);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns.name);
    let deployment =
        world.until(&deployments, "g", "it is rolled out", conditions::is_deployment_completed()).await.unwrap();
    let map = world.until_motto("grow").await;
    for (owners, managers) in
        [(map.owner_references(), map.managed_fields()), (deployment.owner_references(), deployment.managed_fields())]
    {
        assert_eq!((owners[0].uid.as_str(), owners[0].controller), (made.metadata.uid.as_deref().unwrap(), Some(true)));
        let own = managers.iter().find(|m| m.manager.as_deref() == Some(MANAGER)).expect("the operator manages fields");
        assert_eq!(own.operation.as_deref(), Some("Apply"));
    }
    let about = made.object_ref(&world.kind);
    let planted = world.events(&about, "Planted").await;
    assert_eq!(planted.len(), 1, "{planted:?}");
    assert_eq!(planted[0].reporting_controller.as_deref(), Some("example.com/gardener"));
    assert_eq!(planted[0].note.as_deref(), Some("generation 1"));

    // Others meddle with what it owns: changed it is put right, deleted it comes back.
    world.merge(&world.maps, json!({"data": {"motto": "weeds"}})).await;
    world.until_motto("grow").await;
    world.maps.delete("g", &DeleteParams::default()).await.unwrap();
    let old = map.uid();
    let another = |map: Option<&ConfigMap>| map.is_some_and(|map| map.uid() != old);
    world.until(&world.maps, "g", "another stands in its place", another).await;
    world.merge(&deployments, json!({"spec": {"replicas": 0}})).await;
    world
        .until(&deployments, "g", "its size is put right", |d: Option<&Deployment>| {
            d.is_some_and(|d| d.spec.as_ref().and_then(|spec| spec.replicas) == Some(1))
        })
        .await;

    // The owner changes; the same event again is a series.
    world.merge(&world.gardens, json!({"spec": {"motto": "bloom", "replicas": 2}})).await;
    world.until_ready(2).await;
    world.until_motto("bloom").await;
    let planted = world.events(&about, "Planted").await;
    assert_eq!(planted.len(), 1, "{planted:?}");
    assert!(planted[0].series.as_ref().is_some_and(|series| series.count >= 2), "{planted:?}");

    // Deleted it stays until the finalizer has done its part; what it owns goes with it.
    let ledger = world.maps.get("g-ledger").await.unwrap();
    assert!(ledger.owner_references().is_empty());
    let map = world.until_motto("bloom").await;
    world.gardens.delete("g", &DeleteParams::default()).await.unwrap();
    let uid = |of: Option<String>| of.expect("it has a uid");
    world.until(&world.gardens, "g", "it is gone", conditions::is_deleted(&uid(made.uid()))).await;
    assert!(world.maps.get_opt("g-ledger").await.unwrap().is_none(), "the finalizer was not waited for");
    assert_eq!(world.events(&about, "Cleared").await.len(), 1);
    world.until(&world.maps, "g", "its ConfigMap is gone", conditions::is_deleted(&uid(map.uid()))).await;
    world.until(&deployments, "g", "its Deployment is gone", conditions::is_deleted(&uid(deployment.uid()))).await;
    world.end(&group).await;
    tokio::task::spawn_blocking(move || drop(ns)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_survives_its_server() {
    let plane = tokio::task::spawn_blocking(ControlPlane::start).await.unwrap();
    let group = "gardens.caravel.example";
    let world = World::new(plane.client().await, "default", group).await;
    plant(&world.gardens, &world.kind, "g", Spec { motto: "grow".into(), replicas: 0 }).await;
    world.until_ready(0).await;
    let map = world.until_motto("grow").await;

    // Its watches break off in the middle, and what it asks for is refused for a while.
    plane.kill_and_restart().await;
    world.merge(&world.gardens, json!({"spec": {"motto": "bloom"}})).await;
    world.until_motto("bloom").await;
    world.until_ready(0).await;
    world.maps.delete("g", &DeleteParams::default()).await.unwrap();
    let another = |new: Option<&ConfigMap>| new.is_some_and(|new| new.uid() != map.uid());
    world.until(&world.maps, "g", "another stands in its place", another).await;
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), "default");
    let deployment = deployments.get("g").await.unwrap();
    let uid = world.gardens.get("g").await.unwrap().uid().unwrap();
    world.gardens.delete("g", &DeleteParams::default()).await.unwrap();
    world.until(&world.gardens, "g", "it is gone", conditions::is_deleted(&uid)).await;
    let uid = deployment.uid().unwrap();
    world.until(&deployments, "g", "its Deployment is gone", conditions::is_deleted(&uid)).await;
    world.end(group).await;
}
