//! Discovery: the documents of groups, versions and resources in their two generations, the version, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn get(ns: &Namespace, path: &str, accept: &str) -> (u16, Value) {
    ns.wire().send("GET", path, &[("accept", accept)], vec![])
}

/// What the aggregated document has of a group and version.
fn version_of(document: &Value, group: &str, version: &str) -> Option<Value> {
    let groups = document["items"].as_array()?;
    let named = |g: &&Value| g["metadata"]["name"].as_str().unwrap_or_default() == group;
    groups.iter().find(named)?["versions"].as_array()?.iter().find(|v| v["version"] == version).cloned()
}

fn has(version: &Value, resource: &str) -> bool {
    version["resources"].as_array().is_some_and(|all| all.iter().any(|r| r["resource"] == resource))
}

/// Some of what every cluster has.
const BUILT_IN: [(&str, &str, &str); 9] = [
    ("", "v1", "pods"),
    ("", "v1", "namespaces"),
    ("apps", "v1", "deployments"),
    ("batch", "v1", "jobs"),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("authorization.k8s.io", "v1", "subjectaccessreviews"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
];

#[test]
fn one_document_has_everything() {
    let ns = Namespace::new("disc-one");
    let (code, core) = get(&ns, "/api", AGGREGATED);
    assert_eq!((code, &core["kind"]), (200, &json!("APIGroupDiscoveryList")));
    let (code, named) = get(&ns, "/apis", AGGREGATED);
    assert_eq!((code, &named["apiVersion"]), (200, &json!("apidiscovery.k8s.io/v2")));
    for (group, version, resource) in BUILT_IN {
        let document = if group.is_empty() { &core } else { &named };
        let found = version_of(document, group, version).unwrap_or_else(|| panic!("{group}/{version}"));
        assert!(has(&found, resource), "{group}/{version} {resource}");
        assert_eq!(found["freshness"], "Current");
    }
    let pods = version_of(&core, "", "v1").unwrap();
    let pods = pods["resources"].as_array().unwrap().iter().find(|r| r["resource"] == "pods").unwrap().clone();
    assert_eq!((&pods["scope"], &pods["responseKind"]["kind"]), (&json!("Namespaced"), &json!("Pod")));
    assert!(pods["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "status"));
    // The two generations tell the same.
    let (_, groups) = ns.wire().get("/apis");
    for group in groups["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        for version in group["versions"].as_array().unwrap() {
            let version = version["version"].as_str().unwrap();
            if version_of(&named, name, version).is_none() {
                // Others' groups come and go while this runs.
                assert!(name.ends_with("example.com"), "{name}/{version} is only in the older list");
            }
        }
    }
}

#[test]
fn the_older_and_the_newer_document_are_asked_for_by_type() {
    let ns = Namespace::new("disc-accept");
    for path in ["/api", "/apis"] {
        let older = if path == "/api" { "APIVersions" } else { "APIGroupList" };
        for (accept, kind) in [
            (AGGREGATED, "APIGroupDiscoveryList"),
            ("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", "APIGroupDiscoveryList"),
            ("application/json", older),
            ("*/*", older),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                "APIGroupDiscoveryList",
            ),
            ("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json", older),
        ] {
            let (code, document) = get(&ns, path, accept);
            assert_eq!((code, document["kind"].as_str().unwrap()), (200, kind), "{path} {accept}");
        }
    }
    let (_, document) = get(&ns, "/apis", AGGREGATED);
    for (group, version, resource) in BUILT_IN.iter().filter(|(group, ..)| !group.is_empty()) {
        assert!(has(&version_of(&document, group, version).unwrap(), resource), "{resource}");
    }
}

/// A definition of this kind appears in the document, with all that is to be known, and goes from it.
fn custom_group(ns: &Namespace, seen: impl Fn(&str) -> Option<Value>) {
    let group = format!("{}.example.com", ns.name);
    let version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object"}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "versions": [version],
            "names": {"plural": "things", "kind": "Thing", "singular": "thing", "shortNames": ["tg"], "categories": ["all"]}},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, said) = ns.wire().post(definitions, &definition);
    assert_eq!(code, 201, "{said}");
    let found = ns.eventually("the custom resource is discovered", || {
        seen(&group).filter(|v| has(v, "things")).ok_or_else(|| "not yet".to_owned())
    });
    let row = found["resources"].as_array().unwrap().iter().find(|r| r["resource"] == "things").unwrap();
    assert_eq!(row["responseKind"], json!({"group": group, "version": "v1", "kind": "Thing"}));
    assert_eq!((&row["scope"], &row["singularResource"]), (&json!("Namespaced"), &json!("thing")));
    assert_eq!((&row["shortNames"], &row["categories"]), (&json!(["tg"]), &json!(["all"])));
    assert_eq!(
        row["verbs"],
        json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    );
    assert_eq!(row["subresources"][0]["subresource"], "status");
    assert_eq!(ns.wire().delete(&format!("{definitions}/things.{group}")).0, 200);
    ns.eventually("it goes from the document", || match seen(&group) {
        None => Ok(()),
        Some(still) => Err(still.to_string()),
    });
}

