//! How kinds differ in what a PUT may do. What a write lets through of an object is `caravel_api::strategy`.

use caravel_api::kinds::Kind;

/// Kinds that a PUT may create.
const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("coordination.k8s.io", "leasecandidates"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
];

/// Kinds whose PUT must say which state it replaces.
const CONDITIONAL_UPDATE: &[(&str, &str)] = &[
    ("coordination.k8s.io", "leases"),
    ("coordination.k8s.io", "leasecandidates"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("policy", "poddisruptionbudgets"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("networking.k8s.io", "networkpolicies"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
];

fn among(table: &[(&str, &str)], kind: &Kind) -> bool {
    table.iter().any(|(group, plural)| kind.group == *group && kind.plural == *plural)
}

/// Whether a PUT may create.
pub fn creates_on_update(kind: &Kind) -> bool {
    among(CREATE_ON_UPDATE, kind)
}

/// Whether a PUT without `resourceVersion` replaces whatever there is.
pub fn unconditional_update(kind: &Kind) -> bool {
    !kind.is_custom() && !among(CONDITIONAL_UPDATE, kind)
}
