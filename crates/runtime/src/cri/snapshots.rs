//! Images as read-only file systems, through containerd's snapshot service: CRI v1 of containerd 1.x cannot mount an
//! image into a container.
//!
//! A view of the image's topmost layer is made under a key of the caller's and mounted by this process. The view is a
//! root of containerd's garbage collection, so the layers stay while it lasts even if the image's name is removed.

use std::collections::HashMap;
use std::path::Path;

use http::uri::PathAndQuery;
use nix::mount::{MsFlags, mount};
use tonic::metadata::MetadataValue;

use super::client::{Cri, from_status};
use crate::{Error, Result};

const NAMESPACE: &str = "k8s.io";
const SNAPSHOTTER: &str = "overlayfs";
/// Marks what garbage collection must leave.
const ROOT: &str = "containerd.io/gc.root";

/// Mounts the layers up to `chain` (the image's chain id) at `target`, under `key`.
pub(super) async fn mount_view(cri: &Cri, chain: &str, key: &str, target: &Path) -> Result<()> {
    let request = ViewRequest {
        snapshotter: SNAPSHOTTER.into(),
        key: key.into(),
        parent: chain.into(),
        labels: HashMap::from([(ROOT.to_owned(), "caravel".to_owned())]),
    };
    let mounts = match unary::<_, MountsResponse>(cri, "View", request).await {
        Err(Error::AlreadyExists(_)) => {
            let request = KeyRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
            unary::<_, MountsResponse>(cri, "Mounts", request).await?
        }
        other => other?,
    };
    let [only] = &mounts.mounts[..] else {
        return Err(Error::Host(format!("the view {key} has {} mounts, and one was expected", mounts.mounts.len())));
    };
    let (only, target) = (only.clone(), target.to_path_buf());
    tokio::task::spawn_blocking(move || one(&only, &target))
        .await
        .map_err(|e| Error::Host(format!("mounting an image was broken off: {e}")))?
}

/// Forgets the view, which must not be mounted any more.
pub(super) async fn remove_view(cri: &Cri, key: &str) -> Result<()> {
    let request = KeyRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
    match unary::<_, Empty>(cri, "Remove", request).await {
        Err(Error::NotFound(_)) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// One layer is a bind, several are an overlay of lower directories.
fn one(m: &Mount, target: &Path) -> Result<()> {
    let failed = |e: nix::Error| Error::io(format!("mounting an image at {}", target.display()), e.into());
    let source = Some(m.source.as_str());
    if m.kind == "bind" {
        mount(source, target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).map_err(failed)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        return mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(failed);
    }
    let data: Vec<&str> = m.options.iter().map(String::as_str).filter(|o| !matches!(*o, "ro" | "rw")).collect();
    mount(source, target, Some(m.kind.as_str()), MsFlags::MS_RDONLY, Some(data.join(",").as_str())).map_err(failed)
}

async fn unary<Q, A>(cri: &Cri, verb: &'static str, message: Q) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(cri.channel());
    grpc.ready().await.map_err(|e| Error::Unavailable(e.to_string()))?;
    let path = PathAndQuery::try_from(format!("/containerd.services.snapshots.v1.Snapshots/{verb}"))
        .map_err(|e| Error::Host(e.to_string()))?;
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    let answer = grpc.unary(request, path, tonic_prost::ProstCodec::<Q, A>::default()).await;
    answer.map(tonic::Response::into_inner).map_err(|status| from_status(verb, status))
}

#[derive(Clone, PartialEq, prost::Message)]
struct ViewRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MountsResponse {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    target: String,
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}
