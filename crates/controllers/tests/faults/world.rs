//! An API server in memory: just enough of one for controllers to live with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use caravel_api::kinds::{Kind, KindTable};
use caravel_api::status::ApiError;
use caravel_api::{defaults, meta, patch};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

static TABLE: LazyLock<KindTable> = LazyLock::new(KindTable::builtin);

/// (group, plural).
pub type Place = (String, String);
/// (namespace, name).
pub type Key = (String, String);

/// One change, as watches tell it.
#[derive(Clone)]
pub struct Change {
    pub revision: u64,
    pub place: Place,
    pub type_: &'static str,
    pub object: Arc<Value>,
    /// The line that watches send of it.
    pub line: Bytes,
}

/// A parsed request path.
pub struct Target {
    pub kind: Arc<Kind>,
    pub namespace: String,
    pub name: Option<String>,
    pub sub: Option<String>,
}

pub struct World {
    pub table: &'static KindTable,
    pub objects: BTreeMap<Place, BTreeMap<Key, Arc<Value>>>,
    pub log: Vec<Change>,
    pub revision: u64,
    /// Objects that are stored in a form that is not today's: the next write of one is stored even when it changes nothing.
    pub stale: BTreeSet<(Place, Key)>,
    serial: u64,
}

fn place(kind: &Kind) -> Place {
    (kind.group.to_string(), kind.plural.to_string())
}

impl World {
    pub fn new() -> Self {
        Self { table: &TABLE, objects: BTreeMap::new(), log: vec![], revision: 1, stale: BTreeSet::new(), serial: 0 }
    }

