//! Admission webhooks (`admissionregistration.k8s.io/v1`): programs outside that may change or refuse a write.
//!
//! [`Hooks`] holds the configurations, compiled; a follower keeps them at the store's state. [`Mutating`] asks its hooks one
//! after the other, in the order of configuration names and, within one, of its list; [`Validating`] asks all at once.
//! Configurations and policies themselves are never held up by webhooks.

mod call;
pub mod conditions;
mod hook;
mod review;

pub use hook::{Hook, Hooks, follow};

use super::{Context, Plugin, Request, matching};
use call::Asked;
use caravel_api::status::ApiError;
use futures::future::{BoxFuture, join_all};
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;

/// What the mutating hooks leave for the second round: a hook whose `reinvocationPolicy` is `IfNeeded` is asked once more
/// when another changed the object after it.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The second round is under way.
    second: bool,
    /// Something changed the object after a hook had seen it, so all plug-ins run again.
    again: bool,
    /// Hooks that want to know of later changes, and have not been told of any.
    waiting: HashSet<String>,
    /// Hooks to be asked again.
    due: HashSet<String>,
    /// The object as the hooks left it.
    left: Option<Value>,
}

impl Rounds {
    /// Begins the second round, if there is to be one.
    pub(super) fn next(&mut self) -> bool {
        if self.second || !self.again {
            return false;
        }
        self.second = true;
        true
    }

    fn require(&mut self) {
        self.due.extend(self.waiting.drain());
    }
}

/// The plug-in `MutatingAdmissionWebhook`.
pub struct Mutating(pub Arc<Hooks>);

/// The plug-in `ValidatingAdmissionWebhook`.
pub struct Validating(pub Arc<Hooks>);

impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, request: &Request) -> bool {
        self.0.has_mutating() && !matching::is_exempt(request)
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let hooks = self.0.mutating();
            let second = {
                let mut rounds = context.rounds.lock();
                if rounds.second && rounds.left != request.object {
                    // Another plug-in changed the object after the hooks.
                    rounds.require();
                }
                rounds.second
            };
            for (index, hook) in hooks.iter().enumerate() {
                let Some(kind) = hook.is_asked(request, context).await? else { continue };
                if second && !context.rounds.lock().due.remove(&hook.uid) {
                    continue;
                }
                let asked = Asked { hook, kind: &kind, round: u8::from(second), index };
                let changed = asked.mutate(request, context).await?;
                let mut rounds = context.rounds.lock();
                if changed {
                    rounds.require();
                    rounds.again = true;
                }
                if hook.again_if_needed {
                    rounds.waiting.insert(hook.uid.clone());
                }
            }
            context.rounds.lock().left = request.object.clone();
            Ok(())
        })
    }
}

impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, request: &Request) -> bool {
        self.0.has_validating() && !matching::is_exempt(request)
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let hooks = self.0.validating();
            let mut asked = vec![];
            for (index, hook) in hooks.iter().enumerate() {
                if let Some(kind) = hook.is_asked(request, context).await? {
                    asked.push((index, hook, kind));
                }
            }
            let answers = asked.iter().map(|(index, hook, kind)| async move {
                Asked { hook, kind, round: 0, index: *index }.validate(request, context).await
            });
            join_all(answers).await.into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_round_is_for_those_who_asked_for_it() {
        let mut rounds = Rounds::default();
        rounds.waiting.insert("a".into());
        assert!(!rounds.next(), "nothing changed");
        rounds.require();
        rounds.again = true;
        assert!(rounds.next());
        assert!(rounds.due.contains("a"));
        assert!(!rounds.next(), "there is no third");
    }
}
