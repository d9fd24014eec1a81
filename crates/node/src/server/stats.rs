//! `/stats/summary` (`stats.k8s.io/v1alpha1` Summary): what the node and its Pods use.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use caravel_runtime::{ContainerStats, CpuUsage, MemoryUsage, SandboxStats};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Context;
use super::reply::{self, Reply};

/// Labels that the node puts on containers.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// One Pod's figures, gathered from its containers and its sandbox.
pub(super) struct PodStats {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<Timestamp>,
    pub sandbox: Option<SandboxStats>,
    pub containers: Vec<ContainerStats>,
}

impl PodStats {
    /// CPU time in nanoseconds, and the present rate.
    pub(super) fn cpu(&self) -> Option<CpuUsage> {
        if let Some(cpu) =
            self.sandbox.as_ref().and_then(|s| s.cpu.clone()).filter(|c| c.usage_core_nanoseconds.is_some())
        {
            return Some(cpu);
        }
        let all: Vec<&CpuUsage> = self.containers.iter().filter_map(|c| c.cpu.as_ref()).collect();
        Some(CpuUsage {
            timestamp: all.iter().map(|c| c.timestamp).max()?,
            usage_core_nanoseconds: sum(all.iter().map(|c| c.usage_core_nanoseconds)),
            usage_nano_cores: sum(all.iter().map(|c| c.usage_nano_cores)),
        })
    }

    /// Memory.
    pub(super) fn memory(&self) -> Option<MemoryUsage> {
        if let Some(memory) =
            self.sandbox.as_ref().and_then(|s| s.memory.clone()).filter(|m| m.working_set_bytes.is_some())
        {
            return Some(memory);
        }
        let all: Vec<&MemoryUsage> = self.containers.iter().filter_map(|c| c.memory.as_ref()).collect();
        Some(MemoryUsage {
            timestamp: all.iter().map(|c| c.timestamp).max()?,
            working_set_bytes: sum(all.iter().map(|c| c.working_set_bytes)),
            available_bytes: None,
            usage_bytes: sum(all.iter().map(|c| c.usage_bytes)),
            rss_bytes: sum(all.iter().map(|c| c.rss_bytes)),
            page_faults: sum(all.iter().map(|c| c.page_faults)),
            major_page_faults: sum(all.iter().map(|c| c.major_page_faults)),
        })
    }
}

/// The sum of what is known; `None` when nothing is.
fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().fold(None, |total, v| Some(total.unwrap_or(0) + v))
}

/// All Pods that the runtime has figures of.
pub(super) async fn pods(context: &Context) -> Result<Vec<PodStats>, caravel_runtime::Error> {
    // A runtime without sandbox statistics still has those of containers.
    let (sandboxes, containers) =
        tokio::join!(context.runtime.list_sandbox_stats(), context.runtime.list_container_stats(None));
    let mut by_uid: BTreeMap<String, (Option<SandboxStats>, Vec<ContainerStats>)> = BTreeMap::new();
    for container in containers? {
        if let Some(uid) = container.labels.get(POD_UID) {
            by_uid.entry(uid.clone()).or_default().1.push(container);
        }
    }
    for sandbox in sandboxes.unwrap_or_default() {
        if let Some(entry) = by_uid.get_mut(&sandbox.metadata.uid) {
            entry.0 = Some(sandbox);
        }
    }
    let views = context.pods.pods();
    let known = views.iter().filter_map(|view| {
        let meta = &view.pod.metadata;
        let uid = meta.uid.clone()?;
        let (sandbox, containers) = by_uid.remove(&uid)?;
        let started = view.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        Some(PodStats {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid,
            started,
            sandbox,
            containers,
        })
    });
    Ok(known.collect())
}

pub(super) async fn summary(context: &Context) -> Reply {
    let pods = match pods(context).await {
        Ok(pods) => pods,
        Err(error) => return reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("no statistics: {error}")),
    };
    let node = node(context).await;
    let fs = node["fs"].clone();
    let pods: Vec<Value> = pods.iter().map(|pod| pod_json(pod, &fs)).collect();
    reply::json(&json!({"node": node, "pods": pods}))
}

/// The node itself.
async fn node(context: &Context) -> Value {
    let figures = Host::read();
    let root_dir = context.config.root_dir.clone();
    let fs = tokio::task::spawn_blocking(move || file_system(&root_dir)).await.ok().flatten().unwrap_or(json!({}));
    let mut image_fs = fs.clone();
    if let Ok(info) = context.runtime.image_fs_info().await
        && let Some(used) = info.image_filesystems.first()
    {
        image_fs["usedBytes"] = json!(used.used_bytes);
        image_fs["inodesUsed"] = json!(used.inodes_used);
    }
    let time = now();
    json!({
        "nodeName": context.config.node_name,
        "startTime": time_of(boot_time().unwrap_or(context.started)),
        "cpu": {"time": time, "usageCoreNanoSeconds": figures.cpu_nanoseconds},
        "memory": figures.memory_json(&time),
        "network": figures.network_json(&time),
        "fs": fs,
        "runtime": {"imageFs": image_fs},
        "rlimit": rlimit(&time),
    })
}

