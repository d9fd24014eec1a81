use super::*;
use crate::field::aggregate;
use crate::kinds::KindTable;
use serde_json::json;
use std::sync::Arc;

mod samples;

use samples::samples;

fn kind(group: &str, name: &str) -> Arc<Kind> {
    KindTable::builtin().preferred(group, name).unwrap_or_else(|| panic!("{group} {name}")).clone()
}

/// Merges `patch` into `object`; null removes.
fn merged(mut object: Value, patch: &Value) -> Value {
    json_patch::merge(&mut object, patch);
    object
}

/// The road of a create: defaults, preparation, checks.
fn created(group: &str, name: &str, object: &Value) -> (Value, Vec<FieldError>) {
    let kind = kind(group, name);
    let mut object = object.clone();
    crate::defaults::apply(&kind, &mut object);
    crate::meta::set(&mut object, "uid", "u-1");
    if crate::meta::name(&object).is_empty() && crate::meta::text(&object, "generateName").is_empty() {
        crate::meta::set(&mut object, "name", "x");
    }
    if kind.namespaced {
        crate::meta::set(&mut object, "namespace", "default");
    }
    crate::strategy::prepare_create(&kind, &mut object);
    let errors = create(&kind, &object);
    (object, errors)
}

fn create_text(group: &str, name: &str, object: &Value) -> String {
    let errors = created(group, name, object).1;
    if errors.is_empty() { "ok".into() } else { aggregate(&errors) }
}

/// The road of an update of a stored object.
fn update_text(group: &str, name: &str, sub: &str, old: &Value, patch: &Value) -> String {
    let (mut stored, errors) = created(group, name, old);
    assert_eq!(errors, [], "the old object is not valid");
    crate::meta::set(&mut stored, "resourceVersion", "1");
    let kind = kind(group, name);
    let mut new = merged(stored.clone(), patch);
    crate::defaults::apply(&kind, &mut new);
    crate::strategy::prepare_update(&kind, sub, &mut new, &stored);
    let errors = update_subresource(&kind, sub, &new, &stored);
    if errors.is_empty() { "ok".into() } else { aggregate(&errors) }
}

fn pod() -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn workload() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template()}})
}

fn job() -> Value {
    merged(
        json!({"spec": {"template": template()}}),
        &json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
    )
}

fn service() -> Value {
    json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})
}

fn claim() -> Value {
    json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

#[test]
fn small_objects_are_valid() {
    for (group, name, object) in samples() {
        assert_eq!(create_text(group, name, &object), "ok", "{name}");
        assert_eq!(
            update_text(group, name, "", &object, &json!({"metadata": {"labels": {"new": "label"}}})),
            "ok",
            "{name}"
        );
    }
}

/// Every place in a value, as JSON pointers.
fn places(at: &str, value: &Value, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            places(&format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), value, out);
        }),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| places(&format!("{at}/{i}"), value, out)),
        _ => {}
    }
}

/// Decoding keeps wrong types out, but nothing here may rely on it to stay alive.
#[test]
fn nothing_panics_on_odd_values() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("é/x"),
        json!([]),
        json!([null]),
        json!([{}]),
        json!({}),
        json!({"": ""}),
    ];
    let options = crate::table::Options {
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
        include: Default::default(),
        headers: true,
    };
    for (group, name, object) in samples() {
        let kind = kind(group, name);
        let (valid, _) = created(group, name, &object);
        let mut all = Vec::new();
        places("", &valid, &mut all);
        for place in all.iter().filter(|place| !place.is_empty()) {
            for value in &odd {
                let mut broken = valid.clone();
                *broken.pointer_mut(place).unwrap() = value.clone();
                let mut new = broken.clone();
                crate::defaults::apply(&kind, &mut new);
                crate::strategy::prepare_create(&kind, &mut new);
                create(&kind, &new);
                let mut new = broken.clone();
                for sub in ["", "status", "resize", "ephemeralcontainers"] {
                    crate::strategy::prepare_update(&kind, sub, &mut new, &valid);
                    update_subresource(&kind, sub, &new, &valid);
                    update_subresource(&kind, sub, &valid, &broken);
                }
                crate::table::render(&kind, &[&broken], None, &options);
            }
        }
    }
}

