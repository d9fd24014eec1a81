//! The FlowSchemas and PriorityLevelConfigurations that upstream suggests or requires.

use serde_json::{Value, json};

const API: &str = "flowcontrol.apiserver.k8s.io/v1";

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

/// A priority level: name, nominal shares, lendable percent, queues (number, hand size).
type Level = (&'static str, u32, u32, Option<(u32, u32)>);

/// The priority levels: name, nominal shares, lendable percent, and queues (number, hand size), none meaning refusal.
pub fn levels() -> Vec<Value> {
    let table: [Level; 7] = [
        ("system", 30, 33, Some((64, 6))),
        ("node-high", 40, 25, Some((64, 6))),
        ("leader-election", 10, 0, Some((16, 4))),
        ("workload-high", 40, 50, Some((128, 6))),
        ("workload-low", 100, 90, Some((128, 6))),
        ("global-default", 20, 50, Some((128, 6))),
        ("catch-all", 5, 0, None),
    ];
    let mut all: Vec<Value> = table
        .iter()
        .map(|(name, shares, lendable, queues)| {
            let response = match queues {
                Some((queues, hand)) => json!({"type": "Queue", "queuing": {
                    "queues": queues, "handSize": hand, "queueLengthLimit": 50}}),
                None => json!({"type": "Reject"}),
            };
            json!({"apiVersion": API, "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": {
                "type": "Limited",
                "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response},
            }})
        })
        .collect();
    all.push(json!({"apiVersion": API, "kind": "PriorityLevelConfiguration", "metadata": metadata("exempt"), "spec": {
        "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    }}));
    all
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
}

fn everything() -> (Value, Value) {
    (
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]),
        json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]),
    )
}

fn schema(
    name: &str,
    level: &str,
    precedence: u32,
    distinguisher: &str,
    rules: &[(Vec<Value>, Value, Value)],
) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(subjects, resources, paths)| {
            let mut rule = json!({"subjects": subjects});
            if !resources.is_null() {
                rule["resourceRules"] = resources.clone();
            }
            if !paths.is_null() {
                rule["nonResourceRules"] = paths.clone();
            }
            rule
        })
        .collect();
    let mut spec =
        json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    json!({"apiVersion": API, "kind": "FlowSchema", "metadata": metadata(name), "spec": spec})
}

/// The flow schemas.
pub fn schemas() -> Vec<Value> {
    let all = |subjects: Vec<Value>| {
        let (resources, paths) = everything();
        vec![(subjects, resources, paths)]
    };
    let leases = |namespaces: Value| {
        json!([{"verbs": ["get", "create", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "namespaces": namespaces}])
    };
    let everybody = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let health = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let endpoints = json!([
        {"verbs": ["get", "create", "update"], "apiGroups": [""], "resources": ["endpoints"], "namespaces": ["*"]},
        {"verbs": ["get", "create", "update"], "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
            "namespaces": ["*"]},
    ]);
    let node_high = json!([
        {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true,
            "namespaces": ["*"]},
        {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]},
    ]);
    vec![
        schema("exempt", "exempt", 1, "", &all(vec![group("system:masters")])),
        schema("probes", "exempt", 2, "", &[(everybody(), Value::Null, health)]),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            &[(
                vec![
                    user("system:kube-controller-manager"),
                    user("system:kube-scheduler"),
                    account("kube-system", "*"),
                ],
                leases(json!(["kube-system"])),
                Value::Null,
            )],
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            &[(
                vec![
                    user("system:kube-controller-manager"),
                    account("kube-system", "endpoint-controller"),
                    account("kube-system", "endpointslicemirroring-controller"),
                ],
                endpoints,
                Value::Null,
            )],
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            &[(vec![account("kube-system", "*")], leases(json!(["*"])), Value::Null)],
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            &[(vec![group("system:nodes")], node_high, Value::Null)],
        ),
        schema("system-nodes", "system", 500, "ByUser", &all(vec![group("system:nodes")])),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            &all(vec![user("system:kube-controller-manager")]),
        ),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", &all(vec![user("system:kube-scheduler")])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            &all(vec![account("kube-system", "*")]),
        ),
        schema("service-accounts", "workload-low", 9000, "ByUser", &all(vec![group("system:serviceaccounts")])),
        schema("global-default", "global-default", 9900, "ByUser", &all(everybody())),
        schema("catch-all", "catch-all", 10000, "ByUser", &all(everybody())),
    ]
}
