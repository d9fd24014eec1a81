//! The file of `--authentication-config` (`apiserver.config.k8s.io/v1` AuthenticationConfiguration, KEP-3331): whose tokens are
//! good, and how their claims become a user. Of upstream's fields those that need CEL are not known here, and refused.

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

/// A claim that must have a value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The claim.
    pub claim: String,
    /// Its value.
    #[serde(default)]
    pub required_value: String,
}

/// How claims become a user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mappings {
    /// The user's name.
    pub username: Prefixed,
    /// The user's groups.
    pub groups: Option<Prefixed>,
    /// The user's uid.
    pub uid: Option<Plain>,
}

/// A claim whose values get a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prefixed {
    /// The claim.
    pub claim: String,
    /// May be empty, but must be said: without one, tokens can name users of other authenticators.
    pub prefix: String,
}

/// A claim as it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plain {
    /// The claim.
    pub claim: String,
}

impl Configuration {
    /// Reads the text of a file; `own` is the issuer of service-account tokens, whose tokens no other issuer may claim.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, own: &str) -> Result<Self, String> {
        let read: Self = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        let version = read.api_version.strip_prefix("apiserver.config.k8s.io/");
        if !matches!(version, Some("v1" | "v1beta1")) || read.kind != "AuthenticationConfiguration" {
            return Err(format!(
                "it is a {} {}, and not an apiserver.config.k8s.io/v1 AuthenticationConfiguration",
                read.api_version, read.kind
            ));
        }
        for (i, one) in read.jwt.iter().enumerate() {
            one.check(own).map_err(|why| format!("jwt[{i}].{why}"))?;
            if read.jwt[..i].iter().any(|other| other.issuer.url == one.issuer.url) {
                return Err(format!("jwt[{i}].issuer.url: Duplicate value: {:?}", one.issuer.url));
            }
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
        let mut claims = self.claim_validation_rules.iter().map(|rule| ("claimValidationRules.claim", &rule.claim));
        let mappings = &self.claim_mappings;
        let more = [("claimMappings.username.claim", &mappings.username.claim)];
        if let Some((field, _)) = claims.by_ref().chain(more).find(|(_, claim)| claim.is_empty()) {
            return Err(format!("{field}: Required value: claim is required"));
        }
        Ok(())
    }
}
