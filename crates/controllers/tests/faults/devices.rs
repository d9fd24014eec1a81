//! The story of resource claims: made from a template, given devices by the world's scheduler, given back.

use caravel_api::meta;
use serde_json::{Value, json};

use crate::scenarios::expect;
use crate::world::World;
use crate::{PACE, Scenario, play};

const GROUP: &str = "resource.k8s.io";
const CLAIMS: &str = "resourceclaims";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

fn claim_of(pod: &Value, entry: &Value) -> Option<String> {
    if let Some(name) = entry["resourceClaimName"].as_str() {
        return Some(name.to_owned());
    }
    let mut made = pod["status"]["resourceClaimStatuses"].as_array().into_iter().flatten();
    made.find(|s| s["name"] == entry["name"])?["resourceClaimName"].as_str().map(str::to_owned)
}

fn status(w: &mut World, name: &str, status: Value) {
    let kind = w.table.resource(GROUP, "v1", CLAIMS).unwrap().clone();
    w.update(&kind, "d", name, json!({"metadata": {}, "status": status}), Some("status")).unwrap();
}

/// Gives all claims of a pod devices and reserves them for it, as the scheduler does; `false` while that cannot be done.
pub fn given(w: &mut World, pod: &Value) -> bool {
    let Some(entries) = pod["spec"]["resourceClaims"].as_array() else { return true };
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return false;
    }
    let Some(names) = entries.iter().map(|e| claim_of(pod, e)).collect::<Option<Vec<_>>>() else { return false };
    let usable = |name: &String| w.get(GROUP, CLAIMS, "d", name).is_some_and(|c| !meta::is_deleting(c));
    if !names.iter().all(usable) {
        return false;
    }
    for name in names {
        w.edit(GROUP, CLAIMS, "d", &name, |c| c["metadata"]["finalizers"] = json!([FINALIZER]));
        let claim = w.get(GROUP, CLAIMS, "d", &name).unwrap();
        let mut users = claim["status"]["reservedFor"].as_array().cloned().unwrap_or_default();
        users.push(json!({"resource": "pods", "name": meta::name(pod), "uid": meta::uid(pod)}));
        let mut result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
        let tolerations = &claim["spec"]["devices"]["requests"][0]["exactly"]["tolerations"];
        if tolerations.is_array() {
            result["tolerations"] = tolerations.clone();
        }
        let results = json!([result]);
        status(w, &name, json!({"allocation": {"devices": {"results": results}}, "reservedFor": users}));
    }
    true
}

fn requests() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}})
}

fn pod(w: &mut World, name: &str, shared: bool) {
    let mut claims = vec![json!({"name": "gpu", "resourceClaimTemplateName": "t"})];
    if shared {
        claims.push(json!({"name": "net", "resourceClaimName": "shared"}));
    }
    w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
        "spec": {"resourceClaims": claims, "containers": [{"name": "c", "image": "v1"}]}}));
}

#[test]
fn resource_claims() {
    play(&Scenario {
        controllers: &["resourceclaim-controller", "garbage-collector-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for name in ["ends", "stays"] {
                    pod(w, name, name == "stays");
                }
                for name in ["shared", "extra"] {
                    w.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                        "metadata": {"name": name, "namespace": "d", "finalizers": [FINALIZER]}, "spec": requests()}));
                }
            },
            |w| {
                w.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
                    "metadata": {"name": "t", "namespace": "d"}, "spec": {"spec": requests()}}));
                pod(w, "goes", true);
            },
            |w| {
                let kind = w.table.resource("", "v1", "pods").unwrap().clone();
                let mut ended = w.get("", "pods", "d", "ends").unwrap()["status"].clone();
                ended["phase"] = json!("Succeeded");
                w.update(&kind, "d", "ends", json!({"metadata": {}, "status": ended}), Some("status")).unwrap();
            },
            |w| w.remove("", "pods", "d", "goes", &Value::Null),
            |w| w.remove(GROUP, CLAIMS, "d", "extra", &Value::Null),
        ],
        goal: |w| {
            let stays = w.get("", "pods", "d", "stays").ok_or("stays is gone")?;
            let own = claim_of(stays, &json!({"name": "gpu"})).ok_or("stays has no claim")?;
            let mut left: Vec<_> = w.all(GROUP, CLAIMS).iter().map(|c| meta::name(c).to_owned()).collect();
            left.sort();
            let mut wanted = vec!["shared".to_owned(), own.clone()];
            wanted.sort();
            expect("claims", left, wanted).map_err(|e| format!("{e}: {:?}", w.all(GROUP, CLAIMS)))?;
            for name in ["shared", &own] {
                let claim = w.get(GROUP, CLAIMS, "d", name).ok_or("a claim is gone")?;
                let users: Vec<_> = claim["status"]["reservedFor"].as_array().into_iter().flatten().collect();
                expect(name, users.iter().map(|u| &u["uid"]).collect::<Vec<_>>(), vec![&stays["metadata"]["uid"]])?;
                expect(name, claim["status"]["allocation"].is_object(), true)?;
            }
            Ok(())
        },
    });
}

/// A slice with the one device of the world, of a generation, with a taint if an effect is given.
fn slice(w: &mut World, name: &str, generation: i64, effect: Option<&str>) {
    let taints = effect.map(|e| json!([{"key": "broken", "effect": e, "timeAdded": "2020-01-01T00:00:00Z"}]));
    w.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": {
        "driver": "d", "nodeName": "n0", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
        "devices": [{"name": "x", "taints": taints}]}}));
}

fn tolerant(w: &mut World, name: &str, tolerations: Value) {
    let mut spec = requests();
    spec["devices"]["requests"][0]["exactly"]["tolerations"] = tolerations;
    w.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "d", "finalizers": [FINALIZER]}, "spec": spec}));
    let claims = json!([{"name": "gpu", "resourceClaimName": name}]);
    w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
        "spec": {"resourceClaims": claims, "containers": [{"name": "c", "image": "v1"}]}}));
}

#[test]
fn device_taints() {
    play(&Scenario {
        controllers: &["device-taint-eviction-controller", "resourceclaim-controller", "garbage-collector-controller"],
        pace: PACE,
        steps: &[
            |w| {
                let stays = json!([{"key": "broken", "operator": "Exists", "effect": "NoExecute"}]);
                let later = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
                for (name, tolerations) in [("goes", Value::Null), ("stays", stays), ("later", later)] {
                    tolerant(w, name, tolerations);
                }
                w.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
                    "metadata": {"name": "t", "namespace": "d"}, "spec": {"spec": requests()}}));
                pod(w, "made", false);
                w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": "d"},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}}));
                slice(w, "s", 1, None);
            },
            |w| {
                w.edit(GROUP, "resourceslices", "", "s", |s| {
                    s["spec"]["devices"][0]["taints"] = json!([{"key": "broken", "effect": "NoSchedule"}]);
                })
            },
            |w| slice(w, "newer", 2, Some("NoExecute")),
        ],
        goal: |w| {
            let mut left: Vec<_> = w.all("", "pods").iter().map(|p| meta::name(p).to_owned()).collect();
            left.sort();
            expect("pods", left, vec!["plain".to_owned(), "stays".to_owned()])?;
            let claim = w.get(GROUP, CLAIMS, "d", "goes").ok_or("a claim of a user's own is gone")?;
            expect("given back", claim["status"]["allocation"].is_null(), true)
        },
    });
}
