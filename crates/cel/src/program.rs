//! Compiling: source to a program, against the variables that there are.

use crate::ast::Expr;
use crate::check;
use crate::eval::{Activation, Budget, EvalError, Evaluator};
use crate::lex::Problem;
use crate::parse;
use crate::types::Ty;
use crate::value::Val;
use std::collections::BTreeMap;

/// What an expression may refer to.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables and their types.
    pub variables: BTreeMap<String, Ty>,
    /// The members of `variables`, when the environment has any.
    pub composed: Option<BTreeMap<String, Ty>>,
    /// Whether `Object{…}` and `JSONPatch{…}` may be written.
    pub messages: bool,
}

/// Why an expression does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Program {
    source: String,
    pub(crate) expr: Expr,
    ty: Ty,
}

impl Environment {
    /// An environment of these variables.
    pub fn new<const N: usize>(variables: [(&str, Ty); N]) -> Self {
        Self { variables: variables.into_iter().map(|(n, t)| (n.to_owned(), t)).collect(), ..Self::default() }
    }

    /// Parses and checks.
    ///
    /// # Errors
    /// All that is wrong, each with its place, in the form that CEL implementations use.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let expr = parse::parse(source).map_err(|p| CompileError(describe(source, &[p])))?;
        let ty = check::check(self, &expr).map_err(|all| CompileError(describe(source, &all)))?;
        Ok(Program { source: source.to_owned(), expr, ty })
    }
}

impl Program {
    /// The type of its result, as far as known before running.
    pub fn ty(&self) -> &Ty {
        &self.ty
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a variable is used.
    pub fn mentions(&self, variable: &str) -> bool {
        self.expr.mentions(variable)
    }

    /// Whether its result may be of this type.
    pub fn may_be(&self, wanted: &Ty) -> bool {
        matches!(self.ty, Ty::Dyn) || self.ty == *wanted
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`EvalError`]: what the expression did wrong, or that it cost too much.
    pub fn evaluate<'a>(&'a self, activation: &Activation<'a>, budget: &Budget) -> Result<Val<'a>, EvalError> {
        Evaluator::new(activation, budget).run(&self.expr)
    }
}

/// Problems in the form that CEL implementations use: message, line, and a pointer.
fn describe(source: &str, problems: &[Problem]) -> String {
    let mut out = vec![];
    for problem in problems.iter().take(20) {
        let before: Vec<char> = source.chars().take(problem.at as usize).collect();
        let line = before.iter().filter(|c| **c == '\n').count();
        let column = before.iter().rev().take_while(|c| **c != '\n').count();
        let text: String = source.lines().nth(line).unwrap_or_default().chars().take(500).collect();
        let dots = ".".repeat(column.min(500));
        out.push(format!("ERROR: <input>:{}:{}: {}\n | {text}\n | {dots}^", line + 1, column + 1, problem.text));
    }
    out.join("\n")
}
