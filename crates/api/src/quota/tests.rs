#![allow(clippy::unwrap_used)]
use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn shown(usage: &Usage) -> Vec<String> {
    usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
}

fn container(cpu: &str) -> Value {
    json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
}

#[test]
fn pods_are_charged_at_their_peak() {
    let mut sidecar = container("50m");
    sidecar["restartPolicy"] = json!("Always");
    let pod = json!({"spec": {
        "containers": [container("100m"), container("200m")],
        "initContainers": [sidecar, container("500m")], "overhead": {"cpu": "10m", "memory": "1Mi"}}});
    let used = usage("", "pods", &pod, now());
    assert_eq!(
        shown(&used),
        ["count/pods=1", "cpu=560m", "memory=1Mi", "pods=1", "requests.cpu=560m", "requests.memory=1Mi"]
    );
    let level = json!({"spec": {"resources": {"limits": {"memory": "1Gi"}}, "containers": [container("1")]}});
    assert_eq!(usage("", "pods", &level, now())["limits.memory"].to_string(), "1Gi");
}

#[test]
fn ended_pods_count_as_objects_only() {
    let pod = json!({"status": {"phase": "Failed"}, "spec": {"containers": [container("1")]}});
    assert_eq!(shown(&usage("", "pods", &pod, now())), ["count/pods=1"]);
    for (grace, charged) in [(3600, true), (30, false)] {
        let pod =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}});
        assert_eq!(usage("", "pods", &pod, now()).contains_key("pods"), charged, "{grace}");
    }
}

#[test]
fn other_kinds() {
    let extended = json!({"spec": {"containers": [{"resources": {"requests": {"example.com/dongle": "3", "hugepages-2Mi": "2Mi"}}}]}});
    let used = usage("", "pods", &extended, now());
    assert_eq!(
        shown(&used),
        ["count/pods=1", "hugepages-2Mi=2Mi", "pods=1", "requests.example.com/dongle=3", "requests.hugepages-2Mi=2Mi"]
    );
    for (type_, ports, balancers) in [("ClusterIP", 0, 0), ("NodePort", 2, 0), ("LoadBalancer", 2, 1)] {
        let used = usage("", "services", &json!({"spec": {"type": type_, "ports": [{}, {}]}}), now());
        assert_eq!((used["services.nodeports"].value(), used["services.loadbalancers"].value()), (ports, balancers));
    }
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"allocatedResources": {"storage": "2Gi"}}});
    let used = usage("", "persistentvolumeclaims", &claim, now());
    assert_eq!(used["gold.storageclass.storage.k8s.io/requests.storage"].to_string(), "2Gi");
    assert_eq!(shown(&usage("apps", "deployments", &json!({}), now())), ["count/deployments.apps=1"]);
    assert_eq!(shown(&usage("", "secrets", &json!({}), now())), ["count/secrets=1", "secrets=1"]);
}

#[test]
fn scopes_choose() {
    let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
    let plain = json!({"spec": {"containers": [{}]}});
    let heavy = json!({"spec": {"containers": [container("1")], "activeDeadlineSeconds": 5}});
    for (scope, takes_plain, takes_heavy) in [
        ("BestEffort", true, false),
        ("NotBestEffort", false, true),
        ("Terminating", false, true),
        ("NotTerminating", true, false),
        ("CrossNamespacePodAffinity", false, false),
    ] {
        assert_eq!(in_scope(&quota(scope), "", "pods", &plain), takes_plain, "{scope}");
        assert_eq!(in_scope(&quota(scope), "", "pods", &heavy), takes_heavy, "{scope}");
        assert!(!in_scope(&quota(scope), "", "services", &json!({})), "{scope}");
    }
    let by_class = |operator: &str| {
        json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}})
    };
    let high = json!({"spec": {"priorityClassName": "high"}});
    for (operator, takes_high, takes_plain) in
        [("In", true, false), ("NotIn", false, true), ("Exists", true, false), ("DoesNotExist", false, true)]
    {
        assert_eq!(in_scope(&by_class(operator), "", "pods", &high), takes_high, "{operator}");
        assert_eq!(in_scope(&by_class(operator), "", "pods", &plain), takes_plain, "{operator}");
    }
}

fn quota(hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}})
}

fn charge_pod(quota: &Value, pod: &Value) -> Result<Option<Value>, String> {
    charge(quota, &Charge { group: "", plural: "pods", object: pod, old: None, now: now() })
}

#[test]
fn charging() {
    let pod = json!({"spec": {"containers": [container("600m")]}});
    let roomy =
        quota(json!({"pods": "2", "cpu": "1", "secrets": "5"}), json!({"pods": "1", "cpu": "400m", "secrets": "3"}));
    assert_eq!(charge_pod(&roomy, &pod).unwrap().unwrap(), json!({"pods": "2", "cpu": "1", "secrets": "3"}));
    let full = quota(json!({"pods": "1", "cpu": "1"}), json!({"pods": "1", "cpu": "500m"}));
    assert_eq!(
        charge_pod(&full, &pod).unwrap_err(),
        "exceeded quota: q, requested: cpu=600m,pods=1, used: cpu=500m,pods=1, limited: cpu=1,pods=1"
    );
    let vague = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}});
    assert_eq!(
        charge_pod(
            &quota(json!({"cpu": "1", "limits.memory": "1"}), json!({"cpu": "0", "limits.memory": "0"})),
            &vague
        )
        .unwrap_err(),
        "failed quota: q: must specify cpu for: a,b; limits.memory for: a,b"
    );
    let fresh = quota(json!({"pods": "1"}), json!({}));
    assert_eq!(charge_pod(&fresh, &pod).unwrap_err(), "status unknown for quota: q, resources: pods");
    assert_eq!(charge_pod(&json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}), &pod), Ok(None));
    assert_eq!(charge_pod(&quota(json!({"secrets": "0"}), json!({"secrets": "0"})), &pod), Ok(None));
}

#[test]
fn changes_are_charged_by_their_difference() {
    let service = |type_: &str| json!({"spec": {"type": type_, "ports": [{}]}});
    let q =
        quota(json!({"services": "1", "services.nodeports": "0"}), json!({"services": "1", "services.nodeports": "0"}));
    let ask = |old: &str, new: &str| {
        let (old, new) = (service(old), service(new));
        charge(&q, &Charge { group: "", plural: "services", object: &new, old: Some(&old), now: now() })
    };
    assert_eq!(ask("ClusterIP", "ClusterIP"), Ok(None));
    assert_eq!(ask("NodePort", "ClusterIP"), Ok(None));
    assert!(ask("ClusterIP", "NodePort").unwrap_err().contains("requested: services.nodeports=1"));
}

#[test]
fn names_of_counted_resources() {
    assert_eq!(counted("count/deployments.apps"), Some(("apps", "deployments")));
    assert_eq!(counted("count/widgets.example.com"), Some(("example.com", "widgets")));
    assert_eq!(counted("secrets"), Some(("", "secrets")));
    assert_eq!(counted("count/pods"), None);
    assert_eq!(counted("count/resourceclaims.resource.k8s.io"), None);
    assert_eq!(counted("requests.cpu"), None);
}
