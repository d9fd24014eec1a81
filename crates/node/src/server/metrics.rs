//! Metrics in Prometheus' text format: the node's own (`/metrics`), those that autoscaling reads
//! (`/metrics/resource`), and the part of cAdvisor's (`/metrics/cadvisor`) that the runtime can tell.

use std::fmt::Write as _;

use http::StatusCode;

use super::Context;
use super::reply::{self, Reply};
use super::stats::{self, Host, PodStats};

/// An answer in the text format.
pub(super) fn text(body: String) -> Reply {
    reply::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// Lines of one metric after another.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, type_: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {type_}");
    }

    /// `at` is in nanoseconds; 0 leaves it out.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: i64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = match at {
            0 => writeln!(self.0, "{name}{labels} {value}"),
            at => writeln!(self.0, "{name}{labels} {value} {}", at / 1_000_000),
        };
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `/metrics/resource` (upstream's stable resource metrics).
pub(super) async fn resource(context: &Context) -> Reply {
    let pods = stats::pods(context).await;
    let host = Host::read();
    let failed = f64::from(u8::from(pods.is_err()));
    text(resource_page(&pods.unwrap_or_default(), &host, failed))
}

fn resource_page(pods: &[PodStats], host: &Host, failed: f64) -> String {
    const CPU: &str = "Cumulative cpu time consumed by the";
    const MEMORY: &str = "Current working set in bytes of the";
    let mut page = Page::default();
    page.family("container_cpu_usage_seconds_total", "counter", &format!("[STABLE] {CPU} container in core-seconds"));
    for_containers(pods, |labels, c| {
        let cpu = c.cpu.as_ref()?;
        page.sample("container_cpu_usage_seconds_total", labels, seconds(cpu.usage_core_nanoseconds?), cpu.timestamp);
        Some(())
    });
    page.family("container_memory_working_set_bytes", "gauge", &format!("[STABLE] {MEMORY} container"));
    for_containers(pods, |labels, c| {
        let memory = c.memory.as_ref()?;
        page.sample("container_memory_working_set_bytes", labels, memory.working_set_bytes? as f64, memory.timestamp);
        Some(())
    });
    page.family("node_cpu_usage_seconds_total", "counter", &format!("[STABLE] {CPU} node in core-seconds"));
    page.sample("node_cpu_usage_seconds_total", &[], seconds(host.cpu_nanoseconds), 0);
    page.family("node_memory_working_set_bytes", "gauge", &format!("[STABLE] {MEMORY} node"));
    page.sample("node_memory_working_set_bytes", &[], host.working_set() as f64, 0);
    page.family("pod_cpu_usage_seconds_total", "counter", &format!("[STABLE] {CPU} pod in core-seconds"));
    for pod in pods {
        if let Some(cpu) = pod.cpu()
            && let Some(used) = cpu.usage_core_nanoseconds
        {
            page.sample("pod_cpu_usage_seconds_total", &pod_labels(pod), seconds(used), cpu.timestamp);
        }
    }
    page.family("pod_memory_working_set_bytes", "gauge", &format!("[STABLE] {MEMORY} pod"));
    for pod in pods {
        if let Some(memory) = pod.memory()
            && let Some(used) = memory.working_set_bytes
        {
            page.sample("pod_memory_working_set_bytes", &pod_labels(pod), used as f64, memory.timestamp);
        }
    }
    page.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting metrics, 0 otherwise",
    );
    page.sample("resource_scrape_error", &[], failed, 0);
    page.0
}

/// `/metrics/cadvisor`.
pub(super) async fn cadvisor(context: &Context) -> Reply {
    let pods = match stats::pods(context).await {
        Ok(pods) => pods,
        Err(error) => return reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("no statistics: {error}")),
    };
    let mut page = Page::default();
    page.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    for_containers(&pods, |labels, c| {
        let cpu = c.cpu.as_ref()?;
        let labels = [labels, &[("cpu", "total"), ("id", &c.id)]].concat();
        page.sample("container_cpu_usage_seconds_total", &labels, seconds(cpu.usage_core_nanoseconds?), cpu.timestamp);
        Some(())
    });
    type Figure = fn(&caravel_runtime::MemoryUsage) -> Option<u64>;
    let memory: [(&str, &str, Figure); 3] = [
        ("container_memory_usage_bytes", "Current memory usage in bytes, including all memory.", |m| m.usage_bytes),
        ("container_memory_working_set_bytes", "Current working set in bytes.", |m| m.working_set_bytes),
        ("container_memory_rss", "Size of RSS in bytes.", |m| m.rss_bytes),
    ];
    for (name, help, figure) in memory {
        page.family(name, "gauge", help);
        for_containers(&pods, |labels, c| {
            let memory = c.memory.as_ref()?;
            let labels = [labels, &[("id", c.id.as_str())]].concat();
            page.sample(name, &labels, figure(memory)? as f64, memory.timestamp);
            Some(())
        });
    }
    page.family("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container.");
    for_containers(&pods, |labels, c| {
        let layer = c.writable_layer.as_ref()?;
        let labels = [labels, &[("id", c.id.as_str())]].concat();
        page.sample("container_fs_usage_bytes", &labels, layer.used_bytes as f64, layer.timestamp);
        Some(())
    });
    network(&mut page, &pods);
    text(page.0)
}

