//! The file of `--authorization-config` (`apiserver.config.k8s.io` AuthorizationConfiguration, KEP-3221): who is asked whether a
//! request may be done, in which order, and how the webhooks among them are reached.

use caravel_api::names;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const GROUP: &str = "apiserver.config.k8s.io";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
/// A webhook has at most this long to answer.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a yes is remembered when the file does not say.
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
/// How long a no is.
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Raw>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(rename = "type")]
    type_: String,
    name: String,
    webhook: Option<RawWebhook>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWebhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_unauthorized_requests: Option<bool>,
    #[serde(default)]
    timeout: String,
    #[serde(default)]
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    #[serde(default)]
    failure_policy: String,
    connection_info: RawConnection,
    #[serde(default)]
    match_conditions: Vec<RawCondition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawConnection {
    #[serde(rename = "type", default)]
    type_: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCondition {
    #[serde(default)]
    expression: String,
}

/// One of those who are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The Node authorizer.
    Node,
    /// Roles and bindings.
    Rbac,
    /// A server outside.
    Webhook(Settings),
}

/// What to make of a webhook that cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Go on with the next.
    NoOpinion,
    /// Refuse.
    Deny,
}

/// A webhook, as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What it is called in messages and metrics.
    pub name: String,
    /// How long one attempt to ask it may take.
    pub timeout: Duration,
    /// How long a yes is remembered; `None` when it is asked every time.
    pub authorized: Option<Duration>,
    /// How long a no is.
    pub unauthorized: Option<Duration>,
    /// `v1` or `v1beta1` of `authorization.k8s.io`.
    pub version: String,
    /// When it cannot be asked.
    pub failure: Failure,
    /// The kubeconfig-shaped file that says where it is.
    pub file: PathBuf,
    /// CEL: it is asked only when all of them hold.
    pub conditions: Vec<String>,
}

/// What the text of the file at `path` says; paths in it start where the file is.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Entry>, String> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let value: Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let file: File = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let known = file.api_version.split_once('/').is_some_and(|(g, v)| g == GROUP && VERSIONS.contains(&v));
    if !known || file.kind != "AuthorizationConfiguration" {
        return Err(format!(
            "it must be an AuthorizationConfiguration of {GROUP}/v1, and says {} of {}",
            file.kind, file.api_version
        ));
    }
    if file.authorizers.is_empty() {
        return Err("authorizers: Required value: at least one authorization mode must be defined".into());
    }
    let (mut entries, mut seen, mut named) = (vec![], HashSet::new(), HashSet::new());
    for (i, raw) in file.authorizers.into_iter().enumerate() {
        let at = format!("authorizers[{i}]");
        if !named.insert(raw.name.clone()) {
            return Err(format!("{at}.name: Duplicate value: {:?}", raw.name));
        }
        if let Some(why) = names::dns1123_subdomain(&raw.name).first() {
            return Err(format!("{at}.name: Invalid value: {:?}: {why}", raw.name));
        }
        let type_ = raw.type_.as_str();
        if type_ != "Webhook" && !seen.insert(raw.type_.clone()) {
            return Err(format!("{at}.type: Duplicate value: {type_:?}"));
        }
        let entry = match (type_, raw.webhook) {
            ("Webhook", Some(webhook)) => {
                Entry::Webhook(settings(raw.name, webhook, dir).map_err(|why| format!("{at}.webhook.{why}"))?)
            }
            ("Webhook", None) => {
                return Err(format!("{at}.webhook: Required value: required when type=Webhook"));
            }
            (_, Some(_)) => {
                return Err(format!("{at}.webhook: Invalid value: may only be specified when type=Webhook"));
            }
            ("Node", None) => Entry::Node,
            ("RBAC", None) => Entry::Rbac,
            _ => return Err(format!("{at}.type: Unsupported value: {type_:?}: supported values: Node, RBAC, Webhook")),
        };
        entries.push(entry);
    }
    Ok(entries)
}

