//! Deployments and their like, Jobs, autoscalers, budgets.

use super::cells::{
    age, condition_true, containers, count, int, labels, list, name, quantity, scalar, seconds_between, since, text,
    text_or,
};
use super::{AGE, Column, NAME, StaticPrinter, human_duration, of, shown, wide};
use crate::meta;
use crate::selector::format_label_selector;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(group: &str, kind: &str) -> Option<StaticPrinter> {
    Some(match (group, kind) {
        ("apps", "Deployment") => of(&DEPLOYMENT, deployment),
        ("apps", "ReplicaSet") => of(&REPLICA_SET, |o, now| replicas(o, now, selector(o, "/spec/selector"))),
        ("", "ReplicationController") => {
            of(&REPLICA_SET, |o, now| replicas(o, now, labels(o, "/spec/selector").into()))
        }
        ("apps", "DaemonSet") => of(&DAEMON_SET, daemon_set),
        ("apps", "StatefulSet") => of(&STATEFUL_SET, stateful_set),
        ("apps", "ControllerRevision") => of(&REVISION, revision),
        ("batch", "Job") => of(&JOB, job),
        ("batch", "CronJob") => of(&CRON_JOB, cron_job),
        ("autoscaling", "HorizontalPodAutoscaler") => of(&AUTOSCALER, autoscaler),
        ("policy", "PodDisruptionBudget") => of(&BUDGET, budget),
        _ => return None,
    })
}

const CONTAINERS: Column<'static> = wide("Containers", "Names of the template's containers.");
const IMAGES: Column<'static> = wide("Images", "Images of the template's containers.");
const SELECTOR: Column<'static> = wide("Selector", "Labels of the pods that belong to it.");
const TEMPLATE: &str = "/spec/template/spec/containers";

fn selector(object: &Value, path: &str) -> Value {
    format_label_selector(object.pointer(path)).into()
}

