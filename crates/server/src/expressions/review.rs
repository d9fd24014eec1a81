//! The request as expressions see it, and the variables of admission.

use crate::admission::Request;
use crate::authn::UserInfo;
use crate::authz::{self, Attributes, ResourceTarget, Target};
use caravel_cel::types::{ANY, Field, Fields, Shape};
use caravel_cel::{AUTHORIZER, Activation, Authorizer, Check, Decision, Environment, ShapeKind, Ty, Val};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// The value of variables that are not there.
pub static NULL: Value = Value::Null;

static REQUEST: LazyLock<Arc<Shape>> = LazyLock::new(request_shape);

fn object(name: &str, fields: Vec<(&str, Arc<Shape>)>) -> Arc<Shape> {
    let fields = fields
        .into_iter()
        .map(|(field, shape)| (field.to_owned(), Field { name: field.to_owned(), shape, required: true }))
        .collect();
    Arc::new(Shape::of(ShapeKind::Object(Fields { name: name.to_owned(), fields })))
}

fn request_shape() -> Arc<Shape> {
    let text = || Arc::new(Shape::of(ShapeKind::String));
    let texts = || Arc::new(Shape::of(ShapeKind::List(text())));
    let kind = || object("kubernetes.GroupVersionKind", vec![("group", text()), ("version", text()), ("kind", text())]);
    let resource = || {
        let fields = vec![("group", text()), ("version", text()), ("resource", text())];
        object("kubernetes.GroupVersionResource", fields)
    };
    let user = vec![
        ("username", text()),
        ("uid", text()),
        ("groups", texts()),
        ("extra", Arc::new(Shape::of(ShapeKind::Map(texts())))),
    ];
    let fields = vec![
        ("kind", kind()),
        ("resource", resource()),
        ("subResource", text()),
        ("requestKind", kind()),
        ("requestResource", resource()),
        ("requestSubResource", text()),
        ("name", text()),
        ("namespace", text()),
        ("operation", text()),
        ("userInfo", object("kubernetes.UserInfo", user)),
        ("dryRun", Arc::new(Shape::of(ShapeKind::Bool))),
        ("options", Arc::new(ANY.clone())),
    ];
    object("kubernetes.AdmissionRequest", fields)
}

/// The environment of admission: `object`, `oldObject`, `request`, `namespaceObject`, `authorizer`, and `params` if asked.
pub fn environment(params: bool) -> Environment {
    let mut environment = Environment::new([
        ("object", Ty::Dyn),
        ("oldObject", Ty::Dyn),
        ("request", REQUEST.ty()),
        ("namespaceObject", Ty::Dyn),
        ("authorizer", Ty::Opaque(AUTHORIZER)),
    ]);
    if params {
        environment.variables.insert("params".into(), Ty::Dyn);
    }
    environment
}

/// `request`, for a request that was matched as `matched` (its kind in another version, maybe).
pub fn request_value(request: &Request, matched: &caravel_api::kinds::Kind) -> Value {
    let kind = |k: &caravel_api::kinds::Kind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let resource = |k: &caravel_api::kinds::Kind| json!({"group": k.group, "version": k.version, "resource": k.plural});
    let user = &request.user;
    json!({
        "kind": kind(matched), "resource": resource(matched), "subResource": request.subresource,
        "requestKind": kind(&request.kind), "requestResource": resource(&request.kind),
        "requestSubResource": request.subresource,
        "name": request.name, "namespace": request.namespace, "operation": request.operation.name(),
        "userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra},
        "dryRun": request.dry_run, "options": request.options,
    })
}

/// What the expressions of one evaluation see.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// `object`
    pub object: &'a Value,
    /// `oldObject`
    pub old: &'a Value,
    /// `request`
    pub request: &'a Value,
    /// `params`
    pub params: &'a Value,
    /// `namespaceObject`
    pub namespace: &'a Value,
    /// Answers `authorizer`.
    pub authorizer: &'a Ask<'a>,
}

impl<'a> Sight<'a> {
    /// The variables for the evaluator.
    pub fn activation(&self) -> Activation<'a> {
        let mut activation = Activation::new();
        activation
            .set("object", Val::json(self.object))
            .set("oldObject", Val::json(self.old))
            .set("request", Val::shaped(self.request, &REQUEST))
            .set("params", Val::json(self.params))
            .set("namespaceObject", Val::json(self.namespace))
            .authorize(self.authorizer, self.authorizer.request.clone());
        activation
    }
}

/// The cluster's authorizer, asked by expressions.
pub struct Ask<'a> {
    authorizer: &'a authz::Authorizer,
    user: &'a UserInfo,
    request: Check,
}

impl<'a> Ask<'a> {
    /// For the user of a request.
    pub fn new(authorizer: &'a authz::Authorizer, request: &'a Request) -> Self {
        let about = Check {
            group: request.kind.group.to_string(),
            resource: request.kind.plural.to_string(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            ..Check::default()
        };
        Self { authorizer, user: &request.user, request: about }
    }
}

impl Authorizer for Ask<'_> {
    fn check(&self, verb: &str, check: &Check) -> Decision {
        let account;
        let user = match &check.account {
            None => self.user,
            Some((namespace, name)) => {
                let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
                let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                account = UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &groups);
                &account
            }
        };
        let target = match &check.path {
            Some(path) => Target::Path(path),
            None => Target::Resource(ResourceTarget {
                group: &check.group,
                version: "*",
                namespace: &check.namespace,
                resource: &check.resource,
                subresource: &check.subresource,
                name: &check.name,
            }),
        };
        match self.authorizer.authorize(&Attributes { user, verb, target }) {
            authz::Decision::Allowed(reason) => Decision { allowed: true, reason, error: None },
            authz::Decision::NoOpinion(reason) | authz::Decision::Denied(reason) => {
                Decision { allowed: false, reason, error: None }
            }
        }
    }
}
