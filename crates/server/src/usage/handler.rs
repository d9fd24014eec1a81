//! GET and LIST of NodeMetrics and PodMetrics.

use super::page::{Page, Usage, of_node, of_pod};
use super::{GROUP, VERSION};
use crate::handlers::Inbound;
use crate::http::body::Body;
use crate::http::negotiate::{Accept, Form};
use crate::http::respond;
use crate::registry::list::filter;
use crate::registry::options::ListOptions;
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_api::table;
use futures::StreamExt as _;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// So many nodes are read at once.
const AT_ONCE: usize = 16;

fn amounts(usage: Usage) -> Value {
    json!({"cpu": format!("{}n", usage.cpu), "memory": format!("{}Ki", usage.memory / 1024)})
}

/// The fields that both kinds have. `of` is the node or Pod.
fn object(kind: &str, of: &Value, usage: Usage, now: Timestamp) -> Value {
    let mut metadata = json!({"name": meta::name(of), "creationTimestamp": crate::clock::rfc3339_seconds(now)});
    for field in ["namespace", "labels"] {
        if let Some(value) = of["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let at = Timestamp::from_millisecond(usage.at).unwrap_or(now);
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": crate::clock::rfc3339_seconds(at), "window": caravel_api::duration::text(usage.window.saturating_mul(1_000_000)),
    })
}

fn node_metrics(node: &Value, usage: Usage, now: Timestamp) -> Value {
    let mut out = object("NodeMetrics", node, usage, now);
    out["usage"] = amounts(usage);
    out
}

/// `None` when the Pod has no container that was measured.
fn pod_metrics(pod: &Value, containers: &[(String, Usage)], now: Timestamp) -> Option<Value> {
    let (_, last) = containers.iter().max_by_key(|(_, usage)| usage.at)?;
    let mut out = object("PodMetrics", pod, *last, now);
    out["containers"] =
        containers.iter().map(|(name, usage)| json!({"name": name, "usage": amounts(*usage)})).collect();
    Some(out)
}

fn node_of(pod: &Value) -> &str {
    pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default()
}

