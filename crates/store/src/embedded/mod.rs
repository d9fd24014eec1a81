//! The embedded backend: one directory on this machine.
//!
//! All live data is in memory ([`crate::Index`]); the disk holds a log from which that is rebuilt at start:
//! `segment files ◄── writer thread ◄── queue of commits`. The writer takes all commits that wait as one group, appends them as one
//! frame, waits for one fsync, makes them visible, and answers. While the disk is slow, commits wait and reads and watches go on.
//!
//! # Why a log of our own
//!
//! Measured on the build machine (2 cores, ext4 with about 4 ms an fsync): groups of 64 records of 1.4 KB, each made durable; first 10,000
//! creations, then 60,000 updates of random ones; the directory's size as a multiple of the live data.
//!
//! | | creations/s | updates/s | longest pause | size at most | after reopening | after a full disk |
//! |---|---|---|---|---|---|---|
//! | bare append + fsync | 12,900 | 13,700 | 35 ms | | | |
//! | fjall 3.1 | 11,900 | 12,100 | 80 ms | 6.9 × | 3.7 × | poisoned until reopened |
//! | fjall 3.1, key-value separation | 13,900 | 15,100 | 44 ms | 8.5 × | 7.3 × | poisoned until reopened |
//! | redb 4.6 | 11,200 | 6,100 | 128 ms | 2.3 × | 2.3 × | refuses all until reopened |
//!
//! The demands are: at most 2 × the live data, no pause over 50 ms, and a store that goes on by itself when the disk has room
//! again. fjall's journals alone exceed the first (and 23 MB of resident memory against 9 MB for redb and 3 MB for the bare append); redb's
//! copied pages halve the rate of updates, and its file shrinks only by a compaction that stops everything. Neither lives through ENOSPC
//! without being reopened. What is needed here is less than what they do: nothing is ever read from the disk but at start.
//!
//! # Files
//!
//! * `format`: the version of the data format, checked before anything is touched.
//! * `lock`: locked (`flock`) while open; names the process.
//! * `NNNNNNNNNNNNNNNN.log`: the segments; see `frame.rs` for their bytes and `log.rs` for their life.
//! * `reserve`: room that is given up when the disk is full, so that objects can still be deleted.

mod awake;
pub mod faults;
mod frame;
mod lock;
mod log;
pub mod media;
mod plan;
mod queue;
mod writer;

use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use self::frame::{Frame, Record};
use self::log::{Log, failure};
use self::media::{Disk, Media};
use self::queue::{MAX_WAITING, Queue, Request};
use self::writer::{Condition, Reserve, Writer};
use crate::index::Applied;
use crate::types::check_writes;
use crate::{
    At, Committed, Entry, Error, Found, HistoryLimits, Index, Page, Revision, Slot, Stats, Store, Watch, Write,
};
use bytes::Bytes;

/// The data format that this program reads and writes.
pub const SUPPORTED: &str = "1";

/// How to open an embedded store.
#[derive(Clone)]
pub struct Options {
    /// The directory, made when it is not there.
    pub dir: PathBuf,
    /// How much history is kept in memory.
    pub history: HistoryLimits,
    /// How many bytes are kept free for the day when the disk is full.
    pub reserve: u64,
    /// The file system; a test puts a faulty one here.
    pub media: Arc<dyn Media>,
}

impl Options {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), history: HistoryLimits::default(), reserve: 1 << 20, media: Arc::new(Disk) }
    }
}

/// The embedded store. Dropping it finishes what waits and closes it.
pub struct Embedded {
    index: Arc<Index>,
    queue: Arc<Queue>,
    places: Arc<Semaphore>,
    condition: Arc<Condition>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dir: PathBuf,
}

