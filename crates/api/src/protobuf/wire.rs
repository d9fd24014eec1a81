//! The protobuf wire format: keys, varints, lengths.

use super::ProtoError;

/// A field's content as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// What is wrong, before it is known where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireError {
    Truncated,
    WireType(u32, u8),
    Text,
}

impl WireError {
    /// The error with its place.
    pub fn at(self, path: &str) -> ProtoError {
        let path = path.to_owned();
        match self {
            WireError::Truncated => ProtoError::Truncated(path),
            WireError::WireType(number, found) => ProtoError::WireType { path, number, found },
            WireError::Text => ProtoError::Content { path, why: "text is not UTF-8".to_owned() },
        }
    }
}

impl<'a> Field<'a> {
    pub fn wire_type(self) -> u8 {
        match self {
            Field::Varint(_) => 0,
            Field::Fixed64(_) => 1,
            Field::Bytes(_) => 2,
            Field::Fixed32(_) => 5,
        }
    }

    pub fn text(self) -> Result<&'a str, WireError> {
        match self {
            Field::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| WireError::Text),
            other => Err(WireError::WireType(0, other.wire_type())),
        }
    }
}

/// Reads the fields of a message.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next field with its number; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| WireError::Truncated)?;
        let field = match (key & 7) as u8 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(WireError::WireType(number, other)),
        };
        Ok(Some((number, field)))
    }

    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for (index, byte) in self.bytes.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index as u32);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[index + 1..];
                return Ok(value);
            }
        }
        Err(WireError::Truncated)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Truncated)
    }
}

/// Writes fields of a message.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn key(&mut self, number: u32, wire_type: u32) {
        self.push_varint(u64::from(number << 3 | wire_type));
    }

    pub fn varint(&mut self, number: u32, value: u64) {
        self.key(number, 0);
        self.push_varint(value);
    }

    pub fn fixed64(&mut self, number: u32, value: u64) {
        self.key(number, 1);
        self.raw(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.key(number, 2);
        self.push_varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// A message, written in place: one byte is kept for its length and more made room for when needed.
    pub fn message(&mut self, number: u32, fill: impl FnOnce(&mut Writer)) {
        self.key(number, 2);
        let at = self.bytes.len();
        self.bytes.push(0);
        fill(self);
        let length = self.bytes.len() - at - 1;
        if length < 0x80 {
            self.bytes[at] = length as u8;
            return;
        }
        let mut prefix = Writer::default();
        prefix.push_varint(length as u64);
        self.bytes.splice(at..=at, prefix.bytes);
    }
}
