//! From a place to addresses.

use super::Place;
use crate::registry::Registry;
use caravel_api::meta;
use rand::seq::SliceRandom as _;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// Whether an address that users write may be called: not this machine's own, not link-local (where clouds keep their
/// metadata services), not a multicast one.
pub fn is_allowed(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some_and(|v4| !is_allowed(v4.into())),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn port_of(value: &Value) -> Option<u16> {
    value.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok())
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> = found.map_err(|e| format!("dial tcp: lookup {host}: {e}"))?.collect();
    if found.is_empty() { Err(format!("dial tcp: lookup {host}: no such host")) } else { Ok(found) }
}

impl Registry {
    /// Addresses to call, in the order in which to try them.
    ///
    /// # Errors
    /// A text that says what is missing.
    pub async fn addresses_of(&self, place: &Place) -> Result<Vec<SocketAddr>, String> {
        match place {
            Place::Url { host, port } => look_up(host.trim_start_matches('[').trim_end_matches(']'), *port).await,
            Place::Service { namespace, name, port } => {
                self.service_addresses(namespace, name, &port.to_string()).await
            }
        }
    }

    /// The ready endpoints of a Service's port (given by number or name; empty for the first), in random order.
    ///
    /// # Errors
    /// A text that says what is missing.
    pub async fn service_addresses(&self, namespace: &str, name: &str, port: &str) -> Result<Vec<SocketAddr>, String> {
        let service = self.object("", "services", namespace, name).await.map_err(|e| e.message)?;
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        let spec = service.get("spec").unwrap_or(&Value::Null);
        if text(spec, "type") == "ExternalName" {
            let number = port.parse().map_err(|_| format!("service {name:?} is external and has no port {port:?}"))?;
            let found = look_up(text(spec, "externalName"), number).await?;
            return allowed(found, name);
        }
        let ports = spec.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let wanted = match port {
            "" => ports.first(),
            port => ports
                .iter()
                .find(|one| text(one, "name") == port || port_of(one).is_some_and(|number| number.to_string() == port)),
        };
        let wanted = wanted.ok_or_else(|| format!("no service port {port:?} found for service {name:?}"))?;
        let port_name = text(wanted, "name");
        let slices = self.objects("discovery.k8s.io", "endpointslices", namespace).await.map_err(|e| e.message)?;
        let mut found = vec![];
        for slice in slices.iter().filter(|s| meta::label(s, "kubernetes.io/service-name") == Some(name)) {
            let ports = slice.get("ports").and_then(Value::as_array);
            let Some(number) = ports.into_iter().flatten().find(|p| text(p, "name") == port_name).and_then(port_of)
            else {
                continue;
            };
            for endpoint in slice.get("endpoints").and_then(Value::as_array).into_iter().flatten() {
                if endpoint.pointer("/conditions/ready").and_then(Value::as_bool) == Some(false) {
                    continue;
                }
                let addresses = endpoint.get("addresses").and_then(Value::as_array).into_iter().flatten();
                let addresses = addresses.filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
                found.extend(addresses.map(|ip| SocketAddr::new(ip, number)));
            }
        }
        if found.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        found.shuffle(&mut rand::rng());
        allowed(found, name)
    }
}

fn allowed(mut found: Vec<SocketAddr>, name: &str) -> Result<Vec<SocketAddr>, String> {
    found.retain(|address| is_allowed(address.ip()));
    if found.is_empty() { Err(format!("address not allowed for service {name:?}")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_is_out_of_reach() {
        for bad in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", "::ffff:127.0.0.1"] {
            assert!(!is_allowed(bad.parse().unwrap()), "{bad}");
        }
        assert!(is_allowed("10.244.0.5".parse().unwrap()));
    }
}
