//! The audit webhook: events go in batches to a server that a kubeconfig-shaped file names (`--audit-webhook-*`).
//!
//! Nothing waits for a slow receiver: events are kept in a bounded queue, batches under way are bounded, too, and what does
//! not fit is dropped and counted. In the blocking modes a request waits until its event was taken.

use super::metrics::AuditMetrics;
use super::pace::{self, Throttle};
use super::truncate::{self, Limits};
use crate::outbound::Remote;
use bytes::Bytes;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// One attempt may take this long, as upstream's.
const DEADLINE: Duration = Duration::from_secs(30);
/// Batches that are sent, or tried again, at a time. Upstream knows no limit here.
const MOST_SENDING: usize = 32;
/// Events that are kept in all, in bytes: those in the queue and those under way.
const MOST_BYTES: usize = 256 << 20;

/// When a request goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// At once: its events are sent later, many together.
    #[default]
    Batch,
    /// When its event was sent, or given up.
    Blocking,
    /// The same, and it is refused when the event of its arrival could not be sent.
    BlockingStrict,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Self::Batch),
            "blocking" => Ok(Self::Blocking),
            "blocking-strict" => Ok(Self::BlockingStrict),
            _ => Err(format!("{text:?} must be one of batch, blocking, blocking-strict")),
        }
    }
}

/// Where events are sent and how, by upstream's flags `--audit-webhook-*`.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// A kubeconfig-shaped file.
    pub config: PathBuf,
    /// When requests go on.
    pub mode: Mode,
    /// The pause before a failed batch is tried again; later pauses are longer.
    pub initial_backoff: Duration,
    /// Events that wait for a batch; at least one.
    pub buffer_size: usize,
    /// Events of a batch; at least one.
    pub max_batch_size: usize,
    /// An event waits no longer than this for its batch to fill.
    pub max_batch_wait: Duration,
    /// Batches a second and at once; none for no limit.
    pub throttle: Option<(f64, u32)>,
    /// Larger events lose their objects; none for no limit.
    pub truncate: Option<Limits>,
}

impl WebhookOptions {
    /// Upstream's defaults.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self {
            config: config.into(),
            mode: Mode::Batch,
            initial_backoff: Duration::from_secs(10),
            buffer_size: 10_000,
            max_batch_size: 400,
            max_batch_wait: Duration::from_secs(30),
            throttle: Some((10.0, 15)),
            truncate: None,
        }
    }

    fn check(&self) -> Result<(), String> {
        let positive = |what: &str, holds: bool| if holds { Ok(()) } else { Err(format!("{what} must be positive")) };
        positive("the buffer size", self.buffer_size > 0)?;
        positive("the batch size", self.max_batch_size > 0)?;
        if let Some((rate, burst)) = self.throttle {
            positive("the rate of the throttle", rate > 0.0)?;
            positive("the burst of the throttle", burst > 0)?;
        }
        if let Some(limits) = self.truncate {
            positive("the largest event size", limits.event > 0)?;
            positive("the room of a batch beyond one event", limits.batch >= limits.event)?;
        }
        Ok(())
    }
}

/// An encoded event, and its share of the bytes that are kept.
struct Kept {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Sending {
    remote: Remote,
    initial_backoff: Duration,
    truncate: Option<Limits>,
    metrics: AuditMetrics,
}

/// The webhook, running until [`Webhook::close`].
pub struct Webhook {
    sending: Arc<Sending>,
    mode: Mode,
    queue: mpsc::Sender<Kept>,
    held: Arc<AtomicUsize>,
    stop: CancellationToken,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Webhook {
    /// Reads the file and starts the task that sends.
    ///
    /// # Errors
    /// What is wrong with the file or the options.
    pub fn open(options: &WebhookOptions, metrics: AuditMetrics) -> Result<Self, String> {
        let failed = |why: String| format!("the audit webhook's configuration {}: {why}", options.config.display());
        options.check().map_err(|why| format!("the audit webhook: {why}"))?;
        let remote = Remote::read(&options.config).map_err(failed)?;
        let (initial_backoff, truncate) = (options.initial_backoff, options.truncate);
        let sending = Arc::new(Sending { remote, initial_backoff, truncate, metrics });
        let (queue, events) = mpsc::channel(options.buffer_size);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(sending.clone(), events, options.clone(), stop.clone()));
        let task = parking_lot::Mutex::new(Some(task));
        Ok(Self { sending, mode: options.mode, queue, held: Arc::default(), stop, task })
    }

