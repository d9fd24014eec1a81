//! Makes pods' resource claims from templates, and takes devices back from claims that nobody uses any more (KEP-4381).

mod plan;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;

use crate::common::*;
use crate::context::{Context, record_on};
use plan::{Around, User, claim_names, done, extended, owner, plan_claim, plan_pod};
pub(crate) use plan::{Named, named};

const WORKERS: usize = 10;
/// The index of pods by the claims that they have, as `namespace/name`.
const BY_CLAIM: &str = "resource-claim";
/// The index of claims by the uids of those who use them.
const BY_USER: &str = "user";

/// What is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Pod(Key),
    Claim(Key),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod {key}"),
            Self::Claim(key) => write!(f, "claim {key}"),
        }
    }
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    recorder: Recorder,
    /// Claims made for a pod's entry that the informer may not show yet: (pod uid, entry) to name. Gone with the pod.
    made: Mutex<HashMap<(String, String), String>>,
    /// The newest revisions written here, of claims.
    floor: Floor,
}

fn by_claim(pod: &Pod) -> Vec<String> {
    claim_names(pod).into_iter().map(|name| format!("{}/{name}", namespace(pod))).collect()
}

fn by_user(claim: &ResourceClaim) -> Vec<String> {
    claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten()).map(|r| r.uid.clone()).collect()
}

fn has_claims(pod: &Pod) -> bool {
    extended(pod).is_some()
        || pod.spec.as_ref().is_some_and(|s| s.resource_claims.as_ref().is_some_and(|c| !c.is_empty()))
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let pods = context.pods();
    pods.add_index(BY_CLAIM, by_claim);
    let c = Controller {
        pods,
        claims: context.owned(),
        templates: context.cluster.informer(),
        recorder: context.cluster.recorder("resource_claim"),
        made: Mutex::default(),
        floor: Floor::default(),
        context,
    };
    c.claims.add_index(BY_USER, by_user);
    let queue = WorkQueue::new();
    let (claims, wake) = (c.claims.clone(), queue.clone());
    c.pods.on_change(move |change| {
        let pod = change.object();
        if !has_claims(pod) {
            return;
        }
        wake.add(Item::Pod(Key::of(&**pod)));
        let named = claim_names(pod);
        let own = claims.by_index(BY_CONTROLLER, uid(&**pod));
        if matches!(change, Change::Deleted(_)) || done(pod) {
            // The last that was seen of it may be older than what it names: whatever says that it is its own counts, too.
            let all = claims.by_index(BY_USER, uid(&**pod)).into_iter().chain(own);
            all.for_each(|claim| wake.add(Item::Claim(Key::of(&*claim))));
            named.into_iter().for_each(|name| wake.add(Item::Claim(Key::new(namespace(&**pod), name))));
        } else {
            // One that it does not name was made twice, when it names the other.
            let spare = own.iter().filter(|claim| named.iter().all(|n| n != name(&***claim)));
            spare.for_each(|claim| wake.add(Item::Claim(Key::of(&**claim))));
        }
    });
    let (pods, wake) = (c.pods.clone(), queue.clone());
    c.claims.on_change(move |change| {
        let claim = change.object();
        if !matches!(change, Change::Deleted(_)) {
            wake.add(Item::Claim(Key::of(&**claim)));
        }
        let users = pods.by_index(BY_CLAIM, &format!("{}/{}", namespace(&**claim), name(&**claim)));
        users.iter().for_each(|pod| wake.add(Item::Pod(Key::of(&**pod))));
    });
    let (pods, wake) = (c.pods.clone(), queue.clone());
    c.templates.on_change(move |change| {
        let template = change.object();
        let wants = |pod: &Pod| {
            let mut entries = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
            entries.any(|e| e.resource_claim_template_name.as_deref() == Some(name(&**template)))
        };
        let waiting = pods.list_in(namespace(&**template)).into_iter().filter(|p| wants(p));
        waiting.for_each(|pod| wake.add(Item::Pod(Key::of(&*pod))));
    });
    c.templates.synced().await;
    c.claims.synced().await;
    c.pods.synced().await;
    let c = &c;
    let reconcile = |item| async move {
        match item {
            Item::Pod(key) => c.pod(key).await,
            Item::Claim(key) => c.claim(key).await,
        }
    };
    c.context.work(queue, WORKERS, reconcile).await;
    Ok(())
}

