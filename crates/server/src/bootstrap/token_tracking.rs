//! Says since when uses of tokens in Secrets are noted: a ConfigMap in `kube-system` with a day, which the cleaner of unused
//! tokens reads (KEP-2799). Who deletes it makes the count begin anew.

use crate::authn::UserInfo;
use crate::follow::{self, Follower};
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry, keys};
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use caravel_store::{Entry, Event, EventKind};
use jiff::civil::Date;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// It is made no more often than this: a server that does not note uses deletes it.
const PAUSE: Duration = Duration::from_secs(30 * 60);

/// Makes the ConfigMap, and keeps it.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    let kind = server.registry.row("", "configmaps")?;
    let keeper = Arc::new(Keeper {
        registry: server.registry.clone(),
        kind: kind.clone(),
        call: Call::new(Arc::new(UserInfo::system_masters("system:apiserver")), "kube-apiserver"),
        stop: server.stop.clone(),
        made: parking_lot::Mutex::new(None),
    });
    follow::within(&server.registry, &kind, NAMESPACE, Tracking(keeper), &server.stop).await
}

struct Tracking(Arc<Keeper>);

struct Keeper {
    registry: Arc<Registry>,
    kind: Arc<Kind>,
    call: Call,
    stop: CancellationToken,
    made: parking_lot::Mutex<Option<Instant>>,
}

impl Follower for Tracking {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        match entries.iter().find(|entry| keys::split(&entry.key).1 == NAME) {
            Some(entry) => self.0.check(entry).await,
            None => Arc::clone(&self.0).make(),
        }
        Ok(())
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        for event in events.iter().filter(|event| keys::split(&event.entry.key).1 == NAME) {
            match event.kind {
                EventKind::Deleted => Arc::clone(&self.0).make(),
                _ => self.0.check(&event.entry).await,
            }
        }
    }
}

impl Keeper {
    fn today(&self) -> String {
        self.registry.clock.now().strftime("%Y-%m-%d").to_string()
    }

    /// Makes it when it may be made again. In a task of its own, for that may be later.
    fn make(self: Arc<Self>) {
        let now = Instant::now();
        let wait = {
            let mut made = self.made.lock();
            let wait = made.map_or(Duration::ZERO, |at| (at + PAUSE).saturating_duration_since(now));
            *made = Some(now + wait);
            wait
        };
        tokio::spawn(async move {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let map = json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": {"since": self.today()}});
            let options = WriteOptions::default();
            match self.registry.create(&self.call, &self.kind, NAMESPACE, "", map, &options).await {
                Err(error) if error.code != 409 => {
                    tracing::warn!(%error, "it cannot be said since when uses of tokens are noted");
                }
                _ => {}
            }
        });
    }

    /// A day that cannot be read becomes today.
    async fn check(&self, entry: &Entry) {
        let bad = |map: &Value| {
            let since = map.pointer("/data/since").and_then(Value::as_str).unwrap_or_default();
            since.parse::<Date>().is_err()
        };
        match self.registry.parse(&self.kind, entry) {
            Ok(map) if bad(&map) => {}
            _ => return,
        }
        let today = self.today();
        let change = Change::With(Box::new(move |map: &mut Value| {
            if bad(map) {
                map["data"]["since"] = json!(today);
            }
            Ok(())
        }));
        let options = WriteOptions::default();
        let update =
            Update { kind: &self.kind, namespace: NAMESPACE, name: NAME, subresource: "", change, options: &options };
        if let Err(error) = self.registry.update(&self.call, update).await
            && !matches!(error.code, 404 | 409)
        {
            tracing::warn!(%error, "it cannot be said since when uses of tokens are noted");
        }
    }
}
