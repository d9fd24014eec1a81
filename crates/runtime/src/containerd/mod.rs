//! A containerd of our own: its files under the data directory, its process apart from ours.
//!
//! The process outlives the program, as containers do: the next start adopts it. While the program runs, a daemon that
//! dies is started again. [`Containerd::stop`] ends the daemon and leaves containers; [`Containerd::remove_all`] ends
//! containers; [`purge`] leaves nothing.

pub mod cgroup;
pub mod config;
pub mod host;
mod process;
mod purge;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use host::{Host, Programs};
pub use purge::{purge, unmount_below};

use crate::cri::Cri;
use crate::images::Images;
use crate::types::SandboxFilter;
use crate::{Error, Result, Runtime, pause};
use process::Process;

/// How long the daemon may take until its socket answers. With many containers it looks at each of them first.
const START: Duration = Duration::from_secs(60);
/// How long the CRI service may take once the socket answers.
const CRI_START: Duration = Duration::from_secs(15);
/// How often the size of its log is looked at; it writes warnings only.
const LOG_CHECK: Duration = Duration::from_secs(900);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(10);
/// Delay before a daemon that died is started again; doubled up to [`RESTART_MAX`] while it does not stay up.
const RESTART: Duration = Duration::from_millis(200);
/// See [`RESTART`].
const RESTART_MAX: Duration = Duration::from_secs(30);

/// A running containerd.
pub struct Containerd {
    config: Config,
    host: Host,
    cri: Cri,
    process: Mutex<Arc<Process>>,
    ending: CancellationToken,
}

impl Containerd {
    /// Adopts the daemon of an earlier start, or starts one; returns when it answers and has the pause image.
    pub async fn start(config: Config) -> Result<Arc<Self>> {
        let prepare = config.clone();
        let host = tokio::task::spawn_blocking(move || prepare_files(&prepare))
            .await
            .map_err(|e| Error::Host(format!("looking at the machine was broken off: {e}")))??;
        let process = match adopt(&config).await? {
            Some(process) => process,
            None => launch(&config, &host).await?,
        };
        let cri = Cri::new(config.socket())?.with_containerd();
        let daemon = Arc::new(Containerd {
            config,
            host,
            cri,
            process: Mutex::new(Arc::new(process)),
            ending: CancellationToken::new(),
        });
        daemon.ready().await?;
        tokio::spawn(watch(Arc::downgrade(&daemon), daemon.ending.clone()));
        Ok(daemon)
    }

    /// The client.
    pub fn runtime(&self) -> Cri {
        self.cri.clone()
    }

