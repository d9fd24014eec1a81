//! Where a Pod's node, a Pod, or a Service's endpoint is.

use super::forward::Backend;
use crate::outbound::is_allowed;
use crate::server::Server;
use caravel_api::status::ApiError;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// `scheme:name:port`, as the names of `pods/proxy`, `services/proxy` and `nodes/proxy` are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// `http`, `https` or empty.
    pub scheme: &'a str,
    /// Object name.
    pub name: &'a str,
    /// Port, or port name, or empty.
    pub port: &'a str,
}

/// Reads `[scheme:]name[:port]`.
pub fn split_name(text: &str) -> Option<Named<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme @ ("http" | "https" | ""), name, port] => (scheme, name, port),
        _ => return None,
    };
    (!name.is_empty()).then_some(Named { scheme, name, port })
}

impl Server {
    /// A node's kubelet.
    pub(crate) async fn node_backend(&self, node: &str) -> Result<Backend, ApiError> {
        let object =
            self.registry.object("", "nodes", "", node).await?.ok_or_else(|| ApiError::not_found("", "nodes", node))?;
        let port = object
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(Value::as_u64)
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p != 0)
            .unwrap_or(10250);
        let all = object.pointer("/status/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
        let addresses: Vec<SocketAddr> = ["InternalIP", "ExternalIP"]
            .iter()
            .flat_map(|kind| all.iter().filter(move |a| a.get("type").and_then(Value::as_str) == Some(kind)))
            .filter_map(|a| a.get("address").and_then(Value::as_str)?.parse::<IpAddr>().ok())
            .map(|ip| SocketAddr::new(ip, port))
            // No kubelet is where this server is, which would take its own certificate for the administrator's.
            .filter(|address| !self.is_own(*address))
            .collect();
        if addresses.is_empty() {
            let known: Vec<&str> = all.iter().filter_map(|a| a.get("address").and_then(Value::as_str)).collect();
            let why = format!("no preferred addresses found; known addresses: [{}]", known.join(" "));
            return Err(ApiError::new(500, "", why));
        }
        Ok(Backend {
            host: format!("{node}:{port}"),
            addresses,
            tls: Some(self.nodes.kubelet()),
            server_name: None,
            what: format!("the kubelet of node {node:?}"),
        })
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        address.port() == self.config.port
            && (ip == self.config.advertise_address || ip.is_loopback() || ip.is_unspecified())
    }

    /// `nodes/NAME/proxy`: the kubelet, or with another port whatever listens there.
    pub(super) async fn node_port_backend(&self, named: &Named<'_>) -> Result<Backend, ApiError> {
        let mut backend = self.node_backend(named.name).await?;
        let kubelet = backend.addresses.first().map(|a| a.port().to_string()).unwrap_or_default();
        if named.port.is_empty() || named.port == kubelet {
            return Ok(backend);
        }
        let port: u16 = named
            .port
            .parse()
            .map_err(|_| ApiError::bad_request(format!("a node has no port {:?}; give its number", named.port)))?;
        // Nodes write their addresses themselves: none leads to what listens on this machine for itself only.
        if backend.addresses.iter().any(|address| !is_allowed(address.ip())) {
            return Err(ApiError::bad_request(format!("address not allowed for node {:?}", named.name)));
        }
        for address in &mut backend.addresses {
            address.set_port(port);
        }
        backend.host = backend.addresses.first().map(ToString::to_string).unwrap_or_default();
        backend.tls = (named.scheme == "https").then(|| self.nodes.blind.clone());
        backend.what = format!("port {port} of node {:?}", named.name);
        Ok(backend)
    }

