//! Tokens in Secrets that older versions made unasked and nobody uses any more: first marked as invalid, then deleted (KEP-2799).
//!
//! The server notes the day of a token's last use on its Secret, and in a ConfigMap since when it does so. What was not used
//! for the period is marked; what is not used for another period after that goes. Tokens that somebody made are left alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Informer, Key, ListSelector, WorkQueue};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use crate::common::*;
use crate::context::Context;

const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the server says since when it notes uses.
const TRACKING: (&str, &str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking", "since");

/// When unused tokens go.
#[derive(Clone, Debug)]
pub struct LegacyTokens {
    /// Unused for so long, a token is marked; and so long after that it goes
    /// (`--legacy-service-account-token-clean-up-period`).
    pub unused: Duration,
    /// Time between two looks.
    pub interval: Duration,
}

impl Default for LegacyTokens {
    fn default() -> Self {
        Self { unused: Duration::from_secs(365 * 24 * 3600), interval: Duration::from_secs(24 * 3600) }
    }
}

/// What to do about one Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Say that it is invalid since today.
    Mark,
    /// Delete it.
    Delete,
}

/// What the cleaner knows.
struct Snapshot {
    secrets: Vec<Arc<Secret>>,
    accounts: HashMap<Key, Arc<ServiceAccount>>,
    pods: Vec<Arc<Pod>>,
    /// Since when uses are noted.
    since: Date,
}

/// Decides about all Secrets.
fn plan(snapshot: &Snapshot, now: Timestamp, unused: Duration) -> Vec<(Arc<Secret>, Step)> {
    let unused = SignedDuration::try_from(unused).unwrap_or(SignedDuration::MAX);
    let Ok(before) = now.checked_sub(unused) else { return vec![] };
    // Uses were noted from some time of that day on.
    let noted = snapshot.since.tomorrow().ok().and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC).ok());
    if noted.is_none_or(|day| before < day.timestamp()) {
        return vec![];
    }
    let day = before.to_zoned(jiff::tz::TimeZone::UTC).date();
    let mut mounted: HashMap<&str, HashSet<String>> = HashMap::new();
    for pod in &snapshot.pods {
        mounted.entry(namespace(&**pod)).or_default().extend(pod.spec.iter().flat_map(secrets_of));
    }
    let kept = |secret: &Secret| mounted.get(namespace(secret)).is_some_and(|names| names.contains(name(secret)));
    let judge = |secret: &Arc<Secret>| {
        if secret.type_.as_deref() != Some(SECRET_TYPE) || deleting(&**secret) || created(&**secret) >= before {
            return None;
        }
        match labels(&**secret).get(LAST_USED).map(|said| said.parse::<Date>()) {
            // What cannot be read says nothing.
            Some(Err(_)) => return None,
            Some(Ok(last)) if last >= day => return None,
            _ => {}
        }
        if !made_unasked(secret, &snapshot.accounts) || kept(secret) {
            return None;
        }
        match labels(&**secret).get(INVALID_SINCE).and_then(|said| said.parse::<Date>().ok()) {
            None => Some(Step::Mark),
            Some(since) if since < day => Some(Step::Delete),
            Some(_) => None,
        }
    };
    snapshot.secrets.iter().filter_map(|secret| Some((secret.clone(), judge(secret)?))).collect()
}

/// Whether the account names the Secret: only versions that made tokens unasked did so.
fn made_unasked(secret: &Secret, accounts: &HashMap<Key, Arc<ServiceAccount>>) -> bool {
    let said = |key: &str| annotation(secret, key).unwrap_or_default();
    let Some(account) = accounts.get(&Key::new(namespace(secret), said(ACCOUNT_NAME))) else { return false };
    let same = said(ACCOUNT_UID).is_empty() || said(ACCOUNT_UID) == uid(&**account);
    same && account.secrets.iter().flatten().any(|one| one.name.as_deref() == Some(name(secret)))
}

/// The names of all Secrets that a Pod refers to, wherever it does.
fn secrets_of(spec: &PodSpec) -> HashSet<String> {
    fn visit(value: &Value, found: &mut HashSet<String>) {
        match value {
            Value::Array(all) => all.iter().for_each(|one| visit(one, found)),
            Value::Object(fields) => {
                for (key, inside) in fields {
                    let named = match key.as_str() {
                        "secretName" => inside.as_str(),
                        "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => inside["name"].as_str(),
                        _ => None,
                    };
                    found.extend(named.map(str::to_owned));
                    visit(inside, found);
                }
            }
            _ => {}
        }
    }
    let mut found = HashSet::new();
    visit(&serde_json::to_value(spec).unwrap_or_default(), &mut found);
    found.extend(spec.image_pull_secrets.iter().flatten().map(|one| one.name.clone()));
    found
}

/// Runs the cleaner.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let selector = ListSelector::fields(format!("type={SECRET_TYPE}"));
    let secrets: Informer<Secret> = context.cluster.informer_with(selector);
    let accounts: Informer<ServiceAccount> = context.cluster.informer();
    let pods = context.pods();
    secrets.synced().await;
    accounts.synced().await;
    pods.synced().await;
    let queue = WorkQueue::new();
    queue.add(Key::new(TRACKING.0, TRACKING.1));
    let (client, times) = (context.client(), context.config.legacy_tokens.clone());
    let reconcile = |_: Key| {
        let (client, times, context) = (client.clone(), times.clone(), context.clone());
        let (secrets, accounts, pods) = (secrets.list(), accounts.list(), pods.list());
        async move {
            let Some(since) = tracked_since(&client).await? else { return Ok(Some(times.interval)) };
            let accounts = accounts.into_iter().map(|one| (Key::of(&*one), one)).collect();
            let (now, snapshot) = (context.now(), Snapshot { secrets, accounts, pods, since });
            for (secret, step) in plan(&snapshot, now, times.unused) {
                apply(&client, &secret, step, now).await?;
            }
            Ok(Some(times.interval))
        }
    };
    context.work(queue, 1, reconcile).await;
    Ok(())
}

