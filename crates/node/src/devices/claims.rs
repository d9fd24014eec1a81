//! Preparing the claims of Pods, and giving their devices back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use caravel_runtime::Runtime;
use k8s_openapi::api::core::v1::{Container, Pod, PodExtendedResourceClaimStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, OwnedMutexGuard};

use super::cdi;
use super::drivers::{Driver, Drivers};
use super::record::{Claim, Record};
use super::wire;
use crate::pod::spec;

/// Devices of this node's Pods.
pub struct Devices {
    /// Who prepares them.
    pub drivers: Arc<Drivers>,
    record: Mutex<Record>,
    /// One holder a claim at a time: it is not given back while another Pod has it prepared.
    locks: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    cdi_dirs: Vec<PathBuf>,
    /// Whether the runtime knows CDI itself.
    runtime_injects: OnceCell<bool>,
}

/// What a Pod calls its claims, by the claims' names; claims that turned out not to be needed are left out.
fn names(pod: &Pod) -> Result<BTreeMap<String, (BTreeSet<String>, bool)>, String> {
    let mut out: BTreeMap<String, (BTreeSet<String>, bool)> = BTreeMap::new();
    let statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_ref());
    for claim in pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten()) {
        let (name, generated) = match &claim.resource_claim_name {
            Some(name) => (name.clone(), false),
            None => {
                let made = statuses.into_iter().flatten().find(|s| s.name == claim.name);
                let made = made.ok_or_else(|| {
                    format!("pod \"{}/{}\": ResourceClaim not created yet", spec::namespace(pod), spec::name(pod))
                })?;
                let Some(name) = &made.resource_claim_name else { continue };
                (name.clone(), true)
            }
        };
        out.entry(name).or_insert_with(|| (BTreeSet::new(), generated)).0.insert(claim.name.clone());
    }
    if let Some(status) = extended(pod) {
        out.insert(status.resource_claim_name.clone(), ([EXTENDED.to_owned()].into(), true));
    }
    Ok(out)
}

/// What the claim for a Pod's extended resources (KEP-5004) goes by: no entry of a Pod can be called so.
const EXTENDED: &str = "<extended-resources>";

fn extended(pod: &Pod) -> Option<&PodExtendedResourceClaimStatus> {
    pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref())
}

/// Whether a Pod may use a claim: it is allocated and reserved for this very Pod.
fn may_use(pod: &Pod, claim: &ResourceClaim, generated: bool) -> Result<(), String> {
    let uid = spec::uid(pod);
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if generated && !owners.any(|o| o.controller == Some(true) && o.uid == uid) {
        return Err(format!(
            "ResourceClaim {name} was not created for pod {} (pod is not owner)",
            spec::full_name(pod)
        ));
    }
    let status = claim.status.as_ref();
    if status.is_none_or(|s| s.allocation.is_none()) {
        return Err(format!("ResourceClaim {name} has no devices yet"));
    }
    let mut users = status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    if !users.any(|u| u.uid == uid) {
        return Err(format!(
            "pod {}({uid}) is not allowed to use ResourceClaim {name}({})",
            spec::name(pod),
            claim.metadata.uid.as_deref().unwrap_or_default()
        ));
    }
    Ok(())
}

fn drivers_of(claim: &ResourceClaim) -> BTreeSet<String> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results = allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.results.as_ref());
    results.into_iter().flatten().map(|r| r.driver.clone()).collect()
}

