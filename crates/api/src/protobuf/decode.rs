//! Messages to values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Number, Value};

use super::wire::{Field, Reader, WireError};
use super::{MAX_DEPTH, ProtoError};
use crate::schema::{Node, Schema, Type};

type Object = Map<String, Value>;

/// Reads the message of an object.
pub(super) fn message(schema: &Schema, bytes: &[u8]) -> Result<Object, ProtoError> {
    let mut out = Object::new();
    fields(schema.root(), &[], bytes, 0, &mut out)?;
    Ok(out)
}

/// Reads fields into `out`. `prefix` is the way here through embedded structs.
fn fields(node: Node<'_>, prefix: &[u8], bytes: &[u8], depth: usize, out: &mut Object) -> Result<(), ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::TooDeep(node.type_name().to_owned()));
    }
    let level = prefix.len();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(|e| e.at(node.type_name()))? {
        let Ok(number) = u8::try_from(number) else { continue };
        // Unknown fields are skipped, as protobuf demands.
        let found = node
            .proto_fields()
            .find(|(_, _, path)| path[..level] == *prefix && path.get(level) == Some(&number) && number != 0);
        let Some((name, child, path)) = found else { continue };
        if path.get(level + 1).is_some_and(|next| *next != 0) {
            let Field::Bytes(inner) = field else {
                return Err(WireError::WireType(u32::from(number), field.wire_type()).at(node.type_name()));
            };
            fields(node, &path[..=level], inner, depth + 1, out)?;
        } else {
            self::field(name, child, field, depth, out).map_err(|e| place(e, node, name))?;
        }
    }
    Ok(())
}

/// The innermost place is named by the struct and its field.
fn place(error: ProtoError, node: Node<'_>, name: &str) -> ProtoError {
    let here = || format!("{}.{name}", node.type_name());
    match error {
        ProtoError::Truncated(path) if path.is_empty() => ProtoError::Truncated(here()),
        ProtoError::WireType { path, number, found } if path.is_empty() => {
            ProtoError::WireType { path: here(), number, found }
        }
        ProtoError::Content { path, why } if path.is_empty() => ProtoError::Content { path: here(), why },
        other => other,
    }
}

fn field(name: &str, node: Node<'_>, field: Field<'_>, depth: usize, out: &mut Object) -> Result<(), ProtoError> {
    match node.ty() {
        Type::List => {
            let items = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let (Some(items), Some(element)) = (items.as_array_mut(), node.element()) else { return Ok(()) };
            push(items, element, field, depth)
        }
        Type::Map => {
            let entries = out.entry(name).or_insert_with(|| Value::Object(Object::new()));
            let (Some(entries), Some(element)) = (entries.as_object_mut(), node.element()) else { return Ok(()) };
            entry(entries, element, field, depth)
        }
        _ => {
            // A message may come in parts; later parts add to earlier ones.
            if let (Type::Object, Some(Value::Object(before)), Field::Bytes(bytes)) =
                (node.ty(), out.get_mut(name), field)
            {
                return fields(node, &[], bytes, depth + 1, before);
            }
            let value = one(node, field, depth)?;
            let unset = value.is_null() || node.is_plain() && is_zero(&value);
            if !unset {
                out.insert(name.to_owned(), value);
            }
            Ok(())
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn push(items: &mut Vec<Value>, element: Node<'_>, field: Field<'_>, depth: usize) -> Result<(), ProtoError> {
    let integers = matches!(element.ty(), Type::Int32 | Type::Int64 | Type::Bool);
    if let (Field::Bytes(packed), true) = (field, integers) {
        let mut reader = Reader::new(packed);
        while !reader.is_empty() {
            let varint = reader.varint().map_err(|e| e.at(""))?;
            items.push(one(element, Field::Varint(varint), depth)?);
        }
        return Ok(());
    }
    items.push(one(element, field, depth)?);
    Ok(())
}

fn entry(entries: &mut Object, element: Node<'_>, field: Field<'_>, depth: usize) -> Result<(), ProtoError> {
    let mut key = "";
    let mut value = None;
    let mut reader = Reader::new(bytes_of(field)?);
    while let Some((number, field)) = reader.next().map_err(|e| e.at(""))? {
        match number {
            1 => key = field.text().map_err(|e| e.at(""))?,
            2 => value = Some(one(element, field, depth)?),
            _ => {}
        }
    }
    // An entry without a value has the zero value.
    let value = match value {
        Some(value) => value,
        None => one(element, Field::Bytes(&[]), depth).unwrap_or_else(|_| Value::from(0)),
    };
    entries.insert(key.to_owned(), value);
    Ok(())
}

fn bytes_of(field: Field<'_>) -> Result<&[u8], ProtoError> {
    match field {
        Field::Bytes(bytes) => Ok(bytes),
        other => Err(WireError::WireType(0, other.wire_type()).at("")),
    }
}

/// One value. Null stands for unset.
fn one(node: Node<'_>, field: Field<'_>, depth: usize) -> Result<Value, ProtoError> {
    Ok(match (node.ty(), field) {
        (Type::String, field) => field.text().map_err(|e| e.at(""))?.into(),
        (Type::Bytes, Field::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Bool, Field::Varint(number)) => (number != 0).into(),
        (Type::Int32, Field::Varint(number)) => i64::from(number as i32).into(),
        (Type::Int64, Field::Varint(number)) => (number as i64).into(),
        (Type::Double, Field::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Type::Quantity, Field::Bytes(bytes)) => {
            let text = single(bytes, 1)?.map(Field::text).transpose().map_err(|e| e.at(""))?.unwrap_or_default();
            if text.is_empty() { "0".into() } else { text.into() }
        }
        (Type::IntOrString, Field::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Time | Type::MicroTime, Field::Bytes(bytes)) => time(bytes, node.ty() == Type::MicroTime)?,
        (Type::Duration, Field::Bytes(bytes)) => crate::duration::text(integer(bytes, 1)?).into(),
        (Type::Raw | Type::Fields | Type::Json, Field::Bytes(bytes)) => embedded_json(bytes)?,
        (Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings, Field::Bytes(bytes)) => {
            props(node, bytes, depth)?
        }
        (Type::Object, Field::Bytes(bytes)) => {
            let mut out = Object::new();
            fields(node, &[], bytes, depth + 1, &mut out)?;
            out.into()
        }
        (Type::List, Field::Bytes(bytes)) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, field)) = reader.next().map_err(|e| e.at(""))? {
                if let (1, Some(element)) = (number, node.element()) {
                    push(&mut items, element, field, depth + 1)?;
                }
            }
            items.into()
        }
        (_, field) => return Err(WireError::WireType(0, field.wire_type()).at("")),
    })
}

