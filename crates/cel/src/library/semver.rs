//! Semantic versions (semver.org 2.0.0).

use super::{Called, library};
use crate::eval::{Evaluator, fail};
use crate::ops::text_cost;
use crate::value::{Library, Val};
use std::cmp::Ordering;

/// A version. Build metadata takes no part in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    before: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl Semver {
    /// Parses; `lenient` takes a leading `v`, missing parts, and leading zeros.
    pub fn parse(text: &str, lenient: bool) -> Option<Semver> {
        let text = if lenient { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (text, build) = text.split_once('+').map_or((text, None), |(t, b)| (t, Some(b)));
        let (core, before) = text.split_once('-').map_or((text, None), |(c, b)| (c, Some(b)));
        let good = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if build.is_some_and(|b| !b.split('.').all(good)) {
            return None;
        }
        let number = |text: &str| {
            let zeros = text.len() > 1 && text.starts_with('0') && !lenient;
            if zeros || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
        };
        let mut numbers = core.split('.').map(number).collect::<Option<Vec<u64>>>()?;
        if lenient {
            numbers.resize(numbers.len().max(3), 0);
        }
        let mut parts = vec![];
        for part in before.into_iter().flat_map(|b| b.split('.')) {
            if !good(part) {
                return None;
            }
            let digits = part.bytes().all(|b| b.is_ascii_digit());
            parts.push(if digits { Part::Number(number(part)?) } else { Part::Text(part.to_owned()) });
        }
        Some(Semver { numbers: numbers.try_into().ok()?, before: parts })
    }
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = self.numbers.cmp(&other.numbers);
        numbers.then_with(|| match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.before.cmp(&other.before),
        })
    }
}

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let ("semver" | "isSemver", [Val::String(text), rest @ ..]) = (name, args) {
        let lenient = matches!(rest, [Val::Bool(true)]);
        return Some(evaluator.charge(text_cost(text.as_str().len())).and_then(|()| {
            match (Semver::parse(text.as_str(), lenient), name) {
                (found, "isSemver") => Ok(Val::Bool(found.is_some())),
                (Some(version), _) => Ok(Val::library(Library::Semver(version))),
                (None, _) => {
                    fail(format!("{:?} is no semantic version: three numbers with dots are wanted", text.as_str()))
                }
            }
        }));
    }
    let Library::Semver(one) = library(args)? else { return None };
    let number = |i: usize| Val::Int(i64::try_from(one.numbers[i]).unwrap_or(i64::MAX));
    let order = match args.get(1) {
        Some(Val::Library(other)) => match &**other {
            Library::Semver(other) => Some(one.cmp(other)),
            _ => return None,
        },
        Some(_) => return None,
        None => None,
    };
    Some(Ok(match (name, order) {
        ("major", None) => number(0),
        ("minor", None) => number(1),
        ("patch", None) => number(2),
        ("isLessThan", Some(order)) => Val::Bool(order == Ordering::Less),
        ("isGreaterThan", Some(order)) => Val::Bool(order == Ordering::Greater),
        ("compareTo", Some(order)) => Val::Int(order as i64),
        _ => return None,
    }))
}