impl Devices {
    /// With the record of an earlier life, if there is one.
    ///
    /// # Errors
    /// The record cannot be read: preparing anew without it would forget devices.
    pub fn open(record: PathBuf, cdi_dirs: Vec<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            drivers: Arc::default(),
            record: Mutex::new(Record::open(&record)?),
            locks: Mutex::default(),
            cdi_dirs,
            runtime_injects: OnceCell::new(),
        })
    }

    async fn lock(&self, uids: impl IntoIterator<Item = String>) -> Vec<OwnedMutexGuard<()>> {
        // In the order of uids, so that two never wait for each other.
        let uids: BTreeSet<String> = uids.into_iter().collect();
        let mut held = Vec::with_capacity(uids.len());
        for uid in uids {
            let lock = {
                let mut locks = self.locks.lock();
                locks.retain(|_, lock| Arc::strong_count(lock) > 1);
                locks.entry(uid).or_default().clone()
            };
            held.push(lock.lock_owned().await);
        }
        held
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        self.drivers.get(name).ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// Has all claims of a Pod prepared. May be called again, as long as the Pod lives.
    ///
    /// # Errors
    /// Which claim cannot be had, and why.
    pub async fn prepare(&self, client: &kube::Client, pod: &Pod) -> Result<(), String> {
        let wanted = names(pod)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), spec::namespace(pod));
        let mut claims: BTreeMap<String, (ResourceClaim, BTreeSet<String>)> = BTreeMap::new();
        for (name, (own_names, generated)) in wanted {
            let claim = api.get(&name).await.map_err(|e| {
                format!("failed to fetch ResourceClaim {name} referenced by pod {}: {e}", spec::name(pod))
            })?;
            may_use(pod, &claim, generated)?;
            claims.insert(claim.metadata.uid.clone().unwrap_or_default(), (claim, own_names));
        }
        let _held = self.lock(claims.keys().cloned()).await;
        let to_ask = self.note(spec::uid(pod), &claims).map_err(|e| format!("cannot write what is prepared: {e}"))?;
        for (name, batch) in to_ask {
            let driver = self.driver(&name)?;
            let uids: Vec<String> = batch.iter().map(|c| c.uid.clone()).collect();
            let mut answers = driver
                .client
                .prepare(driver.service, batch)
                .await
                .map_err(|e| format!("NodePrepareResources of driver {name}: {e}"))?;
            for uid in uids {
                let answer = answers
                    .remove(&uid)
                    .ok_or_else(|| format!("NodePrepareResources of driver {name} left out ResourceClaim {uid}"))?;
                if !answer.error.is_empty() {
                    return Err(format!("NodePrepareResources failed for ResourceClaim {uid}: {}", answer.error));
                }
                if let Some(claim) = self.record.lock().known.claims.get_mut(&uid) {
                    claim.drivers.insert(name.clone(), answer.devices.into_iter().map(Into::into).collect());
                }
            }
        }
        let mut record = self.record.lock();
        for uid in claims.keys() {
            if let Some(claim) = record.known.claims.get_mut(uid) {
                claim.prepared = true;
            }
        }
        record.save().map_err(|e| format!("cannot write what is prepared: {e}"))
    }

    /// Writes down that a Pod uses claims, before drivers are asked: whatever happens then, they will be asked to give back.
    /// Gives what to ask each driver for.
    fn note(
        &self,
        pod: &str,
        claims: &BTreeMap<String, (ResourceClaim, BTreeSet<String>)>,
    ) -> io::Result<BTreeMap<String, Vec<wire::Claim>>> {
        let mut record = self.record.lock();
        let mut to_ask: BTreeMap<String, Vec<wire::Claim>> = BTreeMap::new();
        for (uid, (claim, own_names)) in claims {
            let entry = record.known.claims.entry(uid.clone()).or_insert_with(|| Claim {
                namespace: claim.metadata.namespace.clone().unwrap_or_default(),
                name: claim.metadata.name.clone().unwrap_or_default(),
                ..Claim::default()
            });
            entry.pods.entry(pod.to_owned()).or_default().extend(own_names.iter().cloned());
            for driver in drivers_of(claim) {
                entry.drivers.entry(driver.clone()).or_default();
                if !entry.prepared {
                    to_ask.entry(driver).or_default().push(wire::Claim {
                        namespace: entry.namespace.clone(),
                        uid: uid.clone(),
                        name: entry.name.clone(),
                    });
                }
            }
        }
        record.save()?;
        Ok(to_ask)
    }

    /// A Pod has ended: claims that nobody else uses here give their devices back.
    ///
    /// # Errors
    /// Which driver could not do it; to be tried again.
    pub async fn release(&self, pod: &str) -> Result<(), String> {
        let mine = |record: &Record| -> Vec<String> {
            let all = record.known.claims.iter();
            all.filter(|(_, c)| c.pods.contains_key(pod)).map(|(uid, _)| uid.clone()).collect()
        };
        let uids = mine(&self.record.lock());
        if uids.is_empty() {
            return Ok(());
        }
        let _held = self.lock(uids).await;
        let uids = mine(&self.record.lock());
        for uid in uids {
            let claim = self.record.lock().known.claims.get(&uid).cloned();
            let Some(claim) = claim else { continue };
            if claim.pods.len() == 1 {
                self.give_back(&uid, &claim).await?;
            }
            let mut record = self.record.lock();
            if let Some(entry) = record.known.claims.get_mut(&uid) {
                entry.pods.remove(pod);
                if entry.pods.is_empty() {
                    record.known.claims.remove(&uid);
                }
            }
            record.save().map_err(|e| format!("cannot write what is prepared: {e}"))?;
        }
        Ok(())
    }

    async fn give_back(&self, uid: &str, claim: &Claim) -> Result<(), String> {
        if let Some(entry) = self.record.lock().known.claims.get_mut(uid) {
            entry.prepared = false;
        }
        for name in claim.drivers.keys() {
            let driver = self.driver(name)?;
            let one = wire::Claim { namespace: claim.namespace.clone(), uid: uid.to_owned(), name: claim.name.clone() };
            let mut answers = driver
                .client
                .unprepare(driver.service, vec![one])
                .await
                .map_err(|e| format!("NodeUnprepareResources of driver {name}: {e}"))?;
            match answers.remove(uid) {
                None => return Err(format!("NodeUnprepareResources of driver {name} left out ResourceClaim {uid}")),
                Some(answer) if !answer.error.is_empty() => {
                    return Err(format!("NodeUnprepareResources failed for ResourceClaim {uid}: {}", answer.error));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Gives back what Pods have that nobody knows any more. Failures are told of and left for the next time.
    pub async fn release_others(&self, is_known: impl Fn(&str) -> bool) {
        let noted: BTreeSet<String> =
            self.record.lock().known.claims.values().flat_map(|c| c.pods.keys().cloned()).collect();
        for pod in noted.into_iter().filter(|uid| !is_known(uid)) {
            if let Err(error) = self.release(&pod).await {
                tracing::warn!(pod, error, "cannot give back the devices of a pod that is gone");
            }
        }
    }

    /// The CDI devices of a container, each once.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Vec<String> {
        let record = self.record.lock();
        let mut out: Vec<String> = Vec::new();
        let named = container.resources.iter().flat_map(|r| r.claims.iter().flatten());
        let named = named.map(|claim| (claim.name.as_str(), claim.request.as_deref()));
        let mapped = extended(pod).into_iter().flat_map(|s| &s.request_mappings);
        let mapped = mapped.filter(|m| m.container_name == container.name);
        for (claim, request) in named.chain(mapped.map(|m| (EXTENDED, Some(m.request_name.as_str())))) {
            for id in record.cdi(spec::uid(pod), claim, request) {
                if !out.contains(&id) {
                    out.push(id);
                }
            }
        }
        out
    }

    /// Puts CDI devices into a container: by name when the runtime knows CDI, else what their specifications say.
    ///
    /// # Errors
    /// A device that no specification describes, or a specification that only a runtime with CDI can carry out.
    pub async fn inject(
        &self,
        runtime: &dyn Runtime,
        ids: Vec<String>,
        config: &mut caravel_runtime::ContainerConfig,
    ) -> Result<(), String> {
        if ids.is_empty() {
            return Ok(());
        }
        let knows =
            self.runtime_injects.get_or_try_init(|| async { runtime.version().await.map(|v| cdi::is_known_to(&v)) });
        if *knows.await.map_err(|e| e.to_string())? {
            config.cdi_devices = ids;
            return Ok(());
        }
        let dirs = self.cdi_dirs.clone();
        let specs = tokio::task::spawn_blocking(move || cdi::read(&dirs)).await.map_err(|e| e.to_string())?;
        cdi::apply(&specs, &ids, config)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [],
            "resourceClaims": [{"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimName": "shared"},
                {"name": "t", "resourceClaimTemplateName": "x"}]}, "status": status}))
        .unwrap()
    }

    #[test]
    fn a_pods_names_for_its_claims() {
        assert!(names(&pod(json!({}))).unwrap_err().contains("not created yet"));
        let none = names(&pod(json!({"resourceClaimStatuses": [{"name": "t"}]}))).unwrap();
        assert_eq!(none.len(), 1, "one that turned out not to be needed");
        let all = names(&pod(json!({"resourceClaimStatuses": [{"name": "t", "resourceClaimName": "p-t"}]}))).unwrap();
        assert_eq!(all["shared"], (["a".to_owned(), "b".to_owned()].into(), false));
        assert_eq!(all["p-t"], (["t".to_owned()].into(), true));
    }

    #[test]
    fn containers_get_what_stands_in_for_their_extended_resources() {
        let status = json!({"resourceClaimStatuses": [{"name": "t"}], "extendedResourceClaimStatus": {"resourceClaimName": "p-x",
            "requestMappings": [{"containerName": "one", "resourceName": "x.io/gpu", "requestName": "container-0-request-0"},
                {"containerName": "two", "resourceName": "x.io/gpu", "requestName": "container-1-request-0"}]}});
        let p = pod(status);
        assert_eq!(names(&p).unwrap()["p-x"], ([EXTENDED.to_owned()].into(), true), "it must be the pod's own");
        let dir = tempfile::tempdir().unwrap();
        let devices = Devices::open(dir.path().join("devices.json"), Vec::new()).unwrap();
        let device = |request: &str, id: &str| super::super::record::Device {
            requests: vec![request.into()],
            cdi: vec![id.into()],
            ..Default::default()
        };
        let prepared = vec![device("container-0-request-0", "d=a"), device("container-1-request-0", "d=b")];
        let claim = Claim {
            pods: [("u".to_owned(), [EXTENDED.to_owned()].into())].into(),
            drivers: [("d".to_owned(), prepared)].into(),
            ..Claim::default()
        };
        devices.record.lock().known.claims.insert("c".into(), claim);
        let of = |name: &str| devices.of_container(&p, &Container { name: name.into(), ..Container::default() });
        assert_eq!((of("one"), of("two"), of("three")), (vec!["d=a".to_owned()], vec!["d=b".to_owned()], vec![]));
    }

    #[test]
    fn only_what_is_reserved_may_be_used() {
        let p = pod(json!({}));
        let claim = |owner: &str, user: &str, allocated: bool| -> ResourceClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "uid": "c",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}, "spec": {},
                "status": {"allocation": allocated.then(|| json!({"devices": {"results": [
                    {"request": "r", "driver": "d", "pool": "p", "device": "x"}]}})),
                    "reservedFor": [{"resource": "pods", "name": "p", "uid": user}]}}))
            .unwrap()
        };
        assert_eq!(may_use(&p, &claim("u", "u", true), true), Ok(()));
        assert_eq!(may_use(&p, &claim("other", "u", true), false), Ok(()));
        assert!(may_use(&p, &claim("other", "u", true), true).unwrap_err().contains("not owner"));
        assert!(may_use(&p, &claim("u", "v", true), true).unwrap_err().contains("not allowed to use"));
        assert!(may_use(&p, &claim("u", "u", false), true).unwrap_err().contains("no devices"));
        assert_eq!(drivers_of(&claim("u", "u", true)), ["d".to_owned()].into());
    }
}
