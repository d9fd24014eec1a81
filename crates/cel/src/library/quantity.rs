//! Resource quantities.

use super::{Called, library};
use crate::eval::{Evaluator, fail};
use crate::ops::text_cost;
use crate::value::{Library, Val};
use caravel_api::quantity::Quantity;
use std::cmp::Ordering;

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let ("quantity" | "isQuantity", [Val::String(text)]) = (name, args) {
        return Some(evaluator.charge(text_cost(text.as_str().len())).and_then(|()| {
            match (Quantity::parse(text.as_str()), name) {
                (parsed, "isQuantity") => Ok(Val::Bool(parsed.is_ok())),
                (Ok(quantity), _) => Ok(Val::library(Library::Quantity(quantity))),
                (Err(error), _) => fail(error.to_string()),
            }
        }));
    }
    let Library::Quantity(one) = library(args)? else { return None };
    let other = match args.get(1) {
        None => None,
        Some(Val::Int(i)) => Quantity::parse(&i.to_string()).ok(),
        Some(Val::Library(other)) => match &**other {
            Library::Quantity(other) => Some(*other),
            _ => return None,
        },
        Some(_) => return None,
    };
    let made = |q: Quantity| Val::library(Library::Quantity(q));
    let zero = Quantity::default();
    let whole = one.is_integer();
    Some(match (name, other) {
        ("sign", None) => Ok(Val::Int(match one.cmp(&zero) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        })),
        ("isInteger", None) => Ok(Val::Bool(whole)),
        ("asInteger", None) if whole => Ok(Val::Int(one.value())),
        ("asInteger", None) => fail("cannot convert value to integer"),
        ("asApproximateFloat", None) => Ok(Val::Double(one.to_f64())),
        ("add", Some(other)) => Ok(made(one.add(other))),
        ("sub", Some(other)) => Ok(made(one.sub(other))),
        ("isLessThan", Some(other)) => Ok(Val::Bool(*one < other)),
        ("isGreaterThan", Some(other)) => Ok(Val::Bool(*one > other)),
        ("compareTo", Some(other)) => Ok(Val::Int(match one.cmp(&other) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        })),
        _ => return None,
    })
}
