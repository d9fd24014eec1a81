//! The stories of the controllers beside the workloads.

use std::sync::OnceLock;

use base64::Engine;
use caravel_api::meta;
use serde_json::{Value, json};

use crate::scenarios::{expect, image, serving, template};
use crate::world::World;
use crate::{PACE, Scenario, clock, play};

/// A certificate authority, as PEM.
pub fn authority() -> (String, String) {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    let make = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut p = rcgen::CertificateParams::new(vec![]).unwrap();
        p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (p.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    MADE.get_or_init(make).clone()
}

#[test]
fn replication_controller() {
    play(&Scenario {
        controllers: &["replicationcontroller-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r", "namespace": "d"},
                    "spec": {"replicas": 3, "selector": {"app": "a"}, "template": template("v1")}}));
            },
            |w| w.edit("", "replicationcontrollers", "d", "r", |o| o["spec"]["replicas"] = json!(5)),
            |w| w.edit("", "replicationcontrollers", "d", "r", |o| o["spec"]["replicas"] = json!(1)),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v1", 1)])?;
            let r = w.get("", "replicationcontrollers", "d", "r").unwrap();
            expect("ready", r["status"]["readyReplicas"].as_i64(), Some(1))
        },
    });
}

fn cron(name: &str, extra: Value) -> Value {
    let mut o = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": "d"},
        "spec": {"schedule": "* * * * *", "successfulJobsHistoryLimit": 2, "jobTemplate": {"spec": {"template": {"metadata": {"labels": {"app": name}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}}}}});
    extra.as_object().unwrap().iter().for_each(|(k, v)| o["spec"][k] = v.clone());
    o
}

/// No start twice, none left on the active list, and no more history than is allowed; the clock jumps on the way.
#[test]
fn cron_job() {
    play(&Scenario {
        controllers: &["cronjob-controller", "job-controller", "garbage-collector-controller"],
        pace: 30_000..130_000,
        steps: &[
            |w| drop(w.put(cron("allow", json!({})))),
            |w| drop(w.put(cron("forbid", json!({"concurrencyPolicy": "Forbid"})))),
            |w| drop(w.put(cron("replace", json!({"concurrencyPolicy": "Replace", "startingDeadlineSeconds": 100})))),
            |_| clock::jump(3 * 3600),
            |_| clock::jump(-1800),
            |w| {
                for name in ["allow", "forbid", "replace"] {
                    w.edit("batch", "cronjobs", "d", name, |o| o["spec"]["suspend"] = json!(true));
                }
            },
        ],
        goal: |w| {
            for c in w.all("batch", "cronjobs") {
                let active = c["status"]["active"].as_array().map_or(0, Vec::len);
                expect("active", active, 0)?;
                expect("scheduled", c["status"]["lastScheduleTime"].is_string(), true)?;
            }
            for name in ["allow", "forbid", "replace"] {
                let own = |j: &&&Value| meta::controller(j).is_some_and(|o| o["name"] == name);
                let jobs: Vec<_> = w.all("batch", "jobs");
                let left = jobs.iter().filter(own).count();
                if left > 2 {
                    return Err(format!("{left} Jobs of {name} are left"));
                }
            }
            let running = w.all("", "pods").iter().filter(|p| p["status"]["phase"] != "Succeeded").count();
            expect("running", running, 0)
        },
    });
}

#[test]
fn finished_jobs_go() {
    play(&Scenario {
        controllers: &["job-controller", "ttl-after-finished-controller", "garbage-collector-controller"],
        pace: PACE,
        steps: &[|w| {
            for (name, ttl) in [("now", json!(0)), ("later", json!(40)), ("never", Value::Null)] {
                w.put(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "d"},
                    "spec": {"completions": 2, "parallelism": 2, "ttlSecondsAfterFinished": ttl, "template": {"metadata": {"labels": {"app": name}},
                        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}}}));
            }
        }],
        goal: |w| {
            let left: Vec<_> = w.all("batch", "jobs").iter().map(|j| meta::name(j).to_owned()).collect();
            expect("jobs", left, ["never"])?;
            let others = w.all("", "pods").iter().filter(|p| p["metadata"]["labels"]["app"] != "never").count();
            expect("pods of Jobs that are gone", others, 0)
        },
    });
}

