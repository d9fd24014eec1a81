//! Header blocks: one zlib stream for each direction of a connection, with SPDY's preset dictionary.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::Headers;

/// A header block may unfold to this many bytes.
const MAX_BLOCK: usize = 64 << 10;
/// And have this many headers.
const MAX_HEADERS: usize = 256;

/// The words of the dictionary that are written with their length (SPDY/3.1 draft, section 2.6.10.1).
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// And its end.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS {
        out.extend((word.len() as u32).to_be_bytes());
        out.extend(word.as_bytes());
    }
    out.extend(TAIL.as_bytes());
    out
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY headers: {}", what.to_string()))
}

/// Packs header blocks.
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary()).map_err(invalid)?;
        Ok(Packer(compress))
    }

    pub(super) fn pack(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let plain = encode(headers);
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            self.0.compress_vec(&plain[done..], &mut out, FlushCompress::Sync).map_err(invalid)?;
            // A sync flush is complete when room is left.
            if (self.0.total_in() - start) as usize == plain.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// Unpacks header blocks.
pub(super) struct Unpacker {
    decompress: Decompress,
    dictionary_set: bool,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Unpacker { decompress: Decompress::new(true), dictionary_set: false }
    }

    pub(super) fn unpack(&mut self, block: &[u8]) -> io::Result<Headers> {
        let mut out = Vec::with_capacity(1024);
        let start = self.decompress.total_in();
        loop {
            let done = (self.decompress.total_in() - start) as usize;
            let before = out.len();
            match self.decompress.decompress_vec(&block[done..], &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !self.dictionary_set => {
                    self.decompress.set_dictionary(&dictionary()).map_err(invalid)?;
                    self.dictionary_set = true;
                    continue;
                }
                Err(error) => return Err(invalid(error)),
            }
            let done = (self.decompress.total_in() - start) as usize;
            if done == block.len() && out.len() < out.capacity() {
                break;
            }
            if out.len() > MAX_BLOCK {
                return Err(invalid("the block is too large"));
            }
            if out.len() == before && out.len() < out.capacity() {
                return Err(invalid("the block is cut off"));
            }
            out.reserve(1024);
        }
        decode(&out)
    }
}

fn encode(headers: &Headers) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((headers.len() as u32).to_be_bytes());
    for (name, value) in headers {
        for text in [name.to_ascii_lowercase(), value.clone()] {
            out.extend((text.len() as u32).to_be_bytes());
            out.extend(text.as_bytes());
        }
    }
    out
}

fn decode(mut block: &[u8]) -> io::Result<Headers> {
    let count = take_u32(&mut block)? as usize;
    if count > MAX_HEADERS {
        return Err(invalid("too many headers"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut block)?.to_ascii_lowercase();
        let value = take_text(&mut block)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn take_u32(block: &mut &[u8]) -> io::Result<u32> {
    let (head, rest) = block.split_at_checked(4).ok_or_else(|| invalid("the block is too short"))?;
    *block = rest;
    Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]))
}

fn take_text(block: &mut &[u8]) -> io::Result<String> {
    let len = take_u32(block)? as usize;
    let (head, rest) = block.split_at_checked(len).ok_or_else(|| invalid("a text is longer than the block"))?;
    *block = rest;
    String::from_utf8(head.to_vec()).map_err(|_| invalid("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        let bytes = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((bytes.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_of_one_connection_unpack_in_order() {
        let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::new());
        for i in 0..50 {
            let headers: Headers = [
                ("streamtype".to_string(), "data".to_string()),
                ("port".to_string(), format!("{i}")),
                ("long".to_string(), "x".repeat(i * 37)),
            ]
            .into();
            let block = packer.pack(&headers).unwrap();
            assert_eq!(unpacker.unpack(&block).unwrap(), headers);
        }
        let empty = packer.pack(&Headers::new()).unwrap();
        assert_eq!(unpacker.unpack(&empty).unwrap(), Headers::new());
    }

    #[test]
    fn what_is_damaged_is_refused() {
        assert!(Unpacker::new().unpack(&[1, 2, 3, 4]).is_err());
        let mut packer = Packer::new().unwrap();
        let big: Headers = [("x".to_string(), "y".repeat(1 << 20))].into();
        let block = packer.pack(&big).unwrap();
        assert!(Unpacker::new().unpack(&block).unwrap_err().to_string().contains("too large"));
        assert!(decode(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']).is_err());
        assert!(decode(&[0xff; 4]).is_err());
    }
}
