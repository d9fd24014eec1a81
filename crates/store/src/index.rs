//! All live entries and the recent past, in memory: what every read and every watch of both backends is answered from.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch as signal;

use crate::ring::{HistoryLimits, Ring};
use crate::watch::{Waiters, Watch};
use crate::{At, Entry, Error, Event, EventKind, Found, Page, Revision, Slot, Stats, bucket_of};

/// One change of a commit that has become durable.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The key.
    pub key: Arc<str>,
    /// The new state; `None` for a deletion.
    pub entry: Option<Arc<Entry>>,
}

/// Live entries and history of one bucket, changed together.
#[derive(Debug)]
pub(crate) struct State {
    map: BTreeMap<Arc<str>, Arc<Entry>>,
    pub(crate) ring: Ring,
    /// The revision of the newest change here.
    last: Revision,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) state: RwLock<State>,
    pub(crate) waiters: Mutex<Waiters>,
}

/// State that only whoever applies commits touches.
#[derive(Debug, Default)]
struct Publisher {
    /// Now and then a revision with the time it was applied, for forgetting by age.
    ages: VecDeque<(Instant, Revision)>,
}

/// The in-memory index. One backend owns it and applies commits in revision order; anyone reads.
#[derive(Debug)]
pub struct Index {
    limits: HistoryLimits,
    buckets: RwLock<BTreeMap<Arc<str>, Arc<Bucket>>>,
    publisher: Mutex<Publisher>,
    /// Every commit up to here is visible in all buckets.
    published: Arc<AtomicU64>,
    signal: signal::Sender<Revision>,
    /// History up to here is forgotten in all buckets.
    compacted: AtomicU64,
    entries: AtomicU64,
    live_bytes: AtomicU64,
    history_bytes: AtomicUsize,
    watches: Arc<AtomicU64>,
}

/// How long a read waits for a revision that is not here yet (upstream waits as long).
pub const PATIENCE: Duration = Duration::from_secs(3);

fn size_of_entry(entry: &Entry) -> u64 {
    (entry.key.len() + entry.value.len()) as u64
}

