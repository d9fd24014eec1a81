//! The wall clock of the world: tokio's paused time from a fixed day on, and it may jump.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

thread_local! {
    // A world lives on one thread, with a runtime of its own.
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    static JUMPED: Cell<i64> = const { Cell::new(0) };
}

/// A new world begins.
pub fn start() {
    START.set(Some(Instant::now()));
    JUMPED.set(0);
}

/// Sets the clock forward, or back, by so many seconds.
pub fn jump(seconds: i64) {
    JUMPED.set(JUMPED.get() + seconds);
}

/// The present.
pub fn now() -> Timestamp {
    let day = Timestamp::from_second(1_780_000_000).unwrap();
    let passed = START.get().map(|s| s.elapsed()).unwrap_or_default();
    day + SignedDuration::try_from(passed).unwrap() + SignedDuration::from_secs(JUMPED.get())
}
