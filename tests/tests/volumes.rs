//! Volumes: files that follow their sources, what may not change, parts of volumes, and images as volumes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Registry};
use serde_json::{Value, json};

/// Prints the content of its arguments, `-` for one that is absent, whenever any of it changed.
const TELL: &str = r#"while true; do s=; for f in "$@"; do if [ -e $f ]; then s="$s$(cat $f),"; else s="$s-,"; fi; done; [ "$s" = "$l" ] || echo "$s"; l=$s; sleep 0.1; done"#;

/// A container `c` that tells of these files.
fn teller(files: &[&str], mounts: Value) -> Value {
    let mut command = vec!["sh", "-c", TELL, "sh"];
    command.extend(files);
    json!({"name":"c","image":"test/busybox:1","command":command,"volumeMounts":mounts})
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = json!(0);
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},"spec":spec})
}

/// Waits until the last line that the container printed is this.
fn shows(ns: &Namespace, name: &str, wanted: &str) {
    ns.eventually(&format!("{name} shows {wanted}"), || {
        let log = ns.log(name, "c")?;
        if log.lines().last() == Some(wanted) { Ok(()) } else { Err(log) }
    });
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name},"data":data})
}

fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":name},"stringData":data})
}

/// Replaces an object with what `change` makes of it; the status code and the answer.
fn replaced(ns: &Namespace, what: &str, change: impl Fn(&mut Value)) -> (u16, Value) {
    let mut object = ns.get(what);
    change(&mut object);
    ns.wire().put(&ns.path(what), &object)
}

/// One Pod sees all of it: each of the four kinds of volume, with a source that is deleted, one that changes and one that
/// comes; and volumes whose source is not optional.
#[test]
fn files_follow_their_sources_which_may_come_and_go() {
    let ns = Namespace::new("follow");
    let (mut volumes, mut mounts, mut files, mut before, mut after) =
        (vec![], vec![], vec![], String::new(), String::new());
    for (kind, noun) in [("cm", "configmaps"), ("s", "secrets"), ("pcm", "configmaps"), ("ps", "secrets")] {
        for state in ["del", "upd", "new"] {
            let name = format!("{kind}-{state}");
            if state != "new" {
                let data = json!({"data-1":"value-1"});
                ns.make(noun, &if noun == "secrets" { secret(&name, data) } else { config_map(&name, data) });
            }
            volumes.push(match kind {
                "cm" => json!({"name":name,"configMap":{"name":name,"optional":true}}),
                "s" => json!({"name":name,"secret":{"secretName":name,"optional":true}}),
                "pcm" => json!({"name":name,"projected":{"sources":[{"configMap":{"name":name,"optional":true}}]}}),
                _ => json!({"name":name,"projected":{"sources":[{"secret":{"name":name,"optional":true}}]}}),
            });
            mounts.push(json!({"name":name,"mountPath":format!("/{name}")}));
            files.push(format!("/{name}/data-1"));
        }
        files.push(format!("/{kind}-upd/data-3"));
        before.push_str("value-1,value-1,-,-,");
        after.push_str("-,-,value-1,value-3,");
    }
    ns.make("configmaps", &config_map("plain", json!({"data-1":"value-1"})));
    volumes.push(json!({"name":"plain","configMap":{"name":"plain"}}));
    volumes.push(json!({"name":"projected","projected":{"sources":[{"configMap":{"name":"plain"}}]}}));
    for name in ["plain", "projected"] {
        mounts.push(json!({"name":name,"mountPath":format!("/{name}")}));
        files.push(format!("/{name}/data-1"));
        before.push_str("value-1,");
        after.push_str("value-2,");
    }
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    ns.make("pods", &pod("p", json!({"volumes":volumes,"containers":[teller(&files, json!(mounts))]})));
    shows(&ns, "p", &before);
    for (kind, noun) in [("cm", "configmaps"), ("s", "secrets"), ("pcm", "configmaps"), ("ps", "secrets")] {
        assert_eq!(ns.wire().delete(&ns.path(&format!("{noun}/{kind}-del"))).0, 200);
        let value = if noun == "secrets" { "dmFsdWUtMw==" } else { "value-3" };
        let (code, said) = replaced(&ns, &format!("{noun}/{kind}-upd"), |o| o["data"] = json!({"data-3":value}));
        assert_eq!(code, 200, "{said}");
        let (name, data) = (format!("{kind}-new"), json!({"data-1":"value-1"}));
        ns.make(noun, &if noun == "secrets" { secret(&name, data) } else { config_map(&name, data) });
    }
    replaced(&ns, "configmaps/plain", |o| o["data"]["data-1"] = json!("value-2"));
    shows(&ns, "p", &after);
    assert_eq!(ns.field("pod/p", "{.status.containerStatuses[0].restartCount}"), "0");
}