#[test]
fn autoscaler() {
    play(&Scenario {
        controllers: &["replicaset-controller", "deployment-controller", "horizontal-pod-autoscaler-controller"],
        pace: 10_000..40_000,
        steps: &[
            |w| {
                let mut t = template("v1");
                t["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "300m"}});
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "d"},
                    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "template": t}}),
                );
                w.put(json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "namespace": "d"},
                    "spec": {"minReplicas": 1, "maxReplicas": 10, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
                        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 30}},
                        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}));
            },
            |w| w.edit("autoscaling", "horizontalpodautoscalers", "d", "h", |o| o["spec"]["maxReplicas"] = json!(8)),
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "v2")),
        ],
        goal: |w| {
            // 900 thousandths by half of 300 each.
            expect("pods", serving(w), [("v2", 6)])?;
            let s = &w.get("autoscaling", "horizontalpodautoscalers", "d", "h").unwrap()["status"];
            expect("status", (s["currentReplicas"].as_i64(), s["desiredReplicas"].as_i64()), (Some(6), Some(6)))
        },
    });
}

fn taints(w: &World, node: &str) -> Vec<String> {
    let node = w.get("", "nodes", "", node).unwrap();
    let all = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    all.iter().map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap())).collect()
}

#[test]
fn node_lifecycle_and_eviction() {
    fn life(w: &mut World, name: &str, alive: &str) {
        w.edit("", "nodes", "", name, |n| n["metadata"]["labels"]["alive"] = json!(alive));
    }
    play(&Scenario {
        controllers: &["node-lifecycle-controller", "taint-eviction-controller"],
        pace: 1_000..90_000,
        steps: &[
            |w| {
                for name in ["n0", "dead1", "back2"] {
                    w.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"alive": "yes"}},
                        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": crate::world::now()}]}}));
                }
                for (name, node, seconds) in
                    [("leaves", "dead1", json!(20)), ("stays", "dead1", Value::Null), ("fine", "n0", json!(0))]
                {
                    let unreachable = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
                    w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
                        "spec": {"nodeName": node, "tolerations": [unreachable], "containers": [{"name": "c", "image": "v1"}]}}));
                }
            },
            |w| life(w, "dead1", "no"),
            |w| life(w, "back2", "no"),
            |w| {
                // Its kubelet is there again and says so.
                life(w, "back2", "yes");
                let kind = w.table.resource("", "v1", "nodes").unwrap().clone();
                let status = json!({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": crate::world::now()}]}});
                w.update(&kind, "", "back2", status, Some("status")).unwrap();
            },
        ],
        goal: |w| {
            expect(
                "lost",
                taints(w, "dead1"),
                ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"],
            )?;
            expect("well", taints(w, "n0"), Vec::<String>::new())?;
            let deleting = |name: &str| w.get("", "pods", "d", name).map(meta::is_deleting);
            expect("leaves", deleting("leaves"), Some(true))?;
            expect("stays", deleting("stays"), Some(false))?;
            expect("fine", deleting("fine"), Some(false))
        },
    });
}

#[test]
fn node_networks() {
    play(&Scenario {
        controllers: &["node-ipam-controller"],
        pace: PACE,
        steps: &[
            |w| (0..3).for_each(|i| crate::scenarios::node(w, &format!("n{i}"))),
            |w| w.remove("", "nodes", "", "n1", &Value::Null),
            |w| (3..5).for_each(|i| crate::scenarios::node(w, &format!("n{i}"))),
        ],
        goal: |w| {
            let of = |n: &&Value| n["spec"]["podCIDR"].as_str().unwrap_or("none").to_owned();
            let mut all: Vec<_> = w.all("", "nodes").iter().map(of).collect();
            all.sort();
            expect("networks", all, ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"])
        },
    });
}

#[test]
fn pods_nobody_would_end() {
    fn pod(w: &mut World, name: &str, node: Option<&str>, extra: Value) {
        let o = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
            "spec": {"containers": [{"name": "c", "image": "v1"}]}});
        let mut o = caravel_api::patch::merge::apply(o, extra);
        if let Some(node) = node {
            o["spec"]["nodeName"] = json!(node);
        }
        w.put(o);
    }
    play(&Scenario {
        controllers: &["pod-garbage-collector-controller"],
        pace: 5_000..60_000,
        steps: &[
            |w| {
                crate::scenarios::node(w, "n0");
                crate::scenarios::node(w, "dead1");
                for i in 0..5 {
                    pod(
                        w,
                        &format!("job-{i}"),
                        Some("n0"),
                        json!({"metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true}]}}),
                    );
                }
                pod(w, "orphan", Some("dead1"), json!({}));
                pod(w, "well", Some("n0"), json!({}));
                pod(
                    w,
                    "gated",
                    None,
                    json!({"metadata": {"finalizers": ["example.com/held"]}, "spec": {"schedulingGates": [{"name": "g"}]}}),
                );
            },
            |w| w.remove("", "nodes", "", "dead1", &Value::Null),
            |w| w.remove("", "pods", "d", "gated", &Value::Null),
            |w| w.edit("", "pods", "d", "gated", |p| p["metadata"]["finalizers"] = json!([])),
        ],
        goal: |w| {
            let left = |p: &str| w.all("", "pods").iter().filter(|o| meta::name(o).starts_with(p)).count();
            // One that was failed for its node may have been counted among the finished.
            expect("finished", (1..=2).contains(&left("job-")), true)?;
            expect("orphans", left("orphan"), 0)?;
            expect("gated", left("gated"), 0)?;
            expect("well", left("well"), 1)
        },
    });
}

#[test]
fn mirrored_endpoints() {
    fn addresses(w: &mut World, list: &[&str]) {
        let all: Vec<_> = list.iter().map(|ip| json!({"ip": ip})).collect();
        w.edit("", "endpoints", "d", "s", |e| e["subsets"] = json!([{"addresses": all, "ports": [{"port": 80}]}]));
    }
    play(&Scenario {
        controllers: &["endpointslice-mirroring-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "d"},
                    "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}));
                w.put(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "namespace": "d"},
                    "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}));
            },
            |w| addresses(w, &["192.0.2.1", "192.0.2.2"]),
            |w| addresses(w, &["192.0.2.2", "192.0.2.3"]),
        ],
        goal: |w| {
            let slices = w.all("discovery.k8s.io", "endpointslices");
            let all = slices.iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
            let mut found: Vec<_> = all.map(|e| e["addresses"][0].as_str().unwrap_or_default().to_owned()).collect();
            found.sort();
            expect("addresses", found, ["192.0.2.2", "192.0.2.3"])
        },
    });
}

