//! How long a crashed container waits before it starts again: 10 s, doubling to 5 min, forgotten after 10 min.
//! The first restart is immediate; an entry appears with it.

use std::collections::HashMap;
use std::time::Duration;

/// An event that is further in the future than this, ns, was noted before the clock was set back.
const CLOCK_STEP: i64 = 2_000_000_000;

/// The delays of one Pod's containers, or of a node's image pulls. Keys are the caller's.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: i64,
}

impl Backoff {
    /// Delays from `initial`, doubling to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max, entries: HashMap::new() }
    }

    /// When the wait that `event` (ns) started is over, and how long it is in all; `None` if it is over or there is
    /// none. An event of the future is one from before the clock was set back: nobody waits for that moment again.
    pub fn until(&self, key: &str, event: i64, now: i64) -> Option<(i64, Duration)> {
        let e = self.entries.get(key)?;
        if self.expired(e, event) || event > now.saturating_add(CLOCK_STEP) {
            return None;
        }
        let end = event.saturating_add(nanos(e.delay));
        (now < end).then_some((end, e.delay))
    }

    /// Notes that the thing starts again after `event`: the next wait is twice as long.
    pub fn next(&mut self, key: &str, event: i64, now: i64) {
        let delay = match self.entries.get(key) {
            Some(e) if !self.expired(e, event) => (e.delay * 2).min(self.max),
            _ => self.initial.min(self.max),
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// When the wait noted last is over; `None` if it is. For things that wait from their failure on.
    pub fn waiting(&self, key: &str, now: i64) -> Option<i64> {
        let e = self.entries.get(key).filter(|e| e.updated <= now.saturating_add(CLOCK_STEP))?;
        let end = e.updated.saturating_add(nanos(e.delay));
        (now < end).then_some(end)
    }

    /// The present delay of a key.
    pub fn delay(&self, key: &str) -> Option<Duration> {
        self.entries.get(key).map(|e| e.delay)
    }

    /// Drops a key.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Drops entries that no longer count.
    pub fn collect(&mut self, now: i64) {
        let limit = nanos(self.max * 2);
        self.entries.retain(|_, e| now.saturating_sub(e.updated) <= limit);
    }

    fn expired(&self, e: &Entry, event: i64) -> bool {
        event.saturating_sub(e.updated) > nanos(self.max * 2)
    }
}

fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn first_restart_is_immediate_then_doubles() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let mut t = 1000 * S;
        assert_eq!(b.until("c", t, t), None);
        b.next("c", t, t);
        for want in [10, 20, 40, 80, 160, 300, 300] {
            // It crashes a second after the start.
            t += S;
            assert_eq!(b.until("c", t, t), Some((t + want * S, Duration::from_secs(want as u64))));
            let over = t + want * S;
            assert_eq!(b.until("c", t, over), None);
            b.next("c", t, over);
            t = over;
        }
    }

    #[test]
    fn a_clock_set_back_makes_nobody_wait() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        b.next("c", 5000 * S, 5000 * S);
        assert_eq!(b.until("c", 5001 * S, 1000 * S), None);
        assert_eq!(b.waiting("c", 1000 * S), None);
        assert!(b.until("c", 1002 * S, 1002 * S).is_some(), "the next crash waits as before");
    }

    #[test]
    fn ten_good_minutes_reset_it() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        b.next("c", 0, 0);
        b.next("c", S, 11 * S);
        let crash = 11 * S + 601 * S;
        assert_eq!(b.until("c", crash, crash), None);
        b.next("c", crash, crash);
        assert_eq!(b.delay("c"), Some(Duration::from_secs(10)));
    }
}
