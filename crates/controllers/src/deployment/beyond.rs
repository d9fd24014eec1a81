//! Beyond upstream, and only for Deployments that ask by annotation: going back by oneself when a rollout passes its progress deadline
//! or has more failures than are allowed.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::canary;
use super::util::*;
use crate::common::{Event, annotation, name, pod};

/// All annotations of this program, which are not copied to ReplicaSets.
pub const PREFIX: &str = "caravel.dev/";
/// `"true"`: a rollout that passes its progress deadline is rolled back to the template that was last complete.
pub const ROLL_BACK: &str = "caravel.dev/rollback-on-deadline";
/// A number: a rollout whose Pods fail or whose containers restart more often than that is rolled back in the same way.
pub const MAX_FAILURES: &str = "caravel.dev/rollback-on-failures";
/// The ReplicaSet whose template was last complete. Written by the controller.
pub const LAST_GOOD: &str = "caravel.dev/last-complete-replica-set";
/// The ReplicaSet that was given up last. Written by the controller.
pub const GIVEN_UP: &str = "caravel.dev/rolled-back-from";

/// Whether a Deployment asks to be rolled back when its deadline passes.
fn asked(d: &Deployment) -> bool {
    annotation(d, ROLL_BACK) == Some("true")
}

/// The failures that a rollout may have; `None` when nobody counts them, or the number cannot be read.
pub fn max_failures(d: &Deployment) -> Option<u64> {
    annotation(d, MAX_FAILURES)?.trim().parse().ok()
}

/// Whether it matters to a Deployment which of its templates was complete last.
pub fn remembers(d: &Deployment) -> bool {
    asked(d) || annotation(d, MAX_FAILURES).is_some() || canary::asked(d)
}

/// What counts as failures: restarts of containers, and Pods that failed.
pub fn failures<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> u64 {
    let of = |p: &Pod| {
        let status = p.status.iter();
        let containers = status.flat_map(|s| [&s.init_container_statuses, &s.container_statuses]).flatten().flatten();
        let restarts = containers.map(|c| u64::try_from(c.restart_count).unwrap_or(0)).sum::<u64>();
        restarts + u64::from(pod::phase(p) == "Failed")
    };
    pods.into_iter().map(of).sum()
}

/// The annotation to write when a rollout is complete and its ReplicaSet not yet noted.
pub fn remember(
    d: &Deployment,
    status: &DeploymentStatus,
    new: Option<&ReplicaSet>,
) -> Option<(String, Option<String>)> {
    let new = name(new?);
    let due = remembers(d) && complete(d, status) && annotation(d, LAST_GOOD) != Some(new);
    due.then(|| (LAST_GOOD.to_owned(), Some(new.to_owned())))
}

/// Why the newest template is to be given up, if it is.
fn given_up<'a>(d: &Deployment, bad: &ReplicaSet, pods: impl Fn(&ReplicaSet) -> Vec<&'a Pod>) -> Option<String> {
    let timed_out = condition(d.status.as_ref()?, "Progressing")
        .is_some_and(|c| c.status == "False" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    if asked(d) && timed_out {
        return Some("passed the progress deadline".to_owned());
    }
    let most = max_failures(d)?;
    let counted = failures(pods(bad));
    (counted > most).then(|| format!("had {counted} failures and restarts, and {most} are allowed"))
}

/// The Deployment with the template that was last complete, when the present one is to be given up, and the event that tells so.
/// Nothing happens twice for one template: what is rolled back to is never itself given up. `pods` finds those of a ReplicaSet.
pub fn roll_back<'a>(
    d: &Deployment,
    all: &[Arc<ReplicaSet>],
    pods: impl Fn(&ReplicaSet) -> Vec<&'a Pod>,
) -> Option<(Deployment, Event)> {
    let (spec, status) = (d.spec.as_ref()?, d.status.as_ref()?);
    if spec.paused == Some(true) || status.observed_generation != d.metadata.generation {
        return None;
    }
    let (bad, good) = (find_new(d, all)?, annotation(d, LAST_GOOD)?);
    let good = all.iter().find(|rs| name(&***rs) == good && name(&***rs) != name(&**bad))?;
    let why = given_up(d, bad, pods)?;
    let mut changed = d.clone();
    changed.metadata.annotations.get_or_insert_default().insert(GIVEN_UP.into(), name(&**bad).into());
    let mut template = good.spec.as_ref()?.template.clone()?;
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    changed.spec.get_or_insert_default().template = template;
    let note = format!(
        "ReplicaSet {:?} {why}: rolled back to the template of {:?}, which was complete",
        name(&**bad),
        name(&**good)
    );
    Some((changed, Event::warning("DeploymentRolledBack", note)))
}
