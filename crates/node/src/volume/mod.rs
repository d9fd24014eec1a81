//! Volumes: what a Pod's containers find mounted.
//!
//! ```text
//! <pod dir>/volumes/kubernetes.io~<kind>/<volume>             what is made for the Pod
//! <pod dir>/volume-subpaths/<volume>/<container>/<index>      binds of parts of volumes
//! <pod dir>/volume-read-only/<volume>/<container>/<index>     binds that are read-only with all below them
//! ```
//!
//! [`Volumes::setup`] may be called at any time, and is, whenever something a volume is made from may have changed: it
//! does what is left to do. [`Volumes::teardown`] needs no memory either: it unmounts what it finds below the Pod's
//! directory.

pub mod atomic;
mod claim;
mod host_path;
pub mod images;
pub mod mounts;
mod ownership;
mod payload;
mod subpath;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume, VolumeMount};

use crate::container::env::{self, Objects};
use crate::container::expand::expand;
use crate::container::fields::Surroundings;
use crate::objects::{self, ObjectRef, Watches};
use crate::pod::spec;
use crate::quantity;
use atomic::Files;

/// A volume on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVolume {
    /// Where it is.
    pub path: PathBuf,
    /// Its nature forbids writing.
    pub read_only: bool,
}

/// A Pod's volumes by name.
pub type Mounted = BTreeMap<String, HostVolume>;

/// What [`Volumes::setup`] did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The volumes.
    pub mounted: Mounted,
    /// When to call again though nothing changed (a token is to be renewed), ns.
    pub renew_at: Option<i64>,
}

/// Why a volume is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub struct MountError {
    /// The volume's name.
    pub volume: String,
    /// What is wrong.
    pub message: String,
}

/// The volumes of all Pods of the node.
pub struct Volumes {
    client: kube::Client,
    runtime: Arc<dyn rt::Runtime>,
    watches: Watches,
    tokens: token::Tokens,
}

/// What is to be done on the host for one volume.
#[derive(Debug)]
enum Task {
    Files { dir: PathBuf, files: Files, tmpfs: bool },
    EmptyDir { dir: PathBuf, tmpfs: bool, size: Option<u64> },
    Host { path: PathBuf, type_: String, owned: bool },
}

impl Volumes {
    /// Tells `watches` which objects Pods refer to.
    pub fn new(client: kube::Client, runtime: Arc<dyn rt::Runtime>, watches: Watches) -> Self {
        Volumes { tokens: token::Tokens::new(client.clone()), client, runtime, watches }
    }

    /// Brings all volumes of the Pod up to date.
    pub async fn setup(&self, pod: &Arc<Pod>, pod_dir: &Path, around: &Surroundings) -> Result<Outcome, MountError> {
        let Some(pod_spec) = &pod.spec else { return Ok(Outcome::default()) };
        let uid = spec::uid(pod);
        let volumes = pod_spec.volumes.as_deref().unwrap_or_default();
        self.watches.set(uid, references(pod, pod_spec));
        let objects = self.read(pod, volumes).await?;
        let mut outcome = Outcome::default();
        let mut tasks = Vec::new();
        let fs_group = pod_spec.security_context.as_ref().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
        for v in volumes {
            // Images are fetched and mounted when a container that wants them starts.
            if v.image.is_some() {
                continue;
            }
            let fail = |message: String| MountError { volume: v.name.clone(), message };
            let tokens = self.tokens_of(pod, v, &mut outcome.renew_at).await.map_err(fail)?;
            let given = payload::Given {
                pod,
                around,
                objects: &objects,
                tokens: &tokens,
                token_uid: common_uid(pod_spec),
                fs_group: fs_group.is_some(),
            };
            let task = match payload::files(&given, v).map_err(fail)? {
                Some(files) => {
                    Task::Files { dir: dir(pod_dir, kind(v), &v.name), files, tmpfs: v.config_map.is_none() }
                }
                None => self.task(pod, pod_spec, v, pod_dir).await.map_err(fail)?,
            };
            tasks.push((v.name.clone(), task));
        }
        let on_mismatch = pod_spec.security_context.as_ref().and_then(|s| s.fs_group_change_policy.as_deref())
            == Some("OnRootMismatch");
        let done = tokio::task::spawn_blocking(move || perform(tasks, fs_group, on_mismatch)).await;
        outcome.mounted = done.map_err(|e| MountError { volume: String::new(), message: e.to_string() })??;
        Ok(outcome)
    }

    async fn read(&self, pod: &Pod, volumes: &[Volume]) -> Result<Objects, MountError> {
        let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        for v in volumes {
            let (m, s) = payload::references(v);
            maps.extend(m);
            secrets.extend(s);
        }
        objects::read(&self.client, spec::namespace(pod), maps, secrets).await.map_err(|message| MountError {
            volume: volumes.first().map(|v| v.name.clone()).unwrap_or_default(),
            message,
        })
    }

