//! What the scheduler knows of claims, classes and slices, and what it decided but has not written yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use caravel_cel::device::Selector;

use super::binding::Readiness;
use super::claim::{Allocation, Claim, Class, Compiled};
use super::pools::Pools;
use super::slice::Slice;
use super::usage::Usage;
use crate::model::{CLASS_PREFIX, PodInfo, PodKey};

/// So many compiled selectors are kept; there are few different ones.
const PROGRAMS: usize = 1000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Devices {
    claims: HashMap<PodKey, Arc<Claim>>,
    classes: HashMap<Arc<str>, Arc<Class>>,
    slices: BTreeMap<Arc<str>, Arc<Slice>>,
    /// What was decided for claims, until their own status says so: with the claim's uid.
    pending: HashMap<PodKey, (Arc<str>, Arc<Allocation>)>,
    usage: Usage,
    /// Claims for extended resources, by the uid of their pod.
    special: HashMap<Arc<str>, PodKey>,
    /// Claims (by uid) whose devices were waited for in vain.
    expired: HashMap<PodKey, Arc<str>>,
    /// The class of each extended resource that a class names.
    extended: HashMap<Arc<str>, Arc<str>>,
    /// Made anew after slices changed, when somebody asks.
    pools: Option<Arc<Pools>>,
    programs: HashMap<Arc<str>, Result<Arc<Selector>, Arc<str>>>,
}

impl Devices {
    /// A claim's devices as they count: what its status says, else what was decided.
    fn counted(&self, key: &PodKey) -> Option<Arc<Allocation>> {
        let own = self.claims.get(key).and_then(|c| c.allocation.clone());
        own.or_else(|| self.pending.get(key).map(|(_, a)| a.clone()))
    }

    fn change(&mut self, key: &PodKey, f: impl FnOnce(&mut Self)) {
        let before = self.counted(key);
        f(self);
        if let Some(before) = before {
            self.usage.remove(&before);
        }
        if let Some(after) = self.counted(key) {
            self.usage.add(&after);
        }
    }

    /// A claim came, changed or (`None`) went. Gives whether that may have freed devices.
    pub fn set_claim(&mut self, key: &PodKey, claim: Option<Claim>) -> bool {
        // What was written here may be known before the informer tells of what was there earlier.
        let older = |new: &Claim, old: &Claim| new.uid == old.uid && new.version < old.version;
        if let (Some(new), Some(old)) = (&claim, self.claims.get(key))
            && older(new, old)
        {
            return false;
        }
        let had = self.claims.get(key).is_some_and(|c| c.allocation.is_some());
        let has = claim.as_ref().is_some_and(|c| c.allocation.is_some());
        let lost = claim.is_none() && self.claims.get(key).is_some_and(|c| c.special);
        self.note_special(key, claim.as_ref());
        if !has {
            self.expired.remove(key);
        }
        self.change(key, |all| match claim {
            Some(claim) => {
                // Another of the same name is another claim; one with devices has been written.
                if has || all.pending.get(key).is_some_and(|(uid, _)| *uid != claim.uid) {
                    all.pending.remove(key);
                }
                all.claims.insert(key.clone(), Arc::new(claim));
            }
            None => {
                all.claims.remove(key);
                all.pending.remove(key);
            }
        });
        had && !has || lost
    }

    fn note_special(&mut self, key: &PodKey, claim: Option<&Claim>) {
        if let Some(owner) = self.claims.get(key).filter(|c| c.special).and_then(|c| c.owner.as_ref())
            && self.special.get(owner) == Some(key)
        {
            self.special.remove(owner);
        }
        if let Some(owner) = claim.filter(|c| c.special).and_then(|c| c.owner.clone()) {
            self.special.insert(owner, key.clone());
        }
    }

    /// The claim that was made for a pod's extended resources.
    pub fn special_of(&self, pod: &PodInfo) -> Option<&Arc<Claim>> {
        self.special.get(&pod.uid).and_then(|key| self.claims.get(key))
    }

    /// The devices of a claim were waited for in vain.
    pub fn expire(&mut self, claim: &Claim) {
        self.expired.insert(claim.key.clone(), claim.uid.clone());
    }

    /// Whether the devices of a claim will not be ready: others are to be found.
    pub fn is_lost(&self, claim: &Claim) -> bool {
        match claim.binding.readiness {
            Readiness::Failed(_) => true,
            Readiness::Waiting => self.expired.get(&claim.key) == Some(&claim.uid),
            Readiness::Unasked | Readiness::Ready => false,
        }
    }

