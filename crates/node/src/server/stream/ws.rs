//! Kubernetes' channels over one WebSocket: the first byte (or, in base64 form, character) of a message names the
//! channel.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::Io;

/// In protocol v5: the message `[255, n]` closes channel `n`.
const CLOSE: u8 = 255;
/// Messages that wait for the connection, and for a channel's reader.
const AHEAD: usize = 8;
/// The largest message taken.
const MAX_MESSAGE: usize = 4 << 20;

/// A connection, as the server.
pub(super) async fn accept(io: Io) -> WebSocketStream<Io> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The sending side of all channels.
#[derive(Clone)]
pub(super) struct Channels {
    outgoing: mpsc::Sender<Message>,
    base64: bool,
    /// The connection has ended.
    pub closed: CancellationToken,
    /// The last message was sent.
    flushed: CancellationToken,
}

impl Channels {
    /// Starts the tasks that read and write the connection. `read` are the channels that the client sends on.
    pub(super) fn start(
        socket: WebSocketStream<Io>,
        base64: bool,
        closes: bool,
        read: &[u8],
    ) -> (Channels, HashMap<u8, mpsc::Receiver<Bytes>>) {
        let (sink, stream) = socket.split();
        let (outgoing, messages) = mpsc::channel(AHEAD);
        let (closed, flushed) = (CancellationToken::new(), CancellationToken::new());
        let (senders, receivers) = read
            .iter()
            .map(|channel| {
                let (sender, receiver) = mpsc::channel(AHEAD);
                ((*channel, sender), (*channel, receiver))
            })
            .unzip();
        tokio::spawn(write(sink, messages, closed.clone(), flushed.clone()));
        tokio::spawn(receive(stream, senders, base64, closes, closed.clone()));
        (Channels { outgoing, base64, closed, flushed }, receivers)
    }

    /// Sends on a channel.
    pub(super) async fn send(&self, channel: u8, data: &[u8]) -> std::io::Result<()> {
        let message = if self.base64 {
            Message::text(format!("{}{}", (b'0' + channel) as char, BASE64.encode(data)))
        } else {
            let mut bytes = BytesMut::with_capacity(1 + data.len());
            bytes.put_u8(channel);
            bytes.put_slice(data);
            Message::binary(bytes.freeze())
        };
        self.raw(message).await
    }

    /// Says that nothing more comes on a channel (protocol v5).
    pub(super) async fn close_channel(&self, channel: u8) -> std::io::Result<()> {
        self.raw(Message::binary(Bytes::copy_from_slice(&[CLOSE, channel]))).await
    }

    async fn raw(&self, message: Message) -> std::io::Result<()> {
        let gone = || std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the WebSocket has ended");
        tokio::select! {
            sent = self.outgoing.send(message) => sent.map_err(|_| gone()),
            () = self.closed.cancelled() => Err(gone()),
        }
    }

    /// Sends what is waiting and says good-bye.
    pub(super) async fn finish(&self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if self.raw(Message::Close(Some(frame))).await.is_ok() {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.flushed.cancelled()).await;
            // The client answers with a close of its own; a connection cut before that may lose what it has not read.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.closed.cancelled()).await;
        }
        self.closed.cancel();
    }
}

/// Sends parts until they end or the client has gone.
pub(super) async fn send_parts(io: Io, base64: bool, mut parts: mpsc::Receiver<Result<Bytes, std::io::Error>>) {
    let message = |data: Bytes| {
        if base64 { Message::text(BASE64.encode(&data)) } else { Message::binary(data) }
    };
    let (mut sink, mut stream) = accept(io).await.split();
    let mut next = Some(Bytes::new());
    while let Some(data) = next {
        if sink.send(message(data)).await.is_err() {
            return;
        }
        next = loop {
            tokio::select! {
                part = parts.recv() => break part.and_then(Result::ok),
                message = stream.next() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    // Reading answers pings.
                    Some(Ok(_)) => {}
                },
            }
        };
    }
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if sink.send(Message::Close(Some(frame))).await.is_ok() {
        let rest = async { while let Some(Ok(_)) = stream.next().await {} };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), rest).await;
    }
}

async fn write(
    mut sink: SplitSink<WebSocketStream<Io>, Message>,
    mut messages: mpsc::Receiver<Message>,
    closed: CancellationToken,
    flushed: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = closed.cancelled() => None,
        };
        let Some(message) = message else { break };
        let last = message.is_close();
        let sent = if messages.is_empty() { sink.send(message).await } else { sink.feed(message).await };
        if sent.is_err() || last {
            let _ = sink.flush().await;
            if sent.is_err() {
                closed.cancel();
            }
            break;
        }
    }
    flushed.cancel();
}

async fn receive(
    mut stream: SplitStream<WebSocketStream<Io>>,
    mut channels: HashMap<u8, mpsc::Sender<Bytes>>,
    base64: bool,
    closes: bool,
    closed: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            () = closed.cancelled() => break,
        };
        let data = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => break,
            // Pings are answered below us.
            Some(Ok(_)) => continue,
        };
        match decode(&data, base64) {
            Some((CLOSE, rest)) if closes => {
                if let Some(channel) = rest.first() {
                    channels.remove(channel);
                }
            }
            Some((channel, rest)) if !rest.is_empty() => {
                if let Some(sender) = channels.get(&channel)
                    && sender.send(rest).await.is_err()
                {
                    channels.remove(&channel);
                }
            }
            _ => {}
        }
    }
    closed.cancel();
}

/// The channel and the content of a message; `None` when it is not in the form agreed on.
fn decode(message: &Bytes, base64: bool) -> Option<(u8, Bytes)> {
    let first = *message.first()?;
    if !base64 {
        return Some((first, message.slice(1..)));
    }
    let content = BASE64.decode(&message[1..]).ok()?;
    Some((first.checked_sub(b'0')?, content.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_channel() {
        assert_eq!(decode(&Bytes::from_static(b"\x00hi"), false), Some((0, Bytes::from_static(b"hi"))));
        assert_eq!(decode(&Bytes::from_static(b"\xff\x00"), false), Some((CLOSE, Bytes::from_static(b"\0"))));
        assert_eq!(decode(&Bytes::from_static(b"4aGk="), true), Some((4, Bytes::from_static(b"hi"))));
        assert_eq!(decode(&Bytes::from_static(b"0!!"), true), None);
        assert_eq!(decode(&Bytes::new(), false), None);
    }
}
