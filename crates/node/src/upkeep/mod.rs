//! Keeping the machine usable: logs are rotated, images nobody uses are removed, Pods are evicted before memory or disk
//! run out, and Pods that outgrow their own limits of storage are ended.
//!
//! None of this has an event to wait for, so it is looked at every ten seconds, as cheaply as can be: one `stat` for each
//! running container's log, one read of `/proc/meminfo`, one `statvfs`.

pub mod deleted;
mod images;
mod logs;
mod pressure;
mod storage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::manager::Manager;
use crate::shared::Shared;

pub use pressure::Pressure;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks at images.
const IMAGE_PERIOD: Duration = Duration::from_secs(300);

/// Between two looks at the logs of deleted Pods.
const DELETED_PERIOD: Duration = Duration::from_secs(60);

/// Looks after the machine until stopped. `look` is told when the Node's conditions change.
pub async fn run(shared: Arc<Shared>, manager: Arc<Manager>, look: Arc<Notify>, stop: CancellationToken) {
    let mut images = images::Images::default();
    let mut images_at = Instant::now();
    let mut deleted_at = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        logs::rotate(&shared, &manager).await;
        let short = pressure::relieve(&shared, &manager, &look).await;
        storage::enforce(&shared, &manager).await;
        if deleted_at.elapsed() >= DELETED_PERIOD {
            deleted_at = Instant::now();
            let logs = shared.config.log_dir.clone();
            let _ = tokio::task::spawn_blocking(move || deleted::sweep(&logs)).await;
        }
        if short || images_at.elapsed() >= IMAGE_PERIOD {
            images_at = Instant::now();
            images.collect(&shared).await;
        }
    }
}