    /// A class came, changed or went.
    pub fn set_class(&mut self, name: &str, class: Option<Class>) {
        match class {
            Some(class) => self.classes.insert(name.into(), Arc::new(class)),
            None => self.classes.remove(name),
        };
        // Of several with the same resource the newest counts, then the first by name.
        let named =
            self.classes.iter().filter_map(|(name, class)| Some((class.extended.clone()?, class.created, name)));
        let mut named: Vec<_> = named.collect();
        named.sort_by(|a, b| a.1.cmp(&b.1).then_with(|| b.2.cmp(a.2)));
        self.extended = named.into_iter().map(|(resource, _, name)| (resource, name.clone())).collect();
    }

    /// The class whose devices stand in for an extended resource.
    pub fn class_for(&self, resource: &str) -> Option<&Arc<str>> {
        match resource.strip_prefix(CLASS_PREFIX) {
            Some(name) => self.classes.get_key_value(name).map(|(name, _)| name),
            None => self.extended.get(resource),
        }
    }

    /// Whether devices may stand in for something that a pod asks for.
    pub fn backs(&self, pod: &PodInfo) -> bool {
        pod.extended.iter().any(|a| a.resources.iter().any(|(name, ..)| self.class_for(name).is_some()))
    }

    /// A slice came, changed or went.
    pub fn set_slice(&mut self, name: &str, slice: Option<Slice>) {
        self.pools = None;
        match slice {
            Some(slice) => self.slices.insert(name.into(), Arc::new(slice)),
            None => self.slices.remove(name),
        };
    }

    /// A claim.
    pub fn claim(&self, key: &PodKey) -> Option<&Arc<Claim>> {
        self.claims.get(key)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }

    /// What is taken.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// All pools.
    pub fn pools(&mut self) -> Arc<Pools> {
        let slices = &self.slices;
        self.pools.get_or_insert_with(|| Arc::new(Pools::new(slices.values()))).clone()
    }

    /// Whether devices were decided on for a claim, which are not written yet.
    pub fn is_pending(&self, key: &PodKey) -> bool {
        self.pending.contains_key(key)
    }

    /// Counts devices as taken before that is written.
    pub fn assume(&mut self, claim: &Claim, allocation: Arc<Allocation>) {
        let (key, uid) = (claim.key.clone(), claim.uid.clone());
        self.change(&claim.key, |all| drop(all.pending.insert(key, (uid, allocation))));
    }

    /// It was written: `claim` is the answer.
    pub fn settle(&mut self, claim: Claim) {
        let key = claim.key.clone();
        self.set_claim(&key, Some(claim));
        self.forget(&key);
    }

    /// It could not be written: the devices are free again.
    pub fn forget(&mut self, key: &PodKey) {
        self.change(key, |all| drop(all.pending.remove(key)));
    }

    /// A selector, compiled.
    pub fn compiled(&mut self, source: &Arc<str>, origin: String) -> Compiled {
        if self.programs.len() >= PROGRAMS {
            self.programs.clear();
        }
        let made = || Selector::compile(source).map(Arc::new).map_err(|e| e.to_string().into());
        let selector = self.programs.entry(source.clone()).or_insert_with(made).clone();
        Compiled { origin, selector }
    }

    /// The claims of a pod, each once.
    ///
    /// # Errors
    /// Which is not there (yet), or is not the pod's.
    pub fn of_pod(&self, pod: &PodInfo) -> Result<Vec<Arc<Claim>>, String> {
        let mut out: Vec<Arc<Claim>> = Vec::with_capacity(pod.devices.len());
        for one in &pod.devices {
            let Some(name) = &one.claim else {
                return Err(format!("pod \"{}\": ResourceClaim not created yet", pod.key));
            };
            let key = PodKey { namespace: pod.key.namespace.clone(), name: name.clone() };
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("resourceclaim.resource.k8s.io \"{name}\" not found"));
            };
            if claim.terminating {
                return Err(format!("resourceclaim \"{name}\" is being deleted"));
            }
            if one.generated && claim.owner.as_ref() != Some(&pod.uid) {
                return Err(format!("ResourceClaim {key} was not created for Pod {} (Pod is not owner)", pod.key));
            }
            if !out.iter().any(|c| c.key == key) {
                out.push(claim.clone());
            }
        }
        Ok(out)
    }
}
