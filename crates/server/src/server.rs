//! The server: opening, serving, ending.

use crate::authn::jwt::SigningKey;
use crate::authn::oidc::Issuers;
use crate::authn::service_account::ServiceAccounts;
use crate::authn::tokens::StaticTokens;
use crate::authn::x509::X509;
use crate::authn::{Identity, UserInfo};
use crate::authz::Authorizer;
use crate::bootstrap;
use crate::config::Config;
use crate::features::Features;
use crate::flow::Flow;
use crate::handlers::documents::Documents;
use crate::http::body::{Body, BoxError, RequestBody};
use crate::http::listener::{self, Connection, Peer};
use crate::metrics::Metrics;
use crate::pki::{AcceptAnyClient, Pki, ServingNames, kubeconfig};
use crate::registry::Registry;
use crate::registry::seal::Seal;
use crate::registry::services::{Allocator, Cidr};
use bytes::Bytes;
use caravel_store::Store;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use parking_lot::RwLock;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why a server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Keys or certificates.
    #[error(transparent)]
    Pki(#[from] crate::pki::PkiError),
    /// Encryption keys.
    #[error(transparent)]
    Seal(#[from] crate::registry::seal::SealError),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The objects that every cluster has could not be written.
    #[error("the cluster's first objects could not be written: {0}")]
    Bootstrap(String),
}

/// A Kubernetes API server over a store.
pub struct Server {
    pub(crate) config: Config,
    features: Features,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) pki: Arc<Pki>,
    pub(crate) x509: X509,
    pub(crate) service_accounts: ServiceAccounts,
    pub(crate) tokens: StaticTokens,
    pub(crate) issuers: RwLock<Arc<Issuers>>,
    /// In which way those who act as others did so last.
    pub(crate) impersonators: crate::authn::impersonate::memory::Memory,
    pub(crate) flow: Arc<Flow>,
    pub(crate) metrics: Metrics,
    pub(crate) audit: Option<crate::audit::Audit>,
    pub(crate) documents: Documents,
    pub(crate) usages: crate::usage::Usages,
    pub(crate) nodes: crate::proxy::Nodes,
    pub(crate) aggregation: crate::aggregation::Aggregation,
    /// Who may say in headers on whose behalf a request is.
    pub(crate) front_proxy: X509,
    /// Set when the end has begun: `/readyz` fails, so that balancers send no more.
    pub(crate) ending: AtomicBool,
    /// Cancelled when long-running requests must end.
    pub(crate) stop: CancellationToken,
}

