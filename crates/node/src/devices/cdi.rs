//! The Container Device Interface (github.com/cncf-tags/container-device-interface): files in which drivers describe what a device adds
//! to a container.
//!
//! containerd knows it from 1.7 on. For an older one the node itself adds what can be said in CRI (environment, device nodes, mounts,
//! groups) and refuses what cannot (hooks and the like), since a container that silently lacks a part of its device helps nobody.

use std::path::{Path, PathBuf};

use caravel_runtime as rt;
use serde::Deserialize;

/// A specification at most, bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is added to a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
    hooks: Vec<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    permissions: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Device {
    name: String,
    container_edits: Edits,
}

/// A specification: the devices of one vendor and class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    kind: String,
    devices: Vec<Device>,
    container_edits: Edits,
}

/// Whether a runtime knows CDI itself.
pub fn is_known_to(version: &rt::Version) -> bool {
    let mut numbers =
        version.runtime_version.trim_start_matches('v').split(['.', '-', '~', '+']).map(str::parse::<u32>);
    let (major, minor) = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => return false,
    };
    version.runtime_name != "containerd" || (major, minor) >= (1, 7)
}

/// All specifications of some directories, the most important last.
pub fn read(dirs: &[PathBuf]) -> Vec<Spec> {
    let mut out = Vec::new();
    for dir in dirs {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            match read_one(&file) {
                Ok(spec) => out.extend(spec),
                Err(error) => tracing::warn!(file = %file.display(), error, "a CDI specification cannot be used"),
            }
        }
    }
    out
}

fn read_one(file: &Path) -> Result<Option<Spec>, String> {
    let kind = file.extension().and_then(|e| e.to_str());
    let fits = std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() <= MAX_FILE);
    if !matches!(kind, Some("json" | "yaml")) || !fits {
        return Ok(None);
    }
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    // JSON is YAML.
    serde_yaml::from_str(&text).map(Some).map_err(|e| e.to_string())
}

/// Adds devices (`vendor/class=name`) to a container.
///
/// # Errors
/// A device that is not described, or described in a way that CRI cannot say.
pub fn apply(specs: &[Spec], ids: &[String], config: &mut rt::ContainerConfig) -> Result<(), String> {
    let mut seen: Vec<usize> = Vec::new();
    for id in ids {
        let (kind, name) = id.split_once('=').unwrap_or((id, ""));
        let found = specs.iter().enumerate().rev().find_map(|(i, spec)| {
            let device = spec.devices.iter().find(|d| spec.kind == kind && d.name == name)?;
            Some((i, spec, device))
        });
        let (i, spec, device) = found.ok_or_else(|| format!("unresolvable CDI devices {id}"))?;
        if !seen.contains(&i) {
            seen.push(i);
            edit(&spec.container_edits, id, config)?;
        }
        edit(&device.container_edits, id, config)?;
    }
    Ok(())
}

fn edit(edits: &Edits, id: &str, config: &mut rt::ContainerConfig) -> Result<(), String> {
    let beyond = [
        ("hooks", !edits.hooks.is_empty()),
        ("netDevices", !edits.net_devices.is_empty()),
        ("intelRdt", edits.intel_rdt.is_some()),
    ];
    if let Some((what, _)) = beyond.iter().find(|(_, there)| *there) {
        return Err(format!(
            "CDI device {id} has {what}, which takes a container runtime that knows CDI (containerd 1.7 or later)"
        ));
    }
    for pair in &edits.env {
        let Some((key, value)) = pair.split_once('=') else { continue };
        config.envs.retain(|(k, _)| k != key);
        config.envs.push((key.to_owned(), value.to_owned()));
    }
    for node in &edits.device_nodes {
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        config.devices.push(rt::Device {
            container_path: node.path.clone(),
            host_path: or(&node.host_path, &node.path),
            permissions: or(&node.permissions, "rwm"),
        });
    }
    for mount in &edits.mounts {
        config.mounts.push(rt::Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            readonly: mount.options.iter().any(|o| o == "ro"),
            ..rt::Mount::default()
        });
    }
    config.security.supplemental_groups.extend(edits.additional_gids.iter().map(|g| i64::from(*g)));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn which_runtimes_know_it() {
        for (name, version, want) in [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v1.7.0", true),
            ("containerd", "2.1.3", true),
            ("cri-o", "1.33.0", true),
            ("containerd", "unknown", false),
        ] {
            let version = rt::Version {
                runtime_name: name.into(),
                runtime_version: version.into(),
                runtime_api_version: "v1".into(),
            };
            assert_eq!(is_known_to(&version), want, "{version:?}");
        }
    }

    #[test]
    fn devices_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "a.json",
            r#"{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "containerEdits": {"env": ["COMMON=1"]},
            "devices": [{"name": "x", "containerEdits": {"env": ["GPU=x"], "deviceNodes": [{"path": "/dev/x"}],
                "mounts": [{"hostPath": "/lib/x", "containerPath": "/opt/x", "options": ["ro", "bind"]}], "additionalGids": [7]}},
                {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createRuntime", "path": "/bin/true"}]}}]}"#,
        );
        write("b.yaml", "kind: example.com/nic\ndevices:\n- name: n\n  containerEdits: {env: [GPU=n]}\n");
        write("c.json", "nonsense");
        write("d.txt", "ignored");
        let specs = read(&[dir.path().join("none"), dir.path().to_owned()]);
        let mut config = rt::ContainerConfig { envs: vec![("GPU".into(), "none".into())], ..Default::default() };
        let ids = ["example.com/gpu=x".to_owned(), "example.com/nic=n".to_owned()];
        apply(&specs, &ids, &mut config).unwrap();
        let env: Vec<_> = config.envs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["COMMON=1", "GPU=n"], "the last word counts");
        assert_eq!((&*config.devices[0].host_path, &*config.devices[0].permissions), ("/dev/x", "rwm"));
        assert!(config.mounts[0].readonly && config.mounts[0].container_path == "/opt/x");
        assert_eq!(config.security.supplemental_groups, [7]);
        let wrong = |id: &str| apply(&specs, &[id.to_owned()], &mut rt::ContainerConfig::default()).unwrap_err();
        assert_eq!(wrong("example.com/gpu=y"), "unresolvable CDI devices example.com/gpu=y");
        assert!(wrong("example.com/gpu=hooked").contains("has hooks"));
    }
}
