//! A client that speaks protobuf, with message types that are not of our making: what it writes is read as JSON, and what was
//! written as JSON it reads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, block_on};
use k8s_pb::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use prost::Message;
use serde_json::{Value, json};
use std::collections::HashMap;

const V1: &str = "resource.k8s.io/v1";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

/// An answer's status code, content type and bytes.
fn send(ns: &Namespace, method: &str, path: &str, media: &str, accept: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let client = ns.wire().client();
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.header("accept", accept).body(kube::client::Body::from(body)).unwrap();
    let (code, kind, bytes) = block_on(async move {
        let response = client.send(request).await.unwrap();
        let kind = response.headers().get("content-type").unwrap().to_str().unwrap().to_owned();
        let code = response.status().as_u16();
        (code, kind, response.into_body().collect_bytes().await.unwrap())
    });
    assert_eq!(kind, accept, "{method} {path}: {code} {}", String::from_utf8_lossy(&bytes));
    (code, bytes.to_vec())
}

/// A request that must succeed, with its answer as JSON.
fn json_of(ns: &Namespace, method: &str, path: &str, media: &str, body: Vec<u8>) -> Value {
    let (code, bytes) = send(ns, method, path, media, JSON, body);
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
    answer
}

/// A request that must succeed, with the message that its answer's envelope holds.
fn message_of(ns: &Namespace, method: &str, path: &str, media: &str, body: Vec<u8>) -> Vec<u8> {
    let (code, bytes) = send(ns, method, path, media, PROTOBUF, body);
    assert!((200..300).contains(&code), "{method} {path}: {code} {}", String::from_utf8_lossy(&bytes));
    let unknown = Unknown::decode(bytes.strip_prefix(MAGIC).expect("an envelope")).unwrap();
    assert_eq!(unknown.type_meta.unwrap().api_version.as_deref(), Some(V1));
    unknown.raw.unwrap()
}

fn envelope(kind: &str, message: &impl Message) -> Vec<u8> {
    let type_meta = Some(TypeMeta { api_version: Some(V1.to_owned()), kind: Some(kind.to_owned()) });
    let unknown = Unknown { type_meta, raw: Some(message.encode_to_vec()), ..Unknown::default() };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

fn named(name: &str) -> Option<ObjectMeta> {
    Some(ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() })
}

/// Writes `spec` as JSON, reads the object as a message, deletes it, writes it once more as that message, and reads it as
/// JSON: the same. Gives the message as it was first read.
fn goes_round<M: Message + Default + PartialEq>(
    ns: &Namespace,
    path: &str,
    kind: &str,
    spec: &Value,
    fresh: fn(M, Option<ObjectMeta>) -> M,
) -> Vec<u8> {
    let name = ns.name.as_str();
    let object = json!({"apiVersion": V1, "kind": kind, "metadata": {"name": name}, "spec": spec});
    let made = json_of(ns, "POST", path, JSON, object.to_string().into_bytes());
    assert_eq!(made["spec"], *spec, "{kind}");
    let one = format!("{path}/{name}");
    let read = message_of(ns, "GET", &one, PROTOBUF, vec![]);
    json_of(ns, "DELETE", &one, JSON, vec![]);
    let sent = fresh(M::decode(&*read).unwrap(), named(name));
    let answered = message_of(ns, "POST", path, PROTOBUF, envelope(kind, &sent));
    assert!(fresh(M::decode(&*answered).unwrap(), named(name)) == sent, "{kind}: the answer is what was sent");
    let found = json_of(ns, "GET", &one, JSON, vec![]);
    let mut known = spec.clone();
    for device in known.get_mut("devices").and_then(Value::as_array_mut).into_iter().flatten() {
        // The client is older than this field.
        device.as_object_mut().unwrap().remove("nodeAllocatableResourceMappings");
    }
    assert_eq!(found["spec"], known, "{kind}");
    json_of(ns, "DELETE", &one, JSON, vec![]);
    read
}

fn selector() -> Value {
    json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "In", "values": ["a", "b"]}],
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["none"]}]}]})
}

