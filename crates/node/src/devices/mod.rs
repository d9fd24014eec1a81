//! Devices of dynamic resource allocation (KEP-4381) on the node: drivers register through sockets ([`registry`]), prepare what Pods'
//! claims were given ([`claims`]), and name CDI devices that the runtime puts into containers ([`cdi`]).
//!
//! Not here: device plug-ins of the older kind (`v1beta1.DevicePlugin`), drivers' reports of device health, the pod resources API.

pub mod cdi;
pub mod claims;
pub mod drivers;
pub mod record;
pub mod registry;
pub mod wire;

pub use claims::Devices;
