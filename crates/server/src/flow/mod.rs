//! API priority and fairness (KEP-1040): how much is served at a time, and for whom room is kept.
//!
//! FlowSchemas say which priority level a request belongs to ([`config`]), a level has a share of the seats and lends what
//! it does not use, and within a level flows wait in fair queues ([`level`]), so that who floods the server waits behind
//! itself. Who waits too long, or finds its queue full, is sent away with 429 and `Retry-After`.
//!
//! Long-running requests (watches, exec and their like) take no seat; how many are open is limited by itself.

pub mod config;
pub mod cost;
pub mod level;

use crate::authn::{GROUP_MASTERS, GROUP_NODES, UserInfo};
use crate::request_info::RequestInfo;
use caravel_api::status::ApiError;
use config::{Limits, Schema};
use http::HeaderMap;
use http::header::HeaderValue;
use level::{Answer, Level};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The level of requests that nothing else claims.
pub const CATCH_ALL: &str = "catch-all";
/// How long a request may wait for a seat.
const PATIENCE: Duration = Duration::from_secs(15);

struct State {
    schemas: BTreeMap<String, Arc<Schema>>,
    /// The schemas by precedence, then name.
    order: Vec<Arc<Schema>>,
    levels: BTreeMap<String, Level>,
    next: u64,
}

/// Room for requests.
pub struct Flow {
    state: Mutex<State>,
    seats: u32,
    patience: Duration,
    long: Arc<Semaphore>,
    long_other: Arc<Semaphore>,
}

/// Which schema and level a request fell to.
#[derive(Clone, Debug, Default)]
pub struct Class {
    /// The schema's uid, for the answer's header.
    pub schema_uid: Arc<str>,
    /// The level's uid.
    pub level_uid: Arc<str>,
    level: Arc<str>,
    flow: u64,
}

impl Class {
    /// Says in an answer where its request fell to.
    pub fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level_uid),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                headers.insert(name, value);
            }
        }
    }
}

/// Room that a request holds; it is given back when this is dropped.
#[allow(dead_code)]
pub struct Room {
    seat: Option<Seat>,
    #[allow(dead_code)]
    long: [Option<OwnedSemaphorePermit>; 2],
}

/// A seat, or a place in a queue.
struct Seat {
    flow: Arc<Flow>,
    level: Arc<str>,
    /// How many seats it takes.
    width: u32,
    /// The place in the queue while it waits.
    waiting: Option<u64>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.flow.state.lock();
        let left = self.waiting.is_some_and(|id| state.levels.get_mut(&*self.level).is_some_and(|l| l.leave(id)));
        if !left {
            if let Some(level) = state.levels.get_mut(&*self.level) {
                level.release(self.width);
            }
            serve_waiting(&mut state, self.flow.seats);
        }
        state.levels.retain(|_, level| !level.is_done());
    }
}

/// Gives free seats to those who wait, level by level, as long as any can have one.
fn serve_waiting(state: &mut State, seats: u32) {
    loop {
        let names: Vec<String> =
            state.levels.iter().filter(|(_, level)| level.waits()).map(|(name, _)| name.clone()).collect();
        let mut served = false;
        for name in names {
            let Some(width) = state.levels.get(&name).and_then(Level::next_width) else { continue };
            if may_sit(&state.levels, &name, seats, width)
                && let Some(level) = state.levels.get_mut(&name)
            {
                served |= level.serve_one();
            }
        }
        if !served {
            return;
        }
    }
}

/// Whether a level may take `width` more seats: within its share always, beyond it from what others lend and do not use.
/// Who is alone on a level may sit however wide, as it would never get through otherwise.
fn may_sit(levels: &BTreeMap<String, Level>, name: &str, seats: u32, width: u32) -> bool {
    let Some(own) = levels.get(name) else { return true };
    let wanted = own.used().saturating_add(width);
    if wanted <= own.nominal() || (own.used() == 0 && own.nominal() > 0) {
        return true;
    }
    if wanted > own.most() {
        return false;
    }
    let used: u32 = levels.values().filter(|l| l.counts()).map(Level::used).sum();
    // What others keep for themselves stays theirs.
    let kept: u32 = levels
        .iter()
        .filter(|(other, level)| other.as_str() != name && level.counts())
        .map(|(_, level)| level.kept().saturating_sub(level.used()))
        .sum();
    used + kept + width <= seats
}

impl Flow {
    /// Room for `most` requests, and for `most_long` long-running ones, with the levels and schemas that a cluster is born
    /// with.
    pub fn new(most: usize, most_long: usize) -> Arc<Self> {
        let flow = Self::with(most, most_long, PATIENCE);
        for level in crate::bootstrap::flow_objects::levels() {
            flow.put_level(&level);
        }
        for schema in crate::bootstrap::flow_objects::schemas() {
            flow.put_schema(&schema);
        }
        flow
    }

