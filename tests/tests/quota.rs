//! What a namespace may use: ResourceQuotas and LimitRanges.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

/// A quota of these hard limits, once its status shows what is used.
fn quota(ns: &Namespace, name: &str, hard: Value, more: Value) {
    let mut spec = json!({"hard": hard});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    ns.make("resourcequotas", &json!({"metadata": {"name": name}, "spec": spec}));
    ns.until_that(&format!("resourcequota/{name}"), |q| q["status"]["hard"] == hard && q["status"]["used"].is_object());
}

/// Waits until the quota shows these uses.
fn used(ns: &Namespace, name: &str, wanted: Value) {
    let all = wanted.as_object().unwrap();
    ns.until_that(&format!("resourcequota/{name}"), |q| all.iter().all(|(k, v)| q["status"]["used"][k] == *v));
}

/// How many objects of a kind there are before a test makes any.
fn count(ns: &Namespace, kind: &str) -> usize {
    let path = ns.wire().collection(&ns.name, kind).unwrap();
    ns.wire().get(&path).1["items"].as_array().unwrap().len()
}

/// A Pod that no node can take, so that nothing but the API touches it.
fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeSelector": {"no-such": "node"}, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "test/busybox:1", "resources": resources}]}})
}

/// POST that must be refused with 403; the message.
fn forbidden(ns: &Namespace, kind: &str, object: &Value) -> String {
    let path = ns.wire().collection(&ns.name, kind).unwrap();
    let (code, said) = ns.wire().post(&path, object);
    assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")), "{said:#}");
    said["message"].as_str().unwrap().to_owned()
}

fn delete(ns: &Namespace, what: &str) {
    let (code, said) = ns.wire().delete(&ns.path(what));
    assert!(code == 200 || code == 202, "{code} {said}");
}

#[test]
fn status_is_calculated_promptly() {
    let ns = Namespace::new("quota-status");
    quota(&ns, "q", json!({"resourcequotas": "1", "pods": "5", "cpu": "1", "count/replicasets.apps": "5"}), json!({}));
    used(&ns, "q", json!({"resourcequotas": "1", "pods": "0", "cpu": "0", "count/replicasets.apps": "0"}));
    let why = forbidden(&ns, "resourcequotas", &json!({"metadata": {"name": "second"}, "spec": {"hard": {}}}));
    assert!(
        why.contains(
            "exceeded quota: q, requested: resourcequotas=1, used: resourcequotas=1, limited: resourcequotas=1"
        ),
        "{why}"
    );
}

#[test]
fn life_of_a_service() {
    let ns = Namespace::new("quota-service");
    quota(&ns, "q", json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "1"}), json!({}));
    let service = |name: &str, type_: &str| json!({"metadata": {"name": name}, "spec": {"type": type_, "ports": [{"port": 80}], "selector": {"none": "such"}}});
    ns.make("services", &service("plain", "ClusterIP"));
    ns.make("services", &service("ports", "NodePort"));
    used(&ns, "q", json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"}));
    let why = forbidden(&ns, "services", &service("balanced", "LoadBalancer"));
    assert!(why.contains("exceeded quota: q, requested: services=1,services.nodeports=1, used: services=2,services.nodeports=1, limited: services=2,services.nodeports=1"), "{why}");
    let (code, said) = ns.wire().merge(&ns.path("service/plain"), &json!({"spec": {"type": "NodePort"}}));
    assert_eq!(code, 403, "a change is charged, too: {said}");
    delete(&ns, "service/plain");
    delete(&ns, "service/ports");
    used(&ns, "q", json!({"services": "0", "services.nodeports": "0", "services.loadbalancers": "0"}));
}

#[test]
fn life_of_a_secret() {
    let ns = Namespace::new("quota-secret");
    let before = count(&ns, "secrets");
    quota(&ns, "q", json!({"secrets": (before + 1).to_string(), "count/secrets": "10"}), json!({}));
    used(&ns, "q", json!({"secrets": before.to_string()}));
    ns.make("secrets", &json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}));
    used(&ns, "q", json!({"secrets": (before + 1).to_string(), "count/secrets": (before + 1).to_string()}));
    let why = forbidden(&ns, "secrets", &json!({"metadata": {"name": "t"}}));
    assert!(why.starts_with("secrets \"t\" is forbidden: exceeded quota: q, requested: secrets=1"), "{why}");
    delete(&ns, "secret/s");
    used(&ns, "q", json!({"secrets": before.to_string()}));
}

