//! Expressions of the API: what CEL may see in admission policies, webhooks' match conditions and custom resources, and
//! whether what an author wrote compiles.

pub mod conditions;
pub mod custom;
pub mod custom_check;
pub mod policies;
pub mod review;

use caravel_api::field::FieldError;
use caravel_api::kinds::Kind;
use serde_json::Value;

pub use conditions::MatchConditions;

/// What is wrong with the expressions in an object of a kind that has any. `old` is the present object of an update:
/// expressions that were stored before are not judged again.
pub fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let same = |field: &str| old.is_some_and(|old| old.get(field) == object.get(field));
    match (&*kind.group, &*kind.kind) {
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy") => {
            if same("spec") {
                vec![]
            } else {
                policies::check(object, kind.kind == "MutatingAdmissionPolicy")
            }
        }
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration") => {
            if same("webhooks") { vec![] } else { conditions::check_webhooks(object) }
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => custom_check::check(object, old),
        _ => vec![],
    }
}
