//! What only a cloud can give. So far: addresses for Services of type LoadBalancer on machines that have no cloud.
//!
//! [`local`] is the load balancer of a cluster on one's own machines: a Service gets the addresses of the nodes, and the
//! service proxy of each node takes what comes to them at the Service's ports.

pub mod local;
