//! A connection over TLS, as cheap as a client can be: it shares the machine with the server. HTTP/1.1, one request at a time;
//! or HTTP/2, which many watches share, as those of client-go do.

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_yaml::Value;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The server and who we are to it.
pub struct Target {
    host: String,
    authority: String,
    token: Option<String>,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    /// Takes the first cluster and the first user of the file.
    pub fn from_kubeconfig(path: &Path) -> Result<Target> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let config: Value = serde_yaml::from_str(&text)?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let mut roots = rustls::RootCertStore::empty();
        for certificate in
            CertificateDer::pem_slice_iter(&material(cluster, "certificate-authority").context("the cluster's CA")?)
        {
            roots.add(certificate?)?;
        }
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots);
        let tls = match (material(user, "client-certificate"), material(user, "client-key")) {
            (Some(certificate), Some(key)) => {
                let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>()?;
                tls.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
            }
            _ => tls.with_no_client_auth(),
        };
        let server = cluster["server"].as_str().context("the cluster's server")?;
        let authority =
            server.strip_prefix("https://").context("the server's address must be https")?.trim_end_matches('/');
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        Ok(Target {
            host: host.to_owned(),
            authority: authority.to_owned(),
            token: user["token"].as_str().map(str::to_owned),
            tls: Arc::new(tls),
        })
    }

    async fn dial(&self, protocol: &[u8]) -> Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(&self.authority).await.with_context(|| self.authority.clone())?;
        stream.set_nodelay(true)?;
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        Ok(TokioIo::new(connector.connect(ServerName::try_from(self.host.clone())?, stream).await?))
    }

    fn over(&self, sender: Sender) -> Connection {
        Connection { sender, authority: self.authority.clone(), token: self.token.clone() }
    }

    /// One that takes one request at a time.
    pub async fn connect(&self) -> Result<Connection> {
        let (sender, connection) = http1::handshake(self.dial(b"http/1.1").await?).await?;
        tokio::spawn(connection);
        Ok(self.over(Sender::One(sender)))
    }

    /// One whose clones share it.
    pub async fn connect_shared(&self) -> Result<Connection> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), self.dial(b"h2").await?).await?;
        tokio::spawn(connection);
        Ok(self.over(Sender::Shared(sender)))
    }
}

fn material(of: &Value, name: &str) -> Option<Vec<u8>> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        return base64::engine::general_purpose::STANDARD.decode(data).ok();
    }
    std::fs::read(of[name].as_str()?).ok()
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Shared(http2::SendRequest<Full<Bytes>>),
}

/// See the module documentation.
pub struct Connection {
    sender: Sender,
    authority: String,
    token: Option<String>,
}

impl Connection {
    /// Another user of a shared connection; `None` when it is not shared.
    pub fn again(&self) -> Option<Connection> {
        let Sender::Shared(sender) = &self.sender else { return None };
        let sender = Sender::Shared(sender.clone());
        Some(Connection { sender, authority: self.authority.clone(), token: self.token.clone() })
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut request = http::Request::builder().method(method);
        request = match &self.sender {
            Sender::One(_) => request.uri(path).header("host", &self.authority),
            Sender::Shared(_) => request.uri(format!("https://{}{path}", self.authority)),
        };
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default().to_owned()));
        let request = request.header("content-type", content).body(body)?;
        Ok(match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Shared(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// The status and the whole body.
    pub async fn request(&mut self, method: &str, path: &str, body: Option<&str>) -> Result<(u16, Bytes)> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// Calls `line` with each line of a watch until it returns false or the watch ends.
    pub async fn lines(&mut self, path: &str, mut line: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let answer = self.send("GET", path, None).await?;
        if !answer.status().is_success() {
            return Err(anyhow!("watch {path}: {}", answer.status()));
        }
        let mut body = answer.into_body();
        let mut rest: Vec<u8> = vec![];
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            rest.extend_from_slice(&data);
            let mut start = 0;
            while let Some(end) = rest[start..].iter().position(|b| *b == b'\n') {
                if !line(&rest[start..start + end]) {
                    return Ok(());
                }
                start += end + 1;
            }
            rest.drain(..start);
        }
        Ok(())
    }
}
