//! The data of the CNI specification (versions 0.3.0 to 1.1.0): what a runtime sends and what it gets back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The versions of the specification that the plug-in speaks.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version written into the generated configuration.
pub const CURRENT: &str = "1.0.0";

/// A refusal, in the specification's form. Codes up to 99 are the specification's, 100 and above ours.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{msg}{}{details}", if .details.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// The error code.
    pub code: u32,
    /// One line.
    pub msg: String,
    /// More, where there is more.
    pub details: String,
}

impl Failure {
    /// A failure with its code, what was being done, and why it failed.
    pub fn new(code: u32, msg: impl Into<String>, details: impl ToString) -> Self {
        Self { code, msg: msg.into(), details: details.to_string() }
    }

    /// The JSON object a plug-in prints.
    pub fn to_json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details})
    }
}

/// Error codes.
pub mod code {
    /// The configuration asks for a version that the plug-in does not speak.
    pub const VERSION: u32 = 1;
    /// The container is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration does not parse.
    pub const DECODE: u32 = 6;
    /// The configuration makes no sense.
    pub const CONFIG: u32 = 7;
    /// The plug-in cannot serve ADD now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The kernel refused.
    pub const KERNEL: u32 = 100;
    /// No address is left.
    pub const EXHAUSTED: u32 = 101;
    /// What CHECK found differs from what ADD made.
    pub const DRIFT: u32 = 102;
}