fn opaque(driver: &str) -> Value {
    json!({"driver": driver, "parameters": {"apiVersion": "e.com/v1", "kind": "P", "list": [1, null, {"é": 1.5}]}})
}

fn tolerations() -> Value {
    json!([{"key": "e.com/t", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 0},
        {"operator": "Exists", "effect": "NoSchedule"}])
}

fn devices() -> Value {
    let shared = json!({"value": "10Gi", "requestPolicy": {"default": "2Gi", "validRange": {"min": "1Gi", "max": "8Gi", "step": "1Gi"}}});
    let listed = json!({"value": "4", "requestPolicy": {"default": "1", "validValues": ["1", "2"]}});
    json!([
        {"name": "d0", "nodeName": "nowhere", "attributes": {"bool": {"bool": false}, "int": {"int": -9_007_199_254_740_993_i64},
            "e.com/string": {"string": "é"}, "version": {"version": "1.2.3-a+b"}}, "capacity": {"memory": shared, "e.com/cores": listed},
            "allowMultipleAllocations": true, "bindsToNode": true, "bindingConditions": ["a"], "bindingFailureConditions": ["b"],
            "nodeAllocatableResourceMappings": {"cpu": {"capacityKey": "e.com/cores", "allocationMultiplier": "2"}},
            "taints": [{"key": "e.com/t", "value": "v", "effect": "NoSchedule", "timeAdded": "2026-01-02T03:04:05Z"}],
            "consumesCounters": [{"counterSet": "set", "counters": {"c": {"value": "1"}}}]},
        {"name": "d1", "nodeSelector": selector()},
        {"name": "d2", "allNodes": true}
    ])
}

fn pool(slices: u32) -> Value {
    json!({"name": "pool/a", "generation": 7, "resourceSliceCount": slices})
}

