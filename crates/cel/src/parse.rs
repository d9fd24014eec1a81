//! Tokens to a syntax tree, macros taken apart on the way.
//!
//! The grammar is that of the CEL specification with optional syntax (`a.?b`, `a[?b]`, `[?a]`, `{?k: v}`). Nesting and
//! size are limited, so that no text makes the parser, the checker or the evaluator recurse without bound.

use crate::ast::{Expr, Kind, Literal, Loop, LoopKind, Operator};
use crate::lex::{Problem, Token, TokenKind, tokens};

/// Deepest nesting of an expression. Upstream allows 250; ours is what a megabyte of stack holds in any build.
pub const MAX_DEPTH: u16 = 150;
/// Deepest nesting of parentheses, brackets and arguments in each other.
const MAX_NESTING: u16 = 80;
/// Most characters of an expression (upstream: 100,000).
pub const MAX_LENGTH: usize = 100_000;

/// Words that cannot be variables.
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
];
const RESERVED_TOO: [&str; 3] = ["var", "void", "while"];

pub(crate) fn parse(source: &str) -> Result<Expr, Problem> {
    if source.chars().count() > MAX_LENGTH {
        return Err(Problem {
            at: 0,
            text: format!(
                "expression code point size exceeds limit: size: {}, limit {MAX_LENGTH}",
                source.chars().count()
            ),
        });
    }
    let mut parser = Parser { tokens: tokens(source)?, at: 0, nesting: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        TokenKind::End => Ok(expr),
        _ => parser.unexpected("end of expression"),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nesting: u16,
}

type Parsed = Result<Expr, Problem>;

fn node(at: u32, kind: Kind) -> Parsed {
    let mut depth = 0;
    {
        let mut below = |e: &Expr| depth = depth.max(e.depth);
        match &kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => below(operand),
            Kind::Index { operand, index, .. } => {
                below(operand);
                below(index);
            }
            Kind::Call { target, arguments, .. } => target.iter().map(|t| &**t).chain(arguments).for_each(below),
            Kind::And(all) | Kind::Or(all) => all.iter().for_each(below),
            Kind::Not(a) | Kind::Negate(a) => below(a),
            Kind::Conditional(three) => three.iter().for_each(below),
            Kind::Binary(_, two) | Kind::Bind(_, two) | Kind::OptionalMap(two, _, _) => two.iter().for_each(below),
            Kind::List(all) => all.iter().for_each(|(a, _)| below(a)),
            Kind::Map(all) => all.iter().for_each(|(k, v, _)| {
                below(k);
                below(v);
            }),
            Kind::Message(_, fields) => fields.iter().for_each(|(_, v, _)| below(v)),
            Kind::Loop(one) => {
                below(&one.range);
                one.filter.iter().chain(one.body.iter()).for_each(below);
            }
        }
    }
    if depth >= MAX_DEPTH {
        return Err(Problem { at, text: format!("expression recursion limit exceeded: {MAX_DEPTH}") });
    }
    Ok(Expr { kind, at, depth: depth + 1 })
}

impl Parser {
    fn peek(&self) -> &TokenKind {
        self.tokens.get(self.at).map_or(&TokenKind::End, |t| &t.kind)
    }