async fn tracked_since(client: &kube::Client) -> anyhow::Result<Option<Date>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), TRACKING.0);
    let Some(map) = maps.get_opt(TRACKING.1).await? else { return Ok(None) };
    Ok(map.data.as_ref().and_then(|data: &BTreeMap<String, String>| data.get(TRACKING.2)?.parse().ok()))
}

async fn apply(client: &kube::Client, secret: &Secret, step: Step, now: Timestamp) -> anyhow::Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace(secret));
    let (of, secret_name) = (namespace(secret), name(secret));
    match step {
        Step::Mark => {
            let today = now.strftime("%Y-%m-%d").to_string();
            tracing::info!(namespace = of, secret = secret_name, "an unused token is marked as invalid");
            let patch = json!({"metadata": {"uid": uid(secret), "labels": {INVALID_SINCE: today}}});
            match api.patch(secret_name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(e) if !is_not_found(&e) && !is_conflict(&e) => return Err(e.into()),
                _ => {}
            }
        }
        Step::Delete => {
            tracing::info!(namespace = of, secret = secret_name, "an unused token is deleted");
            // Not when it was used meanwhile.
            let same = Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() };
            gone_is_fine(api.delete(secret_name, &DeleteParams::default().preconditions(same)).await)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn secret(name: &str, made: &str, labels: Value) -> Arc<Secret> {
        let secret = json!({"metadata": {"name": name, "namespace": "n", "labels": labels, "creationTimestamp": made,
            "annotations": {ACCOUNT_NAME: "robot", ACCOUNT_UID: "u"}}, "type": SECRET_TYPE});
        Arc::new(serde_json::from_value(secret).unwrap())
    }

    fn snapshot(secrets: Vec<Arc<Secret>>) -> Snapshot {
        let account = json!({"metadata": {"name": "robot", "namespace": "n", "uid": "u"}, "secrets": [{"name": "t"}, {"name": "m"}]});
        let account: ServiceAccount = serde_json::from_value(account).unwrap();
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [],
            "volumes": [{"name": "v", "secret": {"secretName": "m"}}]}});
        Snapshot {
            secrets,
            accounts: [(Key::new("n", "robot"), Arc::new(account))].into(),
            pods: vec![Arc::new(serde_json::from_value(pod).unwrap())],
            since: "2024-01-01".parse().unwrap(),
        }
    }

    #[test]
    fn table() {
        let (now, year) = (at("2026-06-15T12:00:00Z"), Duration::from_secs(365 * 24 * 3600));
        let old = "2020-01-01T00:00:00Z";
        for (what, one, wanted) in [
            ("never used", secret("t", old, json!({})), Some(Step::Mark)),
            ("used long ago", secret("t", old, json!({LAST_USED: "2025-06-14"})), Some(Step::Mark)),
            ("used within the period", secret("t", old, json!({LAST_USED: "2025-06-15"})), None),
            ("used at no day", secret("t", old, json!({LAST_USED: "lately"})), None),
            ("young", secret("t", "2025-06-15T12:00:00Z", json!({})), None),
            ("made by somebody", secret("other", old, json!({})), None),
            ("mounted", secret("m", old, json!({})), None),
            ("invalid for long", secret("t", old, json!({INVALID_SINCE: "2025-06-14"})), Some(Step::Delete)),
            ("invalid for a while", secret("t", old, json!({INVALID_SINCE: "2025-06-15"})), None),
            ("marked badly", secret("t", old, json!({INVALID_SINCE: "x"})), Some(Step::Mark)),
            (
                "invalid, and used since",
                secret("t", old, json!({INVALID_SINCE: "2025-01-01", LAST_USED: "2026-06-01"})),
                None,
            ),
        ] {
            let steps: Vec<Step> = plan(&snapshot(vec![one]), now, year).into_iter().map(|(_, step)| step).collect();
            assert_eq!(steps, Vec::from_iter(wanted), "{what}");
        }
        let mut late = snapshot(vec![secret("t", old, json!({}))]);
        late.since = "2025-06-15".parse().unwrap();
        assert!(plan(&late, now, year).is_empty(), "uses are not noted for long enough");
        let mut gone = snapshot(vec![secret("t", old, json!({}))]);
        gone.accounts.clear();
        assert!(plan(&gone, now, year).is_empty(), "without its account nobody knows who made it");
    }

    #[test]
    fn secrets_of_pods_are_found_everywhere() {
        let spec = json!({"imagePullSecrets": [{"name": "a"}], "containers": [{"name": "c",
            "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}], "envFrom": [{"secretRef": {"name": "c"}}]}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "d"}}]}],
            "volumes": [{"name": "1", "secret": {"secretName": "e"}}, {"name": "2", "projected": {"sources": [{"secret": {"name": "f"}}]}},
                {"name": "3", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "g"}}}, {"name": "4", "azureFile": {"secretName": "h", "shareName": "s"}},
                {"name": "5", "configMap": {"name": "no"}}]});
        let mut found = Vec::from_iter(secrets_of(&serde_json::from_value(spec).unwrap()));
        found.sort();
        assert_eq!(found, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    }
}
