//! A cluster of two nodes: the second joins by a token, serves, is lost, and comes back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::node::Place;
use caravel_tests::{Namespace, Net, Objects, OwnCluster, condition_of, name_of, sleeper};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) if !other.is_null() => other.to_string(),
        _ => String::new(),
    }
}

/// A Pod template that leaves a lost node soon.
fn spec(node: Option<&str>) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
        "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", "echo hello from $(hostname); exec sleep 3600"]}],
    });
    if let Some(node) = node {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    spec
}

fn pod_on(ns: &Namespace, node: &str, labels: Value) -> Net {
    let name = format!("on-{node}");
    ns.make("pods", &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec(Some(node))}));
    Net::of(ns, &name)
}

fn ready(ns: &Namespace, node: &str, wanted: &str) {
    ns.eventually(&format!("node {node} has Ready={wanted}"), || {
        let (code, object) = ns.call("GET", &format!("/api/v1/nodes/{node}"), &Value::Null);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == "Ready").map(|c| text(c, "/status"));
        if found.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("{code} {found:?}")) }
    });
}

fn both_answer(ns: &Namespace, from: &Net, ip: &str, port: u16) {
    let mut seen = BTreeSet::new();
    ns.eventually(&format!("both Pods answer at {ip}:{port}"), || {
        seen.insert(from.tcp(ip, port)?);
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// Tokens that must not let a node in.
fn refusals(place: &Place, server: &str, token: &str) {
    let (secret, pin) = token.split_once('@').unwrap();
    let refused = |token: &str, why: &str| {
        let out = place.try_agent(&["--server", server, "--node-name", "two", "--token", token]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(why), "{token}: {said}");
    };
    refused(secret, "--ca-cert-hash");
    refused(&format!("{secret}@sha256:{}", "0".repeat(64)), "the authority of");
    let (id, _) = secret.split_once('.').unwrap();
    refused(&format!("{id}.aaaaaaaaaaaaaaaa@{pin}"), "not signed");
}

#[test]
fn a_second_node_joins_serves_is_lost_and_returns() {
    let place = Place::new("two");
    let cluster =
        OwnCluster::up_with(&["--advertise-address", &place.here(), "--node-name", "one", "--node-grace-period", "10"]);
    let ns = cluster.namespace("two");
    let endpoints = ns.must("GET", "/api/v1/namespaces/default/endpoints/kubernetes", &Value::Null);
    let server = format!("https://{}:{}", place.here(), text(&endpoints, "/subsets/0/ports/0/port"));
    let token = cluster.ok(&["token", "create", "--ttl", "10m", "--description", "a test"]).trim().to_owned();
    assert!(cluster.ok(&["token", "ls"]).contains("a test"));
    refusals(&place, &server, &token);
    let mut node =
        place.agent(&["--server", &server, "--node-name", "two", "--token", &token, "--node-label", "kept=yes"]);
    ready(&ns, "two", "True");
    let object = ns.must("GET", "/api/v1/nodes/two", &Value::Null);
    assert_eq!(text(&object, "/metadata/labels/kept"), "yes");
    assert!(text(&object, "/spec/podCIDR").ends_with(".1.0/24"), "{object}");
    place.build_image();
    ns.eventually("both nodes are open to Pods", || {
        let (_, nodes) = ns.call("GET", "/api/v1/nodes", &Value::Null);
        let open =
            |n: &&Value| n["spec"]["taints"].as_array().is_none_or(Vec::is_empty) && n["spec"]["unschedulable"] != true;
        let names: Vec<_> = nodes["items"].as_array().into_iter().flatten().filter(open).collect();
        if names.len() == 2 { Ok(()) } else { Err(nodes["items"].to_string()) }
    });

    // Between the nodes, by address, Service, node port and name.
    let (one, two) = (pod_on(&ns, "one", json!({"app": "p"})), pod_on(&ns, "two", json!({"app": "p"})));
    let _serving = [one.serve(8080, "on-one"), two.serve(8080, "on-two")];
    let ip = |pod: &str| ns.field(&format!("pod/{pod}"), "{.status.podIP}");
    for (from, to) in [(&one, "on-two"), (&two, "on-one")] {
        assert_eq!(ns.eventually(to, || from.tcp(&ip(to), 8080)), to);
        assert_eq!(ns.eventually(to, || from.udp(&ip(to), 8080)), to);
    }
    assert_eq!(ns.eventually("from the node", || Net::host().tcp(&ip("on-two"), 8080)), "on-two");
    let made = ns.make(
        "services",
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    let (address, port) = (text(&made, "/spec/clusterIP"), text(&made, "/spec/ports/0/nodePort").parse().unwrap());
    for from in [&one, &two] {
        both_answer(&ns, from, &address, 80);
        both_answer(&ns, from, &place.here(), port);
        both_answer(&ns, from, &place.there(), port);
    }
    both_answer(&ns, &Net::host(), &place.there(), port);
    let dns =
        text(&ns.must("GET", "/api/v1/namespaces/kube-system/services/kube-dns", &Value::Null), "/spec/clusterIP");
    let name = format!("s.{}.svc.cluster.local", ns.name);
    assert_eq!(two.dns(&dns, &name, "A").unwrap(), BTreeSet::from([format!("A {address}")]));
    let kubernetes =
        text(&ns.must("GET", "/api/v1/namespaces/default/services/kubernetes", &Value::Null), "/spec/clusterIP");
    ns.eventually("the API from the second node", || two.tcp(&kubernetes, 443).map(|_| ()));

    // Through the API server to the second node.
    assert_eq!(ns.ok(&["logs", "on-two"]).trim(), "hello from on-two");
    assert_eq!(ns.ok(&["exec", "on-two", "--", "hostname"]).trim(), "on-two");
    let path = ns.under("api/v1/pods/on-two:8080/proxy/");
    assert_eq!(ns.must("GET", &path, &Value::Null), json!("on-two"));
    assert_eq!(ns.must("GET", "/api/v1/nodes/two/proxy/healthz", &Value::Null), json!("ok"));
    let requests = ns.must("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests", &Value::Null);
    let signers: BTreeSet<String> = requests["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| !text(r, "/status/certificate").is_empty())
        .map(|r| text(r, "/spec/signerName"))
        .collect();
    let wanted = ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"].map(str::to_owned);
    assert_eq!(signers, BTreeSet::from(wanted));

    // Its loss: its Pods are replaced, and nothing leads there.
    let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": spec(None)});
    ns.make(
        "deployments",
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "d"}}, "template": template}}),
    );
    ns.until("deployment/d", "{.status.readyReplicas}", "4");
    let places = || -> Vec<String> {
        let pods = ns.must("GET", &format!("{}?labelSelector=app%3Dd", ns.under("api/v1/pods")), &Value::Null);
        let alive =
            |p: &&Value| p.pointer("/metadata/deletionTimestamp").is_none() && p["status"]["phase"] == "Running";
        pods["items"].as_array().unwrap().iter().filter(alive).map(|p| text(p, "/spec/nodeName")).collect()
    };
    assert!(places().contains(&"two".to_owned()), "{:?}", places());
    let events = ns.must("GET", &format!("{}?fieldSelector=reason%3DStarted", ns.under("api/v1/events")), &Value::Null);
    for event in events["items"].as_array().unwrap() {
        let pod = text(event, "/involvedObject/name");
        assert_eq!(text(event, "/source/host"), ns.field(&format!("pod/{pod}"), "{.spec.nodeName}"), "{event}");
    }
    node.lose();
    ready(&ns, "two", "Unknown");
    ns.eventually("four replicas on the first node", || match places() {
        all if all == ["one"; 4] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for _ in 0..8 {
        assert_eq!(ns.eventually("the first node's Pod", || one.tcp(&address, 80)), "on-one");
    }

    // It returns by itself, without the token, which is gone.
    cluster.ok(&["token", "rm", token.split('.').next().unwrap()]);
    let _node = place.agent(&["--node-name", "two"]);
    ready(&ns, "two", "True");
    ns.eventually("its taints are gone", || {
        let object = ns.must("GET", "/api/v1/nodes/two", &Value::Null);
        match object["spec"]["taints"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            _ => Err(object["spec"].to_string()),
        }
    });
    let back = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "back"}, "spec": spec(Some("two"))});
    ns.make("pods", &back);
    let back = Net::of(&ns, "back");
    assert_eq!(ns.eventually("from the returned node", || back.tcp(&ip("on-one"), 8080)), "on-one");
}

