//! The client's streams of an exec or attach session, whatever carries them.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use caravel_runtime::StreamOptions;
use tokio::sync::mpsc;

use super::super::spdy;
use super::Io;
use super::negotiate::Offer;
use super::ws::{self, Channels};

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// WebSocket channels.
mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const RESIZE: u8 = 4;
}

/// Bytes from the client.
pub(super) enum Source {
    Channel(mpsc::Receiver<Bytes>),
    Spdy(spdy::Reader),
}

/// Bytes to the client.
pub(super) enum Sink {
    Channel { channels: Channels, number: u8, closes: bool },
    Spdy(spdy::Writer),
}

/// What holds the connection.
enum Carrier {
    WebSocket(Channels),
    Spdy(spdy::Connection),
}

/// A session's client.
pub(super) struct Front {
    pub stdin: Option<Source>,
    pub resize: Option<Source>,
    pub stdout: Option<Sink>,
    pub stderr: Option<Sink>,
    pub error: Option<Sink>,
    /// The outcome is a Status object.
    pub json_status: bool,
    carrier: Carrier,
}

impl Source {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Source::Channel(receiver) => receiver.recv().await,
            Source::Spdy(reader) => reader.read().await,
        }
    }
}

impl Sink {
    pub(super) async fn write(&mut self, data: Bytes) -> io::Result<()> {
        match self {
            Sink::Channel { channels, number, .. } => channels.send(*number, &data).await,
            Sink::Spdy(writer) => writer.write(data).await,
        }
    }

    /// Says that nothing more comes.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Sink::Channel { channels, number, closes: true } => channels.close_channel(*number).await,
            Sink::Channel { .. } => Ok(()),
            Sink::Spdy(writer) => writer.finish().await,
        }
    }
}

impl Front {
    /// Returns when the client has gone.
    pub(super) async fn gone(&self) {
        match &self.carrier {
            Carrier::WebSocket(channels) => channels.closed.cancelled().await,
            Carrier::Spdy(connection) => connection.closed().await,
        }
    }

    /// Sends what is waiting and closes the connection.
    pub(super) async fn finish(self) {
        match self.carrier {
            Carrier::WebSocket(channels) => channels.finish().await,
            Carrier::Spdy(connection) => connection.shut_down().await,
        }
    }
}

/// Takes the streams that the client opens.
pub(super) async fn open(io: Io, offer: &Offer, wanted: StreamOptions) -> io::Result<Front> {
    match offer {
        Offer::WebSocket { .. } => websocket(io, offer, wanted).await,
        Offer::Spdy { .. } => tokio::time::timeout(OPENING, spdy_streams(io, offer, wanted)).await?,
    }
}

async fn websocket(io: Io, offer: &Offer, wanted: StreamOptions) -> io::Result<Front> {
    let mut reads = Vec::new();
    if wanted.stdin {
        reads.push(channel::STDIN);
    }
    if wanted.tty {
        reads.push(channel::RESIZE);
    }
    let closes = offer.closes_by_message();
    let (channels, mut read) = Channels::start(ws::accept(io).await, offer.is_base64(), closes, &reads);
    let sink = |number| Sink::Channel { channels: channels.clone(), number, closes: false };
    let stdout = wanted.stdout.then(|| sink(channel::STDOUT));
    let stderr = wanted.stderr.then(|| sink(channel::STDERR));
    // An empty message shows the client that the session stands.
    let first = if wanted.stdout {
        channel::STDOUT
    } else if wanted.stderr {
        channel::STDERR
    } else {
        channel::ERROR
    };
    channels.send(first, &[]).await?;
    Ok(Front {
        stdin: read.remove(&channel::STDIN).map(Source::Channel),
        resize: read.remove(&channel::RESIZE).map(Source::Channel),
        stdout,
        stderr,
        error: Some(sink(channel::ERROR)),
        json_status: offer.status_is_json(),
        carrier: Carrier::WebSocket(channels),
    })
}

async fn spdy_streams(io: Io, offer: &Offer, wanted: StreamOptions) -> io::Result<Front> {
    let (connection, mut incoming) = spdy::Connection::start(io, spdy::Role::Server)?;
    // Clients of the first two versions have no resize stream.
    let resizes = wanted.tty && !matches!(offer.protocol(), "" | "channel.k8s.io" | "v2.channel.k8s.io");
    let expected = 1 + [wanted.stdin, wanted.stdout, wanted.stderr, resizes].iter().filter(|w| **w).count();
    let mut front = Front {
        stdin: None,
        resize: None,
        stdout: None,
        stderr: None,
        error: None,
        json_status: offer.status_is_json(),
        carrier: Carrier::Spdy(connection),
    };
    for _ in 0..expected {
        let stream = incoming.next().await.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the client ended before its {expected} streams were open"),
            )
        })?;
        match stream.header("streamtype") {
            "error" => front.error = Some(Sink::Spdy(stream.writer)),
            "stdin" => front.stdin = Some(Source::Spdy(stream.reader)),
            "stdout" => front.stdout = Some(Sink::Spdy(stream.writer)),
            "stderr" => front.stderr = Some(Sink::Spdy(stream.writer)),
            "resize" => front.resize = Some(Source::Spdy(stream.reader)),
            other => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected stream type: {other:?}")));
            }
        }
    }
    Ok(front)
}