fn request(name: &str) -> Value {
    static PEM: OnceLock<String> = OnceLock::new();
    let pem = PEM.get_or_init(|| {
        let mut p = rcgen::CertificateParams::new(vec![]).unwrap();
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        p.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n0");
        p.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    });
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet", "username": "system:node:n0", "groups": ["system:nodes"],
            "usages": ["digital signature", "client auth"], "request": base64::engine::general_purpose::STANDARD.encode(pem)}})
}

#[test]
fn certificates() {
    play(&Scenario {
        controllers: &[
            "certificatesigningrequest-approving-controller",
            "certificatesigningrequest-signing-controller",
            "certificatesigningrequest-cleaner-controller",
        ],
        pace: PACE,
        steps: &[|w| drop(w.put(request("a"))), |w| drop(w.put(request("b")))],
        goal: |w| {
            for name in ["a", "b"] {
                let mut told =
                    w.log.iter().filter(|c| c.place.1 == "certificatesigningrequests" && meta::name(&c.object) == name);
                expect("signed", told.any(|c| c.object["status"]["certificate"].is_string()), true)?;
                let history =
                    w.log.iter().filter(|c| c.place.1 == "certificatesigningrequests" && meta::name(&c.object) == name);
                // Made, approved, signed, and gone in the end: nothing is written twice.
                expect("changes", history.count(), 4)?;
            }
            expect("left after an hour", w.all("certificates.k8s.io", "certificatesigningrequests").len(), 0)
        },
    });
}

#[test]
fn accounts_and_authority() {
    play(&Scenario {
        controllers: &["serviceaccount-controller", "root-ca-certificate-publisher-controller"],
        pace: PACE,
        steps: &[
            |w| drop(w.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}}))),
            |w| {
                if w.get("", "serviceaccounts", "d", "default").is_some() {
                    w.remove("", "serviceaccounts", "d", "default", &Value::Null);
                }
            },
            |w| {
                if w.get("", "configmaps", "d", "kube-root-ca.crt").is_some() {
                    w.edit("", "configmaps", "d", "kube-root-ca.crt", |m| m["data"] = json!({"ca.crt": "forged"}));
                }
            },
        ],
        goal: |w| {
            expect("account", w.get("", "serviceaccounts", "d", "default").is_some(), true)?;
            let map = w.get("", "configmaps", "d", "kube-root-ca.crt").ok_or("no map")?;
            expect("authority", &map["data"], json!({"ca.crt": "CA"}))
        },
    });
}

#[test]
fn aggregated_roles() {
    fn role(name: &str, verb: &str) -> Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name, "labels": {"to": "all"}},
            "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    }
    play(&Scenario {
        controllers: &["clusterrole-aggregation-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "all"},
                    "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}, "rules": []}));
                w.put(role("a", "get"));
            },
            |w| drop(w.put(role("b", "list"))),
            |w| w.remove("rbac.authorization.k8s.io", "clusterroles", "", "a", &Value::Null),
            |w| drop(w.put(role("c", "watch"))),
        ],
        goal: |w| {
            let rules = w.get("rbac.authorization.k8s.io", "clusterroles", "", "all").unwrap()["rules"].clone();
            let verbs: Vec<_> = rules.as_array().into_iter().flatten().map(|r| r["verbs"][0].clone()).collect();
            expect("verbs", verbs, ["list", "watch"].map(Value::from))
        },
    });
}

