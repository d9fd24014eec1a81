#![allow(clippy::unwrap_used)]
use super::*;
use crate::devices::DeviceId;
use crate::devices::slice::Slice;
use crate::model::PodKey;
use crate::testing::{node, pod, state};
use serde_json::{Value, json};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn slice(s: &mut State, name: &str, pool: (&str, i64, i64), place: Value, devices: Value) {
    let mut spec = json!({"driver": "d", "pool": {"name": pool.0, "generation": pool.1, "resourceSliceCount": pool.2}, "devices": devices});
    spec.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    let slice: resource::ResourceSlice = from(json!({"metadata": {"name": name}, "spec": spec}));
    s.devices.set_slice(name, Some(Slice::new(&slice)));
}

fn on(node: &str) -> Value {
    json!({"nodeName": node})
}

/// Two nodes: `a` with a large and a small device, `b` with a small one, and a class for all of them.
fn cluster() -> State {
    let mut s = state([node("a"), node("b").label("rack", "r1")]);
    slice(
        &mut s,
        "a",
        ("a", 1, 1),
        on("a"),
        json!([
        {"name": "small", "attributes": {"size": {"int": 1}, "bus": {"string": "x"}}},
        {"name": "large", "attributes": {"size": {"int": 9}, "bus": {"string": "y"}}}]),
    );
    slice(
        &mut s,
        "b",
        ("b", 1, 1),
        on("b"),
        json!([{"name": "small", "attributes": {"size": {"int": 1}, "bus": {"string": "x"}}}]),
    );
    let class = |value: Value| claim::Class::new(&from(json!({"metadata": {"name": "x"}, "spec": value})));
    s.devices.set_class("any", Some(class(json!({"selectors": [{"cel": {"expression": "device.driver == 'd'"}}]}))));
    s.devices.set_class("none", Some(class(json!({"selectors": [{"cel": {"expression": "device.driver == 'e'"}}]}))));
    s.devices.set_class(
        "bad",
        Some(class(json!({"selectors": [{"cel": {"expression": "device.attributes['d'].none == 1"}}]}))),
    );
    s
}

fn put(s: &mut State, name: &str, devices: Value, status: Value) {
    let claim: resource::ResourceClaim = from(json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"devices": devices}, "status": status}));
    let claim = Claim::new(&claim);
    let key = claim.key.clone();
    s.devices.set_claim(&key, Some(claim));
}

fn pod_with(claims: &[&str]) -> Arc<PodInfo> {
    let refs: Vec<Value> = claims.iter().map(|c| json!({"name": c, "resourceClaimName": c})).collect();
    pod("p").spec("resourceClaims", json!(refs)).info()
}

/// What a pod with these claims gets on each node: devices in order, or `-`.
fn verdict(s: &mut State, claims: &[&str]) -> Result<String, String> {
    let wants = pod_with(claims);
    let prepared = prepare(&mut s.devices, &wants)?;
    let one = |name: &str| {
        let node = s.node(s.find(name).unwrap());
        match filter(s, &prepared, node) {
            Err(reject) => format!("-{}", reject.detail),
            Ok(()) => {
                let all = bookings(s, &prepared, node);
                let held = all.iter().flat_map(|b| b.allocation.iter().flat_map(|(own, _)| &own.devices));
                held.map(|h| h.id.device.to_string()).collect::<Vec<_>>().join("+")
            }
        }
    };
    let nodes = [one("a"), one("b")].join(" ");
    prepared.broken().map_or(Ok(nodes), Err)
}

