#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn deployment() -> Schema {
    Schema::builtin("apps.v1.Deployment").unwrap()
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Write<'a> {
    Write { manager, api_version: "apps/v1", subresource: "", now, ignored: &["status"] }
}

/// Applies to a deployment at second `at`.
fn apply_as(live: Option<&Value>, applied: Value, manager: &str, at: u32, force: bool) -> Result<Value, ApplyError> {
    let now = format!("2026-01-01T00:00:{at:02}Z");
    apply(&deployment(), live, &applied, writer(manager, &now), force)
}

fn fields<'a>(object: &'a Value, manager: &str, operation: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["manager"] == manager && e["operation"] == operation);
    entry.map_or(&Value::Null, |e| &e["fieldsV1"])
}

#[test]
fn a_create_is_tracked_as_upstream_tracks_it() {
    let mut created = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d", "labels": {"app": "web"}, "uid": "u"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"restartPolicy": "Always",
                "containers": [{"name": "nginx", "image": "nginx", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}},
        "status": {"replicas": 1}});
    track_update(&deployment(), None, &mut created, writer("kubectl-create", "2026-01-01T00:00:00Z"));
    let port = r#"k:{"containerPort":80,"protocol":"TCP"}"#;
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:replicas": {}, "f:selector": {},
                    "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                    "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {"f:restartPolicy": {}, "f:containers": {"k:{\"name\":\"nginx\"}": {".": {},
                            "f:name": {}, "f:image": {}, "f:resources": {},
                            "f:ports": {".": {}, port: {".": {}, "f:containerPort": {}, "f:protocol": {}}}}}}}}}}])
    );
}

#[test]
fn an_update_takes_what_it_changes_and_only_that() {
    let mut one = json!({"metadata": {"name": "a", "labels": {"x": "1", "y": "1"}}, "spec": {"replicas": 1}});
    track_update(&deployment(), None, &mut one, writer("a", "2026-01-01T00:00:00Z"));
    let mut two = one.clone();
    two["metadata"]["labels"]["x"] = "2".into();
    two["metadata"]["labels"].as_object_mut().unwrap().remove("y");
    two["spec"]["paused"] = true.into();
    track_update(&deployment(), Some(&one), &mut two, writer("b", "2026-01-01T00:00:01Z"));
    assert_eq!(fields(&two, "a", "Update"), &json!({"f:metadata": {"f:labels": {}}, "f:spec": {"f:replicas": {}}}));
    assert_eq!(
        fields(&two, "b", "Update"),
        &json!({"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:paused": {}}})
    );
    // Nothing changed: not even times.
    let mut three = two.clone();
    three["metadata"]["resourceVersion"] = "9".into();
    three["status"] = json!({"replicas": 3});
    track_update(&deployment(), Some(&two), &mut three, writer("c", "2026-01-01T00:00:02Z"));
    assert_eq!(three["metadata"]["managedFields"], two["metadata"]["managedFields"]);
    // The same manager again: one entry, later time.
    let mut four = three.clone();
    four["spec"]["replicas"] = 7.into();
    track_update(&deployment(), Some(&three), &mut four, writer("b", "2026-01-01T00:00:03Z"));
    assert_eq!(fields(&four, "b", "Update")["f:spec"], json!({"f:paused": {}, "f:replicas": {}}));
    assert_eq!(four["metadata"]["managedFields"].as_array().unwrap().len(), 2);
}

