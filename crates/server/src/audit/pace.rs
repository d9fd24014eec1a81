//! How fast batches go out and how often a failed one is tried again. Pure: the time is given in.

use std::time::{Duration, Instant};

/// A failed batch is sent this often in all.
pub const ATTEMPTS: u32 = 5;
/// Each pause is longer than the one before by this factor.
const FACTOR: f64 = 1.5;
/// Each pause is up to this part longer, so that servers of one cluster do not come all at once.
const JITTER: f64 = 0.2;

/// The pause after the attempt number `failed` (from 0); none after the last. `random` is in 0..1.
pub fn pause(initial: Duration, failed: u32, random: f64) -> Option<Duration> {
    if failed + 1 >= ATTEMPTS {
        return None;
    }
    let grown = FACTOR.powi(i32::try_from(failed).unwrap_or(i32::MAX));
    Some(initial.mul_f64(grown * (1.0 + JITTER * random.clamp(0.0, 1.0))))
}

/// A bucket of tokens: one is taken for each batch, and they come back over time.
#[derive(Clone, Debug)]
pub struct Throttle {
    per_second: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl Throttle {
    /// A full bucket of `burst` tokens, refilled by `per_second`; both must be positive.
    pub fn new(per_second: f64, burst: u32, now: Instant) -> Self {
        let most = f64::from(burst.max(1));
        Self { per_second: per_second.max(f64::MIN_POSITIVE), most, tokens: most, at: now }
    }

    /// Takes a token; how long to wait for it.
    pub fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most) - 1.0;
        self.at = self.at.max(now);
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / self.per_second).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let second = Duration::from_secs(1);
        let pauses: Vec<_> = (0..6).map(|failed| pause(second * 10, failed, 0.0)).collect();
        let wanted = [10.0, 15.0, 22.5, 33.75].map(|s| Some(Duration::from_secs_f64(s)));
        assert_eq!(pauses[..4], wanted);
        assert_eq!(pauses[4..], [None, None]);
        assert_eq!(pause(second, 0, 1.0), Some(Duration::from_secs_f64(1.2)));
    }

    #[test]
    fn a_burst_is_free_and_the_rest_waits() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10.0, 3, start);
        let waits: Vec<_> = (0..5).map(|_| throttle.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
        // Two tokens are owed; half a second later three are there.
        let later = start + Duration::from_millis(500);
        let waits: Vec<_> = (0..4).map(|_| throttle.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100]);
        let idle = later + Duration::from_secs(3600);
        assert_eq!(
            (0..3).map(|_| throttle.take(idle)).sum::<Duration>(),
            Duration::ZERO,
            "no more than a burst is saved"
        );
        assert!(!throttle.take(idle).is_zero());
    }
}
