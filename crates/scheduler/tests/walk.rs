//! The whole scheduler against a small API in memory: informers, decisions, bindings, conditions, preemption, volumes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caravel_client::Cluster;
use caravel_scheduler::Config;
use caravel_scheduler::testing::{NodeBuilder, PodBuilder, node, pod};
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

type Id = (String, String, String);

#[derive(Default)]
struct Api {
    revision: u64,
    /// By plural, namespace and name.
    objects: BTreeMap<Id, Value>,
    watches: Vec<(String, mpsc::UnboundedSender<String>)>,
    /// Every event so far, for watches that begin later.
    told: Vec<(u64, String, String)>,
    events: Vec<Value>,
    refuse_bindings: u32,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Api>>);

fn merge(into: &mut Value, patch: &Value) {
    let (Some(into), Some(patch)) = (into.as_object_mut(), patch.as_object()) else { return };
    for (key, value) in patch {
        match (into.get_mut(key), value) {
            (_, Value::Null) => {
                into.remove(key);
            }
            (Some(Value::Array(list)), Value::Array(more)) if key == "conditions" => {
                list.retain(|c| more.iter().all(|m| m["type"] != c["type"]));
                list.extend(more.iter().cloned());
            }
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, value),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

impl Api {
    fn put(&mut self, plural: &str, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let id = (plural.to_owned(), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let kind = if self.objects.insert(id, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(plural, kind, &object);
    }

    fn remove(&mut self, id: &Id) -> Option<Value> {
        self.revision += 1;
        let mut object = self.objects.remove(id)?;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.tell(&id.0, "DELETED", &object);
        Some(object)
    }

    fn tell(&mut self, plural: &str, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        self.told.push((self.revision, plural.to_owned(), line.clone()));
        self.watches.retain(|(of, watch)| of != plural || watch.send(line.clone()).is_ok());
    }

    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        body: &Value,
    ) -> (u16, Option<Value>, Option<mpsc::UnboundedReceiver<String>>) {
        let skip = if path.starts_with("/apis/") { 4 } else { 3 };
        let parts: Vec<&str> = path.split('/').skip(skip).collect();
        let (namespace, rest) = match &parts[..] {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let plural = rest[0];
        let id = |name: &str| (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let gone = || {
            (
                404,
                Some(
                    json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "gone"}),
                ),
                None,
            )
        };
        match (method, rest) {
            (&Method::GET, [_]) if query.contains("watch=") => {
                let (send, receive) = mpsc::unbounded_channel();
                // What happened since the list, too: else a Pod that came in between is never seen.
                let from = query.split('&').find_map(|q| q.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
                for (_, _, line) in self.told.iter().filter(|(at, of, _)| *at > from && of == plural) {
                    let _ = send.send(line.clone());
                }
                self.watches.push((plural.to_owned(), send));
                (200, None, Some(receive))
            }
            (&Method::GET, [_]) => {
                let items: Vec<_> =
                    self.objects.iter().filter(|(i, _)| i.0 == plural).map(|(_, o)| o.clone()).collect();
                (200, Some(json!({"metadata": {"resourceVersion": self.revision.to_string()}, "items": items})), None)
            }
            (&Method::POST, ["pods", name, "binding"]) => {
                if self.refuse_bindings > 0 {
                    self.refuse_bindings -= 1;
                    return (
                        409,
                        Some(
                            json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": "not now"}),
                        ),
                        None,
                    );
                }
                let Some(mut pod) = self.objects.get(&id(name)).cloned() else { return gone() };
                assert_eq!(body["metadata"]["uid"], pod["metadata"]["uid"]);
                pod["spec"]["nodeName"] = body["target"]["name"].clone();
                self.put("pods", pod);
                (201, Some(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})), None)
            }
            (&Method::POST, ["events"]) => {
                self.events.push(body.clone());
                (201, Some(body.clone()), None)
            }
            (&Method::PATCH, ["events", _]) => (200, Some(body.clone()), None),
            (&Method::PATCH, [_, name, ..]) => {
                let Some(mut object) = self.objects.get(&id(name)).cloned() else { return gone() };
                merge(&mut object, body);
                self.put(plural, object.clone());
                (200, Some(object), None)
            }
            (&Method::DELETE, [_, name]) => match self.remove(&id(name)) {
                Some(object) => (200, Some(object), None),
                None => gone(),
            },
            other => panic!("the fake API does not know {other:?}"),
        }
    }
}

impl Fake {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let query = parts.uri.query().unwrap_or_default().to_owned();
                let (code, object, watch) = api.0.lock().answer(&parts.method, parts.uri.path(), &query, &body);
                let body: BoxBody<Bytes, Infallible> = match watch {
                    Some(lines) => {
                        let lines = futures::stream::unfold(lines, |mut lines| async move {
                            lines.recv().await.map(|line| (line, lines))
                        });
                        BodyExt::boxed(StreamBody::new(lines.map(|l| Ok(Frame::data(Bytes::from(l))))))
                    }
                    None => Full::new(Bytes::from(object.unwrap_or_default().to_string())).boxed(),
                };
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }

    fn node(&self, node: NodeBuilder) {
        self.0.lock().put("nodes", serde_json::to_value(node.object()).unwrap());
    }

    fn pod(&self, pod: PodBuilder) {
        self.0.lock().put("pods", serde_json::to_value(pod.object()).unwrap());
    }

    fn get(&self, name: &str) -> Value {
        let id = ("pods".to_owned(), "default".to_owned(), name.to_owned());
        self.0.lock().objects.get(&id).cloned().unwrap_or_default()
    }

    async fn until<T>(&self, what: &str, mut f: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = f(self) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{what} does not happen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn bound(&self, name: &str) -> String {
        self.until(&format!("binding {name}"), |api| api.get(name)["spec"]["nodeName"].as_str().map(str::to_owned))
            .await
    }

    async fn event(&self, reason: &str) -> Value {
        self.until(&format!("event {reason}"), |api| {
            api.0.lock().events.iter().find(|e| e["reason"] == reason).cloned()
        })
        .await
    }
}

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), caravel_scheduler::Error>>,
}