    pub fn target(&self, path: &str) -> Option<Target> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", v, rest @ ..] => ("", *v, rest),
            ["apis", g, v, rest @ ..] => (*g, *v, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", ns, rest @ ..] if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) => {
                (*ns, rest)
            }
            rest => ("", rest),
        };
        let plural = rest.first()?;
        Some(Target {
            kind: self.table.resource(group, version, plural)?.clone(),
            namespace: namespace.to_owned(),
            name: rest.get(1).map(|s| (*s).to_owned()),
            sub: rest.get(2).map(|s| (*s).to_owned()),
        })
    }

    fn commit(&mut self, place: &Place, type_: &'static str, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let line = Bytes::from(format!("{{\"type\":\"{type_}\",\"object\":{object}}}\n"));
        let object = Arc::new(object);
        let all = self.objects.entry(place.clone()).or_default();
        if type_ == "DELETED" {
            all.remove(&key);
        } else {
            all.insert(key, object.clone());
        }
        self.log.push(Change { revision: self.revision, place: place.clone(), type_, object: object.clone(), line });
        object
    }

    pub fn get(&self, group: &str, plural: &str, ns: &str, name: &str) -> Option<&Value> {
        self.shared(group, plural, ns, name).map(|o| &**o)
    }

    pub fn shared(&self, group: &str, plural: &str, ns: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&(group.into(), plural.into()))?.get(&(ns.into(), name.into()))
    }

    pub fn all(&self, group: &str, plural: &str) -> Vec<&Value> {
        self.objects.get(&(group.into(), plural.into())).into_iter().flat_map(|m| m.values()).map(|o| &**o).collect()
    }

    /// Creates an object from its JSON, as a user would.
    pub fn put(&mut self, object: Value) -> Arc<Value> {
        let (api, kind) =
            (object["apiVersion"].as_str().unwrap().to_owned(), object["kind"].as_str().unwrap().to_owned());
        let (group, version) = caravel_api::kinds::split_api_version(&api);
        let kind = self.table.kind(group, version, &kind).unwrap().clone();
        let namespace = meta::namespace(&object).to_owned();
        self.create(&kind, &namespace, object).unwrap()
    }

    /// Changes an object as a user would; the closure gets a copy.
    pub fn edit(&mut self, group: &str, plural: &str, ns: &str, name: &str, f: impl FnOnce(&mut Value)) {
        let mut object = self.get(group, plural, ns, name).unwrap().clone();
        f(&mut object);
        let version =
            self.objects[&(group.into(), plural.into())][&(ns.into(), name.into())]["apiVersion"].as_str().unwrap();
        let (_, version) = caravel_api::kinds::split_api_version(version);
        let kind = self.table.resource(group, version, plural).unwrap().clone();
        self.update(&kind, ns, name, object, None).unwrap();
    }

    pub fn create(&mut self, kind: &Arc<Kind>, namespace: &str, mut object: Value) -> Result<Arc<Value>, ApiError> {
        self.serial += 1;
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        if kind.namespaced {
            object["metadata"]["namespace"] = json!(namespace);
            let ns = self.get("", "namespaces", "", namespace);
            if ns.is_some_and(meta::is_deleting) {
                return Err(ApiError::forbidden(
                    &kind.group,
                    &kind.plural,
                    meta::name(&object),
                    "namespace is being terminated",
                )
                .with_cause("NamespaceTerminating", "terminating", "metadata.namespace"));
            }
        }
        if meta::name(&object).is_empty() {
            let base = meta::text(&object["metadata"], "generateName").to_owned();
            object["metadata"]["name"] = json!(format!("{base}{:05}", self.serial));
        }
        defaults::apply(kind, &mut object);
        let name = meta::name(&object).to_owned();
        let key = (namespace.to_owned(), name.clone());
        if self.objects.get(&place(kind)).is_some_and(|m| m.contains_key(&key)) {
            return Err(ApiError::already_exists(&kind.group, &kind.plural, &name));
        }
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.serial));
        object["metadata"]["creationTimestamp"] = json!(now());
        object["metadata"]["generation"] = json!(1);
        if &*kind.plural == "pods" {
            object["status"] = json!({"phase": "Pending"});
        } else if &*kind.plural == "namespaces" {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
        } else if kind.subresource("status").is_some() && &*kind.plural != "nodes" && &*kind.plural != "services" {
            object.as_object_mut().unwrap().remove("status");
        }
        if &*kind.plural == "jobs" {
            default_job(&mut object);
        }
        Ok(self.commit(&place(kind), "ADDED", key, object))
    }

    pub fn update(
        &mut self,
        kind: &Arc<Kind>,
        ns: &str,
        name: &str,
        mut new: Value,
        sub: Option<&str>,
    ) -> Result<Arc<Value>, ApiError> {
        let Some(old) = self.shared(&kind.group, &kind.plural, ns, name).cloned() else {
            return Err(ApiError::not_found(&kind.group, &kind.plural, name));
        };
        let revision = meta::resource_version(&new);
        if !revision.is_empty() && revision != meta::resource_version(&old) {
            return Err(ApiError::modified(&kind.group, &kind.plural, name));
        }
        let uid = meta::uid(&new);
        if !uid.is_empty() && uid != meta::uid(&old) {
            return Err(ApiError::conflict(
                &kind.group,
                &kind.plural,
                name,
                "Precondition failed: UID in precondition",
            ));
        }
        match sub {
            Some("approval") => {
                let conditions = new["status"]["conditions"].take();
                new = Value::clone(&old);
                new["status"]["conditions"] = conditions;
            }
            Some("scale") => {
                let replicas = new["spec"]["replicas"].take();
                new = Value::clone(&old);
                new["spec"]["replicas"] = replicas;
            }
            Some("status") => {
                let (status, annotations) = (new["status"].take(), new["metadata"]["annotations"].take());
                new = Value::clone(&old);
                new["status"] = status;
                // As upstream: a Deployment's revision is noted with its status.
                if &*kind.kind == "Deployment" && annotations.is_object() {
                    new["metadata"]["annotations"] = annotations;
                }
            }
            Some("finalize") => {
                let finalizers = new["spec"]["finalizers"].take();
                new = Value::clone(&old);
                new["spec"]["finalizers"] = finalizers;
            }
            _ => {
                if kind.subresource("status").is_some() {
                    match old.get("status") {
                        Some(status) => new["status"] = status.clone(),
                        None => drop(new.as_object_mut().unwrap().remove("status")),
                    }
                }
                defaults::apply(kind, &mut new);
            }
        }
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            match old["metadata"].get(field) {
                Some(v) => new["metadata"][field] = v.clone(),
                None => drop(new["metadata"].as_object_mut().unwrap().remove(field)),
            }
        }
        if old.get("spec") != new.get("spec") && matches!(sub, None | Some("scale")) {
            new["metadata"]["generation"] = json!(meta::generation(&old) + 1);
        }
        let key = (ns.to_owned(), name.to_owned());
        let stale = self.stale.remove(&(place(kind), key.clone()));
        if new == *old && !stale {
            return Ok(old);
        }
        let held = meta::finalizers(&new).next().is_some()
            || new["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
            || new["metadata"].get("deletionGracePeriodSeconds").is_some_and(|g| g != 0);
        let type_ = if meta::is_deleting(&new) && !held { "DELETED" } else { "MODIFIED" };
        Ok(self.commit(&place(kind), type_, key, new))
    }

    pub fn patch(&mut self, t: &Target, media: &str, body: Value) -> Result<Arc<Value>, ApiError> {
        let name = t.name.clone().unwrap_or_default();
        let Some(old) = self.get(&t.kind.group, &t.kind.plural, &t.namespace, &name).cloned() else {
            return Err(ApiError::not_found(&t.kind.group, &t.kind.plural, &name));
        };
        let mut new = match media {
            "application/strategic-merge-patch+json" => patch::strategic::apply(t.kind.schema().root(), old, body)
                .map_err(|e| ApiError::bad_request(e.to_string()))?,
            _ => patch::merge::apply(old, body.clone()),
        };
        if media == "application/strategic-merge-patch+json" && meta::resource_version(&new).is_empty() {
            new["metadata"]["resourceVersion"] = json!("");
        }
        self.update(&t.kind, &t.namespace, &name, new, t.sub.as_deref())
    }

    pub fn delete(&mut self, kind: &Arc<Kind>, ns: &str, name: &str, options: &Value) -> Result<Arc<Value>, ApiError> {
        let Some(mut object) = self.get(&kind.group, &kind.plural, ns, name).cloned() else {
            return Err(ApiError::not_found(&kind.group, &kind.plural, name));
        };
        let wanted = &options["preconditions"];
        let differs = |field: &str, have: &str| wanted[field].as_str().is_some_and(|w| w != have);
        if differs("uid", meta::uid(&object)) || differs("resourceVersion", meta::resource_version(&object)) {
            return Err(ApiError::conflict(&kind.group, &kind.plural, name, "Precondition failed"));
        }
        let key = (ns.to_owned(), name.to_owned());
        let before = object.clone();
        let add = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(f) = add.filter(|f| meta::finalizers(&object).all(|x| x != *f)) {
            let list = &mut object["metadata"]["finalizers"];
            if !list.is_array() {
                *list = json!([]);
            }
            list.as_array_mut().unwrap().push(json!(f));
        }
        let graceful = &*kind.plural == "pods"
            && options["gracePeriodSeconds"] != 0
            && object["spec"]["nodeName"].is_string()
            && !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let held = meta::finalizers(&object).next().is_some() || &*kind.plural == "namespaces";
        if !held && !graceful {
            return Ok(self.commit(&place(kind), "DELETED", key, object));
        }
        if !meta::is_deleting(&object) {
            object["metadata"]["deletionTimestamp"] = json!(now());
            object["metadata"]["generation"] = json!(meta::generation(&object) + 1);
        }
        if &*kind.plural == "pods" {
            object["metadata"]["deletionGracePeriodSeconds"] = json!(i32::from(graceful));
        }
        if &*kind.plural == "namespaces" {
            object["status"]["phase"] = json!("Terminating");
        }
        if object == before {
            return Ok(Arc::new(object));
        }
        Ok(self.commit(&place(kind), "MODIFIED", key, object))
    }

    /// The scale of a workload.
    pub fn scale(&self, t: &Target) -> Option<Value> {
        let o = self.get(&t.kind.group, &t.kind.plural, &t.namespace, t.name.as_deref()?)?;
        let labels = o["spec"]["selector"]["matchLabels"].as_object()?;
        let selector: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        let mut metadata = o["metadata"].clone();
        metadata.as_object_mut()?.retain(|k, _| ["name", "namespace", "uid", "resourceVersion"].contains(&k.as_str()));
        Some(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
            "spec": {"replicas": o["spec"]["replicas"]},
            "status": {"replicas": o["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")}}))
    }

    /// What the pods of a namespace use: some work of 900 thousandths of a core, shared by those that are ready.
    pub fn usage(&self, namespace: &str) -> Value {
        let ready = |p: &&Value| {
            meta::namespace(p) == namespace && p["status"]["conditions"][0]["status"] == "True" && !meta::is_deleting(p)
        };
        let pods: Vec<_> = self.all("", "pods").into_iter().filter(ready).collect();
        let each = 900 / pods.len().max(1);
        let item = |p: &&Value| {
            json!({"metadata": {"name": meta::name(p), "namespace": namespace}, "timestamp": now(),
            "window": "10s", "containers": [{"name": "c", "usage": {"cpu": format!("{each}m"), "memory": "1Mi"}}]})
        };
        json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {},
            "items": pods.iter().map(item).collect::<Vec<_>>()})
    }

    /// Deletes an object as a user would.
    pub fn remove(&mut self, group: &str, plural: &str, ns: &str, name: &str, options: &Value) {
        let api = self.get(group, plural, ns, name).unwrap()["apiVersion"].as_str().unwrap().to_owned();
        let (_, version) = caravel_api::kinds::split_api_version(&api);
        let kind = self.table.resource(group, version, plural).unwrap().clone();
        self.delete(&kind, ns, name, options).unwrap();
    }

    /// The objects of a list call.
    pub fn list(&self, t: &Target, fields: &str) -> Vec<Arc<Value>> {
        let all = self.objects.get(&place(&t.kind)).into_iter().flat_map(|m| m.values());
        all.filter(|o| selected(t, fields, o)).cloned().collect()
    }
}

/// Whether an object is in the namespace of a call and of the field selector (of metadata only).
pub fn selected(t: &Target, fields: &str, o: &Value) -> bool {
    (t.namespace.is_empty() || meta::namespace(o) == t.namespace)
        && fields.split(',').filter(|f| !f.is_empty()).all(|f| match f.split_once('=') {
            Some(("metadata.name", v)) => meta::name(o) == v,
            Some(("metadata.namespace", v)) => meta::namespace(o) == v,
            Some(("type", v)) => o["type"] == v,
            other => panic!("the world has no field selector {other:?}"),
        })
}

pub fn now() -> String {
    crate::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the server's strategy for Jobs adds: selector and labels by uid.
fn default_job(job: &mut Value) {
    let uid = job["metadata"]["uid"].clone();
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    job["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = uid;
}