    /// Takes an event over; whether the request may go on.
    pub async fn write(&self, event: &Value, encoded: &Bytes) -> bool {
        let Some(bytes) = self.cut(event, encoded) else { return self.mode != Mode::BlockingStrict };
        if self.mode == Mode::Batch {
            self.enqueue(bytes);
            return true;
        }
        self.sending.send(&[bytes]).await || self.mode == Mode::Blocking
    }

    /// The same from where nothing can wait.
    pub fn write_later(&self, event: &Value, encoded: &Bytes) {
        let Some(bytes) = self.cut(event, encoded) else { return };
        if self.mode == Mode::Batch {
            return self.enqueue(bytes);
        }
        let sending = self.sending.clone();
        tokio::spawn(async move { sending.send(&[bytes]).await });
    }

    fn cut(&self, event: &Value, encoded: &Bytes) -> Option<Bytes> {
        let Some(limits) = self.sending.truncate else { return Some(encoded.clone()) };
        let cut = truncate::event(event, encoded, limits).map(Bytes::from);
        if cut.is_none() {
            self.sending.metrics.lost("truncate", 1, "the event is too large even without its objects");
        }
        cut
    }

    fn enqueue(&self, bytes: Bytes) {
        let length = bytes.len();
        let held = self.held.fetch_add(length, Ordering::Relaxed) + length;
        let kept = Kept { bytes, held: self.held.clone() };
        if held > MOST_BYTES {
            drop(kept);
            self.sending.metrics.lost("buffered", 1, "the queue holds too many bytes");
        } else if let Err(error) = self.queue.try_send(kept) {
            let why = match error {
                mpsc::error::TrySendError::Full(_) => "the queue is full",
                mpsc::error::TrySendError::Closed(_) => "the server is ending",
            };
            self.sending.metrics.lost("buffered", 1, why);
        }
    }

