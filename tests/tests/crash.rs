//! `kill -9` at any instant: nothing acknowledged is lost, and watches go on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{ControlPlane, program};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ROUNDS: usize = 20;
const WRITES: usize = 1000;

/// Writers go on through twenty kills; every write that was acknowledged must be there at the end, and a watch that
/// was resumed from its last revision after each kill must have seen each of them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_watches_resume() {
    let plane = ControlPlane::start();
    let client = plane.client().await;
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let watched = tokio::spawn(plane.watch_names(stop.clone()));
    let per_round = WRITES / ROUNDS;
    for round in 0..ROUNDS {
        let mut writers = vec![];
        for writer in 0..4 {
            let (client, acknowledged) = (client.clone(), acknowledged.clone());
            writers.push(tokio::spawn(async move {
                let api: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::namespaced(client, "default");
                for i in 0.. {
                    let name = format!("w-{round}-{writer}-{i}");
                    let map = serde_json::from_value(
                        serde_json::json!({"metadata":{"name":name},"data":{"k":"x".repeat(200)}}),
                    )
                    .unwrap();
                    match api.create(&Default::default(), &map).await {
                        Ok(_) => acknowledged.lock().unwrap().insert(name),
                        // The server was killed under us.
                        Err(_) => return,
                    };
                }
            }));
        }
        let goal = (round + 1) * per_round;
        while acknowledged.lock().unwrap().len() < goal {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        plane.kill_and_restart().await;
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let present: BTreeSet<String> = plane.config_map_names(&client).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost: Vec<_> = acknowledged.difference(&present).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acknowledged.len());
    assert!(acknowledged.len() >= WRITES);
    // The last write is seen by the watch only if none of its resumptions skipped ahead of it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let seen = watched.await.unwrap();
    let missed: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(missed.is_empty(), "the watch missed {missed:?}");
}

#[test]
fn a_second_program_on_one_data_directory_is_refused_with_the_reason() {
    let plane = ControlPlane::start();
    let out = std::process::Command::new(program())
        .args(["server", "--port", "1", "--data-dir"])
        .arg(&plane.dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("already running"), "{said}");
}
