//! Exec, attach and port-forward: what the client speaks ([`negotiate`], [`front`], [`ws`], SPDY) is joined to
//! containerd's streaming server ([`backend`]) or to the Pod's network ([`forward`], [`netns`]).

mod backend;
mod forward;
mod front;
mod negotiate;
mod netns;
mod pump;
mod ws;

use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::{ContainerFilter, StreamOptions};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::Context;
use super::query::Query;
use super::reply::{self, Reply};
use backend::Backend;
pub(super) use negotiate::{Kind, Offer};

/// How long `run` may take.
const RUN: Duration = Duration::from_secs(4 * 3600);

/// What a request is about.
pub(super) struct Target {
    namespace: String,
    pod: String,
    container: String,
}

impl Target {
    pub(super) fn new(namespace: &str, pod: &str, container: &str) -> Self {
        Target { namespace: namespace.into(), pod: pod.into(), container: container.into() }
    }
}

pub(super) async fn exec(context: Arc<Context>, target: Target, query: &Query, request: Request<Incoming>) -> Reply {
    let command = query.all("command");
    if command.is_empty() {
        return reply::text(StatusCode::BAD_REQUEST, "you must specify at least 1 command to run");
    }
    session(context, target, query, request, Some(command)).await
}

pub(super) async fn attach(context: Arc<Context>, target: Target, query: &Query, request: Request<Incoming>) -> Reply {
    session(context, target, query, request, None).await
}

