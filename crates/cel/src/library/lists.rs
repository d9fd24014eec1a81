//! Lists and sets.

use super::{Called, same};
use crate::eval::{EvalError, Evaluated, Evaluator, fail};
use crate::ops::{order, sort_by};
use crate::value::{List, Val};
use std::cmp::Ordering;
use std::rc::Rc;

/// Longest list that a function may make from a number.
const MAX_RANGE: i64 = 100_000;

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let ("lists.range", [Val::Int(n)]) = (name, args) {
        return Some(range(evaluator, *n));
    }
    let [Val::List(list), rest @ ..] = args else { return None };
    if let ("sets.contains" | "sets.equivalent" | "sets.intersects", [Val::List(other)]) = (name, rest) {
        return Some(sets(evaluator, name, list, other));
    }
    if let Err(error) = evaluator.charge(list.len() as u64) {
        return Some(Err(error));
    }
    Some(match (name, rest) {
        ("isSorted", []) => is_sorted(list),
        ("sum", []) => sum(list),
        ("min", []) => extreme(list, Ordering::Less),
        ("max", []) => extreme(list, Ordering::Greater),
        ("indexOf", [one]) => Ok(place(list.iter().position(|v| same(&v, one)))),
        ("lastIndexOf", [one]) => {
            let all: Vec<Val<'a>> = list.iter().collect();
            Ok(place(all.iter().rposition(|v| same(v, one))))
        }
        ("slice", [Val::Int(from), Val::Int(to)]) => slice(list, *from, *to),
        ("reverse", []) => {
            let mut all: Vec<Val<'a>> = list.iter().collect();
            all.reverse();
            Ok(Val::list(all))
        }
        ("sort", []) => {
            let mut all: Vec<Val<'a>> = list.iter().collect();
            sort_by(&mut all, |v| v).map(|()| Val::list(all))
        }
        ("distinct", []) => distinct(evaluator, list),
        ("first", []) => Ok(Val::Optional(list.get(0).map(Rc::new))),
        ("last", []) => Ok(Val::Optional(list.len().checked_sub(1).and_then(|i| list.get(i)).map(Rc::new))),
        ("flatten", []) => flatten(evaluator, list, 1),
        ("flatten", [Val::Int(depth)]) if *depth < 0 => fail("level must be non-negative"),
        ("flatten", [Val::Int(depth)]) => flatten(evaluator, list, *depth),
        _ => return None,
    })
}

fn place<'a>(at: Option<usize>) -> Val<'a> {
    Val::Int(at.map_or(-1, |i| i as i64))
}

fn range<'a>(evaluator: &Evaluator<'a, '_>, n: i64) -> Evaluated<'a> {
    evaluator.charge(u64::try_from(n).unwrap_or(0))?;
    if n > MAX_RANGE {
        return Err(EvalError::CallCost);
    }
    Ok(Val::list((0..n).map(Val::Int).collect()))
}

fn is_sorted<'a>(list: &List<'a>) -> Evaluated<'a> {
    let mut before: Option<Val<'a>> = None;
    for one in list.iter() {
        if let Some(before) = &before {
            match order(before, &one) {
                Some(Ordering::Greater) => return Ok(Val::Bool(false)),
                Some(_) => {}
                None => return fail("no such overload"),
            }
        }
        before = Some(one);
    }
    Ok(Val::Bool(true))
}

fn sum<'a>(list: &List<'a>) -> Evaluated<'a> {
    let mut total: Option<Val<'a>> = None;
    for one in list.iter() {
        let next = match (total, one) {
            (None, one @ (Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_))) => Some(one),
            (Some(Val::Int(a)), Val::Int(b)) => a.checked_add(b).map(Val::Int),
            (Some(Val::Uint(a)), Val::Uint(b)) => a.checked_add(b).map(Val::Uint),
            (Some(Val::Double(a)), Val::Double(b)) => Some(Val::Double(a + b)),
            (Some(Val::Duration(a)), Val::Duration(b)) => a.checked_add(b).map(Val::Duration),
            _ => return fail("no such overload"),
        };
        total = Some(next.ok_or_else(|| EvalError::failed("integer overflow"))?);
    }
    Ok(total.unwrap_or(Val::Int(0)))
}

fn extreme<'a>(list: &List<'a>, wanted: Ordering) -> Evaluated<'a> {
    let mut best: Option<Val<'a>> = None;
    for one in list.iter() {
        let better = match &best {
            None => true,
            Some(best) => match order(&one, best) {
                Some(order) => order == wanted,
                None => return fail("no such overload"),
            },
        };
        if better {
            best = Some(one);
        }
    }
    let which = if wanted == Ordering::Less { "min" } else { "max" };
    best.ok_or_else(|| EvalError::failed(format!("{which} called on empty list")))
}

fn slice<'a>(list: &List<'a>, from: i64, to: i64) -> Evaluated<'a> {
    if from < 0 || to < 0 {
        return fail(format!("cannot slice({from}, {to}), negative indexes not supported"));
    }
    if from > to {
        return fail(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"));
    }
    if to as usize > list.len() {
        return fail(format!("cannot slice({from}, {to}), list is length {}", list.len()));
    }
    Ok(Val::list((from as usize..to as usize).filter_map(|i| list.get(i)).collect()))
}

fn distinct<'a>(evaluator: &Evaluator<'a, '_>, list: &List<'a>) -> Evaluated<'a> {
    let mut out: Vec<Val<'a>> = vec![];
    for one in list.iter() {
        evaluator.charge(out.len() as u64)?;
        if !out.iter().any(|v| same(v, &one)) {
            out.push(one);
        }
    }
    Ok(Val::list(out))
}

fn flatten<'a>(evaluator: &Evaluator<'a, '_>, list: &List<'a>, depth: i64) -> Evaluated<'a> {
    let mut all: Vec<Val<'a>> = list.iter().collect();
    for _ in 0..depth.min(64) {
        if !all.iter().any(|v| matches!(v, Val::List(_))) {
            break;
        }
        let mut next = vec![];
        for one in all {
            match one {
                Val::List(inner) => {
                    evaluator.charge(inner.len() as u64)?;
                    next.extend(inner.iter());
                }
                other => next.push(other),
            }
        }
        all = next;
    }
    Ok(Val::list(all))
}

fn sets<'a>(evaluator: &Evaluator<'a, '_>, name: &str, a: &List<'a>, b: &List<'a>) -> Evaluated<'a> {
    let product = (a.len() as u64).saturating_mul(b.len() as u64);
    let cost = if name == "sets.equivalent" { product.saturating_mul(2) } else { product };
    evaluator.charge(cost)?;
    let within = |x: &List<'a>, y: &List<'a>| x.iter().all(|v| y.iter().any(|w| same(&v, &w)));
    Ok(Val::Bool(match name {
        "sets.contains" => within(b, a),
        "sets.equivalent" => within(a, b) && within(b, a),
        _ => a.iter().any(|v| b.iter().any(|w| same(&v, &w))),
    }))
}
