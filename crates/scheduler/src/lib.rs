//! The scheduler: which pod goes to which node.
//!
//! ```text
//! informers ──► State (nodes, pods, counts)  ◄── assume ──┐
//!           └─► Queue (active, back-off, unschedulable)   │
//!                  │ pop, the most important first        │
//!                  ▼                                      │
//!               decide: filters ─► scores ─► node ────────┴──► bind (asynchronously, through the API)
//!                  └── no node ─► preempt ─► condition, event, back to the queue until an event can help
//! ```
//!
//! Deciding is pure: functions of the [`state::State`] and one pod, tested by tables. One thread decides; everything that talks to the API
//! runs beside it. What makes it quick: strings are symbols ([`sym`]), and what affinity and spreading count is kept up with every pod
//! that comes or goes ([`state::Terms`]) instead of being counted for each pod.
//!
//! Not here: storage capacity tracking, and of dynamic resource allocation what [`devices`] names.

mod apply;
mod book;
pub mod config;
pub mod core;
pub mod decide;
pub mod devices;
pub mod explain;
pub mod extend;
mod feed;
pub mod file;
pub mod hints;
pub mod message;
pub mod model;
pub mod plugins;
pub mod preempt;
pub mod queue;
mod ready;
mod run;
mod special;
pub mod state;
pub mod sym;
pub mod testing;

pub use config::{Config, Profile};
pub use run::{Error, run};
