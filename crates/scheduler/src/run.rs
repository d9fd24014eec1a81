//! The scheduler at work: one thread that decides, and tasks that do.

use std::sync::Arc;
use std::time::Instant;

use caravel_client::Cluster;
use parking_lot::MutexGuard;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::apply::Applier;
use crate::config::Config;
use crate::core::Core;
use crate::decide::{Decision, Failure, Turn, decide};
use crate::extend::{Extenders, Objects, decide_with, preempt_with};
use crate::feed::{Shared, start};
use crate::message::message;
use crate::model::PodInfo;
use crate::plugins::devices;
use crate::plugins::volumes::Binding;
use crate::preempt::{Outcome, preempt};

/// After so many decisions in a row the lock is handed to whoever waits for it.
const FAIR: u32 = 8;

/// Why the scheduler ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("scheduler configuration: {0}")]
    Config(String),
    /// The deciding thread could not be started, or died.
    #[error("the deciding thread: {0}")]
    Thread(String),
}

fn check(config: &Config) -> Result<(), Error> {
    if config.profiles.is_empty() {
        return Err(Error::Config("there is no profile; give at least one, like \"default-scheduler\"".into()));
    }
    for (i, profile) in config.profiles.iter().enumerate() {
        if config.profiles[..i].iter().any(|p| p.name == profile.name) {
            return Err(Error::Config(format!("there are two profiles named {:?}", profile.name)));
        }
    }
    if config.backoff.0 < 0.0 || config.backoff.1 < config.backoff.0 {
        return Err(Error::Config("back-offs must not be negative, and the longest not below the first".into()));
    }
    Ok(())
}

/// Schedules pods until told to stop.
///
/// # Errors
/// A configuration that makes no sense, or a thread that cannot be had.
pub async fn run(cluster: Cluster, config: Config, stop: CancellationToken) -> Result<(), Error> {
    check(&config)?;
    let extenders = Extenders::new(&config.extenders).map_err(Error::Config)?;
    let shared = Arc::new(Shared::new(Core::new(&config)));
    tokio::select! {
        () = start(&cluster, &shared) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let objects = Objects { pods: cluster.informer(), nodes: cluster.informer(), runtime: Handle::current() };
    let hands = Hands {
        applier: Applier::new(cluster, shared.clone(), &config, extenders.clone()),
        extenders,
        objects,
        permits: Arc::new(Semaphore::new(config.parallel_binds.max(1))),
        runtime: Handle::current(),
        stop: stop.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("scheduler".into())
        .spawn({
            let shared = shared.clone();
            move || decide_all(&shared, &hands)
        })
        .map_err(|e| Error::Thread(e.to_string()))?;
    stop.cancelled().await;
    shared.nudge();
    tokio::task::spawn_blocking(move || thread.join())
        .await
        .map_err(|e| Error::Thread(e.to_string()))?
        .map_err(|_| Error::Thread("it panicked".into()))
}

struct Hands {
    applier: Applier,
    extenders: Extenders,
    objects: Objects,
    permits: Arc<Semaphore>,
    runtime: Handle,
    stop: CancellationToken,
}

/// The deciding thread.
fn decide_all(shared: &Shared, hands: &Hands) {
    let mut turn = Turn { start: 0, seed: rand::random::<u64>() | 1 };
    let mut core = shared.lock();
    let mut row = 0;
    while !hands.stop.is_cancelled() {
        let now = Instant::now();
        if !core.queue.has_ready(now) {
            let deadline = core.queue.deadline();
            shared.wait(&mut core, deadline);
            continue;
        }
        // Only so many bindings are under way; the queue grows meanwhile, not the number of tasks.
        let permit = match hands.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let permits = hands.permits.clone();
                let got = MutexGuard::unlocked(&mut core, || {
                    hands.runtime.block_on(async {
                        tokio::select! {
                            permit = permits.acquire_owned() => permit.ok(),
                            () = hands.stop.cancelled() => None,
                        }
                    })
                });
                match got {
                    Some(permit) => permit,
                    None => return,
                }
            }
        };
        let Some(pod) = core.queue.pop(Instant::now()) else { continue };
        one(&mut core, hands, pod, permit, &mut turn);
        row += 1;
        if row >= FAIR {
            row = 0;
            MutexGuard::bump(&mut core);
        }
    }
}

