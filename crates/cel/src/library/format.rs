//! `string.format(list)`: `%s %d %f %e %b %o %x %X %%`, with a precision for `%f` and `%e`.

use super::{convert, strings};
use crate::eval::{EvalError, Evaluated, Evaluator, fail};
use crate::ops::text_cost;
use crate::value::{List, Val};

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, pattern: &Val<'a>, values: &List<'a>) -> Evaluated<'a> {
    let Val::String(pattern) = pattern else { return fail("no such overload") };
    let mut out = String::new();
    let mut next = 0;
    let mut chars = pattern.as_str().chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(*d);
                chars.next();
            }
            precision = digits.parse::<usize>().ok().map(|p| p.min(100));
        }
        let Some(verb) = chars.next() else { return fail("unexpected end of string") };
        let Some(value) = values.get(next) else { return fail(format!("index {next} out of range")) };
        next += 1;
        out.push_str(&one(verb, precision, &value)?);
        if out.len() > strings::MAX_MADE {
            return Err(EvalError::CallCost);
        }
    }
    evaluator.charge(text_cost(out.len() + pattern.as_str().len()))?;
    Ok(Val::text(out))
}

fn one(verb: char, precision: Option<usize>, value: &Val<'_>) -> Result<String, EvalError> {
    let unfit = || {
        EvalError::Failed(format!("error during formatting: %{verb} is not for a value of type {}", value.type_name()))
    };
    Ok(match (verb, value) {
        ('s', value) => show(value, 0),
        ('d', Val::Int(i)) => i.to_string(),
        ('d', Val::Uint(u)) => u.to_string(),
        ('d', Val::Double(d)) if d.is_nan() || d.is_infinite() => show(value, 0),
        ('f', Val::Double(d)) => format!("{d:.*}", precision.unwrap_or(6)),
        ('f', Val::Int(i)) => format!("{:.*}", precision.unwrap_or(6), *i as f64),
        ('f', Val::Uint(u)) => format!("{:.*}", precision.unwrap_or(6), *u as f64),
        ('e', Val::Double(d)) => exponent(*d, precision.unwrap_or(6)),
        ('e', Val::Int(i)) => exponent(*i as f64, precision.unwrap_or(6)),
        ('b', Val::Int(i)) => signed(*i, |u| format!("{u:b}")),
        ('b', Val::Uint(u)) => format!("{u:b}"),
        ('b', Val::Bool(b)) => u8::from(*b).to_string(),
        ('o', Val::Int(i)) => signed(*i, |u| format!("{u:o}")),
        ('o', Val::Uint(u)) => format!("{u:o}"),
        ('x', Val::Int(i)) => signed(*i, |u| format!("{u:x}")),
        ('X', Val::Int(i)) => signed(*i, |u| format!("{u:X}")),
        ('x', Val::Uint(u)) => format!("{u:x}"),
        ('X', Val::Uint(u)) => format!("{u:X}"),
        ('x', Val::String(text)) => text.as_str().bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Val::String(text)) => text.as_str().bytes().map(|b| format!("{b:02X}")).collect(),
        ('x', Val::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        ('X', Val::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02X}")).collect(),
        ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X', _) => return Err(unfit()),
        _ => return fail(format!("unrecognized formatting clause \"{verb}\"")),
    })
}

fn signed(value: i64, show: impl Fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", show(value.unsigned_abs()))
}

fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |d| ('-', d));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// A value as `%s` writes it.
fn show(value: &Val<'_>, depth: usize) -> String {
    if depth > 64 {
        return "…".to_owned();
    }
    match value {
        Val::Null => "null".to_owned(),
        Val::List(list) => {
            let all: Vec<String> = list.iter().map(|v| show(&v, depth + 1)).collect();
            format!("[{}]", all.join(", "))
        }
        Val::Map(map) => {
            let mut all: Vec<String> =
                map.entries().iter().map(|(k, v)| format!("{}: {}", show(k, depth + 1), show(v, depth + 1))).collect();
            all.sort();
            format!("{{{}}}", all.join(", "))
        }
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Double(d) if d.is_nan() => "NaN".to_owned(),
        Val::Double(d) if d.is_infinite() => if *d > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Val::Type(name) => name.to_string(),
        other => convert::show(other).unwrap_or_else(|| other.type_name()),
    }
}
