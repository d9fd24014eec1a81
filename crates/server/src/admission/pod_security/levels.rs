//! What a namespace's labels ask: a level and a version for each mode.

use serde_json::Value;
use std::fmt;

/// How strict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    #[default]
    Privileged,
    /// Known ways out of a container are closed.
    Baseline,
    /// What a careful author would do.
    Restricted,
}

/// The level of this name.
///
/// # Errors
/// What would be right.
pub fn level_of(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

/// The minor version that a text means; none for the newest.
///
/// # Errors
/// What would be right.
pub fn version_of(text: &str) -> Result<Option<u32>, &'static str> {
    const WRONG: &str = "must be \"latest\" or \"v1.x\"";
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").ok_or(WRONG)?;
    let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    minor.parse().ok().filter(|_| plain).map(Some).ok_or(WRONG)
}

/// A level as it was in a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How strict.
    pub level: Level,
    /// The minor version whose checks apply; none for the newest.
    pub version: Option<u32>,
}

impl Policy {
    /// The minor version whose checks apply.
    pub fn minor(&self) -> u32 {
        self.version.unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What is asked of a namespace's Pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Violations are refused.
    pub enforce: Policy,
    /// Violations are noted in the audit record.
    pub audit: Policy,
    /// Violations are warned of.
    pub warn: Policy,
}

/// A label that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The label's key.
    pub label: String,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub why: String,
}

impl Modes {
    /// Whether nothing is asked.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|p| p.level == Level::Privileged)
    }

    /// What is asked, without what asks nothing.
    pub fn compact(&self) -> String {
        let all = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let asking = all.iter().filter(|(_, policy)| policy.level != Level::Privileged);
        asking.map(|(mode, policy)| format!("{mode}={policy}")).collect::<Vec<_>>().join(", ")
    }

    /// Reads the labels of a namespace; `defaults` hold where they say nothing. What is to be enforced and cannot be read is
    /// taken as the strictest level; what is only to be noted or warned of is not, then.
    pub fn of(namespace: &Value, defaults: &Self) -> (Self, Vec<Wrong>) {
        let mut wrong = vec![];
        let labels = namespace.pointer("/metadata/labels");
        let mut policy = |mode: &str, default: Policy, unreadable: Level| {
            let take = |key: &str| -> Option<(&str, String)> {
                let key = format!("pod-security.kubernetes.io/{key}");
                Some((labels?.get(&key)?.as_str()?, key))
            };
            let mut policy = default;
            if let Some((said, label)) = take(mode) {
                policy.level = level_of(said).unwrap_or_else(|why| {
                    wrong.push(Wrong { label, value: said.to_owned(), why: why.to_owned() });
                    unreadable
                });
            }
            if let Some((said, label)) = take(&format!("{mode}-version")) {
                policy.version = version_of(said).unwrap_or_else(|why| {
                    wrong.push(Wrong { label, value: said.to_owned(), why: why.to_owned() });
                    None
                });
            }
            policy
        };
        let modes = Self {
            enforce: policy("enforce", defaults.enforce, Level::Restricted),
            audit: policy("audit", defaults.audit, Level::Privileged),
            warn: policy("warn", defaults.warn, Level::Privileged),
        };
        (modes, wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_stand_over_defaults() {
        let defaults = Modes {
            enforce: Policy { level: Level::Baseline, version: Some(30) },
            audit: Policy { level: Level::Restricted, version: None },
            warn: Policy::default(),
        };
        let of = |labels: Value| {
            let (modes, wrong) = Modes::of(&json!({"metadata": {"labels": labels}}), &defaults);
            (modes.enforce.to_string(), modes.audit.to_string(), modes.warn.to_string(), wrong.len())
        };
        let wanted = |enforce: &str, audit: &str, warn: &str, wrong| (enforce.into(), audit.into(), warn.into(), wrong);
        assert_eq!(of(Value::Null), wanted("baseline:v1.30", "restricted:latest", "privileged:latest", 0));
        let said = json!({"pod-security.kubernetes.io/enforce": "privileged", "pod-security.kubernetes.io/warn-version": "v1.2"});
        assert_eq!(of(said), wanted("privileged:v1.30", "restricted:latest", "privileged:v1.2", 0));
        let rubbish = json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/audit": "x",
            "pod-security.kubernetes.io/warn": "x", "pod-security.kubernetes.io/enforce-version": "v1.03"});
        assert_eq!(of(rubbish), wanted("restricted:latest", "privileged:latest", "privileged:latest", 4));
    }
}
