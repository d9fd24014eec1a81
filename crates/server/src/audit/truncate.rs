//! Events that are too large for a receiver lose their objects, as upstream's flags `--audit-webhook-truncate-*` ask.

use serde_json::{Value, json};

/// What marks an event that lost its objects.
const ANNOTATION: &str = "audit.k8s.io/truncated";

/// How large events and batches may be, in bytes of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A larger event loses its objects; one that is still larger is dropped.
    pub event: usize,
    /// A larger batch is sent in several parts.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { event: 100 << 10, batch: 10 << 20 }
    }
}

/// The encoded event as it may be sent; none when it is too large whatever is left out.
pub fn event(event: &Value, encoded: &[u8], limits: Limits) -> Option<Vec<u8>> {
    if encoded.len() <= limits.event {
        return Some(encoded.to_vec());
    }
    if !matches!(event.get("level").and_then(Value::as_str), Some("Request" | "RequestResponse")) {
        return None;
    }
    let mut short = event.clone();
    let fields = short.as_object_mut()?;
    fields.remove("requestObject");
    fields.remove("responseObject");
    short["annotations"][ANNOTATION] = json!("true");
    serde_json::to_vec(&short).ok().filter(|encoded| encoded.len() <= limits.event)
}

/// Splits a batch where it grows beyond `most` bytes. An event that is larger alone is a part of its own.
pub fn parts<T: AsRef<[u8]>>(batch: &[T], most: usize) -> Vec<&[T]> {
    let (mut parts, mut from, mut size) = (vec![], 0, 0);
    for (i, one) in batch.iter().enumerate() {
        let length = one.as_ref().len();
        if i > from && size + length > most {
            parts.push(&batch[from..i]);
            (from, size) = (i, 0);
        }
        size += length;
    }
    parts.push(&batch[from..]);
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn large_events_lose_their_objects() {
        let limits = Limits { event: 200, batch: 1000 };
        let large = |level: &str, field: &str| {
            let mut event = json!({"level": level, "auditID": "x"});
            event[field] = json!("y".repeat(300));
            event
        };
        let sent = |one: &Value| event(one, &serde_json::to_vec(one).unwrap(), limits);
        let small = json!({"level": "Metadata"});
        assert_eq!(sent(&small).unwrap(), small.to_string().into_bytes());
        let short: Value = serde_json::from_slice(&sent(&large("Request", "requestObject")).unwrap()).unwrap();
        assert_eq!(
            short,
            json!({"level": "Request", "auditID": "x", "annotations": {"audit.k8s.io/truncated": "true"}})
        );
        assert_eq!(sent(&large("Metadata", "userAgent")), None);
        assert_eq!(sent(&large("Request", "userAgent")), None);
    }

    #[test]
    fn batches_are_split() {
        let batch = ["aaa", "bbb", "cc", "ddddddddd", "e"];
        let lengths: Vec<usize> = parts(&batch, 6).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert_eq!(parts(&batch, 100).len(), 1);
    }
}
