//! Webhooks and policies, RBAC, custom resource definitions, aggregation, flow control.

use super::{Object, child, each, get, made, number, optional, services, text};
use serde_json::json;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn apply_rbac(kind: &str, object: &mut Object) {
    if !matches!(kind, "RoleBinding" | "ClusterRoleBinding") {
        return;
    }
    if let Some(role) = made(object, "roleRef") {
        text(role, "apiGroup", RBAC_GROUP);
    }
    for subject in each(object, "subjects") {
        if matches!(get(subject, "kind"), "User" | "Group") {
            text(subject, "apiGroup", RBAC_GROUP);
        }
    }
}

pub(super) fn apply(kind: &str, object: &mut Object) {
    match kind {
        "ValidatingWebhookConfiguration" => each(object, "webhooks").for_each(webhook),
        "MutatingWebhookConfiguration" => {
            for hook in each(object, "webhooks") {
                webhook(hook);
                optional(hook, "reinvocationPolicy", "Never");
            }
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            if let Some(spec) = made(object, "spec") {
                optional(spec, "failurePolicy", "Fail");
                if let Some(constraints) = child(spec, "matchConstraints") {
                    match_resources(constraints);
                }
            }
            if kind == "ValidatingAdmissionPolicy" {
                made(object, "status");
            }
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            if let Some(resources) = made(object, "spec").and_then(|spec| child(spec, "matchResources")) {
                match_resources(resources);
            }
        }
        _ => {}
    }
}

fn webhook(hook: &mut Object) {
    optional(hook, "failurePolicy", "Fail");
    optional(hook, "matchPolicy", "Equivalent");
    optional(hook, "namespaceSelector", json!({}));
    optional(hook, "objectSelector", json!({}));
    optional(hook, "timeoutSeconds", 10);
    each(hook, "rules").for_each(rule);
    if let Some(service) = child(hook, "clientConfig").and_then(|config| child(config, "service")) {
        services::service_reference(service);
    }
}

fn match_resources(resources: &mut Object) {
    optional(resources, "matchPolicy", "Equivalent");
    optional(resources, "namespaceSelector", json!({}));
    optional(resources, "objectSelector", json!({}));
    each(resources, "resourceRules").for_each(rule);
    each(resources, "excludeResourceRules").for_each(rule);
}

fn rule(rule: &mut Object) {
    optional(rule, "scope", "*");
}

pub(super) fn apply_crd(kind: &str, object: &mut Object) {
    if kind != "CustomResourceDefinition" {
        return;
    }
    let Some(spec) = made(object, "spec") else { return };
    if let Some(names) = made(spec, "names") {
        let kind = get(names, "kind").to_owned();
        if !kind.is_empty() {
            text(names, "singular", &kind.to_lowercase());
            text(names, "listKind", &format!("{kind}List"));
        }
    }
    if let Some(conversion) = made(spec, "conversion") {
        text(conversion, "strategy", "None");
        let service = child(conversion, "webhook")
            .and_then(|webhook| child(webhook, "clientConfig"))
            .and_then(|config| child(config, "service"));
        if let Some(service) = service {
            services::service_reference(service);
        }
    }
}

pub(super) fn apply_aggregation(kind: &str, object: &mut Object) {
    if kind != "APIService" {
        return;
    }
    if let Some(service) = made(object, "spec").and_then(|spec| child(spec, "service")) {
        services::service_reference(service);
    }
    made(object, "status");
}

pub(super) fn apply_flow(kind: &str, object: &mut Object) {
    let Some(spec) = made(object, "spec") else { return };
    match kind {
        "FlowSchema" => number(spec, "matchingPrecedence", 1000),
        "PriorityLevelConfiguration" => {
            if let Some(exempt) = child(spec, "exempt") {
                optional(exempt, "nominalConcurrencyShares", 0);
                optional(exempt, "lendablePercent", 0);
            }
            if let Some(limited) = child(spec, "limited") {
                optional(limited, "nominalConcurrencyShares", 30);
                optional(limited, "lendablePercent", 0);
                let queuing = child(limited, "limitResponse").and_then(|response| child(response, "queuing"));
                if let Some(queuing) = queuing {
                    number(queuing, "handSize", 8);
                    number(queuing, "queues", 64);
                    number(queuing, "queueLengthLimit", 50);
                }
            }
        }
        _ => {}
    }
    made(object, "status");
}
