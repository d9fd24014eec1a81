#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::*;
use crate::kinds::KindTable;

#[test]
fn aggregated_agrees_with_the_reference() {
    let Some(theirs) = crate::reference::read("discovery/aggregated_v2.json") else { return };
    let mut theirs: Value = serde_json::from_slice(&theirs).unwrap();
    let mut ours = aggregated(&KindTable::all(), Door::Apis, "v2");
    // The published document is not in serving order.
    for document in [&mut theirs, &mut ours] {
        let items = document["items"].as_array_mut().unwrap();
        items.sort_by_key(|g| g["metadata"]["name"].as_str().unwrap().to_owned());
        for group in items {
            group["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
        }
    }
    for (theirs, ours) in theirs["items"].as_array().unwrap().iter().zip(ours["items"].as_array().unwrap()) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(theirs["items"].as_array().unwrap().len(), ours["items"].as_array().unwrap().len());
}

/// What is served by default, one line a resource; a change of it is a change of the product.
#[test]
fn served_resources_are_the_golden_list() {
    let table = KindTable::builtin();
    let mut lines = Vec::new();
    let mut group_versions = vec![("".to_owned(), "v1".to_owned())];
    for group in groups(&table) {
        group_versions.extend(group.versions.iter().map(|v| (group.name.to_string(), v.to_string())));
    }
    for (group, version) in group_versions {
        let list = api_resource_list(&table, &group, &version).unwrap();
        for resource in list["resources"].as_array().unwrap() {
            let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
            let all = |key: &str| {
                let items = resource[key].as_array().into_iter().flatten().filter_map(Value::as_str);
                items.collect::<Vec<_>>().join(",")
            };
            lines.push(format!(
                "{} {} {} {} {} {} {} {}",
                list["groupVersion"].as_str().unwrap(),
                text("name"),
                [text("group"), text("version"), text("kind")].join("/"),
                if resource["namespaced"] == true { "namespaced" } else { "cluster" },
                text("singularName"),
                all("verbs"),
                all("shortNames"),
                all("categories"),
            ));
        }
    }
    let ours = lines.join("\n") + "\n";
    if std::env::var_os("CARAVEL_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/discovery/golden.txt"), &ours).unwrap();
    }
    assert_eq!(ours, include_str!("golden.txt"), "run with CARAVEL_BLESS=1 if the change is meant");
}

#[test]
fn accept_headers_choose_the_generation() {
    let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(is_aggregated_request(kubectl), Some("v2"));
    assert_eq!(
        is_aggregated_request("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
        Some("v2beta1")
    );
    assert_eq!(is_aggregated_request("application/json"), None);
    assert_eq!(is_aggregated_request("*/*"), None);
    assert_eq!(is_aggregated_request(""), None);
}

#[test]
fn groups_name_their_preferred_version() {
    let table = KindTable::all();
    let group = api_group(&table, "autoscaling").unwrap();
    assert_eq!(group["preferredVersion"]["groupVersion"], "autoscaling/v2");
    assert!(api_group(&table, "nope").is_none());
    assert!(api_resource_list(&table, "apps", "v9").is_none());
    let list = api_group_list(&table);
    assert_eq!(list["groups"][0]["name"], "apiregistration.k8s.io");
    assert_eq!(api_versions("h:1")["versions"][0], "v1");
}