/// A cluster of two real nodes, `one` and `two`, both open to Pods.
fn two(place: &Place) -> (OwnCluster, Namespace, caravel_tests::node::Node) {
    let cluster = OwnCluster::up_with(&["--advertise-address", &place.here(), "--node-name", "one"]);
    let ns = cluster.namespace("pair");
    let endpoints = ns.must("GET", "/api/v1/namespaces/default/endpoints/kubernetes", &Value::Null);
    let server = format!("https://{}:{}", place.here(), text(&endpoints, "/subsets/0/ports/0/port"));
    let token = cluster.ok(&["token", "create", "--ttl", "10m"]).trim().to_owned();
    let node = place.agent(&["--server", &server, "--node-name", "two", "--token", &token]);
    ready(&ns, "two", "True");
    place.build_image();
    ns.eventually("both nodes are open to Pods", || {
        let (_, nodes) = ns.call("GET", "/api/v1/nodes", &Value::Null);
        let closed = |n: &&Value| n["spec"]["taints"].as_array().is_some_and(|t| !t.is_empty());
        match nodes["items"].as_array().map(|all| (all.len(), all.iter().filter(closed).count())) {
            Some((2, 0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    (cluster, ns, node)
}

fn on_both(sets: &Objects) -> Value {
    sets.until("ds", "up to date on both", |d| {
        let s = &d["status"];
        s["observedGeneration"] == d["metadata"]["generation"]
            && ["desiredNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"]
                .iter()
                .all(|f| s[*f] == 2)
    })
}

/// An update that hangs at the first node: going back restarts the Pod there, and not the other, which never stopped.
fn roll_back(ns: &Namespace) {
    let (sets, pods) = (ns.objects("apps/v1", "daemonsets"), ns.objects("v1", "pods"));
    sets.create(&json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ds"},
        "spec": {"selector": {"matchLabels": {"app": "ds"}}, "template": sleeper("ds"),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}}}));
    on_both(&sets);
    let before = pods.list("app=ds");
    let places: BTreeSet<String> = before.iter().map(|p| text(p, "/spec/nodeName")).collect();
    assert_eq!(places, BTreeSet::from(["one", "two"].map(str::to_owned)));
    let broken = json!({"name": "c", "image": "test/no-such-image:1", "imagePullPolicy": "Never"});
    sets.strategic("ds", &json!({"spec": {"template": {"spec": {"containers": [broken]}}}}));
    sets.until("ds", "stuck at one of two", |d| {
        d["status"]["observedGeneration"] == d["metadata"]["generation"]
            && d["status"]["updatedNumberScheduled"] == 1
            && d["status"]["numberUnavailable"] == 1
    });
    let spared = pods.until_all("app=ds", "one is spared", |all| {
        let mut old = all.iter().filter(|p| before.iter().any(|b| b["metadata"]["uid"] == p["metadata"]["uid"]));
        let one = old.next()?.clone();
        (all.len() == 2 && old.next().is_none()).then_some(one)
    });
    ns.ok(&["rollout", "undo", "daemonset/ds"]);
    on_both(&sets);
    let now = pods.get(name_of(&spared));
    assert_eq!(now["metadata"]["uid"], spared["metadata"]["uid"]);
    assert_eq!(now["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(
        now["status"]["containerStatuses"][0]["containerID"],
        spared["status"]["containerStatuses"][0]["containerID"]
    );
    sets.delete("ds");
    sets.until_gone("ds");
}

/// A Pod on node `two` that tolerates these taints, for so many seconds or for ever.
fn tolerating(pods: &Objects, name: &str, taints: &[(&str, Option<u32>)]) {
    let mut spec = spec(Some("two"));
    let toleration = |(key, seconds): &(&str, Option<u32>)| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    spec["tolerations"] = taints.iter().map(toleration).collect();
    pods.create(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}));
    pods.until(name, "running", |p| p["status"]["phase"] == "Running");
}

/// A taint of a node evicts its Pods when their time is over, and the kubelet ends them; taken off in time it does not.
fn taints(ns: &Namespace) {
    let (pods, nodes) = (ns.objects("v1", "pods"), ns.cluster_objects("v1", "nodes"));
    let taint = |key: Option<&str>| {
        let list = key.map(|k| json!([{"key": k, "value": "yes", "effect": "NoExecute"}]));
        nodes.merge("two", &json!({"spec": {"taints": list}}));
    };
    for (name, tolerated) in [("none", &[][..]), ("short", &[("evict", Some(2))]), ("long", &[("evict", Some(300))])] {
        tolerating(&pods, name, tolerated);
    }
    let mut watch = pods.watch("", &pods.revision());
    taint(Some("evict"));
    for name in ["none", "short"] {
        let gone = watch.until("DELETED", |p| name_of(p) == name);
        let why = condition_of(&gone, "DisruptionTarget").expect("it says why it goes");
        assert_eq!((text(why, "/status"), text(why, "/reason")), ("True".into(), "DeletionByTaintManager".into()));
    }
    let long = pods.get("long");
    assert!(long["metadata"]["deletionTimestamp"].is_null() && long["status"]["phase"] == "Running", "{long}");
    taint(None);

    tolerating(&pods, "spared", &[("evict", Some(4)), ("later", None)]);
    taint(Some("evict"));
    taint(None);
    ns.objects("v1", "events").until_all("", "the cancellation", |all| {
        let of = |e: &&Value| e["reason"] == "TaintManagerEviction" && e["involvedObject"]["name"] == "spared";
        all.iter().filter(of).find(|e| text(e, "/message").contains("Cancelling deletion")).cloned()
    });
    // Another taint is the clock: when it has evicted a Pod after five seconds, the four of the first are over.
    tolerating(&pods, "clock", &[("later", Some(5))]);
    taint(Some("later"));
    watch.until("DELETED", |p| name_of(p) == "clock");
    let spared = pods.get("spared");
    assert!(spared["metadata"]["deletionTimestamp"].is_null() && spared["status"]["phase"] == "Running", "{spared}");
    taint(None);
}

#[test]
fn daemon_sets_roll_back_and_taints_evict() {
    let place = Place::new("pair");
    let (_cluster, ns, _node) = two(&place);
    roll_back(&ns);
    taints(&ns);
}
