//! Who asks, whom they want to be, what for: the ways are tried one after the other, and the first one whose every step is
//! allowed is taken. The refusal that is told when there is none is that of the way that was tried first.

use super::memory::Memory;
use super::metrics::ImpersonationMetrics;
use super::modes::{Check, Mode, Step, Way};
use crate::authn::UserInfo;
use crate::authz::{Attributes, Authorizer, ResourceTarget, Target};
use crate::request_info::RequestInfo;
use caravel_api::status::ApiError;
use std::time::Instant;

/// Another identity that may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Who the request is from now on.
    pub user: UserInfo,
    /// In which way.
    pub mode: Mode,
}

/// Who decides, and what they have to know.
pub struct Decider<'a> {
    /// Who is asked.
    pub authorizer: &'a Authorizer,
    /// Which way was good last.
    pub memory: &'a Memory,
    /// Where it is counted.
    pub metrics: &'a ImpersonationMetrics,
    /// Whether there is more than the older way (the gate `ConstrainedImpersonation`).
    pub constrained: bool,
}

impl Decider<'_> {
    /// Whether `asker` may be `wanted` for the request that `info` describes.
    ///
    /// # Errors
    /// 403: in no way.
    pub async fn decide(&self, asker: &UserInfo, wanted: &UserInfo, info: &RequestInfo) -> Result<Granted, ApiError> {
        let began = Instant::now();
        let result = self.first_way(asker, wanted, info).await;
        self.metrics.attempted(result.as_ref().ok().map(|granted| granted.mode), began.elapsed());
        result
    }

    async fn first_way(&self, asker: &UserInfo, wanted: &UserInfo, info: &RequestInfo) -> Result<Granted, ApiError> {
        let last = self.memory.of(&asker.name);
        let mut refusal = None;
        for mode in order(last, self.constrained) {
            let Some(way) = mode.way(wanted, asker, &info.verb) else { continue };
            match self.walk(&way, asker, info).await {
                Ok(()) => {
                    if last != Some(mode) {
                        self.memory.remember(&asker.name, mode);
                    }
                    return Ok(Granted { user: way.user, mode });
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        // The older way is one for everybody, so that there is a refusal.
        Err(refusal.unwrap_or_else(|| ApiError::internal("there is no way to impersonate this user")))
    }

    async fn walk(&self, way: &Way, asker: &UserInfo, info: &RequestInfo) -> Result<(), ApiError> {
        let user = way.shown.as_ref().unwrap_or(asker);
        for step in &way.steps {
            match step {
                Step::Need(check) => self.ask(way.mode, &attributes(check, user, info)).await?,
                Step::AllOr(all, each) => {
                    if self.ask(way.mode, &attributes(all, user, info)).await.is_ok() {
                        continue;
                    }
                    for check in each {
                        self.ask(way.mode, &attributes(check, user, info)).await?;
                    }
                }
                Step::Never(check, why) => return Err(attributes(check, user, info).forbidden(why)),
            }
        }
        Ok(())
    }

    async fn ask(&self, mode: Mode, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let began = Instant::now();
        let decision = self.authorizer.decide(attributes).await;
        self.metrics.asked(mode, decision.allowed(), began.elapsed());
        attributes.allowed_by(&decision)
    }
}

/// In which order the ways are tried.
fn order(last: Option<Mode>, constrained: bool) -> impl Iterator<Item = Mode> {
    let rest = Mode::ALL.into_iter().filter(move |mode| Some(*mode) != last);
    last.into_iter().chain(rest).filter(move |mode| constrained || *mode == Mode::Legacy)
}

fn attributes<'a>(check: &'a Check, user: &'a UserInfo, info: &'a RequestInfo) -> Attributes<'a> {
    let target = match &check.part {
        None => Attributes::of(user, info).target,
        Some(part) => Target::Resource(ResourceTarget {
            group: part.group,
            version: "v1",
            namespace: &part.namespace,
            resource: part.resource,
            subresource: &part.subresource,
            name: &part.name,
        }),
    };
    Attributes { user, verb: &check.verb, target }
}

#[cfg(test)]
mod tests;
