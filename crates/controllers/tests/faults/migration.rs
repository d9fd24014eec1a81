//! The story of storage migrations: custom resources and Secrets that are stored in an older form, several migrations at once, one of
//! something that is not there, and users who write meanwhile.

use caravel_api::kinds::{KindTable, custom::from_definition};
use caravel_api::meta;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

use crate::scenarios::expect;
use crate::world::World;
use crate::{PACE, Scenario, play};

const GROUP: &str = "storagemigration.k8s.io";
const PLURAL: &str = "storageversionmigrations";
const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
const DEFINITION: &str = "widgets.example.com";

/// The definition of widgets, stored in v2.
fn widgets() -> Value {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": DEFINITION},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", false), version("v2", true)]}})
}

/// What this world serves: widgets too, and migrations.
static TABLE: LazyLock<KindTable> = LazyLock::new(|| {
    let mut table = KindTable::builtin();
    assert!(table.serve(GROUP, "v1beta1"));
    from_definition(&widgets()).unwrap().into_iter().for_each(|row| table.insert(Arc::new(row)));
    table
});

fn define(w: &mut World) {
    w.put(widgets());
    let kind = w.table.resource(DEFINITIONS.0, "v1", DEFINITIONS.1).unwrap().clone();
    let status = json!({"metadata": {}, "status": {"storedVersions": ["v1", "v2"],
        "conditions": [{"type": "Established", "status": "True"}]}});
    w.update(&kind, "", DEFINITION, status, Some("status")).unwrap();
}

/// An object that is stored in an older form.
fn old(w: &mut World, api: &str, kind: &str, name: &str) {
    let made = w.put(json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "d"}}));
    let (group, plural) = if kind == "Widget" { ("example.com", "widgets") } else { ("", "secrets") };
    w.stale.insert(((group.into(), plural.into()), ("d".into(), meta::name(&made).to_owned())));
}

fn migrate(w: &mut World, name: &str, group: &str, resource: &str) {
    w.put(json!({"apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration",
        "metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}}));
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

fn ended(w: &World, name: &str, how: &str) -> Result<u64, String> {
    let one = w.get(GROUP, PLURAL, "", name).ok_or("a migration is gone")?;
    expect(name, &condition(one, how)["status"], json!("True")).map_err(|e| format!("{e}: {}", one["status"]))?;
    let running = condition(one, "Running");
    expect(name, running.is_null() || running["status"] == "False", true)?;
    Ok(one["status"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0))
}

/// At no time did two migrations of widgets run.
fn one_at_a_time(w: &World) -> Result<(), String> {
    let mut running = std::collections::BTreeSet::new();
    for change in w.log.iter().filter(|c| c.place.1 == PLURAL) {
        let name = meta::name(&change.object);
        let runs = condition(&change.object, "Running")["status"] == "True";
        if runs && change.object["spec"]["resource"]["resource"] == "widgets" {
            running.insert(name)
        } else {
            running.remove(name)
        };
        if running.len() > 1 {
            return Err(format!("at {} {running:?} run", change.revision));
        }
    }
    Ok(())
}

#[test]
fn storage_migrations() {
    play(&Scenario {
        controllers: &["storage-version-migrator-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.table = &TABLE;
                define(w);
                (0..12).for_each(|i| old(w, "example.com/v2", "Widget", &format!("w{i}")));
                (0..3).for_each(|i| old(w, "v1", "Secret", &format!("s{i}")));
                migrate(w, "first", "example.com", "widgets");
                migrate(w, "nothing", "example.com", "gadgets");
            },
            |w| {
                migrate(w, "second", "example.com", "widgets");
                migrate(w, "sealed", "", "secrets");
                w.edit("example.com", "widgets", "d", "w3", |o| o["spec"]["size"] = json!(1));
            },
            |w| w.remove("example.com", "widgets", "d", "w11", &Value::Null),
        ],
        goal: |w| {
            let reach = ended(w, "first", "Succeeded")?;
            ended(w, "second", "Succeeded")?;
            ended(w, "sealed", "Succeeded")?;
            ended(w, "nothing", "Failed")?;
            one_at_a_time(w)?;
            let left: Vec<_> =
                w.stale.iter().filter(|(place, key)| w.get(&place.0, &place.1, &key.0, &key.1).is_some()).collect();
            expect("in an older form", left.len(), 0)?;
            expect("widgets", w.all("example.com", "widgets").len(), 11)?;
            expect("the revision is noted", reach > 0, true)?;
            let definition = w.get(DEFINITIONS.0, DEFINITIONS.1, "", DEFINITION).ok_or("the definition is gone")?;
            expect("stored", &definition["status"]["storedVersions"], json!(["v2"]))?;
            let says = condition(definition, "StorageMigrating");
            expect("says", (&says["status"], &says["reason"]), (&json!("False"), &json!("MigrationSucceeded")))
        },
    });
}
