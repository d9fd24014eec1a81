//! Scalars that Go writes in a canonical form whatever form they came in.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::quantity::Quantity;

/// The canonical text of a quantity that may be a number.
pub(super) fn quantity(value: &Value) -> Result<String, String> {
    Quantity::from_value(value).map(|q| q.to_string()).map_err(|e| e.to_string())
}

/// The canonical form of a quantity's text.
pub(super) fn canonical_quantity(text: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    // Go trims blanks and reads nothing as zero.
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok("0".into());
    }
    let canonical = Quantity::parse(trimmed).map_err(|e| e.to_string())?.to_string();
    Ok(if canonical == *text { text } else { canonical.into() })
}

/// An RFC 3339 time in UTC, with seconds or with microseconds.
pub(super) fn time(text: Cow<'_, str>, micro: bool) -> Result<Cow<'_, str>, String> {
    if is_canonical_time(&text, micro) {
        return Ok(text);
    }
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let parsed: Timestamp =
        text.parse().ok().filter(|_| text.contains(['T', 't'])).ok_or_else(|| {
            format!("parsing time {:?} as {layout:?}: cannot parse {:?} as an RFC 3339 time", text, text)
        })?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(parsed.to_zoned(TimeZone::UTC).strftime(format).to_string().into())
}

/// Whether the text is `2006-01-02T15:04:05Z` (or with six digits after the second) and plainly valid.
/// Anything unusual, such as the last days of a month, takes the long way.
fn is_canonical_time(text: &str, micro: bool) -> bool {
    let pattern: &[u8] = if micro { b"0000-00-00T00:00:00.000000Z" } else { b"0000-00-00T00:00:00Z" };
    let bytes = text.as_bytes();
    let fits = bytes.len() == pattern.len()
        && bytes.iter().zip(pattern).all(|(b, p)| if *p == b'0' { b.is_ascii_digit() } else { b == p });
    if !fits {
        return false;
    }
    let two = |at: usize| (bytes[at] - b'0') * 10 + bytes[at + 1] - b'0';
    (1..=12).contains(&two(5)) && (1..=28).contains(&two(8)) && two(11) < 24 && two(14) < 60 && two(17) < 60
}

/// Base64 without the line breaks that Go skips.
pub(super) fn bytes(text: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    let text = match text.contains(['\n', '\r']) {
        true => Cow::Owned(text.replace(['\n', '\r'], "")),
        false => text,
    };
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(base64::DecodeError::InvalidByte(at, _)) => Err(format!("illegal base64 data at input byte {at}")),
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len().saturating_sub(1))),
    }
}
