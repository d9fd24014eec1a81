//! How an entry lies in etcd.
//!
//! etcd chooses the revision of a commit, so it cannot be in the bytes that are sent. They carry a header that says where it belongs, and
//! it is put in when they are read:
//!
//! ```text
//! value := 1:u8 revision_at:u32 (little-endian, 0xffffffff for nowhere) bytes
//! ```

use bytes::Bytes;
use etcd_client::KeyValue;
use std::sync::Arc;

use crate::{Entry, Revision, Slot, splice_revision};

const VERSION: u8 = 1;
const HEADER: usize = 5;

/// The bytes to store.
pub(super) fn encode(value: &[u8], revision_at: Option<usize>) -> Vec<u8> {
    let at = revision_at.map_or(u32::MAX, |at| at.min(value.len()) as u32);
    let mut out = Vec::with_capacity(HEADER + value.len());
    out.push(VERSION);
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(value);
    out
}

/// The entry of a key-value pair under `prefix`; `None` when it is not one of ours.
pub(super) fn decode(prefix: &str, kv: &KeyValue) -> Option<Arc<Entry>> {
    let key = own_key(prefix, kv.key())?;
    entry(key.into(), kv.value(), kv.mod_revision().try_into().ok()?)
}

/// Our name of an etcd key.
pub(super) fn own_key<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)
}

/// The entry of stored bytes at a revision.
pub(super) fn entry(key: Arc<str>, stored: &[u8], revision: Revision) -> Option<Arc<Entry>> {
    let (header, value) = stored.split_at_checked(HEADER)?;
    if header[0] != VERSION {
        return None;
    }
    let revision_at = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let value = match revision_at {
        u32::MAX => Bytes::copy_from_slice(value),
        at => splice_revision(value, at as usize, revision),
    };
    Some(Arc::new(Entry { key, value, revision, revision_at, expires: 0, slot: Slot::default() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_revision_comes_in_when_read() {
        let stored = encode(b"{\"v\":\"\"}", Some(6));
        assert_eq!(entry("a/b/c".into(), &stored, 1234).unwrap().value, "{\"v\":\"1234\"}");
        let stored = encode(b"plain", None);
        assert_eq!(entry("a/b/c".into(), &stored, 7).unwrap().value, "plain");
        assert!(entry("a/b/c".into(), b"foreign bytes", 7).is_none());
        assert!(entry("a/b/c".into(), b"", 7).is_none());
    }
}
