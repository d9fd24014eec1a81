#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::schema::type_names;

fn schema(name: &str) -> Schema {
    Schema::builtin(name).unwrap()
}

fn round_trip(name: &str, value: &Value) -> Value {
    decode(&schema(name), &encode(&schema(name), value).unwrap()).unwrap()
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "d", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2026-01-02T03:04:05Z",
            "generation": 3, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": false}],
            "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {}}, "time": "2026-01-02T03:04:05Z"}]},
        "spec": {"containers": [{"name": "c", "image": "i", "command": ["sh", "-c"], "tty": true,
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5, "terminationGracePeriodSeconds": 0},
                "readinessProbe": {"tcpSocket": {"port": 80}}}],
            "ephemeralContainers": [{"name": "e", "targetContainerName": "c", "image": "x"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "cm", "defaultMode": 420}}],
            "terminationGracePeriodSeconds": 0, "nodeSelector": {"k": "v"}, "hostNetwork": true,
            "securityContext": {"runAsUser": 0, "supplementalGroups": [1, 2]}},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}})
}

#[test]
fn values_survive() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
            "template": {"metadata": {}, "spec": {"containers": []}}}, "status": {}});
    let mut want = deployment.clone();
    // An empty list cannot be said.
    want["spec"]["template"]["spec"] = json!({});
    assert_eq!(round_trip("apps.v1.Deployment", &deployment), want);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"k": "AAEC"}, "type": "Opaque"});
    assert_eq!(round_trip("core.v1.Secret", &secret), secret);
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {}, "spec": {"storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}, "status": {}});
    assert_eq!(round_trip("core.v1.PersistentVolumeClaim", &claim), claim);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": {"holderIdentity": "", "renewTime": "2026-01-02T03:04:05.000006Z"}});
    assert_eq!(round_trip("coordination.v1.Lease", &lease), lease);
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {}, "data": {"any": [1, null]}, "revision": -2});
    assert_eq!(round_trip("apps.v1.ControllerRevision", &revision), revision);
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": {"extra": {"k": ["a", "b"]}, "user": "u"}, "status": {"allowed": false}});
    assert_eq!(round_trip("authorization.v1.SubjectAccessReview", &review), review);
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404, "reason": "NotFound",
        "details": {"name": "x", "causes": [{"reason": "r", "field": "f", "message": "m"}]}});
    assert_eq!(round_trip("meta.v1.Status", &status), status);
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}, "spec": {}, "status": {}}]});
    assert_eq!(round_trip("core.v1.PodList", &list), list);
    let partial = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"}});
    assert_eq!(round_trip("meta.v1.PartialObjectMetadata", &partial), partial);
}

#[test]
fn definitions_with_their_odd_schemas_survive() {
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a"},
        "spec": {"group": "e.com", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"},
                "x-kubernetes-list-type": "set", "default": ["x"], "enum": [["x"]]}, "b": {"additionalProperties": true}, "c": {"additionalProperties": {"type": "integer", "minimum": 1.5}},
                "d": {"x-kubernetes-preserve-unknown-fields": true, "maxLength": 0}}}}}]}, "status": {"conditions": [], "acceptedNames": {"plural": "as", "kind": "A"}}});
    let mut want = definition.clone();
    want["status"].as_object_mut().unwrap().remove("conditions");
    assert_eq!(round_trip("apiextensions.v1.CustomResourceDefinition", &definition), want);
}

#[test]
fn watch_frames_are_length_delimited() {
    let object = encode(&schema("core.v1.Pod"), &pod()).unwrap();
    let frame = watch_frame("ADDED", &object);
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 4);
    let mut event = wire::Reader::new(&frame[4..]);
    assert_eq!(event.next().unwrap().unwrap(), (1, wire::Field::Bytes(b"ADDED")));
    let (number, wire::Field::Bytes(raw)) = event.next().unwrap().unwrap() else { panic!("no object") };
    assert_eq!((number, wire::Reader::new(raw).next().unwrap().unwrap()), (2, (1, wire::Field::Bytes(&object))));
}

#[test]
fn broken_messages_are_errors_not_panics() {
    let good = encode(&schema("core.v1.Pod"), &pod()).unwrap();
    assert_eq!(decode(&schema("core.v1.Pod"), b"{}"), Err(ProtoError::Magic));
    for length in 4..good.len() {
        // Cut anywhere: an error or a shorter object, never more.
        let _ = decode(&schema("core.v1.Pod"), &good[..length]);
    }
    let mut flipped = good.clone();
    for (at, byte) in good.iter().enumerate().skip(4) {
        flipped[at] = !byte;
        let _ = decode(&schema("core.v1.Pod"), &flipped);
        flipped[at] = *byte;
    }
    let mut deep = Vec::new();
    for _ in 0..300 {
        let mut out = wire::Writer::default();
        out.bytes(27, &deep);
        deep = out.into_bytes();
    }
    let nested = decode::message(&schema("apiextensions.v1.JSONSchemaProps"), &deep);
    assert!(matches!(nested, Err(ProtoError::TooDeep(_)) | Ok(_)));
    let open = Schema::open();
    assert!(matches!(encode(&open, &json!({"kind": "X"})), Err(ProtoError::NoForm(_))));
    let misfit = encode(&schema("core.v1.Pod"), &json!({"spec": {"nodeName": 7}}));
    assert!(matches!(misfit, Err(ProtoError::Content { .. })), "{misfit:?}");
}

/// No number is shared, and none is missing.
#[test]
fn every_field_of_every_type_has_its_own_number() {
    let mut without = Vec::new();
    let mut fields = 0;
    for name in type_names() {
        let mut seen = std::collections::HashSet::new();
        let schema = schema(name);
        let names_itself = ["kind", "apiVersion"].map(|f| schema.root().proto_field(f).map(|(_, path)| path[0]));
        for (field, _, path) in schema.root().proto_fields() {
            // Of kinds these are in the envelope.
            if names_itself == [Some(0), Some(0)] && matches!(field, "kind" | "apiVersion") {
                continue;
            }
            match path[0] {
                0 => without.push(format!("{name}.{field}")),
                _ => assert!(seen.insert(path), "{name}.{field} {path:?}"),
            }
            fields += 1;
        }
    }
    // The version of the program is told as JSON only.
    without.retain(|field| !field.starts_with("machinery.version."));
    without.sort();
    assert_eq!(without, Vec::<String>::new());
    println!("{fields} fields");
}

/// What is unset and what is zero are told apart as Go tells them: zero of a field held by value is unset.
#[test]
fn zero_is_unset_only_where_go_holds_values() {
    let probe = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": [{"name": "", "tty": false, "image": ""}],
        "terminationGracePeriodSeconds": 0, "hostNetwork": false, "automountServiceAccountToken": false, "nodeName": ""}, "status": {}});
    let want = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": [{"name": ""}],
        "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false}, "status": {}});
    assert_eq!(round_trip("core.v1.Pod", &probe), want);
}