/// The last field of that number.
fn single(bytes: &[u8], wanted: u32) -> Result<Option<Field<'_>>, ProtoError> {
    let mut found = None;
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(|e| e.at(""))? {
        if number == wanted {
            found = Some(field);
        }
    }
    Ok(found)
}

fn integer(bytes: &[u8], number: u32) -> Result<i64, ProtoError> {
    Ok(match single(bytes, number)? {
        Some(Field::Varint(number)) => number as i64,
        _ => 0,
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    if integer(bytes, 1)? == 0 {
        return Ok(i64::from(integer(bytes, 2)? as i32).into());
    }
    let text = single(bytes, 3)?.map(Field::text).transpose().map_err(|e| e.at(""))?;
    Ok(text.unwrap_or_default().into())
}

/// A time; the empty message is Go's zero time, which is unset.
fn time(bytes: &[u8], micro: bool) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = (integer(bytes, 1)?, integer(bytes, 2)? as i32);
    let time =
        Timestamp::new(seconds, nanos).map_err(|e| ProtoError::Content { path: String::new(), why: e.to_string() })?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.to_zoned(TimeZone::UTC).strftime(format).to_string().into())
}

fn embedded_json(bytes: &[u8]) -> Result<Value, ProtoError> {
    match single(bytes, 1)? {
        Some(Field::Bytes(raw)) if !raw.is_empty() => serde_json::from_slice(raw)
            .map_err(|e| ProtoError::Content { path: String::new(), why: format!("embedded JSON: {e}") }),
        _ => Ok(Value::Null),
    }
}

fn props(node: Node<'_>, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let Some(schema) = node.element() else { return Ok(Value::Null) };
    let nested = |field: Field<'_>| one(schema, field, depth + 1);
    let mut first = None;
    let mut seconds = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(|e| e.at(""))? {
        match number {
            1 => first = Some(field),
            2 => seconds.push(field),
            _ => {}
        }
    }
    Ok(match (node.ty(), first) {
        (Type::PropsOrBool, first) => match seconds.first() {
            Some(schema) => nested(*schema)?,
            None => (first.is_some_and(|f| f != Field::Varint(0))).into(),
        },
        (_, Some(schema)) => nested(schema)?,
        (Type::PropsOrArray, None) => seconds.into_iter().map(nested).collect::<Result<Vec<_>, _>>()?.into(),
        (_, None) => {
            let texts = seconds.into_iter().map(|f| f.text().map(Value::from).map_err(|e| e.at("")));
            texts.collect::<Result<Vec<_>, _>>()?.into()
        }
    })
}
