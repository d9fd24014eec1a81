//! Quantities of CPU, memory, storage and the like: `resource.Quantity`.
//!
//! A quantity is a fixed-point number with nine decimal places and the notation it was written in.
//! Parsing caps the magnitude at 2⁶³−1 units and rounds finer than nano away from zero, as upstream
//! does, so an `i128` count of nano-units holds every value exactly, and sums have ample headroom.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Nano-units in one unit.
const NANO: i128 = 1_000_000_000;
/// The largest magnitude that parsing yields: 2⁶³−1 units.
const MAX: i128 = (i64::MAX as i128) * NANO;

/// How a quantity was written, and so how its canonical form is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `n u m "" k M G T P E`
    #[default]
    DecimalSI,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySI,
    /// `1e3`
    DecimalExponent,
}

/// Why a text is no quantity. The messages are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// A fixed-point number with a notation. Equality and order look only at the number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl Quantity {
    /// Zero in decimal notation.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    /// `units` whole units.
    pub const fn from_units(units: i64, format: Format) -> Quantity {
        Quantity { nanos: units as i128 * NANO, format }
    }

    /// `millis` thousandths of a unit.
    pub const fn from_millis(millis: i64, format: Format) -> Quantity {
        Quantity { nanos: millis as i128 * 1_000_000, format }
    }

    /// `nanos` billionths of a unit.
    pub const fn from_nanos(nanos: i128, format: Format) -> Quantity {
        Quantity { nanos, format }
    }

    /// Reads a quantity. See [`ParseQuantityError`] for what can be wrong.
    pub fn parse(text: &str) -> Result<Quantity, ParseQuantityError> {
        let parts = split(text)?;
        let (format, base10, base2) = suffix(parts.suffix)?;
        let nanos = scale(&parts, base10, base2);
        Ok(Quantity { nanos: if parts.negative { -nanos } else { nanos }, format })
    }

    /// Reads a JSON string or number.
    pub fn from_value(value: &serde_json::Value) -> Result<Quantity, ParseQuantityError> {
        match value {
            serde_json::Value::String(text) => Quantity::parse(text),
            serde_json::Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => Err(ParseQuantityError::Format),
        }
    }

    /// The notation of the canonical form.
    pub const fn format(self) -> Format {
        self.format
    }

    /// The exact value in nano-units.
    pub const fn nanos(self) -> i128 {
        self.nanos
    }

    /// The value in whole units, rounded away from zero (Go's `Value()`), held within `i64`.
    pub fn value(self) -> i64 {
        clamp(div_away(self.nanos, NANO))
    }

    /// The value in thousandths, rounded away from zero (Go's `MilliValue()`), held within `i64`.
    pub fn milli_value(self) -> i64 {
        clamp(div_away(self.nanos, 1_000_000))
    }

    /// The nearest floating-point value.
    pub fn to_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    pub const fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether it is a whole number of thousandths.
    pub const fn is_milli(self) -> bool {
        self.nanos % 1_000_000 == 0
    }

    /// The sum. The notation is the left one's, unless the left one is zero.
    // Upstream's name; the operator would hide that it saturates.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference. The notation is the left one's, unless the left one is zero.
    // Upstream's name; the operator would hide that it saturates.
    #[allow(clippy::should_implement_trait)]
    pub fn sub(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }

    /// The value times `factor`.
    // Upstream's name; the operator would hide that it saturates.
    #[allow(clippy::should_implement_trait)]
    pub fn mul(self, factor: i64) -> Quantity {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(factor)), format: self.format }
    }

    /// The value with its sign turned.
    pub const fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, format: self.format }
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    suffix: &'a str,
}

