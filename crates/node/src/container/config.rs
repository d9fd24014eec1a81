//! A container as the runtime is asked for it.

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::expand::expand;
use super::security::{self, Given};
use crate::cgroup::limits;
use crate::names;
use crate::pod::spec;

/// What a container depends on beside its spec.
#[derive(Debug, Default)]
pub struct Around {
    /// How often it was started before.
    pub attempt: u32,
    /// The life of the Pod's containers that it is of.
    pub life: u32,
    /// The image in the runtime.
    pub image: rt::Image,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its volumes, `/etc/hosts` and termination log.
    pub mounts: Vec<rt::Mount>,
    /// For security settings.
    pub given: Given,
    /// The node's memory, bytes.
    pub memory_capacity: i64,
    /// Whether limits go through cgroup v2.
    pub cgroup_v2: bool,
}

/// Where a container's log is, below the Pod's log directory.
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

/// The container to make, or why it cannot be (a `CreateContainerConfigError`).
pub fn config(pod: &Pod, c: &Container, around: Around) -> Result<rt::ContainerConfig, String> {
    security::check_non_root(pod, c, &around.image)?;
    let get = |name: &str| around.env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let all = |list: &Option<Vec<String>>| list.iter().flatten().map(|s| expand(s, &get)).collect();
    let (command, args) = (all(&c.command), all(&c.args));
    Ok(rt::ContainerConfig {
        name: c.name.clone(),
        attempt: around.attempt,
        image: around.image.id.clone(),
        user_specified_image: c.image.clone().unwrap_or_default(),
        command,
        args,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        security: security::container(pod, c, &around.given),
        resources: resources(pod, c, around.memory_capacity, around.cgroup_v2),
        labels: labels(pod, c),
        annotations: annotations(pod, c, around.attempt, around.life),
        log_path: log_path(&c.name, around.attempt),
        envs: around.env,
        mounts: around.mounts,
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
    })
}

/// The resources of a container.
pub fn resources(pod: &Pod, c: &Container, memory_capacity: i64, cgroup_v2: bool) -> rt::LinuxResources {
    let l = limits::of_container(c);
    let mut r = rt::LinuxResources {
        cpu_period: if l.cpu_quota.is_some() { limits::CPU_PERIOD } else { 0 },
        cpu_quota: l.cpu_quota.unwrap_or(0),
        cpu_shares: l.cpu_shares,
        memory_limit: l.memory.unwrap_or(0),
        oom_score_adj: limits::oom_score_adj(pod, c, memory_capacity),
        ..Default::default()
    };
    if cgroup_v2 {
        // One process out of memory ends the whole container, as the exit status then tells.
        r.unified.insert("memory.oom.group".into(), "1".into());
    }
    r
}

fn labels(pod: &Pod, c: &Container) -> rt::StringMap {
    [
        (names::POD_NAME, spec::name(pod)),
        (names::POD_NAMESPACE, spec::namespace(pod)),
        (names::POD_UID, spec::uid(pod)),
        (names::CONTAINER_NAME, c.name.as_str()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn annotations(pod: &Pod, c: &Container, attempt: u32, life: u32) -> rt::StringMap {
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    let mut all = rt::StringMap::from([
        (names::CONTAINER_HASH.to_owned(), spec::hash(c)),
        (names::RESTART_COUNT.to_owned(), attempt.to_string()),
        (
            names::TERMINATION_PATH.to_owned(),
            c.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into()),
        ),
        (names::TERMINATION_POLICY.to_owned(), c.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
        (names::GRACE_PERIOD.to_owned(), grace.to_string()),
    ]);
    if life > 0 {
        all.insert(names::LIFE.to_owned(), life.to_string());
    }
    if let Some(hook) =
        c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()).and_then(|h| serde_json::to_string(h).ok())
    {
        all.insert(names::PRE_STOP.to_owned(), hook);
    }
    if let Some(ports) = c.ports.as_ref().filter(|p| !p.is_empty()).and_then(|p| serde_json::to_string(p).ok()) {
        all.insert(names::PORTS.to_owned(), ports);
    }
    all
}