/// The parameters in the environment.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`: path of the network namespace; absent when it is gone already (DEL).
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`: `K=V;K=V`.
    pub args: BTreeMap<String, String>,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn from_process() -> Self {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let netns = var("CNI_NETNS");
        Self {
            command: var("CNI_COMMAND"),
            container: var("CNI_CONTAINERID"),
            netns: (!netns.is_empty()).then(|| netns.into()),
            interface: var("CNI_IFNAME"),
            args: var("CNI_ARGS")
                .split(';')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        }
    }

    /// The container and interface, checked: they become parts of file and link names.
    pub fn attachment(&self) -> Result<(&str, &str), Failure> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let id = &self.container;
        if id.is_empty() || !id.chars().all(good) || !id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            let details = format!(
                "CNI_CONTAINERID is {id:?}; it must start with a letter or digit and hold only letters, digits, '_', '.', '-'"
            );
            return Err(Failure::new(code::ENVIRONMENT, "invalid container id", details));
        }
        let name = &self.interface;
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
            let details = format!("CNI_IFNAME is {name:?}; it must have 1 to 15 bytes without '/', ':' and blanks");
            return Err(Failure::new(code::ENVIRONMENT, "invalid interface name", details));
        }
        Ok((id, name))
    }
}

/// A port of the host that leads to the container (the `portMappings` capability).
///
/// The conventions document writes lower-case keys; containerd writes Go's field names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the host; zero asks for none.
    #[serde(alias = "HostPort", default)]
    pub host_port: u16,
    /// Port of the container.
    #[serde(alias = "ContainerPort", default)]
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, in any case; empty means `tcp`.
    #[serde(alias = "Protocol", default)]
    pub protocol: String,
    /// The host's address; empty, `0.0.0.0` or `::` means all.
    #[serde(rename = "hostIP", alias = "HostIP", default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// Traffic limits (the `bandwidth` capability), in bits a second and bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub struct Bandwidth {
    /// Into the Pod.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// Burst into the Pod.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// Out of the Pod.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// Burst out of the Pod.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

/// What the runtime adds at run time for the capabilities that the configuration declares.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Traffic limits.
    pub bandwidth: Option<Bandwidth>,
}

/// An attachment that the runtime still knows (GC).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface in it.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// The plug-in's configuration, as `configure` writes it and the runtime passes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// The specification's version.
    #[serde(default)]
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// Which plug-in: ours, or `loopback`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The bridge's name.
    #[serde(default)]
    pub bridge: String,
    /// The node's Pod range.
    pub subnet: Option<Ipv4Net>,
    /// The bridge's address.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// The directory of the address files.
    pub data_dir: Option<PathBuf>,
    /// The nftables table that host ports go into.
    #[serde(default)]
    pub table: String,
    /// Host ports and limits.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// The result of ADD (CHECK).
    pub prev_result: Option<Value>,
    /// The attachments to keep (GC).
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

/// Our part of a configuration, complete.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The bridge's name.
    pub bridge: String,
    /// The node's Pod range.
    pub subnet: Ipv4Net,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// The directory of the address files.
    pub data_dir: PathBuf,
    /// The nftables table that host ports go into.
    pub table: String,
}

impl NetworkConfig {
    /// Parses what came on standard input.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| Failure::new(code::DECODE, "the network configuration does not parse", error))?;
        if !config.cni_version.is_empty() && !VERSIONS.contains(&config.cni_version.as_str()) {
            let details = format!("cniVersion is {:?}; one of {} is possible", config.cni_version, VERSIONS.join(", "));
            return Err(Failure::new(code::VERSION, "incompatible CNI version", details));
        }
        Ok(config)
    }

    /// The version to answer in.
    pub fn version(&self) -> &str {
        if self.cni_version.is_empty() { CURRENT } else { &self.cni_version }
    }

    /// The settings, or which one is missing.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let missing =
            |field: &str| Failure::new(code::CONFIG, "incomplete network configuration", format!("{field} is missing"));
        if self.bridge.is_empty() || self.bridge.len() > 15 {
            return Err(missing("bridge (1 to 15 bytes)"));
        }
        let subnet = self.subnet.ok_or_else(|| missing("subnet"))?;
        if subnet.prefix_len() > 30 {
            let details = format!("subnet {subnet} has no room for Pods; a /30 is the smallest");
            return Err(Failure::new(code::CONFIG, "unusable subnet", details));
        }
        Ok(Settings {
            bridge: self.bridge.clone(),
            subnet,
            gateway: self.gateway.or_else(|| subnet.hosts().next()).ok_or_else(|| missing("gateway"))?,
            mtu: self.mtu.unwrap_or(1500),
            data_dir: self.data_dir.clone().ok_or_else(|| missing("dataDir"))?,
            table: self.table.clone(),
        })
    }
}

/// One end of the attachment, for a result.
#[derive(Clone, Debug)]
pub struct ResultInterface {
    /// Interface name.
    pub name: String,
    /// Hardware address.
    pub mac: String,
    /// Path of the namespace; none on the host.
    pub sandbox: Option<String>,
}

/// The result of ADD in the shape of the version asked for.
pub fn result(version: &str, interfaces: &[ResultInterface], address: Option<(IpAddr, u8, IpAddr)>) -> Value {
    let list: Vec<Value> = interfaces
        .iter()
        .map(|interface| match &interface.sandbox {
            Some(sandbox) => {
                json!({"name": interface.name, "mac": interface.mac, "sandbox": sandbox})
            }
            None => json!({"name": interface.name, "mac": interface.mac}),
        })
        .collect();
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    if let Some((ip, prefix, gateway)) = address {
        let mut entry = json!({
            "address": format!("{ip}/{prefix}"),
            "gateway": gateway,
            "interface": interfaces.len().saturating_sub(1),
        });
        // Versions before 1.0.0 name the family.
        if version.starts_with("0.") {
            entry["version"] = Value::from(if ip.is_ipv4() { "4" } else { "6" });
        }
        ips.push(entry);
        routes.push(json!({"dst": if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway}));
    }
    json!({"cniVersion": version, "interfaces": list, "ips": ips, "routes": routes, "dns": {}})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn run_time_data_is_read_in_both_spellings() {
        let documented = json!({
            "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "127.0.0.1"}],
            "bandwidth": {"ingressRate": 1, "ingressBurst": 2, "egressRate": 3, "egressBurst": 4},
        });
        let containerd = json!({
            "portMappings": [{"HostPort": 80, "ContainerPort": 8080, "Protocol": "udp", "HostIP": "127.0.0.1"}],
            "bandwidth": {"IngressRate": 1, "IngressBurst": 2, "EgressRate": 3, "EgressBurst": 4},
        });
        for value in [documented, containerd] {
            let config = json!({"runtimeConfig": value});
            let config = NetworkConfig::parse(config.to_string().as_bytes()).unwrap();
            let mapping = &config.runtime_config.port_mappings[0];
            assert_eq!((mapping.host_port, mapping.container_port), (80, 8080));
            assert_eq!((mapping.protocol.as_str(), mapping.host_ip.as_str()), ("udp", "127.0.0.1"));
            let bandwidth = config.runtime_config.bandwidth.unwrap();
            assert_eq!((bandwidth.ingress_rate, bandwidth.egress_burst), (1, 4));
        }
    }
}
