//! Metrics of nodes and Pods as `kubectl top` shows them, and the HorizontalPodAutoscaler under a real load.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "autoscaling/wire.rs"]
mod wire;

use caravel_tests::{Namespace, condition, condition_of};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The files of the walk in `docs/autoscaling.md`.
fn example(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../examples/autoscaling", file].iter().collect()
}

/// Makes the image of the walk, as the walk does.
fn build_image() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("sh").arg(example("image.sh")).arg(dir.path()).status().unwrap();
    assert!(made.success(), "image.sh: {made}");
    let mut build = Command::new(caravel_tests::program());
    build.args(["image", "build", "-t", "demo/burn:1"]).arg(dir.path()).arg("--data-dir");
    let output = build.arg(caravel_tests::cluster_dir()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asks a web server without pause until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(address: String) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let ask = |stop: Arc<AtomicBool>, address: String| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if one(&address).is_err() {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        let threads = (0..3).map(|_| std::thread::spawn(ask(stop.clone(), address.clone()))).collect();
        Load { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

fn one(address: &str) -> std::io::Result<()> {
    let mut c = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2))?;
    c.set_read_timeout(Some(Duration::from_secs(5)))?;
    c.write_all(b"GET /cgi-bin/burn HTTP/1.0\r\n\r\n")?;
    c.read_to_end(&mut vec![]).map(drop)
}

/// Load scales a Deployment up by the metrics that the program itself serves; without load it goes down again once the window of
/// stabilisation is over, not before.
#[test]
fn load_scales_a_deployment_up_and_its_end_down() {
    let ns = Namespace::new("hpa");
    let deployments = ns.objects("apps/v1", "deployments");
    build_image();
    ns.apply(&std::fs::read_to_string(example("web.yaml")).unwrap());
    let service = ns.objects("v1", "services").get("web");
    deployments.until("web", "ready", |d| d["status"]["readyReplicas"] == 1);
    let hpas = ns.objects("autoscaling/v2", "horizontalpodautoscalers");
    let load = Load::on(format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap()));
    deployments.until("web", "scaled up", |d| d["spec"]["replicas"] == 3 && d["status"]["readyReplicas"] == 3);
    let busy = hpas.until("web", "it tells why", |h| h["status"]["currentReplicas"] == 3);
    assert_eq!(condition(&busy, "ScalingActive"), "True", "{busy:#}");
    assert_eq!(condition_of(&busy, "ScalingActive").unwrap()["reason"], "ValidMetricFound");
    assert!(busy["status"]["lastScaleTime"].is_string());
    let measured = &busy["status"]["currentMetrics"][0]["resource"];
    assert_eq!(measured["name"], "cpu");
    assert!(measured["current"]["averageUtilization"].as_i64().unwrap() > 100, "{measured}");
    drop(load);
    hpas.until("web", "held by its window", |h| {
        condition_of(h, "AbleToScale").is_some_and(|c| c["reason"] == "ScaleDownStabilized")
            && h["status"]["desiredReplicas"] == 3
    });
    deployments.until("web", "scaled down", |d| d["spec"]["replicas"] == 1 && d["status"]["replicas"] == 1);
    let told = ns.objects("v1", "events").list("");
    let told: Vec<&str> = told
        .iter()
        .filter(|e| e["involvedObject"]["kind"] == "HorizontalPodAutoscaler" && e["reason"] == "SuccessfulRescale")
        .filter_map(|e| e["message"].as_str())
        .collect();
    assert!(
        told.contains(&"New size: 3; reason: cpu resource utilization (percentage of request) above target"),
        "{told:?}"
    );
    assert!(told.contains(&"New size: 1; reason: All metrics below target"), "{told:?}");
}

