//! What is to be done about the migrations of one resource, and what a migration and its definition say then. Pure.

use std::cmp::Ordering;

use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::common::{created, name, stored_time};

/// Types of conditions of a migration.
pub const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";

/// The next step, with the place of the migration that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All have ended.
    Rest,
    /// This one is next: it gets the revision that it reaches up to, and runs.
    Start(usize),
    /// This one runs: what is as old as its revision is written again.
    Move(usize),
}

/// Decides: the one that runs goes on, else the oldest that waits begins. So there is one at a time for a resource.
pub fn plan(all: &[StorageVersionMigration]) -> Step {
    let open = || all.iter().enumerate().filter(|(_, one)| !is_true(one, SUCCEEDED) && !is_true(one, FAILED));
    if let Some((at, one)) = open().find(|(_, one)| is_true(one, RUNNING)) {
        return if revision(one).is_empty() { Step::Start(at) } else { Step::Move(at) };
    }
    let age = |one: &StorageVersionMigration| (created(one), name(one).to_owned());
    open().min_by_key(|(_, one)| age(one)).map_or(Step::Rest, |(at, _)| Step::Start(at))
}

/// The revision that a migration reaches up to; empty before it began.
pub fn revision(one: &StorageVersionMigration) -> &str {
    one.status.as_ref().and_then(|s| s.resource_version.as_deref()).unwrap_or_default()
}

fn is_true(one: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = one.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

/// The migration once it runs, reaching up to `revision`. A revision that it has stays.
pub fn started(one: &StorageVersionMigration, revision: &str, now: Timestamp) -> StorageVersionMigration {
    let mut next = one.clone();
    let status = next.status.get_or_insert_default();
    if status.resource_version.as_deref().unwrap_or_default().is_empty() {
        status.resource_version = Some(revision.to_owned());
    }
    let conditions = status.conditions.get_or_insert_default();
    set(conditions, RUNNING, true, "MigrationRunning", "The migration is running", now);
    next
}

/// The migration at its end; `failure` says why it did not succeed.
pub fn ended(one: &StorageVersionMigration, failure: Option<&str>, now: Timestamp) -> StorageVersionMigration {
    let mut next = one.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == RUNNING) {
        set(conditions, RUNNING, false, "MigrationCompleted", "Migration completed", now);
    }
    match failure {
        None => set(conditions, SUCCEEDED, true, "StorageVersionMigrationSucceeded", "", now),
        Some(why) => {
            let message = format!("migration encountered unhandled error: {why}");
            set(conditions, FAILED, true, "StorageVersionMigrationFailed", &message, now);
        }
    }
    next
}

fn set(all: &mut Vec<Condition>, kind: &str, value: bool, reason: &str, message: &str, now: Timestamp) {
    let status = if value { "True" } else { "False" };
    let before = all.iter().find(|c| c.type_ == kind && c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        // Bytes are counted by the server; a cause that long says enough in its first part.
        message: message.chars().take(8 * 1024).collect(),
        last_transition_time: before.unwrap_or_else(|| stored_time(now)),
        observed_generation: None,
    };
    match all.iter_mut().find(|c| c.type_ == kind) {
        Some(place) => *place = condition,
        None => all.push(condition),
    }
}

/// Whether an object of revision `its` is to be written again by a migration that reaches up to `reach`: what was written since
/// is in today's form.
///
/// # Errors
/// What is no revision that can be compared.
pub fn is_due(its: &str, reach: &str) -> Result<bool, String> {
    Ok(compare(its, reach)? != Ordering::Greater)
}

/// Compares two revisions: whole numbers of any length (KEP-5504).
fn compare(a: &str, b: &str) -> Result<Ordering, String> {
    for one in [a, b] {
        if one.is_empty() || one.starts_with('0') || !one.bytes().all(|c| c.is_ascii_digit()) {
            return Err(format!("resource version is not well formed: {one}"));
        }
    }
    Ok(a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
}

/// What became of writing one object again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in today's form: we wrote it, somebody else did, or it is gone.
    Done,
    /// The server could not do it now.
    Later,
    /// The server will not do it.
    Refused,
}

/// Judges an answer by its status code; `None` when there was no answer.
pub fn judge(code: Option<u16>) -> Verdict {
    match code {
        Some(200..=299 | 404 | 409) => Verdict::Done,
        None | Some(429 | 500 | 503 | 504) => Verdict::Later,
        Some(_) => Verdict::Refused,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