#[test]
fn metadata() {
    let long = "a".repeat(254);
    let cases = [
        (
            json!({"name": "A"}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (json!({"name": long}), &format!("metadata.name: Invalid value: \"{long}\": must be no more than 253 bytes")),
        (json!({"generateName": "x-"}), "metadata.name: Required value: name or generateName is required"),
        (
            json!({"labels": {"a": "b c"}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            json!({"annotations": {"a": "x".repeat(262_144)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (json!({"annotations": {"Example.com/A": ""}}), "ok"),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}),
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ),
        (
            json!({"finalizers": ["orphan", "foregroundDeletion"]}),
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
        ),
    ];
    for (metadata, want) in cases {
        assert_eq!(create_text("", "ConfigMap", &json!({"metadata": metadata})), want);
    }
    let two = json!({"ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "controller": true},
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "2", "controller": true}]});
    assert!(create_text("", "ConfigMap", &json!({"metadata": two})).ends_with(
        "Only one reference can have Controller set to true. Found \"true\" in references for Pod/p and ReplicaSet/r"
    ));
    assert!(create_text("", "Namespace", &json!({"metadata": {"name": "a.b"}})).ends_with("must not contain dots"));
    assert!(
        create_text("", "Service", &merged(service(), &json!({"metadata": {"name": "1A"}})))
            .contains("a lowercase RFC 1123 label")
    );
    // KEP-5311: as any other label.
    assert_eq!(create_text("", "Service", &merged(service(), &json!({"metadata": {"name": "1a"}}))), "ok");
    assert_eq!(
        create_text("rbac.authorization.k8s.io", "ClusterRole", &json!({"metadata": {"name": "system:A b"}})),
        "ok"
    );
}

#[test]
fn metadata_of_updates() {
    let cases = [
        (json!({"metadata": {"uid": "u-2"}}), "metadata.uid: Invalid value: \"u-2\": field is immutable"),
        (
            json!({"metadata": {"resourceVersion": null}}),
            "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
        ),
        (json!({"metadata": {"name": "y"}}), "metadata.name: Invalid value: \"y\": field is immutable"),
        (json!({"metadata": {"generation": 7, "creationTimestamp": "2020-01-01T00:00:00Z"}}), "ok"),
    ];
    for (patch, want) in cases {
        assert_eq!(update_text("", "ConfigMap", "", &json!({}), &patch), want);
    }
    let deleting = json!({"metadata": {"name": "x", "namespace": "n", "resourceVersion": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
    let more = merged(deleting.clone(), &json!({"metadata": {"finalizers": ["a/b", "c/d"]}}));
    assert_eq!(
        aggregate(&update(&kind("", "ConfigMap"), &more, &deleting)),
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
    );
}

fn container(patch: Value) -> Value {
    let base = json!({"name": "c", "image": "i:1"});
    json!({"spec": {"containers": [merged(base, &patch)]}})
}

#[test]
fn containers() {
    let cases = [
        (json!({"spec": {"containers": []}}), "spec.containers: Required value"),
        (
            container(json!({"name": "A_"})),
            "spec.containers[0].name: Invalid value: \"A_\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (container(json!({"image": ""})), "spec.containers[0].image: Required value"),
        (
            container(json!({"image": " i"})),
            "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
        ),
        (
            container(json!({"imagePullPolicy": "Maybe"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            container(json!({"ports": [{"containerPort": 0}]})),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            container(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            container(json!({"ports": [{"containerPort": 1, "protocol": "tcp"}]})),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            container(json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]})),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\"",
        ),
        (
            container(json!({"env": [{"name": "a=b"}]})),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (
            container(
                json!({"env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            ),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            container(json!({"env": [{"name": "a", "valueFrom": {}}]})),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
        (
            container(json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: spec.foo",
        ),
        (
            container(
                json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}]}),
            ),
            "ok",
        ),
        (
            container(json!({"env": [{"name": "a", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "a b"}}}]})),
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            container(json!({"envFrom": [{}]})),
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (
            container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            container(json!({"livenessProbe": {}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            container(json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            container(json!({"livenessProbe": {"exec": {"command": []}}})),
            "spec.containers[0].livenessProbe.exec.command: Required value",
        ),
        (
            container(json!({"readinessProbe": {"tcpSocket": {"port": 0}}})),
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be greater than or equal to 0 and less than terminationGracePeriodSeconds (30). Enable AllowPodLifecycleSleepActionZeroValue feature gate for zero sleep.",
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "-1"}}})),
            "[spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0, spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0]",
        ),
        (
            container(json!({"resources": {"requests": {"pods": "1"}}})),
            "spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for containers",
        ),
        (
            container(json!({"resources": {"requests": {"example.com/gpu": "1"}}})),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            container(json!({"resources": {"limits": {"example.com/gpu": "500m"}}})),
            "[spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer, spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer]",
        ),
        (
            container(json!({"securityContext": {"runAsUser": -1}})),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            container(json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}})),
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
    ];
    for (object, want) in cases {
        assert_eq!(create_text("", "Pod", &object), want);
    }
    let both = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "c", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}});
    assert_eq!(
        create_text("", "Pod", &both),
        "[spec.initContainers[0].name: Duplicate value: \"c\", spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always]"
    );
}

#[test]
fn pod_specs() {
    let cases = [
        (
            json!({"restartPolicy": "Sometimes"}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            json!({"dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["x"]}}),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (json!({"volumes": [{"name": "v", "configMap": {}}]}), "spec.volumes[0].configMap.name: Required value"),
        (json!({"volumes": [{"name": "v"}, {"name": "v"}]}), "spec.volumes[1].name: Duplicate value: \"v\""),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../x"}]}}]}),
            "spec.volumes[0].secret.items[0].path: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "emptyDir": {}}]}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}]}),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"tolerations": [{"operator": "Exists", "value": "x", "key": "k"}]}),
            "spec.tolerations[0].operator: Invalid value: {\"key\":\"k\",\"operator\":\"Exists\",\"value\":\"x\"}: value must be empty when `operator` is 'Exists'",
        ),
        (
            json!({"tolerations": [{"key": "k", "tolerationSeconds": 1}]}),
            "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "podAffinityTerm": {"topologyKey": "k"}}]}}}),
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than 0",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "Kernel..x", "value": "1"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"Kernel..x\": must have at most 253 characters and match regex ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?",
        ),
        (
            json!({"hostAliases": [{"ip": "x"}]}),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"ephemeralContainers": [{"name": "e", "image": "i"}]}),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"nodeName": "n", "schedulingGates": [{"name": "g"}]}),
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (json!({"hostUsers": false, "hostPID": true}), "spec.hostPID: Forbidden: when `hostUsers` is false"),
    ];
    for (spec, want) in cases {
        assert_eq!(create_text("", "Pod", &merged(pod(), &json!({"spec": spec}))), want);
    }
}

#[test]
fn pod_updates() {
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j:2"}]}});
    assert_eq!(update_text("", "Pod", "", &pod(), &image), "ok");
    let hostname = update_text("", "Pod", "", &pod(), &json!({"spec": {"hostname": "h"}}));
    assert!(hostname.starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"), "{hostname}");
    assert!(hostname.contains("hostname: null -> \"h\""));
    assert_eq!(
        update_text("", "Pod", "", &pod(), &json!({"spec": {"containers": []}})),
        "spec.containers: Forbidden: pod updates may not add or remove containers"
    );
    assert_eq!(update_text("", "Pod", "", &pod(), &json!({"spec": {"activeDeadlineSeconds": 5}})), "ok");
    let deadline = merged(pod(), &json!({"spec": {"activeDeadlineSeconds": 5}}));
    assert_eq!(
        update_text("", "Pod", "", &deadline, &json!({"spec": {"activeDeadlineSeconds": 6}})),
        "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"
    );
    let tolerating = merged(pod(), &json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}));
    let added =
        json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]}});
    assert_eq!(update_text("", "Pod", "", &tolerating, &added), "ok");
    assert_eq!(
        update_text("", "Pod", "", &tolerating, &json!({"spec": {"tolerations": []}})),
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    );
    let gated = merged(pod(), &json!({"spec": {"schedulingGates": [{"name": "g"}]}}));
    assert_eq!(
        update_text("", "Pod", "", &gated, &json!({"spec": {"schedulingGates": null, "nodeSelector": {"x": "y"}}})),
        "ok"
    );
    assert_eq!(
        update_text("", "Pod", "", &pod(), &json!({"spec": {"schedulingGates": [{"name": "g"}]}})),
        "spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gates 'g'"
    );
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "targetContainerName": "c"}]}});
    assert_eq!(update_text("", "Pod", "ephemeralcontainers", &pod(), &debug), "ok");
    let burstable = container(json!({"resources": {"requests": {"cpu": "1"}}}));
    let resized = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
    assert_eq!(update_text("", "Pod", "resize", &burstable, &resized), "ok");
    assert_eq!(
        update_text("", "Pod", "resize", &pod(), &resized),
        "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
    );
}

