//! The type checker: every name must be known, every call must fit an overload. What is `dyn` fits everywhere.

use crate::ast::{Expr, Kind, Literal, Loop, LoopKind, Operator};
use crate::lex::Problem;
use crate::program::Environment;
use crate::signatures::{self, Signature};
use crate::types::{ShapeKind, Ty};
use std::sync::Arc;

pub(crate) fn check(environment: &Environment, expr: &Expr) -> Result<Ty, Vec<Problem>> {
    let mut checker = Checker { environment, scopes: vec![], problems: vec![] };
    let ty = checker.ty(expr);
    if checker.problems.is_empty() { Ok(ty) } else { Err(checker.problems) }
}

struct Checker<'e> {
    environment: &'e Environment,
    scopes: Vec<(String, Ty)>,
    problems: Vec<Problem>,
}

const TYPE_NAMES: [&str; 14] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "optional_type",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
];

/// Whether this dotted name is a type.
pub(crate) fn is_type_name(name: &str) -> bool {
    TYPE_NAMES.contains(&name) || matches!(name, "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.URL")
}

/// `google.protobuf.Timestamp` and its like are written as selections.
pub(crate) fn dotted(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, test: false, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

impl Checker<'_> {
    fn fail(&mut self, at: u32, text: impl Into<String>) -> Ty {
        if self.problems.len() < 100 {
            self.problems.push(Problem { at, text: text.into() });
        }
        Ty::Dyn
    }

    fn ty(&mut self, expr: &Expr) -> Ty {
        match &expr.kind {
            Kind::Literal(literal) => match literal {
                Literal::Null => Ty::Null,
                Literal::Bool(_) => Ty::Bool,
                Literal::Int(_) => Ty::Int,
                Literal::Uint(_) => Ty::Uint,
                Literal::Double(_) => Ty::Double,
                Literal::String(_) => Ty::String,
                Literal::Bytes(_) => Ty::Bytes,
            },
            Kind::Ident(name) => self.ident(expr.at, name),
            Kind::Select { operand, field, test, optional } => self.select(expr, operand, field, *test, *optional),
            Kind::Index { operand, index, optional } => self.index(expr.at, operand, index, *optional),
            Kind::Call { target, function, arguments } => self.call(expr.at, target.as_deref(), function, arguments),
            Kind::And(all) => self.logic(expr.at, all, "_&&_"),
            Kind::Or(all) => self.logic(expr.at, all, "_||_"),
            Kind::Not(a) => {
                let ty = self.ty(a);
                self.must(expr.at, "!_", &[&ty], matches!(ty, Ty::Bool | Ty::Dyn), Ty::Bool)
            }
            Kind::Negate(a) => {
                let ty = self.ty(a);
                self.must(expr.at, "-_", &[&ty], matches!(ty, Ty::Int | Ty::Double | Ty::Dyn), ty.clone())
            }
            Kind::Conditional(three) => {
                let (condition, yes, no) = (self.ty(&three[0]), self.ty(&three[1]), self.ty(&three[2]));
                let joined = join(&yes, &no);
                let fits = matches!(condition, Ty::Bool | Ty::Dyn) && joined.is_some();
                self.must(expr.at, "_?_:_", &[&condition, &yes, &no], fits, joined.unwrap_or(Ty::Dyn))
            }
            Kind::Binary(operator, two) => {
                let (a, b) = (self.ty(&two[0]), self.ty(&two[1]));
                let result = binary(*operator, &a, &b);
                self.must(expr.at, operator.name(), &[&a, &b], result.is_some(), result.unwrap_or(Ty::Dyn))
            }
            Kind::List(all) => {
                let types: Vec<Ty> = all.iter().map(|(e, optional)| self.element(e, *optional)).collect();
                Ty::List(Arc::new(common(&types)))
            }
            Kind::Map(all) => {
                let keys: Vec<Ty> = all.iter().map(|(k, _, _)| self.ty(k)).collect();
                let values: Vec<Ty> = all.iter().map(|(_, v, optional)| self.element(v, *optional)).collect();
                Ty::Map(Arc::new(common(&keys)), Arc::new(common(&values)))
            }
            Kind::Message(name, fields) => self.message(expr.at, name, fields),
            Kind::Loop(one) => self.run(expr.at, one),
            Kind::Bind(name, two) => {
                let init = self.ty(&two[0]);
                self.scopes.push((name.clone(), init));
                let body = self.ty(&two[1]);
                self.scopes.pop();
                body
            }
            Kind::OptionalMap(two, name, flat) => {
                let inner = match self.ty(&two[0]) {
                    Ty::Optional(inner) => (*inner).clone(),
                    Ty::Dyn => Ty::Dyn,
                    other => {
                        let shown = if *flat { "optFlatMap" } else { "optMap" };
                        return self.no_overload(expr.at, shown, Some(&other), &[]);
                    }
                };
                self.scopes.push((name.clone(), inner));
                let body = self.ty(&two[1]);
                self.scopes.pop();
                match (flat, body) {
                    (true, body @ (Ty::Optional(_) | Ty::Dyn)) => body,
                    (true, other) => self.no_overload(expr.at, "optFlatMap", Some(&other), &[]),
                    (false, body) => Ty::Optional(Arc::new(body)),
                }
            }
        }
    }

    fn element(&mut self, expr: &Expr, optional: bool) -> Ty {
        match (self.ty(expr), optional) {
            (Ty::Optional(inner), true) => (*inner).clone(),
            (Ty::Dyn, true) => Ty::Dyn,
            (ty, false) => ty,
            (ty, true) => self.fail(expr.at, format!("expected type 'optional_type' but found '{ty}'")),
        }
    }

    fn ident(&mut self, at: u32, name: &str) -> Ty {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return ty.clone();
        }
        if let Some(ty) = self.environment.variables.get(name) {
            return ty.clone();
        }
        if is_type_name(name) {
            return Ty::Type;
        }
        self.fail(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool, optional: bool) -> Ty {
        if dotted(expr).is_some_and(|name| is_type_name(&name)) {
            return Ty::Type;
        }
        let composed = matches!(&operand.kind, Kind::Ident(n) if n == "variables");
        let found = if composed && let Some(members) = &self.environment.composed {
            match members.get(field) {
                Some(ty) => ty.clone(),
                None => return self.fail(expr.at, format!("undefined field '{field}'")),
            }
        } else {
            let of = self.ty(operand);
            let (of, lifted) = match &of {
                Ty::Optional(inner) => ((**inner).clone(), true),
                _ => (of, false),
            };
            let ty = match &of {
                Ty::Dyn => Ty::Dyn,
                Ty::Map(_, value) => (**value).clone(),
                Ty::Object(shape) => match &shape.kind {
                    ShapeKind::Object(fields) => match fields.fields.get(field) {
                        Some(found) => found.shape.ty(),
                        None => return self.fail(expr.at, format!("undefined field '{field}'")),
                    },
                    _ => Ty::Dyn,
                },
                Ty::Opaque(name) if *name == signatures::AUTHORIZER && field == "requestResource" => {
                    Ty::Opaque(signatures::RESOURCE_CHECK)
                }
                Ty::Message(_) => Ty::Dyn,
                other => {
                    return self.fail(expr.at, format!("type '{other}' does not support field selection"));
                }
            };
            if lifted && !test { Ty::Optional(Arc::new(ty)) } else { ty }
        };
        if test {
            return Ty::Bool;
        }
        match (optional, found) {
            (true, ty @ Ty::Optional(_)) => ty,
            (true, ty) => Ty::Optional(Arc::new(ty)),
            (false, ty) => ty,
        }
    }

    fn index(&mut self, at: u32, operand: &Expr, index: &Expr, optional: bool) -> Ty {
        let (of, by) = (self.ty(operand), self.ty(index));
        let (of, lifted) = match of {
            Ty::Optional(inner) => ((*inner).clone(), true),
            of => (of, false),
        };
        let result = match &of {
            Ty::List(element) if matches!(by, Ty::Int | Ty::Uint | Ty::Double | Ty::Dyn) => Some((**element).clone()),
            Ty::Map(key, value) if joins(key, &by) => Some((**value).clone()),
            Ty::Dyn => Some(Ty::Dyn),
            _ => None,
        };
        let result = self.must(at, "_[_]", &[&of, &by], result.is_some(), result.unwrap_or(Ty::Dyn));
        if optional || lifted { Ty::Optional(Arc::new(result)) } else { result }
    }

    fn logic(&mut self, at: u32, all: &[Expr], name: &str) -> Ty {
        for one in all {
            let ty = self.ty(one);
            if !matches!(ty, Ty::Bool | Ty::Dyn) {
                let place = if all.len() > 1 { one.at } else { at };
                self.fail(place, format!("expected type 'bool' but found '{ty}'"));
                let _ = name;
            }
        }
        Ty::Bool
    }

    fn must(&mut self, at: u32, name: &str, operands: &[&Ty], fits: bool, result: Ty) -> Ty {
        if fits {
            return result;
        }
        let list: Vec<String> = operands.iter().map(|t| t.to_string()).collect();
        self.fail(at, format!("found no matching overload for '{name}' applied to '({})'", list.join(", ")))
    }

    fn no_overload(&mut self, at: u32, name: &str, target: Option<&Ty>, arguments: &[Ty]) -> Ty {
        let list: Vec<String> = arguments.iter().map(|t| t.to_string()).collect();
        let list = list.join(", ");
        let shown = match target {
            Some(target) => format!("{target}.({list})"),
            None => format!("({list})"),
        };
        self.fail(at, format!("found no matching overload for '{name}' applied to '{shown}'"))
    }

    fn call(&mut self, at: u32, target: Option<&Expr>, function: &str, arguments: &[Expr]) -> Ty {
        let receiver = target.map(|t| self.ty(t));
        let types: Vec<Ty> = arguments.iter().map(|a| self.ty(a)).collect();
        if matches!(function, "math.greatest" | "math.least") {
            return greatest(&types);
        }
        if matches!(function, "matches" | "find" | "findAll")
            && let Some(Expr { kind: Kind::Literal(Literal::String(pattern)), at, .. }) =
                arguments.get(usize::from(target.is_none()))
            && let Some(why) = crate::library::pattern_complaint(pattern)
        {
            return self.fail(*at, why);
        }
        let all = signatures::overloads(function);
        if all.is_empty() {
            return self.fail(at, format!("undeclared reference to '{function}' (in container '')"));
        }
        let mut given: Vec<Ty> = receiver.iter().cloned().collect();
        given.extend(types.iter().cloned());
        let results: Vec<Ty> =
            all.iter().filter(|s| s.member == receiver.is_some()).filter_map(|s| apply(s, &given)).collect();
        match results.as_slice() {
            [] => self.no_overload(at, function, receiver.as_ref(), &types),
            [only] => only.clone(),
            // Several fit, as something is dyn: their common type.
            several => common(several),
        }
    }

    fn message(&mut self, at: u32, name: &str, fields: &[(String, Expr, bool)]) -> Ty {
        let known =
            self.environment.messages && (name == "Object" || name.starts_with("Object.") || name == "JSONPatch");
        if !known {
            return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
        }
        for (field, value, optional) in fields {
            self.element(value, *optional);
            if name == "JSONPatch" && !["op", "path", "from", "value"].contains(&field.as_str()) {
                self.fail(value.at, format!("undefined field '{field}'"));
            }
        }
        Ty::Message(name.to_owned())
    }

    fn run(&mut self, at: u32, one: &Loop) -> Ty {
        let range = self.ty(&one.range);
        let (key, value) = match &range {
            Ty::List(element) => (Ty::Int, (**element).clone()),
            Ty::Map(key, value) => ((**key).clone(), (**value).clone()),
            Ty::Dyn => (Ty::Dyn, Ty::Dyn),
            Ty::Object(_) => (Ty::String, Ty::Dyn),
            other => {
                return self.fail(
                    one.range.at,
                    format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"),
                );
            }
        };
        let list = matches!(range, Ty::List(_));
        let depth = self.scopes.len();
        match &one.second {
            Some(second) => {
                self.scopes.push((one.first.clone(), key.clone()));
                self.scopes.push((second.clone(), value.clone()));
            }
            None => self.scopes.push((one.first.clone(), if list { value.clone() } else { key.clone() })),
        }
        if let Some(filter) = &one.filter {
            let ty = self.ty(filter);
            if !matches!(ty, Ty::Bool | Ty::Dyn) {
                self.fail(filter.at, format!("expected type 'bool' but found '{ty}'"));
            }
        }
        let body = one.body.as_ref().map(|b| self.ty(b));
        self.scopes.truncate(depth);
        let element = if list { value } else { key.clone() };
        let body = body.unwrap_or(Ty::Dyn);
        match one.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => Ty::Bool,
            LoopKind::Filter if matches!(range, Ty::Dyn) => Ty::List(Arc::new(Ty::Dyn)),
            LoopKind::Filter => Ty::List(Arc::new(element)),
            LoopKind::Map => Ty::List(Arc::new(body)),
            LoopKind::SortBy if list || matches!(range, Ty::Dyn) => Ty::List(Arc::new(element)),
            LoopKind::SortBy => self.no_overload(at, "sortBy", Some(&range), &[]),
            LoopKind::TransformMap => Ty::Map(Arc::new(key), Arc::new(body)),
            LoopKind::TransformMapEntry => match body {
                Ty::Map(_, _) | Ty::Dyn => body,
                other => self.no_overload(at, "transformMapEntry", Some(&other), &[]),
            },
        }
    }
}

