//! Between the runtime's nanoseconds and the API's timestamps.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Now, in nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The API's form, which has whole seconds; `None` for 0 (unknown).
pub fn time(ns: i64) -> Option<Time> {
    if ns <= 0 {
        return None;
    }
    Timestamp::from_second(ns / 1_000_000_000).ok().map(Time)
}

/// The API's form of a moment that is known.
pub fn time_now(ns: i64) -> Time {
    Time(Timestamp::from_second(ns.max(0) / 1_000_000_000).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Nanoseconds of an API timestamp.
pub fn ns(time: &Time) -> i64 {
    i64::try_from(time.0.as_nanosecond()).unwrap_or(0)
}