#[test]
fn service_ranges() {
    fn range(w: &mut World, name: &str, cidr: &str) {
        w.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}}));
    }
    play(&Scenario {
        controllers: &["service-cidr-controller"],
        pace: PACE,
        steps: &[
            |w| {
                range(w, "kept", "10.96.0.0/16");
                range(w, "used", "10.97.0.0/16");
                range(w, "free", "10.98.0.0/16");
                w.put(
                    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.97.0.1"},
                    "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": "s"}}}),
                );
            },
            |w| {
                for name in ["used", "free"] {
                    w.remove("networking.k8s.io", "servicecidrs", "", name, &Value::Null);
                }
            },
            |w| w.remove("networking.k8s.io", "ipaddresses", "", "10.97.0.1", &Value::Null),
        ],
        goal: |w| {
            let left: Vec<_> =
                w.all("networking.k8s.io", "servicecidrs").iter().map(|o| meta::name(o).to_owned()).collect();
            expect("left", left, ["kept"])?;
            let kept = w.get("networking.k8s.io", "servicecidrs", "", "kept").unwrap();
            expect("ready", kept["status"]["conditions"][0]["status"].as_str(), Some("True"))
        },
    });
}

#[test]
fn bootstrap_tokens() {
    fn token(w: &mut World, id: &str, life: i64) {
        let encode = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        let ends = clock::now() + jiff::SignedDuration::from_secs(life);
        w.put(json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "data": {"token-id": encode(id), "token-secret": encode("0123456789abcdef"), "usage-bootstrap-signing": encode("true"),
                "expiration": encode(&ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())}}));
    }
    play(&Scenario {
        controllers: &["token-cleaner-controller", "bootstrap-signer-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
                    "data": {"kubeconfig": "one"}}));
                token(w, "short0", 30);
                token(w, "long00", 100_000);
            },
            |w| w.edit("", "configmaps", "kube-public", "cluster-info", |m| m["data"]["kubeconfig"] = json!("two")),
        ],
        goal: |w| {
            let left: Vec<_> = w.all("", "secrets").iter().map(|o| meta::name(o).to_owned()).collect();
            expect("tokens", left, ["bootstrap-token-long00"])?;
            let data = &w.get("", "configmaps", "kube-public", "cluster-info").unwrap()["data"];
            let keys: Vec<_> = data.as_object().into_iter().flat_map(|m| m.keys().cloned()).collect();
            expect("signatures", keys, ["jws-kubeconfig-long00", "kubeconfig"])
        },
    });
}

/// Tokens that were made unasked and are not used: marked on one day, deleted on another; all others stay as they are.
#[test]
fn unused_tokens() {
    fn token(w: &mut World, name: &str, labels: Value) {
        w.put(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "namespace": "d", "labels": labels, "annotations": {"kubernetes.io/service-account.name": "robot"}}}));
    }
    play(&Scenario {
        controllers: &["legacy-serviceaccount-token-cleaner-controller"],
        pace: 100_000..200_000,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "kube-system",
                    "name": "kube-apiserver-legacy-service-account-token-tracking"}, "data": {"since": "2026-05-01"}}));
                w.put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "d"},
                    "secrets": [{"name": "unused"}, {"name": "used"}, {"name": "mounted"}]}));
                w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": {
                    "containers": [{"name": "c", "image": "v1"}], "volumes": [{"name": "v", "secret": {"secretName": "mounted"}}]}}));
                token(w, "unused", json!({}));
                token(w, "used", json!({"kubernetes.io/legacy-token-last-used": "2027-01-01"}));
                token(w, "mounted", json!({}));
                token(w, "made", json!({}));
            },
            |_| clock::jump(25 * 3600),
            |_| clock::jump(25 * 3600),
        ],
        goal: |w| {
            let mut left: Vec<_> = w.all("", "secrets").iter().map(|o| meta::name(o).to_owned()).collect();
            left.sort();
            expect("tokens", left, ["made", "mounted", "used"])?;
            let marked = w
                .all("", "secrets")
                .iter()
                .filter(|o| meta::label(o, "kubernetes.io/legacy-token-invalid-since").is_some())
                .count();
            expect("marked", marked, 0)
        },
    });
}
