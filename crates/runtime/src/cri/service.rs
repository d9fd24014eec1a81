//! The trait's verbs as CRI calls.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use k8s_cri::v1 as wire;

use super::client::{CALL, Cri, call, from_status};
use super::{events, from_wire, snapshots, to_wire};
use crate::types::*;
use crate::{Error, Fut, Runtime};

/// A pull may take long; progress is the runtime's to watch (containerd gives up on a stalled one by itself).
const PULL: Duration = Duration::from_secs(4 * 3600);

/// Making a sandbox includes its network.
const RUN_SANDBOX: Duration = Duration::from_secs(240);

/// For commands without a limit of their own.
const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Runtime for Cri {
    fn version(&self) -> Fut<'_, Version> {
        Box::pin(async move {
            let request = wire::VersionRequest { version: "v1".into() };
            let r = call("Version", CALL, self.runtime().version(request)).await?;
            Ok(Version {
                runtime_name: r.runtime_name,
                runtime_version: r.runtime_version,
                runtime_api_version: r.runtime_api_version,
            })
        })
    }

    fn status(&self) -> Fut<'_, RuntimeStatus> {
        Box::pin(async move {
            let request = wire::StatusRequest { verbose: false };
            Ok(from_wire::status(call("Status", CALL, self.runtime().status(request)).await?))
        })
    }

    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig, handler: &'a str) -> Fut<'a, String> {
        Box::pin(async move {
            let request = wire::RunPodSandboxRequest {
                config: Some(to_wire::sandbox_config(config)),
                runtime_handler: handler.to_string(),
            };
            let r = call("RunPodSandbox", RUN_SANDBOX, self.runtime().run_pod_sandbox(request)).await?;
            Ok(r.pod_sandbox_id)
        })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::StopPodSandboxRequest { pod_sandbox_id: id.to_string() };
            call("StopPodSandbox", CALL, self.runtime().stop_pod_sandbox(request)).await?;
            Ok(())
        })
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::RemovePodSandboxRequest { pod_sandbox_id: id.to_string() };
            call("RemovePodSandbox", CALL, self.runtime().remove_pod_sandbox(request)).await?;
            Ok(())
        })
    }

    fn sandbox_status<'a>(&'a self, id: &'a str) -> Fut<'a, SandboxStatus> {
        Box::pin(async move {
            let request = wire::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: false };
            let r = call("PodSandboxStatus", CALL, self.runtime().pod_sandbox_status(request)).await?;
            r.status.map(from_wire::sandbox_status).ok_or_else(|| no_status("sandbox", id))
        })
    }

    fn sandbox_pid<'a>(&'a self, id: &'a str) -> Fut<'a, Option<i32>> {
        Box::pin(async move {
            let request = wire::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: true };
            let r = call("PodSandboxStatus", CALL, self.runtime().pod_sandbox_status(request)).await?;
            Ok(pid_of(&r.info))
        })
    }

    fn list_sandboxes<'a>(&'a self, filter: &'a SandboxFilter) -> Fut<'a, Vec<Sandbox>> {
        Box::pin(async move {
            let request = wire::ListPodSandboxRequest { filter: Some(to_wire::sandbox_filter(filter)) };
            let r = call("ListPodSandbox", CALL, self.runtime().list_pod_sandbox(request)).await?;
            Ok(r.items.into_iter().map(from_wire::sandbox).collect())
        })
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        config: &'a ContainerConfig,
        sandbox_config: &'a SandboxConfig,
    ) -> Fut<'a, String> {
        Box::pin(async move {
            let request = wire::CreateContainerRequest {
                pod_sandbox_id: sandbox_id.to_string(),
                config: Some(to_wire::container_config(config)),
                sandbox_config: Some(to_wire::sandbox_config(sandbox_config)),
            };
            let r = call("CreateContainer", CALL, self.runtime().create_container(request)).await?;
            Ok(r.container_id)
        })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::StartContainerRequest { container_id: id.to_string() };
            call("StartContainer", CALL, self.runtime().start_container(request)).await?;
            Ok(())
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, timeout: Duration) -> Fut<'a, ()> {
        Box::pin(async move {
            // CRI counts in seconds and reads 0 as "kill at once": a shorter grace is not to become none.
            let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
            let request = wire::StopContainerRequest {
                container_id: id.to_string(),
                timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
            };
            let limit = CALL.saturating_add(timeout);
            match call("StopContainer", limit, self.runtime().stop_container(request)).await {
                Err(Error::NotFound(_)) => Ok(()),
                other => other.map(|_| ()),
            }
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::RemoveContainerRequest { container_id: id.to_string() };
            call("RemoveContainer", CALL, self.runtime().remove_container(request)).await?;
            Ok(())
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> Fut<'a, ContainerStatus> {
        Box::pin(async move {
            let request = wire::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
            let r = call("ContainerStatus", CALL, self.runtime().container_status(request)).await?;
            r.status.map(from_wire::container_status).ok_or_else(|| no_status("container", id))
        })
    }

    fn container_pid<'a>(&'a self, id: &'a str) -> Fut<'a, Option<i32>> {
        Box::pin(async move {
            let request = wire::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
            let r = call("ContainerStatus", CALL, self.runtime().container_status(request)).await?;
            Ok(pid_of(&r.info))
        })
    }

    fn list_containers<'a>(&'a self, filter: &'a ContainerFilter) -> Fut<'a, Vec<Container>> {
        Box::pin(async move {
            let request = wire::ListContainersRequest { filter: Some(to_wire::container_filter(filter)) };
            let r = call("ListContainers", CALL, self.runtime().list_containers(request)).await?;
            Ok(r.containers.into_iter().map(from_wire::container).collect())
        })
    }

    fn update_container_resources<'a>(&'a self, id: &'a str, resources: &'a LinuxResources) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::UpdateContainerResourcesRequest {
                container_id: id.to_string(),
                linux: Some(to_wire::resources(resources)),
                ..Default::default()
            };
            call("UpdateContainerResources", CALL, self.runtime().update_container_resources(request)).await?;
            Ok(())
        })
    }

    fn reopen_container_log<'a>(&'a self, id: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::ReopenContainerLogRequest { container_id: id.to_string() };
            call("ReopenContainerLog", CALL, self.runtime().reopen_container_log(request)).await?;
            Ok(())
        })
    }

    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], timeout: Option<Duration>) -> Fut<'a, ExecResult> {
        Box::pin(async move {
            // The runtime kills the command; our own limit only guards against a runtime that does not answer.
            let seconds = timeout.map_or(0, |t| (t.as_secs() + u64::from(t.subsec_nanos() > 0)).max(1));
            let request = wire::ExecSyncRequest {
                container_id: id.to_string(),
                cmd: command.to_vec(),
                timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
            };
            let limit = timeout.map_or(NO_LIMIT, |t| t.saturating_add(CALL));
            match self.exec_sync_call(request, limit).await {
                // containerd answers a timeout with code Unknown; a node must be able to tell it from a failure.
                Err(Error::Runtime(m)) if timeout.is_some() && m.contains("timeout") && m.contains("exceeded") => {
                    Err(Error::DeadlineExceeded(m))
                }
                other => other,
            }
        })
    }

    fn exec<'a>(&'a self, id: &'a str, command: &'a [String], streams: StreamOptions) -> Fut<'a, String> {
        Box::pin(async move {
            let request = wire::ExecRequest {
                container_id: id.to_string(),
                cmd: command.to_vec(),
                tty: streams.tty,
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr && !streams.tty,
            };
            Ok(call("Exec", CALL, self.runtime().exec(request)).await?.url)
        })
    }

    fn attach<'a>(&'a self, id: &'a str, streams: StreamOptions) -> Fut<'a, String> {
        Box::pin(async move {
            let request = wire::AttachRequest {
                container_id: id.to_string(),
                tty: streams.tty,
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr && !streams.tty,
            };
            Ok(call("Attach", CALL, self.runtime().attach(request)).await?.url)
        })
    }

    fn port_forward<'a>(&'a self, sandbox_id: &'a str, ports: &'a [u16]) -> Fut<'a, String> {
        Box::pin(async move {
            let request = wire::PortForwardRequest {
                pod_sandbox_id: sandbox_id.to_string(),
                port: ports.iter().map(|p| i32::from(*p)).collect(),
            };
            Ok(call("PortForward", CALL, self.runtime().port_forward(request)).await?.url)
        })
    }

    fn pull_image<'a>(&'a self, request: &'a PullRequest) -> Fut<'a, String> {
        Box::pin(async move {
            let mut image = to_wire::image_spec(&request.image);
            image.annotations = request.annotations.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let request = wire::PullImageRequest {
                image: Some(image),
                auth: request.auth.as_ref().map(to_wire::auth),
                sandbox_config: None,
            };
            Ok(call("PullImage", PULL, self.images().pull_image(request)).await?.image_ref)
        })
    }

    fn image_status<'a>(&'a self, image: &'a str) -> Fut<'a, Option<Image>> {
        Box::pin(async move {
            let request = wire::ImageStatusRequest { image: Some(to_wire::image_spec(image)), verbose: false };
            let r = call("ImageStatus", CALL, self.images().image_status(request)).await?;
            Ok(r.image.map(from_wire::image))
        })
    }

    fn list_images(&self) -> Fut<'_, Vec<Image>> {
        Box::pin(async move {
            let r = call("ListImages", CALL, self.images().list_images(wire::ListImagesRequest::default())).await?;
            let mut images: Vec<Image> = r.images.into_iter().map(from_wire::image).collect();
            if self.containerd {
                mark_pinned(&mut images, &crate::images::Images::new(self.clone()).list().await?);
            }
            Ok(images)
        })
    }

    fn remove_image<'a>(&'a self, image: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let request = wire::RemoveImageRequest { image: Some(to_wire::image_spec(image)) };
            call("RemoveImage", CALL, self.images().remove_image(request)).await?;
            Ok(())
        })
    }

    fn image_fs_info(&self) -> Fut<'_, ImageFsInfo> {
        Box::pin(async move {
            let r = call("ImageFsInfo", CALL, self.images().image_fs_info(wire::ImageFsInfoRequest {})).await?;
            Ok(from_wire::image_fs_info(r))
        })
    }

    fn mount_image<'a>(&'a self, image: &'a str, key: &'a str, target: &'a Path) -> Fut<'a, ()> {
        Box::pin(async move {
            if !self.containerd {
                return Err(Error::Unimplemented("mounting images is known of containerd only".into()));
            }
            let request = wire::ImageStatusRequest { image: Some(to_wire::image_spec(image)), verbose: true };
            let r = call("ImageStatus", CALL, self.images().image_status(request)).await?;
            let chain = chain_of(&r.info).ok_or_else(|| Error::NotFound(format!("the layers of image {image}")))?;
            snapshots::mount_view(self, &chain, key, target).await
        })
    }

    fn unmount_image<'a>(&'a self, key: &'a str) -> Fut<'a, ()> {
        Box::pin(snapshots::remove_view(self, key))
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> Fut<'a, ContainerStats> {
        Box::pin(async move {
            let request = wire::ContainerStatsRequest { container_id: id.to_string() };
            let r = call("ContainerStats", CALL, self.runtime().container_stats(request)).await?;
            r.stats.map(from_wire::container_stats).ok_or_else(|| no_status("container", id))
        })
    }

    fn list_container_stats<'a>(&'a self, sandbox_id: Option<&'a str>) -> Fut<'a, Vec<ContainerStats>> {
        Box::pin(async move {
            let filter = wire::ContainerStatsFilter {
                pod_sandbox_id: sandbox_id.unwrap_or_default().to_string(),
                ..Default::default()
            };
            let request = wire::ListContainerStatsRequest { filter: Some(filter) };
            let r = call("ListContainerStats", CALL, self.runtime().list_container_stats(request)).await?;
            Ok(r.stats.into_iter().map(from_wire::container_stats).collect())
        })
    }

    fn sandbox_stats<'a>(&'a self, id: &'a str) -> Fut<'a, SandboxStats> {
        Box::pin(async move {
            let request = wire::PodSandboxStatsRequest { pod_sandbox_id: id.to_string() };
            let r = call("PodSandboxStats", CALL, self.runtime().pod_sandbox_stats(request)).await?;
            r.stats.map(from_wire::sandbox_stats).ok_or_else(|| no_status("sandbox", id))
        })
    }

    fn list_sandbox_stats(&self) -> Fut<'_, Vec<SandboxStats>> {
        Box::pin(async move {
            let request = wire::ListPodSandboxStatsRequest::default();
            let r = call("ListPodSandboxStats", CALL, self.runtime().list_pod_sandbox_stats(request)).await?;
            Ok(r.stats.into_iter().map(from_wire::sandbox_stats).collect())
        })
    }

    fn events(&self) -> EventStream {
        events::subscribe(self)
    }
}

