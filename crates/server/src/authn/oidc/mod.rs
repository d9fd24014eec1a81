//! Tokens of other issuers: OpenID Connect ID tokens and their like, by a configuration file (KEP-3331).

mod config;
mod keys;
mod mapping;

pub use config::Configuration;

use super::jwt::{self, claimed_issuer};
use super::{Authenticated, AuthnError, UserInfo};
use crate::registry::Registry;
use config::Jwt;
use keys::Keys;
use mapping::Mapping;
use serde_json::Value;
use std::sync::Arc;

/// All configured issuers.
#[derive(Default)]
pub struct Issuers {
    all: Vec<Known>,
    anonymous: Option<config::Anonymous>,
}

/// An issuer.
struct Known {
    jwt: Jwt,
    mapping: Mapping,
    keys: Arc<Keys>,
}

impl Issuers {
    /// What may be asked without credentials, if the configuration says it.
    pub fn anonymous(&self) -> Option<&config::Anonymous> {
        self.anonymous.as_ref()
    }

    /// From the configuration. Nothing is read from issuers before a token of theirs comes.
    pub fn new(configuration: Configuration) -> Self {
        Self::default().next(configuration)
    }

    /// From a changed configuration. The keys of issuers that did not change stay known.
    pub fn next(&self, configuration: Configuration) -> Self {
        let with_keys = |(jwt, mapping): (Jwt, Mapping)| {
            let issuer = &jwt.issuer;
            let known = self.all.iter().find(|old| old.jwt.issuer == *issuer).map(|old| old.keys.clone());
            let keys = known.unwrap_or_else(|| {
                Arc::new(Keys::new(issuer.url.clone(), issuer.discovery(), issuer.certificate_authority.clone()))
            });
            Known { jwt, mapping, keys }
        };
        let both = configuration.jwt.into_iter().zip(configuration.mappings);
        Self { all: both.map(with_keys).collect(), anonymous: configuration.anonymous }
    }

    /// The user of a token; `None` when it is of no configured issuer.
    pub async fn authenticate(&self, registry: &Registry, token: &str) -> Option<Result<Authenticated, AuthnError>> {
        if self.all.is_empty() {
            return None;
        }
        let issuer = claimed_issuer(token)?;
        let known = self.all.iter().find(|known| known.jwt.issuer.url == issuer)?;
        Some(check(known, registry, token).await.map_err(AuthnError::Token))
    }
}

async fn check(known: &Known, registry: &Registry, token: &str) -> Result<Authenticated, String> {
    let (header, claims, signature, signed) = jwt::split(token).map_err(|e| e.to_string())?;
    known.keys.verify(registry, &header, signed.as_bytes(), &signature).await?;
    let user = user_of(&known.jwt, &known.mapping, &claims, registry.clock.now().as_second())?;
    Ok(Authenticated::plain(Arc::new(user), vec![]))
}

/// The user that the claims of a token with a good signature make.
fn user_of(jwt: &Jwt, mapping: &Mapping, claims: &Value, now: i64) -> Result<UserInfo, String> {
    let number = |claim: &str| claims.get(claim).and_then(Value::as_f64);
    let seconds = now as f64;
    if number("exp").is_none_or(|exp| seconds >= exp) {
        return Err("the token has expired".into());
    }
    if number("nbf").is_some_and(|nbf| seconds < nbf) {
        return Err("the token is not valid yet".into());
    }
    if !texts(claims.get("aud")).iter().any(|aud| jwt.issuer.audiences.contains(aud)) {
        return Err(format!("the token is not for any of the audiences {:?}", jwt.issuer.audiences));
    }
    let mut user = mapping.user(claims)?;
    if let Some(id) = claims.get("jti").and_then(Value::as_str) {
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}")]);
    }
    user.authenticated();
    Ok(user)
}

/// A text, or a list of them.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    const CONFIG: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: { url: "https://issuer.example", audiences: [kube, other], audienceMatchPolicy: MatchAny }
  claimValidationRules: [{ claim: hd, requiredValue: example.com }]
  claimMappings:
    username: { claim: email, prefix: "oidc:" }
    groups: { claim: groups, prefix: "oidc:" }
    uid: { claim: sub }
