//! `math.*` and `base64.*`.

use super::Called;
use crate::eval::{Evaluated, Evaluator, fail};
use crate::ops::{order, text_cost};
use crate::value::Val;
use base64::Engine as _;
use std::cmp::Ordering;

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let Some(name) = name.strip_prefix("base64.") {
        return base64(evaluator, name, args);
    }
    let name = name.strip_prefix("math.")?;
    if matches!(name, "greatest" | "least") {
        return Some(extreme(name, args));
    }
    Some(match (name, args) {
        ("ceil", [Val::Double(d)]) => Ok(Val::Double(d.ceil())),
        ("floor", [Val::Double(d)]) => Ok(Val::Double(d.floor())),
        ("round", [Val::Double(d)]) => Ok(Val::Double(d.round())),
        ("trunc", [Val::Double(d)]) => Ok(Val::Double(d.trunc())),
        ("isInf", [Val::Double(d)]) => Ok(Val::Bool(d.is_infinite())),
        ("isNaN", [Val::Double(d)]) => Ok(Val::Bool(d.is_nan())),
        ("isFinite", [Val::Double(d)]) => Ok(Val::Bool(d.is_finite())),
        ("sqrt", [Val::Double(d)]) => Ok(Val::Double(d.sqrt())),
        ("sqrt", [Val::Int(i)]) => Ok(Val::Double((*i as f64).sqrt())),
        ("sqrt", [Val::Uint(u)]) => Ok(Val::Double((*u as f64).sqrt())),
        ("abs", [Val::Int(i)]) => match i.checked_abs() {
            Some(i) => Ok(Val::Int(i)),
            None => fail("integer overflow"),
        },
        ("abs", [Val::Double(d)]) => Ok(Val::Double(d.abs())),
        ("abs", [one @ Val::Uint(_)]) => Ok(one.clone()),
        ("sign", [Val::Int(i)]) => Ok(Val::Int(i.signum())),
        ("sign", [Val::Uint(u)]) => Ok(Val::Uint((*u).min(1))),
        ("sign", [Val::Double(d)]) => Ok(Val::Double(if *d == 0.0 { 0.0 } else { d.signum() })),
        ("bitNot", [Val::Int(i)]) => Ok(Val::Int(!i)),
        ("bitNot", [Val::Uint(u)]) => Ok(Val::Uint(!u)),
        ("bitAnd", [Val::Int(a), Val::Int(b)]) => Ok(Val::Int(a & b)),
        ("bitAnd", [Val::Uint(a), Val::Uint(b)]) => Ok(Val::Uint(a & b)),
        ("bitOr", [Val::Int(a), Val::Int(b)]) => Ok(Val::Int(a | b)),
        ("bitOr", [Val::Uint(a), Val::Uint(b)]) => Ok(Val::Uint(a | b)),
        ("bitXor", [Val::Int(a), Val::Int(b)]) => Ok(Val::Int(a ^ b)),
        ("bitXor", [Val::Uint(a), Val::Uint(b)]) => Ok(Val::Uint(a ^ b)),
        ("bitShiftLeft" | "bitShiftRight", [_, Val::Int(by)]) if *by < 0 => {
            fail(format!("math.{name}() negative offset: {by}"))
        }
        ("bitShiftLeft", [Val::Int(a), Val::Int(by)]) => Ok(Val::Int(if *by > 63 { 0 } else { a << by })),
        ("bitShiftLeft", [Val::Uint(a), Val::Int(by)]) => Ok(Val::Uint(if *by > 63 { 0 } else { a << by })),
        ("bitShiftRight", [Val::Int(a), Val::Int(by)]) => {
            Ok(Val::Int(if *by > 63 { 0 } else { ((*a as u64) >> by) as i64 }))
        }
        ("bitShiftRight", [Val::Uint(a), Val::Int(by)]) => Ok(Val::Uint(if *by > 63 { 0 } else { a >> by })),
        _ => return None,
    })
}

fn extreme<'a>(name: &str, args: &[Val<'a>]) -> Evaluated<'a> {
    let all: Vec<Val<'a>> = match args {
        [Val::List(list)] => list.iter().collect(),
        other => other.to_vec(),
    };
    let wanted = if name == "greatest" { Ordering::Greater } else { Ordering::Less };
    let mut all = all.into_iter();
    let Some(mut best) = all.next() else { return fail(format!("math.@{name}() argument must not be empty")) };
    if !matches!(best, Val::Int(_) | Val::Uint(_) | Val::Double(_)) {
        return fail("no such overload");
    }
    for one in all {
        match order(&one, &best) {
            Some(found) if found == wanted => best = one,
            Some(_) => {}
            None => return fail("no such overload"),
        }
    }
    Ok(best)
}

fn base64<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    Some(match (name, args) {
        ("encode", [Val::Bytes(bytes)]) => {
            evaluator.charge(text_cost(bytes.len())).map(|()| Val::text(STANDARD.encode(bytes)))
        }
        ("decode", [Val::String(text)]) => evaluator.charge(text_cost(text.as_str().len())).and_then(|()| {
            let text = text.as_str();
            match STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)) {
                Ok(bytes) => Ok(Val::Bytes(bytes.into())),
                Err(error) => fail(format!("illegal base64 data: {error}")),
            }
        }),
        _ => return None,
    })
}
