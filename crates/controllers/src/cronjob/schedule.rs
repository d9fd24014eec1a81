//! Cron schedules exactly as upstream reads them.
//!
//! Written here and not bought: upstream's library has its own rules (a `*/n` day counts as unrestricted, a restricted day of month and
//! of week are joined by "or", Sunday is only 0, an hour that the clock skips is skipped, one that comes twice fires twice), and a
//! CronJob must fire at the same moments here as there.

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// By the five fields.
    Fields(Fields),
    /// `@every <duration>`.
    Every(Duration),
}

/// Bit sets of the allowed values.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    any_day: bool,
    any_weekday: bool,
}

/// A schedule that never comes in this many years never comes.
const HORIZON: i16 = 5;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads the text of `spec.schedule`.
    ///
    /// # Errors
    /// In words: which part cannot be read, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let standard = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(duration) = standard.strip_prefix("@every ") {
            let parsed: jiff::SignedDuration =
                duration.trim().parse().map_err(|e| format!("failed to parse duration {text}: {e}"))?;
            // Whole seconds, at least one.
            return Ok(Self::Every(Duration::from_secs(u64::try_from(parsed.as_secs()).unwrap_or(0).max(1))));
        }
        if standard.starts_with('@') {
            return Err(format!("unrecognized descriptor: {text}"));
        }
        let parts: Vec<&str> = standard.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {text}", parts.len()));
        };
        let (day, any_day) = field(day, 1, 31, &[])?;
        let (weekday, any_weekday) = field(weekday, 0, 6, &DAYS)?;
        Ok(Self::Fields(Fields {
            minute: field(minute, 0, 59, &[])?.0,
            hour: field(hour, 0, 23, &[])?.0,
            month: field(month, 1, 12, &MONTHS)?.0,
            day,
            weekday,
            any_day,
            any_weekday,
        }))
    }

    /// The first moment after `after`; `None` when there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(d) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*d).ok()
            }
            Self::Fields(f) => f.next(after, zone),
        }
    }

    /// The last moment in `(after, until]`, and about how many there were.
    pub fn latest(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<(Timestamp, u64)> {
        let first = self.next(after, zone).filter(|t| *t <= until)?;
        let Some(second) = self.next(first, zone).filter(|t| *t <= until) else { return Some((first, 1)) };
        let step = second.duration_since(first).as_secs().max(1);
        let count = until.duration_since(first).as_secs() / step + 1;
        // Not from the beginning, which may be long ago: from near the end, going back until one is found.
        let mut back = step.saturating_mul(2);
        let mut at = loop {
            let from = crate::common::plus(until, -back).max(first);
            match self.next(from, zone).filter(|t| *t <= until) {
                Some(t) => break t,
                None if from == first => break first,
                None => back = back.saturating_mul(2),
            }
        };
        while let Some(t) = self.next(at, zone).filter(|t| *t <= until) {
            at = t;
        }
        Some((at, u64::try_from(count).unwrap_or(1)))
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut t = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        let limit = after.to_zoned(zone.clone()).year() + HORIZON;
        loop {
            let z = t.to_zoned(zone.clone());
            if z.year() > limit {
                return None;
            }
            if !has(self.month, z.month()) {
                t = midnight(first_of_next_month(z.date())?, zone)?;
            } else if !self.day_fits(&z) {
                t = midnight(z.date().tomorrow().ok()?, zone)?;
            } else if !has(self.hour, z.hour()) {
                let rest = 60 - i64::from(z.minute());
                t = crate::common::plus(t, rest * 60);
            } else if !has(self.minute, z.minute()) {
                t = crate::common::plus(t, 60);
            } else {
                return Some(t);
            }
        }
    }

    fn day_fits(&self, z: &Zoned) -> bool {
        let day = has(self.day, z.day());
        let weekday = has(self.weekday, z.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|v| set >> v & 1 == 1)
}

fn first_of_next_month(d: Date) -> Option<Date> {
    d.first_of_month().checked_add(jiff::Span::new().months(1)).ok()
}

/// The beginning of a day; where the clock skips midnight, the first moment after.
fn midnight(d: Date, zone: &TimeZone) -> Option<Timestamp> {
    d.to_datetime(Time::midnight()).to_zoned(zone.clone()).ok().map(|z| z.timestamp())
}

/// One field: (set of values, whether it is unrestricted).
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let mut set = 0;
    let mut any = false;
    for part in text.split(',') {
        let (bits, star) = range(part, least, most, names)?;
        set |= bits;
        any |= star;
    }
    Ok((set, any))
}

