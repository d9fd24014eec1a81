//! Admission: what may still change or refuse a write after it was authorized and before it is stored.
//!
//! First every plug-in may change the object, in order; then, after validation of the changed object, every plug-in may
//! refuse it. Plug-ins see a [`Request`] and reach the cluster through a [`Context`].

pub mod certificates;
pub mod configuration;
pub mod device_status;
pub mod devices;
pub mod ingress;
pub mod lifecycle;
pub mod limit_ranger;
pub mod matching;
pub mod nodes;
pub mod options;
pub mod pod_security;
pub mod pod_updates;
pub mod policies;
pub mod priority;
pub mod rounds;
pub mod runtime_class;
pub mod service_account;
pub mod storage;
pub mod tolerations;
pub mod webhook;

use crate::authn::UserInfo;
use crate::registry::Registry;
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object, or a created subresource (`pods/binding`, `pods/eviction`, `serviceaccounts/token`).
    Create,
    /// A changed object (PUT, every PATCH, apply).
    Update,
    /// A deletion.
    Delete,
    /// A connection (`pods/exec`, `pods/attach`, `pods/portforward`, `*/proxy`).
    Connect,
}

impl Operation {
    /// As admission reviews name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write under admission.
pub struct Request {
    /// What is done.
    pub operation: Operation,
    /// The row of the resource, in the version of the request.
    pub kind: Arc<Kind>,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object name; empty for a create whose name is still to be generated.
    pub name: String,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The new object; `None` for deletions. In the version of the request, defaulted.
    pub object: Option<Value>,
    /// The present object; `None` for creations.
    pub old: Option<Value>,
    /// The operation's options (`CreateOptions` and so on) with `kind` and `apiVersion`.
    pub options: Value,
    /// The change came as a PATCH.
    pub patch: bool,
}

impl Request {
    /// Whether it is about this resource itself and not about a subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.kind.group == group && self.kind.plural == resource
    }

    /// The refusal of a plug-in: 403, as upstream's `admission.NewForbidden`.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.kind.group, &self.kind.plural, &self.name, why)
    }
}

/// What plug-ins may reach and leave behind.
pub struct Context<'a> {
    /// Reads (and, rarely, writes) of the cluster.
    pub registry: &'a Arc<Registry>,
    /// Texts for `Warning` headers of the answer.
    pub warnings: &'a Mutex<Vec<String>>,
    /// Annotations for the audit record.
    pub audit: &'a Mutex<BTreeMap<String, String>>,
    /// Whether the plug-ins that change the object must run once more, and for whom.
    pub rounds: Mutex<rounds::Rounds>,
}

impl Context<'_> {
    /// Adds a `Warning` header to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock();
        let text = text.into();
        if warnings.len() < 64 && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds an annotation to the audit record.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.audit.lock().entry(key.into()).or_insert_with(|| value.into());
    }
}

/// One admission plug-in.
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether it cares at all; keeps the common path free of futures.
    fn handles(&self, request: &Request) -> bool;

    /// May change `request.object`, or refuse.
    fn mutate<'a>(
        &'a self,
        _request: &'a mut Request,
        _context: &'a Context<'a>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }

    /// May refuse.
    fn validate<'a>(&'a self, _request: &'a Request, _context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
}

/// The plug-ins in their order.
#[derive(Clone, Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
}

impl Chain {
    /// The plug-ins that this crate brings; `hooks` are the webhooks, `policies` the admission policies.
    pub fn builtin(hooks: &Arc<webhook::Hooks>, policies: &Arc<policies::Table>) -> Self {
        let mut chain = Self::default();
        chain.push(lifecycle::NamespaceLifecycle);
        chain.push(limit_ranger::LimitRanger);
        chain.push(service_account::ServiceAccount);
        chain.push(nodes::NodeRestriction);
        chain.push(nodes::TaintNodesByCondition);
        chain.push(priority::Priority);
        chain.push(tolerations::DefaultTolerationSeconds);
        chain.push(storage::DefaultStorageClass);
        chain.push(storage::InUseProtection);
        chain.push(storage::ClaimResize);
        chain.push(runtime_class::RuntimeClass);
        chain.push(pod_updates::DeclaredFeatures);
        chain.push(pod_updates::PodResize);
        chain.push(certificates::Approval);
        chain.push(certificates::Signing);
        chain.push(certificates::SubjectRestriction);
        chain.push(ingress::DefaultIngressClass);
        chain.push(devices::Devices);
        chain.push(policies::MutatingPolicies(policies.clone()));
        chain.push(webhook::Mutating(hooks.clone()));
        chain.push(pod_security::PodSecurity::default());
        chain.push(policies::ValidatingPolicies(policies.clone()));
        chain.push(webhook::Validating(hooks.clone()));
        chain
    }

    /// Adds a plug-in that is off by default, by upstream's name. False when there is none of that name.
    pub fn enable(&mut self, name: &str) -> bool {
        match name {
            "DenyServiceExternalIPs" => self.push(options::DenyServiceExternalIps),
            "OwnerReferencesPermissionEnforcement" => self.push(options::OwnerReferences),
            known => return self.plugins.iter().any(|plugin| plugin.name() == known),
        }
        true
    }

    /// Tells plug-ins what their configuration says.
    pub fn configure(&mut self, configuration: &configuration::Configuration) {
        for plugin in &mut self.plugins {
            if plugin.name() == "PodSecurity" {
                *plugin = Arc::new(pod_security::PodSecurity(configuration.pod_security.clone()));
            }
        }
    }

    /// Adds one at the end.
    pub fn push(&mut self, plugin: impl Plugin) {
        self.plugins.push(Arc::new(plugin));
    }

    /// Lets all plug-ins change the object; once more when a webhook or a policy changed what others had seen before it.
    pub async fn mutate(&self, request: &mut Request, context: &Context<'_>) -> Result<(), ApiError> {
        self.mutate_once(request, context).await?;
        let again = context.rounds.lock().begin_second();
        if again { self.mutate_once(request, context).await } else { Ok(()) }
    }

    async fn mutate_once(&self, request: &mut Request, context: &Context<'_>) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            if plugin.handles(request) {
                plugin.mutate(request, context).await?;
            }
        }
        Ok(())
    }

    /// Lets all plug-ins refuse.
    pub async fn validate(&self, request: &Request, context: &Context<'_>) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            if plugin.handles(request) {
                plugin.validate(request, context).await?;
            }
        }
        Ok(())
    }
}
