//! Volumes that are images (KEP-4639): fetched like a container's own image when a container that mounts one starts, and
//! mounted read-only below the Pod's directory.

use std::fs;
use std::sync::Arc;

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

use super::Worker;
use crate::image::{self, Failure};
use crate::pod::observed::Observed;
use crate::pod::spec;
use crate::pod::status::Hindrance;
use crate::shared::About;
use crate::time::now_ns;
use crate::volume::{HostVolume, images, mounts};

/// When to try again after a mount failed, ns.
const RETRY: i64 = 5_000_000_000;

impl Worker {
    /// Brings the image volumes that a container mounts to where its mounts are made from.
    pub(super) async fn image_volumes(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        c: &Container,
        about: &About,
    ) -> Result<(), Failure> {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        for v in volumes {
            let Some(source) = &v.image else { continue };
            if !c.volume_mounts.iter().flatten().any(|m| m.name == v.name) {
                continue;
            }
            if self.volumes.as_ref().is_some_and(|o| o.mounted.contains_key(&v.name)) {
                continue;
            }
            let volume = self.image_volume(pod, observed, &v.name, source, about).await?;
            if let Some(o) = &mut self.volumes {
                o.mounted.insert(v.name.clone(), volume);
            }
        }
        Ok(())
    }

    async fn image_volume(
        &self,
        pod: &Arc<Pod>,
        observed: &Observed,
        name: &str,
        source: &ImageVolumeSource,
        about: &About,
    ) -> Result<HostVolume, Failure> {
        let dir = images::dir(&self.shared.config.pod_dir(&self.uid), name);
        let volume = HostVolume { path: dir.clone(), read_only: true };
        if mounts::is_mounted(&dir).unwrap_or(false) {
            return Ok(volume);
        }
        let named = (source.reference.as_deref().unwrap_or_default(), source.pull_policy.as_deref());
        let image = image::ensure(&self.shared, pod, named, about, &self.handle.ending).await?;
        let failed = |e: String| Failure {
            hindrance: Hindrance {
                reason: "ImageVolumeMountFailed".into(),
                message: format!("cannot mount the image {} of volume \"{name}\": {e}", named.0),
            },
            retry_at: Some(now_ns() + RETRY),
        };
        fs::create_dir_all(&dir).map_err(|e| failed(e.to_string()))?;
        let key = images::key(&self.uid, name);
        let mut mounted = self.shared.runtime.mount_image(&image.id, &key, &dir).await;
        if matches!(&mounted, Err(e) if e.is_not_found()) {
            self.unpack(pod, observed, &image).await.map_err(failed)?;
            mounted = self.shared.runtime.mount_image(&image.id, &key, &dir).await;
        }
        mounted.map_err(|e| failed(e.detail()))?;
        Ok(volume)
    }

    /// An image that was imported is unpacked when a first container is made from it: one is made and removed.
    async fn unpack(&self, pod: &Pod, observed: &Observed, image: &rt::Image) -> Result<(), String> {
        let sandbox = observed.ready_sandbox().ok_or("the pod's sandbox is gone")?;
        let config = rt::ContainerConfig {
            name: format!("unpack-{:08x}", rand::random::<u32>()),
            image: image.id.clone(),
            command: vec!["/none".into()],
            ..Default::default()
        };
        let around = self.sandbox_config(pod, sandbox.attempt)?;
        let runtime = &self.shared.runtime;
        let id = runtime.create_container(&sandbox.id, &config, &around).await.map_err(|e| e.detail())?;
        tracing::debug!(pod = spec::full_name(pod), image = image.id, "an image was unpacked for a volume");
        runtime.remove_container(&id).await.map_err(|e| e.detail())
    }
}