impl Index {
    /// An empty index.
    pub fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            buckets: RwLock::default(),
            publisher: Mutex::default(),
            published: Arc::default(),
            signal: signal::Sender::new(0),
            compacted: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            history_bytes: AtomicUsize::new(0),
            watches: Arc::default(),
        }
    }

    /// Puts in an entry found at start-up, before [`Index::start`]; no event.
    pub fn load(&self, entry: Arc<Entry>) {
        let Some(bucket) = bucket_of(&entry.key).map(|name| self.bucket(name)) else { return };
        let added = size_of_entry(&entry);
        match bucket.state.write().map.insert(entry.key.clone(), entry) {
            Some(old) => {
                self.live_bytes.fetch_sub(size_of_entry(&old), Ordering::Relaxed);
            }
            None => {
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.live_bytes.fetch_add(added, Ordering::Relaxed);
    }

    /// Takes out a key during start-up; no event.
    pub fn unload(&self, key: &str) {
        let Some(bucket) = bucket_of(key).and_then(|name| self.existing(name)) else { return };
        if let Some(old) = bucket.state.write().map.remove(key) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            self.live_bytes.fetch_sub(size_of_entry(&old), Ordering::Relaxed);
        }
    }

    /// Takes in a commit found at start-up, as history too; before [`Index::resume`]. All commits after `floor` come
    /// this way, in order.
    pub fn reload(&self, floor: Revision, revision: Revision, change: &Applied) {
        self.compacted.fetch_max(floor, Ordering::AcqRel);
        let Some(bucket) = bucket_of(&change.key).map(|name| self.bucket(name)) else { return };
        bucket.state.write().ring.forget(floor);
        if self.apply_one(&bucket, revision, change).is_some() {
            self.trim(&bucket);
        }
    }

    /// Ends start-up: what was taken in is the state at `revision`. History begins where [`Index::reload`] had it begin.
    pub fn resume(&self, revision: Revision) {
        if self.history_bytes.load(Ordering::Relaxed) == 0 {
            return self.start(revision);
        }
        let floor = self.compacted.load(Ordering::Acquire);
        for bucket in self.buckets.read().values() {
            let mut state = bucket.state.write();
            state.ring.forget(floor);
            state.last = revision;
        }
        self.published.store(revision, Ordering::Release);
        self.signal.send_replace(revision);
    }

    /// Ends start-up: the loaded entries are the state at `revision`, and history begins there.
    pub fn start(&self, revision: Revision) {
        self.compacted.store(revision, Ordering::Release);
        for bucket in self.buckets.read().values() {
            let mut state = bucket.state.write();
            state.ring.forget(revision);
            state.last = revision;
        }
        self.published.store(revision, Ordering::Release);
        self.signal.send_replace(revision);
    }

    /// The newest revision that is visible in all buckets.
    pub fn revision(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    /// A receiver that changes with [`Index::revision`].
    pub fn follow(&self) -> signal::Receiver<Revision> {
        self.signal.subscribe()
    }

    /// Waits for what `at` needs; gives the exact revision when one was asked for. Other than [`At::NotOlder`] nothing waits
    /// here: a backend with other writers makes sure of [`At::Latest`] itself.
    ///
    /// # Errors
    /// [`Error::FutureRevision`] when the revision does not come within [`PATIENCE`].
    pub async fn settle(&self, at: At) -> Result<Option<Revision>, Error> {
        match at {
            At::Latest | At::Cached => Ok(None),
            At::Exact(revision) => Ok(Some(revision)),
            At::NotOlder(revision) if revision <= self.revision() => Ok(None),
            At::NotOlder(requested) => {
                let mut follow = self.follow();
                let reached = tokio::time::timeout(PATIENCE, follow.wait_for(|newest| *newest >= requested)).await;
                match reached {
                    Ok(Ok(_)) => Ok(None),
                    _ => Err(Error::FutureRevision { requested, current: self.revision() }),
                }
            }
        }
    }

    /// The number of live entries, and the bytes of their keys and values.
    pub fn size(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.live_bytes.load(Ordering::Relaxed))
    }

    fn existing(&self, name: &str) -> Option<Arc<Bucket>> {
        self.buckets.read().get(name).cloned()
    }

    fn bucket(&self, name: &str) -> Arc<Bucket> {
        if let Some(found) = self.existing(name) {
            return found;
        }
        let mut buckets = self.buckets.write();
        if let Some(found) = buckets.get(name) {
            return found.clone();
        }
        let floor = self.compacted.load(Ordering::Acquire);
        let state = State { map: BTreeMap::new(), ring: Ring::new(floor), last: floor };
        let made = Arc::new(Bucket { state: RwLock::new(state), waiters: Mutex::default() });
        buckets.insert(name.into(), made.clone());
        made
    }

    /// The present entry at a key.
    pub fn current(&self, key: &str) -> Option<Arc<Entry>> {
        let bucket = self.existing(bucket_of(key)?)?;
        let state = bucket.state.read();
        state.map.get(key).cloned()
    }

    /// Makes durable commits visible, in revision order, and wakes the watches concerned.
    pub fn apply(&self, commits: &[(Revision, Vec<Applied>)]) {
        let Some(newest) = commits.last().map(|(revision, _)| *revision) else { return };
        let mut publisher = self.publisher.lock();
        let mut touched: Vec<(Arc<Bucket>, Vec<Arc<Event>>)> = Vec::new();
        for (revision, changes) in commits {
            for change in changes {
                let Some(name) = bucket_of(&change.key) else { continue };
                let bucket = self.bucket(name);
                let Some(event) = self.apply_one(&bucket, *revision, change) else { continue };
                match touched.iter_mut().find(|(b, _)| Arc::ptr_eq(b, &bucket)) {
                    Some((_, events)) => events.push(event),
                    None => touched.push((bucket, vec![event])),
                }
            }
        }
        self.published.store(newest, Ordering::Release);
        for (bucket, events) in &touched {
            bucket.waiters.lock().notify(events);
        }
        // Trim only now: the watches not concerned have learnt that they missed nothing.
        for (bucket, _) in &touched {
            self.trim(bucket);
        }
        self.forget_old(&mut publisher, newest);
        drop(publisher);
        self.signal.send_replace(newest);
    }

    /// Applies changes whose steps in between are unknown, and cuts off everybody who would have needed those.
    pub fn replace(&self, revision: Revision, changes: Vec<Applied>) {
        self.apply(&[(revision, changes)]);
        self.forget(revision);
        // All waiting watches look, find their place gone, and end.
        for bucket in self.buckets.read().values() {
            bucket.waiters.lock().wake_all();
        }
    }

    fn apply_one(&self, bucket: &Bucket, revision: Revision, change: &Applied) -> Option<Arc<Event>> {
        let mut state = bucket.state.write();
        let event = match &change.entry {
            Some(entry) => {
                let prev = state.map.insert(change.key.clone(), entry.clone());
                self.live_bytes.fetch_add(size_of_entry(entry), Ordering::Relaxed);
                match &prev {
                    Some(old) => self.live_bytes.fetch_sub(size_of_entry(old), Ordering::Relaxed),
                    None => self.entries.fetch_add(1, Ordering::Relaxed),
                };
                let kind = if prev.is_some() { EventKind::Updated } else { EventKind::Created };
                Event { revision, kind, entry: entry.clone(), prev, slot: Slot::default() }
            }
            None => {
                let prev = state.map.remove(&change.key)?;
                self.entries.fetch_sub(1, Ordering::Relaxed);
                self.live_bytes.fetch_sub(size_of_entry(&prev), Ordering::Relaxed);
                let entry = Arc::new(prev.stamped(revision));
                Event { revision, kind: EventKind::Deleted, entry, prev: Some(prev), slot: Slot::default() }
            }
        };
        let event = Arc::new(event);
        state.ring.push(event.clone());
        state.last = revision;
        self.history_bytes.fetch_add(event.cost(), Ordering::Relaxed);
        Some(event)
    }

    fn trim(&self, bucket: &Bucket) {
        let mut state = bucket.state.write();
        let tight = self.history_bytes.load(Ordering::Relaxed) > self.limits.total_bytes;
        let bytes = if tight { self.limits.bytes.min(self.limits.total_bytes / 16) } else { self.limits.bytes };
        self.shrinking(&mut state, |ring| ring.trim(self.limits.events, bytes));
    }

    fn shrinking(&self, state: &mut State, shrink: impl FnOnce(&mut Ring)) {
        let before = state.ring.bytes();
        shrink(&mut state.ring);
        self.history_bytes.fetch_sub(before - state.ring.bytes(), Ordering::Relaxed);
    }

    fn forget_old(&self, publisher: &mut Publisher, newest: Revision) {
        let now = Instant::now();
        let step = self.limits.age / 16;
        if publisher.ages.back().is_none_or(|(at, _)| now.duration_since(*at) >= step) {
            publisher.ages.push_back((now, newest));
        }
        let mut floor = None;
        while publisher.ages.front().is_some_and(|(at, _)| now.duration_since(*at) > self.limits.age) {
            floor = publisher.ages.pop_front().map(|(_, revision)| revision);
        }
        if let Some(revision) = floor {
            self.forget(revision);
        }
    }

    /// Forgets history up to and including `revision`.
    pub fn forget(&self, revision: Revision) {
        let revision = revision.min(self.revision());
        self.compacted.fetch_max(revision, Ordering::AcqRel);
        for bucket in self.buckets.read().values() {
            self.shrinking(&mut bucket.state.write(), |ring| ring.forget(revision));
        }
    }

    /// The entry at a key, now or exactly at a revision.
    pub fn get(&self, key: &str, exact: Option<Revision>) -> Result<Found, Error> {
        let Some(bucket) = bucket_of(key).and_then(|name| self.existing(name)) else {
            return Ok(Found { entry: None, revision: self.at(exact, self.compacted.load(Ordering::Acquire))? });
        };
        let state = bucket.state.read();
        let revision = self.at(exact, state.ring.floor())?.max(if exact.is_some() { 0 } else { state.last });
        let undone = exact.and_then(|at| state.ring.after(at).find(|e| **e.key() == *key)).map(|e| e.prev.clone());
        let entry = undone.unwrap_or_else(|| state.map.get(key).cloned());
        Ok(Found { entry, revision })
    }

    /// Checks an exact revision against what is kept; without one the answer is the published revision.
    fn at(&self, exact: Option<Revision>, floor: Revision) -> Result<Revision, Error> {
        let current = self.revision();
        match exact {
            None => Ok(current),
            Some(requested) if requested > current => Err(Error::FutureRevision { requested, current }),
            Some(requested) if requested < floor => Err(Error::Compacted { oldest: floor }),
            Some(requested) => Ok(requested),
        }
    }

    /// See [`crate::Store::list`].
    pub fn list(
        &self,
        prefix: &str,
        exact: Option<Revision>,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut page = Page { entries: Vec::new(), revision: 0, more: false, remaining_count: 0 };
        let Some(name) = bucket_of(prefix) else { return self.list_all(prefix, exact, start_after, limit, page) };
        match self.existing(name) {
            None => page.revision = self.at(exact, self.compacted.load(Ordering::Acquire))?,
            Some(bucket) => {
                let state = bucket.state.read();
                page.revision = self.at(exact, state.ring.floor())?;
                if exact.is_none() {
                    page.revision = page.revision.max(state.last);
                }
                collect(&state, prefix, exact, start_after, limit, &mut page);
            }
        }
        Ok(page)
    }

    /// A list over several buckets (a snapshot of everything, say): nothing is applied meanwhile.
    fn list_all(
        &self,
        prefix: &str,
        exact: Option<Revision>,
        start_after: Option<&str>,
        limit: usize,
        mut page: Page,
    ) -> Result<Page, Error> {
        let _still = self.publisher.lock();
        page.revision = self.at(exact, self.compacted.load(Ordering::Acquire))?;
        for (_, bucket) in self.buckets.read().iter().filter(|(name, _)| name.starts_with(prefix)) {
            let state = bucket.state.read();
            self.at(exact, state.ring.floor())?;
            collect(&state, prefix, exact, start_after, limit, &mut page);
        }
        Ok(page)
    }

    /// See [`crate::Store::watch`].
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let name = bucket_of(prefix).ok_or_else(|| Error::Prefix { prefix: prefix.to_owned() })?;
        let bucket = self.bucket(name);
        Watch::open(bucket, prefix, after, self.published.clone(), self.watches.clone())
    }

    /// Sizes; `disk_bytes` is the backend's to fill in.
    pub fn stats(&self) -> Stats {
        let events = self.buckets.read().values().map(|b| b.state.read().ring.len() as u64).sum();
        Stats {
            entries: self.entries.load(Ordering::Relaxed),
            live_bytes: self.live_bytes.load(Ordering::Relaxed),
            events,
            history_bytes: self.history_bytes.load(Ordering::Relaxed) as u64,
            watches: self.watches.load(Ordering::Relaxed),
            disk_bytes: 0,
            revision: self.revision(),
        }
    }

    /// Calls `f` with every live entry, bucket by bucket.
    pub fn for_each(&self, mut f: impl FnMut(&Arc<Entry>)) {
        let buckets: Vec<_> = self.buckets.read().values().cloned().collect();
        for bucket in buckets {
            bucket.state.read().map.values().for_each(&mut f);
        }
    }
}

