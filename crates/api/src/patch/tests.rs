#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::Schema;

fn strategic_pod(original: Value, patch: Value) -> Result<Value, PatchError> {
    strategic::apply(Schema::builtin("core.v1.Pod").unwrap().root(), original, patch)
}

#[test]
fn json_patch_follows_rfc_6902() {
    let document = json!({"a": {"b~/": [1, 2, 3]}, "n": null});
    let apply = |patch: Value| json::apply(document.clone(), &patch);
    let path = "/a/b~0~1";
    let cases = [
        (json!([{"op": "add", "path": format!("{path}/1"), "value": 9}]), json!([1, 9, 2, 3])),
        (json!([{"op": "add", "path": format!("{path}/-"), "value": 9}]), json!([1, 2, 3, 9])),
        (json!([{"op": "remove", "path": format!("{path}/-1")}]), json!([1, 2])),
        (json!([{"op": "replace", "path": format!("{path}/0"), "value": {"x": 1}}]), json!([{"x": 1}, 2, 3])),
        (json!([{"op": "move", "from": format!("{path}/0"), "path": format!("{path}/2")}]), json!([2, 3, 1])),
        (json!([{"op": "copy", "from": format!("{path}/0"), "path": format!("{path}/3")}]), json!([1, 2, 3, 1])),
        (json!([{"op": "test", "path": "/n", "value": null}]), json!([1, 2, 3])),
    ];
    for (patch, want) in cases {
        assert_eq!(apply(patch.clone()).unwrap()["a"]["b~/"], want, "{patch}");
    }
    assert_eq!(apply(json!([{"op": "add", "path": "", "value": 1}])).unwrap(), 1);
    for patch in [
        json!([{"op": "remove", "path": "/x"}]),
        json!([{"op": "replace", "path": "/x", "value": 1}]),
        json!([{"op": "add", "path": "/x/y", "value": 1}]),
        json!([{"op": "add", "path": format!("{path}/4"), "value": 1}]),
        json!([{"op": "test", "path": format!("{path}/0"), "value": 2}]),
        json!([{"op": "move", "from": "/a", "path": "/a/c"}]),
    ] {
        assert!(matches!(apply(patch.clone()), Err(PatchError::Unfit(_))), "{patch}");
    }
    for patch in [
        json!({}),
        json!([{"op": "frob", "path": "/a"}]),
        json!([{"op": "add", "path": "/a"}]),
        json!([{"op": "add", "path": "a", "value": 1}]),
    ] {
        assert!(matches!(apply(patch.clone()), Err(PatchError::Malformed(_))), "{patch}");
    }
    let unfit = ApiError::from(PatchError::Unfit("testing value /a failed".to_owned()));
    assert_eq!((unfit.code, unfit.reason.as_ref()), (422, "Invalid"));
}

#[test]
fn json_patch_cannot_grow_without_limit() {
    let double = |n| json!({"op": "copy", "from": "", "path": format!("/a{n}")});
    let patch: Value = (0..60).map(double).collect();
    let refused = json::apply(json!({"x": "0123456789"}), &patch);
    assert!(matches!(refused, Err(PatchError::TooLarge(_))), "{refused:?}");
    let many = Value::from(vec![json!({"op": "test", "path": "/n"}); json::MAX_OPERATIONS + 1]);
    assert!(matches!(json::apply(json!({}), &many), Err(PatchError::TooLarge(_))));
}

#[test]
fn merge_patch_follows_rfc_7386() {
    // The test cases of the RFC's appendix.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (target, patch, want) in cases {
        assert_eq!(merge::apply(target, patch.clone()), want, "{patch}");
    }
}

#[test]
fn strategic_lists_merge_by_key() {
    let original = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}],
        "tolerations": [{"key": "x"}]}});
    let patch =
        json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}], "tolerations": [{"key": "y"}]}});
    let merged = strategic_pod(original, patch).unwrap();
    assert_eq!(
        merged["spec"]["containers"],
        json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}])
    );
    // Tolerations have no merge strategy: replaced.
    assert_eq!(merged["spec"]["tolerations"], json!([{"key": "y"}]));
}

