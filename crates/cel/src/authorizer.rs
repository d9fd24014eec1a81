//! `authorizer`: expressions may ask whether somebody may do something.

/// A question being put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name of a service account to ask for, instead of whoever makes the request.
    pub account: Option<(String, String)>,
    /// A plain path, instead of a resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object name, or empty.
    pub name: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Yes.
    pub allowed: bool,
    /// Why, as far as said.
    pub reason: String,
    /// What went wrong, when the question could not be answered.
    pub error: Option<String>,
}

/// Who answers.
pub trait Authorizer {
    /// May the request's user (or `check.account`) do `verb`?
    fn check(&self, verb: &str, check: &Check) -> Decision;
}
