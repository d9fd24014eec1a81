//! Objects of one kind over the wire: the verbs of the API, watches, and waiting for a state.

use crate::{Answer, Namespace, PATIENCE, Watch, Wire};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};

/// One collection of the API, e.g. the Deployments of a namespace.
#[derive(Clone)]
pub struct Objects {
    wire: Wire,
    /// `/apis/apps/v1`.
    root: String,
    plural: String,
    namespace: Option<String>,
}

impl Namespace {
    /// The objects of a kind in this namespace: `objects("apps/v1", "deployments")`.
    pub fn objects(&self, version: &str, plural: &str) -> Objects {
        Objects::new(self, version, plural, Some(self.name.clone()))
    }

    /// The objects of a kind in the whole cluster.
    pub fn cluster_objects(&self, version: &str, plural: &str) -> Objects {
        Objects::new(self, version, plural, None)
    }
}

impl Objects {
    fn new(ns: &Namespace, version: &str, plural: &str, namespace: Option<String>) -> Objects {
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        Objects { wire: ns.wire().clone(), root, plural: plural.to_owned(), namespace }
    }

    /// The same kind in all namespaces.
    pub fn everywhere(&self) -> Objects {
        Objects { namespace: None, ..self.clone() }
    }

    /// The same kind in another namespace.
    pub fn in_namespace(&self, name: &str) -> Objects {
        Objects { namespace: Some(name.to_owned()), ..self.clone() }
    }

    /// Another kind or version with the same client and namespace.
    pub fn kind(&self, version: &str, plural: &str) -> Objects {
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        Objects { root, plural: plural.to_owned(), ..self.clone() }
    }

    fn path(&self, rest: &str) -> String {
        let base = match &self.namespace {
            Some(ns) => format!("{}/namespaces/{ns}/{}", self.root, self.plural),
            None => format!("{}/{}", self.root, self.plural),
        };
        match rest {
            "" => base,
            query if query.starts_with('?') => format!("{base}{query}"),
            name => format!("{base}/{name}"),
        }
    }

    /// A request whose answer may be a refusal; `rest` is `name`, `name/subresource` or `?query`.
    pub fn send(&self, method: &str, rest: &str, media: &str, body: Option<&Value>) -> Answer {
        let bytes = body.map_or_else(Vec::new, |b| b.to_string().into_bytes());
        self.wire.send(method, &self.path(rest), &[("content-type", media)], bytes)
    }

    fn must(&self, method: &str, rest: &str, media: &str, body: Option<&Value>) -> Value {
        let (code, answer) = self.send(method, rest, media, body);
        assert!((200..300).contains(&code), "{method} {}: {code} {answer}", self.path(rest));
        answer
    }

    /// POST that must succeed.
    pub fn create(&self, body: &Value) -> Value {
        self.must("POST", "", "application/json", Some(body))
    }

    /// POST that may be refused.
    pub fn try_create(&self, body: &Value) -> Answer {
        self.send("POST", "", "application/json", Some(body))
    }

    /// POST to a subresource.
    pub fn post(&self, rest: &str, body: &Value) -> Answer {
        self.send("POST", rest, "application/json", Some(body))
    }

    /// GET of an object or subresource, which must be there.
    pub fn get(&self, rest: &str) -> Value {
        self.must("GET", rest, "application/json", None)
    }

    /// GET that may be refused.
    pub fn try_get(&self, rest: &str) -> Answer {
        self.send("GET", rest, "application/json", None)
    }

    /// PUT that must succeed.
    pub fn put(&self, rest: &str, body: &Value) -> Value {
        self.must("PUT", rest, "application/json", Some(body))
    }

    /// Reads, changes and writes back until no other writer came between.
    pub fn update(&self, rest: &str, mut change: impl FnMut(&mut Value)) -> Value {
        loop {
            let mut object = self.get(rest);
            change(&mut object);
            match self.send("PUT", rest, "application/json", Some(&object)) {
                (200, now) => return now,
                (409, _) => {}
                (code, said) => panic!("PUT {}: {code} {said}", self.path(rest)),
            }
        }
    }

    /// A merge patch that must succeed.
    pub fn merge(&self, rest: &str, patch: &Value) -> Value {
        self.must("PATCH", rest, "application/merge-patch+json", Some(patch))
    }

    /// A strategic merge patch that must succeed.
    pub fn strategic(&self, rest: &str, patch: &Value) -> Value {
        self.must("PATCH", rest, "application/strategic-merge-patch+json", Some(patch))
    }

    /// A JSON patch that must succeed.
    pub fn json_patch(&self, rest: &str, patch: &Value) -> Value {
        self.must("PATCH", rest, "application/json-patch+json", Some(patch))
    }

