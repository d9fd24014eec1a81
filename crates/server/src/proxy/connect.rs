//! The connecting subresources: `pods/{log,exec,attach,portforward,proxy}`, `nodes/proxy`, `services/proxy`.

use super::forward::forward;
use super::locate::split_name;
use crate::admission::{Operation, Request};
use crate::handlers::Inbound;
use crate::http::body::Body;
use crate::request_info::query_pairs;
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use http::{Method, Response};
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
                let (pod, node) = self.pod_on_node(namespace, &name).await?;
                let container = container_of(&pod, &query, "a container name must be specified")?;
                check_log_query(&query)?;
                let path = format!("/containerLogs/{namespace}/{name}/{container}");
                (self.node_backend(&node).await?, with_query(path, &without(&query, "container")))
            }
            ("pods", door @ ("exec" | "attach")) => {
                let (pod, node) = self.pod_on_node(namespace, &name).await?;
                let container = container_of(&pod, &query, "a container name must be specified")?;
                refuse_finished(&pod)?;
                let path = format!("/{door}/{namespace}/{name}/{container}");
                (self.node_backend(&node).await?, with_query(path, &kubelet_query(&query)))
            }
            ("pods", "portforward") => {
                let (pod, node) = self.pod_on_node(namespace, &name).await?;
                refuse_finished(&pod)?;
                let path = format!("/portForward/{namespace}/{name}");
                (self.node_backend(&node).await?, with_query(path, &query))
            }
            ("pods", "proxy") => {
                let named = split_name(&name).ok_or_else(|| bad_name(&name))?;
                (self.pod_backend(namespace, &named).await?, with_query(rest_of(&inbound), &query))
            }
            ("services", "proxy") => {
                let named = split_name(&name).ok_or_else(|| bad_name(&name))?;
                (self.service_backend(namespace, &named).await?, with_query(rest_of(&inbound), &query))
            }
            ("nodes", "proxy") => {
                let named = split_name(&name).ok_or_else(|| bad_name(&name))?;
                (self.node_backend(named.name).await?, with_query(rest_of(&inbound), &query))
            }
            _ => return Err(ApiError::unknown_path()),
        };
        let body = inbound.take_body();
        let Inbound { mut parts, .. } = inbound;
        // Who the caller is concerns nobody behind this server.
        parts.headers.remove(http::header::AUTHORIZATION);
        parts.headers.remove(http::header::COOKIE);
        forward(parts, body, &backend, &target, self.stop.clone()).await
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
        };
        self.registry.admit(&inbound.call, &mut request).await
    }
}

/// What a connection asks for, as the object that admission sees: `PodExecOptions` and its like.
fn connect_options(kind: &Kind, subresource: &str, inbound: &Inbound) -> Value {
    let gvk = crate::admission::matching::kind_at(kind, subresource);
    let mut options = json!({"kind": gvk.kind, "apiVersion": gvk.api_version()});
    if subresource == "proxy" {
        options["path"] = json!(rest_of(inbound));
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

/// The path behind `…/proxy`, as it was sent (still encoded).
fn rest_of(inbound: &Inbound) -> String {
    let path = inbound.parts.uri.path();
    match path.split_once("/proxy/") {
        Some((_, rest)) => format!("/{rest}"),
        None => "/".to_owned(),
    }
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
