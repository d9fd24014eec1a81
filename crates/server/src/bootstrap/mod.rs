//! What a cluster is born with, and what keeps the server's own knowledge current.

pub mod definitions;
pub mod flow;
pub mod flow_objects;
pub mod objects;
pub mod policies;
pub mod policy;
pub mod policy_watch;
pub mod reloads;
pub mod tasks;
pub mod token_secrets;
pub mod token_tracking;
