//! `--scheduler-config`: profiles with plug-ins and arguments of their own, seen by where Pods go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::extension::{Call, Extension, Reply};
use caravel_tests::{ControlPlane, Namespace, Objects, StandIn, condition_of, program};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::{Arc, Mutex};

const PROFILES: &str = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
percentageOfNodesToScore: 100
profiles:
  - schedulerName: default-scheduler
  - schedulerName: packer
    plugins:
      score:
        disabled: [{name: '*'}]
        enabled: [{name: NodeResourcesFit, weight: 5}]
    pluginConfig:
      - name: NodeResourcesFit
        args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}
  - schedulerName: no-room-needed
    plugins:
      filter: {disabled: [{name: NodeResourcesFit}]}
      postFilter: {disabled: [{name: DefaultPreemption}]}
  - schedulerName: fast-only
    pluginConfig:
      - name: NodeAffinity
        args:
          addedAffinity:
            requiredDuringSchedulingIgnoredDuringExecution:
              nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [fast]}]}]
";

fn pod(name: &str, scheduler: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "schedulerName": scheduler, "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "image": "test/busybox:1", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn goes_to(pods: &Objects, wanted: Value) -> String {
    let created = pods.create(&wanted);
    let name = created["metadata"]["name"].as_str().unwrap();
    let bound = pods.until(name, "bound", |p| p["spec"]["nodeName"].is_string());
    bound["spec"]["nodeName"].as_str().unwrap().to_owned()
}

#[test]
fn each_profile_schedules_in_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.yaml");
    std::fs::write(&file, PROFILES).unwrap();
    let plane = ControlPlane::start_with(&["--scheduler-config", file.to_str().unwrap()]);
    let ns = Namespace::in_cluster("profiles", plane.kubeconfig());
    let pods = ns.objects("v1", "pods");
    let full = StandIn::new(&ns, "-a", json!({"cpu": "4", "memory": "8Gi"}));
    let empty = StandIn::new(&ns, "-b", json!({"cpu": "4", "memory": "8Gi"}));
    let mut there = pod("there", "default-scheduler", "2");
    there["spec"]["nodeName"] = json!(full.name);
    pods.create(&there);
    for i in 0..3 {
        assert_eq!(goes_to(&pods, pod(&format!("spread-{i}"), "default-scheduler", "100m")), empty.name);
        assert_eq!(goes_to(&pods, pod(&format!("packed-{i}"), "packer", "100m")), full.name);
    }
    // Without its filter, room is no matter.
    goes_to(&pods, pod("huge", "no-room-needed", "100"));
    pods.delete_with("huge", &json!({"gracePeriodSeconds": 0}));
    pods.until_gone("huge");
    // The events are the profile's.
    let events = ns.objects("v1", "events");
    let scheduled = events.until_all("", "the packer's event", |all| {
        let of = |e: &&Value| e["involvedObject"]["name"] == "packed-0" && e["reason"] == "Scheduled";
        all.iter().find(of).cloned()
    });
    assert_eq!(scheduled["reportingComponent"], "packer", "{scheduled}");
    // No node has what this profile demands of every Pod, until one gets it.
    pods.create(&pod("fast", "fast-only", "100m"));
    let waiting = pods.until("fast", "unschedulable", |p| p["status"]["conditions"][0]["reason"] == "Unschedulable");
    let message = waiting["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("2 node(s) didn't match scheduler-enforced node affinity"), "{message}");
    empty.nodes.merge(&empty.name, &json!({"metadata": {"labels": {"disk": "fast"}}}));
    let bound = pods.until("fast", "bound", |p| p["spec"]["nodeName"].is_string());
    assert_eq!(bound["spec"]["nodeName"], *empty.name);
    // `caravel why` explains by the profile that is at work.
    let again = pod("fast-2", "fast-only", "100m");
    empty.nodes.merge(&empty.name, &json!({"metadata": {"labels": {"disk": null}}}));
    pods.create(&again);
    pods.until("fast-2", "unschedulable", |p| p["status"]["conditions"][0]["reason"] == "Unschedulable");
    let output = Command::new(program())
        .args(["why", "pod/fast-2", "-n", &ns.name, "--kubeconfig"])
        .arg(plane.kubeconfig())
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&output.stdout);
    assert!(why.contains("scheduler-enforced node affinity"), "{why}");
    // Nobody answers to a name that no profile has.
    pods.create(&pod("nobody", "someone-else", "100m"));
    goes_to(&pods, pod("last", "default-scheduler", "100m"));
    assert!(pods.get("nobody")["spec"]["nodeName"].is_null());
}

