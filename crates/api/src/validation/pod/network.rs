//! Name resolution of pods.

use super::super::check::{Out, Path, child, has, invalid_all, items, text, texts};
use crate::field::FieldError;
use crate::names;
use serde_json::Value;

/// Limits of upstream's `MaxDNS…` constants.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LIST_MAX: usize = 2048;

/// `spec.dnsConfig`, and what `dnsPolicy: None` asks of it.
pub(super) fn dns_config(out: &mut Out, at: Path, spec: &Value) {
    let config = child(spec, "dnsConfig");
    let at = at.child("dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        if !has(spec, "dnsConfig") {
            return out.push(FieldError::required(&at, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        if items(config, "nameservers").is_empty() {
            return out.push(FieldError::required(
                &at.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            ));
        }
    }
    let servers = at.child("nameservers");
    if items(config, "nameservers").len() > NAMESERVERS_MAX {
        out.push(FieldError::invalid(
            &servers,
            child(config, "nameservers"),
            format!("must not have more than {NAMESERVERS_MAX} nameservers"),
        ));
    }
    for (i, server) in texts(config, "nameservers").enumerate() {
        invalid_all(out, &servers.index(i), server, names::ip(server));
    }
    let searches = at.child("searches");
    if items(config, "searches").len() > SEARCHES_MAX {
        out.push(FieldError::invalid(
            &searches,
            child(config, "searches"),
            format!("must not have more than {SEARCHES_MAX} search paths"),
        ));
    }
    let length: usize = texts(config, "searches").map(|one| one.len() + 1).sum();
    if length > SEARCH_LIST_MAX + 1 {
        out.push(FieldError::invalid(
            &searches,
            child(config, "searches"),
            format!("must not have more than {SEARCH_LIST_MAX} characters (including spaces) in the search list"),
        ));
    }
    for (i, search) in texts(config, "searches").enumerate() {
        if search == "." {
            continue;
        }
        let bare = search.strip_suffix('.').unwrap_or(search);
        invalid_all(out, &searches.index(i), search, names::dns1123_subdomain_with_underscore(bare));
    }
    for (i, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            out.push(FieldError::required(&at.child("options").index(i), "must not be empty"));
        }
    }
}

/// `spec.hostAliases`.
pub(super) fn host_aliases(out: &mut Out, list: Path, spec: &Value) {
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        let at = list.index(i);
        host_alias_ip(out, &at.child("ip"), text(alias, "ip"));
        for (j, name) in texts(alias, "hostnames").enumerate() {
            invalid_all(out, &at.child("hostnames").index(j), name, names::dns1123_subdomain(name));
        }
    }
}

/// An address.
pub(in super::super) fn host_alias_ip(out: &mut Out, at: Path, ip: &str) {
    invalid_all(out, at, ip, names::ip(ip));
}
