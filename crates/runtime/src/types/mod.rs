//! The plain data of the runtime's verbs. Names follow CRI `runtime.v1`; what is only for Windows is left out.
//! Times are nanoseconds since the Unix epoch, 0 when unknown; sizes are bytes.

mod container;
mod event;
mod image;
mod sandbox;
mod stats;

pub use container::*;
pub use event::*;
pub use image::*;
pub use sandbox::*;
pub use stats::*;

use std::collections::BTreeMap;

/// Labels and annotations.
pub type StringMap = BTreeMap<String, String>;

/// Who the runtime is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// For example `containerd`.
    pub runtime_name: String,
    /// For example `1.6.20`.
    pub runtime_version: String,
    /// The version of CRI it speaks, for example `v1`.
    pub runtime_api_version: String,
}

/// One condition of the runtime: `RuntimeReady`, `NetworkReady` or one of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// The condition's type.
    pub type_: String,
    /// Whether it holds.
    pub status: bool,
    /// A CamelCase reason when it does not.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

/// One runtime handler (RuntimeClass) and what it can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// The handler's name; empty is the default.
    pub name: String,
    /// Mounts can be made read-only with everything below them.
    pub recursive_read_only_mounts: bool,
    /// Pods may have user namespaces of their own.
    pub user_namespaces: bool,
}

/// The runtime's health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// `RuntimeReady` and `NetworkReady` are always there.
    pub conditions: Vec<RuntimeCondition>,
    /// Empty when the runtime does not say.
    pub handlers: Vec<RuntimeHandler>,
}

impl RuntimeStatus {
    /// The condition of this type.
    pub fn condition(&self, type_: &str) -> Option<&RuntimeCondition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }

    /// Whether containers can be run at all.
    pub fn runtime_ready(&self) -> bool {
        self.condition("RuntimeReady").is_some_and(|c| c.status)
    }

    /// Whether Pods can get a network (a CNI configuration is there and valid).
    pub fn network_ready(&self) -> bool {
        self.condition("NetworkReady").is_some_and(|c| c.status)
    }
}