fn range(text: &str, least: u32, most: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let (span, step) = match text.split_once('/') {
        None => (text, None),
        Some((span, step)) => (span, Some(number(step, &[], 0)?)),
    };
    let star = matches!(span, "*" | "?");
    let (first, last) = if star {
        (least, most)
    } else {
        match span.split_once('-') {
            Some((a, b)) => (number(a, names, least)?, number(b, names, least)?),
            None => {
                let n = number(span, names, least)?;
                (n, if step.is_some() { most } else { n })
            }
        }
    };
    if first < least {
        return Err(format!("beginning of range ({first}) below minimum ({least}): {text}"));
    }
    if last > most {
        return Err(format!("end of range ({last}) above maximum ({most}): {text}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let bits = (first..=last).step_by(step as usize).fold(0, |set, n| set | 1 << n);
    // A step of more than one still counts as unrestricted.
    Ok((bits, star))
}

fn number(text: &str, names: &[&str], least: u32) -> Result<u32, String> {
    if let Some(i) = names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        return Ok(u32::try_from(i).unwrap_or(0) + least);
    }
    text.parse().map_err(|_| format!("failed to parse int from {text:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let after: Timestamp = after.parse().unwrap();
        Schedule::parse(schedule).unwrap().next(after, &zone).map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn moments() {
        for (schedule, after, want) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:45:00Z", "2026-01-01T01:00:00Z"),
            ("0 0 1 * *", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("30 6 * * mon-fri", "2026-01-02T07:00:00Z", "2026-01-05T06:30:00Z"),
            ("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 */2 * mon", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"),
            ("0 0 29 feb *", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
            ("5/20 1 * * ?", "2026-01-01T01:05:00Z", "2026-01-01T01:25:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
        ] {
            assert_eq!(next(schedule, after, "UTC"), want, "{schedule}");
        }
    }

    #[test]
    fn clocks_that_change() {
        // Spring: 02:30 does not exist on 8 March 2026 in New York.
        assert_eq!(next("30 2 * * *", "2026-03-08T05:00:00Z", "America/New_York"), "2026-03-09T06:30:00Z");
        // Autumn: 01:30 comes twice on 1 November 2026.
        assert_eq!(next("30 1 * * *", "2026-11-01T04:00:00Z", "America/New_York"), "2026-11-01T05:30:00Z");
        assert_eq!(next("30 1 * * *", "2026-11-01T05:30:00Z", "America/New_York"), "2026-11-01T06:30:00Z");
        assert_eq!(next("0 12 * * *", "2026-01-01T00:00:00Z", "Asia/Kolkata"), "2026-01-01T06:30:00Z");
    }

    #[test]
    fn mistakes() {
        for bad in
            ["", "* * * *", "60 * * * *", "* * 0 * *", "* * * * 7", "5-1 * * * *", "*/0 * * * *", "x * * * *", "@nope"]
        {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_latest_of_many() {
        let s = Schedule::parse("*/5 * * * *").unwrap();
        let t = |text: &str| text.parse::<Timestamp>().unwrap();
        let latest = |after, until| s.latest(t(after), t(until), &TimeZone::UTC);
        assert_eq!(latest("2026-01-01T00:00:00Z", "2026-01-01T00:04:00Z"), None);
        assert_eq!(latest("2026-01-01T00:00:00Z", "2026-01-01T00:07:00Z"), Some((t("2026-01-01T00:05:00Z"), 1)));
        let (at, missed) = latest("2020-01-01T00:00:00Z", "2026-01-01T00:07:00Z").unwrap();
        assert_eq!(at, t("2026-01-01T00:05:00Z"));
        assert!(missed > 100);
    }
}
