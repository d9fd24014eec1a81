//! The trait.

use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::types::*;

/// The future of one call.
pub type Fut<'a, T> = futures::future::BoxFuture<'a, Result<T>>;

/// The verbs of CRI. Every implementation is idempotent where CRI is: stopping what is stopped and removing what is
/// gone succeed.
pub trait Runtime: Send + Sync + 'static {
    /// Who answers.
    fn version(&self) -> Fut<'_, Version>;
    /// Whether the runtime and its network are ready.
    fn status(&self) -> Fut<'_, RuntimeStatus>;

    /// Makes and starts a sandbox, network included; returns its id. `handler` is the RuntimeClass' handler, empty for
    /// the default.
    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig, handler: &'a str) -> Fut<'a, String>;
    /// Kills the sandbox' containers, tears down its network and namespaces.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Fut<'a, ()>;
    /// Removes the sandbox and every container in it (killed if they run).
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Fut<'a, ()>;
    /// The sandbox in full.
    fn sandbox_status<'a>(&'a self, id: &'a str) -> Fut<'a, SandboxStatus>;
    /// The process that holds the sandbox' namespaces (`/proc/<pid>/ns/net`), on the host; `None` when it is gone or
    /// the runtime does not say.
    fn sandbox_pid<'a>(&'a self, id: &'a str) -> Fut<'a, Option<i32>>;
    /// Sandboxes.
    fn list_sandboxes<'a>(&'a self, filter: &'a SandboxFilter) -> Fut<'a, Vec<Sandbox>>;

    /// Makes a container in a ready sandbox; returns its id. `sandbox_config` is what the sandbox was made with.
    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        config: &'a ContainerConfig,
        sandbox_config: &'a SandboxConfig,
    ) -> Fut<'a, String>;
    /// Starts a created container.
    fn start_container<'a>(&'a self, id: &'a str) -> Fut<'a, ()>;
    /// Sends the image's stop signal and, after `timeout`, KILL; returns when the container has ended.
    fn stop_container<'a>(&'a self, id: &'a str, timeout: Duration) -> Fut<'a, ()>;
    /// Removes the container (killed if it runs). Its log stays.
    fn remove_container<'a>(&'a self, id: &'a str) -> Fut<'a, ()>;
    /// The container in full.
    fn container_status<'a>(&'a self, id: &'a str) -> Fut<'a, ContainerStatus>;
    /// The container's first process, on the host; `None` when it does not run or the runtime does not say.
    fn container_pid<'a>(&'a self, id: &'a str) -> Fut<'a, Option<i32>>;
    /// Containers.
    fn list_containers<'a>(&'a self, filter: &'a ContainerFilter) -> Fut<'a, Vec<Container>>;
    /// Changes the resources of a container that exists.
    fn update_container_resources<'a>(&'a self, id: &'a str, resources: &'a LinuxResources) -> Fut<'a, ()>;
    /// Opens the log file anew, after it was renamed.
    fn reopen_container_log<'a>(&'a self, id: &'a str) -> Fut<'a, ()>;

    /// Runs a command to its end. Past `timeout` (`None`: no limit) it is killed and
    /// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded) returned.
    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], timeout: Option<Duration>) -> Fut<'a, ExecResult>;
    /// The URL of a streaming session that runs a command.
    fn exec<'a>(&'a self, id: &'a str, command: &'a [String], streams: StreamOptions) -> Fut<'a, String>;
    /// The URL of a streaming session with the container's own streams.
    fn attach<'a>(&'a self, id: &'a str, streams: StreamOptions) -> Fut<'a, String>;
    /// The URL of a streaming session with ports of a sandbox.
    fn port_forward<'a>(&'a self, sandbox_id: &'a str, ports: &'a [u16]) -> Fut<'a, String>;

    /// Fetches an image from its registry; returns its reference.
    fn pull_image<'a>(&'a self, request: &'a PullRequest) -> Fut<'a, String>;
    /// The image of this name, digest or id; `None` when it is not in the node.
    fn image_status<'a>(&'a self, image: &'a str) -> Fut<'a, Option<Image>>;
    /// All images.
    fn list_images(&self) -> Fut<'_, Vec<Image>>;
    /// Removes all names of the image.
    fn remove_image<'a>(&'a self, image: &'a str) -> Fut<'a, ()>;
    /// What images take on disk.
    fn image_fs_info(&self) -> Fut<'_, ImageFsInfo>;

    /// Mounts the content of an image that is in the node at `target` (a directory), read-only, under a key that
    /// [`Runtime::unmount_image`] gives back. [`Error::NotFound`](crate::Error::NotFound): it was never unpacked, which
    /// creating a container from it does.
    fn mount_image<'a>(&'a self, image: &'a str, key: &'a str, target: &'a Path) -> Fut<'a, ()>;
    /// Gives back what [`Runtime::mount_image`] keeps of the image, after `target` was unmounted.
    fn unmount_image<'a>(&'a self, key: &'a str) -> Fut<'a, ()>;

    /// One container's usage.
    fn container_stats<'a>(&'a self, id: &'a str) -> Fut<'a, ContainerStats>;
    /// All containers' usage.
    fn list_container_stats<'a>(&'a self, sandbox_id: Option<&'a str>) -> Fut<'a, Vec<ContainerStats>>;
    /// One sandbox' usage.
    fn sandbox_stats<'a>(&'a self, id: &'a str) -> Fut<'a, SandboxStats>;
    /// All sandboxes' usage.
    fn list_sandbox_stats(&self) -> Fut<'_, Vec<SandboxStats>>;

    /// What happens to containers from now on; the first item is [`Event::Resync`].
    fn events(&self) -> EventStream;
}

// A node holds its runtime behind one pointer.
const _: fn(&dyn Runtime) = |_| {};
