//! What a request is about, read from its method, path and query alone: upstream's `RequestInfo`.
//!
//! Everything downstream (authentication of health checks, authorization, flow control, audit, the registry) works
//! from this value, so a request cannot be one thing to the authorizer and another to the handler.

use http::{Method, Uri};

/// A request, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The request is about a resource (else about a plain path such as `/healthz`).
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; for a plain path the
    /// lower-case HTTP method.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty for cluster scope (and for all namespaces).
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object name, or empty.
    pub name: String,
    /// All path segments after the version and namespace: resource, name, subresource, rest.
    pub parts: Vec<String>,
}

/// Subresources of namespaces: `/api/v1/namespaces/x/status` is about the namespace, while
/// `/api/v1/namespaces/x/pods` is about pods.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Resolves `method` and `uri`. Never fails: what is no resource is a plain path.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let path = percent_decode(uri.path());
        let mut info = Self { verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let rest = match parts.first() {
            Some(&"api") if parts.len() >= 3 => {
                info.version = parts[1].to_owned();
                &parts[2..]
            }
            Some(&"apis") if parts.len() >= 4 => {
                info.group = parts[1].to_owned();
                info.version = parts[2].to_owned();
                &parts[3..]
            }
            _ => {
                info.path = path;
                return info;
            }
        };
        info.is_resource = true;
        info.resolve_resource(method, uri, rest);
        info.path = path;
        info
    }

    fn resolve_resource(&mut self, method: &Method, uri: &Uri, mut rest: &[&str]) {
        let mut special = false;
        // The long deprecated prefixes /api/v1/proxy/… and /api/v1/watch/…
        if matches!(rest.first(), Some(&"proxy" | &"watch")) && rest.len() > 1 {
            self.verb = rest[0].to_owned();
            rest = &rest[1..];
            special = true;
        } else {
            self.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .to_owned();
        }
        if rest.first() == Some(&"namespaces")
            && let Some(namespace) = rest.get(1)
        {
            self.namespace = (*namespace).to_owned();
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                rest = &rest[2..];
            }
        }
        self.parts = rest.iter().map(|part| (*part).to_owned()).collect();
        // `proxy` as a special verb keeps everything after the name as the path to call.
        if let Some(resource) = rest.first() {
            self.resource = (*resource).to_owned();
        }
        if let Some(name) = rest.get(1) {
            self.name = (*name).to_owned();
        }
        if let Some(subresource) = rest.get(2)
            && !(special && self.verb == "proxy")
        {
            self.subresource = (*subresource).to_owned();
        }
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if wants_watch(uri) { "watch" } else { "list" }.to_owned();
            // A list narrowed to one name is authorized as being about that name.
            if let Some(name) = metadata_name(uri) {
                self.name = name;
            }
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        } else if self.verb == "watch"
            && self.name.is_empty()
            && let Some(name) = metadata_name(uri)
        {
            self.name = name;
        }
    }

    /// The object name that the path itself names (not one taken from a field selector).
    pub fn path_name(&self) -> &str {
        self.parts.get(1).map_or("", String::as_str)
    }

    /// What follows the subresource: the path handed on by `proxy` subresources, without a leading slash.
    pub fn trailing(&self) -> String {
        self.parts.get(3..).map(|rest| rest.join("/")).unwrap_or_default()
    }

    /// Requests that may last as long as the client likes and are exempt from the request timeout.
    pub fn is_long_running(&self, uri: &Uri) -> bool {
        if !self.is_resource {
            return self.path.starts_with("/debug/pprof/");
        }
        match self.verb.as_str() {
            "watch" | "proxy" => true,
            _ => match self.subresource.as_str() {
                "proxy" | "attach" | "exec" | "portforward" => true,
                "log" => query_value(uri, "follow").is_some_and(|v| is_true(&v)),
                _ => false,
            },
        }
    }
}

fn wants_watch(uri: &Uri) -> bool {
    query_value(uri, "watch").is_some_and(|v| is_true(&v))
}

/// Go's `strconv.ParseBool`, with a bare key meaning true, as in upstream's conversion of query parameters.
pub fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The name that `fieldSelector=metadata.name=x` asks for.
fn metadata_name(uri: &Uri) -> Option<String> {
    let selector = query_value(uri, "fieldSelector")?;
    selector.split(',').find_map(|term| {
        let (key, value) = term.split_once("==").or_else(|| term.split_once('='))?;
        (key.trim() == "metadata.name" && !key.ends_with('!') && !value.is_empty()).then(|| value.trim().to_owned())
    })
}

/// The first value of `key` in the query, decoded.
pub fn query_value(uri: &Uri, key: &str) -> Option<String> {
    query_pairs(uri.query().unwrap_or_default()).find(|(k, _)| k == key).map(|(_, v)| v)
}

/// All pairs of a query, decoded.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(key), form_decode(value))
    })
}

fn form_decode(text: &str) -> String {
    if text.contains('+') { percent_decode(&text.replace('+', " ")) } else { percent_decode(text) }
}

