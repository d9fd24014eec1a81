//! Who asks, and whether they may.
//!
//! The API server and cluster administrators are known by their certificate. Everybody else is looked up through the
//! API: TokenReview says who a token belongs to, SubjectAccessReview whether that user may use `nodes/<subresource>`
//! (upstream's kubelet authorization with fine-grained subresources, KEP-2862).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::Method;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview};
use kube::api::PostParams;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;

/// Answers kept at most.
const CACHE: usize = 1024;
/// How long they are kept (upstream's defaults).
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);

/// The certificate name of the API server as a client of nodes.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Name.
    pub user: String,
    /// UID; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// Asks the API about users.
pub trait Reviewer: Send + Sync + 'static {
    /// Whose token this is; `None` when nobody's.
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Identity>>>;
    /// Whether this user may use a subresource of a node.
    fn allowed<'a>(
        &'a self,
        identity: &'a Identity,
        verb: &'a str,
        subresource: &'a str,
        node: &'a str,
    ) -> BoxFuture<'a, anyhow::Result<bool>>;
}

impl Reviewer for kube::Client {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Identity>>> {
        Box::pin(async move {
            let mut review = TokenReview::default();
            review.spec.token = token.to_string();
            let api = kube::Api::<TokenReview>::all(self.clone());
            let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
            if status.authenticated != Some(true) {
                return Ok(None);
            }
            let user = status.user.unwrap_or_default();
            Ok(Some(Identity {
                user: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
            }))
        })
    }

    fn allowed<'a>(
        &'a self,
        identity: &'a Identity,
        verb: &'a str,
        subresource: &'a str,
        node: &'a str,
    ) -> BoxFuture<'a, anyhow::Result<bool>> {
        Box::pin(async move {
            let mut review = SubjectAccessReview::default();
            review.spec.user = Some(identity.user.clone());
            review.spec.uid = Some(identity.uid.clone()).filter(|u| !u.is_empty());
            review.spec.groups = Some(identity.groups.clone());
            review.spec.resource_attributes = Some(ResourceAttributes {
                verb: Some(verb.into()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(subresource.into()),
                name: Some(node.into()),
                ..Default::default()
            });
            let api = kube::Api::<SubjectAccessReview>::all(self.clone());
            Ok(api.create(&PostParams::default(), &review).await?.status.is_some_and(|s| s.allowed))
        })
    }
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// No (valid) credentials.
    Unknown,
    /// With the reason.
    Forbidden(String),
    /// The API could not be asked.
    Failed(String),
}

pub(super) struct Access {
    node: String,
    reviewer: Option<Arc<dyn Reviewer>>,
    tokens: Cache<String, Option<Identity>>,
    rights: Cache<(Identity, String, String), bool>,
}

impl Access {
    pub(super) fn new(node: String, reviewer: Option<Arc<dyn Reviewer>>) -> Self {
        Access { node, reviewer, tokens: Cache::new(), rights: Cache::new() }
    }

    /// Whether the holder of this certificate or token may make this request.
    pub(super) async fn check(
        &self,
        certificate: Option<&Identity>,
        token: Option<&str>,
        method: &Method,
        path: &str,
    ) -> Verdict {
        let identity = match (certificate, token, &self.reviewer) {
            (Some(identity), _, _) => identity.clone(),
            (None, Some(token), Some(reviewer)) => match self.user_of(reviewer.as_ref(), token).await {
                Ok(Some(identity)) => identity,
                Ok(None) => return Verdict::Unknown,
                Err(error) => return Verdict::Failed(format!("the token cannot be checked: {error}")),
            },
            _ => return Verdict::Unknown,
        };
        if identity.user == API_SERVER || identity.groups.iter().any(|g| g == MASTERS) {
            return Verdict::Allowed;
        }
        let verb = verb(method);
        let wanted = subresources(path);
        let Some(reviewer) = &self.reviewer else { return Verdict::Forbidden(self.refusal(&identity, verb, &wanted)) };
        for subresource in &wanted {
            match self.may(reviewer.as_ref(), &identity, verb, subresource).await {
                Ok(true) => return Verdict::Allowed,
                Ok(false) => {}
                Err(error) => {
                    return Verdict::Failed(format!("the rights of {:?} cannot be checked: {error}", identity.user));
                }
            }
        }
        Verdict::Forbidden(self.refusal(&identity, verb, &wanted))
    }

