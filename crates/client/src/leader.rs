//! Leader election on a `coordination.k8s.io/v1` Lease, so that of several control planes one acts.
//!
//! The rule is client-go's: the holder renews; another candidate takes over when the lease has not
//! changed, by the candidate's own clock, for the lease's duration. Clocks of candidates are never compared.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Who stands for which lease, and the times of the election (upstream's defaults).
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Unique name of this candidate.
    pub identity: String,
    /// A lease not renewed for this long may be taken over.
    pub duration: Duration,
    /// A leader that could not renew for this long stops leading.
    pub renew_deadline: Duration,
    /// Time between attempts to acquire or renew.
    pub retry: Duration,
}

impl Candidate {
    /// A candidate for `kube-system/<lease>` with 15 s / 10 s / 2 s.
    pub fn new(lease: &str, identity: &str) -> Self {
        Candidate {
            namespace: "kube-system".into(),
            lease: lease.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a candidate has seen of the lease: its last state and when that was first seen.
#[derive(Clone, Debug)]
pub struct Observed {
    spec: LeaseSpec,
    since: Instant,
}

/// What to do about the lease now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this spec; success makes or keeps us the leader.
    Write(LeaseSpec),
    /// Another holds it.
    Wait,
}

/// Decides the next step from the lease's spec, when that spec was first seen, and the time.
pub fn plan(me: &Candidate, observed: Option<&Observed>, now: Instant, wall: Timestamp) -> Step {
    let mut spec = observed.map(|o| o.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let mine = holder == me.identity;
    if let Some(observed) = observed
        && !mine
        && !holder.is_empty()
    {
        let seconds = observed.spec.lease_duration_seconds.unwrap_or(me.duration.as_secs() as i32);
        if now < observed.since + Duration::from_secs(seconds.max(0) as u64) {
            return Step::Wait;
        }
    }
    if !mine {
        spec.acquire_time = Some(MicroTime(wall));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
    }
    spec.holder_identity = Some(me.identity.clone());
    spec.lease_duration_seconds = Some(me.duration.as_secs() as i32);
    spec.renew_time = Some(MicroTime(wall));
    Step::Write(spec)
}

/// Waits until `me` leads, then returns a token that is cancelled when leadership is lost. Leadership is
/// renewed in the background until `stop` is cancelled, when the lease is released.
pub async fn acquire(client: kube::Client, me: Candidate, stop: CancellationToken) -> Option<CancellationToken> {
    let mut election = Election { api: kube::Api::namespaced(client, &me.namespace), me, observed: None };
    loop {
        match election.attempt().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::debug!(lease = %election.me.lease, %error, "could not stand for election"),
        }
        tokio::select! { _ = stop.cancelled() => return None, _ = tokio::time::sleep(election.me.retry) => {} }
    }
    let lost = CancellationToken::new();
    let leading = lost.clone();
    tokio::spawn(async move {
        election.keep(&stop).await;
        leading.cancel();
    });
    Some(lost)
}

struct Election {
    api: kube::Api<Lease>,
    me: Candidate,
    observed: Option<Observed>,
}

impl Election {
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let live = self.api.get_opt(&self.me.lease).await?;
        let spec = live.as_ref().and_then(|l| l.spec.clone());
        match (&self.observed, spec) {
            (Some(seen), Some(spec)) if seen.spec == spec => {}
            (_, spec) => self.observed = spec.map(|spec| Observed { spec, since: Instant::now() }),
        }
        let Step::Write(spec) = plan(&self.me, self.observed.as_ref(), Instant::now(), Timestamp::now()) else {
            return Ok(false);
        };
        let written = match live {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.api.replace(&self.me.lease, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.me.lease.clone()), ..Default::default() };
                self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match written {
            Ok(lease) => {
                self.observed = lease.spec.map(|spec| Observed { spec, since: Instant::now() });
                Ok(true)
            }
            // Somebody else was faster.
            Err(e) if crate::status_code(&e) == Some(409) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Renews until the deadline passes without success, or until told to stop.
    async fn keep(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.me.renew_deadline {
            tokio::select! {
                _ = stop.cancelled() => return self.release().await,
                _ = tokio::time::sleep(self.me.retry) => {}
            }
            match self.attempt().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if self.taken() => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(lease = %self.me.lease, %error, "could not renew the lease"),
            }
        }
    }

    fn taken(&self) -> bool {
        let holder = self.observed.as_ref().and_then(|o| o.spec.holder_identity.as_deref());
        holder.is_some_and(|h| h != self.me.identity && !h.is_empty())
    }

    async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.me.lease).await else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() == Some(&self.me.identity) {
            spec.holder_identity = Some(String::new());
            // Best effort: the lease runs out by itself.
            let _ = self.api.replace(&self.me.lease, &PostParams::default(), &lease).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, since: Instant) -> Observed {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..Default::default()
        };
        Observed { spec, since }
    }

    #[test]
    fn decides_by_holder_and_age() {
        let me = Candidate::new("scheduler", "me");
        let (t0, wall) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let at = |s| t0 + Duration::from_secs(s);
        let transitions = |step: Step| match step {
            Step::Write(spec) => spec.lease_transitions,
            Step::Wait => None,
        };
        assert_eq!(transitions(plan(&me, None, t0, wall)), Some(0), "a new lease is taken");
        assert_eq!(plan(&me, Some(&held_by("other", t0)), at(14), wall), Step::Wait, "a fresh lease is respected");
        assert_eq!(transitions(plan(&me, Some(&held_by("other", t0)), at(15), wall)), Some(4), "an old one is taken");
        assert_eq!(transitions(plan(&me, Some(&held_by("", t0)), at(1), wall)), Some(4), "a released one is taken");
        assert_eq!(transitions(plan(&me, Some(&held_by("me", t0)), at(1), wall)), Some(3), "our own is renewed");
    }
}
