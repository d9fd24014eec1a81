//! JSON Patch, RFC 6902: a list of operations that succeed together or not at all.
//!
//! Limits: [`MAX_OPERATIONS`] operations, and [`MAX_COPIED`] bytes of copied values in all, so that a
//! small patch cannot double an object again and again.

use serde_json::Value;

use super::PatchError;

/// Most operations in one patch (upstream's limit).
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that `copy` operations may add in all: the largest request body.
pub const MAX_COPIED: usize = 3 << 20;

/// Applies the operations of `patch` to `document`.
///
/// # Errors
/// [`PatchError::Malformed`] for a patch that is not a list of operations, [`PatchError::Unfit`] for
/// one that does not fit the document, [`PatchError::TooLarge`] past the limits.
pub fn apply(mut document: Value, patch: &Value) -> Result<Value, PatchError> {
    let operations =
        patch.as_array().ok_or_else(|| PatchError::Malformed("a JSON patch is a list of operations".to_owned()))?;
    if operations.len() > MAX_OPERATIONS {
        let found = operations.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {found}"
        )));
    }
    let mut copied = 0;
    for operation in operations {
        apply_one(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn apply_one(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |key: &str| {
        operation[key]
            .as_str()
            .ok_or_else(|| PatchError::Malformed(format!("operation {operation} has no {key:?}, which must be text")))
    };
    let value = || {
        operation.get("value").ok_or_else(|| PatchError::Malformed(format!("operation {operation} has no \"value\"")))
    };
    let path = text("path")?;
    match text("op")? {
        "add" => add(document, path, value()?.clone()),
        "remove" => remove(document, path).map(|_| ()),
        "replace" => {
            let value = value()?.clone();
            let place = find(document, path).ok_or_else(|| {
                PatchError::Unfit(format!("replace operation does not apply: doc is missing key: {path}"))
            })?;
            *place = value;
            Ok(())
        }
        "move" => {
            let from = text("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(PatchError::Unfit(format!("cannot move {from} into itself at {path}")));
            }
            let value = remove(document, from)?;
            add(document, path, value)
        }
        "copy" => {
            let from = text("from")?;
            let value = document.pointer(from).cloned().ok_or_else(|| {
                PatchError::Unfit(format!("copy operation does not apply: doc is missing path: {from}"))
            })?;
            *copied += value.to_string().len();
            if *copied > MAX_COPIED {
                return Err(PatchError::TooLarge(format!("copy operations may add {MAX_COPIED} bytes in all")));
            }
            add(document, path, value)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            // A missing value equals null, as it does upstream.
            match document.pointer(path).unwrap_or(&Value::Null) == expected {
                true => Ok(()),
                false => Err(PatchError::Unfit(format!("testing value {path} failed"))),
            }
        }
        other => Err(PatchError::Malformed(format!("Unexpected kind: {other}"))),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let Some((parent, key)) = split(path)? else {
        *document = value;
        return Ok(());
    };
    match find(document, parent) {
        Some(Value::Object(object)) => {
            object.insert(key, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let at = match key.as_str() {
                "-" => items.len(),
                key => index(key, items.len() + 1, path)?,
            };
            items.insert(at, value);
            Ok(())
        }
        _ => Err(PatchError::Unfit(format!(
            "add operation does not apply: doc is missing path: {path:?}: missing value"
        ))),
    }
}

fn remove(document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let missing =
        || PatchError::Unfit(format!("remove operation does not apply: doc is missing path: {path:?}: missing value"));
    let Some((parent, key)) = split(path)? else {
        return Ok(std::mem::take(document));
    };
    match find(document, parent).ok_or_else(missing)? {
        Value::Object(object) => object.remove(&key).ok_or_else(missing),
        Value::Array(items) => {
            let at = index(&key, items.len(), path)?;
            Ok(items.remove(at))
        }
        _ => Err(missing()),
    }
}

/// The place of a pointer. Negative list indices count from the end, as upstream allows.
fn find<'v>(document: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    if path.is_empty() {
        return Some(document);
    }
    path.strip_prefix('/')?.split('/').try_fold(document, |value, token| match value {
        Value::Object(object) => object.get_mut(&unescape(token)),
        Value::Array(items) => {
            let at = index(token, items.len(), path).ok()?;
            items.get_mut(at)
        }
        _ => None,
    })
}

/// Parent pointer and last key; `None` for the whole document.
fn split(path: &str) -> Result<Option<(&str, String)>, PatchError> {
    if path.is_empty() {
        return Ok(None);
    }
    match path.rsplit_once('/') {
        Some((parent, key)) if path.starts_with('/') => Ok(Some((parent, unescape(key)))),
        _ => Err(PatchError::Malformed(format!("path {path:?} does not begin with a slash"))),
    }
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn index(token: &str, length: usize, path: &str) -> Result<usize, PatchError> {
    let unfit =
        || PatchError::Unfit(format!("Unable to access invalid index: {token}: invalid index referenced in {path}"));
    let number: i64 = token.parse().map_err(|_| unfit())?;
    let at = if number < 0 { number + length as i64 } else { number };
    usize::try_from(at).ok().filter(|at| *at < length).ok_or_else(unfit)
}
