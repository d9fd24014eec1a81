//! A Pod's resolver configuration.

use std::net::IpAddr;

use caravel_runtime::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec;

/// What the cluster and the host give.
#[derive(Debug, Clone, Default)]
pub struct Resolvers {
    /// The cluster's DNS addresses.
    pub cluster: Vec<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// The host's configuration.
    pub host: DnsConfig,
}

/// Reads a `resolv.conf`.
pub fn parse(text: &str) -> DnsConfig {
    let mut c = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => c.servers.extend(words.next().map(str::to_owned)),
            // The last line of its kind counts.
            Some("search" | "domain") => {
                c.searches = words.map(|s| s.trim_end_matches('.').to_owned()).filter(|s| !s.is_empty()).collect()
            }
            Some("options") => c.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    c
}

/// The configuration of a Pod.
pub fn config(pod: &Pod, r: &Resolvers) -> DnsConfig {
    let pod_spec = pod.spec.as_ref();
    let policy = pod_spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    let mut c = match policy {
        "None" => DnsConfig::default(),
        _ if in_cluster && !r.cluster.is_empty() => {
            let ns = spec::namespace(pod);
            let own = [format!("{ns}.svc.{}", r.domain), format!("svc.{}", r.domain), r.domain.clone()];
            let searches = own.into_iter().chain(r.host.searches.iter().cloned());
            DnsConfig {
                servers: r.cluster.iter().map(IpAddr::to_string).collect(),
                searches: unique(searches),
                options: vec!["ndots:5".into()],
            }
        }
        _ => r.host.clone(),
    };
    if let Some(own) = pod_spec.and_then(|s| s.dns_config.as_ref()) {
        c.servers = unique(c.servers.into_iter().chain(own.nameservers.iter().flatten().cloned()));
        c.searches = unique(c.searches.into_iter().chain(own.searches.iter().flatten().cloned()));
        for o in own.options.iter().flatten() {
            let Some(name) = &o.name else { continue };
            c.options.retain(|have| have.split(':').next() != Some(name.as_str()));
            c.options.push(match o.value.as_deref().filter(|v| !v.is_empty()) {
                Some(v) => format!("{name}:{v}"),
                None => name.clone(),
            });
        }
    }
    c
}

fn unique(list: impl Iterator<Item = String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for s in list {
        if !out.contains(&s) {
            out.push(s);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        let r = Resolvers {
            cluster: vec!["10.96.0.10".parse().unwrap()],
            domain: "cluster.local".into(),
            host: parse("nameserver 8.8.8.8\nsearch old\nsearch corp.example.\noptions timeout:1\n"),
        };
        let of = |spec: serde_json::Value| {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap();
            config(&pod, &r)
        };
        let c = json!([{"name": "a"}]);
        let first = of(json!({"containers": c}));
        assert_eq!(first.servers, ["10.96.0.10"]);
        assert_eq!(first.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(first.options, ["ndots:5"]);
        assert_eq!(of(json!({"containers": c, "hostNetwork": true})).servers, ["8.8.8.8"]);
        assert_eq!(
            of(json!({"containers": c, "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})).servers,
            ["10.96.0.10"]
        );
        assert_eq!(of(json!({"containers": c, "dnsPolicy": "Default"})), r.host);
        let none = of(
            json!({"containers": c, "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
        );
        assert_eq!(
            (none.servers, none.searches, none.options),
            (vec!["1.1.1.1".to_owned()], vec!["x".to_owned()], vec!["ndots:2".to_owned(), "edns0".to_owned()])
        );
        let over = of(json!({"containers": c, "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!(over.options, ["ndots:2"]);
    }
}
