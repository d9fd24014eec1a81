//! The program as a whole: two clusters side by side, a crash that containers do not notice, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{OwnCluster, busybox_pod as pod};

#[test]
fn a_crash_of_the_program_leaves_containers_running_and_the_next_start_adopts_them() {
    let cluster = OwnCluster::up();
    let ns = cluster.namespace("adopt");
    ns.create(&pod("p", "command: [sh, -c, 'echo once; sleep 3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    let before = ns.get("pod/p")["status"]["containerStatuses"][0].clone();
    cluster.kill();
    assert!(caravel_tests::is_running(before["containerID"].as_str().unwrap()), "the container outlives the program");
    cluster.ok(&["up", "--detach"]);
    // A change that only a node which adopted the Pod can make.
    ns.create(&pod("q", "command: [sleep, '3600']"));
    ns.until("pod/q", "{.status.phase}", "Running");
    let after = ns.get("pod/p")["status"]["containerStatuses"][0].clone();
    assert_eq!((&after["containerID"], &after["restartCount"]), (&before["containerID"], &before["restartCount"]));
    assert_eq!(ns.ok(&["logs", "p"]), "once\n");
    caravel_tests::kill_container(before["containerID"].as_str().unwrap());
    ns.until("pod/p", "{.status.containerStatuses[0].restartCount}", "1");
}

#[test]
fn a_cluster_that_was_down_comes_up_with_its_state() {
    let cluster = OwnCluster::up();
    let ns = cluster.namespace("again");
    ns.ok(&["create", "configmap", "kept", "--from-literal=k=v"]);
    ns.create(&pod("p", "command: [sleep, '3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    let id = ns.field("pod/p", "{.status.containerStatuses[0].containerID}");
    // A number that means another process here is not signalled.
    let process = cluster.dir.join("run/caravel.process");
    let noted = std::fs::read(&process).unwrap();
    std::fs::write(&process, "pid:[1] 1").unwrap();
    let refused = cluster.run(&["down"]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("another pid namespace"), "{why}");
    std::fs::write(&process, noted).unwrap();
    cluster.ok(&["down"]);
    assert!(!caravel_tests::is_running(&id), "down stops containers");
    let down = cluster.run(&["status"]);
    assert!(!down.status.success() && String::from_utf8_lossy(&down.stderr).contains("is down"));
    cluster.ok(&["up", "--detach"]);
    assert_eq!(ns.field("configmap/kept", "{.data.k}"), "v");
    ns.until("pod/p", "{.status.containerStatuses[0].ready}", "true");
    // The runtime has forgotten the container, the count of its starts goes on.
    ns.until("pod/p", "{.status.containerStatuses[0].restartCount}", "1");
    assert!(cluster.ok(&["status"]).contains("healthy"));
    assert!(cluster.ok(&["up", "--detach"]).contains("already up"));
    assert!(cluster.ok(&["kubeconfig"]).contains("client-certificate-data"));
    assert!(cluster.ok(&["image", "ls"]).contains("test/busybox:1"));
}

/// A Node that was deleted while its machine lives comes back, and its Pods run on.
#[test]
fn a_deleted_node_is_registered_again() {
    let cluster = OwnCluster::up();
    let ns = cluster.namespace("back");
    ns.create(&pod("p", "command: [sleep, '3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    let before = ns.get("pod/p")["status"]["containerStatuses"][0].clone();
    let name = ns.field("pod/p", "{.spec.nodeName}");
    let path = format!("/api/v1/nodes/{name}");
    let (_, old) = ns.wire().get(&path);
    assert_eq!(ns.wire().delete(&path).0, 200);
    ns.eventually("a new Node, which is ready", || {
        let (_, now) = ns.wire().get(&path);
        let conditions = now["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        if ready && now["metadata"]["uid"] != old["metadata"]["uid"] { Ok(()) } else { Err(now.to_string()) }
    });
    let (_, new) = ns.wire().get(&path);
    ns.eventually("the Lease is the new Node's", || {
        let (_, lease) =
            ns.wire().get(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"));
        let owner = &lease["metadata"]["ownerReferences"][0]["uid"];
        if *owner == new["metadata"]["uid"] { Ok(()) } else { Err(lease.to_string()) }
    });
    ns.create(&pod("q", "command: [sleep, '3600']"));
    ns.until("pod/q", "{.status.phase}", "Running");
    let after = &ns.get("pod/p")["status"]["containerStatuses"][0];
    assert_eq!((&after["containerID"], &after["restartCount"]), (&before["containerID"], &before["restartCount"]));
}
