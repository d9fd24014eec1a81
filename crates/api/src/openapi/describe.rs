//! Descriptions of built-in types, from the schemas that `k8s-openapi` carries.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use crate::schema::names;

/// Full descriptions of types and fields for the time of one document.
#[derive(Default)]
pub(super) struct Descriptions {
    definitions: Map<String, Value>,
}

impl Descriptions {
    /// The descriptions of the named types (short names) and of all types that they refer to.
    pub fn of<'a>(types: impl IntoIterator<Item = &'a str>) -> Descriptions {
        let mut generator = SchemaGenerator::default();
        for name in types {
            add(&mut generator, name);
        }
        Descriptions { definitions: generator.take_definitions(false) }
    }

    /// The description of a field that every object has, as one of the built-in kinds ([`COMMON`]) has it.
    pub fn of_any_object(&self, field: &str) -> &str {
        self.of_field(COMMON, field).unwrap_or_default()
    }

    /// Every definition by full name.
    #[cfg(test)]
    pub fn definitions(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.definitions.iter()
    }

    /// The description of a type.
    pub fn of_type(&self, name: &str) -> Option<&str> {
        self.definitions.get(&names::full(name))?["description"].as_str()
    }

    /// The description of a field of a type.
    pub fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        match self.definitions.get(&names::full(name)) {
            Some(definition) => definition["properties"][field]["description"].as_str(),
            None => common(field),
        }
    }
}

/// The kind whose descriptions of the fields that all objects have are those of custom resources, too.
pub(super) const COMMON: &str = "core.v1.ConfigMap";

/// The description of a field of a list or watch event, whose types `k8s-openapi` has no schema of.
fn common(field: &str) -> Option<&'static str> {
    Some(match field {
        "apiVersion" => {
            "The version of the schema of this object. Servers convert it to the latest and may reject unknown ones."
        }
        "kind" => "The kind of resource that this object is. Cannot be updated.",
        "metadata" => "Standard metadata.",
        "items" => "The objects of the list.",
        "object" => {
            "The object as it is after the event (before it, for DELETED), a bookmark's version, or a Status of an error."
        }
        "type" => "ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.",
        _ => return None,
    })
}

/// Adds a type and all that it refers to.
fn add(generator: &mut SchemaGenerator, name: &str) {
    macro_rules! roots {
        ($($package:literal, $($module:ident)::+: $($kind:ident),+;)+) => {
            $({
                use $($module)::+ as module;
                $(if name == concat!($package, ".", stringify!($kind)) {
                    generator.subschema_for::<module::$kind>();
                })+
            })+
        };
    }
    roots! {
        "core.v1", k8s_openapi::api::core::v1: Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolumeClaim, PersistentVolume, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, ServiceAccount, Service;
        "apiregistration.v1", k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1: APIService;
        "apps.v1", k8s_openapi::api::apps::v1: ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet;
        "events.v1", k8s_openapi::api::events::v1: Event;
        "authentication.v1", k8s_openapi::api::authentication::v1: SelfSubjectReview, TokenReview, TokenRequest;
        "authorization.v1", k8s_openapi::api::authorization::v1: LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview;
        "autoscaling.v2", k8s_openapi::api::autoscaling::v2: HorizontalPodAutoscaler;
        "autoscaling.v1", k8s_openapi::api::autoscaling::v1: HorizontalPodAutoscaler, Scale;
        "batch.v1", k8s_openapi::api::batch::v1: CronJob, Job;
        "certificates.v1", k8s_openapi::api::certificates::v1: CertificateSigningRequest;
        "certificates.v1beta1", k8s_openapi::api::certificates::v1beta1: ClusterTrustBundle, PodCertificateRequest;
        "certificates.v1alpha1", k8s_openapi::api::certificates::v1alpha1: ClusterTrustBundle;
        "networking.v1", k8s_openapi::api::networking::v1: IngressClass, Ingress, IPAddress, NetworkPolicy, ServiceCIDR;
        "networking.v1beta1", k8s_openapi::api::networking::v1beta1: IPAddress, ServiceCIDR;
        "policy.v1", k8s_openapi::api::policy::v1: PodDisruptionBudget, Eviction;
        "rbac.v1", k8s_openapi::api::rbac::v1: ClusterRoleBinding, ClusterRole, RoleBinding, Role;
        "storage.v1", k8s_openapi::api::storage::v1: CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass;
        "storage.v1beta1", k8s_openapi::api::storage::v1beta1: VolumeAttributesClass;
        "admissionregistration.v1", k8s_openapi::api::admissionregistration::v1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration;
        "admissionregistration.v1beta1", k8s_openapi::api::admissionregistration::v1beta1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding;
        "admissionregistration.v1alpha1", k8s_openapi::api::admissionregistration::v1alpha1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding;
        "apiextensions.v1", k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition;
        "scheduling.v1", k8s_openapi::api::scheduling::v1: PriorityClass;
        "scheduling.v1alpha2", k8s_openapi::api::scheduling::v1alpha2: PodGroup, Workload;
        "coordination.v1", k8s_openapi::api::coordination::v1: Lease;
        "coordination.v1beta1", k8s_openapi::api::coordination::v1beta1: LeaseCandidate;
        "coordination.v1alpha2", k8s_openapi::api::coordination::v1alpha2: LeaseCandidate;
        "node.v1", k8s_openapi::api::node::v1: RuntimeClass;
        "discovery.v1", k8s_openapi::api::discovery::v1: EndpointSlice;
        "resource.v1", k8s_openapi::api::resource::v1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice;
        "resource.v1beta2", k8s_openapi::api::resource::v1beta2: DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice;
        "resource.v1beta1", k8s_openapi::api::resource::v1beta1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice;
        "resource.v1alpha3", k8s_openapi::api::resource::v1alpha3: DeviceTaintRule, ResourcePoolStatusRequest;
        "flowcontrol.v1", k8s_openapi::api::flowcontrol::v1: FlowSchema, PriorityLevelConfiguration;
        "apiserverinternal.v1alpha1", k8s_openapi::api::apiserverinternal::v1alpha1: StorageVersion;
        "storagemigration.v1beta1", k8s_openapi::api::storagemigration::v1beta1: StorageVersionMigration;
        "meta.v1", k8s_openapi::apimachinery::pkg::apis::meta::v1: ObjectMeta, ListMeta, Status, DeleteOptions, APIResourceList, APIGroupList, APIVersions;
    }
}
