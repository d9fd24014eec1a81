//! The configuration file: `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`, read strictly.
//!
//! What this scheduler does not have (plug-ins from outside) is refused, never passed over: a file that is accepted does what it says.

mod args;
mod extenders;
mod plugins;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, Profile};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// What is wrong with a file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// It is not YAML, or has fields that do not exist, or values of other types.
    #[error("it cannot be read: {0}")]
    Syntax(String),
    /// A field's value makes no sense.
    #[error("{at}: {what}")]
    Field {
        /// The path of the field.
        at: String,
        /// What is wrong, and what would be right.
        what: String,
    },
}

fn wrong<T>(at: impl Into<String>, what: impl Into<String>) -> Result<T, FileError> {
    Err(FileError::Field { at: at.into(), what: what.into() })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: Option<String>,
    kind: Option<String>,
    parallelism: Option<i32>,
    leader_election: Option<Value>,
    client_connection: Option<Value>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    delay_cache_until_active: Option<bool>,
    percentage_of_nodes_to_score: Option<i32>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    extenders: Vec<extenders::FileExtender>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i32>,
    plugins: Option<plugins::Plugins>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Option<Value>,
}

fn percentage(at: &str, value: Option<i32>) -> Result<Option<u32>, FileError> {
    match value {
        None | Some(0) => Ok(None),
        Some(percent @ 1..=100) => Ok(Some(percent as u32)),
        Some(other) => wrong(at, format!("{other} is not between 0 and 100; 0 adapts to the size of the cluster")),
    }
}

/// Reads a file's text.
///
/// # Errors
/// What is wrong, where, and what would be right.
pub fn parse(text: &str) -> Result<Config, FileError> {
    let file: File = serde_yaml::from_str(text).map_err(|e| FileError::Syntax(e.to_string()))?;
    file.heading()?;
    let percent = percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?;
    let mut config = Config { backoff: file.backoff()?, ..Config::default() };
    if !file.profiles.is_empty() {
        config.profiles.clear();
    }
    let several = file.profiles.len() > 1;
    for (i, given) in file.profiles.iter().enumerate() {
        let at = format!("profiles[{i}]");
        let profile = profile(given, &at, several)?;
        if config.profiles.iter().any(|p| p.name == profile.name) {
            return wrong(
                format!("{at}.schedulerName"),
                format!("another profile has the name {:?} already", profile.name),
            );
        }
        config.profiles.push(profile);
    }
    config.told = Some(told(text)?);
    let (extenders, ignored) = extenders::read(&file.extenders)?;
    config.extenders = extenders;
    for profile in &mut config.profiles {
        profile.percentage_of_nodes = profile.percentage_of_nodes.or(percent);
        if !ignored.is_empty() {
            Arc::make_mut(&mut profile.rules).ignored.extend(ignored.iter().cloned());
        }
    }
    Ok(config)
}

/// A file's text without the keys and certificates of extenders, and without what belongs to machines (`clientConnection`).
fn told(text: &str) -> Result<String, FileError> {
    let fail = |e: serde_yaml::Error| FileError::Syntax(e.to_string());
    let mut whole: Value = serde_yaml::from_str(text).map_err(fail)?;
    if let Some(fields) = whole.as_object_mut() {
        fields.remove("clientConnection");
    }
    for extender in whole.get_mut("extenders").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(fields) = extender.as_object_mut() {
            fields.remove("tlsConfig");
        }
    }
    serde_yaml::to_string(&whole).map_err(fail)
}

impl File {
    fn heading(&self) -> Result<(), FileError> {
        if self.api_version.as_deref() != Some(API_VERSION) {
            return wrong(
                "apiVersion",
                format!("{:?} is not known; write {API_VERSION}", self.api_version.as_deref().unwrap_or("")),
            );
        }
        if self.kind.as_deref() != Some(KIND) {
            return wrong("kind", format!("{:?} is not known; write {KIND}", self.kind.as_deref().unwrap_or("")));
        }
        if let Some(n) = self.parallelism.filter(|n| *n <= 0) {
            return wrong("parallelism", format!("{n} is not greater than 0"));
        }
        // What belongs to a scheduler that is a process of its own: here it is part of the program.
        let election = self.leader_election.as_ref().is_some_and(|e| !e.is_object());
        let connection = self.client_connection.as_ref();
        if election || connection.is_some_and(|c| !c.is_object()) {
            return wrong("leaderElection, clientConnection", "they must be objects");
        }
        if connection.and_then(|c| c.get("kubeconfig")).and_then(Value::as_str).is_some_and(|path| !path.is_empty()) {
            return wrong(
                "clientConnection.kubeconfig",
                "the scheduler is part of this program and needs none; leave it out",
            );
        }
        let switches = [self.enable_profiling, self.enable_contention_profiling, self.delay_cache_until_active];
        if switches[1..].contains(&Some(true)) {
            return wrong(
                "enableContentionProfiling, delayCacheUntilActive",
                "neither exists here; leave them out or say false",
            );
        }
        Ok(())
    }

    fn backoff(&self) -> Result<(f64, f64), FileError> {
        let (first, longest) =
            (self.pod_initial_backoff_seconds.unwrap_or(1), self.pod_max_backoff_seconds.unwrap_or(10));
        if first <= 0 {
            return wrong("podInitialBackoffSeconds", format!("{first} is not greater than 0"));
        }
        if longest < first {
            return wrong("podMaxBackoffSeconds", format!("{longest} is less than podInitialBackoffSeconds ({first})"));
        }
        Ok((first as f64, longest as f64))
    }
}

fn profile(given: &FileProfile, at: &str, several: bool) -> Result<Profile, FileError> {
    let name = match given.scheduler_name.as_deref() {
        Some("") | None if several => {
            return wrong(
                format!("{at}.schedulerName"),
                "with several profiles each must have a name; pods choose by it",
            );
        }
        Some("") | None => "default-scheduler",
        Some(name) => name,
    };
    let mut profile = Profile::named(name);
    profile.percentage_of_nodes =
        percentage(&format!("{at}.percentageOfNodesToScore"), given.percentage_of_nodes_to_score)?;
    if let Some(plugins) = &given.plugins {
        plugins.apply(&mut profile, &format!("{at}.plugins"))?;
    }
    for (i, entry) in given.plugin_config.iter().enumerate() {
        let at = format!("{at}.pluginConfig[{i}]");
        if given.plugin_config[..i].iter().any(|other| other.name == entry.name) {
            return wrong(at, format!("{} is configured twice", entry.name));
        }
        let Some(args) = &entry.args else {
            return wrong(format!("{at}.args"), "it is missing; without it the whole entry can go");
        };
        args::apply(&mut profile, &entry.name, args, &at)?;
    }
    Ok(profile)
}

#[cfg(test)]
mod tests;
