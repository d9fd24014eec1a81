//! A deduplicating work queue with delays and per-item back-off.
//!
//! The rules of client-go's work queue: an item waits at most once; while a worker has it, adding it again
//! marks it dirty and it is handed out once more after [`WorkQueue::done`], never to two workers at a time.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First wait of [`WorkQueue::add_rate_limited`].
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// Longest wait of [`WorkQueue::add_rate_limited`].
const LONGEST_RETRY: Duration = Duration::from_secs(1000);

struct State<T> {
    ready: VecDeque<T>,
    dirty: HashSet<T>,
    processing: HashSet<T>,
    failures: HashMap<T, u32>,
    /// Deadlines by time; an entry counts only while `due` still names the same time for its item.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    items: HashMap<u64, T>,
    due: HashMap<T, (Instant, u64)>,
    sequence: u64,
    closed: bool,
}

/// See the module documentation. Cheap to clone. Its size is bounded by the number of distinct items.
pub struct WorkQueue<T> {
    inner: Arc<(Mutex<State<T>>, Notify)>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        WorkQueue { inner: self.inner.clone() }
    }
}

impl<T: Eq + Hash + Clone> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Eq + Hash + Clone> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            failures: HashMap::new(),
            delayed: BinaryHeap::new(),
            items: HashMap::new(),
            due: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        WorkQueue { inner: Arc::new((Mutex::new(state), Notify::new())) }
    }

    /// Asks for `item` to be worked on as soon as a worker is free.
    pub fn add(&self, item: T) {
        if self.inner.0.lock().add(item) {
            self.inner.1.notify_one();
        }
    }

    /// Asks for `item` to be worked on after `delay`; of several delays the earliest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let at = Instant::now() + delay;
        let mut state = self.inner.0.lock();
        if state.closed || state.due.get(&item).is_some_and(|(due, _)| *due <= at) {
            return;
        }
        if let Some((_, id)) = state.due.remove(&item) {
            state.items.remove(&id);
        }
        state.sequence += 1;
        let id = state.sequence;
        state.delayed.push(Reverse((at, id)));
        state.items.insert(id, item.clone());
        state.due.insert(item, (at, id));
        drop(state);
        self.inner.1.notify_one();
    }

    /// Asks for `item` again after its back-off: 5 ms, doubling to 1000 s with each call until
    /// [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, item: T) {
        let failures = {
            let mut state = self.inner.0.lock();
            let n = state.failures.entry(item.clone()).or_insert(0);
            *n += 1;
            *n - 1
        };
        let delay = FIRST_RETRY.saturating_mul(1u32 << failures.min(20)).min(LONGEST_RETRY);
        self.add_after(item, delay);
    }

    /// Resets the back-off of `item`.
    pub fn forget(&self, item: &T) {
        self.inner.0.lock().failures.remove(item);
    }

    /// The number of back-offs that `item` has had since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.inner.0.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// The next item; `None` once the queue is shut down and drained. Every item must be given back
    /// with [`WorkQueue::done`].
    pub async fn get(&self) -> Option<T> {
        loop {
            // Registered before looking, so that an `add` in between is not missed.
            let notified = self.inner.1.notified();
            let next = {
                let mut state = self.inner.0.lock();
                state.promote(Instant::now());
                if let Some(item) = state.take() {
                    if !state.ready.is_empty() {
                        self.inner.1.notify_one();
                    }
                    return Some(item);
                }
                if state.closed {
                    drop(state);
                    self.inner.1.notify_waiters();
                    self.inner.1.notify_one();
                    return None;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match next {
                Some(at) => tokio::select! { _ = notified => {}, _ = tokio::time::sleep_until(at) => {} },
                None => notified.await,
            }
        }
    }

    /// Gives an item back; if it was added meanwhile it becomes ready again.
    pub fn done(&self, item: &T) {
        let mut state = self.inner.0.lock();
        state.processing.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.inner.1.notify_one();
        }
    }

    /// Items that wait for a worker, without the delayed ones.
    pub fn len(&self) -> usize {
        self.inner.0.lock().ready.len()
    }

    /// Whether no item waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more items; workers get what is ready and then `None`. Delayed items are dropped.
    pub fn shut_down(&self) {
        let mut state = self.inner.0.lock();
        state.closed = true;
        state.delayed.clear();
        state.items.clear();
        state.due.clear();
        drop(state);
        self.inner.1.notify_waiters();
        self.inner.1.notify_one();
    }
}

impl<T: Eq + Hash + Clone> State<T> {
    /// Returns whether a worker should be woken.
    fn add(&mut self, item: T) -> bool {
        if self.closed || !self.dirty.insert(item.clone()) {
            return false;
        }
        if self.processing.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.delayed.peek().copied() {
            // An entry that was replaced by an earlier one has lost its item.
            let live = self.items.contains_key(&id);
            if live && at > now {
                return;
            }
            self.delayed.pop();
            if let Some(item) = self.items.remove(&id) {
                self.due.remove(&item);
                self.add(item);
            }
        }
    }

    fn take(&mut self) -> Option<T> {
        let item = self.ready.pop_front()?;
        self.dirty.remove(&item);
        self.processing.insert(item.clone());
        Some(item)
    }
}
