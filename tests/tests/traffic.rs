//! Where packets may go: traffic policies, Pods that end, load balancers, network policies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod web;

use caravel_tests::{Namespace, Net};
use serde_json::{Value, json};
use web::{node_ip, reaches, reaches_all, running, service, sleeper, text, webs};

#[test]
fn traffic_policies_lead_to_pods_of_the_node_only() {
    let ns = Namespace::new("svclocal");
    let client = running(&ns, "client", json!({}));
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local", "ports": [{"port": 80, "targetPort": 8080}]});
    let made = ns.make("services", &service("s", spec));
    let _webs = webs(&ns, 1);
    let ip = text(&made, "/spec/clusterIP");
    assert_eq!(reaches(&ns, &client, &ip, 80), "web-0");
    // Endpoints on other nodes only: nothing is here.
    let elsewhere = service("t", json!({"internalTrafficPolicy": "Local", "ports": [{"port": 80}]}));
    let ip = text(&ns.make("services", &elsewhere), "/spec/clusterIP");
    let pod = ns.read("api/v1/pods/web-0");
    ns.make("endpointslices", &json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "t", "labels": {"kubernetes.io/service-name": "t"}}, "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [pod["status"]["podIP"]], "nodeName": "elsewhere", "conditions": {"ready": true}}],
    }));
    assert!(client.tcp(&ip, 80).is_err());
    let mut object = ns.read("api/v1/services/t");
    object["spec"]["internalTrafficPolicy"] = json!("Cluster");
    ns.must("PUT", &ns.under("api/v1/services/t"), &object);
    assert_eq!(reaches(&ns, &client, &ip, 80), "web-0");
}

#[test]
fn pods_that_end_serve_until_there_are_others() {
    let ns = Namespace::new("svcend");
    let client = running(&ns, "client", json!({}));
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    let ip = text(&ns.make("services", &service("s", spec)), "/spec/clusterIP");
    let mut pod = sleeper("last", &json!({"app": "web"}), &json!([]));
    // It ignores the request to end, so that it is seen ending.
    pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", "trap '' TERM; sleep 3600 & wait; wait; wait"]);
    ns.make("pods", &pod);
    let _last = Net::of(&ns, "last").serve(8080, "last");
    assert_eq!(reaches(&ns, &client, &ip, 80), "last");
    ns.must("DELETE", &ns.under("api/v1/pods/last"), &Value::Null);
    let slice = |pointer: &str| {
        let list = ns.read("apis/discovery.k8s.io/v1/endpointslices");
        text(&list["items"][0], pointer)
    };
    ns.eventually("the endpoint is marked", || {
        let conditions = ["ready", "serving", "terminating"].map(|c| slice(&format!("/endpoints/0/conditions/{c}")));
        if conditions == ["false", "true", "true"] { Ok(()) } else { Err(format!("{conditions:?}")) }
    });
    assert_eq!(reaches(&ns, &client, &ip, 80), "last", "the last one serves while it ends");
    let _webs = webs(&ns, 1);
    ns.eventually("the new one serves", || match client.tcp(&ip, 80)?.as_str() {
        "web-0" => Ok(()),
        other => Err(other.to_owned()),
    });
    ns.must("DELETE", &format!("{}?gracePeriodSeconds=0", ns.under("api/v1/pods/last")), &Value::Null);
}

#[test]
fn addresses_that_are_not_ready_are_published_on_request() {
    let ns = Namespace::new("svcpub");
    let client = running(&ns, "client", json!({}));
    let mut pod = sleeper("p", &json!({"app": "p"}), &json!([]));
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    ns.make("pods", &pod);
    let _serving = Net::of(&ns, "p").serve(8080, "p");
    let spec = |publish: bool| json!({"selector": {"app": "p"}, "publishNotReadyAddresses": publish, "ports": [{"port": 80, "targetPort": 8080}]});
    let hidden = text(&ns.make("services", &service("hidden", spec(false))), "/spec/clusterIP");
    let shown = text(&ns.make("services", &service("shown", spec(true))), "/spec/clusterIP");
    assert_eq!(reaches(&ns, &client, &shown, 80), "p");
    assert!(client.tcp(&hidden, 80).is_err());
    let waiting = ns.read("api/v1/endpoints/hidden");
    assert_eq!(text(&waiting, "/subsets/0/notReadyAddresses/0/targetRef/name"), "p", "{waiting}");
}

