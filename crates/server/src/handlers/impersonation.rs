//! A request that is to be done as somebody else.

use crate::authn::UserInfo;
use crate::authn::impersonate::{self, decision::Decider};
use crate::request_info::RequestInfo;
use crate::server::Server;
use caravel_api::status::ApiError;
use http::request::Parts;
use std::sync::Arc;

impl Server {
    /// The identity to act as, when the headers name one and the user may take it; else the user.
    pub(super) async fn acting_as(
        &self,
        parts: &mut Parts,
        user: Arc<UserInfo>,
        info: &RequestInfo,
    ) -> Result<Arc<UserInfo>, ApiError> {
        let Some(wanted) = impersonate::wanted(&parts.headers)? else { return Ok(user) };
        let decider = Decider {
            authorizer: &self.authorizer,
            memory: &self.impersonators,
            metrics: &self.metrics.impersonation,
            constrained: self.features().constrains_impersonation(),
        };
        let granted = decider.decide(&user, &wanted, info).await?;
        impersonate::remove(&mut parts.headers);
        if let Some(trail) = crate::audit::Trail::of(parts) {
            trail.acting_as(&granted.user, granted.mode.constraint());
        }
        Ok(Arc::new(granted.user))
    }
}
