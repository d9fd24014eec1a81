//! Tokens of other issuers: OpenID Connect ID tokens and their like, by a configuration file (KEP-3331).

mod config;
mod keys;

pub use config::Configuration;

use super::jwt::{self, claimed_issuer};
use super::{Authenticated, AuthnError, UserInfo};
use crate::registry::Registry;
use config::Jwt;
use keys::Keys;
use serde_json::Value;
use std::sync::Arc;

/// All configured issuers.
#[derive(Default)]
pub struct Issuers {
    all: Vec<(Jwt, Arc<Keys>)>,
}

impl Issuers {
    /// From the configuration. Nothing is read from issuers before a token of theirs comes.
    pub fn new(configuration: Configuration) -> Self {
        Self::default().next(configuration)
    }

    /// From a changed configuration. The keys of issuers that did not change stay known.
    pub fn next(&self, configuration: Configuration) -> Self {
        let with_keys = |jwt: Jwt| {
            let issuer = &jwt.issuer;
            let known = self.all.iter().find(|(old, _)| old.issuer == *issuer).map(|(_, keys)| keys.clone());
            let keys = known.unwrap_or_else(|| {
                Arc::new(Keys::new(issuer.url.clone(), issuer.discovery(), issuer.certificate_authority.clone()))
            });
            (jwt, keys)
        };
        Self { all: configuration.jwt.into_iter().map(with_keys).collect() }
    }

    /// The user of a token; `None` when it is of no configured issuer.
    pub async fn authenticate(&self, registry: &Registry, token: &str) -> Option<Result<Authenticated, AuthnError>> {
        if self.all.is_empty() {
            return None;
        }
        let issuer = claimed_issuer(token)?;
        let (jwt, keys) = self.all.iter().find(|(jwt, _)| jwt.issuer.url == issuer)?;
        Some(check(jwt, keys, registry, token).await.map_err(AuthnError::Token))
    }
}

async fn check(jwt: &Jwt, keys: &Keys, registry: &Registry, token: &str) -> Result<Authenticated, String> {
    let (header, claims, signature, signed) = jwt::split(token).map_err(|e| e.to_string())?;
    keys.verify(registry, &header, signed.as_bytes(), &signature).await?;
    let user = user_of(jwt, &claims, registry.clock.now().as_second())?;
    Ok(Authenticated::plain(Arc::new(user), vec![]))
}

/// The user that the claims of a token with a good signature make.
fn user_of(jwt: &Jwt, claims: &Value, now: i64) -> Result<UserInfo, String> {
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
    for rule in &jwt.claim_validation_rules {
        let value = claims.get(&rule.claim).and_then(Value::as_str);
        if value != Some(&rule.required_value) {
            return Err(format!("required claim {:?} must be {:?}", rule.claim, rule.required_value));
        }
    }
    let mappings = &jwt.claim_mappings;
    let text = |claim: &str| {
        let value = claims.get(claim).and_then(Value::as_str).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("the token has no claim {claim:?} with a text"))
    };
    let name = text(&mappings.username.claim)?;
    if mappings.username.claim == "email" && claims.get("email_verified").is_some_and(|v| *v != Value::Bool(true)) {
        return Err("the email address of the token is not verified".into());
    }
    let mut user = UserInfo { name: format!("{}{name}", mappings.username.prefix), ..UserInfo::default() };
    if let Some(groups) = &mappings.groups {
        user.groups = texts(claims.get(&groups.claim)).iter().map(|g| format!("{}{g}", groups.prefix)).collect();
    }
    if let Some(uid) = &mappings.uid {
        user.uid = text(&uid.claim)?.to_owned();
    }
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
        let jwt = &Configuration::parse(CONFIG, "https://own").unwrap().jwt[0];
        let good = json!({"exp": 200, "nbf": 50, "aud": ["kube"], "hd": "example.com", "email": "jane@example.com",
            "sub": "7", "groups": ["dev", "ops"], "jti": "x"});
        let user = user_of(jwt, &good, 100).unwrap();
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
            assert!(user_of(jwt, &bad, 100).is_err(), "{claim}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (from, to, why) in [
            ("https://issuer.example", "http://issuer.example", "must be https"),
            ("https://issuer.example", "https://own", "disallowed issuers"),
            ("audienceMatchPolicy: MatchAny", "audienceMatchPolicy: \"\"", "must be MatchAny"),
            ("claim: email, prefix: \"oidc:\"", "claim: email", "prefix"),
            ("claim: email, prefix: \"oidc:\"", "expression: claims.email", "expression"),
            ("kind: AuthenticationConfiguration", "kind: Policy", "and not an"),
        ] {
            let said = Configuration::parse(&CONFIG.replace(from, to), "https://own").unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
