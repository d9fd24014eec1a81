//! Streams over one connection.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Role;
use super::frame::{Frame, Headers};
use super::headers::{Packer, Unpacker};

/// Frames that wait for the connection.
const OUTGOING: usize = 16;
/// Frames that wait for a stream's reader.
const PER_STREAM: usize = 8;
/// Streams that wait to be accepted.
const BACKLOG: usize = 64;
/// Open streams of one connection.
const MAX_STREAMS: usize = 1024;
/// The most data in one frame.
const CHUNK: usize = 32 << 10;

/// RST_STREAM statuses.
mod reset {
    pub const INVALID: u32 = 2;
    pub const REFUSED: u32 = 3;
    pub const CANCEL: u32 = 5;
}

type Streams = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

/// One end of a connection. It ends when this is dropped or the peer goes away.
pub struct Connection {
    outgoing: mpsc::Sender<Frame>,
    streams: Streams,
    next: AtomicU32,
    closed: CancellationToken,
}

/// Streams that the peer opens.
pub struct Incoming(mpsc::Receiver<Stream>);

/// A two-way stream.
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// The headers it was opened with.
    pub headers: Headers,
    /// From the peer.
    pub reader: Reader,
    /// To the peer.
    pub writer: Writer,
}

/// What the peer sends on a stream.
pub struct Reader {
    id: u32,
    incoming: mpsc::Receiver<Bytes>,
    streams: Streams,
}

/// What we send on a stream.
pub struct Writer {
    id: u32,
    outgoing: mpsc::Sender<Frame>,
    finished: bool,
}

impl Connection {
    /// Speaks SPDY on `io`; two tasks do the work until the connection ends.
    pub fn start<I>(io: I, role: Role) -> io::Result<(Connection, Incoming)>
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let (outgoing, frames) = mpsc::channel(OUTGOING);
        let (accepted, incoming) = mpsc::channel(BACKLOG);
        let streams: Streams = Arc::default();
        let closed = CancellationToken::new();
        let writing = write_frames(write, frames, Packer::new()?);
        let (end, stop) = (closed.clone(), closed.clone());
        tokio::spawn(async move {
            let result = tokio::select! { r = writing => r, () = stop.cancelled() => Ok(()) };
            if let Err(error) = result {
                tracing::debug!(%error, "a SPDY connection broke");
            }
            end.cancel();
        });
        let peer = Peer { streams: streams.clone(), outgoing: outgoing.clone(), accepted, role };
        let (end, stop) = (closed.clone(), closed.clone());
        let left = streams.clone();
        tokio::spawn(async move {
            let result = tokio::select! { r = peer.run(BufReader::new(read)) => r, () = stop.cancelled() => Ok(()) };
            if let Err(error) = result {
                tracing::debug!(%error, "a SPDY connection broke");
            }
            // Readers see the end.
            left.lock().clear();
            end.cancel();
        });
        let next = AtomicU32::new(if role == Role::Client { 1 } else { 2 });
        Ok((Connection { outgoing, streams, next, closed }, Incoming(incoming)))
    }

    /// Opens a stream.
    pub async fn open(&self, headers: Headers) -> io::Result<Stream> {
        let id = self.next.fetch_add(2, Ordering::Relaxed);
        let reader = register(&self.streams, id);
        send(&self.outgoing, Frame::Syn { id, headers: headers.clone(), fin: false }).await?;
        let writer = Writer { id, outgoing: self.outgoing.clone(), finished: false };
        Ok(Stream { id, headers, reader, writer })
    }

    /// Returns when the connection has ended.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Sends what is waiting, then ends the connection.
    pub async fn shut_down(self) {
        // GOAWAY is the last frame in the queue; the writer ends behind it.
        let _ = send(&self.outgoing, Frame::GoAway { last: 0 }).await;
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.closed.cancelled()).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Incoming {
    /// The next stream that the peer opens; it is accepted. `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Stream> {
        let stream = self.0.recv().await?;
        let reply = Frame::Reply { id: stream.id, headers: Headers::new(), fin: false };
        send(&stream.writer.outgoing, reply).await.ok()?;
        Some(stream)
    }
}