/// Adds to `page` what a bucket has, counting what no longer fits.
fn collect(
    state: &State,
    prefix: &str,
    exact: Option<Revision>,
    start_after: Option<&str>,
    limit: usize,
    page: &mut Page,
) {
    let from = match start_after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let live = state
        .map
        .range::<str, _>((from, Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(prefix))
        .map(|(_, entry)| entry);
    let mut take = |entry: &Arc<Entry>| {
        if page.entries.len() < limit {
            page.entries.push(entry.clone());
        } else {
            page.more = true;
            page.remaining_count += 1;
        }
    };
    let past = exact.map(|at| undo(state, prefix, at, from)).unwrap_or_default();
    if past.is_empty() {
        live.for_each(take);
        return;
    }
    let mut past = past.into_iter().peekable();
    for entry in live {
        while let Some((_, old)) = past.next_if(|(key, _)| **key < *entry.key) {
            old.iter().for_each(&mut take);
        }
        match past.next_if(|(key, _)| **key == *entry.key) {
            Some((_, old)) => old.iter().for_each(&mut take),
            None => take(entry),
        }
    }
    for (_, old) in past {
        old.iter().for_each(&mut take);
    }
}

/// What the keys that changed after `at` were like at `at`.
fn undo(state: &State, prefix: &str, at: Revision, from: Bound<&str>) -> BTreeMap<Arc<str>, Option<Arc<Entry>>> {
    let mut past = BTreeMap::new();
    for event in state.ring.after(at) {
        let key = event.key();
        let inside = match from {
            Bound::Included(first) => &**key >= first,
            Bound::Excluded(before) => &**key > before,
            Bound::Unbounded => true,
        };
        if inside && key.starts_with(prefix) {
            past.entry(key.clone()).or_insert_with(|| event.prev.clone());
        }
    }
    past
}