fn pod_json(pod: &PodStats, node_fs: &Value) -> Value {
    let mut out = Map::new();
    out.insert("podRef".into(), json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}));
    out.insert("startTime".into(), json!(pod.started.map(|t| t.to_string())));
    let containers: Vec<Value> = pod.containers.iter().map(|c| container_json(c, pod.started, node_fs)).collect();
    let used: u64 = pod.containers.iter().filter_map(|c| c.writable_layer.as_ref()).map(|w| w.used_bytes).sum();
    out.insert("containers".into(), json!(containers));
    if let Some(cpu) = pod.cpu() {
        out.insert("cpu".into(), cpu_json(&cpu));
    }
    if let Some(memory) = pod.memory() {
        out.insert("memory".into(), memory_json(&memory));
    }
    if let Some(sandbox) = &pod.sandbox {
        if let Some(network) = &sandbox.network
            && let Some(first) = &network.default_interface
        {
            out.insert("network".into(), interface_json(first, &at(network.timestamp)));
        }
        if let Some(count) = sandbox.process_count {
            out.insert("process_stats".into(), json!({"process_count": count}));
        }
    }
    out.insert("ephemeral-storage".into(), used_on(node_fs, used, 0));
    Value::Object(out)
}

fn container_json(c: &ContainerStats, started: Option<Timestamp>, node_fs: &Value) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), json!(c.name));
    out.insert("startTime".into(), json!(started.map(|t| t.to_string())));
    if let Some(cpu) = &c.cpu {
        out.insert("cpu".into(), cpu_json(cpu));
    }
    if let Some(memory) = &c.memory {
        out.insert("memory".into(), memory_json(memory));
    }
    if let Some(layer) = &c.writable_layer {
        out.insert("rootfs".into(), used_on(node_fs, layer.used_bytes, layer.inodes_used));
    }
    Value::Object(out)
}

/// A part of the node's file system.
fn used_on(fs: &Value, bytes: u64, inodes: u64) -> Value {
    let mut out = fs.clone();
    if let Some(map) = out.as_object_mut() {
        map.insert("usedBytes".into(), json!(bytes));
        map.insert("inodesUsed".into(), json!(inodes));
    }
    out
}

fn cpu_json(cpu: &CpuUsage) -> Value {
    without_null(json!({
        "time": at(cpu.timestamp),
        "usageNanoCores": cpu.usage_nano_cores,
        "usageCoreNanoSeconds": cpu.usage_core_nanoseconds,
    }))
}

fn memory_json(m: &MemoryUsage) -> Value {
    without_null(json!({
        "time": at(m.timestamp),
        "availableBytes": m.available_bytes,
        "usageBytes": m.usage_bytes,
        "workingSetBytes": m.working_set_bytes,
        "rssBytes": m.rss_bytes,
        "pageFaults": m.page_faults,
        "majorPageFaults": m.major_page_faults,
    }))
}

fn interface_json(i: &caravel_runtime::InterfaceUsage, time: &str) -> Value {
    without_null(json!({
        "time": time, "name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors, "txBytes": i.tx_bytes,
        "txErrors": i.tx_errors,
    }))
}

fn without_null(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
    value
}

fn at(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).map(whole_seconds).unwrap_or_default()
}

fn now() -> String {
    whole_seconds(Timestamp::now())
}

/// metav1.Time has no fraction.
fn whole_seconds(t: Timestamp) -> String {
    Timestamp::from_second(t.as_second()).unwrap_or(t).to_string()
}

fn time_of(time: SystemTime) -> String {
    Timestamp::try_from(time).map(whole_seconds).unwrap_or_default()
}

fn boot_time() -> Option<SystemTime> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

/// The machine's figures from /proc.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// CPU time of all processors.
    pub cpu_nanoseconds: u64,
    meminfo: BTreeMap<String, u64>,
    network: Vec<(String, [u64; 4])>,
    default_interface: String,
}