fn one(
    core: &mut MutexGuard<'_, Core>,
    hands: &Hands,
    pod: Arc<PodInfo>,
    permit: OwnedSemaphorePermit,
    turn: &mut Turn,
) {
    let Some(profile) = core.profile(&pod) else {
        core.queue.remove(&pod.key);
        return;
    };
    let decision = if hands.extenders.decide_on(&pod) {
        match decide_with(core, &hands.extenders, &hands.objects, &profile, &pod, turn) {
            // Meanwhile the pod may have gone, or another of its name have come.
            _ if core.queue.get(&pod.key).is_none_or(|e| e.pod.uid != pod.uid) => return,
            Ok(decision) => decision,
            Err(error) => return failed(core, hands, pod, permit, error),
        }
    } else {
        decide(&mut core.state, &profile, &pod, turn)
    };
    match decision {
        Decision::Node { node, bindings, bookings, .. } => {
            core.state.assume(pod.clone(), node);
            for binding in &bindings {
                if let Binding::Volume { claim, volume } = binding {
                    core.state.volumes.assume(volume.clone(), claim.clone());
                }
            }
            for booking in &bookings {
                if let Some((allocation, _)) = &booking.allocation {
                    core.state.devices.assume(&booking.claim, allocation.clone());
                }
            }
            let name = core.state.node(node).name.clone();
            let (applier, timeouts) = (hands.applier.clone(), (profile.bind_timeout, profile.device_timeout));
            hands.runtime.spawn(async move {
                applier.bind(pod, (node, name), bindings, bookings, timeouts, permit).await;
            });
        }
        Decision::Nowhere(failure) => {
            let outcome = if hands.extenders.preempt_for(&pod) {
                preempt_with(core, &hands.extenders, &hands.objects, &profile, &pod, &failure, turn)
            } else {
                preempt(&mut core.state, &profile, &pod, &failure, turn)
            };
            nowhere(core, hands, pod, permit, &failure, outcome);
        }
    }
}

/// An extender failed that may not be passed over: the pod is tried again after its back-off.
fn failed(core: &mut Core, hands: &Hands, pod: Arc<PodInfo>, permit: OwnedSemaphorePermit, error: String) {
    let new = core.queue.report(&pod.key, &error);
    core.queue.retry(&pod.key, Instant::now());
    let applier = hands.applier.clone();
    hands.runtime.spawn(async move {
        applier.report(&pod, "SchedulerError", &error, None, new).await;
        drop(permit);
    });
}

fn nowhere(
    core: &mut Core,
    hands: &Hands,
    pod: Arc<PodInfo>,
    permit: OwnedSemaphorePermit,
    failure: &Failure,
    outcome: Outcome,
) {
    let now = Instant::now();
    let applier = hands.applier.clone();
    if let Some(claim) = devices::to_release(&core.state, &pod, &failure.rejects) {
        let applier = applier.clone();
        hands.runtime.spawn(async move { applier.release(&claim).await });
    } else if let Some(claim) = devices::to_remove(&core.state, &pod) {
        let applier = applier.clone();
        hands.runtime.spawn(async move { applier.remove_special(&claim).await });
    }
    match outcome {
        Outcome::Nothing(_) | Outcome::Off => {
            let end = if let Outcome::Nothing(end) = &outcome { Some(end.as_str()) } else { None };
            let text = message(&core.state, &pod, failure, end);
            let new = core.queue.report(&pod.key, &text);
            core.queue.unschedulable(&pod.key, failure.plugins, now);
            hands.runtime.spawn(async move {
                applier.report(&pod, "Unschedulable", &text, None, new).await;
                drop(permit);
            });
        }
        Outcome::Make(candidate) => {
            let text = message(&core.state, &pod, failure, None);
            let node = core.state.node(candidate.node).name.clone();
            let sym = core.state.node(candidate.node).sym;
            let lesser: Vec<_> =
                core.state.nominated(sym).iter().filter(|p| p.priority < pod.priority).cloned().collect();
            for other in &lesser {
                core.state.denominate(&other.key);
            }
            let mut hoping = (*pod).clone();
            hoping.nominated = Some(node.clone());
            let hoping = Arc::new(hoping);
            core.state.nominate(hoping.clone(), &node);
            core.queue.set(hoping, now);
            let new = core.queue.report(&pod.key, &text);
            core.queue.unschedulable(&pod.key, failure.plugins, now);
            hands.runtime.spawn(async move {
                applier.make_room(&pod, &node, &candidate.victims, &lesser).await;
                applier.report(&pod, "Unschedulable", &text, Some(&node), new).await;
                drop(permit);
            });
        }
    }
}
