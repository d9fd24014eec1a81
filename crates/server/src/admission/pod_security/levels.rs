//! What a namespace's labels ask: a level and a version for each mode.

use serde_json::Value;
use std::fmt;

/// How strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// Known ways out of a container are closed.
    Baseline,
    /// What a careful author would do.
    Restricted,
}

/// A level as it was in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Reads the labels of a namespace. A level that cannot be read is taken as the strictest.
    pub fn of(namespace: &Value) -> (Self, Vec<Wrong>) {
        let mut wrong = vec![];
        let label = |key: &str| {
            let labels = namespace.pointer("/metadata/labels");
            labels.and_then(|l| l.get(key)).and_then(Value::as_str)
        };
        let mut policy = |mode: &str| {
            let key = format!("pod-security.kubernetes.io/{mode}");
            let level = match label(&key) {
                None | Some("privileged") => Level::Privileged,
                Some("baseline") => Level::Baseline,
                Some("restricted") => Level::Restricted,
                Some(other) => {
                    let why = "must be one of privileged, baseline, restricted".to_owned();
                    wrong.push(Wrong { label: key.clone(), value: other.to_owned(), why });
                    Level::Restricted
                }
            };
            let key = format!("{key}-version");
            let version = match label(&key) {
                None | Some("latest") => None,
                Some(said) => match said.strip_prefix("v1.").map(str::parse::<u32>) {
                    Some(Ok(minor)) => Some(minor),
                    _ => {
                        let why = "must be \"latest\" or \"v1.x\"".to_owned();
                        wrong.push(Wrong { label: key, value: said.to_owned(), why });
                        None
                    }
                },
            };
            Policy { level, version }
        };
        let modes = Self { enforce: policy("enforce"), audit: policy("audit"), warn: policy("warn") };
        (modes, wrong)
    }
}