    fn with(most: usize, most_long: usize, patience: Duration) -> Arc<Self> {
        let state = State { schemas: BTreeMap::new(), order: vec![], levels: BTreeMap::new(), next: 0 };
        Arc::new(Self {
            state: Mutex::new(state),
            seats: u32::try_from(most.max(1)).unwrap_or(u32::MAX),
            patience,
            long: Arc::new(Semaphore::new(most_long.max(1))),
            long_other: Arc::new(Semaphore::new((most_long * 4 / 5).max(1))),
        })
    }

    /// Takes in a FlowSchema.
    pub fn put_schema(&self, object: &Value) {
        let schema = Arc::new(Schema::read(object));
        let mut state = self.state.lock();
        state.schemas.insert(schema.name.clone(), schema);
        order(&mut state);
    }

    /// Forgets a FlowSchema.
    pub fn remove_schema(&self, name: &str) {
        let mut state = self.state.lock();
        state.schemas.remove(name);
        order(&mut state);
    }

    /// Takes in a PriorityLevelConfiguration.
    pub fn put_level(&self, object: &Value) {
        let limits = Limits::read(object);
        let mut state = self.state.lock();
        match state.levels.get_mut(&limits.name) {
            Some(level) => level.configure(limits),
            None => drop(state.levels.insert(limits.name.clone(), Level::new(limits))),
        }
        share(&mut state, self.seats);
        serve_waiting(&mut state, self.seats);
    }

    /// Forgets a PriorityLevelConfiguration; who sits or waits there still gets through.
    pub fn remove_level(&self, name: &str) {
        let mut state = self.state.lock();
        if let Some(level) = state.levels.get_mut(name) {
            level.retire();
        }
        state.levels.retain(|_, level| !level.is_done());
        share(&mut state, self.seats);
    }

    /// Whether a level of this name is configured.
    pub fn has_level(&self, name: &str) -> bool {
        self.state.lock().levels.get(name).is_some_and(|l| !l.is_retired())
    }

    /// Names of all schemas, or of all configured levels.
    pub fn names(&self, schemas: bool) -> Vec<String> {
        let state = self.state.lock();
        if schemas {
            state.schemas.keys().cloned().collect()
        } else {
            state.levels.iter().filter(|(_, l)| !l.is_retired()).map(|(name, _)| name.clone()).collect()
        }
    }

    /// Where a request falls to: the first schema that means it and whose level is there.
    pub fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Class {
        let state = self.state.lock();
        let meant =
            |s: &&Arc<Schema>| s.matches(user, info) && state.levels.get(&s.level).is_some_and(|l| !l.is_retired());
        match state.order.iter().find(meant) {
            Some(schema) => Class {
                schema_uid: schema.uid.clone(),
                level_uid: state.levels.get(&schema.level).map(Level::uid).unwrap_or_default(),
                level: schema.level.as_str().into(),
                flow: schema.flow_of(user, info),
            },
            None => Class {
                level_uid: state.levels.get(CATCH_ALL).map(Level::uid).unwrap_or_default(),
                level: CATCH_ALL.into(),
                ..Class::default()
            },
        }
    }

    /// Waits for seats for a short request that takes `width` of them; a level gives one request no more than a part of its
    /// own (upstream: 15 percent).
    ///
    /// # Errors
    /// 429, with `Retry-After`.
    pub async fn enter(self: &Arc<Self>, class: &Class, width: u32) -> Result<Room, ApiError> {
        let (answer, id, width) = {
            let mut state = self.state.lock();
            state.next += 1;
            let id = state.next;
            let width = width.clamp(1, state.levels.get(&*class.level).map_or(1, Level::widest));
            let may = may_sit(&state.levels, &class.level, self.seats, width);
            let answer = match state.levels.get_mut(&*class.level) {
                Some(level) => level.arrive(id, class.flow, width, may),
                None => Answer::Sit,
            };
            (answer, id, width)
        };
        let seat = |waiting| Seat { flow: self.clone(), level: class.level.clone(), width, waiting };
        let room = |seat| Room { seat: Some(seat), long: [None, None] };
        match answer {
            Answer::Sit => Ok(room(seat(None))),
            Answer::Refuse(_) => Err(refused()),
            Answer::Wait(call) => {
                let mut place = seat(Some(id));
                match tokio::time::timeout(self.patience, call).await {
                    Ok(Ok(())) => {
                        place.waiting = None;
                        Ok(room(place))
                    }
                    // Dropping the place leaves the queue, or gives back a seat that came at the last moment.
                    _ => {
                        let mut state = self.state.lock();
                        if let Some(level) = state.levels.get_mut(&*class.level) {
                            level.refused.timed_out += 1;
                        }
                        drop(state);
                        Err(refused())
                    }
                }
            }
        }
    }

