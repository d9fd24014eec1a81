//! StorageVersionMigration: off by default, and what it does where it is on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::extension::{Call, Extension, Reply};
use caravel_tests::{ControlPlane, Namespace, block_on, condition_of, program};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ON: [&str; 2] =
    ["--runtime-config=storagemigration.k8s.io/v1beta1=true", "--feature-gates=StorageVersionMigrator=true"];
const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const HOSTS: &str = "hosts.example.com";
const COUNT: usize = 30;
/// The object that is held up.
const HELD: &str = "h15";

fn migration(name: &str, group: &str, resource: &str) -> Value {
    json!({"apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration",
        "metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}})
}

/// Waits until a migration has this condition; the migration.
fn until_condition(ns: &Namespace, name: &str, kind: &str) -> Value {
    ns.eventually(&format!("{name} has {kind}"), || {
        let (code, now) = ns.wire().get(&format!("{MIGRATIONS}/{name}"));
        let is = code == 200 && condition_of(&now, kind).is_some_and(|c| c["status"] == "True");
        if is { Ok(now) } else { Err(format!("{code} {}", now["status"])) }
    })
}

/// Converts by changing the version and nothing else.
fn convert(call: &Call) -> Reply {
    let request = call.request();
    let of = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = request["desiredAPIVersion"].clone();
        object
    };
    let converted: Vec<Value> = request["objects"].as_array().unwrap().iter().map(of).collect();
    Reply::Json(json!({"kind": "ConversionReview", "apiVersion": call.body["apiVersion"],
        "response": {"uid": request["uid"], "convertedObjects": converted, "result": {"status": "Success"}}}))
}

/// Admits everything, but fails at one object as long as that is held up.
fn admit(call: &Call, held: &AtomicBool) -> Reply {
    let request = call.request();
    if held.load(Ordering::SeqCst) && request["name"] == HELD {
        return Reply::Plain(503, vec![], vec![]);
    }
    Reply::Json(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "response": {"uid": request["uid"], "allowed": true}}))
}

fn guard(hook: &Extension) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "hold"}, "webhooks": [{"name": "hold.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": hook.url("/admit"), "failurePolicy": "Fail",
            "rules": [{"apiGroups": ["example.com"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["hosts"]}]}]})
}

fn definition(hook: &Extension) -> Value {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"host": {"type": "string"}}}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": HOSTS},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "hosts", "kind": "Host"},
            "versions": [version("v1", true), version("v2", false)],
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": hook.url("/convert"), "conversionReviewVersions": ["v1"]}}}})
}

/// Makes v2 the storage version, and waits until what is written is stored in it: until a dry run of a v2 object asks no webhook.
fn flip(ns: &Namespace, hook: &Extension, v2: &str) {
    let swap = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    let (code, said) = ns.wire().json_patch(&format!("{DEFINITIONS}/{HOSTS}"), &swap);
    assert_eq!((code, &said["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{said}");
    let probe = json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "probe"}, "host": "x"});
    ns.eventually("v2 is the stored version", || {
        let before = hook.calls().len();
        let (code, said) = ns.wire().post(&format!("{v2}?dryRun=All"), &probe);
        if code == 201 && hook.calls().len() == before { Ok(()) } else { Err(format!("{code} {said}")) }
    });
}

#[test]
fn it_is_off_by_default() {
    let ns = Namespace::new("svm-off");
    assert_eq!(ns.wire().get(MIGRATIONS).0, 404);
    assert_eq!(ns.wire().post(MIGRATIONS, &migration("m", "", "secrets")).0, 404);
    let (_, groups) = ns.wire().get("/apis");
    assert!(groups["groups"].as_array().unwrap().iter().all(|g| g["name"] != "storagemigration.k8s.io"));
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:controller:storage-version-migrator-controller";
    assert_eq!(ns.wire().get(role).0, 404);
    // What cannot be turned on is said before anything starts.
    let dir = tempfile::tempdir().unwrap();
    for (word, mend) in [
        ("--feature-gates=Nope=true", "unrecognized feature gate: Nope"),
        ("--runtime-config=storagemigration.k8s.io/v9=true", "unknown api storagemigration.k8s.io/v9"),
    ] {
        let words = ["server", "--bind-address", "127.0.0.1", "--api-only", word, "--data-dir"];
        let output = Command::new(program()).args(words).arg(dir.path().join("data")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(mend), "{word}: {said}");
    }
}

