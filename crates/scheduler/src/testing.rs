//! Builders of nodes and pods, for tests and benchmarks.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use crate::model::{NodeInfo, PodInfo};
use crate::state::State;

/// A node being built.
#[derive(Clone, Debug)]
pub struct NodeBuilder(Value);

/// A node with room: 32 cores, 64 GiB, 110 pods.
pub fn node(name: &str) -> NodeBuilder {
    NodeBuilder(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": []},
        "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"}, "images": []},
    }))
}

fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

impl NodeBuilder {
    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    /// The zone label.
    pub fn zone(self, zone: &str) -> Self {
        self.label("topology.kubernetes.io/zone", zone)
    }

    /// Thousandths of a core.
    pub fn cpu(self, milli: i64) -> Self {
        self.amount("cpu", json!(format!("{milli}m")))
    }

    /// Bytes.
    pub fn memory(self, bytes: i64) -> Self {
        self.amount("memory", json!(bytes.to_string()))
    }

    /// How many pods.
    pub fn pods(self, count: i64) -> Self {
        self.amount("pods", json!(count.to_string()))
    }

    /// Any other resource.
    pub fn scalar(self, name: &str, count: i64) -> Self {
        self.amount(name, json!(count.to_string()))
    }

    fn amount(mut self, name: &str, value: Value) -> Self {
        self.0["status"]["allocatable"][name] = value;
        self
    }

    /// A taint.
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        push(&mut self.0["spec"]["taints"], json!({"key": key, "value": value, "effect": effect}));
        self
    }

    /// `spec.unschedulable`.
    pub fn cordoned(mut self) -> Self {
        self.0["spec"]["unschedulable"] = json!(true);
        self
    }

    /// A feature that its kubelet knows.
    pub fn declares(mut self, feature: &str) -> Self {
        push(&mut self.0["status"]["declaredFeatures"], json!(feature));
        self
    }

    /// An image that is there.
    pub fn image(mut self, name: &str, bytes: i64) -> Self {
        push(&mut self.0["status"]["images"], json!({"names": [name], "sizeBytes": bytes}));
        self
    }

    /// The object.
    ///
    /// # Panics
    /// When the builder made nonsense.
    #[expect(clippy::expect_used, reason = "for tests")]
    pub fn object(&self) -> core::Node {
        serde_json::from_value(self.0.clone()).expect("a node")
    }

    /// What the scheduler makes of it.
    pub fn info(&self) -> NodeInfo {
        NodeInfo::new(&self.object())
    }
}

/// A pod being built.
#[derive(Clone, Debug)]
pub struct PodBuilder(Value);

/// A pod in `default` with one container that asks for nothing.
pub fn pod(name: &str) -> PodBuilder {
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {}},
        "spec": {"containers": [{"name": "c", "image": "image:1", "resources": {"requests": {}}}]},
        "status": {},
    }))
}

fn selector(text: &str) -> Value {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    json!({"matchLabels": pairs.map(|(k, v)| (k.to_owned(), json!(v))).collect::<serde_json::Map<_, _>>()})
}

impl PodBuilder {
    /// Its namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0["metadata"]["namespace"] = json!(namespace);
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    /// Thousandths of a core.
    pub fn cpu(self, milli: i64) -> Self {
        self.amount("cpu", json!(format!("{milli}m")))
    }

    /// Bytes.
    pub fn memory(self, bytes: i64) -> Self {
        self.amount("memory", json!(bytes.to_string()))
    }

    /// Any other resource.
    pub fn scalar(self, name: &str, count: i64) -> Self {
        self.amount(name, json!(count.to_string()))
    }

    fn amount(mut self, name: &str, value: Value) -> Self {
        self.0["spec"]["containers"][0]["resources"]["requests"][name] = value;
        self
    }

    /// The node it is bound to.
    pub fn on(mut self, node: &str) -> Self {
        self.0["spec"]["nodeName"] = json!(node);
        self
    }

    /// Its priority.
    pub fn priority(mut self, priority: i32) -> Self {
        self.0["spec"]["priority"] = json!(priority);
        self
    }

    /// It does not push others away.
    pub fn never_preempts(mut self) -> Self {
        self.0["spec"]["preemptionPolicy"] = json!("Never");
        self
    }

