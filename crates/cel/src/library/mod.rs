//! The function libraries: the standard functions, and those that the Kubernetes API documents.

mod authz;
mod convert;
mod format;
mod lists;
mod math;
mod named;
mod net;
mod patterns;
mod quantity;
pub mod semver;
mod strings;
pub mod time;
pub mod url;

pub(crate) use patterns::complaint as pattern_complaint;

use crate::eval::{EvalError, Evaluated, Evaluator, fail, is_zero};
use crate::ops;
use crate::value::{Library, Val};
use std::rc::Rc;

/// Calls a function: the receiver, if any, is the first argument.
pub(crate) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, member: bool, args: &[Val<'a>]) -> Evaluated<'a> {
    let found = match (name, args) {
        ("size", [one]) => Some(size(evaluator, one)),
        ("type", [one]) => Some(Ok(Val::Type(one.type_name().into()))),
        ("dyn", [one]) => Some(Ok(one.clone())),
        ("contains" | "startsWith" | "endsWith" | "matches", _) => strings::search(evaluator, name, args),
        ("find" | "findAll", _) => patterns::call(evaluator, name, args),
        ("format", [pattern, Val::List(values)]) => Some(format::call(evaluator, pattern, values)),
        _ => None,
    };
    if let Some(result) = found {
        return result;
    }
    if (name.starts_with("optional.") || matches!(args.first(), Some(Val::Optional(_))) || name == "unwrapOpt")
        && let Some(result) = optional(name, args)
    {
        return result;
    }
    let all = [
        convert::call,
        strings::call,
        lists::call,
        math::call,
        time::call,
        url::call,
        net::call,
        quantity::call,
        semver::call,
        named::call,
        authz::call,
    ];
    for library in all {
        if let Some(result) = library(evaluator, name, args) {
            return result;
        }
    }
    let _ = member;
    fail("no such overload")
}

/// A function of a library: none when it is not of it, or not for these types.
pub(crate) type Called<'a> = Option<Evaluated<'a>>;

/// The receiver when it is a library's value.
pub(crate) fn library<'x>(args: &'x [Val<'_>]) -> Option<&'x Library> {
    match args.first()? {
        Val::Library(inner) => Some(inner),
        _ => None,
    }
}

fn size<'a>(evaluator: &Evaluator<'a, '_>, of: &Val<'a>) -> Evaluated<'a> {
    evaluator.charge(1)?;
    let count = match of {
        Val::String(text) => text.as_str().chars().count(),
        Val::Bytes(bytes) => bytes.len(),
        Val::List(list) => list.len(),
        Val::Map(map) => map.len(),
        _ => return fail("no such overload"),
    };
    Ok(Val::Int(count as i64))
}

fn optional<'a>(name: &str, args: &[Val<'a>]) -> Called<'a> {
    let some = |v: &Val<'a>| Ok(Val::Optional(Some(Rc::new(v.clone()))));
    Some(match (name, args) {
        ("optional.of", [one]) => some(one),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.ofNonZeroValue", [one]) if is_zero(one) => Ok(Val::Optional(None)),
        ("optional.ofNonZeroValue", [one]) => some(one),
        ("hasValue", [Val::Optional(inner)]) => Ok(Val::Bool(inner.is_some())),
        ("value", [Val::Optional(inner)]) => {
            inner.as_ref().map(|v| (**v).clone()).ok_or_else(|| EvalError::failed("optional.none() dereference"))
        }
        ("or", [Val::Optional(inner), other]) => match inner {
            Some(_) => Ok(args[0].clone()),
            None => Ok(other.clone()),
        },
        ("orValue", [Val::Optional(inner), other]) => {
            Ok(inner.as_ref().map_or_else(|| other.clone(), |v| (**v).clone()))
        }
        ("optional.unwrap" | "unwrapOpt", [Val::List(list)]) => Ok(Val::list(
            list.iter()
                .filter_map(|v| match v {
                    Val::Optional(inner) => inner.map(|v| (*v).clone()),
                    other => Some(other),
                })
                .collect(),
        )),
        _ => return None,
    })
}

/// The equality that libraries compare elements with.
pub(crate) fn same(a: &Val<'_>, b: &Val<'_>) -> bool {
    ops::equal(a, b)
}
