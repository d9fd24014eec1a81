//! Puts images into containerd through its content and images services.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::bundle::{Blob, Bundle};
use super::reference::normalize;
use super::wire::*;
use crate::cri::Cri;
use crate::{Error, Result, Runtime};

/// The label of images that garbage collection leaves; containerd 1.7 and later read it themselves.
pub const PINNED: &str = "io.cri-containerd.pinned";

/// containerd's namespace of CRI.
const NAMESPACE: &str = "k8s.io";
/// Bytes sent at once; containerd's limit is 16 MiB.
const CHUNK: usize = 1 << 20;
/// Chunks read ahead.
const AHEAD: usize = 4;
/// How long CRI may take to see a new image.
const SEEN: Duration = Duration::from_secs(10);

/// One name in the node's image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The name.
    pub name: String,
    /// The digest of its manifest or index.
    pub digest: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Stored {
    /// Whether garbage collection leaves it.
    pub fn pinned(&self) -> bool {
        self.labels.get(PINNED).is_some_and(|v| v == "pinned")
    }
}

/// The images of one containerd.
#[derive(Clone)]
pub struct Images {
    cri: Cri,
}

impl Images {
    /// Those behind this client.
    pub fn new(cri: Cri) -> Self {
        Images { cri }
    }

    /// Brings in the images of an archive (see [`archive::read`](super::archive::read)), pinned; returns their names.
    pub async fn import(&self, path: impl Into<PathBuf>, name: Option<String>) -> Result<Vec<String>> {
        let path = path.into();
        let read = tokio::task::spawn_blocking(move || super::archive::read(&path, name.as_deref()));
        let bundles = read.await.map_err(|e| Error::Host(format!("reading the archive was broken off: {e}")))??;
        let mut names = Vec::new();
        for bundle in &bundles {
            self.put(bundle, true).await?;
            names.extend(bundle.names.iter().cloned());
        }
        Ok(names)
    }

    /// Brings in one image; returns when CRI sees all its names. A name that exists moves to the new image.
    pub async fn put(&self, bundle: &Bundle, pinned: bool) -> Result<()> {
        let lease = format!("caravel-{}", uuid::Uuid::new_v4());
        // What a crash leaves behind goes with the lease.
        let labels = HashMap::from([("containerd.io/gc.expire".to_string(), in_a_day())]);
        let create = CreateLease { id: lease.clone(), labels };
        self.unary::<_, CreateLeaseAnswer>("/containerd.services.leases.v1.Leases/Create", create, None).await?;
        let result = self.put_leased(bundle, pinned, &lease).await;
        let delete = DeleteLease { id: lease, sync: false };
        let _ = self.unary::<_, Empty>("/containerd.services.leases.v1.Leases/Delete", delete, None).await;
        result?;
        for name in &bundle.names {
            self.wait_seen(name).await?;
        }
        Ok(())
    }

    async fn put_leased(&self, bundle: &Bundle, pinned: bool, lease: &str) -> Result<()> {
        for blob in &bundle.blobs {
            self.write(blob, lease).await?;
        }
        for name in &bundle.names {
            self.name(name, bundle, pinned).await?;
        }
        Ok(())
    }

    /// All names.
    pub async fn list(&self) -> Result<Vec<Stored>> {
        let r: ListImagesAnswer =
            self.unary("/containerd.services.images.v1.Images/List", ListImages::default(), None).await?;
        Ok(r.images
            .into_iter()
            .map(|i| Stored {
                name: i.name,
                digest: i.target.unwrap_or_default().digest,
                labels: i.labels.into_iter().collect(),
            })
            .collect())
    }

