//! The labels and annotations that mark what is ours in the runtime. They are upstream's, so that other tools that
//! read a runtime (crictl, log shippers, monitors) understand it.

/// The Pod's name, on sandboxes and containers.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The Pod's namespace, on sandboxes and containers.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The Pod's UID, on sandboxes and containers.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name, on containers.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The digest of the parts of a container's spec that cannot change without a restart.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// How often the container was restarted before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// How often all containers of the Pod were restarted before this one was made (KEP-5532); absent for never.
pub const LIFE: &str = "caravel.dev/pod-life";
/// Where in the container its last words are.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The Pod's grace period in seconds, for Pods that must be ended when the API no longer knows them.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The container's preStop hook as JSON, for the same case.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// The container's ports as JSON, for hooks and probes by port name.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// Whether the sandbox shares the host's network.
pub const HOST_NETWORK: &str = "caravel.dev/host-network";
/// Where a Pod came from: `api`, `file`.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// The hash of a static Pod's manifest.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// On a mirror Pod: the hash of the static Pod it shows.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// When the node first saw a Pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