/// Decodes `%xx`; what is not valid stays as it is, and bytes that are not UTF-8 are replaced.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().unwrap(), &uri.parse().unwrap())
    }

    /// method, uri → verb, group, version, namespace, resource, subresource, name
    #[test]
    fn resources() {
        let table: &[(&str, &str, [&str; 7])] = &[
            ("GET", "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", ""]),
            ("GET", "/api/v1/namespaces/other", ["get", "", "v1", "other", "namespaces", "", "other"]),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                ["update", "", "v1", "other", "namespaces", "finalize", "other"],
            ),
            ("PUT", "/api/v1/namespaces/other/status", ["update", "", "v1", "other", "namespaces", "status", "other"]),
            ("GET", "/api/v1/namespaces/other/pods", ["list", "", "v1", "other", "pods", "", ""]),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo"]),
            ("GET", "/api/v1/namespaces/other/pods?watch=true", ["watch", "", "v1", "other", "pods", "", ""]),
            ("GET", "/api/v1/namespaces/other/pods?watch=1", ["watch", "", "v1", "other", "pods", "", ""]),
            ("GET", "/api/v1/namespaces/other/pods?watch=false", ["list", "", "v1", "other", "pods", "", ""]),
            ("GET", "/api/v1/watch/namespaces/other/pods", ["watch", "", "v1", "other", "pods", "", ""]),
            ("GET", "/api/v1/watch/pods", ["watch", "", "v1", "", "pods", "", ""]),
            ("GET", "/api/v1/nodes/n1", ["get", "", "v1", "", "nodes", "", "n1"]),
            ("POST", "/api/v1/namespaces/other/pods", ["create", "", "v1", "other", "pods", "", ""]),
            ("DELETE", "/api/v1/namespaces/other/pods", ["deletecollection", "", "v1", "other", "pods", "", ""]),
            ("DELETE", "/api/v1/namespaces/other/pods/foo", ["delete", "", "v1", "other", "pods", "", "foo"]),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                ["patch", "apps", "v1", "x", "deployments", "scale", "d"],
            ),
            ("GET", "/apis/apps/v1/deployments", ["list", "apps", "v1", "", "deployments", "", ""]),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dp", ["list", "", "v1", "", "pods", "", "p"]),
            ("GET", "/api/v1/pods?watch=1&fieldSelector=metadata.name=p", ["watch", "", "v1", "", "pods", "", "p"]),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name!=p", ["list", "", "v1", "", "pods", "", ""]),
            ("POST", "/api/v1/namespaces/x/pods/p/exec", ["create", "", "v1", "x", "pods", "exec", "p"]),
            ("GET", "/api/v1/nodes/n1/proxy/metrics/cadvisor", ["get", "", "v1", "", "nodes", "proxy", "n1"]),
            ("GET", "/api/v1/namespaces/x%79/pods", ["list", "", "v1", "xy", "pods", "", ""]),
        ];
        for (method, uri, [verb, group, version, namespace, resource, subresource, name]) in table {
            let info = parse(method, uri);
            assert!(info.is_resource, "{uri}");
            let got = [
                &info.verb,
                &info.group,
                &info.version,
                &info.namespace,
                &info.resource,
                &info.subresource,
                &info.name,
            ];
            assert_eq!(got, [verb, group, version, namespace, resource, subresource, name], "{method} {uri}");
        }
    }

    #[test]
    fn plain_paths() {
        for (uri, verb) in [
            ("/", "get"),
            ("/api", "get"),
            ("/api/v1", "get"),
            ("/apis", "get"),
            ("/apis/apps", "get"),
            ("/apis/apps/v1", "get"),
            ("/healthz/ping", "get"),
            ("/openapi/v3/apis/apps/v1", "get"),
        ] {
            let info = parse("GET", uri);
            assert!(!info.is_resource, "{uri}");
            assert_eq!(info.verb, verb);
            assert_eq!(info.path, uri);
        }
        assert_eq!(parse("POST", "/healthz").verb, "post");
    }

    #[test]
    fn trailing_path_of_a_proxy() {
        let info = parse("GET", "/api/v1/namespaces/x/services/http:web:80/proxy/a/b");
        assert_eq!((info.name.as_str(), info.trailing().as_str()), ("http:web:80", "a/b"));
    }

    #[test]
    fn long_running() {
        for (uri, long) in [
            ("/api/v1/pods?watch=1", true),
            ("/api/v1/namespaces/x/pods/p/log?follow=true", true),
            ("/api/v1/namespaces/x/pods/p/log", false),
            ("/api/v1/namespaces/x/pods/p/exec", true),
            ("/api/v1/pods", false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(RequestInfo::parse(&Method::GET, &uri).is_long_running(&uri), long, "{uri}");
        }
    }

    #[test]
    fn decoding_is_lenient() {
        assert_eq!(percent_decode("a%2Fb%zz%"), "a/b%zz%");
        let pairs: Vec<_> = query_pairs("a=1+2&b&=c&d=%3D").collect();
        assert_eq!(
            pairs,
            [("a".into(), "1 2".into()), ("b".into(), "".into()), ("".into(), "c".into()), ("d".into(), "=".into())]
        );
    }
}
