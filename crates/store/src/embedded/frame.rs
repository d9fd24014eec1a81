//! The bytes of the log.
//!
//! ```text
//! segment := header frame*
//! header  := "CARAVELS" format:u32 segment:u64 start_revision:u64 previous_length:u64 crc:u32          (40 bytes)
//! frame   := length:u32 crc:u32 record*            one frame is one group of commits, whole or not there
//! record  := 1 revision:u64 key_length:u16 key revision_at:u32 expires:u64 length:u32 value     put
//!          | 2 revision:u64 key_length:u16 key                                                   deletion
//! ```
//!
//! All numbers are little-endian. The checksums are CRC-32 (IEEE), begun with the segment's number, so that a frame never passes for one
//! of another segment.

use crate::{Entry, Revision};

/// The version of everything here; a program refuses any other.
pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER: usize = 40;
pub(super) const FRAME_HEADER: usize = 8;
/// The longest frame that is believed.
pub(super) const MAX_FRAME: usize = 64 << 20;
const MAGIC: &[u8; 8] = b"CARAVELS";
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) segment: u64,
    /// The newest revision when the segment was begun. Deletions are dropped with their segments, so this keeps the counter.
    pub(super) start_revision: Revision,
    /// How much of the segment before counts: what lies behind was never acknowledged.
    pub(super) previous_length: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&self.format.to_le_bytes());
        out[12..20].copy_from_slice(&self.segment.to_le_bytes());
        out[20..28].copy_from_slice(&self.start_revision.to_le_bytes());
        out[28..36].copy_from_slice(&self.previous_length.to_le_bytes());
        let crc = crc32fast::hash(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes.get(..HEADER)?);
        if r.take(8)? != MAGIC {
            return None;
        }
        let header = Self { format: r.u32()?, segment: r.u64()?, start_revision: r.u64()?, previous_length: r.u64()? };
        (r.u32()? == crc32fast::hash(&bytes[..36])).then_some(header)
    }
}

pub(super) fn checksum(segment: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A frame being filled.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Empties the frame, keeping no more memory than a usual one takes.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(256 << 10);
    }

    fn begin(&mut self) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[0; FRAME_HEADER]);
        }
    }

    pub(super) fn put(&mut self, entry: &Entry) {
        self.begin();
        self.head(PUT, entry.revision, &entry.key);
        self.bytes.extend_from_slice(&entry.revision_at.to_le_bytes());
        self.bytes.extend_from_slice(&entry.expires.to_le_bytes());
        self.bytes.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&entry.value);
    }

    pub(super) fn delete(&mut self, key: &str, revision: Revision) {
        self.begin();
        self.head(DELETE, revision, key);
    }

    fn head(&mut self, tag: u8, revision: Revision, key: &str) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&revision.to_le_bytes());
        self.bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(key.as_bytes());
    }

    /// The finished bytes for `segment`.
    pub(super) fn seal(&mut self, segment: u64) -> &[u8] {
        let crc = checksum(segment, &self.bytes[FRAME_HEADER..]);
        let len = (self.bytes.len() - FRAME_HEADER) as u32;
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }
}

/// What a live entry occupies in the log beyond its key and value.
pub(super) const PUT_OVERHEAD: u64 = 1 + 8 + 2 + 4 + 8 + 4;

/// A record read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Put { key: &'a str, revision: Revision, revision_at: u32, expires: u64, value: &'a [u8] },
    Delete { key: &'a str, revision: Revision },
}

/// Reads the records of a payload; `None` in place of a record when the bytes make no sense.
pub(super) fn records(payload: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut reader = Reader(payload);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let record = reader.record();
        if record.is_none() {
            reader.0 = &[];
        }
        Some(record)
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let tag = self.take(1)?[0];
        let revision = self.u64()?;
        let len = self.u16()? as usize;
        let key = std::str::from_utf8(self.take(len)?).ok()?;
        match tag {
            PUT => {
                let (revision_at, expires, len) = (self.u32()?, self.u64()?, self.u32()? as usize);
                Some(Record::Put { key, revision, revision_at, expires, value: self.take(len)? })
            }
            DELETE => Some(Record::Delete { key, revision }),
            _ => None,
        }
    }
}
