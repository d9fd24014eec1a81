//! What a server is told.

use crate::authn::UserInfo;
use crate::clock::{Clock, SystemClock};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The audit policy and where its events go.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// A file with an `audit.k8s.io/v1` Policy.
    pub policy: PathBuf,
    /// A log in a file.
    pub log: Option<crate::audit::log::LogOptions>,
    /// A server that takes events.
    pub webhook: Option<crate::audit::webhook::WebhookOptions>,
}

/// Everything that a server needs to know besides its store.
#[derive(Clone)]
pub struct Config {
    /// The data directory; keys and certificates are kept under `pki` in it.
    pub data_dir: PathBuf,
    /// The address at which others reach this server; it goes into the `kubernetes` Service's endpoints.
    pub advertise_address: IpAddr,
    /// The port at which it listens.
    pub port: u16,
    /// Further names or addresses for the serving certificate.
    pub extra_names: Vec<String>,
    /// Service address ranges, the primary first; at most one of each family.
    pub service_cidrs: Vec<String>,
    /// Node ports.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// The DNS domain of the cluster; the token issuer is `https://kubernetes.default.svc.DOMAIN`.
    pub cluster_domain: String,
    /// Static bearer tokens.
    pub tokens: Vec<(String, UserInfo)>,
    /// Secrets are encrypted in the store.
    pub encrypt_secrets: bool,
    /// APIs to serve that are off by default, `GROUP/VERSION=true` (`--runtime-config`).
    pub runtime_config: Vec<String>,
    /// Features to turn on that are off by default, `NAME=true`, or off that are on, `NAME=false` (`--feature-gates`).
    pub feature_gates: Vec<String>,
    /// Admission plug-ins to add to those that are on by default, by upstream's names (`--enable-admission-plugins`).
    pub admission_plugins: Vec<String>,
    /// What admission plug-ins are told (`--admission-control-config-file`).
    pub admission_configuration: Option<PathBuf>,
    /// A file that names further token issuers (`--authentication-config`).
    pub authentication: Option<PathBuf>,
    /// A file that says who is asked whether a request may be done (`--authorization-config`).
    pub authorization: Option<PathBuf>,
    /// What is recorded of requests, and where; nothing when `None`.
    pub audit: Option<AuditOptions>,
    /// How long Events live.
    pub event_ttl: Duration,
    /// Requests that are served at a time, watches and other long ones not counted.
    pub max_in_flight: usize,
    /// Watches and other long requests that are open at a time.
    pub max_long_running: usize,
    /// Connections that are open at a time.
    pub max_connections: usize,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// After this a request that is not long-running is given up.
    pub request_timeout: Duration,
    /// How long a watch lasts when the client does not say: between this and twice this.
    pub min_watch: Duration,
    /// At the end, how long requests that are under way get to finish.
    pub drain: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// The configuration of a server that keeps its keys in `data_dir` and listens on `port`.
    pub fn new(data_dir: impl Into<PathBuf>, advertise_address: IpAddr, port: u16) -> Self {
        Self {
            data_dir: data_dir.into(),
            advertise_address,
            port,
            extra_names: vec![],
            service_cidrs: vec!["10.96.0.0/16".into()],
            node_ports: 30000..=32767,
            cluster_domain: "cluster.local".into(),
            tokens: vec![],
            encrypt_secrets: true,
            runtime_config: vec![],
            feature_gates: vec![],
            admission_plugins: vec![],
            admission_configuration: None,
            authentication: None,
            authorization: None,
            audit: None,
            event_ttl: Duration::from_secs(3600),
            max_in_flight: 600,
            max_long_running: 20_000,
            max_connections: 20_000,
            max_body: 3 << 20,
            request_timeout: Duration::from_secs(60),
            min_watch: Duration::from_secs(1800),
            drain: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
        }
    }

    /// The issuer of service-account tokens, and the audience of this server.
    pub fn issuer(&self) -> String {
        format!("https://kubernetes.default.svc.{}", self.cluster_domain)
    }
}
