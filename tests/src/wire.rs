//! A blocking client of plain JSON over one kept connection: what most tests ask the cluster with, since a kubectl for
//! every question costs a process and its discovery.

use crate::{Answer, Raw};
use http_body_util::BodyExt;
use serde_json::Value;
use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

/// Everything asynchronous of a test's blocking clients runs here.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

/// Runs a future to its end from any thread, also from one that drives another runtime.
pub fn block_on<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (tell, hear) = channel();
    RUNTIME.spawn(async move {
        let _ = tell.send(future.await);
    });
    hear.recv().expect("the task did not panic")
}

/// Where a kind's objects are served.
#[derive(Clone, Debug)]
struct Place {
    prefix: String,
    plural: String,
    shown: String,
    namespaced: bool,
}

/// A client; clones share the connection.
#[derive(Clone)]
pub struct Wire {
    raw: Raw,
    places: Arc<Mutex<HashMap<String, Place>>>,
}

impl Wire {
    /// As the user of this kubeconfig.
    pub fn new(kubeconfig: &Path) -> Wire {
        let path = kubeconfig.to_owned();
        Wire::with(block_on(crate::client(path)))
    }

    /// Through this client. It must have been made with [`block_on`]: its connection lives on that runtime.
    pub fn with(client: kube::Client) -> Wire {
        Wire { raw: Raw::with(client), places: Arc::default() }
    }

    /// Sends these bytes and returns the answer, whatever its status.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let raw = self.raw.clone();
        let (method, path) = (method.to_owned(), path.to_owned());
        let headers: Vec<(String, String)> = headers.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        block_on(async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            raw.send(&method, &path, &headers, body).await
        })
    }

    /// The client beneath, whose connection lives on [`block_on`]'s runtime.
    pub fn client(&self) -> kube::Client {
        self.raw.client()
    }

    /// GET of what is text and no JSON, such as a log.
    pub fn text(&self, path: &str) -> Result<String, String> {
        let (client, request) = (self.client(), http::Request::get(path).body(vec![]).expect("a request"));
        block_on(async move { client.request_text(request).await.map_err(|e| e.to_string()) })
    }

    fn json(&self, method: &str, path: &str, kind: &str, body: &Value) -> Answer {
        self.send(method, path, &[("content-type", kind)], body.to_string().into_bytes())
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], vec![])
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, "application/json", body)
    }

    /// PUT of JSON.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, "application/json", body)
    }

    /// A merge patch.
    pub fn merge(&self, path: &str, body: &Value) -> Answer {
        self.json("PATCH", path, "application/merge-patch+json", body)
    }

    /// A strategic merge patch.
    pub fn strategic(&self, path: &str, body: &Value) -> Answer {
        self.json("PATCH", path, "application/strategic-merge-patch+json", body)
    }

    /// A JSON patch.
    pub fn json_patch(&self, path: &str, body: &Value) -> Answer {
        self.json("PATCH", path, "application/json-patch+json", body)
    }

    /// Server-side apply; `path` carries `fieldManager` and, where wanted, `force`.
    pub fn server_side_apply(&self, path: &str, body: &Value) -> Answer {
        self.json("PATCH", path, "application/apply-patch+yaml", body)
    }

    /// DELETE, without options.
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], vec![])
    }

    /// DELETE with `DeleteOptions`.
    pub fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.json("DELETE", path, "application/json", options)
    }

    /// Opens a watch: `path` carries `watch=true` and the rest of its query.
    pub fn watch(&self, path: &str) -> Watch {
        let (tell, events) = channel();
        let client = self.raw.client();
        let request = http::Request::get(path).body(kube::client::Body::empty()).expect("a request");
        let task = RUNTIME.spawn(async move {
            let response = match client.send(request).await {
                Ok(response) => response,
                Err(e) => panic!("watch: {e}"),
            };
            let mut body = response.into_body();
            let mut buffer = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                let Some(data) = frame.data_ref() else { continue };
                buffer.extend_from_slice(data);
                while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
                    if tell.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Watch { events, task }
    }

    /// The path of an object named as kubectl does, `pod/x` or `deployments.apps/x`; none if no such kind is served.
    pub fn path(&self, namespace: &str, what: &str) -> Option<String> {
        let (kind, name) = what.split_once('/')?;
        Some(format!("{}/{name}", self.collection(namespace, kind)?))
    }

    /// The path of a kind's collection, named by its plural, singular or short name, or by plural.group.
    pub fn collection(&self, namespace: &str, kind: &str) -> Option<String> {
        let place = self.place(kind)?;
        Some(match place.namespaced {
            true => format!("{}/namespaces/{namespace}/{}", place.prefix, place.plural),
            false => format!("{}/{}", place.prefix, place.plural),
        })
    }

    /// Creates an object, or each of a `List`, and says so in kubectl's words.
    pub fn create(&self, namespace: &str, object: &Value) -> Result<String, String> {
        if let Some(items) = object["items"].as_array().filter(|_| object["kind"] == "List") {
            return items.iter().map(|i| self.create(namespace, i)).collect();
        }
        let version = object["apiVersion"].as_str().ok_or("no apiVersion")?;
        let kind = object["kind"].as_str().ok_or("no kind")?;
        let place = self.place(&format!("{kind}@{version}")).ok_or(format!("no kind {kind} in {version}"))?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
        let path = match place.namespaced {
            true => format!("{}/namespaces/{namespace}/{}", place.prefix, place.plural),
            false => format!("{}/{}", place.prefix, place.plural),
        };
        match self.post(&path, object) {
            (201, made) => {
                Ok(format!("{}/{} created\n", place.shown, made["metadata"]["name"].as_str().unwrap_or_default()))
            }
            (_, status) => Err(error_line(&status)),
        }
    }

    fn place(&self, name: &str) -> Option<Place> {
        if let Some(place) = self.places.lock().unwrap().get(name) {
            return Some(place.clone());
        }
        let places = self.discover();
        let place = places.get(name).cloned();
        *self.places.lock().unwrap() = places;
        place
    }

    fn discover(&self) -> HashMap<String, Place> {
        let accept = [("accept", "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io")];
        let mut places = HashMap::new();
        for root in ["/api", "/apis"] {
            let (_, groups) = self.send("GET", root, &accept, vec![]);
            for group in groups["items"].as_array().into_iter().flatten() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for version in group["versions"].as_array().into_iter().flatten() {
                    discover_version(name, version, &mut places);
                }
            }
        }
        places
    }
}

