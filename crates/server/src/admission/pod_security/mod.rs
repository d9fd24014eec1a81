//! PodSecurity: the Pod Security Standards, held to what a namespace's labels ask (KEP-2579).
//!
//! `enforce` refuses Pods; `warn` and `audit` speak of Pods and of the workloads that would make them. [`checks`] are pure.

pub mod checks;
pub mod configuration;
pub mod levels;

use super::{Context, Operation, Plugin, Request};
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::meta;
use caravel_api::status::ApiError;
use checks::violations;
use configuration::PodSecurityConfiguration;
use futures::future::BoxFuture;
use levels::{Level, Modes, Policy};
use serde_json::Value;
use std::collections::BTreeMap;

/// Most Pods of a namespace that are looked at when its labels change.
const MAX_PODS: usize = 3000;

/// The plug-in, with what it was told.
#[derive(Default)]
pub struct PodSecurity(pub PodSecurityConfiguration);

/// Where a workload keeps the Pod that it makes.
fn template(request: &Request, object: &Value) -> Option<Value> {
    let at = match (&*request.kind.group, &*request.kind.plural) {
        ("", "pods") => return Some(object.clone()),
        ("", "podtemplates") => "/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        ("", "replicationcontrollers") | ("batch", "jobs") => "/spec/template",
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") => "/spec/template",
        _ => return None,
    };
    object.pointer(at).filter(|t| t.is_object()).cloned()
}

fn is_pod(request: &Request) -> bool {
    request.kind.group.is_empty() && request.kind.plural == "pods"
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, request: &Request) -> bool {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        let group = &*request.kind.group;
        written
            && match &*request.kind.plural {
                "namespaces" => group.is_empty() && request.subresource.is_empty(),
                "pods" => group.is_empty() && matches!(&*request.subresource, "" | "ephemeralcontainers"),
                "podtemplates" | "replicationcontrollers" => group.is_empty() && request.subresource.is_empty(),
                "cronjobs" | "jobs" => group == "batch" && request.subresource.is_empty(),
                "deployments" | "replicasets" | "statefulsets" | "daemonsets" => {
                    group == "apps" && request.subresource.is_empty()
                }
                _ => false,
            }
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(object) = &request.object else { return Ok(()) };
            if request.kind.plural == "namespaces" {
                return namespace(&self.0, request, object, context).await;
            }
            let exempt = |by: &str| context.annotate("pod-security.kubernetes.io/exempt", by);
            if self.0.exempts_namespace(&request.namespace) {
                exempt("namespace");
                return Ok(());
            }
            if self.0.exempts_user(&request.user.name) {
                exempt("user");
                return Ok(());
            }
            let Some(holder) = context.registry.object("", "namespaces", "", &request.namespace).await? else {
                return Ok(());
            };
            let (modes, _) = Modes::of(&holder, &self.0.defaults);
            if modes.is_privileged() {
                return Ok(());
            }
            let Some(pod) = template(request, object) else { return Ok(()) };
            if is_pod(request) && request.operation == Operation::Update && !is_significant(&pod, request.old.as_ref())
            {
                return Ok(());
            }
            if self.0.exempts_runtime(&pod) {
                exempt("runtimeClass");
                return Ok(());
            }
            if is_pod(request) {
                context.annotate("pod-security.kubernetes.io/enforce-policy", modes.enforce.to_string());
                let broken = violations(&modes.enforce, &pod);
                if !broken.is_empty() {
                    let why = format!("violates PodSecurity \"{}\": {}", modes.enforce, broken.join(", "));
                    return Err(request.forbidden(why));
                }
            }
            let broken = violations(&modes.audit, &pod);
            if !broken.is_empty() {
                let text = format!("would violate PodSecurity \"{}\": {}", modes.audit, broken.join(", "));
                context.annotate("pod-security.kubernetes.io/audit-violations", text);
            }
            let broken = violations(&modes.warn, &pod);
            if !broken.is_empty() {
                context.warn(format!("would violate PodSecurity \"{}\": {}", modes.warn, broken.join(", ")));
            }
            Ok(())
        })
    }
}

/// Whether an update changes what the checks look at: of a Pod that is there, only images and ephemeral containers.
fn is_significant(pod: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return true };
    let spec = |o: &Value| o.get("spec").cloned().unwrap_or_default();
    let annotations = |o: &Value| {
        let all = o.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default();
        all.into_iter().filter(|(k, _)| k.contains("seccomp") || k.contains("apparmor")).collect::<Vec<_>>()
    };
    spec(pod) != spec(old) || annotations(pod) != annotations(old)
}

/// A namespace's labels must make sense; new ones that its Pods break are warned of.
async fn namespace(
    configuration: &PodSecurityConfiguration,
    request: &Request,
    object: &Value,
    context: &Context<'_>,
) -> Result<(), ApiError> {
    let (modes, wrong) = Modes::of(object, &configuration.defaults);
    let before = request.old.as_ref().map(|old| Modes::of(old, &configuration.defaults));
    if !wrong.is_empty() && before.as_ref().is_none_or(|(_, old)| *old != wrong) {
        let metadata = FieldPath::root("metadata");
        let labels = metadata.child("labels");
        let errors: Vec<FieldError> = wrong
            .iter()
            .map(|w| FieldError::invalid(&labels.key(&w.label), w.value.as_str(), w.why.as_str()))
            .collect();
        return Err(ApiError::invalid("", "Namespace", meta::name(object), &errors));
    }
    let name = meta::name(object);
    if configuration.exempts_namespace(name) {
        if !modes.is_privileged() && modes != configuration.defaults && before.is_none_or(|(old, _)| old != modes) {
            let policy = modes.compact();
            context.warn(format!(
                "namespace {name:?} is exempt from Pod Security, and the policy ({policy}) will be ignored"
            ));
        }
        return Ok(());
    }
    let Some((old, _)) = before else { return Ok(()) };
    if modes.enforce.level <= old.enforce.level && modes.enforce.version == old.enforce.version
        || modes.enforce.level == Level::Privileged
    {
        return Ok(());
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in context.registry.objects("", "pods", name).await?.iter().take(MAX_PODS) {
        if configuration.exempts_runtime(pod) {
            continue;
        }
        let broken = short(&modes.enforce, pod);
        if !broken.is_empty() {
            found.entry(broken).or_default().push(meta::name(pod).to_owned());
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    context.warn(format!(
        "existing pods in namespace {name:?} violate the new PodSecurity enforce level \"{}\"",
        modes.enforce
    ));
    let mut lines: Vec<String> = found
        .iter()
        .filter_map(|(why, pods)| {
            let first = pods.first()?;
            Some(match pods.len() {
                1 => format!("{first}: {why}"),
                2 => format!("{first} (and 1 other pod): {why}"),
                n => format!("{first} (and {} other pods): {why}", n - 1),
            })
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| context.warn(line));
    Ok(())
}

/// The violations without their details.
fn short(policy: &Policy, pod: &Value) -> String {
    let all: Vec<String> =
        violations(policy, pod).into_iter().map(|v| v.split(" (").next().unwrap_or_default().to_owned()).collect();
    all.join(", ")
}
