//! Operators: arithmetic that refuses to overflow, equality over all types, order within a type.

use crate::ast::Operator;
use crate::eval::{EvalError, Evaluated, Evaluator, fail};
use crate::types::ListKind;
use crate::value::{Key, Library, List, Val};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;
use std::rc::Rc;

/// Cost of looking through so many characters: a tenth each.
pub(crate) fn text_cost(characters: usize) -> u64 {
    (characters as u64).div_ceil(10)
}

/// Cost of comparing: by what there is to look at.
fn compare_cost(a: &Val<'_>, b: &Val<'_>) -> u64 {
    match (a, b) {
        (Val::String(x), Val::String(y)) => text_cost(x.as_str().len().min(y.as_str().len())).max(1),
        (Val::Bytes(x), Val::Bytes(y)) => text_cost(x.len().min(y.len())).max(1),
        (Val::List(x), Val::List(y)) => (x.len().min(y.len()) as u64).max(1),
        (Val::Map(x), Val::Map(y)) => (x.len().min(y.len()) as u64).max(1),
        _ => 1,
    }
}

pub(crate) fn binary<'a>(evaluator: &Evaluator<'a, '_>, operator: Operator, a: &Val<'a>, b: &Val<'a>) -> Evaluated<'a> {
    use Operator::{
        Add, Divide, Equal, Greater, GreaterEqual, In, Less, LessEqual, Modulo, Multiply, NotEqual, Subtract,
    };
    match operator {
        Equal | NotEqual => {
            evaluator.charge(compare_cost(a, b))?;
            Ok(Val::Bool(equal(a, b) == matches!(operator, Equal)))
        }
        Less | LessEqual | Greater | GreaterEqual => {
            evaluator.charge(compare_cost(a, b))?;
            let Some(order) = order(a, b) else {
                // Comparisons with NaN are false, others have no overload.
                let numbers = number(a).is_some() && number(b).is_some();
                return if numbers { Ok(Val::Bool(false)) } else { fail("no such overload") };
            };
            Ok(Val::Bool(match operator {
                Less => order == Ordering::Less,
                LessEqual => order != Ordering::Greater,
                Greater => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        In => match b {
            Val::List(list) => {
                evaluator.charge((list.len() as u64).max(1))?;
                Ok(Val::Bool(list.iter().any(|v| equal(a, &v))))
            }
            Val::Map(map) => {
                evaluator.charge(1)?;
                Ok(Val::Bool(Key::of(a).is_some_and(|k| map.get(&k).is_some())))
            }
            _ => fail("no such overload"),
        },
        Add => add(evaluator, a, b),
        Subtract | Multiply | Divide | Modulo => {
            evaluator.charge(1)?;
            arithmetic(operator, a, b)
        }
    }
}

fn overflow<'a>(value: Option<Val<'a>>, what: &str) -> Evaluated<'a> {
    value.ok_or_else(|| EvalError::failed(what))
}

fn add<'a>(evaluator: &Evaluator<'a, '_>, a: &Val<'a>, b: &Val<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Val::String(x), Val::String(y)) => {
            evaluator.charge(text_cost(x.as_str().len() + y.as_str().len()).max(1))?;
            Ok(Val::text(format!("{}{}", x.as_str(), y.as_str())))
        }
        (Val::Bytes(x), Val::Bytes(y)) => {
            evaluator.charge(text_cost(x.len() + y.len()).max(1))?;
            Ok(Val::Bytes([&**x, &**y].concat().into()))
        }
        (Val::List(x), Val::List(y)) => {
            evaluator.charge(((x.len() + y.len()) as u64).max(1))?;
            Ok(concat(x, y))
        }
        _ => {
            evaluator.charge(1)?;
            match (a, b) {
                (Val::Int(x), Val::Int(y)) => overflow(x.checked_add(*y).map(Val::Int), "integer overflow"),
                (Val::Uint(x), Val::Uint(y)) => overflow(x.checked_add(*y).map(Val::Uint), "unsigned integer overflow"),
                (Val::Double(x), Val::Double(y)) => Ok(Val::Double(x + y)),
                (Val::Duration(x), Val::Duration(y)) => {
                    overflow(x.checked_add(*y).map(Val::Duration), "integer overflow")
                }
                (Val::Timestamp(at), Val::Duration(by)) | (Val::Duration(by), Val::Timestamp(at)) => shift(*at, *by),
                _ => fail("no such overload"),
            }
        }
    }
}

