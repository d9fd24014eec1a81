//! Cluster DNS, as Pods see it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Net};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const QUERIER: &str = "dns-querier-1";

struct Dns {
    ns: Namespace,
    client: Net,
    server: String,
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn set<const N: usize>(all: [String; N]) -> BTreeSet<String> {
    all.into()
}

impl Dns {
    /// A Pod that asks, with host name [`QUERIER`] and the label `dns-test=true`; `spec` is merged into its own.
    fn new(prefix: &str, spec: Value) -> Dns {
        let ns = Namespace::new(prefix);
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "querier", "labels": {"dns-test": "true"}},
            "spec": {
                "hostname": QUERIER, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"]}],
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        ns.make("pods", &pod);
        let client = Net::of(&ns, "querier");
        let dns = ns.must("GET", "/api/v1/namespaces/kube-system/services/kube-dns", &Value::Null);
        let server = text(&dns, "/spec/clusterIP");
        Dns { ns, client, server }
    }

    fn name(&self, rest: &str) -> String {
        format!("{rest}.{}.svc.cluster.local", self.ns.name)
    }

    fn ask(&self, name: &str, kind: &str) -> Result<BTreeSet<String>, String> {
        self.client.dns(&self.server, name, kind)
    }

    /// The name has exactly these records, soon.
    fn has(&self, name: &str, kind: &str, wanted: &BTreeSet<String>) {
        self.ns.eventually(&format!("{kind} {name} is {wanted:?}"), || {
            let said = self.ask(name, kind)?;
            if said == *wanted { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }

    /// The headless Service of the querying Pods, and one with an address.
    fn services(&self) -> String {
        let spec = |ip: Option<&str>| {
            let mut spec =
                json!({"selector": {"dns-test": "true"}, "ports": [{"name": "http", "protocol": "TCP", "port": 80}]});
            if let Some(ip) = ip {
                spec["clusterIP"] = json!(ip);
            }
            spec
        };
        for (name, ip) in [("headless", Some("None")), ("regular", None)] {
            let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec(ip)});
            self.ns.make("services", &object);
        }
        self.ns.field("service/regular", "{.spec.clusterIP}")
    }

    fn address(&self) -> String {
        self.ns.field("pod/querier", "{.status.podIP}")
    }

    /// The addresses that the C library in the querying Pod finds for names.
    fn looked_up(&self, names: &[&str]) -> Vec<String> {
        let script = format!("for n in {}; do ping -c 1 -W 1 $n; done; true", names.join(" "));
        let said = self.exec(&script).unwrap();
        let lines = said.lines().filter(|l| l.starts_with("PING "));
        lines.map(|l| l.split(['(', ')']).nth(1).unwrap_or_default().to_owned()).collect()
    }

    /// What a resolver finds that walks through the Pod's search path.
    fn search(&self, name: &str, kind: &str) -> Result<BTreeSet<String>, String> {
        let file = self.exec("cat /etc/resolv.conf").unwrap();
        let path = file.lines().find_map(|l| l.strip_prefix("search ")).unwrap_or_else(|| panic!("{file}")).to_owned();
        let mut last = Err("no search path".to_owned());
        for domain in path.split(' ') {
            last = self.ask(&format!("{name}.{domain}"), kind);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// What a command in the querying Pod prints.
    fn exec(&self, script: &str) -> Result<String, String> {
        self.ns.try_kubectl(&["exec", "querier", "--", "sh", "-c", script])
    }
}

#[test]
fn the_cluster_has_a_name() {
    let dns = Dns::new("dnsclu", json!({}));
    let kubernetes = dns.ns.must("GET", "/api/v1/namespaces/default/services/kubernetes", &Value::Null);
    let address = text(&kubernetes, "/spec/clusterIP");
    dns.has("kubernetes.default.svc.cluster.local", "A", &set([format!("A {address}")]));
    assert_eq!(dns.ask("nobody.default.svc.cluster.local", "A").unwrap_err(), "Non-Existent Domain");
    // What the C library makes of it.
    let said = dns.looked_up(&["kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]);
    assert_eq!(said, [address.as_str(); 3]);
}

#[test]
fn a_pod_finds_itself_in_its_hosts_file() {
    let dns = Dns::new("dnshosts", json!({"subdomain": "headless"}));
    let full = dns.name(&format!("{QUERIER}.headless"));
    // Without a Service of that name no DNS server knows it: the file must.
    let said =
        dns.exec(&format!("cat /etc/hosts; hostname; for n in {full} {QUERIER}; do ping -c 1 -W 1 $n; done")).unwrap();
    let line = said.lines().find(|l| l.starts_with(&dns.address())).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>(), [full.as_str(), QUERIER]);
    assert!(said.lines().any(|l| l == QUERIER), "{said}");
    assert_eq!(said.matches(&format!("({}): ", dns.address())).count(), 2, "{said}");
}

#[test]
fn services_have_names_and_addresses_have_services() {
    let dns = Dns::new("dnssvc", json!({"subdomain": "headless"}));
    let ip = dns.services();
    dns.has(&dns.name("headless"), "A", &set([format!("A {}", dns.address())]));
    dns.has(&dns.name("regular"), "A", &set([format!("A {ip}")]));
    let target = dns.name(&format!("{QUERIER}.headless"));
    dns.has(&dns.name("_http._tcp.headless"), "SRV", &set([format!("SRV 0 100 80 {target}.")]));
    dns.has(&dns.name("_http._tcp.regular"), "SRV", &set([format!("SRV 0 100 80 {}.", dns.name("regular"))]));
    let mut back: Vec<&str> = ip.split('.').collect();
    back.reverse();
    dns.has(&format!("{}.in-addr.arpa", back.join(".")), "PTR", &set([format!("PTR {}.", dns.name("regular"))]));
    // A name that exists has no records of other types, and is not said to be absent.
    assert_eq!(dns.ask(&dns.name("regular"), "AAAA").unwrap(), BTreeSet::new());
    // A second Pod is a second record, and goes again.
    dns.ns.make("pods", &json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "labels": {"dns-test": "true"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"]}]},
    }));
    dns.ns.until("pod/other", "{.status.phase}", "Running");
    let other = dns.ns.field("pod/other", "{.status.podIP}");
    dns.has(&dns.name("headless"), "A", &set([format!("A {}", dns.address()), format!("A {other}")]));
    let label = other.replace('.', "-");
    dns.has(&dns.name(&format!("{label}.headless")), "A", &set([format!("A {other}")]));
    dns.ns.must("DELETE", &dns.ns.under("api/v1/pods/other"), &Value::Null);
    dns.has(&dns.name("headless"), "A", &set([format!("A {}", dns.address())]));
}

#[test]
fn names_may_be_cut_short() {
    let dns = Dns::new("dnspart", json!({"subdomain": "headless"}));
    let ip = dns.services();
    let (pod, ns) = (dns.address(), dns.ns.name.clone());
    dns.has(&dns.name("headless"), "A", &set([format!("A {pod}")]));
    assert_eq!(
        dns.looked_up(&["headless", &format!("headless.{ns}"), &format!("headless.{ns}.svc")]),
        [pod.as_str(); 3]
    );
    assert_eq!(dns.looked_up(&["regular", &format!("regular.{ns}"), &format!("regular.{ns}.svc")]), [ip.as_str(); 3]);
    for (service, expected) in [("headless", format!("{QUERIER}.headless")), ("regular", "regular".to_owned())] {
        let found = dns.search(&format!("_http._tcp.{service}.{ns}.svc"), "SRV");
        assert_eq!(found, Ok(set([format!("SRV 0 100 80 {}.", dns.name(&expected))])));
    }
}

#[test]
fn a_pod_with_a_hostname_has_a_name() {
    let dns = Dns::new("dnshost", json!({"subdomain": "headless"}));
    dns.services();
    let full = dns.name(&format!("{QUERIER}.headless"));
    let own = set([format!("A {}", dns.address())]);
    dns.has(&full, "A", &own);
    let said = dns.exec(&format!("hostname; hostname -f; ping -c 1 -W 1 {QUERIER}; nslookup {full}")).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], [QUERIER, full.as_str()], "{said}");
    assert_eq!(said.matches(&dns.address()).count(), 3, "{said}");
}

#[test]
fn a_subdomain_names_the_pods_of_its_service() {
    let dns = Dns::new("dnssub", json!({"subdomain": "headless"}));
    dns.services();
    let own = set([format!("A {}", dns.address())]);
    dns.has(&dns.name(&format!("{QUERIER}.headless")), "A", &own);
    dns.has(&dns.name("headless"), "A", &own);
    // The subdomain of another Service names nobody.
    assert!(dns.ask(&dns.name(&format!("{QUERIER}.regular")), "A").is_err());
}

#[test]
fn an_external_name_changes_and_becomes_an_address() {
    let dns = Dns::new("dnsext", json!({}));
    let object = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "ExternalName", "externalName": name}})
    };
    dns.ns.make("services", &object("foo.example.com"));
    let name = dns.name("s");
    let alias = |target: &str| set([format!("CNAME {target}.")]);
    dns.has(&name, "CNAME", &alias("foo.example.com"));
    let path = dns.ns.under("api/v1/services/s");
    dns.ns.must("PATCH", &path, &json!({"spec": {"externalName": "bar.example.com"}}));
    dns.has(&name, "CNAME", &alias("bar.example.com"));
    let mut next = dns.ns.read("api/v1/services/s");
    next["spec"] =
        json!({"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]});
    let changed = dns.ns.must("PUT", &path, &next);
    dns.has(&name, "A", &set([format!("A {}", text(&changed, "/spec/clusterIP"))]));
    assert_eq!(dns.ask(&name, "CNAME").unwrap(), BTreeSet::new());
}

#[test]
fn an_alias_of_a_name_in_the_cluster_is_followed() {
    let dns = Dns::new("dnsalias", json!({}));
    let ip = dns.services();
    let target = dns.name("regular");
    dns.ns.make(
        "services",
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "ExternalName", "externalName": target}}),
    );
    dns.has(&dns.name("s"), "A", &set([format!("A {ip}"), format!("CNAME {target}.")]));
}

