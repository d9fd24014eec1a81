//! The zone, question by question.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::catalog::{Catalog, owner, search_namespace};
use super::zone::Zone;

/// Objects written down.
#[derive(Clone, Default)]
pub struct Written {
    pub services: BTreeMap<(String, String), Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
    pub searching: BTreeMap<IpAddr, String>,
}

impl Written {
    fn add(&mut self, namespace: &str, name: &str, spec: serde_json::Value) {
        let service = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let service = serde_json::from_value(service).unwrap();
        self.services.insert((namespace.into(), name.into()), Arc::new(service));
    }

    fn slice(&mut self, namespace: &str, service: &str, endpoints: serde_json::Value) {
        let slice = json!({
            "metadata": {"name": "x", "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        self.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
    }

    pub fn example() -> Self {
        let mut all = Self::default();
        all.add(
            "default",
            "kubernetes",
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}),
        );
        all.add(
            "default",
            "dual",
            json!({"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2", "fd00::2"],
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 80}]}),
        );
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "web", "port": 80}]});
        all.add("d", "sts", headless.clone());
        all.add("d", "empty", headless);
        all.add("d", "out", json!({"type": "ExternalName", "externalName": "www.example.com"}));
        all.add("d", "in", json!({"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}));
        all.add("d", "loop", json!({"type": "ExternalName", "externalName": "loop.d.svc.cluster.local"}));
        all.slice(
            "d",
            "sts",
            json!([
                {"addresses": ["10.244.0.5"], "hostname": "sts-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.6"], "hostname": "sts-1", "conditions": {"ready": false}},
                {"addresses": ["10.244.0.7"], "conditions": {"ready": true}},
            ]),
        );
        all.slice("default", "kubernetes", json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}]));
        all.slice("d", "empty", json!([{"addresses": ["10.244.0.8"], "conditions": {"ready": false}}]));
        all
    }
}

impl Catalog for Written {
    fn namespace(&self, name: &str) -> bool {
        self.services.keys().any(|(ns, _)| ns == name)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&(namespace.into(), name.into())).cloned()
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let wanted = Some((namespace.to_owned(), service.to_owned()));
        self.slices.iter().filter(|s| owner(s) == wanted).cloned().collect()
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        let text = ip.to_string();
        let has = |s: &&Arc<Service>| {
            let ips = s.spec.as_ref().and_then(|s| s.cluster_ips.clone());
            ips.unwrap_or_default().contains(&text)
        };
        self.services.values().filter(has).cloned().collect()
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let text = ip.to_string();
        let has = |s: &&Arc<EndpointSlice>| s.endpoints.iter().flatten().any(|e| e.addresses.contains(&text));
        self.slices.iter().filter(has).cloned().collect()
    }

    fn searching_pod(&self, ip: IpAddr) -> Option<String> {
        self.searching.get(&ip).cloned()
    }
}

fn ask(name: &str, kind: RecordType) -> String {
    let zone = Zone::new("cluster.local", Ipv4Addr::new(10, 96, 0, 10)).unwrap();
    let name = Name::from_ascii(name).unwrap();
    let Some(answer) = zone.answer(&Written::example(), &name, kind) else {
        return "not ours".to_owned();
    };
    if !answer.exists {
        return "no such name".to_owned();
    }
    let text = |r: &hickory_proto::rr::Record| format!("{} {}", r.record_type(), r.data);
    let mut lines: Vec<String> = answer.records.iter().map(text).collect();
    lines.extend(answer.additional.iter().map(|r| format!("+ {} {}", r.name, text(r))));
    if lines.is_empty() { "no data".to_owned() } else { lines.join(", ") }
}

