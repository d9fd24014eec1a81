//! What the scheduler remembers of nodes and pods: compact, made once when an object arrives, and free of I/O.

mod affinity;
mod extended;
mod node;
mod pod;
mod resources;
mod selector;

pub use affinity::{NodeRule, NodeTerm, PodTerm};
pub use extended::{Asks, CLASS_PREFIX};
pub use node::{NodeInfo, Taint};
pub use pod::{DeviceClaim, HostPort, Inclusion, PodInfo, PodKey, Spread, TaintEffect, Toleration, WhenUnsatisfiable};
pub use resources::{DEFAULT_CPU, DEFAULT_MEMORY, Resources, pod_requests, quantity_milli, quantity_value};
pub use selector::{Labels, Op, Req, Selector};