    /// Room for a long-running request, or none.
    ///
    /// # Errors
    /// 429, with `Retry-After`.
    pub fn enter_long(&self, user: &UserInfo) -> Result<Room, ApiError> {
        let refused = |_| {
            ApiError::too_many_requests("too many watches and other long requests are open, please try again later", 5)
        };
        let system = user.in_group(GROUP_MASTERS)
            || user.in_group(GROUP_NODES)
            || user.name.starts_with("system:kube-")
            || user.in_group("system:serviceaccounts:kube-system");
        let narrow = match system {
            true => None,
            false => Some(self.long_other.clone().try_acquire_owned().map_err(refused)?),
        };
        let wide = self.long.clone().try_acquire_owned().map_err(refused)?;
        Ok(Room { seat: None, long: [Some(wide), narrow] })
    }

    /// Metrics in Prometheus' text form, by upstream's names.
    pub fn metrics(&self) -> String {
        let state = self.state.lock();
        let mut out = String::new();
        type Row = (&'static str, &'static str, fn(&Level) -> u64);
        let rows: [Row; 4] = [
            ("current_executing_seats", "gauge", |l| l.used().into()),
            ("current_inqueue_requests", "gauge", |l| l.waiting() as u64),
            ("nominal_limit_seats", "gauge", |l| l.nominal().into()),
            ("dispatched_requests_total", "counter", Level::served),
        ];
        for (name, kind, value) in rows {
            let _ = writeln!(out, "# TYPE apiserver_flowcontrol_{name} {kind}");
            for (level, state) in &state.levels {
                let _ = writeln!(out, "apiserver_flowcontrol_{name}{{priority_level=\"{level}\"}} {}", value(state));
            }
        }
        let _ = writeln!(out, "# TYPE apiserver_flowcontrol_rejected_requests_total counter");
        for (name, level) in &state.levels {
            let refused = &level.refused;
            for (reason, count) in [
                ("queue-full", refused.queue_full),
                ("concurrency-limit", refused.no_queue),
                ("time-out", refused.timed_out),
            ] {
                let _ = writeln!(
                    out,
                    "apiserver_flowcontrol_rejected_requests_total{{priority_level=\"{name}\",reason=\"{reason}\"}} {count}"
                );
            }
        }
        out
    }
}

fn refused() -> ApiError {
    ApiError::too_many_requests("too many requests, please try again later", 1)
}

fn order(state: &mut State) {
    let mut all: Vec<Arc<Schema>> = state.schemas.values().cloned().collect();
    all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    state.order = all;
}

