//! Watches: cursors into the ring of a bucket.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::index::Bucket;
use crate::{Error, Event, Revision};

/// The most events of a batch, give or take the rest of a commit.
pub const MAX_BATCH: usize = 1024;

/// What a watch keeps in its bucket.
#[derive(Debug)]
struct Waiter {
    prefix: Arc<str>,
    /// Set while the watch waits.
    waker: Option<Waker>,
    /// Up to here nothing concerned the watch while it waited.
    seen: Revision,
}

/// All watches of a bucket.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    slots: Vec<Option<Waiter>>,
    free: Vec<usize>,
}

impl Waiters {
    fn insert(&mut self, waiter: Waiter) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(waiter);
                slot
            }
            None => {
                self.slots.push(Some(waiter));
                self.slots.len() - 1
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
        if self.free.len() == self.slots.len() {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }

    pub(crate) fn wake_all(&mut self) {
        self.slots.iter_mut().flatten().filter_map(|w| w.waker.take()).for_each(Waker::wake);
    }

    /// Wakes the waiting watches that `events` concern; the others only learn that they missed nothing.
    pub(crate) fn notify(&mut self, events: &[Arc<Event>]) {
        let Some(newest) = events.last().map(|e| e.revision) else { return };
        for waiter in self.slots.iter_mut().flatten() {
            if waiter.waker.is_none() {
                continue;
            }
            if events.iter().any(|e| e.key().starts_with(&*waiter.prefix)) {
                if let Some(waker) = waiter.waker.take() {
                    waker.wake();
                }
            } else {
                waiter.seen = newest;
            }
        }
    }
}

/// Some events, in revision order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The events; never empty, never part of a commit's events in this prefix.
    pub events: Vec<Arc<Event>>,
    /// The revision that this watch has now reached.
    pub revision: Revision,
}

/// An open watch. Dropping it closes it.
#[derive(Debug)]
pub struct Watch {
    bucket: Arc<Bucket>,
    prefix: Arc<str>,
    slot: usize,
    cursor: Revision,
    published: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

impl Watch {
    pub(crate) fn open(
        bucket: Arc<Bucket>,
        prefix: &str,
        after: Revision,
        published: Arc<AtomicU64>,
        open: Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let prefix: Arc<str> = prefix.into();
        let slot = bucket.waiters.lock().insert(Waiter { prefix: prefix.clone(), waker: None, seen: 0 });
        open.fetch_add(1, Ordering::Relaxed);
        let watch = Self { bucket, prefix, slot, cursor: after, published, open };
        let oldest = watch.bucket.state.read().ring.floor();
        if after < oldest { Err(Error::Compacted { oldest }) } else { Ok(watch) }
    }

    /// The next events, waiting for some. Cancel safe. After an error the watch is over.
    ///
    /// # Errors
    /// [`Error::Compacted`] when the watch was so slow that events it still needed have been forgotten.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Watch::next`] as a poll function.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Batch, Error>> {
        if let Some(ready) = self.take(MAX_BATCH).transpose() {
            return Poll::Ready(ready);
        }
        // An event pushed before this lock is seen by the second look; one pushed after it finds the waker.
        let bucket = self.bucket.clone();
        let mut waiters = bucket.waiters.lock();
        if let Some(waiter) = waiters.slots[self.slot].as_mut() {
            self.cursor = self.cursor.max(waiter.seen);
        }
        if let Some(ready) = self.take_unlocked(MAX_BATCH).transpose() {
            return Poll::Ready(ready);
        }
        if let Some(waiter) = waiters.slots[self.slot].as_mut() {
            match &mut waiter.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => waiter.waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// The next events if there are any now.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<Batch>, Error> {
        self.take(MAX_BATCH)
    }

    fn take(&mut self, most: usize) -> Result<Option<Batch>, Error> {
        if let Some(waiter) = self.bucket.waiters.lock().slots[self.slot].as_mut() {
            self.cursor = self.cursor.max(waiter.seen);
        }
        self.take_unlocked(most)
    }

    fn take_unlocked(&mut self, most: usize) -> Result<Option<Batch>, Error> {
        let state = self.bucket.state.read();
        if self.cursor < state.ring.lost() {
            return Err(Error::Compacted { oldest: state.ring.floor() });
        }
        let mut events: Vec<Arc<Event>> = Vec::new();
        for event in state.ring.after(self.cursor) {
            if events.len() >= most && events.last().is_some_and(|last| last.revision < event.revision) {
                break;
            }
            self.cursor = event.revision;
            if event.key().starts_with(&*self.prefix) {
                events.push(event.clone());
            }
        }
        Ok((!events.is_empty()).then_some(Batch { events, revision: self.cursor }))
    }

    /// How far this watch has come: everything in its prefix up to the answer has been delivered. `None` when there are
    /// undelivered events, which go first. This is what a bookmark says.
    pub fn progress(&mut self) -> Option<Revision> {
        let published = self.published.load(Ordering::Acquire);
        let state = self.bucket.state.read();
        let seen = self.cursor.max(published);
        let pending = state.ring.after(self.cursor).any(|e| e.revision <= seen && e.key().starts_with(&*self.prefix));
        (!pending).then_some(seen)
    }

    /// How many events of the bucket lie between this watch and the present; the server cuts off whoever is too far behind.
    pub fn lag(&self) -> usize {
        self.bucket.state.read().ring.after(self.cursor).count()
    }

    /// The prefix watched.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bucket.waiters.lock().remove(self.slot);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl futures::Stream for Watch {
    type Item = Result<Batch, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Watch::poll_next(self.get_mut(), cx).map(Some)
    }
}
