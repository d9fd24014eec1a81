//! Whether an aggregated server answers: the condition `Available` of its APIService, and what it has, for discovery.
//!
//! A server that answers is looked at again every half minute, one that does not sooner, and either at once when a request to
//! it failed.

use super::remote::{Known, Remote};
use super::{GROUP, PLURAL};
use crate::authn::UserInfo;
use crate::clock::rfc3339_seconds;
use crate::outbound::Place;
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry};
use crate::server::Server;
use caravel_api::status::ApiError;
use serde_json::{Value, json};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const AGAIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(250);
const LATER: Duration = Duration::from_secs(5);
/// Requests that fail in quick succession cause one look.
const PAUSE: Duration = Duration::from_millis(200);

/// The condition `Available`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { available: false, reason, message: message.into() }
    }
}

/// Looks at `remote` as long as it is registered.
pub(super) fn start(server: &Arc<Server>, remote: &Arc<Remote>, stop: CancellationToken) {
    let (registry, remote) = (server.registry.clone(), Arc::downgrade(remote));
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch(registry, remote) => {}
        }
    });
}

async fn watch(registry: Arc<Registry>, weak: Weak<Remote>) {
    let mut wait = SOON;
    loop {
        let Some(remote) = weak.upgrade() else { return };
        let (verdict, known) = look(&registry, &remote).await;
        wait = if verdict.available { AGAIN } else { (wait * 2).clamp(SOON, LATER) };
        let had = remote.known();
        // What it had when it last answered is still shown, as stale.
        *remote.known.lock() = Known {
            available: verdict.available,
            resources: known.resources.or(had.resources),
            document: known.document.or(had.document),
        };
        match write(&registry, &remote.name, &verdict).await {
            Err(error) if error.code == 404 => return,
            Err(error) => {
                tracing::warn!(service = %remote.name, %error, "the condition of an APIService could not be written");
                wait = SOON;
            }
            Ok(()) => {}
        }
        if verdict.available {
            remote.read_swagger(&registry, !had.available).await;
            tokio::select! {
                () = remote.doubt.notified() => {
                    wait = SOON;
                    tokio::time::sleep(PAUSE).await;
                }
                () = tokio::time::sleep(wait) => {}
            }
        } else {
            drop(remote);
            tokio::time::sleep(wait).await;
        }
    }
}

async fn look(registry: &Registry, remote: &Remote) -> (Verdict, Known) {
    let none = Known::default();
    if let Some(missing) = missing(registry, &remote.place).await {
        return (missing, none);
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = format!("https://{}{path}", remote.place.authority());
    let failed =
        |why: String| Verdict::no("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"));
    let bytes = match remote.look(registry, &path).await {
        Err(why) => return (failed(why), none),
        Ok((status, _)) if !status.is_success() => {
            return (failed(format!("bad status from {url}: {}", status.as_u16())), none);
        }
        Ok((_, bytes)) => bytes,
    };
    let list: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let document = document(registry, remote).await;
    let verdict = Verdict { available: true, reason: "Passed", message: "all checks passed".to_owned() };
    (verdict, Known { available: true, resources: list.get("resources").cloned(), document })
}

/// Where its OpenAPI document is; an older server has none.
async fn document(registry: &Registry, remote: &Remote) -> Option<String> {
    let (status, bytes) = remote.look(registry, "/openapi/v3").await.ok()?;
    if !status.is_success() {
        return None;
    }
    let index: Value = serde_json::from_slice(&bytes).ok()?;
    let path = format!("apis/{}/{}", remote.group, remote.version);
    let url = index.get("paths")?.get(&path)?.get("serverRelativeURL")?.as_str()?;
    // It must be a path of the document itself: nothing else of that server is handed on from here.
    url.starts_with(&format!("/openapi/v3/{path}")).then(|| url.to_owned())
}

/// What the Service lacks.
async fn missing(registry: &Registry, place: &Place) -> Option<Verdict> {
    let Place::Service { namespace, name, port } = place else { return None };
    let what = format!("service/{name} in {namespace:?}");
    let service = match registry.object("", "services", namespace, name).await {
        Ok(Some(service)) => service,
        Ok(None) => return Some(Verdict::no("ServiceNotFound", format!("{what} is not present"))),
        Err(error) => return Some(Verdict::no("ServiceAccessError", format!("{what} cannot be read: {error}"))),
    };
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let listed = ports.into_iter().any(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(*port)));
    if !listed && service.pointer("/spec/type").and_then(Value::as_str) != Some("ExternalName") {
        return Some(Verdict::no("ServicePortError", format!("{what} is not listening on port {port}")));
    }
    match registry.service_addresses(namespace, name, &port.to_string()).await {
        Ok(_) => None,
        Err(why) if why.starts_with("no endpoints") => {
            Some(Verdict::no("MissingEndpoints", format!("endpoints for {what} have no addresses with port {port}")))
        }
        Err(why) => Some(Verdict::no("EndpointsNotFound", format!("cannot find endpoints for {what}: {why}"))),
    }
}

/// Writes the condition, if it is another than the present one.
pub(super) async fn write(registry: &Arc<Registry>, name: &str, verdict: &Verdict) -> Result<(), ApiError> {
    let kind = registry.row(GROUP, PLURAL)?;
    let call = Call::new(Arc::new(UserInfo::system_masters("system:apiserver")), "kube-apiserver");
    let options = WriteOptions::default();
    let now = rfc3339_seconds(registry.clock.now());
    let verdict = verdict.clone();
    let change = Change::With(Box::new(move |service: &mut Value| {
        set_available(service, &verdict, &now);
        Ok(())
    }));
    let update = Update { kind: &kind, namespace: "", name, subresource: "status", change, options: &options };
    registry.update(&call, update).await.map(|_| ())
}

fn set_available(service: &mut Value, verdict: &Verdict, now: &str) {
    let text = if verdict.available { "True" } else { "False" };
    let mut next = json!({
        "type": "Available", "status": text, "reason": verdict.reason, "message": verdict.message,
        "lastTransitionTime": now,
    });
    let mut all = service.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    match all.iter_mut().find(|c| c.get("type").and_then(Value::as_str) == Some("Available")) {
        Some(present) => {
            if present.get("status") == next.get("status") {
                next["lastTransitionTime"] = present.get("lastTransitionTime").cloned().unwrap_or_default();
            }
            *present = next;
        }
        None => all.push(next),
    }
    service["status"]["conditions"] = Value::Array(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let mut service = json!({});
        let yes = Verdict { available: true, reason: "Passed", message: "m".into() };
        set_available(&mut service, &yes, "first");
        set_available(&mut service, &yes, "second");
        assert_eq!(service["status"]["conditions"][0]["lastTransitionTime"], "first");
        set_available(&mut service, &Verdict::no("Gone", "x"), "third");
        assert_eq!(
            service["status"]["conditions"],
            json!([{"type": "Available", "status": "False", "reason": "Gone",
            "message": "x", "lastTransitionTime": "third"}])
        );
    }
}