impl Server {
    /// Opens a server: reads or makes its keys, writes the objects that every cluster has, compiles the RBAC policy, and
    /// starts its housekeeping tasks. It answers [`Server::local`] at once; [`Server::serve`] adds HTTPS.
    ///
    /// # Errors
    /// When keys cannot be read or made, the configuration makes no sense, or the store does not take the first objects.
    pub async fn open(config: Config, store: Arc<dyn Store>) -> Result<Arc<Self>, OpenError> {
        let mut ranges = vec![];
        for text in &config.service_cidrs {
            let range = Cidr::parse(text);
            ranges.push(range.ok_or_else(|| OpenError::Config(format!("the service range {text:?} is no CIDR")))?);
        }
        let primary = *ranges.first().ok_or_else(|| OpenError::Config("there is no service range".into()))?;
        let mut extra = config.extra_names.clone();
        extra.push(config.advertise_address.to_string());
        let names = ServingNames::new(&config.cluster_domain, primary.nth(0), &extra);
        let dir = config.data_dir.join("pki");
        let pki = Arc::new(Pki::open(&dir, names, config.clock.clone())?);
        let seal = if config.encrypt_secrets { Some(Seal::open(&dir)?) } else { None };
        let key = SigningKey::from_pkcs8(&pki.service_account_key).map_err(|e| OpenError::Config(e.to_string()))?;
        let issuer = config.issuer();
        let metrics = Metrics::new(&crate::identity::identity());
        let service_accounts =
            ServiceAccounts::new(key, issuer.clone(), vec![issuer]).counting(metrics.legacy_tokens.clone());
        let x509 = X509::new(&[pki.ca.cert_der()], config.clock.clone()).map_err(OpenError::Config)?;
        let authorizer = Arc::new(Authorizer::default());
        let allocator = Allocator::new(ranges, config.node_ports.clone());
        let registry =
            Arc::new(Registry::new(store, config.clock.clone(), authorizer.clone(), allocator, seal, config.event_ttl));
        let features = Features::parse(&config.runtime_config, &config.feature_gates).map_err(OpenError::Config)?;
        registry.change_kinds(|kinds| features.serve(kinds));
        let mut chain = (*registry.chain()).clone();
        for name in &config.admission_plugins {
            if !chain.enable(name) {
                return Err(OpenError::Config(format!("there is no admission plug-in {name:?}")));
            }
        }
        if let Some(path) = &config.admission_configuration {
            let told = crate::admission::configuration::Configuration::read(path).map_err(OpenError::Config)?;
            chain.configure(&told);
            registry.limit(told.limited);
        }
        registry.set_chain(chain);
        let authorization =
            config.authorization.as_deref().map(|path| bootstrap::reloads::Authorization::open(path, &authorizer));
        let authorization = authorization.transpose().map_err(OpenError::Config)?;
        let audit = config.audit.as_ref().map(|a| crate::audit::Audit::open(a, metrics.audit.clone()));
        let audit = audit.transpose().map_err(OpenError::Config)?;
        let own = config.issuer();
        let authentication =
            config.authentication.as_deref().map(|path| bootstrap::reloads::Authentication::open(path, &own));
        let (issuers, authentication) = authentication.transpose().map_err(OpenError::Config)?.unzip();
        let issuers: Issuers = issuers.unwrap_or_default();
        let server = Arc::new(Self {
            features,
            tokens: StaticTokens::new(config.tokens.clone()),
            impersonators: Default::default(),
            flow: Flow::new(config.max_in_flight, config.max_long_running),
            metrics,
            audit,
            issuers: RwLock::new(Arc::new(issuers)),
            documents: Documents::default(),
            usages: crate::usage::Usages::default(),
            nodes: crate::proxy::Nodes::new(&pki).map_err(OpenError::Config)?,
            aggregation: crate::aggregation::Aggregation::default(),
            front_proxy: X509::new(&[pki.front_proxy_ca.cert_der()], config.clock.clone())
                .map_err(OpenError::Config)?,
            ending: AtomicBool::new(false),
            stop: CancellationToken::new(),
            registry,
            authorizer,
            pki,
            x509,
            service_accounts,
            config,
        });
        bootstrap::policy_watch::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::objects::write(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::definitions::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::token_secrets::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::token_tracking::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        let hooks = crate::admission::webhook::follow(&server.registry, &server.stop).await;
        hooks.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::flow::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::policies::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        crate::aggregation::start(&server).await.map_err(|e| OpenError::Bootstrap(e.message))?;
        bootstrap::tasks::start(&server);
        if let Some(authentication) = authentication {
            authentication.follow(&server);
        }
        if let Some(authorization) = authorization {
            authorization.follow(&server);
        }
        if let Err(error) = bootstrap::reloads::follow_keys(&server) {
            tracing::warn!(%error, "changed encryption keys are taken over at the next start only");
        }
        Ok(server)
    }

    /// What is on and what is off, other than by default.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The keys and certificates.
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// The verbs over the store, for who extends the server in this process (custom resources, admission).
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The groups that are not this server's own: a part of this program may answer one.
    pub fn aggregation(&self) -> &crate::aggregation::Aggregation {
        &self.aggregation
    }

    /// The administrator's kubeconfig for the server at `url`.
    pub fn admin_kubeconfig(&self, url: &str) -> String {
        kubeconfig("caravel", url, self.pki.ca.cert_pem(), &self.pki.leaves().admin)
    }

    /// A service that answers requests of `identity` in this process, through the same pipeline as HTTPS.
    pub fn local(self: &Arc<Self>, identity: Identity) -> Local {
        Local { server: self.clone(), identity }
    }

    /// TLS as this server speaks it.
    pub fn tls(&self) -> Result<Arc<rustls::ServerConfig>, OpenError> {
        let mut provider = rustls::crypto::ring::default_provider();
        // The sort is stable: else as the provider has them.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let verifier = Arc::new(AcceptAnyClient::new(
            &[self.pki.ca.cert_der(), self.pki.front_proxy_ca.cert_der()],
            provider.clone(),
        ));
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| OpenError::Config(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.pki.serving());
        // A list of 14 MB is mostly encryption, for both sides; upstream's preference, too (crypto/tls).
        tls.ignore_client_order = true;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(tls))
    }

    /// Serves HTTPS on `listener` until `shutdown`. Then `/readyz` fails, watches and other long requests end, what is
    /// under way gets [`Config::drain`] to finish, and this returns.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub async fn serve(self: &Arc<Self>, listener: TcpListener, shutdown: CancellationToken) -> Result<(), OpenError> {
        let tls = self.tls()?;
        let close = CancellationToken::new();
        let ender = {
            let (server, close) = (self.clone(), close.clone());
            tokio::spawn(async move {
                shutdown.cancelled().await;
                server.ending.store(true, Ordering::Release);
                server.stop.cancel();
                close.cancel();
            })
        };
        let server = self.clone();
        listener::serve(listener, tls, self.config.max_connections, self.config.drain, close, move |peer| Remote {
            server: server.clone(),
            peer: Arc::new(RemotePeer::new(peer)),
        })
        .await;
        ender.abort();
        self.finish_audit().await;
        Ok(())
    }

    /// Sends the audit events that still wait for their batch, within [`Config::drain`]; later ones are lost.
    pub async fn finish_audit(&self) {
        if let Some(audit) = &self.audit {
            audit.close(self.config.drain).await;
        }
    }

    /// Ends the housekeeping tasks and every long-running request, for servers that only answer in this process.
    pub fn close(&self) {
        self.ending.store(true, Ordering::Release);
        self.stop.cancel();
    }
}

