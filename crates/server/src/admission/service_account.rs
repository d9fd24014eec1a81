//! ServiceAccount: every Pod runs as a service account that exists, takes over its pull secrets, and gets its token, the
//! cluster's CA and its namespace mounted, unless it opts out. Static (mirror) pods get none.

use super::{Context, Operation, Plugin, Request};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Value, json};

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// One hour and seven seconds: upstream's way of telling these tokens from requested ones.
const EXPIRATION: u64 = 3607;

/// The plug-in.
pub struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(pod) = request.object.as_mut() else { return Ok(()) };
            if caravel_api::meta::annotation(pod, MIRROR).is_some() {
                return mirror(request);
            }
            let spec = &mut pod["spec"];
            let mut name = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default().to_owned();
            if name.is_empty() {
                name = "default".into();
            }
            spec["serviceAccountName"] = json!(name);
            spec["serviceAccount"] = json!(name);
            let account = find(context, &request.namespace, &name).await?.ok_or_else(|| {
                let why = format!(
                    "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                    request.namespace
                );
                ApiError::forbidden("", "pods", &request.name, why)
            })?;
            let Some(pod) = request.object.as_mut() else { return Ok(()) };
            if wants_token(&pod["spec"], &account) {
                mount_token(&mut pod["spec"], &caravel_api::names::suffix_of(rand::random()));
            }
            let no_secrets = pod["spec"].get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
            if no_secrets
                && let Some(secrets) =
                    account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
            {
                pod["spec"]["imagePullSecrets"] = secrets.clone();
            }
            if caravel_api::meta::annotation(&account, ENFORCE_MOUNTABLE).and_then(go_bool) == Some(true) {
                let pod = request.object.as_ref().unwrap_or(&Value::Null);
                only_mountable(pod, &account, &name).map_err(|why| request.forbidden(why))?;
            }
            Ok(())
        })
    }
}

fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The account; a fresh namespace's `default` account appears a moment after the namespace, so it is waited for briefly.
async fn find(context: &Context<'_>, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
    for attempt in 0..10u64 {
        if let Some(found) = context.registry.object("", "serviceaccounts", namespace, name).await? {
            return Ok(Some(found));
        }
        if name != "default" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20 + 20 * attempt)).await;
    }
    Ok(None)
}

fn mirror(request: &Request) -> Result<(), ApiError> {
    let spec = request.object.as_ref().and_then(|pod| pod.get("spec")).unwrap_or(&Value::Null);
    if spec.get("serviceAccountName").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    let volumes = spec.get("volumes").and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        if volume.get("secret").is_some() {
            return Err(request.forbidden("a mirror pod may not reference secrets"));
        }
        let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
        if sources.into_iter().flatten().any(|source| source.get("serviceAccountToken").is_some()) {
            return Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
        }
    }
    Ok(())
}

fn wants_token(spec: &Value, account: &Value) -> bool {
    let said = |of: &Value| of.get("automountServiceAccountToken").and_then(Value::as_bool);
    said(spec).or_else(|| said(account)).unwrap_or(true)
}

/// Adds the projected volume and its mounts; a container that has its own mount at that path keeps it.
fn mount_token(spec: &mut Value, suffix: &str) {
    let existing = spec.get("volumes").and_then(Value::as_array).and_then(|volumes| {
        volumes.iter().find_map(|volume| {
            let name = volume.get("name")?.as_str()?;
            (name.starts_with(VOLUME_PREFIX) && volume.get("projected").is_some()).then(|| name.to_owned())
        })
    });
    let has_volume = existing.is_some();
    let name = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount.get("mountPath").and_then(Value::as_str) == Some(MOUNT)) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
            used = true;
        }
    }
    if !used || has_volume {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": EXPIRATION, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

fn only_mountable(pod: &Value, account: &Value, account_name: &str) -> Result<(), String> {
    let names = |of: &Value, field: &str| -> Vec<String> {
        of.get(field)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|r| r.get("name").and_then(Value::as_str).map(str::to_owned))
            .collect()
    };
    let allowed = names(account, "secrets");
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        if let Some(secret) = volume.pointer("/secret/secretName").and_then(Value::as_str)
            && !allowed.iter().any(|a| a == secret)
        {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {account_name} does not reference that secret"
            ));
        }
    }
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        for container in containers.into_iter().flatten() {
            let env = container.get("env").and_then(Value::as_array);
            for variable in env.into_iter().flatten() {
                if let Some(secret) = variable.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str)
                    && !allowed.iter().any(|a| a == secret)
                {
                    return Err(format!(
                        "container with envVar valueFrom.secretKeyRef.name={secret:?} is not allowed because service account {account_name} does not reference that secret"
                    ));
                }
            }
        }
    }
    let pull = names(account, "imagePullSecrets");
    for secret in names(pod.get("spec").unwrap_or(&Value::Null), "imagePullSecrets") {
        if !pull.contains(&secret) {
            return Err(format!(
                "imagePullSecrets with name={secret:?} is not allowed because service account {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once() {
        let mut spec =
            json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": MOUNT, "name": "x"}]}]});
        mount_token(&mut spec, "abcde");
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = spec.clone();
        mount_token(&mut spec, "fghij");
        assert_eq!(spec, before);
    }

    #[test]
    fn the_pod_decides_before_its_account() {
        for (spec, account, wants) in [
            (json!({}), json!({}), true),
            (json!({}), json!({"automountServiceAccountToken": false}), false),
            (json!({"automountServiceAccountToken": true}), json!({"automountServiceAccountToken": false}), true),
            (json!({"automountServiceAccountToken": false}), json!({}), false),
        ] {
            assert_eq!(wants_token(&spec, &account), wants);
        }
    }
}