#[test]
fn life_of_a_config_map() {
    let ns = Namespace::new("quota-map");
    ns.until_that("configmap/kube-root-ca.crt", |_| true);
    let before = count(&ns, "configmaps");
    quota(&ns, "q", json!({"configmaps": (before + 1).to_string()}), json!({}));
    used(&ns, "q", json!({"configmaps": before.to_string()}));
    ns.make("configmaps", &json!({"metadata": {"name": "m"}}));
    used(&ns, "q", json!({"configmaps": (before + 1).to_string()}));
    let why = forbidden(&ns, "configmaps", &json!({"metadata": {"name": "n"}}));
    assert!(why.contains("exceeded quota: q, requested: configmaps=1"), "{why}");
    delete(&ns, "configmap/m");
    used(&ns, "q", json!({"configmaps": before.to_string()}));
}

#[test]
fn life_of_a_replication_controller() {
    let ns = Namespace::new("quota-rc");
    quota(&ns, "q", json!({"replicationcontrollers": "1"}), json!({}));
    let rc = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"a": name}, "template": {
            "metadata": {"labels": {"a": name}}, "spec": {"containers": [{"name": "c", "image": "test/busybox:1"}]}}}})
    };
    ns.make("replicationcontrollers", &rc("one"));
    used(&ns, "q", json!({"replicationcontrollers": "1"}));
    assert!(forbidden(&ns, "replicationcontrollers", &rc("two")).contains("exceeded quota: q"));
    delete(&ns, "rc/one");
    // Its own default orphans what it had; the quota is free again either way.
    used(&ns, "q", json!({"replicationcontrollers": "0"}));
}

#[test]
fn life_of_a_replica_set() {
    let ns = Namespace::new("quota-rs");
    quota(&ns, "q", json!({"count/replicasets.apps": "1"}), json!({}));
    let rs = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": name}}, "template": {
            "metadata": {"labels": {"a": name}}, "spec": {"containers": [{"name": "c", "image": "test/busybox:1"}]}}}})
    };
    ns.make("replicasets", &rs("one"));
    used(&ns, "q", json!({"count/replicasets.apps": "1"}));
    let why = forbidden(&ns, "replicasets", &rs("two"));
    assert!(
        why.contains(
            "requested: count/replicasets.apps=1, used: count/replicasets.apps=1, limited: count/replicasets.apps=1"
        ),
        "{why}"
    );
    delete(&ns, "rs/one");
    used(&ns, "q", json!({"count/replicasets.apps": "0"}));
}

#[test]
fn life_of_a_pod() {
    let ns = Namespace::new("quota-pod");
    let hard = json!({"pods": "5", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi", "requests.example.com/dongle": "3",
        "limits.cpu": "2"});
    quota(&ns, "q", hard, json!({}));
    let asks = |cpu: &str, memory: &str, dongles: &str| {
        json!({"requests": {"cpu": cpu, "memory": memory, "ephemeral-storage": "30Gi", "example.com/dongle": dongles},
            "limits": {"cpu": cpu, "example.com/dongle": dongles}})
    };
    ns.make("pods", &pod("one", asks("500m", "252Mi", "2")));
    let taken = json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
        "requests.example.com/dongle": "2", "limits.cpu": "500m"});
    used(&ns, "q", taken.clone());
    let why = forbidden(&ns, "pods", &pod("two", asks("600m", "100Mi", "1")));
    assert!(
        why.starts_with("pods \"two\" is forbidden: exceeded quota: q, requested: cpu=600m,ephemeral-storage=30Gi, used: cpu=500m,ephemeral-storage=30Gi, limited: cpu=1,ephemeral-storage=50Gi"),
        "{why}"
    );
    let mut small = asks("100m", "10Mi", "2");
    small["requests"]["ephemeral-storage"] = json!("1Gi");
    let why = forbidden(&ns, "pods", &pod("three", small));
    assert!(why.contains("requested: requests.example.com/dongle=2"), "{why}");
    let why = forbidden(&ns, "pods", &pod("silent", json!({})));
    assert!(why.contains("failed quota: q: must specify cpu for: c; limits.cpu for: c; memory for: c"), "{why}");
    let change = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}});
    let (code, said) = ns.wire().strategic(&ns.path("pod/one"), &change);
    assert_eq!(code, 422, "resources change through resize only: {said}");
    let (code, said) = ns.wire().strategic(
        &format!("{}/resize", ns.path("pod/one")),
        &json!({"spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": "1500m"}}}]}}),
    );
    assert!(code == 403 && said["message"].as_str().unwrap().contains("exceeded quota: q"), "{code} {said}");
    // A try that stores nothing, and one that fails, use nothing.
    let path = ns.wire().collection(&ns.name, "pods").unwrap();
    let mut little = asks("1m", "1Mi", "1");
    little["requests"]["ephemeral-storage"] = json!("1Gi");
    let (code, said) = ns.wire().post(&format!("{path}?dryRun=All"), &pod("tried", little.clone()));
    assert_eq!(code, 201, "{said}");
    let (code, said) = ns.wire().post(&path, &pod("one", little));
    assert_eq!((code, said["reason"].as_str()), (409, Some("AlreadyExists")), "{said}");
    used(&ns, "q", taken);
    delete(&ns, "pod/one");
    used(
        &ns,
        "q",
        json!({"pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0", "requests.example.com/dongle": "0"}),
    );
}

