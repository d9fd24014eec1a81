//! Whether an object may be stored: the rules that upstream applies in code, kind by kind.
//!
//! What a schema can say (types, unknown fields) was checked in decoding; here is the rest: formats,
//! ranges, references inside the object, and what an update may not change. Every function answers all
//! errors it finds, with the field's path and a message that says what would be right.

use crate::field::{FieldError, ShowValue as _};
use crate::kinds::Kind;
use serde_json::Value;

mod admission;
mod check;
mod core;
mod cron;
mod extension;
mod job_status;
mod job_template;
mod jobs;
mod metadata;
mod migration;
mod networking;
mod pod;
mod policy;
mod rbac;
mod resource;
mod reviews;
mod selectors;
mod services;
mod storage;
mod structural;
mod warnings;
mod workloads;

pub use cron::check as check_cron_schedule;
pub use metadata::name_rule;
pub use reviews::review;
pub use warnings::warnings;

use check::Out;

/// Checks a new object, after defaults and [`crate::strategy::prepare_create`].
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    metadata::create(&mut out, kind, object);
    if kind.is_custom() {
        out.extend(crate::schema::validate(kind.schema().root(), object));
        return out;
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::create(&mut out, object),
        ("networking.k8s.io", "Ingress") => networking::ingress_create(&mut out, object),
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::certificate_request(&mut out, object),
        ("networking.k8s.io", "IPAddress") => networking::ip_address(&mut out, object),
        (group, name) => whole(&mut out, group, name, object),
    }
    out
}

/// Checks the new form of an object against the stored one, after [`crate::strategy::prepare_update`].
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    metadata::update(&mut out, new, old);
    if kind.is_custom() {
        custom_update(&mut out, kind, new, old);
        return out;
    }
    let o = &mut out;
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::update(o, new, old),
        ("", "Service") => services::service_update(o, new, old),
        ("", "ConfigMap") => core::config_map_update(o, new, old),
        ("", "Secret") => core::secret_update(o, new, old),
        ("", "Node") => core::node_update(o, new, old),
        ("", "PersistentVolume") => storage::volume_update(o, new, old),
        ("", "PersistentVolumeClaim") => storage::claim_update(o, new, old),
        ("", "ResourceQuota") => core::resource_quota_update(o, new, old),
        ("apps", "Deployment") => {
            workloads::deployment(o, new);
            workloads::fixed_selector(o, new, old);
        }
        ("apps", "ReplicaSet") => {
            workloads::replica_set(o, new);
            workloads::fixed_selector(o, new, old);
        }
        ("apps", "DaemonSet") => {
            workloads::daemon_set(o, new);
            workloads::fixed_selector(o, new, old);
        }
        ("apps", "StatefulSet") => workloads::stateful_set_update(o, new, old),
        ("apps", "ControllerRevision") => {
            workloads::revision(o, new);
            let at = crate::field::FieldPath::root("data");
            check::immutable(o, &at, check::child(new, "data"), check::child(old, "data"));
        }
        ("batch", "Job") => jobs::job_update(o, new, old),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class_update(o, new, old),
        ("networking.k8s.io", "ServiceCIDR") => networking::service_cidr_update(o, new, old),
        ("networking.k8s.io", "IPAddress") => {
            let at = crate::field::FieldPath::root("spec.parentRef");
            let parent = |object| check::child(check::child(object, "spec"), "parentRef");
            check::immutable(o, &at, parent(new), parent(old));
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            services::endpoint_slice(o, new);
            let at = crate::field::FieldPath::root("addressType");
            check::immutable(o, &at, check::child(new, "addressType"), check::child(old, "addressType"));
        }
        ("storage.k8s.io", "StorageClass") => storage::class_update(o, new, old),
        ("storage.k8s.io", "CSIDriver") => storage::driver_update(o, new, old),
        ("storage.k8s.io", "CSIStorageCapacity") => storage::capacity_update(o, new, old),
        ("storage.k8s.io", "VolumeAttachment") => {
            let at = crate::field::FieldPath::root("spec");
            check::immutable(o, &at, check::child(new, "spec"), check::child(old, "spec"));
        }
        ("scheduling.k8s.io", "PriorityClass") => core::priority_class_update(o, new, old),
        ("node.k8s.io", "RuntimeClass") => core::runtime_class_update(o, new, old),
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::binding_update(o, new, old, false),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::binding_update(o, new, old, true),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::definition_update(o, new, old),
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::request_update(o, new, old, ""),
        ("flowcontrol.apiserver.k8s.io", name) => {
            whole(o, "flowcontrol.apiserver.k8s.io", name, new);
            extension::fixed_flow(o, new, old);
        }
        ("storagemigration.k8s.io", "StorageVersionMigration") => migration::migration_update(o, new, old),
        ("resource.k8s.io", "ResourceSlice") => resource::slice_update(o, new, old),
        ("resource.k8s.io", "ResourceClaim" | "ResourceClaimTemplate") => {
            let at = crate::field::FieldPath::root("spec");
            check::immutable(o, &at, check::child(new, "spec"), check::child(old, "spec"));
        }
        // Events of the newer group cannot change but in their series; the older rules let everything pass.
        ("" | "events.k8s.io", "Event") => {}
        (group, name) => whole(o, group, name, new),
    }
    allow_stored(&mut out, old);
    out
}

