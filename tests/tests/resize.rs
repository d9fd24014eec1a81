//! Resources of running containers, changed in place through `pods/resize` (KEP-1287).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

/// A container's resources: CPU request and limit, memory request and limit; empty for none.
type Size<'a> = [&'a str; 4];

fn resources(size: &Size) -> Value {
    let mut out = json!({});
    for (i, (list, name)) in
        [("requests", "cpu"), ("limits", "cpu"), ("requests", "memory"), ("limits", "memory")].iter().enumerate()
    {
        if !size[i].is_empty() {
            out[list][name] = json!(size[i]);
        }
    }
    out
}

/// Prints what its cgroup allows it, in upstream's terms, when asked by `exec`.
const CGROUP: &str = "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || \
    { cut -d' ' -f1 /sys/fs/cgroup/cpu.max; cat /sys/fs/cgroup/cpu.weight /sys/fs/cgroup/memory.max; }";

fn pod(containers: &[(&str, Size)], policy: Value) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, size)| {
            let mut c = json!({"name":name,"image":"test/busybox:1","command":["sh","-c","trap 'exit 0' TERM; while true; do sleep 0.2; done"],"resources":resources(size)});
            if !policy.is_null() {
                c["resizePolicy"] = policy.clone();
            }
            c
        })
        .collect();
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"OnFailure","terminationGracePeriodSeconds":0,"os":{"name":"linux"},"containers":containers}})
}

fn millis(quantity: &str) -> i64 {
    quantity.strip_suffix('m').map_or_else(|| quantity.parse::<i64>().unwrap_or(0) * 1000, |m| m.parse().unwrap())
}

fn bytes(quantity: &str) -> Option<i64> {
    Some(quantity.strip_suffix("Mi")?.parse::<i64>().unwrap() << 20)
}

/// Waits until the status shows these resources, no condition of a resize is left, and the Pod is ready; then looks into
/// the cgroups.
fn settled(ns: &Namespace, containers: &[(&str, Size)]) -> Value {
    let p = ns.until_that("pod/p", |p| {
        let statuses = p["status"]["containerStatuses"].as_array();
        let told = containers.iter().all(|(name, size)| {
            let s = statuses.into_iter().flatten().find(|s| s["name"] == *name);
            s.is_some_and(|s| s["resources"] == resources(size))
        });
        let conditions = p["status"]["conditions"].as_array();
        let over =
            !conditions.into_iter().flatten().any(|c| c["type"].as_str().is_some_and(|t| t.starts_with("PodResize")));
        let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        told && over && ready
    });
    for (name, size) in containers {
        let s = p["status"]["containerStatuses"].as_array().unwrap().iter().find(|s| s["name"] == *name).unwrap();
        let allocated = &resources(size)["requests"];
        assert_eq!(s.get("allocatedResources").unwrap_or(&Value::Null), allocated, "{s}");
        let said = ns.ok(&["exec", "p", "-c", name, "--", "sh", "-c", CGROUP]);
        let lines: Vec<&str> = said.lines().collect();
        let request = if size[0].is_empty() { size[1] } else { size[0] };
        let shares = (millis(request) * 1024 / 1000).max(2);
        let quota = if size[1].is_empty() { -1 } else { (millis(size[1]) * 100).max(1000) };
        assert_eq!(lines[..2], [shares.to_string(), quota.to_string()], "{name}: CPU of {size:?}");
        match bytes(size[3]) {
            Some(limit) => assert_eq!(lines[2], limit.to_string(), "{name}: memory of {size:?}"),
            None => {
                assert!(lines[2].parse::<i64>().unwrap() > 1 << 50, "{name}: no memory limit, and yet {}", lines[2])
            }
        }
    }
    p
}

fn restarts(p: &Value) -> Vec<u64> {
    p["status"]["containerStatuses"].as_array().unwrap().iter().map(|s| s["restartCount"].as_u64().unwrap()).collect()
}

/// The patch from one size to another: what goes is null.
fn patch(from: &[(&str, Size)], to: &[(&str, Size)]) -> Value {
    let one = |(old, new): (&(&str, Size), &(&str, Size))| {
        let mut r = resources(&new.1);
        for (i, (list, name)) in
            [("requests", "cpu"), ("limits", "cpu"), ("requests", "memory"), ("limits", "memory")].iter().enumerate()
        {
            if new.1[i].is_empty() && !old.1[i].is_empty() {
                r[list][name] = Value::Null;
            }
        }
        json!({"name":new.0,"resources":r})
    };
    json!({"spec":{"containers":from.iter().zip(to).map(one).collect::<Vec<_>>()}})
}

/// Makes a Pod of one size, patches it to another and, if wanted, back.
fn there(prefix: &str, from: &[(&str, Size)], to: &[(&str, Size)], back: bool) {
    let ns = Namespace::new(prefix);
    ns.make("pods", &pod(from, Value::Null));
    let made = settled(&ns, from);
    // No policy is made up where none was given.
    assert!(made["spec"]["containers"].as_array().unwrap().iter().all(|c| c["resizePolicy"].is_null()), "{made:#}");
    let door = format!("{}/resize", ns.path("pod/p"));
    let mut steps = vec![(from, to)];
    if back {
        steps.push((to, from));
    }
    for (from, to) in steps {
        let (code, said) = ns.wire().strategic(&door, &patch(from, to));
        assert_eq!(code, 200, "{said}");
        for ((_, size), c) in to.iter().zip(said["spec"]["containers"].as_array().unwrap()) {
            assert_eq!(c["resources"], resources(size));
        }
        let p = settled(&ns, to);
        assert_eq!(restarts(&p), vec![0; to.len()]);
    }
}

