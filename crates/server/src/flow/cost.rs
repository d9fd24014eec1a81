//! How many seats a request takes: a LIST by how many objects it goes through, as upstream's work estimator; all else one.

use crate::request_info::{RequestInfo, query_value};
use http::Uri;
use parking_lot::RwLock;
use std::collections::HashMap;

/// One seat for each so many objects.
const OBJECTS_PER_SEAT: u64 = 100;
/// The most that one request may take, whatever it costs.
pub const MOST_SEATS: u32 = 10;
/// Prefixes whose sizes are remembered; beyond it a list counts as small until there is room.
const MOST_PREFIXES: usize = 4096;

/// How many objects the last list of a key prefix went through. Only those that cost more than one seat are remembered.
#[derive(Debug, Default)]
pub struct Sizes(RwLock<HashMap<Box<str>, u64>>);

impl Sizes {
    /// A list of this prefix found so many objects.
    pub fn note(&self, prefix: &str, objects: u64) {
        let known = self.0.read().get(prefix).copied();
        if known == Some(objects) || (known.is_none() && objects <= OBJECTS_PER_SEAT / 2) {
            return;
        }
        let mut all = self.0.write();
        if objects <= OBJECTS_PER_SEAT / 2 {
            all.remove(prefix);
        } else if known.is_some() || all.len() < MOST_PREFIXES {
            all.insert(prefix.into(), objects);
        }
    }

    /// What is known of a prefix.
    pub fn of(&self, prefix: &str) -> u64 {
        self.0.read().get(prefix).copied().unwrap_or(0)
    }

    /// Whether no list is known to cost more than one seat.
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }
}

/// The seats of a list, when so many objects are stored under its prefix.
pub fn seats_of_list(info: &RequestInfo, uri: &Uri, stored: u64) -> u32 {
    if info.verb != "list" || !info.name.is_empty() {
        return 1;
    }
    let value = |name: &str| query_value(uri, name).unwrap_or_default();
    let given: u64 = value("limit").parse().unwrap_or(0);
    let limit = if given == 0 || given > stored { stored } else { given };
    let selects = !value("labelSelector").is_empty() || !value("fieldSelector").is_empty();
    let from_storage = !value("continue").is_empty()
        || (given > 0 && value("resourceVersion") != "0")
        || value("resourceVersionMatch") == "Exact";
    let objects = match (from_storage, selects) {
        (false, _) => stored,
        (true, true) => stored.saturating_add(limit),
        (true, false) => limit.saturating_mul(2),
    };
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(MOST_SEATS).clamp(1, MOST_SEATS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_cost_what_they_go_through() {
        let seats = |path: &str, stored: u64| {
            let uri: Uri = path.parse().unwrap();
            seats_of_list(&RequestInfo::parse(&http::Method::GET, &uri), &uri, stored)
        };
        for (path, stored, wanted) in [
            ("/api/v1/pods", 0, 1),
            ("/api/v1/pods", 100, 1),
            ("/api/v1/pods", 101, 2),
            ("/api/v1/pods", 50_000, 10),
            ("/api/v1/pods?limit=50", 50_000, 1),
            ("/api/v1/pods?limit=500", 50_000, 10),
            ("/api/v1/pods?limit=150", 50_000, 3),
            ("/api/v1/pods?limit=50&resourceVersion=0", 550, 6),
            ("/api/v1/pods?limit=50&labelSelector=a", 550, 6),
            ("/api/v1/pods?labelSelector=a", 550, 6),
            ("/api/v1/pods?limit=50&continue=x", 50_000, 1),
            ("/api/v1/namespaces/n/pods/p", 50_000, 1),
            ("/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp", 50_000, 1),
            ("/api/v1/pods?watch=1", 50_000, 1),
        ] {
            assert_eq!(seats(path, stored), wanted, "{path} of {stored}");
        }
    }

    #[test]
    fn only_large_lists_are_remembered() {
        let sizes = Sizes::default();
        sizes.note("core/pods/", 7);
        assert!(sizes.is_empty());
        sizes.note("core/pods/", 700);
        assert_eq!(sizes.of("core/pods/"), 700);
        sizes.note("core/pods/", 3);
        assert!(sizes.is_empty());
    }
}
