//! Who may write which part of a ResourceClaim's status, and since when taints of devices are there.

use crate::harness::{Client, Cluster};
use caravel_server::UserInfo;
use serde_json::{Value, json};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A user who may write the status of claims, and what `rule` adds to that.
async fn writer(cluster: &Cluster, user: UserInfo, rule: Option<Value>) -> Client {
    let name = user.name.replace(':', "-");
    let status = json!({"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims", "resourceclaims/status"],
        "verbs": ["get", "update", "patch"]});
    let rules: Vec<Value> = [status].into_iter().chain(rule).collect();
    let admin = cluster.admin();
    admin.post(&format!("{RBAC}/clusterroles"), json!({"metadata": {"name": name}, "rules": rules})).await;
    let subject = json!({"kind": "User", "name": user.name, "apiGroup": "rbac.authorization.k8s.io"});
    let binding = json!({"metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"}});
    let (code, made) = admin.post(&format!("{RBAC}/clusterrolebindings"), binding).await;
    assert_eq!(code, 201, "{made}");
    let client = cluster.client(user);
    for _ in 0..500 {
        if client.get(&format!("{CLAIMS}/c")).await.0 == 200 {
            return client;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the role did not take effect");
}

fn rule(subresource: &str, names: &[&str], verbs: &[&str]) -> Option<Value> {
    let resource = format!("resourceclaims/{subresource}");
    Some(json!({"apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": verbs, "resourceNames": names}))
}

async fn tell(client: &Client, status: Value) -> (u16, Value) {
    client.patch(&format!("{CLAIMS}/c/status"), json!({"status": status})).await
}

#[tokio::test]
async fn each_part_takes_its_own_right() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [
        {"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    let (code, made) = admin.post(CLAIMS, claim).await;
    assert_eq!(code, 201, "{made}");
    let on =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    let results: Vec<Value> = ["a.example.com", "b.example.com"]
        .iter()
        .map(|driver| json!({"request": "r", "driver": driver, "pool": "p", "device": "x"}))
        .collect();
    let given = json!({"allocation": {"devices": {"results": results}, "nodeSelector": on}});

    let plain = writer(&cluster, UserInfo::new("plain", &[]), None).await;
    let (code, refused) = tell(&plain, given.clone()).await;
    assert_eq!(code, 422, "{refused}");
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("status: Forbidden: changing status.allocation or status.reservedFor requires"), "{said}");
    assert!(said.contains("verb=\"patch\""), "{said}");
    let binder = writer(&cluster, UserInfo::new("binder", &[]), rule("binding", &[], &["patch"])).await;
    let (code, bound) = tell(&binder, given).await;
    assert_eq!(code, 200, "{bound}");

    let of = |driver: &str| json!({"devices": [{"driver": driver, "pool": "p", "device": "x", "data": {"x": 1}}]});
    let (code, refused) = tell(&binder, of("a.example.com")).await;
    assert_eq!(code, 422, "{refused}");
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("changing status.devices requires") && said.contains("arbitrary-node:patch"), "{said}");
    let anywhere = rule("driver", &["a.example.com"], &["arbitrary-node:patch"]);
    let anywhere = writer(&cluster, UserInfo::new("anywhere", &[]), anywhere).await;
    assert_eq!(tell(&anywhere, of("b.example.com")).await.0, 422, "another driver's");
    assert_eq!(tell(&anywhere, of("a.example.com")).await.0, 200);

    for (name, node, driver, want) in [
        ("here", "n", "a.example.com", 200),
        ("there", "m", "a.example.com", 422),
        ("here-b", "n", "b.example.com", 422),
    ] {
        let mut user = UserInfo::new(format!("system:serviceaccount:default:{name}"), &[]);
        user.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
        let right = rule("driver", &["a.example.com"], &["associated-node:patch"]);
        let client = writer(&cluster, user, right).await;
        let mut status = of(driver);
        status["devices"][0]["data"] = json!({"by": name});
        let (code, said) = tell(&client, status).await;
        assert_eq!(code, want, "{name}: {said}");
    }
    let (code, same) = tell(&plain, json!({})).await;
    assert_eq!(code, 200, "what changes nothing takes no right: {same}");
}

#[tokio::test]
async fn taints_are_there_since_they_were_written() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "a.example.com", "nodeName": "n",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "x", "taints": [{"key": "broken", "effect": "NoExecute"}]}]}});
    let (code, made) = admin.post(slices, slice).await;
    assert_eq!(code, 201, "{made}");
    let time = made["spec"]["devices"][0]["taints"][0]["timeAdded"].clone();
    assert!(time.is_string(), "{made}");
    let (_, same) = admin.patch(&format!("{slices}/s"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(same["spec"]["devices"][0]["taints"][0]["timeAdded"], time);
}
