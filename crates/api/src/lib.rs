//! The vocabulary of the API: kinds, metadata, quantities, selectors, schemas, defaults, validation,
//! patches, printer tables. Pure functions over [`serde_json::Value`]: no I/O, no clock, no async.

pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod duration;
pub mod field;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validation;

#[cfg(test)]
mod reference;
