//! Timestamps and durations.

use super::Called;
use crate::eval::{EvalError, Evaluator};
use crate::value::Val;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

/// An RFC 3339 instant, or a date at midnight UTC.
pub fn parse_instant(text: &str) -> Option<Timestamp> {
    if text.len() == 10 {
        return text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
    }
    text.parse().ok()
}

/// Seconds with a fraction, as conversions to strings write it.
pub fn show_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

fn zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() || name == "UTC" {
        return Some(TimeZone::UTC);
    }
    if let Some((hours, minutes)) = name.split_once(':') {
        let (negative, hours) = match hours.strip_prefix('-') {
            Some(hours) => (true, hours),
            None => (false, hours.strip_prefix('+').unwrap_or(hours)),
        };
        let seconds = hours.parse::<i32>().ok()?.checked_mul(3600)? + minutes.parse::<i32>().ok()?.checked_mul(60)?;
        return Some(TimeZone::fixed(Offset::from_seconds(if negative { -seconds } else { seconds }).ok()?));
    }
    TimeZone::get(name).ok()
}

pub(super) fn call<'a>(_: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    match args {
        [Val::Duration(nanos)] => Some(Ok(Val::Int(match name {
            "getHours" => nanos / 3_600_000_000_000,
            "getMinutes" => nanos / 60_000_000_000,
            "getSeconds" => nanos / 1_000_000_000,
            "getMilliseconds" => nanos / 1_000_000,
            _ => return None,
        }))),
        [Val::Timestamp(at), rest @ ..] if name.starts_with("get") => {
            let place = rest.first().and_then(Val::as_str).unwrap_or_default();
            let Some(zone) = zone(place) else {
                return Some(Err(EvalError::failed(format!("unknown time zone {place}"))));
            };
            let local = at.to_zoned(zone);
            Some(Ok(Val::Int(i64::from(match name {
                "getFullYear" => i32::from(local.year()),
                "getMonth" => i32::from(local.month()) - 1,
                "getDayOfYear" => i32::from(local.day_of_year()) - 1,
                "getDayOfMonth" => i32::from(local.day()) - 1,
                "getDate" => i32::from(local.day()),
                "getDayOfWeek" => i32::from(local.weekday().to_sunday_zero_offset()),
                "getHours" => i32::from(local.hour()),
                "getMinutes" => i32::from(local.minute()),
                "getSeconds" => i32::from(local.second()),
                "getMilliseconds" => i32::from(local.millisecond()),
                _ => return None,
            }))))
        }
        _ => None,
    }
}
