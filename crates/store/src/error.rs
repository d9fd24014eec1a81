//! What can go wrong.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Entry, Revision};

/// Every failure of a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A write's expectation was not met; nothing of the commit was done.
    #[error("the entry {key:?} is not as expected: {}", match present { Some(e) => format!("it was last changed at revision {}", e.revision), None => "it does not exist".into() })]
    Conflict {
        /// The key whose expectation failed.
        key: String,
        /// What is there.
        present: Option<Arc<Entry>>,
    },
    /// The revision asked for is older than the history that is kept.
    #[error("that revision has been compacted: history begins at {oldest}")]
    Compacted {
        /// The oldest revision that would be answered.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {requested} is in the future: the newest is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// A watch or a bucket cannot be made from this prefix.
    #[error(
        "the prefix {prefix:?} does not name a bucket: it needs two segments and a '/' after them, like \"core/pods/\""
    )]
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// A key has no bucket or nothing after it.
    #[error("the key {key:?} is malformed: it needs at least three segments, like \"core/nodes/one\"")]
    Key {
        /// The key.
        key: String,
    },
    /// A commit writes one key twice.
    #[error("the key {key:?} occurs twice in one commit")]
    Duplicate {
        /// The key.
        key: String,
    },
    /// Something is larger than a limit.
    #[error("{what} is too large: {size}, at most {limit} is allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The disk has no room; nothing was written. Reads, watches and (as long as the reserve lasts) deletions go on.
    #[error("no space left on the disk that holds {path:?}: free some, or delete objects; writes resume by themselves")]
    Full {
        /// The store's directory.
        path: PathBuf,
    },
    /// The disk failed; whether the write survives a crash is unknown.
    #[error("cannot write to the store in {path:?}: {detail}; reads and watches go on, writes are tried again")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Another process has the store open.
    #[error("the store in {path:?} is in use by process {holder}: stop it, or choose another data directory")]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The other's process id, as it wrote it into the lock file.
        holder: String,
    },
    /// The data was written by a program with another format.
    #[error(
        "the store in {path:?} has data format {found}; this program reads {supported}: use the program that wrote it, or restore a snapshot"
    )]
    Format {
        /// The store's directory.
        path: PathBuf,
        /// The version found.
        found: String,
        /// What this program understands.
        supported: &'static str,
    },
    /// Stored data is damaged in a way that no crash explains.
    #[error("{path:?} is damaged at byte {offset}: {detail}; restore a snapshot")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The backend could not be reached or did not answer in time; the outcome of a commit is unknown.
    #[error("the store cannot be reached: {detail}")]
    Unavailable {
        /// What was seen.
        detail: String,
    },
    /// The configuration makes no sense.
    #[error("store configuration: {detail}")]
    Config {
        /// What is wrong.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