impl Cri {
    async fn exec_sync_call(&self, request: wire::ExecSyncRequest, limit: Duration) -> crate::Result<ExecResult> {
        match tokio::time::timeout(limit, self.runtime().exec_sync(request)).await {
            Ok(Ok(r)) => {
                let r = r.into_inner();
                Ok(ExecResult { stdout: r.stdout, stderr: r.stderr, exit_code: r.exit_code })
            }
            Ok(Err(status)) => Err(from_status("ExecSync", status)),
            Err(_) => Err(Error::DeadlineExceeded(format!("the runtime did not end the command in {limit:?}"))),
        }
    }
}

fn no_status(what: &str, id: &str) -> Error {
    Error::Runtime(format!("the runtime answered without the {what} {id:?}"))
}

/// containerd before 1.7 keeps the label but does not tell it through CRI.
fn mark_pinned(images: &mut [Image], stored: &[crate::images::Stored]) {
    let names: std::collections::HashSet<&str> =
        stored.iter().filter(|s| s.pinned()).map(|s| s.name.as_str()).collect();
    for image in images {
        image.pinned |= image.repo_tags.iter().chain(&image.repo_digests).any(|name| names.contains(name.as_str()));
    }
}

/// containerd and CRI-O put `{"pid": N, …}` into the verbose information.
fn pid_of(info: &HashMap<String, String>) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(default)]
        pid: i32,
    }
    let info: Info = serde_json::from_str(info.get("info")?).ok()?;
    (info.pid > 0).then_some(info.pid)
}

/// containerd puts the id of the topmost layer with all below it into an image's verbose information.
fn chain_of(info: &HashMap<String, String>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "chainID")]
        chain_id: String,
    }
    let info: Info = serde_json::from_str(info.get("info")?).ok()?;
    (!info.chain_id.is_empty()).then_some(info.chain_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_is_read_from_verbose_information() {
        let info = |text: &str| HashMap::from([("info".to_string(), text.to_string())]);
        assert_eq!(pid_of(&info(r#"{"pid": 42, "config": {"x": [1]}}"#)), Some(42));
        assert_eq!(pid_of(&info(r#"{"pid": 0}"#)), None);
        assert_eq!(pid_of(&info("not json")), None);
        assert_eq!(pid_of(&HashMap::new()), None);
    }
}
