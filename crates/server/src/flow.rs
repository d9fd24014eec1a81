//! Flow control: how much is served at a time, and for whom room is kept.
//!
//! Three classes share the limit. System traffic (masters, nodes, the control plane's own components) may use all of it,
//! service accounts four fifths, everybody else three fifths; so that a client which floods the server cannot keep leases and
//! health from being served. Who finds no room waits in a bounded queue for a moment, and then is sent away with 429 and
//! `Retry-After`.

use crate::authn::{GROUP_MASTERS, GROUP_NODES, GROUP_SERVICE_ACCOUNTS, UserInfo};
use caravel_api::status::ApiError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request may wait for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many may wait, as a multiple of the limit.
const QUEUE: usize = 8;

/// A class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What keeps the cluster alive.
    System,
    /// Service accounts.
    Workload,
    /// Everybody else.
    Other,
}

impl Class {
    /// The class of a user's requests.
    pub fn of(user: &UserInfo) -> Self {
        let system = user.in_group(GROUP_MASTERS)
            || user.in_group(GROUP_NODES)
            || user.name.starts_with("system:kube-")
            || user.in_group("system:serviceaccounts:kube-system");
        if system {
            Self::System
        } else if user.in_group(GROUP_SERVICE_ACCOUNTS) {
            Self::Workload
        } else {
            Self::Other
        }
    }

    /// Upstream's priority level of the class, for headers and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Workload => "workload-low",
            Self::Other => "global-default",
        }
    }
}

struct Lane {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    patience: Duration,
}

impl Lane {
    fn new(places: usize, patience: Duration) -> Self {
        let places = places.max(1);
        let room = Arc::new(Semaphore::new(places));
        Self { room, waiting: AtomicUsize::new(0), most_waiting: places * QUEUE, patience }
    }

    async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.room.clone().try_acquire_owned() {
            return Some(permit);
        }
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.most_waiting {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let _leave = Leave(&self.waiting);
        tokio::time::timeout(self.patience, self.room.clone().acquire_owned()).await.ok()?.ok()
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Room for requests.
pub struct Flow {
    all: Lane,
    workload: Lane,
    other: Lane,
    long: Arc<Semaphore>,
    long_other: Arc<Semaphore>,
}

/// Room that a request holds; it is given back when this is dropped.
pub struct Room(#[allow(dead_code)] [Option<OwnedSemaphorePermit>; 2]);

impl Flow {
    /// Room for `most` requests, and for `most_long` long-running ones.
    pub fn new(most: usize, most_long: usize) -> Self {
        Self::with_patience(most, most_long, PATIENCE)
    }

    fn with_patience(most: usize, most_long: usize, patience: Duration) -> Self {
        Self {
            all: Lane::new(most, patience),
            workload: Lane::new(most * 4 / 5, patience),
            other: Lane::new(most * 3 / 5, patience),
            long: Arc::new(Semaphore::new(most_long.max(1))),
            long_other: Arc::new(Semaphore::new((most_long * 4 / 5).max(1))),
        }
    }

    /// Waits for room for a short request.
    pub async fn enter(&self, class: Class) -> Result<Room, ApiError> {
        let refused = || ApiError::too_many_requests("too many requests, please try again later", 1);
        let narrow = match class {
            Class::System => None,
            Class::Workload => Some(self.workload.enter().await.ok_or_else(refused)?),
            Class::Other => Some(self.other.enter().await.ok_or_else(refused)?),
        };
        let wide = self.all.enter().await.ok_or_else(refused)?;
        Ok(Room([Some(wide), narrow]))
    }

    /// Room for a long-running request, or none.
    pub fn enter_long(&self, class: Class) -> Result<Room, ApiError> {
        let refused = |_| {
            ApiError::too_many_requests("too many watches and other long requests are open, please try again later", 5)
        };
        let narrow = match class {
            Class::System => None,
            _ => Some(self.long_other.clone().try_acquire_owned().map_err(refused)?),
        };
        let wide = self.long.clone().try_acquire_owned().map_err(refused)?;
        Ok(Room([Some(wide), narrow]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_cannot_fill_the_server() {
        let flow = Flow::with_patience(10, 10, Duration::from_millis(20));
        let mut held = vec![];
        for _ in 0..6 {
            held.push(flow.enter(Class::Other).await.unwrap());
        }
        assert_eq!(flow.enter(Class::Other).await.err().map(|e| e.code), Some(429));
        flow.enter(Class::Workload).await.unwrap();
        flow.enter(Class::System).await.unwrap();
        held.pop();
        flow.enter(Class::Other).await.unwrap();
    }

    #[test]
    fn watches_are_limited() {
        let flow = Flow::new(1, 10);
        let held: Vec<_> = (0..8).map(|_| flow.enter_long(Class::Other).unwrap()).collect();
        assert!(flow.enter_long(Class::Other).is_err());
        assert!(flow.enter_long(Class::System).is_ok());
        drop(held);
        assert!(flow.enter_long(Class::Other).is_ok());
    }
}
