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

use super::rounds::{Party, Rounds};
use super::{Context, Plugin, Request, matching};
use call::Asked;
use caravel_api::status::ApiError;
use futures::future::{BoxFuture, join_all};
use std::sync::Arc;

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
            let second = context.rounds.lock().begin(sort, request.object.as_ref());
            for (index, hook) in hooks.iter().enumerate() {
                let Some(kind) = hook.is_asked(request, context).await? else { continue };
                if !context.rounds.lock().is_due(sort, &hook.uid) {
                    continue;
                }
                let asked = Asked { hook, kind: &kind, round: u8::from(second), index };
                let changed = asked.mutate(request, context).await?;
                let mut rounds = context.rounds.lock();
                if changed {
                    rounds.changed(sort);
                }
                if hook.again_if_needed {
                    rounds.webhooks.waits(hook.uid.clone());
                }
            }
            context.rounds.lock().webhooks.leave(request.object.as_ref());
            Ok(())
        })
    }
}

fn sort(rounds: &mut Rounds) -> &mut Party {
    &mut rounds.webhooks
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
