//! `metrics.k8s.io/v1beta1`: what nodes and Pods use now, for `kubectl top` and the autoscaler.
//!
//! Upstream's metrics-server scrapes every node each 15 seconds. Here nodes are read when somebody asks, and what was read answers for
//! the next ten seconds: without anybody who asks nothing is read, and an autoscaler that asks each 15 seconds gets figures of as long.
//! CPU use is a difference between two readings. Whoever asks first, or after a long silence, waits for the second a second.

mod handler;
mod page;

use crate::handlers::fresh_uid;
use crate::server::Server;
use bytes::Bytes;
use caravel_api::kinds::{Kind, KindTable, SchemaSource, Verbs};
use caravel_api::status::ApiError;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use page::Page;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The group that is served here.
pub const GROUP: &str = "metrics.k8s.io";
/// Its only version.
pub const VERSION: &str = "v1beta1";
/// How long a reading answers.
const FRESH: Duration = Duration::from_secs(10);
/// A reading that is older is no good to compare with: what it tells is long past.
const STALE: Duration = Duration::from_secs(60);
/// How far apart two readings are that are taken for one question.
const APART: Duration = Duration::from_secs(1);
/// The longest page of a node: some thousands of containers.
const LIMIT: usize = 8 * 1024 * 1024;
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two readings of a node, the later with its time.
#[derive(Clone, Default)]
struct Readings {
    before: Option<Arc<Page>>,
    after: Option<(Arc<Page>, Instant)>,
}

/// The readings of all nodes; one entry a node, two pages each.
#[derive(Default)]
pub struct Usages {
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Readings>>>>,
}

/// The rows that are served without being stored.
fn rows() -> [Kind; 2] {
    let row = |kind: &'static str, plural: &'static str, namespaced: bool| Kind {
        group: GROUP.into(),
        version: VERSION.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.into(),
        singular: "".into(),
        short_names: vec![],
        categories: vec![],
        namespaced,
        verbs: Verbs::GET.with(Verbs::LIST),
        subresources: vec![],
        storage_group: GROUP.into(),
        storage_version: VERSION.into(),
        deprecation: None,
        default_served: true,
        schema_source: SchemaSource::Builtin(format!("metrics.{VERSION}.{kind}").into()),
        custom: None,
    };
    [row("NodeMetrics", "nodes", false), row("PodMetrics", "pods", true)]
}

/// Adds the rows to a table.
pub fn serve(kinds: &mut KindTable) {
    for row in rows() {
        kinds.insert(Arc::new(row));
    }
}

impl Server {
    /// The two latest readings of a node, read now if need be.
    async fn readings(&self, node: &str) -> Result<(Arc<Page>, Arc<Page>), ApiError> {
        let cell = self.usages.nodes.lock().entry(node.to_owned()).or_default().clone();
        // Who asks meanwhile waits and finds the answer.
        let mut kept = cell.lock().await;
        if let (Some(before), Some((after, at))) = (&kept.before, &kept.after)
            && at.elapsed() < FRESH
        {
            return Ok((before.clone(), after.clone()));
        }
        let mut before =
            kept.after.take().filter(|(_, at)| (APART..STALE).contains(&at.elapsed())).map(|(page, _)| page);
        if before.is_none() {
            before = Some(self.read_node(node).await?);
            tokio::time::sleep(APART).await;
        }
        let after = self.read_node(node).await?;
        kept.before = before.clone();
        kept.after = Some((after.clone(), Instant::now()));
        Ok((before.unwrap_or_else(|| after.clone()), after))
    }

    /// Forgets the nodes that are no more.
    fn retain_usages(&self, nodes: &[&str]) {
        self.usages.nodes.lock().retain(|name, _| nodes.contains(&name.as_str()));
    }

    async fn read_node(&self, node: &str) -> Result<Arc<Page>, ApiError> {
        let bytes =
            tokio::time::timeout(PATIENCE, self.node_page(node, "/metrics/resource")).await.map_err(|_| {
                ApiError::service_unavailable(format!(
                    "node {node:?} did not tell its metrics within {} s",
                    PATIENCE.as_secs()
                ))
            })??;
        let now = self.config.clock.now().as_millisecond();
        Ok(Arc::new(page::parse(&String::from_utf8_lossy(&bytes), now)))
    }

    /// GET of a page of a node's kubelet.
    async fn node_page(&self, node: &str, path: &str) -> Result<Bytes, ApiError> {
        let backend = self.node_backend(node).await?;
        let empty = http_body_util::Empty::new().map_err(|never: std::convert::Infallible| match never {});
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header("x-request-id", fresh_uid())
            .body(crate::http::body::RequestBody::new(empty))
            .map_err(|e| ApiError::internal(e.to_string()))?;
        let (parts, body) = request.into_parts();
        let response = crate::proxy::forward::forward(parts, body, &backend, path, self.stop.clone()).await;
        let response = response.map_err(|failed| failed.error(&backend.what))?;
        let status = response.status();
        let bytes = match response.into_body() {
            crate::http::body::Body::Through(body) => crate::http::body::read_limited(body, LIMIT).await?,
            _ => Bytes::new(),
        };
        if !status.is_success() {
            return Err(ApiError::service_unavailable(format!("node {node:?} answered {path} with {status}")));
        }
        Ok(bytes)
    }
}