#[test]
fn applying_merges_and_drops_what_is_no_longer_applied() {
    let first = json!({"metadata": {"name": "a", "labels": {"x": "1", "y": "1"}},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "1"}]}]}}}});
    let live = apply_as(None, first, "me", 0, false).unwrap();
    assert_eq!(fields(&live, "me", "Apply")["f:metadata"], json!({"f:labels": {"f:x": {}, "f:y": {}}}));
    let second = json!({"metadata": {"name": "a", "labels": {"x": "1"}},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}});
    let live = apply_as(Some(&live), second, "me", 1, false).unwrap();
    assert_eq!(live["metadata"]["labels"], json!({"x": "1"}));
    assert_eq!(live["spec"], json!({"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}));
}

#[test]
fn fields_of_others_survive_and_conflict() {
    let live =
        apply_as(None, json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "paused": true}}), "me", 0, false)
            .unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 5.into();
    track_update(&deployment(), Some(&live), &mut scaled, writer("hpa", "2026-01-01T00:00:01Z"));
    assert_eq!(fields(&scaled, "me", "Apply"), &json!({"f:spec": {"f:paused": {}}}));
    let again = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "paused": false}});
    let refused = apply_as(Some(&scaled), again.clone(), "me", 2, false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        r#"Apply failed with 1 conflict: conflict with "hpa" using apps/v1: .spec.replicas"#
    );
    let status = ApiError::from(refused).to_status();
    assert_eq!(status["code"], 409);
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(status["details"]["causes"][0]["field"], ".spec.replicas");
    let forced = apply_as(Some(&scaled), again, "me", 2, true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(fields(&forced, "hpa", "Update"), &Value::Null);
    // Without the field there is no conflict, and the other's value stays.
    let without =
        apply_as(Some(&scaled), json!({"metadata": {"name": "a"}, "spec": {"paused": true}}), "me", 2, false).unwrap();
    assert_eq!(without["spec"]["replicas"], 5);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let live = apply_as(None, json!({"metadata": {"labels": {"a": "1", "b": "1"}}}), "one", 0, false).unwrap();
    let live = apply_as(Some(&live), json!({"metadata": {"labels": {"c": "1"}}}), "two", 1, false).unwrap();
    let refused =
        apply_as(Some(&live), json!({"metadata": {"labels": {"a": "2", "b": "2", "c": "2"}}}), "three", 2, false);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "Apply failed with 3 conflicts: conflicts with \"one\":\n- .metadata.labels.a\n- .metadata.labels.b\nconflicts with \"two\":\n- .metadata.labels.c"
    );
}

#[test]
fn shared_fields_go_when_the_last_manager_lets_go() {
    let both = json!({"metadata": {"name": "a", "labels": {"x": "1"}}});
    let live = apply_as(None, both.clone(), "one", 0, false).unwrap();
    let live = apply_as(Some(&live), both, "two", 1, false).unwrap();
    let nothing = json!({"metadata": {"name": "a"}});
    let live = apply_as(Some(&live), nothing.clone(), "one", 2, false).unwrap();
    assert_eq!(live["metadata"]["labels"]["x"], "1");
    let live = apply_as(Some(&live), nothing, "two", 3, false).unwrap();
    assert!(live["metadata"].get("labels").is_none());
    assert!(live["metadata"].get("managedFields").is_none());
}

