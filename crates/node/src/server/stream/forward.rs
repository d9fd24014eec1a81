//! Port-forward: pairs of streams, one for a connection's data and one for what goes wrong with it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::super::query::Query;
use super::super::spdy;
use super::Io;
use super::negotiate::{Offer, TUNNEL};
use super::ws::{self, Channels};
use super::{front::Sink, front::Source, netns};

/// How long the second stream of a pair may take.
const PAIRING: Duration = Duration::from_secs(30);
/// Pairs of which one stream is missing.
const MAX_UNPAIRED: usize = 256;
/// Bytes moved at once.
const CHUNK: usize = 32 << 10;

/// Where connections go.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// A process in the Pod's network namespace.
    pub pid: i32,
    /// `name_namespace`, for messages.
    pub pod: String,
    /// The Pod's UID, for messages.
    pub uid: String,
}

impl Network {
    /// Upstream's words.
    fn failure(&self, port: u16, error: &io::Error) -> String {
        format!("error forwarding port {port} to pod {}, uid {}: {error}", self.pod, self.uid)
    }
}

/// The ports of a request. Only the form with channels names them there; with SPDY each stream names its own.
pub(super) fn ports(query: &Query, offer: &Offer) -> Result<Vec<u16>, String> {
    if matches!(offer, Offer::Spdy { .. }) || offer.protocol() == TUNNEL {
        return Ok(Vec::new());
    }
    let given = query.all("port").into_iter().chain(query.all("ports"));
    let texts: Vec<String> = given.flat_map(|p| p.split(',').map(str::to_string).collect::<Vec<_>>()).collect();
    if texts.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    // Two channels for each port, and channel numbers have one byte (in base64 form one digit).
    let most = if offer.is_base64() { 5 } else { 127 };
    if texts.len() > most {
        return Err(format!("at most {most} ports can be forwarded at once"));
    }
    let parse = |text: &String| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("query parameter \"port\" must be a port number from 1 to 65535, not {text:?}")),
    };
    texts.iter().map(parse).collect()
}

/// Forwards until the client has gone.
pub(super) async fn run(io: Io, offer: Offer, ports: Vec<u16>, network: Network) {
    let result = match &offer {
        Offer::Spdy { .. } => over_spdy(io, network).await,
        Offer::WebSocket { protocol, .. } if protocol == TUNNEL => over_spdy(tunnel(io).await, network).await,
        Offer::WebSocket { .. } => {
            over_channels(io, offer.is_base64(), ports, network).await;
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a port-forward session ended");
    }
}

/// The bytes in a WebSocket's messages as one stream.
async fn tunnel(io: Io) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut sink, mut stream) = ws::accept(io).await.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let outward = async {
            loop {
                let mut part = BytesMut::with_capacity(CHUNK);
                match read.read_buf(&mut part).await {
                    Ok(n) if n > 0 && sink.send(Message::binary(part.freeze())).await.is_ok() => {}
                    _ => break,
                }
            }
            let _ = sink.close().await;
        };
        let inward = async {
            while let Some(Ok(message)) = stream.next().await {
                let data = match message {
                    Message::Binary(data) => data,
                    Message::Close(_) => break,
                    _ => continue,
                };
                if write.write_all(&data).await.is_err() {
                    break;
                }
            }
            let _ = write.shutdown().await;
        };
        tokio::join!(outward, inward);
    });
    ours
}

/// The streams of one connection to a port.
#[derive(Default)]
struct Pair {
    data: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
}

async fn over_spdy<I>(io: I, network: Network) -> io::Result<()>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let (connection, mut incoming) = spdy::Connection::start(io, spdy::Role::Server)?;
    let network = Arc::new(network);
    let mut waiting: HashMap<String, (tokio::time::Instant, Pair)> = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = incoming.next() => stream,
            Some(_) = tasks.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        let now = tokio::time::Instant::now();
        waiting.retain(|_, (since, _)| now - *since < PAIRING);
        if waiting.len() >= MAX_UNPAIRED {
            return Err(io::Error::other("too many streams wait for their second half"));
        }
        let key = request_id(&stream);
        let (_, mut pair) = waiting.remove(&key).unwrap_or_else(|| (now, Pair::default()));
        match stream.header("streamtype") {
            "data" => pair.data = Some(stream),
            "error" => pair.error = Some(stream),
            // What is neither breaks only itself.
            _ => continue,
        }
        match pair {
            Pair { data: Some(data), error: Some(error) } => {
                tasks.spawn(forward_spdy(data, error, network.clone()));
            }
            pair => {
                waiting.insert(key, (now, pair));
            }
        }
    }
    drop(connection);
    Ok(())
}

/// Old clients name no request: the data stream follows its error stream.
fn request_id(stream: &spdy::Stream) -> String {
    match stream.header("requestid") {
        "" if stream.header("streamtype") == "data" => format!("#{}", stream.id.saturating_sub(2)),
        "" => format!("#{}", stream.id),
        id => id.to_string(),
    }
}

