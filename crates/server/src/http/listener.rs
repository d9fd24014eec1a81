//! The HTTPS listener: TLS, HTTP/1.1 and HTTP/2, limits on connections, and an orderly end.

use super::body::{Body, RequestBody};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that connects must finish its TLS handshake in this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// And send the head of a request in this time. A connection that is kept may be silent for as long between two requests: upstream's
/// idle time, for which clients keep their connections; closed earlier, a request would now and then meet a closed door.
const HEAD: Duration = Duration::from_secs(90);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 1 << 20;
/// Streams at a time on one HTTP/2 connection.
const STREAMS: u32 = 1000;

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// The client's certificates, its own first; not verified yet.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Answers the requests of one connection.
pub trait Connection: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Body>> + Send + 'static;
}

#[derive(Clone)]
struct Answering<C>(C);

impl<C: Connection> Service<Request<Incoming>> for Answering<C> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(|body| RequestBody::new(body.map_err(Into::into)));
        let answer = self.0.answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Serves until `stop`, then takes no more connections, lets those that are open finish what they are about, and after
/// `drain` closes them. `open` makes what answers a connection's requests.
pub async fn serve<C: Connection>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    most: usize,
    drain: Duration,
    stop: CancellationToken,
    open: impl Fn(Peer) -> C + Clone + Send + Sync + 'static,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(most));
    let tasks = TaskTracker::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, usually: others must close theirs first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, stop, open) = (acceptor.clone(), stop.clone(), open.clone());
        tasks.spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            // Thousands of connections do nothing but wait for an event: each holds what its present phase needs, and no more.
            let begun = Box::pin(begin(acceptor, stream, address, stop, drain, open)).await;
            if let Some(conversation) = begun {
                conversation.await;
            }
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(drain + Duration::from_secs(1), tasks.wait()).await;
}

type Conversation = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The TLS handshake; what follows it, or `None` when it failed.
async fn begin<C: Connection>(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
    drain: Duration,
    open: impl Fn(Peer) -> C,
) -> Option<Conversation> {
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.ok()?.ok()?;
    let (_, session) = stream.get_ref();
    let certificates: Arc<[CertificateDer<'static>]> =
        session.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let service = Answering(open(Peer { address, certificates }));
    let io = TokioIo::new(stream);
    Some(if http2 { converse2(io, service, stop, drain) } else { converse1(io, service, stop, drain) })
}

type Io = TokioIo<TlsStream<TcpStream>>;

fn converse2<C: Connection>(io: Io, service: Answering<C>, stop: CancellationToken, drain: Duration) -> Conversation {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(30));
    let mut connection = Box::pin(builder.serve_connection(io, service));
    Box::pin(async move {
        tokio::select! {
            result = connection.as_mut() => log(result),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                if let Ok(result) = tokio::time::timeout(drain, connection).await {
                    log(result);
                }
            }
        }
    })
}

fn converse1<C: Connection>(io: Io, service: Answering<C>, stop: CancellationToken, drain: Duration) -> Conversation {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES).keep_alive(true);
    let mut connection = Box::pin(builder.serve_connection(io, service).with_upgrades());
    Box::pin(async move {
        tokio::select! {
            result = connection.as_mut() => log(result),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                if let Ok(result) = tokio::time::timeout(drain, connection).await {
                    log(result);
                }
            }
        }
    })
}

fn log(result: Result<(), hyper::Error>) {
    if let Err(error) = result
        && !error.is_incomplete_message()
        && !error.is_timeout()
    {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
