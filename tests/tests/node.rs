//! The node: what a container is given, how it is watched, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, busybox_pod as pod};

#[test]
fn a_pod_runs_and_its_status_tells_all() {
    let ns = Namespace::new("run");
    ns.create(&pod("p", "command: [sleep, '3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    let p = ns.get("pod/p");
    let status = &p["status"];
    assert_eq!(status["qosClass"], "BestEffort");
    assert!(status["podIP"].as_str().unwrap().starts_with("10."), "{status}");
    assert_eq!(status["podIPs"][0]["ip"], status["podIP"]);
    assert!(status["hostIP"].is_string() && status["startTime"].is_string(), "{status}");
    let c = &status["containerStatuses"][0];
    assert_eq!(
        (c["ready"].as_bool(), c["started"].as_bool(), c["restartCount"].as_u64()),
        (Some(true), Some(true), Some(0))
    );
    assert!(c["containerID"].as_str().unwrap().starts_with("containerd://"), "{c}");
    assert!(c["state"]["running"]["startedAt"].is_string() && !c["imageID"].as_str().unwrap().is_empty(), "{c}");
    for condition in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(
            ns.field("pod/p", &format!("{{.status.conditions[?(@.type=='{condition}')].status}}")),
            "True",
            "{condition}"
        );
    }
}

#[test]
fn environment_comes_from_every_source_and_is_expanded() {
    let ns = Namespace::new("env");
    ns.ok(&["create", "configmap", "cm", "--from-literal=color=blue", "--from-literal=size=big"]);
    ns.ok(&["create", "secret", "generic", "s", "--from-literal=word=hush"]);
    ns.create(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"l":"v"},"annotations":{"a":"note"}},"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"test/busybox:1",
        "command":["sh","-c","env; echo args:$0:$1:$2","$(PLAIN)","$$(PLAIN)","$(UNKNOWN)"],
        "resources":{"limits":{"memory":"64Mi","cpu":"250m"}},
        "envFrom":[{"prefix":"P_","configMapRef":{"name":"cm"}},{"configMapRef":{"name":"absent","optional":true}}],
        "env":[{"name":"PLAIN","value":"one"},{"name":"JOINED","value":"$(PLAIN)-two"},{"name":"COLOR","valueFrom":{"configMapKeyRef":{"name":"cm","key":"color"}}},
        {"name":"WORD","valueFrom":{"secretKeyRef":{"name":"s","key":"word"}}},{"name":"POD","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
        {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},{"name":"LABEL","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['l']"}}},
        {"name":"NODE","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}},{"name":"MEM","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"1Mi"}}},
        {"name":"CPU","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu","divisor":"1m"}}}]}]}}"#,
    );
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    let log = ns.ok(&["logs", "p"]);
    let ip = ns.field("pod/p", "{.status.podIP}");
    for line in [
        "PLAIN=one",
        "JOINED=one-two",
        "COLOR=blue",
        "WORD=hush",
        "POD=p",
        &format!("IP={ip}"),
        "LABEL=v",
        "MEM=64",
        "CPU=250",
        "P_color=blue",
        "P_size=big",
        "KUBERNETES_SERVICE_PORT=443",
        "args:one:$(PLAIN):$(UNKNOWN)",
    ] {
        assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
    }
}

