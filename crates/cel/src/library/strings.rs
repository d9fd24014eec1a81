//! Strings: searching, cutting, joining. Positions count characters.

use super::Called;
use crate::eval::{EvalError, Evaluated, Evaluator, fail};
use crate::library::patterns;
use crate::ops::text_cost;
use crate::value::Val;

/// Longest string that a function may make, in bytes.
pub(super) const MAX_MADE: usize = 10 << 20;

pub(super) fn search<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    let [Val::String(text), Val::String(part)] = args else { return None };
    let (text, part) = (text.as_str(), part.as_str());
    let cost = match name {
        "contains" => text_cost(text.len()).saturating_mul(text_cost(part.len()).max(1)),
        "matches" => return Some(patterns::matches(evaluator, text, part)),
        _ => text_cost(part.len()),
    };
    Some(evaluator.charge(cost).map(|()| {
        Val::Bool(match name {
            "contains" => text.contains(part),
            "startsWith" => text.starts_with(part),
            _ => text.ends_with(part),
        })
    }))
}

fn at(index: i64, length: usize) -> Result<usize, EvalError> {
    match usize::try_from(index) {
        Ok(i) if i <= length => Ok(i),
        _ => fail(format!("index out of range: {index}")),
    }
}

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let ("join", [Val::List(list), rest @ ..]) = (name, args) {
        let separator = rest.first().and_then(Val::as_str).unwrap_or_default();
        return Some(join(evaluator, list, separator));
    }
    let [Val::String(text), rest @ ..] = args else { return None };
    let text = text.as_str();
    if let Err(error) = evaluator.charge(text_cost(text.len())) {
        return Some(Err(error));
    }
    let made = |text: String| Ok(Val::text(text));
    Some(match (name, rest) {
        ("lowerAscii", []) => made(text.to_ascii_lowercase()),
        ("upperAscii", []) => made(text.to_ascii_uppercase()),
        ("trim", []) => made(text.trim().to_owned()),
        ("reverse", []) => made(text.chars().rev().collect()),
        ("strings.quote", []) => made(quote(text)),
        ("jsonpatch.escapeKey", []) => made(text.replace('~', "~0").replace('/', "~1")),
        ("charAt", [Val::Int(index)]) => {
            let chars: Vec<char> = text.chars().collect();
            at(*index, chars.len()).map(|i| Val::text(chars.get(i).map(char::to_string).unwrap_or_default()))
        }
        ("substring", [Val::Int(from)]) => substring(text, *from, None),
        ("substring", [Val::Int(from), Val::Int(to)]) => substring(text, *from, Some(*to)),
        ("indexOf", [Val::String(part)]) => index_of(text, part.as_str(), 0),
        ("indexOf", [Val::String(part), Val::Int(from)]) => index_of(text, part.as_str(), *from),
        ("lastIndexOf", [Val::String(part)]) => last_index_of(text, part.as_str(), None),
        ("lastIndexOf", [Val::String(part), Val::Int(from)]) => last_index_of(text, part.as_str(), Some(*from)),
        ("replace", [Val::String(from), Val::String(to)]) => replace(evaluator, text, from.as_str(), to.as_str(), -1),
        ("replace", [Val::String(from), Val::String(to), Val::Int(most)]) => {
            replace(evaluator, text, from.as_str(), to.as_str(), *most)
        }
        ("split", [Val::String(by)]) => Ok(split(text, by.as_str(), -1)),
        ("split", [Val::String(by), Val::Int(most)]) => Ok(split(text, by.as_str(), *most)),
        _ => return None,
    })
}

fn join<'a>(evaluator: &Evaluator<'a, '_>, list: &crate::value::List<'a>, separator: &str) -> Evaluated<'a> {
    let mut out = String::new();
    for (i, one) in list.iter().enumerate() {
        let Val::String(text) = one else { return fail("no such overload") };
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text.as_str());
        if out.len() > MAX_MADE {
            return Err(EvalError::CallCost);
        }
    }
    evaluator.charge(text_cost(out.len()))?;
    Ok(Val::text(out))
}

fn substring<'a>(text: &str, from: i64, to: Option<i64>) -> Evaluated<'a> {
    let chars: Vec<char> = text.chars().collect();
    let begin = at(from, chars.len())?;
    let end = at(to.unwrap_or(chars.len() as i64), chars.len())?;
    if begin > end {
        return fail(format!("invalid substring range. start: {begin}, end: {end}"));
    }
    Ok(Val::text(chars[begin..end].iter().collect::<String>()))
}

fn index_of<'a>(text: &str, part: &str, from: i64) -> Evaluated<'a> {
    let chars: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let from = at(from, chars.len())?;
    if part.is_empty() {
        return Ok(Val::Int(from as i64));
    }
    let found = chars.windows(part.len()).skip(from).position(|w| w == part);
    Ok(Val::Int(found.map_or(-1, |i| (i + from) as i64)))
}

fn last_index_of<'a>(text: &str, part: &str, from: Option<i64>) -> Evaluated<'a> {
    let chars: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let from = at(from.unwrap_or(chars.len() as i64), chars.len())?;
    if part.is_empty() {
        return Ok(Val::Int(from as i64));
    }
    let found = chars.windows(part.len()).take(from + 1).rposition(|w| w == part);
    Ok(Val::Int(found.map_or(-1, |i| i as i64)))
}

fn replace<'a>(evaluator: &Evaluator<'a, '_>, text: &str, from: &str, to: &str, most: i64) -> Evaluated<'a> {
    let hits = text.matches(from).count().min(usize::try_from(most).unwrap_or(usize::MAX));
    // What it will be long is known before it is made.
    let size = text.len().saturating_add(hits.saturating_mul(to.len()));
    evaluator.charge(text_cost(size))?;
    if size > MAX_MADE {
        return Err(EvalError::CallCost);
    }
    Ok(Val::text(text.replacen(from, to, hits)))
}

fn split<'a>(text: &str, by: &str, most: i64) -> Val<'a> {
    let made = |parts: Vec<String>| Val::list(parts.into_iter().map(Val::text).collect());
    if most == 0 {
        return made(vec![]);
    }
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    if by.is_empty() {
        let mut chars = text.chars();
        let mut parts: Vec<String> = vec![];
        while parts.len() + 1 < limit {
            match chars.next() {
                Some(c) => parts.push(c.to_string()),
                None => break,
            }
        }
        let rest = chars.as_str();
        if !rest.is_empty() {
            parts.push(rest.to_owned());
        }
        return made(parts);
    }
    made(text.splitn(limit, by).map(str::to_owned).collect())
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
