//! OpenAPI documents. Made when somebody asks, kept for a minute in case others ask, then dropped: they are megabytes that
//! an idle server does not need.

use super::Inbound;
use crate::aggregation::Claim;
use crate::http::body::Body;
use crate::http::negotiate::{Accept, MediaType};
use crate::http::respond;
use crate::request_info::query_value;
use crate::server::Server;
use bytes::Bytes;
use caravel_api::kinds::{Kind, KindTable};
use caravel_api::openapi::{gnostic, v2, v3};
use caravel_api::status::ApiError;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a made document is kept.
const KEEP: Duration = Duration::from_secs(60);

/// Documents that are kept for the moment, by name and hash.
#[derive(Default)]
pub struct Documents {
    kept: Mutex<HashMap<String, Weak<Bytes>>>,
    /// One document is made at a time: ten clients that start together cost one.
    making: tokio::sync::Mutex<()>,
}

impl Documents {
    fn find(&self, name: &str) -> Option<Bytes> {
        self.kept.lock().get(name).and_then(Weak::upgrade).map(|bytes| (*bytes).clone())
    }

    async fn get(&self, name: String, make: impl FnOnce() -> Bytes + Send + 'static) -> Result<Bytes, ApiError> {
        if let Some(found) = self.find(&name) {
            return Ok(found);
        }
        let _one = self.making.lock().await;
        if let Some(found) = self.find(&name) {
            return Ok(found);
        }
        let made = tokio::task::spawn_blocking(make).await.map_err(ApiError::internal)?;
        let holder = Arc::new(made.clone());
        {
            let mut kept = self.kept.lock();
            kept.retain(|_, document| document.strong_count() > 0);
            kept.insert(name, Arc::downgrade(&holder));
        }
        tokio::spawn(async move {
            tokio::time::sleep(KEEP).await;
            drop(holder);
        });
        Ok(made)
    }
}

/// A strong validator of `bytes`, quoted.
pub fn etag(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    let hex: String = digest.iter().map(|b| format!("{b:02X}")).collect();
    format!("\"{hex}\"")
}

/// The raw schemas of custom resources, by definition and version.
type Schemas = Arc<HashMap<(String, String), Value>>;

fn schema_of(schemas: &Schemas, kind: &Kind) -> Option<Value> {
    schemas.get(&(format!("{}.{}", kind.plural, kind.group), kind.version.to_string())).cloned()
}

impl Server {
    async fn custom_schemas(&self, kinds: &KindTable) -> Result<Schemas, ApiError> {
        if !kinds.iter().any(|k| k.is_custom()) {
            return Ok(Schemas::default());
        }
        let mut all = HashMap::new();
        for definition in self.registry.objects("apiextensions.k8s.io", "customresourcedefinitions", "").await? {
            let name = caravel_api::meta::name(&definition).to_owned();
            for version in definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten() {
                let label = version.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
                    all.insert((name.clone(), label), schema.clone());
                }
            }
        }
        Ok(Arc::new(all))
    }

    /// Answers a path under `/openapi`.
    pub(super) async fn openapi(&self, inbound: Inbound, path: &str) -> Result<Response<Body>, ApiError> {
        let kinds = self.registry.kinds();
        if path == "/openapi/v3" {
            let media = Accept::of(&inbound.parts.headers, false)?.media;
            return Ok(respond::value(StatusCode::OK, &self.aggregation.openapi_index(v3::index(&kinds)), media));
        }
        if path == "/openapi/v2" {
            return self.openapi_v2(&inbound, kinds).await;
        }
        let name = path.trim_start_matches("/openapi/v3/").to_owned();
        let parts: Vec<&str> = name.split('/').collect();
        let (group, version) = match parts[..] {
            ["api", version] => (String::new(), version.to_owned()),
            ["apis", group, version] => (group.to_owned(), version.to_owned()),
            _ => return Err(ApiError::unknown_path()),
        };
        if let Some(Claim::Remote(remote)) = self.aggregation.claim(&group, &version) {
            let target = inbound.parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            let user = inbound.call.user.clone();
            return self.pass_to(&remote, inbound, &user, &target).await;
        }
        if kinds.group_version(&group, &version).next().is_none() {
            return Err(ApiError::unknown_path());
        }
        let hash = v3::hash(&kinds, &group, &version);
        let asked = query_value(&inbound.parts.uri, "hash");
        if asked.as_ref().is_some_and(|asked| *asked != hash) {
            let mut response = respond::with(StatusCode::MOVED_PERMANENTLY, "text/plain", Body::Empty);
            if let Ok(location) = HeaderValue::try_from(format!("/openapi/v3/{name}?hash={hash}")) {
                response.headers_mut().insert(LOCATION, location);
            }
            return Ok(response);
        }
        let tag = format!("\"{hash}\"");
        if let Some(unchanged) = unchanged(&inbound, &tag) {
            return Ok(unchanged);
        }
        let schemas = self.custom_schemas(&kinds).await?;
        let bytes = self
            .documents
            .get(format!("v3/{name}/{hash}"), move || {
                let document = v3::document(&kinds, &group, &version, &|kind| schema_of(&schemas, kind));
                serde_json::to_vec(&document).unwrap_or_default().into()
            })
            .await?;
        let mut response = respond::with(StatusCode::OK, "application/json", bytes);
        tagged(&mut response, &tag);
        if asked.is_some() {
            // The address names the content: it may be kept for good.
            let forever = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(CACHE_CONTROL, forever);
        }
        Ok(response)
    }

    async fn openapi_v2(&self, inbound: &Inbound, kinds: Arc<KindTable>) -> Result<Response<Body>, ApiError> {
        let accept = inbound.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let protobuf = accept.contains("proto-openapi.spec.v2@v1.0+protobuf");
        if !protobuf && Accept::of(&inbound.parts.headers, false)?.media != MediaType::Json {
            return Err(ApiError::not_acceptable(&["application/json", gnostic::ACCEPTED]));
        }
        let foreign = self.aggregation.swaggers();
        let hash = foreign.hash(v2::hash(&kinds));
        let tag = format!("\"{hash}\"");
        if let Some(unchanged) = unchanged(inbound, &tag) {
            return Ok(unchanged);
        }
        let schemas = self.custom_schemas(&kinds).await?;
        let name = format!("v2/{}/{hash}", if protobuf { "protobuf" } else { "json" });
        let bytes = self
            .documents
            .get(name, move || {
                let mut document = v2::document(&kinds, &|kind| schema_of(&schemas, kind));
                foreign.merge_into(&mut document);
                if protobuf {
                    gnostic::encode(&document).into()
                } else {
                    serde_json::to_vec(&document).unwrap_or_default().into()
                }
            })
            .await?;
        let mut response = respond::with(StatusCode::OK, "application/json", bytes);
        if protobuf {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(gnostic::CONTENT_TYPE));
        }
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        tagged(&mut response, &tag);
        Ok(response)
    }
}

fn tagged(response: &mut Response<Body>, tag: &str) {
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
}

fn unchanged(inbound: &Inbound, tag: &str) -> Option<Response<Body>> {
    let same = inbound.parts.headers.get_all(IF_NONE_MATCH).iter().any(|v| v.as_bytes() == tag.as_bytes());
    same.then(|| {
        let mut response = respond::with(StatusCode::NOT_MODIFIED, "application/json", Body::Empty);
        tagged(&mut response, tag);
        response
    })
}
