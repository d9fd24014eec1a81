//! `/healthz`, `/livez`, `/readyz`: one check a line.

use super::Inbound;
use crate::http::body::Body;
use crate::http::respond;
use crate::request_info::query_pairs;
use crate::server::Server;
use caravel_api::status::ApiError;
use http::{Response, StatusCode};
use std::sync::atomic::Ordering;

/// Paths about health: served even when there is no room for anything else.
pub fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path == *root || path.strip_prefix(root).is_some_and(|r| r.starts_with('/')))
}

/// Paths that are answered without credentials: the health endpoints themselves (KEP-4633's narrow default).
pub fn is_anonymous(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz")
}

const LIVE: [&str; 3] = ["ping", "log", "etcd"];
const READY: [&str; 6] = ["ping", "log", "etcd", "informer-sync", "poststarthook/rbac/bootstrap-roles", "shutdown"];

impl Server {
    /// Answers a health path.
    pub(super) async fn health(&self, inbound: &Inbound) -> Result<Response<Body>, ApiError> {
        let path = inbound.info.path.trim_end_matches('/');
        let mut parts = path.splitn(3, '/').skip(1);
        let root = parts.next().unwrap_or_default();
        let checks: &[&str] = if root == "readyz" { &READY } else { &LIVE };
        if let Some(one) = parts.next() {
            if !checks.contains(&one) {
                return Err(ApiError::unknown_path());
            }
            return Ok(match self.check(one).await {
                Ok(()) => respond::text(StatusCode::OK, "ok"),
                Err(why) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
            });
        }
        let (mut verbose, mut excluded) = (false, vec![]);
        for (key, value) in query_pairs(inbound.query()) {
            match key.as_str() {
                "verbose" => verbose = true,
                "exclude" => excluded.push(value),
                _ => {}
            }
        }
        let (mut text, mut failed) = (String::new(), false);
        for check in checks {
            if excluded.iter().any(|e| e == check) {
                text.push_str(&format!("[+]{check} excluded: ok\n"));
                continue;
            }
            match self.check(check).await {
                Ok(()) => text.push_str(&format!("[+]{check} ok\n")),
                Err(why) => {
                    failed = true;
                    tracing::warn!(%check, %why, "a health check fails");
                    text.push_str(&format!("[-]{check} failed: reason withheld\n"));
                }
            }
        }
        if failed {
            return Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{root} check failed\n")));
        }
        if verbose {
            return Ok(respond::text(StatusCode::OK, format!("{text}{root} check passed\n")));
        }
        Ok(respond::text(StatusCode::OK, "ok"))
    }

    async fn check(&self, name: &str) -> Result<(), String> {
        match name {
            "etcd" => {
                let check = tokio::time::timeout(std::time::Duration::from_secs(2), self.registry.store.check()).await;
                check.map_err(|_| "the store does not answer".to_owned())?.map_err(|e| e.to_string())
            }
            "shutdown" if self.ending.load(Ordering::Acquire) => Err("process is shutting down".into()),
            _ => Ok(()),
        }
    }
}
