//! Extenders: HTTP services that have a say in where pods go (`extenders` of a KubeSchedulerConfiguration).
//!
//! They are asked after this scheduler's own filters, beside its scores, before room is made, or instead of its binding, each only about
//! pods that it is interested in. With none configured nothing here is reached.

mod call;
mod turn;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use crate::model::PodInfo;

pub use call::{CallError, Extender};
pub(crate) use turn::{Objects, decide_with, preempt_with};

/// How one extender is reached, and what it is asked.
#[derive(Clone, Debug, Default)]
pub struct ExtenderConfig {
    /// Where it is: verbs are appended after a slash.
    pub url: String,
    /// The verb of each question; `None` does not ask it.
    pub filter: Option<String>,
    /// Scores, multiplied by `weight`.
    pub prioritize: Option<String>,
    /// What its scores are multiplied by.
    pub weight: i64,
    /// Which pods go to make room.
    pub preempt: Option<String>,
    /// Binding.
    pub bind: Option<String>,
    /// TLS; without an authority a server is not verified, as upstream has it.
    pub tls: Tls,
    /// How long one answer may take.
    pub timeout: Duration,
    /// It knows nodes by name.
    pub knows_nodes: bool,
    /// It is asked about pods that ask for one of these; about all when there is none.
    pub managed: Vec<String>,
    /// Pods are scheduled without it when it fails.
    pub ignorable: bool,
}

/// The TLS part of an extender's configuration. Data win over files.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Whether the server is not verified.
    pub insecure: bool,
    /// The name it is verified by.
    pub server_name: Option<String>,
    /// PEM of the authorities.
    pub authorities: Option<Vec<u8>>,
    /// The client's certificate: base64 of its PEM, or the name of a file.
    pub cert: Option<Material>,
    /// Its key.
    pub key: Option<Material>,
}

/// A certificate or key, as kubeconfig files have them.
#[derive(Clone, Debug)]
pub enum Material {
    /// Base64 of PEM.
    Data(String),
    /// The name of a PEM file.
    File(String),
}

/// All extenders. Cheap to clone.
#[derive(Clone, Default)]
pub struct Extenders {
    all: Arc<[Extender]>,
}

impl Extenders {
    /// Makes their clients.
    ///
    /// # Errors
    /// A URL or certificate that makes no sense.
    pub fn new(configs: &[ExtenderConfig]) -> Result<Self, String> {
        let all: Result<Vec<_>, _> = configs.iter().cloned().map(Extender::new).collect();
        Ok(Self { all: all?.into() })
    }

    /// Whether some extender has a say in where a pod goes.
    pub fn decide_on(&self, pod: &PodInfo) -> bool {
        self.interested(pod).any(|e| e.config.filter.is_some() || e.config.prioritize.is_some())
    }

    /// Whether some extender has a say in how room is made for a pod.
    pub fn preempt_for(&self, pod: &PodInfo) -> bool {
        self.interested(pod).any(|e| e.config.preempt.is_some())
    }

    /// Who binds a pod, if not the scheduler itself.
    pub fn binder(&self, pod: &PodInfo) -> Option<&Extender> {
        self.interested(pod).find(|e| e.config.bind.is_some())
    }

    fn interested<'a>(&'a self, pod: &PodInfo) -> impl Iterator<Item = &'a Extender> {
        self.all.iter().filter(|e| e.config.concerns(pod))
    }
}

impl ExtenderConfig {
    /// Whether it is asked about a pod.
    pub fn concerns(&self, pod: &PodInfo) -> bool {
        let asks = |name: &String| pod.requests.scalar.iter().any(|(n, _)| **n == **name);
        self.managed.is_empty() || self.managed.iter().any(asks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn is_asked_about_what_it_manages() {
        let all = ExtenderConfig::default();
        let some = ExtenderConfig { managed: vec!["example.com/gpu".into()], ..ExtenderConfig::default() };
        let (plain, wants) = (pod("p").cpu(100).info(), pod("q").scalar("example.com/gpu", 1).info());
        assert!(all.concerns(&plain) && all.concerns(&wants));
        assert!(!some.concerns(&plain) && some.concerns(&wants));
    }
}