fn network(page: &mut Page, pods: &[PodStats]) {
    type Figure = fn(&caravel_runtime::InterfaceUsage) -> Option<u64>;
    let figures: [(&str, &str, Figure); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| {
            i.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| {
            i.tx_errors
        }),
    ];
    for (name, help, figure) in figures {
        page.family(name, "counter", help);
        for pod in pods {
            let Some(network) = pod.sandbox.as_ref().and_then(|s| s.network.as_ref()) else { continue };
            for interface in network.default_interface.iter().chain(&network.interfaces) {
                if let Some(value) = figure(interface) {
                    let labels = [&pod_labels(pod)[..], &[("interface", interface.name.as_str())]].concat();
                    page.sample(name, &labels, value as f64, network.timestamp);
                }
            }
        }
    }
}

/// `/metrics`.
pub(super) async fn own(context: &Context) -> Reply {
    let views = context.pods.pods();
    let running = views.iter().filter(|v| v.sandbox_id.is_some()).count();
    let containers = views.iter().flat_map(|v| &v.containers).filter(|c| c.running).count();
    let mut page = Page::default();
    page.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    page.sample("kubelet_node_name", &[("node", &context.config.node_name)], 1.0, 0);
    page.family("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    page.sample("kubelet_running_pods", &[], running as f64, 0);
    page.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    page.sample("kubelet_running_containers", &[("container_state", "running")], containers as f64, 0);
    page.family("kubelet_desired_pods", "gauge", "[ALPHA] The number of pods the kubelet is being instructed to run.");
    page.sample("kubelet_desired_pods", &[("static", "")], views.len() as f64, 0);
    if let Some((cpu, resident, threads)) = own_process() {
        page.family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
        page.sample("process_cpu_seconds_total", &[], cpu, 0);
        page.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
        page.sample("process_resident_memory_bytes", &[], resident, 0);
        page.family("process_threads", "gauge", "Number of threads.");
        page.sample("process_threads", &[], threads, 0);
    }
    page.family("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.");
    let started = context.started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    page.sample("process_start_time_seconds", &[], started.as_secs_f64(), 0);
    text(page.0)
}

/// CPU seconds, resident bytes and threads of this process.
fn own_process() -> Option<(f64, f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<f64> = stat.rsplit_once(')')?.1.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    // Fields 14, 15 (ticks of 10 ms), 24 (pages) and 20 of the man page, which counts from 1 and two before ')'.
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as f64;
    Some(((fields.get(11)? + fields.get(12)?) / 100.0, fields.get(21)? * page, *fields.get(17)?))
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn pod_labels(pod: &PodStats) -> [(&str, &str); 2] {
    [("namespace", &pod.namespace), ("pod", &pod.name)]
}

fn for_containers<'a>(
    pods: &'a [PodStats],
    mut f: impl FnMut(&[(&'a str, &'a str)], &'a caravel_runtime::ContainerStats) -> Option<()>,
) {
    for pod in pods {
        for container in &pod.containers {
            let labels = [("container", container.name.as_str()), ("namespace", &pod.namespace), ("pod", &pod.name)];
            f(&labels, container);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_runtime::{ContainerStats, CpuUsage};

    #[test]
    fn the_resource_page_has_upstreams_metrics() {
        let cpu =
            CpuUsage { timestamp: 2_000_000, usage_core_nanoseconds: Some(1_500_000_000), usage_nano_cores: None };
        let container = ContainerStats { name: "c\"1".into(), cpu: Some(cpu), ..Default::default() };
        let pod = PodStats {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            started: None,
            sandbox: None,
            containers: vec![container],
        };
        let page = resource_page(&[pod], &Host::default(), 0.0);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\\\"1\",namespace=\"ns\",pod=\"p\"} 1.5 2",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 1.5 2",
            "# TYPE node_memory_working_set_bytes gauge",
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
