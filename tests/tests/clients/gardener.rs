//! An operator as people write them with `kube`: a controller of a kind of its own.
//!
//! For each Garden it keeps a ConfigMap with its motto and a Deployment of its size, both owned by the Garden, says in its status
//! what it saw, and tells of it by events. It has a ledger for each Garden, too, which nobody owns: a finalizer takes care of that.

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, Object};
use kube::{Client, Resource, ResourceExt};
use kube_runtime::controller::{Action, Controller};
use kube_runtime::events::{Event, EventType, Recorder, Reporter};
use kube_runtime::finalizer::{Event as Finalizer, finalizer};
use kube_runtime::watcher;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

pub const MANAGER: &str = "gardener";
pub const FINALIZER: &str = "gardens.example.com/ledger";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub motto: String,
    pub replicas: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `metadata.generation` that it is about.
    pub observed_generation: i64,
    /// Replicas of the Deployment that are ready.
    #[serde(default)]
    pub ready: i32,
}

pub type Garden = Object<Spec, Status>;

/// The kind in a group of its own.
pub fn kind(group: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", "Garden"), "gardens")
}

/// The definition of the kind.
pub fn definition(group: &str) -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": format!("gardens.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": "gardens", "singular": "garden", "kind": "Garden"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": {"type": "object", "required": ["motto", "replicas"], "properties": {
                        "motto": {"type": "string"}, "replicas": {"type": "integer", "minimum": 0}}},
                    "status": {"type": "object", "properties": {
                        "observedGeneration": {"type": "integer"}, "ready": {"type": "integer"}}}}}}}],
        },
    }))
    .unwrap()
}

struct Context {
    client: Client,
    kind: ApiResource,
    recorder: Recorder,
}

/// What went wrong in one reconciliation; the controller tries again.
#[derive(Debug)]
struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        Self(format!("{error:?}"))
    }
}

impl Context {
    fn ledger(garden: &Garden) -> String {
        format!("{}-ledger", garden.name_any())
    }

    async fn apply(&self, garden: &Garden) -> Result<Action, Failed> {
        let (ns, name) = (garden.namespace().unwrap(), garden.name_any());
        let own = PatchParams::apply(MANAGER).force();
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &ns);
        let ledger = Self::ledger(garden);
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ledger}, "data": {"of": name}});
        maps.patch(&ledger, &own, &Patch::Apply(object)).await?;
        let owner = garden.controller_owner_ref(&self.kind).unwrap();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": [owner]},
            "data": {"motto": garden.spec.motto},
        });
        maps.patch(&name, &own, &Patch::Apply(map)).await?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &ns);
        let now = deployments.patch(&name, &own, &Patch::Apply(deployment(garden, &owner))).await?;
        let generation = garden.meta().generation.unwrap_or(0);
        let next = Status {
            observed_generation: generation,
            ready: now.status.and_then(|status| status.ready_replicas).unwrap_or(0),
        };
        if garden.status.as_ref().map(|status| status.observed_generation) != Some(generation) {
            self.tell(garden, "Planted", "Apply").await?;
        }
        if garden.status.as_ref() != Some(&next) {
            let gardens: Api<Garden> = Api::namespaced_with(self.client.clone(), &ns, &self.kind);
            let status = json!({"apiVersion": self.kind.api_version, "kind": self.kind.kind, "status": next});
            gardens.patch_status(&name, &own, &Patch::Apply(status)).await?;
        }
        Ok(Action::await_change())
    }

    async fn clean_up(&self, garden: &Garden) -> Result<Action, Failed> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &garden.namespace().unwrap());
        match maps.delete(&Self::ledger(garden), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
        self.tell(garden, "Cleared", "Cleanup").await?;
        Ok(Action::await_change())
    }

    async fn tell(&self, garden: &Garden, reason: &str, action: &str) -> Result<(), Failed> {
        let event = Event {
            type_: EventType::Normal,
            reason: reason.into(),
            note: Some(format!("generation {}", garden.meta().generation.unwrap_or(0))),
            action: action.into(),
            secondary: None,
        };
        Ok(self.recorder.publish(&event, &garden.object_ref(&self.kind)).await?)
    }
}

fn deployment(garden: &Garden, owner: &impl Serialize) -> Value {
    let labels = json!({"garden": garden.name_any()});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": garden.name_any(), "ownerReferences": [owner]},
        "spec": {"replicas": garden.spec.replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                {"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"]}]}}},
    })
}

async fn reconcile(garden: Arc<Garden>, context: Arc<Context>) -> Result<Action, Failed> {
    let gardens = Api::namespaced_with(context.client.clone(), &garden.namespace().unwrap(), &context.kind);
    let step = |event| async {
        match event {
            Finalizer::Apply(garden) => context.apply(&garden).await,
            Finalizer::Cleanup(garden) => context.clean_up(&garden).await,
        }
    };
    finalizer(&gardens, FINALIZER, garden, step).await.map_err(|error| Failed(format!("{error:?}")))
}

/// The operator at work on one namespace.
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    /// What it stumbled over: the last of it, for a test that fails.
    troubles: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Starts it. Watches are ended by the server after `seconds`, so that it must take them up again.
    pub fn start(client: Client, ns: &str, kind: ApiResource, seconds: u32) -> Self {
        let watched = watcher::Config::default().timeout(seconds);
        let gardens: Api<Garden> = Api::namespaced_with(client.clone(), ns, &kind);
        let reporter = Reporter { controller: "example.com/gardener".into(), instance: Some("gardener-0".into()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let context = Arc::new(Context { client: client.clone(), kind: kind.clone(), recorder });
        let (stop, stopped) = oneshot::channel::<()>();
        let troubles = Arc::new(Mutex::new(vec![]));
        // The list comes through the watch for one kind, as a list for the others.
        let work = Controller::new_with(gardens, watched.clone().streaming_lists(), kind)
            .owns(Api::<ConfigMap>::namespaced(client.clone(), ns), watched.clone())
            .owns(Api::<Deployment>::namespaced(client, ns), watched)
            .graceful_shutdown_on(async { drop(stopped.await) })
            .run(reconcile, |_, _: &Failed, _| Action::requeue(Duration::from_millis(100)), context);
        let heard = troubles.clone();
        let task = tokio::spawn(work.for_each(move |outcome| {
            if let Err(error) = outcome {
                let mut heard = heard.lock().unwrap();
                if heard.len() == 20 {
                    heard.remove(0);
                }
                heard.push(format!("{error:?}"));
            }
            std::future::ready(())
        }));
        Self { stop: Some(stop), task, troubles }
    }

    /// What it stumbled over last.
    pub fn troubles(&self) -> String {
        self.troubles.lock().unwrap().join("\n")
    }

    /// Asks it to stop, and waits until it has.
    pub async fn end(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.task.await.unwrap();
    }
}

/// Makes a Garden.
pub async fn plant(gardens: &Api<Garden>, kind: &ApiResource, name: &str, spec: Spec) -> Garden {
    gardens.create(&PostParams::default(), &Garden::new(name, kind, spec)).await.unwrap()
}