#[test]
fn strategic_directives_are_obeyed() {
    let original = || {
        json!({"metadata": {"finalizers": ["a", "b", "c"], "labels": {"x": "1", "y": "2"}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    };
    let check = |patch: Value, pointer: &str, want: Value| {
        let merged = strategic_pod(original(), patch.clone()).unwrap();
        assert_eq!(merged.pointer(pointer).cloned().unwrap_or_default(), want, "{patch}");
    };
    check(
        json!({"spec": {"containers": [{"$patch": "delete", "name": "b"}]}}),
        "/spec/containers",
        json!([{"name": "a"}, {"name": "c"}]),
    );
    check(
        json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}),
        "/spec/containers",
        json!([{"name": "z"}]),
    );
    check(json!({"metadata": {"labels": {"$patch": "replace", "z": "3"}}}), "/metadata/labels", json!({"z": "3"}));
    check(json!({"metadata": {"labels": {"$patch": "delete"}}}), "/metadata/labels", json!({}));
    check(json!({"metadata": {"labels": {"x": null}}}), "/metadata/labels", json!({"y": "2"}));
    check(json!({"metadata": {"labels": null}}), "/metadata/labels", Value::Null);
    check(json!({"metadata": {"finalizers": ["d", "a"]}}), "/metadata/finalizers", json!(["d", "a", "b", "c"]));
    check(
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
        "/metadata/finalizers",
        json!(["a", "c"]),
    );
    check(
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}}),
        "/spec/volumes",
        json!([{"name": "v", "emptyDir": {}}]),
    );
    check(
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "n"}, {"name": "a"}], "containers": [{"name": "n"}]}}),
        "/spec/containers",
        json!([{"name": "b"}, {"name": "c"}, {"name": "n"}, {"name": "a"}]),
    );
    check(
        json!({"metadata": {"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]}}),
        "/metadata/finalizers",
        json!(["c", "a"]),
    );
}

#[test]
fn strategic_patches_that_make_no_sense_are_refused() {
    let original = json!({"spec": {"containers": [{"name": "a"}]}});
    for (patch, part) in [
        (json!({"spec": {"containers": [{"image": "x"}]}}), "does not contain declared merge key: name"),
        (json!({"spec": {"$patch": "frob"}}), "unknown patch type"),
        (json!({"spec": {"containers": [{"name": "a", "$patch": "frob"}]}}), "unknown patch type"),
        (json!({"spec": {"$retainKeys": ["a"], "b": 1}}), "must name every field"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
            "doesn't match",
        ),
        (json!([1]), "is an object"),
    ] {
        let refused = strategic_pod(original.clone(), patch.clone()).unwrap_err().to_string();
        assert!(refused.contains(part), "{patch}: {refused}");
    }
}

#[test]
fn strategic_patch_over_nothing_leaves_no_directives() {
    let patch = json!({"spec": {"$retainKeys": ["containers"], "containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "command": null}]}});
    assert_eq!(strategic_pod(json!({}), patch).unwrap(), json!({"spec": {"containers": [{"name": "b"}]}}));
}

/// Containers with distinct names in some order.
fn containers() -> impl Strategy<Value = Vec<Value>> {
    let container = ("[a-f]", proptest::option::of("[xyz]")).prop_map(|(name, image)| match image {
        Some(image) => json!({"name": name, "image": image}),
        None => json!({"name": name}),
    });
    proptest::collection::vec(container, 0..6).prop_map(|mut list| {
        let mut seen = std::collections::HashSet::new();
        list.retain(|c| seen.insert(c["name"].clone()));
        list
    })
}

proptest! {
    /// A merge twice is a merge once, and every element of the patch is there afterwards in the patch's order.
    #[test]
    fn strategic_merge_is_idempotent_and_complete(original in containers(), patch in containers()) {
        let body = json!({"spec": {"containers": patch}});
        let once = strategic_pod(json!({"spec": {"containers": original}}), body.clone()).unwrap();
        let twice = strategic_pod(once.clone(), body).unwrap();
        prop_assert_eq!(&once, &twice);
        let names: Vec<&Value> = once["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        let mut from = 0;
        for item in &patch {
            let at = names[from..].iter().position(|n| **n == item["name"]);
            prop_assert!(at.is_some());
            from += at.unwrap() + 1;
        }
        for item in &original {
            prop_assert!(names.contains(&&item["name"]));
        }
    }

    /// The order that a writer asks for is the order that it gets.
    #[test]
    fn strategic_order_is_obeyed(original in containers(), seed in any::<u64>()) {
        let mut order: Vec<Value> = original.iter().map(|c| json!({"name": c["name"]})).collect();
        order.sort_by_key(|o| o["name"].as_str().unwrap().bytes().map(u64::from).sum::<u64>().wrapping_mul(seed | 1));
        let body = json!({"spec": {"$setElementOrder/containers": order.clone()}});
        let merged = strategic_pod(json!({"spec": {"containers": original}}), body).unwrap();
        let names: Vec<Value> = merged["spec"]["containers"].as_array().into_iter().flatten().map(|c| json!({"name": c["name"]})).collect();
        prop_assert_eq!(names, order);
    }

    /// What a merge patch sets is set, what it nulls is gone, and a second time changes nothing.
    #[test]
    fn merge_patch_is_idempotent(target in value(), patch in value()) {
        let once = merge::apply(target, patch.clone());
        prop_assert_eq!(&merge::apply(once.clone(), patch), &once);
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<i8>().prop_map(Value::from), "[ab]".prop_map(Value::from)];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}
