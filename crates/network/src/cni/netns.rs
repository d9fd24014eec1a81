//! Work inside another network namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::spec::{Failure, code};

/// Opens a namespace by path.
pub fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        let details = format!("{}: {error}", path.display());
        Failure::new(code::ENVIRONMENT, "cannot open the network namespace", details)
    })
}

/// Runs `work` on a thread of its own that has entered the namespace.
pub fn enter<T: Send>(netns: &File, work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Failure::new(code::KERNEL, "cannot enter the network namespace", errno))?;
            work()
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(Failure::new(code::KERNEL, "the thread in the network namespace panicked", "")))
    })
}
