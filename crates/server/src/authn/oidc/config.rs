//! The file of `--authentication-config` (`apiserver.config.k8s.io/v1` AuthenticationConfiguration, KEP-3331): whose tokens are
//! good, how their claims become a user, and what may be asked without any credential.

use super::mapping::Mapping;
use serde::Deserialize;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    api_version: String,
    kind: String,
    /// The issuers.
    #[serde(default)]
    pub jwt: Vec<Jwt>,
    /// What may be asked without credentials; as by default when it is not said.
    pub anonymous: Option<Anonymous>,
    /// How each issuer's claims become a user, in the order of `jwt`.
    #[serde(skip)]
    pub mappings: Vec<Mapping>,
}

/// Who comes without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anonymous {
    /// Whether anybody does.
    pub enabled: bool,
    /// Which paths they may ask; every path (that the authorizers allow them) when empty.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Exactly this path.
    pub path: String,
}

impl Anonymous {
    /// Whether somebody without credentials may ask for `path`.
    pub fn admits(&self, path: &str) -> bool {
        self.enabled && (self.conditions.is_empty() || self.conditions.iter().any(|c| c.path == path))
    }
}

/// One issuer and what its tokens mean.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// Who signs.
    pub issuer: Issuer,
    /// What tokens must claim.
    #[serde(default)]
    pub claim_validation_rules: Vec<Rule>,
    /// How claims become a user.
    pub claim_mappings: Mappings,
    /// What the user must satisfy.
    #[serde(default)]
    pub user_validation_rules: Vec<UserRule>,
}

/// Who signs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` of its tokens; an https URL.
    pub url: String,
    /// Where its discovery document is, when it is not under `url`.
    #[serde(default, rename = "discoveryURL")]
    pub discovery_url: String,
    /// PEM of the authorities of its server; the system's when empty.
    #[serde(default)]
    pub certificate_authority: String,
    /// One of these must be among the `aud` of a token.
    pub audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
}

impl Issuer {
    /// The address of the discovery document.
    pub fn discovery(&self) -> String {
        if self.discovery_url.is_empty() {
            format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'))
        } else {
            self.discovery_url.clone()
        }
    }
}

/// A claim that must have a value, or an expression over `claims` that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The claim.
    #[serde(default)]
    pub claim: String,
    /// Its value.
    #[serde(default)]
    pub required_value: String,
    /// CEL.
    #[serde(default)]
    pub expression: String,
    /// What is said when it does not hold.
    #[serde(default)]
    pub message: String,
}

/// An expression over `user` that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserRule {
    /// CEL.
    pub expression: String,
    /// What is said when it does not hold.
    #[serde(default)]
    pub message: String,
}

/// How claims become a user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mappings {
    /// The user's name.
    pub username: Mapped,
    /// The user's groups.
    pub groups: Option<Mapped>,
    /// The user's uid.
    pub uid: Option<Mapped>,
    /// More about the user.
    #[serde(default)]
    pub extra: Vec<Extra>,
}

/// A claim, or an expression over `claims`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mapped {
    /// The claim.
    #[serde(default)]
    pub claim: String,
    /// Before its value. May be empty, but must be said: without one, tokens can name users of other authenticators.
    pub prefix: Option<String>,
    /// CEL.
    #[serde(default)]
    pub expression: String,
}

/// A key of the user's extra, and what makes its values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extra {
    /// A path with a domain before it.
    pub key: String,
    /// CEL.
    pub value_expression: String,
}

impl Configuration {
    /// Reads the text of a file; `own` is the issuer of service-account tokens, whose tokens no other issuer may claim.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, own: &str) -> Result<Self, String> {
        let mut read: Self = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        let version = read.api_version.strip_prefix("apiserver.config.k8s.io/");
        if !matches!(version, Some("v1" | "v1beta1")) || read.kind != "AuthenticationConfiguration" {
            return Err(format!(
                "it is a {} {}, and not an apiserver.config.k8s.io/v1 AuthenticationConfiguration",
                read.api_version, read.kind
            ));
        }
        for (i, one) in read.jwt.iter().enumerate() {
            let mapping = one.check(own).and_then(|()| Mapping::of(one));
            read.mappings.push(mapping.map_err(|why| format!("jwt[{i}].{why}"))?);
            if read.jwt[..i].iter().any(|other| other.issuer.url == one.issuer.url) {
                return Err(format!("jwt[{i}].issuer.url: Duplicate value: {:?}", one.issuer.url));
            }
        }
        if let Some(anonymous) = read.anonymous.as_ref().filter(|a| !a.enabled && !a.conditions.is_empty()) {
            let path = &anonymous.conditions[0].path;
            return Err(format!(
                "anonymous.conditions: Invalid value: {path:?}: enabled should be set to true when conditions are defined"
            ));
        }
        Ok(read)
    }
}

impl Jwt {
    fn check(&self, own: &str) -> Result<(), String> {
        let issuer = &self.issuer;
        if !issuer.url.starts_with("https://") {
            return Err(format!("issuer.url: Invalid value: {:?}: URL scheme must be https", issuer.url));
        }
        if issuer.url == own {
            return Err(format!("issuer.url: Invalid value: {own:?}: URL must not overlap with disallowed issuers"));
        }
        if !issuer.discovery_url.is_empty() && !issuer.discovery_url.starts_with("https://") {
            let url = &issuer.discovery_url;
            return Err(format!("issuer.discoveryURL: Invalid value: {url:?}: URL scheme must be https"));
        }
        if issuer.audiences.is_empty() {
            return Err("issuer.audiences: Required value: at least one is required".into());
        }
        match (issuer.audiences.len(), issuer.audience_match_policy.as_str()) {
            (1, "" | "MatchAny") | (2.., "MatchAny") => {}
            (_, policy) => {
                return Err(format!(
                    "issuer.audienceMatchPolicy: Invalid value: {policy:?}: must be MatchAny for multiple audiences"
                ));
            }
        }
        Ok(())
    }
}
