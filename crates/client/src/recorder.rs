//! Events: short-lived records, for people, of what a component did to an object.
//!
//! Repeats within the memory of the recorder raise `count` on the same Event object. A source that will
//! not stop about one object is cut off by a token bucket (25 at once, then one every 5 minutes), as upstream does.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events waiting to be written; more are dropped, since an event must never hold up the work it tells of.
const QUEUE: usize = 1024;
/// Distinct events remembered for counting repeats.
const REMEMBERED: usize = 4096;
/// Events about one object that may be written at once.
const BURST: f64 = 25.0;
/// One more event about an object is allowed after this long.
const REFILL: Duration = Duration::from_secs(300);

/// Different notes about one thing after which further ones become one event, and how long that is remembered.
const SIMILAR: usize = 10;
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// What the notes of such an event begin with (upstream's words; people search for them).
const COMBINED: &str = "(combined from similar events): ";

/// A reference to `object` as events and owner fields carry it.
pub fn object_ref<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    about: (String, String, String, String, String),
    type_: String,
    reason: String,
    note: String,
}

struct Report {
    about: ObjectReference,
    type_: String,
    reason: String,
    action: String,
    note: String,
    at: Timestamp,
}

/// Writes Events in the background. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    reports: mpsc::Sender<Report>,
}

impl Recorder {
    pub(crate) fn start(client: kube::Client, component: &str, host: Option<&str>, stop: CancellationToken) -> Self {
        let (reports, mut inbox) = mpsc::channel::<Report>(QUEUE);
        let mut writer = Writer::new(client, component, host);
        tokio::spawn(async move {
            loop {
                let report = tokio::select! { _ = stop.cancelled() => return, r = inbox.recv() => r };
                let Some(report) = report else { return };
                if let Err(error) = writer.write(report).await {
                    tracing::debug!(%error, "an event could not be written");
                }
            }
        });
        Recorder { reports }
    }

    /// Reports that something happened to `about`. `type_` is `Normal` or `Warning`; `reason` is a CamelCase
    /// word for machines, `note` a sentence for people. Never waits: when the queue is full the event is lost.
    pub fn event(&self, about: &ObjectReference, type_: &str, reason: &str, action: &str, note: &str) {
        let report = Report {
            about: about.clone(),
            type_: type_.into(),
            reason: reason.into(),
            action: action.into(),
            // The API refuses longer ones.
            note: note.chars().take(1024).collect(),
            at: Timestamp::now(),
        };
        if self.reports.try_send(report).is_err() {
            tracing::debug!(reason, "the event queue is full; one event was dropped");
        }
    }
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

struct Writer {
    client: kube::Client,
    component: String,
    host: String,
    known: HashMap<Identity, (String, i32)>,
    order: VecDeque<Identity>,
    /// Notes about the same thing, by identity without note, and when the last one came.
    similar: HashMap<Identity, (HashSet<String>, Instant)>,
    buckets: HashMap<String, Bucket>,
}

impl Writer {
    fn new(client: kube::Client, component: &str, host: Option<&str>) -> Self {
        let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let host = host.map_or_else(machine, str::to_owned);
        Writer {
            client,
            component: component.to_owned(),
            host,
            known: HashMap::new(),
            order: VecDeque::new(),
            similar: HashMap::new(),
            buckets: HashMap::new(),
        }
    }

    async fn write(&mut self, mut report: Report) -> Result<(), kube::Error> {
        let uid = report.about.uid.clone().unwrap_or_default();
        if !self.allowed(&uid) {
            return Ok(());
        }
        let namespace = report.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api = kube::Api::<Event>::namespaced(self.client.clone(), &namespace);
        let mut identity = identity(&report);
        if self.combines(&identity) {
            // One event for all of them, which shows the newest note.
            identity.note = COMBINED.to_owned();
            report.note = COMBINED.chars().chain(report.note.chars()).take(1024).collect();
        }
        if let Some((name, count)) = self.known.get_mut(&identity) {
            *count += 1;
            let patch = serde_json::json!({"count": *count, "lastTimestamp": Time(report.at), "message": report.note});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Err(e) if crate::status_code(&e) == Some(404) => {}
                other => return other.map(|_| ()),
            }
        }
        let event = self.event(report, &namespace);
        let made = api.create(&PostParams::default(), &event).await?;
        self.remember(identity, made.metadata.name.unwrap_or_default());
        Ok(())
    }

    /// Whether there were so many different notes about the same thing that further ones are one event.
    fn combines(&mut self, identity: &Identity) -> bool {
        let now = Instant::now();
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, (_, at)| now - *at < SIMILAR_FOR);
        }
        let key = Identity { note: String::new(), ..identity.clone() };
        let (notes, at) = self.similar.entry(key).or_insert_with(|| (HashSet::new(), now));
        if now - *at >= SIMILAR_FOR {
            notes.clear();
        }
        *at = now;
        if notes.len() < SIMILAR || notes.contains(&identity.note) {
            notes.insert(identity.note.clone());
            return false;
        }
        true
    }

    fn event(&self, report: Report, namespace: &str) -> Event {
        let time = Time(report.at);
        let name = format!(
            "{}.{:x}",
            report.about.name.as_deref().unwrap_or("unknown"),
            report.at.as_nanosecond() as u64 ^ u64::from(rand::random::<u16>())
        );
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.into()), ..Default::default() },
            involved_object: report.about,
            type_: Some(report.type_),
            reason: Some(report.reason),
            action: Some(report.action).filter(|a| !a.is_empty()),
            message: Some(report.note),
            count: Some(1),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            reporting_component: Some(self.component.clone()),
            source: Some(EventSource { component: Some(self.component.clone()), host: Some(self.host.clone()) }),
            ..Default::default()
        }
    }

    fn remember(&mut self, identity: Identity, name: String) {
        if self.known.insert(identity.clone(), (name, 1)).is_none() {
            self.order.push_back(identity);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn allowed(&mut self, uid: &str) -> bool {
        let now = Instant::now();
        if self.buckets.len() > REMEMBERED {
            self.buckets.retain(|_, b| b.tokens + refill(now - b.at) < BURST);
        }
        let bucket = self.buckets.entry(uid.to_owned()).or_insert(Bucket { tokens: BURST, at: now });
        bucket.tokens = (bucket.tokens + refill(now - bucket.at)).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn refill(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() / REFILL.as_secs_f64()
}

fn identity(report: &Report) -> Identity {
    let a = &report.about;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    Identity {
        about: (text(&a.kind), text(&a.namespace), text(&a.name), text(&a.uid), text(&a.field_path)),
        type_: report.type_.clone(),
        reason: report.reason.clone(),
        note: report.note.clone(),
    }
}
