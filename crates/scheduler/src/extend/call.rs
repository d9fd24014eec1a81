//! Calling an extender.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::wire::{self, Filtered, Victims};
use super::{ExtenderConfig, Material, Tls};
use crate::model::PodInfo;

/// An answer that is longer than this is not read: whole nodes of a large cluster are a few tens of megabytes.
const LONGEST: usize = 128 << 20;

/// What is wrong with an extender, or what it says.
#[derive(Debug, thiserror::Error)]
#[error("extender at {url}: {what}")]
pub struct CallError {
    /// The URL that was asked.
    pub url: String,
    /// What went wrong.
    pub what: String,
}

/// An extender with its client.
pub struct Extender {
    /// Its configuration.
    pub config: ExtenderConfig,
    client: kube::Client,
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).map(|c| c.map(|c| c.to_vec())).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("the authorities hold no certificate".to_owned()),
        Err(e) => Err(format!("the authorities cannot be read: {e}")),
    }
}

/// A client for one address. (The client of an API server is one for any address: it has all that a TLS configuration can say.)
fn client(url: &str, tls: &Tls) -> Result<kube::Client, String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{e}"))?;
    let mut config = kube::Config::new(uri);
    config.default_retry = false;
    config.disable_compression = true;
    config.accept_invalid_certs = tls.insecure;
    config.tls_server_name = tls.server_name.clone();
    config.root_cert = tls.authorities.as_deref().map(certificates).transpose()?;
    let mut identity = json!({});
    for (given, name) in [(&tls.cert, "client-certificate"), (&tls.key, "client-key")] {
        match given {
            Some(Material::Data(data)) => identity[format!("{name}-data")] = json!(data),
            Some(Material::File(file)) => identity[name] = json!(file),
            None => {}
        }
    }
    config.auth_info = serde_json::from_value(identity).map_err(|e| e.to_string())?;
    kube::Client::try_from(config).map_err(|e| e.to_string())
}

impl Extender {
    /// Makes the client.
    ///
    /// # Errors
    /// A URL or certificate that makes no sense.
    pub fn new(config: ExtenderConfig) -> Result<Self, String> {
        let client = client(&config.url, &config.tls).map_err(|e| format!("extender {}: {e}", config.url))?;
        Ok(Self { config, client })
    }

    fn error(&self, verb: &str, what: impl ToString) -> CallError {
        let url = format!("{}/{verb}", self.config.url.trim_end_matches('/'));
        CallError { url, what: what.to_string() }
    }

    async fn ask(&self, verb: &str, question: &Value) -> Result<Value, CallError> {
        let exchange = async {
            let body = Body::from(serde_json::to_vec(question).map_err(|e| e.to_string())?);
            let request = http::Request::post(format!("/{verb}"))
                .header("content-type", "application/json")
                .body(body)
                .map_err(|e| e.to_string())?;
            let answer = self.client.send(request).await.map_err(|e| e.to_string())?;
            let status = answer.status();
            if status != http::StatusCode::OK {
                return Err(format!("it answered {status}"));
            }
            let all: Bytes =
                Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|e| e.to_string())?.to_bytes();
            serde_json::from_slice(&all).map_err(|e| format!("its answer cannot be read: {e}"))
        };
        match tokio::time::timeout(self.config.timeout, exchange).await {
            Ok(result) => result.map_err(|what: String| self.error(verb, what)),
            Err(_) => Err(self.error(verb, format!("no answer within {} ms", self.config.timeout.as_millis()))),
        }
    }

    /// Which of the nodes will do; all of them when it does not filter.
    pub async fn filter(&self, question: &Value) -> Result<Option<Filtered>, CallError> {
        let Some(verb) = &self.config.filter else { return Ok(None) };
        let answer = self.ask(verb, question).await?;
        wire::filtered(&answer, self.config.knows_nodes).map(Some).map_err(|what| self.error(verb, what))
    }

    /// Its scores; none when it gives none.
    pub async fn prioritize(&self, question: &Value) -> Result<Vec<(String, i64)>, CallError> {
        let Some(verb) = &self.config.prioritize else { return Ok(Vec::new()) };
        let answer = self.ask(verb, question).await?;
        wire::scores(&answer).map_err(|what| self.error(verb, what))
    }

    /// The nodes where room may be made, and which pods go there.
    pub async fn preempt(&self, verb: &str, question: &Value) -> Result<BTreeMap<String, Victims>, CallError> {
        let answer = self.ask(verb, question).await?;
        wire::preempted(&answer).map_err(|what| self.error(verb, what))
    }

    /// Binds a pod.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), CallError> {
        let Some(verb) = &self.config.bind else { return Ok(()) };
        let question = wire::binding(&pod.key.name, &pod.key.namespace, &pod.uid, node);
        let answer = self.ask(verb, &question).await?;
        wire::bound(&answer).map_err(|what| self.error(verb, what))
    }
}
