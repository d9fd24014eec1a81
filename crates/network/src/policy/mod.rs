//! NetworkPolicy (networking.k8s.io/v1): which connections of this node's Pods are allowed.
//!
//! `plan` compiles all policies into sets and chains of the node's table, purely; they are applied in the
//! proxy's transactions. An isolated Pod's address leads to a chain that looks a new connection up in one
//! set for each rule of its policies and drops what none has. Connections between a Pod and its own node,
//! and of a Pod with itself, are always allowed, as the API says.

pub mod plan;
pub mod ranges;
pub mod selector;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_kernel;

pub use plan::{Plan, compile};