/// Sets are united, lists with keys are merged by them (the new one wins, in the old one's place), others are joined.
fn concat<'a>(x: &List<'a>, y: &List<'a>) -> Val<'a> {
    let kind = x.kind();
    let mut all: Vec<Val<'a>> = x.iter().collect();
    match kind {
        ListKind::Atomic => all.extend(y.iter()),
        ListKind::Set => {
            for one in y.iter() {
                if !all.iter().any(|v| equal(v, &one)) {
                    all.push(one);
                }
            }
        }
        ListKind::Map(keys) => {
            for one in y.iter() {
                match all.iter_mut().find(|v| same_keys(keys, v, &one)) {
                    Some(present) => *present = one,
                    None => all.push(one),
                }
            }
        }
    }
    Val::List(List::Made(Rc::new(all), Some(kind)))
}

fn shift<'a>(at: Timestamp, by: i64) -> Evaluated<'a> {
    let moved = at.checked_add(SignedDuration::from_nanos(by)).ok();
    overflow(moved.map(Val::Timestamp), "timestamp overflow")
}

fn arithmetic<'a>(operator: Operator, a: &Val<'a>, b: &Val<'a>) -> Evaluated<'a> {
    use Operator::{Divide, Modulo, Multiply};
    match (a, b) {
        (Val::Int(x), Val::Int(y)) => {
            let value = match operator {
                Multiply => x.checked_mul(*y),
                Divide if *y == 0 => return fail("division by zero"),
                Divide => x.checked_div(*y),
                Modulo if *y == 0 => return fail("modulus by zero"),
                Modulo => x.checked_rem(*y),
                _ => x.checked_sub(*y),
            };
            overflow(value.map(Val::Int), "integer overflow")
        }
        (Val::Uint(x), Val::Uint(y)) => {
            let value = match operator {
                Multiply => x.checked_mul(*y),
                Divide if *y == 0 => return fail("division by zero"),
                Divide => x.checked_div(*y),
                Modulo if *y == 0 => return fail("modulus by zero"),
                Modulo => x.checked_rem(*y),
                _ => x.checked_sub(*y),
            };
            overflow(value.map(Val::Uint), "unsigned integer overflow")
        }
        (Val::Double(x), Val::Double(y)) => Ok(Val::Double(match operator {
            Multiply => x * y,
            Divide => x / y,
            Modulo => return fail("no such overload"),
            _ => x - y,
        })),
        (Val::Timestamp(x), Val::Timestamp(y)) if operator == Operator::Subtract => {
            let nanos = i64::try_from(x.as_nanosecond() - y.as_nanosecond()).ok();
            overflow(nanos.map(Val::Duration), "integer overflow")
        }
        (Val::Timestamp(at), Val::Duration(by)) if operator == Operator::Subtract => match by.checked_neg() {
            Some(by) => shift(*at, by),
            None => fail("integer overflow"),
        },
        (Val::Duration(x), Val::Duration(y)) if operator == Operator::Subtract => {
            overflow(x.checked_sub(*y).map(Val::Duration), "integer overflow")
        }
        _ => fail("no such overload"),
    }
}

enum Number {
    Whole(i128),
    Real(f64),
}

fn number(value: &Val<'_>) -> Option<Number> {
    match value {
        Val::Int(i) => Some(Number::Whole((*i).into())),
        Val::Uint(u) => Some(Number::Whole((*u).into())),
        Val::Double(d) => Some(Number::Real(*d)),
        _ => None,
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Whole(x), Number::Whole(y)) => Some(x.cmp(y)),
        (Number::Real(x), Number::Real(y)) => x.partial_cmp(y),
        (Number::Whole(x), Number::Real(y)) => (*x as f64).partial_cmp(y),
        (Number::Real(x), Number::Whole(y)) => x.partial_cmp(&(*y as f64)),
    }
}