    /// DELETE that must succeed.
    pub fn delete(&self, name: &str) -> Value {
        self.must("DELETE", name, "application/json", None)
    }

    /// DELETE that must succeed, with options.
    pub fn delete_with(&self, name: &str, options: &Value) -> Value {
        self.must("DELETE", name, "application/json", Some(options))
    }

    /// DELETE of all that a label selector selects.
    pub fn delete_collection(&self, labels: &str) -> Value {
        self.must("DELETE", &selecting(labels), "application/json", None)
    }

    /// The objects that a label selector selects.
    pub fn list(&self, labels: &str) -> Vec<Value> {
        let list = self.must("GET", &selecting(labels), "application/json", None);
        list["items"].as_array().cloned().unwrap_or_else(|| panic!("a list has items: {list}"))
    }

    /// The present revision of the collection.
    pub fn revision(&self) -> String {
        let list = self.must("GET", "?limit=1", "application/json", None);
        list["metadata"]["resourceVersion"].as_str().expect("a list has a revision").to_owned()
    }

    /// Watches what a label selector selects, from a revision on.
    pub fn watch(&self, labels: &str, from: &str) -> Events {
        let query = selecting(labels);
        let path = self.path(&format!("{query}&watch=true&resourceVersion={from}&timeoutSeconds=120"));
        Events { watch: self.wire.watch(&path), seen: Vec::new() }
    }

    /// Waits until the object is as wanted; panics with its last state.
    pub fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.eventually(&format!("{name}: {what}"), || {
            let (code, now) = self.try_get(name);
            if code == 200 && wanted(&now) { Ok(now) } else { Err(format!("{code} {now}")) }
        })
    }

    /// Waits until the object is gone.
    pub fn until_gone(&self, name: &str) {
        self.eventually(&format!("{name} is gone"), || match self.try_get(name) {
            (404, _) => Ok(()),
            (code, now) => Err(format!("{code} {now}")),
        });
    }

    /// Waits until a selection is as wanted.
    pub fn until_all<T>(&self, labels: &str, what: &str, wanted: impl Fn(&[Value]) -> Option<T>) -> T {
        self.eventually(what, || {
            let all = self.list(labels);
            wanted(&all).ok_or_else(|| {
                let short = |o: &Value| json!({"metadata": {"name": o["metadata"]["name"], "labels": o["metadata"]["labels"], "deletionTimestamp": o["metadata"]["deletionTimestamp"], "ownerReferences": o["metadata"]["ownerReferences"]}, "status": o["status"]}).to_string();
                all.iter().map(short).collect::<Vec<_>>().join("\n")
            })
        })
    }

    /// Tries until it succeeds.
    pub fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(value) => return value,
                Err(last) if start.elapsed() > PATIENCE => {
                    let events = self.kind("v1", "events").list("");
                    let text = |e: &Value| format!("{} {} {}", e["involvedObject"]["name"], e["reason"], e["message"]);
                    let events: Vec<_> = events.iter().map(text).collect();
                    panic!("{what}: not within {} s: {last}\n{}", PATIENCE.as_secs(), events.join("\n"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// The query of a label selector.
fn selecting(labels: &str) -> String {
    let escaped = labels.replace('=', "%3D").replace(',', "%2C").replace(' ', "%20");
    format!("?labelSelector={escaped}")
}

/// One open watch, event by event.
pub struct Events {
    watch: Watch,
    seen: Vec<String>,
}

impl Events {
    /// The next event; bookmarks are left out.
    pub fn advance(&mut self) -> (String, Value) {
        loop {
            let Some(mut event) = self.watch.next(PATIENCE) else {
                panic!("the watch told no more after {:#?}", self.seen);
            };
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            if kind != "BOOKMARK" {
                let object = event["object"].take();
                self.seen
                    .push(format!("{kind} {} @{}", object["metadata"]["name"], object["metadata"]["resourceVersion"]));
                return (kind, object);
            }
        }
    }

    /// Reads until an event of this type is as wanted.
    pub fn until(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (type_, object) = self.advance();
            if type_ == kind && wanted(&object) {
                return object;
            }
        }
    }
}

/// The status of a condition: `condition(&pod, "Ready")`, empty when there is none.
pub fn condition<'a>(object: &'a Value, type_: &str) -> &'a str {
    condition_of(object, type_).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// A whole condition.
pub fn condition_of<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)
}

/// The name of an object.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// A pod template of one sleeping busybox, with a label `app`.
pub fn sleeper(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"]}],
        },
    })
}

