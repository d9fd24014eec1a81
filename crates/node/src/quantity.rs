//! Reading the API's quantities as the whole numbers the kernel wants.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A list of resources, as requests, limits, capacity and allocatable are.
pub type Resources = BTreeMap<String, Quantity>;

const NANO: i128 = 1_000_000_000;

/// The quantity in billionths, `None` if it is malformed.
pub fn nanos(text: &str) -> Option<i128> {
    let digits_end = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(digits_end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, frac) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && frac.is_empty()) || frac.len() > 18 || whole.len() > 20 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{frac}").parse().ok()?;
    let (num, den) = scale(suffix)?;
    let den = den.checked_mul(10_i128.checked_pow(u32::try_from(frac.len()).ok()?)?)?;
    let scaled = mantissa.checked_mul(num)?.checked_mul(NANO)?;
    // As upstream: what is finer than a billionth rounds up.
    let value = scaled.div_euclid(den) + i128::from(scaled.rem_euclid(den) != 0);
    Some(if negative { -value } else { value })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let pow = |base: i128, e: u32| base.checked_pow(e).map(|v| (v, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => pow(1000, 1),
        "M" => pow(1000, 2),
        "G" => pow(1000, 3),
        "T" => pow(1000, 4),
        "P" => pow(1000, 5),
        "E" => pow(1000, 6),
        "Ki" => pow(1024, 1),
        "Mi" => pow(1024, 2),
        "Gi" => pow(1024, 3),
        "Ti" => pow(1024, 4),
        "Pi" => pow(1024, 5),
        "Ei" => pow(1024, 6),
        _ => {
            let e: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let p = 10_i128.checked_pow(e.unsigned_abs())?;
            Some(if e < 0 { (1, p) } else { (p, 1) })
        }
    }
}

fn ceil(value: i128, unit: i128) -> i64 {
    let up = value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0);
    i64::try_from(up).unwrap_or(i64::MAX)
}

/// In thousandths, rounded up; 0 if malformed (the API lets none through).
pub fn milli(q: &Quantity) -> i64 {
    nanos(&q.0).map_or(0, |n| ceil(n, NANO / 1000))
}

/// In whole units, rounded up; 0 if malformed.
pub fn value(q: &Quantity) -> i64 {
    nanos(&q.0).map_or(0, |n| ceil(n, NANO))
}

/// `name` in thousandths, 0 if it is not there.
pub fn milli_of(list: Option<&Resources>, name: &str) -> i64 {
    list.and_then(|l| l.get(name)).map_or(0, milli)
}

/// `name` in whole units, 0 if it is not there.
pub fn value_of(list: Option<&Resources>, name: &str) -> i64 {
    list.and_then(|l| l.get(name)).map_or(0, value)
}

/// Bytes in the form nodes report: a whole number of KiB where it is one.
pub fn bytes(n: u64) -> Quantity {
    Quantity(if n > 0 && n.is_multiple_of(1024) { format!("{}Ki", n / 1024) } else { n.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, want_milli, want_value) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("0.5Gi", 536_870_912_000, 536_870_912),
            ("1e3", 1_000_000, 1000),
            ("1E", i64::MAX, 1_000_000_000_000_000_000),
            ("-1", -1000, -1),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1n", 1, 1),
            ("abc", 0, 0),
        ] {
            let q = Quantity(text.into());
            assert_eq!((milli(&q), value(&q)), (want_milli, want_value), "{text}");
        }
    }
}
