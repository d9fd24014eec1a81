//! The node's own client certificate: kept in the data directory, shown at every handshake, renewed while the program runs.

use super::bootstrap::{self, Credential, Wanted};
use crate::instance::write_whole;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use kube::client::ConfigExt as _;
use parking_lot::RwLock;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Time between two looks at the certificate's age.
const LOOK: Duration = Duration::from_secs(3600);
/// A connection on which nothing comes for so long is asked for a sign of life, and given up after as long again.
const ALIVE: Duration = Duration::from_secs(15);

/// A certificate with its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    /// `DIR/NAME.crt` and `DIR/NAME.key`.
    pub fn new(dir: &Path, name: &str) -> Pair {
        Pair { certificate: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
    }

    /// The certificate and key, PEM, if there are such.
    pub fn read(&self) -> Option<(String, String)> {
        Some((std::fs::read_to_string(&self.certificate).ok()?, std::fs::read_to_string(&self.key).ok()?))
    }

    /// Keeps them.
    pub fn write(&self, certificate: &str, key: &str) -> Result<()> {
        write_whole(&self.key, key.as_bytes())?;
        write_whole(&self.certificate, certificate.as_bytes())
    }
}

/// First and last instant of a certificate.
pub fn validity(pem: &str) -> Result<(Timestamp, Timestamp)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).context("the certificate is not PEM")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp());
    Ok((at(certificate.validity().not_before)?, at(certificate.validity().not_after)?))
}

/// Whether two thirds of its life are over.
pub fn is_old(pem: &str, now: Timestamp) -> bool {
    let Ok((from, until)) = validity(pem) else { return true };
    let third = (until.as_second() - from.as_second()) / 3;
    until.as_second() - now.as_second() < third
}

/// A key and the request for a certificate of it, PEM both.
pub fn request(params: CertificateParams) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), params.serialize_request(&key)?.pem()?))
}

/// The subject of a node's certificates.
pub fn subject(node: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "system:nodes");
    name.push(DnType::CommonName, format!("system:node:{node}"));
    name
}

async fn ask(client: &kube::Client, node: &str) -> Result<(String, String)> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(node);
    let (key, request_pem) = request(params)?;
    let wanted = Wanted { signer: SIGNER, purpose: "client auth", request_pem };
    Ok((bootstrap::certificate(client, wanted).await?, key))
}

/// Gives handshakes the newest client certificate.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(certificate: &str, key: &str) -> Result<Arc<CertifiedKey>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("the node's key is not PEM")?;
    Ok(Arc::new(CertifiedKey::new(chain?, ring::sign::any_supported_type(&key)?)))
}

/// Who the node is to the API server.
pub struct Identity {
    node: String,
    pair: Pair,
    /// PEM of the cluster's authority.
    pub ca_pem: String,
    shown: Arc<Shown>,
    /// The client with this identity.
    pub client: kube::Client,
}

/// Where a node's credentials are, and how it gets them.
pub struct Place<'a> {
    pub pki: &'a Path,
    pub node: &'a str,
    pub server: &'a http::Uri,
    pub credential: Option<&'a Credential>,
}

impl Identity {
    /// The identity kept in the directory, or one got by the token.
    pub async fn open(place: Place<'_>) -> Result<Identity> {
        let Place { pki, node, server, credential } = place;
        let pair = Pair::new(pki, "kubelet-client");
        let ca_path = pki.join("ca.crt");
        let kept = std::fs::read_to_string(&ca_path).ok().zip(pair.read());
        let kept =
            kept.filter(|(_, (certificate, _))| validity(certificate).is_ok_and(|(_, end)| end > Timestamp::now()));
        let (ca_pem, (certificate, key)) = match (kept, credential) {
            (Some(kept), _) => kept,
            (None, Some(credential)) => {
                let ca_pem = bootstrap::discover(server, credential).await?;
                let first = bootstrap::with_token(server, &ca_pem, credential)?;
                let (certificate, key) = ask(&first, node).await?;
                pair.write(&certificate, &key)?;
                write_whole(&ca_path, ca_pem.as_bytes())?;
                (ca_pem, (certificate, key))
            }
            (None, None) => bail!(
                "this node has no valid certificate yet: give it a token (--token), which `caravel token create` on the server makes"
            ),
        };
        let shown = Arc::new(Shown(RwLock::new(certified(&certificate, &key)?)));
        let client = client(server, &ca_pem, shown.clone())?;
        Ok(Identity { node: node.to_owned(), pair, ca_pem, shown, client })
    }

    /// Renews the certificate when it is due, until `stop`.
    pub async fn renew_until(&self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.renew().await {
                tracing::error!(error = format!("{error:#}"), "the node's client certificate could not be renewed");
            }
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(LOOK) => {} }
        }
    }

    async fn renew(&self) -> Result<()> {
        let (certificate, _) = self.pair.read().context("the node's certificate is gone from the data directory")?;
        if !is_old(&certificate, Timestamp::now()) {
            return Ok(());
        }
        let (certificate, key) = ask(&self.client, &self.node).await?;
        self.pair.write(&certificate, &key)?;
        *self.shown.0.write() = certified(&certificate, &key)?;
        tracing::info!("the node's client certificate was renewed");
        Ok(())
    }
}

fn client(server: &http::Uri, ca_pem: &str, shown: Arc<Shown>) -> Result<kube::Client> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.context("the authority's certificate")?)?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_cert_resolver(shown);
    let mut tcp = hyper_util::client::legacy::connect::HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(ALIVE));
    tcp.set_keepalive(Some(ALIVE));
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .wrap_connector(tcp);
    let http = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .timer(hyper_util::rt::TokioTimer::new())
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .http2_keep_alive_interval(ALIVE)
        .http2_keep_alive_timeout(ALIVE)
        .http2_keep_alive_while_idle(true)
        .build(https);
    let config = kube::Config::new(server.clone());
    let service = tower::ServiceBuilder::new().layer(config.base_uri_layer()).service(http);
    Ok(kube::Client::new(service, "default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_old_after_two_thirds_of_its_life() {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        let day = |n: i8| jiff::civil::date(2026, 1, n).in_tz("UTC").expect("day").timestamp();
        assert!(!is_old(&pem, day(20)));
        assert!(is_old(&pem, day(22)));
        assert!(is_old("", day(2)));
    }
}
