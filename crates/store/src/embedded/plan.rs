//! What a group of commits does: decided against the index and what the group itself has done so far. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::frame::Frame;
use crate::{Applied, Change, Committed, Entry, Error, Expect, Index, Revision, Slot, Write, splice_revision};

/// An update may grow a value by this much on a full disk: enough for a deletion mark or a condition, so that objects can be taken away.
const GROWTH_ON_FULL_DISK: usize = 512;

/// The effects of a group, not yet durable.
pub(super) struct Group<'a> {
    index: &'a Index,
    newest: Revision,
    /// Seconds since 1970.
    now: u64,
    overlay: HashMap<Arc<str>, Option<Arc<Entry>>>,
    pub(super) commits: Vec<(Revision, Vec<Applied>)>,
}

impl<'a> Group<'a> {
    pub(super) fn new(index: &'a Index, now: u64) -> Self {
        Self { index, newest: index.revision(), now, overlay: HashMap::new(), commits: Vec::new() }
    }

    fn present(&self, key: &str) -> Option<Arc<Entry>> {
        match self.overlay.get(key) {
            Some(changed) => changed.clone(),
            None => self.index.current(key),
        }
    }

    /// Adds a commit, or says why it cannot be. With `shrinking_only` it must not make the data larger.
    pub(super) fn add(&mut self, writes: &[Write], shrinking_only: bool) -> Result<Committed, Refusal> {
        let present: Vec<_> = writes.iter().map(|w| self.present(&w.key)).collect();
        for (write, present) in writes.iter().zip(&present) {
            let met = match (write.expect, present) {
                (Expect::Any, _) | (Expect::Absent, None) => true,
                (Expect::Revision(want), Some(entry)) => entry.revision == want,
                (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
            };
            if !met {
                return Err(Refusal::Conflict(Error::Conflict { key: write.key.clone(), present: present.clone() }));
            }
        }
        if shrinking_only && writes.iter().zip(&present).any(|(w, p)| grows(w, p.as_deref())) {
            return Err(Refusal::Grows);
        }
        let revision = self.newest + 1;
        let mut entries = Vec::with_capacity(writes.len());
        let mut changes = Vec::with_capacity(writes.len());
        for (write, present) in writes.iter().zip(present) {
            match &write.change {
                Change::Put { value, revision_at, ttl } => {
                    let key = present.map_or_else(|| Arc::from(write.key.as_str()), |old| old.key.clone());
                    let entry = Arc::new(Entry {
                        key: key.clone(),
                        value: match revision_at {
                            Some(at) => splice_revision(value, *at, revision),
                            None => value.clone(),
                        },
                        revision,
                        revision_at: revision_at.map_or(u32::MAX, |at| at.min(value.len()) as u32),
                        expires: ttl.map_or(0, |ttl| self.now + ttl.as_secs().max(1)),
                        slot: Slot::default(),
                    });
                    entries.push(Some(entry.clone()));
                    changes.push(Applied { key, entry: Some(entry) });
                }
                Change::Delete => {
                    entries.push(present.as_ref().map(|old| Arc::new(old.stamped(revision))));
                    changes.extend(present.map(|old| Applied { key: old.key.clone(), entry: None }));
                }
            }
        }
        if changes.is_empty() {
            return Ok(Committed { revision: self.newest, entries });
        }
        for change in &changes {
            self.overlay.insert(change.key.clone(), change.entry.clone());
        }
        self.newest = revision;
        self.commits.push((revision, changes));
        Ok(Committed { revision, entries })
    }

    /// Writes the effects into a frame.
    pub(super) fn encode(&self, frame: &mut Frame) {
        for (revision, changes) in &self.commits {
            for change in changes {
                match &change.entry {
                    Some(entry) => frame.put(entry),
                    None => frame.delete(&change.key, *revision),
                }
            }
        }
    }
}

/// Why a commit is not in the group.
pub(super) enum Refusal {
    Conflict(Error),
    /// It would make the data larger, and the disk is full.
    Grows,
}

fn grows(write: &Write, present: Option<&Entry>) -> bool {
    match (&write.change, present) {
        (Change::Delete, _) => false,
        (Change::Put { .. }, None) => true,
        (Change::Put { value, .. }, Some(old)) => value.len() > old.value.len() + GROWTH_ON_FULL_DISK,
    }
}