/// Of a slice's message the one field that the client's types do not know yet.
#[derive(Clone, PartialEq, Message)]
struct NewSlice {
    #[prost(message, optional, tag = "2")]
    spec: Option<NewSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct NewSpec {
    #[prost(message, repeated, tag = "6")]
    devices: Vec<NewDevice>,
}

#[derive(Clone, PartialEq, Message)]
struct NewDevice {
    #[prost(map = "string, message", tag = "13")]
    mappings: HashMap<String, NewMapping>,
}

#[derive(Clone, PartialEq, Message)]
struct NewMapping {
    #[prost(string, optional, tag = "1")]
    capacity_key: Option<String>,
    #[prost(message, optional, tag = "2")]
    multiplier: Option<NewQuantity>,
}

#[derive(Clone, PartialEq, Message)]
struct NewQuantity {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[test]
fn devices_and_classes_with_every_field_go_round() {
    let ns = Namespace::new("protobuf");
    let driver = format!("{}.example.com", ns.name);
    let spec = json!({"extendedResourceName": format!("e.com/{}", ns.name), "config": [{"opaque": opaque(&driver)}],
        "selectors": [{"cel": {"expression": format!("device.driver == '{driver}'")}}]});
    let fresh = |class: DeviceClass, metadata| DeviceClass { metadata, ..class };
    goes_round(&ns, "/apis/resource.k8s.io/v1/deviceclasses", "DeviceClass", &spec, fresh);

    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let fresh = |slice: ResourceSlice, metadata| ResourceSlice { metadata, ..slice };
    let spec = json!({"driver": driver, "pool": pool(1), "perDeviceNodeSelection": true, "devices": devices()});
    let read = goes_round(&ns, slices, "ResourceSlice", &spec, fresh);
    let found = NewSlice::decode(&*read).unwrap().spec.unwrap().devices;
    let mapping = &found[0].mappings["cpu"];
    assert_eq!(mapping.capacity_key.as_deref(), Some("e.com/cores"));
    assert_eq!(mapping.multiplier.as_ref().and_then(|m| m.text.as_deref()), Some("2"));
    let counters = json!([{"name": "set", "counters": {"c": {"value": "8"}, "d": {"value": "16Gi"}}}]);
    for place in [json!({"nodeName": "nowhere"}), json!({"nodeSelector": selector()}), json!({"allNodes": true})] {
        let mut spec = json!({"driver": driver, "pool": pool(1), "sharedCounters": counters});
        spec.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        goes_round(&ns, slices, "ResourceSlice", &spec, fresh);
    }
}

#[test]
fn claims_with_every_field_go_round() {
    let ns = Namespace::new("protobuf");
    ns.ok(&["label", "namespace", &ns.name, "resource.kubernetes.io/admin-access=true"]);
    let driver = format!("{}.example.com", ns.name);
    let selectors = json!([{"cel": {"expression": "device.driver == 'x'"}}]);
    let request = json!({"deviceClassName": "none", "allocationMode": "ExactCount", "count": 2, "selectors": selectors,
        "tolerations": tolerations(), "capacity": {"requests": {"e.com/memory": "1Gi"}}});
    let mut exactly = request.clone();
    exactly["adminAccess"] = json!(true);
    let (mut first, mut second) = (request.clone(), request);
    first["name"] = json!("a");
    second["name"] = json!("b");
    let spec = json!({"devices": {"requests": [{"name": "one", "exactly": exactly}, {"name": "any", "firstAvailable": [first, second]}],
        "constraints": [{"requests": ["one", "any/a"], "matchAttribute": "e.com/numa"}, {"distinctAttribute": "e.com/id"}],
        "config": [{"requests": ["one"], "opaque": opaque(&driver)}]}});
    let path = format!("/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims", ns.name);
    let fresh = |claim: ResourceClaim, metadata| ResourceClaim { metadata, status: None, ..claim };
    goes_round(&ns, &path, "ResourceClaim", &spec, fresh);

    // Its status, on trial only: a controller takes away what no Pod uses.
    let object = json!({"apiVersion": V1, "kind": "ResourceClaim", "metadata": {"name": "c"}, "spec": spec});
    json_of(&ns, "POST", &path, JSON, object.to_string().into_bytes());
    let share = "11111111-2222-3333-4444-555555555555";
    let device = json!({"driver": driver, "pool": "pool/a", "device": "d0", "shareID": share});
    let mut result = device.clone();
    result.as_object_mut().unwrap().extend(
        json!({"request": "one", "adminAccess": false, "tolerations": tolerations(), "bindingConditions": ["a"],
            "bindingFailureConditions": ["b"], "consumedCapacity": {"e.com/memory": "1Gi"}})
        .as_object()
        .unwrap()
        .clone(),
    );
    let condition = json!({"type": "Ready", "status": "True", "reason": "R", "message": "m", "observedGeneration": 3,
        "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let mut told = device;
    told.as_object_mut().unwrap().extend(
        json!({"conditions": [condition], "data": {"any": ["é", 1]},
            "networkData": {"interfaceName": "eth1", "ips": ["10.0.0.1/24"], "hardwareAddress": "aa:bb:cc:dd:ee:ff"}})
        .as_object()
        .unwrap()
        .clone(),
    );
    let status = json!({"reservedFor": [{"apiGroup": "e.com", "resource": "things", "name": "t", "uid": "u"}], "devices": [told],
        "allocation": {"allocationTimestamp": "2026-01-02T03:04:05Z", "nodeSelector": selector(), "devices": {"results": [result],
            "config": [{"source": "FromClaim", "requests": ["one"], "opaque": opaque(&driver)}]}}});
    let mut object = json_of(&ns, "GET", &format!("{path}/c"), JSON, vec![]);
    object["status"] = status.clone();
    let trial = format!("{path}/c/status?dryRun=All");
    let answered = json_of(&ns, "PUT", &trial, JSON, object.to_string().into_bytes());
    assert_eq!(answered["status"], status);
    let read = message_of(&ns, "PUT", &trial, JSON, object.to_string().into_bytes());
    let claim = ResourceClaim::decode(&*read).unwrap();
    let answered = json_of(&ns, "PUT", &trial, PROTOBUF, envelope("ResourceClaim", &claim));
    assert_eq!(answered["status"], status);
}