#[test]
fn a_load_balancer_gets_the_nodes_address_and_its_port() {
    let ns = Namespace::new("svclb");
    let port = 29_000 + (std::process::id() % 900) as u16;
    let spec =
        json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": port, "targetPort": 8080}]});
    ns.make("services", &service("s", spec.clone()));
    let _webs = webs(&ns, 2);
    let made = ns.until_that("service/s", |s| !text(s, "/status/loadBalancer/ingress/0/ip").is_empty());
    let ip = text(&made, "/status/loadBalancer/ingress/0/ip");
    assert_eq!((ip.clone(), text(&made, "/status/loadBalancer/ingress/0/ipMode")), (node_ip(&ns), "VIP".into()));
    reaches_all(&ns, &Net::host(), &ip, port, 2);
    let client = running(&ns, "client", json!({}));
    reaches_all(&ns, &client, &ip, port, 2);
    // A second one for the same port waits until the first is gone.
    ns.make("services", &service("t", spec));
    ns.eventually("it is told why it waits", || {
        let events = ns.read("api/v1/events");
        let told = events["items"].as_array().unwrap().iter().any(|e| {
            text(e, "/involvedObject/name") == "t" && text(e, "/message").contains(&format!("port {port}/TCP"))
        });
        if told { Ok(()) } else { Err(String::new()) }
    });
    assert_eq!(text(&ns.read("api/v1/services/t"), "/status/loadBalancer"), "{}");
    let changed = ns.must("PATCH", &ns.under("api/v1/services/s"), &json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(text(&changed, "/spec/type"), "ClusterIP");
    ns.until_that("service/s", |s| text(s, "/status/loadBalancer") == "{}");
    ns.until_that("service/t", |s| text(s, "/status/loadBalancer/ingress/0/ip") == ip);
    reaches_all(&ns, &client, &ip, port, 2);
}

mod policies {
    //! NetworkPolicies.
    use super::*;

    /// Whether `from` reaches the address within the patience of an `eventually`.
    fn becomes(ns: &Namespace, from: &Net, ip: &str, port: u16, open: bool) {
        ns.eventually(&format!("{ip}:{port} open: {open}"), || match (from.tcp(ip, port), open) {
            (Ok(_), true) | (Err(_), false) => Ok(()),
            (other, _) => Err(format!("{other:?}")),
        });
    }

    fn policy(name: &str, spec: Value) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn ingress_is_denied_then_allowed_by_label_namespace_and_port() {
        let ns = Namespace::new("polin");
        let other = Namespace::new("polother");
        let (friend, stranger) =
            (running(&ns, "friend", json!({"role": "friend"})), running(&ns, "stranger", json!({})));
        let outsider = running(&other, "outsider", json!({}));
        let _webs = webs(&ns, 1);
        let ip = ns.field("pod/web-0", "{.status.podIP}");
        for net in [&friend, &stranger, &outsider] {
            becomes(&ns, net, &ip, 8080, true);
        }
        ns.make(
            "networkpolicies",
            &policy("deny", json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})),
        );
        for net in [&friend, &stranger, &outsider] {
            becomes(&ns, net, &ip, 8080, false);
        }
        let allow = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}], "ports": [{"port": 8080}]},
            {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": other.name}}}], "ports": [{"port": 9999}]}]});
        ns.make("networkpolicies", &policy("allow", allow));
        becomes(&ns, &friend, &ip, 8080, true);
        becomes(&ns, &stranger, &ip, 8080, false);
        becomes(&ns, &outsider, &ip, 8080, false);
        let mut object = ns.read("apis/networking.k8s.io/v1/networkpolicies/allow");
        object["spec"]["ingress"][1]["ports"][0]["port"] = json!(8080);
        ns.must("PUT", &ns.under("apis/networking.k8s.io/v1/networkpolicies/allow"), &object);
        becomes(&ns, &outsider, &ip, 8080, true);
        // A label makes a friend.
        ns.must("PATCH", &ns.under("api/v1/pods/stranger"), &json!({"metadata": {"labels": {"role": "friend"}}}));
        becomes(&ns, &stranger, &ip, 8080, true);
        ns.must("DELETE", &ns.under("apis/networking.k8s.io/v1/networkpolicies"), &Value::Null);
        becomes(&ns, &outsider, &ip, 8080, true);
    }

    #[test]
    fn egress_is_limited_and_answers_come_back() {
        let ns = Namespace::new("polout");
        let limited = running(&ns, "limited", json!({"role": "limited"}));
        let _webs = webs(&ns, 2);
        let ip = |i: usize| ns.field(&format!("pod/web-{i}"), "{.status.podIP}");
        let spec = json!({"podSelector": {"matchLabels": {"role": "limited"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", ip(0))}}]}]});
        becomes(&ns, &limited, &ip(1), 8080, true);
        ns.make("networkpolicies", &policy("out", spec));
        becomes(&ns, &limited, &ip(1), 8080, false);
        becomes(&ns, &limited, &ip(0), 8080, true);
        // Who is limited may still be asked.
        let _serving = limited.serve_tcp(8081, "limited");
        let own = ns.field("pod/limited", "{.status.podIP}");
        let asker = running(&ns, "asker", json!({}));
        assert_eq!(reaches(&ns, &asker, &own, 8081), "limited");
    }
}
