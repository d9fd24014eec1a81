//! One task a Pod. It is woken by the API, the runtime, probes, hooks and deadlines; each time it reads what is wanted
//! and what is, asks the planner, does what it says and tells the API. Waking is a hint: nothing but the present is
//! looked at.

mod end;
mod images;
mod kill;
mod live;
mod observe;
mod resize;
mod start;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::manager::Admission;
use crate::pod::backoff::Backoff;
use crate::pod::observed::{ContainerState, Observed};
use crate::pod::plan::{Restarts, Verdicts};
use crate::pod::spec;
use crate::pod::status::{self, Hindrances, Verdict};
use crate::probe::ProbeSet;
use crate::shared::Shared;
use crate::source::{ContainerView, PodView};
use crate::time::now_ns;
use crate::volume::Outcome;
use observe::Observer;

/// What is wanted of a Pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The Pod as the API told it last.
    pub pod: Arc<Pod>,
    /// The API does not know it any more (or never did).
    pub gone: bool,
    /// The node wants it to end (eviction).
    pub verdict: Option<Verdict>,
    /// Its grace period then, seconds.
    pub grace: Option<i64>,
}

/// What a worker and the rest of the node share.
pub struct Handle {
    /// What is wanted.
    pub wanted: watch::Sender<Wanted>,
    /// Wakes the worker.
    pub wake: Arc<Notify>,
    /// Something its volumes or environments are made from changed.
    pub dirty: AtomicBool,
    /// Nothing of the Pod is left and the API was told.
    pub done: AtomicBool,
    /// The mirror of a static Pod, when the API has told of it.
    pub mirror: Mutex<Option<Arc<Pod>>>,
    /// What the HTTPS API shows.
    pub view: Mutex<PodView>,
    /// Set when the Pod is to end: cuts waits short.
    pub ending: CancellationToken,
}

impl Handle {
    /// For a new Pod.
    pub fn new(wanted: Wanted) -> Self {
        let view = PodView { pod: wanted.pod.clone(), sandbox_id: None, ips: Vec::new(), containers: Vec::new() };
        Handle {
            wanted: watch::Sender::new(wanted),
            wake: Arc::new(Notify::new()),
            dirty: AtomicBool::new(false),
            done: AtomicBool::new(false),
            mirror: Mutex::new(None),
            view: Mutex::new(view),
            ending: CancellationToken::new(),
        }
    }

