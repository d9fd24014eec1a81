//! FlowSchemas and PriorityLevelConfigurations, read once.

use crate::authn::UserInfo;
use crate::request_info::RequestInfo;
use caravel_api::meta;
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A FlowSchema.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Arc<str>,
    /// The level it leads to.
    pub level: String,
    /// The lowest goes first.
    pub precedence: i64,
    by: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Clone, Debug)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

#[derive(Clone, Debug)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug)]
struct Paths {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    list(value, field).filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn any(all: &[String], wanted: &str) -> bool {
    all.iter().any(|one| one == "*" || one == wanted)
}

impl Subject {
    fn read(value: &Value) -> Option<Self> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(match value.get("kind")?.as_str()? {
            "User" => Self::User(text("/user/name")),
            "Group" => Self::Group(text("/group/name")),
            "ServiceAccount" => {
                Self::Account { namespace: text("/serviceAccount/namespace"), name: text("/serviceAccount/name") }
            }
            _ => return None,
        })
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::Account { namespace, name } => {
                user.service_account().is_some_and(|(ns, n)| ns == namespace && (name == "*" || name == n))
            }
        }
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        Self {
            subjects: list(value, "subjects").filter_map(Subject::read).collect(),
            resources: list(value, "resourceRules")
                .map(|r| Resources {
                    verbs: texts(r, "verbs"),
                    groups: texts(r, "apiGroups"),
                    resources: texts(r, "resources"),
                    cluster: r.get("clusterScope").and_then(Value::as_bool).unwrap_or_default(),
                    namespaces: texts(r, "namespaces"),
                })
                .collect(),
            paths: list(value, "nonResourceRules")
                .map(|r| Paths { verbs: texts(r, "verbs"), paths: texts(r, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|s| s.is(user)) {
            return false;
        }
        if !info.is_resource {
            return self
                .paths
                .iter()
                .any(|r| any(&r.verbs, &info.verb) && r.paths.iter().any(|p| path_is(p, &info.path)));
        }
        self.resources.iter().any(|r| {
            let scope = if info.namespace.is_empty() { r.cluster } else { any(&r.namespaces, &info.namespace) };
            let resource = r.resources.iter().any(|one| match one.split_once('/') {
                _ if one == "*" => true,
                Some((main, sub)) => main == info.resource && sub == info.subresource,
                None => *one == info.resource && info.subresource.is_empty(),
            });
            scope && resource && any(&r.verbs, &info.verb) && any(&r.groups, &info.group)
        })
    }
}

fn path_is(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

impl Schema {
    /// Reads a FlowSchema.
    pub fn read(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let rules = object.pointer("/spec/rules").and_then(Value::as_array).into_iter().flatten();
        Self {
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).into(),
            level: text("/spec/priorityLevelConfiguration/name").to_owned(),
            precedence: object.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000),
            by: match text("/spec/distinguisherMethod/type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: rules.map(Rule::read).collect(),
        }
    }

    /// Whether it means a request.
    pub fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|r| r.matches(user, info))
    }

    /// Which flow of the schema a request belongs to.
    pub fn flow_of(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let by = match self.by {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        };
        let mut hasher = DefaultHasher::new();
        (&self.name, by).hash(&mut hasher);
        hasher.finish()
    }
}

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Arc<str>,
    /// Requests are never held back.
    pub exempt: bool,
    /// Its part of the seats, in proportion to other levels'.
    pub shares: u32,
    /// How much of its seats others may borrow, in percent.
    pub lendable: u32,
    /// How many seats it may borrow, in percent of its own; no limit if none.
    pub borrowing: Option<u32>,
    /// Queues, or none: then who finds no seat is refused.
    pub queuing: Option<Queuing>,
}

/// The queues of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    /// How many.
    pub queues: u32,
    /// Among how many a flow chooses.
    pub hand: u32,
    /// Most requests in one.
    pub length: u32,
}

impl Limits {
    /// Reads a PriorityLevelConfiguration.
    pub fn read(object: &Value) -> Self {
        let exempt = object.pointer("/spec/type").and_then(Value::as_str) == Some("Exempt");
        let inner = if exempt { "/spec/exempt" } else { "/spec/limited" };
        let number = |pointer: String, default: u32| {
            let found = object.pointer(&pointer).and_then(Value::as_u64);
            found.map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX))
        };
        let response = format!("{inner}/limitResponse");
        let queued = object.pointer(&format!("{response}/type")).and_then(Value::as_str) == Some("Queue");
        let queuing = queued.then(|| Queuing {
            queues: number(format!("{response}/queuing/queues"), 64).clamp(1, 10_000),
            hand: number(format!("{response}/queuing/handSize"), 8).max(1),
            length: number(format!("{response}/queuing/queueLengthLimit"), 50).max(1),
        });
        let borrowing = object.pointer(&format!("{inner}/borrowingLimitPercent")).and_then(Value::as_u64);
        Self {
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).into(),
            exempt,
            shares: number(format!("{inner}/nominalConcurrencyShares"), if exempt { 0 } else { 30 }),
            lendable: number(format!("{inner}/lendablePercent"), 0).min(100),
            borrowing: borrowing.map(|b| u32::try_from(b).unwrap_or(u32::MAX)),
            queuing,
        }
    }
}
