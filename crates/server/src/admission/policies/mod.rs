//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules of the cluster's owner, in CEL, evaluated in this process.
//!
//! Policies and bindings are compiled when they are written ([`table`]); a request looks only at those that have a
//! binding. [`matching`] says whether one is meant, [`params`] finds what it is parameterized with.

pub mod compiled;
pub mod matching;
pub mod mutating;
pub mod params;
pub mod table;
pub mod typecheck;
pub mod validating;

pub use mutating::MutatingPolicies;
pub use table::Table;
pub use validating::ValidatingPolicies;

use super::{Operation, Request};

/// Whether policies may concern a request at all: not themselves, lest nobody could mend them, and not questions.
fn concerned(request: &Request) -> bool {
    let review = match &*request.kind.group {
        "authentication.k8s.io" => matches!(&*request.kind.plural, "tokenreviews" | "selfsubjectreviews"),
        "authorization.k8s.io" => true,
        "admissionregistration.k8s.io" => true,
        _ => false,
    };
    !review
        && matches!(request.operation, Operation::Create | Operation::Update | Operation::Delete | Operation::Connect)
}