    /// Being deleted.
    pub fn terminating(mut self) -> Self {
        self.0["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self
    }

    /// Started so many seconds after 1970.
    pub fn started(mut self, seconds: i64) -> Self {
        let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.0["status"]["startTime"] = json!(time.to_string());
        self
    }

    /// A host port.
    pub fn port(mut self, protocol: &str, ip: &str, port: i32) -> Self {
        let port = json!({"containerPort": port, "hostPort": port, "protocol": protocol, "hostIP": ip});
        push(&mut self.0["spec"]["containers"][0]["ports"], port);
        self
    }

    /// Its image.
    pub fn image(mut self, image: &str) -> Self {
        self.0["spec"]["containers"][0]["image"] = json!(image);
        self
    }

    /// A toleration.
    pub fn tolerate(mut self, key: &str, operator: &str, value: &str, effect: &str) -> Self {
        let operator = if operator.is_empty() { Value::Null } else { json!(operator) };
        let toleration = json!({"key": key, "operator": operator, "value": value, "effect": if effect.is_empty() { Value::Null } else { json!(effect) }});
        push(&mut self.0["spec"]["tolerations"], toleration);
        self
    }

    /// A pair of `nodeSelector`.
    pub fn node_selector(mut self, key: &str, value: &str) -> Self {
        self.0["spec"]["nodeSelector"][key] = json!(value);
        self
    }

    /// The whole `affinity`.
    pub fn affinity(mut self, affinity: Value) -> Self {
        self.0["spec"]["affinity"] = affinity;
        self
    }

    fn term(mut self, kind: &str, when: &str, term: Value) -> Self {
        push(&mut self.0["spec"]["affinity"][kind][when], term);
        self
    }

    /// Required to be near pods.
    pub fn near(self, topology: &str, labels: &str) -> Self {
        let term = json!({"topologyKey": topology, "labelSelector": selector(labels)});
        self.term("podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", term)
    }

    /// The same, of namespaces with labels.
    pub fn near_in(self, topology: &str, labels: &str, namespaces: &str) -> Self {
        let term = json!({"topologyKey": topology, "labelSelector": selector(labels), "namespaceSelector": selector(namespaces)});
        self.term("podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", term)
    }

    /// Required to be far from pods.
    pub fn far(self, topology: &str, labels: &str) -> Self {
        let term = json!({"topologyKey": topology, "labelSelector": selector(labels)});
        self.term("podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution", term)
    }

    /// Rather near pods.
    pub fn prefer_near(self, weight: i32, topology: &str, labels: &str) -> Self {
        let term =
            json!({"weight": weight, "podAffinityTerm": {"topologyKey": topology, "labelSelector": selector(labels)}});
        self.term("podAffinity", "preferredDuringSchedulingIgnoredDuringExecution", term)
    }

    /// Rather far from pods.
    pub fn prefer_far(self, weight: i32, topology: &str, labels: &str) -> Self {
        let term =
            json!({"weight": weight, "podAffinityTerm": {"topologyKey": topology, "labelSelector": selector(labels)}});
        self.term("podAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution", term)
    }

    /// A spread constraint.
    pub fn spread(mut self, topology: &str, skew: i32, when: &str, labels: &str) -> Self {
        let constraint = json!({"topologyKey": topology, "maxSkew": skew, "whenUnsatisfiable": when, "labelSelector": selector(labels)});
        push(&mut self.0["spec"]["topologySpreadConstraints"], constraint);
        self
    }

    /// `minDomains` of the last constraint.
    pub fn min_domains(self, count: i32) -> Self {
        self.of_last("minDomains", json!(count))
    }

    /// The inclusion policies of the last constraint.
    pub fn inclusion(self, affinity: &str, taints: &str) -> Self {
        self.of_last("nodeAffinityPolicy", json!(affinity)).of_last("nodeTaintsPolicy", json!(taints))
    }

    fn of_last(mut self, field: &str, value: Value) -> Self {
        let list = self.0["spec"]["topologySpreadConstraints"].as_array_mut();
        if let Some(last) = list.and_then(|l| l.last_mut()) {
            last[field] = value;
        }
        self
    }

    /// A persistent volume claim that it mounts.
    pub fn claim(mut self, name: &str) -> Self {
        push(&mut self.0["spec"]["volumes"], json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        self
    }

    /// A scheduling gate.
    pub fn gate(mut self, name: &str) -> Self {
        push(&mut self.0["spec"]["schedulingGates"], json!({"name": name}));
        self
    }

    /// Whose it is to schedule.
    pub fn scheduler(mut self, name: &str) -> Self {
        self.0["spec"]["schedulerName"] = json!(name);
        self
    }

    /// Any field of the spec.
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// The object.
    ///
    /// # Panics
    /// When the builder made nonsense.
    #[expect(clippy::expect_used, reason = "for tests")]
    pub fn object(&self) -> core::Pod {
        serde_json::from_value(self.0.clone()).expect("a pod")
    }

    /// What the scheduler makes of it.
    pub fn info(&self) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(&self.object()))
    }
}

/// A cluster of some nodes.
pub fn state(nodes: impl IntoIterator<Item = NodeBuilder>) -> State {
    let mut state = State::default();
    for node in nodes {
        state.set_node(node.info());
    }
    state
}
