//! A revisioned key space with compare-and-write transactions and ordered watches.
//!
//! The store knows nothing of Kubernetes: keys are `/`-separated paths, values are bytes. Every successful [`Store::commit`]
//! that changes anything takes the next *revision*, a number that only grows, and all its changes carry that revision.
//!
//! ```text
//!   commit ──► backend (durable first) ──► Index ──► get, list
//!                                            └─────► ring of events per bucket ──► watches (a cursor each)
//! ```
//!
//! Both backends, [`embedded`] and [`etcd`], keep all live entries in one [`Index`] in memory, so that reads never touch a disk
//! or a socket, and hand out the stored bytes shared by all readers. Invariants:
//!
//! * An entry becomes visible (to reads and watches) only after it is durable, and it is acknowledged only after it is visible.
//! * A watch delivers every event of its prefix after its start revision, once, in revision order, or ends with
//!   [`Error::Compacted`]. It never skips.
//! * A watch is a cursor into a ring shared by all watches of its *bucket* (the first two segments of a key): an idle watch costs
//!   some hundred bytes, no task, and is not even woken by events outside its prefix.
//! * History (for watches from an older revision and lists at an exact one) is bounded by count, bytes and age ([`HistoryLimits`]);
//!   a reader that needs more than what is kept gets [`Error::Compacted`] and starts anew.
//! * The stored form is the served form: a write may ask ([`Change::Put::revision_at`]) that the store put the decimal revision of
//!   the commit into the value, so that the bytes need no touch when they are read.

pub mod embedded;
mod error;
pub mod etcd;
mod event;
mod index;
mod ring;
mod types;
mod watch;

pub use error::Error;
pub use event::{Event, EventKind, Slot};
pub use index::{Applied, Index, PATIENCE};
pub use ring::HistoryLimits;
pub use types::{
    At, Change, Committed, Entry, Expect, Found, MAX_KEY, MAX_TRANSACTION, MAX_VALUE, MAX_WRITES, Page, Revision,
    Stats, Write, bucket_of, splice_revision,
};
pub use watch::{Batch, MAX_BATCH, Watch};

use futures::future::BoxFuture;

/// What every backend does. Object safe: used as `Arc<dyn Store>`.
pub trait Store: Send + Sync + 'static {
    /// The entry at `key`, with the revision at which that answer is true.
    fn get<'a>(&'a self, key: &'a str, at: At) -> BoxFuture<'a, Result<Found, Error>>;

    /// Up to `limit` entries (0 = all) whose keys start with `prefix`, in key order, beginning after the key `start_after`.
    /// All pages of one walk are consistent when each but the first asks for `At::Exact(first.revision)`.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: At,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// Does all of `writes` or none, durably. Their keys must differ. When any expectation fails the answer is
    /// [`Error::Conflict`], naming the first such key and what is there now. After [`Error::Unavailable`] or [`Error::Io`] the outcome is unknown
    /// (as with any lost answer); after every other error nothing was written.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, Error>>;

    /// Watches keys that start with `prefix`, delivering events with revisions greater than `after`. The prefix must name a
    /// whole bucket or something inside one (`core/pods/`, `core/pods/default/`, `core/pods/default/web`).
    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;

    /// Forgets history up to and including `revision`: watches and exact lists from before it answer [`Error::Compacted`].
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>>;

    /// The newest revision that reads can see, without asking anybody.
    fn revision(&self) -> Revision;

    /// Asks the backend whether it can take writes; the error says why not.
    fn check(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Sizes, for metrics and status.
    fn stats(&self) -> Stats;
}
