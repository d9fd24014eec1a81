//! A Pod's host name and `/etc/hosts`.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod::spec;

/// The longest host name the kernel takes.
const MAX_HOSTNAME: usize = 64;

/// A Pod's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// What `hostname` prints.
    pub hostname: String,
    /// The first label.
    pub short: String,
    /// The domain of the Pod's subdomain; empty without one.
    pub domain: String,
}

/// The names of a Pod, or why it cannot have them.
pub fn names(pod: &Pod, cluster_domain: &str) -> Result<Names, String> {
    let Some(s) = &pod.spec else { return Ok(Names::default()) };
    if let Some(name) = s.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return Ok(Names { hostname: name.to_owned(), short: name.to_owned(), domain: String::new() });
    }
    let short = match s.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(h) => h.to_owned(),
        None => {
            let name = spec::name(pod);
            let cut: String = name.chars().take(63).collect();
            if name.len() > 63 { cut.trim_end_matches(['-', '.']).to_owned() } else { cut }
        }
    };
    let domain = match s.subdomain.as_deref().filter(|d| !d.is_empty()) {
        Some(sub) => format!("{sub}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    let mut hostname = short.clone();
    if s.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        hostname = format!("{short}.{domain}");
        if hostname.len() > MAX_HOSTNAME {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {hostname} is too long ({MAX_HOSTNAME} characters is the max, {} characters requested)",
                hostname.len()
            ));
        }
    }
    Ok(Names { hostname, short, domain })
}

/// The file for a Pod with a network of its own.
pub fn file(ips: &[String], names: &Names, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let _ = if names.domain.is_empty() {
            writeln!(out, "{ip}\t{}", names.short)
        } else {
            writeln!(out, "{ip}\t{}.{}\t{}", names.short, names.domain, names.short)
        };
    }
    out.push_str(&alias_lines(aliases));
    out
}

/// The file for a Pod with the host's network: the host's own and the aliases.
pub fn file_on_host(host: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{host}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for a in aliases {
        let _ = writeln!(out, "{}\t{}", a.ip, a.hostnames.clone().unwrap_or_default().join("\t"));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn named(spec: serde_json::Value) -> Result<Names, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p.x", "namespace": "n"}, "spec": spec})).unwrap();
        names(&pod, "cluster.local")
    }

    #[test]
    fn host_names() {
        let c = json!([{"name": "a"}]);
        assert_eq!(named(json!({"containers": c})).unwrap().hostname, "p.x");
        let n = named(json!({"containers": c, "hostname": "h", "subdomain": "s"})).unwrap();
        assert_eq!((n.hostname.as_str(), n.domain.as_str()), ("h", "s.n.svc.cluster.local"));
        let n = named(json!({"containers": c, "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})).unwrap();
        assert_eq!(n.hostname, "h.s.n.svc.cluster.local");
        let long = "a".repeat(60);
        assert!(
            named(json!({"containers": c, "hostname": long, "subdomain": "s", "setHostnameAsFQDN": true})).is_err()
        );
    }

    #[test]
    fn hosts_file() {
        let n = Names { hostname: "h".into(), short: "h".into(), domain: "s.n.svc.c".into() };
        let alias = HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["x".into(), "y".into()]) };
        let f = file(&["10.0.0.2".into()], &n, &[alias]);
        assert!(f.starts_with("# Kubernetes-managed hosts file.\n"));
        assert!(f.contains("10.0.0.2\th.s.n.svc.c\th\n"));
        assert!(f.ends_with("1.2.3.4\tx\ty\n"));
    }
}