/// A pod of this template.
pub fn pod_of(name: &str, template: &Value) -> Value {
    let mut pod = template.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod
}

/// What the suite demands of the status of every workload: read, replaced and patched through its subresource, each change told to a
/// watch, while the spec stays.
pub fn status_endpoints(objects: &Objects, name: &str, labels: &str) {
    let status = format!("{name}/status");
    let read = objects.get(&status);
    assert_eq!(name_of(&read), name);
    let mut watch = objects.watch(labels, read["metadata"]["resourceVersion"].as_str().unwrap());
    let has = |type_: &'static str, reason: &'static str| {
        move |o: &Value| condition_of(o, type_).is_some_and(|c| c["status"] == "True" && c["reason"] == reason)
    };
    let replicas = read["spec"]["replicas"].clone();
    let updated = objects.update(&status, |o| {
        let new = json!({"type": "StatusUpdate", "status": "True", "reason": "Ours", "message": "set by a test"});
        let conditions = &mut o["status"]["conditions"];
        match conditions.as_array_mut() {
            Some(all) => all.push(new),
            None => *conditions = json!([new]),
        }
        // A write to the status leaves the spec alone.
        o["spec"]["replicas"] = json!(77);
    });
    assert!(has("StatusUpdate", "Ours")(&updated), "{updated}");
    let seen = watch.until("MODIFIED", has("StatusUpdate", "Ours"));
    assert_eq!(seen["spec"]["replicas"], replicas);
    let patch = json!({"metadata": {"annotations": {"patched": "status"}}, "status": {"conditions": [
        {"type": "StatusPatched", "status": "True", "reason": "Patched", "message": "patched by a test"}]}});
    let patched = objects.merge(&status, &patch);
    assert_eq!(patched["metadata"]["annotations"]["patched"], "status");
    let seen = watch.until("MODIFIED", has("StatusPatched", "Patched"));
    assert!(condition_of(&seen, "StatusUpdate").is_none(), "a merge patch replaces the list: {seen}");
}

/// What the suite demands of every workload's list: found by label in its namespace and in all of them, and deleted by label, those alone.
pub fn list_and_delete_collection(objects: &Objects, make: impl Fn(&str) -> Value, label: &str) {
    for name in ["one", "two", "other"] {
        let mut object = make(name);
        if name != "other" {
            let (key, value) = label.split_once('=').unwrap();
            object["metadata"]["labels"][key] = json!(value);
        }
        objects.create(&object);
    }
    assert_eq!(objects.list(label).len(), 2);
    assert_eq!(objects.everywhere().list(label).len(), 2);
    let from = objects.revision();
    let mut watch = objects.watch(label, &from);
    objects.delete_collection(label);
    for _ in 0..2 {
        watch.until("DELETED", |_| true);
    }
    assert!(objects.list(label).is_empty());
    assert_eq!(objects.get("other")["metadata"]["name"], "other");
}

/// What the suite demands of the scale of every workload: read, replaced, patched.
pub fn scale_endpoints(objects: &Objects, name: &str, selector: &str) {
    let at = format!("{name}/scale");
    let mut scale = objects.get(&at);
    assert_eq!((scale["kind"].as_str(), scale["apiVersion"].as_str()), (Some("Scale"), Some("autoscaling/v1")));
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"]["selector"], selector);
    let stale = scale.clone();
    scale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    scale["spec"]["replicas"] = json!(2);
    let now = objects.put(&at, &scale);
    assert_eq!(now["spec"]["replicas"], 2);
    assert_eq!(objects.get(name)["spec"]["replicas"], 2);
    let (code, said) = objects.send("PUT", &at, "application/json", Some(&stale));
    assert_eq!((code, said["reason"].as_str()), (409, Some("Conflict")), "an old revision is refused: {said}");
    let patched = objects.merge(&at, &json!({"spec": {"replicas": 3}}));
    assert_eq!(patched["spec"]["replicas"], 3);
    objects.until(name, "three replicas", |o| o["spec"]["replicas"] == 3 && o["status"]["replicas"] == 3);
    objects.until(&at, "three in status", |o| o["status"]["replicas"] == 3);
    let (code, said) = objects.send(
        "PUT",
        &at,
        "application/json",
        Some(&{
            let mut bad = now.clone();
            bad["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            bad["spec"]["replicas"] = json!(-1);
            bad
        }),
    );
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
}

/// The time so many seconds ago, as objects carry it (RFC 3339).
pub fn rfc3339_ago(seconds: u64) -> String {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    let unix = then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let (days, rest) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // The civil date of a day number (proleptic Gregorian calendar).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}
