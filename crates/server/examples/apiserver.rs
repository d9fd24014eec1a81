//! The API server alone, over the embedded store: `apiserver DIR PORT`. Writes `DIR/kubeconfig`.

use caravel_server::{Config, Server};
use caravel_store::embedded::{Embedded, Options};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "/tmp/caravel-apiserver".into());
    let port: u16 = arguments.next().unwrap_or_else(|| "6443".into()).parse()?;
    let store = Arc::new(Embedded::open(Options::new(format!("{dir}/store")))?);
    let server = Server::open(Config::new(&dir, [127, 0, 0, 1].into(), port), store).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let path = format!("{dir}/kubeconfig");
    std::fs::write(&path, server.admin_kubeconfig(&format!("https://127.0.0.1:{port}")))?;
    println!("serving; export KUBECONFIG={path}");
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        signal.cancel();
    });
    server.serve(listener, stop).await?;
    Ok(())
}