fn exactly(more: Value) -> Value {
    let mut request = json!({"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "r", "exactly": request})
}

fn selector(text: &str) -> Value {
    json!([{"cel": {"expression": text}}])
}

#[test]
fn requests() {
    let large = "device.attributes['d'].size > 5";
    for (name, devices, want) in [
        ("one of any", json!({"requests": [exactly(json!({}))]}), Ok("small small")),
        ("a large one", json!({"requests": [exactly(json!({"selectors": selector(large)}))]}), Ok("large -0")),
        ("two", json!({"requests": [exactly(json!({"count": 2}))]}), Ok("small+large -0")),
        ("all", json!({"requests": [exactly(json!({"allocationMode": "All", "count": 0}))]}), Ok("small+large small")),
        (
            "all of none",
            json!({"requests": [exactly(json!({"allocationMode": "All", "deviceClassName": "none"}))]}),
            Ok("-0 -0"),
        ),
        (
            "of no class",
            json!({"requests": [exactly(json!({"deviceClassName": "x"}))]}),
            Err("request r: device class x does not exist"),
        ),
        (
            "of a class that fails",
            json!({"requests": [exactly(json!({"deviceClassName": "bad"}))]}),
            Err("class bad: selector #0 on device d/a/small: CEL runtime error: no such key: none"),
        ),
        (
            "the better first",
            json!({"requests": [{"name": "r", "firstAvailable": [
            {"name": "best", "deviceClassName": "any", "selectors": selector(large)},
            {"name": "good", "deviceClassName": "any"}]}]}),
            Ok("large small"),
        ),
        (
            "going back",
            json!({"requests": [exactly(json!({})),
            {"name": "s", "exactly": {"deviceClassName": "any", "selectors": selector("device.attributes['d'].size < 5")}}]}),
            Ok("large+small -0"),
        ),
        (
            "too many",
            json!({"requests": [exactly(json!({"count": 33}))]}),
            Err("claim default/c: number of requested devices 33 exceeds the claim limit of 32"),
        ),
        ("nothing", json!({}), Ok(" ")),
    ] {
        let mut s = cluster();
        put(&mut s, "c", devices, json!({}));
        assert_eq!(verdict(&mut s, &["c"]), want.map(str::to_owned).map_err(str::to_owned), "{name}");
    }
}

#[test]
fn constraints() {
    let two = |constraint: Value| json!({"requests": [exactly(json!({"count": 2}))], "constraints": [constraint]});
    for (name, devices, want) in [
        ("of one bus", two(json!({"matchAttribute": "d/bus"})), "-0 -0"),
        ("of different buses", two(json!({"distinctAttribute": "d/bus"})), "small+large -0"),
        ("about another request", two(json!({"matchAttribute": "d/bus", "requests": ["x"]})), "small+large -0"),
        ("about this request", two(json!({"matchAttribute": "d/bus", "requests": ["r"]})), "-0 -0"),
        (
            "an attribute that none has",
            json!({"requests": [exactly(json!({}))], "constraints": [{"matchAttribute": "d/none"}]}),
            "-0 -0",
        ),
    ] {
        let mut s = cluster();
        put(&mut s, "c", devices, json!({}));
        assert_eq!(verdict(&mut s, &["c"]).unwrap(), want, "{name}");
    }
}

#[test]
fn what_is_taken_is_taken() {
    let mut s = cluster();
    let any = || json!({"requests": [exactly(json!({}))]});
    let has = |device: &str, node: &str| {
        json!({"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": node, "device": device}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}},
        "reservedFor": [{"resource": "pods", "name": "q", "uid": "q"}]})
    };
    put(&mut s, "other", any(), has("small", "a"));
    put(&mut s, "c", any(), json!({}));
    assert_eq!(verdict(&mut s, &["c"]).unwrap(), "large small");
    put(&mut s, "d", any(), json!({}));
    assert_eq!(verdict(&mut s, &["c", "d"]).unwrap(), "-0 -0", "two claims want two devices");
    assert_eq!(verdict(&mut s, &["other"]).unwrap(), " -1", "what it has is on a");
    put(&mut s, "other", any(), json!({}));
    assert_eq!(verdict(&mut s, &["c", "d"]).unwrap(), "small+large -0", "given back");
    put(
        &mut s,
        "admin",
        json!({"requests": [exactly(json!({"adminAccess": true, "allocationMode": "All"}))]}),
        json!({}),
    );
    put(&mut s, "other", any(), has("small", "a"));
    assert_eq!(verdict(&mut s, &["admin"]).unwrap(), "small+large small", "admins look at what others have");
}

#[test]
fn decisions_count_before_they_are_written() {
    let mut s = cluster();
    let any = json!({"requests": [exactly(json!({}))]});
    for name in ["c", "d"] {
        put(&mut s, name, any.clone(), json!({}));
    }
    let book = |s: &mut State, claim: &str| {
        let prepared = prepare(&mut s.devices, &pod_with(&[claim])).unwrap();
        let all = bookings(s, &prepared, s.node(s.find("b").unwrap()));
        let (own, written) = all[0].allocation.clone().unwrap();
        s.devices.assume(&all[0].claim, own);
        written
    };
    let written = book(&mut s, "c");
    assert_eq!(verdict(&mut s, &["c"]).unwrap_err(), "resource claim default/c is in the process of being allocated");
    assert_eq!(verdict(&mut s, &["d"]).unwrap(), "small -0");
    let key = |name: &str| PodKey { namespace: "default".into(), name: name.into() };
    let taken = |s: &State| s.devices.usage().is_taken(&DeviceId::new("d", "b", "small"));
    // The informer still tells of what was before.
    put(&mut s, "c", any.clone(), json!({}));
    assert!(taken(&s));
    s.devices.forget(&key("c"));
    assert!(!taken(&s), "it could not be written");
    book(&mut s, "c");
    put(&mut s, "c", any.clone(), json!({"allocation": written}));
    assert!(taken(&s));
    put(&mut s, "c", any, json!({}));
    assert!(!taken(&s), "written once and given back once");
}

