//! From a container's spec to what the runtime is asked for. Pure: everything that must be looked up is handed in.

pub mod config;
pub mod dns;
pub mod env;
pub mod expand;
pub mod fields;
pub mod hosts;
pub mod sandbox;
pub mod security;