impl Controller {
    fn api(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.context.client(), namespace)
    }

    async fn pod(&self, key: Key) -> Outcome {
        let Some(pod) = self.pods.get(&key) else { return Ok(None) };
        if done(&pod) || deleting(&*pod) {
            self.made.lock().retain(|(owner, _), _| owner != uid(&*pod));
            return Ok(None);
        }
        let owned: Vec<ResourceClaim> =
            self.claims.by_index(BY_CONTROLLER, uid(&*pod)).iter().map(|c| (**c).clone()).collect();
        let mut plan = plan_pod(
            &pod,
            &Around {
                claim: &|name| self.claims.get(&Key::new(key.namespace.clone(), name)).map(|c| (*c).clone()),
                template: &|name| self.templates.get(&Key::new(key.namespace.clone(), name)).map(|t| (*t).clone()),
                owned: &owned,
            },
        );
        let api = self.api(&key.namespace);
        let mut again = None;
        for (entry, noted) in &plan.doubt {
            // Only that the informer does not show it yet.
            if api.get_opt(noted).await?.is_some_and(|claim| controlled_by(&claim, uid(&*pod))) {
                plan.make.retain(|(other, _)| other != entry);
                plan.note.remove(entry);
                again = Some(UNMET);
            }
        }
        for (entry, claim) in plan.make {
            let made = self.make(&api, &pod, &entry, &claim).await;
            match made {
                Ok(name) => drop(plan.note.insert(entry, name)),
                Err(e) if is_namespace_terminating(&e) => return Ok(None),
                Err(e) => plan.wrong.push((entry, message_of(&e))),
            }
        }
        if !plan.note.is_empty() {
            self.note(&pod, &plan.note).await?;
        }
        for claim in &plan.reserve {
            self.floor.wrote(&put_status(&api, claim).await?);
        }
        let Some((entry, why)) = plan.wrong.first() else { return Ok(again) };
        let note = format!("PodResourceClaim {entry}: {why}");
        record_on(&self.recorder, &*pod, &[Event::warning("FailedResourceClaimCreation", note.clone())]);
        anyhow::bail!(note)
    }

    /// Makes a claim, unless that was done and the informer does not show it yet.
    async fn make(
        &self,
        api: &Api<ResourceClaim>,
        pod: &Pod,
        entry: &str,
        claim: &ResourceClaim,
    ) -> Result<String, kube::Error> {
        let key = (uid(pod).to_owned(), entry.to_owned());
        let known = self.made.lock().get(&key).cloned();
        if let Some(known) = known
            && api.get_opt(&known).await?.is_some_and(|c| controlled_by(&c, uid(pod)) && !deleting(&c))
        {
            return Ok(known);
        }
        let made = api.create(&PostParams::default(), claim).await?;
        self.made.lock().insert(key, name(&made).to_owned());
        Ok(name(&made).to_owned())
    }

    /// Notes in a pod's status which claims were made for it.
    async fn note(&self, pod: &Pod, names: &std::collections::BTreeMap<String, String>) -> anyhow::Result<()> {
        let statuses: Vec<_> =
            names.iter().map(|(entry, claim)| json!({"name": entry, "resourceClaimName": claim})).collect();
        // Of the very pod that was looked at: an old copy does not show what was noted since, and would take it back.
        let seen = json!({"uid": uid(pod), "resourceVersion": pod.metadata.resource_version});
        let patch = json!({"metadata": seen, "status": {"resourceClaimStatuses": statuses}});
        let api: Api<Pod> = Api::namespaced(self.context.client(), namespace(pod));
        let patched =
            api.patch_subresource("status", name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await;
        match patched {
            // Its newer state is on the way, and wakes this again.
            Err(e) if is_conflict(&e) => Ok(()),
            other => Ok(gone_is_fine(other)?),
        }
    }

    async fn claim(&self, key: Key) -> Outcome {
        let Some(claim) = self.claims.get(&key) else { return Ok(None) };
        if !self.floor.reached(&*claim) {
            return Ok(None);
        }
        let (mut users, mut again) = (Vec::new(), None);
        for reference in claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten()) {
            let (user, unmet) = self.user(&key.namespace, reference).await?;
            users.push(user);
            again = sooner(again, unmet);
        }
        let owning = controller_of(&*claim).map(|o| Key::new(key.namespace.clone(), o.name.clone()));
        let owning = owning.and_then(|key| self.pods.get(&key));
        let plan = plan_claim(&claim, &users, owner(&claim, owning.as_deref()));
        let api = self.api(&key.namespace);
        let mut claim = (*claim).clone();
        if let Some(status) = plan.status {
            claim.status = Some(status);
            claim = put_status(&api, &claim).await?;
            self.floor.wrote(&claim);
        }
        if plan.unprotect {
            claim.metadata.finalizers.get_or_insert_default().retain(|f| f != plan::FINALIZER);
            match api.replace(&key.name, &PostParams::default(), &claim).await {
                Ok(written) => self.floor.wrote(&written),
                Err(e) if is_not_found(&e) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
        if plan.delete {
            let same = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
            gone_is_fine(api.delete(&key.name, &DeleteParams::default().preconditions(same)).await)?;
        }
        Ok(again)
    }

    /// Looks a user up. One that the informer does not know may be new: the server is asked then, for a claim must not be taken from a pod
    /// that is just being scheduled; and again later, for its end.
    async fn user(
        &self,
        namespace: &str,
        reference: &ResourceClaimConsumerReference,
    ) -> anyhow::Result<(User, Option<Duration>)> {
        if reference.resource != "pods" || reference.api_group.as_deref().is_some_and(|g| !g.is_empty()) {
            return Ok((User::Unknown, None));
        }
        let judge = |pod: &Pod| if uid(pod) != reference.uid || done(pod) { User::Gone } else { User::Needs };
        if let Some(pod) =
            self.pods.get(&Key::new(namespace, reference.name.clone())).filter(|p| uid(&**p) == reference.uid)
        {
            return Ok((judge(&pod), None));
        }
        let api: Api<Pod> = Api::namespaced(self.context.client(), namespace);
        let live = api.get_opt(&reference.name).await?.map_or(User::Gone, |pod| judge(&pod));
        Ok((live, (live == User::Needs).then_some(UNMET)))
    }
}