    /// The client as a node takes it.
    pub fn dyn_runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.cri.clone())
    }

    /// The image store.
    pub fn images(&self) -> Images {
        Images::new(self.cri.clone())
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the machine offers.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        self.cri.socket()
    }

    /// The daemon's process.
    pub fn pid(&self) -> i32 {
        self.process.lock().pid()
    }

    /// No longer starts the daemon again when it dies; it is left as it is.
    pub fn release(&self) {
        self.ending.cancel();
    }

    /// Ends the daemon. Containers and their shims go on; the next start finds them.
    pub async fn stop(&self) {
        self.release();
        let process = self.process.lock().clone();
        process.end(STOP).await;
        let _ = std::fs::remove_file(self.config.pid_file());
    }

    /// Ends and removes every sandbox and container.
    pub async fn remove_all(&self) -> Result<()> {
        remove_all(&self.cri).await
    }

    /// Waits until CRI answers, and imports the pause image if it is not there.
    async fn ready(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + CRI_START;
        let pause = loop {
            match self.cri.image_status(pause::IMAGE).await {
                Ok(found) => break found,
                // The socket may be there before the CRI service is, and that before it has looked at the containers of
                // its former life; a service that failed to load never comes.
                Err(error @ (Error::Unavailable(_) | Error::Unimplemented(_))) => {
                    if tokio::time::Instant::now() > deadline || !self.process.lock().is_alive() {
                        return Err(not_started(&self.config, &error.to_string()));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        };
        if pause.is_none() {
            let bundle = tokio::task::spawn_blocking(pause::image)
                .await
                .map_err(|e| Error::Host(format!("making the pause image was broken off: {e}")))??;
            self.images().put(&bundle, true).await?;
        }
        Ok(())
    }
}

/// Ends and removes all sandboxes, several at once.
async fn remove_all(cri: &Cri) -> Result<()> {
    use futures::StreamExt;
    let sandboxes = cri.list_sandboxes(&SandboxFilter::default()).await?;
    let removals = futures::stream::iter(sandboxes).map(|sandbox| async move {
        // A network that cannot be torn down must not keep the containers alive.
        if let Err(error) = cri.stop_sandbox(&sandbox.id).await {
            tracing::warn!(sandbox = sandbox.id, %error, "a sandbox does not stop cleanly");
        }
        cri.remove_sandbox(&sandbox.id).await
    });
    let results: Vec<Result<()>> = removals.buffer_unordered(8).collect().await;
    results.into_iter().collect()
}

/// Makes directories, writes the configuration, and looks at the machine.
fn prepare_files(config: &Config) -> Result<Host> {
    let registries = config.registries();
    let socket = config.socket();
    let log = config.log();
    let dirs = [
        Some(config.dir()),
        Some(registries.clone()),
        Some(config.cni_bin()),
        Some(config.cni_conf()),
        log.parent().map(Path::to_path_buf),
        socket.parent().map(Path::to_path_buf),
    ];
    for dir in dirs.into_iter().flatten() {
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(format!("making {}", dir.display()), e))?;
    }
    let host = Host::probe(&config.dir())?;
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|e| Error::io(format!("writing {}", path.display()), e))
    };
    write(&config.file(), &config::render(config, &host))?;
    write(&registries.join("README"), config::REGISTRIES_README)?;
    Ok(host)
}

/// A daemon that runs and answers is taken over; one that runs and does not is ended.
async fn adopt(config: &Config) -> Result<Option<Process>> {
    let Some(process) = process::running(config)? else { return Ok(None) };
    if process::wait_for_socket(&config.socket(), &process, Duration::from_secs(10)).await {
        tracing::info!(pid = process.pid(), "containerd runs already");
        return Ok(Some(process));
    }
    tracing::warn!(pid = process.pid(), "containerd runs but does not answer; it is started again");
    process.end(STOP).await;
    Ok(None)
}

async fn launch(config: &Config, host: &Host) -> Result<Process> {
    // A stale socket would be mistaken for an answer's absence only, but containerd removes it itself.
    let process = process::start(config, &host.programs)?;
    cgroup::join(&config.cgroup_root, "runtime", process.pid());
    if !process::wait_for_socket(&config.socket(), &process, START).await {
        let error = not_started(config, "its socket does not answer");
        process.end(STOP).await;
        return Err(error);
    }
    Ok(process)
}

fn not_started(config: &Config, why: &str) -> Error {
    let log = config.log();
    Error::Host(format!("containerd did not start: {why}. The end of {}:\n{}", log.display(), process::log_tail(&log)))
}

/// Looks at the log now and then; never returns.
async fn keep_small(log: &Path) {
    loop {
        tokio::time::sleep(LOG_CHECK).await;
        process::shrink_log(log);
    }
}

/// Starts the daemon again whenever it dies.
async fn watch(daemon: std::sync::Weak<Containerd>, ending: CancellationToken) {
    let mut delay = RESTART;
    loop {
        let Some(process) = daemon.upgrade().map(|d| d.process.lock().clone()) else { return };
        let since = tokio::time::Instant::now();
        let Some(log) = daemon.upgrade().map(|d| d.config.log()) else { return };
        tokio::select! {
            () = ending.cancelled() => return,
            () = process.ended() => {}
            () = keep_small(&log) => {}
        }
        if ending.is_cancelled() {
            return;
        }
        if since.elapsed() > RESTART_MAX {
            delay = RESTART;
        }
        tracing::error!(pid = process.pid(), "containerd died; it is started again in {delay:?}");
        tokio::select! {
            () = ending.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(RESTART_MAX);
        let Some(daemon) = daemon.upgrade() else { return };
        match launch(&daemon.config, &daemon.host).await {
            Ok(process) => *daemon.process.lock() = Arc::new(process),
            Err(error) => tracing::error!(%error, "containerd cannot be started again"),
        }
    }
}
