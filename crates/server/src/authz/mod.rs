//! Who may do what. Three authorizers are asked in upstream's order; the first that allows decides: `system:masters`,
//! the Node authorizer, RBAC. None of ours denies outright, so "no opinion" from all is a refusal.

pub mod escalation;
pub mod guard;
pub mod node;
pub mod rbac;

use crate::authn::{GROUP_MASTERS, UserInfo};
use crate::request_info::RequestInfo;
use caravel_api::status::{ApiError, Attempt, forbidden_message};

/// What is to be authorized.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// What for.
    pub verb: &'a str,
    /// What about.
    pub target: Target<'a>,
}

/// The object of a request.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A resource; empty strings mean "all" or "none" as in `RequestInfo`.
    Resource(ResourceTarget<'a>),
    /// A plain path.
    Path(&'a str),
}

/// A resource request's object.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResourceTarget<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Object name, or empty.
    pub name: &'a str,
}

impl<'a> Attributes<'a> {
    /// The attributes of an HTTP request.
    pub fn of(user: &'a UserInfo, info: &'a RequestInfo) -> Self {
        let target = if info.is_resource {
            Target::Resource(ResourceTarget {
                group: &info.group,
                version: &info.version,
                namespace: &info.namespace,
                resource: &info.resource,
                subresource: &info.subresource,
                name: &info.name,
            })
        } else {
            Target::Path(&info.path)
        };
        Self { user, verb: &info.verb, target }
    }

    /// The refusal, in upstream's words.
    pub fn forbidden(&self, reason: &str) -> ApiError {
        match self.target {
            Target::Resource(r) => {
                let resource = if r.subresource.is_empty() {
                    r.resource.to_owned()
                } else {
                    format!("{}/{}", r.resource, r.subresource)
                };
                let attempt =
                    Attempt::Resource { verb: self.verb, group: r.group, resource: &resource, namespace: r.namespace };
                let mut why = forbidden_message(&self.user.name, attempt);
                if !reason.is_empty() {
                    why = format!("{why}: {reason}");
                }
                ApiError::forbidden(r.group, r.resource, r.name, why)
            }
            Target::Path(path) => {
                let why = forbidden_message(&self.user.name, Attempt::Path { verb: self.verb, path });
                ApiError::forbidden("", "", "", why)
            }
        }
    }
}

/// What the authorizers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allowed(String),
    /// Nobody says yes; why not, as far as known.
    NoOpinion(String),
}

impl Decision {
    /// Whether it is a yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// All authorizers together.
#[derive(Default)]
pub struct Authorizer {
    /// The compiled RBAC policy.
    pub rbac: rbac::Rbac,
    /// Which node may see what.
    pub nodes: node::NodeGraph,
}

impl Authorizer {
    /// Decides.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(GROUP_MASTERS) {
            return Decision::Allowed(String::new());
        }
        let node = self.nodes.authorize(attributes);
        if node.allowed() {
            return node;
        }
        let rbac = self.rbac.authorize(attributes);
        match (&rbac, node) {
            (Decision::NoOpinion(text), Decision::NoOpinion(why)) if text.is_empty() => Decision::NoOpinion(why),
            _ => rbac,
        }
    }

    /// `Ok` when allowed, else the refusal to answer with.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(attributes) {
            Decision::Allowed(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(attributes.forbidden(&reason)),
        }
    }
}