#[test]
fn lists_with_keys_merge_by_key_and_defaults_of_keys_count() {
    let service = Schema::builtin("core.v1.Service").unwrap();
    let at = |now| Write { manager: "m", api_version: "v1", subresource: "", now, ignored: &["status"] };
    let live = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000},
        {"port": 80, "protocol": "UDP"}]}});
    let applied = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 81}, {"port": 80, "name": "w"}]}});
    let merged = apply(&service, Some(&live), &applied, at("2026-01-01T00:00:00Z"), true).unwrap();
    assert_eq!(
        merged["spec"]["ports"],
        json!([{"port": 81}, {"port": 80, "protocol": "TCP", "nodePort": 30000, "name": "w"}, {"port": 80, "protocol": "UDP"}])
    );
    let twice = json!({"spec": {"ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]}});
    let refused = apply(&service, None, &twice, at("t"), false).unwrap_err().to_string();
    assert!(refused.contains("duplicate entries for key"), "{refused}");
}

#[test]
fn sets_and_atomic_values() {
    let one =
        json!({"metadata": {"name": "a", "finalizers": ["e/x"]}, "spec": {"selector": {"matchLabels": {"a": "1"}}}});
    let live = apply_as(None, one, "one", 0, false).unwrap();
    assert_eq!(fields(&live, "one", "Apply")["f:metadata"], json!({"f:finalizers": {"v:\"e/x\"": {}}}));
    let live =
        apply_as(Some(&live), json!({"metadata": {"name": "a", "finalizers": ["e/y"]}}), "two", 1, false).unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["e/x", "e/y"]));
    let other = json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"b": "1"}}}});
    let refused = apply_as(Some(&live), other, "two", 2, false).unwrap_err().to_string();
    assert!(refused.ends_with(r#"conflict with "one": .spec.selector"#), "{refused}");
}

#[test]
fn resets_and_untracked_objects() {
    let live = apply_as(None, json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}), "me", 0, false).unwrap();
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset;
        track_update(&deployment(), Some(&live), &mut new, writer("x", "2026-01-01T00:00:01Z"));
        assert!(new["metadata"].get("managedFields").is_none());
        // Not tracked until somebody applies; then the fields from before have a manager.
        let mut later = new.clone();
        later["spec"]["replicas"] = 2.into();
        track_update(&deployment(), Some(&new), &mut later, writer("x", "2026-01-01T00:00:02Z"));
        assert!(later["metadata"].get("managedFields").is_none());
        let applied =
            apply_as(Some(&later), json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}}), "me", 3, false)
                .unwrap();
        assert_eq!(fields(&applied, "before-first-apply", "Update"), &json!({"f:spec": {"f:replicas": {}}}));
    }
    // A client that drops the field unknowingly loses nothing.
    let mut naive = live.clone();
    naive["metadata"].as_object_mut().unwrap().remove("managedFields");
    track_update(&deployment(), Some(&live), &mut naive, writer("x", "2026-01-01T00:00:01Z"));
    assert_eq!(naive["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn the_status_door_tracks_status_alone() {
    let live = json!({"metadata": {"name": "a", "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "apps/v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]}, "spec": {"replicas": 1}, "status": {}});
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    let write = Write {
        manager: "c",
        api_version: "apps/v1",
        subresource: "status",
        now: "2026-01-01T00:00:00Z",
        ignored: &["spec"],
    };
    track_update(&deployment(), Some(&live), &mut new, write);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:replicas": {}, "f:conditions": {".": {},
            "k:{\"type\":\"Available\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
}

#[test]
fn updaters_are_capped() {
    let mut live = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}});
    track_update(&deployment(), None, &mut live, writer("first", "2026-01-01T00:00:00Z"));
    for n in 0..30 {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{n}")] = "x".into();
        let (manager, now) = (format!("m{n}"), format!("2026-01-01T00:00:{:02}Z", n + 1));
        track_update(&deployment(), Some(&live), &mut next, writer(&manager, &now));
        live = next;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert!(entries.len() <= 10, "{}", entries.len());
    let ancient = fields(&live, "ancient-changes", "Update");
    assert_eq!(ancient["f:metadata"]["f:labels"]["f:l0"], json!({}));
}

#[test]
fn custom_resources_obey_their_schema() {
    let schema = Schema::from_definition(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}}}}}),
        false,
    )
    .unwrap();
    let write = |manager| Write {
        manager,
        api_version: "e.com/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        ignored: &[],
    };
    let one = json!({"metadata": {"name": "a"}, "spec": {"list": ["a"], "map": [{"k": "1", "v": 1}]}});
    let live = apply(&schema, None, &one, write("one"), false).unwrap();
    let two = json!({"metadata": {"name": "a"}, "spec": {"map": [{"k": "2", "v": 2}]}});
    let live = apply(&schema, Some(&live), &two, write("two"), false).unwrap();
    assert_eq!(live["spec"]["map"], json!([{"k": "1", "v": 1}, {"k": "2", "v": 2}]));
    let keyless = json!({"metadata": {"name": "a"}, "spec": {"map": [{"v": 2}]}});
    let refused = apply(&schema, Some(&live), &keyless, write("two"), false).unwrap_err().to_string();
    assert!(refused.contains("omits key field \"k\""), "{refused}");
    let three = json!({"metadata": {"name": "a"}, "spec": {"list": ["b"]}});
    assert!(matches!(apply(&schema, Some(&live), &three, write("two"), false), Err(ApplyError::Conflicts(_))));
}

