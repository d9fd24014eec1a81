//! The evaluator: walks the tree, counting cost; errors are values that `&&` and `||` may absorb.

use crate::ast::{Expr, Kind, Literal, Loop, LoopKind};
use crate::authorizer::{Authorizer, Check};
use crate::check::{dotted, is_type_name};
use crate::library;
use crate::ops;
use crate::program::Program;
use crate::value::{Dict, Key, Library, List, Text, Val};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Why an evaluation came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression did something that cannot be done.
    #[error("{0}")]
    Failed(String),
    /// One expression cost more than one may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CallCost,
    /// All expressions together cost more than they may.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    Budget,
}

impl EvalError {
    /// What the expression did wrong.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// Whether nothing more may be evaluated.
    pub fn is_cost(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

/// What evaluations may still cost, shared by all of one request.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
    per_call: u64,
}

impl Budget {
    /// A budget with upstream's limit for each call.
    pub fn new(total: u64) -> Self {
        Self { left: Cell::new(total), per_call: crate::PER_CALL_LIMIT }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left.get()
    }
}

/// The variables of an evaluation.
#[derive(Default)]
pub struct Activation<'a> {
    variables: Vec<(&'a str, Val<'a>)>,
    composed: &'a [(String, Program)],
    cache: RefCell<Vec<Option<Result<Val<'a>, EvalError>>>>,
    authorizer: Option<&'a dyn Authorizer>,
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable.
    pub fn set(&mut self, name: &'a str, value: Val<'a>) -> &mut Self {
        self.variables.retain(|(n, _)| *n != name);
        self.variables.push((name, value));
        self
    }

    /// Gives `variables.*`: each is evaluated when first asked for, at most once.
    pub fn compose(&mut self, programs: &'a [(String, Program)]) -> &mut Self {
        self.composed = programs;
        self.cache = RefCell::new(vec![None; programs.len()]);
        self
    }

    /// Gives `authorizer`, and `authorizer.requestResource` for a question about `request`.
    pub fn authorize(&mut self, authorizer: &'a dyn Authorizer, request: Check) -> &mut Self {
        self.authorizer = Some(authorizer);
        let request = Val::library(Library::Check(request));
        let own = Val::library(Library::Check(Check::default()));
        self.set("authorizer.requestResource", request);
        self.set("authorizer", own)
    }

    fn get(&self, name: &str) -> Option<Val<'a>> {
        self.variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
    }
}

pub(crate) type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(crate) struct Evaluator<'a, 'b> {
    activation: &'b Activation<'a>,
    budget: &'b Budget,
    spent: Cell<u64>,
    scopes: RefCell<Vec<(&'a str, Val<'a>)>>,
}

/// A failure with these words.
pub(crate) fn fail<T>(text: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(text.into()))
}

impl<'a, 'b> Evaluator<'a, 'b> {
    pub(crate) fn new(activation: &'b Activation<'a>, budget: &'b Budget) -> Self {
        Self { activation, budget, spent: Cell::new(0), scopes: RefCell::default() }
    }