fn greatest(types: &[Ty]) -> Ty {
    match types {
        [Ty::List(of)] => (**of).clone(),
        _ => common(types),
    }
}

fn number(ty: &Ty) -> bool {
    matches!(ty, Ty::Int | Ty::Uint | Ty::Double)
}

fn binary(operator: Operator, a: &Ty, b: &Ty) -> Option<Ty> {
    use Operator::{
        Add, Divide, Equal, Greater, GreaterEqual, In, Less, LessEqual, Modulo, Multiply, NotEqual, Subtract,
    };
    let dynamic = matches!(a, Ty::Dyn) || matches!(b, Ty::Dyn);
    match operator {
        Equal | NotEqual => (joins(a, b) || (number(a) && number(b))).then_some(Ty::Bool),
        Less | LessEqual | Greater | GreaterEqual => {
            let ordered = |t: &Ty| {
                number(t) || matches!(t, Ty::Bool | Ty::String | Ty::Bytes | Ty::Timestamp | Ty::Duration | Ty::Dyn)
            };
            (ordered(a) && ordered(b) && (dynamic || a == b || (number(a) && number(b)))).then_some(Ty::Bool)
        }
        In => match b {
            Ty::List(of) => joins(of, a).then_some(Ty::Bool),
            Ty::Map(key, _) => joins(key, a).then_some(Ty::Bool),
            Ty::Dyn => Some(Ty::Bool),
            _ => None,
        },
        Add => match (a, b) {
            (Ty::Timestamp, Ty::Duration) | (Ty::Duration, Ty::Timestamp) => Some(Ty::Timestamp),
            (Ty::List(x), Ty::List(y)) => Some(Ty::List(Arc::new(join(x, y)?))),
            _ if dynamic => Some(if matches!(a, Ty::Dyn) { b.clone() } else { a.clone() }).map(|t| match t {
                Ty::Duration | Ty::Timestamp | Ty::List(_) => Ty::Dyn,
                t => t,
            }),
            _ => (a == b && (number(a) || matches!(a, Ty::String | Ty::Bytes | Ty::Duration))).then(|| a.clone()),
        },
        Subtract => match (a, b) {
            (Ty::Timestamp, Ty::Timestamp) => Some(Ty::Duration),
            (Ty::Timestamp, Ty::Duration) => Some(Ty::Timestamp),
            _ if dynamic => Some(Ty::Dyn),
            _ => (a == b && (number(a) || matches!(a, Ty::Duration))).then(|| a.clone()),
        },
        Multiply | Divide => {
            if dynamic {
                Some(Ty::Dyn)
            } else {
                (a == b && number(a)).then(|| a.clone())
            }
        }
        Modulo => {
            if dynamic {
                Some(Ty::Dyn)
            } else {
                (a == b && matches!(a, Ty::Int | Ty::Uint)).then(|| a.clone())
            }
        }
    }
}

