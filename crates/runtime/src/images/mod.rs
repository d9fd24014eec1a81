//! Images without a registry: read from archives ([`archive`]), made from files ([`build`]), put into containerd
//! ([`Images`]), under names in full ([`reference`](mod@reference)).

pub mod archive;
pub mod build;
pub mod bundle;
pub mod reference;
mod store;
mod wire;

pub use build::{Builder, FileSource};
pub use bundle::Bundle;
pub use reference::{Reference, normalize};
pub use store::{Images, PINNED, Stored};
