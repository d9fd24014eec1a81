//! The life of Pods: from creation through probes, hooks, restarts and changes to their end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Health, Namespace, websocket};
use serde_json::{Value, json};
use std::time::Duration;

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = json!(1);
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},"spec":spec})
}

/// A shell that runs this script, with more fields.
fn shell(name: &str, script: &str, more: Value) -> Value {
    let mut c = json!({"name":name,"image":"test/busybox:1","command":["sh","-c",script]});
    for (key, value) in more.as_object().unwrap() {
        c[key] = value.clone();
    }
    c
}

/// The container's status, of whatever kind it is.
fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().flat_map(|l| pod["status"][l].as_array().into_iter().flatten());
    all.find(|s| s["name"] == container).unwrap_or(&Value::Null)
}

fn condition<'a>(pod: &'a Value, type_: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|c| c["type"] == type_).unwrap_or(&Value::Null)
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

fn seconds(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    let time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time = serde_json::from_value(json!(text)).unwrap();
    time.0.as_second()
}

/// Waits until the container's log is as wanted.
fn logged(ns: &Namespace, name: &str, container: &str, wanted: impl Fn(&str) -> bool) {
    ns.eventually(&format!("the log of {name}/{container}"), || {
        let log = ns.log(name, container)?;
        if wanted(&log) { Ok(()) } else { Err(log) }
    });
}

/// Hooks of both kinds at both ends of a container's life reach a server in another Pod.
#[test]
fn hooks_are_called_after_the_start_and_before_the_end() {
    let ns = Namespace::new("hooks");
    let answer = r#"read l; echo "$l" > /proc/1/fd/1; while read h && [ "$h" != "$(printf '\r')" ] && [ -n "$h" ]; do :; done; printf 'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok'"#;
    let server = json!({"name":"c","image":"test/busybox:1","command":["nc","-ll","-p","8080","-e","sh","-c",answer]});
    ns.make("pods", &pod("server", json!({"containers":[server]})));
    ns.until("pod/server", "{.status.phase}", "Running");
    let ip = ns.field("pod/server", "{.status.podIP}");
    let exec = |what: &str| json!({"exec":{"command":["sh","-c",format!("printf 'GET /{what} HTTP/1.0\\r\\n\\r\\n' | nc {ip} 8080")]}});
    let http = |what: &str| json!({"httpGet":{"host":ip,"port":8080,"path":format!("/echo?msg={what}"),"httpHeaders":[{"name":"X","value":"y"}]}});
    let wait = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let mut hooked = pod(
        "p",
        json!({"containers":[
        shell("a", wait, json!({"lifecycle":{"postStart":exec("poststart-exec"),"preStop":exec("prestop-exec")}})),
        shell("b", wait, json!({"lifecycle":{"postStart":http("poststart-http"),"preStop":http("prestop-http")}}))]}),
    );
    hooked["spec"]["terminationGracePeriodSeconds"] = json!(30);
    ns.make("pods", &hooked);
    ns.until_that("pod/p", is_ready);
    let both = |log: &str, what: &str| {
        log.contains(&format!("GET /{what}-exec ")) && log.contains(&format!("GET /echo?msg={what}-http "))
    };
    logged(&ns, "server", "c", |log| both(log, "poststart"));
    assert!(!ns.log("server", "c").unwrap().contains("prestop"));
    ns.wire().delete(&ns.path("pod/p"));
    ns.until_gone("pod/p");
    logged(&ns, "server", "c", |log| both(log, "prestop"));
}

/// A hook that fails after the start ends the container, which is told.
#[test]
fn a_failing_start_hook_restarts_the_container() {
    let ns = Namespace::new("badhook");
    ns.make("pods", &pod("p", json!({"containers":[shell("c", "sleep 3600", json!({"lifecycle":{"postStart":{"exec":{"command":["false"]}}}}))]})));
    ns.until_that("pod/p", |p| status(p, "c")["restartCount"].as_u64() >= Some(1));
    ns.eventually("an event tells of it", || {
        let (_, events) = ns.wire().get(&format!("/api/v1/namespaces/{}/events", ns.name));
        let told = events["items"].as_array().unwrap().iter().any(|e| e["reason"] == "FailedPostStartHook");
        if told { Ok(()) } else { Err(events.to_string()) }
    });
}

