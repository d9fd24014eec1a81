//! `caravel why KIND/NAME`: the chain of causes from what was asked about down to the Pod or Node, and the mend.
//!
//! Reading ([`read`]) and telling ([`finding`]) are apart: what is told is a function of a [`world::World`] of objects.

mod finding;
mod node;
mod pod;
mod read;
mod storage;
mod workload;
mod world;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use std::path::PathBuf;

use crate::args::DataDir;
use crate::{instance, ready, run};
use world::Subject;

#[derive(ClapArgs, Clone)]
pub struct Why {
    /// What to explain: KIND/NAME, or KIND NAME; Pods, Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, Services,
    /// PersistentVolumeClaims, Nodes and Namespaces, by their names or kubectl's short ones
    #[arg(required = true, num_args = 1..=2)]
    what: Vec<String>,
    /// The namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The cluster [default: $KUBECONFIG, or the one in the data directory]
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
}

/// Explains, on standard output.
pub fn why(args: &Why) -> Result<()> {
    let subject = Subject::parse(&args.what, &args.namespace)?;
    let kubeconfig = args.kubeconfig.clone().unwrap_or_else(|| instance::kubeconfig_path(&args.data.path));
    run::runtime()?.block_on(async {
        let client = ready::client(&kubeconfig)
            .await
            .with_context(|| format!("{}: name a cluster with --kubeconfig or --data-dir", kubeconfig.display()))?;
        let world = read::world(&client, &subject).await?;
        let mut finding = finding::of(&world, &subject);
        read::ask_scheduler(&client, &mut finding).await?;
        print!("{}", finding.render());
        for unseen in &world.unseen {
            println!("(not seen: {unseen})");
        }
        Ok(())
    })
}
