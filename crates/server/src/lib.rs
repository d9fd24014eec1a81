//! The Kubernetes API over HTTP.
pub mod authn;
pub mod clock;
pub mod pki;
pub mod request_info;
