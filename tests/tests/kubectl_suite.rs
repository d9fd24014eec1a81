//! What users do with stock kubectl, from a manifest to a working application.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};

/// Ends a process that serves until it is told to stop.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_input(ns: &Namespace, words: &[&str], input: &str) -> String {
    ns.try_with_input(words, input).unwrap_or_else(|e| panic!("kubectl {}: {e}", words.join(" ")))
}

/// A controller of web servers which answer with their data.
fn demo(replicas: u32) -> String {
    format!(
        r#"apiVersion: v1
kind: ReplicationController
metadata:
  name: update-demo
spec:
  replicas: {replicas}
  selector: {{ name: update-demo, version: one }}
  template:
    metadata:
      labels: {{ name: update-demo, version: one }}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: update-demo
        image: test/busybox:1
        command: [sh, -c, 'mkdir /www; echo "{{\"image\":\"one\"}}" > /www/data.json; exec httpd -f -p 8080 -h /www']
        ports: [{{ containerPort: 8080 }}]
"#
    )
}

/// Waits, as scripts do, by kubectl's own templates, until as many copies run and serve their data.
fn until_serving(ns: &Namespace, count: usize) {
    let names = "--template={{range .items}}{{.metadata.name}} {{end}}";
    let running = "--template={{if (exists . \"status\" \"containerStatuses\")}}{{range .status.containerStatuses}}{{if (and (eq .name \"update-demo\") (exists . \"state\" \"running\"))}}true{{end}}{{end}}{{end}}";
    ns.eventually(&format!("{count} copies serve"), || {
        let pods = ns.try_kubectl(&["get", "pods", "-o", "template", names, "-l", "name=update-demo"])?;
        let pods: Vec<&str> = pods.split_whitespace().collect();
        if pods.len() != count {
            return Err(format!("there are {}", pods.len()));
        }
        for pod in pods {
            if ns.try_kubectl(&["get", "pods", pod, "-o", "template", running])? != "true" {
                return Err(format!("{pod} does not run"));
            }
            let (code, data) =
                ns.wire().get(&format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy/data.json", ns.name));
            if (code, &data["image"]) != (200, &json!("one")) {
                return Err(format!("{pod}: {code} {data}"));
            }
        }
        Ok(())
    });
}

#[test]
fn a_replication_controller_is_created_and_stopped() {
    let ns = Namespace::new("demo");
    with_input(&ns, &["create", "-f", "-"], &demo(2));
    until_serving(&ns, 2);
    with_input(&ns, &["delete", "--grace-period=0", "--force", "-f", "-"], &demo(2));
    ns.eventually("nothing is left", || {
        match ns.try_kubectl(&["get", "rc,pods", "-l", "name=update-demo", "--no-headers"])? {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        }
    });
}

#[test]
fn a_replication_controller_is_scaled() {
    let ns = Namespace::new("scale");
    with_input(&ns, &["create", "-f", "-"], &demo(2));
    until_serving(&ns, 2);
    for count in ["1", "2"] {
        ns.ok(&["scale", "rc", "update-demo", &format!("--replicas={count}"), "--timeout=5m"]);
        until_serving(&ns, count.parse().unwrap());
    }
}

/// A frontend, a store and copies of the store: what is written through the first is read through the last.
#[test]
fn the_guestbook_works() {
    let ns = Namespace::new("guestbook");
    // Debian's busybox finds names only by nslookup; the address is given to nc, which speaks HTTP.
    let fetch = "fetch() { a=$(nslookup $1.$NS.svc.cluster.local | awk '/^Address/ {x=$NF} END {print x}'); printf 'GET %s HTTP/1.0\\r\\n\\r\\n' \"$2\" | nc $a 80 | sed '1,/^\\r*$/d'; }";
    let script = |body: &str| {
        format!(
            "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\nNS={ns}\\n' > /www/cgi-bin/book; cat >> /www/cgi-bin/book <<'END'\n{fetch}\necho 'Content-Type: text/plain'; echo\n{body}\nEND\nchmod +x /www/cgi-bin/book; exec httpd -f -p 80 -h /www",
            ns = ns.name
        )
    };
    let primary = script(
        "case $QUERY_STRING in set=*) echo ${QUERY_STRING#set=} > /tmp/entry; echo Updated;; *) cat /tmp/entry 2>/dev/null;; esac",
    );
    let replica = script("fetch primary '/cgi-bin/book?get'");
    let frontend = script(
        "case $QUERY_STRING in set=*) fetch primary \"/cgi-bin/book?$QUERY_STRING\";; *) fetch replica '/cgi-bin/book?get';; esac",
    );
    let mut manifests = vec![];
    for (name, copies, script) in [("primary", 1, &primary), ("replica", 2, &replica), ("frontend", 3, &frontend)] {
        let labels = json!({"app": "guestbook", "tier": name});
        manifests.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
            "spec": {"ports": [{"port": 80}], "selector": labels}}));
        manifests.push(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": {
            "replicas": copies, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script],
                    "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "1m"}}}]}}}}));
    }
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": manifests}).to_string();
    with_input(&ns, &["create", "-f", "-"], &manifest);
    let running = "jsonpath={range .items[*]}{.status.phase} {end}";
    ns.eventually("three frontends run", || {
        match ns.try_kubectl(&["get", "pods", "-l", "tier=frontend", "-o", running])? {
            phases if phases.trim() == "Running Running Running" => Ok(()),
            phases => Err(phases),
        }
    });
    let book = format!("/api/v1/namespaces/{}/services/frontend/proxy/cgi-bin/book", ns.name);
    ns.eventually("the guestbook takes an entry", || {
        match ns.try_kubectl(&["get", "--raw", &format!("{book}?set=TestEntry")])? {
            said if said.contains("Updated") => Ok(()),
            said => Err(said),
        }
    });
    ns.eventually("the entry is read back", || match ns.try_kubectl(&["get", "--raw", &format!("{book}?get")])? {
        said if said.trim() == "TestEntry" => Ok(()),
        said => Err(said),
    });
    with_input(&ns, &["delete", "--grace-period=0", "--force", "-f", "-"], &manifest);
    ns.eventually("the application is gone", || {
        match ns.try_kubectl(&["get", "deploy,rs,pods,svc", "-l", "app=guestbook", "--no-headers"])? {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        }
    });
}

