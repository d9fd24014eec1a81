//! The real containerd and runc, in a data directory of the test's own. Needs root and Debian's containerd and runc;
//! without them each test says so and passes.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use caravel_runtime::containerd::{Containerd, purge};
use caravel_runtime::{ContainerState, Error, Event, Runtime, SandboxState, StreamOptions};
use common::{Node, container, sandbox};
use futures::StreamExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_lives_logs_and_ends() {
    let Some(node) = Node::start("life").await else { return };
    let cri = node.daemon.runtime();
    let version = cri.version().await.unwrap();
    assert_eq!(version.runtime_name, "containerd");
    assert!(cri.status().await.unwrap().runtime_ready());

    let mut events = cri.events();
    assert_eq!(events.next().await, Some(Event::Resync));

    let config = sandbox(&node, "life");
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let status = cri.sandbox_status(&sandbox_id).await.unwrap();
    assert_eq!(status.state, SandboxState::Ready);
    assert_eq!(status.metadata, config.metadata);
    assert!(cri.sandbox_pid(&sandbox_id).await.unwrap().is_some());
    // One of the same identity is refused.
    assert!(cri.run_sandbox(&config, "").await.is_err());

    let mut spec = container("main", &["sh", "-c", "echo out; echo err >&2; sleep 1; exit 7"]);
    spec.envs = vec![("A".into(), "b".into())];
    let id = cri.create_container(&sandbox_id, &spec, &config).await.unwrap();
    assert_eq!(cri.container_status(&id).await.unwrap().state, ContainerState::Created);
    cri.start_container(&id).await.unwrap();
    assert_eq!(cri.container_status(&id).await.unwrap().state, ContainerState::Running);
    assert!(cri.container_pid(&id).await.unwrap().is_some());

    let command = ["sh", "-c", "echo $A; echo no >&2; exit 3"].map(String::from);
    let result = cri.exec_sync(&id, &command, Some(Duration::from_secs(5))).await.unwrap();
    assert_eq!((result.stdout.as_slice(), result.stderr.as_slice(), result.exit_code), (&b"b\n"[..], &b"no\n"[..], 3));

    let exit = common::next_exit(&mut events, &id).await;
    assert_eq!(exit.0, 7);
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 7));
    assert_eq!(status.reason, "Error");
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    assert!(log.lines().any(|l| l.ends_with(" stdout F out")), "{log}");
    assert!(log.lines().any(|l| l.ends_with(" stderr F err")), "{log}");

    cri.remove_container(&id).await.unwrap();
    cri.remove_container(&id).await.unwrap();
    assert!(cri.container_status(&id).await.unwrap_err().is_not_found());
    cri.stop_sandbox(&sandbox_id).await.unwrap();
    assert_eq!(cri.sandbox_status(&sandbox_id).await.unwrap().state, SandboxState::NotReady);
    cri.remove_sandbox(&sandbox_id).await.unwrap();
    cri.remove_sandbox(&sandbox_id).await.unwrap();
    node.finish().await;
}