/// Where a request comes from.
#[derive(Clone)]
pub enum Origin {
    /// From this process, as this user.
    Local(Identity),
    /// Over the network.
    Remote(Arc<RemotePeer>),
}

/// A connection and the identity that its certificate gives, found out at the first request.
pub struct RemotePeer {
    /// The connection.
    pub peer: Peer,
    /// What the certificate says.
    pub identity: std::sync::OnceLock<Result<crate::authn::x509::CertificateIdentity, crate::authn::AuthnError>>,
    /// Whether the certificate is a front proxy's.
    pub front_proxy: std::sync::OnceLock<Option<crate::authn::x509::CertificateIdentity>>,
}

impl RemotePeer {
    fn new(peer: Peer) -> Self {
        Self { peer, identity: std::sync::OnceLock::new(), front_proxy: std::sync::OnceLock::new() }
    }
}

#[derive(Clone)]
struct Remote {
    server: Arc<Server>,
    peer: Arc<RemotePeer>,
}

impl Connection for Remote {
    fn answer(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Body>> + Send + 'static {
        self.server.clone().answer(request, Origin::Remote(self.peer.clone()))
    }
}

/// The server as a service in this process. Cheap to clone.
#[derive(Clone)]
pub struct Local {
    server: Arc<Server>,
    identity: Arc<UserInfo>,
}

impl<B> tower::Service<Request<B>> for Local
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Components are named by their identity where their client does not say who it is.
        let name = &self.identity.name;
        let component =
            if self.identity.node_name().is_some() { "kubelet" } else { name.trim_start_matches("system:") };
        if let Ok(agent) = http::HeaderValue::try_from(component) {
            request.headers_mut().entry(http::header::USER_AGENT).or_insert(agent);
        }
        let request = request.map(|body| RequestBody::new(body.map_err(Into::into)));
        let answer = self.server.clone().answer(request, Origin::Local(self.identity.clone()));
        Box::pin(async move { Ok(answer.await) })
    }
}