fn discover_version(group: &str, version: &Value, places: &mut HashMap<String, Place>) {
    let v = version["version"].as_str().unwrap_or_default();
    let full = if group.is_empty() { v.to_owned() } else { format!("{group}/{v}") };
    let prefix = if group.is_empty() { format!("/api/{v}") } else { format!("/apis/{full}") };
    for r in version["resources"].as_array().into_iter().flatten() {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (plural, singular) = (text(&r["resource"]), text(&r["singularResource"]));
        let shown = if group.is_empty() { singular.clone() } else { format!("{singular}.{group}") };
        let namespaced = r["scope"] == "Namespaced";
        let place = Place { prefix: prefix.clone(), plural: plural.clone(), shown, namespaced };
        let mut names = vec![plural.clone(), singular, format!("{plural}.{group}")];
        names.push(format!("{}@{full}", text(&r["responseKind"]["kind"])));
        names.extend(r["shortNames"].as_array().into_iter().flatten().map(text));
        for name in names {
            places.entry(name).or_insert_with(|| place.clone());
        }
    }
}

/// A refusal as kubectl prints it.
pub fn error_line(status: &Value) -> String {
    let said = status["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    format!("Error from server ({}): {said}\n", status["reason"].as_str().unwrap_or("unknown"))
}

/// A watch that runs in the background; ended when dropped.
pub struct Watch {
    events: Receiver<Value>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// The next event, as `{"type":…,"object":…}`, within this time; none after it, or when the server ended the watch.
    pub fn next(&self, within: Duration) -> Option<Value> {
        self.events.recv_timeout(within).ok()
    }

    /// Reads on until an event is wanted; panics with those that were not when [`crate::PATIENCE`] runs out.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        let mut seen = vec![];
        while let Some(event) = self.next(crate::PATIENCE.saturating_sub(start.elapsed())) {
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
        panic!("the watch did not show {what}; it showed {seen:#?}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What `{.a.b[0].c}` picks, printed as kubectl does; none for a path that only kubectl understands.
pub fn json_path(object: &Value, path: &str) -> Option<String> {
    let inner = path.strip_prefix("{.")?.strip_suffix('}')?;
    if inner.contains(['*', '?', '@', '{', '"', '\'', ' ']) || inner.contains("..") {
        return None;
    }
    let mut at = object;
    for part in inner.replace("\\.", "\0").split('.') {
        let part = part.replace('\0', ".");
        let (name, indices) = part.split_once('[').map_or((part.as_str(), None), |(n, i)| (n, Some(i)));
        at = &at[name];
        for index in indices.into_iter().flat_map(|i| i.split('[')) {
            at = &at[index.strip_suffix(']')?.parse::<usize>().ok()?];
        }
    }
    Some(match at {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::json_path;
    use serde_json::json;

    #[test]
    fn paths_pick_what_kubectl_picks() {
        let o = json!({"a":{"b":[{"c":"x"},{"c":2}],"k.io/n":"y"}});
        assert_eq!(json_path(&o, "{.a.b[1].c}").as_deref(), Some("2"));
        assert_eq!(json_path(&o, "{.a.k\\.io/n}").as_deref(), Some("y"));
        assert_eq!(json_path(&o, "{.a.none.c}").as_deref(), Some(""));
        assert_eq!(json_path(&o, "{.a.b[*].c}"), None);
    }
}