impl Running {
    fn start(api: &Fake) -> Self {
        let stop = CancellationToken::new();
        let cluster = Cluster::new(api.client(), "default-scheduler");
        let config = Config { backoff: (0.2, 1.0), ..Config::default() };
        Self { task: tokio::spawn(caravel_scheduler::run(cluster, config, stop.clone())), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("it ends when told").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binds_what_is_there_and_what_comes() {
    let api = Fake::default();
    api.node(node("n1"));
    api.pod(pod("early").cpu(100));
    api.pod(pod("theirs").scheduler("another"));
    let running = Running::start(&api);
    assert_eq!(api.bound("early").await, "n1");
    api.pod(pod("late").cpu(100));
    assert_eq!(api.bound("late").await, "n1");
    let event = api.event("Scheduled").await;
    assert_eq!(event["message"], "Successfully assigned default/early to n1");
    assert_eq!(event["type"], "Normal");
    assert!(api.get("theirs")["spec"]["nodeName"].is_null());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn says_why_and_tries_again_when_it_helps() {
    let api = Fake::default();
    api.node(node("small").cpu(500));
    let running = Running::start(&api);
    api.pod(pod("big").cpu(1000));
    let condition = api
        .until("a condition", |api| api.get("big")["status"]["conditions"].as_array().and_then(|c| c.first().cloned()))
        .await;
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "Unschedulable");
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(condition["message"], message);
    assert_eq!(api.event("FailedScheduling").await["message"], message);
    api.node(node("large"));
    assert_eq!(api.bound("big").await, "large");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn makes_room_for_what_matters_more() {
    let api = Fake::default();
    api.node(node("n1").cpu(1000));
    api.pod(pod("low").cpu(800).on("n1"));
    let running = Running::start(&api);
    api.pod(pod("high").cpu(800).priority(1000));
    assert_eq!(api.bound("high").await, "n1");
    assert!(api.get("low").is_null(), "the victim went");
    assert_eq!(api.get("high")["status"]["nominatedNodeName"], "n1");
    assert_eq!(api.event("Preempted").await["involvedObject"]["name"], "low");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_binding_is_tried_again() {
    let api = Fake::default();
    api.node(node("n1").cpu(1000));
    api.0.lock().refuse_bindings = 2;
    let running = Running::start(&api);
    api.pod(pod("p").cpu(800));
    assert_eq!(api.bound("p").await, "n1");
    assert_eq!(api.0.lock().refuse_bindings, 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_bound_before_the_pod() {
    let api = Fake::default();
    api.node(node("n1"));
    {
        let mut api = api.0.lock();
        api.put("storageclasses", json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
        api.put("persistentvolumes", json!({"metadata": {"name": "v"}, "spec": {"storageClassName": "local", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}}));
        api.put("persistentvolumeclaims", json!({"metadata": {"name": "c", "namespace": "default", "uid": "u"}, "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}));
    }
    let running = Running::start(&api);
    api.pod(pod("p").claim("c"));
    let volume = ("persistentvolumes".to_owned(), String::new(), "v".to_owned());
    let reference = api
        .until("the reservation", |api| {
            let reference = api.0.lock().objects[&volume]["spec"]["claimRef"].clone();
            reference.is_object().then_some(reference)
        })
        .await;
    assert_eq!((&reference["name"], &reference["uid"]), (&json!("c"), &json!("u")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(api.get("p")["spec"]["nodeName"].is_null(), "not before the claim is bound");
    // What the volume controller does then.
    let claim = ("persistentvolumeclaims".to_owned(), "default".to_owned(), "c".to_owned());
    let mut bound = api.0.lock().objects[&claim].clone();
    bound["spec"]["volumeName"] = json!("v");
    bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    api.0.lock().put("persistentvolumeclaims", bound);
    assert_eq!(api.bound("p").await, "n1");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_pods_spread_and_nothing_is_overfilled() {
    let api = Fake::default();
    for i in 0..40 {
        api.node(node(&format!("n{i}")).cpu(5000).pods(110));
    }
    for i in 0..2000 {
        api.pod(pod(&format!("p{i}")).cpu(100).label("app", "x"));
    }
    let begun = Instant::now();
    let running = Running::start(&api);
    api.until("all bound", |api| {
        let api = api.0.lock();
        let unbound = api.objects.iter().filter(|(id, o)| id.0 == "pods" && o["spec"]["nodeName"].is_null()).count();
        (unbound == 0).then_some(())
    })
    .await;
    println!("2,000 pods bound in {:?}", begun.elapsed());
    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    for (id, o) in &api.0.lock().objects {
        if id.0 == "pods" {
            *per_node.entry(o["spec"]["nodeName"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(per_node.values().all(|n| *n == 50), "exactly full: {per_node:?}");
    running.end().await;
}