#[test]
fn scopes_by_quality_of_service() {
    let ns = Namespace::new("quota-qos");
    quota(&ns, "best", json!({"pods": "5"}), json!({"scopes": ["BestEffort"]}));
    quota(&ns, "other", json!({"pods": "5"}), json!({"scopes": ["NotBestEffort"]}));
    ns.make("pods", &pod("best", json!({})));
    used(&ns, "best", json!({"pods": "1"}));
    used(&ns, "other", json!({"pods": "0"}));
    delete(&ns, "pod/best");
    used(&ns, "best", json!({"pods": "0"}));
    ns.make("pods", &pod("heavy", json!({"requests": {"cpu": "1m"}})));
    used(&ns, "other", json!({"pods": "1"}));
    used(&ns, "best", json!({"pods": "0"}));
    delete(&ns, "pod/heavy");
    used(&ns, "other", json!({"pods": "0"}));
}

#[test]
fn scopes_by_deadline() {
    let ns = Namespace::new("quota-deadline");
    let hard = json!({"pods": "5", "requests.cpu": "1", "limits.memory": "1Gi"});
    quota(&ns, "ending", hard.clone(), json!({"scopes": ["Terminating"]}));
    quota(
        &ns,
        "lasting",
        hard,
        json!({"scopeSelector": {"matchExpressions": [{"scopeName": "NotTerminating", "operator": "Exists"}]}}),
    );
    let asks = json!({"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "400Mi"}});
    ns.make("pods", &pod("lasts", asks.clone()));
    used(&ns, "lasting", json!({"pods": "1", "requests.cpu": "500m", "limits.memory": "400Mi"}));
    used(&ns, "ending", json!({"pods": "0", "requests.cpu": "0", "limits.memory": "0"}));
    delete(&ns, "pod/lasts");
    used(&ns, "lasting", json!({"pods": "0", "requests.cpu": "0"}));
    let mut ends = pod("ends", asks);
    ends["spec"]["activeDeadlineSeconds"] = json!(3600);
    ns.make("pods", &ends);
    used(&ns, "ending", json!({"pods": "1", "requests.cpu": "500m", "limits.memory": "400Mi"}));
    used(&ns, "lasting", json!({"pods": "0"}));
    delete(&ns, "pod/ends");
    used(&ns, "ending", json!({"pods": "0"}));
}

#[test]
fn scopes_by_priority_class() {
    let ns = Namespace::new("quota-class");
    let class = ns.name.clone();
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    ns.wire().post(classes, &json!({"metadata": {"name": class}, "value": 7, "preemptionPolicy": "Never"}));
    let of = |operator: &str| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": [class]}]}});
    quota(&ns, "high", json!({"pods": "1"}), of("In"));
    quota(&ns, "low", json!({"pods": "1"}), of("NotIn"));
    let high = |name: &str| {
        let mut pod = pod(name, json!({}));
        pod["spec"]["priorityClassName"] = json!(class);
        pod
    };
    ns.make("pods", &high("h"));
    used(&ns, "high", json!({"pods": "1"}));
    used(&ns, "low", json!({"pods": "0"}));
    assert!(forbidden(&ns, "pods", &high("i")).contains("exceeded quota: high"));
    ns.make("pods", &pod("l", json!({})));
    assert!(forbidden(&ns, "pods", &pod("m", json!({}))).contains("exceeded quota: low"));
    ns.wire().delete(&format!("{classes}/{class}"));
}

#[test]
fn claims_by_size_number_and_class() {
    let ns = Namespace::new("quota-claim");
    quota(
        &ns,
        "q",
        json!({"persistentvolumeclaims": "2", "requests.storage": "3Gi",
        "gold.storageclass.storage.k8s.io/requests.storage": "1Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "5"}),
        json!({}),
    );
    let claim = |name: &str, class: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": size}}}})
    };
    let why = forbidden(&ns, "pvc", &claim("a", "gold", "2Gi"));
    assert!(why.contains("requested: gold.storageclass.storage.k8s.io/requests.storage=2Gi"), "{why}");
    ns.make("pvc", &claim("a", "gold", "1Gi"));
    used(
        &ns,
        "q",
        json!({"persistentvolumeclaims": "1", "requests.storage": "1Gi",
        "gold.storageclass.storage.k8s.io/requests.storage": "1Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}),
    );
    assert!(forbidden(&ns, "pvc", &claim("b", "iron", "3Gi")).contains("requests.storage=3Gi"));
    delete(&ns, "pvc/a");
    used(&ns, "q", json!({"persistentvolumeclaims": "0", "requests.storage": "0"}));
}

#[test]
fn quotas_are_updated_and_deleted() {
    let ns = Namespace::new("quota-update");
    quota(&ns, "q", json!({"cpu": "1", "memory": "500Mi"}), json!({}));
    let path = ns.path("resourcequota/q");
    let mut now = ns.wire().get(&path).1;
    assert_eq!(now["spec"]["hard"], json!({"cpu": "1", "memory": "500Mi"}));
    now["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"});
    let (code, said) = ns.wire().put(&path, &now);
    assert_eq!((code, &said["spec"]["hard"]), (200, &json!({"cpu": "2", "memory": "1Gi"})), "{said}");
    ns.until_that("resourcequota/q", |q| q["status"]["hard"] == json!({"cpu": "2", "memory": "1Gi"}));
    delete(&ns, "resourcequota/q");
    assert_eq!(ns.wire().get(&path).0, 404);
    ns.make("pods", &pod("free", json!({"requests": {"cpu": "9"}})));
}

#[test]
fn lifecycle_of_a_quota() {
    let ns = Namespace::new("quota-life");
    let label = &ns.name;
    ns.make("resourcequotas", &json!({"metadata": {"name": "q", "labels": {"life": label}}, "spec": {"hard": {"cpu": "1", "memory": "500Mi"}}}));
    let everywhere = format!("/api/v1/resourcequotas?labelSelector=life%3D{label}");
    let (_, list) = ns.wire().get(&everywhere);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"hard": {"cpu": "600m"}}});
    let (code, said) = ns.wire().strategic(&ns.path("resourcequota/q"), &patch);
    assert_eq!((code, &said["metadata"]["labels"]["patched"]), (200, &json!("yes")), "{said}");
    assert_eq!(said["spec"]["hard"], json!({"cpu": "600m", "memory": "500Mi"}));
    let here = ns.wire().collection(&ns.name, "resourcequotas").unwrap();
    let (code, said) = ns.wire().delete(&format!("{here}?labelSelector=life%3D{label}"));
    assert_eq!(code, 200, "{said}");
    ns.eventually("no quota is left", || match ns.wire().get(&everywhere).1["items"].as_array().unwrap().len() {
        0 => Ok(()),
        n => Err(format!("{n} are")),
    });
}

#[test]
fn status_is_written_through_its_own_door() {
    let ns = Namespace::new("quota-door");
    ns.make(
        "resourcequotas",
        &json!({"metadata": {"name": "q"}, "spec": {"hard": {"cpu": "500m", "memory": "500Mi"}}}),
    );
    let (path, from) = (ns.path("resourcequota/q"), ns.wire().collection(&ns.name, "resourcequotas").unwrap());
    ns.until_that("resourcequota/q", |q| q["status"]["hard"] == q["spec"]["hard"]);
    let watch = ns.wire().watch(&format!("{from}?watch=true&fieldSelector=metadata.name%3Dq"));
    // The controller may write between; so may everybody who changes a status.
    ns.eventually("PUT of the status", || {
        let mut now = ns.wire().get(&path).1;
        now["status"]["hard"] = json!({"cpu": "400m", "memory": "400Mi"});
        match ns.wire().put(&format!("{path}/status"), &now) {
            (200, after) if after["status"]["hard"]["cpu"] == "400m" && after["spec"]["hard"]["cpu"] == "500m" => {
                Ok(())
            }
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    watch.until("the written status", |e| e["object"]["status"]["hard"]["cpu"] == "400m");
    // What the spec says is what the controller brings the status back to.
    let (code, said) = ns.wire().merge(&path, &json!({"spec": {"hard": {"cpu": "1", "memory": "1Gi"}}}));
    assert_eq!(code, 200, "{said}");
    ns.until_that("resourcequota/q", |q| q["status"]["hard"] == json!({"cpu": "1", "memory": "1Gi"}));
    let (code, said) = ns
        .wire()
        .merge(&format!("{path}/status"), &json!({"spec": {"hard": {"cpu": "9"}}, "status": {"hard": {"cpu": "2"}}}));
    assert_eq!(
        (code, &said["status"]["hard"]["cpu"], &said["spec"]["hard"]["cpu"]),
        (200, &json!("2"), &json!("1")),
        "{said}"
    );
    let (code, said) = ns.wire().get(&format!("{path}/status"));
    assert_eq!((code, &said["kind"], &said["spec"]["hard"]["cpu"]), (200, &json!("ResourceQuota"), &json!("1")));
    // Nobody touches the spec, and still the status comes back to it.
    ns.until_that("resourcequota/q", |q| q["status"]["hard"] == json!({"cpu": "1", "memory": "1Gi"}));
}

/// Sixteen at once for three places: three get one, and the quota says three.
#[test]
fn concurrent_creations_share_what_there_is() {
    let ns = Namespace::new("quota-race");
    quota(&ns, "q", json!({"pods": "3", "count/pods": "3"}), json!({}));
    let path = ns.wire().collection(&ns.name, "pods").unwrap();
    let made = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..16)
            .map(|i| {
                let (wire, path) = (ns.wire().clone(), path.clone());
                scope.spawn(move || match wire.post(&path, &pod(&format!("p{i}"), json!({}))) {
                    (201, _) => 1,
                    (403, said) if said["message"].as_str().unwrap().contains("exceeded quota: q") => 0,
                    (code, said) => panic!("{code} {said}"),
                })
            })
            .collect();
        tasks.into_iter().map(|t| t.join().unwrap()).sum::<usize>()
    });
    assert_eq!((made, count(&ns, "pods")), (3, 3));
    used(&ns, "q", json!({"pods": "3", "count/pods": "3"}));
}

/// Ended Pods give back what they used, and stay counted as objects.
#[test]
fn ended_pods_are_not_charged() {
    let ns = Namespace::new("quota-ended");
    quota(&ns, "q", json!({"pods": "1", "count/pods": "5"}), json!({}));
    let mut ended = pod("ended", json!({}));
    ended["spec"]["nodeSelector"] = json!({});
    ended["spec"]["restartPolicy"] = json!("Never");
    ended["spec"]["containers"][0]["command"] = json!(["true"]);
    ns.make("pods", &ended);
    ns.until("pod/ended", "{.status.phase}", "Succeeded");
    used(&ns, "q", json!({"pods": "0", "count/pods": "1"}));
    ns.make("pods", &pod("next", json!({})));
}

fn limit_range(ns: &Namespace) {
    ns.make(
        "limitranges",
        &json!({"metadata": {"name": "limits"}, "spec": {"limits": [{"type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "100Gi"},
        "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "default": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"},
        "maxLimitRequestRatio": {"cpu": "10"}}]}}),
    );
}