/// Takes back what is said against addresses and networks that the stored object has in the same form.
fn allow_stored(out: &mut Out, old: &Value) {
    fn holds(value: &Value, shown: &str) -> bool {
        match value {
            Value::String(text) => text.show() == shown,
            Value::Array(all) => all.iter().any(|one| holds(one, shown)),
            Value::Object(all) => all.values().any(|one| holds(one, shown)),
            _ => false,
        }
    }
    let stored = |e: &FieldError| e.value.as_deref().is_some_and(|shown| holds(old, shown));
    out.retain(|e| !(crate::names::is_strictness(&e.detail) && stored(e)));
}

/// Checks an update of the `status` subresource.
pub fn update_status(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    metadata::update(&mut out, new, old);
    let o = &mut out;
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::status_update(o, new, old),
        ("", "Service") => services::service_status(o, new),
        ("", "Namespace") => core::namespace_status(o, new),
        ("", "Node") => core::node_status_update(o, new),
        ("", "ResourceQuota") => core::resource_quota_status(o, new),
        ("apps", "Deployment") => {
            let counts = [
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "collisionCount",
            ];
            workloads::status_counts(o, new, &counts);
            workloads::status_order(o, new);
            workloads::collisions(o, new, old);
        }
        ("apps", "ReplicaSet") | ("", "ReplicationController") => {
            let counts =
                ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
            workloads::status_counts(o, new, &counts);
            workloads::status_order(o, new);
        }
        ("apps", "StatefulSet") => {
            let counts = [
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ];
            workloads::status_counts(o, new, &counts);
            workloads::status_order(o, new);
            workloads::collisions(o, new, old);
        }
        ("apps", "DaemonSet") => {
            let counts = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ];
            workloads::status_counts(o, new, &counts);
            workloads::collisions(o, new, old);
        }
        ("batch", "Job") => {
            workloads::status_counts(o, new, &["active", "succeeded", "failed", "ready", "terminating"]);
            job_status::update(o, new, old);
        }
        ("policy", "PodDisruptionBudget") => policy::budget_status(o, new),
        ("networking.k8s.io", "Ingress") => networking::ingress_status(o, new),
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::request_update(o, new, old, "status"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::stored_versions(o, new),
        ("resource.k8s.io", "ResourceClaim") => resource::claim_status(o, new, old),
        ("storagemigration.k8s.io", "StorageVersionMigration") => migration::migration_status(o, new, old),
        _ if kind.is_custom() => custom_update(o, kind, new, old),
        _ => {}
    }
    allow_stored(&mut out, old);
    out
}

/// A custom resource against its schema. What was wrong before and is as it was stays tolerated, so that a
/// definition can become stricter while objects live (KEP-4008).
fn custom_update(out: &mut Out, kind: &Kind, new: &Value, old: &Value) {
    let schema = kind.schema();
    let found = crate::schema::validate(schema.root(), new);
    if found.is_empty() {
        return;
    }
    let before = crate::schema::validate(schema.root(), old);
    out.extend(found.into_iter().filter(|one| !before.contains(one)));
}

