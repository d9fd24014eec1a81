//! The values that pass through [`crate::Store`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Slot};

/// A point in the store's history. 0 is before everything.
pub type Revision = u64;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 2048;
/// The largest value, in bytes. Twice etcd's default request limit of 1.5 MiB, which upstream objects must fit.
pub const MAX_VALUE: usize = 3 << 20;
/// The most writes in one commit (etcd's default `--max-txn-ops`).
pub const MAX_WRITES: usize = 128;
/// The most bytes of keys and values in one commit.
pub const MAX_TRANSACTION: usize = 8 << 20;

/// A stored value with what is known about it. Shared by all readers; never changes.
#[derive(Debug)]
pub struct Entry {
    /// The whole key.
    pub key: Arc<str>,
    /// The value, with its revision already inside when the write asked for that.
    pub value: Bytes,
    /// The revision of the commit that stored this value.
    pub revision: Revision,
    /// Where in `value` the decimal revision begins; `u32::MAX` when it is not inside.
    pub revision_at: u32,
    /// When the entry deletes itself, in seconds since 1970; 0 for never.
    pub expires: u64,
    /// A place where a reader may keep what it made from `value` (parsed metadata, say), for all other readers.
    pub slot: Slot,
}

impl Entry {
    /// The same value as it was at its deletion: stamped with the revision of the deletion, which is how a deleted object is
    /// shown to watchers.
    pub fn stamped(&self, revision: Revision) -> Self {
        let at = self.revision_at as usize;
        let value = if self.revision_at == u32::MAX {
            self.value.clone()
        } else {
            let digits = decimal_len(self.revision);
            let mut out = Vec::with_capacity(self.value.len() + 4);
            out.extend_from_slice(&self.value[..at]);
            out.extend_from_slice(itoa::Buffer::new().format(revision).as_bytes());
            out.extend_from_slice(&self.value[at + digits..]);
            Bytes::from(out)
        };
        Self {
            key: self.key.clone(),
            value,
            revision,
            revision_at: self.revision_at,
            expires: self.expires,
            slot: Slot::default(),
        }
    }
}

/// How many characters the decimal form of `n` has.
pub(crate) fn decimal_len(n: u64) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Puts the decimal `revision` into `value` at byte offset `at`. Offsets past the end append.
pub fn splice_revision(value: &[u8], at: usize, revision: Revision) -> Bytes {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(revision).as_bytes();
    let at = at.min(value.len());
    let mut out = Vec::with_capacity(value.len() + digits.len());
    out.extend_from_slice(&value[..at]);
    out.extend_from_slice(digits);
    out.extend_from_slice(&value[at..]);
    Bytes::from(out)
}

/// The bucket of a key or prefix: its first two segments and the `/` after them (a leading `/` belongs to the first).
/// `None` when there are fewer than two complete ones.
pub fn bucket_of(key: &str) -> Option<&str> {
    let skip = usize::from(key.starts_with('/'));
    let first = key[skip..].find('/')? + skip + 1;
    let second = key[first..].find('/')? + first;
    (first < second && first > skip + 1).then(|| &key[..=second])
}

/// Which state a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest state there is: includes every commit acknowledged by anybody before the call.
    Latest,
    /// Whatever this process knows now; never waits. With the embedded backend this is the same as `Latest`.
    Cached,
    /// A state not older than this revision; waits a little for it, then [`Error::FutureRevision`].
    NotOlder(Revision),
    /// Exactly the state at this revision, as long as history reaches back to it.
    Exact(Revision),
}

/// The answer of [`crate::Store::get`].
#[derive(Clone, Debug)]
pub struct Found {
    /// What is at the key, if anything.
    pub entry: Option<Arc<Entry>>,
    /// The revision at which that is so.
    pub revision: Revision,
}