#[test]
fn volumes_of_files_arrive_and_follow_their_sources() {
    let ns = Namespace::new("vol");
    ns.ok(&["create", "configmap", "cm", "--from-literal=a=1", "--from-literal=b=2"]);
    ns.ok(&["create", "secret", "generic", "s", "--from-literal=key=hush"]);
    ns.create(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"l":"v"}},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"test/busybox:1","command":["sleep","3600"],
        "volumeMounts":[{"name":"cm","mountPath":"/cm"},{"name":"s","mountPath":"/s"},{"name":"d","mountPath":"/d"},{"name":"all","mountPath":"/all"},{"name":"tmp","mountPath":"/tmp-mem"},{"name":"e","mountPath":"/e"},{"name":"cm","mountPath":"/one","subPath":"b"}]}],
        "volumes":[{"name":"cm","configMap":{"name":"cm"}},{"name":"s","secret":{"secretName":"s","defaultMode":256}},
        {"name":"d","downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}},
        {"name":"all","projected":{"sources":[{"configMap":{"name":"cm","items":[{"key":"a","path":"x/a"}]}},{"secret":{"name":"s"}}]}},
        {"name":"tmp","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},{"name":"e","emptyDir":{}}]}}"#,
    );
    ns.until("pod/p", "{.status.phase}", "Running");
    let sh = |script: &str| ns.ok(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(sh("cat /cm/a /cm/b /one /all/x/a /all/key"), "1221hush");
    assert_eq!(sh("cat /s/key; stat -L -c %a /s/key"), "hush400\n");
    assert_eq!(sh("cat /d/labels"), "l=\"v\"");
    assert!(sh("grep ' /tmp-mem ' /proc/mounts").starts_with("tmpfs"), "a Memory emptyDir is a tmpfs");
    sh("echo kept > /e/f && touch /tmp-mem/f");
    ns.ok(&["patch", "configmap", "cm", "--type=merge", "-p", r#"{"data":{"a":"changed"}}"#]);
    ns.ok(&["label", "pod", "p", "l=w", "--overwrite"]);
    ns.eventually("the files follow", || match sh("cat /cm/a /all/x/a /d/labels").as_str() {
        "changedchangedl=\"w\"" => Ok(()),
        other => Err(other.to_owned()),
    });
}

#[test]
fn the_service_account_token_speaks_to_the_api() {
    let ns = Namespace::new("token");
    ns.ok(&["create", "rolebinding", "v", "--clusterrole=view", &format!("--serviceaccount={}:default", ns.name)]);
    ns.create(&pod("p", "command: [sleep, '3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    let files = ns.ok(&["exec", "p", "--", "sh", "-c", &format!("cat {dir}/namespace; ls {dir}")]);
    assert!(files.starts_with(&ns.name) && files.contains("ca.crt") && files.contains("token"), "{files}");
    let token = ns.ok(&["exec", "p", "--", "cat", &format!("{dir}/token")]);
    // The administrator's certificate would win over the token.
    let nobody = ns.without_credentials();
    let who = nobody.ok(&["auth", "whoami", "--token", token.trim(), "-o", "jsonpath={.status.userInfo.username}"]);
    assert!(who.contains(&ns.name), "{who}");
}

#[test]
fn a_killed_container_is_restarted_and_the_last_state_says_why() {
    let ns = Namespace::new("heal");
    ns.create(&pod("p", "command: [sh, -c, 'trap \"\" TERM; echo started; sleep 3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    ns.eventually("it has said so", || match ns.log("p", "c") {
        Ok(said) if said == "started\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let id = ns.field("pod/p", "{.status.containerStatuses[0].containerID}");
    caravel_tests::kill_container(&id);
    ns.until("pod/p", "{.status.containerStatuses[0].restartCount}", "1");
    ns.until("pod/p", "{.status.containerStatuses[0].ready}", "true");
    let c = &ns.get("pod/p")["status"]["containerStatuses"][0];
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 137, "{c}");
    assert_eq!(c["lastState"]["terminated"]["reason"], "Error", "{c}");
    assert_eq!(ns.ok(&["logs", "p", "--previous"]), "started\n");
}

#[test]
fn a_crashing_container_backs_off_and_says_so() {
    let ns = Namespace::new("crash");
    ns.create(&pod("p", "command: [sh, -c, 'echo bye; exit 3']"));
    ns.until("pod/p", "{.status.containerStatuses[0].state.waiting.reason}", "CrashLoopBackOff");
    let c = &ns.get("pod/p")["status"]["containerStatuses"][0];
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 3, "{c}");
    assert!(c["restartCount"].as_u64().unwrap() >= 1, "{c}");
    assert!(ns.ok(&["get", "pods"]).contains("CrashLoopBackOff"));
    ns.eventually("an event tells of the back-off", || {
        let events = ns.ok(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        if events.contains("BackOff") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn restart_policies_decide_what_an_exit_means() {
    let ns = Namespace::new("policy");
    let never = |name: &str, code: u8| {
        pod(name, &format!("command: [sh, -c, 'exit {code}']")).replace("spec:", "spec:\n  restartPolicy: Never")
    };
    ns.create(&never("ok", 0));
    ns.create(&never("bad", 7));
    ns.until("pod/ok", "{.status.phase}", "Succeeded");
    ns.until("pod/bad", "{.status.phase}", "Failed");
    assert_eq!(ns.field("pod/bad", "{.status.containerStatuses[0].state.terminated.exitCode}"), "7");
    assert_eq!(ns.field("pod/ok", "{.status.containerStatuses[0].state.terminated.reason}"), "Completed");
}

#[test]
fn init_containers_run_first_and_in_order() {
    let ns = Namespace::new("init");
    ns.create(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Never",
        "initContainers":[{"name":"one","image":"test/busybox:1","command":["sh","-c","echo 1 >> /w/f"],"volumeMounts":[{"name":"w","mountPath":"/w"}]},
        {"name":"two","image":"test/busybox:1","command":["sh","-c","echo 2 >> /w/f"],"volumeMounts":[{"name":"w","mountPath":"/w"}]}],
        "containers":[{"name":"c","image":"test/busybox:1","command":["cat","/w/f"],"volumeMounts":[{"name":"w","mountPath":"/w"}]}],
        "volumes":[{"name":"w","emptyDir":{}}]}}"#,
    );
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    assert_eq!(ns.ok(&["logs", "p", "-c", "c"]), "1\n2\n");
    assert_eq!(ns.field("pod/p", "{.status.initContainerStatuses[*].state.terminated.exitCode}"), "0 0");
}

#[test]
fn probes_decide_readiness_and_life() {
    let ns = Namespace::new("probe");
    ns.create(&pod(
        "ready",
        "command: [sh, -c, 'sleep 3600']\n    readinessProbe: { exec: { command: [test, -e, /tmp/ok] }, periodSeconds: 1 }",
    ));
    ns.create(&pod(
        "alive",
        "command: [sh, -c, 'mkdir -p /tmp; touch /tmp/ok; sleep 3; rm /tmp/ok; sleep 3600']\n    livenessProbe: { exec: { command: [test, -e, /tmp/ok] }, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1 }",
    ));
    ns.until("pod/ready", "{.status.phase}", "Running");
    assert_eq!(ns.field("pod/ready", "{.status.conditions[?(@.type=='Ready')].status}"), "False");
    ns.ok(&["exec", "ready", "--", "sh", "-c", "mkdir -p /tmp; touch /tmp/ok"]);
    ns.until("pod/ready", "{.status.conditions[?(@.type=='Ready')].status}", "True");
    ns.ok(&["exec", "ready", "--", "rm", "/tmp/ok"]);
    ns.until("pod/ready", "{.status.conditions[?(@.type=='Ready')].status}", "False");
    ns.until("pod/alive", "{.status.containerStatuses[0].restartCount}", "1");
}

#[test]
fn a_pod_is_deleted_with_grace() {
    let ns = Namespace::new("grace");
    ns.create(&pod("p", "command: [sh, -c, 'trap \"echo term; exit 0\" TERM; while true; do sleep 0.1; done']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    ns.ok(&["delete", "pod", "p", "--timeout=20s"]);
    assert!(ns.fails(&["get", "pod", "p"]).contains("not found"));
}

#[test]
fn a_container_over_its_memory_is_killed_and_says_so() {
    let ns = Namespace::new("oom");
    ns.create(
        &pod("p", "command: [sh, -c, 'tail /dev/zero']\n    resources: { limits: { memory: 16Mi } }")
            .replace("spec:", "spec:\n  restartPolicy: Never"),
    );
    ns.until("pod/p", "{.status.containerStatuses[0].state.terminated.reason}", "OOMKilled");
    assert_eq!(ns.field("pod/p", "{.status.containerStatuses[0].state.terminated.exitCode}"), "137");
}

#[test]
fn an_image_that_cannot_be_had_says_so() {
    let ns = Namespace::new("image");
    ns.create(&pod("never", "imagePullPolicy: Never").replace("test/busybox:1", "test/absent:1"));
    ns.create(&pod("wrong", "command: [sh]").replace("test/busybox:1", "test/UPPER:x:y"));
    ns.until("pod/never", "{.status.containerStatuses[0].state.waiting.reason}", "ErrImageNeverPull");
    ns.until("pod/wrong", "{.status.containerStatuses[0].state.waiting.reason}", "InvalidImageName");
}

#[test]
fn logs_follow_tail_and_are_told_apart_by_container() {
    let ns = Namespace::new("logs");
    ns.create(&pod("p", "command: [sh, -c, 'for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done; sleep 3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    let mut follow = ns.command(&["logs", "-f", "p"]);
    let mut child = follow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for i in 1..=5 {
        assert_eq!(lines.next().unwrap().unwrap(), format!("line {i}"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ns.ok(&["logs", "p", "--tail=2"]), "line 4\nline 5\n");
    assert!(ns.ok(&["logs", "p", "--timestamps", "--tail=1"]).contains("Z line 5"));
    assert_eq!(ns.ok(&["logs", "p", "--limit-bytes=6"]), "line 1");
    assert!(ns.fails(&["logs", "p", "-c", "nobody"]).contains("nobody"));
}

#[test]
fn exec_carries_input_output_and_the_exit_code() {
    let ns = Namespace::new("exec");
    ns.create(&pod("p", "command: [sleep, '3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    assert_eq!(ns.try_with_input(&["exec", "-i", "p", "--", "sh", "-c", "tr a-z A-Z"], "loud").unwrap(), "LOUD");
    let out = ns.command(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 5"]).output().unwrap();
    assert_eq!(
        (out.status.code(), out.stdout.as_slice(), String::from_utf8_lossy(&out.stderr).contains("err")),
        (Some(5), b"out\n".as_slice(), true)
    );
    assert!(ns.fails(&["exec", "p", "--", "/no/such/program"]).contains("no such file"));
}
