//! Writing to resource claims what was decided: the devices they get and the pod that uses them (PreBind), or that they give
//! their devices back.

use std::sync::Arc;

use k8s_openapi::api::resource::v1 as resource;
use kube::Api;
use kube::api::PostParams;

use caravel_client::status_code;

use crate::apply::{Applier, ApplyError};
use crate::devices::MAX_RESERVED;
use crate::devices::claim::Claim;
use crate::model::{PodInfo, PodKey};
use crate::plugins::devices::Booking;

/// Who keeps a claim with devices from going away at once.
pub(crate) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a claim that changed meanwhile is read again.
pub(crate) const ATTEMPTS: usize = 5;

/// What is to be written to a claim next.
#[derive(Debug, PartialEq)]
enum Next {
    /// Nothing: all is said.
    Done,
    /// The finalizer, before it has devices.
    Finalizer(Box<resource::ResourceClaim>),
    /// Its status.
    Status(Box<resource::ResourceClaim>),
}

/// Decides what to write to a claim as it is now, or why the decision does not hold any more.
fn next(claim: resource::ResourceClaim, pod: &PodInfo, booking: &Booking) -> Result<Next, String> {
    let name = &booking.claim.key.name;
    if claim.metadata.uid.as_deref() != Some(&*booking.claim.uid) {
        return Err(format!("{name} was replaced by another of the same name"));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("{name} is being deleted"));
    }
    let mut claim = claim;
    let mut status = claim.status.take().unwrap_or_default();
    match (&status.allocation, &booking.allocation) {
        (None, None) => return Err(format!("{name} gave its devices back meanwhile")),
        (None, Some((_, result))) => {
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                finalizers.push(FINALIZER.into());
                claim.status = Some(status);
                return Ok(Next::Finalizer(Box::new(claim)));
            }
            let mut result = (**result).clone();
            let shares = result.devices.iter_mut().flat_map(|d| d.results.iter_mut().flatten());
            shares.filter_map(|r| r.share_id.as_mut()).for_each(|id| *id = uuid(rand::random()));
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
            result.allocation_timestamp = Some(now);
            status.allocation = Some(result);
        }
        (Some(_), Some(_)) if !reserved_for(&status, pod) => {
            return Err(format!("{name} was given other devices meanwhile"));
        }
        (Some(_), _) => {}
    }
    if reserved_for(&status, pod) {
        return Ok(Next::Done);
    }
    let users = status.reserved_for.get_or_insert_default();
    if users.len() >= MAX_RESERVED {
        return Err(format!("{name} is used by {MAX_RESERVED} pods already"));
    }
    users.push(resource::ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: pod.key.name.to_string(),
        uid: pod.uid.to_string(),
    });
    claim.status = Some(status);
    Ok(Next::Status(Box::new(claim)))
}

fn reserved_for(status: &resource::ResourceClaimStatus, pod: &PodInfo) -> bool {
    status.reserved_for.iter().flatten().any(|r| *r.uid == *pod.uid)
}