async fn forward_spdy(data: spdy::Stream, error: spdy::Stream, network: Arc<Network>) {
    let spdy::Stream { headers, reader, mut writer, .. } = data;
    let mut told = error.writer;
    let port = headers.get("port").map_or("", String::as_str);
    let result = match port.parse::<u16>() {
        Ok(port) if port > 0 => match netns::connect(network.pid, port).await {
            Ok(socket) => {
                let moved = exchange(socket, Source::Spdy(reader), Sink::Spdy(writer)).await;
                moved.map_err(|e| network.failure(port, &e))
            }
            Err(error) => {
                let _ = writer.finish().await;
                Err(network.failure(port, &error))
            }
        },
        _ => {
            let _ = writer.finish().await;
            Err(format!("unable to parse {port:?} as a port"))
        }
    };
    if let Err(text) = result {
        let _ = told.write(text.into()).await;
    }
    let _ = told.finish().await;
}

/// Moves bytes both ways until both directions have ended.
async fn exchange(socket: TcpStream, mut from: Source, mut to: Sink) -> io::Result<()> {
    let (mut read, mut write) = socket.into_split();
    let outward = async {
        while let Some(data) = from.next().await {
            write.write_all(&data).await?;
        }
        // Some servers end at once on a half-closed connection only after their answer; that is theirs to decide.
        write.shutdown().await
    };
    let inward = async {
        loop {
            let mut part = BytesMut::with_capacity(CHUNK);
            if read.read_buf(&mut part).await? == 0 {
                return to.finish().await;
            }
            to.write(part.freeze()).await?;
        }
    };
    tokio::pin!(outward, inward);
    // When the server has ended, what the client still sends has no receiver.
    tokio::select! {
        result = &mut inward => result,
        sent = &mut outward => match sent {
            Ok(()) => inward.await,
            // The server closed its reading side; its answer may still come.
            Err(_) => inward.await,
        },
    }
}

/// Channel `2i` carries the data of port `i`, channel `2i + 1` its errors; each begins with the port, little-endian.
async fn over_channels(io: Io, base64: bool, ports: Vec<u16>, network: Network) {
    let numbers: Vec<u8> = (0..ports.len() as u8).map(|i| 2 * i).collect();
    let (channels, mut read) = Channels::start(ws::accept(io).await, base64, false, &numbers);
    let mut tasks = tokio::task::JoinSet::new();
    for (number, port) in numbers.into_iter().zip(ports) {
        let Some(receiver) = read.remove(&number) else { continue };
        for n in [number, number + 1] {
            if channels.send(n, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        let (channels, network) = (channels.clone(), network.clone());
        tasks.spawn(async move {
            let sink = Sink::Channel { channels: channels.clone(), number, closes: false };
            let result = match netns::connect(network.pid, port).await {
                Ok(socket) => exchange(socket, Source::Channel(receiver), sink).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                let text: Bytes = network.failure(port, &error).into();
                let _ = channels.send(number + 1, &text).await;
            }
        });
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = all => channels.finish().await,
        () = channels.closed.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_needed_only_where_streams_do_not_name_them() {
        let channels = Offer::WebSocket { protocol: "v4.channel.k8s.io".into(), accept: String::new() };
        let spdy = Offer::Spdy { protocol: "portforward.k8s.io".into() };
        assert_eq!(ports(&Query::parse("port=80&port=443,8080"), &channels).unwrap(), [80, 443, 8080]);
        assert_eq!(ports(&Query::parse(""), &spdy).unwrap(), Vec::<u16>::new());
        for bad in ["", "port=0", "port=70000", "port=x"] {
            assert!(ports(&Query::parse(bad), &channels).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn pairs_are_joined_and_failures_told_on_the_error_stream() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut text = Vec::new();
                socket.read_to_end(&mut text).await.unwrap();
                text.reverse();
                socket.write_all(&text).await.unwrap();
            }
        });
        let (a, b) = tokio::io::duplex(1 << 16);
        let network = Network { pid: std::process::id() as i32, pod: "p_ns".into(), uid: "u".into() };
        let server = tokio::spawn(over_spdy(b, network));
        let (client, _incoming) = spdy::Connection::start(a, spdy::Role::Client).unwrap();
        for (port, sent, answer, id) in [(port, "abc", "cba", "1"), (1, "x", "", "2")] {
            let headers = |type_: &str| {
                spdy::Headers::from([
                    ("streamtype".to_string(), type_.to_string()),
                    ("port".to_string(), port.to_string()),
                    ("requestid".to_string(), id.to_string()),
                ])
            };
            let mut error = client.open(headers("error")).await.unwrap();
            error.writer.finish().await.unwrap();
            let mut data = client.open(headers("data")).await.unwrap();
            data.writer.write(sent.into()).await.unwrap();
            data.writer.finish().await.unwrap();
            let got = data.reader.read_to_end(1000).await;
            let told = String::from_utf8(error.reader.read_to_end(1000).await).unwrap();
            if told.contains("Operation not permitted") {
                return; // setns needs privileges
            }
            assert_eq!(String::from_utf8(got).unwrap(), answer);
            assert_eq!(told.contains("error forwarding port 1 to pod p_ns, uid u"), answer.is_empty(), "{told}");
        }
        drop(client);
        server.await.unwrap().unwrap();
    }
}
