//! Workloads: Deployments and their like, Jobs and CronJobs.

use super::{Object, child, each, get, made, optional, pod, storage, text};
use serde_json::{Value, json};

pub(super) fn apply(kind: &str, object: &mut Object) {
    let spec = match kind {
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" => made(object, "spec"),
        _ => return,
    };
    let Some(spec) = spec else { return };
    pod::pod_template(spec, "template");
    match kind {
        "Deployment" => deployment(spec),
        "ReplicaSet" => optional(spec, "replicas", 1),
        "DaemonSet" => daemon_set(spec),
        _ => stateful_set(spec),
    }
    made(object, "status");
}

fn deployment(spec: &mut Object) {
    optional(spec, "replicas", 1);
    optional(spec, "revisionHistoryLimit", 10);
    optional(spec, "progressDeadlineSeconds", 600);
    let Some(strategy) = made(spec, "strategy") else { return };
    text(strategy, "type", "RollingUpdate");
    if get(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = made(strategy, "rollingUpdate")
    {
        optional(rolling, "maxUnavailable", "25%");
        optional(rolling, "maxSurge", "25%");
    }
}

fn daemon_set(spec: &mut Object) {
    optional(spec, "revisionHistoryLimit", 10);
    let Some(strategy) = made(spec, "updateStrategy") else { return };
    text(strategy, "type", "RollingUpdate");
    if get(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = made(strategy, "rollingUpdate")
    {
        optional(rolling, "maxUnavailable", 1);
        optional(rolling, "maxSurge", 0);
    }
}

fn stateful_set(spec: &mut Object) {
    text(spec, "podManagementPolicy", "OrderedReady");
    optional(spec, "replicas", 1);
    optional(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = made(spec, "updateStrategy") {
        if get(strategy, "type").is_empty() {
            strategy.insert("type".into(), "RollingUpdate".into());
            made(strategy, "rollingUpdate");
        }
        if get(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            optional(rolling, "partition", 0);
        }
    }
    if let Some(policy) = made(spec, "persistentVolumeClaimRetentionPolicy") {
        text(policy, "whenDeleted", "Retain");
        text(policy, "whenScaled", "Retain");
    }
    for claim in each(spec, "volumeClaimTemplates") {
        text(claim, "apiVersion", "v1");
        text(claim, "kind", "PersistentVolumeClaim");
        storage::claim(claim);
    }
}

pub(super) fn apply_batch(kind: &str, object: &mut Object) {
    match kind {
        "Job" => job(object),
        "CronJob" => cron_job(object),
        _ => {}
    }
}

fn job(object: &mut Object) {
    let Some(spec) = made(object, "spec") else { return };
    pod::pod_template(spec, "template");
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        optional(spec, "completions", 1);
    }
    optional(spec, "parallelism", 1);
    let unlimited = spec.contains_key("backoffLimitPerIndex");
    optional(spec, "backoffLimit", if unlimited { i64::from(i32::MAX) } else { 6 });
    optional(spec, "completionMode", "NonIndexed");
    optional(spec, "suspend", false);
    let failure_policy = spec.contains_key("podFailurePolicy");
    optional(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
    optional(spec, "manualSelector", false);
    failure_rules(spec);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    made(object, "status");
    let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty())) else { return };
    if let Some(metadata) = made(object, "metadata")
        && metadata.get("labels").and_then(Value::as_object).is_none_or(|map| map.is_empty())
    {
        metadata.insert("labels".into(), labels);
    }
}

fn failure_rules(spec: &mut Object) {
    let Some(policy) = child(spec, "podFailurePolicy") else { return };
    for rule in each(policy, "rules") {
        for condition in each(rule, "onPodConditions") {
            text(condition, "status", "True");
        }
    }
}

fn cron_job(object: &mut Object) {
    let Some(spec) = made(object, "spec") else { return };
    text(spec, "concurrencyPolicy", "Allow");
    optional(spec, "suspend", false);
    optional(spec, "successfulJobsHistoryLimit", 3);
    optional(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = made(spec, "jobTemplate") {
        template.entry("metadata").or_insert_with(|| json!({}));
        if let Some(job) = made(template, "spec") {
            pod::pod_template(job, "template");
            failure_rules(job);
        }
    }
    made(object, "status");
}