/// Probes of all four kinds that succeed, each after at least three looks.
#[test]
fn liveness_probes_that_succeed_let_the_container_be() {
    let ns = Namespace::new("steady");
    let fast = |probe: Value| {
        let mut probe = probe;
        for (key, value) in [("periodSeconds", 1), ("failureThreshold", 1), ("initialDelaySeconds", 1)] {
            probe[key] = json!(value);
        }
        json!({"livenessProbe": probe})
    };
    let hit = "echo hit > /proc/1/fd/1";
    let mut tcp = json!({"name":"tcp","image":"test/busybox:1","command":["nc","-ll","-p","8081","-e","sh","-c",hit]});
    tcp["livenessProbe"] = fast(json!({"tcpSocket":{"port":8081}}))["livenessProbe"].clone();
    let probe = "cat /tmp/health && echo hit > /proc/1/fd/1";
    ns.make("pods", &pod("p", json!({"containers":[
        shell("exec", "mkdir -p /tmp; echo ok > /tmp/health; sleep 3600", fast(json!({"exec":{"command":["sh","-c",probe]}}))),
        shell("http", "mkdir /www; echo hi > /www/index.html; exec httpd -f -v -p 8080 -h /www 2>&1", fast(json!({"httpGet":{"path":"/","port":8080}}))),
        tcp]})));
    ns.until("pod/p", "{.status.phase}", "Running");
    let host = ns.field("pod/p", "{.status.hostIP}");
    let health = Health::start(&host);
    ns.make("pods", &pod("grpc", json!({"hostNetwork":true,"containers":[shell("c", "sleep 3600", fast(json!({"grpc":{"port":health.port(),"service":"s"}})))]})));
    for (container, sign) in [("exec", "hit"), ("http", "response:200"), ("tcp", "hit")] {
        logged(&ns, "p", container, |log| log.matches(sign).count() >= 3);
    }
    ns.eventually("three gRPC checks", || if health.checks() >= 3 { Ok(()) } else { Err(health.checks().to_string()) });
    let (p, g) = (ns.get("pod/p"), ns.get("pod/grpc"));
    for (pod, container) in [(&p, "exec"), (&p, "http"), (&p, "tcp"), (&g, "c")] {
        assert_eq!(
            (&status(pod, container)["restartCount"], &status(pod, container)["ready"]),
            (&json!(0), &json!(true)),
            "{container}: {pod}"
        );
    }
}

