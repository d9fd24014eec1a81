//! Durations in the text form that Go gives them, which is the form of every `metav1.Duration`, of flags, configuration files and CEL:
//! `1h2m3.5s`, `250ms`, `-1.5s`, `0`. In nanoseconds, in 64 bits as there: about 292 years in both directions.

use std::time::Duration;

/// The longest number that is read: more digits are no duration that fits.
const DIGITS: usize = 30;

/// Reads a duration, in nanoseconds. What is finer than a nanosecond is cut off.
///
/// `None` when the text is no duration, or one that does not fit.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total = total.checked_add(part(number, scale(unit)?)?)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Nanoseconds in a unit.
fn scale(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn part(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > DIGITS {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()?.checked_mul(scale)? };
    let fraction = fraction.get(..fraction.len().min(18))?;
    if fraction.is_empty() {
        return Some(whole);
    }
    Some(whole + fraction.parse::<i128>().ok()? * scale / 10_i128.pow(fraction.len() as u32))
}

/// A duration that is not negative, as flags and files ask for it.
pub fn parse_std(text: &str) -> Option<Duration> {
    parse(text).and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos)
}

/// The text of a duration of so many nanoseconds: `1m20s`, `1.5s`, `250ms`, `0s`.
pub fn text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// [`text`] of a duration of the standard library.
pub fn text_std(duration: Duration) -> String {
    text(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

/// `n` in units of `unit`, without zeros at the end.
fn decimal(n: u64, unit: u64) -> String {
    let (whole, rest) = (n / unit, n % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{rest:0digits$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_go_reads_and_writes_them() {
        for (given, nanos, back) in [
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1h0m0s", 3_600_000_000_000, "1h0m0s"),
            ("90m", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("250ms", 250_000_000, "250ms"),
            ("1.5us", 1_500, "1.5µs"),
            ("7ns", 7, "7ns"),
            ("-1m0.25s", -60_250_000_000, "-1m0.25s"),
            ("+1s", 1_000_000_000, "1s"),
            ("0", 0, "0s"),
            ("2540400h10m10s", 9_145_440_610_000_000_000, "2540400h10m10s"),
        ] {
            assert_eq!(parse(given), Some(nanos), "{given}");
            assert_eq!(text(nanos), back, "{given}");
        }
    }

    #[test]
    fn what_is_none() {
        for bad in ["", "-", "30", "s", "1 s", "1d", "1s2", ".", ".s", "1..5s", "1e3s", "99999999h", "1h -5m", "١s"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let long = format!("{}s", "9".repeat(1_000_000));
        assert_eq!(parse(&long), None);
        assert_eq!(parse_std("-1s"), None);
        assert_eq!(parse_std("1ms"), Some(Duration::from_millis(1)));
        assert_eq!(text_std(Duration::MAX), text(i64::MAX));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos: i64) {
            prop_assert_eq!(parse(&text(nanos)), Some(nanos));
        }

        #[test]
        fn nothing_panics(given in "\\PC{0,20}") {
            let _ = parse(&given);
        }
    }
}
