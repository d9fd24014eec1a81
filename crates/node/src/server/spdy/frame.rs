//! Frames on the wire (SPDY/3.1 draft, section 2.2).

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::headers::{Packer, Unpacker};

/// Names in lower case, and values.
pub type Headers = BTreeMap<String, String>;

/// The largest frame taken; a length has 24 bits.
const MAX_FRAME: usize = 4 << 20;
/// Set in the flags of the last frame of a direction.
const FIN: u8 = 1;

/// One frame, as far as it means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Syn { id: u32, headers: Headers, fin: bool },
    Reply { id: u32, headers: Headers, fin: bool },
    Reset { id: u32, status: u32 },
    Data { id: u32, data: Bytes, fin: bool },
    Ping { id: u32 },
    GoAway { last: u32 },
    Other,
}

mod kind {
    pub const SYN_STREAM: u16 = 1;
    pub const SYN_REPLY: u16 = 2;
    pub const RST_STREAM: u16 = 3;
    pub const PING: u16 = 6;
    pub const GOAWAY: u16 = 7;
    pub const HEADERS: u16 = 8;
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY frame: {what}"))
}

impl Frame {
    /// The bytes on the wire.
    pub(super) fn encode(&self, packer: &mut Packer) -> io::Result<Vec<u8>> {
        Ok(match self {
            Frame::Syn { id, headers, fin } => {
                let block = packer.pack(headers)?;
                let fixed = [&id.to_be_bytes()[..], &0u32.to_be_bytes(), &[0, 0]].concat();
                control(kind::SYN_STREAM, *fin, &fixed, &block)
            }
            Frame::Reply { id, headers, fin } => {
                control(kind::SYN_REPLY, *fin, &id.to_be_bytes(), &packer.pack(headers)?)
            }
            Frame::Reset { id, status } => {
                control(kind::RST_STREAM, false, &[id.to_be_bytes(), status.to_be_bytes()].concat(), &[])
            }
            Frame::Ping { id } => control(kind::PING, false, &id.to_be_bytes(), &[]),
            Frame::GoAway { last } => {
                control(kind::GOAWAY, false, &[last.to_be_bytes(), 0u32.to_be_bytes()].concat(), &[])
            }
            Frame::Data { id, data, fin } => {
                let mut out = Vec::with_capacity(8 + data.len());
                out.extend((id & 0x7fff_ffff).to_be_bytes());
                out.extend(((u32::from(*fin) * u32::from(FIN)) << 24 | data.len() as u32).to_be_bytes());
                out.extend_from_slice(data);
                out
            }
            Frame::Other => Vec::new(),
        })
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) async fn read<R: AsyncRead + Unpin>(
        reader: &mut R,
        unpacker: &mut Unpacker,
    ) -> io::Result<Option<Frame>> {
        let mut head = [0; 8];
        let first = reader.read(&mut head).await?;
        if first == 0 {
            return Ok(None);
        }
        reader.read_exact(&mut head[first..]).await?;
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let len = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if len > MAX_FRAME {
            return Err(invalid("it is too large"));
        }
        let mut body = vec![0; len];
        reader.read_exact(&mut body).await?;
        if word >> 31 == 0 {
            return Ok(Some(Frame::Data { id: word, data: body.into(), fin: flags & FIN != 0 }));
        }
        if (word >> 16) & 0x7fff != 3 {
            return Err(invalid("its version is not 3"));
        }
        parse_control((word & 0xffff) as u16, flags, &body, unpacker).map(Some)
    }
}

fn parse_control(type_: u16, flags: u8, body: &[u8], unpacker: &mut Unpacker) -> io::Result<Frame> {
    let number = |at: usize| -> io::Result<u32> {
        let b = body.get(at..at + 4).ok_or_else(|| invalid("it is too short"))?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    let stream = || Ok::<u32, io::Error>(number(0)? & 0x7fff_ffff);
    let rest = |from: usize| body.get(from..).ok_or_else(|| invalid("it is too short"));
    let fin = flags & FIN != 0;
    Ok(match type_ {
        kind::SYN_STREAM => Frame::Syn { id: stream()?, headers: unpacker.unpack(rest(10)?)?, fin },
        kind::SYN_REPLY => Frame::Reply { id: stream()?, headers: unpacker.unpack(rest(4)?)?, fin },
        kind::RST_STREAM => Frame::Reset { id: stream()?, status: number(4)? },
        kind::PING => Frame::Ping { id: number(0)? },
        kind::GOAWAY => Frame::GoAway { last: stream()? },
        kind::HEADERS => {
            // Its content means nothing here, but the packed stream goes on behind it.
            unpacker.unpack(rest(4)?)?;
            if fin { Frame::Data { id: stream()?, data: Bytes::new(), fin: true } } else { Frame::Other }
        }
        _ => Frame::Other,
    })
}

fn control(type_: u16, fin: bool, fixed: &[u8], block: &[u8]) -> Vec<u8> {
    let len = (fixed.len() + block.len()) as u32;
    let mut out = Vec::with_capacity(8 + len as usize);
    out.extend((0x8003_0000 | u32::from(type_)).to_be_bytes());
    out.extend(((u32::from(fin) * u32::from(FIN)) << 24 | len).to_be_bytes());
    out.extend(fixed);
    out.extend(block);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let headers: Headers = [("streamtype".to_string(), "error".to_string())].into();
        let frames = [
            Frame::Syn { id: 1, headers: headers.clone(), fin: false },
            Frame::Reply { id: 1, headers: Headers::new(), fin: true },
            Frame::Data { id: 1, data: Bytes::from_static(b"hello"), fin: true },
            Frame::Data { id: 3, data: Bytes::new(), fin: false },
            Frame::Reset { id: 5, status: 3 },
            Frame::Ping { id: 2 },
            Frame::GoAway { last: 7 },
        ];
        let mut packer = Packer::new().unwrap();
        let wire: Vec<u8> = frames.iter().flat_map(|f| f.encode(&mut packer).unwrap()).collect();
        let (mut reader, mut unpacker) = (wire.as_slice(), Unpacker::new());
        for frame in &frames {
            assert_eq!(Frame::read(&mut reader, &mut unpacker).await.unwrap().as_ref(), Some(frame));
        }
        assert_eq!(Frame::read(&mut reader, &mut unpacker).await.unwrap(), None);
    }

    #[tokio::test]
    async fn damaged_frames_are_refused() {
        for wire in [&[0x80, 2, 0, 1, 0, 0, 0, 0][..], &[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0], &[0, 0, 0, 1, 0, 0xff, 0, 0]]
        {
            let mut reader = wire;
            assert!(Frame::read(&mut reader, &mut Unpacker::new()).await.is_err(), "{wire:?}");
        }
        let mut short: &[u8] = &[0, 0, 0];
        assert!(Frame::read(&mut short, &mut Unpacker::new()).await.is_err());
    }

    /// What a peer sends is never trusted: any bytes end in frames or an error, not in a panic or a hang.
    #[tokio::test]
    async fn any_bytes_are_survived() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..3000 {
            let mut wire: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
            // Half of them begin like a control frame, so that more than the first check is reached.
            if random() % 2 == 0 && wire.len() > 8 {
                wire[..4].copy_from_slice(&[0x80, 3, 0, (random() % 10) as u8]);
                let len = (wire.len() - 8) as u8;
                wire[5..8].copy_from_slice(&[0, 0, len]);
            }
            let (mut reader, mut unpacker) = (wire.as_slice(), Unpacker::new());
            while let Ok(Some(_)) = Frame::read(&mut reader, &mut unpacker).await {}
        }
    }
}
