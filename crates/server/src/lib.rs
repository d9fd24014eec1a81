//! The Kubernetes API over HTTP.
pub mod admission;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod http;
pub mod pki;
pub mod registry;
pub mod request_info;
mod rules;
