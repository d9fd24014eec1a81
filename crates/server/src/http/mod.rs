//! HTTP as such: bodies, content negotiation, answers, listeners. Nothing here knows a resource.

pub mod body;
pub mod compress;
pub mod listener;
pub mod negotiate;
pub mod respond;

pub use body::{Body, BoxError, RequestBody, read_limited};
pub use negotiate::{Accept, Form, MediaType};
