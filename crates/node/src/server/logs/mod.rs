//! `kubectl logs`: a container's log file in CRI's format, as far back as asked, and on as it grows.

pub(super) mod changes;
mod follow;
mod format;
mod tail;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::Context;
use super::query::Query;
use super::reply::{self, Reply};
use super::stream::{self, Kind, Offer};
use crate::PodView;
use format::Which;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    pub tail: Option<u64>,
    pub limit: Option<u64>,
    pub which: Which,
}

impl Options {
    /// From a request's parameters, which the API server checked before; the message says what is wrong.
    fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let natural = |name: &str, least: i64| match query.number(name)? {
            Some(n) if n < least => Err(format!("{name}: must be greater than or equal to {least}")),
            n => Ok(n.map(|n| n as u64)),
        };
        let seconds = natural("sinceSeconds", 1)?;
        let time = match query.get("sinceTime").filter(|t| !t.is_empty()) {
            Some(text) => Some(text.parse().map_err(|_| format!("sinceTime: {text:?} is not an RFC 3339 time"))?),
            None => None,
        };
        if seconds.is_some() && time.is_some() {
            return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into());
        }
        let ago = |s: u64| {
            let span = jiff::SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX));
            now.checked_sub(span).unwrap_or(Timestamp::MIN)
        };
        let which = match query.get("stream") {
            None | Some("" | "All") => Which::All,
            Some("Stdout") => Which::Stdout,
            Some("Stderr") => Which::Stderr,
            Some(other) => return Err(format!("stream: {other:?} is none of All, Stdout, Stderr")),
        };
        Ok(Options {
            follow: query.flag(&["follow"]),
            previous: query.flag(&["previous"]),
            timestamps: query.flag(&["timestamps"]),
            since: seconds.map(ago).or(time),
            tail: natural("tailLines", 0)?,
            limit: natural("limitBytes", 1)?,
            which,
        })
    }
}