#[test]
fn limit_ranges_fill_in_and_bound() {
    let ns = Namespace::new("limits");
    let collection = ns.wire().collection(&ns.name, "limitranges").unwrap();
    let watch = ns.wire().watch(&format!("{collection}?watch=true"));
    limit_range(&ns);
    watch.until("the new LimitRange", |e| e["type"] == "ADDED" && e["object"]["metadata"]["name"] == "limits");
    let resources = |made: &Value| made["spec"]["containers"][0]["resources"].clone();
    let silent = ns.make("pods", &pod("silent", json!({})));
    assert_eq!(resources(&silent)["requests"], json!({"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"}));
    assert_eq!(resources(&silent)["limits"], json!({"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"}));
    let told = silent["metadata"]["annotations"]["kubernetes.io/limit-ranger"].as_str().unwrap();
    assert!(
        told.starts_with("LimitRanger plugin set: cpu, ephemeral-storage, memory request for container c"),
        "{told}"
    );
    // A limit given alone is the request, too: the default request is for those that say neither.
    let half = ns.make("pods", &pod("half", json!({"requests": {"memory": "150Mi"}, "limits": {"cpu": "300m"}})));
    assert_eq!(resources(&half)["requests"], json!({"cpu": "300m", "memory": "150Mi", "ephemeral-storage": "200Gi"}));
    assert_eq!(resources(&half)["limits"], json!({"cpu": "300m", "memory": "500Mi", "ephemeral-storage": "500Gi"}));
    let why = forbidden(&ns, "pods", &pod("tiny", json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}})));
    assert!(why.contains("minimum cpu usage per Container is 50m, but request is 10m"), "{why}");
    let why = forbidden(&ns, "pods", &pod("huge", json!({"requests": {"cpu": "600m"}, "limits": {"cpu": "600m"}})));
    assert!(why.contains("maximum cpu usage per Container is 500m, but limit is 600m"), "{why}");
    // An update holds for Pods that come after it.
    let mut range = ns.get("limitrange/limits");
    range["spec"]["limits"][0]["min"] = json!({"cpu": "9m", "memory": "49Mi", "ephemeral-storage": "49Gi"});
    let (code, said) = ns.wire().put(&ns.path("limitrange/limits"), &range);
    assert_eq!((code, &said["spec"]["limits"][0]["min"]["cpu"]), (200, &json!("9m")), "{said}");
    watch.until("the update", |e| e["type"] == "MODIFIED" && e["object"]["spec"]["limits"][0]["min"]["cpu"] == "9m");
    ns.make("pods", &pod("tiny", json!({"requests": {"cpu": "10m", "memory": "50Mi", "ephemeral-storage": "50Gi"}, "limits": {"cpu": "50m"}})));
    delete(&ns, "limitrange/limits");
    watch.until("the deletion", |e| e["type"] == "DELETED");
    ns.make("pods", &pod("huge", json!({"requests": {"cpu": "600m"}})));
}

