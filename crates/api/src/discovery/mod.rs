//! Discovery documents: what `kubectl` and client libraries read first.
//!
//! Everything is computed from a [`KindTable`]; custom resources appear like built-in kinds. Two
//! generations exist: the aggregated document (`apidiscovery.k8s.io/v2`, one request for everything) and
//! the older `APIGroupList`, `APIGroup`, `APIResourceList` and `APIVersions`.

mod aggregated;
mod groups;
mod legacy;
#[cfg(test)]
mod tests;

pub use aggregated::{CONTENT_TYPE, CONTENT_TYPE_V2BETA1, Door, aggregated, is_aggregated_request};
pub use groups::{Group, groups};
pub use legacy::{api_group, api_group_list, api_resource_list, api_versions};
