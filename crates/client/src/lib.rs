//! How every component sees the cluster.
//!
//! A [`Cluster`] is one identity's view of the API: in the program it is backed by the server's
//! in-process service, elsewhere by HTTPS; nothing here knows which. It hands out [`Informer`]s (one
//! list and watch for each kind and selector, shared by everybody in the process), [`WorkQueue`]s and
//! a [`Recorder`] for Events. Writes go through [`kube::Api`] made from [`Cluster::client`].

mod cluster;
mod error;
mod informer;
mod key;
pub mod leader;
mod lean;
mod line;
mod queue;
mod recorder;
mod store;
#[cfg(test)]
mod tests;
mod wire;
mod work;

pub use cluster::{Cluster, ListSelector};
pub use error::{Error, status_code, status_reason};
pub use informer::{Change, Informer, Object};
pub use key::Key;
pub use queue::WorkQueue;
pub use recorder::{Recorder, object_ref};
pub use work::run_workers;
