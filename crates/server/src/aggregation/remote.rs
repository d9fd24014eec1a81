//! One aggregated API server.

use super::swagger::Read;
use crate::outbound::{self, MAX_ANSWER, Place, Trust, client_tls};
use crate::pki::Pki;
use crate::registry::Registry;
use base64::Engine as _;
use bytes::Bytes;
use caravel_api::meta;
use http::header::{ACCEPT, HOST, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::{Mutex, RwLock};
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long one look at an aggregated server may take.
const LOOK: Duration = Duration::from_secs(5);

/// How TLS to the server is spoken, or why it cannot be.
type MadeTls = Result<Arc<ClientConfig>, String>;

/// What is known of an aggregated server.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// It answered the last time.
    pub available: bool,
    /// `resources` of its APIResourceList, as it was last seen.
    pub resources: Option<Value>,
    /// Where its OpenAPI document (version 3) is, when it has one.
    pub document: Option<String>,
}

/// An APIService that names a Service.
pub struct Remote {
    /// Name of the APIService.
    pub name: String,
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// `groupPriorityMinimum`.
    pub group_priority: i64,
    /// `versionPriority`.
    pub version_priority: i64,
    pub(super) place: Place,
    pki: Arc<Pki>,
    /// TLS, and the front proxy's certificate that it was made with.
    tls: RwLock<Option<(String, MadeTls)>>,
    pub(super) known: Mutex<Known>,
    /// Its OpenAPI document of version 2.
    pub(super) swagger: Mutex<Read>,
    /// Told when it should be looked at again soon.
    pub(super) doubt: tokio::sync::Notify,
    uid: String,
    spec: Value,
}

impl Remote {
    pub(super) fn of(object: &Value, pki: Arc<Pki>) -> Self {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |field: &str| spec.get(field).and_then(Value::as_i64).unwrap_or(0);
        let port = spec.pointer("/service/port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        let available = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten().any(|c| {
            c.get("type").and_then(Value::as_str) == Some("Available")
                && c.get("status").and_then(Value::as_str) == Some("True")
        });
        Self {
            name: meta::name(object).to_owned(),
            group: text("/group"),
            version: text("/version"),
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            place: Place::Service {
                namespace: text("/service/namespace"),
                name: text("/service/name"),
                port: port.unwrap_or(443),
            },
            pki,
            tls: RwLock::default(),
            known: Mutex::new(Known { available, ..Known::default() }),
            swagger: Mutex::default(),
            doubt: tokio::sync::Notify::new(),
            uid: meta::uid(object).to_owned(),
            spec,
        }
    }

    /// Whether it is what the object says.
    pub(super) fn is_same(&self, object: &Value) -> bool {
        self.uid == meta::uid(object) && object.get("spec") == Some(&self.spec)
    }

    /// What is known of it now.
    pub fn known(&self) -> Known {
        self.known.lock().clone()
    }

    /// TLS with the present certificate of the front proxy.
    ///
    /// # Errors
    /// A text: the bundle is none.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let leaves = self.pki.leaves();
        let leaf = &leaves.front_proxy_client;
        if let Some((pem, config)) = &*self.tls.read()
            && *pem == leaf.cert_pem
        {
            return config.clone();
        }
        let made = self.make_tls(leaf);
        *self.tls.write() = Some((leaf.cert_pem.clone(), made.clone()));
        made
    }

    fn make_tls(&self, leaf: &crate::pki::Leaf) -> Result<Arc<ClientConfig>, String> {
        let identity = (leaf.chain().map_err(|e| e.to_string())?, leaf.key().map_err(|e| e.to_string())?);
        let bundle = self.spec.get("caBundle").and_then(Value::as_str).unwrap_or_default();
        let pem = base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .map_err(|_| "the caBundle is not base64".to_owned())?;
        let trust = match (self.spec.get("insecureSkipTLSVerify").and_then(Value::as_bool), pem.is_empty()) {
            (Some(true), _) => Trust::Anyone,
            (_, true) => Trust::System,
            (_, false) => Trust::Bundle(&pem),
        };
        client_tls(trust, Some(identity))
    }

    /// GETs a path of it as the aggregator itself.
    ///
    /// # Errors
    /// A text: it could not be reached, or was too slow.
    pub(super) async fn look(&self, registry: &Registry, path: &str) -> Result<(StatusCode, Bytes), String> {
        let answer = self.fetch(registry, path, "", MAX_ANSWER).await?;
        Ok((answer.status(), answer.into_body()))
    }

    /// The same, if it is another than that with this `ETag` (or there is none), of at most so many bytes.
    ///
    /// # Errors
    /// A text: it could not be reached, was too slow, or is too large.
    pub(super) async fn fetch(
        &self,
        registry: &Registry,
        path: &str,
        tag: &str,
        most: usize,
    ) -> Result<Response<Bytes>, String> {
        let addresses = registry.addresses_of(&self.place).await?;
        let mut request = Request::get(path).body(Full::new(Bytes::new())).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        let host = HeaderValue::try_from(self.place.authority()).map_err(|e| e.to_string())?;
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-aggregator"));
        headers.insert("x-remote-user", HeaderValue::from_static("system:kube-aggregator"));
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        if !tag.is_empty() {
            headers.insert(IF_NONE_MATCH, HeaderValue::try_from(tag).map_err(|e| e.to_string())?);
        }
        let name = self.place.server_name();
        let work = outbound::fetch(&addresses, &name, self.tls()?, request, most);
        let timed = tokio::time::timeout(LOOK, work).await;
        timed.unwrap_or_else(|_| {
            Err(format!("Get \"https://{}{path}\": context deadline exceeded", self.place.authority()))
        })
    }
}
