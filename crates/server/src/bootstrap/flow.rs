//! Keeps flow control at the store's FlowSchemas and PriorityLevelConfigurations, brings back those that every cluster has,
//! and says of each schema whether its level is there.

use super::flow_objects;
use crate::authn::UserInfo;
use crate::clock::rfc3339_seconds;
use crate::flow::Flow;
use crate::follow::{self, Follower};
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry, keys};
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{Entry, Event, EventKind};
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// What may not be changed: without them nothing could be mended.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Reads what is there, and follows it.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    for plural in [LEVELS, SCHEMAS] {
        let kind = server.registry.row(GROUP, plural)?;
        follow::kind(&server.registry, &kind, Keeper::new(server, &kind), &server.stop).await?;
    }
    let keeper = Keeper::new(server, &server.registry.row(GROUP, SCHEMAS)?);
    tokio::spawn(async move {
        if let Err(error) = keeper.check_all_schemas().await {
            tracing::warn!(%error, "the conditions of flow schemas could not be written");
        }
    });
    Ok(())
}

struct Keeper {
    registry: Arc<Registry>,
    flow: Arc<Flow>,
    kind: Arc<Kind>,
    call: Call,
}

impl Follower for Keeper {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        for name in self.flow.names(self.is_schemas()) {
            if !entries.iter().any(|e| keys::split(&e.key).1 == name) {
                self.forget(&name);
            }
        }
        for entry in entries {
            self.put(&self.registry.parse(&self.kind, entry)?);
        }
        Ok(())
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        for event in events {
            let outcome = match event.kind {
                EventKind::Deleted => self.gone(keys::split(&event.entry.key).1).await,
                _ => self.seen(&event.entry).await,
            };
            if let Err(error) = outcome
                && !matches!(error.code, 404 | 409)
            {
                tracing::warn!(key = %event.entry.key, %error, "flow control could not be brought up to date");
            }
        }
    }
}

impl Keeper {
    fn new(server: &Server, kind: &Arc<Kind>) -> Self {
        let user = Arc::new(UserInfo::system_masters("system:apiserver"));
        let call = Call::new(user, "api-priority-and-fairness-config-consumer-v1");
        Self { registry: server.registry.clone(), flow: server.flow.clone(), kind: kind.clone(), call }
    }

    fn is_schemas(&self) -> bool {
        self.kind.plural == SCHEMAS
    }

    fn put(&self, object: &Value) {
        if self.is_schemas() { self.flow.put_schema(object) } else { self.flow.put_level(object) }
    }

    fn forget(&self, name: &str) {
        if self.is_schemas() { self.flow.remove_schema(name) } else { self.flow.remove_level(name) }
    }

    async fn seen(&self, entry: &Entry) -> Result<(), ApiError> {
        let object = self.registry.parse(&self.kind, entry)?;
        self.put(&object);
        let name = meta::name(&object);
        if MANDATORY.contains(&name)
            && let Some(wanted) = self.own(name)
            && object["spec"] != wanted["spec"]
        {
            self.restore(name, &wanted).await?;
        }
        if self.is_schemas() { self.condition(&object).await } else { self.check_all_schemas().await }
    }

    async fn gone(&self, name: &str) -> Result<(), ApiError> {
        self.forget(name);
        if let Some(wanted) = self.own(name) {
            let options = WriteOptions::default();
            self.registry.create(&self.call, &self.kind, "", "", wanted, &options).await?;
        }
        if self.is_schemas() { Ok(()) } else { self.check_all_schemas().await }
    }

    /// The object of this name that every cluster has, with its defaults.
    fn own(&self, name: &str) -> Option<Value> {
        let all = if self.is_schemas() { flow_objects::schemas() } else { flow_objects::levels() };
        let mut found = all.into_iter().find(|o| meta::name(o) == name)?;
        crate::rules::default(&self.kind, &mut found);
        Some(found)
    }

    async fn restore(&self, name: &str, wanted: &Value) -> Result<(), ApiError> {
        let spec = wanted["spec"].clone();
        let change = Change::With(Box::new(move |object: &mut Value| {
            object["spec"] = spec.clone();
            Ok(())
        }));
        self.update(&self.kind, name, "", change).await
    }

    async fn update(&self, kind: &Arc<Kind>, name: &str, subresource: &str, change: Change) -> Result<(), ApiError> {
        let options = WriteOptions::default();
        let update = Update { kind, namespace: "", name, subresource, change, options: &options };
        self.registry.update(&self.call, update).await.map(|_| ())
    }

    async fn check_all_schemas(&self) -> Result<(), ApiError> {
        for schema in self.registry.objects(GROUP, SCHEMAS, "").await? {
            self.condition(&schema).await?;
        }
        Ok(())
    }

    /// Says whether the schema's level is there.
    async fn condition(&self, schema: &Value) -> Result<(), ApiError> {
        let level = schema.pointer("/spec/priorityLevelConfiguration/name").and_then(Value::as_str).unwrap_or_default();
        let there = self.flow.has_level(level);
        let (status, reason, end) = match there {
            true => ("False", "Found", "it exists"),
            false => ("True", "NotFound", "there is no such object"),
        };
        let end = if there { format!("and {end}") } else { format!("but {end}") };
        let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
        let present = schema.pointer("/status/conditions").and_then(Value::as_array);
        let same = present
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Dangling" && c["status"] == status && c["message"] == message);
        if same {
            return Ok(());
        }
        let now = rfc3339_seconds(self.registry.clock.now());
        let next = json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
        let change = Change::With(Box::new(move |object: &mut Value| {
            let all = object.pointer("/status/conditions").and_then(Value::as_array);
            let mut all: Vec<Value> = all.cloned().unwrap_or_default();
            all.retain(|c| c["type"] != "Dangling");
            all.push(next.clone());
            object["status"]["conditions"] = Value::Array(all);
            Ok(())
        }));
        let kind = self.registry.row(GROUP, SCHEMAS)?;
        match self.update(&kind, meta::name(schema), "status", change).await {
            Err(error) if error.code == 404 => Ok(()),
            other => other,
        }
    }
}
