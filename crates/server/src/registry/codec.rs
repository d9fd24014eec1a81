//! The stored form, which is the served form.
//!
//! An object is stored as JSON that begins `{"kind":…,"apiVersion":…,"metadata":{"resourceVersion":"N",…`. The store puts
//! the decimal revision of the commit in place of N, so a GET or a watch event hands out the stored bytes as they are,
//! and an item of a list is the same bytes without kind and apiVersion.

use memchr::memmem::Finder;
use serde_json::Value;
use std::sync::LazyLock;

/// What stands before the revision.
const BEFORE_REVISION: &str = "\"metadata\":{\"resourceVersion\":\"";

/// An encoded object, the revision still missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The JSON, with an empty `resourceVersion`.
    pub bytes: Vec<u8>,
    /// Where the revision belongs.
    pub revision_at: usize,
}

/// Encodes `object` for the store. `resourceVersion` inside it is left out.
pub fn encode(object: &Value) -> Result<Encoded, serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"kind\":");
    serde_json::to_writer(&mut out, object.get("kind").unwrap_or(&Value::Null))?;
    out.extend_from_slice(b",\"apiVersion\":");
    serde_json::to_writer(&mut out, object.get("apiVersion").unwrap_or(&Value::Null))?;
    out.push(b',');
    out.extend_from_slice(BEFORE_REVISION.as_bytes());
    let revision_at = out.len();
    out.push(b'"');
    let pair = |out: &mut Vec<u8>, key: &str, value: &Value| -> Result<(), serde_json::Error> {
        out.push(b',');
        serde_json::to_writer(&mut *out, key)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value)
    };
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            pair(&mut out, key, value)?;
        }
    }
    out.push(b'}');
    if let Some(all) = object.as_object() {
        for (key, value) in all {
            if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                pair(&mut out, key, value)?;
            }
        }
    }
    out.push(b'}');
    Ok(Encoded { bytes: out, revision_at })
}

/// Where the revision is (or belongs) in stored bytes; `None` when they are not of the stored form.
pub fn revision_at(bytes: &[u8]) -> Option<usize> {
    let head = &bytes[..bytes.len().min(1024)];
    static BEFORE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BEFORE_REVISION));
    BEFORE.find(head).map(|at| at + BEFORE_REVISION.len())
}

/// Whether stored bytes say this `apiVersion`.
pub fn is_version(bytes: &[u8], api_version: &str) -> bool {
    let head = &bytes[..bytes.len().min(512)];
    memchr::memmem::find(head, format!("\"apiVersion\":\"{api_version}\",\"metadata\":").as_bytes()).is_some()
}

/// The part of stored bytes from `"metadata"` on: `{` and this is the object as an item of a list. The fields `kind` and
/// `apiVersion` are said once, by the list. `revision_at` is where the revision stands, when that is known.
pub fn item_tail(bytes: &[u8], revision_at: Option<usize>) -> &[u8] {
    let from = match revision_at.or_else(|| self::revision_at(bytes)) {
        Some(at) => at.saturating_sub(BEFORE_REVISION.len()),
        // Not of the stored form: everything after the brace.
        None => 1,
    };
    bytes.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    #[test]
    fn the_stored_form() {
        let object = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n", "labels": {}, "resourceVersion": "7"}, "spec": {"a": 1}});
        let encoded = encode(&object).unwrap();
        assert_eq!(revision_at(&encoded.bytes), Some(encoded.revision_at));
        let mut bytes = encoded.bytes;
        bytes.splice(encoded.revision_at..encoded.revision_at, *b"12");
        let bytes = Bytes::from(bytes);
        let back: Value = serde_json::from_slice(&bytes).unwrap();
        let mut wanted = object.clone();
        wanted["metadata"]["resourceVersion"] = json!("12");
        assert_eq!(back, wanted);
        let item: Value = serde_json::from_slice(&[b"{", item_tail(&bytes, None)].concat()).unwrap();
        assert_eq!(item, json!({"metadata": wanted["metadata"], "spec": {"a": 1}}));
    }

    #[test]
    fn objects_without_metadata_encode_too() {
        let encoded = encode(&json!({"kind": "X", "apiVersion": "v1"})).unwrap();
        let back: Value = serde_json::from_slice(&encoded.bytes).unwrap();
        assert_eq!(back, json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": ""}}));
    }
}
