//! Changes in directories of logs, by one inotify instance for all readers: a user has only 128 of them by default.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::inotify::Inotify;

/// The readers of a directory, and whether it is gone.
type Dirs = Mutex<HashMap<WatchDescriptor, watch::Sender<bool>>>;

/// Watches directories.
pub(in crate::server) struct Changes {
    inotify: Inotify,
    dirs: Dirs,
}

/// One reader's view of a directory.
pub(super) struct Watch {
    changes: Arc<Changes>,
    descriptor: WatchDescriptor,
    receiver: Option<watch::Receiver<bool>>,
}

impl Changes {
    /// An instance with its task, which ends with `stop`.
    pub(in crate::server) fn start(stop: CancellationToken) -> io::Result<Arc<Self>> {
        let changes = Arc::new(Changes { inotify: Inotify::new()?, dirs: Dirs::default() });
        let all = changes.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = distribute(all) => {}
            }
        });
        Ok(changes)
    }

    /// Tells of files that grow, come or are moved into a directory.
    pub(super) fn watch(self: &Arc<Self>, dir: &Path) -> io::Result<Watch> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        // Under the lock, so that the last reader of the directory cannot take the watch away meanwhile.
        let mut dirs = self.dirs.lock();
        let descriptor = self.inotify.add(dir, flags)?;
        let sender = dirs.entry(descriptor).or_insert_with(|| watch::channel(false).0);
        let receiver = Some(sender.subscribe());
        Ok(Watch { changes: self.clone(), descriptor, receiver })
    }
}

impl Watch {
    /// Waits for a change since the last call; `false` when the directory is gone.
    pub(super) async fn next(&mut self) -> bool {
        let Some(receiver) = &mut self.receiver else { return false };
        receiver.changed().await.is_ok() && !*receiver.borrow_and_update()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut dirs = self.changes.dirs.lock();
        self.receiver = None;
        if dirs.get(&self.descriptor).is_some_and(|sender| sender.receiver_count() == 0) {
            dirs.remove(&self.descriptor);
            let _ = self.changes.inotify.remove(self.descriptor);
        }
    }
}

async fn distribute(changes: Arc<Changes>) {
    let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED;
    while let Ok(events) = changes.inotify.changed().await {
        let dirs = changes.dirs.lock();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                // Nobody knows what was lost: all look.
                dirs.values().for_each(|sender| sender.send_modify(|_| {}));
            } else if let Some(sender) = dirs.get(&event.wd) {
                sender.send_modify(|is_gone| *is_gone |= event.mask.intersects(gone));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn readers_of_one_directory_all_hear_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let changes = Changes::start(CancellationToken::new()).unwrap();
        let mut all: Vec<Watch> = (0..300).map(|_| changes.watch(dir.path()).unwrap()).collect();
        std::fs::write(dir.path().join("log"), "x").unwrap();
        for watch in &mut all {
            assert!(tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap());
        }
        all.truncate(1);
        std::fs::remove_dir_all(dir.path()).unwrap();
        let gone = async { while all[0].next().await {} };
        tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
        drop(all);
        assert!(changes.dirs.lock().is_empty());
    }
}
