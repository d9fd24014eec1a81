//! The `format` of strings and numbers in custom resource schemas. Unknown formats accept everything, as
//! they do upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Whether a value has the named format. Formats of strings accept what is no string, and so on: that is for
/// the type to say.
pub(super) fn fits(format: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text_fits(format, text),
        Value::Number(number) => match format {
            "int32" => number.as_i64().is_none_or(|n| i32::try_from(n).is_ok()),
            "int64" => number.is_i64() || !number.is_u64(),
            "float" => number.as_f64().is_none_or(|n| n.abs() <= f64::from(f32::MAX)),
            _ => true,
        },
        _ => true,
    }
}

fn text_fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => is_date_time(text),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => crate::duration::parse(text).is_some(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uri" => {
            text.split_once(':').is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty())
                || text.starts_with('/')
        }
        "email" => text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && is_hostname(host)),
        "hostname" => is_hostname(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "byte" => STANDARD.decode(text).is_ok(),
        _ => true,
    }
}

fn is_date_time(text: &str) -> bool {
    text.len() >= 20 && matches!(text.as_bytes().get(10), Some(b'T' | b't')) && text.parse::<jiff::Timestamp>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => length <= 128,
        _ => false,
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn is_hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_uuid(text: &str) -> bool {
    let plain = text.replace('-', "");
    plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit())
}