#[test]
fn a_pod_may_bring_its_own_resolvers() {
    let own = json!({"dnsPolicy": "None", "dnsConfig": {
        "nameservers": ["192.0.2.53"], "searches": ["resolv.conf.local"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
    let dns = Dns::new("dnsown", own);
    let said = dns.exec("cat /etc/resolv.conf").unwrap();
    let lines: Vec<&str> = said.lines().filter(|l| !l.is_empty()).collect();
    assert_eq!(lines, ["search resolv.conf.local", "nameserver 192.0.2.53", "options ndots:2 edns0"], "{said}");
}

#[test]
fn a_pod_may_add_to_the_clusters_resolvers() {
    let dns = Dns::new(
        "dnsadd",
        json!({"dnsConfig": {"searches": ["more.example"], "options": [{"name": "ndots", "value": "3"}]}}),
    );
    let said = dns.exec("cat /etc/resolv.conf").unwrap();
    let has = |line: &str| said.lines().any(|l| l == line);
    let ns = &dns.ns.name;
    assert!(
        said.contains(&format!("search {ns}.svc.cluster.local svc.cluster.local cluster.local"))
            && said.contains("more.example"),
        "{said}"
    );
    assert!(
        has(&format!("nameserver {}", dns.server)) && said.contains("ndots:3") && !said.contains("ndots:5"),
        "{said}"
    );
}