/// Equal requests and limits.
fn even<'a>(cpu: &'a str, memory: &'a str) -> Size<'a> {
    [cpu, cpu, memory, memory]
}

#[test]
fn guaranteed_net_increase() {
    let from = [("c1", even("20m", "35Mi")), ("c2", even("22m", "37Mi")), ("c3", even("24m", "39Mi"))];
    let to = [("c1", even("25m", "40Mi")), ("c2", even("27m", "42Mi")), ("c3", even("19m", "34Mi"))];
    there("resize-up", &from, &to, true);
}

#[test]
fn guaranteed_net_decrease() {
    let from = [("c1", even("20m", "35Mi")), ("c2", even("22m", "37Mi")), ("c3", even("24m", "39Mi"))];
    let to = [("c1", even("25m", "40Mi")), ("c2", even("17m", "32Mi")), ("c3", even("19m", "34Mi"))];
    there("resize-down", &from, &to, true);
}

#[test]
fn guaranteed_mixed() {
    let from = [("c1", even("20m", "35Mi")), ("c2", even("22m", "37Mi")), ("c3", even("24m", "39Mi"))];
    let to = [("c1", even("25m", "35Mi")), ("c2", even("17m", "42Mi")), ("c3", even("29m", "44Mi"))];
    there("resize-mixed", &from, &to, true);
}

#[test]
fn burstable_requests_and_limits_are_added() {
    let from = [
        ("c1", ["20m", "", "", ""]),
        ("c2", ["", "", "35Mi", ""]),
        ("c3", ["20m", "", "35Mi", ""]),
        ("c4", ["20m", "", "", ""]),
        ("c5", ["", "", "35Mi", ""]),
    ];
    let to = [
        ("c1", ["25m", "35m", "", ""]),
        ("c2", ["", "", "30Mi", "50Mi"]),
        ("c3", ["20m", "", "30Mi", ""]),
        ("c4", ["15m", "", "35Mi", ""]),
        ("c5", ["20m", "", "40Mi", ""]),
    ];
    there("resize-burst", &from, &to, false);
}

#[test]
fn amounts_that_mean_the_same_to_the_kernel_are_told_apart() {
    there("resize-same", &[("c1", ["2m", "10m", "", ""])], &[("c1", ["1m", "5m", "", ""])], true);
}

/// By PUT of the subresource, which shows the same Pod as the main door.
#[test]
fn a_resize_is_a_replacement_too() {
    let ns = Namespace::new("resize-put");
    ns.make("pods", &pod(&[("c1", ["20m", "30m", "35Mi", "45Mi"])], Value::Null));
    settled(&ns, &[("c1", ["20m", "30m", "35Mi", "45Mi"])]);
    let door = format!("{}/resize", ns.path("pod/p"));
    let to = ["25m", "35m", "40Mi", "50Mi"];
    ns.eventually("the PUT", || {
        let (_, mut p) = ns.wire().get(&door);
        p["spec"]["containers"][0]["resources"] = resources(&to);
        match ns.wire().put(&door, &p) {
            (200, _) => Ok(()),
            (_, said) => Err(said.to_string()),
        }
    });
    let p = settled(&ns, &[("c1", to)]);
    assert_eq!(ns.wire().get(&door), (200, p));
}

#[test]
fn a_container_restarts_when_its_policy_says_so() {
    let ns = Namespace::new("resize-restart");
    let policy = json!([{"resourceName":"cpu","restartPolicy":"NotRequired"},{"resourceName":"memory","restartPolicy":"RestartContainer"}]);
    let (a, b, c) = (["20m", "30m", "35Mi", "45Mi"], ["25m", "35m", "35Mi", "45Mi"], ["25m", "35m", "40Mi", "50Mi"]);
    ns.make("pods", &pod(&[("c1", a)], policy));
    settled(&ns, &[("c1", a)]);
    let door = format!("{}/resize", ns.path("pod/p"));
    for (from, to, count) in [(a, b, 0), (b, c, 1)] {
        assert_eq!(ns.wire().strategic(&door, &patch(&[("c1", from)], &[("c1", to)])).0, 200);
        assert_eq!(restarts(&settled(&ns, &[("c1", to)])), [count]);
    }
}

/// What the node never has is refused at the door, and so is what its kubelet does not know; nothing changes.
#[test]
fn what_cannot_be_had_is_refused_and_changes_nothing() {
    let ns = Namespace::new("resize-much");
    let (a, b) = (["20m", "30m", "35Mi", "45Mi"], ["25m", "35m", "35Mi", "45Mi"]);
    ns.make("pods", &pod(&[("c1", a)], Value::Null));
    settled(&ns, &[("c1", a)]);
    let door = format!("{}/resize", ns.path("pod/p"));
    let refused = |change: &Value, why: &str| {
        let (code, said) = ns.wire().strategic(&door, change);
        assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")), "{said}");
        assert!(said["message"].as_str().unwrap().contains(why), "{said}");
    };
    let huge = ["4999", "4999", "35Mi", "45Mi"];
    let why = "Node didn't have enough allocatable resources: cpu, requested: 4999000, allocatable: ";
    refused(&patch(&[("c1", a)], &[("c1", huge)]), why);
    let whole = json!({"spec": {"resources": {"requests": {"cpu": "30m"}}}});
    refused(&whole, "pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available");
    let p = ns.get("pod/p");
    assert_eq!(p["spec"]["containers"][0]["resources"], resources(&a));
    assert_eq!(ns.wire().strategic(&door, &patch(&[("c1", a)], &[("c1", b)])).0, 200);
    settled(&ns, &[("c1", b)]);
    // Another class of service than at the start is refused at the door.
    let (code, said) = ns.wire().strategic(&door, &patch(&[("c1", b)], &[("c1", even("25m", "45Mi"))]));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
}
