//! The kubelet: makes the Pods bound to one node real.

pub mod config;
pub mod server;
pub mod source;

pub use config::{Config, Reserved, Thresholds};
pub use source::{ContainerView, PodSource, PodView};
