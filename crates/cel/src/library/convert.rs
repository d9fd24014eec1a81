//! Conversions between the basic types.

use super::{Called, time};
use crate::eval::{EvalError, Evaluated, Evaluator, fail};
use crate::ops::text_cost;
use crate::value::{Library, Val};

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    let [one] = args else { return None };
    Some(match name {
        "int" => int(one),
        "uint" => uint(one),
        "double" => double(one),
        "bool" => boolean(one),
        "string" => string(evaluator, one),
        "bytes" => match one {
            Val::Bytes(_) => Ok(one.clone()),
            Val::String(text) => Ok(Val::Bytes(text.as_str().as_bytes().into())),
            _ => fail("no such overload"),
        },
        "timestamp" => match one {
            Val::Timestamp(_) => Ok(one.clone()),
            Val::Int(seconds) => match jiff::Timestamp::from_second(*seconds) {
                Ok(at) => Ok(Val::Timestamp(at)),
                Err(_) => fail("timestamp overflow"),
            },
            Val::String(text) => match time::parse_instant(text.as_str()) {
                Some(at) => Ok(Val::Timestamp(at)),
                None => fail(format!("invalid timestamp: {:?}", text.as_str())),
            },
            _ => fail("no such overload"),
        },
        "duration" => match one {
            Val::Duration(_) => Ok(one.clone()),
            Val::Int(nanos) => Ok(Val::Duration(*nanos)),
            Val::String(text) => match caravel_api::duration::parse(text.as_str()) {
                Some(nanos) => Ok(Val::Duration(nanos)),
                None => fail(format!("time: invalid duration {:?}", text.as_str())),
            },
            _ => fail("no such overload"),
        },
        _ => return None,
    })
}

fn range<'a, T>(value: Option<T>, make: impl Fn(T) -> Val<'a>, what: &str) -> Evaluated<'a> {
    value.map(make).ok_or_else(|| EvalError::failed(what))
}

fn int<'a>(one: &Val<'a>) -> Evaluated<'a> {
    match one {
        Val::Int(_) => Ok(one.clone()),
        Val::Uint(u) => range(i64::try_from(*u).ok(), Val::Int, "integer overflow"),
        Val::Double(d) => {
            let fits = *d > i64::MIN as f64 && *d < i64::MAX as f64;
            range(fits.then_some(*d as i64), Val::Int, "integer overflow")
        }
        Val::Timestamp(at) => Ok(Val::Int(at.as_second())),
        Val::Duration(nanos) => Ok(Val::Int(*nanos)),
        Val::String(text) => range(text.as_str().parse().ok(), Val::Int, "type conversion error from string to int"),
        _ => fail("no such overload"),
    }
}

fn uint<'a>(one: &Val<'a>) -> Evaluated<'a> {
    match one {
        Val::Uint(_) => Ok(one.clone()),
        Val::Int(i) => range(u64::try_from(*i).ok(), Val::Uint, "unsigned integer overflow"),
        Val::Double(d) => {
            let fits = *d >= 0.0 && *d < u64::MAX as f64;
            range(fits.then_some(*d as u64), Val::Uint, "unsigned integer overflow")
        }
        Val::String(text) => range(text.as_str().parse().ok(), Val::Uint, "type conversion error from string to uint"),
        _ => fail("no such overload"),
    }
}

fn double<'a>(one: &Val<'a>) -> Evaluated<'a> {
    match one {
        Val::Double(_) => Ok(one.clone()),
        Val::Int(i) => Ok(Val::Double(*i as f64)),
        Val::Uint(u) => Ok(Val::Double(*u as f64)),
        Val::String(text) => {
            range(text.as_str().parse().ok(), Val::Double, "type conversion error from string to double")
        }
        _ => fail("no such overload"),
    }
}

fn boolean<'a>(one: &Val<'a>) -> Evaluated<'a> {
    match one {
        Val::Bool(_) => Ok(one.clone()),
        Val::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => fail("type conversion error from string to bool"),
        },
        _ => fail("no such overload"),
    }
}

fn string<'a>(evaluator: &Evaluator<'a, '_>, one: &Val<'a>) -> Evaluated<'a> {
    let text = match one {
        Val::String(text) => {
            evaluator.charge(text_cost(text.as_str().len()))?;
            return Ok(one.clone());
        }
        Val::Bytes(bytes) => {
            evaluator.charge(text_cost(bytes.len()))?;
            match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
            }
        }
        other => match show(other) {
            Some(text) => text,
            None => return fail("no such overload"),
        },
    };
    Ok(Val::text(text))
}

/// A simple value as text.
pub(super) fn show(value: &Val<'_>) -> Option<String> {
    Some(match value {
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) if d.is_infinite() => if *d > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        Val::Double(d) => d.to_string(),
        Val::String(text) => text.as_str().to_owned(),
        Val::Timestamp(at) => at.to_string(),
        Val::Duration(nanos) => time::show_duration(*nanos),
        Val::Library(library) => match &**library {
            Library::Ip(ip) => ip.to_string(),
            Library::Cidr(ip, length) => format!("{ip}/{length}"),
            Library::Quantity(quantity) => quantity.to_string(),
            _ => return None,
        },
        _ => return None,
    })
}
