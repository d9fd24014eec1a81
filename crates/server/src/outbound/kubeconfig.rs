//! Kubeconfig-shaped files that tell the server where a webhook of its owner's is and how to speak to it: the flags
//! `--audit-webhook-config-file` and their like. The current context counts.

use super::tls::{ClientIdentity, Trust, client_tls};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
    contexts: Vec<Named<Context>>,
}

/// An entry of one of the lists; what it holds is under a key of its own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: Option<T>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: String,
    client_key: Option<PathBuf>,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: String,
    password: String,
    exec: Option<Value>,
    auth_provider: Option<Value>,
}

/// How the server proves who it is, beside a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Not at all.
    None,
    /// An `Authorization` header.
    Header(String),
    /// A bearer token that is read again for each request.
    TokenFile(PathBuf),
}

/// What the current context of a file says.
pub struct Target {
    /// The address, without a query, beginning with `https://` or `http://`.
    pub url: String,
    /// TLS to it.
    pub tls: rustls::ClientConfig,
    /// The name that the certificate must be for, when it is not the host of the address.
    pub server_name: Option<ServerName<'static>>,
    /// Beside the client certificate, which is in `tls`.
    pub credential: Credential,
}

/// Reads a file. Paths in it are relative to its directory.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(path: &Path) -> Result<Target, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    parse(&text, path.parent().unwrap_or(Path::new(".")))
}

fn parse(text: &str, dir: &Path) -> Result<Target, String> {
    let file: File = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    if file.current_context.is_empty() {
        return Err("current-context: Required value: it says which context counts".into());
    }
    let context = find(&file.contexts, "contexts", &file.current_context)?;
    let cluster = find(&file.clusters, "clusters", &context.cluster)?;
    let nobody = User::default();
    let user = if context.user.is_empty() { &nobody } else { find(&file.users, "users", &context.user)? };
    let at = |list: &str, name: &str| format!("{list}[{name:?}]");
    let (cluster_at, user_at) = (at("clusters", &context.cluster), at("users", &context.user));
    let url = address(&cluster.server).map_err(|why| format!("{cluster_at}.server: {why}"))?;
    if !cluster.proxy_url.is_empty() {
        return Err(format!("{cluster_at}.proxy-url: a proxy is not supported here"));
    }
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err(format!("{user_at}: exec and auth-provider are not supported here; use a token or a certificate"));
    }
    let tls = tls(cluster, user, dir, &cluster_at, &user_at)?;
    let server_name = match cluster.tls_server_name.as_str() {
        "" => None,
        name => Some(ServerName::try_from(name.to_owned()).map_err(|e| format!("{cluster_at}.tls-server-name: {e}"))?),
    };
    Ok(Target { url, tls, server_name, credential: credential(user, dir) })
}

fn find<'a, T>(list: &'a [Named<T>], what: &str, name: &str) -> Result<&'a T, String> {
    let found = list.iter().find(|one| one.name == name).and_then(|one| one.value.as_ref());
    found.ok_or_else(|| format!("{what}: there is none of the name {name:?}"))
}

fn address(server: &str) -> Result<String, String> {
    let uri: http::Uri = server.parse().map_err(|_| format!("{server:?} is no URL"))?;
    let (Some(scheme @ ("https" | "http")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("{server:?} must be a URL that begins with https:// or http://"));
    };
    let path = match uri.path().trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    Ok(format!("{scheme}://{authority}{path}"))
}

fn tls(
    cluster: &Cluster,
    user: &User,
    dir: &Path,
    cluster_at: &str,
    user_at: &str,
) -> Result<rustls::ClientConfig, String> {
    let authority = content(cluster.certificate_authority.as_deref(), &cluster.certificate_authority_data, dir)
        .map_err(|why| format!("{cluster_at}.certificate-authority: {why}"))?;
    let trust = match &authority {
        _ if cluster.insecure_skip_tls_verify => Trust::Anyone,
        Some(pem) => Trust::Bundle(pem),
        None => Trust::System,
    };
    let identity = identity(user, dir).map_err(|why| format!("{user_at}.{why}"))?;
    let made = client_tls(trust, identity).map_err(|why| format!("{cluster_at}: {why}"))?;
    Ok((*made).clone())
}