#[test]
fn versions_are_told() {
    let ns = Namespace::new("versions");
    assert!(ns.ok(&["api-versions"]).lines().any(|line| line == "v1"));
    let said = ns.ok(&["version"]);
    assert!(said.contains("Client Version: ") && said.contains("Server Version: v1.36"), "{said}");
    let said: Value = serde_json::from_str(&ns.ok(&["version", "-o", "json"])).unwrap();
    for field in
        ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"]
    {
        assert!(said["serverVersion"][field].as_str().is_some_and(|v| !v.is_empty()), "{field}: {said}");
    }
}

#[test]
fn the_cluster_is_told() {
    let ns = Namespace::new("info");
    let said = ns.ok(&["cluster-info"]);
    let plain: String = said.replace("\u{1b}[0;32m", "").replace("\u{1b}[0;33m", "").replace("\u{1b}[0m", "");
    assert!(plain.contains("Kubernetes control plane is running at https://127.0.0.1:"), "{said}");
}

/// A controller of one server at port 6379, and a service of it.
fn primary(ns: &Namespace) {
    let rc = "apiVersion: v1\nkind: ReplicationController\nmetadata:\n  name: primary\n  labels: { app: store, role: primary }\nspec:\n  replicas: 1\n  selector: { app: store, role: primary }\n  template:\n    metadata:\n      labels: { app: store, role: primary }\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - name: primary\n        image: test/busybox:1\n        command: [httpd, -f, -p, '6379', -h, /tmp]\n        ports: [{ name: server, containerPort: 6379 }]\n";
    with_input(ns, &["create", "-f", "-"], rc);
    let name = ns.eventually("the Pod of the controller", || {
        match ns.try_kubectl(&["get", "pods", "-l", "app=store", "-o", "name"])? {
            name if !name.is_empty() => Ok(name.trim().to_owned()),
            _ => Err("none yet".into()),
        }
    });
    ns.until(&name, "{.status.phase}", "Running");
}

fn pod_of(ns: &Namespace) -> String {
    ns.ok(&["get", "pods", "-l", "app=store", "-o", "jsonpath={.items[0].metadata.name}"])
}