/// A partial deployment that only says things under labels and containers whose names begin with a prefix.
fn partial(prefix: &'static str) -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
    let containers =
        proptest::collection::btree_map("[ab]", ("[xy]", proptest::collection::btree_map("[ef]", "[12]", 0..3)), 0..3);
    (labels, containers).prop_map(move |(labels, containers)| {
        let labels: Map<String, Value> = labels.into_iter().map(|(k, v)| (format!("{prefix}{k}"), v.into())).collect();
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, env))| {
                let env: Vec<Value> = env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
                json!({"name": format!("{prefix}{name}"), "image": image, "env": env})
            })
            .collect();
        json!({"metadata": {"name": "d", "labels": labels}, "spec": {"template": {"spec": {"containers": containers}}}})
    })
}

/// The object without the order of its containers and without managed fields.
fn essence(mut object: Value) -> Value {
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    if let Some(list) = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut) {
        list.sort_by_key(|c| c["name"].as_str().unwrap().to_owned());
    }
    object
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(applied in partial("")) {
        let once = apply_as(None, applied.clone(), "m", 0, false).unwrap();
        let twice = apply_as(Some(&once), applied, "m", 1, false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn disjoint_managers_commute(one in partial("p"), two in partial("q")) {
        let a = apply_as(None, one.clone(), "one", 0, false).unwrap();
        let ab = apply_as(Some(&a), two.clone(), "two", 1, false).unwrap();
        let b = apply_as(None, two, "two", 0, false).unwrap();
        let ba = apply_as(Some(&b), one, "one", 1, false).unwrap();
        prop_assert_eq!(essence(ab), essence(ba));
    }

    /// Whatever one manager applies later, what the other applied is there, and in the other's set.
    #[test]
    fn nobody_loses_a_field_to_another(one in partial("p"), steps in proptest::collection::vec(partial("q"), 1..4)) {
        let mut live = apply_as(None, one.clone(), "one", 0, false).unwrap();
        let owned = fields(&live, "one", "Apply").clone();
        for (at, step) in steps.into_iter().enumerate() {
            live = apply_as(Some(&live), step, "two", at as u32 + 1, false).unwrap();
            let managed = live["metadata"]["managedFields"].is_array();
            if managed {
                prop_assert_eq!(fields(&live, "one", "Apply"), &owned);
            }
            let said = without_empties(one.clone());
            prop_assert!(contains(&live, &said), "{} lost from {}", said, live);
        }
    }

    /// Going over from one configuration to another leaves nothing of the first.
    #[test]
    fn the_last_apply_counts(first in partial(""), last in partial("")) {
        let live = apply_as(None, first, "m", 0, false).unwrap();
        let moved = apply_as(Some(&live), last.clone(), "m", 1, false).unwrap();
        let direct = apply_as(None, last, "m", 0, false).unwrap();
        prop_assert_eq!(without_empties(essence(moved)), without_empties(essence(direct)));
    }

    #[test]
    fn sets_survive_being_written(applied in partial("")) {
        let live = apply_as(None, applied, "m", 0, false).unwrap();
        if live["metadata"]["managedFields"].is_array() {
            let written = fields(&live, "m", "Apply");
            prop_assert_eq!(&FieldSet::from_value(written).unwrap().to_value(), written);
        }
    }
}

/// Whether every leaf of `part` is in `whole`; lists of named elements match by name.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(k, v)| whole.get(k).map_or_else(|| is_empty(v), |w| contains(w, v)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|p| whole.iter().any(|w| w["name"] == p["name"] && contains(w, p)))
        }
        (whole, part) => whole == part,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Removing the last element removes the container; applying an empty one does not create a difference.
fn without_empties(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().map(|(k, v)| (k, without_empties(v))).filter(|(_, v)| !is_empty(v));
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.into_iter().map(without_empties).collect(),
        other => other,
    }
}
