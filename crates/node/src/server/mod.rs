//! The kubelet's HTTPS API: logs, exec, attach, port-forward, stats and metrics of this node's Pods.
//!
//! The API server is its only regular client. It authorizes the user and then tunnels the connection here unchanged,
//! so this module terminates kubectl's streaming protocols (WebSocket and SPDY/3.1) itself. Others (metrics
//! collectors) come with a bearer token or a certificate, which the API is asked about.

// A refusal is the answer itself, made at most once a request.
#![allow(clippy::result_large_err)]

mod auth;
mod logs;
mod metrics;
mod query;
mod reply;
mod route;
pub mod spdy;
mod stats;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::Runtime;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use auth::{Identity, Reviewer};
pub use tls::ServingCert;

use crate::source::PodSource;

/// Connections at once; a streaming session holds one.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to greet, and to send a request's head.
const GREETING: Duration = Duration::from_secs(15);

/// What the server is told at its start.
#[derive(Clone)]
pub struct Config {
    /// The Node's name.
    pub node_name: String,
    /// The certificate and key it shows; may be replaced while it runs.
    pub serving: Arc<ServingCert>,
    /// The authorities of client certificates, PEM.
    pub client_ca: String,
    /// A directory on the file system that Pods' volumes and logs live on; its size is the node's in the statistics.
    pub root_dir: PathBuf,
    /// Pods' logs; offered below `/logs/`.
    pub log_dir: PathBuf,
    /// Asks the API about tokens and rights; `None` admits nobody but the API server and cluster administrators.
    pub reviewer: Option<Arc<dyn Reviewer>>,
}

/// What every handler sees.
pub(crate) struct Context {
    pub config: Config,
    pub pods: Arc<dyn PodSource>,
    pub runtime: Arc<dyn Runtime>,
    access: auth::Access,
    changes: Arc<logs::changes::Changes>,
    pub stop: CancellationToken,
    pub started: std::time::SystemTime,
}

/// Serves until `stop`. Sessions that are under way are broken off then.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    pods: Arc<dyn PodSource>,
    runtime: Arc<dyn Runtime>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(config.serving.clone(), &config.client_ca)?));
    let access = auth::Access::new(config.node_name.clone(), config.reviewer.clone());
    let started = std::time::SystemTime::now();
    let changes = logs::changes::Changes::start(stop.clone())?;
    let context = Arc::new(Context { config, pods, runtime, access, changes, stop: stop.clone(), started });
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let (socket, peer) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, for example: others will be closed soon.
                    tracing::warn!(%error, "the kubelet API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, context, stop) = (acceptor.clone(), context.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                result = connection(socket, peer, acceptor, context) => if let Err(error) = result {
                    tracing::debug!(%peer, %error, "a connection to the kubelet API ended");
                }
            }
        });
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    context: Arc<Context>,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let tls = tokio::time::timeout(GREETING, acceptor.accept(socket)).await??;
    let identity = tls.get_ref().1.peer_certificates().and_then(|chain| auth::of_certificate(chain.first()?));
    tracing::trace!(%peer, ?identity, "kubelet API connection");
    let service = hyper::service::service_fn(move |request| {
        let (context, identity) = (context.clone(), identity.clone());
        async move { Ok::<_, std::convert::Infallible>(route::handle(context, identity, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING)
        .max_headers(128)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades()
        .await?;
    Ok(())
}
