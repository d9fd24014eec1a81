//! The Kubernetes API over HTTP: authentication → flow control → authorization → decode → admission → registry → encode.
//!
//! [`Server::open`] makes a server over a [`caravel_store::Store`]; [`Server::local`] answers requests in this process and
//! [`Server::serve`] over HTTPS, both through the same pipeline ([`handlers`]). The verbs over the store are the
//! [`registry`]'s; what differs between kinds is data in `caravel_api`. Only this crate knows the store.

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod expressions;
pub mod features;
pub mod flow;
mod follow;
pub mod handlers;
pub mod http;
mod identity;
pub mod metrics;
pub mod outbound;
pub mod pki;
pub mod proxy;
pub mod registry;
pub mod reload;
pub mod request_info;
mod rules;
mod server;
mod usage;

pub use crate::authn::{Identity, UserInfo};
pub use crate::config::{AuditOptions, Config};
pub use crate::http::Body;
pub use crate::server::{Local, OpenError, Origin, Server};
