//! The API over its in-process service and over HTTPS, with a real store.
#![allow(clippy::unwrap_used)]

mod access;
mod definitions;
mod harness;
mod hostile;
mod https;
mod lists;
mod malformed;
mod pods;
mod services;
mod verbs;
