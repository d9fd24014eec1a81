//! `caravel agent`: this machine as a node of a cluster elsewhere.

use super::bootstrap::Credential;
use super::credentials::{Identity, Place};
use super::serving::Serving;
use super::{ClusterSettings, SETTINGS, SETTINGS_KEY};
use crate::args::DataDir;
use crate::detach::{self, Notify};
use crate::instance::{self, Instance, Role};
use crate::run::{READY, Tasks, host_name, runtime, start_logging};
use crate::{preflight, ready, wire};
use anyhow::{Context, Result, bail};
use caravel_client::Cluster;
use caravel_runtime::containerd::Containerd;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;

#[derive(clap::Args, Clone)]
pub struct Agent {
    #[command(flatten)]
    pub data: DataDir,
    /// The API server, as https://ADDRESS:PORT [default: the one of the last time]
    #[arg(long)]
    pub server: Option<http::Uri>,
    /// A token of `caravel token create`; needed the first time only
    #[arg(long, env = "CARAVEL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The hash of the cluster's authority (sha256:…), when the token does not carry it
    #[arg(long)]
    pub ca_cert_hash: Option<String>,
    /// The node's name [default: this machine's host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// The address by which the other nodes reach this one [default: the one that leads to the server]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Labels of the Node, as key=value; repeatable
    #[arg(long = "node-label", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Taints of the Node, as key[=value]:Effect; repeatable
    #[arg(long = "node-taint")]
    pub taints: Vec<String>,
    /// Return once the node is Ready, and leave it running
    #[arg(long)]
    pub detach: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} must be key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs it here, or, with `--detach`, in a process of its own.
pub fn run(args: Agent) -> Result<()> {
    preflight::refuse_what_cannot_work()?;
    if args.detach { detached(&args) } else { in_front(&args) }
}

fn open(args: &Agent) -> Result<Instance> {
    let mut instance = Instance::open(&args.data.path, None)?;
    let server = args.server.as_ref().map(ToString::to_string);
    let server = server.or_else(|| match &instance.role {
        Role::Agent { server } => Some(server.clone()),
        Role::Server => None,
    });
    let Some(server) = server else { bail!("--server https://ADDRESS:PORT is needed the first time") };
    if instance::kubeconfig_path(&instance.dir).exists() {
        bail!(
            "{} holds a cluster of its own; a node that joins another needs a directory of its own",
            instance.dir.display()
        );
    }
    instance.role = Role::Agent { server };
    instance.save()?;
    Ok(instance)
}

fn detached(args: &Agent) -> Result<()> {
    let started = Instant::now();
    let instance = open(args)?;
    if let Some(pid) = instance.pid() {
        println!("the node in {} is already up (pid {pid})", instance.dir.display());
        return Ok(());
    }
    let mut words: Vec<String> = ["agent", "--data-dir"].map(str::to_owned).to_vec();
    words.push(instance.dir.display().to_string());
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), value]);
        }
    };
    option("--ca-cert-hash", args.ca_cert_hash.clone());
    option("--node-name", args.node_name.clone());
    option("--node-ip", args.node_ip.map(|ip| ip.to_string()));
    for (key, value) in &args.labels {
        option("--node-label", Some(format!("{key}={value}")));
    }
    for taint in &args.taints {
        option("--node-taint", Some(taint.clone()));
    }
    // By the environment, since everybody can read a process's words.
    let secret = args.token.as_ref().map(|token| ("CARAVEL_TOKEN", token.as_str()));
    let log = instance.dir.join("logs/caravel.log");
    detach::start_with(&words, secret.as_slice(), &log, |step| eprintln!("  {step}"))
        .with_context(|| format!("the log is {}", log.display()))?;
    println!("Ready in {:.2} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn in_front(args: &Agent) -> Result<()> {
    let mut notify = Notify::from_environment();
    let result = open(args).and_then(|instance| {
        let running = instance.lock()?;
        live(args, &instance, &mut notify).map(|()| drop(running))
    });
    if let Err(error) = &result {
        notify.failed(&format!("{error:#}"));
    }
    result
}