/// What cannot be measured is told in conditions and events, and nothing is scaled.
#[test]
fn what_cannot_be_measured_is_told() {
    let ns = Namespace::new("hpabad");
    let hpas = ns.objects("autoscaling/v2", "horizontalpodautoscalers");
    let make = |name: &str, target: &str, metric: Value| {
        hpas.create(&json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}, "maxReplicas": 3, "metrics": [metric]}}));
    };
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    make("nobody", "none", cpu.clone());
    let nobody = hpas.until("nobody", "its condition", |h| condition(h, "AbleToScale") == "False");
    assert_eq!(condition_of(&nobody, "AbleToScale").unwrap()["reason"], "FailedGetScale");
    // Its containers have no request.
    ns.objects("apps/v1", "deployments").create(&json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": caravel_tests::sleeper("web")}}));
    make(
        "unknown",
        "web",
        json!({"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "1"}}}),
    );
    let unknown = hpas.until("unknown", "its condition", |h| condition(h, "ScalingActive") == "False");
    assert_eq!(condition_of(&unknown, "ScalingActive").unwrap()["reason"], "FailedGetPodsMetric");
    make("unasked", "web", cpu);
    let unasked = hpas.until("unasked", "its condition", |h| condition(h, "ScalingActive") == "False");
    assert_eq!(condition_of(&unasked, "ScalingActive").unwrap()["reason"], "FailedGetResourceMetric");
    assert_eq!(ns.objects("apps/v1", "deployments").get("web")["spec"]["replicas"], 1);
}

#[test]
fn kubectl_top() {
    let ns = Namespace::new("top");
    ns.make("pods", &caravel_tests::pod_of("sleeper", &caravel_tests::sleeper("sleeper")));
    ns.until("pod/sleeper", "{.status.phase}", "Running");
    let pods = ns.eventually("kubectl top pods", || ns.try_kubectl(&["top", "pods"]));
    let lines: Vec<Vec<&str>> = pods.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "CPU(cores)", "MEMORY(bytes)"], "{pods}");
    assert_eq!(lines[1][0], "sleeper", "{pods}");
    assert!(lines[1][1].ends_with('m') && lines[1][2].ends_with("Mi"), "{pods}");
    let containers = ns.ok(&["top", "pod", "sleeper", "--containers", "--no-headers"]);
    assert_eq!(containers.split_whitespace().take(2).collect::<Vec<_>>(), ["sleeper", "c"], "{containers}");
    let selected = ns.ok(&["top", "pods", "-l", "app=sleeper", "--sum"]);
    assert_eq!(selected.lines().count(), 4, "header, the Pod, a line, the sum: {selected}");
    let refused = ns.fails(&["top", "pod", "nobody"]);
    assert!(refused.contains("not found"), "{refused}");
    let nodes = ns.ok(&["top", "nodes"]);
    let lines: Vec<Vec<&str>> = nodes.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"], "{nodes}");
    assert!(lines[1][2].ends_with('%') && lines[1][4].ends_with('%'), "{nodes}");
    // Discovery names it, as for any group.
    let groups = ns.ok(&["api-resources", "--api-group=metrics.k8s.io", "-o", "name"]);
    assert_eq!(groups.split_whitespace().collect::<Vec<_>>(), ["nodes.metrics.k8s.io", "pods.metrics.k8s.io"]);
}

/// The message in the envelope, whose kind must be this one.
fn message<M: prost::Message + Default>(ns: &Namespace, path: &str, kind: &str) -> M {
    let (media, bytes) = caravel_tests::block_on({
        let (client, path) = (ns.wire().client(), path.to_owned());
        async move {
            let request =
                http::Request::get(path).header("accept", "application/vnd.kubernetes.protobuf,application/json");
            let response = client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            let media = response.headers()["content-type"].to_str().unwrap().to_owned();
            (media, response.into_body().collect_bytes().await.unwrap())
        }
    });
    assert_eq!(media, "application/vnd.kubernetes.protobuf", "{path}");
    let unknown: wire::Unknown = prost::Message::decode(bytes.strip_prefix(b"k8s\0").expect("an envelope")).unwrap();
    let wanted = wire::TypeMeta { api_version: "metrics.k8s.io/v1beta1".into(), kind: kind.into() };
    assert_eq!(unknown.type_meta, Some(wanted), "{path}");
    M::decode(&unknown.raw[..]).unwrap()
}

/// Clients of metrics-server ask for protobuf first.
#[test]
fn metrics_travel_as_protobuf() {
    let ns = Namespace::new("top-protobuf");
    ns.make("pods", &caravel_tests::pod_of("sleeper", &caravel_tests::sleeper("sleeper")));
    ns.until("pod/sleeper", "{.status.phase}", "Running");
    let pods = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", ns.name);
    ns.eventually("it is measured", || match ns.wire().get(&format!("{pods}/sleeper")) {
        (200, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    let check = |pod: &wire::PodMetrics| {
        let metadata = pod.metadata.clone().unwrap();
        assert_eq!((metadata.name.as_str(), &metadata.namespace), ("sleeper", &ns.name));
        assert!(pod.timestamp.as_ref().unwrap().seconds > 1_700_000_000, "{pod:?}");
        assert!(pod.window.as_ref().unwrap().duration > 0, "{pod:?}");
        assert_eq!((pod.containers.len(), pod.containers[0].name.as_str()), (1, "c"));
        let amount = |of: &str| pod.containers[0].usage[of].string.clone();
        assert!(amount("cpu").ends_with('n') && amount("memory").ends_with("Ki"), "{pod:?}");
    };
    check(&message::<wire::PodMetrics>(&ns, &format!("{pods}/sleeper"), "PodMetrics"));
    let list = message::<wire::PodMetricsList>(&ns, &pods, "PodMetricsList");
    assert_eq!(list.items.len(), 1, "{list:?}");
    check(&list.items[0]);
    let nodes = message::<wire::NodeMetricsList>(&ns, "/apis/metrics.k8s.io/v1beta1/nodes", "NodeMetricsList");
    // Nodes that only stand in for some are not measured.
    let node = nodes.items.first().expect("the node is measured");
    assert!(node.usage["cpu"].string.ends_with('n') && node.window.as_ref().unwrap().duration > 0, "{node:?}");
    let name = node.metadata.as_ref().unwrap().name.clone();
    let path = format!("/apis/metrics.k8s.io/v1beta1/nodes/{name}");
    assert_eq!(message::<wire::NodeMetrics>(&ns, &path, "NodeMetrics").metadata.unwrap().name, name);
}