/// Exec with a command, attach without.
async fn session(
    context: Arc<Context>,
    target: Target,
    query: &Query,
    request: Request<Incoming>,
    command: Option<Vec<String>>,
) -> Reply {
    let wanted = match wanted_streams(query) {
        Ok(wanted) => wanted,
        Err(why) => return reply::text(StatusCode::BAD_REQUEST, why),
    };
    let offer = match Offer::of(&request, Kind::Remote) {
        Ok(offer) => offer,
        Err(refusal) => return refusal,
    };
    let found = match find(&context, &target).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let url = match &command {
        Some(command) => context.runtime.exec(&found.id, command, wanted).await,
        // Whether there is a terminal was decided when the container was made.
        None => context.runtime.attach(&found.id, StreamOptions { tty: found.tty, ..wanted }).await,
    };
    let back_streams = if command.is_some() { wanted } else { StreamOptions { tty: found.tty, ..wanted } };
    let back = match url {
        Ok(url) => Backend::open(&url, back_streams).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let back = match back {
        Ok(back) => back,
        Err(why) => return reply::text(StatusCode::INTERNAL_SERVER_ERROR, why),
    };
    upgrade(context, request, offer, move |io, offer| async move {
        match front::open(io, &offer, wanted).await {
            Ok(front) => pump::run(front, back).await,
            Err(error) => tracing::debug!(%error, "a streaming client did not open its streams"),
        }
    })
}

pub(super) async fn port_forward(
    context: Arc<Context>,
    target: Target,
    query: &Query,
    request: Request<Incoming>,
) -> Reply {
    let offer = match Offer::of(&request, Kind::PortForward) {
        Ok(offer) => offer,
        Err(refusal) => return refusal,
    };
    let ports = match forward::ports(query, &offer) {
        Ok(ports) => ports,
        Err(why) => return reply::text(StatusCode::BAD_REQUEST, why),
    };
    let Some(view) = context.pods.pod(&target.namespace, &target.pod) else {
        return reply::text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let Some(sandbox) = view.sandbox_id else {
        let why = format!("pod not found ({:?})", format!("{}_{}", target.pod, target.namespace));
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, why);
    };
    let pid = match context.runtime.sandbox_pid(&sandbox).await {
        Ok(Some(pid)) => pid,
        Ok(None) => {
            return reply::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the sandbox of pod {:?} is gone", target.pod),
            );
        }
        Err(error) => return reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let uid = view.pod.metadata.uid.clone().unwrap_or_default();
    let network = forward::Network { pid, pod: format!("{}_{}", target.pod, target.namespace), uid };
    upgrade(context, request, offer, move |io, offer| forward::run(io, offer, ports, network))
}

/// `POST /run/…?cmd=…`: runs a command to its end and answers its output.
pub(super) async fn run(context: Arc<Context>, target: Target, query: &Query) -> Reply {
    let found = match find(&context, &target).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let command: Vec<String> = query.get("cmd").unwrap_or_default().split_whitespace().map(str::to_string).collect();
    if command.is_empty() {
        return reply::text(StatusCode::BAD_REQUEST, "the parameter cmd is missing");
    }
    match context.runtime.exec_sync(&found.id, &command, Some(RUN)).await {
        Ok(result) => {
            let mut body = result.stdout;
            body.extend(result.stderr);
            let status = if result.exit_code == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            reply::with_type(status, "text/plain; charset=utf-8", body)
        }
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Which streams a client wants.
fn wanted_streams(query: &Query) -> Result<StreamOptions, String> {
    let tty = query.flag(&["tty"]);
    let streams = StreamOptions {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        // A terminal has one output.
        stderr: query.flag(&["error", "stderr"]) && !tty,
        tty,
    };
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err("you must specify at least 1 of stdin, stdout, stderr".into());
    }
    Ok(streams)
}

struct Found {
    id: String,
    tty: bool,
}

/// The running container, or the answer that says what is missing.
async fn find(context: &Context, target: &Target) -> Result<Found, Reply> {
    let not_found = |why: String| reply::text(StatusCode::NOT_FOUND, why);
    let view =
        context.pods.pod(&target.namespace, &target.pod).ok_or_else(|| not_found("pod does not exist".into()))?;
    let tty = declares_tty(&view.pod, &target.container)
        .ok_or_else(|| not_found(format!("container {} not found in pod {}", target.container, target.pod)))?;
    if let Some(container) = view.containers.iter().find(|c| c.name == target.container && c.running) {
        return Ok(Found { id: container.id.clone(), tty });
    }
    // The runtime may be ahead of the node's view: a container that has just started.
    let uid = view.pod.metadata.uid.clone().unwrap_or_default();
    let labels = [("io.kubernetes.pod.uid", uid.as_str()), ("io.kubernetes.container.name", &target.container)];
    let filter = ContainerFilter {
        labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        state: Some(caravel_runtime::ContainerState::Running),
        ..Default::default()
    };
    let listed = context.runtime.list_containers(&filter).await;
    match listed.map(|all| all.into_iter().max_by_key(|c| c.created_at)) {
        Ok(Some(container)) => Ok(Found { id: container.id, tty }),
        Ok(None) => {
            Err(reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({:?})", target.container)))
        }
        Err(error) => Err(reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// Whether a container of the spec has a terminal; `None` when there is no such container.
fn declares_tty(pod: &k8s_openapi::api::core::v1::Pod, name: &str) -> Option<bool> {
    let spec = pod.spec.as_ref()?;
    let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    regular
        .map(|c| (&c.name, c.tty))
        .chain(spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, c.tty)))
        .find(|(n, _)| *n == name)
        .map(|(_, tty)| tty.unwrap_or(false))
}

/// Sends parts as the messages of a WebSocket, after an empty one that shows that it stands.
pub(super) fn messages(
    context: Arc<Context>,
    request: Request<Incoming>,
    offer: Offer,
    parts: tokio::sync::mpsc::Receiver<Result<bytes::Bytes, std::io::Error>>,
) -> Reply {
    upgrade(context, request, offer, move |io, offer| ws::send_parts(io, offer.is_base64(), parts))
}

/// The connection once the client speaks the other protocol.
pub(super) type Io = TokioIo<hyper::upgrade::Upgraded>;

/// Answers 101 and runs `then` on the connection, until the server stops.
fn upgrade<F, Fut>(context: Arc<Context>, mut request: Request<Incoming>, offer: Offer, then: F) -> Reply
where
    F: FnOnce(Io, Offer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let answer = reply::switching(&offer.headers());
    let pending = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let work = async {
            match pending.await {
                Ok(connection) => then(TokioIo::new(connection), offer).await,
                Err(error) => tracing::debug!(%error, "an upgrade failed"),
            }
        };
        tokio::select! {
            () = work => {}
            () = context.stop.cancelled() => {}
        }
    });
    answer
}
