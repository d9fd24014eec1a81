//! The bounded history of one bucket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::{Event, Revision};

/// How much history is kept. At each limit the oldest events are forgotten; a watch whose cursor was there ends with
/// [`crate::Error::Compacted`], which is also how a watcher too slow for its bucket is cut off.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// The most events kept per bucket.
    pub events: usize,
    /// The most bytes kept per bucket.
    pub bytes: usize,
    /// When all buckets together hold more bytes than this, each bucket that is written to shrinks to a sixteenth of it.
    pub total_bytes: usize,
    /// How long history is kept, as long as anything is written. etcd under upstream's API server is compacted every five minutes.
    pub age: Duration,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { events: 100_000, bytes: 32 << 20, total_bytes: 96 << 20, age: Duration::from_secs(300) }
    }
}

/// Events in revision order.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// History is answered from here on.
    floor: Revision,
    /// The newest event that was forgotten. A quiet bucket's floor rises without anything being lost, and then an open
    /// watch has missed nothing.
    lost: Revision,
}

impl Ring {
    pub(crate) fn new(floor: Revision) -> Self {
        Self { floor, ..Self::default() }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// Watches that have come at least this far have missed nothing.
    pub(crate) fn lost(&self) -> Revision {
        self.lost
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.cost();
        self.events.push_back(event);
    }

    /// Forgets the oldest events until both limits hold. Events of one revision go together, so that no cursor stands
    /// in the middle of a commit.
    pub(crate) fn trim(&mut self, events: usize, bytes: usize) {
        while self.events.len() > events || self.bytes > bytes {
            let Some(oldest) = self.events.front().map(|e| e.revision) else { break };
            self.forget(oldest);
        }
    }

    /// Forgets everything up to and including `revision`.
    pub(crate) fn forget(&mut self, revision: Revision) {
        while self.events.front().is_some_and(|e| e.revision <= revision) {
            if let Some(event) = self.events.pop_front() {
                self.bytes -= event.cost();
                self.lost = event.revision;
            }
        }
        self.floor = self.floor.max(revision);
        if self.events.capacity() > 1024 && self.events.len() < self.events.capacity() / 8 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }

    /// The events after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|e| e.revision <= revision);
        self.events.range(start..)
    }
}
