//! Controllers: what is asked for comes to be, stays, changes and goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;

const WEB: &str = r#"
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
        - { name: c, image: "test/busybox:1", command: [sleep, "3600"], env: [{ name: V, value: "1" }] }
"#;

#[test]
fn a_deployment_rolls_out_scales_updates_and_rolls_back() {
    let ns = Namespace::new("deploy");
    ns.apply(WEB);
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    ns.ok(&["scale", "deployment/web", "--replicas=4"]);
    ns.until("deployment/web", "{.status.readyReplicas}", "4");
    ns.ok(&["set", "env", "deployment/web", "V=2"]);
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(
        ns.field(
            "deployment/web",
            "{.status.updatedReplicas}/{.status.availableReplicas}/{.status.observedGeneration}"
        ),
        "4/4/3"
    );
    let history = ns.ok(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    ns.ok(&["rollout", "undo", "deployment/web"]);
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(ns.field("deployment/web", "{.spec.template.spec.containers[0].env[0].value}"), "1");
    assert_eq!(ns.field("deployment/web", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"), "3");
    ns.ok(&["rollout", "restart", "deployment/web"]);
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    ns.ok(&["delete", "deployment", "web"]);
    ns.eventually("its ReplicaSets and Pods go with it", || match ns.ok(&["get", "rs,pods", "-o", "name"]).as_str() {
        "" => Ok(()),
        left => Err(left.to_owned()),
    });
}

#[test]
fn a_deleted_pod_is_replaced_and_an_orphaned_one_stays() {
    let ns = Namespace::new("rs");
    ns.apply(WEB);
    ns.until("deployment/web", "{.status.readyReplicas}", "2");
    let first = ns.ok(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    ns.ok(&["delete", "pod", &first]);
    ns.until("deployment/web", "{.status.readyReplicas}", "2");
    let pods = ns.ok(&["get", "pods", "-o", "name"]);
    assert!(!pods.contains(&first), "{pods}");
    let rs = ns.ok(&["get", "rs", "-o", "jsonpath={.items[0].metadata.name}"]);
    ns.ok(&["delete", "deployment", "web", "--cascade=orphan"]);
    assert!(ns.ok(&["get", "rs", "-o", "name"]).contains(&rs), "orphan leaves the ReplicaSet");
}

#[test]
fn a_job_runs_to_completion_and_counts_failures() {
    let ns = Namespace::new("job");
    ns.apply(
        r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"good"},"spec":{"completions":3,"parallelism":2,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"test/busybox:1","command":["true"]}]}}}}"#,
    );
    ns.apply(
        r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"bad"},"spec":{"backoffLimit":0,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"test/busybox:1","command":["false"]}]}}}}"#,
    );
    ns.ok(&["wait", "job/good", "--for=condition=complete", "--timeout=60s"]);
    ns.ok(&["wait", "job/bad", "--for=condition=failed", "--timeout=60s"]);
    assert_eq!(ns.field("job/good", "{.status.succeeded}"), "3");
    assert_eq!(ns.field("job/bad", "{.status.conditions[?(@.type=='Failed')].reason}"), "BackoffLimitExceeded");
}

#[test]
fn a_daemon_set_has_a_pod_on_every_node() {
    let ns = Namespace::new("ds");
    ns.apply(
        r#"{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"app":"d"}},"template":{"metadata":{"labels":{"app":"d"}},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"test/busybox:1","command":["sleep","3600"]}]}}}}"#,
    );
    ns.ok(&["rollout", "status", "daemonset/d", "--timeout=60s"]);
    let nodes = ns.ok(&["get", "nodes", "-o", "name"]).lines().count().to_string();
    assert_eq!(ns.field("daemonset/d", "{.status.numberReady}"), nodes);
}

#[test]
fn a_pod_that_does_not_fit_says_why_and_is_retried_when_it_can_fit() {
    let ns = Namespace::new("fit");
    ns.create(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"nodeSelector":{"fit-test":"yes"},"containers":[{"name":"c","image":"test/busybox:1","command":["sleep","3600"]}]}}"#,
    );
    ns.until("pod/p", "{.status.conditions[?(@.type=='PodScheduled')].reason}", "Unschedulable");
    let message = ns.field("pod/p", "{.status.conditions[?(@.type=='PodScheduled')].message}");
    assert!(message.starts_with("0/") && message.contains("didn't match Pod's node affinity/selector"), "{message}");
    let node = ns.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    ns.ok(&["label", "node", &node, "fit-test=yes"]);
    ns.until("pod/p", "{.status.phase}", "Running");
    ns.ok(&["label", "node", &node, "fit-test-"]);
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    let ns = Namespace::new("gone");
    ns.apply(WEB);
    ns.until("deployment/web", "{.status.readyReplicas}", "2");
    ns.ok(&["delete", "namespace", &ns.name, "--timeout=60s"]);
    assert!(ns.fails(&["get", "namespace", &ns.name]).contains("not found"));
}
