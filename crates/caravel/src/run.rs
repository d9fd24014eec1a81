//! Running the rooms in one process until told to stop.

use crate::args;
use crate::detach::Notify;
use crate::instance::{self, Instance};
use crate::join::{self, ClusterSettings, Published};
use crate::{ready, serving, wire};
use anyhow::{Context, Result, bail};
use caravel_client::Cluster;
use caravel_runtime::containerd::Containerd;
use caravel_server::authn::UserInfo;
use caravel_server::{Config, Server};
use caravel_store::{Store, embedded, etcd};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long `up` waits for the node to be Ready before it says that it is not.
pub const READY: Duration = Duration::from_secs(120);

/// `caravel up` in this process: everything, on loopback and the bridge.
pub fn up(instance: &Instance, args: &args::Up, notify: &mut Notify) -> Result<()> {
    start_logging();
    runtime()?.block_on(async {
        let node = args.node_name.clone().map_or_else(host_name, Ok)?;
        let gateway = IpAddr::from(instance.gateway());
        let network = wire::network(instance, &node)?;
        notify.step("the Pod network");
        caravel_network::cni::configure(&network).context("the Pod network could not be set up")?;
        notify.step("the API server, and containerd");
        let mut config = server_config(instance, instance.address());
        config.extra_names = vec![gateway.to_string()];
        args.api.apply(&mut config);
        let own = [IpAddr::from([127, 0, 0, 1]), gateway];
        let others = instance.advertise.filter(|address| !own.contains(address));
        let listen: Vec<_> = own.into_iter().chain(others).map(|ip| SocketAddr::new(ip, instance.port)).collect();
        // Neither needs the other to start.
        let (plane, containerd) = tokio::try_join!(Plane::start(instance, config, "embedded", &listen), async {
            Containerd::start(wire::containerd(instance)).await.context("containerd could not be started")
        })?;
        let mut tasks = Tasks::new();
        plane.spawn_components(&mut tasks, instance, args.others.node_grace_period, args.scheduler.config()?)?;
        plane.publish(instance, instance.address(), args.others.node_grace_period)?;
        let grace = args.others.node_grace_period;
        spawn_node(&mut tasks, &plane, instance, &node, &containerd, grace)?;
        let network_view = plane.cluster(UserInfo::new("system:kube-proxy", &["system:masters"]), "network");
        tasks.spawn("network", |stop| async move { Ok(caravel_network::run(network, network_view, stop).await?) });
        notify.step("the node");
        tasks.until(ready::node_is_ready(&plane.admin(), &node), READY).await?;
        tracing::info!(port = instance.port, "Ready");
        if !notify.is_detached() {
            println!("Ready: https://127.0.0.1:{} (Ctrl-C stops the program; containers go on)", instance.port);
            println!("export KUBECONFIG={}", instance::kubeconfig_path(&instance.dir).display());
        }
        notify.ready();
        let ended = tasks.run().await;
        plane.close().await;
        ended
    })
}

/// `caravel server`: the control plane.
pub fn server(args: args::Server) -> Result<()> {
    start_logging();
    let scheduler = args.scheduler.config()?;
    let instance = Instance::open(&args.data.path, args.port)?;
    let _running = instance.lock()?;
    runtime()?.block_on(async {
        let advertise = match args.advertise_address {
            Some(address) => address,
            None if args.bind_address.is_unspecified() => own_address()?,
            None => args.bind_address,
        };
        let mut config = server_config(&instance, advertise);
        config.extra_names = vec![advertise.to_string()];
        args.api.apply(&mut config);
        let listen = [SocketAddr::new(args.bind_address, instance.port)];
        let plane = Plane::start(&instance, config, &args.store, &listen).await?;
        let mut tasks = Tasks::new();
        if !args.api_only {
            plane.spawn_components(&mut tasks, &instance, args.node_grace_period, scheduler)?;
            plane.publish(&instance, advertise, args.node_grace_period)?;
        }
        tracing::info!(address = %listen[0], "the control plane is up");
        let ended = tasks.run().await;
        plane.close().await;
        ended
    })
}

fn server_config(instance: &Instance, advertise: IpAddr) -> Config {
    let mut config = Config::new(&instance.dir, advertise, instance.port);
    config.service_cidrs = vec![instance.service_cidr()];
    config
}

/// The API server with its store and listeners.
struct Plane {
    server: Arc<Server>,
    /// Whose informers the components of the control plane share.
    reader: Cluster,
    stop: CancellationToken,
    serving: JoinSet<Result<()>>,
}