    fn place(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.at)
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), TokenKind::Sign(s) if *s == sign)
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Problem> {
        if self.accept(sign) { Ok(()) } else { self.unexpected(&format!("'{sign}'")) }
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T, Problem> {
        let found = match self.peek() {
            TokenKind::End => "<EOF>".to_owned(),
            TokenKind::Sign(s) => (*s).to_owned(),
            TokenKind::Ident(s) | TokenKind::Quoted(s) => s.clone(),
            TokenKind::Int(i) => i.to_string(),
            TokenKind::IntMin => i64::MIN.unsigned_abs().to_string(),
            TokenKind::Uint(u) => format!("{u}u"),
            TokenKind::Double(d) => d.to_string(),
            TokenKind::String(s) => format!("{s:?}"),
            TokenKind::Bytes(_) => "bytes".to_owned(),
        };
        self.fail(self.place(), format!("Syntax error: mismatched input '{found}' expecting {wanted}"))
    }

    fn fail<T>(&self, at: u32, text: impl Into<String>) -> Result<T, Problem> {
        Err(Problem { at, text: text.into() })
    }

    fn expr(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.fail(self.place(), format!("expression recursion limit exceeded: {MAX_NESTING}"));
        }
        let condition = self.or()?;
        let place = self.place();
        let out = if self.accept("?") {
            let yes = self.or()?;
            self.expect(":")?;
            let no = self.expr()?;
            node(place, Kind::Conditional(Box::new([condition, yes, no])))
        } else {
            Ok(condition)
        };
        self.nesting -= 1;
        out
    }

    fn or(&mut self) -> Parsed {
        let first = self.and()?;
        if !self.is("||") {
            return Ok(first);
        }
        let place = self.place();
        let mut all = vec![first];
        while self.accept("||") {
            all.push(self.and()?);
        }
        node(place, Kind::Or(all))
    }

    fn and(&mut self) -> Parsed {
        let first = self.binary(0)?;
        if !self.is("&&") {
            return Ok(first);
        }
        let place = self.place();
        let mut all = vec![first];
        while self.accept("&&") {
            all.push(self.binary(0)?);
        }
        node(place, Kind::And(all))
    }

    fn operator(&self) -> Option<(Operator, u8)> {
        Some(match self.peek() {
            TokenKind::Ident(word) if word == "in" => (Operator::In, 0),
            TokenKind::Sign(sign) => match *sign {
                "==" => (Operator::Equal, 0),
                "!=" => (Operator::NotEqual, 0),
                "<" => (Operator::Less, 0),
                "<=" => (Operator::LessEqual, 0),
                ">" => (Operator::Greater, 0),
                ">=" => (Operator::GreaterEqual, 0),
                "+" => (Operator::Add, 1),
                "-" => (Operator::Subtract, 1),
                "*" => (Operator::Multiply, 2),
                "/" => (Operator::Divide, 2),
                "%" => (Operator::Modulo, 2),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn binary(&mut self, level: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some((operator, own)) = self.operator().filter(|(_, l)| *l >= level) {
            let place = self.place();
            self.at += 1;
            // What binds tighter to the right comes first.
            let right = if own == 2 { self.unary()? } else { self.binary(own + 1)? };
            left = node(place, Kind::Binary(operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let place = self.place();
        for sign in ["!", "-"] {
            let mut count = 0_usize;
            while self.is(sign) {
                // A minus before a number belongs to it.
                let next = self.tokens.get(self.at + 1).map(|t| &t.kind);
                if sign == "-" && matches!(next, Some(TokenKind::Int(_) | TokenKind::IntMin | TokenKind::Double(_))) {
                    break;
                }
                self.at += 1;
                count += 1;
            }
            if count > 0 {
                let operand = self.member()?;
                if count.is_multiple_of(2) {
                    return Ok(operand);
                }
                let kind = if sign == "!" { Kind::Not(Box::new(operand)) } else { Kind::Negate(Box::new(operand)) };
                return node(place, kind);
            }
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut operand = self.primary()?;
        loop {
            let place = self.place();
            if self.accept(".") {
                let optional = self.accept("?");
                let (name, quoted) = match self.peek() {
                    TokenKind::Ident(name) => (name.clone(), false),
                    TokenKind::Quoted(name) => (name.clone(), true),
                    _ => return self.unexpected("IDENTIFIER"),
                };
                if !quoted && ["in", "true", "false", "null"].contains(&name.as_str()) {
                    return self.unexpected("IDENTIFIER");
                }
                self.at += 1;
                if !quoted && !optional && self.is("(") {
                    let place = self.place();
                    self.at += 1;
                    operand = self.call(place, Some(operand), name)?;
                } else {
                    let operand_ = Box::new(operand);
                    operand = node(place, Kind::Select { operand: operand_, field: name, test: false, optional })?;
                }
            } else if self.accept("[") {
                let optional = self.accept("?");
                let index = Box::new(self.expr()?);
                self.expect("]")?;
                operand = node(place, Kind::Index { operand: Box::new(operand), index, optional })?;
            } else if self.is("{") {
                let Some(name) = dotted(&operand) else { return Ok(operand) };
                let at = place;
                self.at += 1;
                operand = self.message(at, name)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let place = self.place();
        let token = self.peek().clone();
        self.at += 1;
        let literal = |l| node(place, Kind::Literal(l));
        match token {
            TokenKind::Int(i) => literal(Literal::Int(i)),
            TokenKind::Uint(u) => literal(Literal::Uint(u)),
            TokenKind::Double(d) => literal(Literal::Double(d)),
            TokenKind::String(s) => literal(Literal::String(s)),
            TokenKind::Bytes(b) => literal(Literal::Bytes(b)),
            TokenKind::IntMin => self.fail(place, "invalid int literal"),
            TokenKind::Sign("-") => match self.peek().clone() {
                TokenKind::Int(i) => {
                    self.at += 1;
                    literal(Literal::Int(-i))
                }
                TokenKind::IntMin => {
                    self.at += 1;
                    literal(Literal::Int(i64::MIN))
                }
                TokenKind::Double(d) => {
                    self.at += 1;
                    literal(Literal::Double(-d))
                }
                _ => {
                    self.at -= 1;
                    self.unexpected("an expression")
                }
            },
            TokenKind::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Sign("[") => self.list(place),
            TokenKind::Sign("{") => self.map(place),
            TokenKind::Sign(".") if matches!(self.peek(), TokenKind::Ident(_)) => self.primary(),
            TokenKind::Ident(name) => match name.as_str() {
                "true" => literal(Literal::Bool(true)),
                "false" => literal(Literal::Bool(false)),
                "null" => literal(Literal::Null),
                _ => {
                    if RESERVED.contains(&name.as_str()) || RESERVED_TOO.contains(&name.as_str()) {
                        return self.fail(place, format!("reserved identifier: {name}"));
                    }
                    if self.is("(") {
                        let place = self.place();
                        self.at += 1;
                        return self.call(place, None, name);
                    }
                    node(place, Kind::Ident(name))
                }
            },
            _ => {
                self.at -= 1;
                self.unexpected("an expression")
            }
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, Problem> {
        let mut all = vec![];
        while !self.is(close) {
            all.push(self.expr()?);
            if !self.accept(",") {
                break;
            }
        }
        self.expect(close)?;
        Ok(all)
    }

    fn list(&mut self, place: u32) -> Parsed {
        let mut all = vec![];
        while !self.is("]") {
            let optional = self.accept("?");
            all.push((self.expr()?, optional));
            if !self.accept(",") {
                break;
            }
        }
        self.expect("]")?;
        node(place, Kind::List(all))
    }

    fn map(&mut self, place: u32) -> Parsed {
        let mut all = vec![];
        while !self.is("}") {
            let optional = self.accept("?");
            let key = self.expr()?;
            self.expect(":")?;
            all.push((key, self.expr()?, optional));
            if !self.accept(",") {
                break;
            }
        }
        self.expect("}")?;
        node(place, Kind::Map(all))
    }

    fn message(&mut self, place: u32, name: String) -> Parsed {
        let mut all = vec![];
        while !self.is("}") {
            let optional = self.accept("?");
            let field = match self.peek() {
                TokenKind::Ident(field) | TokenKind::Quoted(field) => field.clone(),
                _ => return self.unexpected("a field name"),
            };
            self.at += 1;
            self.expect(":")?;
            all.push((field, self.expr()?, optional));
            if !self.accept(",") {
                break;
            }
        }
        self.expect("}")?;
        node(place, Kind::Message(name, all))
    }

    fn call(&mut self, place: u32, target: Option<Expr>, name: String) -> Parsed {
        let mut arguments = self.arguments(")")?;
        let Some(target) = target else {
            if name == "has" {
                return has(self, place, arguments);
            }
            return node(place, Kind::Call { target: None, function: name, arguments });
        };
        if let Kind::Ident(space) = &target.kind {
            if space == "cel" && name == "bind" && arguments.len() == 3 {
                let (body, init) = (pop(&mut arguments), pop(&mut arguments));
                let variable = variable(self, &pop(&mut arguments))?;
                return node(place, Kind::Bind(variable, Box::new([init, body])));
            }
            let qualified = format!("{space}.{name}");
            if crate::signatures::is_global(&qualified) {
                return node(place, Kind::Call { target: None, function: qualified, arguments });
            }
        }
        match taken_apart(self, place, target, &name, arguments)? {
            Ok(expr) => Ok(expr),
            Err((target, arguments)) => {
                node(place, Kind::Call { target: Some(Box::new(target)), function: name, arguments })
            }
        }
    }
}

fn pop(all: &mut Vec<Expr>) -> Expr {
    all.pop().unwrap_or(Expr { kind: Kind::Literal(Literal::Null), at: 0, depth: 1 })
}

fn dotted(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, test: false, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

fn has(parser: &Parser, place: u32, mut arguments: Vec<Expr>) -> Parsed {
    if arguments.len() == 1
        && let Kind::Select { operand, field, test: false, optional: false } = pop(&mut arguments).kind
    {
        return node(place, Kind::Select { operand, field, test: true, optional: false });
    }
    parser.fail(place, "invalid argument to has() macro")
}

fn variable(parser: &Parser, expr: &Expr) -> Result<String, Problem> {
    match &expr.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => parser.fail(expr.at, "argument must be a simple name"),
    }
}

/// A macro's loop, or target and arguments back when it is an ordinary call.
#[allow(clippy::result_large_err)]
fn taken_apart(
    parser: &Parser,
    place: u32,
    range: Expr,
    name: &str,
    mut args: Vec<Expr>,
) -> Result<Result<Expr, (Expr, Vec<Expr>)>, Problem> {
    use LoopKind::{All, Exists, ExistsOne, Filter, Map, SortBy, TransformMap, TransformMapEntry};
    // Kind, how many variables, whether the last argument is a body, whether a filter stands before it.
    let shape = match (name, args.len()) {
        ("all", 2) => (All, 1, false, true),
        ("all", 3) => (All, 2, false, true),
        ("exists", 2) => (Exists, 1, false, true),
        ("exists", 3) => (Exists, 2, false, true),
        ("exists_one" | "existsOne", 2) => (ExistsOne, 1, false, true),
        ("exists_one" | "existsOne", 3) => (ExistsOne, 2, false, true),
        ("filter", 2) => (Filter, 1, false, true),
        ("map", 2) => (Map, 1, true, false),
        ("map", 3) => (Map, 1, true, true),
        ("transformList", 3) => (Map, 2, true, false),
        ("transformList", 4) => (Map, 2, true, true),
        ("transformMap", 3) => (TransformMap, 2, true, false),
        ("transformMap", 4) => (TransformMap, 2, true, true),
        ("transformMapEntry", 3) => (TransformMapEntry, 2, true, false),
        ("transformMapEntry", 4) => (TransformMapEntry, 2, true, true),
        ("sortBy", 2) => (SortBy, 1, true, false),
        ("optMap" | "optFlatMap", 2) => {
            let body = pop(&mut args);
            let variable = variable(parser, &pop(&mut args))?;
            return node(place, Kind::OptionalMap(Box::new([range, body]), variable, name == "optFlatMap")).map(Ok);
        }
        _ => return Ok(Err((range, args))),
    };
    let (kind, variables, has_body, has_filter) = shape;
    let body = if has_body { Some(pop(&mut args)) } else { None };
    let filter = if has_filter { Some(pop(&mut args)) } else { None };
    let second = if variables == 2 { Some(variable(parser, &pop(&mut args))?) } else { None };
    let first = variable(parser, &pop(&mut args))?;
    if second.as_ref() == Some(&first) {
        return parser.fail(place, format!("duplicate variable name: {first}"));
    }
    node(place, Kind::Loop(Box::new(Loop { kind, range, first, second, filter, body }))).map(Ok)
}
