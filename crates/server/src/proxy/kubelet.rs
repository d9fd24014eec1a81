//! Which path of a node's HTTPS API answers a Pod's subresource, and where that node is.

use crate::request_info::query_pairs;
use caravel_api::status::ApiError;
use serde_json::Value;

/// The port of a node's API when its Node does not name one.
const KUBELET_PORT: u16 = 10250;

/// A node's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The first InternalIP, else another address.
    pub host: String,
    /// `status.daemonEndpoints.kubeletEndpoint.Port`.
    pub port: u16,
}

/// Where a node's API listens; the preference is upstream's default of `--kubelet-preferred-address-types` for clusters
/// whose nodes are reached by address.
pub fn node_address(node: &Value) -> Result<NodeAddress, ApiError> {
    let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_type = |wanted: &str| {
        let found = addresses.iter().find(|a| a["type"] == wanted && a["address"].as_str().is_some_and(|s| !s.is_empty()));
        found.and_then(|a| a["address"].as_str())
    };
    let preferred = ["InternalIP", "ExternalIP", "InternalDNS", "ExternalDNS", "Hostname"];
    let Some(host) = preferred.into_iter().find_map(of_type) else {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        return Err(ApiError::service_unavailable(format!("no preferred addresses found for node {name:?}; known addresses: []")));
    };
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
    Ok(NodeAddress { host: host.to_owned(), port })
}

/// The node a Pod runs on; empty while it is not scheduled.
pub fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn identity(pod: &Value) -> (&str, &str) {
    (pod["metadata"]["namespace"].as_str().unwrap_or_default(), pod["metadata"]["name"].as_str().unwrap_or_default())
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    let containers = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    containers.iter().filter_map(|c| c["name"].as_str()).collect()
}