impl Plane {
    async fn start(instance: &Instance, config: Config, store: &str, listen: &[SocketAddr]) -> Result<Plane> {
        let store = open_store(instance, store).await?;
        let server = Server::open(config, store).await.context("the API server could not be started")?;
        let kubeconfig = server.admin_kubeconfig(&format!("https://127.0.0.1:{}", instance.port));
        instance::write_whole(&instance::kubeconfig_path(&instance.dir), kubeconfig.as_bytes())?;
        let loopback = server.local(Arc::new(UserInfo::system_masters("system:apiserver")));
        let reader = Cluster::new(kube::Client::new(loopback, "default"), "informers");
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        for address in listen {
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!("{address} cannot be listened on; another server may have the port: choose one with --port")
            })?;
            let (server, stop) = (server.clone(), stop.clone());
            serving.spawn(async move { Ok(server.serve(listener, stop).await?) });
        }
        Ok(Plane { server, reader, stop, serving })
    }

    /// The view of a component that may see everything, with no socket between.
    fn cluster(&self, who: UserInfo, component: &str) -> Cluster {
        self.reader.shared_with(self.client(who), component)
    }

    /// A client in the process.
    fn client(&self, who: UserInfo) -> kube::Client {
        kube::Client::new(self.server.local(Arc::new(who)), "default")
    }

    /// The administrator's client.
    fn admin(&self) -> kube::Client {
        self.client(UserInfo::system_masters("kubernetes-admin"))
    }

    /// Publishes what nodes on other machines need to join.
    fn publish(&self, instance: &Instance, address: IpAddr, grace: Option<u64>) -> Result<()> {
        let what = Published {
            server: format!("https://{}", SocketAddr::new(address, instance.port)),
            ca_pem: self.server.pki().ca.cert_pem().to_owned(),
            settings: ClusterSettings {
                cluster_cidr: instance.cluster_cidr().parse()?,
                service_cidr: instance.service_cidr().parse()?,
                dns_ip: instance.dns_ip(),
                domain: "cluster.local".to_owned(),
                node_grace_seconds: grace,
            },
        };
        tokio::spawn(join::publish(self.admin(), what, self.stop.clone()));
        Ok(())
    }

    fn spawn_components(
        &self,
        tasks: &mut Tasks,
        instance: &Instance,
        grace: Option<u64>,
        scheduler: caravel_scheduler::Config,
    ) -> Result<()> {
        let pki = self.server.pki();
        let ca = &pki.ca;
        let ca_key = std::fs::read_to_string(pki.dir().join("ca.key")).context("the cluster CA's key")?;
        let mut node = caravel_controllers::NodeTimes::default();
        if let Some(seconds) = grace {
            node.grace = Duration::from_secs(seconds.max(1));
            node.monitor = node.monitor.min(node.grace / 4);
        }
        let config = caravel_controllers::Config {
            node,
            root_ca: ca.cert_pem().to_owned(),
            signing_ca: Some((ca.cert_pem().to_owned(), ca_key)),
            cluster_cidr: Some((IpAddr::from([10, 244 - instance.number, 0, 0]), 16)),
            enabled: self.controllers(),
            ..Default::default()
        };
        let view = self.cluster(UserInfo::system_masters("system:kube-controller-manager"), "kube-controller-manager");
        tasks.spawn("controllers", |stop| caravel_controllers::run(view, config, stop));
        let view = self.cluster(UserInfo::system_masters("system:kube-scheduler"), "default-scheduler");
        tokio::spawn(crate::scheduling::publish(self.admin(), scheduler.told.clone(), self.stop.clone()));
        tasks.spawn("scheduler", |stop| async move { Ok(caravel_scheduler::run(view, scheduler, stop).await?) });
        let view =
            self.cluster(UserInfo::system_masters("system:cloud-controller-manager"), "cloud-controller-manager");
        tasks.spawn("load balancer", |stop| caravel_cloud::local::run(view, stop));
        Ok(())
    }

    /// The controllers that are on by default, and those of the features that are on.
    fn controllers(&self) -> Vec<String> {
        let migrator = self.server.features().migrates_storage().then(|| caravel_controllers::MIGRATOR.to_owned());
        std::iter::once("*".to_owned()).chain(migrator).collect()
    }

    /// Takes no more requests, lets those under way finish, and makes sure that the store is closed.
    async fn close(mut self) {
        self.stop.cancel();
        while let Some(served) = self.serving.join_next().await {
            if let Ok(Err(error)) = served {
                tracing::warn!(%error, "a listener did not end well");
            }
        }
    }
}

async fn open_store(instance: &Instance, spec: &str) -> Result<Arc<dyn Store>> {
    if spec == "embedded" {
        let options = embedded::Options::new(instance.dir.join("store"));
        let opened = tokio::task::spawn_blocking(|| embedded::Embedded::open(options)).await?;
        return Ok(Arc::new(opened.context("the store could not be opened")?));
    }
    let Some(endpoints) = spec.strip_prefix("etcd=") else {
        bail!("--store {spec}: it must be `embedded` or `etcd=URL[,URL…]`");
    };
    let options = etcd::Options::new(endpoints.split(',').map(str::to_owned));
    Ok(Arc::new(etcd::Etcd::connect(options).await.with_context(|| format!("etcd at {endpoints}"))?))
}

