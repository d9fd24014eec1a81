//! The ways in which another identity can be taken (KEP-5284). Each of the constrained ones needs two things: the verb
//! `impersonate:<mode>` on every part of the identity, and `impersonate-on:<mode>:<verb>` on what the request is about. The last
//! is the one that was always there: `impersonate` on every part, and then everything that the other may do.

use crate::authn::{GROUP_AUTHENTICATED, GROUP_MASTERS, GROUP_NODES, GROUP_SERVICE_ACCOUNTS, GROUP_UNAUTHENTICATED};
use crate::authn::{NODE_PREFIX, SERVICE_ACCOUNT_PREFIX, USER_ANONYMOUS, UserInfo};
use caravel_api::names;
use std::collections::BTreeMap;

/// From so many values on, one question for all of them is asked before one for each.
const MANY: usize = 4;
/// The group of what the constrained ways ask about.
const GROUP: &str = "authentication.k8s.io";
/// What authorizers see instead of the extra values of a service account that acts as its own node: their keys.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";

/// A way to take another identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A service account acts as the node on which its Pod is.
    AssociatedNode,
    /// Any node.
    ArbitraryNode,
    /// A service account.
    ServiceAccount,
    /// Whoever is neither a node nor a service account, with all that can be said of them.
    UserInfo,
    /// Everybody, without a limit.
    Legacy,
}

impl Mode {
    /// In the order in which they are tried.
    pub const ALL: [Self; 5] =
        [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    /// As verbs and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "legacy",
        }
    }

    /// The verb that parts of the identity need.
    pub fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".into(),
            other => format!("impersonate:{}", other.name()),
        }
    }

    /// What audit events name as the constraint: the verb of a constrained way.
    pub fn constraint(self) -> Option<String> {
        (self != Self::Legacy).then(|| self.verb())
    }

    /// Whether somebody like `asker` can become somebody like `wanted` in this way at all.
    fn applies(self, wanted: &UserInfo, asker: &UserInfo) -> bool {
        let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node(&wanted.name);
        match self {
            Self::AssociatedNode => bare && node.is_some() && node == own_node(asker),
            Self::ArbitraryNode => bare && node.is_some(),
            Self::ServiceAccount => bare && service_account(&wanted.name).is_some(),
            Self::UserInfo => node.is_none() && service_account(&wanted.name).is_none(),
            Self::Legacy => true,
        }
    }

    /// How `asker` becomes `wanted` to do `verb`; `None` when this is not the way for it.
    pub fn way(self, wanted: &UserInfo, asker: &UserInfo, verb: &str) -> Option<Way> {
        if !self.applies(wanted, asker) {
            return None;
        }
        let mut steps = vec![];
        if self != Self::Legacy {
            let verb = format!("impersonate-on:{}:{verb}", self.name());
            steps.push(Step::Need(Check { verb, part: None }));
        }
        steps.push(Step::Need(self.name_check(&wanted.name)));
        if !wanted.uid.is_empty() {
            steps.push(Step::Need(self.check(GROUP, "uids", "", &wanted.uid)));
        }
        self.groups(&wanted.groups, &mut steps);
        self.extra(&wanted.extra, &mut steps);
        let shown = (self == Self::AssociatedNode).then(|| without_extra(asker));
        Some(Way { mode: self, user: self.complete(wanted.clone()), shown, steps })
    }

    fn check(self, group: &'static str, resource: &'static str, subresource: &str, name: &str) -> Check {
        let part = Part {
            group,
            resource,
            subresource: subresource.to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
        };
        Check { verb: self.verb(), part: Some(part) }
    }

    /// The group of users, service accounts and groups; of the rest it is always [`GROUP`].
    fn group(self) -> &'static str {
        if self == Self::Legacy { "" } else { GROUP }
    }

    fn name_check(self, name: &str) -> Check {
        if let Some((namespace, name)) = service_account(name) {
            let mut check = self.check(self.group(), "serviceaccounts", "", name);
            if let Some(part) = &mut check.part {
                part.namespace = namespace.to_owned();
            }
            return check;
        }
        match (self, node(name)) {
            // Which node it is was seen already: the right is to whichever node one is on.
            (Self::AssociatedNode, Some(_)) => self.check(GROUP, "nodes", "", "*"),
            (Self::ArbitraryNode, Some(node)) => self.check(GROUP, "nodes", "", node),
            _ => self.check(self.group(), "users", "", name),
        }
    }

    fn groups(self, groups: &[String], steps: &mut Vec<Step>) {
        let check = |name: &str| self.check(self.group(), "groups", "", name);
        let each: Vec<Check> = groups.iter().map(|name| check(name)).collect();
        if self == Self::Legacy {
            steps.extend(each.into_iter().map(Step::Need));
            return;
        }
        for (never, why) in [
            ("", "impersonating the empty string group is not allowed"),
            (GROUP_MASTERS, "impersonating the system:masters group is not allowed"),
        ] {
            if groups.iter().any(|group| group == never) {
                return steps.push(Step::Never(check(never), why.into()));
            }
        }
        many(check("*"), each, groups.len() >= MANY, steps);
    }

    fn extra(self, extra: &BTreeMap<String, Vec<String>>, steps: &mut Vec<Step>) {
        let check = |key: &str, value: &str| self.check(GROUP, "userextras", key, value);
        let each: Vec<Check> =
            extra.iter().flat_map(|(key, values)| values.iter().map(|value| check(key, value))).collect();
        if self == Self::Legacy {
            return steps.extend(each.into_iter().map(Step::Need));
        }
        if let Some(why) = extra.iter().find_map(|(key, values)| bad_extra(key, values)) {
            return steps.push(Step::Never(check("", ""), why));
        }
        let large = each.len() >= MANY;
        many(check("*", "*"), each, large, steps);
    }

    /// Adds the groups that the identity would have had, had it authenticated itself.
    fn complete(self, mut user: UserInfo) -> UserInfo {
        if user.groups.is_empty() {
            if let Some((namespace, _)) = service_account(&user.name) {
                user.groups = vec![GROUP_SERVICE_ACCOUNTS.into(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")];
            } else if matches!(self, Self::AssociatedNode | Self::ArbitraryNode) {
                user.groups = vec![GROUP_NODES.into()];
            }
        }
        let group = if user.name == USER_ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
        if !user.in_group(group) && !user.in_group(GROUP_UNAUTHENTICATED) {
            user.groups.push(group.into());
        }
        user
    }
}

/// How an identity is taken: what must be allowed, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Which way it is.
    pub mode: Mode,
    /// Who the request is from once all is allowed.
    pub user: UserInfo,
    /// Who asks as authorizers see them, when that is not simply who asks.
    pub shown: Option<UserInfo>,
    /// What must be allowed.
    pub steps: Vec<Step>,
}

