//! Message types that others generated from upstream's definitions, by the names of ours.
//!
//! They know nothing of the table in `caravel_api::schema`, and their codec is another: what they read from our bytes, and we
//! from theirs, is a second opinion on every field number and encoding.

use prost::{DecodeError, Message};
use std::fmt::Debug;

/// One message type.
pub struct Oracle {
    /// Package of the type, as in `core.v1`.
    pub package: &'static str,
    /// Its name; it differs from ours in case only.
    pub name: &'static str,
    /// Reads a message and writes what was understood of it.
    pub again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
    /// Reads a message and shows it, a field on a line.
    pub show: fn(&[u8]) -> Result<String, DecodeError>,
    /// Whether two messages mean the same.
    pub same: fn(&[u8], &[u8]) -> Result<bool, DecodeError>,
}

/// The oracle of a type of ours, such as `core.v1.PodSpec`.
pub fn oracle(name: &str) -> Option<&'static Oracle> {
    ORACLES.iter().find(|o| {
        let name = name.strip_prefix(o.package).and_then(|n| n.strip_prefix('.'));
        name.is_some_and(|n| n.eq_ignore_ascii_case(o.name))
    })
}

fn again<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(M::decode(bytes)?.encode_to_vec())
}

fn show<M: Message + Default + Debug>(bytes: &[u8]) -> Result<String, DecodeError> {
    Ok(format!("{:#?}", M::decode(bytes)?))
}

fn same<M: Message + Default + PartialEq>(one: &[u8], other: &[u8]) -> Result<bool, DecodeError> {
    Ok(M::decode(one)? == M::decode(other)?)
}

macro_rules! oracles {
    ($($package:literal: $module:tt { $($name:ident),* $(,)? })*) => {
        /// All of them, but those that our table has not.
        pub static ORACLES: &[Oracle] = &[$($(oracles!(@one $package, $module, $name),)*)*];
    };
    (@one $package:literal, [$($module:tt)*], $name:ident) => {
        Oracle {
            package: $package,
            name: stringify!($name),
            again: again::<$($module)*::$name>,
            show: show::<$($module)*::$name>,
            same: same::<$($module)*::$name>,
        }
    };
}

