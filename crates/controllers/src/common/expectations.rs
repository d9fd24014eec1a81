//! Expectations: what a controller asked for and has not yet seen come back on its watch.
//!
//! A controller that decides from a cache must not create again what it just created and the cache does not show yet. Before it
//! writes it records here how many creations, and which deletions, it expects to see; until they are seen (or five minutes
//! passed: an event may have been lost in a re-list) it makes no further pods for that key.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use caravel_client::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

/// After this long unmet expectations are forgotten.
const TTL: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Expected {
    creations: usize,
    /// Keys (namespace/name) and uids of pods whose deletion was asked for.
    deletions: HashSet<String>,
    since: Instant,
}

/// The expectations of one controller, by key of the object that it reconciles.
#[derive(Debug, Default)]
pub struct Expectations {
    by_key: Mutex<HashMap<Key, Expected>>,
}

impl Expectations {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the controller may act on `key` again: all seen, none recorded, or too old to believe.
    pub fn satisfied(&self, key: &Key) -> bool {
        let mut map = self.by_key.lock();
        match map.get(key) {
            None => true,
            Some(e) if (e.creations == 0 && e.deletions.is_empty()) || e.since.elapsed() > TTL => {
                map.remove(key);
                true
            }
            Some(_) => false,
        }
    }

    /// Adds creations to expect. Call before the first create.
    pub fn expect_creations(&self, key: &Key, count: usize) {
        self.with(key, |e| e.creations += count);
    }

    /// Adds deletions to expect, by uid. Call before the first delete.
    pub fn expect_deletions(&self, key: &Key, uids: impl IntoIterator<Item = String>) {
        self.with(key, |e| e.deletions.extend(uids));
    }

    /// A creation was seen, or failed and will not come. Returns whether the key is now free.
    pub fn creation_observed(&self, key: &Key) {
        if let Some(e) = self.by_key.lock().get_mut(key) {
            e.creations = e.creations.saturating_sub(1);
        }
    }

    /// A deletion was seen (the pod is gone, or is marked as terminating), or failed.
    pub fn deletion_observed(&self, key: &Key, uid: &str) {
        if let Some(e) = self.by_key.lock().get_mut(key) {
            e.deletions.remove(uid);
        }
    }

    /// Forgets a key whose object is gone.
    pub fn forget(&self, key: &Key) {
        self.by_key.lock().remove(key);
    }

    fn with(&self, key: &Key, f: impl FnOnce(&mut Expected)) {
        let mut map = self.by_key.lock();
        let entry = map.entry(key.clone()).or_insert_with(|| Expected {
            creations: 0,
            deletions: HashSet::new(),
            since: Instant::now(),
        });
        entry.since = Instant::now();
        f(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_until_everything_is_seen() {
        let e = Expectations::new();
        let key = Key { namespace: "n".into(), name: "a".into() };
        assert!(e.satisfied(&key));
        e.expect_creations(&key, 2);
        e.expect_deletions(&key, ["u1".to_owned()]);
        assert!(!e.satisfied(&key));
        e.creation_observed(&key);
        e.creation_observed(&key);
        assert!(!e.satisfied(&key));
        e.deletion_observed(&key, "other");
        assert!(!e.satisfied(&key));
        e.deletion_observed(&key, "u1");
        assert!(e.satisfied(&key));
    }

    #[test]
    fn surplus_observations_do_not_go_negative() {
        let e = Expectations::new();
        let key = Key { namespace: "n".into(), name: "a".into() };
        e.creation_observed(&key);
        e.expect_creations(&key, 1);
        assert!(!e.satisfied(&key));
    }
}