#[test]
fn describe_tells_of_every_kind() {
    let ns = Namespace::new("describe");
    primary(&ns);
    let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: primary\n  labels: { app: store, role: primary }\nspec:\n  ports: [{ port: 6379, targetPort: server }]\n  selector: { app: store, role: primary }\n";
    with_input(&ns, &["create", "-f", "-"], service);
    ns.until("rc/primary", "{.status.readyReplicas}", "1");
    let says = |words: &[&str], wanted: &[&str]| {
        let said = ns.ok(words);
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for one in wanted {
            assert!(flat.contains(one), "{words:?} should say {one:?}:\n{said}");
        }
    };
    let name = format!("Namespace: {}", ns.name);
    let pod = pod_of(&ns);
    says(
        &["describe", "pod", &pod],
        &[
            "Name: primary-",
            &name,
            "Node:",
            "Labels: app=store role=primary",
            "Annotations:",
            "Status: Running",
            "IP:",
            "Controlled By: ReplicationController/primary",
            "Image: test/busybox:1",
            "State: Running",
            "QoS Class: BestEffort",
        ],
    );
    says(
        &["describe", "rc", "primary"],
        &[
            "Name: primary",
            &name,
            "Selector: app=store,role=primary",
            "Labels: app=store role=primary",
            "Annotations:",
            "Replicas: 1 current / 1 desired",
            "Pods Status: 1 Running / 0 Waiting / 0 Succeeded / 0 Failed",
            "Pod Template:",
            "Image: test/busybox:1",
            "Events:",
            "SuccessfulCreate",
        ],
    );
    says(
        &["describe", "service", "primary"],
        &[
            "Name: primary",
            &name,
            "Labels: app=store role=primary",
            "Annotations:",
            "Selector: app=store,role=primary",
            "Type: ClusterIP",
            "IP:",
            "Port: <unset> 6379/TCP",
            "Endpoints:",
            "Session Affinity: None",
        ],
    );
    let node = ns.field(&format!("pod/{pod}"), "{.spec.nodeName}");
    says(
        &["describe", "node", &node],
        &[
            "Name:",
            "Labels:",
            "Annotations:",
            "CreationTimestamp:",
            "Conditions:",
            "Type",
            "Status",
            "LastHeartbeatTime",
            "LastTransitionTime",
            "Reason",
            "Message",
            "Addresses:",
            "Capacity:",
            "Kernel Version:",
            "OS Image:",
            "Container Runtime Version:",
            "Kubelet Version:",
        ],
    );
    says(
        &["describe", "namespace", &ns.name],
        &[&format!("Name: {}", ns.name), "Labels:", "Annotations:", "Status: Active"],
    );
}

#[test]
fn services_are_exposed() {
    let ns = Namespace::new("expose");
    primary(&ns);
    let check = |name: &str, port: i64| {
        let service = ns.until_that(&format!("service/{name}"), |_| true);
        let ports = service["spec"]["ports"].as_array().unwrap();
        assert_eq!(
            (ports.len(), &ports[0]["port"], &ports[0]["targetPort"]),
            (1, &json!(port), &json!(6379)),
            "{service}"
        );
        ns.until_that(&format!("endpoints/{name}"), |e| {
            e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 1)
                && e["subsets"][0]["ports"][0]["port"] == 6379
        });
    };
    ns.ok(&["expose", "rc", "primary", "--name=rm2", "--port=1234", "--target-port=6379"]);
    check("rm2", 1234);
    ns.ok(&["expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=6379"]);
    check("rm3", 2345);
}

#[test]
fn labels_come_and_go() {
    let ns = Namespace::new("label");
    with_input(&ns, &["create", "-f", "-"], &caravel_tests::busybox_pod("pause", "command: [sleep, '3600']"));
    ns.ok(&["label", "pods", "pause", "testing-label=testing-label-value"]);
    let said = ns.ok(&["get", "pod", "pause", "-L", "testing-label"]);
    assert!(said.contains("testing-label-value") && said.contains("TESTING-LABEL"), "{said}");
    ns.ok(&["label", "pods", "pause", "testing-label-"]);
    let said = ns.ok(&["get", "pod", "pause", "-L", "testing-label"]);
    assert!(!said.contains("testing-label-value"), "{said}");
}

