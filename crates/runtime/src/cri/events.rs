//! Events of containerd's own event service, `containerd.services.events.v1.Events/Subscribe`.
//!
//! One subscription serves all readers. gRPC shows a server stream only with its first message, so the moment from which
//! events are seen is made visible by publishing one of our own and waiting for it; then readers get
//! [`Event::Resync`]. An exit is told once CRI's status shows it: containerd's CRI service handles the same event, and
//! a reader that was faster would find the container running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::broadcast;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::client::Cri;
use crate::types::{ContainerState, Event, EventStream, SandboxState};
use crate::{Error, Runtime};

/// containerd's namespace of CRI.
const NAMESPACE: &str = "k8s.io";
/// Events kept for a slow reader before it is told to list everything.
const BUFFER: usize = 1024;
/// The topic of our own event.
const MARK: &str = "/caravel/subscribed";
/// How long to wait for our own event before it is published again.
const MARK_WAIT: Duration = Duration::from_millis(200);
/// Between attempts to reach a runtime that is away.
const RETRY: Duration = Duration::from_millis(250);
/// How long an exit is held back at most, and the longest pause between two looks. A machine that starts many containers
/// at once can take seconds from a task's exit to CRI's status of it.
const SETTLE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Distributes events to readers.
pub struct EventHub {
    sender: broadcast::Sender<Event>,
    running: AtomicBool,
}

impl EventHub {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(EventHub { sender: broadcast::channel(BUFFER).0, running: AtomicBool::new(false) })
    }
}

/// A new reader. The subscription is started by the first one and ends when nobody reads.
pub(super) fn subscribe(cri: &Cri) -> EventStream {
    let receiver = cri.hub.sender.subscribe();
    if !cri.hub.running.swap(true, Ordering::AcqRel) {
        tokio::spawn(pump(cri.clone()));
    }
    Box::pin(futures::stream::unfold((true, receiver), |(first, mut receiver)| async move {
        if first {
            return Some((Event::Resync, (false, receiver)));
        }
        match receiver.recv().await {
            Ok(event) => Some((event, (false, receiver))),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Event::Resync, (false, receiver))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }))
}