fn live(args: &Agent, instance: &Instance, notify: &mut Notify) -> Result<()> {
    start_logging();
    runtime()?.block_on(async {
        let Role::Agent { server } = &instance.role else { bail!("this directory is not an agent's") };
        let server: http::Uri = server.parse().with_context(|| format!("--server {server}"))?;
        if server.scheme_str() != Some("https") {
            bail!("--server {server}: it must be https://ADDRESS:PORT");
        }
        let node = args.node_name.clone().map_or_else(host_name, Ok)?;
        let address = args.node_ip.map_or_else(|| route_to(&server), Ok)?;
        let pki = instance.dir.join("pki");
        let credential =
            args.token.as_deref().map(|t| Credential::parse(t, args.ca_cert_hash.as_deref())).transpose()?;
        notify.step("joining the cluster");
        let place = Place { pki: &pki, node: &node, server: &server, credential: credential.as_ref() };
        // First of all: a node that may not join leaves nothing running.
        let identity = Identity::open(place).await?;
        notify.step("containerd");
        let containerd =
            Containerd::start(wire::containerd(instance)).await.context("containerd could not be started")?;
        let settings = settings(&identity.client).await?;
        let mut tasks = Tasks::new();
        spawn(
            &mut tasks,
            args,
            instance,
            &Joined { node: &node, address, settings, identity: &identity, containerd },
            &pki,
        )?;
        let client = identity.client.clone();
        tasks.spawn("certificates", move |stop| async move {
            identity.renew_until(stop).await;
            Ok(())
        });
        notify.step("the node");
        tasks.until(ready::node_is_ready(&client, &node), READY).await?;
        tracing::info!(node, "Ready");
        if !notify.is_detached() {
            println!("Ready: node {node} (Ctrl-C stops the program; containers go on)");
        }
        notify.ready();
        tasks.run().await
    })
}

/// What is known once the node has joined.
struct Joined<'a> {
    node: &'a str,
    address: IpAddr,
    settings: ClusterSettings,
    identity: &'a Identity,
    containerd: Arc<Containerd>,
}

/// Starts kubelet and network.
fn spawn(
    tasks: &mut Tasks,
    args: &Agent,
    instance: &Instance,
    joined: &Joined<'_>,
    pki: &std::path::Path,
) -> Result<()> {
    let Joined { node, address, settings, identity, containerd } = joined;
    let address = *address;
    let client = identity.client.clone();
    let mut config = caravel_node::Config::new(*node, address, &instance.dir);
    config.port = instance.kubelet_port();
    config.cluster_dns = vec![IpAddr::from(settings.dns_ip)];
    config.cluster_domain.clone_from(&settings.domain);
    config.cgroup_root = format!("/{}", instance.tag());
    config.labels = args.labels.iter().cloned().collect();
    config.taints.clone_from(&args.taints);
    if let Some(grace) = settings.node_grace_seconds {
        config.lease_duration = super::lease_duration(grace);
    }
    let serving = Serving::open(pki, node, address)?;
    let api = caravel_node::server::Config {
        node_name: (*node).to_owned(),
        serving: serving.shown(),
        client_ca: identity.ca_pem.clone(),
        root_dir: config.root_dir.clone(),
        log_dir: config.log_dir.clone(),
        reviewer: Some(Arc::new(client.clone())),
    };
    let mut network = caravel_network::Config::new(*node, address, &instance.dir, instance.number);
    network.cluster_cidr = settings.cluster_cidr;
    network.service_cidr = settings.service_cidr;
    network.dns_ip = settings.dns_ip;
    network.cluster_domain.clone_from(&settings.domain);
    let view = Cluster::new(client.clone(), "network");
    tasks.spawn("network", |stop| async move { Ok(caravel_network::run(network, view, stop).await?) });
    let view = Cluster::new(client.clone(), "kubelet");
    let (runtime, keep) = (containerd.dyn_runtime(), containerd.clone());
    tasks.spawn("node", move |stop| async move {
        // containerd is watched, and started again when it dies, as long as this is held.
        let _containerd = keep;
        let place = SocketAddr::new(address, config.port);
        let listener = TcpListener::bind(place).await.with_context(|| format!("the node's API on {place}"))?;
        let started = caravel_node::start(config, view, runtime.clone(), stop.clone()).await?;
        let certificate = serving.keep(client, stop.clone());
        let serving = caravel_node::server::serve(listener, api, started.manager.clone(), runtime, stop);
        tokio::join!(certificate, serving).1
    });
    Ok(())
}

async fn settings(client: &kube::Client) -> Result<ClusterSettings> {
    let map = Api::<ConfigMap>::namespaced(client.clone(), SETTINGS.0)
        .get(SETTINGS.1)
        .await
        .with_context(|| format!("the cluster's settings (ConfigMap {}/{})", SETTINGS.0, SETTINGS.1))?;
    let text = map.data.as_ref().and_then(|d| d.get(SETTINGS_KEY)).context("the cluster's settings are empty")?;
    serde_json::from_str(text).context("the cluster's settings")
}

/// The address of this machine that leads to the server.
fn route_to(server: &http::Uri) -> Result<IpAddr> {
    let authority = server.authority().with_context(|| format!("--server {server} names no host"))?;
    let host = authority.host().trim_matches(['[', ']']);
    let target = (host, authority.port_u16().unwrap_or(443)).to_socket_addrs()?.next();
    let target = target.with_context(|| format!("{host} has no address"))?;
    let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(target).with_context(|| format!("there is no route to {target}"))?;
    let own = socket.local_addr()?.ip();
    if own.is_loopback() {
        bail!(
            "the server is on this machine's loopback: other nodes could not reach this one; give --server by an address of the network, or --node-ip"
        );
    }
    Ok(own)
}
