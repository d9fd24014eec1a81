//! The most that an expression can cost, estimated from the sizes that a schema allows.
//!
//! Where a schema states no limit, the most that fits into a request body is assumed: that is what makes authors state
//! limits. The figures are those of evaluation, taken at their worst.

use crate::ast::{Expr, Kind, Literal, LoopKind, Operator};
use crate::program::Program;
use crate::types::{ANY, Shape, ShapeKind};
use std::sync::Arc;

/// Bytes of the largest request body.
const MAX_REQUEST: u64 = 3 << 20;

/// What is known of a value's size.
#[derive(Clone, Debug)]
struct Size {
    /// Most characters, elements or entries.
    most: u64,
    /// Shape of the value, for its parts.
    shape: Arc<Shape>,
}

/// Estimates over the variables of a rule.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    variables: Vec<(String, Size)>,
}

/// Fewest bytes that a value of a shape takes in JSON.
fn least_bytes(shape: &Shape) -> u64 {
    match &shape.kind {
        ShapeKind::Any | ShapeKind::Int | ShapeKind::Double | ShapeKind::IntOrString => 1,
        ShapeKind::Bool => 4,
        ShapeKind::String | ShapeKind::Bytes | ShapeKind::List(_) | ShapeKind::Map(_) => 2,
        ShapeKind::Timestamp => 12,
        ShapeKind::Duration => 3,
        ShapeKind::Object(fields) => {
            let required = fields.fields.values().filter(|f| f.required);
            2 + required.map(|f| f.name.len() as u64 + 4 + least_bytes(&f.shape)).sum::<u64>()
        }
    }
}

/// Most characters, elements or entries of a value of a shape.
pub(crate) fn most(shape: &Shape) -> u64 {
    if let Some(max) = shape.max {
        return max;
    }
    match &shape.kind {
        ShapeKind::String | ShapeKind::Any | ShapeKind::IntOrString => MAX_REQUEST - 2,
        ShapeKind::Bytes => (MAX_REQUEST - 2) / 4 * 3,
        ShapeKind::Timestamp | ShapeKind::Duration => 32,
        ShapeKind::List(of) => (MAX_REQUEST - 2) / (least_bytes(of) + 1),
        // A key of no characters, quotes, colon and comma.
        ShapeKind::Map(of) => (MAX_REQUEST - 2) / (least_bytes(of) + 4),
        ShapeKind::Object(fields) => fields.fields.len() as u64,
        ShapeKind::Bool | ShapeKind::Int | ShapeKind::Double => 1,
    }
}

/// How often a rule below a list or map of this shape may run: its most elements.
pub fn cardinality(shape: &Shape) -> u64 {
    most(shape).max(1)
}

impl Estimate {
    /// Estimates where `self`, `oldSelf` and their like have these shapes.
    pub fn new(variables: &[(&str, Arc<Shape>)]) -> Self {
        let sized = |shape: &Arc<Shape>| Size { most: most(shape), shape: shape.clone() };
        Self { variables: variables.iter().map(|(n, s)| ((*n).to_owned(), sized(s))).collect() }
    }

    /// The most that a program can cost.
    pub fn of(&self, program: &Program) -> u64 {
        let mut worker = self.clone();
        worker.expr(&program.expr).0
    }

    /// The most elements of a list or map of a shape.
    pub fn elements(shape: &Shape) -> u64 {
        cardinality(shape)
    }

