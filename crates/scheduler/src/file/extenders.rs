//! `extenders` of the file.

use std::time::Duration;

use base64::Engine;
use serde::Deserialize;

use super::{FileError, wrong};
use crate::extend::{ExtenderConfig, Material, Tls};

/// Upstream's time for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One extender as it is written.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileExtender {
    url_prefix: Option<String>,
    filter_verb: Option<String>,
    preempt_verb: Option<String>,
    prioritize_verb: Option<String>,
    weight: Option<i64>,
    bind_verb: Option<String>,
    #[serde(rename = "enableHTTPS")]
    enable_https: Option<bool>,
    tls_config: Option<FileTls>,
    http_timeout: Option<String>,
    node_cache_capable: Option<bool>,
    #[serde(default)]
    managed_resources: Vec<Managed>,
    ignorable: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileTls {
    insecure: Option<bool>,
    server_name: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    ca_file: Option<String>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Managed {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// The extenders, and the resources that need not fit since they look after them.
///
/// # Errors
/// What is wrong, where, and what would be right.
pub fn read(given: &[FileExtender]) -> Result<(Vec<ExtenderConfig>, Vec<String>), FileError> {
    let (mut all, mut ignored, mut managed) = (vec![], vec![], vec![]);
    for (i, e) in given.iter().enumerate() {
        let at = format!("extenders[{i}]");
        for (j, m) in e.managed_resources.iter().enumerate() {
            let at = format!("{at}.managedResources[{j}].name");
            if !extended(&m.name) {
                return wrong(
                    at,
                    format!("{:?} is no extended resource: those are DOMAIN/NAME outside kubernetes.io", m.name),
                );
            }
            if managed.contains(&m.name) {
                return wrong(at, format!("{} is managed twice; each resource has one extender", m.name));
            }
            managed.push(m.name.clone());
            if m.ignored_by_scheduler {
                ignored.push(m.name.clone());
            }
        }
        all.push(one(e, &at)?);
    }
    if all.iter().filter(|e| e.bind.is_some()).count() > 1 {
        return wrong("extenders", "several have a bindVerb; only one can bind");
    }
    Ok((all, ignored))
}

/// Whether a name is one of an extended resource.
fn extended(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    !domain.is_empty() && !rest.is_empty() && !own && !name.starts_with("requests.")
}

fn one(e: &FileExtender, at: &str) -> Result<ExtenderConfig, FileError> {
    let verb = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
    let url = e.url_prefix.clone().unwrap_or_default();
    let scheme = url.parse::<http::Uri>().ok().and_then(|u| u.scheme_str().map(str::to_owned));
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        return wrong(
            format!("{at}.urlPrefix"),
            format!("{url:?} is no URL of http or https, like https://host:8443/extender"),
        );
    }
    let weight = e.weight.unwrap_or(0);
    if verb(&e.prioritize_verb).is_some() && weight <= 0 {
        return wrong(
            format!("{at}.weight"),
            format!("{weight}: an extender with a prioritizeVerb needs a positive weight"),
        );
    }
    let timeout = match e.http_timeout.as_deref().filter(|t| !t.is_empty()) {
        None => TIMEOUT,
        Some(text) => match caravel_api::duration::parse_std(text) {
            Some(d) if d.is_zero() => TIMEOUT,
            Some(d) => d,
            None => return wrong(format!("{at}.httpTimeout"), format!("{text:?} is no duration, like 500ms or 5s")),
        },
    };
    Ok(ExtenderConfig {
        url,
        filter: verb(&e.filter_verb),
        prioritize: verb(&e.prioritize_verb),
        weight,
        preempt: verb(&e.preempt_verb),
        bind: verb(&e.bind_verb),
        tls: tls(e, &format!("{at}.tlsConfig"))?,
        timeout,
        knows_nodes: e.node_cache_capable == Some(true),
        managed: e.managed_resources.iter().map(|m| m.name.clone()).collect(),
        ignorable: e.ignorable == Some(true),
    })
}

fn tls(e: &FileExtender, at: &str) -> Result<Tls, FileError> {
    let none = FileTls::default();
    let given = e.tls_config.as_ref().unwrap_or(&none);
    let set = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
    let authorities = match (set(&given.ca_data), set(&given.ca_file)) {
        (Some(data), _) => match base64::engine::general_purpose::STANDARD.decode(data.trim()) {
            Ok(pem) => Some(pem),
            Err(error) => return wrong(format!("{at}.caData"), format!("it is no base64: {error}")),
        },
        (None, Some(file)) => match std::fs::read(&file) {
            Ok(pem) => Some(pem),
            Err(error) => return wrong(format!("{at}.caFile"), format!("{file}: {error}")),
        },
        (None, None) => None,
    };
    let insecure = given.insecure == Some(true);
    if insecure && authorities.is_some() {
        return wrong(
            format!("{at}.insecure"),
            "with authorities to verify the server by it cannot be insecure; leave one of them out",
        );
    }
    let part = |data: &Option<String>, file: &Option<String>| {
        set(data).map(Material::Data).or_else(|| set(file).map(Material::File))
    };
    let (cert, key) = (part(&given.cert_data, &given.cert_file), part(&given.key_data, &given.key_file));
    if cert.is_some() != key.is_some() {
        return wrong(at, "a client's certificate and its key go together");
    }
    Ok(Tls {
        // As upstream has it: whoever asks for HTTPS and names no authority trusts whoever answers.
        insecure: insecure || (e.enable_https == Some(true) && authorities.is_none()),
        server_name: set(&given.server_name),
        authorities,
        cert,
        key,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(yaml: &str) -> Result<(Vec<ExtenderConfig>, Vec<String>), FileError> {
        let given: Vec<FileExtender> = serde_yaml::from_str(yaml).map_err(|e| FileError::Syntax(e.to_string()))?;
        read(&given)
    }

    #[test]
    fn all_fields() {
        let (all, ignored) = of("
- urlPrefix: https://x.example:1/s/
  filterVerb: filter
  prioritizeVerb: prioritize
  weight: 5
  preemptVerb: preempt
  bindVerb: bind
  enableHTTPS: true
  httpTimeout: 250ms
  nodeCacheCapable: true
  ignorable: true
  managedResources: [{name: example.com/a, ignoredByScheduler: true}, {name: example.com/b}]
- urlPrefix: http://y
  filterVerb: ''
  tlsConfig: {serverName: z, certData: YQ==, keyData: YQ==}
")
        .unwrap();
        let e = &all[0];
        assert_eq!((e.filter.as_deref(), e.bind.as_deref(), e.weight), (Some("filter"), Some("bind"), 5));
        assert_eq!(
            (e.timeout, e.knows_nodes, e.ignorable, e.tls.insecure),
            (Duration::from_millis(250), true, true, true)
        );
        assert_eq!((e.managed.len(), ignored), (2, vec!["example.com/a".to_owned()]));
        let e = &all[1];
        assert_eq!((e.filter.as_deref(), e.timeout, e.tls.insecure), (None, TIMEOUT, false));
        assert!(matches!(&e.tls.cert, Some(Material::Data(d)) if d == "YQ=="));
    }

    #[test]
    fn what_makes_no_sense() {
        for (yaml, wanted) in [
            ("- {filterVerb: f}", "extenders[0].urlPrefix"),
            ("- {urlPrefix: 'ftp://x'}", "no URL of http"),
            ("- {urlPrefix: 'http://x', prioritizeVerb: p}", "positive weight"),
            ("- {urlPrefix: 'http://x', httpTimeout: soon}", "no duration"),
            ("- {urlPrefix: 'http://x', bindVerb: b}\n- {urlPrefix: 'http://y', bindVerb: b}", "only one can bind"),
            ("- {urlPrefix: 'http://x', managedResources: [{name: cpu}]}", "no extended resource"),
            ("- {urlPrefix: 'http://x', managedResources: [{name: a.kubernetes.io/x}]}", "no extended resource"),
            ("- {urlPrefix: 'http://x', managedResources: [{name: a/b}, {name: a/b}]}", "managed twice"),
            ("- {urlPrefix: 'https://x', tlsConfig: {caData: '?'}}", "no base64"),
            ("- {urlPrefix: 'https://x', tlsConfig: {certFile: c}}", "go together"),
            ("- {urlPrefix: 'https://x', tlsConfig: {insecure: true, caData: YQ==}}", "cannot be insecure"),
            ("- {urlPrefix: 'http://x', verb: f}", "unknown field"),
        ] {
            let said = of(yaml).unwrap_err().to_string();
            assert!(said.contains(wanted), "{yaml}: {said}");
        }
    }
}