/// Probes that fail: the file goes, the server answers 500, nobody listens. Counts of restarts only grow.
#[test]
fn liveness_probes_that_fail_restart_the_container_again_and_again() {
    let ns = Namespace::new("failing");
    let probe = |of: Value| {
        let mut probe = of;
        for (key, value) in [
            ("periodSeconds", 1),
            ("failureThreshold", 1),
            ("initialDelaySeconds", 1),
            ("terminationGracePeriodSeconds", 1),
        ] {
            probe[key] = json!(value);
        }
        json!({"livenessProbe": probe})
    };
    let answer = r#"read l; [ -e /tmp/bad ] && printf 'HTTP/1.0 500 No\r\n\r\n' || printf 'HTTP/1.0 200 OK\r\n\r\n'"#;
    let serve = format!(
        "trap 'exit 0' TERM; mkdir -p /tmp; (sleep 2; touch /tmp/bad) & nc -ll -p 8080 -e sh -c '{}' & wait $!",
        answer.replace('\'', r"'\''")
    );
    let wait = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    ns.make("pods", &pod("p", json!({"containers":[
        shell("exec", "trap 'exit 0' TERM; mkdir -p /tmp; echo ok > /tmp/health; sleep 2; rm /tmp/health; while true; do sleep 0.1; done", probe(json!({"exec":{"command":["cat","/tmp/health"]}}))),
        shell("http", &serve, probe(json!({"httpGet":{"path":"/healthz","port":8080}}))),
        shell("grpc", wait, probe(json!({"grpc":{"port":2333}})))]})));
    let watch = ns.wire().watch(&format!("/api/v1/namespaces/{}/pods?watch=true", ns.name));
    let mut seen = [0u64; 3];
    while seen[1] < 3 || seen[0] < 1 || seen[2] < 1 {
        let event = watch
            .next(Duration::from_secs(60))
            .unwrap_or_else(|| panic!("restarts so far: {seen:?}: {}", ns.get("pod/p")));
        for (i, container) in ["exec", "http", "grpc"].iter().enumerate() {
            let now = status(&event["object"], container)["restartCount"].as_u64().unwrap_or(0);
            assert!(now >= seen[i], "{container} went from {} restarts to {now}", seen[i]);
            seen[i] = now;
        }
    }
    let p = ns.get("pod/p");
    assert_eq!(p["status"]["phase"], "Running");
    let (_, events) = ns.wire().get(&format!("/api/v1/namespaces/{}/events", ns.name));
    let told = |reason: &str, text: &str| {
        events["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|e| e["reason"] == reason && e["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    assert!(
        told("Unhealthy", "HTTP probe failed with statuscode: 500")
            && told("Killing", "failed liveness probe, will be restarted"),
        "{events:#}"
    );
}

#[test]
fn a_readiness_probe_waits_and_never_restarts() {
    let ns = Namespace::new("readiness");
    let probe = |delay: u8, command: &str| json!({"readinessProbe":{"exec":{"command":["sh","-c",command]},"initialDelaySeconds":delay,"periodSeconds":1,"failureThreshold":1}});
    let count = "mkdir -p /tmp; echo > /tmp/n; while true; do [ $(wc -l < /tmp/n) -gt 3 ] && echo enough && sleep 3600; sleep 0.1; done";
    ns.make("pods", &pod("late", json!({"containers":[shell("c", "sleep 3600", probe(4, "true"))]})));
    ns.make("pods", &pod("never", json!({"containers":[shell("c", count, probe(0, "echo >> /tmp/n; false"))]})));
    let watch =
        ns.wire().watch(&format!("/api/v1/namespaces/{}/pods?watch=true&fieldSelector=metadata.name%3Dnever", ns.name));
    logged(&ns, "never", "c", |log| log.contains("enough"));
    let never = ns.get("pod/never");
    assert_eq!(
        (is_ready(&never), &status(&never, "c")["restartCount"], &never["status"]["phase"]),
        (false, &json!(0), &json!("Running"))
    );
    while let Some(event) = watch.next(Duration::ZERO) {
        assert!(!is_ready(&event["object"]), "{event}");
    }
    let late = ns.until_that("pod/late", is_ready);
    let started = seconds(&status(&late, "c")["state"]["running"]["startedAt"]);
    let ready = seconds(&condition(&late, "Ready")["lastTransitionTime"]);
    assert!(ready - started >= 4, "ready {} s after the start", ready - started);
    assert_eq!(status(&late, "c")["restartCount"], 0);
}

/// The same program under the three restart policies: it fails, then ends well, then runs on.
#[test]
fn what_an_exit_means_depends_on_the_restart_policy() {
    let ns = Namespace::new("exits");
    let script =
        "n=$(cat /v/n 2>/dev/null | wc -l); echo x >> /v/n; [ $n = 0 ] && exit 1; [ $n = 1 ] && exit 0; sleep 3600";
    let run = |policy: &str| {
        let name = policy.to_lowercase();
        ns.make(
            "pods",
            &pod(
                &name,
                json!({"restartPolicy":policy,"volumes":[{"name":"v","emptyDir":{}}],
            "containers":[shell("c", script, json!({"volumeMounts":[{"name":"v","mountPath":"/v"}]}))]}),
            ),
        );
        format!("pod/{name}")
    };
    let [always, on_failure, never] = ["Always", "OnFailure", "Never"].map(run);
    for (what, phase, restarts, ready, state) in [
        (&never, "Failed", 0, false, "terminated"),
        (&on_failure, "Succeeded", 1, false, "terminated"),
        (&always, "Running", 2, true, "running"),
    ] {
        let p = ns.until_that(what, |p| {
            p["status"]["phase"] == phase && status(p, "c")["restartCount"] == restarts && is_ready(p) == ready
        });
        assert!(status(&p, "c")["state"][state].is_object(), "{p:#}");
    }
    let (f, s) = (ns.get(&never), ns.get(&on_failure));
    assert_eq!(
        (&status(&f, "c")["state"]["terminated"]["exitCode"], &status(&s, "c")["state"]["terminated"]["exitCode"]),
        (&json!(1), &json!(0))
    );
}

/// What a program that always fails leaves: a reason, times in their order, its output; and it can be deleted.
#[test]
fn a_failed_pod_says_why_and_can_be_deleted() {
    let ns = Namespace::new("fails");
    ns.make("pods", &pod("p", json!({"restartPolicy":"Never","containers":[shell("c", "echo 'Hello World'; echo x 2>/dev/null > /file; exit 1", json!({"securityContext":{"readOnlyRootFilesystem":true}}))]})));
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Failed");
    let ended = &status(&p, "c")["state"]["terminated"];
    assert_eq!((ended["exitCode"].as_u64(), ended["reason"].as_str()), (Some(1), Some("Error")), "{ended}");
    assert!(seconds(&ended["startedAt"]) <= seconds(&ended["finishedAt"]));
    assert_eq!(ns.log("p", "c").unwrap(), "Hello World\n");
    assert_eq!(ns.wire().delete(&ns.path("pod/p")).0, 200);
    ns.until_gone("pod/p");
}

/// Init containers succeed, one after the other, under both policies.
#[test]
fn init_containers_come_before_the_others() {
    let ns = Namespace::new("inits");
    let spec = |policy: &str, script: &str| {
        json!({"restartPolicy":policy,"initContainers":[shell("init1", "true", json!({})), shell("init2", "true", json!({}))],
        "containers":[shell("run1", script, json!({"resources":{"limits":{"cpu":"100m"}}}))]})
    };
    ns.make("pods", &pod("never", spec("Never", "true")));
    ns.make("pods", &pod("always", spec("Always", "sleep 3600")));
    let watch = ns.wire().watch(&format!("/api/v1/namespaces/{}/pods?watch=true", ns.name));
    let done = |p: &Value, name: &str| status(p, name)["state"]["terminated"]["exitCode"] == 0;
    for _ in 0..2 {
        watch.until("a Pod that is through", |e| {
            let p = &e["object"];
            let run = &status(p, "run1")["state"];
            if done(p, "init1") && done(p, "init2") && (run["running"].is_object() || run["terminated"].is_object()) {
                let policy = p["spec"]["restartPolicy"].as_str().unwrap();
                return p["status"]["phase"] == if policy == "Never" { "Succeeded" } else { "Running" };
            }
            assert!(run["waiting"].is_object() || run.is_null() || done(p, "init1"), "run1 is ahead: {p:#}");
            false
        });
    }
    let (n, a) = (ns.get("pod/never"), ns.get("pod/always"));
    for p in [&n, &a] {
        assert_eq!(condition(p, "Initialized")["status"], "True", "{p:#}");
        for init in ["init1", "init2"] {
            assert_eq!(
                (&status(p, init)["ready"], status(p, init)["state"]["terminated"]["reason"].as_str()),
                (&json!(true), Some("Completed"))
            );
        }
        let [one, two] = ["init1", "init2"].map(|i| seconds(&status(p, i)["state"]["terminated"]["finishedAt"]));
        assert!(one <= two);
    }
    assert_eq!(condition(&n, "Initialized")["reason"], "PodCompleted");
}

/// While init containers fail nothing else starts: forever under `Always`, and the Pod fails under `Never`.
#[test]
fn failing_init_containers_keep_the_others_from_starting() {
    let ns = Namespace::new("badinit");
    ns.make("pods", &pod("always", json!({"restartPolicy":"Always","initContainers":[shell("init1", "false", json!({})), shell("init2", "true", json!({}))],
        "containers":[shell("run1", "sleep 3600", json!({}))]})));
    ns.make("pods", &pod("never", json!({"restartPolicy":"Never","initContainers":[shell("init1", "true", json!({})), shell("init2", "false", json!({}))],
        "containers":[shell("run1", "true", json!({}))]})));
    let watch = ns.wire().watch(&format!("/api/v1/namespaces/{}/pods?watch=true", ns.name));
    let waits = |p: &Value, name: &str| {
        let s = status(p, name);
        assert!(s.is_null() || s["state"]["waiting"]["reason"] == "PodInitializing", "{name} of {p:#}");
    };
    let (mut failed, mut restarts) = (false, 0);
    while !failed || restarts < 2 {
        let event = watch.next(Duration::from_secs(60)).expect("both Pods go on");
        let p = &event["object"];
        waits(p, "run1");
        if p["metadata"]["name"] == "never" {
            failed |= p["status"]["phase"] == "Failed";
        } else {
            waits(p, "init2");
            assert!(matches!(p["status"]["phase"].as_str(), None | Some("Pending")), "{p:#}");
            restarts = restarts.max(status(p, "init1")["restartCount"].as_u64().unwrap_or(0));
        }
    }
    let (n, a) = (ns.get("pod/never"), ns.get("pod/always"));
    for (p, incomplete) in [(&n, "[init2]"), (&a, "[init1 init2]")] {
        let c = condition(p, "Initialized");
        assert_eq!(
            (c["status"].as_str(), c["reason"].as_str()),
            (Some("False"), Some("ContainersNotInitialized")),
            "{p:#}"
        );
        assert_eq!(c["message"], format!("containers with incomplete status: {incomplete}"));
    }
    assert_eq!(
        (
            &status(&n, "init1")["state"]["terminated"]["exitCode"],
            &status(&n, "init2")["state"]["terminated"]["exitCode"]
        ),
        (&json!(0), &json!(1))
    );
    assert!(status(&a, "init1")["lastState"]["terminated"]["exitCode"] == 1, "{a:#}");
}

/// A sidecar starts before the others and ends after them, and a Pod whose others are done does not wait for it.
#[test]
fn sidecars_start_first_and_end_last() {
    let ns = Namespace::new("sidecar");
    let told = json!({"volumeMounts":[{"name":"v","mountPath":"/v"}]});
    let mut side = shell(
        "side",
        "trap 'cat /v/main > /proc/1/fd/1; exit 0' TERM; echo up > /v/side; while true; do sleep 0.1; done",
        told.clone(),
    );
    side["restartPolicy"] = json!("Always");
    side["startupProbe"] = json!({"exec":{"command":["test","-e","/v/side"]},"periodSeconds":1});
    let mut p = pod(
        "p",
        json!({"restartPolicy":"Never","volumes":[{"name":"v","emptyDir":{}}],
        "initContainers":[side, shell("init", "cat /v/side", told.clone())],
        "containers":[shell("main", "cat /v/side; echo 'main was here' > /v/main", told)]}),
    );
    p["spec"]["terminationGracePeriodSeconds"] = json!(20);
    ns.make("pods", &p);
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(
        (ns.log("p", "init").unwrap(), ns.log("p", "main").unwrap(), ns.log("p", "side").unwrap()),
        ("up\n".into(), "up\n".into(), "main was here\n".into())
    );
    assert!(
        seconds(&status(&p, "side")["state"]["terminated"]["finishedAt"])
            >= seconds(&status(&p, "main")["state"]["terminated"]["finishedAt"])
    );
}

/// Two debugging containers, one by a patch and one by a PUT of the subresource.
#[test]
fn ephemeral_containers_join_a_running_pod() {
    let ns = Namespace::new("debug");
    ns.make(
        "pods",
        &pod("p", json!({"shareProcessNamespace":false,"containers":[shell("main", "sleep 3600", json!({}))]})),
    );
    ns.until("pod/p", "{.status.phase}", "Running");
    let door = format!("{}/ephemeralcontainers", ns.path("pod/p"));
    let debugger = |name: &str| json!({"name":name,"image":"test/busybox:1","command":["sh","-c","while true; do echo polo; sleep 1; done"],"targetContainerName":"main","stdin":true,"tty":true});
    let (code, said) = ns.wire().strategic(&door, &json!({"spec":{"ephemeralContainers":[debugger("one")]}}));
    assert_eq!(code, 200, "{said}");
    ns.until_that("pod/p", |p| status(p, "one")["state"]["running"].is_object());
    logged(&ns, "p", "one", |log| log.contains("polo"));
    let mut p = ns.get("pod/p");
    assert_eq!(p["spec"]["ephemeralContainers"].as_array().unwrap().len(), 1);
    p["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(debugger("two"));
    let (code, said) = ns.wire().put(&door, &p);
    assert_eq!((code, said["spec"]["ephemeralContainers"].as_array().map(Vec::len)), (200, Some(2)), "{said}");
    let p = ns.until_that("pod/p", |p| status(p, "two")["state"]["running"].is_object());
    assert!(status(&p, "one")["state"]["running"].is_object() && status(&p, "main")["restartCount"] == 0, "{p:#}");
}

/// Seen through a watch and a selector: created, running, deleted with grace, gone.
#[test]
fn a_pod_is_watched_from_its_creation_to_its_end() {
    let ns = Namespace::new("watched");
    let all = format!("/api/v1/namespaces/{}/pods?labelSelector=time%3Dnow", ns.name);
    let (_, none) = ns.wire().get(&all);
    assert_eq!(none["items"].as_array().map(Vec::len), Some(0));
    let version = none["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = ns.wire().watch(&format!("{all}&watch=true&resourceVersion={version}"));
    let mut p = pod(
        "p",
        json!({"containers":[shell("c", "trap 'sleep 1; exit 0' TERM; while true; do sleep 0.1; done", json!({}))]}),
    );
    p["metadata"]["labels"] = json!({"time":"now"});
    p["spec"]["terminationGracePeriodSeconds"] = json!(30);
    ns.make("pods", &p);
    assert_eq!(watch.next(Duration::from_secs(30)).unwrap()["type"], "ADDED");
    let (_, one) = ns.wire().get(&all);
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
    let running = watch.until("running", |e| e["object"]["status"]["phase"] == "Running");
    let ip: std::net::IpAddr = running["object"]["status"]["hostIP"].as_str().unwrap().parse().unwrap();
    assert!(!ip.is_unspecified());
    // A label is changed while it runs.
    let mut now = ns.get("pod/p");
    now["metadata"]["labels"]["time"] = json!("now");
    now["metadata"]["labels"]["extra"] = json!("yes");
    assert_eq!(ns.wire().put(&ns.path("pod/p"), &now).0, 200);
    let (_, by_label) = ns.wire().get(&format!("/api/v1/namespaces/{}/pods?labelSelector=extra%3Dyes", ns.name));
    assert_eq!(by_label["items"].as_array().map(Vec::len), Some(1));
    let (code, said) = ns
        .wire()
        .delete_with(&ns.path("pod/p"), &json!({"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":30}));
    assert_eq!((code, &said["spec"]["terminationGracePeriodSeconds"]), (200, &json!(30)));
    let deletion = &said["metadata"]["deletionTimestamp"];
    assert!(deletion.is_string(), "{said}");
    let last = watch.until("deleted", |e| e["type"] == "DELETED");
    assert!(
        last["object"]["metadata"]["deletionTimestamp"].is_string()
            && last["object"]["spec"]["terminationGracePeriodSeconds"] == 30
    );
    let (_, none) = ns.wire().get(&all);
    assert_eq!(none["items"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_deadline_that_is_set_later_ends_the_pod() {
    let ns = Namespace::new("deadline");
    ns.make("pods", &pod("p", json!({"containers":[shell("c", "sleep 3600", json!({}))]})));
    ns.until("pod/p", "{.status.phase}", "Running");
    let (code, said) = ns.wire().strategic(&ns.path("pod/p"), &json!({"spec":{"activeDeadlineSeconds":5}}));
    assert_eq!(code, 200, "{said}");
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Failed");
    assert_eq!(p["status"]["reason"], "DeadlineExceeded");
}

#[test]
fn a_pod_knows_the_services_of_its_namespace() {
    let ns = Namespace::new("svcenv");
    ns.make("services", &json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"fooservice"},"spec":{"selector":{"a":"b"},"ports":[{"port":8765,"targetPort":8080}]}}));
    let ip = ns.field("service/fooservice", "{.spec.clusterIP}");
    let wanted: Vec<String> = [
        ("SERVICE_HOST", ip.clone()),
        ("SERVICE_PORT", "8765".into()),
        ("PORT", format!("tcp://{ip}:8765")),
        ("PORT_8765_TCP_PORT", "8765".into()),
        ("PORT_8765_TCP_PROTO", "tcp".into()),
        ("PORT_8765_TCP", format!("tcp://{ip}:8765")),
        ("PORT_8765_TCP_ADDR", ip.clone()),
    ]
    .map(|(k, v)| format!("FOOSERVICE_{k}={v}"))
    .into();
    // A node may learn of a Service a moment after its Pod.
    let attempt = std::cell::Cell::new(0);
    ns.eventually("the variables are there", || {
        attempt.set(attempt.get() + 1);
        let name = format!("p{}", attempt.get());
        ns.make("pods", &pod(&name, json!({"restartPolicy":"Never","containers":[shell("c", "env", json!({}))]})));
        ns.until(&format!("pod/{name}"), "{.status.phase}", "Succeeded");
        let env = ns.log(&name, "c")?;
        if wanted.iter().all(|w| env.lines().any(|l| l == w)) { Ok(()) } else { Err(env) }
    });
    assert!(attempt.get() <= 3);
}

#[test]
fn a_collection_of_pods_is_deleted() {
    let ns = Namespace::new("collection");
    for i in 1..=3 {
        let mut p = pod(
            &format!("test-pod-{i}"),
            json!({"restartPolicy":"Never","containers":[shell("c", "sleep 3600", json!({}))]}),
        );
        p["metadata"]["labels"] = json!({"type":"Testing"});
        ns.make("pods", &p);
    }
    ns.make("pods", &pod("other", json!({"containers":[shell("c", "sleep 3600", json!({}))]})));
    for i in 1..=3 {
        ns.until_that(&format!("pod/test-pod-{i}"), is_ready);
    }
    let all = format!("/api/v1/namespaces/{}/pods?labelSelector=type%3DTesting", ns.name);
    let (code, said) =
        ns.wire().delete_with(&all, &json!({"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":1}));
    assert_eq!(code, 200, "{said}");
    ns.eventually("none is left", || match ns.wire().get(&all).1["items"].as_array().map(Vec::len) {
        Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(ns.try_get("pod/other").is_ok());
}

/// Somebody else writes a Pod's status: it is answered as written, the Pod can be changed, and deleted by its label.
#[test]
fn pods_and_their_status_can_be_written() {
    let ns = Namespace::new("podstatus");
    let mut p = pod("p", json!({"containers":[shell("c", "sleep 3600", json!({}))]}));
    p["metadata"]["labels"] = json!({"test-pod-static":"true"});
    ns.make("pods", &p);
    ns.until_that("pod/p", is_ready);
    let path = ns.path("pod/p");
    let patch = json!({"metadata":{"labels":{"test-pod":"patched"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"c","image":"docker.io/test/busybox:1"}]}});
    let (code, said) = ns.wire().strategic(&path, &patch);
    assert_eq!(
        (code, &said["metadata"]["labels"]["test-pod"], &said["spec"]["containers"][0]["image"]),
        (200, &json!("patched"), &json!("docker.io/test/busybox:1")),
        "{said}"
    );
    // The image's name changed, so the container starts again.
    ns.until_that("pod/p", |p| is_ready(p) && status(p, "c")["restartCount"] == 1);
    let door = format!("{path}/status");
    ns.eventually("the status is replaced", || {
        let (_, mut now) = ns.wire().get(&door);
        for c in now["status"]["conditions"].as_array_mut().unwrap() {
            if c["type"] == "Ready" || c["type"] == "ContainersReady" {
                c["status"] = json!("False");
            }
        }
        let (code, said) = ns.wire().put(&door, &now);
        if code != 200 {
            return Err(said.to_string());
        }
        let falses = ["Ready", "ContainersReady"].iter().all(|t| condition(&said, t)["status"] == "False");
        if falses { Ok(()) } else { Err(said.to_string()) }
    });
    let (code, said) = ns.wire().strategic(&door, &json!({"status":{"message":"Patched by e2e test","reason":"E2E"}}));
    assert_eq!(
        (code, &said["status"]["message"], &said["status"]["reason"]),
        (200, &json!("Patched by e2e test"), &json!("E2E"))
    );
    // The node puts its own word back.
    ns.until_that("pod/p", is_ready);
    let watch = ns
        .wire()
        .watch(&format!("/api/v1/namespaces/{}/pods?watch=true&labelSelector=test-pod-static%3Dtrue", ns.name));
    let all = format!("/api/v1/namespaces/{}/pods?labelSelector=test-pod-static%3Dtrue", ns.name);
    assert_eq!(
        ns.wire().delete_with(&all, &json!({"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":1})).0,
        200
    );
    watch.until("the Pod deleted", |e| e["type"] == "DELETED");
    assert!(ns.try_get("pod/p").unwrap_err().contains("NotFound"));
}

#[test]
fn commands_and_logs_go_over_web_sockets() {
    let ns = Namespace::new("websocket");
    ns.make("pods", &pod("p", json!({"containers":[shell("main", "echo container is alive; sleep 3600", json!({}))]})));
    ns.until("pod/p", "{.status.phase}", "Running");
    logged(&ns, "p", "main", |log| log == "container is alive\n");
    let path = ns.path("pod/p");
    let exec = format!("{path}/exec?stderr=1&stdout=1&container=main&command=echo&command=remote%20execution%20test");
    let said = websocket(ns.wire(), &exec, "channel.k8s.io");
    let stdout: Vec<u8> = said.iter().filter(|m| m.first() == Some(&1)).flat_map(|m| m[1..].to_vec()).collect();
    assert_eq!(String::from_utf8_lossy(&stdout), "remote execution test\n");
    assert!(said.iter().all(|m| m.len() <= 1 || m[0] == 1), "{said:?}");
    let log = websocket(ns.wire(), &format!("{path}/log?container=main"), "binary.k8s.io").concat();
    assert_eq!(String::from_utf8_lossy(&log), "container is alive\n");
}

/// Generations: one at the start whatever the client says, one more for each change of the spec and for the deletion,
/// and the node says which it has seen.
#[test]
fn generations_count_changes_of_the_spec_and_are_observed() {
    let ns = Namespace::new("generation");
    let mut p = pod(
        "p",
        json!({"initContainers":[shell("init", "true", json!({}))],"containers":[shell("c", "trap 'sleep 3' TERM; while true; do sleep 0.1; done", json!({}))]}),
    );
    p["metadata"]["generation"] = json!(100);
    p["spec"]["terminationGracePeriodSeconds"] = json!(30);
    assert_eq!(ns.make("pods", &p)["metadata"]["generation"], 1);
    ns.until_that("pod/p", |p| p["status"]["phase"] == "Running" && p["status"]["observedGeneration"] == 1);
    let update = |change: &dyn Fn(&mut Value)| {
        ns.eventually("the update", || {
            let mut now = ns.get("pod/p");
            change(&mut now);
            match ns.wire().put(&ns.path("pod/p"), &now) {
                (200, said) => Ok(said["metadata"]["generation"].as_u64().unwrap()),
                (_, said) => Err(said.to_string()),
            }
        })
    };
    let tolerate = |now: &mut Value| {
        now["spec"]["tolerations"]
            .as_array_mut()
            .unwrap()
            .push(json!({"key":"foo","operator":"Equal","value":"bar","effect":"NoSchedule"}));
    };
    let image =
        |list: &'static str| move |now: &mut Value| now["spec"][list][0]["image"] = json!("docker.io/test/busybox:1");
    assert_eq!(update(&|_| {}), 1);
    assert_eq!(update(&tolerate), 2);
    assert_eq!(update(&|now| now["spec"]["activeDeadlineSeconds"] = json!(5000)), 3);
    assert_eq!(update(&image("containers")), 4);
    assert_eq!(update(&image("initContainers")), 5);
    assert_eq!(update(&|now| now["metadata"]["annotations"] = json!({"key":"value"})), 5);
    assert_eq!(update(&|now| now["metadata"]["generation"] = json!(1)), 5);
    let p = ns.until_that("pod/p", |p| p["status"]["observedGeneration"] == 5 && is_ready(p));
    assert_eq!(condition(&p, "Ready")["observedGeneration"], 5);
    let (code, said) = ns.wire().delete(&ns.path("pod/p"));
    assert_eq!((code, said["metadata"]["generation"].as_u64()), (200, Some(6)));
    let seen = ns.get("pod/p");
    assert_eq!(seen["metadata"]["generation"], 6);
}

#[test]
fn five_hundred_changes_are_observed_in_the_end() {
    let ns = Namespace::new("changes");
    ns.make(
        "pods",
        &pod("p", json!({"activeDeadlineSeconds":10000,"containers":[shell("c", "sleep 3600", json!({}))]})),
    );
    ns.until("pod/p", "{.status.phase}", "Running");
    let path = ns.path("pod/p");
    for i in 1..500 {
        let (code, said) = ns.wire().merge(&path, &json!({"spec":{"activeDeadlineSeconds":10000 - i}}));
        assert_eq!((code, said["metadata"]["generation"].as_u64()), (200, Some(i + 1)), "{said}");
    }
    ns.until_that("pod/p", |p| p["metadata"]["generation"] == 500 && p["status"]["observedGeneration"] == 500);
}

#[test]
fn the_class_of_service_is_set_at_creation() {
    let ns = Namespace::new("qos");
    let resources = json!({"limits":{"cpu":"100m","memory":"100Mi"},"requests":{"cpu":"100m","memory":"100Mi"}});
    let made =
        ns.make("pods", &pod("p", json!({"containers":[shell("c", "sleep 3600", json!({"resources":resources}))]})));
    assert_eq!(made["status"]["qosClass"], "Guaranteed");
    let burstable = json!({"requests":{"cpu":"10m"}});
    let made =
        ns.make("pods", &pod("q", json!({"containers":[shell("c", "sleep 3600", json!({"resources":burstable}))]})));
    assert_eq!(made["status"]["qosClass"], "Burstable");
}

/// `/etc/hosts` is the node's to write in a Pod with a network of its own, unless a container mounts one itself.
#[test]
fn the_hosts_file_is_managed_where_nobody_else_does() {
    let ns = Namespace::new("hosts");
    let cat = |name: &str, own: bool| {
        let mut mounts = vec![json!({"name":"host","mountPath":"/etc/hosts-original"})];
        if own {
            mounts.push(json!({"name":"host","mountPath":"/etc/hosts"}));
        }
        shell(
            name,
            "cmp -s /etc/hosts /etc/hosts-original && echo same; cat /etc/hosts",
            json!({"volumeMounts":mounts}),
        )
    };
    let volume = json!([{"name":"host","hostPath":{"path":"/etc/hosts","type":"File"}}]);
    ns.make("pods", &pod("p", json!({"restartPolicy":"Never","volumes":volume,"hostAliases":[{"ip":"123.45.67.89","hostnames":["foo","bar"]}],"containers":[cat("a", false), cat("b", false), cat("own", true)]})));
    ns.make("pods", &pod("host", json!({"restartPolicy":"Never","hostNetwork":true,"volumes":volume,"containers":[cat("a", false), cat("b", false)]})));
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Succeeded");
    ns.until("pod/host", "{.status.phase}", "Succeeded");
    const MARK: &str = "# Kubernetes-managed hosts file.";
    for c in ["a", "b"] {
        let log = ns.log("p", c).unwrap();
        assert!(
            log.starts_with(MARK) && log.contains(&format!("{}\tp\n", p["status"]["podIP"].as_str().unwrap())),
            "{log}"
        );
        assert!(log.contains("123.45.67.89\tfoo\tbar\n"), "{log}");
        assert!(!ns.log("host", c).unwrap().contains(MARK));
    }
    let own = ns.log("p", "own").unwrap();
    assert!(own.starts_with("same\n") && !own.contains(MARK), "{own}");
}

/// The end of one container starts the whole Pod anew, init containers first, in the same sandbox (KEP-5532).
#[test]
fn one_end_restarts_all_containers() {
    let ns = Namespace::new("restart-all");
    let mount = json!({"volumeMounts":[{"name":"d","mountPath":"/d"}]});
    let init = shell("init", "hostname -i >> /d/init", mount.clone());
    let main = shell("main", "echo up >> /d/main; exec sleep 3600", mount.clone());
    let mut trigger = shell(
        "trigger",
        "test -f /d/once && exec sleep 3600; until test -f /d/main; do sleep 0.1; done; touch /d/once; exit 42",
        mount,
    );
    trigger["restartPolicy"] = json!("Never");
    trigger["restartPolicyRules"] =
        json!([{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}}]);
    let volumes = json!([{"name":"d","emptyDir":{}}]);
    let spec = json!({"restartPolicy":"Never","initContainers":[init],"containers":[main,trigger],"volumes":volumes});
    ns.make("pods", &pod("p", spec));
    let p = ns.until_that("pod/p", |p| {
        assert!(!matches!(p["status"]["phase"].as_str(), Some("Failed" | "Succeeded")), "{}", p["status"]);
        is_ready(p) && ["init", "main", "trigger"].iter().all(|c| status(p, c)["restartCount"] == 1)
    });
    assert_eq!(status(&p, "trigger")["lastState"]["terminated"]["exitCode"], 42);
    assert_eq!(condition(&p, "AllContainersRestarting")["status"], "False");
    let ip = p["status"]["podIP"].as_str().unwrap();
    assert_eq!(ns.ok(&["exec", "p", "-c", "main", "--", "cat", "/d/init"]).trim(), format!("{ip}\n{ip}"));
}

/// Containers that end at once, many side by side: every end is told, none waits for the node's rare look at everything.
#[test]
fn no_exit_is_lost() {
    let ns = Namespace::new("nolost");
    for p in 0..4 {
        let containers: Vec<Value> =
            (0..15).map(|i| json!({"name":format!("c{i}"),"image":"test/busybox:1","command":["true"]})).collect();
        ns.make(
            "pods",
            &pod(
                &format!("p{p}"),
                json!({"restartPolicy":"Never","automountServiceAccountToken":false,"containers":containers}),
            ),
        );
    }
    for p in 0..4 {
        ns.until(&format!("pod/p{p}"), "{.status.phase}", "Succeeded");
    }
}
