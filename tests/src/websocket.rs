//! WebSocket sessions with the server, under any subprotocol: old clients name ones that typed clients no longer do.

use crate::{PATIENCE, Wire, block_on};
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The messages of a session at `path`, until the server closes it.
pub fn websocket(wire: &Wire, path: &str, protocol: &str) -> Vec<Vec<u8>> {
    let request = http::Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(kube::client::Body::empty())
        .unwrap();
    let (client, wanted) = (wire.client(), protocol.to_owned());
    block_on(async move {
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 101, "{answer:?}");
        assert_eq!(answer.headers()["sec-websocket-protocol"], wanted.as_str());
        let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        let mut messages = vec![];
        let read = async {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(data) => messages.push(data.to_vec()),
                    Message::Text(text) => messages.push(text.as_bytes().to_vec()),
                    Message::Close(_) => break,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the session ends");
        messages
    })
}
