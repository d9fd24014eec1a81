//! What the runtime holds of one Pod at one instant, in the form decisions need.

use caravel_runtime as rt;

use crate::names;

pub use caravel_runtime::ContainerState;

/// A sandbox of the Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// How many came before it.
    pub attempt: u32,
    /// Whether containers can be made in it.
    pub ready: bool,
    /// When it was made, ns.
    pub created_at: i64,
    /// The Pod's addresses.
    pub ips: Vec<String>,
    /// Whether it has the host's network.
    pub host_network: bool,
}

/// One instance of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Its restart count.
    pub attempt: u32,
    /// Which life of the Pod's containers it is of; see [`super::restart_all`].
    pub life: u32,
    /// State.
    pub state: ContainerState,
    /// ns.
    pub created_at: i64,
    /// ns; 0 before the start.
    pub started_at: i64,
    /// ns; 0 while it runs.
    pub finished_at: i64,
    /// Valid once it has ended.
    pub exit_code: i32,
    /// Why it ended.
    pub reason: String,
    /// Its last words, or the runtime's.
    pub message: String,
    /// The image's name.
    pub image: String,
    /// The image's id or digest.
    pub image_id: String,
    /// The digest of the spec it was made from.
    pub hash: String,
    /// The absolute path of its log.
    pub log_path: String,
    /// uid, gid and further groups, where the runtime says.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// The limits in force, where the runtime says.
    pub resources: Option<rt::LinuxResources>,
    /// Labels and annotations beyond those read above, for the end of orphans.
    pub annotations: rt::StringMap,
}

/// All of a Pod in the runtime, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers of all sandboxes.
    pub records: Vec<Record>,
    /// The present life of the Pod's containers; what is of an earlier one is to make place. See [`super::restart_all`].
    pub life: u32,
}

impl Observed {
    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest sandbox if it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandbox().filter(|s| s.ready)
    }

    /// The newest instance of a container in any sandbox.
    pub fn latest(&self, name: &str) -> Option<&Record> {
        self.records.iter().find(|r| r.name == name)
    }

    /// The same, unless it is of a past life.
    pub fn current(&self, name: &str) -> Option<&Record> {
        self.latest(name).filter(|r| !self.is_past(r))
    }

    /// The newest instance of a container in the newest sandbox, unless it is of a past life.
    pub fn active(&self, name: &str) -> Option<&Record> {
        let sandbox = &self.sandbox()?.id;
        self.records.iter().find(|r| r.name == name && &r.sandbox_id == sandbox).filter(|r| !self.is_past(r))
    }

    /// Whether an instance is to make place for a new one.
    pub fn is_past(&self, r: &Record) -> bool {
        r.life < self.life
    }

    /// The instances of a container, newest first.
    pub fn history<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Record> + 'a {
        self.records.iter().filter(move |r| r.name == name)
    }

    /// Containers that run.
    pub fn running(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|r| r.state == ContainerState::Running)
    }

    /// Whether nothing of the Pod runs.
    pub fn is_stopped(&self) -> bool {
        self.running().next().is_none() && !self.sandboxes.iter().any(|s| s.ready)
    }

    /// Whether the runtime holds nothing of the Pod.
    pub fn is_gone(&self) -> bool {
        self.records.is_empty() && self.sandboxes.is_empty()
    }

    /// Orders everything newest first: by the attempts, as the clock may have been set back between two.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        self.records.sort_by_key(|r| std::cmp::Reverse((r.attempt, r.created_at)));
    }
}

/// A sandbox from the runtime's answer.
pub fn sandbox(s: &rt::SandboxStatus) -> Sandbox {
    Sandbox {
        id: s.id.clone(),
        attempt: s.metadata.attempt,
        ready: s.state == rt::SandboxState::Ready,
        created_at: s.created_at,
        ips: s.ips.clone(),
        host_network: s.namespaces.network == rt::NamespaceMode::Node
            || s.annotations.get(names::HOST_NETWORK).is_some_and(|v| v == "true"),
    }
}

/// A container from the runtime's answer.
pub fn record(sandbox_id: &str, s: &rt::ContainerStatus) -> Record {
    let note = |key: &str| s.annotations.get(key).cloned().unwrap_or_default();
    Record {
        id: s.id.clone(),
        name: s.labels.get(names::CONTAINER_NAME).cloned().unwrap_or_else(|| s.name.clone()),
        sandbox_id: sandbox_id.to_owned(),
        attempt: note(names::RESTART_COUNT).parse().unwrap_or(s.attempt),
        life: note(names::LIFE).parse().unwrap_or(0),
        state: s.state,
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        reason: s.reason.clone(),
        message: s.message.clone(),
        image: s.image.clone(),
        image_id: if s.image_ref.is_empty() { s.image_id.clone() } else { s.image_ref.clone() },
        hash: note(names::CONTAINER_HASH),
        log_path: s.log_path.clone(),
        user: s.user.clone(),
        resources: s.resources.clone(),
        annotations: s.annotations.clone(),
    }
}