impl Embedded {
    /// Opens the store in a directory, reading everything in it. Blocks for as long as that takes (about a second for
    /// 200,000 objects).
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Format`], [`Error::Corrupt`], [`Error::Io`], [`Error::Full`].
    pub fn open(options: Options) -> Result<Self, Error> {
        let Options { dir, history, reserve, media } = options;
        std::fs::create_dir_all(&dir).map_err(|e| failure(&dir, &e))?;
        let lock = lock::Lock::take(&dir)?;
        lock::check_format(&dir)?;
        let index = Arc::new(Index::new(history));
        let mut seen = 0;
        let (log, newest) = Log::open(&dir, media.clone(), |record, floor| load(&index, record, floor, &mut seen))?;
        index.resume(newest);
        let queue = Arc::new(Queue::default());
        let condition = Arc::new(Condition::default());
        let path = dir.join("reserve");
        let held = std::fs::metadata(&path).is_ok_and(|m| m.len() >= reserve);
        let mut writer = Writer {
            log,
            index: index.clone(),
            queue: queue.clone(),
            condition: condition.clone(),
            reserve: Reserve { path, bytes: reserve, media, held, look_after: None },
            deaths: BinaryHeap::new(),
            frame: Frame::default(),
            clean_after: None,
        };
        if !writer.reserve.take() {
            tracing::warn!(path = %dir.display(), "the disk is full: only deletions and small updates are taken");
            condition.full.store(true, Ordering::Relaxed);
        }
        let mut mortal = Vec::new();
        index.for_each(|entry| mortal.extend((entry.expires != 0).then(|| entry.clone())));
        mortal.iter().for_each(|entry| writer.remember_death(entry));
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                let _held = lock;
                writer.run();
            })
            .map_err(|e| failure(&dir, &e))?;
        Ok(Self {
            index,
            queue,
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            condition,
            thread: Mutex::new(Some(thread)),
            dir,
        })
    }

    /// Finishes what waits and closes the store; blocks until then.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes one record in at start-up. A commit newer than all before it is history too, so that watches go on across a
/// restart; what the cleaner has moved to the end of the log carries an older revision and is state only.
fn load(index: &Index, record: Record<'_>, floor: Revision, seen: &mut Revision) {
    let (revision, change) = match record {
        Record::Put { key, revision, revision_at, expires, value } => {
            let entry = Entry {
                key: key.into(),
                value: Bytes::copy_from_slice(value),
                revision,
                revision_at,
                expires,
                slot: Slot::default(),
            };
            (revision, Applied { key: key.into(), entry: Some(Arc::new(entry)) })
        }
        Record::Delete { key, revision } => (revision, Applied { key: key.into(), entry: None }),
    };
    let moved = revision < *seen || index.current(&change.key).is_some_and(|e| e.revision >= revision);
    *seen = revision.max(*seen);
    if revision > floor && !moved {
        return index.reload(floor, revision, &change);
    }
    match change.entry {
        Some(entry) => index.load(entry),
        None => index.unload(&change.key),
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a str, at: At) -> BoxFuture<'a, Result<Found, Error>> {
        async move {
            let exact = self.index.settle(at).await?;
            self.index.get(key, exact)
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: At,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        async move {
            let exact = self.index.settle(at).await?;
            self.index.list(prefix, exact, start_after, limit)
        }
        .boxed()
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, Error>> {
        async move {
            check_writes(&writes)?;
            let place = self.places.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
            let (reply, answer) = oneshot::channel();
            self.queue.push(Request { writes, reply, _place: place })?;
            answer.await.map_err(|_| Error::Closed)?
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.index.watch(prefix, after)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        self.index.forget(revision);
        std::future::ready(Ok(())).boxed()
    }

    fn revision(&self) -> Revision {
        self.index.revision()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Error>> {
        let failure = self.condition.failure.lock().clone();
        let full = self.condition.full.load(Ordering::Relaxed).then(|| Error::Full { path: self.dir.clone() });
        std::future::ready(failure.or(full).map_or(Ok(()), Err)).boxed()
    }

    fn stats(&self) -> Stats {
        Stats { disk_bytes: self.condition.disk_bytes.load(Ordering::Relaxed), ..self.index.stats() }
    }
}
