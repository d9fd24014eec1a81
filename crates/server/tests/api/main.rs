//! The API over its in-process service and over HTTPS, with a real store.
#![allow(clippy::unwrap_used)]

mod access;
mod admission_config;
mod audit;
mod authorization;
mod definitions;
mod device_status;
mod doors;
mod harness;
mod hostile;
mod https;
mod impersonation;
mod kubelets;
mod legacy_tokens;
mod lists;
mod malformed;
mod pods;
mod protobuf;
mod receiver;
mod reinvocation;
mod reloads;
mod services;
mod ssrf;
mod verbs;
