//! The verbs of the plug-in. Pods get a /32 and reach everything through the bridge's address, so all
//! their traffic passes the host's IP hooks, whether or not bridged packets do (br_netfilter).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bridge;
use super::hostports;
use super::ipam::{self, Attachment, Ipam};
use super::netns;
use super::spec::{
    Bandwidth, CURRENT, Environment, Failure, NetworkConfig, ResultInterface, Settings, VERSIONS, code, result,
};
use crate::netlink::{
    self, Socket,
    route::{PROTOCOL_BOOT, Route, VethPair, mac_text},
};

/// The configuration type of the built-in loopback plug-in.
pub const LOOPBACK: &str = "loopback";

impl From<netlink::Error> for Failure {
    fn from(error: netlink::Error) -> Self {
        Failure::new(code::KERNEL, "the kernel refused", error)
    }
}

impl From<ipam::Error> for Failure {
    fn from(error: ipam::Error) -> Self {
        match error {
            ipam::Error::Exhausted(..) => Failure::new(code::EXHAUSTED, "no address for the Pod", error),
            ipam::Error::Io(..) => Failure::new(code::IO, "address files", error),
        }
    }
}

/// Runs one verb: what to print on success, where there is something.
pub fn execute(env: &Environment, input: &[u8]) -> Result<Option<Value>, Failure> {
    if env.command == "VERSION" {
        return Ok(Some(json!({"cniVersion": CURRENT, "supportedVersions": VERSIONS})));
    }
    let config = NetworkConfig::parse(input)?;
    if config.kind == LOOPBACK {
        return loopback(env, &config);
    }
    match env.command.as_str() {
        "ADD" => add(env, &config).map(Some),
        "DEL" => delete(env, &config).map(|()| None),
        "CHECK" => check(env, &config).map(|()| None),
        "GC" => collect(&config).map(|()| None),
        "STATUS" => status(&config).map(|()| None),
        other => Err(unknown_command(other)),
    }
}

fn unknown_command(command: &str) -> Failure {
    let details = format!("CNI_COMMAND is {command:?}; one of ADD, DEL, CHECK, GC, STATUS, VERSION is possible");
    Failure::new(code::ENVIRONMENT, "unknown command", details)
}

/// The name of the host's end: the same for the same attachment, so that DEL needs no record.
pub fn host_interface(container: &str, interface: &str) -> String {
    let digest = Sha256::digest(format!("{container}\0{interface}"));
    let hex: String = digest[..5].iter().map(|b| format!("{b:02x}")).collect();
    format!("cvl{hex}")
}

fn required_netns(env: &Environment) -> Result<std::fs::File, Failure> {
    let path = env.netns.as_ref().ok_or_else(|| Failure::new(code::ENVIRONMENT, "CNI_NETNS is missing", ""))?;
    netns::open(path)
}

fn add(env: &Environment, config: &NetworkConfig) -> Result<Value, Failure> {
    let settings = config.settings()?;
    let (container, interface) = env.attachment()?;
    let netns = required_netns(env)?;
    let attachment = Attachment {
        container: container.to_owned(),
        interface: interface.to_owned(),
        host_interface: host_interface(container, interface),
        pod: pod_name(env),
        port_mappings: config
            .runtime_config
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port != 0)
            .cloned()
            .collect(),
    };
    hostports::validate(&attachment.port_mappings)?;
    let ipam = Ipam::open(&settings.data_dir)?;
    let (ip, existed) = ipam.allocate(settings.subnet, settings.gateway, &attachment)?;
    drop(ipam);
    let limits = config.runtime_config.bandwidth.clone().unwrap_or_default();
    let attached = attach(&settings, &attachment, ip, &netns).and_then(|host_mac| {
        limit(&attachment, &limits, &netns)?;
        hostports::add(&settings.table, ip, &attachment.port_mappings)?;
        Ok(host_mac)
    });
    let host_mac = match attached {
        Ok(mac) => mac,
        Err(failure) => {
            // Nothing of a failed ADD stays (host ports come last and whole, so there are none of ours); what
            // cannot be undone here, DEL tries again. A second ADD of the same attachment harms nothing.
            if !existed {
                let _ = Socket::route()?.delete_link(&host_interface(container, interface));
                Ipam::open(&settings.data_dir)?.release(|a| !(a.container == container && a.interface == interface))?;
            }
            return Err(failure);
        }
    };
    let interfaces = [
        ResultInterface { name: settings.bridge.clone(), mac: mac_text(&bridge::mac(settings.gateway)), sandbox: None },
        ResultInterface { name: attachment.host_interface, mac: host_mac, sandbox: None },
        ResultInterface {
            name: interface.to_owned(),
            mac: mac_text(&bridge::mac(ip)),
            sandbox: env.netns.as_ref().map(|p| p.display().to_string()),
        },
    ];
    Ok(result(config.version(), &interfaces, Some((ip.into(), 32, settings.gateway.into()))))
}

