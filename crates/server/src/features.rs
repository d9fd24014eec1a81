//! What a cluster's owner turns on that is off by default, and the other way round: `--feature-gates` and `--runtime-config`, by
//! kube-apiserver's rules.
//!
//! An API that is off by default is served when its group and version are turned on and, where a gate guards it, the gate too.
//! What this program does not have cannot be turned on, and what every cluster has cannot be turned off: both are said at once.
//! A gate that upstream has open and that can be closed here is one of [`OPEN`].

use caravel_api::kinds::{KindTable, split_api_version};

/// A part of the program that is off unless its gate is open.
struct Gated {
    /// Upstream's name of the gate.
    gate: &'static str,
    /// The group and version that come with it.
    api: (&'static str, &'static str),
}

const GATED: [Gated; 1] = [Gated { gate: MIGRATOR, api: MIGRATION }];
/// The gate of storage migration: beta and off in 1.36 (KEP-4192).
const MIGRATOR: &str = "StorageVersionMigrator";
const MIGRATION: (&str, &str) = ("storagemigration.k8s.io", "v1beta1");

/// Gates that are open unless they are closed.
const OPEN: [&str; 1] = [CONSTRAINED];
/// The gate of constrained impersonation: beta and on in 1.36 (KEP-5284).
const CONSTRAINED: &str = "ConstrainedImpersonation";

/// What is on and what is off, other than by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    gates: Vec<&'static str>,
    closed: Vec<&'static str>,
    apis: Vec<(&'static str, &'static str)>,
}

impl Features {
    /// Reads `KEY=true|false` words as kube-apiserver's flags of these names take them. A key alone is on; of several words
    /// about one key the last one counts.
    ///
    /// # Errors
    /// A sentence that says which word is wrong, and what would be right.
    pub fn parse(runtime_config: &[String], feature_gates: &[String]) -> Result<Self, String> {
        let mut features = Self::default();
        for word in feature_gates {
            let (name, on) = pair("--feature-gates", word)?;
            if let Some(gate) = OPEN.into_iter().find(|gate| *gate == name) {
                set(&mut features.closed, gate, !on);
                continue;
            }
            let known = GATED.iter().find(|one| one.gate == name).ok_or_else(|| unknown_gate(name))?;
            set(&mut features.gates, known.gate, on);
        }
        let all = KindTable::all();
        for word in runtime_config {
            let (key, on) = pair("--runtime-config", word)?;
            if let Some(api) = optional(&all, key, on)? {
                set(&mut features.apis, api, on);
            }
        }
        for one in GATED.iter().filter(|one| features.apis.contains(&one.api) && !features.gates.contains(&one.gate)) {
            let (group, version) = one.api;
            tracing::warn!("{group}/{version} is not served: it needs --feature-gates={}=true, too", one.gate);
        }
        Ok(features)
    }

    /// Takes what is on into the table of kinds.
    pub fn serve(&self, kinds: &mut KindTable) {
        for one in GATED.iter().filter(|one| self.is_on(one)) {
            kinds.serve(one.api.0, one.api.1);
        }
    }

    /// Whether stored objects are migrated on demand (StorageVersionMigration).
    pub fn migrates_storage(&self) -> bool {
        GATED.iter().any(|one| one.gate == MIGRATOR && self.is_on(one))
    }

    /// Whether one may be allowed to act as another for some requests only.
    pub fn constrains_impersonation(&self) -> bool {
        !self.closed.contains(&CONSTRAINED)
    }

    fn is_on(&self, one: &Gated) -> bool {
        self.gates.contains(&one.gate) && self.apis.contains(&one.api)
    }
}

fn set<T: PartialEq>(list: &mut Vec<T>, one: T, on: bool) {
    list.retain(|other| *other != one);
    if on {
        list.push(one);
    }
}

fn unknown_gate(name: &str) -> String {
    let known: Vec<&str> = GATED.iter().map(|one| one.gate).chain(OPEN).collect();
    format!("--feature-gates: unrecognized feature gate: {name}; those that can be set here: {}", known.join(", "))
}

fn pair<'a>(flag: &str, word: &'a str) -> Result<(&'a str, bool), String> {
    let (key, value) = word.split_once('=').unwrap_or((word, "true"));
    match value {
        "true" | "" => Ok((key, true)),
        "false" => Ok((key, false)),
        other => Err(format!("{flag} {key}={other}: the value must be true or false")),
    }
}