"#;

    #[test]
    fn claims_become_a_user() {
        let read = Configuration::parse(CONFIG, "https://own").unwrap();
        let (jwt, mapping) = (&read.jwt[0], &read.mappings[0]);
        let good = json!({"exp": 200, "nbf": 50, "aud": ["kube"], "hd": "example.com", "email": "jane@example.com",
            "sub": "7", "groups": ["dev", "ops"], "jti": "x"});
        let user = user_of(jwt, mapping, &good, 100).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("oidc:jane@example.com", "7"));
        assert_eq!(user.groups, ["oidc:dev", "oidc:ops", "system:authenticated"]);
        for (claim, value) in [
            ("exp", json!(100)),
            ("nbf", json!(101)),
            ("aud", json!("elsewhere")),
            ("hd", json!("evil.example")),
            ("email", json!("")),
            ("email_verified", json!(false)),
            ("sub", json!(7)),
        ] {
            let mut bad = good.clone();
            bad[claim] = value;
            assert!(user_of(jwt, mapping, &bad, 100).is_err(), "{claim}");
        }
    }

    const EXPRESSIONS: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous: { enabled: true, conditions: [{ path: /livez }] }
jwt:
- issuer: { url: "https://issuer.example", audiences: [kube] }
  claimValidationRules:
  - { expression: "claims.exp - claims.nbf <= 3600", message: "the token lives too long" }
  claimMappings:
    username: { expression: "'corp:' + claims.email + (claims.email_verified ? '' : ':unverified')" }
    groups: { expression: "claims.roles.split(',')" }
    uid: { expression: "claims.sub" }
    extra:
    - { key: example.com/team, valueExpression: "claims.team" }
    - { key: example.com/none, valueExpression: "has(claims.none) ? claims.none : ''" }
  userValidationRules:
  - { expression: "!user.username.startsWith('system:')", message: "that name is taken" }
  - { expression: "user.groups.all(g, !g.startsWith('system:'))" }
"#;

    #[test]
    fn expressions_make_a_user() {
        let read = Configuration::parse(EXPRESSIONS, "https://own").unwrap();
        let (jwt, mapping) = (&read.jwt[0], &read.mappings[0]);
        let good = json!({"exp": 200, "nbf": 50, "aud": ["kube"], "email": "jane@example.com", "email_verified": true,
            "sub": "7", "roles": "dev,ops", "team": ["red", "blue"]});
        let user = user_of(jwt, mapping, &good, 100).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("corp:jane@example.com", "7"));
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(user.extra.get("example.com/team"), Some(&vec!["red".to_owned(), "blue".to_owned()]));
        assert_eq!(user.extra.get("example.com/none"), None);
        for (claim, value, why) in [
            ("nbf", json!(-4000), "the token lives too long"),
            ("roles", json!("dev,system:masters"), "validation expression"),
            ("roles", json!(7), "resulted in error"),
            ("sub", json!(7), "did not yield a string"),
            ("email", json!(null), "resulted in error"),
        ] {
            let mut bad = good.clone();
            bad[claim] = value;
            let said = user_of(jwt, mapping, &bad, 100).unwrap_err();
            assert!(said.contains(why), "{claim}: {said}");
        }
        let anonymous = read.anonymous.unwrap();
        assert!(anonymous.admits("/livez") && !anonymous.admits("/livez/ping") && !anonymous.admits("/version"));
    }

    #[test]
    fn mistakes_are_told() {
        for (from, to, why) in [
            ("https://issuer.example", "http://issuer.example", "must be https"),
            ("https://issuer.example", "https://own", "disallowed issuers"),
            ("audienceMatchPolicy: MatchAny", "audienceMatchPolicy: \"\"", "must be MatchAny"),
            ("claim: email, prefix: \"oidc:\"", "claim: email", "prefix"),
            ("claim: email, prefix: \"oidc:\"", "expression: claims.email", "claims.email_verified must be used"),
            ("claim: email, prefix: \"oidc:\"", "expression: claims.", "compilation failed"),
            ("claim: email, prefix: \"oidc:\"", "expression: claims.sub, claim: sub", "can't both be set"),
            ("claim: email, prefix: \"oidc:\"", "expression: claims.sub, prefix: p", "prefix can't be set"),
            ("claim: hd, requiredValue: example.com", "expression: \"'a'\"", "must evaluate to bool"),
            ("claim: hd, requiredValue: example.com", "claim: hd, message: m", "message can't be set"),
            ("uid: { claim: sub }", "extra: [{ key: team, valueExpression: claims.team }]", "domain-prefixed"),
            ("uid: { claim: sub }", "extra: [{ key: a.k8s.io/x, valueExpression: claims.x }]", "reserved"),
            ("jwt:", "anonymous: { enabled: false, conditions: [{ path: /livez }] }\njwt:", "enabled should be set"),
            ("kind: AuthenticationConfiguration", "kind: Policy", "and not an"),
        ] {
            let said = Configuration::parse(&CONFIG.replace(from, to), "https://own").unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
