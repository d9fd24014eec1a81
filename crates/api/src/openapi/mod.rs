//! OpenAPI documents, built on demand and kept by nobody here.
//!
//! Version 3 is one document a group version ([`v3::document`]) and an index of them ([`v3::index`]); version 2
//! is one document for everything ([`v2::document`]), in JSON or, for `client-go`, in the protobuf
//! form of gnostic ([`gnostic::encode`]). All come from the table of kinds and the schemas; descriptions
//! are those of `k8s-openapi`, taken for the one document and dropped with it. Custom resources bring their definition's schema.
//!
//! The deprecated `/watch/` paths are not in the documents.

mod components;
mod custom;
mod describe;
pub mod gnostic;
pub mod merge;
mod operations;
#[cfg(test)]
mod tests;
pub mod v2;
pub mod v3;

use serde_json::Value;

use crate::kinds::Kind;

/// Where the raw schema of a custom resource's version comes from: `openAPIV3Schema` of its definition.
pub type CustomSchemas<'a> = &'a dyn Fn(&Kind) -> Option<Value>;

/// Which of the two document versions a part is rendered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    V2,
    V3,
}

impl Style {
    fn reference(self, name: &str) -> String {
        match self {
            Style::V2 => format!("#/definitions/{name}"),
            Style::V3 => format!("#/components/schemas/{name}"),
        }
    }
}