#[test]
fn custom_resources_are_in_the_document() {
    let ns = Namespace::new("disc-custom");
    custom_group(&ns, |group| version_of(&get(&ns, "/apis", AGGREGATED).1, group, "v1"));
}

#[test]
fn custom_resources_are_in_the_raw_document() {
    let ns = Namespace::new("disc-raw");
    let both = format!("{AGGREGATED},application/json");
    custom_group(&ns, |group| version_of(&get(&ns, "/apis", &both).1, group, "v1"));
}

#[test]
fn a_document_that_did_not_change_is_not_sent_again() {
    let ns = Namespace::new("disc-etag");
    let answer = ns.ok(&["get", "--raw", "/api", "-v=8"]);
    assert!(answer.contains("APIVersions"));
    // Through curl, which shows headers: the client of these tests does not.
    let kubeconfig: serde_yaml::Value = serde_yaml::from_str(&ns.ok(&["config", "view", "--raw", "--minify"])).unwrap();
    let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
    let token = ns.ok(&["create", "token", "default"]);
    let curl = |more: &[&str]| {
        let bearer = format!("authorization: Bearer {}", token.trim());
        let accept = format!("accept: {AGGREGATED}");
        let mut command = std::process::Command::new("curl");
        command
            .args(["-sk", "-D", "-", "-o", "/dev/null", "-H", &bearer, "-H", &accept])
            .args(more)
            .arg(format!("{server}/api"));
        String::from_utf8_lossy(&command.output().unwrap().stdout).to_lowercase()
    };
    let head = curl(&[]);
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_uppercase();
    assert!(head.contains("vary: accept") && head.contains("as=apigroupdiscoverylist"), "{head}");
    let again = curl(&["-H", &format!("if-none-match: {etag}")]);
    assert!(again.lines().next().unwrap().contains("304"), "{again}");
}

#[test]
fn every_group_prefers_a_version_it_has() {
    let ns = Namespace::new("disc-prefer");
    let (_, groups) = ns.wire().get("/apis");
    for group in groups["groups"].as_array().unwrap() {
        let (preferred, versions) = (&group["preferredVersion"], group["versions"].as_array().unwrap());
        assert!(versions.contains(preferred), "{group}");
        let wanted = format!("{}/{}", group["name"].as_str().unwrap(), preferred["version"].as_str().unwrap());
        assert_eq!(preferred["groupVersion"], wanted);
    }
}

#[test]
fn every_group_version_has_its_resources() {
    let ns = Namespace::new("disc-resources");
    let (_, groups) = ns.wire().get("/apis");
    let mut seen = 0;
    for group in groups["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        if name.ends_with("example.com") {
            continue;
        }
        let (code, one) = ns.wire().get(&format!("/apis/{name}"));
        assert_eq!((code, &one["kind"], &one["name"]), (200, &json!("APIGroup"), &group["name"]));
        for version in group["versions"].as_array().unwrap() {
            let group_version = version["groupVersion"].as_str().unwrap();
            let (code, list) = ns.wire().get(&format!("/apis/{group_version}"));
            assert_eq!(
                (code, &list["kind"], &list["groupVersion"]),
                (200, &json!("APIResourceList"), &version["groupVersion"])
            );
            let first = &list["resources"][0];
            assert!(first["name"].is_string() && first["kind"].is_string() && first["verbs"].is_array(), "{list}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn the_version_is_two_whole_numbers() {
    let ns = Namespace::new("disc-version");
    let (code, version) = ns.wire().get("/version");
    assert_eq!(code, 200);
    for field in ["major", "minor"] {
        let text = version[field].as_str().unwrap();
        assert!(text.parse::<u32>().is_ok(), "{field}: {text}");
    }
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
}

#[test]
fn a_table_of_what_is_no_object_is_refused() {
    let ns = Namespace::new("disc-table");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "default", "resource": "pods", "verb": "get"}}});
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, said) = ns.wire().send("POST", path, &headers, review.to_string().into_bytes());
    assert_eq!((code, &said["reason"]), (406, &json!("NotAcceptable")), "{said}");
}