    /// Sends what waits, and ends; what is not sent after `patience` is lost.
    pub async fn close(&self, patience: Duration) {
        self.stop.cancel();
        let Some(mut task) = self.task.lock().take() else { return };
        if tokio::time::timeout(patience, &mut task).await.is_err() {
            task.abort();
            tracing::error!("the audit webhook did not take the last events in time");
        }
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(
    sending: Arc<Sending>,
    mut events: mpsc::Receiver<Kept>,
    options: WebhookOptions,
    stop: CancellationToken,
) {
    let mut throttle = options.throttle.map(|(rate, burst)| Throttle::new(rate, burst, Instant::now()));
    let room = Arc::new(Semaphore::new(MOST_SENDING));
    let mut batches = JoinSet::new();
    loop {
        let batch = collect(&mut events, &options, &stop).await;
        if batch.is_empty() {
            break;
        }
        if let Some(throttle) = &mut throttle {
            tokio::time::sleep(throttle.take(Instant::now())).await;
        }
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let sending = sending.clone();
        batches.spawn(async move {
            sending.batch(&batch).await;
            drop(permit);
        });
        while batches.try_join_next().is_some() {}
    }
    while batches.join_next().await.is_some() {}
}

/// The next batch: as soon as it is full, or its first event has waited long enough, or no more will come. Empty at the end.
async fn collect(events: &mut mpsc::Receiver<Kept>, options: &WebhookOptions, stop: &CancellationToken) -> Vec<Kept> {
    let mut batch = vec![];
    let mut patience = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    while batch.len() < options.max_batch_size {
        let next = tokio::select! {
            biased;
            () = stop.cancelled(), if !events.is_closed() => {
                // What waits is still handed out; then come no more.
                events.close();
                continue;
            }
            next = events.recv() => next,
            () = &mut patience, if !batch.is_empty() => return batch,
        };
        let Some(next) = next else { break };
        if batch.is_empty() {
            patience.as_mut().reset(tokio::time::Instant::now() + options.max_batch_wait);
        }
        batch.push(next);
    }
    batch
}

impl Sending {
    async fn batch(&self, batch: &[Kept]) {
        let most = self.truncate.map_or(usize::MAX, |limits| limits.batch);
        for part in truncate::parts(batch, most) {
            self.send(part).await;
        }
    }

    /// Sends events as one list, several times if need be; whether they were taken.
    async fn send<T: AsRef<[u8]>>(&self, events: &[T]) -> bool {
        let body = list(events);
        let mut failed = 0;
        loop {
            let why = match self.remote.post(body.clone(), DEADLINE).await {
                Ok(()) => return true,
                Err(why) => why,
            };
            let Some(pause) = pace::pause(self.initial_backoff, failed, rand::random()) else {
                self.metrics.lost("webhook", events.len(), &why);
                return false;
            };
            tracing::debug!(%why, "a batch of audit events is tried again");
            tokio::time::sleep(pause).await;
            failed += 1;
        }
    }
}

/// An `audit.k8s.io/v1` EventList of encoded events.
fn list<T: AsRef<[u8]>>(events: &[T]) -> Bytes {
    let mut out = Vec::with_capacity(80 + events.iter().map(|one| one.as_ref().len() + 1).sum::<usize>());
    out.extend_from_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for (i, one) in events.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(one.as_ref());
    }
    out.extend_from_slice(b"]}");
    out.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_is_json() {
        let value: Value = serde_json::from_slice(&list(&[br#"{"a":1}"#.to_vec(), b"{}".to_vec()])).unwrap();
        assert_eq!(value["items"], serde_json::json!([{"a": 1}, {}]));
        assert_eq!((&value["kind"], &value["apiVersion"]), (&"EventList".into(), &"audit.k8s.io/v1".into()));
    }

    #[test]
    fn options_make_sense() {
        let good = WebhookOptions::new("x");
        assert!(good.check().is_ok());
        for bad in [
            WebhookOptions { buffer_size: 0, ..good.clone() },
            WebhookOptions { max_batch_size: 0, ..good.clone() },
            WebhookOptions { throttle: Some((0.0, 1)), ..good.clone() },
            WebhookOptions { throttle: Some((1.0, 0)), ..good.clone() },
            WebhookOptions { truncate: Some(Limits { event: 10, batch: 9 }), ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn batches_are_full_or_last() {
        let held = Arc::<AtomicUsize>::default();
        let (queue, mut events) = mpsc::channel(10);
        for _ in 0..5 {
            held.fetch_add(1, Ordering::Relaxed);
            queue.try_send(Kept { bytes: Bytes::from_static(b"x"), held: held.clone() }).ok().unwrap();
        }
        let options =
            WebhookOptions { max_batch_size: 2, max_batch_wait: Duration::from_secs(3600), ..WebhookOptions::new("x") };
        let stop = CancellationToken::new();
        for wanted in [2, 2] {
            assert_eq!(collect(&mut events, &options, &stop).await.len(), wanted);
        }
        let soon = WebhookOptions { max_batch_wait: Duration::from_millis(1), ..options.clone() };
        assert_eq!(collect(&mut events, &soon, &stop).await.len(), 1, "it waited long enough");
        assert_eq!(held.load(Ordering::Relaxed), 0, "what was sent is no longer held");
        held.fetch_add(1, Ordering::Relaxed);
        queue.try_send(Kept { bytes: Bytes::from_static(b"x"), held: held.clone() }).ok().unwrap();
        stop.cancel();
        assert_eq!(collect(&mut events, &options, &stop).await.len(), 1, "the end does not wait");
        assert_eq!(collect(&mut events, &options, &stop).await.len(), 0);
    }
}