#[test]
fn pools() {
    let one = json!([{"name": "x"}]);
    for (name, slices, want) in [
        ("a slice is missing", vec![("n", ("n", 1, 2), one.clone())], "-0"),
        ("all are there", vec![("n", ("n", 1, 2), one.clone()), ("m", ("n", 1, 2), json!([{"name": "y"}]))], "y+x"),
        (
            "of an older generation",
            vec![("n", ("n", 2, 1), one.clone()), ("m", ("n", 1, 1), json!([{"name": "y"}]))],
            "-0",
        ),
        ("a name twice", vec![("n", ("n", 1, 2), one.clone()), ("m", ("n", 1, 2), one.clone())], "-0"),
    ] {
        let mut s = cluster();
        s.devices.set_slice("a", None);
        for (slice_name, pool, devices) in slices {
            slice(&mut s, slice_name, pool, on("a"), devices);
        }
        put(&mut s, "c", json!({"requests": [exactly(json!({"count": 2}))]}), json!({}));
        assert_eq!(verdict(&mut s, &["c"]).unwrap().split(' ').next(), Some(want), "{name}");
    }
}

#[test]
fn places() {
    let rack =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["r1"]}]}]});
    for (name, place, devices, want) in [
        ("of nodes with a label", json!({"nodeSelector": rack}), json!([{"name": "x"}]), ("-0 x", Some("rack"))),
        ("of all nodes", json!({"allNodes": true}), json!([{"name": "x"}]), ("x x", None)),
        (
            "of each device's own",
            json!({"perDeviceNodeSelection": true}),
            json!([{"name": "x", "nodeName": "b"}, {"name": "y", "nodeName": "a"}]),
            ("y x", Some("metadata.name")),
        ),
    ] {
        let mut s = cluster();
        s.devices.set_slice("a", None);
        s.devices.set_slice("b", None);
        slice(&mut s, "net", ("net", 1, 1), place, devices);
        put(&mut s, "c", json!({"requests": [exactly(json!({}))]}), json!({}));
        assert_eq!(verdict(&mut s, &["c"]).unwrap(), want.0, "{name}");
        let prepared = prepare(&mut s.devices, &pod_with(&["c"])).unwrap();
        let all = bookings(&s, &prepared, s.node(s.find("b").unwrap()));
        let selector = all[0].allocation.as_ref().unwrap().1.node_selector.clone();
        let key = selector.map(|s| serde_json::to_string(&s).unwrap());
        assert_eq!(
            key.as_deref().map(|k| want.1.is_some_and(|w| k.contains(w))),
            want.1.map(|_| true),
            "{name}: {key:?}"
        );
    }
}

