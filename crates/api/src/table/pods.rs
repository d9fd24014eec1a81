//! Pods, nodes, events and namespaces.

use super::cells::{age, condition, condition_true, containers, flag, int, labels, list, name, since, text, text_or};
use super::{AGE, Column, NAME, StaticPrinter, of, shown, wide};
use crate::meta;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) fn printer(group: &str, kind: &str) -> Option<StaticPrinter> {
    Some(match (group, kind) {
        ("", "Pod") => StaticPrinter { columns: &POD, cells: pod, conditions: Some(conditions) },
        ("", "PodTemplate") => of(&POD_TEMPLATE, pod_template),
        ("", "Node") => of(&NODE, node),
        ("", "Namespace") => of(&NAMESPACE, |o, now| vec![name(o), text(o, "/status/phase").into(), age(o, now)]),
        ("" | "events.k8s.io", "Event") => of(&EVENT, event),
        ("", "ComponentStatus") => of(&COMPONENT, component),
        _ => return None,
    })
}

static POD: [Column<'static>; 9] = [
    NAME,
    shown("Ready", "string", "Containers that are ready, of all."),
    shown("Status", "string", "What the containers together are doing."),
    shown("Restarts", "string", "How often containers were restarted, and when last."),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node that the pod runs on."),
    wide("Nominated Node", "Node that preemption makes room on."),
    wide("Readiness Gates", "Readiness gates that are passed, of all."),
];

fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match text(pod, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

/// What the walk over a pod's containers gathers.
#[derive(Default)]
struct Tally<'a> {
    ready: usize,
    total: usize,
    restarts: i64,
    /// End of the latest run that was followed by a restart, as text; RFC 3339 in UTC sorts by time.
    last_restart: &'a str,
    reason: String,
}

impl<'a> Tally<'a> {
    fn restarted(&mut self, status: &'a Value) {
        self.restarts += int(status, "/restartCount");
        self.last_restart = self.last_restart.max(text(status, "/lastState/terminated/finishedAt"));
    }
}

/// How a container ended, when it gave no reason.
fn ending(status: &Value) -> String {
    let reason = text(status, "/state/terminated/reason");
    match int(status, "/state/terminated/signal") {
        _ if !reason.is_empty() => reason.to_owned(),
        0 => format!("ExitCode:{}", int(status, "/state/terminated/exitCode")),
        signal => format!("Signal:{signal}"),
    }
}

fn restartable(pod: &Value, container: &str) -> bool {
    let mut all = list(pod, "/spec/initContainers");
    all.any(|c| text(c, "/name") == container && text(c, "/restartPolicy") == "Always")
}

fn tally(pod: &Value) -> Tally<'_> {
    let mut all = Tally::default();
    let sidecars = list(pod, "/spec/initContainers").filter(|c| text(c, "/restartPolicy") == "Always").count();
    all.total = list(pod, "/spec/containers").count() + sidecars;
    all.reason = text_or(pod, "/status/reason", text(pod, "/status/phase")).to_owned();
    if condition(pod, "PodScheduled").is_some_and(|one| text(one, "/reason") == "SchedulingGated") {
        all.reason = "SchedulingGated".into();
    }
    let mut of_sidecars = Tally::default();
    let mut initializing = false;
    for (i, status) in list(pod, "/status/initContainerStatuses").enumerate() {
        all.restarted(status);
        let sidecar = restartable(pod, text(status, "/name"));
        if sidecar {
            of_sidecars.restarted(status);
        }
        let terminated = status.pointer("/state/terminated").is_some_and(Value::is_object);
        if terminated && int(status, "/state/terminated/exitCode") == 0 {
            continue;
        }
        if sidecar && flag(status, "/started") {
            all.ready += usize::from(flag(status, "/ready"));
            continue;
        }
        all.reason = match text(status, "/state/waiting/reason") {
            _ if terminated => format!("Init:{}", ending(status)),
            "" | "PodInitializing" => format!("Init:{i}/{}", list(pod, "/spec/initContainers").count()),
            waiting => format!("Init:{waiting}"),
        };
        initializing = true;
        break;
    }
    if !initializing || condition_true(pod, "Initialized") {
        (all.restarts, all.last_restart) = (of_sidecars.restarts, of_sidecars.last_restart);
        running(pod, &mut all);
    }
    if !meta::text(pod, "deletionTimestamp").is_empty() {
        if text(pod, "/status/reason") == "NodeLost" {
            all.reason = "Unknown".into();
        } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            all.reason = "Terminating".into();
        }
    }
    all
}

fn running<'a>(pod: &'a Value, all: &mut Tally<'a>) {
    let mut any_running = false;
    for status in list(pod, "/status/containerStatuses").rev() {
        all.restarted(status);
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            all.reason = waiting.into();
        } else if status.pointer("/state/terminated").is_some_and(Value::is_object) {
            all.reason = ending(status);
        } else if flag(status, "/ready") && status.pointer("/state/running").is_some_and(Value::is_object) {
            any_running = true;
            all.ready += 1;
        }
    }
    if all.reason == "Completed" && any_running {
        all.reason = if condition_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
    }
}

fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let all = tally(pod);
    let restarts = if all.restarts != 0 && !all.last_restart.is_empty() {
        format!("{} ({} ago)", all.restarts, since(all.last_restart, now))
    } else {
        all.restarts.to_string()
    };
    let ip = text_or(pod, "/status/podIPs/0/ip", text_or(pod, "/status/podIP", "<none>"));
    let gates = list(pod, "/spec/readinessGates").count();
    let passed = list(pod, "/spec/readinessGates").filter(|g| condition_true(pod, text(g, "/conditionType"))).count();
    let gates = if gates == 0 { "<none>".to_owned() } else { format!("{passed}/{gates}") };
    vec![
        name(pod),
        format!("{}/{}", all.ready, all.total).into(),
        all.reason.into(),
        restarts.into(),
        age(pod, now),
        ip.into(),
        text_or(pod, "/spec/nodeName", "<none>").into(),
        text_or(pod, "/status/nominatedNodeName", "<none>").into(),
        gates.into(),
    ]
}

static POD_TEMPLATE: [Column<'static>; 4] = [
    NAME,
    shown("Containers", "string", "Names of the template's containers."),
    shown("Images", "string", "Images of the template's containers."),
    shown("Pod Labels", "string", "Labels of the template."),
];

fn pod_template(object: &Value, _: Timestamp) -> Vec<Value> {
    let (names, images) = containers(object, "/template/spec/containers");
    vec![name(object), names, images, labels(object, "/template/metadata/labels").into()]
}

static NODE: [Column<'static>; 10] = [
    NAME,
    shown("Status", "string", "Whether the node is ready and takes pods."),
    shown("Roles", "string", "Roles from the node's labels."),
    AGE,
    shown("Version", "string", "Version of the node agent."),
    wide("Internal-IP", "Address inside the cluster."),
    wide("External-IP", "Address outside the cluster."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Kernel."),
    wide("Container-Runtime", "Container runtime and its version."),
];

fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(node, "Ready") {
        Some(ready) if text(ready, "/status") == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(node, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in meta::labels(node).into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == "kubernetes.io/role" => roles.extend(value.as_str().filter(|role| !role.is_empty())),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") };
    let address = |kind: &str| -> Value {
        let found = list(node, "/status/addresses").find(|one| text(one, "/type") == kind);
        found.map_or("<none>", |one| text(one, "/address")).into()
    };
    let info = |field: &str| -> Value { text_or(node, &format!("/status/nodeInfo/{field}"), "<unknown>").into() };
    vec![
        name(node),
        status.into(),
        roles.into(),
        age(node, now),
        text(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

static NAMESPACE: [Column<'static>; 3] = [NAME, shown("Status", "string", "Phase of the namespace."), AGE];

static EVENT: [Column<'static>; 10] = [
    shown("Last Seen", "string", "When it happened last."),
    shown("Type", "string", "Normal or Warning."),
    shown("Reason", "string", "Short, machine-readable reason."),
    shown("Object", "string", "What the event is about."),
    wide("Subobject", "Part of the object that it is about."),
    wide("Source", "Component that reported it."),
    shown("Message", "string", "What happened."),
    wide("First Seen", "When it happened first."),
    wide("Count", "How often it happened."),
    Column { name: "Name", type_: "string", format: "name", description: "Name of the event.", priority: 1 },
];

/// Reads both forms: `v1` and `events.k8s.io/v1`.
fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |core: &str, new: &str| -> String { text_or(event, core, text(event, new)).to_owned() };
    let number = |core: &str, new: &str| match int(event, core) {
        0 => int(event, new),
        found => found,
    };
    let at = |time: &str| since(time, now);
    let mut first = either("/firstTimestamp", "/deprecatedFirstTimestamp");
    if first.is_empty() {
        first = text(event, "/eventTime").to_owned();
    }
    let mut last = either("/lastTimestamp", "/deprecatedLastTimestamp");
    if last.is_empty() {
        last.clone_from(&first);
    }
    let mut count = number("/count", "/deprecatedCount");
    if event.get("series").is_some_and(Value::is_object) {
        last = text(event, "/series/lastObservedTime").to_owned();
        count = int(event, "/series/count");
    } else if count == 0 {
        count = 1;
    }
    let kind = either("/involvedObject/kind", "/regarding/kind").to_lowercase();
    let about = either("/involvedObject/name", "/regarding/name");
    let about = if about.is_empty() { kind } else { format!("{kind}/{about}") };
    let reporter = either("/reportingComponent", "/reportingController");
    let component = match either("/source/component", "/deprecatedSource/component") {
        found if found.is_empty() => reporter,
        found => found,
    };
    let host = match either("/source/host", "/deprecatedSource/host") {
        found if found.is_empty() => text(event, "/reportingInstance").to_owned(),
        found => found,
    };
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        at(&last).into(),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        about.into(),
        either("/involvedObject/fieldPath", "/regarding/fieldPath").into(),
        source.into(),
        either("/message", "/note").trim().into(),
        at(&first).into(),
        count.into(),
        name(event),
    ]
}

static COMPONENT: [Column<'static>; 4] = [
    NAME,
    shown("Status", "string", "Whether the component is healthy."),
    shown("Message", "string", "What the component says."),
    shown("Error", "string", "What is wrong."),
];

fn component(object: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = list(object, "/conditions").find(|one| text(one, "/type") == "Healthy");
    let status = match healthy.map(|one| text(one, "/status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let of = |path: &str| healthy.map_or("", |one| text(one, path));
    vec![name(object), status.into(), of("/message").into(), of("/error").into()]
}
