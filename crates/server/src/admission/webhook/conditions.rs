//! `matchConditions`: CEL expressions that must all be true for a hook to be asked. The language is not this module's: it
//! is given in as an [`Evaluator`].

use super::super::{Context, Request};
use futures::future::BoxFuture;
use std::sync::Arc;

/// One entry of `matchConditions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name, for errors.
    pub name: String,
    /// CEL over `object`, `oldObject`, `request` and `authorizer`.
    pub expression: String,
}

/// Conditions that are ready to be evaluated.
pub trait Compiled: Send + Sync {
    /// Whether all hold. A false one decides even when another cannot be evaluated; otherwise the errors are told.
    fn hold<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<bool, String>>;
}

/// Who knows CEL.
pub trait Evaluator: Send + Sync {
    /// Makes conditions ready; the error says which does not compile.
    ///
    /// # Errors
    /// A text for people.
    fn compile(&self, conditions: &[Condition]) -> Result<Arc<dyn Compiled>, String>;
}