pub(super) async fn handle(
    context: Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Reply {
    let offer = match Offer::wants_websocket(&request).then(|| Offer::of(&request, Kind::Log)).transpose() {
        Ok(offer) => offer,
        Err(refusal) => return refusal,
    };
    let Some(view) = context.pods.pod(namespace, pod) else {
        return reply::text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist"));
    };
    if !has_container(&view.pod, container) {
        return reply::text(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}"));
    }
    let options = match Options::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(why) => return reply::text(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    let (id, path) = match locate(&context, &view, pod, container, options.previous).await {
        Ok(found) => found,
        Err(why) => return reply::text(StatusCode::BAD_REQUEST, why),
    };
    match (follow::start(context.clone(), id, path, options).await, offer) {
        (Ok(parts), None) => reply::stream("text/plain", parts),
        (Ok(parts), Some(offer)) => stream::messages(context, request, offer, parts),
        (Err(refusal), _) => refusal,
    }
}

/// The container whose log is meant, and the log. The status decides, as upstream's does; a container that runs already
/// while the status still waits is taken too.
async fn locate(
    context: &Context,
    view: &PodView,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<(String, PathBuf), String> {
    let instance = match select(pod, &view.pod, container, previous) {
        Ok(id) => match view.containers.iter().find(|c| c.id == id) {
            Some(instance) => instance,
            // The status names one that the node's view has dropped.
            None => {
                let status = context.runtime.container_status(&id).await.map_err(|e| e.to_string())?;
                return Ok((id, PathBuf::from(status.log_path)));
            }
        },
        Err(why) if previous => view.previous(container).ok_or(why)?,
        Err(why) => view.container(container).filter(|c| c.running).ok_or(why)?,
    };
    Ok((instance.id.clone(), PathBuf::from(&instance.log_path)))
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.containers.iter().any(|c| c.name == name)
        || spec.init_containers.iter().flatten().any(|c| c.name == name)
        || spec.ephemeral_containers.iter().flatten().any(|c| c.name == name)
}

/// Which container's log is meant by a Pod's status, or why there is none (upstream's words).
fn select(pod_name: &str, pod: &Pod, container: &str, previous: bool) -> Result<String, String> {
    let status = pod.status.as_ref().and_then(|s| {
        let all = [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses];
        all.into_iter().flatten().flatten().find(|c| c.name == container)
    });
    let status = status.ok_or_else(|| format!("container {container:?} in pod {pod_name:?} is not available"))?;
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| id_of(t.container_id.as_deref()));
    if previous {
        return last
            .filter(|id| !id.is_empty())
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {pod_name:?} not found"));
    }
    let waiting = |why: &str| Err(format!("container {container:?} in pod {pod_name:?} is waiting to start: {why}"));
    match present(status) {
        Some(id) if !id.is_empty() => Ok(id),
        Some(_) => last
            .filter(|id| !id.is_empty())
            .ok_or_else(|| format!("container {container:?} in pod {pod_name:?} is terminated")),
        None => match last.filter(|id| !id.is_empty()) {
            Some(id) => Ok(id),
            None => match waiting_reason(status) {
                Some("ErrImagePull") => waiting("image can't be pulled"),
                Some("ImagePullBackOff") => waiting("trying and failing to pull image"),
                Some(reason) => waiting(reason),
                None => Err(format!("container {container:?} in pod {pod_name:?} is waiting to start - no logs yet")),
            },
        },
    }
}

/// The id of the container that runs or ran; `None` while it waits.
fn present(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return Some(id_of(status.container_id.as_deref()));
    }
    state.terminated.as_ref().map(|t| id_of(t.container_id.as_deref()))
}

fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// `containerd://<id>` without its scheme.
fn id_of(text: Option<&str>) -> String {
    let text = text.unwrap_or_default();
    text.split_once("://").map_or(text, |(_, id)| id).to_string()
}

/// `/logs/…`: a file or directory below the node's log directory.
pub(super) async fn node_file(context: &Context, parts: &[&str]) -> Reply {
    let root = &context.config.log_dir;
    let path = parts.iter().fold(root.clone(), |path, part| path.join(part));
    let escapes = parts.iter().any(|p| *p == ".." || p.contains('/'));
    let inside = !escapes
        && match (tokio::fs::canonicalize(&path).await, tokio::fs::canonicalize(root).await) {
            (Ok(path), Ok(root)) => path.starts_with(root),
            _ => false,
        };
    if !inside {
        return reply::text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    match tokio::fs::metadata(&path).await {
        Ok(meta) if meta.is_dir() => listing(&path).await,
        Ok(meta) if meta.is_file() => whole_file(path, meta.len()).await,
        _ => reply::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

async fn listing(path: &Path) -> Reply {
    let mut names = Vec::new();
    if let Ok(mut items) = tokio::fs::read_dir(path).await {
        while let Ok(Some(item)) = items.next_entry().await {
            let slash = if item.file_type().await.is_ok_and(|t| t.is_dir()) { "/" } else { "" };
            names.push(format!("{}{slash}", item.file_name().to_string_lossy()));
        }
    }
    names.sort();
    let escape = |n: &str| n.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
    let rows: String = names.iter().map(|n| format!("<a href=\"{0}\">{0}</a>\n", escape(n))).collect();
    reply::with_type(StatusCode::OK, "text/html; charset=utf-8", format!("<pre>\n{rows}</pre>\n"))
}

async fn whole_file(path: PathBuf, len: u64) -> Reply {
    use tokio::io::AsyncReadExt;
    let (sender, parts) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        let Ok(file) = tokio::fs::File::open(&path).await else { return };
        // What is written while it is read is not part of the answer.
        let mut file = file.take(len);
        loop {
            let mut part = bytes::BytesMut::with_capacity(64 << 10);
            match file.read_buf(&mut part).await {
                Ok(0) => return,
                Ok(_) if sender.send(Ok(part.freeze())).await.is_ok() => {}
                _ => return,
            }
        }
    });
    reply::stream("text/plain; charset=utf-8", parts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": [status]},
        }))
        .unwrap()
    }

    fn status(state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
        serde_json::json!({"name": "c", "containerID": "containerd://now", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": state, "lastState": last})
    }

    #[test]
    fn the_container_is_chosen_as_upstream_does() {
        use serde_json::json;
        let ended = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        let none = json!({});
        for (state, last, previous, expected) in [
            (json!({"running": {}}), none.clone(), false, Ok("now")),
            (json!({"running": {}}), ended("containerd://old"), true, Ok("old")),
            (
                json!({"running": {}}),
                none.clone(),
                true,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            (ended("containerd://end"), none.clone(), false, Ok("end")),
            (ended(""), none.clone(), false, Err("container \"c\" in pod \"p\" is terminated")),
            (json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended("containerd://old"), false, Ok("old")),
            (
                json!({"waiting": {"reason": "ContainerCreating"}}),
                none.clone(),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                json!({"waiting": {"reason": "ImagePullBackOff"}}),
                none.clone(),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
        ] {
            let chosen = select("p", &pod(status(state.clone(), last)), "c", previous);
            assert_eq!(chosen.as_deref().map_err(String::as_str), expected, "{state}");
        }
        let other = select("p", &pod(status(none.clone(), none)), "i", false);
        assert_eq!(other.unwrap_err(), "container \"i\" in pod \"p\" is not available");
    }

    #[test]
    fn options_are_read_and_checked() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parse = |text: &str| Options::parse(&Query::parse(text), now);
        let all = parse("follow=true&tailLines=0&sinceSeconds=60&limitBytes=9&timestamps=true&stream=Stderr").unwrap();
        assert_eq!(all.since, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!((all.tail, all.limit, all.follow, all.timestamps), (Some(0), Some(9), true, true));
        assert_eq!(all.which, Which::Stderr);
        for bad in ["tailLines=-1", "limitBytes=0", "sinceSeconds=0", "tailLines=x", "sinceTime=y", "stream=z"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").is_err());
    }
}
