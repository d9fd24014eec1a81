//! Waiting for the conditions of devices before their pod is bound (KEP-5007).

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use crate::apply::{Applier, ApplyError};
use crate::devices::binding::Readiness;
use crate::devices::state::Devices;
use crate::model::{PodInfo, PodKey};

/// What is to be waited for.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Ready,
    /// These claims, of which the earliest has its devices since then.
    Waiting(Vec<PodKey>, Option<Timestamp>),
}

/// Looks at the claims of a pod.
///
/// # Errors
/// Why they will not be ready.
fn judge(devices: &Devices, keys: &[PodKey]) -> Result<Verdict, String> {
    let (mut waiting, mut since) = (Vec::new(), None);
    for key in keys {
        let claim = devices.claim(key).ok_or_else(|| format!("claim {} was deleted meanwhile", key.name))?;
        if claim.allocation.is_none() {
            return Err(format!("claim {} gave its devices back meanwhile", key.name));
        }
        match &claim.binding.readiness {
            Readiness::Failed(why) => return Err(why.clone()),
            Readiness::Waiting => {
                since = since.into_iter().chain(claim.binding.since).min();
                waiting.push(key.clone());
            }
            Readiness::Unasked | Readiness::Ready => {}
        }
    }
    Ok(if waiting.is_empty() { Verdict::Ready } else { Verdict::Waiting(waiting, since) })
}

/// How long a pod may still wait whose claims have their devices since then.
fn left(timeout: Duration, since: Option<Timestamp>, now: Timestamp) -> Duration {
    let waited =
        since.map_or(Duration::ZERO, |since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
    timeout.saturating_sub(waited)
}

impl Applier {
    /// Waits until the devices of a pod's claims are ready for its node, `timeout` long at most from when they were allocated.
    pub(crate) async fn await_devices(
        &self,
        pod: &PodInfo,
        node: &str,
        keys: &[PodKey],
        timeout: Duration,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), ApplyError> {
        if keys.is_empty() {
            return Ok(());
        }
        let look = || self.shared.with(|core, _| judge(&core.state.devices, keys)).map_err(ApplyError::NotReady);
        let Verdict::Waiting(_, since) = look()? else { return Ok(()) };
        // Drivers may take minutes: others are bound meanwhile.
        permit.take();
        let note = format!("waiting for binding conditions for device on node {node}");
        self.event(&pod.scheduler, pod, "Normal", "BindingConditionsPending", "Scheduling", &note);
        let all_ready = async {
            loop {
                let changed = self.shared.device_claims.notified();
                if look()? == Verdict::Ready {
                    return Ok(());
                }
                changed.await;
            }
        };
        match tokio::time::timeout(left(timeout, since, Timestamp::now()), all_ready).await {
            Ok(done) => done,
            Err(_) => {
                self.shared.with(|core, _| {
                    let Ok(Verdict::Waiting(keys, _)) = judge(&core.state.devices, keys) else { return };
                    let claims: Vec<_> = keys.iter().filter_map(|key| core.state.devices.claim(key).cloned()).collect();
                    claims.iter().for_each(|claim| core.state.devices.expire(claim));
                });
                Err(ApplyError::NotReady("device binding timeout".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::devices::claim::Claim;
    use serde_json::{Value, json};

    fn put(devices: &mut Devices, name: &str, since: &str, conditions: Value) -> PodKey {
        let claim = Claim::new(
            &serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {},
                "status": {"allocation": {"allocationTimestamp": since, "devices": {"results": [{"request": "r",
                    "driver": "d", "pool": "p", "device": "x", "bindingConditions": ["up"], "bindingFailureConditions": ["broken"]}]}},
                    "devices": [{"driver": "d", "pool": "p", "device": "x", "conditions": conditions}]}}))
            .unwrap(),
        );
        let key = claim.key.clone();
        devices.set_claim(&key, Some(claim));
        key
    }

    fn says(name: &str) -> Value {
        json!([{"type": name, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    #[test]
    fn the_slowest_counts() {
        let mut devices = Devices::default();
        let ready = put(&mut devices, "ready", "2026-01-01T00:00:00Z", says("up"));
        let early = put(&mut devices, "early", "2026-01-01T00:00:01Z", json!([]));
        let late = put(&mut devices, "late", "2026-01-01T00:00:02Z", json!([]));
        assert_eq!(judge(&devices, std::slice::from_ref(&ready)), Ok(Verdict::Ready));
        let all = [ready, late.clone(), early.clone()];
        let since = "2026-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(judge(&devices, &all), Ok(Verdict::Waiting(vec![late, early.clone()], Some(since))));
        put(&mut devices, "late", "2026-01-01T00:00:02Z", says("broken"));
        let why = "claim late binding failed: reason=R, message=\"m\"";
        assert_eq!(judge(&devices, &all), Err(why.into()));
        devices.set_claim(&early, None);
        assert_eq!(judge(&devices, &[early]), Err("claim early was deleted meanwhile".into()));
    }

    #[test]
    fn time_counts_from_the_allocation() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ten = Duration::from_secs(10);
        assert_eq!(left(ten, None, at(100)), ten);
        assert_eq!(left(ten, Some(at(96)), at(100)), Duration::from_secs(6));
        assert_eq!(left(ten, Some(at(80)), at(100)), Duration::ZERO);
        assert_eq!(left(ten, Some(at(101)), at(100)), ten, "clocks may differ");
    }
}
