//! The loop around a reconciler.

use crate::error::Error;
use crate::queue::WorkQueue;
use futures::FutureExt;
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Hands items of `queue` to `reconcile`, `workers` at a time, until the queue is shut down.
///
/// `Ok(None)` means done: the back-off is forgotten. `Ok(Some(d))` means look again after `d`. An error, or a
/// panic, is logged and the item comes back after its back-off; conflicts are expected and logged quietly.
pub async fn run_workers<T, F, Fut>(queue: WorkQueue<T>, workers: usize, reconcile: F)
where
    T: Eq + Hash + Clone + Display + Send + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<Option<Duration>, Error>>,
{
    let worker = || async {
        while let Some(item) = queue.get().await {
            match AssertUnwindSafe(reconcile(item.clone())).catch_unwind().await {
                Ok(Ok(next)) => {
                    queue.forget(&item);
                    if let Some(delay) = next {
                        queue.add_after(item.clone(), delay);
                    }
                }
                Ok(Err(error)) => {
                    if error.is_conflict() {
                        tracing::debug!(%item, %error, "lost a race; trying again");
                    } else {
                        tracing::warn!(%item, %error, "reconcile failed; trying again");
                    }
                    queue.add_rate_limited(item.clone());
                }
                Err(_) => {
                    tracing::error!(%item, "reconcile panicked; trying again");
                    queue.add_rate_limited(item.clone());
                }
            }
            queue.done(&item);
        }
    };
    futures::future::join_all((0..workers).map(|_| worker())).await;
}
