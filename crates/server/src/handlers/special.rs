//! Subresources that are created: bindings, evictions, tokens. And connections, which are passed on to nodes.

use super::Inbound;
use super::resource::target;
use crate::admission::{Operation, Request};
use crate::http::body::Body;
use crate::http::respond;
use crate::registry::create::create_options;
use crate::registry::options::WriteOptions;
use crate::server::Server;
use caravel_api::kinds::{Kind, Subresource};
use caravel_api::meta;
use caravel_api::status::ApiError;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

fn succeeded() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

impl Server {
    /// POST to a subresource.
    pub(super) async fn create_subresource(
        self: &Arc<Self>,
        inbound: Inbound,
        kind: Arc<Kind>,
        subresource: &Subresource,
    ) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(inbound.query())?;
        let media = Self::media(&inbound);
        let body = self.body_of(&inbound, &target(&subresource.kind)?, &options).await?;
        let body = self.admit_created(&inbound, &kind, &subresource.name, body, &options).await?;
        let namespace = inbound.info.namespace.clone();
        let name = inbound.info.path_name().to_owned();
        let created = |value: &Value| Ok(respond::value(StatusCode::CREATED, value, media));
        match (&*kind.plural, &*subresource.name) {
            ("pods", "binding") => {
                self.registry.bind(&namespace, &name, &body, &options).await?;
                created(&succeeded())
            }
            ("pods", "eviction") => {
                let query = inbound.query().to_owned();
                self.registry.evict(&inbound.call, &namespace, &name, &body, &query, &options).await?;
                created(&succeeded())
            }
            ("serviceaccounts", "token") => {
                let user = &inbound.call.user;
                crate::admission::nodes::token(&self.registry, user, &namespace, &name, &body).await?;
                let answer = self.service_accounts.request(&self.registry, &namespace, &name, body).await?;
                created(&answer)
            }
            _ => Err(ApiError::method_not_supported(&kind.group, &kind.plural, "create")),
        }
    }

    /// Lets admission see what is created at a subresource; what it made of it.
    async fn admit_created(
        self: &Arc<Self>,
        inbound: &Inbound,
        kind: &Arc<Kind>,
        subresource: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let mut request = Request {
            operation: Operation::Create,
            kind: kind.clone(),
            subresource: subresource.to_owned(),
            namespace: inbound.info.namespace.clone(),
            name: inbound.info.path_name().to_owned(),
            user: inbound.call.user.clone(),
            dry_run: options.dry_run,
            object: Some(body),
            old: None,
            options: create_options(options),
            patch: false,
        };
        self.registry.admit(&inbound.call, &mut request).await?;
        Ok(request.object.unwrap_or_default())
    }

    /// POST to `bindings`: the older way to bind a Pod.
    pub(super) async fn create_binding(
        self: &Arc<Self>,
        inbound: Inbound,
        kind: &Arc<Kind>,
    ) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(inbound.query())?;
        let media = Self::media(&inbound);
        let target = caravel_api::decode::Target::of(kind);
        let body = self.body_of(&inbound, &target, &options).await?;
        let body = self.admit_created(&inbound, kind, "", body, &options).await?;
        let name = meta::name(&body).to_owned();
        self.registry.bind(&inbound.info.namespace, &name, &body, &options).await?;
        Ok(respond::value(StatusCode::CREATED, &succeeded(), media))
    }
}
