#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;

/// The first error, as `field: message`; empty when there is none.
fn first(check: impl Fn(&mut Out)) -> String {
    let mut out = Vec::new();
    check(&mut out);
    out.first().map(|e: &FieldError| format!("{}: {}", e.field, e.body())).unwrap_or_default()
}

fn table(rows: &[(&str, Value, &str)], check: fn(&mut Out, &Value)) {
    for (name, object, want) in rows {
        let got = first(|out| check(out, object));
        assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{name}: {got}");
    }
}

fn exactly(more: Value) -> Value {
    let mut one = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
    one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "r", "exactly": one})
}

fn spec(devices: Value) -> Value {
    json!({"spec": {"devices": devices}})
}

#[test]
fn claims() {
    let one = |more: Value| spec(json!({"requests": [exactly(more)]}));
    let with = |field: &str, value: Value| {
        let mut devices = json!({"requests": [exactly(json!({})), {"name": "s", "firstAvailable": [
            {"name": "a", "deviceClassName": "c", "allocationMode": "All"}]}]});
        devices[field] = value;
        spec(devices)
    };
    let opaque = json!({"driver": "d.example", "parameters": {"a": 1}});
    table(
        &[
            ("plain", one(json!({})), ""),
            ("no class", one(json!({"deviceClassName": ""})), "exactly.deviceClassName: Required"),
            ("no count", one(json!({"count": 0})), "count: Invalid value: 0: must be greater than 0"),
            (
                "all and a count",
                one(json!({"allocationMode": "All"})),
                "must not be specified when allocationMode is 'All'",
            ),
            ("another mode", one(json!({"allocationMode": "Some"})), "allocationMode: Unsupported value"),
            (
                "no expression",
                one(json!({"selectors": [{"cel": {"expression": ""}}]})),
                "selectors[0].cel.expression: Required",
            ),
            ("no selector", one(json!({"selectors": [{}]})), "selectors[0].cel: Required"),
            (
                "both kinds",
                spec(json!({"requests": [{"name": "r", "exactly": {}, "firstAvailable": [{}]}]})),
                "but multiple fields are set",
            ),
            (
                "neither",
                spec(json!({"requests": [{"name": "r"}]})),
                "exactly one of `exactly` or `firstAvailable` is required",
            ),
            (
                "a name twice",
                spec(json!({"requests": [exactly(json!({})), exactly(json!({}))]})),
                "requests[1].name: Duplicate",
            ),
            (
                "a bad name",
                spec(json!({"requests": [{"name": "R", "exactly": exactly(json!({}))["exactly"]}]})),
                "requests[0].name: Invalid",
            ),
            ("33 requests", spec(json!({"requests": vec![exactly(json!({})); 33]})), "must have at most 32 items"),
            ("a toleration", one(json!({"tolerations": [{"key": "k", "operator": "Exists"}]})), ""),
            ("of everything", one(json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]})), ""),
            (
                "of no key",
                one(json!({"tolerations": [{"operator": "Equal", "value": "x"}]})),
                "operator must be Exists when `key` is empty",
            ),
            (
                "with a useless value",
                one(json!({"tolerations": [{"key": "k", "operator": "Exists", "value": "x"}]})),
                "must be empty for operator `Exists`",
            ),
            (
                "with an unknown effect",
                one(json!({"tolerations": [{"key": "k", "operator": "Exists", "effect": "No"}]})),
                "effect: Unsupported",
            ),
            (
                "admin in an alternative",
                spec(
                    json!({"requests": [{"name": "r", "firstAvailable": [{"name": "a", "deviceClassName": "c", "allocationMode": "All", "adminAccess": true}]}]}),
                ),
                "not allowed in subrequests",
            ),
            (
                "a constraint",
                with("constraints", json!([{"matchAttribute": "d.example/x", "requests": ["r", "s/a"]}])),
                "",
            ),
            ("of no attribute", with("constraints", json!([{"requests": ["r"]}])), "constraints[0]: Required"),
            ("without a domain", with("constraints", json!([{"matchAttribute": "x"}])), "must include a domain"),
            (
                "of an unknown request",
                with("constraints", json!([{"distinctAttribute": "d/x", "requests": ["s/b"]}])),
                "must be the name of a request in the claim",
            ),
            ("a configuration", with("config", json!([{"requests": ["s"], "opaque": opaque}])), ""),
            ("of nothing", with("config", json!([{}])), "config[0].opaque: Required"),
            (
                "that is no object",
                with("config", json!([{"opaque": {"driver": "d", "parameters": [1]}}])),
                "must be a JSON object",
            ),
            (
                "that is too long",
                with("config", json!([{"opaque": {"driver": "d", "parameters": {"a": "x".repeat(10_240)}}}])),
                "Too long",
            ),
        ],
        claim,
    );
}