#[test]
fn counters_taints_and_shares() {
    let counters = |n: i64| json!([{"counterSet": "gpu", "counters": {"memory": {"value": format!("{n}Gi")}}}]);
    let mut s = cluster();
    s.devices.set_slice("a", None);
    slice(
        &mut s,
        "sets",
        ("p", 1, 2),
        json!({"nodeName": "a", "sharedCounters": [{"name": "gpu", "counters": {"memory": {"value": "8Gi"}}}]}),
        json!([]),
    );
    slice(
        &mut s,
        "parts",
        ("p", 1, 2),
        on("a"),
        json!([
        {"name": "half", "consumesCounters": counters(4)}, {"name": "half2", "consumesCounters": counters(4)},
        {"name": "whole", "consumesCounters": counters(8)}]),
    );
    for (name, count, want) in [("one", 1, "half"), ("two halves", 2, "half+half2"), ("three", 3, "-0")] {
        put(&mut s, "c", json!({"requests": [exactly(json!({"count": count}))]}), json!({}));
        assert_eq!(verdict(&mut s, &["c"]).unwrap().split(' ').next(), Some(want), "{name}");
    }
    let whole = json!({"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "whole"}]}}});
    put(&mut s, "other", json!({}), whole);
    put(&mut s, "c", json!({"requests": [exactly(json!({}))]}), json!({}));
    assert_eq!(verdict(&mut s, &["c"]).unwrap(), "-0 small", "all counters are taken");

    let taints = json!([{"key": "broken", "value": "fan", "effect": "NoSchedule"}]);
    slice(&mut s, "b", ("b", 1, 1), on("b"), json!([{"name": "small", "taints": taints}]));
    for (name, tolerations, want) in [
        ("a taint", json!([]), "-0"),
        ("tolerated", json!([{"key": "broken", "operator": "Exists"}]), "small"),
        (
            "with its value",
            json!([{"key": "broken", "operator": "Equal", "value": "fan", "effect": "NoSchedule"}]),
            "small",
        ),
        ("another value", json!([{"key": "broken", "operator": "Equal", "value": "x"}]), "-0"),
        ("another effect", json!([{"operator": "Exists", "effect": "NoExecute"}]), "-0"),
    ] {
        put(&mut s, "c", json!({"requests": [exactly(json!({"tolerations": tolerations}))]}), json!({}));
        assert_eq!(verdict(&mut s, &["c"]).unwrap().split(' ').nth(1), Some(want), "{name}");
    }

    slice(
        &mut s,
        "b",
        ("b", 1, 1),
        on("b"),
        json!([{"name": "shared", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "8Gi"}}}]),
    );
    let part = |n: i64| json!({"requests": [exactly(json!({"capacity": {"requests": {"memory": format!("{n}Gi")}}}))]});
    put(&mut s, "c", part(5), json!({}));
    put(&mut s, "d", part(3), json!({}));
    put(&mut s, "e", part(4), json!({}));
    assert_eq!(verdict(&mut s, &["c", "d"]).unwrap(), "-0 shared+shared");
    assert_eq!(verdict(&mut s, &["c", "e"]).unwrap(), "-0 -0");
    let written = json!({"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "b", "device": "shared",
        "shareID": "x", "consumedCapacity": {"memory": "5Gi"}}]}}});
    put(&mut s, "c", part(5), written);
    assert_eq!(
        (verdict(&mut s, &["d"]).unwrap(), verdict(&mut s, &["e"]).unwrap()),
        ("-0 shared".into(), "-0 -0".into())
    );
}

#[test]
fn configurations_are_passed_on() {
    let mut s = cluster();
    let opaque = |x: i32| json!({"driver": "d", "parameters": {"x": x}});
    let class = json!({"metadata": {"name": "any"}, "spec": {"config": [{"opaque": opaque(1)}]}});
    s.devices.set_class("any", Some(claim::Class::new(&from(class))));
    let request = |name: &str| json!({"name": name, "exactly": {"deviceClassName": "any"}});
    put(
        &mut s,
        "c",
        json!({"requests": [request("r"), request("s")], "config": [
        {"opaque": opaque(2)}, {"requests": ["s"], "opaque": opaque(3)}]}),
        json!({}),
    );
    let prepared = prepare(&mut s.devices, &pod_with(&["c"])).unwrap();
    let all = bookings(&s, &prepared, s.node(s.find("a").unwrap()));
    let config = all[0].allocation.as_ref().unwrap().1.devices.as_ref().unwrap().config.clone();
    assert_eq!(
        serde_json::to_value(config).unwrap(),
        json!([
        {"source": "FromClass", "opaque": opaque(1)},
        {"source": "FromClaim", "opaque": opaque(2)},
        {"source": "FromClaim", "requests": ["s"], "opaque": opaque(3)}])
    );
}

#[test]
fn a_claim_that_is_in_the_way_is_given_back() {
    let mut s = cluster();
    let has = |users: Value| {
        json!({"allocation": {"devices": {}, "nodeSelector": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]}}, "reservedFor": users})
    };
    let rejects: Vec<_> = (0..2).map(|id| (id, Reject::hopeless(Plugin::DynamicResources, ELSEWHERE))).collect();
    for (name, users, want) in [
        ("nobody uses it", json!([]), true),
        ("only the pod itself", json!([{"resource": "pods", "name": "p", "uid": "uid-p"}]), true),
        ("another, too", json!([{"resource": "pods", "name": "q", "uid": "uid-q"}]), false),
    ] {
        put(&mut s, "c", json!({}), has(users));
        assert_eq!(to_release(&s, &pod_with(&["c"]), &rejects).is_some(), want, "{name}");
        assert!(to_release(&s, &pod_with(&["c"]), &[]).is_none(), "other plug-ins objected");
    }
}