/// One thing that must be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is allowed.
    Need(Check),
    /// The first is allowed, or else each of the others.
    AllOr(Check, Vec<Check>),
    /// It cannot be, and why not; whoever asks.
    Never(Check, String),
}

/// A question to the authorizers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The verb.
    pub verb: String,
    /// On which part of an identity; `None` is what the request itself is about.
    pub part: Option<Part>,
}

/// A part of an identity, as a resource (version v1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// API group.
    pub group: &'static str,
    /// `users`, `groups`, `uids`, `serviceaccounts`, `nodes` or `userextras`.
    pub resource: &'static str,
    /// The key of an extra value.
    pub subresource: String,
    /// Namespace of a service account.
    pub namespace: String,
    /// Who or what.
    pub name: String,
}

fn many(all: Check, each: Vec<Check>, are_many: bool, steps: &mut Vec<Step>) {
    match are_many {
        true => steps.push(Step::AllOr(all, each)),
        false => steps.extend(each.into_iter().map(Step::Need)),
    }
}

/// Why an extra value cannot be taken over in a constrained way.
fn bad_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".into());
    }
    let complaints = names::domain_prefixed_path(key);
    if !complaints.is_empty() {
        let why = complaints.join(", ");
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: {why}"
        ));
    }
    if key != key.to_lowercase() {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".into())
}

/// The node's name, when this is the user name of a node.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|name| names::dns1123_subdomain(name).is_empty())
}

/// Namespace and name, when this is the user name of a service account. One that no service account can have is a plain name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let good = names::dns1123_label(namespace).is_empty() && names::dns1123_subdomain(name).is_empty();
    good.then_some((namespace, name))
}

/// The node on which a service account's Pod is, as its token says.
fn own_node(asker: &UserInfo) -> Option<&str> {
    service_account(&asker.name).and_then(|_| asker.token_node())
}

/// The same decision holds for all Pods of a node agent: what differs between them is not shown.
fn without_extra(asker: &UserInfo) -> UserInfo {
    let keys = asker.extra.keys().cloned().collect();
    UserInfo { extra: [(NODE_KEYS.to_owned(), keys)].into(), ..asker.clone() }
}

#[cfg(test)]
mod tests;
