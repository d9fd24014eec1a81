//! Which protocol a streaming request asks for, and which of its versions both sides know.

use http::{HeaderMap, Request, StatusCode};

use super::super::reply::{self, Reply};

/// WebSocket protocols of exec and attach, oldest last.
const REMOTE_WEBSOCKET: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// SPDY protocols of exec and attach.
const REMOTE_SPDY: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// WebSocket protocols of port-forward: a SPDY connection carried in messages, or a channel pair for each port.
const FORWARD_WEBSOCKET: [&str; 3] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// WebSocket protocols of logs.
const LOG_WEBSOCKET: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
/// SPDY protocol of port-forward.
const FORWARD_SPDY: [&str; 1] = ["portforward.k8s.io"];

/// kubectl's port-forward since 1.31 (KEP-4006).
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What the request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Kind {
    /// Exec and attach.
    Remote,
    /// Port-forward.
    PortForward,
    /// A log, in messages (WebSocket only).
    Log,
}

/// What was agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) enum Offer {
    /// With the answer to the client's key.
    WebSocket { protocol: String, accept: String },
    /// SPDY/3.1.
    Spdy { protocol: String },
}

impl Offer {
    /// Chooses, or says why not.
    pub(in crate::server) fn of<B>(request: &Request<B>, kind: Kind) -> Result<Self, Reply> {
        let headers = request.headers();
        let upgrades = tokens(headers, "connection").iter().any(|t| t.eq_ignore_ascii_case("upgrade"));
        let to = tokens(headers, "upgrade");
        if upgrades && to.iter().any(|t| t.eq_ignore_ascii_case("websocket")) {
            return websocket(headers, kind);
        }
        if upgrades && kind != Kind::Log && to.iter().any(|t| t.eq_ignore_ascii_case("spdy/3.1")) {
            return spdy(headers, kind);
        }
        let why = "unable to upgrade: missing upgrade headers in request: want Connection: Upgrade and Upgrade: \
                   websocket or SPDY/3.1";
        Err(reply::text(StatusCode::BAD_REQUEST, why))
    }

    /// Whether the request asks for a WebSocket.
    pub(in crate::server) fn wants_websocket<B>(request: &Request<B>) -> bool {
        tokens(request.headers(), "upgrade").iter().any(|t| t.eq_ignore_ascii_case("websocket"))
    }

    /// The headers of the 101.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            Offer::WebSocket { protocol, accept } => {
                let mut headers = vec![
                    ("connection", "Upgrade".to_string()),
                    ("upgrade", "websocket".to_string()),
                    ("sec-websocket-accept", accept.clone()),
                ];
                if !protocol.is_empty() {
                    headers.push(("sec-websocket-protocol", protocol.clone()));
                }
                headers
            }
            Offer::Spdy { protocol } => {
                let mut headers = vec![("connection", "Upgrade".to_string()), ("upgrade", "SPDY/3.1".to_string())];
                if !protocol.is_empty() {
                    headers.push(("x-stream-protocol-version", protocol.clone()));
                }
                headers
            }
        }
    }

    /// The version agreed on; empty is the first one, which had no name.
    pub(super) fn protocol(&self) -> &str {
        match self {
            Offer::WebSocket { protocol, .. } | Offer::Spdy { protocol } => protocol,
        }
    }

    /// Messages are base64 text.
    pub(super) fn is_base64(&self) -> bool {
        self.protocol().contains("base64")
    }

    /// The outcome is told as a Status object rather than as text.
    pub(super) fn status_is_json(&self) -> bool {
        self.protocol().starts_with("v4") || self.protocol().starts_with("v5")
    }

    /// The client may close standard input alone.
    pub(super) fn closes_by_message(&self) -> bool {
        self.protocol().starts_with("v5")
    }
}

fn websocket(headers: &HeaderMap, kind: Kind) -> Result<Offer, Reply> {
    let known: &[&str] = match kind {
        Kind::Remote => &REMOTE_WEBSOCKET,
        Kind::PortForward => &FORWARD_WEBSOCKET,
        Kind::Log => &LOG_WEBSOCKET,
    };
    let key = headers.get("sec-websocket-key").map(|k| k.as_bytes());
    let Some(key) = key else {
        return Err(reply::text(StatusCode::BAD_REQUEST, "unable to upgrade: the header Sec-WebSocket-Key is missing"));
    };
    if headers.get("sec-websocket-version").is_none_or(|v| v.as_bytes() != b"13") {
        return Err(reply::text(StatusCode::BAD_REQUEST, "unable to upgrade: only WebSocket version 13 is known"));
    }
    let offered = tokens(headers, "sec-websocket-protocol");
    let protocol = agree(&offered, known).map_err(|why| reply::text(StatusCode::FORBIDDEN, why))?;
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key);
    Ok(Offer::WebSocket { protocol, accept })
}

fn spdy(headers: &HeaderMap, kind: Kind) -> Result<Offer, Reply> {
    let known: &[&str] = if kind == Kind::Remote { &REMOTE_SPDY } else { &FORWARD_SPDY };
    let offered = tokens(headers, "x-stream-protocol-version");
    match agree(&offered, known) {
        Ok(protocol) => Ok(Offer::Spdy { protocol }),
        Err(why) => {
            let mut refusal = reply::text(StatusCode::FORBIDDEN, why);
            for version in known {
                let value = http::HeaderValue::from_static(version);
                refusal.headers_mut().append("x-accepted-stream-protocol-versions", value);
            }
            Err(refusal)
        }
    }
}

/// The first of the client's versions that is known. A client that names none speaks the first version.
fn agree(offered: &[String], known: &[&str]) -> Result<String, String> {
    if offered.is_empty() {
        return Ok(String::new());
    }
    offered.iter().find(|o| known.contains(&o.as_str())).cloned().ok_or_else(|| {
        format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        )
    })
}

/// The comma-separated values of a header that may be repeated.
fn tokens(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|t| t.trim().to_string()).filter(|t| !t.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        headers.iter().fold(Request::builder(), |b, (k, v)| b.header(*k, *v)).body(()).unwrap()
    }

    const WS: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn the_clients_first_known_version_is_taken() {
        let ws = |protocol| request(&[&WS[..], &[("sec-websocket-protocol", protocol)]].concat());
        let offer = Offer::of(&ws("v9.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io"), Kind::Remote).unwrap();
        assert_eq!(offer.protocol(), "v5.channel.k8s.io");
        assert!(offer.headers().contains(&("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into())));
        assert_eq!(Offer::of(&ws(TUNNEL), Kind::PortForward).unwrap().protocol(), TUNNEL);
        assert_eq!(Offer::of(&ws(TUNNEL), Kind::Remote).unwrap_err().status(), StatusCode::FORBIDDEN);
        assert_eq!(Offer::of(&request(&WS), Kind::Remote).unwrap().protocol(), "");
    }

    #[test]
    fn spdy_is_agreed_on_and_refused_with_what_is_known() {
        let spdy = |protocol| {
            request(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)])
        };
        let offer = Offer::of(&spdy("v4.channel.k8s.io"), Kind::Remote).unwrap();
        assert_eq!(offer, Offer::Spdy { protocol: "v4.channel.k8s.io".into() });
        let refusal = Offer::of(&spdy("v7"), Kind::PortForward).unwrap_err();
        assert_eq!(refusal.headers()["x-accepted-stream-protocol-versions"], "portforward.k8s.io");
        assert_eq!(Offer::of(&request(&[]), Kind::Remote).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
