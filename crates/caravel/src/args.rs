//! The command line. A contract: scripts rely on it.

use crate::audit_args::Audit;
use crate::{down, image, instance, join, run, status, up, why};
use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Parser, Subcommand};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a cluster lives unless told otherwise.
const DATA_DIR: &str = "/var/lib/caravel";

#[derive(Parser)]
#[command(name = "caravel", version, about = "Kubernetes in one small program")]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(ClapArgs, Clone)]
pub struct DataDir {
    /// The cluster's data directory
    #[arg(long = "data-dir", default_value = DATA_DIR, env = "CARAVEL_DATA_DIR", global = true)]
    pub path: PathBuf,
}

#[derive(ClapArgs, Clone)]
pub struct Up {
    #[command(flatten)]
    pub data: DataDir,
    /// The API server's port on loopback [default: the one used before, or 6443]
    #[arg(long)]
    pub port: Option<u16>,
    /// Return once the cluster is Ready, and leave it running
    #[arg(long)]
    pub detach: bool,
    /// The node's name [default: this machine's host name]
    #[arg(long)]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub api: Api,
    #[command(flatten)]
    pub scheduler: Scheduler,
    #[command(flatten)]
    pub others: Others,
}

/// What concerns nodes on other machines.
#[derive(ClapArgs, Clone, Default)]
pub struct Others {
    /// The address of this machine by which other nodes reach the API server and this node; without it the cluster is this
    /// machine only, and nothing is exposed [default: the one used before]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// A node that is silent for so many seconds is lost: its Pods are replaced [default: 50]
    #[arg(long)]
    pub node_grace_period: Option<u64>,
}

/// Options of the scheduler.
#[derive(ClapArgs, Clone, Default)]
pub struct Scheduler {
    /// How Pods are scheduled: a file with a kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration
    #[arg(long)]
    pub scheduler_config: Option<PathBuf>,
}

impl Scheduler {
    /// The scheduler's configuration, from the file when one is named.
    pub fn config(&self) -> Result<caravel_scheduler::Config> {
        let Some(path) = &self.scheduler_config else { return Ok(caravel_scheduler::Config::default()) };
        let at = || format!("--scheduler-config {}", path.display());
        let text = std::fs::read_to_string(path).with_context(at)?;
        caravel_scheduler::file::parse(&text).with_context(at)
    }

    /// The same option as words, for a process of its own, which runs elsewhere.
    pub fn words(&self) -> Option<String> {
        let path = self.scheduler_config.as_ref()?;
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Some(format!("--scheduler-config={}", whole.display()))
    }
}

/// Options of the API server, by the names that kube-apiserver gives them.
#[derive(ClapArgs, Clone)]
pub struct Api {
    /// Admission plug-ins to add to those that are on by default, by their Kubernetes names
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// What admission plug-ins are told: a file with an apiserver.config.k8s.io/v1 AdmissionConfiguration
    #[arg(long)]
    pub admission_control_config_file: Option<PathBuf>,
    /// Whose tokens are good beside the cluster's own: a file with an apiserver.config.k8s.io/v1 AuthenticationConfiguration
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Who is asked whether a request may be done: a file with an apiserver.config.k8s.io/v1 AuthorizationConfiguration;
    /// without it the Node authorizer and then RBAC
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
    /// APIs to serve that are off by default: `GROUP/VERSION=true`
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// Features to turn on that are off by default, `NAME=true`, or off that are on, `NAME=false`
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// How long Events are kept, in seconds
    #[arg(long, default_value_t = 3600)]
    pub event_ttl: u64,
    #[command(flatten)]
    pub audit: Audit,
}

impl Api {
    /// Takes the options over into a server's configuration.
    pub fn apply(&self, config: &mut caravel_server::Config) {
        config.admission_plugins.clone_from(&self.enable_admission_plugins);
        config.runtime_config.clone_from(&self.runtime_config);
        config.feature_gates.clone_from(&self.feature_gates);
        config.admission_configuration.clone_from(&self.admission_control_config_file);
        config.event_ttl = Duration::from_secs(self.event_ttl);
        config.authentication.clone_from(&self.authentication_config);
        config.audit = self.audit.options();
        config.authorization.clone_from(&self.authorization_config);
    }