    /// Upstream's words.
    fn refusal(&self, identity: &Identity, verb: &str, subresources: &[&str]) -> String {
        format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            identity.user,
            subresources.join(" ")
        )
    }

    async fn user_of(&self, reviewer: &dyn Reviewer, token: &str) -> anyhow::Result<Option<Identity>> {
        if let Some(known) = self.tokens.get(&token.to_string()) {
            return Ok(known);
        }
        let identity = reviewer.token(token).await?;
        let ttl = if identity.is_some() { TOKEN_TTL } else { DENIED_TTL };
        self.tokens.put(token.to_string(), identity.clone(), ttl);
        Ok(identity)
    }

    async fn may(
        &self,
        reviewer: &dyn Reviewer,
        identity: &Identity,
        verb: &str,
        subresource: &str,
    ) -> anyhow::Result<bool> {
        let key = (identity.clone(), verb.to_string(), subresource.to_string());
        if let Some(known) = self.rights.get(&key) {
            return Ok(known);
        }
        let allowed = reviewer.allowed(identity, verb, subresource, &self.node).await?;
        self.rights.put(key, allowed, if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresources any of which is enough for a path.
fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        _ => vec!["proxy"],
    }
}

/// The user in a verified certificate: its common name, with its organizations as groups.
pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Identity> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_string);
    Some(Identity {
        user: parsed.subject().iter_common_name().find_map(text)?,
        uid: String::new(),
        groups: parsed.subject().iter_organization().filter_map(text).collect(),
    })
}

/// Answers with an age.
struct Cache<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: std::hash::Hash + Eq, V: Clone> Cache<K, V> {
    fn new() -> Self {
        Cache(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let mut map = self.0.lock();
        if map.len() >= CACHE {
            let now = Instant::now();
            map.retain(|_, (until, _)| *until > now);
            if map.len() >= CACHE {
                map.clear();
            }
        }
        map.insert(key, (Instant::now() + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Fake {
        asked: AtomicUsize,
    }

    impl Reviewer for Fake {
        fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Identity>>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let known = token == "good";
            Box::pin(async move { Ok(known.then(|| Identity { user: "metrics".into(), ..Default::default() })) })
        }

        fn allowed<'a>(
            &'a self,
            identity: &'a Identity,
            verb: &'a str,
            subresource: &'a str,
            node: &'a str,
        ) -> BoxFuture<'a, anyhow::Result<bool>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let allowed = identity.user == "metrics" && verb == "get" && subresource == "metrics" && node == "n";
            Box::pin(async move { Ok(allowed) })
        }
    }

    #[tokio::test]
    async fn rights_are_looked_up_once_and_kept() {
        let fake = Arc::new(Fake::default());
        let access = Access::new("n".into(), Some(fake.clone()));
        for _ in 0..3 {
            let verdict = access.check(None, Some("good"), &Method::GET, "/metrics/resource").await;
            assert_eq!(verdict, Verdict::Allowed);
        }
        assert_eq!(fake.asked.load(Ordering::Relaxed), 2);
        let verdict = access.check(None, Some("good"), &Method::POST, "/exec/a/b/c").await;
        let text = "Forbidden (user=metrics, verb=create, resource=nodes, subresource(s)=[proxy])";
        assert_eq!(verdict, Verdict::Forbidden(text.into()));
        assert_eq!(access.check(None, Some("bad"), &Method::GET, "/metrics").await, Verdict::Unknown);
        assert_eq!(access.check(None, None, &Method::GET, "/metrics").await, Verdict::Unknown);
    }

    #[tokio::test]
    async fn the_api_server_and_masters_need_no_lookup() {
        let access = Access::new("n".into(), None);
        let by_name = Identity { user: API_SERVER.into(), ..Default::default() };
        let by_group = Identity { user: "x".into(), groups: vec![MASTERS.into()], ..Default::default() };
        let other = Identity { user: "x".into(), ..Default::default() };
        assert_eq!(access.check(Some(&by_name), None, &Method::GET, "/pods").await, Verdict::Allowed);
        assert_eq!(access.check(Some(&by_group), None, &Method::POST, "/exec/a/b/c").await, Verdict::Allowed);
        assert!(matches!(access.check(Some(&other), None, &Method::GET, "/pods").await, Verdict::Forbidden(_)));
    }

    #[test]
    fn a_certificate_names_user_and_groups() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let certificate = params.self_signed(&key).unwrap();
        let identity = of_certificate(certificate.der()).unwrap();
        assert_eq!(
            (identity.user.as_str(), identity.groups.as_slice()),
            ("kubernetes-admin", &["system:masters".to_string()][..])
        );
    }
}
