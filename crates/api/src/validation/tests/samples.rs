//! Small valid objects.

use super::{claim, job, pod, service, template, workload};
use serde_json::{Value, json};

/// One valid object of most kinds.
pub(super) fn samples() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("", "Pod", pod()),
        ("apps", "Deployment", workload()),
        ("apps", "ReplicaSet", workload()),
        ("apps", "DaemonSet", workload()),
        ("apps", "StatefulSet", workload()),
        ("batch", "Job", job()),
        ("batch", "CronJob", json!({"spec": {"schedule": "* * * * *", "jobTemplate": job()}})),
        ("", "ReplicationController", json!({"spec": {"template": template()}})),
        ("", "Service", service()),
        ("", "ConfigMap", json!({"data": {"a": "b"}})),
        ("", "Secret", json!({"stringData": {"a": "b"}})),
        ("", "Namespace", json!({})),
        ("", "Node", json!({"status": {"capacity": {"cpu": "2", "memory": "1Gi", "pods": "110"}}})),
        ("", "ServiceAccount", json!({})),
        ("", "PersistentVolumeClaim", claim()),
        (
            "",
            "PersistentVolume",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
        ),
        (
            "",
            "ResourceQuota",
            json!({"spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/deployments.apps": "1"}}}),
        ),
        (
            "",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m"}, "default": {"cpu": "1"}}]}}),
        ),
        ("", "Event", json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}})),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
        ),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}}),
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
        ),
        ("policy", "PodDisruptionBudget", json!({"spec": {"minAvailable": 1, "selector": {}}})),
        (
            "autoscaling",
            "HorizontalPodAutoscaler",
            json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
        ),
        ("storage.k8s.io", "StorageClass", json!({"provisioner": "example.com/p"})),
        (
            "rbac.authorization.k8s.io",
            "Role",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        (
            "rbac.authorization.k8s.io",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "system:x"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}]}),
        ),
        ("coordination.k8s.io", "Lease", json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 15}})),
        ("scheduling.k8s.io", "PriorityClass", json!({"value": 10})),
        (
            "resource.k8s.io",
            "ResourceClaim",
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "selectors": [{"cel": {"expression": "true"}}]}}]}}}),
        ),
        (
            "resource.k8s.io",
            "ResourceClaimTemplate",
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}}),
        ),
        ("resource.k8s.io", "DeviceClass", json!({"spec": {"selectors": [{"cel": {"expression": "true"}}]}})),
        (
            "resource.k8s.io",
            "ResourceSlice",
            json!({"spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1, "generation": 1},
            "devices": [{"name": "d0", "attributes": {"model": {"string": "x"}}, "capacity": {"memory": {"value": "1Gi"}}}]}}),
        ),
        ("storage.k8s.io", "CSIDriver", json!({"metadata": {"name": "d.example.com"}, "spec": {}})),
        ("storage.k8s.io", "CSINode", json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n"}]}})),
        (
            "storage.k8s.io",
            "VolumeAttachment",
            json!({"spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
        ),
        ("storage.k8s.io", "CSIStorageCapacity", json!({"storageClassName": "s", "capacity": "1Gi"})),
        ("networking.k8s.io", "IngressClass", json!({"spec": {"controller": "example.com/c"}})),
        ("networking.k8s.io", "ServiceCIDR", json!({"spec": {"cidrs": ["10.0.0.0/16"]}})),
        (
            "networking.k8s.io",
            "IPAddress",
            json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}}),
        ),
        ("node.k8s.io", "RuntimeClass", json!({"handler": "runc", "overhead": {"podFixed": {"cpu": "10m"}}})),
        (
            "apiregistration.k8s.io",
            "APIService",
            json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "n", "name": "s"}}}),
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "FlowSchema",
            json!({"spec": {"priorityLevelConfiguration": {"name": "p"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}}),
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}),
        ),
        (
            "certificates.k8s.io",
            "CertificateSigningRequest",
            json!({"spec": {"request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=", "signerName": "example.com/s", "usages": ["client auth"]}}),
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"validations": [{"expression": "true"}], "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]}}}),
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
        ("apps", "ControllerRevision", json!({"data": {"x": 1}, "revision": 1})),
        ("", "PodTemplate", json!({"template": template()})),
        ("", "Endpoints", json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]})),
        (
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://x/y"}, "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]}]}),
        ),
    ]
}
