//! Changes in directories, told by the kernel and waited for without a thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What tokio can watch of an inotify instance.
struct Fd(nix::sys::inotify::Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// An inotify instance. A user has only 128 of them by default, so whoever watches many directories shares one.
pub struct Inotify(AsyncFd<Fd>);

impl Inotify {
    /// An instance that watches nothing yet.
    ///
    /// # Errors
    /// The kernel gives no more instances.
    pub fn new() -> io::Result<Self> {
        let inotify = nix::sys::inotify::Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the AsyncFd owns the instance, whose descriptor stays open and the same as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(Fd(inotify), Interest::READABLE) };
        Ok(Self(fd.map_err(io::Error::from)?))
    }

    /// An instance that watches one directory, which is made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made, or the kernel gives no more instances or watches.
    pub fn of(dir: &Path, events: AddWatchFlags) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let inotify = Self::new()?;
        inotify.add(dir, events)?;
        Ok(inotify)
    }

    /// Watches a directory too. The same one twice has the same descriptor.
    ///
    /// # Errors
    /// It is not there, or the kernel gives no more watches.
    pub fn add(&self, dir: &Path, events: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.0.get_ref().0.add_watch(dir, events)?)
    }

    /// Watches a directory no more.
    ///
    /// # Errors
    /// The kernel dropped the watch already, as it does when the directory goes.
    pub fn remove(&self, watch: WatchDescriptor) -> io::Result<()> {
        Ok(self.0.get_ref().0.rm_watch(watch)?)
    }

    /// Waits for the next events, and takes all that are there.
    ///
    /// # Errors
    /// The kernel tells no more.
    pub async fn changed(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| fd.get_ref().0.read_events().map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(events) => return events,
                // Nothing is there after all.
                Err(_) => {}
            }
        }
    }
}