#[test]
fn labels_and_annotations_are_followed() {
    let ns = Namespace::new("labels");
    let items = json!([{"path":"l","fieldRef":{"fieldPath":"metadata.labels"}},{"path":"a","fieldRef":{"fieldPath":"metadata.annotations"}}]);
    let mut p = pod(
        "p",
        json!({"volumes":[{"name":"v","downwardAPI":{"items":items}},{"name":"w","projected":{"sources":[{"downwardAPI":{"items":items}}]}}],
        "containers":[teller(&["/v/l", "/w/l", "/v/a", "/w/a"], json!([{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]))]}),
    );
    p["metadata"]["labels"] = json!({"k":"1"});
    p["metadata"]["annotations"] = json!({"n":"x"});
    ns.make("pods", &p);
    shows(&ns, "p", r#"k="1",k="1",n="x",n="x","#);
    let path = ns.path("pod/p");
    assert_eq!(ns.wire().merge(&path, &json!({"metadata":{"labels":{"k":"2"}}})).0, 200);
    shows(&ns, "p", r#"k="2",k="2",n="x",n="x","#);
    assert_eq!(ns.wire().merge(&path, &json!({"metadata":{"annotations":{"n":"say \"y\""}}})).0, 200);
    shows(&ns, "p", r#"k="2",k="2",n="say \"y\"",n="say \"y\"","#);
}

/// Without a limit of its own a container may have what the node has: in volumes of both kinds and in variables.
#[test]
fn limits_that_are_not_set_are_the_node_s() {
    let ns = Namespace::new("allocatable");
    let resource = |name: &str, divisor: &str| json!({"containerName":"c","resource":name,"divisor":divisor});
    let items = json!([{"path":"cpu","resourceFieldRef":resource("limits.cpu", "1m")},{"path":"memory","resourceFieldRef":resource("limits.memory", "1Ki")}]);
    let env = |name: &str, of: &str| json!({"name":name,"valueFrom":{"resourceFieldRef":{"resource":of}}});
    ns.make("pods", &pod("p", json!({"restartPolicy":"Never",
        "volumes":[{"name":"v","downwardAPI":{"items":items}},{"name":"w","projected":{"sources":[{"downwardAPI":{"items":items}}]}}],
        "containers":[{"name":"c","image":"test/busybox:1","command":["sh","-c","for f in /v/cpu /w/cpu /v/memory /w/memory; do cat $f; echo; done; echo $CPU; echo $MEMORY"],
            "env":[env("CPU","limits.cpu"),env("MEMORY","limits.memory")],
            "volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]}]})));
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    let node = ns.field("pod/p", "{.spec.nodeName}");
    let (_, node) = ns.wire().get(&format!("/api/v1/nodes/{node}"));
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap();
    let millis: u64 = cpu.strip_suffix('m').map_or_else(|| cpu.parse::<u64>().unwrap() * 1000, |m| m.parse().unwrap());
    let memory = node["status"]["allocatable"]["memory"].as_str().unwrap();
    let bytes: u64 =
        memory.strip_suffix("Ki").map_or_else(|| memory.parse().unwrap(), |k| k.parse::<u64>().unwrap() * 1024);
    let kibi = bytes.div_ceil(1024);
    let wanted = format!("{millis}\n{millis}\n{kibi}\n{kibi}\n{}\n{bytes}\n", millis.div_ceil(1000));
    assert_eq!(ns.log("p", "c").unwrap(), wanted);
}

#[test]
fn a_secret_is_the_one_of_the_pod_s_own_namespace() {
    let (ns, other) = (Namespace::new("own"), Namespace::new("other"));
    ns.make("secrets", &secret("s", json!({"data-1":"mine"})));
    other.make("secrets", &secret("s", json!({"data-1":"theirs"})));
    ns.make("pods", &pod("p", json!({"restartPolicy":"Never","volumes":[{"name":"v","secret":{"secretName":"s"}}],
        "containers":[{"name":"c","image":"test/busybox:1","command":["sh","-c","cat /v/data-1; stat -L -c ' %a' /v/data-1"],"volumeMounts":[{"name":"v","mountPath":"/v"}]}]})));
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    assert_eq!(ns.log("p", "c").unwrap(), "mine 644\n");
}

/// Once immutable, data and the mark itself are fixed; labels are not, and it can be deleted.
#[test]
fn immutable_sources_keep_their_data() {
    let ns = Namespace::new("immutable");
    ns.make("configmaps", &config_map("o", json!({"k":"1"})));
    ns.make("secrets", &secret("o", json!({"k":"1"})));
    for (what, two, three) in [("configmap/o", "2", "3"), ("secret/o", "Mg==", "Mw==")] {
        assert_eq!(replaced(&ns, what, |o| o["data"]["k"] = json!(two)).0, 200);
        assert_eq!(replaced(&ns, what, |o| o["immutable"] = json!(true)).0, 200);
        for change in [
            (&|o: &mut Value| o["data"]["k"] = json!(three)) as &dyn Fn(&mut Value),
            &|o| o["immutable"] = json!(false),
            &|o| drop(o.as_object_mut().unwrap().remove("immutable")),
            &|o| drop(o.as_object_mut().unwrap().remove("data")),
        ] {
            let (code, said) = replaced(&ns, what, change);
            assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{what}: {said}");
            assert!(said["message"].as_str().unwrap().contains("immutable"), "{said}");
        }
        assert_eq!(replaced(&ns, what, |o| o["metadata"]["labels"] = json!({"l":"v"})).0, 200);
        let now = ns.get(what);
        assert_eq!((&now["data"]["k"], &now["metadata"]["labels"]["l"]), (&json!(two), &json!("v")));
        assert_eq!(ns.wire().delete(&ns.path(what)).0, 200);
        assert!(ns.try_get(what).is_err());
    }
}

#[test]
fn a_secret_and_a_config_map_do_not_get_into_each_other_s_way() {
    let ns = Namespace::new("wrapper");
    ns.make("configmaps", &config_map("same", json!({"a":"from-map"})));
    ns.make("secrets", &secret("same", json!({"a":"from-secret"})));
    ns.make("pods", &pod("p", json!({"volumes":[{"name":"v","secret":{"secretName":"same"}},{"name":"w","configMap":{"name":"same"}}],
        "containers":[teller(&["/v/a", "/w/a"], json!([{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]))]})));
    shows(&ns, "p", "from-secret,from-map,");
    ns.until("pod/p", "{.status.phase}", "Running");
}

#[test]
fn pods_with_fifty_volumes_start() {
    let ns = Namespace::new("fifty");
    let (mut volumes, mut mounts) = (vec![], vec![]);
    for i in 0..50 {
        let name = format!("racey-{i}");
        ns.make("configmaps", &config_map(&name, json!({"data-1":"value-1"})));
        volumes.push(json!({"name":name,"configMap":{"name":name,"items":[{"key":"data-1","path":"data-1"}]}}));
        mounts.push(json!({"name":name,"mountPath":format!("/etc/{name}")}));
    }
    ns.make("replicationcontrollers", &json!({"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"rc"},
        "spec":{"replicas":5,"selector":{"a":"b"},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"terminationGracePeriodSeconds":0,"volumes":volumes,
        "containers":[{"name":"c","image":"test/busybox:1","command":["sleep","3600"],"volumeMounts":mounts}]}}}}));
    ns.until("replicationcontroller/rc", "{.status.readyReplicas}", "5");
    // None of them had to be made twice.
    let (_, pods) = ns.wire().get(&format!("/api/v1/namespaces/{}/pods?labelSelector=a%3Db", ns.name));
    let restarts: Vec<_> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["status"]["containerStatuses"][0]["restartCount"])
        .collect();
    assert_eq!(restarts, [0; 5].map(|n| json!(n)).iter().collect::<Vec<_>>());
}

/// A Pod whose container mounts `subPathExpr` of an emptyDir, with these variables.
fn expanding(name: &str, expression: &str, env: Value) -> Value {
    pod(
        name,
        json!({"restartPolicy":"Never","volumes":[{"name":"v","emptyDir":{}}],
        "containers":[{"name":"c","image":"test/busybox:1","command":["sh","-c","echo test > /sub/test.log; ls /all/*; while true; do sleep 0.1; done"],"env":env,
        "volumeMounts":[{"name":"v","mountPath":"/sub","subPathExpr":expression},{"name":"v","mountPath":"/all"}]}]}),
    )
}

#[test]
fn a_sub_path_that_expands_to_no_part_of_the_volume_is_refused() {
    let ns = Namespace::new("expand");
    for (name, value) in [("absolute", "/tmp"), ("up", ".."), ("deep", "a/../../b")] {
        ns.make("pods", &expanding(name, "$(POD_NAME)", json!([{"name":"POD_NAME","value":value}])));
    }
    ns.make("pods", &expanding("unknown", "$(NOBODY)", json!([])));
    for name in ["absolute", "up", "deep", "unknown"] {
        ns.until(
            &format!("pod/{name}"),
            "{.status.containerStatuses[0].state.waiting.reason}",
            "CreateContainerConfigError",
        );
        assert_eq!(ns.field(&format!("pod/{name}"), "{.status.phase}"), "Pending");
    }
}

/// A Pod that waits for a variable runs once it has it, and goes on when the variable changes.
#[test]
fn a_sub_path_that_cannot_be_expanded_yet_is_tried_again() {
    let ns = Namespace::new("later");
    let env = json!([{"name":"POD_NAME","value":"foo"},{"name":"ANNOTATION","valueFrom":{"fieldRef":{"fieldPath":"metadata.annotations['mysubpath']"}}}]);
    ns.make("pods", &expanding("p", "$(ANNOTATION)/$(POD_NAME)", env));
    ns.until("pod/p", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    let annotate = |value: &str| {
        let patch = json!({"metadata":{"annotations":{"mysubpath":value}}});
        assert_eq!(ns.wire().merge(&ns.path("pod/p"), &patch).0, 200);
    };
    annotate("mypath");
    ns.until("pod/p", "{.status.phase}", "Running");
    ns.eventually("the file is in the volume", || {
        let log = ns.log("p", "c")?;
        if log == "foo\n" { Ok(()) } else { Err(log) }
    });
    annotate("mynewpath");
    // It is the API's word that the Pod, which runs with the old path, goes on, and that it can be deleted.
    let told = ns.get("pod/p");
    assert_eq!(told["metadata"]["annotations"]["mysubpath"], "mynewpath");
    ns.wire().delete(&ns.path("pod/p"));
    ns.until_gone("pod/p");
}

#[test]
fn an_image_is_a_volume() {
    let ns = Namespace::new("imagevolume");
    let Some(registry) = Registry::start(None) else { return };
    let image = registry.push("kitten:1", &[("data.json", "kitten.jpg"), ("etc/os-release", "some Linux")]);
    let volume = |policy: &str| json!([{"name":"v","image":{"reference":image,"pullPolicy":policy}}]);
    let script = "cat /v/data.json /v/etc/os-release; echo; cat /part; touch /v/x 2>/dev/null || echo read-only";
    let container = json!({"name":"c","image":"test/busybox:1","command":["sh","-c",script],
        "volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"v","mountPath":"/part","subPath":"data.json"}]});
    ns.make("pods", &pod("p", json!({"restartPolicy":"Never","volumes":volume("Always"),"containers":[container]})));
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    assert_eq!(ns.log("p", "c").unwrap(), "kitten.jpgsome Linux\nkitten.jpgread-only\n");
    // An image that nobody has is told like a container's, and one that nobody mounts is not asked for.
    let absent = |name: &str, mounts: Value| {
        let volumes = json!([{"name":"v","image":{"reference":"test/nobody:1","pullPolicy":"Never"}}]);
        ns.make("pods", &pod(name, json!({"restartPolicy":"Never","volumes":volumes,"containers":[{"name":"c","image":"test/busybox:1","command":["true"],"volumeMounts":mounts}]})));
    };
    absent("absent", json!([{"name":"v","mountPath":"/v"}]));
    absent("unused", json!([]));
    ns.until("pod/unused", "{.status.phase}", "Succeeded");
    ns.until("pod/absent", "{.status.containerStatuses[0].state.waiting.reason}", "ErrImageNeverPull");
    // It is given back with the Pod: the volume's name can be mounted anew.
    for name in ["p", "absent"] {
        ns.wire().delete(&ns.path(&format!("pod/{name}")));
        ns.until_gone(&format!("pod/{name}"));
    }
}

/// A registry that wants to know who asks is told what the Pod's pull secret says.
#[test]
fn an_image_of_a_private_registry_needs_a_pull_secret() {
    let ns = Namespace::new("private");
    let Some(registry) = Registry::start(Some(("user", "secret"))) else { return };
    let image = registry.push("private:1", &[("f", "x")]);
    let run = |name: &str, secrets: Value| {
        ns.make("pods", &pod(name, json!({"restartPolicy":"Never","imagePullSecrets":secrets,"volumes":[{"name":"v","image":{"reference":image,"pullPolicy":"Always"}}],
            "containers":[{"name":"c","image":"test/busybox:1","command":["cat","/v/f"],"volumeMounts":[{"name":"v","mountPath":"/v"}]}]})));
    };
    run("nobody", json!([]));
    ns.until("pod/nobody", "{.status.containerStatuses[0].state.waiting.reason}", "ErrImagePull");
    let config = json!({"auths":{registry.host():{"username":"user","password":"secret"}}}).to_string();
    ns.make("secrets", &json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"key"},"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":config}}));
    run("known", json!([{"name":"key"}]));
    ns.until("pod/known", "{.status.phase}", "Succeeded");
    assert_eq!(ns.log("known", "c").unwrap(), "x");
}

/// A tmpfs below a directory of the host, taken away again at the end.
struct Nested(tempfile::TempDir);

impl Nested {
    fn new() -> Nested {
        use nix::mount::{MsFlags, mount};
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        Nested(dir)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.path().join("below"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn read_only_mounts_are_recursive_when_asked() {
    let ns = Namespace::new("readonly");
    let nested = Nested::new();
    let script = "for d in /ro /rro; do for f in $d/f $d/below/f; do (echo x > $f) 2>/dev/null && echo $f written || echo $f refused; done; done";
    ns.make("pods", &pod("p", json!({"restartPolicy":"Never","volumes":[{"name":"v","hostPath":{"path":nested.0.path(),"type":"Directory"}}],
        "containers":[{"name":"c","image":"test/busybox:1","command":["sh","-c",script],"volumeMounts":[
            {"name":"v","mountPath":"/ro","readOnly":true},
            {"name":"v","mountPath":"/rro","readOnly":true,"recursiveReadOnly":"Enabled"}]}]})));
    let p = ns.until_that("pod/p", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(ns.log("p", "c").unwrap(), "/ro/f refused\n/ro/below/f written\n/rro/f refused\n/rro/below/f refused\n");
    let mounts = &p["status"]["containerStatuses"][0]["volumeMounts"];
    let told = |path: &str| {
        mounts.as_array().unwrap().iter().find(|m| m["mountPath"] == path).unwrap()["recursiveReadOnly"].clone()
    };
    assert_eq!((told("/ro"), told("/rro")), (json!("Disabled"), json!("Enabled")));
    ns.wire().delete(&ns.path("pod/p"));
    ns.until_gone("pod/p");
}
