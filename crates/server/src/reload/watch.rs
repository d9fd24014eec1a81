//! Changes of one file, told by the kernel.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What tokio can watch of an [`Inotify`].
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A watch over a file. It looks at directories, for most programs write a new file and move it over the old one.
pub struct Watch {
    path: PathBuf,
    fd: AsyncFd<Fd>,
}

impl Watch {
    /// Watches the file at this path, and where it leads to when it is a link. It need not be there.
    ///
    /// # Errors
    /// Its directory is not there, or the kernel has no more watches.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        let real = std::fs::canonicalize(path).ok();
        let mut dirs: Vec<&Path> = [Some(path), real.as_deref()].into_iter().flatten().map(directory).collect();
        dirs.dedup();
        for dir in dirs {
            inotify.add_watch(dir, events)?;
        }
        // SAFETY: the AsyncFd owns the Inotify, whose descriptor stays open and the same as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(Fd(inotify), Interest::READABLE) };
        Ok(Self { path: path.to_path_buf(), fd: fd.map_err(io::Error::from)? })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until something happened beside or to the file since the last call: it is to be read again.
    ///
    /// # Errors
    /// The kernel tells no more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            // Several changes are one: all that are there are taken.
            if let Ok(events) = ready.try_io(|fd| fd.get_ref().0.read_events().map_err(io::Error::from)) {
                return events.map(drop);
            }
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
