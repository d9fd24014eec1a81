//! Who may do what. `system:masters` may do everything; then the authorizers are asked in their order, by default the Node
//! authorizer and RBAC, and the first that allows or denies decides. "No opinion" from all is a refusal. Only webhooks
//! (`--authorization-config`) deny outright.

pub mod config;
pub mod escalation;
pub mod guard;
pub mod node;
pub mod rbac;
pub mod webhook;

use crate::authn::{GROUP_MASTERS, UserInfo};
use crate::request_info::RequestInfo;
use caravel_api::status::{ApiError, Attempt, forbidden_message};
use parking_lot::RwLock;
use std::sync::Arc;
use webhook::Webhook;

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

    /// `Ok` when the decision is a yes, else the refusal to answer with.
    pub fn allowed_by(&self, decision: &Decision) -> Result<(), ApiError> {
        match decision {
            Decision::Allowed(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Denied(reason) => Err(self.forbidden(reason)),
        }
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
    /// No, whatever others say; and why.
    Denied(String),
    /// Nobody says yes; why not, as far as known.
    NoOpinion(String),
}

impl Decision {
    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allowed(reason) | Self::Denied(reason) | Self::NoOpinion(reason) => reason,
        }
    }

    /// Whether it is a yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// One of those who are asked.
enum Step {
    Node,
    Rbac,
    Webhook(Arc<Webhook>),
}

/// All authorizers together.
pub struct Authorizer {
    /// The compiled RBAC policy.
    pub rbac: rbac::Rbac,
    /// Which node may see what.
    pub nodes: node::NodeGraph,
    /// Who is asked, in which order.
    steps: RwLock<Arc<Vec<Step>>>,
}

impl Default for Authorizer {
    /// Node, then RBAC, as upstream's default has it.
    fn default() -> Self {
        let steps = RwLock::new(Arc::new(vec![Step::Node, Step::Rbac]));
        Self { rbac: rbac::Rbac::default(), nodes: node::NodeGraph::default(), steps }
    }
}

impl Authorizer {
    /// Says who is asked from now on, in which order. What webhooks answered before is forgotten.
    ///
    /// # Errors
    /// A webhook that cannot be used; nothing is changed then.
    pub fn configure(&self, entries: Vec<config::Entry>) -> Result<(), String> {
        let step = |entry| {
            Ok(match entry {
                config::Entry::Node => Step::Node,
                config::Entry::Rbac => Step::Rbac,
                config::Entry::Webhook(settings) => Step::Webhook(Arc::new(Webhook::open(settings)?)),
            })
        };
        let steps = entries.into_iter().map(step).collect::<Result<_, String>>()?;
        *self.steps.write() = Arc::new(steps);
        Ok(())
    }

    /// A request is decided by those who were there when it came.
    fn steps(&self) -> Arc<Vec<Step>> {
        self.steps.read().clone()
    }

    /// Decides.
    pub async fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(GROUP_MASTERS) {
            return Decision::Allowed(String::new());
        }
        let mut reasons = Reasons::default();
        for step in self.steps().iter() {
            let said = match step {
                Step::Webhook(webhook) => webhook.decide(attributes).await,
                own => self.own(own, attributes),
            };
            if let Some(decision) = reasons.hear(said) {
                return decision;
            }
        }
        reasons.none()
    }

    /// Decides where waiting is not possible (in expressions, and in rules that ask on the way). With webhooks this holds up the
    /// thread until they have answered, which is remembered.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(GROUP_MASTERS) {
            return Decision::Allowed(String::new());
        }
        let steps = self.steps();
        if steps.iter().any(|step| matches!(step, Step::Webhook(_))) {
            let decide = || tokio::runtime::Handle::current().block_on(self.decide(attributes));
            return tokio::task::block_in_place(decide);
        }
        let mut reasons = Reasons::default();
        for step in steps.iter() {
            if let Some(decision) = reasons.hear(self.own(step, attributes)) {
                return decision;
            }
        }
        reasons.none()
    }

    /// What the authorizers can tell of all that a user may do in a namespace, and who of them cannot tell.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<rbac::Rule>, Vec<&'static str>) {
        let (mut rules, mut silent) = (vec![], vec![]);
        for step in self.steps().iter() {
            match step {
                Step::Rbac => rules.extend(self.rbac.rules_for(user, namespace)),
                Step::Node if user.node_name().is_some() => {
                    silent.push("node authorizer does not support user rule resolution");
                }
                Step::Node => {}
                Step::Webhook(_) => silent.push("webhook authorizer does not support user rule resolution"),
            }
        }
        (rules, silent)
    }

    fn own(&self, step: &Step, attributes: &Attributes<'_>) -> Decision {
        match step {
            Step::Node => self.nodes.authorize(attributes),
            Step::Rbac => self.rbac.authorize(attributes),
            Step::Webhook(_) => Decision::NoOpinion(String::new()),
        }
    }

    /// `Ok` when allowed, else the refusal to answer with; as [`Authorizer::authorize`].
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        attributes.allowed_by(&self.authorize(attributes))
    }
}

/// Why those who were asked so far have no opinion.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    /// What was decided, unless others are to be asked.
    fn hear(&mut self, said: Decision) -> Option<Decision> {
        match said {
            Decision::NoOpinion(reason) => {
                self.0.extend(Some(reason).filter(|r| !r.is_empty()));
                None
            }
            decided => Some(decided),
        }
    }

    fn none(self) -> Decision {
        Decision::NoOpinion(self.0.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_who_decides_decides_and_reasons_are_kept() {
        let mut reasons = Reasons::default();
        for said in ["", "not mine", "nor mine"] {
            assert_eq!(reasons.hear(Decision::NoOpinion(said.into())), None);
        }
        let denied = Decision::Denied("never".into());
        assert_eq!(reasons.hear(denied.clone()), Some(denied));
        assert_eq!(reasons.none(), Decision::NoOpinion("not mine\nnor mine".into()));
    }
}
