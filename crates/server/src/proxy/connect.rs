//! The connecting subresources: `pods/{log,exec,attach,portforward,proxy}`, `nodes/proxy`, `services/proxy`.

use super::forward::forward;
use super::kubelet;
use super::locate::{node_of, split_name};
use super::rewrite::{Links, answer, prepare};
use crate::admission::{Operation, Request};
use crate::handlers::Inbound;
use crate::http::body::Body;
use crate::http::respond;
use crate::request_info::query_pairs;
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

impl Server {
    /// Passes a connection on to where it belongs.
    pub(crate) async fn connect(
        self: Arc<Self>,
        inbound: Inbound,
        kind: Arc<Kind>,
    ) -> Result<Response<Body>, ApiError> {
        let info = inbound.info.clone();
        let (namespace, name) = (info.namespace.as_str(), info.path_name().to_owned());
        let subresource = info.subresource.as_str();
        let method = inbound.parts.method.clone();
        if subresource != "proxy" {
            let good = match subresource {
                "log" => matches!(method, Method::GET | Method::HEAD),
                _ => matches!(method, Method::GET | Method::POST),
            };
            if !good {
                return Err(ApiError::method_not_supported(&kind.group, &kind.plural, &info.verb));
            }
        }
        if subresource != "log" {
            self.admit_connect(&inbound, &kind).await?;
        }
        let query = inbound.query().to_owned();
        let with_query = |path: String, query: &str| if query.is_empty() { path } else { format!("{path}?{query}") };
        let (backend, target) = match (&*kind.plural, subresource) {
            ("pods", "log") => {
                let pod = self.pod(namespace, &name).await?;
                let container = container_of(&pod, &query, "a container name must be specified")?;
                check_log_query(&query)?;
                let Some(node) = node_of(&pod) else {
                    // Nobody has a log of it yet.
                    return Ok(respond::with(StatusCode::NO_CONTENT, "text/plain", Body::Empty));
                };
                let path = format!("/containerLogs/{namespace}/{name}/{container}");
                (self.node_backend(node).await?, with_query(path, &without(&query, "container")))
            }
            ("pods", door @ ("exec" | "attach")) => {
                let (pod, node) = self.pod_on_node(namespace, &name).await?;
                let container = container_of(&pod, &query, "a container name must be specified")?;
                refuse_finished(&pod)?;
                let path = format!("/{door}/{namespace}/{name}/{container}");
                (self.node_backend(&node).await?, with_query(path, &kubelet_query(&query)))
            }
            ("pods", "portforward") => {
                let (_, node) = self.pod_on_node(namespace, &name).await?;
                let path = format!("/portForward/{namespace}/{name}");
                (self.node_backend(&node).await?, with_query(path, &query))
            }
            (_, "proxy") => return self.proxy(inbound, &kind).await,
            _ => return Err(ApiError::unknown_path()),
        };
        let body = inbound.take_body();
        let Inbound { mut parts, .. } = inbound;
        // Who the caller is concerns nobody behind this server.
        parts.headers.remove(http::header::AUTHORIZATION);
        parts.headers.remove(http::header::COOKIE);
        if subresource == "log" {
            return kubelet::log(parts, body, &backend, &target, &name, self.stop.clone()).await;
        }
        kubelet::upgrade(parts, body, &backend, &target, self.stop.clone()).await
    }

