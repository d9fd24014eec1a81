//! URLs: absolute ones and absolute paths, as Go's `url.ParseRequestURI` takes them.

use super::{Called, library};
use crate::eval::{Evaluator, fail};
use crate::ops::text_cost;
use crate::value::{Key, Library, Val};
use std::collections::BTreeMap;

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Parses; none when it is no absolute URL or path.
    pub fn parse(text: &str) -> Option<Url> {
        if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
            return None;
        }
        let (rest, query) = text.split_once('?').unwrap_or((text, ""));
        let mut url = Url { scheme: String::new(), host: String::new(), path: String::new(), query: query.to_owned() };
        if rest.starts_with('/') {
            url.path = rest.to_owned();
            return Some(url);
        }
        let (scheme, rest) = rest.split_once(':')?;
        let good = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(good) {
            return None;
        }
        url.scheme = scheme.to_ascii_lowercase();
        let Some(rest) = rest.strip_prefix("//") else {
            url.path = rest.strip_prefix('/').map(|p| format!("/{p}")).unwrap_or_default();
            return Some(url);
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let port = match host.rsplit_once(']') {
            Some((_, tail)) => tail.strip_prefix(':'),
            None if host.matches(':').count() > 1 => return None,
            None => host.split_once(':').map(|(_, port)| port),
        };
        if port.is_some_and(|p| !p.chars().all(|c| c.is_ascii_digit())) || !escapes_are_good(path) {
            return None;
        }
        url.host = host.to_owned();
        url.path = path.to_owned();
        Some(url)
    }

    fn hostname(&self) -> &str {
        if let Some(inner) = self.host.strip_prefix('[') {
            return inner.split(']').next().unwrap_or_default();
        }
        self.host.split(':').next().unwrap_or_default()
    }

    fn port(&self) -> &str {
        let tail = self.host.rsplit(']').next().unwrap_or_default();
        tail.rsplit_once(':').map_or("", |(_, port)| port)
    }
}

fn escapes_are_good(text: &str) -> bool {
    text.split('%').skip(1).all(|tail| tail.as_bytes().iter().take(2).filter(|b| b.is_ascii_hexdigit()).count() == 2)
}

fn escape(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = vec![];
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let ("url" | "isURL", [Val::String(text)]) = (name, args) {
        return Some(evaluator.charge(text_cost(text.as_str().len())).and_then(|()| {
            match (Url::parse(text.as_str()), name) {
                (found, "isURL") => Ok(Val::Bool(found.is_some())),
                (Some(url), _) => Ok(Val::library(Library::Url(url))),
                (None, _) => fail(format!(
                    "URL parse error during conversion from string: parse {:?}: invalid URI for request",
                    text.as_str()
                )),
            }
        }));
    }
    let Library::Url(url) = library(args)? else { return None };
    Some(Ok(match name {
        "getScheme" => Val::text(url.scheme.as_str()),
        "getHost" => Val::text(url.host.as_str()),
        "getHostname" => Val::text(url.hostname()),
        "getPort" => Val::text(url.port()),
        "getEscapedPath" => Val::text(escape(&url.path)),
        "getQuery" => {
            let mut all: BTreeMap<Key, Vec<Val<'a>>> = BTreeMap::new();
            for pair in url.query.split('&').filter(|p| !p.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                all.entry(Key::String(unescape(key).into())).or_default().push(Val::text(unescape(value)));
            }
            Val::dict(all.into_iter().map(|(k, v)| (k, Val::list(v))).collect())
        }
        _ => return None,
    }))
}
