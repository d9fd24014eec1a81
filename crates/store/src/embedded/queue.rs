//! Where commits wait for the writer thread.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{Change, Committed, Error, Write};

/// The most commits that wait; further callers wait outside.
pub(super) const MAX_WAITING: usize = 4096;
/// About how many bytes of commits go into one group, so that no fsync takes long.
const GROUP_BYTES: usize = 2 << 20;

/// A commit with whoever waits for it.
pub(super) struct Request {
    pub(super) writes: Vec<Write>,
    pub(super) reply: oneshot::Sender<Result<Committed, Error>>,
    /// Its place in the queue, given back when it is answered.
    pub(super) _place: OwnedSemaphorePermit,
}

impl Request {
    fn bytes(&self) -> usize {
        let size = |w: &Write| match &w.change {
            Change::Put { value, .. } => w.key.len() + value.len(),
            Change::Delete => w.key.len(),
        };
        self.writes.iter().map(size).sum()
    }
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    /// Adds a commit; gives it back when the store is closed.
    pub(super) fn push(&self, request: Request) -> Result<(), Error> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Error::Closed);
        }
        waiting.requests.push_back(request);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next group, waiting until `deadline` for it; empty at the deadline. `None` when closed and drained.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.requests.is_empty() {
                break;
            }
            if waiting.closed {
                return None;
            }
            match deadline {
                None => self.changed.wait(&mut waiting),
                Some(at) => {
                    if self.changed.wait_until(&mut waiting, at).timed_out() {
                        break;
                    }
                }
            }
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(request) = waiting.requests.front() {
            bytes += request.bytes();
            if !group.is_empty() && bytes > GROUP_BYTES {
                break;
            }
            group.extend(waiting.requests.pop_front());
        }
        Some(group)
    }
}
