//! The file of `--admission-control-config-file` (`apiserver.config.k8s.io/v1` AdmissionConfiguration): what plug-ins are told.
//! PodSecurity and ResourceQuota take a configuration here; that of other plug-ins is told of and passed over, as nothing
//! here would read it, save where passing it over would open a door.

use super::pod_security::configuration::PodSecurityConfiguration;
use caravel_api::quota::limited::Limited;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What the plug-ins are told.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Defaults and exemptions of PodSecurity.
    pub pod_security: PodSecurityConfiguration,
    /// What may be used only where a quota covers it.
    pub limited: Vec<Limited>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    name: String,
    #[serde(default)]
    path: PathBuf,
    configuration: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceQuotaConfiguration {
    #[serde(default)]
    limited_resources: Vec<Limited>,
}

impl Configuration {
    /// Reads a file; paths in it are relative to its directory.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("the admission configuration {}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(failed)
    }

    fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        let file: File = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        let known = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
        if !known.contains(&file.api_version.as_str()) || file.kind != "AdmissionConfiguration" {
            return Err(format!(
                "it is a {} {}, and not an apiserver.config.k8s.io/v1 AdmissionConfiguration",
                file.api_version, file.kind
            ));
        }
        let mut all = Self::default();
        let mut seen: Vec<&str> = vec![];
        for (i, plugin) in file.plugins.iter().enumerate() {
            let at = |why: String| format!("plugins[{i}] ({}): {why}", plugin.name);
            // Of several entries for one plug-in the first counts.
            if seen.contains(&plugin.name.as_str()) {
                continue;
            }
            seen.push(&plugin.name);
            let Some(told) = plugin.told(dir).map_err(at)? else { continue };
            all.take(&plugin.name, told).map_err(at)?;
        }
        Ok(all)
    }

    fn take(&mut self, name: &str, told: Value) -> Result<(), String> {
        let text = |field: &str| told.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let is = format!("{} {}", text("apiVersion"), text("kind"));
        match name {
            "PodSecurity" => self.pod_security = PodSecurityConfiguration::parse(told)?,
            "ResourceQuota" => {
                let known = [
                    "apiserver.config.k8s.io/v1 ResourceQuotaConfiguration",
                    "resourcequota.admission.k8s.io/v1 Configuration",
                    "resourcequota.admission.k8s.io/v1beta1 Configuration",
                    "resourcequota.admission.k8s.io/v1alpha1 Configuration",
                ];
                if !known.contains(&is.as_str()) {
                    return Err(format!("it is a {is}, and not a {}", known[0]));
                }
                let read: ResourceQuotaConfiguration = serde_json::from_value(told).map_err(|e| e.to_string())?;
                for (i, one) in read.limited_resources.iter().enumerate() {
                    one.check().map_err(|why| format!("limitedResources[{i}].{why}"))?;
                }
                self.limited = read.limited_resources;
            }
            "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook" if !text("kubeConfigFile").is_empty() => {
                return Err("kubeConfigFile: credentials for webhooks are not supported here".into());
            }
            _ => tracing::warn!(plugin = name, "this admission plug-in takes no configuration here"),
        }
        Ok(())
    }
}

impl Plugin {
    fn told(&self, dir: &Path) -> Result<Option<Value>, String> {
        if let Some(told) = self.configuration.as_ref().filter(|told| !told.is_null()) {
            return Ok(Some(told.clone()));
        }
        if self.path.as_os_str().is_empty() {
            return Ok(None);
        }
        let path = dir.join(&self.path);
        let failed = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
        serde_yaml::from_str(&text).map(Some).map_err(|e| failed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: { enforce: baseline }
    exemptions: { namespaces: [kube-system] }
- name: ResourceQuota
  path: quota.yaml
- name: EventRateLimit
  path: nowhere.yaml
"#;

    const QUOTA: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\n\
        limitedResources: [{ resource: pods, matchScopes: [{ scopeName: PriorityClass, operator: In, values: [high] }] }]\n";

    #[test]
    fn plugins_are_told_in_place_or_by_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("quota.yaml"), QUOTA).unwrap();
        std::fs::write(dir.path().join("nowhere.yaml"), "a: b").unwrap();
        let read = Configuration::parse(FILE, dir.path()).unwrap();
        assert_eq!(read.limited.len(), 1);
        assert!(read.pod_security.exempts_namespace("kube-system"));
        for (from, to, why) in [
            ("AdmissionConfiguration", "Config", "and not an"),
            ("enforce: baseline", "enforce: strict", "defaults.enforce"),
            ("quota.yaml", "gone.yaml", "gone.yaml"),
            ("name: ResourceQuota\n  path: quota.yaml", "name: ResourceQuota\n  path: nowhere.yaml", "ResourceQuota"),
            (
                "name: EventRateLimit\n  path: nowhere.yaml",
                "name: MutatingAdmissionWebhook\n  configuration: { kubeConfigFile: x }",
                "kubeConfigFile",
            ),
        ] {
            let said = Configuration::parse(&FILE.replace(from, to), dir.path()).unwrap_err();
            assert!(said.contains(why), "{to}: {said}");
        }
    }
}
