//! Accounts, roles, quotas, certificates, leases, webhooks and policies, flow control, resource claims.

use super::cells::{age, condition, count, flag, int, list, name, scalar, text, text_or};
use super::{AGE, CREATED_AT, Column, NAME, StaticPrinter, human_duration, of, shown, wide};
use crate::meta;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(group: &str, kind: &str) -> Option<StaticPrinter> {
    Some(match (group, kind) {
        ("", "ServiceAccount") => of(&ACCOUNT, |o, now| vec![name(o), count(o, "/secrets").into(), age(o, now)]),
        ("", "ResourceQuota") => of(&QUOTA, quota),
        ("", "LimitRange")
        | ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
        | ("apiextensions.k8s.io", "CustomResourceDefinition") => CREATED_AT,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => of(&BINDING, binding),
        ("certificates.k8s.io", "CertificateSigningRequest") => of(&CSR, csr),
        ("certificates.k8s.io", "ClusterTrustBundle") => {
            of(&BUNDLE, |o, _| vec![name(o), text_or(o, "/spec/signerName", "<none>").into()])
        }
        ("coordination.k8s.io", "Lease") => {
            of(&LEASE, |o, now| vec![name(o), text(o, "/spec/holderIdentity").into(), age(o, now)])
        }
        ("scheduling.k8s.io", "PriorityClass") => of(&PRIORITY, priority),
        ("node.k8s.io", "RuntimeClass") => {
            of(&RUNTIME, |o, now| vec![name(o), text(o, "/handler").into(), age(o, now)])
        }
        ("admissionregistration.k8s.io", _) => return admission(kind),
        ("apiregistration.k8s.io", "APIService") => of(&API_SERVICE, api_service),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => of(&FLOW, flow),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => of(&LEVEL, level),
        ("resource.k8s.io", "ResourceClaim") => of(&CLAIM, |o, now| vec![name(o), claim(o).into(), age(o, now)]),
        ("resource.k8s.io", "ResourceSlice") => of(&SLICE, slice),
        _ => return None,
    })
}

static ACCOUNT: [Column<'static>; 3] = [NAME, shown("Secrets", "string", "Number of its secrets."), AGE];

static QUOTA: [Column<'static>; 4] = [
    NAME,
    shown("Request", "string", "Requests and counts: used and allowed."),
    shown("Limit", "string", "Limits: used and allowed."),
    AGE,
];

fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in object.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten() {
        let used = object.get("status").and_then(|s| s.get("used")).and_then(|used| used.get(resource));
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "0".into(),
        };
        let cell = format!("{resource}: {}/{}", text(used), text(Some(hard)));
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

static BINDING: [Column<'static>; 6] = [
    NAME,
    shown("Role", "string", "Role that is given."),
    AGE,
    wide("Users", "Users that get it."),
    wide("Groups", "Groups that get it."),
    wide("ServiceAccounts", "Service accounts that get it."),
];

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let all: Vec<String> = list(object, "/subjects")
            .filter(|subject| text(subject, "/kind") == kind)
            .map(|subject| match (text(subject, "/namespace"), text(subject, "/name")) {
                (namespace, name) if kind == "ServiceAccount" && !namespace.is_empty() => format!("{namespace}/{name}"),
                (_, name) => name.to_owned(),
            })
            .collect();
        all.join(", ").into()
    };
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    vec![name(object), role.into(), age(object, now), of("User"), of("Group"), of("ServiceAccount")]
}

static CSR: [Column<'static>; 6] = [
    NAME,
    AGE,
    shown("SignerName", "string", "Who should sign."),
    shown("Requestor", "string", "Who asks."),
    shown("RequestedDuration", "string", "How long the certificate should be valid."),
    shown("Condition", "string", "Pending, approved, denied; issued."),
];