#[test]
fn workloads() {
    let deployment = |patch: Value| create_text("apps", "Deployment", &merged(workload(), &json!({"spec": patch})));
    assert_eq!(
        deployment(json!({"selector": {"matchLabels": {"a": "c"}}})),
        "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
    );
    assert_eq!(deployment(json!({"selector": null})), "spec.selector: Required value");
    assert_eq!(
        deployment(json!({"replicas": -1})),
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
    assert_eq!(
        deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}})),
        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
    );
    assert_eq!(
        deployment(json!({"template": {"spec": {"restartPolicy": "Never"}}})),
        "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""
    );
    assert_eq!(
        update_text(
            "apps",
            "Deployment",
            "",
            &workload(),
            &json!({"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}, "template": {"metadata": {"labels": {"c": "d"}}}}})
        ),
        "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable"
    );
    assert_eq!(
        update_text("apps", "StatefulSet", "", &workload(), &json!({"spec": {"serviceName": "s"}})),
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    );
    assert_eq!(update_text("apps", "StatefulSet", "", &workload(), &json!({"spec": {"replicas": 3}})), "ok");
    assert_eq!(
        create_text("batch", "Job", &json!({"spec": {"template": template()}})),
        "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
    );
    let changed = update_text("batch", "Job", "", &job(), &json!({"spec": {"template": {"spec": {"hostname": "h"}}}}));
    assert!(changed.starts_with("spec.template: Invalid value: {") && changed.ends_with("field is immutable"));
    assert_eq!(update_text("batch", "Job", "", &job(), &json!({"spec": {"parallelism": 5}})), "ok");
    assert_eq!(
        update_text("batch", "Job", "", &job(), &json!({"spec": {"completions": 5}})),
        "spec.completions: Invalid value: 5: field is immutable"
    );
    let indexed = |policy: Value| {
        let patch =
            json!({"spec": {"completionMode": "Indexed", "completions": 5, "successPolicy": {"rules": [policy]}}});
        create_text("batch", "Job", &merged(job(), &patch))
    };
    assert_eq!(indexed(json!({"succeededIndexes": "0-2,4", "succeededCount": 3})), "ok");
    assert_eq!(
        indexed(json!({"succeededIndexes": "3,1"})),
        "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"3,1\": error parsing succeededIndexes: non-increasing order, previous: 3, current: 1"
    );
    assert_eq!(
        create_text("batch", "CronJob", &json!({"spec": {"schedule": "* *", "jobTemplate": job()}})),
        "spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]"
    );
    let zoned = |zone: &str| {
        let spec = json!({"schedule": "* * * * *", "timeZone": zone, "jobTemplate": job()});
        create_text("batch", "CronJob", &json!({ "spec": spec }))
    };
    for zone in ["Europe/Zurich", "America/Argentina/Buenos_Aires", "UTC", "Etc/UTC", "Etc/GMT+5"] {
        assert_eq!(zoned(zone), "ok");
    }
    for zone in ["Mars/Olympus", "europe/zurich", "Europe/Zurich/", "../Europe/Zurich"] {
        let want = format!("spec.timeZone: Invalid value: {zone:?}: unknown time zone {zone}");
        assert_eq!(zoned(zone), want);
    }
    assert!(zoned("local").contains("must be an explicit time zone"));
}

#[test]
fn services_and_endpoints() {
    let make = |patch: Value| create_text("", "Service", &merged(service(), &json!({"spec": patch})));
    assert_eq!(make(json!({"ports": []})), "spec.ports: Required value");
    assert_eq!(
        make(json!({"ports": [{"port": 80}, {"port": 81}]})),
        "[spec.ports[0].name: Required value, spec.ports[1].name: Required value]"
    );
    assert_eq!(
        make(json!({"ports": [{"port": 0}]})),
        "[spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive]"
    );
    assert_eq!(
        make(json!({"type": "Bad", "internalTrafficPolicy": "Cluster"})),
        "spec.type: Unsupported value: \"Bad\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
    );
    assert_eq!(
        make(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
        "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"
    );
    assert_eq!(make(json!({"type": "ExternalName"})), "spec.externalName: Required value");
    assert_eq!(make(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": []})), "ok");
    assert_eq!(
        make(json!({"externalIPs": ["127.0.0.1"]})),
        "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
    );
    let old = merged(service(), &json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}}));
    assert_eq!(
        update_text("", "Service", "", &old, &json!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}})),
        "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"
    );
    assert_eq!(update_text("", "Service", "", &old, &json!({"spec": {"clusterIP": null, "clusterIPs": null}})), "ok");
    assert_eq!(
        create_text(
            "",
            "Endpoints",
            &json!({"subsets": [{"addresses": [{"ip": "169.254.1.1"}], "ports": [{"port": 1}]}]})
        ),
        "subsets[0].addresses[0].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    );
}

