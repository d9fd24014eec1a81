//! Audit policies (`audit.k8s.io/v1` Policy): which requests are recorded, and how much of them. The first rule that matches
//! decides; what no rule matches is not recorded.

use crate::authn::UserInfo;
use crate::authz::rbac::path_matches;
use crate::request_info::RequestInfo;
use caravel_api::names;
use serde::Deserialize;
use std::path::Path;

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who did what to what, when, and with what success.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

impl Level {
    /// As written in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When in a request's life an event is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// The user is known; nothing is done yet.
    RequestReceived,
    /// The head of the answer was sent; only of requests that last.
    ResponseStarted,
    /// The answer was sent.
    ResponseComplete,
    /// The request panicked.
    Panic,
}

impl Stage {
    /// As written in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    paths: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

/// A policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

/// What a policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// Managed fields are left out of recorded objects.
    pub omit_managed_fields: bool,
    omitted: Vec<Stage>,
}

impl Verdict {
    /// Whether an event is made at this stage.
    pub fn wants(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted.contains(&stage)
    }
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("the audit policy {}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("it is a {} {}, and not an audit.k8s.io/v1 Policy", policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules, so nothing would be recorded".into());
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{i}].{why}"))?;
        }
        Ok(policy)
    }

    /// What is recorded of a request.
    pub fn of(&self, user: &UserInfo, info: &RequestInfo) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, info)) else {
            return Verdict { level: Level::None, omit_managed_fields: false, omitted: vec![] };
        };
        Verdict {
            level: rule.level.unwrap_or_default(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            omitted: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if self.level.is_none() {
            return Err("level: Required value".into());
        }
        if !(self.paths.is_empty() || self.resources.is_empty() && self.namespaces.is_empty()) {
            return Err("nonResourceURLs: Invalid value: a rule is either for resources or for other paths".into());
        }
        for (i, path) in self.paths.iter().enumerate().filter(|(_, path)| *path != "*") {
            let why = match path.strip_suffix('*').unwrap_or(path) {
                start if !start.starts_with('/') => "it must begin with a slash",
                start if start.contains('*') => "a star may only be its end",
                _ => continue,
            };
            return Err(format!("nonResourceURLs[{i}]: Invalid value: {path:?}: {why}"));
        }
        for (i, one) in self.resources.iter().enumerate() {
            let wrong = if one.group.is_empty() { vec![] } else { names::dns1123_subdomain(&one.group) };
            if !wrong.is_empty() {
                return Err(format!("resources[{i}].group: Invalid value: {:?}: {}", one.group, wrong.join(", ")));
            }
            if !one.resource_names.is_empty() && one.resources.is_empty() {
                return Err(format!(
                    "resources[{i}].resourceNames: Invalid value: names are of no use without resources"
                ));
            }
        }
        Ok(())
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let among = |list: &[String], one: &str| list.is_empty() || list.iter().any(|l| l == one);
        if !among(&self.users, &user.name) || !among(&self.verbs, &info.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|group| user.in_group(group)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && among(&self.namespaces, &info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(info)));
        }
        self.paths.is_empty() || (!info.is_resource && self.paths.iter().any(|path| path_matches(path, &info.path)))
    }
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let whole = match info.subresource.as_str() {
            "" => info.resource.clone(),
            sub => format!("{}/{sub}", info.resource),
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        named
            && self.resources.iter().any(|pattern| match pattern.split_once('/') {
                _ if pattern == "*" || *pattern == whole => true,
                Some(("*", sub)) => sub == info.subresource,
                Some((resource, "*")) => resource == info.resource,
                _ => false,
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
- level: Metadata
  resources: [{ group: "", resources: [secrets, configmaps] }]
- level: RequestResponse
  resources: [{ group: "", resources: [pods, "pods/exec"] }, { group: apps, resources: ["*/scale"] }]
  omitManagedFields: true
- level: None
  nonResourceURLs: ["/healthz*"]
- level: Request
  namespaces: [kube-system]
- level: Metadata
  userGroups: ["system:masters"]
  omitStages: [ResponseStarted]
"#;

    fn info(verb: &str, group: &str, namespace: &str, resource: &str, subresource: &str) -> RequestInfo {
        let text = str::to_owned;
        RequestInfo {
            is_resource: true,
            verb: text(verb),
            group: text(group),
            namespace: text(namespace),
            resource: text(resource),
            subresource: text(subresource),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn the_first_rule_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let (admin, other) = (UserInfo::system_masters("admin"), UserInfo::new("jane", &[]));
        let proxy = UserInfo::new("system:kube-proxy", &[]);
        for (user, info, level) in [
            (&proxy, info("watch", "", "", "secrets", ""), Level::None),
            (&proxy, info("list", "", "", "secrets", ""), Level::Metadata),
            (&other, info("get", "", "x", "pods", ""), Level::RequestResponse),
            (&other, info("get", "", "x", "pods", "log"), Level::None),
            (&other, info("create", "", "x", "pods", "exec"), Level::RequestResponse),
            (&other, info("update", "apps", "x", "deployments", "scale"), Level::RequestResponse),
            (&other, info("update", "apps", "kube-system", "deployments", ""), Level::Request),
            (&admin, info("update", "apps", "x", "deployments", ""), Level::Metadata),
        ] {
            assert_eq!(policy.of(user, &info).level, level, "{} {info:?}", user.name);
        }
        let path = RequestInfo { verb: "get".into(), path: "/healthz/ping".into(), ..RequestInfo::default() };
        assert_eq!(policy.of(&admin, &path).level, Level::None);
        let verdict = policy.of(&admin, &info("get", "apps", "x", "deployments", ""));
        assert!(!verdict.wants(Stage::RequestReceived) && !verdict.wants(Stage::ResponseStarted));
        assert!(verdict.wants(Stage::ResponseComplete));
    }

    #[test]
    fn mistakes_are_told() {
        for bad in ["", "kind: Policy", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n"] {
            assert!(Policy::parse(bad).is_err(), "{bad}");
        }
        for (from, to, why) in [
            ("- level: None\n  users", "- users", "rules[0].level: Required value"),
            ("\"/healthz*\"]", "\"/healthz*\"]\n  namespaces: [x]", "rules[3].nonResourceURLs"),
            ("/healthz*", "healthz*", "rules[3].nonResourceURLs[0]"),
            ("/healthz*", "/health*z", "rules[3].nonResourceURLs[0]"),
            ("group: apps", "group: apps/v1", "rules[2].resources[1].group"),
            ("resources: [secrets, configmaps]", "resourceNames: [x]", "rules[1].resources[0].resourceNames"),
            ("level: Metadata", "level: Everything", "Everything"),
            ("omitStages: [RequestReceived]", "omitStages: [Never]", "Never"),
        ] {
            let said = Policy::parse(&POLICY.replacen(from, to, 1)).unwrap_err();
            assert!(said.contains(why), "{to}: {said}");
        }
        let misspelt = POLICY.replace("userGroups", "usergroups");
        assert!(Policy::parse(&misspelt).unwrap_err().contains("usergroups"));
    }
}