/// Checks an update through any subresource: `status`, or one of a kind's own.
pub fn update_subresource(kind: &Kind, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    match (&*kind.group, &*kind.kind, subresource) {
        (_, _, "") => return update(kind, new, old),
        (_, _, "status") => return update_status(kind, new, old),
        ("", "Pod", "ephemeralcontainers") => {
            metadata::update(&mut out, new, old);
            pod::ephemeral(&mut out, new, old);
        }
        ("", "Pod", "resize") => {
            metadata::update(&mut out, new, old);
            pod::resize(&mut out, new, old);
        }
        ("", "Namespace", "finalize") => {
            metadata::update(&mut out, new, old);
            core::namespace(&mut out, new);
        }
        ("certificates.k8s.io", "CertificateSigningRequest", "approval") => {
            metadata::update(&mut out, new, old);
            policy::request_update(&mut out, new, old, "approval");
        }
        _ => metadata::update(&mut out, new, old),
    }
    allow_stored(&mut out, old);
    out
}

/// Checks a `Binding` that is posted to `pods/binding`.
pub fn binding(object: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    core::binding(&mut out, object);
    out
}

/// The rules that hold for an object on its own, at creation and after every update.
fn whole(out: &mut Out, group: &str, kind: &str, object: &Value) {
    match (group, kind) {
        ("", "Service") => services::service(out, object),
        ("", "ConfigMap") => core::config_map(out, object),
        ("", "Secret") => core::secret(out, object),
        ("", "Namespace") => core::namespace(out, object),
        ("", "Node") => core::node(out, object),
        ("", "Endpoints") => services::endpoints(out, object),
        ("", "ReplicationController") => workloads::replication_controller(out, object),
        ("", "PodTemplate") => workloads::pod_template(out, object),
        ("", "PersistentVolume") => storage::volume(out, object),
        ("", "PersistentVolumeClaim") => storage::claim(out, object),
        ("", "LimitRange") => core::limit_range(out, object),
        ("", "ResourceQuota") => core::resource_quota(out, object),
        ("", "Event") => core::event(out, object),
        ("events.k8s.io", "Event") => {
            core::event(out, object);
            core::new_event(out, object);
        }
        ("apps", "Deployment") => workloads::deployment(out, object),
        ("apps", "ReplicaSet") => workloads::replica_set(out, object),
        ("apps", "DaemonSet") => workloads::daemon_set(out, object),
        ("apps", "StatefulSet") => workloads::stateful_set(out, object),
        ("apps", "ControllerRevision") => workloads::revision(out, object),
        ("batch", "Job") => jobs::job(out, object),
        ("batch", "CronJob") => jobs::cron_job(out, object),
        ("discovery.k8s.io", "EndpointSlice") => services::endpoint_slice(out, object),
        ("networking.k8s.io", "Ingress") => networking::ingress(out, object),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class(out, object),
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy(out, object),
        ("networking.k8s.io", "ServiceCIDR") => networking::service_cidr(out, object),
        ("policy", "PodDisruptionBudget") => policy::budget(out, object),
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler(out, object),
        ("certificates.k8s.io", "ClusterTrustBundle") => policy::trust_bundle(out, object),
        ("coordination.k8s.io", "Lease") => core::lease(out, object),
        ("scheduling.k8s.io", "PriorityClass") => core::priority_class(out, object),
        ("node.k8s.io", "RuntimeClass") => core::runtime_class(out, object),
        ("rbac.authorization.k8s.io", "Role") => rbac::role(out, object, false),
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::role(out, object, true),
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::binding(out, object, false),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::binding(out, object, true),
        ("storage.k8s.io", "StorageClass") => storage::class(out, object),
        ("storage.k8s.io", "CSIDriver") => storage::driver(out, object),
        ("storage.k8s.io", "CSINode") => storage::csi_node(out, object),
        ("storage.k8s.io", "CSIStorageCapacity") => storage::capacity(out, object),
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment(out, object),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => admission::webhooks(out, object, false),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => admission::webhooks(out, object, true),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            admission::admission_policy(out, object, false)
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => admission::admission_policy(out, object, true),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            admission::policy_binding(out, object, false);
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => {
            admission::policy_binding(out, object, true)
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::definition(out, object),
        ("apiregistration.k8s.io", "APIService") => extension::api_service(out, object),
        ("resource.k8s.io", "ResourceClaim") => resource::claim(out, object),
        ("resource.k8s.io", "ResourceClaimTemplate") => resource::template(out, object),
        ("resource.k8s.io", "DeviceClass") => resource::class(out, object),
        ("resource.k8s.io", "ResourceSlice") => resource::slice(out, object),
        ("storagemigration.k8s.io", "StorageVersionMigration") => migration::migration(out, object),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => extension::flow_schema(out, object),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => extension::priority_level(out, object),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