static DEPLOYMENT: [Column<'static>; 8] = [
    NAME,
    shown("Ready", "string", "Pods that are ready, of all wanted."),
    shown("Up-to-date", "string", "Pods of the newest template."),
    shown("Available", "string", "Pods that are ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(object, TEMPLATE);
    vec![
        name(object),
        format!("{}/{}", int(object, "/status/readyReplicas"), int(object, "/spec/replicas")).into(),
        int(object, "/status/updatedReplicas").into(),
        int(object, "/status/availableReplicas").into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

static REPLICA_SET: [Column<'static>; 8] = [
    NAME,
    shown("Desired", "integer", "Pods that are wanted."),
    shown("Current", "integer", "Pods that exist."),
    shown("Ready", "integer", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn replicas(object: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let (names, images) = containers(object, TEMPLATE);
    vec![
        name(object),
        int(object, "/spec/replicas").into(),
        int(object, "/status/replicas").into(),
        int(object, "/status/readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector,
    ]
}

static DAEMON_SET: [Column<'static>; 11] = [
    NAME,
    shown("Desired", "integer", "Nodes that should run the pod."),
    shown("Current", "integer", "Nodes that run the pod and should."),
    shown("Ready", "integer", "Nodes whose pod is ready."),
    shown("Up-to-date", "integer", "Nodes that run the newest template."),
    shown("Available", "integer", "Nodes whose pod is ready for long enough."),
    shown("Node Selector", "string", "Labels of the nodes that it is for."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(object, TEMPLATE);
    let status = |field: &str| -> Value { int(object, &format!("/status/{field}")).into() };
    vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(object, "/spec/template/spec/nodeSelector").into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

static STATEFUL_SET: [Column<'static>; 5] =
    [NAME, shown("Ready", "string", "Pods that are ready, of all wanted."), AGE, CONTAINERS, IMAGES];

fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(object, TEMPLATE);
    let ready = format!("{}/{}", int(object, "/status/readyReplicas"), int(object, "/spec/replicas"));
    vec![name(object), ready.into(), age(object, now), names, images]
}

static REVISION: [Column<'static>; 4] = [
    NAME,
    shown("Controller", "string", "Object whose history it belongs to."),
    shown("Revision", "string", "Number of the revision."),
    AGE,
];

fn revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = meta::controller(object).map(|owner| {
        let group = text(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = crate::status::qualified(group, &text(owner, "/kind").to_lowercase());
        format!("{kind}/{}", text(owner, "/name"))
    });
    vec![
        name(object),
        owner.unwrap_or_else(|| "<none>".into()).into(),
        int(object, "/revision").into(),
        age(object, now),
    ]
}

static JOB: [Column<'static>; 8] = [
    NAME,
    shown("Status", "string", "Whether it runs, is done or has failed."),
    shown("Completions", "string", "Pods that succeeded, of all wanted."),
    shown("Duration", "string", "How long it ran."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(object, TEMPLATE);
    let done = int(object, "/status/succeeded");
    let completions = match (object.pointer("/spec/completions"), int(object, "/spec/parallelism")) {
        (Some(Value::Number(wanted)), _) => format!("{done}/{wanted}"),
        (_, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        _ => format!("{done}/1"),
    };
    let start = text(object, "/status/startTime");
    let end = text(object, "/status/completionTime").parse().unwrap_or(now);
    let duration = seconds_between(start, end).map(human_duration).unwrap_or_default();
    let states = ["Complete", "Failed", "", "Suspended", "FailureTarget", "SuccessCriteriaMet"];
    let deleting = meta::is_deleting(object);
    let state = states.iter().find(|one| if one.is_empty() { deleting } else { condition_true(object, one) });
    let state = match state {
        Some(&"") => "Terminating",
        Some(state) => state,
        None => "Running",
    };
    vec![
        name(object),
        state.into(),
        completions.into(),
        duration.into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

static CRON_JOB: [Column<'static>; 10] = [
    NAME,
    shown("Schedule", "string", "When it runs, in cron form."),
    shown("Timezone", "string", "Time zone of the schedule."),
    shown("Suspend", "boolean", "Whether it is suspended."),
    shown("Active", "integer", "Jobs that run now."),
    shown("Last Schedule", "string", "When it was started last."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(object, "/spec/jobTemplate/spec/template/spec/containers");
    let last = match text(object, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => since(time, now),
    };
    let suspend = match object.pointer("/spec/suspend") {
        Some(Value::Bool(true)) => "True",
        Some(Value::Bool(false)) => "False",
        _ => "<unset>",
    };
    vec![
        name(object),
        text(object, "/spec/schedule").into(),
        text_or(object, "/spec/timeZone", "<none>").into(),
        suspend.into(),
        count(object, "/status/active").into(),
        last.into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/jobTemplate/spec/selector"),
    ]
}

static AUTOSCALER: [Column<'static>; 7] = [
    NAME,
    shown("Reference", "string", "What it scales."),
    shown("Targets", "string", "Metrics: present and wanted."),
    shown("MinPods", "string", "Fewest pods."),
    shown("MaxPods", "string", "Most pods."),
    shown("Replicas", "string", "Pods now."),
    AGE,
];

fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference =
        format!("{}/{}", text(object, "/spec/scaleTargetRef/kind"), text(object, "/spec/scaleTargetRef/name"));
    vec![
        name(object),
        reference.into(),
        targets(object).into(),
        scalar(object, "/spec/minReplicas").unwrap_or_else(|| "<unset>".into()).into(),
        int(object, "/spec/maxReplicas").into(),
        int(object, "/status/currentReplicas").into(),
        age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    if let Some(wanted) = scalar(object, "/spec/targetCPUUtilizationPercentage") {
        let now = scalar(object, "/status/currentCPUUtilizationPercentage");
        return format!("cpu: {}/{wanted}%", now.map_or_else(|| "<unknown>".into(), |now| format!("{now}%")));
    }
    let statuses: Vec<&Value> = list(object, "/status/currentMetrics").collect();
    let all: Vec<String> = list(object, "/spec/metrics")
        .enumerate()
        .map(|(i, spec)| metric(spec, statuses.get(i).copied().unwrap_or(&Value::Null)))
        .collect();
    match all.len() {
        0 => "<none>".into(),
        1 | 2 => all.join(", "),
        more => format!("{} + {} more...", all[..2].join(", "), more - 2),
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let unknown = || "<unknown>".to_owned();
    let source = match text(spec, "/type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let (Some(spec), status) = (spec.get(source), status.get(source).unwrap_or(&Value::Null)) else {
        return "<unknown type>".into();
    };
    let now = |field: &str| {
        let path = format!("/current/{field}");
        if status.pointer(&path).is_some() { quantity(status, &path) } else { unknown() }
    };
    let average = spec.pointer("/target/averageValue").is_some();
    let wanted = quantity(spec, if average { "/target/averageValue" } else { "/target/value" });
    match source {
        "external" | "object" if average => format!("{}/{wanted} (avg)", now("averageValue")),
        "external" | "object" => format!("{}/{wanted}", now("value")),
        "pods" => format!("{}/{wanted}", now("averageValue")),
        _ if average => format!("{}: {}/{wanted}", text(spec, "/name"), now("averageValue")),
        _ => {
            let percent =
                |value: Option<String>, none: &str| value.map_or_else(|| none.to_owned(), |v| format!("{v}%"));
            let now = percent(scalar(status, "/current/averageUtilization"), "<unknown>");
            let wanted = percent(scalar(spec, "/target/averageUtilization"), "<auto>");
            format!("{}: {now}/{wanted}", text(spec, "/name"))
        }
    }
}

static BUDGET: [Column<'static>; 5] = [
    NAME,
    shown("Min Available", "string", "Pods that must stay available."),
    shown("Max Unavailable", "string", "Pods that may be unavailable."),
    shown("Allowed Disruptions", "integer", "Pods that may be evicted now."),
    AGE,
];

fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = |path: &str| -> Value { scalar(object, path).unwrap_or_else(|| "N/A".into()).into() };
    vec![
        name(object),
        of("/spec/minAvailable"),
        of("/spec/maxUnavailable"),
        int(object, "/status/disruptionsAllowed").into(),
        age(object, now),
    ]
}