/// Whether a file that is read later names the Node authorizer and RBAC just where the first one did: upstream neither lets
/// go of one while it runs, nor starts one.
///
/// # Errors
/// Which one was added or left out.
pub fn same_kinds(first: &[Entry], next: &[Entry]) -> Result<(), String> {
    for (kind, name) in [(Entry::Node, "Node"), (Entry::Rbac, "RBAC")] {
        match (first.contains(&kind), next.contains(&kind)) {
            (true, false) => {
                return Err(format!("authorizers: Required value: {name} was there at the start, and must stay"));
            }
            (false, true) => {
                return Err(format!("authorizers: {name} is not allowed: it was not there when the server started"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn settings(name: String, raw: RawWebhook, dir: &Path) -> Result<Settings, String> {
    let timeout = positive("timeout", &raw.timeout)?;
    if timeout > MAX_TIMEOUT {
        return Err(format!("timeout: Invalid value: {:?}: must be <= 30s", raw.timeout));
    }
    let version = one_of("subjectAccessReviewVersion", &raw.subject_access_review_version, &["v1", "v1beta1"])?;
    if !raw.match_conditions.is_empty() {
        let field = "matchConditionSubjectAccessReviewVersion";
        one_of(field, &raw.match_condition_subject_access_review_version, &["v1"])?;
    }
    let failure = match one_of("failurePolicy", &raw.failure_policy, &["NoOpinion", "Deny"])?.as_str() {
        "Deny" => Failure::Deny,
        _ => Failure::NoOpinion,
    };
    let at = "connectionInfo";
    let file = match (raw.connection_info.type_.as_str(), raw.connection_info.kube_config_file) {
        ("KubeConfigFile", Some(file)) => dir.join(file),
        ("KubeConfigFile", None) => return Err(format!("{at}.kubeConfigFile: Required value")),
        (other, _) => {
            return Err(format!("{at}.type: Unsupported value: {other:?}: supported values: KubeConfigFile"));
        }
    };
    let ttl = |field: &str, said: Option<String>, otherwise: Duration, cached: Option<bool>| {
        let ttl = said.map_or(Ok(otherwise), |text| positive(field, &text))?;
        Ok::<_, String>(cached.unwrap_or(true).then_some(ttl))
    };
    let conditions: Vec<String> = raw.match_conditions.into_iter().map(|c| c.expression).collect();
    if let Some(i) = conditions.iter().position(|c| c.trim().is_empty()) {
        return Err(format!("matchConditions[{i}].expression: Required value"));
    }
    Ok(Settings {
        name,
        timeout,
        authorized: ttl("authorizedTTL", raw.authorized_ttl, AUTHORIZED_TTL, raw.cache_authorized_requests)?,
        unauthorized: ttl("unauthorizedTTL", raw.unauthorized_ttl, UNAUTHORIZED_TTL, raw.cache_unauthorized_requests)?,
        version,
        failure,
        file,
        conditions,
    })
}

fn one_of(field: &str, said: &str, known: &[&str]) -> Result<String, String> {
    match said {
        "" => Err(format!("{field}: Required value: one of {}", known.join(", "))),
        said if known.contains(&said) => Ok(said.to_owned()),
        said => Err(format!("{field}: Unsupported value: {said:?}: supported values: {}", known.join(", "))),
    }
}

fn positive(field: &str, text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Err(format!("{field}: Required value"));
    }
    match caravel_api::duration::parse_std(text) {
        Some(found) if !found.is_zero() => Ok(found),
        Some(_) => Err(format!("{field}: Invalid value: {text:?}: must be > 0s")),
        None => Err(format!("{field}: Invalid value: {text:?}: a duration is written like 3s, 500ms or 1m30s")),
    }
}

/// A duration as Go writes it, in whole hours, minutes, seconds and milliseconds.
#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK: &str = "
  - type: Webhook
    name: gate
    webhook:
      timeout: 3s
      unauthorizedTTL: 1m30s
      cacheAuthorizedRequests: false
      subjectAccessReviewVersion: v1
      matchConditionSubjectAccessReviewVersion: v1
      failurePolicy: Deny
      connectionInfo: { type: KubeConfigFile, kubeConfigFile: gate.kubeconfig }
      matchConditions: [{ expression: \"has(request.resourceAttributes)\" }]
";

    fn file(authorizers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n  - {{ type: Node, name: node }}{authorizers}"
        )
    }

    #[test]
    fn what_the_file_says() {
        let found = parse(&file(WEBHOOK), Path::new("/etc/k/config")).unwrap();
        let [Entry::Node, Entry::Webhook(gate)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(gate.timeout, Duration::from_secs(3));
        assert_eq!((gate.authorized, gate.unauthorized), (None, Some(Duration::from_secs(90))));
        assert_eq!((gate.failure, gate.file.to_str()), (Failure::Deny, Some("/etc/k/gate.kubeconfig")));
        assert_eq!(gate.conditions, ["has(request.resourceAttributes)"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let cases = [
            (file("\n  - { type: Node, name: again }"), "authorizers[1].type: Duplicate"),
            (file("\n  - { type: RBAC, name: node }"), "authorizers[1].name: Duplicate"),
            (file("\n  - { type: Webhook, name: w }"), "authorizers[1].webhook: Required"),
            (file("\n  - { type: ABAC, name: w }"), "authorizers[1].type: Unsupported"),
            (file(&WEBHOOK.replace("timeout: 3s", "timeout: 31s")), "webhook.timeout: Invalid"),
            (file(&WEBHOOK.replace("timeout: 3s", "timeout: soon")), "webhook.timeout: Invalid"),
            (file(&WEBHOOK.replace("failurePolicy: Deny", "failurePolicy: Allow")), "failurePolicy: Unsupported"),
            (
                file(&WEBHOOK.replace("Version: v1\n      match", "Version: v2\n      match")),
                "Unsupported value: \"v2\"",
            ),
            (file(&WEBHOOK.replace("type: KubeConfigFile", "type: Socket")), "connectionInfo.type: Unsupported"),
            (file(&WEBHOOK.replace("has(request.resourceAttributes)", "")), "matchConditions[0].expression: Required"),
            (file(&WEBHOOK.replace("timeout", "timeOut")), "timeOut"),
            ("apiVersion: v1\nkind: Pod".into(), "AuthorizationConfiguration"),
            ("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration".into(), "at least one"),
        ];
        for (text, wanted) in cases {
            let error = parse(&text, Path::new("/f")).unwrap_err();
            assert!(error.contains(wanted), "{error} should contain {wanted}");
        }
    }
    #[test]
    fn only_webhooks_come_and_go() {
        let (node, rbac) = (Entry::Node, Entry::Rbac);
        let both = [node.clone(), rbac.clone()];
        let gate = parse(&file(WEBHOOK), Path::new("/f")).unwrap().remove(1);
        let cases = [
            (&both[..], vec![rbac.clone(), gate.clone(), node.clone()], None),
            (&both[..], vec![node.clone(), gate.clone()], Some("RBAC was there")),
            (&both[..], vec![rbac.clone()], Some("Node was there")),
            (&both[..1], vec![node, rbac], Some("RBAC is not allowed")),
            (&[gate][..], vec![], None),
        ];
        for (first, next, wanted) in cases {
            let error = same_kinds(first, &next).err();
            assert!(
                error.as_deref().is_some() == wanted.is_some()
                    && wanted.is_none_or(|w| error.as_deref().unwrap_or_default().contains(w)),
                "{first:?} to {next:?}: {error:?}"
            );
        }
    }
}
