//! API aggregation: groups and versions that another server answers, registered by APIServices
//! (`apiregistration.k8s.io/v1`).
//!
//! An APIService that names a Service is a [`Remote`]: requests for its group and version are passed on, with the caller's
//! identity in headers that a certificate of the front proxy vouches for. One without a Service is local: a group that this
//! server answers itself. Those are written by [`local`], one for each group and version of the table of kinds. A part of this
//! program may answer a group itself, too, without a socket ([`InProcess`]).

mod check;
mod discovery;
mod local;
mod pass;
mod remote;
mod swagger;

pub use remote::Remote;

use crate::authn::UserInfo;
use crate::follow;
use crate::http::body::{Body, RequestBody};
use crate::request_info::RequestInfo;
use crate::server::Server;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use http::{Request, Response};
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
pub(crate) const PLURAL: &str = "apiservices";

/// A group and version that a part of this program answers.
pub trait InProcess: Send + Sync + 'static {
    /// Group name.
    fn group(&self) -> &str;
    /// Version.
    fn version(&self) -> &str;
    /// `resources` of its APIResourceList.
    fn resources(&self) -> Value;
    /// Answers a request under its path. The caller is authenticated and authorized.
    fn answer(&self, request: Request<RequestBody>, user: Arc<UserInfo>) -> BoxFuture<'static, Response<Body>>;
}

/// Who answers a group and version that is not this server's own.
#[derive(Clone)]
pub enum Claim {
    /// Another server.
    Remote(Arc<Remote>),
    /// A part of this program.
    InProcess(Arc<dyn InProcess>),
}

/// All groups and versions that are not this server's own.
#[derive(Default)]
pub struct Aggregation {
    remotes: RwLock<Arc<Vec<Arc<Remote>>>>,
    in_process: RwLock<Vec<Arc<dyn InProcess>>>,
    /// Told when APIServices or the table of kinds changed.
    changed: tokio::sync::Notify,
}

impl Aggregation {
    /// Adds a group that a part of this program answers. An APIService that names a Service for the same group and version
    /// stands over it.
    pub fn serve(&self, service: Arc<dyn InProcess>) {
        self.in_process.write().push(service);
        self.changed.notify_one();
    }

    /// Who answers this group and version, if it is not this server.
    pub fn claim(&self, group: &str, version: &str) -> Option<Claim> {
        let remotes = self.remotes.read().clone();
        if let Some(remote) = remotes.iter().find(|remote| remote.group == group && remote.version == version) {
            return Some(Claim::Remote(remote.clone()));
        }
        let parts = self.in_process.read();
        parts.iter().find(|one| one.group() == group && one.version() == version).cloned().map(Claim::InProcess)
    }

    /// Who answers this request: one about a resource, or about what a group and version has.
    pub(crate) fn claim_request(&self, info: &RequestInfo) -> Option<Claim> {
        if info.is_resource {
            return if info.group.is_empty() { None } else { self.claim(&info.group, &info.version) };
        }
        let rest = info.path.strip_prefix("/apis/")?;
        let mut parts = rest.split('/').filter(|part| !part.is_empty());
        match (parts.next(), parts.next(), parts.next()) {
            (Some(group), Some(version), None) => self.claim(group, version),
            _ => None,
        }
    }

    fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.remotes.read().clone()
    }

    fn parts(&self) -> Vec<Arc<dyn InProcess>> {
        self.in_process.read().clone()
    }

    fn is_empty(&self) -> bool {
        self.remotes.read().is_empty() && self.in_process.read().is_empty()
    }
}

/// Reads the APIServices, follows them, and keeps those of this server's own groups.
///
/// # Errors
/// The store did not answer.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    let weak = Arc::downgrade(server);
    let (pki, stop) = (server.pki.clone(), server.stop.clone());
    follow::objects(&server.registry, GROUP, PLURAL, &server.stop, move |all| {
        let Some(server) = weak.upgrade() else { return };
        let old = server.aggregation.remotes();
        let mut next = vec![];
        for object in all.iter().filter(|object| object.pointer("/spec/service").is_some_and(Value::is_object)) {
            let same = old.iter().find(|remote| remote.is_same(object));
            next.push(match same {
                Some(remote) => remote.clone(),
                None => {
                    let remote = Arc::new(Remote::of(object, pki.clone()));
                    check::start(&server, &remote, stop.clone());
                    remote
                }
            });
        }
        *server.aggregation.remotes.write() = Arc::new(next);
        server.aggregation.changed.notify_one();
    })
    .await?;
    local::start(server);
    Ok(())
}
