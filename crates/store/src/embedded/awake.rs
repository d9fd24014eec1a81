//! Keeps a processor from going to sleep while the writer waits for the disk.
//!
//! On many virtual machines a halted virtual processor learns late that the disk is done: where this was measured a flush of
//! 0.2 ms took until the next timer tick, 4 ms. Guests have a cure of their own, polling before they halt (Linux's
//! `haltpoll` governor), where the host lets them. This is the same in small: while a flush is under way, and for
//! no longer than [`LONGEST`], a thread of the lowest class (`SCHED_IDLE`) spins on the processor of the writer. It runs only where
//! nothing else wants to, and an idle store flushes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// A disk that takes longer than this is not helped by spinning.
const LONGEST: Duration = Duration::from_millis(1);
/// After a flush that took longer so many are left alone.
const REST: u32 = 16;

#[derive(Default)]
struct Shared {
    flushing: AtomicBool,
    closed: AtomicBool,
    /// The kernel's number of the spinning thread; 0 before it runs.
    thread: AtomicI32,
}

/// The spinning thread, which ends with this.
pub(super) struct Awake {
    shared: Arc<Shared>,
    thread: Option<Thread>,
    /// How many flushes are still to be left alone.
    rest: u32,
}

impl Awake {
    /// Starts the thread. Without one (the system refuses) flushes are merely slower.
    pub(super) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let its = shared.clone();
        let spawned =
            std::thread::Builder::new().name("store-awake".into()).stack_size(64 << 10).spawn(move || spin(&its));
        Self { shared, thread: spawned.ok().map(|handle| handle.thread().clone()), rest: 0 }
    }

    /// Runs `flush` with the processor kept awake.
    pub(super) fn during<T>(&mut self, flush: impl FnOnce() -> T) -> T {
        let Some(thread) = &self.thread else { return flush() };
        if self.rest > 0 {
            self.rest -= 1;
            return flush();
        }
        self.follow_writer();
        let begun = Instant::now();
        self.shared.flushing.store(true, Ordering::Release);
        thread.unpark();
        let result = flush();
        self.shared.flushing.store(false, Ordering::Release);
        if begun.elapsed() > LONGEST {
            self.rest = REST;
        }
        result
    }

    /// Puts the thread on the processor that the calling thread is on.
    fn follow_writer(&self) {
        let thread = self.shared.thread.load(Ordering::Acquire);
        // SAFETY: takes nothing, returns a number.
        let here = unsafe { libc::sched_getcpu() };
        let mut only = CpuSet::new();
        if thread != 0
            && let Ok(here) = usize::try_from(here)
            && only.set(here).is_ok()
        {
            let _ = sched_setaffinity(Pid::from_raw(thread), &only);
        }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

fn spin(shared: &Shared) {
    let lowest = libc::sched_param { sched_priority: 0 };
    // SAFETY: a valid parameter; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &lowest) } != 0 {
        return;
    }
    shared.thread.store(nix::unistd::gettid().as_raw(), Ordering::Release);
    while !shared.closed.load(Ordering::Acquire) {
        std::thread::park();
        let begun = Instant::now();
        while shared.flushing.load(Ordering::Acquire) && begun.elapsed() < LONGEST {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_flushed_is_answered_and_the_thread_ends() {
        let mut awake = Awake::start();
        let shared = Arc::downgrade(&awake.shared);
        for i in 0..100 {
            assert_eq!(awake.during(|| i), i);
        }
        drop(awake);
        let begun = Instant::now();
        while shared.strong_count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the thread did not end");
            std::thread::yield_now();
        }
    }
}