#[test]
fn the_specification_by_table() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
    #[rustfmt::skip]
    let table = [
        // Services with a cluster IP.
        ("kubernetes.default.svc.cluster.local.", A, "A 10.96.0.1"),
        ("KUBERNETES.default.SVC.cluster.Local.", A, "A 10.96.0.1"),
        ("kubernetes.default.svc.cluster.local.", AAAA, "no data"),
        ("dual.default.svc.cluster.local.", A, "A 10.96.0.2"),
        ("dual.default.svc.cluster.local.", AAAA, "AAAA fd00::2"),
        ("nothing.default.svc.cluster.local.", A, "no such name"),
        ("kubernetes.nowhere.svc.cluster.local.", A, "no such name"),
        ("_https._tcp.kubernetes.default.svc.cluster.local.", SRV,
         "SRV 0 100 443 kubernetes.default.svc.cluster.local., + kubernetes.default.svc.cluster.local. A 10.96.0.1"),
        ("_https._tcp.kubernetes.default.svc.cluster.local.", A, "no data"),
        ("_https._udp.kubernetes.default.svc.cluster.local.", SRV, "no such name"),
        ("_tcp.kubernetes.default.svc.cluster.local.", SRV, "no data"),
        ("_tcp.kubernetes.default.svc.cluster.local.", A, "no data"),
        ("_sctp.kubernetes.default.svc.cluster.local.", A, "no such name"),
        ("_dns._udp.dual.default.svc.cluster.local.", SRV,
         "SRV 0 100 53 dual.default.svc.cluster.local., + dual.default.svc.cluster.local. A 10.96.0.2, + dual.default.svc.cluster.local. AAAA fd00::2"),
        ("192-0-2-1.kubernetes.default.svc.cluster.local.", A, "A 192.0.2.1"),
        // Headless Services.
        ("sts.d.svc.cluster.local.", A, "A 10.244.0.5, A 10.244.0.7"),
        ("sts-0.sts.d.svc.cluster.local.", A, "A 10.244.0.5"),
        ("sts-1.sts.d.svc.cluster.local.", A, "no such name"),
        ("10-244-0-7.sts.d.svc.cluster.local.", A, "A 10.244.0.7"),
        ("_web._tcp.sts.d.svc.cluster.local.", SRV,
         "SRV 0 50 8080 sts-0.sts.d.svc.cluster.local., SRV 0 50 8080 10-244-0-7.sts.d.svc.cluster.local., \
          + sts-0.sts.d.svc.cluster.local. A 10.244.0.5, + 10-244-0-7.sts.d.svc.cluster.local. A 10.244.0.7"),
        ("empty.d.svc.cluster.local.", A, "no such name"),
        ("a.b.c.sts.d.svc.cluster.local.", A, "no such name"),
        // ExternalName.
        ("out.d.svc.cluster.local.", A, "CNAME www.example.com."),
        ("out.d.svc.cluster.local.", CNAME, "CNAME www.example.com."),
        ("x.out.d.svc.cluster.local.", A, "no such name"),
        // Pods.
        ("10-244-0-5.d.pod.cluster.local.", A, "A 10.244.0.5"),
        ("10-244-0-5.d.pod.cluster.local.", AAAA, "no data"),
        ("fd00--5.d.pod.cluster.local.", AAAA, "AAAA fd00::5"),
        ("10-244-0-5.nowhere.pod.cluster.local.", A, "no such name"),
        ("300-244-0-5.d.pod.cluster.local.", A, "no such name"),
        // The zone itself.
        ("dns-version.cluster.local.", TXT, "TXT 1.1.0"),
        ("dns-version.cluster.local.", A, "no data"),
        ("cluster.local.", NS, "NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", A, "A 10.96.0.10"),
        ("svc.cluster.local.", A, "no data"),
        ("d.svc.cluster.local.", A, "no data"),
        ("nowhere.svc.cluster.local.", A, "no such name"),
        ("www.cluster.local.", A, "no such name"),
        ("example.com.", A, "not ours"),
        ("xcluster.local.", A, "not ours"),
        // Reverse.
        ("1.0.96.10.in-addr.arpa.", PTR, "PTR kubernetes.default.svc.cluster.local."),
        ("5.0.244.10.in-addr.arpa.", PTR, "PTR sts-0.sts.d.svc.cluster.local."),
        ("6.0.244.10.in-addr.arpa.", PTR, "not ours"),
        ("1.0.96.10.in-addr.arpa.", A, "no data"),
        ("0.96.10.in-addr.arpa.", PTR, "not ours"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(name, kind), expected, "{name} {kind}");
    }
    assert!(ask("cluster.local.", SOA).starts_with("SOA ns.dns.cluster.local. "));
}

#[test]
fn only_pods_with_the_standard_search_path_are_searched_for() {
    let pod = |spec| -> Pod { serde_json::from_value(json!({"metadata": {"namespace": "d"}, "spec": spec})).unwrap() };
    let standard = pod(json!({"containers": [], "dnsPolicy": "ClusterFirst"}));
    assert_eq!(search_namespace(&standard).as_deref(), Some("d"));
    for other in [
        json!({"containers": [], "dnsPolicy": "None"}),
        json!({"containers": [], "dnsPolicy": "Default"}),
        json!({"containers": [], "dnsConfig": {"searches": ["x"]}}),
        json!({"containers": [], "hostNetwork": true}),
    ] {
        assert_eq!(search_namespace(&pod(other.clone())), None, "{other}");
    }
}

proptest::proptest! {
    #[test]
    fn no_name_makes_the_zone_fail(labels in proptest::collection::vec("[-_a-zA-Z0-9]{1,12}", 0..6), kind in 0u16..300) {
        let text = format!("{}.svc.cluster.local.", labels.join("."));
        if let Ok(name) = Name::from_ascii(text.trim_start_matches('.')) {
            let zone = Zone::new("cluster.local", Ipv4Addr::LOCALHOST).unwrap();
            let answer = zone.answer(&Written::example(), &name, RecordType::from(kind)).unwrap();
            proptest::prop_assert!(answer.exists || answer.records.is_empty());
        }
    }
}