    /// Passes a request on to a Pod, a Service's endpoint or a node's own port, so that links in the answer lead here again.
    async fn proxy(self: &Arc<Self>, inbound: Inbound, kind: &Kind) -> Result<Response<Body>, ApiError> {
        let (namespace, name) = (inbound.info.namespace.clone(), inbound.info.path_name().to_owned());
        let named = split_name(&name).ok_or_else(|| bad_name(&name))?;
        let (prefix, rest) = around_proxy(inbound.parts.uri.path(), kind.namespaced);
        let (prefix, rest) = (prefix.to_owned(), rest.to_owned());
        let method = inbound.parts.method.clone();
        let query = inbound.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let upgrade = super::forward::upgrade_of(&inbound.parts).is_some();
        let backend = match &*kind.plural {
            "pods" => self.pod_backend(&namespace, &named).await?,
            "services" => self.service_backend(&namespace, &named).await?,
            "nodes" => self.node_port_backend(&named).await?,
            _ => return Err(ApiError::unknown_path()),
        };
        if rest.is_empty() && !upgrade && matches!(method, Method::GET | Method::HEAD) {
            // Relative links of a page at `…/proxy` would miss the proxy; at `…/proxy/` they do not.
            let place = http::HeaderValue::try_from(format!("{prefix}/{query}"))
                .map_err(|_| ApiError::bad_request("the query cannot be passed on".to_owned()))?;
            let mut moved = Response::new(Body::Empty);
            *moved.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
            moved.headers_mut().insert(http::header::LOCATION, place);
            return Ok(moved);
        }
        let path = if rest.is_empty() { "/".to_owned() } else { rest };
        let body = inbound.take_body();
        let Inbound { mut parts, .. } = inbound;
        let asked = parts.headers.get(http::header::HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let links = Links { prefix, hosts: asked.into_iter().chain([backend.host.clone()]).collect() };
        parts.headers.remove(http::header::AUTHORIZATION);
        prepare(&mut parts, &links, &path);
        let response = forward(parts, body, &backend, &format!("{path}{query}"), self.stop.clone()).await;
        let response = response.map_err(|failed| failed.error(&backend.what))?;
        Ok(if upgrade { response } else { answer(response, links, &method) })
    }

    async fn admit_connect(self: &Arc<Self>, inbound: &Inbound, kind: &Arc<Kind>) -> Result<(), ApiError> {
        let options = connect_options(kind, &inbound.info.subresource, inbound);
        let mut request = Request {
            operation: Operation::Connect,
            kind: kind.clone(),
            subresource: inbound.info.subresource.clone(),
            namespace: inbound.info.namespace.clone(),
            name: inbound.info.path_name().to_owned(),
            user: inbound.call.user.clone(),
            dry_run: false,
            object: Some(options),
            old: None,
            options: Value::Null,
            patch: false,
        };
        self.registry.admit(&inbound.call, &mut request).await
    }
}

/// What a connection asks for, as the object that admission sees: `PodExecOptions` and its like.
fn connect_options(kind: &Kind, subresource: &str, inbound: &Inbound) -> Value {
    let gvk = crate::admission::matching::kind_at(kind, subresource);
    let mut options = json!({"kind": gvk.kind, "apiVersion": gvk.api_version()});
    if subresource == "proxy" {
        options["path"] = json!(around_proxy(inbound.parts.uri.path(), kind.namespaced).1);
        return options;
    }
    for (key, value) in query_pairs(inbound.query()) {
        match key.as_str() {
            "command" | "ports" => {
                let value =
                    if key == "ports" { value.parse::<i64>().map_or(Value::Null, Value::from) } else { json!(value) };
                match options[key.as_str()].as_array_mut() {
                    Some(all) => all.push(value),
                    None => options[key.as_str()] = json!([value]),
                }
            }
            "stdin" | "stdout" | "stderr" | "tty" => {
                options[key.as_str()] = json!(crate::request_info::is_true(&value));
            }
            "container" => options["container"] = json!(value),
            _ => {}
        }
    }
    options
}

fn bad_name(name: &str) -> ApiError {
    ApiError::bad_request(format!("invalid request {name:?}: the name must be NAME, NAME:PORT or SCHEME:NAME:PORT"))
}

/// The path up to and including `/proxy`, and what comes behind it, as they were sent (still encoded).
fn around_proxy(path: &str, namespaced: bool) -> (&str, &str) {
    // /api/v1/namespaces/NAMESPACE/KIND/NAME/proxy, /api/v1/KIND/NAME/proxy
    let segments = if namespaced { 7 } else { 5 };
    let mut seen = 0;
    let mut inside = false;
    for (at, c) in path.char_indices() {
        if c == '/' {
            if seen == segments && inside {
                return path.split_at(at);
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
        }
    }
    (path, "")
}

/// The container that the query names, or the only one, or the default one.
fn container_of(pod: &Value, query: &str, unnamed: &str) -> Result<String, ApiError> {
    let name = caravel_api::meta::name(pod);
    let names = |list: &str| -> Vec<String> {
        let all = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(|c| c.get("name").and_then(Value::as_str).map(str::to_owned)).collect()
    };
    let wanted = query_pairs(query).find(|(key, _)| key == "container").map(|(_, v)| v).unwrap_or_default();
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if wanted.is_empty() {
        if let [only] = &main[..] {
            return Ok(only.clone());
        }
        if let Some(default) = caravel_api::meta::annotation(pod, "kubectl.kubernetes.io/default-container")
            && main.iter().any(|c| c == default)
        {
            return Ok(default.to_owned());
        }
        let mut why = format!("{unnamed} for pod {name}, choose one of: [{}]", main.join(" "));
        if !init.is_empty() {
            why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
        return Err(ApiError::bad_request(why));
    }
    if main.iter().chain(&init).chain(&ephemeral).any(|c| *c == wanted) {
        return Ok(wanted);
    }
    Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
}

fn refuse_finished(pod: &Value) -> Result<(), ApiError> {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    Ok(())
}

/// The options of a log request are checked here, so that a wrong one is a 422 and no node is asked.
fn check_log_query(query: &str) -> Result<(), ApiError> {
    use caravel_api::field::{FieldError, FieldPath};
    let mut errors = vec![];
    let mut since = 0;
    for (key, value) in query_pairs(query) {
        let number = value.parse::<i64>();
        match (key.as_str(), number) {
            ("tailLines", Ok(n)) if n < 0 => {
                errors.push(FieldError::invalid(
                    &FieldPath::root("tailLines"),
                    n,
                    "must be greater than or equal to 0",
                ));
            }
            ("limitBytes", Ok(n)) if n < 1 => {
                errors.push(FieldError::invalid(&FieldPath::root("limitBytes"), n, "must be greater than 0"));
            }
            ("sinceSeconds", Ok(n)) => {
                since += 1;
                if n < 1 {
                    errors.push(FieldError::invalid(&FieldPath::root("sinceSeconds"), n, "must be greater than 0"));
                }
            }
            ("sinceTime", _) => since += 1,
            ("tailLines" | "limitBytes" | "sinceSeconds", Err(_)) => {
                return Err(ApiError::bad_request(format!("the parameter {key}={value:?} must be a whole number")));
            }
            _ => {}
        }
    }
    if since > 1 {
        let path = FieldPath::root("sinceTime");
        errors.push(FieldError::forbidden(&path, "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "PodLogOptions", "", &errors)) }
}

fn without(query: &str, key: &str) -> String {
    query
        .split('&')
        .filter(|pair| pair.split('=').next() != Some(key) && !pair.is_empty())
        .collect::<Vec<_>>()
        .join("&")
}

/// The kubelet's names for the same options.
fn kubelet_query(query: &str) -> String {
    let flag = |value: &str| if crate::request_info::is_true(value) { "1" } else { "0" };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "container" => None,
                "stdin" => Some(format!("input={}", flag(value))),
                "stdout" => Some(format!("output={}", flag(value))),
                "stderr" => Some(format!("error={}", flag(value))),
                "tty" => Some(format!("tty={}", flag(value))),
                _ => Some(pair.to_owned()),
            }
        })
        .filter(|pair| !pair.ends_with("=0"))
        .collect::<Vec<_>>()
        .join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_chosen_as_upstream_does() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container_of(&one, "", "x").unwrap(), "a");
        assert_eq!(container_of(&two, "container=i", "x").unwrap(), "i");
        assert_eq!(container_of(&two, "container=z", "x").unwrap_err().message, "container z is not valid for pod p");
        assert_eq!(
            container_of(&two, "", "a container name must be specified").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
    }

    #[test]
    fn paths_are_cut_behind_the_right_proxy() {
        for (path, namespaced, prefix, rest) in [
            ("/api/v1/namespaces/n/pods/p/proxy", true, "/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/namespaces/n/pods/p/proxy/", true, "/api/v1/namespaces/n/pods/p/proxy", "/"),
            (
                "/api/v1/namespaces/proxy/services/proxy/proxy/a%20b/proxy/c",
                true,
                "/api/v1/namespaces/proxy/services/proxy/proxy",
                "/a%20b/proxy/c",
            ),
            ("/api/v1/nodes/n:1/proxy//x", false, "/api/v1/nodes/n:1/proxy", "//x"),
        ] {
            assert_eq!(around_proxy(path, namespaced), (prefix, rest));
        }
    }

    #[test]
    fn queries_are_translated() {
        assert_eq!(
            kubelet_query("command=a%20b&command=c&container=x&stdin=true&stdout=true&tty=false"),
            "command=a%20b&command=c&input=1&output=1"
        );
        assert_eq!(without("container=x&follow=true", "container"), "follow=true");
        assert_eq!(check_log_query("tailLines=-1").unwrap_err().code, 422);
        assert_eq!(check_log_query("tailLines=x").unwrap_err().code, 400);
        assert_eq!(check_log_query("sinceSeconds=5&sinceTime=now").unwrap_err().code, 422);
        assert!(check_log_query("tailLines=0&follow=1").is_ok());
    }
}
