//! `--scheduler-config`: profiles with plug-ins and arguments of their own, seen by where Pods go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{ControlPlane, Namespace, Objects, StandIn, program};
use serde_json::{Value, json};
use std::process::Command;

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