impl Host {
    pub(super) fn read() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Host {
            cpu_nanoseconds: cpu_time(&file("/proc/stat")),
            meminfo: meminfo(&file("/proc/meminfo")),
            network: interfaces(&file("/proc/net/dev")),
            default_interface: default_interface(&file("/proc/net/route")),
        }
    }

    fn memory(&self, key: &str) -> u64 {
        self.meminfo.get(key).copied().unwrap_or_default()
    }

    /// What is in use and cannot be reclaimed at once: all but free memory and the inactive part of the page cache.
    pub(super) fn working_set(&self) -> u64 {
        let used = self.memory("MemTotal").saturating_sub(self.memory("MemFree"));
        used.saturating_sub(self.memory("Inactive(file)"))
    }

    fn memory_json(&self, time: &str) -> Value {
        let (total, set) = (self.memory("MemTotal"), self.working_set());
        json!({
            "time": time,
            "availableBytes": total.saturating_sub(set),
            "usageBytes": total.saturating_sub(self.memory("MemFree")),
            "workingSetBytes": set,
            "rssBytes": self.memory("AnonPages"),
            "pageFaults": 0,
            "majorPageFaults": 0,
        })
    }

    fn network_json(&self, time: &str) -> Value {
        let one = |(name, [rx, rx_errors, tx, tx_errors]): &(String, [u64; 4])| json!({"name": name, "rxBytes": rx, "rxErrors": rx_errors, "txBytes": tx, "txErrors": tx_errors});
        let all: Vec<Value> = self.network.iter().filter(|(name, _)| name != "lo").map(one).collect();
        let mut out = self.network.iter().find(|(name, _)| *name == self.default_interface).map_or(json!({}), one);
        out["time"] = json!(time);
        out["interfaces"] = json!(all);
        out
    }
}

/// User, nice, system, irq, softirq and steal in ticks of 10 ms.
fn cpu_time(stat: &str) -> u64 {
    let Some(line) = stat.lines().next().and_then(|l| l.strip_prefix("cpu ")) else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum::<u64>() * 10_000_000
}

/// Bytes by name.
fn meminfo(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let kilobytes: u64 = value.split_whitespace().next()?.parse().ok()?;
            Some((key.to_string(), kilobytes * 1024))
        })
        .collect()
}

/// Received bytes and errors, sent bytes and errors.
fn interfaces(text: &str) -> Vec<(String, [u64; 4])> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, fields) = line.split_once(':')?;
            let n: Vec<u64> = fields.split_whitespace().filter_map(|f| f.parse().ok()).collect();
            Some((name.trim().to_string(), [*n.first()?, *n.get(2)?, *n.get(8)?, *n.get(10)?]))
        })
        .collect()
}

fn default_interface(routes: &str) -> String {
    let default = routes
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|f| f.get(1).is_some_and(|destination| *destination == "00000000"));
    default.and_then(|f| f.first().map(|n| n.to_string())).unwrap_or_default()
}

/// The file system of a directory. Blocking.
fn file_system(dir: &Path) -> Option<Value> {
    let s = nix::sys::statvfs::statvfs(dir).ok()?;
    let block = s.fragment_size() as u64;
    let (total, free, available) =
        (s.blocks() as u64 * block, s.blocks_free() as u64 * block, s.blocks_available() as u64 * block);
    let (inodes, inodes_free) = (s.files() as u64, s.files_free() as u64);
    Some(json!({
        "time": now(),
        "availableBytes": available,
        "capacityBytes": total,
        "usedBytes": total.saturating_sub(free),
        "inodesFree": inodes_free,
        "inodes": inodes,
        "inodesUsed": inodes.saturating_sub(inodes_free),
    }))
}

fn rlimit(time: &str) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let most = read("/proc/sys/kernel/pid_max").and_then(|t| t.trim().parse::<i64>().ok());
    let running = read("/proc/loadavg").and_then(|t| {
        t.split_whitespace().nth(3).and_then(|f| f.split_once('/')).and_then(|(_, n)| n.parse::<i64>().ok())
    });
    without_null(json!({"time": time, "maxpid": most, "curproc": running}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        assert_eq!(cpu_time("cpu  10 1 5 1000 9 2 3 4 0 0\ncpu0 1"), 25 * 10_000_000);
        let host = Host {
            meminfo: meminfo("MemTotal: 100 kB\nMemFree: 20 kB\nInactive(file): 30 kB\nAnonPages: 7 kB\n"),
            network: interfaces("a\nb\n  eth0: 5 1 2 0 0 0 0 0 9 1 3 0\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0\n"),
            default_interface: default_interface("Iface Destination\neth0 00000000 010200C0\n"),
            ..Default::default()
        };
        assert_eq!(host.working_set(), 50 * 1024);
        let network = host.network_json("t");
        assert_eq!((network["rxBytes"].as_u64(), network["txErrors"].as_u64()), (Some(5), Some(3)));
        assert_eq!(network["interfaces"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers_when_the_sandbox_says_nothing() {
        let container = |cpu, memory| ContainerStats {
            cpu: Some(CpuUsage { timestamp: 5, usage_core_nanoseconds: cpu, usage_nano_cores: None }),
            memory: Some(MemoryUsage { working_set_bytes: memory, ..Default::default() }),
            ..Default::default()
        };
        let pod = PodStats {
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
            started: None,
            sandbox: None,
            containers: vec![container(Some(1), Some(10)), container(Some(2), None)],
        };
        assert_eq!(pod.cpu().and_then(|c| c.usage_core_nanoseconds), Some(3));
        assert_eq!(pod.cpu().and_then(|c| c.usage_nano_cores), None);
        assert_eq!(pod.memory().and_then(|m| m.working_set_bytes), Some(10));
    }
}