impl Stream {
    /// A header's value.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Reader {
    /// The next bytes; `None` at the end.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    /// Everything to the end, up to `limit` bytes.
    pub async fn read_to_end(&mut self, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(bytes) = self.read().await {
            let room = limit.saturating_sub(out.len());
            out.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        out
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}

impl Writer {
    /// Sends bytes.
    pub async fn write(&mut self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            send(&self.outgoing, Frame::Data { id: self.id, data: part, fin: false }).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        send(&self.outgoing, Frame::Data { id: self.id, data: Bytes::new(), fin: true }).await
    }

    /// Breaks the stream off, both ways.
    pub async fn reset(&mut self) {
        self.finished = true;
        let _ = send(&self.outgoing, Frame::Reset { id: self.id, status: reset::CANCEL }).await;
    }
}

async fn send(to: &mpsc::Sender<Frame>, frame: Frame) -> io::Result<()> {
    to.send(frame).await.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the SPDY connection has ended"))
}

fn register(streams: &Streams, id: u32) -> Reader {
    let (sender, incoming) = mpsc::channel(PER_STREAM);
    streams.lock().insert(id, sender);
    Reader { id, incoming, streams: streams.clone() }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut to: W,
    mut frames: mpsc::Receiver<Frame>,
    mut packer: Packer,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        to.write_all(&frame.encode(&mut packer)?).await?;
        if frames.is_empty() {
            to.flush().await?;
        }
        if matches!(frame, Frame::GoAway { .. }) {
            break;
        }
    }
    to.flush().await?;
    to.shutdown().await
}

/// The reading side.
struct Peer {
    streams: Streams,
    outgoing: mpsc::Sender<Frame>,
    accepted: mpsc::Sender<Stream>,
    role: Role,
}

impl Peer {
    async fn run<R: AsyncRead + Unpin>(self, mut from: R) -> io::Result<()> {
        let mut unpacker = Unpacker::new();
        let mut last = 0;
        while let Some(frame) = Frame::read(&mut from, &mut unpacker).await? {
            match frame {
                Frame::Syn { id, headers, fin } => {
                    let peers = id % 2 == if self.role == Role::Server { 1 } else { 0 };
                    if !peers || id <= last {
                        send(&self.outgoing, Frame::Reset { id, status: reset::INVALID }).await?;
                        continue;
                    }
                    last = id;
                    self.accept(id, headers, fin).await?;
                }
                Frame::Data { id, data, fin } => self.data(id, data, fin).await,
                Frame::Reply { id, fin, .. } if fin => self.data(id, Bytes::new(), true).await,
                Frame::Reset { id, .. } => {
                    self.streams.lock().remove(&id);
                }
                // A ping of the peer's numbering is to be sent back; one of ours was an answer.
                Frame::Ping { id } if (id % 2 == 1) == (self.role == Role::Server) => {
                    send(&self.outgoing, Frame::Ping { id }).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn accept(&self, id: u32, headers: Headers, fin: bool) -> io::Result<()> {
        if self.streams.lock().len() >= MAX_STREAMS {
            return send(&self.outgoing, Frame::Reset { id, status: reset::REFUSED }).await;
        }
        let reader = register(&self.streams, id);
        if fin {
            self.streams.lock().remove(&id);
        }
        let writer = Writer { id, outgoing: self.outgoing.clone(), finished: false };
        if self.accepted.send(Stream { id, headers, reader, writer }).await.is_err() {
            // Nobody accepts streams here.
            self.streams.lock().remove(&id);
            return send(&self.outgoing, Frame::Reset { id, status: reset::REFUSED }).await;
        }
        Ok(())
    }

    /// Hands data to the stream's reader and waits for room; a stream that nobody reads loses it.
    async fn data(&self, id: u32, data: Bytes, fin: bool) {
        let sender = self.streams.lock().get(&id).cloned();
        if let Some(sender) = sender
            && !data.is_empty()
        {
            let _ = sender.send(data).await;
        }
        if fin {
            self.streams.lock().remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair() -> (Connection, Incoming, Connection, Incoming) {
        let (a, b) = tokio::io::duplex(1 << 16);
        let (client, client_in) = Connection::start(a, Role::Client).unwrap();
        let (server, server_in) = Connection::start(b, Role::Server).unwrap();
        (client, client_in, server, server_in)
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways_and_close_by_halves() {
        let (client, _c, _server, mut incoming) = pair();
        let headers: Headers = [("streamtype".to_string(), "stdin".to_string())].into();
        let mut ours = client.open(headers).await.unwrap();
        let mut theirs = incoming.next().await.unwrap();
        assert_eq!((theirs.id, theirs.header("streamtype")), (1, "stdin"));
        ours.writer.write(Bytes::from(vec![7; 100_000])).await.unwrap();
        ours.writer.finish().await.unwrap();
        assert_eq!(theirs.reader.read_to_end(usize::MAX).await, vec![7; 100_000]);
        // The other half is still open.
        theirs.writer.write(Bytes::from_static(b"answer")).await.unwrap();
        theirs.writer.finish().await.unwrap();
        assert_eq!(ours.reader.read_to_end(usize::MAX).await, b"answer");
    }

    #[tokio::test]
    async fn many_streams_at_once_do_not_mix() {
        let (client, _c, _server, mut incoming) = pair();
        let echo = tokio::spawn(async move {
            let mut tasks = Vec::new();
            while let Some(mut stream) = incoming.next().await {
                tasks.push(tokio::spawn(async move {
                    while let Some(data) = stream.reader.read().await {
                        stream.writer.write(data).await.unwrap();
                    }
                    stream.writer.finish().await.unwrap();
                }));
            }
        });
        let mut tasks = Vec::new();
        for i in 0..20u8 {
            let mut stream = client.open(Headers::new()).await.unwrap();
            tasks.push(tokio::spawn(async move {
                for _ in 0..50 {
                    stream.writer.write(Bytes::from(vec![i; 1000])).await.unwrap();
                    let mut got = 0;
                    while got < 1000 {
                        let data = stream.reader.read().await.unwrap();
                        assert!(data.iter().all(|b| *b == i));
                        got += data.len();
                    }
                }
                stream.writer.finish().await.unwrap();
                assert!(stream.reader.read().await.is_none());
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        drop(client);
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn readers_see_the_end_of_the_connection() {
        let (client, _c, server, mut incoming) = pair();
        let mut ours = client.open(Headers::new()).await.unwrap();
        let _theirs = incoming.next().await.unwrap();
        drop(server);
        assert!(ours.reader.read().await.is_none());
        client.closed().await;
    }

    #[tokio::test]
    async fn a_shut_down_connection_first_sends_what_waits() {
        let (client, _c, server, mut incoming) = pair();
        let mut ours = client.open(Headers::new()).await.unwrap();
        let mut theirs = incoming.next().await.unwrap();
        theirs.writer.write(Bytes::from_static(b"last words")).await.unwrap();
        theirs.writer.finish().await.unwrap();
        server.shut_down().await;
        assert_eq!(ours.reader.read_to_end(100).await, b"last words");
    }
}