/// Whether values of the two types may be the same value.
fn joins(a: &Ty, b: &Ty) -> bool {
    join(a, b).is_some()
}

/// The type that both have, or none.
fn join(a: &Ty, b: &Ty) -> Option<Ty> {
    match (a, b) {
        (Ty::Dyn, _) | (_, Ty::Dyn) => Some(Ty::Dyn),
        (Ty::Null, Ty::Null) => Some(Ty::Null),
        (Ty::Null, other) | (other, Ty::Null) => matches!(
            other,
            Ty::Object(_) | Ty::Opaque(_) | Ty::Message(_) | Ty::Timestamp | Ty::Duration | Ty::Optional(_)
        )
        .then(|| other.clone()),
        (Ty::List(x), Ty::List(y)) => Some(Ty::List(Arc::new(join(x, y)?))),
        (Ty::Optional(x), Ty::Optional(y)) => Some(Ty::Optional(Arc::new(join(x, y)?))),
        (Ty::Map(k, v), Ty::Map(l, w)) => Some(Ty::Map(Arc::new(join(k, l)?), Arc::new(join(v, w)?))),
        (Ty::Object(_), Ty::Map(_, _)) | (Ty::Map(_, _), Ty::Object(_)) => Some(Ty::Dyn),
        (Ty::Message(_), Ty::Message(_)) if a != b => Some(Ty::Dyn),
        _ => (a == b).then(|| a.clone()),
    }
}

