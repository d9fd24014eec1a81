//! The syntax tree: what the parser makes, with the macros already taken apart into loops.

/// A node, with where it stands in the source (in characters).
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: Kind,
    /// Offset of the character that errors point at.
    pub at: u32,
    /// Height of the tree below, for the limit of nesting.
    pub depth: u16,
}

/// An operator with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `in`
    In,
}

impl Operator {
    /// The name that messages use, as every implementation of CEL has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "_+_",
            Self::Subtract => "_-_",
            Self::Multiply => "_*_",
            Self::Divide => "_/_",
            Self::Modulo => "_%_",
            Self::Equal => "_==_",
            Self::NotEqual => "_!=_",
            Self::Less => "_<_",
            Self::LessEqual => "_<=_",
            Self::Greater => "_>_",
            Self::GreaterEqual => "_>=_",
            Self::In => "@in",
        }
    }
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `"a"`
    String(String),
    /// `b"a"`
    Bytes(Vec<u8>),
}

/// What a loop makes of its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// `all`
    All,
    /// `exists`
    Exists,
    /// `exists_one`, `existsOne`
    ExistsOne,
    /// `filter`
    Filter,
    /// `map`, `transformList`
    Map,
    /// `transformMap`
    TransformMap,
    /// `transformMapEntry`
    TransformMapEntry,
    /// `sortBy`
    SortBy,
}

/// One macro over a list or map.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// Which.
    pub kind: LoopKind,
    /// Over what.
    pub range: Expr,
    /// The element (of a list), or the key (of a map); with two variables, index or key.
    pub first: String,
    /// With two variables, element or value.
    pub second: Option<String>,
    /// What an element must fulfil, or what is asked of it.
    pub filter: Option<Expr>,
    /// What becomes of an element.
    pub body: Option<Expr>,
}

/// The kinds of node.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A constant.
    Literal(Literal),
    /// A variable or the name of a type.
    Ident(String),
    /// `a.b`; `has(a.b)` when `test`; `a.?b` when `optional`.
    Select {
        /// `a`
        operand: Box<Expr>,
        /// `b`
        field: String,
        /// Asks only whether it is there.
        test: bool,
        /// Yields an optional.
        optional: bool,
    },
    /// `a[b]`, `a[?b]`.
    Index {
        /// `a`
        operand: Box<Expr>,
        /// `b`
        index: Box<Expr>,
        /// Yields an optional.
        optional: bool,
    },
    /// `f(x)`, `a.f(x)`.
    Call {
        /// `a`
        target: Option<Box<Expr>>,
        /// `f`, with its namespace.
        function: String,
        /// `x`
        arguments: Vec<Expr>,
    },
    /// `a && b && …`
    And(Vec<Expr>),
    /// `a || b || …`
    Or(Vec<Expr>),
    /// `!a`
    Not(Box<Expr>),
    /// `-a`
    Negate(Box<Expr>),
    /// `a ? b : c`
    Conditional(Box<[Expr; 3]>),
    /// `a + b` and its like.
    Binary(Operator, Box<[Expr; 2]>),
    /// `[a, ?b]`
    List(Vec<(Expr, bool)>),
    /// `{a: b, ?c: d}`
    Map(Vec<(Expr, Expr, bool)>),
    /// `T{a: b, ?c: d}`
    Message(String, Vec<(String, Expr, bool)>),
    /// A macro over a collection.
    Loop(Box<Loop>),
    /// `cel.bind(x, init, body)`
    Bind(String, Box<[Expr; 2]>),
    /// `a.optMap(x, body)`, or `optFlatMap` when the last is set.
    OptionalMap(Box<[Expr; 2]>, String, bool),
}

impl Expr {
    /// Calls `see` for this node and all below it.
    pub fn walk(&self, see: &mut dyn FnMut(&Expr)) {
        see(self);
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => operand.walk(see),
            Kind::Index { operand, index, .. } => {
                operand.walk(see);
                index.walk(see);
            }
            Kind::Call { target, arguments, .. } => {
                target.iter().for_each(|t| t.walk(see));
                arguments.iter().for_each(|a| a.walk(see));
            }
            Kind::And(all) | Kind::Or(all) => all.iter().for_each(|a| a.walk(see)),
            Kind::Not(a) | Kind::Negate(a) => a.walk(see),
            Kind::Conditional(three) => three.iter().for_each(|a| a.walk(see)),
            Kind::Binary(_, two) | Kind::Bind(_, two) | Kind::OptionalMap(two, _, _) => {
                two.iter().for_each(|a| a.walk(see));
            }
            Kind::List(all) => all.iter().for_each(|(a, _)| a.walk(see)),
            Kind::Map(all) => all.iter().for_each(|(k, v, _)| {
                k.walk(see);
                v.walk(see);
            }),
            Kind::Message(_, fields) => fields.iter().for_each(|(_, v, _)| v.walk(see)),
            Kind::Loop(one) => {
                one.range.walk(see);
                one.filter.iter().chain(one.body.iter()).for_each(|a| a.walk(see));
            }
        }
    }

    /// Whether a variable of this name is used anywhere.
    pub fn mentions(&self, name: &str) -> bool {
        let mut found = false;
        self.walk(&mut |e| found |= matches!(&e.kind, Kind::Ident(n) if n == name));
        found
    }
}