    /// A Pod.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let found = self.registry.object("", "pods", namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found("", "pods", name))
    }

    /// A Pod that runs on a node, with its node's name.
    pub(super) async fn pod_on_node(&self, namespace: &str, name: &str) -> Result<(Value, String), ApiError> {
        let pod = self.pod(namespace, name).await?;
        let node = node_of(&pod).map(str::to_owned);
        let node = node.ok_or_else(|| ApiError::bad_request(format!("pod {name} does not have a host assigned")))?;
        Ok((pod, node))
    }

    /// A port of a Pod.
    pub(super) async fn pod_backend(&self, namespace: &str, named: &Named<'_>) -> Result<Backend, ApiError> {
        let pod = self.pod(namespace, named.name).await?;
        let ip: IpAddr = pod
            .pointer("/status/podIP")
            .and_then(Value::as_str)
            .and_then(|ip| ip.parse().ok())
            .ok_or_else(|| ApiError::bad_request("address not allowed: the pod has no address yet".to_owned()))?;
        refuse_local(ip)?;
        let port = match named.port {
            "" => first_port(&pod).unwrap_or(if named.scheme == "https" { 443 } else { 80 }),
            text => text
                .parse()
                .ok()
                .or_else(|| named_port(&pod, text))
                .ok_or_else(|| ApiError::bad_request(format!("the pod has no port {text:?}")))?,
        };
        Ok(self.backend(named.scheme, SocketAddr::new(ip, port), format!("pod {namespace}/{}", named.name)))
    }

    fn backend(&self, scheme: &str, address: SocketAddr, what: String) -> Backend {
        Backend {
            host: address.to_string(),
            addresses: vec![address],
            tls: (scheme == "https").then(|| self.nodes.blind.clone()),
            server_name: None,
            what,
        }
    }

    /// A ready endpoint of a Service's port, at random.
    pub(super) async fn service_backend(&self, namespace: &str, named: &Named<'_>) -> Result<Backend, ApiError> {
        let service = self.registry.object("", "services", namespace, named.name).await?;
        let service = service.ok_or_else(|| ApiError::not_found("", "services", named.name))?;
        // A name outside has no endpoints: users could have any host called.
        if service.pointer("/spec/type").and_then(Value::as_str) == Some("ExternalName") {
            let why = format!("no endpoints available for service {:?}", named.name);
            return Err(ApiError::service_unavailable(why));
        }
        let found = self.registry.service_addresses(namespace, named.name, named.port).await;
        let found = found.map_err(ApiError::service_unavailable)?;
        let Some(chosen) = found.first().copied() else {
            let why = format!("no endpoints available for service {:?}", named.name);
            return Err(ApiError::service_unavailable(why));
        };
        Ok(self.backend(named.scheme, chosen, format!("service {namespace}/{}", named.name)))
    }
}

/// Pods and endpoints must not lead back into the server's own machine: an address is data that users write.
fn refuse_local(ip: IpAddr) -> Result<(), ApiError> {
    if is_allowed(ip) { Ok(()) } else { Err(ApiError::bad_request("address not allowed".to_owned())) }
}

/// The node that a Pod runs on.
pub(super) fn node_of(pod: &Value) -> Option<&str> {
    pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|name| !name.is_empty())
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten()
}

fn ports(pod: &Value) -> impl Iterator<Item = &Value> {
    containers(pod).flat_map(|c| c.get("ports").and_then(Value::as_array).into_iter().flatten())
}

fn number(port: &Value) -> Option<u16> {
    port.get("containerPort").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok())
}

fn first_port(pod: &Value) -> Option<u16> {
    ports(pod).find_map(number)
}

fn named_port(pod: &Value, name: &str) -> Option<u16> {
    ports(pod).find(|p| p.get("name").and_then(Value::as_str) == Some(name)).and_then(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        let named = |text| split_name(text).map(|n| (n.scheme, n.name, n.port));
        assert_eq!(named("web"), Some(("", "web", "")));
        assert_eq!(named("web:80"), Some(("", "web", "80")));
        assert_eq!(named("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(named("http:web:"), Some(("http", "web", "")));
        assert_eq!(named("ftp:web:21"), None);
        assert_eq!(named(":80"), None);
    }

    #[test]
    fn the_machine_itself_is_out_of_reach() {
        for bad in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1"] {
            assert!(refuse_local(bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(refuse_local("10.244.0.5".parse().unwrap()).is_ok());
    }
}
