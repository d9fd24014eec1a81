//! Drivers register by putting a socket into a directory that the node watches, as with any kubelet; a driver is gone when its socket or
//! its connection is. What a driver that is gone told of its devices is taken out of the API, so that no Pod is sent here in vain.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caravel_api::names;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use nix::sys::inotify::AddWatchFlags;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::drivers::{Driver, Drivers};
use super::wire::{Client, PluginInfo, Service};
use crate::inotify::Inotify;

/// How long a driver may be away, as for an update, before its slices are removed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first wait before a driver that did not answer is asked again; doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// See [`RETRY`].
const RETRY_MAX: Duration = Duration::from_secs(120);

/// What registration takes.
#[derive(Clone)]
pub struct Registry {
    /// The directory of sockets.
    pub dir: PathBuf,
    /// The drivers.
    pub drivers: Arc<Drivers>,
    /// For removing slices.
    pub client: kube::Client,
    /// This node.
    pub node: String,
}

/// A socket is made, or moved here or away, or removed.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM);

/// The sockets of a directory; the number tells a socket from a later one in the same place.
fn sockets(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let meta = e.metadata().ok()?;
            let hidden = e.file_name().to_str().is_none_or(|n| n.starts_with('.'));
            (meta.file_type().is_socket() && !hidden).then(|| (e.path(), meta.ino()))
        })
        .collect()
}

/// Judges who wants to register, and gives the service to speak to it with.
fn judge(info: &PluginInfo) -> Result<Service, String> {
    if info.kind != "DRAPlugin" {
        return Err(format!("plug-ins of type {:?} are not supported by this node", info.kind));
    }
    if !names::dns1123_subdomain(&info.name).is_empty() {
        return Err(format!("invalid driver name {:?}: it must be a DNS subdomain", info.name));
    }
    Service::choose(&info.supported_versions).ok_or_else(|| {
        format!(
            "none of the versions {:?} is supported: v1.DRAPlugin or v1beta1.DRAPlugin is wanted",
            info.supported_versions
        )
    })
}

