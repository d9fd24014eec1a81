#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn a_pod(node: &str, phase: &str, made: Value) -> Pod {
    from(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"nodeName": node, "containers": [], "resourceClaims": [
            {"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "net", "resourceClaimName": "shared"}]},
        "status": {"phase": phase, "resourceClaimStatuses": made}}))
}

fn a_claim(name: &str, owner: &str, more: Value) -> ResourceClaim {
    let mut claim = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "annotations": {POD_CLAIM_NAME: "gpu"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}, "spec": {}});
    for (key, value) in more.as_object().unwrap() {
        if key == "metadata" {
            claim["metadata"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        } else {
            claim[key] = value.clone();
        }
    }
    from(claim)
}

fn plan_with(pod: &Pod, claims: &[ResourceClaim], templates: bool) -> PodPlan {
    let template: ResourceClaimTemplate = from(json!({"metadata": {"name": "t"}, "spec": {
        "metadata": {"labels": {"l": "1"}, "annotations": {"a": "1"}},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}}));
    let owned: Vec<_> = claims.iter().filter(|c| controlled_by(*c, uid(pod))).cloned().collect();
    let around = Around {
        claim: &|wanted| claims.iter().find(|c| name(*c) == wanted).cloned(),
        template: &|_| templates.then(|| template.clone()),
        owned: &owned,
    };
    plan_pod(pod, &around)
}

#[test]
fn claims_of_pods() {
    let made = json!([{"name": "gpu", "resourceClaimName": "p-gpu-1"}]);
    let fresh = a_pod("", "Pending", json!([]));
    let plan = plan_with(&fresh, &[], true);
    let (entry, claim) = &plan.make[0];
    assert_eq!((entry.as_str(), claim.metadata.generate_name.as_deref()), ("gpu", Some("p-gpu-")));
    assert_eq!(annotation(claim, POD_CLAIM_NAME), Some("gpu"));
    assert_eq!(annotation(claim, "a"), Some("1"));
    assert!(controlled_by(claim, "u") && claim.spec.devices.is_some());

    let noted = [("gpu".to_owned(), "p-gpu-1".to_owned())].into();
    let one = || a_claim("p-gpu-1", "u", json!({}));
    for (name, pod, claims, want) in [
        ("made, but not noted", fresh.clone(), vec![one()], PodPlan { note: noted, ..PodPlan::default() }),
        ("made and noted", a_pod("", "Pending", made.clone()), vec![one()], PodPlan::default()),
        ("not needed", a_pod("", "Pending", json!([{"name": "gpu"}])), vec![], PodPlan::default()),
        ("finished", a_pod("", "Succeeded", json!([])), vec![], PodPlan::default()),
    ] {
        assert_eq!(plan_with(&pod, &claims, true), want, "{name}");
    }
    let lost = plan_with(&a_pod("", "Pending", made.clone()), &[], true);
    assert_eq!(lost.make.len(), 1, "somebody deleted it");
    assert_eq!(lost.doubt["gpu"], "p-gpu-1", "if it is so");
    let foreign = plan_with(&a_pod("", "Pending", made), &[a_claim("p-gpu-1", "another", json!({}))], true);
    assert_eq!(foreign.make.len(), 1, "another's claim of the name");
    let wrong = plan_with(&fresh, &[], false).wrong;
    assert!(wrong[0].1.contains("not found"), "{wrong:?}");
}

#[test]
fn pods_that_came_without_the_scheduler_get_their_reservation() {
    let pod = a_pod("n", "Pending", json!([{"name": "gpu"}]));
    for (name, status, want) in [
        ("allocated", json!({"allocation": {}}), true),
        ("not allocated", json!({}), false),
        (
            "reserved already",
            json!({"allocation": {}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}),
            false,
        ),
    ] {
        let shared = a_claim("shared", "nobody", json!({"status": status}));
        let plan = plan_with(&pod, &[shared], true);
        assert_eq!(plan.reserve.len(), usize::from(want), "{name}");
    }
}

#[test]
fn long_names_keep_something_of_both() {
    let base = base_name(&"p".repeat(60), &"c".repeat(40));
    assert!(base.len() <= MAX_BASE && base.contains("pp-cc"), "{base}");
}

#[test]
fn claims_and_their_users() {
    use User::{Gone, Needs};
    let users = |n: usize| -> Value {
        (0..n).map(|i| json!({"resource": "pods", "name": "x", "uid": i.to_string()})).collect::<Vec<_>>().into()
    };
    let claim = |reserved: usize, allocated: bool, deleted: bool, protected: bool| {
        a_claim(
            "c",
            "u",
            json!({"metadata": {"finalizers": if protected { json!([FINALIZER]) } else { json!([]) },
            "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z")},
            "status": {"reservedFor": users(reserved), "allocation": allocated.then(|| json!({}))}}),
        )
    };
    // What is left: users, allocation (None: the status is not written); unprotect, delete.
    for (name, c, known, owner, want) in [
        ("in use", claim(1, true, false, true), vec![Needs], Owner::Needs, (None, false, false)),
        (
            "one of two goes",
            claim(2, true, false, true),
            vec![Gone, Needs],
            Owner::Unknown,
            (Some((1, true)), false, false),
        ),
        ("the last goes", claim(1, true, false, true), vec![Gone], Owner::Unknown, (Some((0, false)), true, false)),
        (
            "the last goes, and its pod",
            claim(1, true, false, true),
            vec![Gone],
            Owner::Done,
            (Some((0, false)), true, true),
        ),
        ("nobody yet", claim(0, true, false, true), vec![], Owner::Unknown, (None, false, false)),
        ("deleted in use", claim(1, true, true, true), vec![Needs], Owner::Needs, (None, false, false)),
        ("deleted and unused", claim(0, true, true, true), vec![], Owner::Unknown, (Some((0, false)), true, false)),
        ("deleted, freed before", claim(0, false, true, true), vec![], Owner::Unknown, (None, true, false)),
        ("freed before, its pod done", claim(0, false, false, true), vec![], Owner::Done, (None, true, true)),
        ("being allocated", claim(0, false, false, true), vec![], Owner::Needs, (None, false, false)),
        ("never used, its pod done", claim(0, false, false, false), vec![], Owner::Done, (None, false, true)),
        ("of an unknown user", claim(1, true, false, true), vec![User::Unknown], Owner::Unknown, (None, false, false)),
    ] {
        let plan = plan_claim(&c, &known, owner);
        let status = plan.status.map(|s| (s.reserved_for.map_or(0, |r| r.len()), s.allocation.is_some()));
        assert_eq!((status, plan.unprotect, plan.delete), want, "{name}");
    }
}

#[test]
fn owners() {
    let running = a_pod("n", "Running", json!([{"name": "gpu", "resourceClaimName": "c"}]));
    let c = |name: &str, owner: &str| a_claim(name, owner, json!({}));
    for (name, claim, pod, want) in [
        ("its pod runs", c("c", "u"), Some(&running), Owner::Needs),
        ("its pod uses another in its place", c("c2", "u"), Some(&running), Owner::Done),
        ("its pod was replaced", c("c", "former"), Some(&running), Owner::Done),
        ("its pod is not known", c("c", "u"), None, Owner::Unknown),
        ("its pod has ended", c("c", "u"), Some(&a_pod("n", "Failed", json!([]))), Owner::Done),
    ] {
        assert_eq!(owner(&claim, pod), want, "{name}");
    }
    let mut nobodys = c("c", "u");
    nobodys.metadata.owner_references = None;
    assert_eq!(owner(&nobodys, Some(&running)), Owner::Unknown);
}