fn pod_name(env: &Environment) -> String {
    match (env.args.get("K8S_POD_NAMESPACE"), env.args.get("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    }
}

/// Makes the veth pair and sets up both ends; returns the host end's hardware address.
fn attach(
    settings: &Settings,
    attachment: &Attachment,
    ip: Ipv4Addr,
    netns: &std::fs::File,
) -> Result<String, Failure> {
    let mut host = Socket::route()?;
    let master = match host.link(&settings.bridge)? {
        Some(link) if link.up => link.index,
        _ => bridge::ensure(&mut host, &settings.bridge, settings.subnet, settings.gateway, settings.mtu)?,
    };
    host.create_veth(&VethPair {
        host: &attachment.host_interface,
        master: Some(master),
        mtu: settings.mtu,
        peer: &attachment.interface,
        peer_mac: bridge::mac(ip),
        netns: netns.as_fd(),
    })?;
    let link = host
        .link(&attachment.host_interface)?
        .ok_or_else(|| Failure::new(code::KERNEL, "the veth pair vanished", &attachment.host_interface))?;
    // A Pod may reach itself through a service: back out of the port it came in by. Ports are not isolated: with
    // bridge-nf-call-iptables on, the kernel bridges what is translated to another Pod of the bridge.
    host.set_bridge_port(link.index, true, false)?;
    let gateway = settings.gateway;
    netns::enter(netns, || inside(&attachment.interface, ip, gateway))?;
    Ok(mac_text(&link.mac))
}

/// Limits traffic: into the Pod at the host's end, out of it at the Pod's end, each where it is sent.
fn limit(attachment: &Attachment, limits: &Bandwidth, netns: &std::fs::File) -> Result<(), Failure> {
    let apply = |name: &str, rate: u64, burst: u64| -> Result<(), Failure> {
        let mut socket = Socket::route()?;
        let link = socket.link(name)?.ok_or_else(|| Failure::new(code::KERNEL, "the interface vanished", name))?;
        // The capability counts bits; a burst must hold the largest packet.
        let smallest = u64::from(link.mtu) + 64;
        let burst = (burst / 8).clamp(smallest, u64::from(u32::MAX)) as u32;
        socket.limit_rate(link.index, rate / 8, burst)?;
        Ok(())
    };
    if limits.ingress_rate > 0 {
        let name = &attachment.host_interface;
        apply(name, limits.ingress_rate, limits.ingress_burst)?;
    }
    if limits.egress_rate > 0 {
        let name = &attachment.interface;
        netns::enter(netns, || apply(name, limits.egress_rate, limits.egress_burst))?;
    }
    Ok(())
}

/// Sets up the container's side: loopback, address, routes.
fn inside(interface: &str, ip: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), Failure> {
    let mut socket = Socket::route()?;
    socket.set_up(1)?;
    // The host routes between Pods of one node: its redirects would lead them past its hooks.
    for scope in ["all", interface] {
        let name = format!("net/ipv4/conf/{scope}/accept_redirects");
        // A read-only /proc/sys costs only this hardening; the host also drops its own redirects.
        let _ = bridge::set(&name, "0");
    }
    let link = socket
        .link(interface)?
        .ok_or_else(|| Failure::new(code::KERNEL, "the container's interface vanished", interface))?;
    socket.set_up(link.index)?;
    socket.add_address(link.index, Ipv4Net::new_assert(ip, 32).into())?;
    let on_link = Route {
        destination: Ipv4Net::new_assert(gateway, 32).into(),
        gateway: None,
        interface: Some(link.index),
        protocol: PROTOCOL_BOOT,
    };
    socket.replace_route(&on_link)?;
    let default = Route { destination: IpNet::V4(Ipv4Net::default()), gateway: Some(IpAddr::V4(gateway)), ..on_link };
    socket.replace_route(&default)?;
    Ok(())
}

fn delete(env: &Environment, config: &NetworkConfig) -> Result<(), Failure> {
    let settings = config.settings()?;
    let (container, interface) = env.attachment()?;
    detach(&settings, container, interface)
}

/// Removes an attachment, as often as asked.
fn detach(settings: &Settings, container: &str, interface: &str) -> Result<(), Failure> {
    Socket::route()?.delete_link(&host_interface(container, interface))?;
    release(settings, |a| !(a.container == container && a.interface == interface))
}

/// Removes host ports first and frees addresses last: a freed address may have a new owner at once.
fn release(settings: &Settings, keep: impl Fn(&Attachment) -> bool) -> Result<(), Failure> {
    let ipam = Ipam::open(&settings.data_dir)?;
    let (kept, gone): (Vec<_>, Vec<_>) = ipam.list()?.into_iter().partition(|(_, a)| keep(a));
    for (ip, attachment) in gone {
        hostports::remove(&settings.table, ip, &attachment.port_mappings, &kept)?;
    }
    ipam.release(keep)?;
    Ok(())
}

fn check(env: &Environment, config: &NetworkConfig) -> Result<(), Failure> {
    let settings = config.settings()?;
    let (container, interface) = env.attachment()?;
    let netns = required_netns(env)?;
    let drift = |details: String| Failure::new(code::DRIFT, "the attachment differs", details);
    let (ip, attachment) = ipam::list(&settings.data_dir)?
        .into_iter()
        .find(|(_, a)| a.container == container && a.interface == interface)
        .ok_or_else(|| {
            Failure::new(code::UNKNOWN_CONTAINER, "unknown container", format!("{container} has no address"))
        })?;
    if let Some(previous) = &config.prev_result {
        let expected = previous["ips"][0]["address"].as_str().unwrap_or_default();
        if expected.split('/').next() != Some(&ip.to_string()) {
            return Err(drift(format!("prevResult has {expected}, the address file {ip}")));
        }
    }
    let mut host = Socket::route()?;
    let master = host.link(&settings.bridge)?.map(|link| link.index);
    match host.link(&attachment.host_interface)? {
        Some(link) if link.up && link.master == master && master.is_some() => {}
        Some(_) => {
            return Err(drift(format!("{} is down or not a port of {}", attachment.host_interface, settings.bridge)));
        }
        None => {
            return Err(drift(format!("{} does not exist", attachment.host_interface)));
        }
    }
    let gateway = settings.gateway;
    netns::enter(&netns, || {
        let mut socket = Socket::route()?;
        let link =
            socket.link(interface)?.ok_or_else(|| drift(format!("{interface} does not exist in the container")))?;
        let net: IpNet = Ipv4Net::new_assert(ip, 32).into();
        if !socket.addresses()?.iter().any(|a| a.index == link.index && a.net == net) {
            return Err(drift(format!("{interface} does not have the address {ip}")));
        }
        let leads = |r: &Route| r.destination.prefix_len() == 0 && r.gateway == Some(IpAddr::V4(gateway));
        if !socket.routes()?.iter().any(leads) {
            return Err(drift(format!("the container has no default route by {gateway}")));
        }
        Ok(())
    })
}

fn collect(config: &NetworkConfig) -> Result<(), Failure> {
    let settings = config.settings()?;
    let valid = config.valid_attachments.as_ref().ok_or_else(|| {
        Failure::new(code::CONFIG, "GC needs cni.dev/valid-attachments", "without the list everything would be removed")
    })?;
    let keep = |a: &Attachment| valid.iter().any(|v| v.container == a.container && v.interface == a.interface);
    let mut socket = Socket::route()?;
    for (_, attachment) in ipam::list(&settings.data_dir)? {
        if !keep(&attachment) {
            socket.delete_link(&attachment.host_interface)?;
        }
    }
    release(&settings, keep)
}

fn status(config: &NetworkConfig) -> Result<(), Failure> {
    let settings = config.settings()?;
    match Socket::route()?.link(&settings.bridge)? {
        Some(link) if link.up => Ok(()),
        _ => Err(Failure::new(
            code::NOT_AVAILABLE,
            "the Pod network is not up",
            format!("bridge {} does not exist or is down", settings.bridge),
        )),
    }
}

/// The `loopback` plug-in, which containerd before 2.0 insists on: brings `lo` up.
fn loopback(env: &Environment, config: &NetworkConfig) -> Result<Option<Value>, Failure> {
    match env.command.as_str() {
        "ADD" | "CHECK" => {
            let netns = required_netns(env)?;
            netns::enter(&netns, || {
                let mut socket = Socket::route()?;
                if env.command == "ADD" {
                    socket.set_up(1)?;
                } else if !socket.link("lo")?.is_some_and(|lo| lo.up) {
                    return Err(Failure::new(code::DRIFT, "the attachment differs", "lo is down"));
                }
                Ok(())
            })?;
            if env.command == "CHECK" {
                return Ok(None);
            }
            let interface = ResultInterface {
                name: "lo".to_owned(),
                mac: "00:00:00:00:00:00".to_owned(),
                sandbox: env.netns.as_ref().map(|p| p.display().to_string()),
            };
            let mut value = result(config.version(), &[interface], None);
            let mut entry = json!({"address": "127.0.0.1/8", "interface": 0});
            if config.version().starts_with("0.") {
                entry["version"] = Value::from("4");
            }
            value["ips"] = json!([entry]);
            Ok(Some(value))
        }
        "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(unknown_command(other)),
    }
}