/// A container that ends within the call that starts it: CRI may be told of its exit while it still is `Created`, and
/// shows it as running for a moment after that. Who looks when it is told must find it ended, each of many times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_told_once_the_status_shows_it() {
    const CONTAINERS: usize = 120;
    let Some(node) = Node::start("exits").await else { return };
    let cri = node.daemon.runtime();
    let config = sandbox(&node, "exits");
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let mut events = cri.events();
    assert_eq!(events.next().await, Some(Event::Resync));
    let starting = async {
        futures::stream::iter(0..CONTAINERS)
            .for_each_concurrent(8, |i| {
                let (cri, config, sandbox_id) = (&cri, &config, &sandbox_id);
                async move {
                    let spec = container(&format!("c{i}"), &["true"]);
                    let id = cri.create_container(sandbox_id, &spec, config).await.unwrap();
                    cri.start_container(&id).await.unwrap();
                }
            })
            .await;
    };
    let telling = async {
        let mut told = 0;
        while told < CONTAINERS {
            let event = tokio::time::timeout(Duration::from_secs(120), events.next()).await.expect("an exit is lost");
            let Some(Event::Exited { id, .. }) = event else { continue };
            let state = cri.container_status(&id).await.unwrap().state;
            assert_eq!(state, ContainerState::Exited, "after {told} others");
            told += 1;
        }
    };
    tokio::join!(starting, telling);
    cri.remove_sandbox(&sandbox_id).await.unwrap();
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_timeouts_and_refusals_are_told_apart() {
    let Some(node) = Node::start("limits").await else { return };
    let cri = node.daemon.runtime();
    let config = sandbox(&node, "limits");
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();

    let mut greedy = container("greedy", &["sh", "-c", "x=a; while true; do x=$x$x; done"]);
    greedy.resources.memory_limit = 16 << 20;
    greedy.resources.memory_swap_limit = 16 << 20;
    let mut events = cri.events();
    let id = cri.create_container(&sandbox_id, &greedy, &config).await.unwrap();
    cri.start_container(&id).await.unwrap();
    let (mut oom, mut exited) = (false, false);
    let both = async {
        while !(oom && exited) {
            match events.next().await {
                Some(Event::Oom { id: other }) => oom |= other == id,
                Some(Event::Exited { id: other, .. }) => exited |= other == id,
                _ => {}
            }
        }
    };
    let both = tokio::time::timeout(Duration::from_secs(20), both).await;
    assert!(both.is_ok(), "oom {oom}, exited {exited}");
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    let sleeper = container("sleeper", &["sleep", "1000"]);
    let id = cri.create_container(&sandbox_id, &sleeper, &config).await.unwrap();
    cri.start_container(&id).await.unwrap();
    let late = cri.exec_sync(&id, &["sleep".into(), "30".into()], Some(Duration::from_secs(1))).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded(_))), "{late:?}");
    let missing = cri.exec_sync(&id, &["/no/such".into()], None).await;
    assert!(matches!(missing, Err(Error::Runtime(_))), "{missing:?}");

    let stats = cri.container_stats(&id).await.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.is_some());
    assert!(cri.image_fs_info().await.unwrap().image_filesystems.len() == 1);

    // sleep as process 1 ignores TERM: the grace passes, then KILL.
    let begin = Instant::now();
    cri.stop_container(&id, Duration::from_secs(1)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 137);

    let absent = container("absent", &["true"]);
    let absent = caravel_runtime::ContainerConfig { image: "docker.io/library/absent:1".into(), ..absent };
    let error = cri.create_container(&sandbox_id, &absent, &config).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert_eq!(cri.image_status("docker.io/library/absent:1").await.unwrap(), None);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_the_daemon_and_the_next_start_adopts() {
    // A path that is too long for a socket.
    let Some(node) = Node::start_below("adopt", &"long/".repeat(25)).await else { return };
    assert!(node.daemon.socket().starts_with(&node.config.run_dir));
    let cri = node.daemon.runtime();
    let config = sandbox(&node, "adopt");
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let spec = container("main", &["sleep", "1000"]);
    let id = cri.create_container(&sandbox_id, &spec, &config).await.unwrap();
    cri.start_container(&id).await.unwrap();
    let pid = cri.container_pid(&id).await.unwrap().unwrap();

    // A second start finds the daemon.
    let again = Containerd::start(node.config.clone()).await.unwrap();
    assert_eq!(again.pid(), node.daemon.pid());
    drop(again);

    // One that is killed is started again, by itself.
    let mut events = cri.events();
    assert_eq!(events.next().await, Some(Event::Resync));
    let old = node.daemon.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), nix::sys::signal::Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.daemon.pid() == old || cri.version().await.is_err() {
        assert!(Instant::now() < deadline, "containerd was not started again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cri.container_status(&id).await.unwrap().state, ContainerState::Running);
    assert_eq!(cri.container_pid(&id).await.unwrap(), Some(pid));
    // Readers are told to look again, and then see events of the new daemon.
    let resync =
        tokio::time::timeout(Duration::from_secs(5), async { while events.next().await != Some(Event::Resync) {} });
    resync.await.unwrap();
    cri.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(common::next_exit(&mut events, &id).await.0, 137);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_leaves_nothing_even_when_the_daemon_is_dead() {
    let Some(node) = Node::start("purge").await else { return };
    let cri = node.daemon.runtime();
    let config = sandbox(&node, "purge");
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let spec = container("main", &["sh", "-c", "sleep 1000 & sleep 1000"]);
    let id = cri.create_container(&sandbox_id, &spec, &config).await.unwrap();
    cri.start_container(&id).await.unwrap();
    let pid = cri.container_pid(&id).await.unwrap().unwrap();
    assert!(common::traces(&node.config).len() > 3, "nothing to purge: {:?}", common::traces(&node.config));

    node.daemon.stop().await;
    assert!(common::runs(pid), "containers must outlive the daemon");
    purge(&node.config).await.unwrap();
    assert_eq!(common::traces(&node.config), Vec::<String>::new());
    assert!(!common::runs(pid));
    // Nothing to purge is no error.
    purge(&node.config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_network_comes_from_cni_and_goes_with_the_sandbox() {
    let Some(node) = Node::start("cni").await else { return };
    if !node.write_cni() {
        eprintln!("skipped: no CNI plug-ins in /usr/lib/cni");
        return node.finish().await;
    }
    let cri = node.daemon.runtime();
    node.wait_network().await;
    let mut config = sandbox(&node, "cni");
    config.security.namespaces.network = caravel_runtime::NamespaceMode::Pod;
    config.hostname = "cni".into();
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let status = cri.sandbox_status(&sandbox_id).await.unwrap();
    assert_eq!(status.ips.len(), 1);
    assert!(status.ips[0].starts_with("10.199."), "{:?}", status.ips);
    let mut spec = container("main", &["sleep", "1000"]);
    spec.security.namespaces.network = caravel_runtime::NamespaceMode::Pod;
    let id = cri.create_container(&sandbox_id, &spec, &config).await.unwrap();
    cri.start_container(&id).await.unwrap();
    let streams = StreamOptions { stdout: true, ..Default::default() };
    let url = cri.exec(&id, &["hostname".into()], streams).await.unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let result = cri.exec_sync(&id, &["hostname".into()], None).await.unwrap();
    assert_eq!(result.stdout, b"cni\n");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_come_from_archives_pinned_and_go_by_name() {
    let Some(node) = Node::start("images").await else { return };
    let images = node.daemon.images();
    let cri = node.daemon.runtime();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    common::docker_archive(&archive, "fromtar:2");
    let names = images.import(archive, None).await.unwrap();
    assert_eq!(names, ["docker.io/library/fromtar:2"]);
    let image = cri.image_status("fromtar:2").await.unwrap().unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/fromtar:2"]);
    let pinned: Vec<bool> = cri.list_images().await.unwrap().iter().map(|i| i.pinned).collect();
    assert!(pinned.len() >= 3 && pinned.iter().all(|p| *p), "{pinned:?}");
    // Content that an image needs must survive containerd's garbage collection: removing another image starts one.
    images.remove("busybox").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let config = sandbox(&node, "images");
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let mut spec = container("main", &["cat", "/hello"]);
    spec.image = "docker.io/library/fromtar:2".into();
    let id = cri.create_container(&sandbox_id, &spec, &config).await.unwrap();
    let mut events = cri.events();
    cri.start_container(&id).await.unwrap();
    assert_eq!(common::next_exit(&mut events, &id).await.0, 0);
    let log = std::fs::read_to_string(cri.container_status(&id).await.unwrap().log_path).unwrap();
    assert!(log.ends_with(" stdout F hello\n"), "{log}");
    cri.remove_image("fromtar:2").await.unwrap();
    assert_eq!(cri.image_status("fromtar:2").await.unwrap(), None);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reboot_leaves_can_be_removed() {
    let Some(node) = Node::start("reboot").await else { return };
    let cri = node.daemon.runtime();
    let networked = node.write_cni();
    let mut config = sandbox(&node, "reboot");
    if networked {
        node.wait_network().await;
        config.security.namespaces.network = caravel_runtime::NamespaceMode::Pod;
    }
    let sandbox_id = cri.run_sandbox(&config, "").await.unwrap();
    let mut spec = container("main", &["sleep", "1000"]);
    spec.security.namespaces.network = config.security.namespaces.network;
    let id = cri.create_container(&sandbox_id, &spec, &config).await.unwrap();
    cri.start_container(&id).await.unwrap();
    node.daemon.stop().await;
    // The machine goes down: no process, no mount, but all files.
    common::power_off(&node.config);

    let daemon = Containerd::start(node.config.clone()).await.unwrap();
    let cri = daemon.runtime();
    assert_eq!(cri.sandbox_status(&sandbox_id).await.unwrap().state, SandboxState::NotReady);
    assert_ne!(cri.container_status(&id).await.unwrap().state, ContainerState::Running);
    cri.stop_sandbox(&sandbox_id).await.unwrap();
    cri.remove_sandbox(&sandbox_id).await.unwrap();
    config.metadata.attempt = 1;
    let again = cri.run_sandbox(&config, "").await.unwrap();
    assert_eq!(cri.sandbox_status(&again).await.unwrap().state, SandboxState::Ready);
    daemon.stop().await;
    node.finish().await;
}
