//! The connection.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint, Uri};

use super::events::EventHub;
use crate::{Error, Result};

/// Answers of up to this size are taken. `exec_sync` may carry 16 MiB of each stream.
const MAX_MESSAGE: usize = 64 << 20;

/// How long an ordinary call may take; upstream's `runtimeRequestTimeout`.
pub(super) const CALL: Duration = Duration::from_secs(120);

/// A client of one runtime. Clones share the connection, which is made at the first call and again after it broke.
#[derive(Clone)]
pub struct Cri {
    socket: PathBuf,
    channel: Channel,
    pub(super) containerd: bool,
    pub(super) hub: Arc<EventHub>,
}

impl Cri {
    /// A client for the runtime at this socket. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Self> {
        let socket = socket.into();
        let path = socket.clone();
        let endpoint = Endpoint::try_from("http://localhost")
            .map_err(|e| Error::Host(format!("cannot make an endpoint for {}: {e}", path.display())))?;
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        }));
        Ok(Cri { socket, channel, containerd: false, hub: EventHub::new() })
    }

    /// Says that the runtime is containerd, whose own services tell what CRI of its version does not (pinned images).
    pub fn with_containerd(mut self) -> Self {
        self.containerd = true;
        self
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The connection, for the services that a runtime offers beside CRI.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}

/// Awaits a call for at most `limit` and puts its answer into our terms.
pub(super) async fn call<T>(
    verb: &str,
    limit: Duration,
    future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(verb, status)),
        Err(_) => Err(Error::DeadlineExceeded(format!("{verb} did not finish within {} s", limit.as_secs()))),
    }
}

/// A gRPC status in our terms. A status with a source never came from the runtime: the connection failed.
pub(crate) fn from_status(verb: &str, status: tonic::Status) -> Error {
    use tonic::Code;
    let message = status.message().to_string();
    if let Some(source) = std::error::Error::source(&status)
        && status.code() != Code::Cancelled
    {
        return Error::Unavailable(format!("{verb}: {message}: {}", root_cause(source)));
    }
    // containerd has no code of its own for the time in which it looks at the containers it finds.
    if message.contains("server is not initialized yet") {
        return Error::Unavailable(format!("{verb}: {message}"));
    }
    match status.code() {
        Code::Unavailable => Error::Unavailable(format!("{verb}: {message}")),
        Code::NotFound => Error::NotFound(message),
        Code::AlreadyExists => Error::AlreadyExists(message),
        Code::InvalidArgument | Code::OutOfRange => Error::InvalidArgument(message),
        Code::DeadlineExceeded => Error::DeadlineExceeded(message),
        Code::Unimplemented => Error::Unimplemented(format!("{verb}: {message}")),
        Code::PermissionDenied | Code::Unauthenticated => Error::Unauthorized(message),
        _ => Error::Runtime(message),
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_a_node_decides_by_are_kept() {
        let of = |code| from_status("Verb", tonic::Status::new(code, "text"));
        assert!(of(tonic::Code::NotFound).is_not_found());
        assert!(of(tonic::Code::Unavailable).is_unavailable());
        let early = tonic::Status::unknown("server is not initialized yet");
        assert!(from_status("Verb", early).is_unavailable());
        assert!(matches!(of(tonic::Code::AlreadyExists), Error::AlreadyExists(_)));
        assert_eq!(of(tonic::Code::Unknown).detail(), "text");
        assert_eq!(of(tonic::Code::Unknown).to_string(), "text");
    }

    #[tokio::test]
    async fn a_missing_socket_is_unavailable_and_says_why() {
        use crate::Runtime;
        let cri = Cri::new("/nonexistent/containerd.sock").unwrap();
        let error = cri.version().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