    pub(crate) fn authorizer(&self) -> Option<&'a dyn Authorizer> {
        self.activation.authorizer
    }

    /// Counts cost.
    pub(crate) fn charge(&self, cost: u64) -> Result<(), EvalError> {
        let spent = self.spent.get().saturating_add(cost);
        self.spent.set(spent);
        if spent > self.budget.per_call {
            return Err(EvalError::CallCost);
        }
        match self.budget.left.get().checked_sub(cost) {
            Some(left) => {
                self.budget.left.set(left);
                Ok(())
            }
            None => {
                self.budget.left.set(0);
                Err(EvalError::Budget)
            }
        }
    }

    pub(crate) fn run(&self, expr: &'a Expr) -> Evaluated<'a> {
        match &expr.kind {
            Kind::Literal(literal) => Ok(constant(literal)),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, test, optional } => self.select(expr, operand, field, *test, *optional),
            Kind::Index { operand, index, optional } => self.index(operand, index, *optional),
            Kind::Call { target, function, arguments } => {
                let mut all = Vec::with_capacity(arguments.len() + 1);
                for one in target.iter().map(|t| &**t).chain(arguments) {
                    all.push(self.run(one)?);
                }
                self.charge(1)?;
                library::call(self, function, target.is_some(), &all)
            }
            Kind::And(all) => self.logic(all, false),
            Kind::Or(all) => self.logic(all, true),
            Kind::Not(a) => {
                self.charge(1)?;
                match self.run(a)? {
                    Val::Bool(b) => Ok(Val::Bool(!b)),
                    _ => fail("no such overload"),
                }
            }
            Kind::Negate(a) => {
                self.charge(1)?;
                match self.run(a)? {
                    Val::Int(i) => i.checked_neg().map(Val::Int).ok_or_else(|| EvalError::failed("integer overflow")),
                    Val::Double(d) => Ok(Val::Double(-d)),
                    _ => fail("no such overload"),
                }
            }
            Kind::Conditional(three) => match self.run(&three[0])? {
                Val::Bool(true) => self.run(&three[1]),
                Val::Bool(false) => self.run(&three[2]),
                _ => fail("no such overload"),
            },
            Kind::Binary(operator, two) => {
                let (a, b) = (self.run(&two[0])?, self.run(&two[1])?);
                ops::binary(self, *operator, &a, &b)
            }
            Kind::List(all) => {
                self.charge(10)?;
                let mut out = Vec::with_capacity(all.len());
                for (one, optional) in all {
                    out.extend(self.entry(one, *optional)?);
                }
                Ok(Val::list(out))
            }
            Kind::Map(all) => {
                self.charge(30)?;
                let mut out = BTreeMap::new();
                for (key, value, optional) in all {
                    let key = self.run(key)?;
                    let Some(key) = Key::of(&key) else { return fail("unsupported key type") };
                    let Some(value) = self.entry(value, *optional)? else { continue };
                    if out.insert(key.clone(), value).is_some() {
                        return fail(format!("repeated key: {}", key.show()));
                    }
                }
                Ok(Val::dict(out))
            }
            Kind::Message(name, fields) => {
                self.charge(40)?;
                let mut out = BTreeMap::new();
                for (field, value, optional) in fields {
                    if let Some(value) = self.entry(value, *optional)? {
                        check_member(name, field, &value)?;
                        out.insert(field.clone(), value);
                    }
                }
                Ok(Val::Message(name.as_str().into(), Rc::new(out)))
            }
            Kind::Loop(one) => self.repeat(one),
            Kind::Bind(name, two) => {
                let init = self.run(&two[0])?;
                self.within(name, init, &two[1])
            }
            Kind::OptionalMap(two, name, flat) => match self.run(&two[0])? {
                Val::Optional(Some(inner)) => {
                    let body = self.within(name, (*inner).clone(), &two[1])?;
                    Ok(if *flat { body } else { Val::Optional(Some(Rc::new(body))) })
                }
                Val::Optional(None) => Ok(Val::Optional(None)),
                _ => fail("no such overload"),
            },
        }
    }

    fn within(&self, name: &'a str, value: Val<'a>, body: &'a Expr) -> Evaluated<'a> {
        self.scopes.borrow_mut().push((name, value));
        let out = self.run(body);
        self.scopes.borrow_mut().pop();
        out
    }

    /// An element of a literal; none when it is an empty optional.
    fn entry(&self, expr: &'a Expr, optional: bool) -> Result<Option<Val<'a>>, EvalError> {
        match (self.run(expr)?, optional) {
            (Val::Optional(inner), true) => Ok(inner.map(|v| (*v).clone())),
            (_, true) => fail("no such overload"),
            (value, false) => Ok(Some(value)),
        }
    }

    fn ident(&self, name: &str) -> Evaluated<'a> {
        self.charge(1)?;
        if let Some((_, value)) = self.scopes.borrow().iter().rev().find(|(n, _)| *n == name) {
            return Ok(value.clone());
        }
        match self.activation.get(name) {
            Some(value) => Ok(value),
            None if is_type_name(name) => Ok(Val::Type(name.into())),
            None => fail(format!("no such attribute(s): {name}")),
        }
    }

    fn composed(&self, field: &str) -> Option<Evaluated<'a>> {
        let at = self.activation.composed.iter().position(|(n, _)| n == field)?;
        if let Some(Some(known)) = self.activation.cache.borrow().get(at) {
            return Some(known.clone());
        }
        let program: &'a Program = &self.activation.composed[at].1;
        let result = Evaluator::new(self.activation, self.budget).run(&program.expr);
        if let Some(slot) = self.activation.cache.borrow_mut().get_mut(at) {
            *slot = Some(result.clone());
        }
        Some(result)
    }

    fn select(&self, expr: &'a Expr, operand: &'a Expr, field: &str, test: bool, optional: bool) -> Evaluated<'a> {
        self.charge(1)?;
        if let Kind::Ident(name) = &operand.kind {
            if name == "variables" && !self.activation.composed.is_empty() && !self.shadowed(name) {
                let Some(value) = self.composed(field) else { return fail(format!("no such key: {field}")) };
                let value = value.map_err(|e| match e {
                    EvalError::Failed(why) => {
                        EvalError::Failed(format!("composited variable {field:?} fails to evaluate: {why}"))
                    }
                    cost => cost,
                })?;
                return Ok(if test {
                    Val::Bool(true)
                } else if optional {
                    Val::Optional(Some(Rc::new(value)))
                } else {
                    value
                });
            }
            if name == "authorizer" && field == "requestResource" {
                return self.ident("authorizer.requestResource");
            }
            if (name == "google" || name == "net" || name == "kubernetes")
                && let Some(whole) = dotted(expr).filter(|n| is_type_name(n))
            {
                return Ok(Val::Type(whole.into()));
            }
        }
        if let Some(whole) = dotted(expr).filter(|n| n.starts_with("google.protobuf.") && is_type_name(n)) {
            return Ok(Val::Type(whole.into()));
        }
        let of = self.run(operand)?;
        let (of, lifted) = match of {
            Val::Optional(None) if test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            of => (of, false),
        };
        let found = match &of {
            Val::Map(map) => map.field(field),
            Val::Message(_, fields) => fields.get(field).cloned(),
            _ if test => return fail("no such overload"),
            _ => return fail(format!("no such key: {field}")),
        };
        if test {
            return Ok(Val::Bool(found.is_some()));
        }
        if optional || lifted {
            return Ok(Val::Optional(found.map(Rc::new)));
        }
        found.ok_or_else(|| EvalError::failed(format!("no such key: {field}")))
    }

    fn shadowed(&self, name: &str) -> bool {
        self.scopes.borrow().iter().any(|(n, _)| *n == name)
    }

    fn index(&self, operand: &'a Expr, index: &'a Expr, optional: bool) -> Evaluated<'a> {
        let (of, by) = (self.run(operand)?, self.run(index)?);
        self.charge(1)?;
        let (of, lifted) = match of {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            of => (of, false),
        };
        let found = match &of {
            Val::List(list) => {
                let Some(Key::Number(n)) = Key::of(&by) else {
                    return fail(format!("unsupported index type '{}' in list", by.type_name()));
                };
                match usize::try_from(n).ok().and_then(|n| list.get(n)) {
                    Some(value) => Ok(value),
                    None => fail(format!("index out of bounds: {n}")),
                }
            }
            Val::Map(map) => {
                let Some(key) = Key::of(&by) else { return fail("no such overload") };
                map.get(&key).ok_or_else(|| EvalError::failed(format!("no such key: {}", key.show())))
            }
            _ => return fail("no such overload"),
        };
        if optional || lifted {
            return Ok(Val::Optional(found.ok().map(Rc::new)));
        }
        found
    }

    /// `decides` ends it; an error counts only when nothing else decides.
    fn logic(&self, all: &'a [Expr], decides: bool) -> Evaluated<'a> {
        let mut failed = None;
        for one in all {
            match self.run(one) {
                Ok(Val::Bool(b)) if b == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(EvalError::failed("no such overload"))),
                Err(error) if error.is_cost() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Val::Bool(!decides)),
        }
    }

    fn repeat(&self, one: &'a Loop) -> Evaluated<'a> {
        let range = self.run(&one.range)?;
        let pairs: Vec<(Val<'a>, Val<'a>)> = match &range {
            Val::List(list) => list.iter().enumerate().map(|(i, v)| (Val::Int(i as i64), v)).collect(),
            Val::Map(map) => map.entries(),
            _ => return fail("no such overload"),
        };
        let is_list = matches!(range, Val::List(_));
        let mut run = Run { failed: None, count: 0, made: vec![], entries: BTreeMap::new(), keyed: vec![] };
        for (key, value) in pairs {
            self.charge(3)?;
            let first = if one.second.is_some() || !is_list { key.clone() } else { value.clone() };
            let depth = self.scopes.borrow().len();
            self.scopes.borrow_mut().push((&one.first, first.clone()));
            if let Some(second) = &one.second {
                self.scopes.borrow_mut().push((second, value));
            }
            let step = self.step(one, &mut run, key, first);
            self.scopes.borrow_mut().truncate(depth);
            if let Some(done) = step? {
                return Ok(done);
            }
        }
        if let Some(error) = run.failed {
            return Err(error);
        }
        Ok(match one.kind {
            LoopKind::All => Val::Bool(true),
            LoopKind::Exists => Val::Bool(false),
            LoopKind::ExistsOne => Val::Bool(run.count == 1),
            LoopKind::Filter | LoopKind::Map => Val::list(run.made),
            LoopKind::TransformMap | LoopKind::TransformMapEntry => Val::dict(run.entries),
            LoopKind::SortBy => {
                ops::sort_by(&mut run.keyed, |(key, _)| key)?;
                Val::list(run.keyed.into_iter().map(|(_, v)| v).collect())
            }
        })
    }

    /// One turn of a loop; a value when the loop is decided.
    fn step(
        &self,
        one: &'a Loop,
        run: &mut Run<'a>,
        key: Val<'a>,
        element: Val<'a>,
    ) -> Result<Option<Val<'a>>, EvalError> {
        let passes = match &one.filter {
            None => Ok(true),
            Some(filter) => match self.run(filter) {
                Ok(Val::Bool(b)) => Ok(b),
                Ok(_) => fail("no such overload"),
                Err(error) => Err(error),
            },
        };
        match (one.kind, passes) {
            (_, Err(error)) if error.is_cost() => return Err(error),
            (LoopKind::All | LoopKind::Exists, Err(error)) => {
                run.failed.get_or_insert(error);
                return Ok(None);
            }
            (_, Err(error)) => return Err(error),
            (LoopKind::All, Ok(false)) => return Ok(Some(Val::Bool(false))),
            (LoopKind::Exists, Ok(true)) => return Ok(Some(Val::Bool(true))),
            (LoopKind::ExistsOne, Ok(true)) => run.count += 1,
            (LoopKind::Filter, Ok(true)) => run.made.push(element),
            (_, Ok(false)) | (LoopKind::All, _) => {}
            (kind, Ok(true)) => {
                let Some(body) = &one.body else { return Ok(None) };
                let value = self.run(body)?;
                match kind {
                    LoopKind::TransformMap => {
                        let Some(key) = Key::of(&key) else { return fail("unsupported key type") };
                        run.entries.insert(key, value);
                    }
                    LoopKind::TransformMapEntry => {
                        let Val::Map(map) = value else { return fail("no such overload") };
                        for (key, value) in map.entries() {
                            let Some(key) = Key::of(&key) else { return fail("unsupported key type") };
                            if run.entries.insert(key.clone(), value).is_some() {
                                return fail(format!("insert failed: key {} already exists", key.show()));
                            }
                        }
                    }
                    LoopKind::SortBy => run.keyed.push((value, element)),
                    _ => run.made.push(value),
                }
            }
        }
        Ok(None)
    }
}

