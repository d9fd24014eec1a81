//! `application/vnd.kubernetes.protobuf`: between values and the protobuf form of built-in kinds.
//!
//! The codec is driven by the schema, whose table carries the field numbers; there is no code per kind.
//! An object travels in an envelope: four magic bytes and a `runtime.Unknown` that names apiVersion and kind and
//! holds the object's message. Watch events are not in an envelope but the objects in them are.
//!
//! Custom resources have no protobuf form; `PartialObjectMetadata` of them has.

mod decode;
mod encode;
#[cfg(test)]
mod tests;
mod wire;

use serde_json::Value;

use crate::schema::Schema;

/// Media type of single objects and lists.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Media type of watch responses.
pub const WATCH_CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What every enveloped object begins with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Deepest nesting of messages.
const MAX_DEPTH: usize = 100;

/// Why bytes could not be read or a value not be written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtoError {
    /// The bytes do not begin with [`MAGIC`].
    #[error("the provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Magic,
    /// The message ends in the middle of a field.
    #[error("{0}: the message ends in the middle of a field")]
    Truncated(String),
    /// A field of another wire type than its number says.
    #[error("{path}: field {number} has wire type {found}")]
    WireType {
        /// Where.
        path: String,
        /// Field number.
        number: u32,
        /// Wire type found.
        found: u8,
    },
    /// Text that is not UTF-8, or JSON inside the message that is no JSON.
    #[error("{path}: {why}")]
    Content {
        /// Where.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Nested deeper than any object.
    #[error("{0}: nested deeper than {MAX_DEPTH} messages")]
    TooDeep(String),
    /// The kind has no protobuf form.
    #[error("object of type {0} has no protobuf form")]
    NoForm(String),
}

/// The outside of an enveloped object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion`; may be empty.
    pub api_version: &'a str,
    /// `kind`; may be empty.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
}

/// Opens an envelope.
///
/// # Errors
/// [`ProtoError`] if the bytes are no envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let mut envelope = Envelope { api_version: "", kind: "", raw: &[] };
    let mut reader = wire::Reader::new(bytes.strip_prefix(&MAGIC).ok_or(ProtoError::Magic)?);
    while let Some((number, field)) = reader.next().map_err(|e| e.at("Unknown"))? {
        match (number, field) {
            (1, wire::Field::Bytes(meta)) => {
                let mut meta = wire::Reader::new(meta);
                while let Some((number, field)) = meta.next().map_err(|e| e.at("TypeMeta"))? {
                    let text = field.text().map_err(|e| e.at("TypeMeta"))?;
                    match number {
                        1 => envelope.api_version = text,
                        2 => envelope.kind = text,
                        _ => {}
                    }
                }
            }
            (2, wire::Field::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads an enveloped object of the schema's kind. `apiVersion` and `kind` are those of the envelope.
/// The value is as a JSON body would be after parsing: it still goes through [`crate::decode::value`].
///
/// # Errors
/// [`ProtoError`] says where the message is wrong.
pub fn decode(schema: &Schema, bytes: &[u8]) -> Result<Value, ProtoError> {
    let envelope = open(bytes)?;
    let mut value = decode::message(schema, envelope.raw)?;
    for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            value.insert(key.to_owned(), text.into());
        }
    }
    Ok(Value::Object(value))
}

/// Writes an object, list, or `Status` of the schema's kind in an envelope.
///
/// # Errors
/// [`ProtoError::NoForm`] for custom resources; [`ProtoError::Content`] for a value that does not fit
/// its schema.
pub fn encode(schema: &Schema, value: &Value) -> Result<Vec<u8>, ProtoError> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    if schema.is_custom() {
        return Err(ProtoError::NoForm(text("kind").to_owned()));
    }
    let mut out = wire::Writer::default();
    out.raw(&MAGIC);
    out.message(1, |out| {
        out.bytes(1, text("apiVersion").as_bytes());
        out.bytes(2, text("kind").as_bytes());
    });
    let mut result = Ok(());
    out.message(2, |out| result = encode::message(schema.root(), value, out));
    result?;
    // Empty content encoding and type say: plain protobuf.
    out.bytes(3, b"");
    out.bytes(4, b"");
    Ok(out.into_bytes())
}

/// A frame of a watch response: four bytes of length, big-endian, and a `WatchEvent` around an
/// enveloped object.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = wire::Writer::default();
    out.raw(&[0; 4]);
    out.bytes(1, event_type.as_bytes());
    out.message(2, |out| out.bytes(1, object));
    let mut bytes = out.into_bytes();
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}
