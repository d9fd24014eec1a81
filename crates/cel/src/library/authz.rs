//! `authorizer`: putting a question together, and asking it.

use super::{Called, library};
use crate::authorizer::{Check, Decision};
use crate::eval::{EvalError, Evaluator, fail};
use crate::value::{Library, Val};

/// What asking costs (upstream's figure).
const CHECK_COST: u64 = 350_000;

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    match library(args)? {
        Library::Check(check) => on_check(evaluator, name, check, &args[1..]),
        Library::Decision(decision) => Some(Ok(match name {
            "allowed" => Val::Bool(decision.allowed),
            "errored" => Val::Bool(decision.error.is_some()),
            "error" => Val::text(decision.error.as_deref().unwrap_or_default()),
            "reason" => Val::text(decision.reason.as_str()),
            _ => return None,
        })),
        _ => None,
    }
}

fn on_check<'a>(evaluator: &Evaluator<'a, '_>, name: &str, check: &Check, rest: &[Val<'a>]) -> Called<'a> {
    let texts: Vec<&str> = rest.iter().filter_map(Val::as_str).collect();
    let mut next = check.clone();
    match (name, texts.as_slice()) {
        ("path", [""]) => return Some(fail("path must not be empty")),
        ("path", [path]) => next.path = Some((*path).to_owned()),
        ("group", [group]) => next.group = (*group).to_owned(),
        ("serviceAccount", [namespace, name]) => next.account = Some(((*namespace).to_owned(), (*name).to_owned())),
        ("resource", [resource]) => next.resource = (*resource).to_owned(),
        ("subresource", [subresource]) => next.subresource = (*subresource).to_owned(),
        ("namespace", [namespace]) => next.namespace = (*namespace).to_owned(),
        ("name", [name]) => next.name = (*name).to_owned(),
        // RBAC does not look at selectors; a question with one is no narrower for it.
        ("fieldSelector" | "labelSelector", [_]) => {}
        ("check", [verb]) => {
            if let Err(error) = evaluator.charge(CHECK_COST) {
                return Some(Err(error));
            }
            let Some(authorizer) = evaluator.authorizer() else {
                return Some(Err(EvalError::failed("there is no authorizer here")));
            };
            let decision: Decision = authorizer.check(verb, check);
            return Some(Ok(Val::library(Library::Decision(decision))));
        }
        _ => return None,
    }
    Some(Ok(Val::library(Library::Check(next))))
}
