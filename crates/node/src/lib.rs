//! The kubelet: makes the Pods bound to one node real.
//!
//! * [`manager`] keeps one worker for each Pod; a [`worker`] is woken by whatever may concern its Pod, reads what is
//!   wanted and what is, does what [`pod::plan`] says and tells what [`pod::status`] says. Both are pure.
//! * [`container`], [`volume`], [`cgroup`], [`image`] and [`probe`] are what a worker does its work with.
//! * [`register`] is the node itself in the API; [`server`] is what the API asks the node.
//!
//! Nothing here is remembered across a restart but what the runtime, the kernel and the API hold.

pub mod admit;
pub mod cgroup;
pub mod config;
pub mod container;
pub mod devices;
pub mod image;
pub mod inotify;
pub mod machine;
pub mod manager;
pub mod manifests;
pub mod names;
pub mod objects;
pub mod pod;
pub mod probe;
pub mod quantity;
pub mod register;
pub mod run;
pub mod server;
pub mod shared;
pub mod source;
pub mod time;
pub mod upkeep;
pub mod volume;
pub mod worker;

pub use config::{Config, Reserved, Thresholds};
pub use run::{Error, Started, purge, run, start};
pub use source::{ContainerView, PodSource, PodView};