fn csr(object: &Value, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| condition(object, kind).is_some();
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(object, "/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    let duration = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64).map(human_duration);
    vec![
        name(object),
        age(object, now),
        text_or(object, "/spec/signerName", "<none>").into(),
        text(object, "/spec/username").into(),
        duration.unwrap_or_else(|| "<none>".into()).into(),
        state.into(),
    ]
}

static BUNDLE: [Column<'static>; 2] = [NAME, shown("SignerName", "string", "Signer that the bundle is of.")];
static LEASE: [Column<'static>; 3] = [NAME, shown("Holder", "string", "Who holds the lease."), AGE];

static PRIORITY: [Column<'static>; 5] = [
    NAME,
    shown("Value", "integer", "Priority; higher goes first."),
    shown("Global-Default", "boolean", "Whether pods without a class get it."),
    AGE,
    shown("PreemptionPolicy", "string", "Whether it may displace others."),
];

fn priority(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        int(object, "/value").into(),
        flag(object, "/globalDefault").into(),
        age(object, now),
        text(object, "/preemptionPolicy").into(),
    ]
}

static RUNTIME: [Column<'static>; 3] = [NAME, shown("Handler", "string", "Configuration of the runtime."), AGE];

static WEBHOOKS: [Column<'static>; 3] = [NAME, shown("Webhooks", "integer", "Number of webhooks."), AGE];
static VALIDATING: [Column<'static>; 4] = [
    NAME,
    shown("Validations", "integer", "Number of expressions."),
    shown("ParamKind", "string", "Kind of the parameters."),
    AGE,
];
static MUTATING: [Column<'static>; 4] = [
    NAME,
    shown("Mutations", "integer", "Number of mutations."),
    shown("ParamKind", "string", "Kind of the parameters."),
    AGE,
];
static POLICY_BINDING: [Column<'static>; 4] =
    [NAME, shown("PolicyName", "string", "Policy that is bound."), shown("ParamRef", "string", "Parameters."), AGE];

fn admission(kind: &str) -> Option<StaticPrinter> {
    Some(match kind {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            of(&WEBHOOKS, |o, now| vec![name(o), count(o, "/webhooks").into(), age(o, now)])
        }
        "ValidatingAdmissionPolicy" => of(&VALIDATING, |o, now| {
            vec![name(o), count(o, "/spec/validations").into(), param_kind(o).into(), age(o, now)]
        }),
        "MutatingAdmissionPolicy" => {
            of(&MUTATING, |o, now| vec![name(o), count(o, "/spec/mutations").into(), param_kind(o).into(), age(o, now)])
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => of(&POLICY_BINDING, |o, now| {
            let reference = match (text(o, "/spec/paramRef/namespace"), text(o, "/spec/paramRef/name")) {
                (_, "") => "<unset>".to_owned(),
                ("", name) => format!("*/{name}"),
                (namespace, name) => format!("{namespace}/{name}"),
            };
            vec![name(o), text(o, "/spec/policyName").into(), reference.into(), age(o, now)]
        }),
        _ => return None,
    })
}

fn param_kind(object: &Value) -> String {
    match text(object, "/spec/paramKind/kind") {
        "" => "<unset>".into(),
        kind => format!("{}/{kind}", text(object, "/spec/paramKind/apiVersion")),
    }
}

static API_SERVICE: [Column<'static>; 4] = [
    NAME,
    shown("Service", "string", "Service that serves the API."),
    shown("Available", "string", "Whether it can be reached."),
    AGE,
];

fn api_service(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = match text(object, "/spec/service/name") {
        "" => "Local".to_owned(),
        name => format!("{}/{name}", text(object, "/spec/service/namespace")),
    };
    let available = condition(object, "Available").map_or_else(
        || "Unknown".to_owned(),
        |one| match (text(one, "/status"), text(one, "/reason")) {
            ("True", _) | (_, "") => text(one, "/status").to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    );
    vec![name(object), service.into(), available.into(), age(object, now)]
}

static FLOW: [Column<'static>; 6] = [
    NAME,
    shown("PriorityLevel", "string", "Level that its requests go to."),
    shown("MatchingPrecedence", "string", "Lower is tried first."),
    shown("DistinguisherMethod", "string", "What tells flows apart."),
    AGE,
    shown("MissingPL", "string", "Whether the level is missing."),
];

fn flow(object: &Value, now: Timestamp) -> Vec<Value> {
    let missing = condition(object, "Dangling").map_or("?", |one| text(one, "/status"));
    vec![
        name(object),
        text_or(object, "/spec/priorityLevelConfiguration/name", "<none>").into(),
        int(object, "/spec/matchingPrecedence").into(),
        text_or(object, "/spec/distinguisherMethod/type", "<none>").into(),
        age(object, now),
        missing.into(),
    ]
}

static LEVEL: [Column<'static>; 7] = [
    NAME,
    shown("Type", "string", "Limited or exempt."),
    shown("NominalConcurrencyShares", "string", "Share of the server's seats."),
    shown("Queues", "string", "Number of queues."),
    shown("HandSize", "string", "Queues that a flow is dealt."),
    shown("QueueLengthLimit", "string", "Requests that a queue holds."),
    AGE,
];

fn level(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = |path: &str| -> Value { scalar(object, path).unwrap_or_else(|| "<none>".into()).into() };
    let part = if object.pointer("/spec/exempt").is_some() { "exempt" } else { "limited" };
    vec![
        name(object),
        text(object, "/spec/type").into(),
        of(&format!("/spec/{part}/nominalConcurrencyShares")),
        of("/spec/limited/limitResponse/queuing/queues"),
        of("/spec/limited/limitResponse/queuing/handSize"),
        of("/spec/limited/limitResponse/queuing/queueLengthLimit"),
        age(object, now),
    ]
}

static CLAIM: [Column<'static>; 3] = [NAME, shown("State", "string", "Pending, allocated, reserved, deleted."), AGE];

fn claim(object: &Value) -> String {
    let mut states = Vec::new();
    if meta::is_deleting(object) {
        states.push("deleted");
    }
    let allocated = object.pointer("/status/allocation").is_some_and(Value::is_object);
    if allocated {
        states.push("allocated");
        if count(object, "/status/reservedFor") > 0 {
            states.push("reserved");
        }
    } else {
        states.push("pending");
    }
    states.join(",")
}

static SLICE: [Column<'static>; 5] = [
    NAME,
    shown("Node", "string", "Node that the devices are on."),
    shown("Driver", "string", "Driver of the devices."),
    shown("Pool", "string", "Pool of the devices."),
    AGE,
];

fn slice(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_or(object, "/spec/nodeName", "<unset>").into(),
        text(object, "/spec/driver").into(),
        text(object, "/spec/pool/name").into(),
        age(object, now),
    ]
}
