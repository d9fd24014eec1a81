//! The network: Services reach their Pods, by address and by name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, busybox_pod as pod};

/// Two web servers, each answering with its own name, behind Services of several types.
fn web(ns: &Namespace) {
    ns.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: c
          image: test/busybox:1
          command: [sh, -c, "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"]
          ports: [{ name: http, containerPort: 8080 }]
          readinessProbe: { tcpSocket: { port: http }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ name: http, port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: out }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: none }
spec: { clusterIP: None, selector: { app: web }, ports: [{ name: http, port: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: elsewhere }
spec: { type: ExternalName, externalName: example.com }
"#,
    );
    ns.create(&pod("client", "command: [sleep, '3600']"));
    ns.until("deployment/web", "{.status.readyReplicas}", "2");
    ns.until("pod/client", "{.status.phase}", "Running");
}

fn fetch(ns: &Namespace, host: &str, port: u16) -> Result<String, String> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port}");
    let answer = ns.try_kubectl(&["exec", "client", "--", "sh", "-c", &script])?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => Err(format!("{host}:{port} answered {answer:?}")),
    }
}

#[test]
fn a_service_spreads_over_its_pods_by_address_and_by_name() {
    let ns = Namespace::new("svc");
    web(&ns);
    let pods = ns.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"]);
    let address = ns.field("service/web", "{.spec.clusterIP}");
    for host in [address.as_str(), "web", &format!("web.{}.svc.cluster.local", ns.name)] {
        let mut seen = std::collections::BTreeSet::new();
        ns.eventually(&format!("both Pods answer at {host}"), || {
            seen.insert(fetch(&ns, host, 80)?);
            if seen.len() == 2 { Ok(()) } else { Err(format!("so far {seen:?}")) }
        });
        assert!(seen.iter().all(|name| pods.contains(name)), "{seen:?} {pods}");
    }
}

#[test]
fn a_node_port_answers_on_the_node_and_on_loopback() {
    let ns = Namespace::new("nodeport");
    web(&ns);
    let port: u16 = ns.field("service/out", "{.spec.ports[0].nodePort}").parse().unwrap();
    assert!((30000..=32767).contains(&port));
    let node = ns.ok(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}"]);
    for host in [node.as_str(), "127.0.0.1"] {
        ns.eventually(&format!("{host}:{port} answers"), || caravel_tests::http_get(host, port).map(|_| ()));
    }
}

#[test]
fn names_resolve_as_the_dns_specification_says() {
    let ns = Namespace::new("dns");
    web(&ns);
    let lookup = |name: &str| ns.try_kubectl(&["exec", "client", "--", "nslookup", name]);
    let headless = format!("none.{}.svc.cluster.local", ns.name);
    let ips = ns.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"]);
    ns.eventually("a headless Service resolves to its Pods", || {
        let said = lookup(&headless)?;
        if ips.split(' ').all(|ip| said.contains(ip)) { Ok(()) } else { Err(said) }
    });
    let cname = lookup(&format!("elsewhere.{}.svc.cluster.local", ns.name)).unwrap_or_else(|said| said);
    assert!(!cname.contains("10."), "an external name is no address of ours: {cname}");
    let kubernetes = lookup("kubernetes.default.svc.cluster.local").unwrap();
    let address = ns.ok(&["-n", "default", "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
    assert!(kubernetes.contains(&address), "{kubernetes}");
    assert!(lookup("nobody.default.svc.cluster.local").is_err());
    let resolv = ns.ok(&["exec", "client", "--", "cat", "/etc/resolv.conf"]);
    assert!(
        resolv.contains(&format!("search {}.svc.cluster.local svc.cluster.local cluster.local", ns.name)),
        "{resolv}"
    );
    assert!(resolv.contains("ndots:5"), "{resolv}");
}

#[test]
fn a_service_without_pods_refuses_at_once() {
    let ns = Namespace::new("refuse");
    ns.create(&pod("client", "command: [sleep, '3600']"));
    ns.ok(&["create", "service", "clusterip", "empty", "--tcp=80:80"]);
    ns.until("pod/client", "{.status.phase}", "Running");
    let address = ns.field("service/empty", "{.spec.clusterIP}");
    ns.eventually("a refusal, not silence", || {
        let start = std::time::Instant::now();
        let out = ns.command(&["exec", "client", "--", "nc", "-w", "10", &address, "80"]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if !out.status.success() && start.elapsed().as_secs() < 5 { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_client_keeps_its_pod_when_the_service_says_so() {
    let ns = Namespace::new("sticky");
    web(&ns);
    ns.ok(&["patch", "service", "web", "-p", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#]);
    let address = ns.field("service/web", "{.spec.clusterIP}");
    ns.eventually("ten answers of one Pod", || {
        let first = fetch(&ns, &address, 80)?;
        for _ in 0..9 {
            let next = fetch(&ns, &address, 80)?;
            if next != first {
                return Err(format!("{first} then {next}"));
            }
        }
        Ok(())
    });
}
