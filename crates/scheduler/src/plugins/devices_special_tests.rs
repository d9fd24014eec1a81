//! Extended resources by devices, and conditions before binding.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Profile;
use crate::decide::{Decision, Turn, decide};
use crate::devices::slice::Slice;
use crate::hints::{Event, helps};
use crate::message::message;
use crate::model::PodKey;
use crate::plugins::PluginSet;
use crate::testing::{NodeBuilder, PodBuilder, node, pod, state};
use serde_json::{Value, json};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn class(s: &mut State, name: &str, resource: Value, created: &str) {
    let class = json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"extendedResourceName": resource,
        "selectors": [{"cel": {"expression": format!("device.attributes['d'].kind == '{name}'")}}]}});
    s.devices.set_class(name, Some(Class::new(&from(class))));
}

fn devices(s: &mut State, node: &str, devices: &[Value]) {
    let slice = json!({"metadata": {"name": node}, "spec": {"driver": "d", "nodeName": node, "devices": devices,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
    s.devices.set_slice(node, Some(Slice::new(&from(slice))));
}

fn device(name: &str, kind: &str) -> Value {
    json!({"name": name, "attributes": {"kind": {"string": kind}}})
}

/// Node `a` has two devices of class `gpu` and one of class `net`, `b` has resources of its own, `c` nothing.
fn cluster() -> State {
    let own: NodeBuilder = node("b").scalar("x.io/gpu", 2);
    let mut s = state([node("a"), own, node("c")]);
    class(&mut s, "gpu", json!("x.io/gpu"), "2026-01-01T00:00:00Z");
    class(&mut s, "net", Value::Null, "2026-01-01T00:00:00Z");
    devices(&mut s, "a", &[device("g0", "gpu"), device("g1", "gpu"), device("n0", "net")]);
    s
}

/// Where a pod goes and which devices it gets there, or why it goes nowhere.
fn go(s: &mut State, wants: &PodBuilder) -> Result<(String, Vec<String>), String> {
    let wants = wants.info();
    match decide(s, &Profile::named("x"), &wants, &mut Turn { start: 0, seed: 1 }) {
        Decision::Node { node, bookings, .. } => {
            let held = bookings.iter().flat_map(|b| b.allocation.iter().flat_map(|(own, _)| &own.devices));
            Ok((s.node(node).name.to_string(), held.map(|h| h.id.device.to_string()).collect()))
        }
        Decision::Nowhere(failure) => Err(message(s, &wants, &failure, None)),
    }
}

#[test]
fn devices_stand_in_for_what_nodes_lack() {
    let on = |wants: PodBuilder, node: &str| wants.node_selector("kubernetes.io/hostname", node);
    let net = "deviceclass.resource.kubernetes.io/net";
    for (name, wants, want) in [
        ("devices", on(pod("p").scalar("x.io/gpu", 2), "a"), Ok(("a", vec!["g0", "g1"]))),
        ("the node's own", on(pod("p").scalar("x.io/gpu", 2), "b"), Ok(("b", vec![]))),
        ("by the name of the class", pod("p").scalar(net, 1), Ok(("a", vec!["n0"]))),
        ("of two kinds", pod("p").scalar(net, 1).scalar("x.io/gpu", 1), Ok(("a", vec!["n0", "g0"]))),
        (
            "too many",
            pod("p").scalar("x.io/gpu", 3),
            Err(
                "0/3 nodes are available: 1 Insufficient x.io/gpu, 2 cannot allocate all claims. still not schedulable",
            ),
        ),
        ("of no class", pod("p").scalar("x.io/none", 1), Err("0/3 nodes are available: 3 Insufficient x.io/none.")),
    ] {
        let got = go(&mut cluster(), &wants);
        let want = want
            .map(|(node, held): (&str, Vec<&str>)| (node.to_owned(), held.iter().map(|h| (*h).to_owned()).collect()));
        assert_eq!(got, want.map_err(str::to_owned), "{name}");
    }
}

#[test]
fn what_is_written_of_it() {
    let mut s = cluster();
    let wants = pod("p").scalar("x.io/gpu", 2).scalar("cpu", 1).info();
    let prepared = prepare(&mut s.devices, &wants).unwrap();
    let all = bookings(&s, &prepared, s.node(s.find("a").unwrap()));
    let [one] = &all[..] else { panic!("{all:?}") };
    let special = one.special.as_ref().unwrap();
    let spec = serde_json::to_value(&special.spec).unwrap();
    let request = json!({"name": "container-0-request-1", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}});
    assert_eq!(spec, json!({"devices": {"requests": [request]}}));
    let mappings = serde_json::to_value(&special.mappings).unwrap();
    assert_eq!(
        mappings,
        json!([{"containerName": "c", "resourceName": "x.io/gpu", "requestName": "container-0-request-1"}])
    );
    assert_eq!(one.allocation.as_ref().unwrap().0.devices.len(), 2);
    // What is decided counts as taken until it is written, under the name that no claim has.
    s.devices.assume(&one.claim, one.allocation.as_ref().unwrap().0.clone());
    assert!(go(&mut s, &pod("q").scalar("x.io/gpu", 1).node_selector("kubernetes.io/hostname", "a")).is_err());
    s.devices.forget(&one.claim.key);
    assert!(go(&mut s, &pod("q").scalar("x.io/gpu", 1).node_selector("kubernetes.io/hostname", "a")).is_ok());
}

#[test]
fn the_newest_class_counts_then_the_first_by_name() {
    let mut s = cluster();
    let of = |s: &State| s.devices.class_for("x.io/gpu").map(|c| c.to_string());
    assert_eq!(of(&s).as_deref(), Some("gpu"));
    class(&mut s, "older", json!("x.io/gpu"), "2025-01-01T00:00:00Z");
    assert_eq!(of(&s).as_deref(), Some("gpu"));
    class(&mut s, "newer", json!("x.io/gpu"), "2026-01-02T00:00:00Z");
    assert_eq!(of(&s).as_deref(), Some("newer"));
    class(&mut s, "as-new", json!("x.io/gpu"), "2026-01-02T00:00:00Z");
    assert_eq!(of(&s).as_deref(), Some("as-new"));
    for name in ["as-new", "newer", "gpu", "older"] {
        s.devices.set_class(name, None);
    }
    assert_eq!(of(&s), None);
}

#[test]
fn a_claim_of_an_earlier_attempt_goes_first() {
    let mut s = cluster();
    let left: resource::ResourceClaim = from(
        json!({"metadata": {"name": "p-extended-resources-x", "namespace": "default", "uid": "u",
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]},
        "spec": {"devices": {"requests": [{"name": "container-0-request-0", "exactly": {"deviceClassName": "gpu"}}]}}}),
    );
    let left = Claim::new(&left);
    let key: PodKey = left.key.clone();
    s.devices.set_claim(&key, Some(left));
    let wants = pod("p").scalar("x.io/gpu", 1);
    let text = go(&mut s, &wants).unwrap_err();
    assert!(text.contains("cannot schedule extended resource claim"), "{text}");
    assert_eq!(to_remove(&s, &wants.info()).unwrap().key, key);
    assert!(go(&mut s, &pod("q").scalar("x.io/gpu", 1)).is_ok(), "another pod's");
    assert!(to_remove(&s, &pod("q").scalar("x.io/gpu", 1).info()).is_none());
    assert!(s.devices.set_claim(&key, None), "its going wakes the pod");
    assert!(go(&mut s, &wants).is_ok());
}

#[test]
fn new_classes_and_devices_wake_who_waits() {
    let s = cluster();
    for (name, wants, plugin, want) in [
        ("no node has it", pod("p").scalar("x.io/none", 1), Plugin::NodeResourcesFit, true),
        ("devices were lacking", pod("p").scalar("x.io/gpu", 9), Plugin::DynamicResources, true),
        ("no matter of devices", pod("p").cpu(900_000), Plugin::NodeResourcesFit, false),
    ] {
        let plugins = PluginSet::from_iter([plugin]);
        assert_eq!(helps(&s, &Default::default(), &wants.info(), plugins, Event::Devices), want, "{name}");
    }
}

#[test]
fn the_better_alternative_is_preferred() {
    let mut s = cluster();
    devices(&mut s, "b", &[device("n1", "net")]);
    devices(&mut s, "c", &[device("n2", "net")]);
    let ask = |first: &str, second: &str| {
        let claim: resource::ResourceClaim =
            from(json!({"metadata": {"name": "c", "namespace": "default", "uid": "c"},
            "spec": {"devices": {"requests": [{"name": "r", "firstAvailable": [
                {"name": "one", "deviceClassName": first}, {"name": "two", "deviceClassName": second}]}]}}}));
        Claim::new(&claim)
    };
    let wants = pod("p").spec("resourceClaims", json!([{"name": "c", "resourceClaimName": "c"}]));
    for (first, second, want) in [("gpu", "net", [8, 7, 7]), ("net", "gpu", [8, 8, 8])] {
        let claim = ask(first, second);
        let key = claim.key.clone();
        s.devices.set_claim(&key, Some(claim));
        let prepared = prepare(&mut s.devices, &wants.info()).unwrap();
        assert!(prepared.prefers());
        let of = |name: &str| score(&s, &prepared, s.node(s.find(name).unwrap()));
        assert_eq!(["a", "b", "c"].map(of), want, "{first} before {second}");
    }
    let claim = ask("gpu", "net");
    let key = claim.key.clone();
    s.devices.set_claim(&key, Some(claim));
    // The others would be liked better: they are emptier.
    s.set_pod(pod("q").cpu(500).on("a").info());
    assert_eq!(go(&mut s, &wants).unwrap().0, "a");
}

#[test]
fn a_profile_without_the_plug_in_leaves_it_to_the_node() {
    let mut s = cluster();
    let mut profile = Profile::named("x");
    let mut rules = (*profile.rules).clone();
    rules.off.insert(Plugin::DynamicResources);
    profile.rules = rules.into();
    let wants = pod("p").scalar("x.io/gpu", 1).info();
    let Decision::Node { node, bookings, .. } = decide(&mut s, &profile, &wants, &mut Turn { start: 0, seed: 1 })
    else {
        panic!("b has it itself")
    };
    assert_eq!((&*s.node(node).name, bookings.len()), ("b", 0));
}

fn claim(s: &mut State, status: Value) {
    let claim: resource::ResourceClaim = from(json!({"metadata": {"name": "c", "namespace": "default", "uid": "c"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}, "status": status}));
    let claim = Claim::new(&claim);
    let key = claim.key.clone();
    s.devices.set_claim(&key, Some(claim));
}

#[test]
fn devices_with_conditions_come_last_and_bring_them_along() {
    let mut s = cluster();
    let mut wants_more = device("g9", "gpu");
    for (field, value) in [
        ("bindingConditions", json!(["up"])),
        ("bindingFailureConditions", json!(["broken"])),
        ("bindsToNode", json!(true)),
    ] {
        wants_more[field] = value;
    }
    let early = json!({"metadata": {"name": "early"}, "spec": {"driver": "a", "nodeName": "a", "devices": [wants_more],
        "pool": {"name": "early", "generation": 1, "resourceSliceCount": 1}}});
    s.devices.set_slice("early", Some(Slice::new(&from(early))));
    s.devices.set_class("gpu", Some(Class::new(&from(json!({"metadata": {"name": "gpu"}, "spec": {}})))));
    claim(&mut s, json!({}));
    let wants = pod("p").spec("resourceClaims", json!([{"name": "c", "resourceClaimName": "c"}]));
    assert_eq!(go(&mut s, &wants).unwrap().1, ["g0"], "the simpler one, though another comes before by name");
    devices(&mut s, "a", &[]);
    assert_eq!(go(&mut s, &wants).unwrap().1, ["g9"]);
    let prepared = prepare(&mut s.devices, &wants.info()).unwrap();
    let all = bookings(&s, &prepared, s.node(s.find("a").unwrap()));
    let written = serde_json::to_value(&all[0].allocation.as_ref().unwrap().1).unwrap();
    let result = &written["devices"]["results"][0];
    assert_eq!(
        (&result["bindingConditions"], &result["bindingFailureConditions"]),
        (&json!(["up"]), &json!(["broken"]))
    );
    assert_eq!(written["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["a"]));
}

#[test]
fn devices_that_will_not_be_ready_are_given_back() {
    let mut s = cluster();
    let wants = pod("p").spec("resourceClaims", json!([{"name": "c", "resourceClaimName": "c"}]));
    let has = |broken: &str| {
        json!({"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "a", "device": "g0",
            "bindingConditions": ["up"], "bindingFailureConditions": ["broken"]}]}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}],
            "devices": [{"driver": "d", "pool": "a", "device": "g0", "conditions": [{"type": "broken", "status": broken,
                "reason": "Cable", "message": "cut", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]})
    };
    let rejects: Vec<_> = (0..3).map(|id| (id, Reject::hopeless(Plugin::DynamicResources, ELSEWHERE))).collect();
    claim(&mut s, has("False"));
    assert!(go(&mut s, &wants).is_ok(), "they may come yet");
    assert!(to_release(&s, &wants.info(), &rejects).is_none());
    let known = s.devices.claim(&PodKey { namespace: "default".into(), name: "c".into() }).unwrap().clone();
    s.devices.expire(&known);
    let text = go(&mut s, &wants).unwrap_err();
    assert!(text.contains("3 resourceclaim not available on the node"), "{text}");
    assert!(to_release(&s, &wants.info(), &rejects).is_some(), "too long");
    claim(&mut s, json!({}));
    claim(&mut s, has("False"));
    assert!(go(&mut s, &wants).is_ok(), "others, for which the time begins anew");
    claim(&mut s, has("True"));
    assert!(go(&mut s, &wants).is_err());
    assert!(to_release(&s, &wants.info(), &rejects).is_some(), "failed");
}