#[test]
fn custom_resources_are_migrated_through_a_crash() {
    let plane = Arc::new(ControlPlane::start_with(&ON));
    let ns = Namespace::in_cluster("svm-crd", plane.kubeconfig());
    let held = Arc::new(AtomicBool::new(true));
    let hold = held.clone();
    let converter = Extension::on_loopback(convert);
    let gate = Extension::on_loopback(move |call| admit(call, &hold));
    let definition_path = format!("{DEFINITIONS}/{HOSTS}");
    let (code, said) = ns.wire().post(DEFINITIONS, &definition(&converter));
    assert_eq!(code, 201, "{said}");
    let at = |version: &str| format!("/apis/example.com/{version}/namespaces/{}/hosts", ns.name);
    let (v1, v2) = (at("v1"), at("v2"));
    ns.eventually("hosts are served", || match ns.wire().get(&v1).0 {
        200 => Ok(()),
        code => Err(code.to_string()),
    });
    let names = || (0..COUNT).map(|i| format!("h{i}"));
    let mut made = vec![];
    for name in names() {
        let host = json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": name}, "host": name});
        let (code, said) = ns.wire().post(&v1, &host);
        assert_eq!(code, 201, "{said}");
        made.push(said);
    }
    flip(&ns, &converter, &v2);
    let (code, said) =
        ns.wire().post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &guard(&gate));
    assert_eq!(code, 201, "{said}");
    ns.eventually("the webhook is asked", || {
        let (code, said) = ns.wire().merge(&format!("{v1}/{HELD}?dryRun=All"), &json!({"host": "y"}));
        if code == 500 { Ok(()) } else { Err(format!("{code} {said}")) }
    });

    // One object cannot be written: the migration goes on trying, through the end of the program too.
    for name in ["first", "second"] {
        let (code, said) = ns.wire().post(MIGRATIONS, &migration(name, "example.com", "hosts"));
        assert_eq!(code, 201, "{said}");
    }
    let runs = until_condition(&ns, "first", "Running");
    assert_eq!(condition_of(&runs, "Running").unwrap()["reason"], "MigrationRunning");
    let revision = |object: &Value| -> u64 { object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap() };
    let reach: u64 = runs["status"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    ns.eventually("all others are written again", || {
        let (_, list) = ns.wire().get(&v2);
        let old: Vec<&Value> = list["items"].as_array().unwrap().iter().filter(|o| revision(o) <= reach).collect();
        if old.iter().all(|o| o["metadata"]["name"] == HELD) { Ok(()) } else { Err(format!("{old:?}")) }
    });
    let (_, now) = ns.wire().get(&definition_path);
    let says = condition_of(&now, "StorageMigrating").unwrap();
    assert_eq!((&says["status"], &says["message"]), (&json!("True"), &json!("Migration first is running")));
    assert_eq!(now["status"]["storedVersions"], json!(["v1", "v2"]));
    let (_, waits) = ns.wire().get(&format!("{MIGRATIONS}/second"));
    assert!(condition_of(&waits, "Running").is_none(), "one at a time: {waits}");
    let crashing = plane.clone();
    block_on(async move { crashing.kill_and_restart().await });
    let before = gate.calls().len();
    ns.eventually("the migration goes on after the crash", || {
        let asked = gate.calls().len() > before;
        if asked { Ok(()) } else { Err("nothing is written".into()) }
    });
    held.store(false, Ordering::SeqCst);

    for name in ["first", "second"] {
        let done = until_condition(&ns, name, "Succeeded");
        assert_eq!(condition_of(&done, "Succeeded").unwrap()["reason"], "StorageVersionMigrationSucceeded");
        let running = condition_of(&done, "Running").unwrap();
        assert_eq!((&running["status"], &running["reason"]), (&json!("False"), &json!("MigrationCompleted")));
    }
    let (_, now) = ns.wire().get(&definition_path);
    let says = condition_of(&now, "StorageMigrating").unwrap();
    assert_eq!((&says["status"], &says["reason"]), (&json!("False"), &json!("MigrationSucceeded")), "{now}");
    assert_eq!(now["status"]["storedVersions"], json!(["v2"]));
    // Nobody can convert any more, and all is read: it is stored in v2. Nothing else of it changed.
    drop(converter);
    for (name, was) in names().zip(&made) {
        let (code, is) = ns.wire().get(&format!("{v2}/{name}"));
        assert_eq!(code, 200, "{is}");
        assert!(revision(&is) > reach, "{is}");
        let mut wanted = was.clone();
        wanted["apiVersion"] = json!("example.com/v2");
        wanted["metadata"]["resourceVersion"] = is["metadata"]["resourceVersion"].clone();
        assert_eq!(is, wanted);
    }
    // The old version may go now.
    let versions = json!([now["spec"]["versions"][1].clone()]);
    let (code, said) = ns.wire().merge(
        &definition_path,
        &json!({"spec": {"versions": versions, "conversion": {"strategy": "None", "webhook": null}}}),
    );
    assert_eq!(code, 200, "{said}");
}