/// The container that a request means: the one it names, which must exist, or the only one there is.
pub fn container<'a>(pod: &'a Value, wanted: &'a str) -> Result<&'a str, ApiError> {
    let name = identity(pod).1;
    let (all, init, ephemeral) =
        (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    if !wanted.is_empty() {
        let known = [&all, &init, &ephemeral].into_iter().any(|list| list.contains(&wanted));
        return if known {
            Ok(wanted)
        } else {
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    if let [only] = all.as_slice() {
        return Ok(only);
    }
    if all.is_empty() {
        return Err(ApiError::bad_request(format!("a container name must be specified for pod {name}")));
    }
    let mut choices = format!("a container name must be specified for pod {name}, choose one of: [{}]", all.join(" "));
    if !init.is_empty() {
        choices += &format!(" or one of the init containers: [{}]", init.join(" "));
    }
    Err(ApiError::bad_request(choices))
}

/// The path for `pods/log`. The options are checked here, so that a mistake is answered as upstream answers it, and
/// not by a node.
pub fn log_path(pod: &Value, query: &str) -> Result<String, ApiError> {
    let mut wanted = String::new();
    let mut kept: Vec<(&str, String)> = vec![];
    let mut since = 0;
    for (key, value) in query_pairs(query) {
        match key.as_str() {
            "container" => wanted = value,
            "follow" => kept.push(("follow", crate::request_info::is_true(&value).to_string())),
            "previous" => kept.push(("previous", crate::request_info::is_true(&value).to_string())),
            "timestamps" => kept.push(("timestamps", crate::request_info::is_true(&value).to_string())),
            "tailLines" => kept.push(("tailLines", number("tailLines", &value, 0)?)),
            "limitBytes" => kept.push(("limitBytes", number("limitBytes", &value, 1)?)),
            "sinceSeconds" => {
                since += 1;
                kept.push(("sinceSeconds", number("sinceSeconds", &value, 1)?));
            }
            "sinceTime" => {
                since += 1;
                let parsed = value.parse::<jiff::Timestamp>();
                parsed.map_err(|e| ApiError::bad_request(format!("sinceTime {value:?} is not an RFC 3339 time: {e}")))?;
                kept.push(("sinceTime", value));
            }
            "stream" if !value.is_empty() => {
                if !["All", "Stdout", "Stderr"].contains(&value.as_str()) {
                    return Err(ApiError::bad_request(format!("stream {value:?} must be All, Stdout or Stderr")));
                }
                kept.push(("stream", value));
            }
            _ => {}
        }
    }
    if since > 1 {
        return Err(ApiError::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    let (namespace, name) = identity(pod);
    Ok(with_query(format!("/containerLogs/{namespace}/{name}/{}", container(pod, &wanted)?), &kept))
}

fn number(key: &str, value: &str, least: i64) -> Result<String, ApiError> {
    match value.parse::<i64>() {
        Ok(n) if n >= least => Ok(n.to_string()),
        _ => Err(ApiError::bad_request(format!("{key} {value:?} must be a whole number of at least {least}"))),
    }
}

/// The path for `pods/exec` (`verb` = `exec`) and `pods/attach` (`verb` = `attach`).
pub fn stream_path(verb: &str, pod: &Value, query: &str) -> Result<String, ApiError> {
    let (namespace, name) = identity(pod);
    if node_of(pod).is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let mut wanted = String::new();
    let mut kept: Vec<(&str, String)> = vec![];
    for (key, value) in query_pairs(query) {
        // The node's API has its own names for the streams.
        let theirs = match key.as_str() {
            "container" => {
                wanted = value;
                continue;
            }
            "command" => {
                kept.push(("command", value));
                continue;
            }
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            "tty" => "tty",
            _ => continue,
        };
        if crate::request_info::is_true(&value) {
            kept.push((theirs, "1".into()));
        }
    }
    if verb == "exec" && !kept.iter().any(|(k, _)| *k == "command") {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    if !kept.iter().any(|(k, _)| ["input", "output", "error"].contains(k)) {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(with_query(format!("/{verb}/{namespace}/{name}/{}", container(pod, &wanted)?), &kept))
}

/// The path for `pods/portforward`. Ports come in the query (WebSocket) or later in the stream (SPDY).
pub fn port_forward_path(pod: &Value, query: &str) -> Result<String, ApiError> {
    let (namespace, name) = identity(pod);
    if node_of(pod).is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let mut ports = vec![];
    for value in query_pairs(query).filter(|(k, _)| k == "ports").flat_map(|(_, v)| v.split(',').map(str::to_owned).collect::<Vec<_>>()) {
        match value.parse::<u16>() {
            Ok(port) if port > 0 => ports.push(port.to_string()),
            _ => return Err(ApiError::bad_request(format!("{value:?} is not a port (1 to 65535)"))),
        }
    }
    let kept: Vec<(&str, String)> = if ports.is_empty() { vec![] } else { vec![("port", ports.join(","))] };
    Ok(with_query(format!("/portForward/{namespace}/{name}"), &kept))
}

fn with_query(path: String, pairs: &[(&str, String)]) -> String {
    if pairs.is_empty() {
        return path;
    }
    let encoded: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={}", percent_encode(v))).collect();
    format!("{path}?{}", encoded.join("&"))
}

/// Encodes everything but RFC 3986's unreserved characters.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata":{"name":"p","namespace":"n"},"spec":{"nodeName":"w","containers":[{"name":"a"},{"name":"b"}],"initContainers":[{"name":"i"}]}})
    }

    #[test]
    fn the_container_is_the_named_or_the_only_one() {
        let pod = pod();
        assert_eq!(container(&pod, "i").expect("an init container"), "i");
        let error = container(&pod, "x").expect_err("unknown");
        assert_eq!((error.code, error.message.as_str()), (400, "container x is not valid for pod p"));
        let error = container(&pod, "").expect_err("ambiguous");
        assert!(error.message.contains("choose one of: [a b] or one of the init containers: [i]"), "{}", error.message);
        let one = json!({"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"}]}});
        assert_eq!(container(&one, "").expect("the only one"), "a");
    }

    #[test]
    fn options_are_translated_and_checked() {
        let path = log_path(&pod(), "container=a&follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z").expect("fine");
        assert_eq!(path, "/containerLogs/n/p/a?follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z");
        for bad in ["container=a&tailLines=-1", "container=a&limitBytes=0", "container=a&sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "container=a&sinceTime=now"] {
            assert_eq!(log_path(&pod(), bad).expect_err(bad).code, 400);
        }
        let path = stream_path("exec", &pod(), "container=a&stdin=true&stdout=1&tty=false&command=sh&command=-c&command=a%20b").expect("fine");
        assert_eq!(path, "/exec/n/p/a?input=1&output=1&command=sh&command=-c&command=a%20b");
        assert_eq!(stream_path("exec", &pod(), "container=a&stdout=1").expect_err("no command").code, 400);
        assert_eq!(stream_path("attach", &pod(), "container=a").expect_err("no stream").code, 400);
        assert_eq!(port_forward_path(&pod(), "ports=80&ports=443").expect("fine"), "/portForward/n/p?port=80,443".replace(',', "%2C"));
        assert_eq!(port_forward_path(&pod(), "ports=0").expect_err("no port").code, 400);
    }

    #[test]
    fn a_node_is_reached_by_its_internal_address() {
        let node = json!({"status":{"addresses":[{"type":"Hostname","address":"w"},{"type":"InternalIP","address":"10.0.0.7"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":10255}}}});
        assert_eq!(node_address(&node).expect("known"), NodeAddress { host: "10.0.0.7".into(), port: 10255 });
        assert_eq!(node_address(&json!({"metadata":{"name":"w"}})).expect_err("unknown").code, 503);
    }
}
