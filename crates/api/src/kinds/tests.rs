#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::convert::convert;
use super::*;
use crate::schema::Schema;

#[test]
fn every_row_is_found_by_resource_and_by_kind_and_has_a_schema() {
    let table = KindTable::all();
    assert!(table.len() > 90, "{} rows", table.len());
    for row in table.iter() {
        assert!(Arc::ptr_eq(table.resource(&row.group, &row.version, &row.plural).unwrap(), row));
        assert!(Arc::ptr_eq(table.kind(&row.group, &row.version, &row.kind).unwrap(), row));
        let SchemaSource::Builtin(name) = &row.schema_source else { panic!("custom row") };
        let schema = Schema::builtin(name).unwrap_or_else(|| panic!("no type {name}"));
        assert!(schema.root().field("kind").is_some(), "{name}");
        for sub in &row.subresources {
            assert!(
                sub.kind.kind.ends_with("Options")
                    || table.kind(&sub.kind.group, &sub.kind.version, &sub.kind.kind).is_some()
                    || matches!(&*sub.kind.kind, "Scale" | "Eviction" | "TokenRequest"),
                "{} {:?}",
                row.plural,
                sub
            );
        }
    }
    assert!(table.resource("apps", "v1", "pods").is_none());
}

#[test]
fn storage_versions_are_the_preferred_ones() {
    let table = KindTable::all();
    let stored = |group: &str, version: &str, plural: &str| {
        table.resource(group, version, plural).unwrap().storage_api_version()
    };
    assert_eq!(stored("autoscaling", "v1", "horizontalpodautoscalers"), "autoscaling/v2");
    assert_eq!(stored("events.k8s.io", "v1", "events"), "v1");
    assert_eq!(stored("networking.k8s.io", "v1beta1", "ipaddresses"), "networking.k8s.io/v1");
    assert_eq!(stored("resource.k8s.io", "v1alpha3", "devicetaintrules"), "resource.k8s.io/v1beta2");
    for row in table.iter() {
        assert!(table.storage_row(row).is_some(), "{}", row.gvk());
    }
}

#[test]
fn versions_sort_like_the_documentation_of_definitions() {
    let mut versions =
        ["foo1", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo10", "v2", "v10", "v1", "v11beta2"];
    versions.sort_by(|a, b| compare_versions(a, b));
    assert_eq!(
        versions,
        ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
    );
}

/// The table against the published discovery document, where it lies beside the repository.
#[test]
fn rows_agree_with_the_reference() {
    let Some(document) = crate::reference::read("discovery/aggregated_v2.json") else { return };
    let document: Value = serde_json::from_slice(&document).unwrap();
    let table = KindTable::all();
    let mut seen = 0;
    for group in document["items"].as_array().unwrap() {
        let name = group["metadata"]["name"].as_str().unwrap();
        for version in group["versions"].as_array().unwrap() {
            for resource in version["resources"].as_array().unwrap() {
                let row = table
                    .resource(name, version["version"].as_str().unwrap(), resource["resource"].as_str().unwrap())
                    .unwrap_or_else(|| panic!("no row for {resource}"));
                assert_eq!(resource["responseKind"]["kind"], *row.kind);
                assert_eq!(resource["scope"] == "Namespaced", row.namespaced);
                assert_eq!(resource["singularResource"], *row.singular);
                assert_eq!(resource["verbs"], json!(row.verbs.names().collect::<Vec<_>>()));
                assert_eq!(resource["shortNames"].as_array().map_or(0, Vec::len), row.short_names.len());
                assert_eq!(resource["categories"].as_array().map_or(0, Vec::len), row.categories.len());
                let subs: Vec<_> = resource["subresources"].as_array().into_iter().flatten().collect();
                assert_eq!(subs.len(), row.subresources.len());
                for sub in subs {
                    let ours = row.subresource(sub["subresource"].as_str().unwrap()).unwrap();
                    assert_eq!(sub["responseKind"]["kind"], *ours.kind.kind);
                    assert_eq!(sub["verbs"], json!(ours.verbs.names().collect::<Vec<_>>()));
                }
                seen += 1;
            }
        }
    }
    assert_eq!(seen, table.iter().filter(|k| !k.group.is_empty()).count());
}

#[test]
fn events_convert_both_ways() {
    let table = KindTable::builtin();
    let core = table.resource("", "v1", "events").unwrap();
    let events = table.resource("events.k8s.io", "v1", "events").unwrap();
    let original = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
        "message": "m", "count": 3, "source": {"component": "c"}, "reportingComponent": "r", "eventTime": "t"});
    let mut value = original.clone();
    convert(&mut value, core, events);
    assert_eq!(value["regarding"]["name"], "p");
    assert_eq!(value["apiVersion"], "events.k8s.io/v1");
    assert_eq!(value["deprecatedCount"], 3);
    assert!(value.get("message").is_none());
    convert(&mut value, events, core);
    assert_eq!(value, original);
}

#[test]
fn autoscalers_keep_what_v1_cannot_say() {
    let table = KindTable::builtin();
    let v1 = table.resource("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
    let v2 = table.resource("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
    let original = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "metrics": [pods, cpu], "behavior": {"scaleUp": {"policies": []}}}, "status": {}});
    let mut value = original.clone();
    convert(&mut value, v2, v1);
    assert_eq!(value["spec"]["targetCPUUtilizationPercentage"], 80);
    let kept = value["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap();
    assert!(kept.contains("\"targetAverageValue\":\"10\""), "{kept}");
    convert(&mut value, v1, v2);
    assert_eq!(value, original);
}

#[test]
fn definitions_become_rows() {
    let definition = json!({
        "metadata": {"name": "crons.example.com", "uid": "u"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "crons", "kind": "Cron", "shortNames": ["cr"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                    "properties": {"replicas": {"type": "integer"}}}}}}},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true},
                {"name": "v1alpha1", "served": false, "storage": false}]}});
    // Not accepted yet: the fields are there, as Go writes them, and say nothing.
    let mut fresh = definition.clone();
    fresh["status"] = json!({"acceptedNames": {"plural": "", "kind": ""}});
    assert_eq!(custom::from_definition(&fresh).unwrap()[0].plural, "crons");
    let rows = custom::from_definition(&definition).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].subresources.len(), 2);
    assert_eq!(rows[1].storage_version, "v1");
    assert_eq!(rows[1].deprecation.as_deref(), Some("example.com/v1beta1 Cron is deprecated"));
    assert_eq!(rows[0].list_kind, "CronList");
    let mut table = KindTable::builtin();
    let before = table.len();
    for row in rows {
        table.insert(Arc::new(row));
    }
    assert_eq!(table.len(), before + 2);
    assert_eq!(table.versions("example.com", "crons").count(), 2);
    assert!(table.remove("example.com", "v1", "crons").is_some());
    assert!(table.kind("example.com", "v1", "Cron").is_none());
}

#[test]
fn what_is_off_by_default_can_be_served() {
    let mut table = KindTable::builtin();
    let served =
        |table: &KindTable| table.resource("storagemigration.k8s.io", "v1beta1", "storageversionmigrations").is_some();
    assert!(!served(&table));
    assert!(table.serve("storagemigration.k8s.io", "v1beta1"));
    assert!(served(&table));
    assert!(!table.serve("storagemigration.k8s.io", "v9"));
}