/// The order of two values of one type.
pub(crate) fn order(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return compare_numbers(&x, &y);
    }
    match (a, b) {
        (Val::Bool(x), Val::Bool(y)) => Some(x.cmp(y)),
        (Val::String(x), Val::String(y)) => Some(x.as_str().cmp(y.as_str())),
        (Val::Bytes(x), Val::Bytes(y)) => Some(x.cmp(y)),
        (Val::Timestamp(x), Val::Timestamp(y)) => Some(x.cmp(y)),
        (Val::Duration(x), Val::Duration(y)) => Some(x.cmp(y)),
        (Val::Library(x), Val::Library(y)) => match (&**x, &**y) {
            (Library::Quantity(x), Library::Quantity(y)) => Some(x.cmp(y)),
            (Library::Semver(x), Library::Semver(y)) => Some(x.cmp(y)),
            _ => None,
        },
        _ => None,
    }
}

/// Sorts by a key; values that have no order are an error.
pub(crate) fn sort_by<T, F>(all: &mut [T], key: F) -> Result<(), EvalError>
where
    F: for<'x> Fn(&'x T) -> &'x Val<'x> + Copy,
{
    let mut failed = false;
    all.sort_by(|a, b| {
        order(key(a), key(b)).unwrap_or_else(|| {
            failed = true;
            Ordering::Equal
        })
    });
    if failed { fail("no such overload") } else { Ok(()) }
}

fn same_keys(keys: &[String], a: &Val<'_>, b: &Val<'_>) -> bool {
    let (Val::Map(a), Val::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| match (a.field(key), b.field(key)) {
        (Some(x), Some(y)) => equal(&x, &y),
        (None, None) => true,
        _ => false,
    })
}

/// Whether two values are the same; values of different types are not.
pub(crate) fn equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return compare_numbers(&x, &y) == Some(Ordering::Equal);
    }
    match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Type(x), Val::Type(y)) => x == y,
        (Val::List(x), Val::List(y)) => equal_lists(x, y),
        (Val::Map(x), Val::Map(y)) => {
            x.len() == y.len()
                && x.entries()
                    .iter()
                    .all(|(k, v)| Key::of(k).and_then(|k| y.get(&k)).is_some_and(|other| equal(v, &other)))
        }
        (Val::Optional(x), Val::Optional(y)) => match (x, y) {
            (Some(x), Some(y)) => equal(x, y),
            (None, None) => true,
            _ => false,
        },
        (Val::Message(n, x), Val::Message(m, y)) => {
            n == m && x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|other| equal(v, other)))
        }
        (Val::Library(x), Val::Library(y)) => match (&**x, &**y) {
            (Library::Url(x), Library::Url(y)) => x == y,
            (Library::Ip(x), Library::Ip(y)) => x == y,
            (Library::Cidr(x, n), Library::Cidr(y, m)) => x == y && n == m,
            (Library::Quantity(_) | Library::Semver(_), _) => order(a, b) == Some(Ordering::Equal),
            (Library::Format(x), Library::Format(y)) => x == y,
            (Library::Check(x), Library::Check(y)) => x == y,
            (Library::Decision(x), Library::Decision(y)) => x == y,
            _ => false,
        },
        _ => order(a, b) == Some(Ordering::Equal),
    }
}

fn equal_lists(x: &List<'_>, y: &List<'_>) -> bool {
    if x.len() != y.len() {
        return false;
    }
    let kind = if *x.kind() == ListKind::Atomic { y.kind() } else { x.kind() };
    match kind {
        ListKind::Atomic => x.iter().zip(y.iter()).all(|(a, b)| equal(&a, &b)),
        ListKind::Set => x.iter().all(|a| y.iter().any(|b| equal(&a, &b))),
        ListKind::Map(keys) => x.iter().all(|a| y.iter().any(|b| same_keys(keys, &a, &b) && equal(&a, &b))),
    }
}
