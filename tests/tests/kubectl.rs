//! Stock kubectl, verb by verb, against a cluster that runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, busybox_pod as pod};

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  labels: { a: b }\ndata: { k: v }\n";

#[test]
fn apply_is_idempotent_and_merges_three_ways() {
    let ns = Namespace::new("apply");
    assert!(ns.apply(CONFIG).contains("created"));
    assert!(ns.apply(CONFIG).contains("unchanged"));
    ns.ok(&["patch", "configmap", "c", "--type=merge", "-p", r#"{"data":{"mine":"kept"}}"#]);
    assert!(ns.apply(&CONFIG.replace("k: v", "k2: v2")).contains("configured"));
    let data = ns.get("configmap/c")["data"].clone();
    assert_eq!(
        data,
        serde_json::json!({"k2": "v2", "mine": "kept"}),
        "what apply set is removed, what another set is kept"
    );
}

#[test]
fn get_prints_every_form() {
    let ns = Namespace::new("get");
    ns.apply(CONFIG);
    let plain = ns.ok(&["get", "configmaps"]);
    assert!(plain.starts_with("NAME") && plain.contains("DATA") && plain.contains("AGE"), "{plain}");
    assert!(ns.ok(&["get", "cm", "c", "-o", "yaml"]).contains("kind: ConfigMap"));
    assert_eq!(ns.ok(&["get", "cm", "c", "-o", "jsonpath={.data.k}"]), "v");
    assert_eq!(ns.ok(&["get", "cm", "c", "-o", "custom-columns=N:.metadata.name", "--no-headers"]).trim(), "c");
    assert!(ns.ok(&["get", "cm", "-A"]).starts_with("NAMESPACE"));
    assert!(ns.ok(&["get", "cm", "-l", "a=b", "-o", "name"]).contains("configmap/c"));
    assert_eq!(ns.ok(&["get", "cm", "-l", "a!=b,a", "-o", "name"]), "");
    assert!(ns.ok(&["get", "cm", "--field-selector=metadata.name=c", "-o", "name"]).contains("configmap/c"));
    assert!(ns.ok(&["get", "all"]).is_empty());
    assert!(ns.ok(&["get", "nodes", "-o", "wide"]).contains("CONTAINER-RUNTIME"));
    assert!(ns.fails(&["get", "cm", "absent"]).contains("configmaps \"absent\" not found"));
    assert!(ns.fails(&["get", "nonsense"]).contains("doesn't have a resource type \"nonsense\""));
}

#[test]
fn a_watch_prints_what_happens() {
    let ns = Namespace::new("watch");
    let mut command = ns.command(&["get", "configmap", "-w", "-o", "name"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    ns.apply(CONFIG);
    let seen = lines.by_ref().find(|l| l.as_ref().unwrap().contains("configmap/c"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen.is_some());
}

#[test]
fn describe_and_explain_tell() {
    let ns = Namespace::new("describe");
    ns.create(&pod("p", "command: [sleep, '3600']"));
    ns.until("pod/p", "{.status.phase}", "Running");
    ns.eventually("the events of a Pod's start", || {
        let told = ns.ok(&["describe", "pod", "p"]);
        let all = ["Scheduled", "Created", "Started", "QoS Class", "Node:", "IP:"].iter().all(|w| told.contains(w));
        if all { Ok(()) } else { Err(told) }
    });
    let node = ns.ok(&["get", "pod", "p", "-o", "jsonpath={.spec.nodeName}"]);
    assert!(ns.ok(&["describe", "node", &node]).contains("Allocated resources"));
    assert!(ns.ok(&["explain", "deployment.spec.strategy"]).contains("FIELD: strategy"));
    assert!(ns.ok(&["explain", "pod", "--recursive"]).contains("containers"));
}

#[test]
fn edit_patch_label_annotate_replace() {
    let ns = Namespace::new("edit");
    ns.apply(CONFIG);
    let mut edit = ns.command(&["edit", "configmap", "c"]);
    assert!(edit.env("KUBE_EDITOR", "sed -i s/k:.v/k:\\ edited/").output().unwrap().status.success());
    assert_eq!(ns.field("configmap/c", "{.data.k}"), "edited");
    ns.ok(&["patch", "configmap", "c", "--type=json", "-p", r#"[{"op":"replace","path":"/data/k","value":"json"}]"#]);
    assert_eq!(ns.field("configmap/c", "{.data.k}"), "json");
    ns.ok(&["patch", "configmap", "c", "-p", r#"{"data":{"k":null,"n":"s"}}"#]);
    assert_eq!(ns.get("configmap/c")["data"], serde_json::json!({"n": "s"}));
    ns.ok(&["label", "configmap", "c", "new=label", "a-"]);
    ns.ok(&["annotate", "configmap", "c", "note=x"]);
    let meta = ns.get("configmap/c")["metadata"].clone();
    assert_eq!(meta["labels"], serde_json::json!({"new": "label"}));
    assert_eq!(meta["annotations"]["note"], "x");
    ns.try_with_input(&["replace", "-f", "-"], CONFIG).unwrap();
    assert_eq!(ns.field("configmap/c", "{.data.k}"), "v");
    let stale = CONFIG.replace("name: c", "name: c\n  resourceVersion: '1'");
    assert!(ns.try_with_input(&["replace", "-f", "-"], &stale).unwrap_err().contains("the object has been modified"));
}

#[test]
fn server_side_apply_keeps_owners_apart() {
    let ns = Namespace::new("ssa");
    let as_manager = |who: &str, data: &str| {
        let text = CONFIG.replace("{ k: v }", data);
        ns.try_with_input(&["apply", "--server-side", &format!("--field-manager={who}"), "-f", "-"], &text)
    };
    as_manager("one", "{ k: v }").unwrap();
    as_manager("two", "{ other: x }").unwrap();
    let conflict = as_manager("two", "{ k: w }").unwrap_err();
    assert!(conflict.contains("conflict") && conflict.contains("\"one\""), "{conflict}");
    as_manager("one", "{ z: w }").unwrap();
    assert_eq!(ns.get("configmap/c")["data"], serde_json::json!({"other": "x", "z": "w"}));
}

#[test]
fn run_expose_wait_delete() {
    let ns = Namespace::new("run");
    ns.ok(&["run", "web", "--image=test/busybox:1", "--port=80", "--command", "--", "sleep", "3600"]);
    ns.ok(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"]);
    ns.ok(&["expose", "pod", "web", "--port=80"]);
    ns.eventually("the Service has its endpoint", || {
        let ip = ns.field("pod/web", "{.status.podIP}");
        let slices = ns.ok(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=web",
            "-o",
            "jsonpath={.items[*].endpoints[*].addresses[*]}",
        ]);
        if slices == ip { Ok(()) } else { Err(slices) }
    });
    ns.ok(&["delete", "pod/web", "service/web", "--timeout=60s"]);
    assert_eq!(ns.ok(&["get", "pods,services", "-o", "name"]), "");
}

#[test]
fn who_may_do_what() {
    let ns = Namespace::new("auth");
    assert_eq!(ns.ok(&["auth", "can-i", "delete", "nodes"]).trim(), "yes");
    ns.ok(&["create", "serviceaccount", "reader"]);
    ns.ok(&["create", "role", "r", "--verb=get,list", "--resource=configmaps"]);
    ns.ok(&["create", "rolebinding", "b", "--role=r", &format!("--serviceaccount={}:reader", ns.name)]);
    let token = ns.ok(&["create", "token", "reader"]);
    let as_reader = format!("--token={}", token.trim());
    // The admin's client certificate would win over the token, so it is left out.
    let bare = ns.without_credentials();
    let server = |words: &[&str]| bare.try_kubectl(&[words, &[as_reader.as_str()]].concat());
    assert!(server(&["get", "configmaps"]).is_ok());
    let refused = server(&["get", "secrets"]).unwrap_err();
    let user = format!("system:serviceaccount:{}:reader", ns.name);
    assert!(
        refused.contains(&format!("User \"{user}\" cannot list resource \"secrets\" in API group \"\"")),
        "{refused}"
    );
    assert!(bare.try_kubectl(&["get", "configmaps", "--token=rubbish"]).unwrap_err().contains("Unauthorized"));
    assert_eq!(ns.try_kubectl(&["auth", "can-i", "list", "secrets", &format!("--as={user}")]).unwrap_err().trim(), "");
}

#[test]
fn discovery_tells_what_there_is() {
    let ns = Namespace::new("discovery");
    let node = ns.ok(&["get", "nodes", "-l", "kubernetes.io/hostname", "-o", "jsonpath={.items[0].metadata.name}"]);
    assert_eq!(ns.ok(&["api-resources", "--api-group=apps", "-o", "name"]).lines().count(), 5);
    assert!(ns.ok(&["api-versions"]).contains("networking.k8s.io/v1"));
    assert!(ns.ok(&["version"]).contains("Server Version: v1.36"));
    assert!(ns.ok(&["cluster-info"]).contains("is running at"));
    assert!(ns.ok(&["get", "node", &node]).contains("Ready"));
}

#[test]
fn a_cordoned_node_takes_no_new_pod() {
    // A node of its own, which no kubelet runs: cordoning the shared one would disturb other tests.
    let ns = Namespace::new("cordon");
    let name = format!("fake-{}", ns.name);
    let size = r#"{"cpu":"4","memory":"4Gi","pods":"10"}"#;
    ns.create(&format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}","labels":{{"pick":"{name}"}}}},"spec":{{"taints":[{{"key":"fake","effect":"NoSchedule"}}]}},"status":{{"capacity":{size},"allocatable":{size}}}}}"#
    ));
    ns.ok(&["cordon", &name]);
    assert!(ns.ok(&["get", "node", &name]).contains("SchedulingDisabled"));
    let tolerant = format!(
        "spec:\n  nodeSelector: {{ pick: {name} }}\n  tolerations: [{{ key: node.kubernetes.io/not-ready, operator: Exists }}, {{ key: fake, operator: Exists }}]"
    );
    ns.create(&pod("p", "command: [sleep, '1']").replace("spec:", &tolerant));
    ns.until("pod/p", "{.status.conditions[?(@.type=='PodScheduled')].reason}", "Unschedulable");
    ns.ok(&["uncordon", &name]);
    ns.until("pod/p", "{.spec.nodeName}", &name);
    ns.ok(&["delete", "pod", "p", "--force", "--grace-period=0"]);
    ns.ok(&["delete", "node", &name]);
}

#[test]
fn dry_run_changes_nothing() {
    let ns = Namespace::new("dry");
    assert!(ns.try_with_input(&["apply", "--dry-run=server", "-f", "-"], CONFIG).unwrap().contains("server dry run"));
    assert_eq!(ns.ok(&["get", "configmap", "c", "--ignore-not-found"]), "");
    let invalid = CONFIG.replace("name: c", "name: UPPER");
    let said = ns.try_with_input(&["apply", "-f", "-"], &invalid).unwrap_err();
    assert!(said.contains("metadata.name: Invalid value: \"UPPER\""), "{said}");
    let unknown = CONFIG.replace("\ndata:", "\ndatum:");
    let said = ns.try_with_input(&["apply", "-f", "-"], &unknown).unwrap_err();
    assert!(said.contains("unknown field \"datum\""), "{said}");
}