/// The optional API that a key of `--runtime-config` is about; `None` when the key only says what is so anyhow.
fn optional(all: &KindTable, key: &str, on: bool) -> Result<Option<(&'static str, &'static str)>, String> {
    let parts: Vec<&str> = key.split('/').collect();
    let (group, version, resource) = match parts[..] {
        ["api", _] => {
            return Err(format!(
                "--runtime-config {key}: name single versions, such as {}/{}",
                MIGRATION.0, MIGRATION.1
            ));
        }
        [group, version, resource] => (group, version, Some(resource)),
        _ => {
            let (group, version) = split_api_version(key);
            (group, version, None)
        }
    };
    let named = |plural: &str| resource.is_none_or(|wanted| wanted == plural);
    let known = all.iter().find(|k| k.group == group && k.version == version && named(&k.plural));
    let Some(kind) = known else { return Err(format!("--runtime-config: unknown api {key}")) };
    if kind.default_served {
        return if on { Ok(None) } else { Err(format!("--runtime-config {key}=false: it cannot be turned off here")) };
    }
    let found = GATED.iter().map(|one| one.api).find(|api| *api == (group, version));
    match found {
        None if on => Err(format!("--runtime-config {key}=true: this program does not have it")),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(config: &[&str], gates: &[&str]) -> Result<Features, String> {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        Features::parse(&words(config), &words(gates))
    }

    #[test]
    fn storage_migration_needs_both() {
        let (api, gate) = ("storagemigration.k8s.io/v1beta1=true", "StorageVersionMigrator=true");
        let table: [(&[&str], &[&str], bool); 9] = [
            (&[], &[], false),
            (&[api], &[], false),
            (&[], &[gate], false),
            (&[api], &[gate], true),
            (&["storagemigration.k8s.io/v1beta1"], &[gate], true),
            (&["storagemigration.k8s.io/v1beta1/storageversionmigrations=true"], &[gate], true),
            (&[api, "storagemigration.k8s.io/v1beta1=false"], &[gate], false),
            (&[api], &[gate, "StorageVersionMigrator=false"], false),
            (&[api, "apps/v1=true", "v1", "resource.k8s.io/v1beta1=false"], &[gate], true),
        ];
        for (config, gates, want) in table {
            let features = parsed(config, gates).unwrap();
            assert_eq!(features.migrates_storage(), want, "{config:?} {gates:?}");
            let mut kinds = KindTable::builtin();
            features.serve(&mut kinds);
            let row = kinds.resource("storagemigration.k8s.io", "v1beta1", "storageversionmigrations");
            assert_eq!(row.is_some(), want, "{config:?} {gates:?}");
        }
    }

    #[test]
    fn constrained_impersonation_is_on_unless_turned_off() {
        let gate = |on: bool| format!("ConstrainedImpersonation={on}");
        let table: [(&[bool], bool); 5] =
            [(&[], true), (&[true], true), (&[false], false), (&[false, true], true), (&[true, false], false)];
        for (words, want) in table {
            let words: Vec<String> = words.iter().map(|on| gate(*on)).collect();
            let features = Features::parse(&[], &words).unwrap();
            assert_eq!((features.constrains_impersonation(), features.migrates_storage()), (want, false), "{words:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let table: [(&[&str], &[&str], &str); 8] = [
            (
                &[],
                &["Nope=true"],
                "unrecognized feature gate: Nope; those that can be set here: StorageVersionMigrator, ConstrainedImpersonation",
            ),
            (&[], &["StorageVersionMigrator=maybe"], "must be true or false"),
            (&["apps/v1=false"], &[], "cannot be turned off"),
            (&["apps/v9=true"], &[], "unknown api apps/v9"),
            (&["apps/v1/nope=true"], &[], "unknown api apps/v1/nope"),
            (&["resource.k8s.io/v1beta1=true"], &[], "does not have it"),
            (&["api/all=true"], &[], "name single versions"),
            (&["nope"], &[], "unknown api nope"),
        ];
        for (config, gates, want) in table {
            let why = parsed(config, gates).unwrap_err();
            assert!(why.contains(want), "{config:?} {gates:?}: {why}");
        }
    }
}