/// Divides the seats by the levels' shares.
fn share(state: &mut State, seats: u32) {
    let sum: u64 = state.levels.values().map(|l| u64::from(l.shares())).sum();
    let lendable = |level: &Level, nominal: u32| (u64::from(nominal) * u64::from(level.lendable()) / 100) as u32;
    let nominal = |level: &Level| match sum {
        0 => 0,
        sum => (u64::from(seats) * u64::from(level.shares())).div_ceil(sum) as u32,
    };
    let lent: u32 = state.levels.values().map(|l| lendable(l, nominal(l))).sum();
    for level in state.levels.values_mut() {
        let own = nominal(level);
        let gives = lendable(level, own);
        level.set_seats(own, gives, lent - gives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limited(name: &str, shares: u32, lendable: u32, queues: Option<u32>) -> Value {
        let response = match queues {
            Some(n) => json!({"type": "Queue", "queuing": {"queues": n, "handSize": 1, "queueLengthLimit": 3}}),
            None => json!({"type": "Reject"}),
        };
        json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}}})
    }

    fn class(level: &str, flow: u64) -> Class {
        Class { level: level.into(), flow, ..Class::default() }
    }

    #[tokio::test]
    async fn a_level_keeps_its_seats_and_borrows_others() {
        let flow = Flow::with(10, 10, Duration::from_millis(20));
        flow.put_level(&limited("a", 1, 0, None));
        flow.put_level(&limited("b", 1, 60, None));
        let mut held = vec![];
        // Five of its own, three that b lends.
        for _ in 0..8 {
            held.push(flow.enter(&class("a", 0), 1).await.unwrap());
        }
        assert_eq!(flow.enter(&class("a", 0), 1).await.err().map(|e| e.code), Some(429));
        // What b keeps, and its share, are b's whatever a does.
        for _ in 0..5 {
            held.push(flow.enter(&class("b", 0), 1).await.unwrap());
        }
        assert!(flow.enter(&class("b", 0), 1).await.is_err());
        held.truncate(4);
        flow.enter(&class("a", 0), 1).await.unwrap();
        assert!(flow.metrics().contains(
            "apiserver_flowcontrol_rejected_requests_total{priority_level=\"a\",reason=\"concurrency-limit\"} 1"
        ));
    }

    #[tokio::test]
    async fn flows_wait_behind_themselves() {
        let flow = Flow::with(1, 10, Duration::from_secs(5));
        flow.put_level(&limited("q", 1, 0, Some(64)));
        let seat = flow.enter(&class("q", 1), 1).await.unwrap();
        let served: Arc<Mutex<Vec<u64>>> = Arc::default();
        let mut tasks = vec![];
        for own in [1, 1, 1, 7_000_000_019] {
            let (flow, served) = (flow.clone(), served.clone());
            tasks.push(tokio::spawn(async move {
                let _seat = flow.enter(&class("q", own), 1).await.unwrap();
                served.lock().push(own);
            }));
            tokio::task::yield_now().await;
        }
        // The flood's queue is full: it alone is sent away.
        assert_eq!(flow.enter(&class("q", 1), 1).await.err().map(|e| e.code), Some(429));
        drop(seat);
        for task in tasks {
            task.await.unwrap();
        }
        let order = served.lock().clone();
        assert!(order[..2].contains(&7_000_000_019), "the other flow is served at once: {order:?}");
    }

    #[tokio::test]
    async fn who_waits_too_long_leaves_nothing_behind() {
        let flow = Flow::with(1, 10, Duration::from_millis(10));
        flow.put_level(&limited("q", 1, 0, Some(4)));
        let seat = flow.enter(&class("q", 1), 1).await.unwrap();
        for _ in 0..10 {
            assert!(flow.enter(&class("q", 1), 1).await.is_err());
        }
        drop(seat);
        flow.enter(&class("q", 1), 1).await.unwrap();
        flow.remove_level("q");
        assert!(!flow.has_level("q"));
    }

    #[test]
    fn requests_fall_where_upstream_puts_them() {
        let flow = Flow::new(600, 100);
        let info = |path: &str, method: http::Method| RequestInfo::parse(&method, &path.parse().unwrap());
        let table: [(UserInfo, &str, http::Method, &str); 7] = [
            (UserInfo::system_masters("admin"), "/api/v1/pods", http::Method::GET, "exempt"),
            (UserInfo::new("bob", &[]), "/readyz", http::Method::GET, "exempt"),
            (UserInfo::new("bob", &[]), "/api/v1/pods", http::Method::GET, "global-default"),
            (
                UserInfo::new("system:node:n", &["system:nodes"]),
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
                http::Method::PUT,
                "node-high",
            ),
            (UserInfo::new("system:node:n", &["system:nodes"]), "/api/v1/pods", http::Method::GET, "system"),
            (
                UserInfo::new("system:kube-scheduler", &[]),
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/s",
                http::Method::PUT,
                "leader-election",
            ),
            (
                UserInfo::new("system:serviceaccount:a:b", &["system:serviceaccounts"]),
                "/api/v1/pods",
                http::Method::GET,
                "workload-low",
            ),
        ];
        for (user, path, method, level) in table {
            assert_eq!(&*flow.classify(&user, &info(path, method)).level, level, "{} {path}", user.name);
        }
    }

    #[tokio::test]
    async fn what_costs_much_takes_much_room() {
        let flow = Flow::with(100, 10, Duration::from_millis(20));
        flow.put_level(&limited("a", 1, 0, None));
        // Ten seats at most for one request, whatever it costs.
        let wide: Vec<_> =
            futures::future::join_all((0..9).map(|_| async { flow.enter(&class("a", 0), 99).await.unwrap() })).await;
        let metrics = flow.metrics();
        assert!(metrics.contains("current_executing_seats{priority_level=\"a\"} 90"), "{metrics}");
        let narrow = flow.enter(&class("a", 0), 9).await.unwrap();
        assert!(flow.enter(&class("a", 0), 99).await.is_err());
        let last = flow.enter(&class("a", 0), 1).await.unwrap();
        assert!(flow.enter(&class("a", 0), 1).await.is_err());
        drop((wide, narrow, last));
        assert!(flow.metrics().contains("current_executing_seats{priority_level=\"a\"} 0"));
    }

    #[test]
    fn watches_are_limited() {
        let flow = Flow::new(1, 10);
        let bob = UserInfo::new("bob", &[]);
        let held: Vec<_> = (0..8).map(|_| flow.enter_long(&bob).unwrap()).collect();
        assert!(flow.enter_long(&bob).is_err());
        assert!(flow.enter_long(&UserInfo::system_masters("admin")).is_ok());
        drop(held);
        assert!(flow.enter_long(&bob).is_ok());
    }
}