/// Subscribes again and again until nobody reads.
async fn pump(cri: Cri) {
    loop {
        let ended = subscription(&cri).await;
        if cri.hub.sender.receiver_count() == 0 {
            cri.hub.running.store(false, Ordering::Release);
            // A reader that came in between saw `running` and did not start another pump.
            if cri.hub.sender.receiver_count() == 0 || cri.hub.running.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        if let Err(error) = ended {
            tracing::debug!(%error, "container events are interrupted");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One subscription, until it breaks or nobody reads.
async fn subscription(cri: &Cri) -> Result<(), tonic::Status> {
    let mut calls = Calls(cri.channel());
    let mark = format!("{}", uuid::Uuid::new_v4());
    let opening = calls.clone().subscribe();
    tokio::pin!(opening);
    let mut stream = loop {
        tokio::select! {
            opened = &mut opening => break opened?,
            () = tokio::time::sleep(MARK_WAIT) => calls.publish(&mark).await?,
        }
    };
    let mut live = false;
    let mut idle_check = tokio::time::interval(Duration::from_secs(60));
    loop {
        let envelope = tokio::select! {
            message = stream.message() => match message? {
                Some(envelope) => envelope,
                None => return Ok(()),
            },
            _ = idle_check.tick() => {
                if cri.hub.sender.receiver_count() == 0 {
                    return Ok(());
                }
                continue;
            }
        };
        if !live {
            live = true;
            let _ = cri.hub.sender.send(Event::Resync);
        }
        match decode(&envelope) {
            Some(event @ Event::Exited { .. }) => {
                tokio::spawn(settle(cri.clone(), event));
            }
            Some(event) => {
                let _ = cri.hub.sender.send(event);
            }
            None => {}
        }
    }
}

/// Waits until CRI's status shows the exit, then tells it.
async fn settle(cri: Cri, event: Event) {
    let Event::Exited { id, .. } = &event else { return };
    let deadline = tokio::time::Instant::now() + SETTLE;
    let mut pause = Duration::from_millis(1);
    while tokio::time::Instant::now() < deadline && !has_ended(&cri, id).await {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let _ = cri.hub.sender.send(event);
}

/// Whether CRI knows of the exit. A container whose process ended within the call that starts it is still `Created`
/// then: it becomes `Running` and only after that `Exited`, so `Created` is not an end.
async fn has_ended(cri: &Cri, id: &str) -> bool {
    match cri.container_status(id).await {
        Ok(status) => matches!(status.state, ContainerState::Exited | ContainerState::Unknown),
        Err(Error::NotFound(_)) => match cri.sandbox_status(id).await {
            Ok(status) => status.state != SandboxState::Ready,
            Err(_) => true,
        },
        Err(_) => true,
    }
}

/// The event in an envelope, when it is one of those a node looks at. The exit of an exec'd process is not.
fn decode(envelope: &Envelope) -> Option<Event> {
    use prost::Message;
    if envelope.namespace != NAMESPACE {
        return None;
    }
    let value = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/start" => Some(Event::Started { id: TaskStart::decode(value).ok()?.container_id }),
        "/tasks/oom" => Some(Event::Oom { id: TaskOom::decode(value).ok()?.container_id }),
        "/tasks/exit" => {
            let exit = TaskExit::decode(value).ok()?;
            let at = exit.exited_at.unwrap_or_default();
            (exit.id == exit.container_id).then(|| Event::Exited {
                id: exit.container_id,
                exit_code: exit.exit_status,
                exited_at: at.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(at.nanos)),
            })
        }
        _ => None,
    }
}

/// The two calls of the event service.
#[derive(Clone)]
struct Calls(Channel);

impl Calls {
    async fn subscribe(self) -> Result<tonic::Streaming<Envelope>, tonic::Status> {
        let filters = ["/tasks/start", "/tasks/exit", "/tasks/oom", MARK]
            .iter()
            .map(|topic| format!("namespace==\"{NAMESPACE}\",topic==\"{topic}\""))
            .collect();
        let mut grpc = tonic::client::Grpc::new(self.0);
        grpc.ready().await.map_err(|e| tonic::Status::from_error(Box::new(e)))?;
        let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
        let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
        Ok(grpc.server_streaming(in_namespace(SubscribeRequest { filters }), path, codec).await?.into_inner())
    }

    async fn publish(&mut self, mark: &str) -> Result<(), tonic::Status> {
        let event = Any { type_url: "caravel/Subscribed".into(), value: mark.as_bytes().to_vec() };
        let request = PublishRequest { topic: MARK.into(), event: Some(event) };
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|e| tonic::Status::from_error(Box::new(e)))?;
        let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Publish");
        let codec = tonic_prost::ProstCodec::<PublishRequest, Empty>::default();
        grpc.unary(in_namespace(request), path, codec).await?;
        Ok(())
    }
}

fn in_namespace<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishRequest {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(message, optional, tag = "2")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskStart {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(uint32, tag = "2")]
    pid: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskOom {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(uint32, tag = "4")]
    exit_status: u32,
    #[prost(message, optional, tag = "5")]
    exited_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn envelope(namespace: &str, topic: &str, message: impl Message) -> Envelope {
        Envelope {
            timestamp: None,
            namespace: namespace.into(),
            topic: topic.into(),
            event: Some(Any { type_url: String::new(), value: message.encode_to_vec() }),
        }
    }

    fn exit(container: &str, id: &str) -> TaskExit {
        TaskExit {
            container_id: container.into(),
            id: id.into(),
            pid: 1,
            exit_status: 137,
            exited_at: Some(Timestamp { seconds: 2, nanos: 5 }),
        }
    }

    #[test]
    fn the_exit_of_the_container_counts_that_of_an_exec_does_not() {
        let event = decode(&envelope("k8s.io", "/tasks/exit", exit("c", "c")));
        assert_eq!(event, Some(Event::Exited { id: "c".into(), exit_code: 137, exited_at: 2_000_000_005 }));
        assert_eq!(decode(&envelope("k8s.io", "/tasks/exit", exit("c", "exec"))), None);
        assert_eq!(decode(&envelope("moby", "/tasks/exit", exit("c", "c"))), None);
    }

    #[test]
    fn other_topics_are_left_alone() {
        let oom = TaskOom { container_id: "c".into() };
        assert_eq!(decode(&envelope("k8s.io", "/tasks/oom", oom.clone())), Some(Event::Oom { id: "c".into() }));
        assert_eq!(decode(&envelope("k8s.io", "/images/create", oom)), None);
    }
}
