//! Netlink attributes: writing messages and reading them.

/// Rounds up to the four bytes that netlink aligns to.
pub const fn align(length: usize) -> usize {
    (length + 3) & !3
}

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// One netlink message under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// Starts a message of the type, with flags beyond those that the socket adds.
    pub fn new(kind: u16, flags: u16) -> Self {
        Self { kind, flags, body: Vec::with_capacity(128) }
    }

    /// The bytes the message takes in a datagram.
    pub fn len(&self) -> usize {
        16 + align(self.body.len())
    }

    /// Whether the message has no body.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Appends bytes without an attribute header (the fixed struct of the family).
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.body.resize(align(self.body.len()), 0);
    }

    /// Appends an attribute.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (value.len() + 4) as u16;
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends an attribute (for chains of calls by value).
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Appends an attribute with an integer in host byte order.
    pub fn attr_u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute with an integer in network byte order.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends an attribute with a NUL-terminated string.
    pub fn put_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Appends an attribute with a NUL-terminated string (for chains of calls by value).
    pub fn attr_str(mut self, kind: u16, value: &str) -> Self {
        self.put_str(kind, value);
        self
    }

    /// Appends a nested attribute that `fill` writes.
    pub fn put_nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        fill(self);
        let length = (self.body.len() - start) as u16;
        self.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.body[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    /// Appends a nested attribute that `fill` writes (for chains of calls by value).
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> Self {
        self.put_nest(kind, fill);
        self
    }

    /// Appends bytes inside a nested attribute (the fixed struct some nests start with).
    pub fn put_raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.body.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// The body's length so far, in bytes (attribute lengths are limited to 65,535).
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// The finished message.
    pub fn finish(self, seq: u32, extra_flags: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        self.append_to(&mut out, seq, extra_flags);
        out
    }

    /// Appends the finished message to a datagram.
    pub fn append_to(self, out: &mut Vec<u8>, seq: u32, extra_flags: u16) {
        let length = (16 + self.body.len()) as u32;
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | extra_flags).to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.body);
        out.resize(align(out.len()), 0);
    }
}

/// Iterates over attributes: `(type, value)`.
#[derive(Clone, Copy)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Reads the attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first attribute of the type.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        Iterator::find(&mut all, |(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The attributes nested in the first one of the type.
    pub fn nested(self, kind: u16) -> Option<Attrs<'a>> {
        self.find(kind).map(Attrs::new)
    }

    /// The first attribute of the type, as an integer in host byte order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// The first attribute of the type, as an integer in network byte order.
    pub fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// The first attribute of the type, as text.
    pub fn text(self, kind: u16) -> Option<String> {
        self.find(kind).map(text)
    }
}

/// A NUL-terminated string's text.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attributes_read_back_as_written() {
        let bytes = Message::new(16, 0)
            .attr_str(3, "eth0")
            .nest(18, |m| {
                m.put_str(1, "veth");
                m.put_be32(2, 7);
            })
            .finish(9, 1);
        assert_eq!(bytes.len() % 4, 0);
        let attrs = Attrs::new(&bytes[16..]);
        assert_eq!(attrs.text(3).unwrap(), "eth0");
        let nest = attrs.nested(18).unwrap();
        assert_eq!(nest.text(1).unwrap(), "veth");
        assert_eq!(nest.be32(2), Some(7));
        assert_eq!(nest.be32(3), None);
    }

    #[test]
    fn truncated_attributes_end_the_list() {
        let bytes = [8, 0, 1, 0, 1, 2, 3, 4, 200, 0, 2, 0, 1];
        assert_eq!(Attrs::new(&bytes).count(), 1);
        assert_eq!(Attrs::new(&[3, 0, 1, 0]).count(), 0);
    }
}