    /// Cost and size of an expression.
    fn expr(&mut self, expr: &Expr) -> (u64, Size) {
        let any = Arc::new(ANY.clone());
        let scalar = |cost: u64| (cost, Size { most: 1, shape: Arc::new(Shape::of(ShapeKind::Bool)) });
        match &expr.kind {
            Kind::Literal(literal) => {
                let length = match literal {
                    Literal::String(text) => text.len() as u64,
                    Literal::Bytes(bytes) => bytes.len() as u64,
                    _ => 1,
                };
                (0, Size { most: length, shape: Arc::new(Shape::of(ShapeKind::String)) })
            }
            Kind::Ident(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name).map(|(_, s)| s.clone());
                (1, found.unwrap_or(Size { most: MAX_REQUEST, shape: any }))
            }
            Kind::Select { operand, field, test, .. } => {
                let (cost, of) = self.expr(operand);
                if *test {
                    return scalar(cost + 1);
                }
                let shape = match &of.shape.kind {
                    ShapeKind::Object(fields) => fields.fields.get(field).map(|f| f.shape.clone()),
                    ShapeKind::Map(of) => Some(of.clone()),
                    _ => None,
                }
                .unwrap_or(any);
                (cost + 1, Size { most: most(&shape), shape })
            }
            Kind::Index { operand, index, .. } => {
                let (a, of) = self.expr(operand);
                let (b, _) = self.expr(index);
                let shape = element(&of.shape);
                (a + b + 1, Size { most: most(&shape), shape })
            }
            Kind::And(all) | Kind::Or(all) => scalar(all.iter().map(|e| self.expr(e).0).fold(0, u64::saturating_add)),
            Kind::Not(a) | Kind::Negate(a) => scalar(self.expr(a).0 + 1),
            Kind::Conditional(three) => {
                let condition = self.expr(&three[0]).0;
                let (yes, no) = (self.expr(&three[1]), self.expr(&three[2]));
                let cost = condition.saturating_add(yes.0.max(no.0));
                (cost, if yes.1.most >= no.1.most { yes.1 } else { no.1 })
            }
            Kind::Binary(operator, two) => {
                let (a, left) = self.expr(&two[0]);
                let (b, right) = self.expr(&two[1]);
                let cost = a.saturating_add(b);
                let tenth = |n: u64| n.div_ceil(10).max(1);
                match operator {
                    Operator::In => scalar(cost.saturating_add(right.most.max(1))),
                    Operator::Add => {
                        let size = left.most.saturating_add(right.most);
                        (cost.saturating_add(tenth(size)), Size { most: size, shape: left.shape })
                    }
                    _ => scalar(cost.saturating_add(tenth(left.most.min(right.most)))),
                }
            }
            Kind::List(all) => {
                let cost = all.iter().map(|(e, _)| self.expr(e).0).fold(10, u64::saturating_add);
                (cost, Size { most: all.len() as u64, shape: Arc::new(Shape::of(ShapeKind::List(any))) })
            }
            Kind::Map(all) => {
                let cost = all.iter().map(|(k, v, _)| self.expr(k).0.saturating_add(self.expr(v).0));
                let cost = cost.fold(30, u64::saturating_add);
                (cost, Size { most: all.len() as u64, shape: Arc::new(Shape::of(ShapeKind::Map(any))) })
            }
            Kind::Message(_, fields) => {
                scalar(fields.iter().map(|(_, v, _)| self.expr(v).0).fold(40, u64::saturating_add))
            }
            Kind::Bind(name, two) | Kind::OptionalMap(two, name, _) => {
                let (init, size) = self.expr(&two[0]);
                self.variables.push((name.clone(), size));
                let (body, size) = self.expr(&two[1]);
                self.variables.pop();
                (init.saturating_add(body), size)
            }
            Kind::Loop(one) => {
                let (range, size) = self.expr(&one.range);
                let depth = self.variables.len();
                let shape = element(&size.shape);
                let value = Size { most: most(&shape), shape: shape.clone() };
                // Upstream counts the length of keys as nothing; to be stricter would refuse what it accepts.
                let key = Size { most: 1, shape: Arc::new(Shape::of(ShapeKind::String)) };
                let list = !matches!(size.shape.kind, ShapeKind::Map(_) | ShapeKind::Object(_));
                let first = if list && one.second.is_none() { value.clone() } else { key };
                self.variables.push((one.first.clone(), first));
                if let Some(second) = &one.second {
                    self.variables.push((second.clone(), value));
                }
                let turn = one.filter.iter().chain(&one.body).map(|e| self.expr(e).0);
                let turn = turn.fold(3, u64::saturating_add);
                self.variables.truncate(depth);
                let cost = range.saturating_add(size.most.saturating_mul(turn));
                let result = match one.kind {
                    LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => return scalar(cost),
                    LoopKind::Filter | LoopKind::SortBy => size,
                    _ => Size { most: size.most, shape: Arc::new(Shape::of(ShapeKind::List(any))) },
                };
                (cost, result)
            }
            Kind::Call { target, function, arguments } => self.call(target.as_deref(), function, arguments),
        }
    }

    fn call(&mut self, target: Option<&Expr>, function: &str, arguments: &[Expr]) -> (u64, Size) {
        let mut cost = 1_u64;
        let mut sizes = vec![];
        for one in target.iter().copied().chain(arguments) {
            let (own, size) = self.expr(one);
            cost = cost.saturating_add(own);
            sizes.push(size);
        }
        let most = |i: usize| sizes.get(i).map_or(1, |s: &Size| s.most);
        let tenth = |n: u64| n.div_ceil(10);
        let own = match function {
            "contains" => tenth(most(0)).saturating_mul(tenth(most(1)).max(1)),
            "matches" | "find" | "findAll" => tenth(most(0) + 1).saturating_mul(most(1).div_ceil(4).max(1)),
            "startsWith" | "endsWith" => tenth(most(1)),
            "check" => 350_000,
            "sets.contains" | "sets.intersects" => most(0).saturating_mul(most(1)),
            "sets.equivalent" => most(0).saturating_mul(most(1)).saturating_mul(2),
            "distinct" => most(0).saturating_mul(most(0)),
            "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" | "slice" | "sort" | "flatten" => most(0),
            "size" | "type" | "dyn" | "int" | "uint" | "double" | "bool" | "hasValue" | "value" => 0,
            _ => sizes.iter().map(|s| tenth(s.most)).fold(0, u64::saturating_add),
        };
        let size = match function {
            "join" | "format" | "replace" => MAX_REQUEST,
            "size" | "int" | "contains" | "matches" | "startsWith" | "endsWith" => 1,
            _ => most(0),
        };
        let shape = match function {
            "split" | "findAll" => Arc::new(Shape::of(ShapeKind::List(Arc::new(Shape::of(ShapeKind::String))))),
            "slice" | "sort" | "reverse" | "distinct" => sizes.first().map(|s| s.shape.clone()).unwrap_or_default(),
            _ => Arc::new(ANY.clone()),
        };
        (cost.saturating_add(own), Size { most: size, shape })
    }
}

fn element(shape: &Shape) -> Arc<Shape> {
    match &shape.kind {
        ShapeKind::List(of) | ShapeKind::Map(of) => of.clone(),
        _ => Arc::new(ANY.clone()),
    }
}