#[test]
fn patches_annotate_the_pods_of_a_controller() {
    let ns = Namespace::new("annotate");
    primary(&ns);
    let pod = pod_of(&ns);
    ns.ok(&["patch", "pod", &pod, "-p", r#"{"metadata":{"annotations":{"x":"y"}}}"#]);
    assert_eq!(ns.field(&format!("pod/{pod}"), "{.metadata.annotations.x}"), "y");
    let rc = ns.get("rc/primary");
    assert!(rc["spec"]["template"]["metadata"].get("annotations").is_none(), "the controller is as it was");
}

#[test]
fn replace_changes_the_image_of_a_pod() {
    let ns = Namespace::new("replace");
    ns.ok(&["run", "web", "--image=test/busybox:1", "--labels=run=web", "--command", "--", "sleep", "3600"]);
    ns.until("pod/web", "{.status.phase}", "Running");
    let now = ns.ok(&["get", "pod", "web", "-o", "json"]);
    let next = now.replace("\"image\": \"test/busybox:1\"", "\"image\": \"docker.io/test/busybox:1\"");
    assert_ne!(now, next);
    with_input(&ns, &["replace", "-f", "-"], &next);
    assert_eq!(ns.field("pod/web", "{.spec.containers[0].image}"), "docker.io/test/busybox:1");
    let uid = ns.field("pod/web", "{.metadata.uid}");
    with_input(
        &ns,
        &["replace", "--force", "--grace-period=0", "-f", "-"],
        &caravel_tests::busybox_pod("web", "command: [sleep, '60']"),
    );
    assert_ne!(ns.field("pod/web", "{.metadata.uid}"), uid, "made anew");
}

#[test]
fn run_makes_a_pod_and_dry_runs_make_nothing() {
    let ns = Namespace::new("run");
    ns.ok(&["run", "once", "--restart=Never", "--image=test/busybox:1"]);
    let pod = ns.get("pod/once");
    let containers = pod["spec"]["containers"].as_array().unwrap();
    assert_eq!(
        (containers.len(), &containers[0]["image"], &pod["spec"]["restartPolicy"]),
        (1, &json!("test/busybox:1"), &json!("Never"))
    );
}

#[test]
fn server_side_dry_runs_change_nothing() {
    let ns = Namespace::new("dry-run");
    ns.ok(&["run", "web", "--image=test/busybox:1", "--labels=run=web", "--command", "--", "sleep", "3600"]);
    let patch = r#"{"spec":{"containers":[{"name": "web","image": "other:2"}]}}"#;
    let said =
        ns.ok(&["patch", "pod", "web", "-p", patch, "--dry-run=server", "-o", "jsonpath={.spec.containers[0].image}"]);
    assert_eq!(said, "other:2", "the answer is as if it had been done");
    assert_eq!(ns.field("pod/web", "{.spec.containers[0].image}"), "test/busybox:1");
    let said = ns.ok(&["create", "configmap", "m", "--dry-run=server"]);
    assert!(said.contains("created (server dry run)"), "{said}");
    assert!(ns.try_get("configmap/m").is_err());
    let said = ns.ok(&["delete", "pod", "web", "--dry-run=server"]);
    assert!(said.contains("server dry run"), "{said}");
    assert!(ns.try_get("pod/web").is_ok());
}

#[test]
fn diff_finds_a_difference() {
    let ns = Namespace::new("diff");
    let deployment = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}}, "spec": {"replicas": 1,
            "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}}})
        .to_string()
    };
    with_input(&ns, &["create", "-f", "-"], &deployment("test/one:1"));
    let mut diff = ns.command(&["diff", "-f", "-"]);
    let mut child = diff.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(deployment("test/two:2").as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("-      - image: test/one:1") && said.contains("+      - image: test/two:2"), "{said}");
    assert_eq!(with_input(&ns, &["diff", "-f", "-"], &deployment("test/one:1")), "", "and none where there is none");
}

#[test]
fn proxy_serves_a_free_port() {
    let ns = Namespace::new("proxy");
    let mut child =
        Serving(ns.command(&["proxy", "-p", "0", "--disable-filter"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
    let said = speak(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    assert!(said.contains("\"versions\"") && said.contains("\"v1\""), "{said}");
}

#[test]
fn proxy_serves_a_unix_socket() {
    let ns = Namespace::new("socket");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test");
    let words = format!("--unix-socket={}", path.display());
    let mut child = Serving(ns.command(&["proxy", &words]).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("Starting to serve on"), "{line}");
    let said = speak(std::os::unix::net::UnixStream::connect(&path).unwrap());
    assert!(said.contains("\"versions\"") && said.contains("\"v1\""), "{said}");
}

fn speak(mut stream: impl Read + Write) -> String {
    stream.write_all(b"GET /api/ HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains(" 200 "), "{said}");
    said
}

#[test]
fn logs_are_filtered() {
    let ns = Namespace::new("logs");
    let script = "i=0; while [ $i -lt 20 ]; do echo line $i of the generator; i=$((i+1)); done; sleep 3600";
    ns.ok(&["run", "generator", "--image=test/busybox:1", "--restart=Never", "--command", "--", "sh", "-c", script]);
    ns.until("pod/generator", "{.status.phase}", "Running");
    ns.eventually("the last line", || match ns.try_kubectl(&["logs", "generator"])? {
        said if said.contains("line 19 of") => Ok(()),
        said => Err(said),
    });
    let (logs, of) = ("logs", "generator");
    assert_eq!(ns.ok(&[logs, of, "generator"]).lines().count(), 20);
    assert_eq!(ns.ok(&[logs, of, "generator", "--tail=1"]), "line 19 of the generator\n");
    assert_eq!(ns.ok(&[logs, of, "generator", "--limit-bytes=1"]), "l");
    let stamped = ns.ok(&[logs, of, "generator", "--tail=1", "--timestamps"]);
    let (time, rest) = stamped.trim_end().split_once(' ').unwrap();
    assert_eq!(rest, "line 19 of the generator");
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T' && (time.ends_with('Z') || time.contains('+')), "{time}");
    ns.eventually("the lines are older than a second", || {
        match ns.try_kubectl(&[logs, of, "generator", "--since=1s"])? {
            said if said.is_empty() => Ok(()),
            said => Err(said),
        }
    });
    assert_eq!(ns.ok(&[logs, of, "generator", "--since=24h"]).lines().count(), 20);
}
