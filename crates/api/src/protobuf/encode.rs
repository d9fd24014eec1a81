//! Values to messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::ProtoError;
use super::wire::Writer;
use crate::schema::{Node, Type};

/// Writes the fields of an object.
pub(super) fn message(node: Node<'_>, value: &Value, out: &mut Writer) -> Result<(), ProtoError> {
    let Value::Object(object) = value else { return Err(misfit(node, value)) };
    let mut fields = Vec::with_capacity(object.len());
    for (name, value) in object {
        if let Some((node, path)) = node.proto_field(name)
            && path[0] != 0
            && !value.is_null()
        {
            fields.push((path, node, value));
        }
    }
    fields.sort_unstable_by_key(|(path, ..)| *path);
    level(&fields, 0, out)
}

/// Writes fields whose numbers agree before `depth`. Those that go deeper share a message: a struct that Go embeds.
fn level(fields: &[([u8; 3], Node<'_>, &Value)], depth: usize, out: &mut Writer) -> Result<(), ProtoError> {
    let deeper = |path: &[u8; 3]| path.get(depth + 1).is_some_and(|n| *n != 0);
    for group in fields.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
        let Some((path, node, value)) = group.first() else { continue };
        let number = u32::from(path[depth]);
        if deeper(path) {
            let mut result = Ok(());
            out.message(number, |out| result = level(group, depth + 1, out));
            result?;
        } else {
            field(number, *node, value, out)?;
        }
    }
    Ok(())
}

/// Writes one field: a list is one occurrence an element, a map one an entry.
fn field(number: u32, node: Node<'_>, value: &Value, out: &mut Writer) -> Result<(), ProtoError> {
    match (node.ty(), value) {
        (Type::List, Value::Array(items)) => {
            let element = node.element().ok_or_else(|| misfit(node, value))?;
            for item in items {
                one(number, element, item, out)?;
            }
            Ok(())
        }
        (Type::Map, Value::Object(entries)) => {
            let element = node.element().ok_or_else(|| misfit(node, value))?;
            for (key, value) in entries {
                let mut result = Ok(());
                out.message(number, |out| {
                    out.bytes(1, key.as_bytes());
                    result = one(2, element, value, out);
                });
                result?;
            }
            Ok(())
        }
        _ => one(number, node, value, out),
    }
}

fn one(number: u32, node: Node<'_>, value: &Value, out: &mut Writer) -> Result<(), ProtoError> {
    let wrong = || misfit(node, value);
    match node.ty() {
        Type::String => out.bytes(number, value.as_str().ok_or_else(wrong)?.as_bytes()),
        Type::Bytes => {
            let bytes = STANDARD.decode(value.as_str().ok_or_else(wrong)?).map_err(|_| wrong())?;
            out.bytes(number, &bytes);
        }
        Type::Bool => out.varint(number, u64::from(value.as_bool().ok_or_else(wrong)?)),
        Type::Int32 | Type::Int64 => out.varint(number, value.as_i64().ok_or_else(wrong)? as u64),
        Type::Double => out.fixed64(number, value.as_f64().ok_or_else(wrong)?.to_bits()),
        Type::Quantity => out.message(number, |out| match value {
            Value::String(text) => out.bytes(1, text.as_bytes()),
            other => out.bytes(1, other.to_string().as_bytes()),
        }),
        Type::IntOrString => out.message(number, |out| match value {
            Value::String(text) => {
                out.varint(1, 1);
                out.varint(2, 0);
                out.bytes(3, text.as_bytes());
            }
            other => {
                out.varint(1, 0);
                out.varint(2, other.as_i64().unwrap_or_default() as u64);
                out.bytes(3, b"");
            }
        }),
        Type::Time | Type::MicroTime => {
            let time: Timestamp = value.as_str().and_then(|t| t.parse().ok()).ok_or_else(wrong)?;
            out.message(number, |out| {
                out.varint(1, time.as_second() as u64);
                out.varint(2, time.subsec_nanosecond() as u64);
            });
        }
        Type::Duration => {
            let nanos = value.as_str().and_then(crate::duration::parse).ok_or_else(wrong)?;
            out.message(number, |out| out.varint(1, nanos as u64));
        }
        Type::Raw | Type::Fields | Type::Json => out.message(number, |out| out.bytes(1, value.to_string().as_bytes())),
        Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings => return props(number, node, value, out),
        Type::Object => {
            let mut result = Ok(());
            out.message(number, |out| result = message(node, value, out));
            return result;
        }
        // A list as a map's value is a message of its own: authentication's ExtraValue.
        Type::List => {
            let mut result = Ok(());
            out.message(number, |out| result = field(1, node, value, out));
            return result;
        }
        Type::Map => return Err(wrong()),
    }
    Ok(())
}

/// The schema types that are a schema or something else.
fn props(number: u32, node: Node<'_>, value: &Value, out: &mut Writer) -> Result<(), ProtoError> {
    let schema = node.element().ok_or_else(|| misfit(node, value))?;
    let mut result = Ok(());
    out.message(number, |out| {
        let mut nested = |number: u32, value: &Value, out: &mut Writer| {
            out.message(number, |out| {
                if let Err(error) = message(schema, value, out) {
                    result = Err(error);
                }
            });
        };
        match (node.ty(), value) {
            (Type::PropsOrBool, Value::Bool(allowed)) => out.varint(1, u64::from(*allowed)),
            (Type::PropsOrBool, value) => {
                out.varint(1, 1);
                nested(2, value, out);
            }
            (Type::PropsOrArray, Value::Array(schemas)) => schemas.iter().for_each(|s| nested(2, s, out)),
            (Type::PropsOrStrings, Value::Array(texts)) => {
                texts.iter().filter_map(Value::as_str).for_each(|t| out.bytes(2, t.as_bytes()));
            }
            (_, value) => nested(1, value, out),
        }
    });
    result
}

fn misfit(node: Node<'_>, value: &Value) -> ProtoError {
    let found = match value {
        Value::Object(object) => {
            Value::Object(Map::from_iter(object.iter().take(1).map(|(k, v)| (k.clone(), v.clone()))))
        }
        other => other.clone(),
    };
    ProtoError::Content { path: node.type_name().to_owned(), why: format!("{found} does not fit {:?}", node.ty()) }
}
