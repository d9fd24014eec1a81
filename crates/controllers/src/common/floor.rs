//! Guarding against a cache that lags behind one's own writes.

use std::collections::HashMap;

use caravel_client::Key;
use kube::Resource;
use parking_lot::Mutex;

/// The newest revision that a controller itself wrote of each object it reconciles.
///
/// A reconcile that reads an older one from its cache would decide from a past that it changed itself; it waits for the cache instead.
/// Revisions are compared as numbers, as clients may since KEP-5504.
#[derive(Debug, Default)]
pub struct Floor {
    by_key: Mutex<HashMap<Key, (String, u64)>>,
}

impl Floor {
    /// Remembers what was written.
    pub fn wrote<K: Resource>(&self, object: &K) {
        let Some(revision) = revision(object) else { return };
        self.by_key.lock().insert(Key::of(object), (super::uid(object).to_owned(), revision));
    }

    /// Whether a cached object is as new as our last write of it. One that is lets the memory go.
    pub fn reached<K: Resource>(&self, object: &K) -> bool {
        let mut map = self.by_key.lock();
        let key = Key::of(object);
        let behind = map.get(&key).is_some_and(|(uid, floor)| {
            uid == super::uid(object) && revision(object).is_some_and(|have| have < *floor)
        });
        if !behind {
            map.remove(&key);
        }
        !behind
    }
}

fn revision<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn waits_for_the_written_revision() {
        let pod = |revision: &str| {
            let mut p = Pod::default();
            p.metadata.name = Some("p".into());
            p.metadata.resource_version = Some(revision.into());
            p
        };
        let floor = Floor::default();
        assert!(floor.reached(&pod("1")));
        floor.wrote(&pod("10"));
        assert!(!floor.reached(&pod("9")));
        assert!(floor.reached(&pod("10")));
        assert!(floor.reached(&pod("9")), "forgotten once reached");
    }
}
