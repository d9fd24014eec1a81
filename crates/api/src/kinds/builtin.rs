//! The built-in rows: every resource of Kubernetes 1.36, in the order of discovery's groups.

use super::subresources::subresource;
use super::{Kind, SchemaSource, Verbs};

const NAMESPACED: bool = true;
const CLUSTER: bool = false;
const ALL: Verbs = Verbs::ALL;
const CREATE: Verbs = Verbs::CREATE;
const READ: Verbs = Verbs::GET.with(Verbs::LIST);
const NO_COLLECTION: Verbs = Verbs::ALL.without(Verbs::DELETE_COLLECTION);

/// One line of the table; lists are separated by spaces.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static str,
    categories: &'static str,
    namespaced: bool,
    verbs: Verbs,
    subresources: &'static str,
}

#[allow(clippy::too_many_arguments)]
const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static str,
    categories: &'static str,
    namespaced: bool,
    verbs: Verbs,
    subresources: &'static str,
) -> Row {
    Row { group, version, kind, plural, short_names, categories, namespaced, verbs, subresources }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("", "v1", "Binding", "bindings", "", "", NAMESPACED, CREATE, ""),
    row("", "v1", "ComponentStatus", "componentstatuses", "cs", "", CLUSTER, READ, ""),
    row("", "v1", "ConfigMap", "configmaps", "cm", "", NAMESPACED, ALL, ""),
    row("", "v1", "Endpoints", "endpoints", "ep", "", NAMESPACED, ALL, ""),
    row("", "v1", "Event", "events", "ev", "", NAMESPACED, ALL, ""),
    row("", "v1", "LimitRange", "limitranges", "limits", "", NAMESPACED, ALL, ""),
    row("", "v1", "Namespace", "namespaces", "ns", "", CLUSTER, NO_COLLECTION, "finalize status"),
    row("", "v1", "Node", "nodes", "no", "", CLUSTER, ALL, "proxy status"),
    row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "", NAMESPACED, ALL, "status"),
    row("", "v1", "PersistentVolume", "persistentvolumes", "pv", "", CLUSTER, ALL, "status"),
    row("", "v1", "Pod", "pods", "po", "all", NAMESPACED, ALL, "attach binding ephemeralcontainers eviction exec log portforward proxy resize status"),
    row("", "v1", "PodTemplate", "podtemplates", "", "", NAMESPACED, ALL, ""),
    row("", "v1", "ReplicationController", "replicationcontrollers", "rc", "all", NAMESPACED, ALL, "scale status"),
    row("", "v1", "ResourceQuota", "resourcequotas", "quota", "", NAMESPACED, ALL, "status"),
    row("", "v1", "Secret", "secrets", "", "", NAMESPACED, ALL, ""),
    row("", "v1", "ServiceAccount", "serviceaccounts", "sa", "", NAMESPACED, ALL, "token"),
    row("", "v1", "Service", "services", "svc", "all", NAMESPACED, ALL, "proxy status"),
    row("apiregistration.k8s.io", "v1", "APIService", "apiservices", "", "api-extensions", CLUSTER, ALL, "status"),
    row("apps", "v1", "ControllerRevision", "controllerrevisions", "", "", NAMESPACED, ALL, ""),
    row("apps", "v1", "DaemonSet", "daemonsets", "ds", "all", NAMESPACED, ALL, "status"),
    row("apps", "v1", "Deployment", "deployments", "deploy", "all", NAMESPACED, ALL, "scale status"),
    row("apps", "v1", "ReplicaSet", "replicasets", "rs", "all", NAMESPACED, ALL, "scale status"),
    row("apps", "v1", "StatefulSet", "statefulsets", "sts", "all", NAMESPACED, ALL, "scale status"),
    row("events.k8s.io", "v1", "Event", "events", "ev", "", NAMESPACED, ALL, ""),
    row("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "", "", CLUSTER, CREATE, ""),
    row("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "", "", CLUSTER, CREATE, ""),
    row("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "", "", NAMESPACED, CREATE, ""),
    row("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", "", CLUSTER, CREATE, ""),
    row("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "", "", CLUSTER, CREATE, ""),
    row("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "", "", CLUSTER, CREATE, ""),
    row("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "all", NAMESPACED, ALL, "status"),
    row("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "all", NAMESPACED, ALL, "status"),
    row("batch", "v1", "CronJob", "cronjobs", "cj", "all", NAMESPACED, ALL, "status"),
    row("batch", "v1", "Job", "jobs", "", "all", NAMESPACED, ALL, "status"),
    row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", "csr", "", CLUSTER, ALL, "approval status"),
    row("certificates.k8s.io", "v1beta1", "ClusterTrustBundle", "clustertrustbundles", "", "", CLUSTER, ALL, ""),
    row("certificates.k8s.io", "v1beta1", "PodCertificateRequest", "podcertificaterequests", "", "", NAMESPACED, ALL, "status"),
    row("certificates.k8s.io", "v1alpha1", "ClusterTrustBundle", "clustertrustbundles", "", "", CLUSTER, ALL, ""),
    row("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "", "", CLUSTER, ALL, ""),
    row("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", "", NAMESPACED, ALL, "status"),
    row("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ip", "", CLUSTER, ALL, ""),
    row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", "", NAMESPACED, ALL, ""),
    row("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "", "", CLUSTER, ALL, "status"),
    row("networking.k8s.io", "v1beta1", "IPAddress", "ipaddresses", "ip", "", CLUSTER, ALL, ""),
    row("networking.k8s.io", "v1beta1", "ServiceCIDR", "servicecidrs", "", "", CLUSTER, ALL, "status"),
    row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "", NAMESPACED, ALL, "status"),
    row("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", "", CLUSTER, ALL, ""),
    row("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", "", CLUSTER, ALL, ""),
    row("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", "", NAMESPACED, ALL, ""),
    row("rbac.authorization.k8s.io", "v1", "Role", "roles", "", "", NAMESPACED, ALL, ""),
    row("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "", "", CLUSTER, ALL, ""),
    row("storage.k8s.io", "v1", "CSINode", "csinodes", "", "", CLUSTER, ALL, ""),
    row("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "", "", NAMESPACED, ALL, ""),
    row("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", "", CLUSTER, ALL, ""),
    row("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "", "", CLUSTER, ALL, "status"),
    row("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", "vac", "", CLUSTER, ALL, ""),
    row("storage.k8s.io", "v1beta1", "VolumeAttributesClass", "volumeattributesclasses", "vac", "", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", "", "api-extensions", CLUSTER, ALL, "status"),
    row("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1beta1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1beta1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1alpha1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "", "api-extensions", CLUSTER, ALL, ""),
    row("admissionregistration.k8s.io", "v1alpha1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "", "api-extensions", CLUSTER, ALL, ""),
    row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", "crd crds", "api-extensions", CLUSTER, ALL, "status"),
    row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", "", CLUSTER, ALL, ""),
    row("scheduling.k8s.io", "v1alpha2", "PodGroup", "podgroups", "", "", NAMESPACED, ALL, "status"),
    row("scheduling.k8s.io", "v1alpha2", "Workload", "workloads", "", "", NAMESPACED, ALL, ""),
    row("coordination.k8s.io", "v1", "Lease", "leases", "", "", NAMESPACED, ALL, ""),
    row("coordination.k8s.io", "v1beta1", "LeaseCandidate", "leasecandidates", "", "", NAMESPACED, ALL, ""),
    row("coordination.k8s.io", "v1alpha2", "LeaseCandidate", "leasecandidates", "", "", NAMESPACED, ALL, ""),
    row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "", "", CLUSTER, ALL, ""),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "", NAMESPACED, ALL, ""),
    row("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", "", "", CLUSTER, ALL, ""),
    row("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", "", "", NAMESPACED, ALL, "status"),
    row("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates", "", "", NAMESPACED, ALL, ""),
    row("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", "", "", CLUSTER, ALL, ""),
    row("resource.k8s.io", "v1beta2", "DeviceClass", "deviceclasses", "", "", CLUSTER, ALL, ""),
    row("resource.k8s.io", "v1beta2", "DeviceTaintRule", "devicetaintrules", "", "", CLUSTER, ALL, "status"),
    row("resource.k8s.io", "v1beta2", "ResourceClaim", "resourceclaims", "", "", NAMESPACED, ALL, "status"),
    row("resource.k8s.io", "v1beta2", "ResourceClaimTemplate", "resourceclaimtemplates", "", "", NAMESPACED, ALL, ""),
    row("resource.k8s.io", "v1beta2", "ResourceSlice", "resourceslices", "", "", CLUSTER, ALL, ""),
    row("resource.k8s.io", "v1beta1", "DeviceClass", "deviceclasses", "", "", CLUSTER, ALL, ""),
    row("resource.k8s.io", "v1beta1", "ResourceClaim", "resourceclaims", "", "", NAMESPACED, ALL, "status"),
    row("resource.k8s.io", "v1beta1", "ResourceClaimTemplate", "resourceclaimtemplates", "", "", NAMESPACED, ALL, ""),
    row("resource.k8s.io", "v1beta1", "ResourceSlice", "resourceslices", "", "", CLUSTER, ALL, ""),
    row("resource.k8s.io", "v1alpha3", "DeviceTaintRule", "devicetaintrules", "", "", CLUSTER, ALL, "status"),
    row("resource.k8s.io", "v1alpha3", "ResourcePoolStatusRequest", "resourcepoolstatusrequests", "", "", CLUSTER, ALL, "status"),
    row("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", "", "", CLUSTER, ALL, "status"),
    row("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", "", "", CLUSTER, ALL, "status"),
    row("internal.apiserver.k8s.io", "v1alpha1", "StorageVersion", "storageversions", "", "", CLUSTER, ALL, "status"),
    row("storagemigration.k8s.io", "v1beta1", "StorageVersionMigration", "storageversionmigrations", "", "", CLUSTER, ALL, "status"),
];

/// The rows in full.
pub(super) fn rows() -> impl Iterator<Item = Kind> {
    ROWS.iter().map(expand)
}

fn expand(r: &Row) -> Kind {
    let words = |s: &'static str| s.split_ascii_whitespace().map(Into::into).collect();
    let (storage_group, storage_version) = storage(r);
    Kind {
        group: r.group.into(),
        version: r.version.into(),
        kind: r.kind.into(),
        list_kind: format!("{}List", r.kind).into(),
        plural: r.plural.into(),
        singular: r.kind.to_ascii_lowercase().into(),
        short_names: words(r.short_names),
        categories: words(r.categories),
        namespaced: r.namespaced,
        verbs: r.verbs,
        subresources: r
            .subresources
            .split_ascii_whitespace()
            .map(|name| subresource(name, r.group, r.version, r.kind))
            .collect(),
        storage_group: storage_group.into(),
        storage_version: storage_version.into(),
        deprecation: deprecation(r).map(Into::into),
        default_served: !r.version.contains("alpha") && !r.version.contains("beta"),
        schema_source: SchemaSource::Builtin(format!("{}.{}.{}", package(r.group), r.version, r.kind).into()),
        custom: None,
    }
}

/// The version objects are kept in: the most preferred one that the kind has; events are kept in
/// their core form whichever door they came through.
fn storage(r: &Row) -> (&'static str, &'static str) {
    if r.group == "events.k8s.io" {
        return ("", "v1");
    }
    let version = ROWS
        .iter()
        .filter(|o| o.group == r.group && o.kind == r.kind)
        .map(|o| o.version)
        .min_by(|a, b| super::compare_versions(a, b))
        .unwrap_or(r.version);
    (r.group, version)
}

fn deprecation(r: &Row) -> Option<&'static str> {
    match (r.group, r.kind) {
        ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

/// The package that holds a group's types, as the type table names it.
pub(crate) fn package(group: &str) -> &str {
    match group {
        "" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        _ => group.split('.').next().unwrap_or(group),
    }
}