#[test]
fn data_and_storage() {
    assert!(
        create_text("", "ConfigMap", &json!({"data": {"a/b": ""}}))
            .starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key")
    );
    let frozen = json!({"immutable": true, "data": {"a": "b"}});
    assert_eq!(
        update_text("", "ConfigMap", "", &frozen, &json!({"data": {"a": "c"}})),
        "data: Forbidden: field is immutable when `immutable` is set"
    );
    assert_eq!(
        update_text("", "Secret", "", &json!({}), &json!({"type": "x/y"})),
        "type: Invalid value: \"x/y\": field is immutable"
    );
    assert_eq!(
        create_text("", "Secret", &json!({"type": "kubernetes.io/tls"})),
        "[data[tls.crt]: Required value, data[tls.key]: Required value]"
    );
    assert_eq!(
        create_text("", "PersistentVolumeClaim", &json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}})),
        "spec.accessModes: Required value: at least 1 access mode is required"
    );
    assert_eq!(
        create_text("", "PersistentVolumeClaim", &json!({"spec": {"accessModes": ["ReadWriteOnce"]}})),
        "spec.resources[storage]: Required value"
    );
    assert_eq!(
        update_text(
            "",
            "PersistentVolumeClaim",
            "",
            &claim(),
            &json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
        ),
        "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
    );
    assert_eq!(update_text("", "PersistentVolumeClaim", "", &claim(), &json!({"spec": {"volumeName": "v"}})), "ok");
    assert_eq!(
        update_text(
            "storage.k8s.io",
            "StorageClass",
            "",
            &json!({"provisioner": "a/b"}),
            &json!({"provisioner": "c/d"})
        ),
        "provisioner: Forbidden: updates to provisioner are forbidden."
    );
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "a"}});
    assert_eq!(
        update_text(
            "rbac.authorization.k8s.io",
            "ClusterRoleBinding",
            "",
            &binding,
            &json!({"roleRef": {"name": "b"}})
        ),
        "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"b\"}: cannot change roleRef"
    );
}