    async fn tokens_of(
        &self,
        pod: &Pod,
        v: &Volume,
        renew_at: &mut Option<i64>,
    ) -> Result<BTreeMap<String, String>, String> {
        let mut tokens = BTreeMap::new();
        for p in
            v.projected.iter().flat_map(|p| p.sources.iter().flatten()).filter_map(|s| s.service_account_token.as_ref())
        {
            let (token, renew) = self.tokens.get(pod, &v.name, p).await?;
            tokens.insert(p.path.clone(), token);
            *renew_at = Some(renew_at.map_or(renew, |r| r.min(renew)));
        }
        Ok(tokens)
    }

    async fn task(&self, pod: &Pod, pod_spec: &PodSpec, v: &Volume, pod_dir: &Path) -> Result<Task, String> {
        if let Some(e) = &v.empty_dir {
            let tmpfs = match e.medium.as_deref().unwrap_or_default() {
                "" => false,
                "Memory" => true,
                other => {
                    return Err(format!(
                        "emptyDir medium {other} is not supported by this node (it supports the default and Memory)"
                    ));
                }
            };
            let limit = e.size_limit.as_ref().map(quantity::value).filter(|s| *s > 0);
            let memory = crate::cgroup::limits::of_pod(pod_spec).memory;
            let size = [limit, memory].into_iter().flatten().min().and_then(|s| u64::try_from(s).ok());
            return Ok(Task::EmptyDir { dir: dir(pod_dir, "empty-dir", &v.name), tmpfs, size });
        }
        if let Some(h) = &v.host_path {
            return Ok(Task::Host {
                path: h.path.clone().into(),
                type_: h.type_.clone().unwrap_or_default(),
                owned: false,
            });
        }
        if let Some(name) = claim::claim_name(pod, v) {
            let c = claim::resolve(&self.client, pod, v, &name).await?;
            return Ok(Task::Host { path: c.path, type_: c.host_path_type.unwrap_or_default(), owned: c.owned });
        }
        Err("this node cannot mount volumes of this type (it can: emptyDir, hostPath, configMap, secret, downwardAPI, projected, image, persistentVolumeClaim, ephemeral)".into())
    }

    /// Unmounts and removes all that was made for the Pod.
    pub async fn teardown(&self, uid: &str, pod_dir: PathBuf) -> io::Result<()> {
        self.watches.set(uid, BTreeSet::new());
        self.tokens.forget(uid);
        let images = images::of_pod(&pod_dir);
        let unmounted = pod_dir.clone();
        tokio::task::spawn_blocking(move || unmount(&unmounted)).await.map_err(io::Error::other)??;
        images::give_back(self.runtime.as_ref(), uid, &images).await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(move || remove(&pod_dir)).await.map_err(io::Error::other)?
    }
}