#[test]
fn classes() {
    let of = |name: &str| json!({"spec": {"extendedResourceName": name}});
    table(
        &[
            ("a resource", of("example.com/gpu"), ""),
            ("of kubernetes", of("kubernetes.io/gpu"), "must be a valid extended resource name"),
            ("without a domain", of("gpu"), "must be a valid extended resource name"),
            (
                "a configuration of nobody",
                json!({"spec": {"config": [{"opaque": {"parameters": {}}}]}}),
                "opaque.driver: Required",
            ),
        ],
        class,
    );
}

#[test]
fn slices() {
    let of = |more: Value| {
        let mut spec = json!({"driver": "d.example", "nodeName": "n", "pool": {"name": "p/q", "resourceSliceCount": 1, "generation": 0}});
        for (key, value) in more.as_object().unwrap() {
            if value.is_null() { drop(spec.as_object_mut().unwrap().remove(key)) } else { spec[key] = value.clone() }
        }
        json!({"spec": spec})
    };
    let device = |more: Value| {
        let mut one = json!({"name": "x"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(json!({"devices": [one]}))
    };
    let shared = |policy: Value| {
        device(json!({"allowMultipleAllocations": true, "capacity": {"m": {"value": "8Gi", "requestPolicy": policy}}}))
    };
    let terms = |n: usize| vec![json!({"matchExpressions": [{"key": "k", "operator": "Exists"}]}); n];
    table(
        &[
            ("plain", of(json!({})), ""),
            ("no place", of(json!({"nodeName": null})), "exactly one of `nodeName`"),
            ("two places", of(json!({"allNodes": true})), "but multiple fields are set"),
            ("all but not all", of(json!({"allNodes": false})), "must be either unset or set to true"),
            (
                "two terms",
                of(json!({"nodeName": null, "nodeSelector": {"nodeSelectorTerms": terms(2)}})),
                "must have exactly one node selector term",
            ),
            ("one term", of(json!({"nodeName": null, "nodeSelector": {"nodeSelectorTerms": terms(1)}})), ""),
            ("no slices", of(json!({"pool": {"name": "p", "resourceSliceCount": 0}})), "must be greater than 0"),
            ("a pool of nothing", of(json!({"pool": {"name": "p//q", "resourceSliceCount": 1}})), "pool.name: Invalid"),
            (
                "devices and counters",
                of(json!({"devices": [], "sharedCounters": []})),
                "only one of `sharedCounters` or `devices`",
            ),
            (
                "129 devices",
                of(json!({"devices": (0..129).map(|i| json!({"name": format!("d{i}")})).collect::<Vec<_>>()})),
                "must have at most 128 items",
            ),
            (
                "an attribute of nothing",
                device(json!({"attributes": {"a": {}}})),
                "exactly one value must be specified",
            ),
            (
                "an attribute of two",
                device(json!({"attributes": {"a": {"int": 1, "bool": true}}})),
                "exactly one value must be specified",
            ),
            ("a version", device(json!({"attributes": {"d.example/v": {"version": "1.2.3-rc.1+b"}}})), ""),
            ("no version", device(json!({"attributes": {"v": {"version": "1.02.3"}}})), "semver.org"),
            ("a long text", device(json!({"attributes": {"t": {"string": "x".repeat(65)}}})), "Too long"),
            ("a bad name", device(json!({"attributes": {"a-b": {"int": 1}}})), "C identifier"),
            ("a long domain", device(json!({"attributes": {format!("{}/a", "d".repeat(64)): {"int": 1}}})), "Too long"),
            (
                "33 properties",
                device(
                    json!({"attributes": (0..33).map(|i| (format!("a{i}"), json!({"int": i}))).collect::<serde_json::Map<_, _>>()}),
                ),
                "must not exceed 32",
            ),
            ("a taint", device(json!({"taints": [{"key": "k", "effect": "NoExecute"}]})), ""),
            ("a taint without effect", device(json!({"taints": [{"key": "k"}]})), "taints[0].effect: Required"),
            ("an unknown effect", device(json!({"taints": [{"key": "k", "effect": "X"}]})), "effect: Unsupported"),
            ("an own place", device(json!({"allNodes": true})), "can only be set if `perDeviceNodeSelection`"),
            (
                "no own place",
                of(json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": [{"name": "x"}]})),
                "when `perDeviceNodeSelection` is set",
            ),
            ("counters", of(json!({"sharedCounters": [{"name": "s", "counters": {"m": {"value": "1"}}}]})), ""),
            ("no counters", of(json!({"sharedCounters": [{"name": "s"}]})), "counters: Required"),
            (
                "consumption",
                device(json!({"consumesCounters": [{"counterSet": "s", "counters": {"m": {"value": "1"}}}]})),
                "",
            ),
            (
                "of no set",
                device(json!({"consumesCounters": [{"counters": {"m": {"value": "1"}}}]})),
                "counterSet: Required",
            ),
            (
                "a policy for one",
                device(json!({"capacity": {"m": {"value": "1", "requestPolicy": {"default": "1"}}}})),
                "allowMultipleAllocations must be true",
            ),
            (
                "a range",
                shared(json!({"default": "2Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}})),
                "",
            ),
            ("no default", shared(json!({"validRange": {"min": "1Gi"}})), "default: Required"),
            (
                "a default between steps",
                shared(json!({"default": "1500Mi", "validRange": {"min": "1Gi", "step": "1Gi"}})),
                "not valid according to the requestPolicy",
            ),
            ("more than all", shared(json!({"default": "9Gi"})), "exceeds the capacity value 8Gi"),
            (
                "two policies",
                shared(json!({"default": "1Gi", "validRange": {"min": "1Gi"}, "validValues": ["1Gi"]})),
                "exactly one policy",
            ),
        ],
        slice,
    );
    let moved = of(json!({"nodeName": "other"}));
    assert!(first(|out| slice_update(out, &moved, &of(json!({})))).contains("field is immutable"));
}

#[test]
fn statuses() {
    let claim = |status: Value| json!({"metadata": {}, "spec": {"devices": {"requests": [exactly(json!({}))]}}, "status": status});
    let result = |more: Value| {
        let mut one = json!({"request": "r", "driver": "d.example", "pool": "p", "device": "x"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"allocation": {"devices": {"results": [one]}}})
    };
    let user = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
    let reserved = |users: Vec<Value>| {
        let mut status = result(json!({}));
        status["reservedFor"] = json!(users);
        claim(status)
    };
    let told = |device: &str| {
        let mut status = result(json!({}));
        status["devices"] = json!([{"driver": "d.example", "pool": "p", "device": device}]);
        claim(status)
    };
    let none = || claim(json!({}));
    let mut dying = reserved(vec![user("1")]);
    dying["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (name, new, old, want) in [
        ("devices", claim(result(json!({}))), none(), ""),
        ("of no request", claim(result(json!({"request": "x"}))), none(), "must be the name of a request"),
        ("of no pool", claim(result(json!({"pool": ""}))), none(), "results[0].pool: Required"),
        ("a share", claim(result(json!({"shareID": "00000000-0000-4000-8000-00000000000a"}))), none(), ""),
        ("a bad share", claim(result(json!({"shareID": "X"}))), none(), "RFC 4122"),
        ("other devices", claim(result(json!({"device": "y"}))), claim(result(json!({}))), "field is immutable"),
        ("given back", none(), claim(result(json!({}))), ""),
        ("users", reserved(vec![user("1"), user("2")]), none(), ""),
        ("a user twice", reserved(vec![user("1"), user("1")]), none(), "reservedFor[1].uid: Duplicate"),
        (
            "users of nothing",
            claim(json!({"reservedFor": [user("1")]})),
            none(),
            "may not be specified when `allocated` is not set",
        ),
        (
            "257 users",
            reserved((0..257).map(|i| user(&i.to_string())).collect()),
            none(),
            "must have at most 256 items",
        ),
        ("a new user of a dying claim", dying.clone(), reserved(vec![user("2")]), "new entries may not be added"),
        ("the old one", dying, reserved(vec![user("1"), user("2")]), ""),
        ("what a driver tells", told("x"), none(), ""),
        ("of another's device", told("y"), none(), "must be an allocated device in the claim"),
    ] {
        let got = first(|out| claim_status(out, &new, &old));
        assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{name}: {got}");
    }
}
