use super::*;
use crate::kinds::KindTable;

const NOW: &str = "2026-01-01T12:00:00Z";

fn cells(group: &str, kind: &str, object: &Value) -> Vec<Value> {
    let table = KindTable::builtin();
    let kind = table.preferred(group, kind).unwrap();
    let options = Options { now: NOW.parse().unwrap(), include: IncludeObject::None, headers: true };
    let out = render(kind, &[object], None, &options);
    let cells = out["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), out["columnDefinitions"].as_array().unwrap().len());
    cells
}

fn line(group: &str, kind: &str, object: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    cells(group, kind, object).iter().map(text).collect::<Vec<_>>().join("|")
}

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T11:55:00Z"},
           "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
}

#[test]
fn pods() {
    let running = |name: &str| json!({"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}});
    let cases = [
        (pod(json!({"phase": "Pending"})), "p|0/2|Pending|0|5m|<none>|<none>|<none>|<none>"),
        (
            pod(
                json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [running("a"), running("b")]}),
            ),
            "p|2/2|Running|0|5m|10.0.0.1|<none>|<none>|<none>",
        ),
        (
            pod(json!({"phase": "Running", "containerStatuses": [running("a"),
                {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T11:58:00Z"}}}]})),
            "p|1/2|CrashLoopBackOff|3 (2m ago)|5m|<none>|<none>|<none>|<none>",
        ),
        (
            pod(
                json!({"phase": "Succeeded", "containerStatuses": [{"restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            ),
            "p|0/2|Completed|0|5m|<none>|<none>|<none>|<none>",
        ),
        (
            pod(
                json!({"phase": "Failed", "containerStatuses": [{"restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}),
            ),
            "p|0/2|ExitCode:3|0|5m|<none>|<none>|<none>|<none>",
        ),
        (pod(json!({"phase": "Failed", "reason": "Evicted"})), "p|0/2|Evicted|0|5m|<none>|<none>|<none>|<none>"),
        (
            pod(
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated", "status": "False"}]}),
            ),
            "p|0/2|SchedulingGated|0|5m|<none>|<none>|<none>|<none>",
        ),
    ];
    for (object, want) in cases {
        assert_eq!(line("", "Pod", &object), want);
    }
}

#[test]
fn pods_that_initialize_or_end() {
    let mut init = pod(json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
        {"name": "j", "restartCount": 2, "state": {"running": {}}}]}));
    init["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
    assert_eq!(cells("", "Pod", &init)[1..4], [json!("0/2"), json!("Init:1/2"), json!("2")]);
    init["status"]["initContainerStatuses"][1]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    assert_eq!(cells("", "Pod", &init)[2], "Init:CrashLoopBackOff");
    init["status"]["initContainerStatuses"][1]["state"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    assert_eq!(cells("", "Pod", &init)[2], "Init:Error");
    let mut sidecar = pod(json!({"phase": "Running", "initContainerStatuses": [
        {"name": "i", "restartCount": 1, "started": true, "ready": true, "state": {"running": {}}}],
        "containerStatuses": [{"ready": true, "restartCount": 0, "state": {"running": {}}}]}));
    sidecar["spec"]["initContainers"] = json!([{"name": "i", "restartPolicy": "Always"}]);
    assert_eq!(cells("", "Pod", &sidecar)[1..4], [json!("2/3"), json!("Running"), json!("1")]);
    sidecar["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_eq!(cells("", "Pod", &sidecar)[2], "Terminating");
}

#[test]
fn workloads() {
    let created = json!({"name": "x", "creationTimestamp": "2026-01-01T11:00:00Z"});
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}});
    let cases = [
        (
            "apps",
            "Deployment",
            json!({"metadata": created, "spec": {"replicas": 3, "template": template, "selector": {"matchLabels": {"a": "b"}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
            "x|1/3|2|1|60m|c,d|i,j|a=b",
        ),
        (
            "apps",
            "StatefulSet",
            json!({"metadata": created, "spec": {"replicas": 2, "template": template}}),
            "x|0/2|60m|c,d|i,j",
        ),
        (
            "batch",
            "Job",
            json!({"metadata": created, "spec": {"completions": 3, "template": template},
            "status": {"succeeded": 1, "startTime": "2026-01-01T11:59:00Z"}}),
            "x|Running|1/3|60s|60m|c,d|i,j|<none>",
        ),
        (
            "batch",
            "Job",
            json!({"metadata": created, "spec": {"parallelism": 2}, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}),
            "x|Failed|0/1 of 2||60m|||<none>",
        ),
        (
            "batch",
            "CronJob",
            json!({"metadata": created, "spec": {"schedule": "* * * * *", "suspend": false}}),
            "x|* * * * *|<none>|False|0|<none>|60m|||<none>",
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"metadata": created, "spec": {"minAvailable": "50%"}}),
            "x|50%|N/A|0|60m",
        ),
        (
            "autoscaling",
            "HorizontalPodAutoscaler",
            json!({"metadata": created, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            "x|Deployment/d|cpu: <unknown>/80%|1|3|0|60m",
        ),
    ];
    for (group, kind, object, want) in cases {
        assert_eq!(line(group, kind, &object), want, "{kind}");
    }
}

#[test]
fn others() {
    let created = json!({"name": "x", "creationTimestamp": "2026-01-01T11:00:00Z"});
    let cases = [
        (
            "",
            "Service",
            json!({"metadata": created, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}], "selector": {"a": "b"}}}),
            "x|NodePort|10.0.0.1|<none>|80:30000/TCP|60m|a=b",
        ),
        (
            "",
            "Service",
            json!({"metadata": created, "spec": {"type": "LoadBalancer"}}),
            "x|LoadBalancer|<none>|<pending>|<none>|60m|<none>",
        ),
        (
            "",
            "Node",
            json!({"metadata": {"name": "n", "creationTimestamp": NOW, "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}, "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}}),
            "n|Ready,SchedulingDisabled|control-plane|0s|v1.36.0|1.2.3.4|<none>|<unknown>|<unknown>|<unknown>",
        ),
        ("", "ConfigMap", json!({"metadata": created, "data": {"a": "b"}, "binaryData": {"c": ""}}), "x|2|60m"),
        (
            "",
            "PersistentVolumeClaim",
            json!({"metadata": created, "spec": {"volumeName": "v", "volumeMode": "Filesystem", "storageClassName": "s"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
            "x|Bound|v|1Gi|RWO|s|<unset>|60m|Filesystem",
        ),
        (
            "storage.k8s.io",
            "StorageClass",
            json!({"metadata": {"name": "x", "creationTimestamp": NOW, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
            "x (default)|p|Delete|Immediate|false|0s",
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({"metadata": created, "spec": {"rules": [{"host": "a"}, {"host": "b"}], "tls": [{}]}}),
            "x|<none>|a,b||80, 443|60m",
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"metadata": created, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["1", "2"]}, {"addresses": ["3", "4"]}]}),
            "x|IPv4|80|1,2,3 + 1 more...|60m",
        ),
        (
            "",
            "Event",
            json!({"metadata": created, "lastTimestamp": "2026-01-01T11:59:00Z", "type": "Normal", "reason": "Pulled", "involvedObject": {"kind": "Pod", "name": "p"}, "message": "ok ", "source": {"component": "kubelet", "host": "n"}}),
            "60s|Normal|Pulled|pod/p||kubelet, n|ok|<unknown>|1|x",
        ),
        ("rbac.authorization.k8s.io", "ClusterRole", json!({"metadata": created}), "x|2026-01-01T11:00:00Z"),
        (
            "",
            "ResourceQuota",
            json!({"metadata": created, "status": {"hard": {"pods": "2", "limits.cpu": "1"}, "used": {"pods": "1"}}}),
            "x|pods: 1/2|limits.cpu: 0/1|60m",
        ),
        (
            "apiregistration.k8s.io",
            "APIService",
            json!({"metadata": created, "status": {"conditions": [{"type": "Available", "status": "False", "reason": "Why"}]}}),
            "x|Local|False (Why)|60m",
        ),
    ];
    for (group, kind, object, want) in cases {
        assert_eq!(line(group, kind, &object), want, "{kind}");
    }
}

#[test]
fn every_builtin_kind_renders() {
    let options = Options { now: NOW.parse().unwrap(), include: IncludeObject::Metadata, headers: true };
    for kind in KindTable::builtin().iter() {
        let object = json!({"metadata": {"name": "x"}});
        let table = render(kind, &[&object], Some(&json!({"resourceVersion": "5"})), &options);
        let width = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), width, "{}", kind.kind);
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["metadata"]["resourceVersion"], "5");
    }
}

#[test]
fn custom_resources() {
    let columns = [
        crate::kinds::custom::Column {
            name: "Phase".into(),
            type_: "string".into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: ".status.phase".into(),
        },
        crate::kinds::custom::Column {
            name: "N".into(),
            type_: "integer".into(),
            format: String::new(),
            description: String::new(),
            priority: 1,
            json_path: ".spec.n".into(),
        },
        crate::kinds::custom::Column {
            name: "Since".into(),
            type_: "date".into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: ".spec.at".into(),
        },
    ];
    let object = json!({"metadata": {"name": "x"}, "spec": {"n": 3, "at": "2026-01-01T11:00:00Z"}});
    let printer = custom::CustomPrinter::new(&columns);
    assert_eq!(printer.cells(&object, NOW.parse().unwrap()), [json!("x"), Value::Null, json!(3), json!("60m")]);
    assert_eq!(custom::CustomPrinter::new(&[]).columns()[1].name, "Age");
}
