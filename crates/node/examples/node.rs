//! A node alone, against any API server: `node KUBECONFIG DIR NUMBER [NAME]`. It starts a containerd in DIR, brings an
//! image `test/busybox:1` into it and gives Pods addresses of 10.199.NUMBER.0/24 through Debian's CNI plug-ins. TERM
//! leaves containers running; with `PURGE=1` in the environment it only removes everything.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use caravel_client::Cluster;
use caravel_node::Config;
use caravel_runtime::containerd::{self, Containerd};
use caravel_runtime::images::build::{Builder, FileSource};
use tokio_util::sync::CancellationToken;

const APPLETS: [&str; 34] = [
    "sh", "sleep", "cat", "true", "false", "hostname", "id", "ls", "nc", "echo", "env", "stat", "grep", "mount", "dd",
    "kill", "ps", "touch", "rm", "date", "seq", "head", "tail", "tr", "wc", "mkdir", "ip", "httpd", "hexdump", "df",
    "test", "sort", "trap", "printf",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, dir, number, rest @ ..] = args.as_slice() else {
        anyhow::bail!("usage: node KUBECONFIG DIR NUMBER [NAME]")
    };
    let number: u8 = number.parse()?;
    let dir = Path::new(dir);
    let daemon_config = containerd::Config::new(dir, u32::from(number));
    let mut config = Config::new(rest.first().map_or("node-a", String::as_str), [127, 0, 0, 1].into(), dir);
    config.cgroup_root = format!("/caravel{number}");
    config.cluster_dns = vec![[10, 96, 0, 10].into()];
    config.port = 10300 + u16::from(number);
    config.manifest_dir = std::env::var_os("MANIFESTS").map(Into::into);
    if std::env::var_os("PURGE").is_some() {
        containerd::purge(&daemon_config).await?;
        return Ok(caravel_node::purge(&config.root_dir, &config.cgroup_root)?);
    }
    let daemon = Containerd::start(daemon_config.clone()).await?;
    let bundle = tokio::task::spawn_blocking(busybox).await??;
    daemon.images().put(&bundle, true).await?;
    network(dir, &daemon_config, number)?;
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let client =
        kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.context("the kubeconfig")?;
    let cluster = Cluster::new(kube::Client::try_from(client)?, "kubelet");
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        let term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut term) = term {
            tokio::select! { _ = term.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        }
        signal.cancel();
    });
    let runtime: Arc<dyn caravel_runtime::Runtime> = daemon.dyn_runtime();
    Ok(caravel_node::run(config, cluster, runtime, stop).await?)
}

fn busybox() -> anyhow::Result<caravel_runtime::images::Bundle> {
    let mut builder = Builder::new("docker.io/test/busybox:1")?;
    builder.file("bin/busybox", FileSource::Path("/bin/busybox".into()), 0o755)?;
    for applet in APPLETS {
        builder.file(&format!("bin/{applet}"), FileSource::Link("busybox".into()), 0o777)?;
    }
    builder.file("tmp", FileSource::Dir, 0o1777)?;
    builder.cmd = vec!["sh".into()];
    Ok(builder.build()?)
}

fn network(dir: &Path, config: &containerd::Config, number: u8) -> anyhow::Result<()> {
    std::fs::create_dir_all(config.cni_bin())?;
    std::fs::create_dir_all(config.cni_conf())?;
    for plugin in ["loopback", "ptp", "host-local", "portmap"] {
        let to = config.cni_bin().join(plugin);
        if !to.exists() {
            std::os::unix::fs::symlink(Path::new("/usr/lib/cni").join(plugin), to)?;
        }
    }
    let conf = format!(
        r#"{{"cniVersion":"0.4.0","name":"t","plugins":[{{"type":"ptp","ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.199.{number}.0/24"}}]]}}}}]}}"#,
        dir.join("ipam").display()
    );
    Ok(std::fs::write(config.cni_conf().join("10-t.conflist"), conf)?)
}
