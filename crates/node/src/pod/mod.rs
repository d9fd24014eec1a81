//! One Pod: what is wanted of it, what is, what to do next, what to tell.

pub mod backoff;
pub mod observed;
pub mod plan;
pub mod restart_all;
pub mod spec;
pub mod status;