/// The type of all of them: mixed collections are of dyn.
fn common(types: &[Ty]) -> Ty {
    let mut types = types.iter();
    let Some(first) = types.next() else { return Ty::Dyn };
    types.try_fold(first.clone(), |all, one| join(&all, one)).unwrap_or(Ty::Dyn)
}

/// The result of a signature applied to these types, if it fits.
fn apply(signature: &Signature, given: &[Ty]) -> Option<Ty> {
    if signature.arguments.len() != given.len() {
        return None;
    }
    let mut bound: [Option<Ty>; 2] = [None, None];
    for (wanted, found) in signature.arguments.iter().zip(given) {
        if !unify(wanted, found, &mut bound) {
            return None;
        }
    }
    Some(substitute(&signature.result, &bound))
}

fn unify(wanted: &Ty, found: &Ty, bound: &mut [Option<Ty>; 2]) -> bool {
    match (wanted, found) {
        (Ty::Parameter(n), found) => {
            let slot = &mut bound[usize::from(*n % 2)];
            match slot {
                None => *slot = Some(found.clone()),
                Some(present) => match join(present, found) {
                    Some(joined) => *slot = Some(joined),
                    None => return false,
                },
            }
            true
        }
        (_, Ty::Dyn) | (Ty::Dyn, _) => true,
        (Ty::List(a), Ty::List(b)) | (Ty::Optional(a), Ty::Optional(b)) => unify(a, b, bound),
        (Ty::Map(k, v), Ty::Map(l, w)) => unify(k, l, bound) && unify(v, w, bound),
        (a, b) => a == b,
    }
}

fn substitute(ty: &Ty, bound: &[Option<Ty>; 2]) -> Ty {
    match ty {
        Ty::Parameter(n) => bound[usize::from(*n % 2)].clone().unwrap_or(Ty::Dyn),
        Ty::List(of) => Ty::List(Arc::new(substitute(of, bound))),
        Ty::Optional(of) => Ty::Optional(Arc::new(substitute(of, bound))),
        Ty::Map(k, v) => Ty::Map(Arc::new(substitute(k, bound)), Arc::new(substitute(v, bound))),
        other => other.clone(),
    }
}