/// A random UUID (RFC 9562, version 4).
fn uuid(random: u128) -> String {
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl Applier {
    fn resource_claims(&self, claim: &Claim) -> Api<resource::ResourceClaim> {
        Api::namespaced(self.cluster.client(), &claim.key.namespace)
    }

    /// Gives all claims of a pod their devices and reserves them for it; the claim for extended resources is made first, and noted in
    /// `made`. Gives the names of all.
    pub(crate) async fn book(
        &self,
        pod: &PodInfo,
        bookings: &[Booking],
        made: &mut Option<resource::ResourceClaim>,
    ) -> Result<Vec<PodKey>, ApplyError> {
        let mut keys = Vec::with_capacity(bookings.len());
        for booking in bookings {
            let Some(variant) = &booking.special else {
                let written = Claim::new(&self.book_one(pod, booking).await?);
                keys.push(written.key.clone());
                self.shared.with(|core, _| core.state.devices.settle(written));
                continue;
            };
            let claim = made.insert(self.make_special(pod, variant).await?);
            let real = Booking { claim: Arc::new(Claim::new(claim)), special: None, ..booking.clone() };
            let written = Claim::new(&self.book_one(pod, &real).await?);
            let key = written.key.clone();
            self.shared.with(|core, _| {
                core.state.devices.settle(written);
                core.state.devices.forget(&booking.claim.key);
            });
            self.note_special(pod, &key.name, variant).await?;
            keys.push(key);
        }
        Ok(keys)
    }

    async fn book_one(&self, pod: &PodInfo, booking: &Booking) -> Result<resource::ResourceClaim, ApplyError> {
        let claims = self.resource_claims(&booking.claim);
        let name = &*booking.claim.key.name;
        let gone = || ApplyError::Devices(format!("{name} was deleted meanwhile"));
        let mut present = claims.get_opt(name).await?.ok_or_else(gone)?;
        for _ in 0..ATTEMPTS {
            let to_write = next(present.clone(), pod, booking).map_err(ApplyError::Devices)?;
            let answer = match to_write {
                Next::Done => return Ok(present),
                Next::Finalizer(claim) => claims.replace(name, &PostParams::default(), &claim).await,
                Next::Status(claim) => {
                    claims.replace_subresource("status", name, &PostParams::default(), &*claim).await
                }
            };
            present = match answer {
                Ok(written) => written,
                Err(error) if status_code(&error) == Some(409) => claims.get_opt(name).await?.ok_or_else(gone)?,
                Err(error) if status_code(&error) == Some(404) => return Err(gone()),
                Err(error) => return Err(error.into()),
            };
        }
        match next(present.clone(), pod, booking).map_err(ApplyError::Devices)? {
            Next::Done => Ok(present),
            _ => Err(ApplyError::Devices(format!("{name} changes all the time"))),
        }
    }

    /// Takes the devices of a claim away that only the pod at hand uses, so that others can be found for it.
    pub(crate) async fn release(&self, claim: &Claim) {
        let claims = self.resource_claims(claim);
        let released = async {
            let Some(mut present) = claims.get_opt(&claim.key.name).await? else { return Ok(()) };
            let status = present.status.get_or_insert_default();
            let users: Vec<_> = status.reserved_for.iter().flatten().map(|r| r.uid.as_str()).collect();
            let same = present.metadata.uid.as_deref() == Some(&*claim.uid);
            if !same || users.iter().any(|uid| !claim.reserved.iter().any(|known| **known == **uid)) {
                return Ok(());
            }
            status.reserved_for = None;
            status.allocation = None;
            // What was told of these devices is not true of others.
            status.devices = None;
            claims.replace_subresource("status", &claim.key.name, &PostParams::default(), &present).await.map(drop)
        };
        let released: Result<(), kube::Error> = released.await;
        if let Err(error) = released {
            tracing::warn!(claim = %claim.key, %error, "cannot take the devices of a claim back");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::devices::claim::Allocation;
    use crate::testing::pod;
    use serde_json::{Value, json};

    fn claim(finalizers: Value, status: Value) -> resource::ResourceClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "default", "uid": "u", "finalizers": finalizers},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}, "status": status}))
        .unwrap()
    }

    fn booking(with: bool) -> Booking {
        let result = json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x", "shareID": ""}]}});
        let result: resource::AllocationResult = serde_json::from_value(result).unwrap();
        let allocation = with.then(|| (Arc::new(Allocation::new(&result)), Box::new(result)));
        Booking { claim: Arc::new(Claim::new(&claim(json!([]), json!({})))), allocation, special: None }
    }

    #[test]
    fn step_by_step() {
        let pod = pod("p").info();
        let Next::Finalizer(written) = next(claim(json!(["x"]), json!({})), &pod, &booking(true)).unwrap() else {
            panic!()
        };
        assert_eq!(written.metadata.finalizers, Some(vec!["x".to_owned(), FINALIZER.to_owned()]));
        let Next::Status(written) = next(*written, &pod, &booking(true)).unwrap() else { panic!() };
        let status = written.status.as_ref().unwrap();
        let id =
            status.allocation.as_ref().unwrap().devices.as_ref().unwrap().results.as_ref().unwrap()[0].share_id.clone();
        assert_eq!(id.unwrap().len(), 36);
        assert_eq!(status.reserved_for.as_ref().unwrap()[0].uid, "uid-p");
        assert_eq!(next(*written.clone(), &pod, &booking(true)).unwrap(), Next::Done);
        // Another pod joins.
        let other = crate::testing::pod("q").info();
        let Next::Status(written) = next(*written, &other, &booking(false)).unwrap() else { panic!() };
        assert_eq!(written.status.unwrap().reserved_for.unwrap().len(), 2);
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten() {
        let pod = pod("p").info();
        let allocated = json!({"allocation": {"devices": {}}});
        let full: Vec<Value> =
            (0..MAX_RESERVED).map(|i| json!({"resource": "pods", "name": "x", "uid": i.to_string()})).collect();
        let mut other = claim(json!([]), json!({}));
        other.metadata.uid = Some("another".into());
        for (name, present, with, want) in [
            ("other devices", claim(json!([]), allocated), true, "given other devices"),
            ("devices given back", claim(json!([]), json!({})), false, "gave its devices back"),
            ("too many", claim(json!([]), json!({"allocation": {}, "reservedFor": full})), false, "256 pods"),
            ("another claim", other, true, "replaced"),
        ] {
            let error = next(present, &pod, &booking(with)).unwrap_err();
            assert!(error.contains(want), "{name}: {error}");
        }
    }

    #[test]
    fn uuids() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