/// Unmounts all below a Pod's directory.
fn unmount(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    mounts::unmount_below(pod_dir)?;
    match mounts::below(pod_dir)?.first() {
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

/// Removes the volumes of a Pod of which nothing is mounted any more: a volume that cannot be unmounted is never
/// descended into, so that nothing of the host is removed.
fn remove(pod_dir: &Path) -> io::Result<()> {
    for part in ["volumes", "volume-subpaths", "volume-read-only"] {
        match fs::remove_dir_all(pod_dir.join(part)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Every config map and secret a Pod refers to, for watching.
fn references(pod: &Pod, pod_spec: &PodSpec) -> BTreeSet<ObjectRef> {
    let ns = spec::namespace(pod);
    let mut all = BTreeSet::new();
    let mut add = |(maps, secrets): (Vec<String>, Vec<String>)| {
        all.extend(maps.into_iter().map(|n| ObjectRef::config_map(ns, &n)));
        all.extend(secrets.into_iter().map(|n| ObjectRef::secret(ns, &n)));
    };
    pod_spec.volumes.iter().flatten().for_each(|v| add(payload::references(v)));
    spec::members(pod_spec).iter().for_each(|m| add(env::references(&m.container)));
    all
}

fn kind(v: &Volume) -> &'static str {
    if v.config_map.is_some() {
        "configmap"
    } else if v.secret.is_some() {
        "secret"
    } else if v.downward_api.is_some() {
        "downward-api"
    } else {
        "projected"
    }
}

fn dir(pod_dir: &Path, kind: &str, name: &str) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

/// The user that all containers run as, if it is one and the same.
fn common_uid(pod: &PodSpec) -> Option<u32> {
    let shared = pod.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut all = spec::members(pod)
        .into_iter()
        .map(|m| m.container.security_context.as_ref().and_then(|s| s.run_as_user).or(shared));
    let first = all.next()??;
    all.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn perform(tasks: Vec<(String, Task)>, gid: Option<u32>, on_mismatch: bool) -> Result<Mounted, MountError> {
    let mut mounted = Mounted::new();
    for (name, task) in tasks {
        let volume = one(task, gid, on_mismatch).map_err(|message| MountError { volume: name.clone(), message })?;
        mounted.insert(name, volume);
    }
    Ok(mounted)
}

fn one(task: Task, gid: Option<u32>, on_mismatch: bool) -> Result<HostVolume, String> {
    let text = |e: io::Error| e.to_string();
    match task {
        Task::Files { dir, files, tmpfs } => {
            fs::create_dir_all(&dir).map_err(text)?;
            if tmpfs {
                mounts::tmpfs(&dir, None).map_err(text)?;
            }
            if gid.is_some() {
                std::os::unix::fs::chown(&dir, None, gid).map_err(text)?;
            }
            fs::set_permissions(&dir, fs::Permissions::from_mode(if gid.is_some() { 0o3777 } else { 0o1777 }))
                .map_err(text)?;
            atomic::write(&dir, &files, gid).map_err(text)?;
            Ok(HostVolume { path: dir, read_only: true })
        }
        Task::EmptyDir { dir, tmpfs, size } => {
            let fresh = if tmpfs { !mounts::is_mounted(&dir).map_err(text)? } else { !dir.exists() };
            if fresh {
                fs::create_dir_all(&dir).map_err(text)?;
                if tmpfs {
                    mounts::tmpfs(&dir, size).map_err(text)?;
                }
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(text)?;
                if let Some(gid) = gid {
                    ownership::apply(&dir, gid, on_mismatch).map_err(text)?;
                }
            }
            Ok(HostVolume { path: dir, read_only: false })
        }
        Task::Host { path, type_, owned } => {
            host_path::prepare(&path, &type_)?;
            if let Some(gid) = gid.filter(|_| owned) {
                // Repeated calls must not walk a big tree again.
                ownership::apply(&path, gid, true).map_err(text)?;
            }
            Ok(HostVolume { path, read_only: false })
        }
    }
}

/// Whether a mount and all mounts below it are to be read-only (KEP-3857). The runtime makes only the topmost one so;
/// the node does the rest on a bind of its own, so `IfPossible` always is.
pub fn recursively_read_only(m: &VolumeMount) -> bool {
    m.read_only == Some(true) && matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// The mounts of one container. Parts of volumes are bound here. The error is a `CreateContainerConfigError`.
pub fn container_mounts(
    c: &Container,
    mounted: &Mounted,
    pod_dir: &Path,
    env: &[(String, String)],
) -> Result<Vec<rt::Mount>, String> {
    let mut out = Vec::new();
    if let Some(d) = c.volume_devices.iter().flatten().next() {
        return Err(format!("volumeDevices ({}) are not supported by this node", d.name));
    }
    for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
        let volume = mounted.get(&m.name).ok_or_else(|| format!("volume \"{}\" is not mounted", m.name))?;
        let get = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        let sub = match (&m.sub_path_expr, &m.sub_path) {
            (Some(e), _) if !e.is_empty() => expand(e, &get),
            (_, s) => s.clone().unwrap_or_default(),
        };
        if m.sub_path_expr.as_ref().is_some_and(|e| !e.is_empty()) {
            let bad = sub.starts_with('/') || sub.split('/').any(|p| p == "..") || sub.contains("$(");
            if bad {
                return Err(format!(
                    "subPathExpr of volume mount {} expands to {sub:?}, which must be a relative path of known variables",
                    m.mount_path
                ));
            }
        }
        let host = if sub.is_empty() {
            volume.path.clone()
        } else {
            let target = pod_dir.join("volume-subpaths").join(&m.name).join(&c.name).join(i.to_string());
            subpath::bind(&volume.path, &sub, &target).map_err(|e| {
                format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}", m.name, c.name)
            })?
        };
        let read_only = m.read_only.unwrap_or(false);
        let host = if recursively_read_only(m) {
            let target = pod_dir.join("volume-read-only").join(&m.name).join(&c.name).join(i.to_string());
            mounts::bind_read_only(&host, &target)
                .map_err(|e| format!("volume \"{}\" cannot be made read-only with all below it: {e}", m.name))?;
            target
        } else {
            host
        };
        let path = if m.mount_path.starts_with('/') { m.mount_path.clone() } else { format!("/{}", m.mount_path) };
        out.push(rt::Mount {
            container_path: path,
            host_path: host.to_string_lossy().into_owned(),
            readonly: read_only || volume.read_only,
            recursive_readonly: false,
            propagation: match m.mount_propagation.as_deref() {
                Some("HostToContainer") => rt::MountPropagation::HostToContainer,
                Some("Bidirectional") => rt::MountPropagation::Bidirectional,
                _ => rt::MountPropagation::Private,
            },
            selinux_relabel: false,
        });
    }
    Ok(out)
}
