//! What each room is told about the cluster of this data directory, and how all of it is taken down.

use crate::instance::Instance;
use anyhow::{Context, Result};
use caravel_runtime::containerd::{self, Containerd};
use caravel_runtime::cri::Cri;
use caravel_runtime::images::Images;

/// containerd of this cluster.
pub fn containerd(instance: &Instance) -> containerd::Config {
    containerd::Config::new(&instance.dir, u32::from(instance.number))
}

/// The node's image store, through containerd that runs already.
pub fn images(instance: &Instance) -> Result<Images> {
    let socket = containerd(instance).socket();
    let cri = Cri::new(&socket).with_context(|| {
        format!("containerd of the cluster in {} does not answer; `caravel up` starts it", instance.dir.display())
    })?;
    Ok(Images::new(cri.with_containerd()))
}

/// The network of a cluster that is this machine only: its one node has the first part of the Pod range.
pub fn network(instance: &Instance, node: &str) -> Result<caravel_network::Config> {
    let mut config = caravel_network::Config::new(node, instance.address(), &instance.dir, instance.number);
    config.pod_cidr = Some(instance.own_pod_cidr().parse().context("the node's Pod range")?);
    Ok(config)
}

/// Stops containers and containerd, and removes network and cgroups; with `purge`, images and all else of it too.
pub async fn stop_everything(instance: &Instance, purge: bool) -> Result<()> {
    let config = containerd(instance);
    if purge {
        containerd::purge(&config).await.context("containerd could not be removed")?;
    } else if config.pid_file().exists() {
        // Adopts the running one, so that containers end in good order and their addresses are given back.
        let daemon = Containerd::start(config).await.context("containerd")?;
        let removed = daemon.remove_all().await;
        daemon.stop().await;
        removed.context("containers could not be removed")?;
    }
    caravel_network::purge(&network(instance, "")?).context("the network could not be removed")?;
    caravel_node::purge(&instance.dir.join("node"), &format!("/{}", instance.tag())).context("the node's volumes")?;
    Ok(())
}
