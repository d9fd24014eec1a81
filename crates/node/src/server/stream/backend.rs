//! The runtime's side of an exec or attach session: SPDY on the runtime's streaming server, at the URL that it gave.
//!
//! SPDY and not WebSocket, because only SPDY can close standard input alone in the protocol versions that containerd
//! 1.6 knows, and `echo x | kubectl exec -i … -- cat` must end.

use std::io;
use std::time::Duration;

use caravel_runtime::StreamOptions;
use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::spdy::{Connection, Headers, Role, Stream};

/// How long the runtime may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The largest head of an answer, and the largest error text.
const MAX_HEAD: usize = 16 << 10;

/// The session's streams.
pub(super) struct Backend {
    pub error: Stream,
    pub stdin: Option<Stream>,
    pub stdout: Option<Stream>,
    pub stderr: Option<Stream>,
    pub resize: Option<Stream>,
    /// Holds the connection.
    pub connection: Connection,
}

impl Backend {
    /// Connects and opens the streams.
    pub(super) async fn open(url: &str, streams: StreamOptions) -> io::Result<Self> {
        tokio::time::timeout(ANSWER, Self::connect(url, streams))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the runtime's streaming server does not answer"))?
    }

    async fn connect(url: &str, streams: StreamOptions) -> io::Result<Self> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("streaming URL {url:?}: {why}"));
        let uri: Uri = url.parse().map_err(|_| invalid("it cannot be read"))?;
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?.clone();
        let port = authority.port_u16().unwrap_or(80);
        let mut socket = TcpStream::connect((authority.host().trim_matches(['[', ']']), port)).await?;
        socket.set_nodelay(true)?;
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let head = read_head(&mut socket).await?;
        let status = status_of(&head).ok_or_else(|| invalid("the answer is not HTTP"))?;
        if status != 101 {
            let mut body = Vec::new();
            let mut rest = socket.take(MAX_HEAD as u64);
            let read = rest.read_to_end(&mut body);
            // The server may keep the connection open; what has come by then is enough for a message.
            let _ = tokio::time::timeout(Duration::from_millis(500), read).await;
            let text = String::from_utf8_lossy(&body).trim().to_string();
            return Err(io::Error::other(format!("the runtime refused the session ({status}): {text}")));
        }
        let (connection, _) = Connection::start(socket, Role::Client)?;
        let open = |type_: &'static str, wanted: bool| {
            let connection = &connection;
            async move {
                if !wanted {
                    return Ok::<_, io::Error>(None);
                }
                let headers = Headers::from([("streamtype".to_string(), type_.to_string())]);
                connection.open(headers).await.map(Some)
            }
        };
        // The order is kubectl's; the runtime waits until all are there.
        let error = open("error", true).await?.ok_or_else(|| invalid("no error stream"))?;
        let stdin = open("stdin", streams.stdin).await?;
        let stdout = open("stdout", streams.stdout).await?;
        let stderr = open("stderr", streams.stderr && !streams.tty).await?;
        let resize = open("resize", streams.tty).await?;
        Ok(Backend { error, stdin, stdout, stderr, resize, connection })
    }
}

/// Up to the empty line, and not a byte more: what follows is already SPDY.
async fn read_head<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of the runtime's answer is too large"));
        }
        head.push(from.read_u8().await?);
    }
    Ok(head)
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_head_is_read_to_its_last_byte() {
        let mut from: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\nrest";
        let head = read_head(&mut from).await.unwrap();
        assert_eq!((status_of(&head), from), (Some(101), &b"rest"[..]));
        assert!(read_head(&mut &b"HTTP/1.1 200"[..]).await.is_err());
        assert_eq!(status_of(b"nonsense"), None);
    }
}