struct Run<'a> {
    failed: Option<EvalError>,
    count: usize,
    made: Vec<Val<'a>>,
    entries: BTreeMap<Key, Val<'a>>,
    keyed: Vec<(Val<'a>, Val<'a>)>,
}

/// A field of `Object.x` that is itself a message must be of the type that its place names.
fn check_member(name: &str, field: &str, value: &Val<'_>) -> Result<(), EvalError> {
    if name == "JSONPatch" {
        return Ok(());
    }
    let wanted = format!("{name}.{field}");
    let fits = |v: &Val<'_>| !matches!(v, Val::Message(n, _) if **n != *wanted);
    let wrong = match value {
        Val::List(List::Made(all, _)) => all.iter().find(|v| !fits(v)),
        v if !fits(v) => Some(v),
        _ => None,
    };
    match wrong {
        Some(Val::Message(found, _)) => fail(format!(
            "unexpected type name {found:?}, expected {wanted:?}, which matches field name path from root Object type"
        )),
        _ => Ok(()),
    }
}

fn constant<'a>(literal: &'a Literal) -> Val<'a> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(b) => Val::Bool(*b),
        Literal::Int(i) => Val::Int(*i),
        Literal::Uint(u) => Val::Uint(*u),
        Literal::Double(d) => Val::Double(*d),
        Literal::String(text) => Val::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
    }
}

/// A dictionary without entries, for tests of emptiness.
pub(crate) fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null => true,
        Val::Bool(b) => !b,
        Val::Int(i) => *i == 0,
        Val::Uint(u) => *u == 0,
        Val::Double(d) => *d == 0.0,
        Val::String(text) => text.as_str().is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::Duration(nanos) => *nanos == 0,
        Val::List(list) => list.is_empty(),
        Val::Map(Dict::Made(map)) => map.is_empty(),
        Val::Map(map) => map.is_empty(),
        Val::Optional(inner) => inner.is_none(),
        Val::Message(_, fields) => fields.is_empty(),
        Val::Timestamp(_) | Val::Type(_) | Val::Library(_) => false,
    }
}
