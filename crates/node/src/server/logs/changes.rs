//! Changes in directories of logs, by one inotify instance for all readers: a user has only 128 of them by default.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What tokio can watch of an [`Inotify`].
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The readers of a directory, and whether it is gone.
type Dirs = Mutex<HashMap<WatchDescriptor, watch::Sender<bool>>>;

/// Watches directories.
pub(in crate::server) struct Changes {
    fd: AsyncFd<Fd>,
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
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the AsyncFd owns the Inotify, whose descriptor stays open and the same as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(Fd(inotify), Interest::READABLE) };
        let changes = Arc::new(Changes { fd: fd.map_err(io::Error::from)?, dirs: Dirs::default() });
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
        let descriptor = self.fd.get_ref().0.add_watch(dir, flags)?;
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
            let _ = self.changes.fd.get_ref().0.rm_watch(self.descriptor);
        }
    }
}

async fn distribute(changes: Arc<Changes>) {
    loop {
        let Ok(mut ready) = changes.fd.readable().await else { return };
        match ready.get_inner().0.read_events() {
            Ok(events) => {
                let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED;
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
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
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