/// Splits `[+-]digits[.digits]suffix`.
fn split(text: &str) -> Result<Parts<'_>, ParseQuantityError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let negative = bytes.first() == Some(&b'-');
    if matches!(bytes.first(), Some(b'+' | b'-')) {
        at = 1;
    }
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole_from = at;
    at += digits(at);
    let whole = &bytes[whole_from..at];
    let mut fraction: &[u8] = &[];
    if bytes.get(at) == Some(&b'.') {
        let from = at + 1;
        at = from + digits(from);
        fraction = &bytes[from..at];
    }
    if bytes.is_empty() || (whole.is_empty() && fraction.is_empty()) {
        return Err(ParseQuantityError::Format);
    }
    let suffix = &text[at..];
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let rest = &suffix.as_bytes()[letters..];
    let signed = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"+")).unwrap_or(rest);
    if !signed.iter().all(u8::is_ascii_digit) {
        return Err(ParseQuantityError::Format);
    }
    Ok(Parts { negative, whole, fraction, suffix })
}

/// The notation, power of ten and power of two of a suffix.
fn suffix(suffix: &str) -> Result<(Format, i32, u32), ParseQuantityError> {
    let decimal = |power| Ok((Format::DecimalSI, power, 0));
    let binary = |power| Ok((Format::BinarySI, 0, power));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError::Suffix)?;
            let power = exponent.parse::<i32>().map_err(|_| ParseQuantityError::Suffix)?;
            Ok((Format::DecimalExponent, power, 0))
        }
    }
}

/// The magnitude in nano-units, rounded up past the ninth decimal place and capped at [`MAX`].
fn scale(parts: &Parts<'_>, base10: i32, base2: u32) -> i128 {
    // More digits than this cannot matter: they are either past the cap or past the nano place.
    const KEEP: usize = 28;
    let mut mantissa: i128 = 0;
    let mut dropped: i64 = 0;
    let mut sticky = false;
    let mut kept = 0;
    for digit in parts.whole.iter().chain(parts.fraction) {
        let digit = i128::from(digit - b'0');
        if kept == KEEP {
            dropped += 1;
            sticky |= digit != 0;
            continue;
        }
        mantissa = mantissa * 10 + digit;
        kept += usize::from(mantissa != 0);
    }
    if mantissa == 0 {
        return 0;
    }
    // The value is mantissa × 10^power nano-units × 2^base2.
    let power = i64::from(base10) - parts.fraction.len() as i64 + dropped + 9;
    let cap = |value: Option<i128>| value.filter(|v| *v <= MAX).unwrap_or(MAX);
    let shifted = 1_i128 << base2;
    if power >= 0 {
        if power > 38 {
            return MAX;
        }
        let factor = 10_i128.checked_pow(power as u32);
        let value = factor.and_then(|factor| mantissa.checked_mul(factor)).and_then(|v| v.checked_mul(shifted));
        return cap(value);
    }
    let Some(divisor) = u32::try_from(-power).ok().and_then(|power| 10_i128.checked_pow(power)) else {
        return 1;
    };
    // 2^60 times a 28-digit mantissa overflows; divide whole and remainder apart.
    let (whole, rest) = (mantissa / divisor, mantissa % divisor);
    let Some(high) = whole.checked_mul(shifted) else { return MAX };
    let low = match rest.checked_mul(shifted) {
        Some(product) => div_away(product, divisor) + i128::from(product % divisor == 0 && sticky),
        // So large a remainder means so large a divisor that nano precision is far exceeded.
        None => ((rest as f64 / divisor as f64) * shifted as f64).ceil() as i128,
    };
    cap(high.checked_add(low))
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Quantity, ParseQuantityError> {
        Quantity::parse(text)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        match self.format {
            Format::BinarySI if self.is_integer() && self.nanos.abs() >= 1024 * NANO => binary(self.nanos / NANO, f),
            Format::BinarySI | Format::DecimalSI => decimal(self.nanos, false, f),
            Format::DecimalExponent => decimal(self.nanos, true, f),
        }
    }
}

fn binary(mut units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut step = 0;
    while units % 1024 == 0 && step + 1 < SUFFIXES.len() {
        units /= 1024;
        step += 1;
    }
    write!(f, "{units}{}", SUFFIXES[step])
}

