//! What PodSecurity is told by its configuration (`pod-security.admission.config.k8s.io/v1` PodSecurityConfiguration): what holds
//! where a namespace says nothing, and who is exempt.

use super::levels::{Level, Modes, Policy, level_of, version_of};
use caravel_api::names;
use serde::Deserialize;
use serde_json::Value;

/// Defaults and exemptions.
#[derive(Clone, Debug, Default)]
pub struct PodSecurityConfiguration {
    /// What holds where labels say nothing.
    pub defaults: Modes,
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

impl PodSecurityConfiguration {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(told: Value) -> Result<Self, String> {
        let file: File = serde_json::from_value(told).map_err(|e| e.to_string())?;
        let version = file.api_version.strip_prefix("pod-security.admission.config.k8s.io/");
        if !matches!(version, Some("v1" | "v1beta1" | "v1alpha1")) || file.kind != "PodSecurityConfiguration" {
            return Err(format!(
                "it is a {} {}, and not a pod-security.admission.config.k8s.io/v1 PodSecurityConfiguration",
                file.api_version, file.kind
            ));
        }
        let said = &file.defaults;
        let defaults = Modes {
            enforce: policy("enforce", &said.enforce, &said.enforce_version)?,
            audit: policy("audit", &said.audit, &said.audit_version)?,
            warn: policy("warn", &said.warn, &said.warn_version)?,
        };
        let Exemptions { usernames, namespaces, runtime_classes } = file.exemptions;
        check("usernames", &usernames, |name| if name.is_empty() { vec!["it is empty".into()] } else { vec![] })?;
        check("namespaces", &namespaces, names::dns1123_label)?;
        check("runtimeClasses", &runtime_classes, names::dns1123_subdomain)?;
        Ok(Self { defaults, usernames, namespaces, runtime_classes })
    }

    /// Whether nothing is asked of this namespace.
    pub fn exempts_namespace(&self, name: &str) -> bool {
        self.namespaces.iter().any(|one| one == name)
    }

    /// Whether nothing is asked of what this user writes.
    pub fn exempts_user(&self, name: &str) -> bool {
        self.usernames.iter().any(|one| one == name)
    }

    /// Whether nothing is asked of this Pod because of its runtime class.
    pub fn exempts_runtime(&self, pod: &Value) -> bool {
        let class = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str).unwrap_or_default();
        self.runtime_classes.iter().any(|one| one == class)
    }
}

fn policy(mode: &str, level: &str, version: &str) -> Result<Policy, String> {
    let wrong = |field: &str, value: &str, why: &str| format!("defaults.{field}: Invalid value: {value:?}: {why}");
    let level = match level {
        "" => Level::Privileged,
        said => level_of(said).map_err(|why| wrong(mode, said, why))?,
    };
    let version = match version {
        "" => None,
        said => version_of(said).map_err(|why| wrong(&format!("{mode}-version"), said, why))?,
    };
    Ok(Policy { level, version })
}

fn check(field: &str, all: &[String], complaints: impl Fn(&str) -> Vec<String>) -> Result<(), String> {
    for (i, one) in all.iter().enumerate() {
        let said = complaints(one);
        if !said.is_empty() {
            return Err(format!("exemptions.{field}[{i}]: Invalid value: {one:?}: {}", said.join(", ")));
        }
        if all[..i].contains(one) {
            return Err(format!("exemptions.{field}[{i}]: Duplicate value: {one:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn told() -> Value {
        json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "defaults": {"enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted"},
            "exemptions": {"usernames": ["u"], "namespaces": ["n"], "runtimeClasses": ["r"]}})
    }

    #[test]
    fn defaults_and_exemptions_are_read() {
        let read = PodSecurityConfiguration::parse(told()).unwrap();
        assert_eq!(read.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(read.defaults.audit.to_string(), "privileged:latest");
        assert_eq!(read.defaults.warn.to_string(), "restricted:latest");
        assert!(read.exempts_user("u") && read.exempts_namespace("n") && !read.exempts_namespace("u"));
        assert!(read.exempts_runtime(&json!({"spec": {"runtimeClassName": "r"}})));
        assert!(!read.exempts_runtime(&json!({"spec": {}})));
    }

    #[test]
    fn mistakes_are_told() {
        for (pointer, value, why) in [
            ("/kind", json!("Other"), "and not a"),
            ("/defaults/enforce", json!("strict"), "defaults.enforce: Invalid value: \"strict\""),
            ("/defaults/enforce-version", json!("1.30"), "defaults.enforce-version"),
            ("/exemptions/namespaces", json!(["N"]), "exemptions.namespaces[0]: Invalid"),
            ("/exemptions/namespaces", json!(["n", "n"]), "exemptions.namespaces[1]: Duplicate"),
            ("/exemptions/usernames", json!([""]), "exemptions.usernames[0]"),
            ("/exemptions", json!({"users": []}), "users"),
        ] {
            let mut bad = told();
            *bad.pointer_mut(pointer).unwrap() = value;
            let said = PodSecurityConfiguration::parse(bad).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