impl Server {
    /// Answers a request about this group.
    pub(crate) async fn usage(self: &Arc<Self>, inbound: &Inbound, kind: &Kind) -> Result<Response<Body>, ApiError> {
        let list = inbound.info.verb == "list";
        let accept = Accept::choose(&inbound.parts.headers, list, true)?;
        let found = match (&*kind.plural, list) {
            ("nodes", _) => self.node_usages(inbound, kind).await?,
            _ => self.pod_usages(inbound, kind).await?,
        };
        if !list {
            let (namespace, name) = (&inbound.info.namespace, inbound.info.path_name());
            let shown = if kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() };
            let one =
                found.first().ok_or_else(|| ApiError::not_found(GROUP, &kind.kind.to_ascii_lowercase(), &shown))?;
            return self.present_value(inbound, kind, one, accept, StatusCode::OK);
        }
        let metadata = json!({});
        let value = match accept.form {
            Form::Table => {
                let references: Vec<&Value> = found.iter().collect();
                let options = crate::handlers::present::table_options(self, inbound, true)?;
                table::render(kind, &references, Some(&metadata), &options)
            }
            Form::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": found.iter().map(crate::handlers::present::partial).collect::<Vec<_>>(),
            }),
            Form::Object => json!({
                "kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": found,
            }),
        };
        Ok(respond::value(StatusCode::OK, &value, accept.media))
    }

    /// The objects of a core kind that the request means: the one it names, or those that its selectors select.
    async fn meant(&self, inbound: &Inbound, kind: &Kind) -> Result<Vec<Value>, ApiError> {
        let (namespace, name) = (&inbound.info.namespace, inbound.info.path_name());
        if inbound.info.verb != "list" {
            return Ok(self.registry.object("", &kind.plural, namespace, name).await?.into_iter().collect());
        }
        let options = ListOptions::parse(inbound.query(), false)?;
        let core = self.registry.row("", &kind.plural)?;
        let filter = filter(&core, &options.labels, &options.fields)?;
        let mut all = self.registry.objects("", &kind.plural, namespace).await?;
        all.retain(|o| filter.matches(o));
        Ok(all)
    }

    async fn node_usages(self: &Arc<Self>, inbound: &Inbound, kind: &Kind) -> Result<Vec<Value>, ApiError> {
        let nodes = self.meant(inbound, kind).await?;
        let now = self.config.clock.now();
        let read = self.read_all(nodes.iter().map(|n| meta::name(n).to_owned()).collect()).await;
        let of = |node: &Value| {
            let (before, after) = read.get(meta::name(node))?;
            Some(node_metrics(node, of_node(before, after)?, now))
        };
        Ok(nodes.iter().filter_map(of).collect())
    }

    /// The readings of these nodes; of those that do not answer there are none.
    async fn read_all(self: &Arc<Self>, nodes: Vec<String>) -> BTreeMap<String, (Arc<Page>, Arc<Page>)> {
        let each = nodes.into_iter().map(|node| self.clone().read_one(node));
        let all: Vec<_> = futures::stream::iter(each).buffered(AT_ONCE).collect().await;
        all.into_iter().filter_map(|(node, read)| Some((node, read?))).collect()
    }

    async fn read_one(self: Arc<Self>, node: String) -> (String, Option<(Arc<Page>, Arc<Page>)>) {
        let read = self.readings(&node).await;
        if let Err(error) = &read {
            tracing::debug!(%node, error = %error.message, "its use is not known");
        }
        (node, read.ok())
    }

    async fn pod_usages(self: &Arc<Self>, inbound: &Inbound, kind: &Kind) -> Result<Vec<Value>, ApiError> {
        let pods = self.meant(inbound, kind).await?;
        let now = self.config.clock.now();
        let runs = |p: &&Value| {
            p.pointer("/status/phase").and_then(Value::as_str) == Some("Running") && !node_of(p).is_empty()
        };
        let mut nodes: Vec<String> = pods.iter().filter(runs).map(|p| node_of(p).to_owned()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let read = self.read_all(nodes).await;
        let of = |pod: &Value| {
            let (before, after) = read.get(node_of(pod))?;
            let key = (meta::namespace(pod).to_owned(), meta::name(pod).to_owned());
            pod_metrics(pod, &of_pod(before, after, &key)?, now)
        };
        let found = pods.iter().filter(runs).filter_map(of).collect();
        if inbound.info.namespace.is_empty() {
            let all = self.registry.objects("", "nodes", "").await?;
            self.retain_usages(&all.iter().map(meta::name).collect::<Vec<_>>());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use caravel_api::kinds::Gvk;
    use caravel_api::protobuf;
    use caravel_api::schema::Schema;

    #[test]
    fn objects_are_shaped_as_upstream() {
        let now = Timestamp::from_second(1_000).unwrap();
        let usage = Usage { cpu: 12_345_678, memory: 3 << 20, window: 15_020, at: 999_000 };
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "uid": "u"}});
        let got = pod_metrics(&pod, &[("c".into(), usage)], now).unwrap();
        assert_eq!(
            got,
            json!({"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "creationTimestamp": "1970-01-01T00:16:40Z"},
                "timestamp": "1970-01-01T00:16:39Z", "window": "15.02s",
                "containers": [{"name": "c", "usage": {"cpu": "12345678n", "memory": "3072Ki"}}]})
        );
        assert!(pod_metrics(&pod, &[], now).is_none());
        let node = node_metrics(&json!({"metadata": {"name": "w"}}), usage, now);
        assert_eq!(node["usage"], json!({"cpu": "12345678n", "memory": "3072Ki"}));
        // In protobuf, too, as metrics-server has it.
        for object in [got, node] {
            let bytes = respond::to_protobuf(&object).unwrap();
            let kind = Gvk::from_object(&format!("{GROUP}/{VERSION}"), object["kind"].as_str().unwrap());
            let back = protobuf::decode(&Schema::of_kind(&kind).unwrap(), &bytes).unwrap();
            assert_eq!(back, object);
        }
    }
}
