//! Everything that is no resource: health, version, discovery, OpenAPI, metrics, the token issuer's keys.

use super::{Inbound, health};
use crate::http::body::Body;
use crate::http::negotiate::Accept;
use crate::http::respond;
use crate::server::Server;
use caravel_api::discovery;
use caravel_api::kinds::KindTable;
use caravel_api::status::ApiError;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// What `/version` says: clients parse it.
pub const GIT_VERSION: &str = "v1.36.0";

impl Server {
    /// Answers a plain path.
    pub(super) async fn path(self: Arc<Self>, inbound: Inbound) -> Result<Response<Body>, ApiError> {
        let path = inbound.info.path.as_str();
        if !matches!(inbound.parts.method, Method::GET | Method::HEAD) {
            return Err(if self.serves_path(path) { ApiError::method_not_allowed() } else { ApiError::unknown_path() });
        }
        if health::is_health(path) {
            return self.health(&inbound).await;
        }
        let media = Accept::plain_media(&inbound.parts.headers);
        let ok = |value: &Value| Ok(respond::value(StatusCode::OK, value, media));
        match path.trim_end_matches('/') {
            "" => ok(&self.root_paths()),
            "/version" => ok(&version()),
            "/api" => self.discovery(&inbound, discovery::Door::Api),
            "/apis" => self.discovery(&inbound, discovery::Door::Apis),
            "/metrics" | "/metrics/slis" => {
                let text = self.metrics.text(&(self.store_metrics() + &self.flow.metrics()));
                let mut response = respond::text(StatusCode::OK, text);
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
                Ok(response)
            }
            "/.well-known/openid-configuration" => {
                let issuer = self.service_accounts.issuer();
                ok(&json!({
                    "issuer": issuer,
                    "jwks_uri": format!("{issuer}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                }))
            }
            "/openid/v1/jwks" => {
                let mut response = ok(&self.service_accounts.key_set())?;
                let kind = HeaderValue::from_static("application/jwk-set+json");
                response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                Ok(response)
            }
            plain => {
                if plain == "/openapi/v2" || plain == "/openapi/v3" || plain.starts_with("/openapi/v3/") {
                    let plain = plain.to_owned();
                    return self.openapi(inbound, &plain).await;
                }
                let kinds = self.registry.kinds();
                let parts: Vec<&str> = plain.split('/').skip(1).collect();
                let document = match parts[..] {
                    ["api", version] => discovery::api_resource_list(&kinds, "", version),
                    ["apis", group] => self.one_group(&kinds, group),
                    ["apis", group, version] => discovery::api_resource_list(&kinds, group, version),
                    _ => None,
                };
                match document {
                    Some(document) => ok(&document),
                    None => Err(ApiError::unknown_path()),
                }
            }
        }
    }

    /// The document of one group, whoever answers its versions.
    fn one_group(&self, kinds: &KindTable, name: &str) -> Option<Value> {
        let list = self.aggregation.group_list(kinds, discovery::api_group_list(kinds));
        let mut group = list["groups"].as_array()?.iter().find(|group| group["name"] == name)?.clone();
        group["kind"] = json!("APIGroup");
        group["apiVersion"] = json!("v1");
        Some(group)
    }

    fn serves_path(&self, path: &str) -> bool {
        let plain = path.trim_end_matches('/');
        health::is_health(plain)
            || matches!(
                plain,
                "" | "/version" | "/api" | "/apis" | "/metrics" | "/openapi/v2" | "/openapi/v3" | "/openid/v1/jwks"
            )
            || self.root_paths()["paths"].as_array().is_some_and(|all| all.iter().any(|p| p == plain))
    }

    fn root_paths(&self) -> Value {
        let kinds = self.registry.kinds();
        let mut paths: Vec<String> =
            ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"].map(String::from).to_vec();
        let mut groups: Vec<String> = self.aggregation.paths();
        groups.extend(
            kinds
                .iter()
                .filter(|k| !k.group.is_empty())
                .flat_map(|k| [format!("/apis/{}", k.group), format!("/apis/{}/{}", k.group, k.version)]),
        );
        groups.sort();
        groups.dedup();
        paths.extend(groups);
        paths.extend(
            [
                "/healthz",
                "/healthz/etcd",
                "/healthz/log",
                "/healthz/ping",
                "/livez",
                "/livez/etcd",
                "/livez/log",
                "/livez/ping",
                "/metrics",
                "/metrics/slis",
                "/openapi/v2",
                "/openapi/v3",
                "/openapi/v3/",
                "/openid/v1/jwks",
                "/readyz",
                "/readyz/etcd",
                "/readyz/informer-sync",
                "/readyz/log",
                "/readyz/ping",
                "/readyz/poststarthook/rbac/bootstrap-roles",
                "/readyz/shutdown",
                "/version",
            ]
            .map(String::from),
        );
        json!({"paths": paths})
    }

    fn discovery(&self, inbound: &Inbound, door: discovery::Door) -> Result<Response<Body>, ApiError> {
        let kinds = self.registry.kinds();
        let accept = inbound.parts.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let Some(version) = discovery::is_aggregated_request(accept) else {
            let media = Accept::choose_plain(&inbound.parts.headers, true)?.media;
            let document = match door {
                discovery::Door::Api => {
                    let address = format!("{}:{}", self.config.advertise_address, self.config.port);
                    discovery::api_versions(&address)
                }
                discovery::Door::Apis => self.aggregation.group_list(&kinds, discovery::api_group_list(&kinds)),
            };
            let mut response = respond::value(StatusCode::OK, &document, media);
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return Ok(response);
        };
        let mut document = discovery::aggregated(&kinds, door, version);
        if door == discovery::Door::Apis {
            document = self.aggregation.aggregated(&kinds, document);
        }
        let bytes = serde_json::to_vec(&document).map_err(ApiError::internal)?;
        let etag = crate::handlers::documents::etag(&bytes);
        let mut response = if inbound.parts.headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == etag.as_bytes())
        {
            respond::with(StatusCode::NOT_MODIFIED, "application/json", Body::Empty)
        } else {
            let kind = match version {
                "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                _ => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            };
            respond::with(StatusCode::OK, kind, bytes)
        };
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        if let Ok(etag) = HeaderValue::try_from(etag) {
            headers.insert(ETAG, etag);
        }
        Ok(response)
    }

    fn store_metrics(&self) -> String {
        let stats = self.registry.store.stats();
        let mut out = String::new();
        for (name, help, value) in [
            ("apiserver_storage_objects_total", "Live entries of the store", stats.entries),
            ("apiserver_storage_live_bytes", "Bytes of live entries", stats.live_bytes),
            ("apiserver_storage_history_bytes", "Bytes held for watches", stats.history_bytes),
            ("apiserver_storage_watches", "Open watches of the store", stats.watches),
            ("apiserver_storage_size_bytes", "Bytes on disk", stats.disk_bytes),
            ("apiserver_storage_revision", "Newest revision", stats.revision),
        ] {
            out.push_str(&format!("# HELP {name} {help}.\n# TYPE {name} gauge\n{name} {value}\n"));
        }
        out
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": concat!("caravel-", env!("CARGO_PKG_VERSION")), "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25.0", "compiler": "rustc",
        "platform": platform(),
    })
}

fn platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{machine}", std::env::consts::OS)
}