/// The answer of [`crate::Store::list`].
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries, in key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision at which this is the state: start a watch from here, ask for further pages at exactly here.
    pub revision: Revision,
    /// There are further entries after the last of this page.
    pub more: bool,
    /// How many those are.
    pub remaining_count: u64,
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// There is no entry.
    Absent,
    /// The present entry was stored at this revision.
    Revision(Revision),
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Change {
    /// Stores a value.
    Put {
        /// The value.
        value: Bytes,
        /// The byte offset in `value` at which the decimal commit revision is to be inserted.
        revision_at: Option<usize>,
        /// How long the entry lives; `None` for ever. Kept to about a second (embedded) or a minute (etcd).
        ttl: Option<Duration>,
    },
    /// Removes the entry. Removing nothing is not an error, and is no event.
    Delete,
}

/// One write of a commit.
#[derive(Clone, Debug)]
pub struct Write {
    /// The whole key: at least three segments, the first two of which are its bucket.
    pub key: String,
    /// The condition.
    pub expect: Expect,
    /// The deed.
    pub change: Change,
}

impl Write {
    /// Stores a value where there is none.
    pub fn create(key: impl Into<String>, value: impl Into<Bytes>, revision_at: Option<usize>) -> Self {
        Self {
            key: key.into(),
            expect: Expect::Absent,
            change: Change::Put { value: value.into(), revision_at, ttl: None },
        }
    }

    /// Stores a value whatever there is.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            expect: Expect::Any,
            change: Change::Put { value: value.into(), revision_at: None, ttl: None },
        }
    }

    /// Replaces the value stored at `revision`.
    pub fn update(
        key: impl Into<String>,
        revision: Revision,
        value: impl Into<Bytes>,
        revision_at: Option<usize>,
    ) -> Self {
        Self {
            key: key.into(),
            expect: Expect::Revision(revision),
            change: Change::Put { value: value.into(), revision_at, ttl: None },
        }
    }

    /// Removes the entry under a condition.
    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self { key: key.into(), expect, change: Change::Delete }
    }

    /// The same put, with a time to live.
    #[must_use]
    pub fn with_ttl(mut self, life: Duration) -> Self {
        if let Change::Put { ttl, .. } = &mut self.change {
            *ttl = Some(life);
        }
        self
    }
}

/// Checks the form of a commit: limits, key forms, distinct keys.
pub(crate) fn check_writes(writes: &[Write]) -> Result<(), Error> {
    if writes.len() > MAX_WRITES {
        return Err(Error::TooLarge { what: "number of writes in one commit", size: writes.len(), limit: MAX_WRITES });
    }
    let mut total = 0;
    for (i, write) in writes.iter().enumerate() {
        if write.key.len() > MAX_KEY {
            return Err(Error::TooLarge { what: "key", size: write.key.len(), limit: MAX_KEY });
        }
        if bucket_of(&write.key).is_none_or(|bucket| bucket.len() >= write.key.len()) {
            return Err(Error::Key { key: write.key.clone() });
        }
        if writes[..i].iter().any(|other| other.key == write.key) {
            return Err(Error::Duplicate { key: write.key.clone() });
        }
        total += write.key.len();
        if let Change::Put { value, .. } = &write.change {
            if value.len() > MAX_VALUE {
                return Err(Error::TooLarge { what: "value", size: value.len(), limit: MAX_VALUE });
            }
            total += value.len();
        }
    }
    if total > MAX_TRANSACTION {
        return Err(Error::TooLarge { what: "commit", size: total, limit: MAX_TRANSACTION });
    }
    Ok(())
}

/// The answer of [`crate::Store::commit`].
#[derive(Clone, Debug)]
pub struct Committed {
    /// The revision of the commit; when it changed nothing, the newest revision.
    pub revision: Revision,
    /// For each write: the entry as stored, or for a deletion the last state stamped with the revision of the deletion
    /// (`None` when there was nothing to delete).
    pub entries: Vec<Option<Arc<Entry>>>,
}

/// Sizes of a store. Bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many live entries.
    pub entries: u64,
    /// Their keys and values.
    pub live_bytes: u64,
    /// How many events are kept for watches.
    pub events: u64,
    /// What those events hold beyond live entries.
    pub history_bytes: u64,
    /// How many watches are open.
    pub watches: u64,
    /// What the backend occupies on disk; 0 when it is not on this machine.
    pub disk_bytes: u64,
    /// The newest revision.
    pub revision: Revision,
}