    /// Removes one name; its content goes when no other name needs it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let request = DeleteImage { name: normalize(name)?, sync: true };
        self.unary::<_, Empty>("/containerd.services.images.v1.Images/Delete", request, None).await?;
        Ok(())
    }

    async fn name(&self, name: &str, bundle: &Bundle, pinned: bool) -> Result<()> {
        let mut labels = HashMap::from([("io.cri-containerd.image".to_string(), "managed".to_string())]);
        if pinned {
            labels.insert(PINNED.into(), "pinned".into());
        }
        let target = Descriptor {
            media_type: bundle.target.media_type.clone(),
            digest: bundle.target.digest.clone(),
            size: i64::try_from(bundle.target.size).unwrap_or(i64::MAX),
        };
        let image = Image { name: name.into(), labels, target: Some(target) };
        let create = CreateImage { image: Some(image.clone()) };
        match self.unary::<_, ImageAnswer>("/containerd.services.images.v1.Images/Create", create, None).await {
            Err(Error::AlreadyExists(_)) => {
                let update = UpdateImage { image: Some(image), update_mask: None };
                self.unary::<_, ImageAnswer>("/containerd.services.images.v1.Images/Update", update, None).await?;
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// CRI learns of images from containerd's events.
    async fn wait_seen(&self, name: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + SEEN;
        let mut pause = Duration::from_millis(2);
        loop {
            if self.cri.image_status(name).await?.is_some() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::DeadlineExceeded(format!(
                    "the runtime does not see the image {name} after {SEEN:?}"
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    async fn write(&self, blob: &Blob, lease: &str) -> Result<()> {
        match self.write_new(blob, lease).await {
            Err(Error::AlreadyExists(_)) => self.relabel(blob, lease).await,
            other => other,
        }
    }

    /// A blob that is there keeps its bytes but must hold on to what it needs.
    async fn relabel(&self, blob: &Blob, lease: &str) -> Result<()> {
        if blob.labels.is_empty() {
            return Ok(());
        }
        let info = ContentInfo {
            digest: blob.descriptor.digest.clone(),
            labels: blob.labels.clone().into_iter().collect(),
            ..Default::default()
        };
        let paths = blob.labels.keys().map(|key| format!("labels.{key}")).collect();
        let update = UpdateContent { info: Some(info), update_mask: Some(FieldMask { paths }) };
        self.unary::<_, UpdateContentAnswer>("/containerd.services.content.v1.Content/Update", update, Some(lease))
            .await?;
        Ok(())
    }

    async fn write_new(&self, blob: &Blob, lease: &str) -> Result<()> {
        let (sender, receiver) = tokio::sync::mpsc::channel::<WriteContent>(AHEAD);
        let source = blob.clone();
        let reader = tokio::task::spawn_blocking(move || send(&source, &sender));
        let messages = futures::stream::unfold(receiver, |mut receiver| async {
            let message = receiver.recv().await?;
            Some((message, receiver))
        });
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Write");
        let codec = tonic_prost::ProstCodec::<WriteContent, WriteContentAnswer>::default();
        let mut grpc = tonic::client::Grpc::new(self.cri.channel());
        grpc.ready().await.map_err(|e| Error::Unavailable(e.to_string()))?;
        let written = async {
            let mut answers = grpc.streaming(request(messages, Some(lease)), path, codec).await?.into_inner();
            let mut committed = false;
            while let Some(answer) = answers.message().await? {
                committed |= answer.action == action::COMMIT;
            }
            Ok::<bool, Status>(committed)
        }
        .await;
        let read = reader.await.map_err(|e| Error::Host(format!("reading a blob was broken off: {e}")))?;
        match written {
            Ok(true) => Ok(()),
            Ok(false) => {
                read?;
                Err(Error::Runtime(format!("containerd did not take the blob {}", blob.descriptor.digest)))
            }
            Err(status) if status.code() == Code::AlreadyExists => Err(Error::AlreadyExists(status.message().into())),
            Err(status) => Err(crate::cri::from_status("Write", status)),
        }
    }

    async fn unary<Q, A>(&self, path: &'static str, message: Q, lease: Option<&str>) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.cri.channel()).max_decoding_message_size(64 << 20);
        grpc.ready().await.map_err(|e| Error::Unavailable(e.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answer = grpc.unary(request(message, lease), PathAndQuery::from_static(path), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| crate::cri::from_status(path, status))
    }
}

/// Sends a blob in chunks, then commits it. Ends early when containerd no longer listens (it may have the blob).
fn send(blob: &Blob, to: &tokio::sync::mpsc::Sender<WriteContent>) -> Result<()> {
    let total = i64::try_from(blob.descriptor.size).unwrap_or(i64::MAX);
    let message = |action, offset, data| WriteContent {
        action,
        reference: format!("caravel-{}", blob.descriptor.digest),
        total,
        expected: blob.descriptor.digest.clone(),
        offset,
        data,
        labels: if action == action::COMMIT { blob.labels.clone().into_iter().collect() } else { HashMap::new() },
    };
    let mut reader = blob.data.open()?;
    let mut offset = 0i64;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK.min(usize::try_from(total).unwrap_or(CHUNK)));
        let n = reader
            .by_ref()
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .map_err(|e| Error::io(format!("reading the blob {}", blob.descriptor.digest), e))?;
        if n == 0 {
            let _ = to.blocking_send(message(action::COMMIT, offset, bytes::Bytes::new()));
            return Ok(());
        }
        if to.blocking_send(message(action::WRITE, offset, chunk.into())).is_err() {
            return Ok(());
        }
        offset += n as i64;
    }
}

fn request<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|l| MetadataValue::try_from(l).ok()) {
        request.metadata_mut().insert("containerd-lease", lease);
    }
    request
}

/// A day from now in RFC 3339.
fn in_a_day() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    rfc3339(now.as_secs() + 24 * 3600)
}

/// Seconds since the epoch as RFC 3339 in UTC (days to a date by the civil calendar's 400-year cycle).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
