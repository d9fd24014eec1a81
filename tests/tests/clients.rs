//! Clients that others wrote: Python's and `kube`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clients/gardener.rs"]
mod gardener;
#[path = "clients/operator.rs"]
mod operator;

use caravel_tests::{Namespace, busybox_pod, cluster_dir};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, ListParams, WatchEvent, WatchParams};
use tokio::io::AsyncReadExt;

#[test]
fn the_python_client_lists_watches_creates_and_execs() {
    let ns = Namespace::new("python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients.py");
    // Debian's interpreter, which sees Debian's python3-kubernetes.
    let mut python = std::process::Command::new("/usr/bin/python3");
    let out = python.arg(script).arg(cluster_dir().join("kubeconfig")).arg(&ns.name).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn kube_lists_watches_creates_and_execs() {
    let ns = tokio::task::spawn_blocking(|| Namespace::new("kube")).await.unwrap();
    let api: kube::Api<Pod> =
        kube::Api::namespaced(caravel_tests::client(cluster_dir().join("kubeconfig")).await, &ns.name);
    let from = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let pod: Pod = serde_yaml::from_str(&busybox_pod("p", "command: [sleep, '3600']")).unwrap();
    api.create(&Default::default(), &pod).await.unwrap();
    let mut events = api.watch(&WatchParams::default().timeout(60), &from).await.unwrap().boxed();
    loop {
        match events.try_next().await.unwrap().expect("the watch ends before the Pod runs") {
            WatchEvent::Added(p) | WatchEvent::Modified(p) => {
                if p.status.and_then(|s| s.phase).as_deref() == Some("Running") {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let params = AttachParams::default().stderr(false);
    let mut attached = api.exec("p", ["sh", "-c", "echo hello; exit 3"], &params).await.unwrap();
    let mut said = String::new();
    attached.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "hello\n");
    let status = attached.take_status().unwrap().await.unwrap();
    assert!(format!("{status:?}").contains("ExitCode"), "{status:?}");
    tokio::task::spawn_blocking(move || drop(ns)).await.unwrap();
}
