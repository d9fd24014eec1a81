//! The plug-in against the kernel, in namespaces of its own.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use serde_json::json;

use super::ipam;
use crate::netlink::Socket;
use crate::testing::Node;

#[test]
fn pods_reach_each_other_and_the_host() {
    let node = Node::new(1);
    let (a, b) = (node.pod("a"), node.pod("b"));
    assert_eq!(a.ip, Ipv4Addr::new(10, 244, 1, 2));
    assert_eq!(b.ip, Ipv4Addr::new(10, 244, 1, 3));
    let _in_b = b.namespace.serve_tcp((b.ip, 80), "b");
    let _host = node.host.serve_tcp((node.gateway(), 81), "host");
    assert_eq!(a.namespace.ask_tcp((b.ip, 80)).unwrap(), "b 10.244.1.2");
    assert_eq!(a.namespace.ask_tcp((node.gateway(), 81)).unwrap(), "host 10.244.1.2");
    assert_eq!(node.host.ask_tcp((b.ip, 80)).unwrap(), "b 10.244.1.1");
    let _udp = b.namespace.serve_udp((b.ip, 53), "b");
    assert_eq!(a.namespace.ask_udp((b.ip, 53)).unwrap(), "b 10.244.1.2");
}

#[test]
fn add_check_del_and_again() {
    let node = Node::new(1);
    let pod = node.pod("a");
    let path = pod.namespace.path();
    let config = node.config();
    node.call("CHECK", "a", Some(&path), &config).unwrap();
    let mut other = config.clone();
    other["prevResult"] = json!({"ips": [{"address": "10.244.1.77/32"}]});
    let error = node.call("CHECK", "a", Some(&path), &other).unwrap_err();
    assert_eq!(error.code, 102, "{error}");
    node.call("DEL", "a", None, &config).unwrap();
    node.call("DEL", "a", None, &config).unwrap();
    let error = node.call("CHECK", "a", Some(&path), &config).unwrap_err();
    assert_eq!(error.code, 3, "{error}");
    let links = node.host.run(|| Socket::route().unwrap().links().unwrap());
    assert_eq!(links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["lo", "cvl0"]);
    assert_eq!(ipam::list(node.directory.path()).unwrap(), []);
    let again = node.call("ADD", "a", Some(&path), &config).unwrap().unwrap();
    assert_eq!(again["ips"][0]["address"], "10.244.1.3/32");
    assert_eq!(again["interfaces"][2]["name"], "eth0");
}

#[test]
fn a_failed_add_leaves_nothing() {
    let node = Node::new(1);
    let pod = node.pod("a");
    // The interface exists in the namespace already.
    let error = node.call("ADD", "b", Some(&pod.namespace.path()), &node.config()).unwrap_err();
    assert_eq!(error.code, 100, "{error}");
    assert_eq!(ipam::list(node.directory.path()).unwrap().len(), 1);
    let links = node.host.run(|| Socket::route().unwrap().links().unwrap());
    assert_eq!(links.len(), 3, "{links:?}");
}

#[test]
fn gc_removes_what_the_runtime_does_not_know() {
    let node = Node::new(1);
    let (_a, _b) = (node.pod("a"), node.pod("b"));
    let mut config = node.config();
    let error = node.call("GC", "", None, &config).unwrap_err();
    assert!(error.to_string().contains("valid-attachments"), "{error}");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    node.call("GC", "", None, &config).unwrap();
    let left = ipam::list(node.directory.path()).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1.container, "b");
}

#[test]
fn refusals_say_what_would_be_right() {
    let node = Node::new(1);
    let error = node.call("ADD", "../x", None, &node.config()).unwrap_err();
    assert_eq!(error.code, 4);
    assert!(error.to_string().contains("letter or digit"), "{error}");
    let mut config = node.config();
    config["cniVersion"] = json!("9.0.0");
    let error = node.call("ADD", "x", None, &config).unwrap_err();
    assert_eq!(error.code, 1);
    assert!(error.to_string().contains("1.0.0"), "{error}");
    let error = node.call("FROB", "x", None, &node.config()).unwrap_err();
    assert!(error.to_string().contains("ADD, DEL, CHECK"), "{error}");
}

#[test]
fn loopback_comes_up() {
    let node = Node::new(1);
    let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let pod = crate::testing::Namespace::new();
    let result = node.call("ADD", "a", Some(&pod.path()), &config).unwrap().unwrap();
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    assert_eq!(result["ips"][0]["version"], "4");
    node.call("CHECK", "a", Some(&pod.path()), &config).unwrap();
    node.call("DEL", "a", None, &config).unwrap();
}

#[test]
fn bandwidth_is_limited_both_ways() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;
    const BYTES: usize = 256 * 1024;
    let node = Node::new(1);
    let mut config = node.config();
    // One megabyte a second, in bits.
    config["runtimeConfig"] = json!({"bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": 160_000, "egressRate": 8_000_000, "egressBurst": 160_000,
    }});
    let pod = crate::testing::Namespace::new();
    node.call("ADD", "a", Some(&pod.path()), &config).unwrap();
    let transfer = |from: &crate::testing::Namespace, to: &crate::testing::Namespace, ip| {
        let listener = to.run(|| TcpListener::bind((ip, 9000)).unwrap());
        let reader = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        let started = Instant::now();
        from.run(|| {
            let mut stream = TcpStream::connect((ip, 9000)).unwrap();
            stream.write_all(&vec![0; BYTES]).unwrap();
        });
        assert_eq!(reader.join().unwrap(), BYTES);
        started.elapsed().as_millis()
    };
    let into = transfer(&node.host, &pod, Ipv4Addr::new(10, 244, 1, 2));
    assert!(into >= 180, "256 KiB at 1 MB/s came in {into} ms");
    let out = transfer(&pod, &node.host, node.gateway());
    assert!(out >= 180, "256 KiB at 1 MB/s went out in {out} ms");
}