#[test]
fn others() {
    assert_eq!(
        create_text("networking.k8s.io", "Ingress", &json!({})),
        "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"
    );
    assert_eq!(
        create_text("policy", "PodDisruptionBudget", &json!({"spec": {"minAvailable": "120%"}})),
        "spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%"
    );
    assert_eq!(
        create_text("scheduling.k8s.io", "PriorityClass", &json!({"value": 2_000_000_000})),
        "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
    );
    assert_eq!(
        update_text("scheduling.k8s.io", "PriorityClass", "", &json!({"value": 1}), &json!({"value": 2})),
        "value: Forbidden: may not be changed in an update."
    );
    assert_eq!(
        create_text(
            "networking.k8s.io",
            "NetworkPolicy",
            &json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}})
        ),
        "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `10.0.0.0/8`"
    );
    let hook = json!({"webhooks": [{"name": "a", "sideEffects": "Some", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "http://x"}}]});
    assert_eq!(
        create_text("admissionregistration.k8s.io", "MutatingWebhookConfiguration", &hook),
        "[webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots, webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\", webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]]"
    );
    assert_eq!(binding(&json!({"target": {}})).len(), 1);
}

/// KEP-4858: what is ambiguous is refused, and stays where it is stored.
#[test]
fn ambiguous_addresses_and_networks() {
    let kind = kind("networking.k8s.io", "NetworkPolicy");
    let policy = |cidr: &str| {
        let peer = json!({"ipBlock": {"cidr": cidr, "except": ["10.1.0.0/16"]}});
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "1"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [peer]}]}})
    };
    let (good, stored) = (policy("10.0.0.0/8"), policy("10.0.0.1/8"));
    assert_eq!(update(&kind, &policy("10.0.0.0/9"), &good), []);
    assert_eq!(update(&kind, &stored, &stored), []);
    for (old, new) in [(&good, &stored), (&stored, &policy("10.0.0.2/8"))] {
        let said = aggregate(&update(&kind, new, old));
        assert!(said.contains("cidr") && said.contains("bits set beyond the prefix length"), "{said}");
    }
    let mut service = service();
    service["spec"]["externalIPs"] = json!(["::ffff:1.2.3.4"]);
    let said = create_text("", "Service", &service);
    assert!(said.contains("spec.externalIPs[0]") && said.contains("IPv4-mapped"), "{said}");
}