/// The kubelet and its HTTPS API.
fn spawn_node(
    tasks: &mut Tasks,
    plane: &Plane,
    instance: &Instance,
    name: &str,
    containerd: &Arc<Containerd>,
    grace: Option<u64>,
) -> Result<()> {
    let address = instance.address();
    let mut config = caravel_node::Config::new(name, address, &instance.dir);
    config.port = instance.kubelet_port();
    config.cluster_dns = vec![IpAddr::from(instance.dns_ip())];
    config.cgroup_root = format!("/{}", instance.tag());
    config.pod_cidr = Some(instance.own_pod_cidr());
    if let Some(grace) = grace {
        config.lease_duration = join::lease_duration(grace);
    }
    let pki = plane.server.pki().clone();
    let certificate = serving::Certificate::open(pki, name, address)?;
    let who = UserInfo::new(format!("system:node:{name}"), &["system:nodes"]);
    let (view, runtime, keep) =
        (Cluster::new(plane.client(who), "kubelet"), containerd.dyn_runtime(), containerd.clone());
    let api = caravel_node::server::Config {
        node_name: name.to_owned(),
        serving: certificate.serving(),
        client_ca: plane.server.pki().ca.cert_pem().to_owned(),
        root_dir: config.root_dir.clone(),
        // `/logs/pods/…` as on any node; beside it lie the logs of this program and of containerd.
        log_dir: config.log_dir.parent().unwrap_or(&config.log_dir).to_path_buf(),
        reviewer: Some(Arc::new(view.client())),
    };
    tasks.spawn("node", move |stop| async move {
        // containerd is watched, and started again when it dies, as long as this is held.
        let _containerd = keep;
        let address = SocketAddr::new(address, config.port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("the node's API on {address}"))?;
        let node = caravel_node::start(config, view, runtime.clone(), stop.clone()).await?;
        let renewing = certificate.renew_until(stop.clone());
        let serving = caravel_node::server::serve(listener, api, node.manager.clone(), runtime, stop);
        tokio::join!(renewing, serving).1
    });
    Ok(())
}

/// Tasks that all must go on: when one ends by itself, the program ends with its error.
pub struct Tasks {
    stop: CancellationToken,
    running: JoinSet<(&'static str, Result<()>)>,
}

impl Tasks {
    pub fn new() -> Tasks {
        Tasks { stop: CancellationToken::new(), running: JoinSet::new() }
    }

    pub fn spawn<F, Fut>(&mut self, name: &'static str, start: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let task = start(self.stop.clone());
        self.running.spawn(async move { (name, task.await) });
    }

    /// Waits for something while the tasks run; their failure is its failure.
    pub async fn until(&mut self, what: impl Future<Output = Result<()>>, limit: Duration) -> Result<()> {
        let error = tokio::select! {
            done = tokio::time::timeout(limit, what) => match done {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("the node was not Ready within {} s; `caravel status` tells why", limit.as_secs()),
            },
            ended = self.running.join_next() => ended_early(ended),
            () = told_to_stop() => anyhow::anyhow!("interrupted"),
        };
        self.wind_down().await;
        Err(error)
    }

    /// Until a signal, or until one of them ends.
    pub async fn run(mut self) -> Result<()> {
        let result = tokio::select! {
            () = told_to_stop() => Ok(()),
            // A server alone has no tasks beside its listeners.
            ended = self.running.join_next(), if !self.running.is_empty() => Err(ended_early(ended)),
        };
        self.wind_down().await;
        result
    }

    async fn wind_down(&mut self) {
        self.stop.cancel();
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(10), all).await.is_err() {
            tracing::warn!("some parts did not end within 10 s; they are cut off");
            self.running.abort_all();
        }
    }
}

fn ended_early(ended: Option<Result<(&'static str, Result<()>), tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, Err(error)))) => error.context(format!("{name} failed")),
        Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name} ended by itself"),
        Some(Err(error)) => anyhow::Error::from(error).context("a part of the program panicked"),
        None => anyhow::anyhow!("nothing runs"),
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without handlers the default action ends the process, which is safe at any instant.
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tracing::info!("told to stop");
}

pub fn runtime() -> Result<tokio::runtime::Runtime> {
    // Installed once for the whole process; a second call only says that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CARAVEL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber is refused, which is fine: the first one logs.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).try_init();
}

pub fn host_name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase();
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(fine) {
        bail!(
            "this machine's name {name:?} is no node name (lower-case letters, digits, `-` and `.`); choose one with --node-name"
        );
    }
    Ok(name)
}

/// The address by which this machine reaches others: that of its default route.
fn own_address() -> Result<IpAddr> {
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9").context("this machine has no default route; give --advertise-address")?;
    Ok(socket.local_addr()?.ip())
}