#[rustfmt::skip]
oracles! {
    "admissionregistration.v1": [k8s_pb::api::admissionregistration::v1] {
        AuditAnnotation, ExpressionWarning, MatchCondition, MatchResources, MutatingWebhook,
        MutatingWebhookConfiguration, MutatingWebhookConfigurationList, NamedRuleWithOperations, ParamKind, ParamRef,
        RuleWithOperations, ServiceReference, TypeChecking, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingList, ValidatingAdmissionPolicyBindingSpec,
        ValidatingAdmissionPolicyList, ValidatingAdmissionPolicySpec, ValidatingAdmissionPolicyStatus,
        ValidatingWebhook, ValidatingWebhookConfiguration, ValidatingWebhookConfigurationList, Validation, Variable,
        WebhookClientConfig,
    }
    "admissionregistration.v1alpha1": [k8s_pb::api::admissionregistration::v1alpha1] {
        ApplyConfiguration, JsonPatch, MatchCondition, MatchResources, MutatingAdmissionPolicy,
        MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingList, MutatingAdmissionPolicyBindingSpec,
        MutatingAdmissionPolicyList, MutatingAdmissionPolicySpec, Mutation, NamedRuleWithOperations, ParamKind,
        ParamRef, Variable,
    }
    "admissionregistration.v1beta1": [k8s_pb::api::admissionregistration::v1beta1] {
        ApplyConfiguration, JsonPatch, MatchCondition, MatchResources, MutatingAdmissionPolicy,
        MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingList, MutatingAdmissionPolicyBindingSpec,
        MutatingAdmissionPolicyList, MutatingAdmissionPolicySpec, Mutation, NamedRuleWithOperations, ParamKind,
        ParamRef, Variable,
    }
    "apiextensions.v1": [k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1] {
        CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
        CustomResourceDefinitionCondition, CustomResourceDefinitionList, CustomResourceDefinitionNames,
        CustomResourceDefinitionSpec, CustomResourceDefinitionStatus, CustomResourceDefinitionVersion,
        CustomResourceSubresourceScale, CustomResourceSubresourceStatus, CustomResourceSubresources,
        CustomResourceValidation, ExternalDocumentation, JsonSchemaProps, SelectableField, ServiceReference,
        ValidationRule, WebhookClientConfig, WebhookConversion,
    }
    "apiregistration.v1": [k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1] {
        APIService, APIServiceCondition, APIServiceList, APIServiceSpec, APIServiceStatus, ServiceReference,
    }
    "apiserverinternal.v1alpha1": [k8s_pb::api::apiserverinternal::v1alpha1] {
        ServerStorageVersion, StorageVersion, StorageVersionCondition, StorageVersionList, StorageVersionSpec,
        StorageVersionStatus,
    }
    "apps.v1": [k8s_pb::api::apps::v1] {
        ControllerRevision, ControllerRevisionList, DaemonSet, DaemonSetCondition, DaemonSetList, DaemonSetSpec,
        DaemonSetStatus, DaemonSetUpdateStrategy, Deployment, DeploymentCondition, DeploymentList, DeploymentSpec,
        DeploymentStatus, DeploymentStrategy, ReplicaSet, ReplicaSetCondition, ReplicaSetList, ReplicaSetSpec,
        ReplicaSetStatus, RollingUpdateDaemonSet, RollingUpdateDeployment, RollingUpdateStatefulSetStrategy,
        StatefulSet, StatefulSetCondition, StatefulSetList, StatefulSetOrdinals,
        StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetStatus,
        StatefulSetUpdateStrategy,
    }
    "authentication.v1": [k8s_pb::api::authentication::v1] {
        BoundObjectReference, SelfSubjectReview, SelfSubjectReviewStatus, TokenRequest, TokenRequestSpec,
        TokenRequestStatus, TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
    }
    "authorization.v1": [k8s_pb::api::authorization::v1] {
        FieldSelectorAttributes, LabelSelectorAttributes, LocalSubjectAccessReview, NonResourceAttributes,
        NonResourceRule, ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectAccessReview, SubjectAccessReviewSpec,
        SubjectAccessReviewStatus, SubjectRulesReviewStatus,
    }
    "autoscaling.v1": [k8s_pb::api::autoscaling::v1] {
        CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerList,
        HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, Scale, ScaleSpec, ScaleStatus,
    }
    "autoscaling.v2": [k8s_pb::api::autoscaling::v2] {
        ContainerResourceMetricSource, ContainerResourceMetricStatus, CrossVersionObjectReference,
        ExternalMetricSource, ExternalMetricStatus, HpaScalingPolicy, HpaScalingRules, HorizontalPodAutoscaler,
        HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerList,
        HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricIdentifier, MetricSpec, MetricStatus,
        MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus,
        ResourceMetricSource, ResourceMetricStatus,
    }
    "batch.v1": [k8s_pb::api::batch::v1] {
        CronJob, CronJobList, CronJobSpec, CronJobStatus, Job, JobCondition, JobList, JobSpec, JobStatus,
        JobTemplateSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
        PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
        UncountedTerminatedPods,
    }
    "certificates.v1": [k8s_pb::api::certificates::v1] {
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestList,
        CertificateSigningRequestSpec, CertificateSigningRequestStatus,
    }
    "certificates.v1alpha1": [k8s_pb::api::certificates::v1alpha1] {
        ClusterTrustBundle, ClusterTrustBundleList, ClusterTrustBundleSpec,
    }
    "certificates.v1beta1": [k8s_pb::api::certificates::v1beta1] {
        ClusterTrustBundle, ClusterTrustBundleList, ClusterTrustBundleSpec, PodCertificateRequest,
        PodCertificateRequestList, PodCertificateRequestSpec, PodCertificateRequestStatus,
    }
    "coordination.v1": [k8s_pb::api::coordination::v1] {
        Lease, LeaseList, LeaseSpec,
    }
    "coordination.v1alpha2": [k8s_pb::api::coordination::v1alpha2] {
        LeaseCandidate, LeaseCandidateList, LeaseCandidateSpec,
    }
    "coordination.v1beta1": [k8s_pb::api::coordination::v1beta1] {
        LeaseCandidate, LeaseCandidateList, LeaseCandidateSpec,
    }
    "core.v1": [k8s_pb::api::core::v1] {
        AwsElasticBlockStoreVolumeSource, Affinity, AppArmorProfile, AttachedVolume, AzureDiskVolumeSource,
        AzureFilePersistentVolumeSource, AzureFileVolumeSource, Binding, CSIPersistentVolumeSource, CSIVolumeSource,
        Capabilities, CephFsPersistentVolumeSource, CephFsVolumeSource, CinderPersistentVolumeSource,
        CinderVolumeSource, ClientIpConfig, ClusterTrustBundleProjection, ComponentCondition, ComponentStatus,
        ComponentStatusList, ConfigMap, ConfigMapEnvSource, ConfigMapKeySelector, ConfigMapList,
        ConfigMapNodeConfigSource, ConfigMapProjection, ConfigMapVolumeSource, Container,
        ContainerExtendedResourceRequest, ContainerImage, ContainerPort, ContainerResizePolicy, ContainerRestartRule,
        ContainerRestartRuleOnExitCodes, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, ContainerUser, DaemonEndpoint, DownwardAPIProjection,
        DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, EndpointAddress, EndpointPort,
        EndpointSubset, Endpoints, EndpointsList, EnvFromSource, EnvVar, EnvVarSource, EphemeralContainer,
        EphemeralVolumeSource, Event, EventList, EventSeries, EventSource, ExecAction, FcVolumeSource,
        FileKeySelector, FlexPersistentVolumeSource, FlexVolumeSource, FlockerVolumeSource,
        GcePersistentDiskVolumeSource, GrpcAction, GitRepoVolumeSource, GlusterfsPersistentVolumeSource,
        GlusterfsVolumeSource, HttpGetAction, HttpHeader, HostAlias, HostIp, HostPathVolumeSource,
        IscsiPersistentVolumeSource, IscsiVolumeSource, ImageVolumeSource, KeyToPath, Lifecycle, LifecycleHandler,
        LimitRange, LimitRangeItem, LimitRangeList, LimitRangeSpec, LinuxContainerUser, LoadBalancerIngress,
        LoadBalancerStatus, LocalObjectReference, LocalVolumeSource, ModifyVolumeStatus, NfsVolumeSource, Namespace,
        NamespaceCondition, NamespaceList, NamespaceSpec, NamespaceStatus, Node, NodeAddress, NodeAffinity,
        NodeCondition, NodeConfigSource, NodeConfigStatus, NodeDaemonEndpoints, NodeFeatures, NodeList,
        NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
        NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo, ObjectFieldSelector, ObjectReference, PersistentVolume,
        PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimList, PersistentVolumeClaimSpec,
        PersistentVolumeClaimStatus, PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource,
        PersistentVolumeList, PersistentVolumeSpec, PersistentVolumeStatus, PhotonPersistentDiskVolumeSource, Pod,
        PodAffinity, PodAffinityTerm, PodAntiAffinity, PodCertificateProjection, PodCondition, PodDnsConfig,
        PodDnsConfigOption, PodExtendedResourceClaimStatus, PodIp, PodList, PodOs, PodReadinessGate, PodResourceClaim,
        PodResourceClaimStatus, PodSchedulingGate, PodSecurityContext, PodSpec, PodStatus, PodTemplate,
        PodTemplateList, PodTemplateSpec, PortStatus, PortworxVolumeSource, PreferredSchedulingTerm, Probe,
        ProjectedVolumeSource, QuobyteVolumeSource, RbdPersistentVolumeSource, RbdVolumeSource, ReplicationController,
        ReplicationControllerCondition, ReplicationControllerList, ReplicationControllerSpec,
        ReplicationControllerStatus, ResourceClaim, ResourceFieldSelector, ResourceHealth, ResourceQuota,
        ResourceQuotaList, ResourceQuotaSpec, ResourceQuotaStatus, ResourceRequirements, ResourceStatus,
        SeLinuxOptions, ScaleIoPersistentVolumeSource, ScaleIoVolumeSource, ScopeSelector,
        ScopedResourceSelectorRequirement, SeccompProfile, Secret, SecretEnvSource, SecretKeySelector, SecretList,
        SecretProjection, SecretReference, SecretVolumeSource, SecurityContext, Service, ServiceAccount,
        ServiceAccountList, ServiceAccountTokenProjection, ServiceList, ServicePort, ServiceSpec, ServiceStatus,
        SessionAffinityConfig, SleepAction, StorageOsPersistentVolumeSource, StorageOsVolumeSource, Sysctl,
        TcpSocketAction, Taint, Toleration, TopologySelectorLabelRequirement, TopologySelectorTerm,
        TopologySpreadConstraint, TypedLocalObjectReference, TypedObjectReference, Volume, VolumeDevice, VolumeMount,
        VolumeMountStatus, VolumeNodeAffinity, VolumeProjection, VolumeResourceRequirements,
        VsphereVirtualDiskVolumeSource, WeightedPodAffinityTerm, WindowsSecurityContextOptions,
    }
    "discovery.v1": [k8s_pb::api::discovery::v1] {
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, EndpointSliceList, ForNode, ForZone,
    }
    "events.v1": [k8s_pb::api::events::v1] {
        Event, EventList, EventSeries,
    }
    "flowcontrol.v1": [k8s_pb::api::flowcontrol::v1] {
        ExemptPriorityLevelConfiguration, FlowDistinguisherMethod, FlowSchema, FlowSchemaCondition, FlowSchemaList,
        FlowSchemaSpec, FlowSchemaStatus, GroupSubject, LimitResponse, LimitedPriorityLevelConfiguration,
        NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration,
        PriorityLevelConfigurationCondition, PriorityLevelConfigurationList, PriorityLevelConfigurationReference,
        PriorityLevelConfigurationSpec, PriorityLevelConfigurationStatus, QueuingConfiguration, ResourcePolicyRule,
        ServiceAccountSubject, Subject, UserSubject,
    }
    "meta.v1": [k8s_pb::apimachinery::pkg::apis::meta::v1] {
        APIGroup, APIGroupList, APIResource, APIResourceList, APIVersions, Condition, DeleteOptions,
        FieldSelectorRequirement, GroupResource, GroupVersionForDiscovery, LabelSelector, LabelSelectorRequirement,
        ListMeta, ManagedFieldsEntry, ObjectMeta, OwnerReference, Preconditions, ServerAddressByClientCIDR, Status,
        StatusCause, StatusDetails, WatchEvent, PartialObjectMetadata, PartialObjectMetadataList,
    }
    "networking.v1": [k8s_pb::api::networking::v1] {
        HttpIngressPath, HttpIngressRuleValue, IPAddress, IPAddressList, IPAddressSpec, IpBlock, Ingress,
        IngressBackend, IngressClass, IngressClassList, IngressClassParametersReference, IngressClassSpec,
        IngressList, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressPortStatus, IngressRule,
        IngressServiceBackend, IngressSpec, IngressStatus, IngressTls, NetworkPolicy, NetworkPolicyEgressRule,
        NetworkPolicyIngressRule, NetworkPolicyList, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        ParentReference, ServiceBackendPort, ServiceCIDR, ServiceCIDRList, ServiceCIDRSpec, ServiceCIDRStatus,
    }
    "networking.v1beta1": [k8s_pb::api::networking::v1beta1] {
        IPAddress, IPAddressList, IPAddressSpec, ParentReference, ServiceCIDR, ServiceCIDRList, ServiceCIDRSpec,
        ServiceCIDRStatus,
    }
    "node.v1": [k8s_pb::api::node::v1] {
        Overhead, RuntimeClass, RuntimeClassList, Scheduling,
    }
    "policy.v1": [k8s_pb::api::policy::v1] {
        Eviction, PodDisruptionBudget, PodDisruptionBudgetList, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
    }
    "rbac.v1": [k8s_pb::api::rbac::v1] {
        AggregationRule, ClusterRole, ClusterRoleBinding, ClusterRoleBindingList, ClusterRoleList, PolicyRule, Role,
        RoleBinding, RoleBindingList, RoleList, RoleRef, Subject,
    }
    "resource.v1": [k8s_pb::api::resource::v1] {
        AllocatedDeviceStatus, AllocationResult, CelDeviceSelector, CapacityRequestPolicy, CapacityRequestPolicyRange,
        CapacityRequirements, Counter, CounterSet, Device, DeviceAllocationConfiguration, DeviceAllocationResult,
        DeviceAttribute, DeviceCapacity, DeviceClaim, DeviceClaimConfiguration, DeviceClass, DeviceClassConfiguration,
        DeviceClassList, DeviceClassSpec, DeviceConstraint, DeviceCounterConsumption, DeviceRequest,
        DeviceRequestAllocationResult, DeviceSelector, DeviceSubRequest, DeviceTaint, DeviceToleration,
        ExactDeviceRequest, NetworkDeviceData, OpaqueDeviceConfiguration, ResourceClaim,
        ResourceClaimConsumerReference, ResourceClaimList, ResourceClaimSpec, ResourceClaimStatus,
        ResourceClaimTemplate, ResourceClaimTemplateList, ResourceClaimTemplateSpec, ResourcePool, ResourceSlice,
        ResourceSliceList, ResourceSliceSpec,
    }
    "resource.v1alpha3": [k8s_pb::api::resource::v1alpha3] {
        DeviceTaint, DeviceTaintRule, DeviceTaintRuleList, DeviceTaintRuleSpec, DeviceTaintRuleStatus,
        DeviceTaintSelector,
    }
    "resource.v1beta1": [k8s_pb::api::resource::v1beta1] {
        AllocatedDeviceStatus, AllocationResult, BasicDevice, CelDeviceSelector, CapacityRequestPolicy,
        CapacityRequestPolicyRange, CapacityRequirements, Counter, CounterSet, Device, DeviceAllocationConfiguration,
        DeviceAllocationResult, DeviceAttribute, DeviceCapacity, DeviceClaim, DeviceClaimConfiguration, DeviceClass,
        DeviceClassConfiguration, DeviceClassList, DeviceClassSpec, DeviceConstraint, DeviceCounterConsumption,
        DeviceRequest, DeviceRequestAllocationResult, DeviceSelector, DeviceSubRequest, DeviceTaint, DeviceToleration,
        NetworkDeviceData, OpaqueDeviceConfiguration, ResourceClaim, ResourceClaimConsumerReference,
        ResourceClaimList, ResourceClaimSpec, ResourceClaimStatus, ResourceClaimTemplate, ResourceClaimTemplateList,
        ResourceClaimTemplateSpec, ResourcePool, ResourceSlice, ResourceSliceList, ResourceSliceSpec,
    }
    "resource.v1beta2": [k8s_pb::api::resource::v1beta2] {
        AllocatedDeviceStatus, AllocationResult, CelDeviceSelector, CapacityRequestPolicy, CapacityRequestPolicyRange,
        CapacityRequirements, Counter, CounterSet, Device, DeviceAllocationConfiguration, DeviceAllocationResult,
        DeviceAttribute, DeviceCapacity, DeviceClaim, DeviceClaimConfiguration, DeviceClass, DeviceClassConfiguration,
        DeviceClassList, DeviceClassSpec, DeviceConstraint, DeviceCounterConsumption, DeviceRequest,
        DeviceRequestAllocationResult, DeviceSelector, DeviceSubRequest, DeviceTaint, DeviceToleration,
        ExactDeviceRequest, NetworkDeviceData, OpaqueDeviceConfiguration, ResourceClaim,
        ResourceClaimConsumerReference, ResourceClaimList, ResourceClaimSpec, ResourceClaimStatus,
        ResourceClaimTemplate, ResourceClaimTemplateList, ResourceClaimTemplateSpec, ResourcePool, ResourceSlice,
        ResourceSliceList, ResourceSliceSpec,
    }
    "scheduling.v1": [k8s_pb::api::scheduling::v1] {
        PriorityClass, PriorityClassList,
    }
    "storage.v1": [k8s_pb::api::storage::v1] {
        CSIDriver, CSIDriverList, CSIDriverSpec, CSINode, CSINodeDriver, CSINodeList, CSINodeSpec, CSIStorageCapacity,
        CSIStorageCapacityList, StorageClass, StorageClassList, TokenRequest, VolumeAttachment, VolumeAttachmentList,
        VolumeAttachmentSource, VolumeAttachmentSpec, VolumeAttachmentStatus, VolumeAttributesClass,
        VolumeAttributesClassList, VolumeError, VolumeNodeResources,
    }
    "storage.v1beta1": [k8s_pb::api::storage::v1beta1] {
        VolumeAttributesClass, VolumeAttributesClassList,
    }
    "storagemigration.v1beta1": [k8s_pb::api::storagemigration::v1beta1] {
        StorageVersionMigration, StorageVersionMigrationList, StorageVersionMigrationSpec,
        StorageVersionMigrationStatus,
    }
    "metrics.v1beta1": [k8s_pb::metrics::pkg::apis::metrics::v1beta1] {
        ContainerMetrics, NodeMetrics, NodeMetricsList, PodMetrics, PodMetricsList,
    }
}
