//! Regular expressions. The engine is linear in the text; the size of a compiled pattern is limited.

use super::Called;
use crate::eval::{Evaluated, Evaluator, fail};
use crate::value::Val;
use regex::{Regex, RegexBuilder};
use std::cell::RefCell;

/// Most bytes of one compiled pattern.
const MAX_COMPILED: usize = 1 << 20;

thread_local! {
    /// The last patterns of this thread: rules use few and use them often.
    static RECENT: RefCell<Vec<(String, Regex)>> = const { RefCell::new(vec![]) };
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let known = RECENT.with_borrow_mut(|recent| {
        let at = recent.iter().position(|(p, _)| p == pattern)?;
        let hit = recent.remove(at);
        recent.push(hit.clone());
        Some(hit.1)
    });
    if let Some(regex) = known {
        return Ok(regex);
    }
    let built = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    let regex =
        built.map_err(|_| format!("error parsing regexp: `{pattern}` is no valid pattern, or too large a one"))?;
    RECENT.with_borrow_mut(|recent| {
        if recent.len() >= 8 {
            recent.remove(0);
        }
        recent.push((pattern.to_owned(), regex.clone()));
    });
    Ok(regex)
}

/// Whether a constant pattern compiles; asked when an expression is compiled.
pub(crate) fn complaint(pattern: &str) -> Option<String> {
    compile(pattern).err()
}

/// Text length times pattern length, each at the rate that upstream counts.
fn charge(evaluator: &Evaluator<'_, '_>, text: &str, pattern: &str) -> Result<(), crate::eval::EvalError> {
    let text = (text.len() as u64 + 1).div_ceil(10);
    let pattern = (pattern.len() as u64).div_ceil(4).max(1);
    evaluator.charge(text.saturating_mul(pattern))
}

pub(super) fn matches<'a>(evaluator: &Evaluator<'a, '_>, text: &str, pattern: &str) -> Evaluated<'a> {
    charge(evaluator, text, pattern)?;
    match compile(pattern) {
        Ok(regex) => Ok(Val::Bool(regex.is_match(text))),
        Err(why) => fail(why),
    }
}

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    let [Val::String(text), Val::String(pattern), rest @ ..] = args else { return None };
    let (text, pattern) = (text.as_str(), pattern.as_str());
    let most = match rest {
        [] => usize::MAX,
        [Val::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
        _ => return None,
    };
    Some(charge(evaluator, text, pattern).and_then(|()| {
        let regex = match compile(pattern) {
            Ok(regex) => regex,
            Err(why) => return fail(why),
        };
        if name == "find" {
            return Ok(Val::text(regex.find(text).map_or("", |m| m.as_str())));
        }
        Ok(Val::list(regex.find_iter(text).take(most).map(|m| Val::text(m.as_str())).collect()))
    }))
}