#[test]
fn what_needs_no_migration_is_left_alone() {
    let plane = ControlPlane::start_with(&ON);
    let ns = Namespace::in_cluster("svm-rest", plane.kubeconfig());
    let maps = format!("/api/v1/namespaces/{}/configmaps", ns.name);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let (code, before) = ns.wire().post(&maps, &map);
    assert_eq!(code, 201, "{before}");
    for (name, group, resource) in [("maps", "", "configmaps"), ("nothing", "example.com", "gadgets")] {
        assert_eq!(ns.wire().post(MIGRATIONS, &migration(name, group, resource)).0, 201);
    }
    let done = until_condition(&ns, "maps", "Succeeded");
    assert_eq!(ns.wire().get(&format!("{maps}/m")).1, before, "it was in today's form");
    // The spec stays as it is, the status goes one way only, and what is wrong is said.
    let path = format!("{MIGRATIONS}/maps");
    let (code, said) = ns.wire().merge(&path, &json!({"spec": {"resource": {"resource": "secrets"}}}));
    assert_eq!((code, &said["details"]["causes"][0]["field"]), (422, &json!("spec")), "{said}");
    let (code, said) = ns.wire().merge(&format!("{path}/status"), &json!({"status": {"resourceVersion": "1"}}));
    assert_eq!((code, &said["details"]["causes"][0]["field"]), (422, &json!("status.resourceVersion")), "{said}");
    let (code, said) = ns.wire().merge(&format!("{path}/status"), &json!({"status": {"conditions": []}}));
    assert!(code == 422 && said["message"].as_str().unwrap().contains("Success condition"), "{code} {said}");
    let (code, said) = ns.wire().post(MIGRATIONS, &migration("bad", "Bad Group", ""));
    let causes = said["details"]["causes"].as_array().cloned().unwrap_or_default();
    let fields: Vec<&str> = causes.iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!((code, fields), (422, vec!["spec.resource.resource", "spec.resource.group"]), "{said}");
    let mut claims = migration("claims", "", "configmaps");
    claims["status"] = done["status"].clone();
    let (_, said) = ns.wire().post(&format!("{MIGRATIONS}?dryRun=All"), &claims);
    assert!(condition_of(&said, "Succeeded").is_none(), "a creation says no status: {said}");
    // Shown by name and age; described; and its role is there.
    let shown = ns.ok(&["get", "storageversionmigrations", "maps"]);
    assert!(shown.starts_with("NAME") && shown.contains("AGE"), "{shown}");
    assert!(ns.ok(&["explain", "storageversionmigrations.spec.resource"]).contains("GroupResource"));
    assert!(ns.ok(&["get", "apiservice", "v1beta1.storagemigration.k8s.io"]).contains("Local"));
    ns.ok(&["get", "clusterrole", "system:controller:storage-version-migrator-controller"]);
    // A minute is given to what was defined just now.
    let (_, waits) = ns.wire().get(&format!("{MIGRATIONS}/nothing"));
    assert!(condition_of(&waits, "Running").is_none(), "there is nothing to run on: {waits}");
}
