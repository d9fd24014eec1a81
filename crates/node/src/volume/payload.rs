//! The files of config map, secret, downward API and projected volumes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};

use super::atomic::{File, Files};
use crate::container::env::Objects;
use crate::container::fields::{self, Surroundings};

/// What volumes' files are made from.
#[derive(Debug)]
pub struct Given<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// For the downward API.
    pub around: &'a Surroundings,
    /// Config maps and secrets.
    pub objects: &'a Objects,
    /// Tokens by path in the volume.
    pub tokens: &'a BTreeMap<String, String>,
    /// The user that owns tokens: the one that all containers run as, if there is one.
    pub token_uid: Option<u32>,
    /// Whether a group owns the Pod's volumes.
    pub fs_group: bool,
}

/// The config maps and secrets a volume refers to.
pub fn references(v: &Volume) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    maps.extend(v.config_map.as_ref().map(|c| c.name.clone()));
    secrets.extend(v.secret.as_ref().and_then(|s| s.secret_name.clone()));
    for s in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        maps.extend(s.config_map.as_ref().map(|c| c.name.clone()));
        secrets.extend(s.secret.as_ref().map(|c| c.name.clone()));
    }
    (maps, secrets)
}

/// The files of a volume; `Ok(None)` if it is not made of files.
pub fn files(given: &Given<'_>, v: &Volume) -> Result<Option<Files>, String> {
    let mut out = Files::new();
    if let Some(c) = &v.config_map {
        let mode = mode(c.default_mode);
        config_map(given, &mut out, &c.name, c.items.as_deref(), mode, c.optional == Some(true))?;
    } else if let Some(s) = &v.secret {
        let mode = mode(s.default_mode);
        let name = s.secret_name.as_deref().unwrap_or_default();
        secret(given, &mut out, name, s.items.as_deref(), mode, s.optional == Some(true))?;
    } else if let Some(d) = &v.downward_api {
        downward(given, &mut out, d.items.as_deref().unwrap_or_default(), mode(d.default_mode))?;
    } else if let Some(p) = &v.projected {
        projected(given, &mut out, p)?;
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

fn mode(m: Option<i32>) -> u32 {
    m.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777
}

fn projected(given: &Given<'_>, out: &mut Files, p: &ProjectedVolumeSource) -> Result<(), String> {
    let default = mode(p.default_mode);
    for source in p.sources.iter().flatten() {
        projection(given, out, source, default)?;
    }
    Ok(())
}

fn projection(given: &Given<'_>, out: &mut Files, source: &VolumeProjection, default: u32) -> Result<(), String> {
    if let Some(c) = &source.config_map {
        config_map(given, out, &c.name, c.items.as_deref(), default, c.optional == Some(true))?;
    }
    if let Some(s) = &source.secret {
        secret(given, out, &s.name, s.items.as_deref(), default, s.optional == Some(true))?;
    }
    if let Some(d) = &source.downward_api {
        downward(given, out, d.items.as_deref().unwrap_or_default(), default)?;
    }
    if let Some(t) = &source.service_account_token {
        let token = given.tokens.get(&t.path).ok_or_else(|| format!("no token for path {}", t.path))?;
        let restricted = given.fs_group || given.token_uid.is_some();
        let mode = if restricted { 0o600 } else { default };
        out.insert(t.path.clone(), File { data: token.clone().into_bytes(), mode, uid: given.token_uid });
    }
    if source.cluster_trust_bundle.is_some() {
        return Err("clusterTrustBundle projections are not supported by this node".into());
    }
    if source.pod_certificate.is_some() {
        return Err("podCertificate projections are not supported by this node".into());
    }
    Ok(())
}

fn config_map(
    given: &Given<'_>,
    out: &mut Files,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), String> {
    let found = given.objects.config_maps.get(name).cloned().flatten();
    let Some(map) = found else {
        return if optional { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    select(out, &config_map_data(&map), items, mode, optional, || {
        format!("configmap references non-existent config key: {name}")
    })
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn secret(
    given: &Given<'_>,
    out: &mut Files,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), String> {
    let found = given.objects.secrets.get(name).cloned().flatten();
    let Some(s) = found else {
        return if optional { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    select(out, &secret_data(&s), items, mode, optional, || format!("references non-existent secret key: {name}"))
}

fn secret_data(s: &Secret) -> BTreeMap<String, Vec<u8>> {
    s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

fn select(
    out: &mut Files,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default: u32,
    optional: bool,
    missing: impl Fn() -> String,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        out.extend(data.iter().map(|(k, v)| (k.clone(), File { data: v.clone(), mode: default, uid: None })));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(v) => {
                let mode = item.mode.map_or(default, |m| mode(Some(m)));
                out.insert(item.path.clone(), File { data: v.clone(), mode, uid: None });
            }
            None if optional => {}
            None => return Err(missing()),
        }
    }
    Ok(())
}

fn downward(given: &Given<'_>, out: &mut Files, items: &[DownwardAPIVolumeFile], default: u32) -> Result<(), String> {
    for item in items {
        let text = if let Some(f) = &item.field_ref {
            fields::field(given.pod, given.around, &f.field_path)?
        } else if let Some(r) = &item.resource_field_ref {
            let spec = given.pod.spec.as_ref().ok_or("the pod has no spec")?;
            fields::resource(spec, r.container_name.as_deref().unwrap_or_default(), given.around, r)?
        } else {
            continue;
        };
        let mode = item.mode.map_or(default, |m| mode(Some(m)));
        out.insert(item.path.clone(), File { data: text.into_bytes(), mode, uid: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn run(volume: serde_json::Value) -> Result<Vec<(String, String, u32)>, String> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}),
        )
        .unwrap();
        let mut objects = Objects::default();
        objects.config_maps.insert(
            "m".into(),
            Some(Arc::new(serde_json::from_value(json!({"data": {"k": "v"}, "binaryData": {"b": "AAE="}})).unwrap())),
        );
        objects
            .secrets
            .insert("s".into(), Some(Arc::new(serde_json::from_value(json!({"data": {"x": "eQ=="}})).unwrap())));
        let given = Given {
            pod: &pod,
            around: &Surroundings::default(),
            objects: &objects,
            tokens: &BTreeMap::from([("token".to_owned(), "jwt".to_owned())]),
            token_uid: None,
            fs_group: false,
        };
        let files = files(&given, &serde_json::from_value(volume).unwrap())?;
        Ok(files
            .into_iter()
            .flatten()
            .map(|(p, f)| (p, String::from_utf8_lossy(&f.data).into_owned(), f.mode))
            .collect())
    }

    fn row(path: &str, data: &str, mode: u32) -> (String, String, u32) {
        (path.to_owned(), data.to_owned(), mode)
    }

    #[test]
    fn sources() {
        assert_eq!(
            run(json!({"name": "v", "configMap": {"name": "m", "defaultMode": 0o400}})).unwrap(),
            [row("b", "\0\u{1}", 0o400), row("k", "v", 0o400)]
        );
        assert_eq!(
            run(
                json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "d/f", "mode": 0o600}]}})
            )
            .unwrap(),
            [row("d/f", "v", 0o600)]
        );
        assert_eq!(run(json!({"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "token"}},
            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}})).unwrap(),
            [row("l", "a=\"b\"", 0o644), row("token", "jwt", 0o644), row("x", "y", 0o644)]);
        assert_eq!(run(json!({"name": "v", "emptyDir": {}})).unwrap(), []);
    }

    #[test]
    fn what_is_missing() {
        assert_eq!(run(json!({"name": "v", "secret": {"secretName": "no"}})).unwrap_err(), "secret \"no\" not found");
        assert_eq!(run(json!({"name": "v", "secret": {"secretName": "no", "optional": true}})).unwrap(), []);
        assert_eq!(
            run(json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "z", "path": "f"}]}})).unwrap_err(),
            "configmap references non-existent config key: m"
        );
        assert_eq!(
            run(
                json!({"name": "v", "configMap": {"name": "m", "optional": true, "items": [{"key": "z", "path": "f"}]}})
            )
            .unwrap(),
            []
        );
    }
}
