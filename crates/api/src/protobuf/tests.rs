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

/// The pod above as upstream's message definitions encode it (through prost, from the published `.proto` files).
fn oracle() -> Vec<u8> {
    use base64::Engine;
    let text: String = include_str!("pod.base64").lines().collect();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn we_read_what_the_oracle_writes() {
    let mut out = wire::Writer::default();
    out.raw(&MAGIC);
    out.message(1, |out| {
        out.bytes(1, b"v1");
        out.bytes(2, b"Pod");
    });
    out.bytes(2, &oracle());
    assert_eq!(decode(&schema("core.v1.Pod"), &out.into_bytes()).unwrap(), pod());
}

/// Fields of a message by number, nested messages taken apart as far as they are messages of ours.
fn numbers(node: crate::schema::Node<'_>, prefix: &[u8], bytes: &[u8], out: &mut Vec<(String, Vec<u8>)>) {
    use crate::schema::Type;
    let mut reader = wire::Reader::new(bytes);
    while let Some((number, field)) = reader.next().unwrap() {
        let path = [prefix, &[number as u8]].concat();
        let place = format!("{} {path:?}", node.type_name());
        let found = node.proto_fields().find(|(_, _, p)| p.starts_with(&path));
        match (found, field) {
            (Some((_, _, p)), wire::Field::Bytes(inner)) if p.get(path.len()).is_some_and(|n| *n != 0) => {
                numbers(node, &path, inner, out);
            }
            (Some((_, child, _)), wire::Field::Bytes(inner)) => {
                let child = if child.ty() == Type::List { child.element().unwrap() } else { child };
                match child.ty() {
                    Type::Object => numbers(child, &[], inner, out),
                    _ => out.push((place, inner.to_vec())),
                }
            }
            (Some(_), wire::Field::Varint(number)) => out.push((place, number.to_le_bytes().to_vec())),
            (None, _) => panic!("the oracle has a field that the table has not: {place}"),
            _ => {}
        }
    }
    out.sort();
}

#[test]
fn we_write_what_the_oracle_writes() {
    let bytes = encode(&schema("core.v1.Pod"), &pod()).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let schema = schema("core.v1.Pod");
    numbers(schema.root(), &[], open(&bytes).unwrap().raw, &mut ours);
    numbers(schema.root(), &[], &oracle(), &mut theirs);
    let only = |some: &[(String, Vec<u8>)], others: &[(String, Vec<u8>)]| -> Vec<_> {
        some.iter().filter(|field| !others.contains(field)).cloned().collect()
    };
    // The value of the empty label may be written or left out; Go writes it, as we do.
    let label = |bytes: &[u8]| vec![("meta.v1.ObjectMeta [11]".to_owned(), bytes.to_vec())];
    assert_eq!(only(&ours, &theirs), label(&[10, 1, b'c', 18, 0]));
    assert_eq!(only(&theirs, &ours), label(&[10, 1, b'c']));
    assert!(ours.len() > 40, "{}", ours.len());
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

/// Every field that can be set survives on its own: no number is shared, none is missing but the listed.
#[test]
fn every_field_of_every_type_has_its_own_number() {
    let mut without = Vec::new();
    let mut fields = 0;
    for name in type_names() {
        let mut seen = std::collections::HashSet::new();
        let schema = schema(name);
        let is_kind = schema.root().field("metadata").is_some();
        for (field, _, path) in schema.root().proto_fields() {
            if is_kind && matches!(field, "kind" | "apiVersion") {
                continue;
            }
            match path[0] {
                0 => without.push(format!("{name}.{field}")),
                _ => assert!(seen.insert(path), "{name}.{field} {path:?}"),
            }
            fields += 1;
        }
    }
    // What 1.36 added in alpha, and documents that never travel as protobuf.
    let expected = |field: &str| {
        [
            "scheduling.v1alpha2.",
            "machinery.version.",
            "resource.",
            "meta.v1.API",
            "meta.v1.ShardInfo",
            "meta.v1.DeleteOptions",
            // Served as JSON only.
            "metrics.v1beta1.",
        ]
        .iter()
        .any(|prefix| field.starts_with(prefix))
            || [
                "certificates.v1beta1.PodCertificateRequestSpec.stubPKCS10Request",
                "core.v1.ImageVolumeStatus.",
                "core.v1.NodeAllocatableResourceClaimStatus.",
                "core.v1.PodSchedulingGroup.",
                "core.v1.PodSpec.schedulingGroup",
                "core.v1.PodStatus.nodeAllocatableResourceClaimStatuses",
                "core.v1.ResourceHealth.message",
                "core.v1.VolumeMountStatus.volumeStatus",
                "core.v1.VolumeStatus.",
                "meta.v1.ListMeta.shardInfo",
                "storage.v1.CSIDriverSpec.preventPodSchedulingIfMissing",
            ]
            .iter()
            .any(|known| field.starts_with(known))
    };
    without.retain(|field| !expected(field));
    without.sort();
    assert_eq!(without, Vec::<String>::new());
    println!("{fields} fields");
}

/// A value with every field set that has a number, structs down to a depth.
fn sample(node: crate::schema::Node<'_>, depth: usize) -> Value {
    use crate::schema::Type;
    let element = || node.element().map(|e| sample(e, depth + 1)).unwrap_or_default();
    match node.ty() {
        Type::Object if depth > 4 => json!({}),
        Type::Object => node
            .proto_fields()
            .filter(|(_, _, path)| path[0] != 0)
            .map(|(name, child, _)| (name.to_owned(), sample(child, depth + 1)))
            .collect(),
        Type::List => json!([element(), element()]),
        Type::Map => json!({"k": element(), "l": element()}),
        Type::String => json!("é"),
        Type::Bytes => json!("AAEC/w=="),
        Type::Bool => json!(true),
        Type::Int32 => json!(-7),
        Type::Int64 => json!(1_i64 << 40),
        Type::Double => json!(1.5),
        Type::Quantity => json!("12Mi"),
        Type::IntOrString => json!(-3),
        Type::Time => json!("2026-01-02T03:04:05Z"),
        Type::MicroTime => json!("2026-01-02T03:04:05.000007Z"),
        Type::Raw | Type::Fields | Type::Json => json!({"a": [1, null]}),
        Type::PropsOrBool => json!(false),
        Type::PropsOrArray => json!([{"type": "string"}]),
        Type::PropsOrStrings => json!(["a"]),
    }
}

#[test]
fn every_field_of_every_type_survives() {
    let mut types = 0;
    for name in type_names() {
        let schema = schema(name);
        let value = sample(schema.root(), 0);
        let mut out = wire::Writer::default();
        encode::message(schema.root(), &value, &mut out).unwrap_or_else(|e| panic!("{name}: {e}"));
        let back = decode::message(&schema, &out.into_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(Value::Object(back), value, "{name}");
        types += 1;
    }
    assert!(types > 700, "{types}");
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
