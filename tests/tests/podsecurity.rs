//! The Pod Security Standards, as a namespace's labels ask for them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

const RESTRICTED: &str = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

fn labelled(prefix: &str, labels: Value) -> Namespace {
    let ns = Namespace::new(prefix);
    let (code, said) = label(&ns, labels);
    assert_eq!(code, 200, "{said}");
    ns
}

fn label(ns: &Namespace, labels: Value) -> (u16, Value) {
    ns.wire().merge(&format!("/api/v1/namespaces/{}", ns.name), &json!({"metadata": {"labels": labels}}))
}

fn create(ns: &Namespace, spec: Value) -> (u16, Value) {
    let pod = json!({"metadata": {"generateName": "p-"}, "spec": spec});
    ns.wire().post(&format!("/api/v1/namespaces/{}/pods", ns.name), &pod)
}

fn plain() -> Value {
    json!({"nodeSelector": {"none": "such"}, "containers": [{"name": "c", "image": "test/busybox:1"}]})
}

fn careful() -> Value {
    json!({"nodeSelector": {"none": "such"}, "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "test/busybox:1", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]})
}

#[test]
fn restricted_is_enforced() {
    let ns = labelled("restricted", json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let (code, said) = create(&ns, plain());
    assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")), "{said}");
    let message = said["message"].as_str().unwrap();
    assert!(
        message.ends_with(&format!("is forbidden: violates PodSecurity \"restricted:latest\": {RESTRICTED}")),
        "{message}"
    );
    let (code, said) = create(&ns, careful());
    assert_eq!(code, 201, "{said}");
    let mut root = careful();
    root["securityContext"]["runAsUser"] = json!(0);
    let (code, said) = create(&ns, root);
    assert!(
        code == 403 && said["message"].as_str().unwrap().ends_with("runAsUser=0 (pod must not set runAsUser=0)"),
        "{said}"
    );
    // A workload is made, and its Pods are refused: the ReplicaSet says why.
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": plain()});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, said) = ns.wire().post(&format!("/apis/apps/v1/namespaces/{}/deployments", ns.name), &deployment);
    assert_eq!(code, 201, "{said}");
    ns.until_that("deployments.apps/d", |d| {
        let all = d["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|c| {
            c["type"] == "ReplicaFailure" && c["message"].as_str().is_some_and(|m| m.contains("violates PodSecurity"))
        })
    });
}

#[test]
fn baseline_is_enforced_and_privileged_lets_through() {
    let ns = labelled(
        "baseline",
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"}),
    );
    assert_eq!(create(&ns, plain()).0, 201);
    let mut host = plain();
    host["hostNetwork"] = json!(true);
    host["volumes"] = json!([{"name": "v", "hostPath": {"path": "/tmp"}}]);
    host["containers"][0]["securityContext"] = json!({"privileged": true});
    let (code, said) = create(&ns, host.clone());
    assert_eq!(code, 403, "{said}");
    let message = said["message"].as_str().unwrap();
    for part in [
        "violates PodSecurity \"baseline:v1.30\": ",
        "host namespaces (hostNetwork=true)",
        "hostPath volumes (volume \"v\")",
        "privileged (container \"c\" must not set securityContext.privileged=true)",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(label(&ns, json!({"pod-security.kubernetes.io/enforce": "privileged"})).0, 200);
    let (code, said) = create(&ns, host);
    assert_eq!(code, 201, "{said}");
}

/// Warnings come for Pods and for what would make them; kubectl shows them.
#[test]
fn warnings_are_told() {
    let ns = labelled("warned", json!({"pod-security.kubernetes.io/warn": "restricted"}));
    let warned = |words: &[&str]| {
        let out = ns.command(words).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let said = warned(&["run", "c", "--image=test/busybox:1", "--dry-run=server"]);
    assert!(
        said.contains(&format!("Warning: would violate PodSecurity \"restricted:latest\": {RESTRICTED}")),
        "{said}"
    );
    let said = warned(&["create", "deployment", "d", "--image=test/c:1", "--dry-run=server"]);
    assert!(
        said.contains("Warning: would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"),
        "{said}"
    );
    assert_eq!(create(&ns, plain()).0, 201);
    // A stricter namespace speaks of the Pods that are there.
    let said = warned(&["label", "namespace", &ns.name, "pod-security.kubernetes.io/enforce=restricted"]);
    assert!(
        said.contains(&format!(
            "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"restricted:latest\"",
            ns.name
        )),
        "{said}"
    );
    assert!(
        said.contains(
            "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
        ),
        "{said}"
    );
}

#[test]
fn labels_must_make_sense() {
    let ns = Namespace::new("labels");
    let (code, said) = label(&ns, json!({"pod-security.kubernetes.io/enforce": "strict"}));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
    assert!(said["message"].as_str().unwrap().contains("must be one of privileged, baseline, restricted"), "{said}");
    let (code, said) = label(&ns, json!({"pod-security.kubernetes.io/warn-version": "1.30"}));
    assert_eq!(code, 422, "{said}");
}