#[test]
fn limit_ranges_of_pods_and_claims() {
    let ns = Namespace::new("limits-more");
    ns.make(
        "limitranges",
        &json!({"metadata": {"name": "limits"}, "spec": {"limits": [
        {"type": "Pod", "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}}),
    );
    let mut two = pod("two", json!({"limits": {"cpu": "600m"}}));
    let mut second = two["spec"]["containers"][0].clone();
    second["name"] = json!("d");
    two["spec"]["containers"].as_array_mut().unwrap().push(second);
    assert!(forbidden(&ns, "pods", &two).contains("maximum cpu usage per Pod is 1, but limit is 1200m"));
    let loose = pod("loose", json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "900m"}}));
    assert!(
        forbidden(&ns, "pods", &loose).contains("cpu max limit to request ratio per Pod is 2, but provided ratio is 9")
    );
    let claim = |size: &str| json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
    assert!(
        forbidden(&ns, "pvc", &claim("3Gi"))
            .contains("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi")
    );
    assert!(
        forbidden(&ns, "pvc", &claim("1Mi"))
            .contains("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi")
    );
    ns.make("pvc", &claim("1Gi"));
}

#[test]
fn limit_ranges_are_listed_patched_and_deleted_by_label() {
    let (ns, other) = (Namespace::new("limits-list"), Namespace::new("limits-list-b"));
    let label = &ns.name;
    let range = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"set": label}}, "spec": {"limits": [{"type": "Container",
            "min": {"cpu": "50m"}, "max": {"cpu": "500m"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}}]}})
    };
    ns.make("limitranges", &range("one"));
    other.make("limitranges", &range("two"));
    let everywhere = format!("/api/v1/limitranges?labelSelector=set%3D{label}");
    assert_eq!(ns.wire().get(&everywhere).1["items"].as_array().unwrap().len(), 2);
    let patch = json!({"metadata": {"labels": {"one": "patched"}}, "spec": {"limits": [{"type": "Container", "min": {"cpu": "40m"},
        "max": {"cpu": "500m"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "80m"}}]}});
    let (code, said) = ns.wire().strategic(&ns.path("limitrange/one"), &patch);
    assert_eq!((code, &said["spec"]["limits"][0]["min"]["cpu"]), (200, &json!("40m")), "{said}");
    assert_eq!(said["spec"]["limits"][0]["defaultRequest"]["cpu"], "80m");
    let here = ns.wire().collection(&ns.name, "limitranges").unwrap();
    assert_eq!(ns.wire().delete(&format!("{here}?labelSelector=one%3Dpatched")).0, 200);
    let (_, left) = ns.wire().get(&everywhere);
    let names: Vec<_> = left["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["two"]);
}