fn decimal(mut mantissa: i128, exponent_form: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let mut step = 0;
    while mantissa % 1000 == 0 && (exponent_form || step + 1 < SUFFIXES.len()) {
        mantissa /= 1000;
        step += 1;
    }
    match (exponent_form, step) {
        (true, 3) => write!(f, "{mantissa}"),
        (true, _) => write!(f, "{mantissa}e{}", (step as i32 - 3) * 3),
        (false, _) => write!(f, "{mantissa}{}", SUFFIXES[step]),
    }
}

/// The canonical text of a quantity held in JSON, or `None` when it already is canonical (or is no
/// quantity, which validation reports).
pub fn canonical(value: &serde_json::Value) -> Option<String> {
    if let serde_json::Value::String(text) = value
        && plain(text)
    {
        return None;
    }
    let text = Quantity::from_value(value).ok()?.to_string();
    (value.as_str() != Some(&text)).then_some(text)
}

/// A quick yes for the most frequent canonical texts: up to three digits, first not zero, with a
/// one- or two-letter suffix other than an exponent or a fraction.
fn plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    (1..=3).contains(&digits)
        && bytes[0] != b'0'
        && matches!(&bytes[digits..], b"" | b"m" | b"k" | b"M" | b"G" | b"Ki" | b"Mi" | b"Gi" | b"Ti")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1", "1"),
            ("-1", "-1"),
            ("-0.5", "-500m"),
            ("1500", "1500"),
            ("15000", "15k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1023Ki", "1023Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1e3", "1e3"),
            ("1e2", "100"),
            ("1E3", "1e3"),
            ("1e-3", "1e-3"),
            ("12e6", "12e6"),
            ("100M", "100M"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("1E", "1E"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("00012", "12"),
            ("1e40", "9223372036854775807"),
            ("1e-40", "1e-9"),
            ("0.000000000000000000000000000000000000000000001Ei", "1n"),
        ];
        for (text, want) in cases {
            assert_eq!(q(text).to_string(), want, "of {text}");
        }
    }

    #[test]
    fn refusals() {
        use ParseQuantityError::{Format as F, Suffix};
        let cases = [
            ("", F),
            ("a", F),
            ("-", F),
            (".", F),
            ("1.2.3", F),
            ("1 Gi", F),
            ("1x", F),
            ("1mi", Suffix),
            ("1K", Suffix),
            ("1kk", Suffix),
            ("1GiB", F),
            ("1e", Suffix),
            ("1e99999999999", Suffix),
            ("1ii", Suffix),
        ];
        for (text, want) in cases {
            assert_eq!(Quantity::parse(text).err(), Some(want), "of {text:?}");
        }
    }

    #[test]
    fn arithmetic_and_order() {
        assert_eq!(q("1").add(q("500m")).to_string(), "1500m");
        assert_eq!(q("0").add(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").sub(q("512Mi")).to_string(), "512Mi");
        assert_eq!(q("1").mul(3).to_string(), "3");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1000m"), q("1"));
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1500u").milli_value(), 2);
        assert_eq!(q("9E").milli_value(), i64::MAX);
    }

    #[test]
    fn canonical_of_json() {
        assert_eq!(canonical(&json!("100m")), None);
        assert_eq!(canonical(&json!("1000m")), Some("1".into()));
        assert_eq!(canonical(&json!(1)), Some("1".into()));
        assert_eq!(canonical(&json!(0.5)), Some("500m".into()));
        assert_eq!(canonical(&json!("x")), None);
        assert_eq!(canonical(&json!("999Ki")), None);
    }

    proptest! {
        #[test]
        fn canonical_reads_back_equal(nanos in -MAX..=MAX, format in 0..3) {
            let format = [Format::DecimalSI, Format::BinarySI, Format::DecimalExponent][format as usize];
            let quantity = Quantity::from_nanos(nanos, format);
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP+-]{0,3}[0-9]{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert!(quantity.nanos().abs() <= MAX);
            }
        }

        #[test]
        fn plain_is_canonical(text in "[1-9][0-9]{0,2}(|m|k|M|G|Ki|Mi|Gi|Ti)") {
            prop_assert_eq!(q(&text).to_string(), text);
        }
    }
}
