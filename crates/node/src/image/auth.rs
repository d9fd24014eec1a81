//! Image names, and the credentials for them.

use std::sync::Arc;

use base64::Engine;
use caravel_runtime::Auth;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

/// Checks that a name can be an image's.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    const INVALID: &str = "invalid reference format";
    if name.is_empty() || name.len() > 1024 || name.chars().any(char::is_whitespace) {
        return Err(INVALID);
    }
    let (rest, digest) = match name.split_once('@') {
        Some((rest, d)) => (rest, Some(d)),
        None => (name, None),
    };
    if let Some(d) = digest {
        let hex = d.strip_prefix("sha256:").or_else(|| d.strip_prefix("sha512:")).ok_or(INVALID)?;
        if hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(INVALID);
        }
    }
    let (path, tag) = match rest.rsplit_once(':') {
        Some((p, t)) if !t.contains('/') => (p, Some(t)),
        _ => (rest, None),
    };
    if let Some(t) = tag
        && (t.is_empty()
            || t.len() > 128
            || t.starts_with(['.', '-'])
            || !t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
    {
        return Err(INVALID);
    }
    let (host, repo) = split_host(path);
    let plain = |p: &str| {
        !p.is_empty()
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            && p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if repo.split('/').all(plain) && host.is_none_or(|h| !h.is_empty()) {
        return Ok(());
    }
    if path.chars().any(char::is_uppercase) { Err("repository name must be lowercase") } else { Err(INVALID) }
}

/// The registry of a name, if it has one, and the rest.
fn split_host(path: &str) -> (Option<&str>, &str) {
    match path.split_once('/') {
        Some((h, rest)) if h.contains(['.', ':']) || h == "localhost" => (Some(h), rest),
        _ => (None, path),
    }
}

/// The credentials in these secrets that fit the image, the most specific first.
pub fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<Auth> {
    let path = image.split('@').next().unwrap_or(image);
    let (host, repo) = split_host(path);
    let full = format!("{}/{repo}", host.unwrap_or("docker.io"));
    let mut found: Vec<(usize, Auth)> = Vec::new();
    for s in secrets {
        for (registry, entry) in entries(s) {
            let key = normal(&registry);
            if matches(&key, &full) {
                found.extend(auth(&entry).map(|a| (key.len(), a)));
            }
        }
    }
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, a)| a).collect()
}

fn entries(s: &Secret) -> Vec<(String, Value)> {
    let data = |key: &str| s.data.as_ref()?.get(key).and_then(|d| serde_json::from_slice::<Value>(&d.0).ok());
    let map = match s.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson").and_then(|v| v.get("auths").cloned()),
        Some("kubernetes.io/dockercfg") => data(".dockercfg"),
        _ => None,
    };
    map.and_then(|m| m.as_object().cloned()).into_iter().flatten().collect()
}

/// `https://index.docker.io/v1/` and its like as `docker.io`.
fn normal(registry: &str) -> String {
    let r = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let r = r.trim_end_matches("/v1").trim_end_matches("/v2");
    match r {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        _ => r.into(),
    }
}

/// Whether a registry key (with `*` for one label of the host, and maybe a path) fits an image.
fn matches(key: &str, image: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    let labels = |h: &str| h.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (k, h) = (labels(key_host), labels(host));
    let host_fits = k.len() == h.len() && k.iter().zip(&h).all(|(a, b)| a == b || a == "*");
    host_fits
        && (key_path.is_empty()
            || path == key_path
            || path.starts_with(&format!("{key_path}/"))
            || path.starts_with(&format!("{key_path}:")))
}

fn auth(entry: &Value) -> Option<Auth> {
    let text = |k: &str| entry.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut a = Auth {
        username: text("username"),
        password: text("password"),
        auth: String::new(),
        // The credentials were chosen for the image's registry; a runtime that compares names would not know aliases.
        server_address: String::new(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    };
    if a.username.is_empty() {
        let decoded =
            base64::engine::general_purpose::STANDARD.decode(text("auth")).ok().and_then(|b| String::from_utf8(b).ok());
        if let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
            a.username = user.to_owned();
            a.password = password.trim_end_matches('\0').to_owned();
        }
    }
    let useful = !a.username.is_empty() || !a.identity_token.is_empty() || !a.registry_token.is_empty();
    useful.then_some(a)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn image_names() {
        for good in
            ["busybox", "a/b:1.2", "localhost:5000/x_y/z", "r.io/a@sha256:0123456789abcdef0123456789abcdef", "x:latest"]
        {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "A/b", "a b", "a:", "a@sha1:x", "a//b", "a:b:c/d:", "-a"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_by_registry() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "r.io": {"username": "a", "password": "b"},
            "r.io/team": {"username": "t", "password": "b"},
            "*.x.io": {"username": "w", "password": "b"}}});
        let mut s = Secret { type_: Some("kubernetes.io/dockerconfigjson".into()), ..Default::default() };
        s.data =
            Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.to_string().into_bytes()))].into());
        let s = [Arc::new(s)];
        let users = |image: &str| credentials(image, &s).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("busybox"), ["u"]);
        assert_eq!(users("r.io/team/app:1"), ["t", "a"]);
        assert_eq!(users("r.io/teams/app:1"), ["a"]);
        assert_eq!(users("q.x.io/a"), ["w"]);
        assert!(users("q.y.io/a").is_empty());
    }
}