    /// The same options as words, for a process of its own. Relative paths become absolute ones: it runs elsewhere.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("--event-ttl={}", self.event_ttl)];
        words.extend(self.enable_admission_plugins.iter().map(|name| format!("--enable-admission-plugins={name}")));
        words.extend(self.runtime_config.iter().map(|word| format!("--runtime-config={word}")));
        words.extend(self.feature_gates.iter().map(|word| format!("--feature-gates={word}")));
        let whole =
            |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string();
        words.extend(self.authentication_config.iter().map(|path| format!("--authentication-config={}", whole(path))));
        let told = self.admission_control_config_file.iter();
        words.extend(told.map(|path| format!("--admission-control-config-file={}", whole(path))));
        words.extend(self.audit.words(whole));
        words.extend(self.authorization_config.iter().map(|path| format!("--authorization-config={}", whole(path))));
        words
    }
}

#[derive(ClapArgs, Clone)]
pub struct Server {
    #[command(flatten)]
    pub data: DataDir,
    /// Port of the API
    #[arg(long)]
    pub port: Option<u16>,
    /// `embedded`, or `etcd=URL[,URL…]`
    #[arg(long, default_value = "embedded")]
    pub store: String,
    /// The address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The address by which nodes and Pods reach this server [default: the bind address, or this machine's]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    #[command(flatten)]
    pub api: Api,
    #[command(flatten)]
    pub scheduler: Scheduler,
    /// Only the API server: no scheduler, no controllers
    #[arg(long)]
    pub api_only: bool,
    /// A node that is silent for so many seconds is lost: its Pods are replaced [default: 50]
    #[arg(long)]
    pub node_grace_period: Option<u64>,
}

#[derive(ClapArgs, Clone)]
pub struct Down {
    #[command(flatten)]
    pub data: DataDir,
    /// Remove everything of the cluster from this machine
    #[arg(long)]
    pub purge: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// A cluster of one on this machine; says so (with --detach: returns) once it is Ready
    Up(Up),
    /// Stops the cluster and its containers; --purge leaves the machine as it was
    Down(Down),
    /// The control plane only
    Server(Server),
    /// This machine as a node of a cluster elsewhere
    Agent(join::Agent),
    /// Tokens with which nodes join
    Token(join::Token),
    /// What runs, whether it is healthy, and if not why
    Status(DataDir),
    /// Why something does not run or is not ready: the chain of causes down to the Pod or Node, and the mend
    Why(why::Why),
    /// Prints the admin kubeconfig
    Kubeconfig(DataDir),
    /// Images without a registry
    Image(image::Image),
}

impl Command {
    /// Whether it only says something and ends.
    fn only_speaks(&self) -> bool {
        !matches!(self, Command::Up(_) | Command::Server(_) | Command::Down(_) | Command::Agent(_))
    }

    pub fn run(self) -> Result<()> {
        if self.only_speaks() {
            end_with_the_reader();
        }
        match self {
            Command::Up(args) => up::up(args),
            Command::Server(args) => run::server(args),
            Command::Down(args) => down::down(&args),
            Command::Agent(args) => join::agent(args),
            Command::Token(args) => join::token(args),
            Command::Status(args) => status::status(&args.path),
            Command::Why(args) => why::why(&args),
            Command::Kubeconfig(args) => kubeconfig(&args),
            Command::Image(args) => args.run(),
        }
    }
}

/// `caravel status | head` ends when `head` has read enough, as other programs do, and not with a complaint. What does work
/// must go on whoever listens.
fn end_with_the_reader() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action is no handler; no thread was started yet.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

fn kubeconfig(data: &DataDir) -> Result<()> {
    let path = instance::kubeconfig_path(&data.path);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no cluster has been started in {} (no {})", data.path.display(), path.display()))?;
    print!("{text}");
    Ok(())
}