fn identity(user: &User, dir: &Path) -> Result<Option<ClientIdentity>, String> {
    let chain = content(user.client_certificate.as_deref(), &user.client_certificate_data, dir)
        .map_err(|why| format!("client-certificate: {why}"))?;
    let key =
        content(user.client_key.as_deref(), &user.client_key_data, dir).map_err(|why| format!("client-key: {why}"))?;
    let (chain, key) = match (chain, key) {
        (None, None) => return Ok(None),
        (Some(chain), Some(key)) => (chain, key),
        (Some(_), None) => return Err("client-key: Required value: a certificate is of no use without its key".into()),
        (None, Some(_)) => return Err("client-certificate: Required value: a key is of no use alone".into()),
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain).filter_map(Result::ok).collect();
    if chain.is_empty() {
        return Err("client-certificate: it holds no PEM certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("client-key: {e}"))?;
    Ok(Some((chain, key)))
}

/// Base64 in the file itself stands over a path.
fn content(path: Option<&Path>, data: &str, dir: &Path) -> Result<Option<Vec<u8>>, String> {
    if !data.is_empty() {
        return STANDARD.decode(data).map(Some).map_err(|e| format!("its data is not base64: {e}"));
    }
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    let path = dir.join(path);
    std::fs::read(&path).map(Some).map_err(|e| format!("{}: {e}", path.display()))
}

fn credential(user: &User, dir: &Path) -> Credential {
    if let Some(path) = user.token_file.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        return Credential::TokenFile(dir.join(path));
    }
    if !user.token.is_empty() {
        return Credential::Header(format!("Bearer {}", user.token));
    }
    if !user.username.is_empty() {
        return Credential::Header(format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", user.username, user.password))
        ));
    }
    Credential::None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: &str = r#"
apiVersion: v1
kind: Config
preferences: {}
current-context: c
contexts:
- { name: other, context: { cluster: none, user: none } }
- { name: c, context: { cluster: hook, user: me } }
clusters:
- { name: hook, cluster: { server: "https://hook.example:8443/audit/?x=y", insecure-skip-tls-verify: true } }
users:
- { name: me, user: { token: secret } }
"#;

    fn said(text: &str) -> String {
        parse(text, Path::new("/nowhere")).err().unwrap_or_default()
    }

    #[test]
    fn the_current_context_counts() {
        let target = parse(FILE, Path::new("/nowhere")).unwrap();
        assert_eq!(target.url, "https://hook.example:8443/audit");
        assert_eq!(target.credential, Credential::Header("Bearer secret".into()));
        let basic = FILE.replace("token: secret", "username: u, password: p");
        let target = parse(&basic, Path::new("/nowhere")).unwrap();
        assert_eq!(target.credential, Credential::Header("Basic dTpw".into()));
        let file = FILE.replace("token: secret", "token: secret, tokenFile: t");
        let target = parse(&file, Path::new("/nowhere")).unwrap();
        assert_eq!(target.credential, Credential::TokenFile("/nowhere/t".into()));
        let plain = FILE.replace("https://hook.example:8443/audit/?x=y", "http://127.0.0.1:9");
        assert_eq!(parse(&plain, Path::new("/nowhere")).unwrap().url, "http://127.0.0.1:9/");
    }

    #[test]
    fn mistakes_are_told() {
        for (from, to, why) in [
            ("current-context: c", "current-context: d", "\"d\""),
            ("current-context: c", "", "current-context"),
            ("cluster: hook", "cluster: gone", "\"gone\""),
            ("user: me }", "user: gone }", "\"gone\""),
            ("https://hook.example:8443/audit/?x=y", "hook.example", "https://"),
            ("https://hook.example:8443/audit/?x=y", "ftp://hook.example", "https://"),
            ("token: secret", "exec: { command: x }", "exec"),
            ("token: secret", "client-certificate-data: eA==", "client-key"),
            ("token: secret", "client-key: gone.key", "gone.key"),
            ("insecure-skip-tls-verify: true", "proxy-url: \"http://x\"", "proxy-url"),
            ("insecure-skip-tls-verify: true", "certificate-authority: gone.pem", "gone.pem"),
            ("insecure-skip-tls-verify: true", "certificate-authority-data: eA==", "no PEM certificate"),
        ] {
            assert!(said(&FILE.replace(from, to)).contains(why), "{from} -> {to}: {}", said(&FILE.replace(from, to)));
        }
    }
}
