//! One HTTP/1.1 connection over TLS, as cheap as a client can be: it shares the machine with the server.

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_yaml::Value;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;

/// The server and who we are to it.
pub struct Target {
    host: String,
    authority: String,
    token: Option<String>,
    tls: tokio_rustls::TlsConnector,
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
            tls: Arc::new(tls).into(),
        })
    }

    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.authority).await.with_context(|| self.authority.clone())?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from(self.host.clone())?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, authority: self.authority.clone(), token: self.token.clone() })
    }
}

fn material(of: &Value, name: &str) -> Option<Vec<u8>> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        return base64::engine::general_purpose::STANDARD.decode(data).ok();
    }
    std::fs::read(of[name].as_str()?).ok()
}

/// See the module documentation.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    token: Option<String>,
}

impl Connection {
    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut request = http::Request::builder().method(method).uri(path).header("host", &self.authority);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default().to_owned()));
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.header("content-type", content).body(body)?).await?)
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
