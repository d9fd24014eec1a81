//! Audit: a record of who did what, as the policy asks (`audit.k8s.io/v1` Event). Without a policy nothing here costs anything.

pub mod log;
pub mod metrics;
pub mod pace;
pub mod policy;
mod trail;
pub mod truncate;
pub mod webhook;

pub use trail::{Answer, End, Trail};

use crate::config::AuditOptions;
use crate::request_info::RequestInfo;
use crate::server::Origin;
use bytes::Bytes;
use http::request::Parts;
use log::Log;
use metrics::AuditMetrics;
use policy::Policy;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use webhook::Webhook;

/// Longer names of clients are cut, in bytes.
const MAX_AGENT: usize = 1024;

/// A policy and where its events go.
#[derive(Clone)]
pub struct Audit {
    policy: Arc<Policy>,
    log: Option<Log>,
    webhook: Option<Arc<Webhook>>,
    metrics: AuditMetrics,
}

impl Audit {
    /// Reads the policy and opens the backends.
    ///
    /// # Errors
    /// What is wrong with the policy or a backend.
    pub fn open(options: &AuditOptions, metrics: AuditMetrics) -> Result<Self, String> {
        let policy = Arc::new(Policy::read(&options.policy)?);
        let log = options.log.clone().map(Log::open).transpose()?;
        let webhook = options.webhook.as_ref().map(|w| Webhook::open(w, metrics.clone())).transpose()?;
        if log.is_none() && webhook.is_none() {
            tracing::warn!("there is an audit policy, but neither a log nor a webhook: nothing is recorded");
        }
        Ok(Self { policy, log, webhook: webhook.map(Arc::new), metrics })
    }

    /// The trail of a request that just came in.
    pub fn begin(&self, id: &str, parts: &Parts, info: &Arc<RequestInfo>, origin: &Origin) -> Arc<Trail> {
        let remote = match origin {
            Origin::Local(_) => IpAddr::from([127, 0, 0, 1]),
            Origin::Remote(peer) => peer.peer.address.ip(),
        };
        let agent = parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let agent = match agent.get(..MAX_AGENT) {
            Some(start) if agent.len() > MAX_AGENT => format!("{start}...TRUNCATED"),
            _ => agent.to_owned(),
        };
        let uri = parts.uri.path_and_query().map_or_else(|| info.path.clone(), ToString::to_string);
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": id, "requestURI": uri, "verb": info.verb,
            "user": {}, "sourceIPs": sources(&parts.headers, remote), "userAgent": agent,
            "requestReceivedTimestamp": trail::now(),
        });
        if info.is_resource {
            let mut about = json!({"resource": info.resource});
            for (field, value) in [
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("apiVersion", &info.version),
                ("subresource", &info.subresource),
            ] {
                if !value.is_empty() {
                    about[field] = json!(value);
                }
            }
            event["objectRef"] = about;
        }
        Arc::new(Trail::new(self.clone(), info.clone(), event))
    }

    /// Gives an event to the backends; whether the request may go on.
    async fn write(&self, event: &Value) -> bool {
        let encoded = self.encoded(event);
        if let Some(log) = &self.log {
            log.write(&encoded).await;
        }
        match &self.webhook {
            Some(webhook) => webhook.write(event, &encoded).await,
            None => true,
        }
    }

    /// The same from where nothing can wait.
    fn write_later(&self, event: &Value) {
        let encoded = self.encoded(event);
        if let Some(log) = &self.log
            && !log.try_write(&encoded)
        {
            self.metrics.lost("log", 1, "the queue is full");
        }
        if let Some(webhook) = &self.webhook {
            webhook.write_later(event, &encoded);
        }
    }

    fn encoded(&self, event: &Value) -> Bytes {
        self.metrics.event();
        serde_json::to_vec(event).unwrap_or_default().into()
    }

    /// Sends what the webhook still holds; what it does not take within `patience` is lost.
    pub async fn close(&self, patience: Duration) {
        if let Some(webhook) = &self.webhook {
            webhook.close(patience).await;
        }
    }
}

/// Where a request says it comes from, and where it does: proxies on the way first, as upstream lists them.
fn sources(headers: &http::HeaderMap, remote: IpAddr) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut all: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    let further = text("x-real-ip").trim().parse().ok().into_iter().chain([remote]);
    for ip in further {
        if all.last() != Some(&ip) {
            all.push(ip);
        }
    }
    all.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sources_are_listed_from_afar() {
        let remote = "10.0.0.9".parse().unwrap();
        let mut headers = http::HeaderMap::new();
        assert_eq!(sources(&headers, remote), ["10.0.0.9"]);
        headers.insert("x-forwarded-for", "1.2.3.4, rubbish,5.6.7.8".parse().unwrap());
        headers.insert("x-real-ip", "5.6.7.8".parse().unwrap());
        assert_eq!(sources(&headers, remote), ["1.2.3.4", "5.6.7.8", "10.0.0.9"]);
        headers.insert("x-real-ip", "10.0.0.9".parse().unwrap());
        assert_eq!(sources(&headers, remote), ["1.2.3.4", "5.6.7.8", "10.0.0.9"]);
    }
}