impl Registry {
    /// Watches until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            let watch = match Inotify::of(&self.dir, CHANGES) {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::error!(dir = %self.dir.display(), %error, "drivers of devices cannot register: the directory cannot be watched");
                    return;
                }
            };
            tokio::join!(self.wipe_forgotten(), self.follow(&watch));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn follow(&self, watch: &Inotify) {
        let mut known: BTreeMap<PathBuf, (u64, AbortOnDropHandle<()>)> = BTreeMap::new();
        loop {
            let now = sockets(&self.dir);
            let gone: Vec<PathBuf> =
                known.iter().filter(|(path, (ino, _))| now.get(*path) != Some(ino)).map(|(p, _)| p.clone()).collect();
            for path in gone {
                known.remove(&path);
                if let Some(name) = self.drivers.remove(&path) {
                    tracing::info!(driver = name, "a driver of devices is gone");
                    let me = self.clone();
                    tokio::spawn(async move { me.wipe_later(&name).await });
                }
            }
            for (path, ino) in now {
                known.entry(path.clone()).or_insert_with(|| {
                    let me = self.clone();
                    (ino, AbortOnDropHandle::new(tokio::spawn(async move { me.attend(&path).await })))
                });
            }
            if watch.changed().await.is_err() {
                return;
            }
        }
    }

    /// Registers whoever is behind a socket, then watches over its connection.
    async fn attend(&self, path: &Path) {
        let mut wait = RETRY;
        let (name, endpoint) = loop {
            match self.register(path).await {
                Ok(Some(registered)) => break registered,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(socket = %path.display(), error, "a plug-in does not answer yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        };
        let mut away = None;
        loop {
            match connected(&endpoint).await {
                Ok(()) => {
                    away = None;
                    wait = RETRY;
                }
                Err(_) => {
                    let since = *away.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() >= PATIENCE {
                        self.wipe(&name).await;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(PATIENCE);
                }
            }
        }
    }

    /// Asks who it is and takes it in. `None` when it was refused, which it was told.
    async fn register(&self, path: &Path) -> Result<Option<(String, PathBuf)>, String> {
        let client = Client::new(path)?;
        let info = client.info().await?;
        let service = match judge(&info) {
            Ok(service) => service,
            Err(why) => {
                tracing::warn!(socket = %path.display(), why, "a plug-in is refused");
                client.registered(Err(&why)).await?;
                return Ok(None);
            }
        };
        let endpoint = if info.endpoint.is_empty() { path.to_owned() } else { PathBuf::from(&info.endpoint) };
        let driver = Driver {
            registered_by: path.to_owned(),
            client: Client::new(&endpoint)?,
            endpoint: endpoint.clone(),
            service,
        };
        self.drivers.add(&info.name, driver);
        tracing::info!(driver = info.name, endpoint = %endpoint.display(), "a driver of devices registered");
        if let Err(error) = client.registered(Ok(())).await {
            self.drivers.remove(path);
            return Err(error);
        }
        Ok(Some((info.name, endpoint)))
    }

    async fn wipe_later(&self, name: &str) {
        tokio::time::sleep(PATIENCE).await;
        if self.drivers.get(name).is_none() {
            self.wipe(name).await;
        }
    }

    /// Slices of drivers that went while nobody watched.
    async fn wipe_forgotten(&self) {
        tokio::time::sleep(PATIENCE).await;
        let api: Api<ResourceSlice> = Api::all(self.client.clone());
        let mine = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        let mut wait = RETRY;
        loop {
            match api.list(&mine).await {
                Ok(slices) => {
                    let registered = self.drivers.names();
                    let mut drivers: Vec<String> = slices.items.into_iter().map(|s| s.spec.driver).collect();
                    drivers.sort();
                    drivers.dedup();
                    for name in drivers.iter().filter(|d| !registered.contains(d)) {
                        self.wipe(name).await;
                    }
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot look for slices of drivers that are gone yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Removes what a driver told of this node's devices.
    async fn wipe(&self, name: &str) {
        let api: Api<ResourceSlice> = Api::all(self.client.clone());
        let fields = format!("spec.nodeName={},spec.driver={name}", self.node);
        let which = ListParams::default().fields(&fields);
        if let Err(error) = api.delete_collection(&DeleteParams::default(), &which).await {
            tracing::warn!(driver = name, %error, "cannot remove the slices of a driver that is gone");
        }
    }
}

/// Connects and waits until the connection ends.
async fn connected(endpoint: &Path) -> Result<(), String> {
    let stream = UnixStream::connect(endpoint).await.map_err(|e| e.to_string())?;
    let (_sender, connection) = hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .map_err(|e| e.to_string())?;
    let _ = connection.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_may_register() {
        let of = |kind: &str, name: &str, version: &str| {
            judge(&PluginInfo {
                kind: kind.into(),
                name: name.into(),
                endpoint: String::new(),
                supported_versions: vec![version.into()],
            })
        };
        assert_eq!(of("DRAPlugin", "gpu.example.com", "v1.DRAPlugin"), Ok(Service::V1));
        assert!(of("CSIPlugin", "csi.example.com", "1.0.0").unwrap_err().contains("not supported by this node"));
        assert!(of("DRAPlugin", "Gpu/x", "v1.DRAPlugin").unwrap_err().contains("DNS subdomain"));
        assert!(of("DRAPlugin", "gpu.example.com", "v1alpha3.Node").unwrap_err().contains("v1.DRAPlugin"));
    }

    #[tokio::test]
    async fn only_sockets_count_and_a_new_one_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Inotify::of(dir.path(), CHANGES).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let path = dir.path().join("d.sock");
        let first = tokio::net::UnixListener::bind(&path).unwrap();
        watch.changed().await.unwrap();
        let before = sockets(dir.path());
        assert_eq!(before.keys().collect::<Vec<_>>(), [&path]);
        // Kept under another name, so that its number is not given to the next.
        std::fs::rename(&path, dir.path().join(".old")).unwrap();
        let _second = tokio::net::UnixListener::bind(&path).unwrap();
        assert_ne!(sockets(dir.path())[&path], before[&path]);
        drop(first);
    }
}