    /// Says what is wanted from now on.
    pub fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
        if ends(&self.wanted.borrow()) {
            self.ending.cancel();
        }
        self.wake.notify_one();
    }

    /// Something the Pod is made from may have changed.
    pub fn hint(&self) {
        self.dirty.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// Whether the Pod is to end.
pub fn ends(w: &Wanted) -> bool {
    w.gone || w.verdict.is_some() || w.pod.metadata.deletion_timestamp.is_some()
}

/// What to do after a step.
enum Step {
    /// Look again at once.
    Again,
    /// Wait for a wake-up, until this moment (ns) at most.
    Wait(Option<i64>),
    /// Nothing is left.
    Done,
}

/// The worker of one Pod.
pub struct Worker {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    admission: Arc<Admission>,
    uid: String,
    observer: Observer,
    backoff: Backoff,
    hindrances: Hindrances,
    /// When a container, the sandbox (`""`) or the volumes (`"/"`) may be tried again, ns, and the last delay.
    retries: HashMap<String, (i64, Duration)>,
    to_restart: Restarts,
    stopping: HashMap<String, AbortOnDropHandle<()>>,
    probes: ProbeSet,
    volumes: Option<Outcome>,
    writer: writer::Writer,
    status: Option<PodStatus>,
    seen: Option<Arc<Pod>>,
    sizes: resize::Sizes,
    admitted: bool,
    rejected: bool,
    complete: bool,
    verdict: Option<Verdict>,
}

impl Worker {
    /// For one Pod.
    pub fn new(shared: Arc<Shared>, handle: Arc<Handle>, admission: Arc<Admission>) -> Self {
        let pod = handle.wanted.borrow().pod.clone();
        let config = &shared.config;
        Worker {
            uid: spec::uid(&pod).to_owned(),
            observer: Observer::default(),
            backoff: Backoff::new(config.backoff_initial, config.backoff_max),
            hindrances: Hindrances::new(),
            retries: HashMap::new(),
            to_restart: Restarts::new(),
            stopping: HashMap::new(),
            probes: ProbeSet::new(shared.clone(), handle.wake.clone()),
            volumes: None,
            writer: writer::Writer::start(shared.client.clone(), &pod),
            status: None,
            seen: None,
            sizes: resize::Sizes::load(&config.pod_dir(spec::uid(&pod))),
            admitted: false,
            rejected: false,
            complete: false,
            verdict: None,
            shared,
            handle,
            admission,
        }
    }

    /// The Pod as it was first wanted.
    pub fn pod(&self) -> Arc<Pod> {
        self.handle.wanted.borrow().pod.clone()
    }

    /// Works until nothing of the Pod is left.
    pub async fn run(mut self) {
        loop {
            let wanted = self.handle.wanted.borrow().clone();
            if !self.seen.as_ref().is_some_and(|p| Arc::ptr_eq(p, &wanted.pod)) {
                self.writer.seen(&wanted.pod);
                let told = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
                if self.seen.as_ref().is_some_and(|p| told(p) != told(&wanted.pod)) {
                    // Downward API volumes show them.
                    self.handle.dirty.store(true, Ordering::Release);
                }
                self.seen = Some(wanted.pod.clone());
            }
            if let Some(mirror) = self.handle.mirror.lock().take() {
                self.writer.seen(&mirror);
            }
            let step = if ends(&wanted) || self.verdict.is_some() {
                self.end(&wanted).await
            } else {
                self.live(&wanted.pod).await
            };
            match step {
                Step::Again => tokio::task::yield_now().await,
                Step::Wait(until) => self.wait(until).await,
                Step::Done => break,
            }
        }
        self.handle.done.store(true, Ordering::Release);
        self.admission.leave(&self.uid);
    }

    async fn wait(&self, until: Option<i64>) {
        let wake = self.handle.wake.notified();
        match until {
            None => wake.await,
            Some(t) => {
                let left = u64::try_from(t - now_ns()).unwrap_or(0);
                // A wake-up time that has passed already must not spin.
                let left = Duration::from_nanos(left).max(Duration::from_millis(1));
                let _ = tokio::time::timeout(left, wake).await;
            }
        }
    }

    /// The status the next one is computed from: what was told last, with the conditions of others as the API has them.
    fn base(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let Some(last) = &self.status else { return pod.clone() };
        let mut base = Pod::clone(pod);
        let mut s = last.clone();
        use writer::OURS;
        let foreign =
            pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter(|c| !OURS.contains(&c.type_.as_str()));
        let own = s.conditions.take().into_iter().flatten().filter(|c| OURS.contains(&c.type_.as_str()));
        s.conditions = Some(own.chain(foreign.cloned()).collect());
        s.resource_claim_statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone());
        base.status = Some(s);
        Arc::new(base)
    }

    /// Computes the status, tells it and shows it.
    fn publish(&mut self, pod: &Arc<Pod>, observed: &Observed, ending: bool, ended: bool) {
        let base = self.base(pod);
        let node_ips = self.shared.node_ips();
        let probes = self.probes.verdicts();
        let mut new = status::status(&status::Facts {
            pod: &base,
            observed,
            probes: &probes,
            hindrances: &self.hindrances,
            to_restart: &self.to_restart,
            verdict: self.verdict.as_ref(),
            ending,
            ended,
            node_ips: &node_ips,
            applied: self.sizes.applied(),
            now: now_ns(),
        });
        self.sizes.conditions(&mut new, pod.metadata.generation);
        self.show(pod, observed, &new);
        if self.status.as_ref() != Some(&new) {
            self.writer.send(new.clone());
            self.status = Some(new);
        }
    }

    fn show(&self, pod: &Arc<Pod>, observed: &Observed, status: &PodStatus) {
        let mut shown = Pod::clone(pod);
        shown.status = Some(status.clone());
        let containers = observed.records.iter().map(|r| ContainerView {
            name: r.name.clone(),
            id: r.id.clone(),
            attempt: r.attempt,
            running: r.state == ContainerState::Running,
            log_path: r.log_path.clone(),
        });
        *self.handle.view.lock() = PodView {
            pod: Arc::new(shown),
            sandbox_id: observed.ready_sandbox().map(|s| s.id.clone()),
            ips: status.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect(),
            containers: containers.collect(),
        };
    }

    /// Notes that something failed; returns when to try again.
    fn retry(&mut self, key: &str, first: Duration, max: Duration) -> i64 {
        let delay = self.retries.get(key).map_or(first, |(_, d)| (*d * 2).min(max));
        let at = now_ns() + i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
        self.retries.insert(key.to_owned(), (at, delay));
        at
    }

    /// When `key` may be tried again, if not yet.
    fn held(&self, key: &str) -> Option<i64> {
        self.retries.get(key).map(|(at, _)| *at).filter(|at| now_ns() < *at)
    }

    /// A Pod that ran before this process started keeps the verdicts the API knows, until its probes say otherwise.
    fn seed_probes(&mut self, pod: &Pod, observed: &Observed) {
        let statuses =
            pod.status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
        for s in statuses {
            let id = s.container_id.as_deref().and_then(|i| i.split_once("://")).map(|(_, id)| id);
            let running = observed.running().find(|r| Some(r.id.as_str()) == id);
            if let Some(r) = running {
                let verdicts =
                    Verdicts { startup: s.started.filter(|s| *s), readiness: s.ready.then_some(true), liveness: None };
                self.probes.seed(&r.id, verdicts);
            }
        }
    }
}
