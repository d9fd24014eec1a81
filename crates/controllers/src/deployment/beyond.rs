//! Beyond upstream, and only for Deployments that ask by annotation: going back by oneself when the progress deadline passes.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::util::*;
use crate::common::{Event, annotation, name};

/// All annotations of this program, which are not copied to ReplicaSets.
pub const PREFIX: &str = "caravel.dev/";
/// `"true"`: a rollout that passes its progress deadline is rolled back to the template that was last complete.
pub const ROLL_BACK: &str = "caravel.dev/rollback-on-deadline";
/// The ReplicaSet whose template was last complete. Written by the controller.
pub const LAST_GOOD: &str = "caravel.dev/last-complete-replica-set";
/// The ReplicaSet that was given up last. Written by the controller.
pub const GIVEN_UP: &str = "caravel.dev/rolled-back-from";

/// Whether a Deployment asks to be rolled back.
pub fn asked(d: &Deployment) -> bool {
    annotation(d, ROLL_BACK) == Some("true")
}

/// The annotation to write when a rollout is complete and its ReplicaSet not yet noted.
pub fn remember(
    d: &Deployment,
    status: &DeploymentStatus,
    new: Option<&ReplicaSet>,
) -> Option<(String, Option<String>)> {
    let new = name(new?);
    let due = asked(d) && complete(d, status) && annotation(d, LAST_GOOD) != Some(new);
    due.then(|| (LAST_GOOD.to_owned(), Some(new.to_owned())))
}

/// The Deployment with the template that was last complete, when the present one has passed its deadline, and the event that tells so.
/// Nothing happens twice for one template: what is rolled back to is never itself given up.
pub fn roll_back(d: &Deployment, all: &[Arc<ReplicaSet>]) -> Option<(Deployment, Event)> {
    let (spec, status) = (d.spec.as_ref()?, d.status.as_ref()?);
    let timed_out = condition(status, "Progressing")
        .is_some_and(|c| c.status == "False" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    if !asked(d) || !timed_out || spec.paused == Some(true) || status.observed_generation != d.metadata.generation {
        return None;
    }
    let (bad, good) = (find_new(d, all)?, annotation(d, LAST_GOOD)?);
    let good = all.iter().find(|rs| name(&***rs) == good && name(&***rs) != name(&**bad))?;
    let mut changed = d.clone();
    changed.metadata.annotations.get_or_insert_default().insert(GIVEN_UP.into(), name(&**bad).into());
    let mut template = good.spec.as_ref()?.template.clone()?;
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    changed.spec.get_or_insert_default().template = template;
    let note = format!(
        "ReplicaSet {:?} passed the progress deadline: rolled back to the template of {:?}, which was complete",
        name(&**bad),
        name(&**good)
    );
    Some((changed, Event::warning("DeploymentRolledBack", note)))
}