#[test]
fn a_wrong_file_is_refused_with_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.yaml");
    let text = PROFILES.replace("MostAllocated", "Fullest");
    std::fs::write(&file, text).unwrap();
    let data = dir.path().join("data");
    let output = Command::new(program())
        .args(["server", "--bind-address", "127.0.0.1", "--scheduler-config"])
        .arg(&file)
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("profiles[1].pluginConfig[0].args.scoringStrategy.type: \"Fullest\" is not LeastAllocated"),
        "{said}"
    );
}

/// What the extender of cards does now.
#[derive(Clone, Copy, PartialEq)]
enum Cards {
    /// Lets pods go to nodes with this ending.
    On(&'static str),
    None,
    Broken,
}

fn cards(mode: Cards, call: &Call) -> Reply {
    let names = |of: &Value| {
        of.as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    match (call.path.as_str(), mode) {
        ("/cards/filter", Cards::Broken) => Reply::Plain(500, vec![], b"on fire".to_vec()),
        ("/cards/filter", mode) => {
            let good = |n: &String| matches!(mode, Cards::On(end) if n.ends_with(end));
            let (stay, go): (Vec<_>, Vec<_>) = names(&call.body["NodeNames"]).into_iter().partition(good);
            let failed: serde_json::Map<_, _> = go.into_iter().map(|n| (n, json!("no card left"))).collect();
            Reply::Json(json!({"NodeNames": stay, "FailedNodes": failed}))
        }
        ("/cards/preempt", mode) => {
            // Room on a node without cards would help nobody.
            let good = |n: &str| matches!(mode, Cards::On(end) if n.ends_with(end));
            let mut left = call.body["NodeNameToMetaVictims"].as_object().cloned().unwrap_or_default();
            left.retain(|n, _| good(n));
            Reply::Json(json!({"NodeNameToMetaVictims": left}))
        }
        ("/cards/bind", _) => Reply::Json(json!({"Error": ""})),
        ("/taste/prioritize", _) => {
            let nodes = call.body["Nodes"]["items"].as_array().cloned().unwrap_or_default();
            let score = |n: &Value| {
                let name = n["metadata"]["name"].as_str().unwrap();
                json!({"host": name, "score": if name.ends_with("-a") { 10 } else { 0 }})
            };
            Reply::Json(nodes.iter().map(score).collect())
        }
        _ => Reply::Plain(404, vec![], vec![]),
    }
}

/// One looks after a resource of its own, and binds; one has a taste; one is not there, and may be passed over.
#[test]
fn extenders_have_their_say() {
    let mode = Arc::new(Mutex::new(Cards::On("-b")));
    let server = Extension::on_loopback({
        let mode = mode.clone();
        move |call| cards(*mode.lock().unwrap(), call)
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scheduler.yaml");
    let tls = json!({"caData": server.bundle(), "serverName": "localhost"});
    let url = format!("https://127.0.0.1:{}", server.port);
    let config = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "podMaxBackoffSeconds": 2, "extenders": [
        {"urlPrefix": format!("{url}/cards"), "filterVerb": "filter", "preemptVerb": "preempt", "bindVerb": "bind",
            "enableHTTPS": true, "tlsConfig": tls, "nodeCacheCapable": true,
            "managedResources": [{"name": "example.com/card", "ignoredByScheduler": true}]},
        {"urlPrefix": format!("{url}/taste/"), "prioritizeVerb": "prioritize", "weight": 10, "enableHTTPS": true,
            "tlsConfig": tls, "httpTimeout": "10s"},
        {"urlPrefix": "http://127.0.0.1:1/nobody", "filterVerb": "filter", "ignorable": true}]});
    std::fs::write(&file, config.to_string()).unwrap();
    let plane = ControlPlane::start_with(&["--scheduler-config", file.to_str().unwrap()]);
    let ns = Namespace::in_cluster("extenders", plane.kubeconfig());
    let pods = ns.objects("v1", "pods");
    let a = StandIn::new(&ns, "-a", json!({"cpu": "4", "memory": "8Gi"}));
    let b = StandIn::new(&ns, "-b", json!({"cpu": "4", "memory": "8Gi"}));

    // The taste outweighs the wish for the emptier node; whole nodes are shown.
    for i in 0..3 {
        assert_eq!(goes_to(&pods, pod(&format!("plain-{i}"), "default-scheduler", "500m")), a.name);
    }
    let asked = server.calls();
    assert!(asked.iter().all(|c| c.path == "/taste/prioritize"), "{asked:?}");
    assert_eq!(asked[0].body["Pod"]["metadata"]["name"], "plain-0");
    assert!(asked[0].body["NodeNames"].is_null());

    // No node says that it has cards. The extender knows, and binds: here that is done by hand.
    let wants = |name: &str, cpu: &str| {
        let mut p = pod(name, "default-scheduler", cpu);
        p["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": cpu, "example.com/card": "1"}, "limits": {"example.com/card": "1"}});
        p
    };
    let bound = |name: &str| -> Value {
        ns.eventually(&format!("{name} is to be bound"), || {
            let calls = server.calls();
            let found = calls.iter().find(|c| c.path == "/cards/bind" && c.body["PodName"] == *name);
            found.map(|c| c.body.clone()).ok_or_else(|| format!("{:?}", pods.get(name)["status"]))
        })
    };
    let bind = |name: &str| {
        let said = bound(name);
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": said["Node"]});
        let (code, answer) = pods.post(
            &format!("{name}/binding"),
            &json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}),
        );
        assert_eq!(code, 201, "{answer}");
        said
    };
    let made = pods.create(&wants("card", "100m"));
    let said = bind("card");
    assert_eq!(
        (&said["Node"], &said["PodUID"], &said["PodNamespace"]),
        (&json!(b.name), &made["metadata"]["uid"], &json!(ns.name))
    );
    let filter = server.calls().into_iter().find(|c| c.path == "/cards/filter").unwrap();
    let mut shown: Vec<_> =
        filter.body["NodeNames"].as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    shown.sort();
    assert_eq!((shown, filter.body["Nodes"].is_null()), (vec![a.name.clone(), b.name.clone()], true));

    // What it has against nodes is told; any change lets it be asked again.
    *mode.lock().unwrap() = Cards::None;
    pods.create(&wants("later", "100m"));
    let waiting = pods.until("later", "unschedulable", |p| condition_of(p, "PodScheduled").is_some());
    let c = condition_of(&waiting, "PodScheduled").unwrap();
    let message = c["message"].as_str().unwrap();
    assert!(message.starts_with("0/2 nodes are available: 2 no card left."), "{message}");
    *mode.lock().unwrap() = Cards::On("-b");
    a.nodes.merge(&a.name, &json!({"metadata": {"labels": {"touched": "yes"}}}));
    assert_eq!(bind("later")["Node"], *b.name);

    // One that fails and may not be passed over holds its pods up, and they are tried again.
    *mode.lock().unwrap() = Cards::Broken;
    pods.create(&wants("held", "100m"));
    let held = pods
        .until("held", "held up", |p| condition_of(p, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulerError"));
    let message = condition_of(&held, "PodScheduled").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("{url}/cards/filter")) && message.contains("500"), "{message}");
    *mode.lock().unwrap() = Cards::On("-b");
    assert_eq!(bind("held")["Node"], *b.name);

    // It is asked before room is made, too.
    let classes = ns.cluster_objects("scheduling.k8s.io/v1", "priorityclasses");
    classes.create(&json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": ns.name}, "value": 1000}));
    pods.create(&wants("filler", "3500m"));
    bind("filler");
    let mut urgent = wants("urgent", "3");
    urgent["spec"]["priorityClassName"] = json!(ns.name);
    pods.create(&urgent);
    // No kubelet is there to end it.
    pods.until("filler", "taken away", |p| p["metadata"]["deletionTimestamp"].is_string());
    pods.delete_with("filler", &json!({"gracePeriodSeconds": 0}));
    assert_eq!(bind("urgent")["Node"], *b.name);
    let preempt = server.calls().into_iter().find(|c| c.path == "/cards/preempt").unwrap();
    assert!(preempt.body["NodeNameToMetaVictims"][&b.name]["Pods"][0]["UID"].is_string(), "{}", preempt.body);
}
