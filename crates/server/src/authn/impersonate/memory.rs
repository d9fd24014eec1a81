//! Which way was good for somebody last. It is tried first the next time: who uses the older verb pays no more than ever, and is
//! told of that verb when it is not enough.

use super::modes::Mode;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// How many are remembered. With more everything is forgotten, which costs each of them a few questions once.
const REMEMBERED: usize = 10_000;

/// The last good way of everybody who acts as others. Two whose names have the same hash only share the order of trying.
#[derive(Default)]
pub struct Memory {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Mode>>,
}

impl Memory {
    /// The way that was good last.
    pub fn of(&self, name: &str) -> Option<Mode> {
        self.known.lock().get(&self.hasher.hash_one(name)).copied()
    }

    /// This way was good.
    pub fn remember(&self, name: &str, mode: Mode) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(self.hasher.hash_one(name), mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_remembered() {
        let memory = Memory::default();
        for i in 0..=REMEMBERED {
            memory.remember(&i.to_string(), Mode::Legacy);
            assert!(memory.known.lock().len() <= REMEMBERED);
            assert_eq!(memory.of(&i.to_string()), Some(Mode::Legacy));
        }
        memory.remember("a", Mode::UserInfo);
        assert_eq!((memory.of("a"), memory.of("b")), (Some(Mode::UserInfo), None));
    }
}
