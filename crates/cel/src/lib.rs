//! The Common Expression Language as Kubernetes speaks it: parser, type checker, evaluator with cost limits, and the
//! function libraries that the API documents.
//!
//! [`Environment`] says which variables there are, [`Environment::compile`] makes a [`Program`], and [`Program::evaluate`]
//! runs it over JSON values without copying them. Everything is pure: the same inputs give the same answer, and every
//! evaluation ends, since the language has no recursion, loops go over finite lists, and cost is bounded.

pub mod ast;
pub mod authorizer;
mod check;
mod cost;
pub mod device;
mod eval;
mod lex;
mod library;
mod ops;
mod parse;
mod program;
pub mod shapes;
mod signatures;
pub mod types;
pub mod value;

pub use authorizer::{Authorizer, Check, Decision};
pub use cost::Estimate;
pub use eval::{Activation, Budget, EvalError};
pub use parse::{MAX_DEPTH, MAX_LENGTH};
pub use program::{CompileError, Environment, Program};
pub use signatures::{AUTHORIZER, RESOURCE_CHECK};
pub use types::{Shape, ShapeKind, Ty};
pub use value::Val;

/// Most cost of one evaluation of one expression (upstream's per-call limit).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Most cost of all expressions that one request evaluates for one policy or one object.
pub const REQUEST_BUDGET: u64 = 10_000_000;
/// Most cost of all match conditions of one webhook or policy.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
