//! Questions that are asked by creating an object: may I, may they, whose token is this, who am I. Nothing is stored.

use super::Inbound;
use crate::authn::UserInfo;
use crate::authz::rbac::Rule;
use crate::authz::{Attributes, Decision, ResourceTarget, Target};
use crate::http::body::Body;
use crate::http::negotiate::Accept;
use crate::http::respond;
use crate::registry::options::WriteOptions;
use crate::server::Server;
use caravel_api::decode;
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Which question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Token,
    SelfSubject,
    SubjectAccess,
    SelfAccess,
    LocalAccess,
    SelfRules,
    Binding,
}

/// A question that is ready to be answered.
pub struct Review {
    server: Arc<Server>,
    kind: Arc<Kind>,
    question: Question,
}

impl Server {
    /// The question that `kind` is, if it is one.
    pub(super) fn review(self: &Arc<Self>, inbound: &Inbound, kind: &Arc<Kind>) -> Option<Review> {
        let question = match (&*kind.group, &*kind.plural) {
            ("authentication.k8s.io", "tokenreviews") => Question::Token,
            ("authentication.k8s.io", "selfsubjectreviews") => Question::SelfSubject,
            ("authorization.k8s.io", "subjectaccessreviews") => Question::SubjectAccess,
            ("authorization.k8s.io", "selfsubjectaccessreviews") => Question::SelfAccess,
            ("authorization.k8s.io", "localsubjectaccessreviews") => Question::LocalAccess,
            ("authorization.k8s.io", "selfsubjectrulesreviews") => Question::SelfRules,
            ("", "bindings") => Question::Binding,
            _ => return None,
        };
        (inbound.info.verb == "create").then(|| Review { server: self.clone(), kind: kind.clone(), question })
    }
}

impl Review {
    /// Reads the question and answers it.
    pub(super) async fn answer(self, inbound: Inbound) -> Result<Response<Body>, ApiError> {
        let Self { server, kind, question } = self;
        if question == Question::Binding {
            return server.create_binding(inbound, &kind).await;
        }
        let options = WriteOptions::parse(inbound.query())?;
        let media = Accept::choose_plain(&inbound.parts.headers, true)?.media;
        let mut review = server.body_of(&inbound, &decode::Target::of(&kind), &options).await?;
        let user = inbound.call.user.clone();
        if !review["spec"].is_object() {
            review["spec"] = json!({});
        }
        if !review["metadata"].is_object() {
            review["metadata"] = json!({});
        }
        let status = match question {
            Question::Token => server.token_review(&kind, &review).await?,
            Question::SelfSubject => json!({"userInfo": user.to_value()}),
            Question::SelfAccess => {
                let path = FieldPath::root("spec");
                server.access_review(&kind, &review["spec"], &user, "", &path).await?
            }
            Question::SubjectAccess | Question::LocalAccess => {
                let local = question == Question::LocalAccess;
                let subject = subject_of(&kind, &review["spec"])?;
                let namespace = if local { inbound.info.namespace.as_str() } else { "" };
                let path = FieldPath::root("spec");
                server.access_review(&kind, &review["spec"], &subject, namespace, &path).await?
            }
            Question::SelfRules => server.rules_review(&kind, &review["spec"], &user)?,
            Question::Binding => Value::Null,
        };
        if question == Question::SelfSubject {
            if let Some(map) = review.as_object_mut() {
                map.remove("spec");
            }
            review["metadata"]["creationTimestamp"] = json!(crate::clock::rfc3339_seconds(server.config.clock.now()));
        }
        review["status"] = status;
        Ok(respond::value(StatusCode::CREATED, &review, media))
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

/// The user that a SubjectAccessReview asks about.
fn subject_of(kind: &Kind, spec: &Value) -> Result<UserInfo, ApiError> {
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let user = UserInfo {
        name: text("user"),
        uid: text("uid"),
        groups: texts(spec.get("groups")),
        extra: spec
            .get("extra")
            .and_then(Value::as_object)
            .map(|m| m.iter().map(|(k, v)| (k.to_lowercase(), texts(Some(v)))).collect())
            .unwrap_or_default(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let root = FieldPath::root("spec");
        let error = FieldError::invalid(&root.child("user"), "", "at least one of user or group must be specified");
        return Err(ApiError::invalid(&kind.group, &kind.kind, "", &[error]));
    }
    Ok(user)
}

impl Server {
    async fn access_review(
        &self,
        kind: &Kind,
        spec: &Value,
        user: &UserInfo,
        namespace: &str,
        path: &FieldPath<'_>,
    ) -> Result<Value, ApiError> {
        let invalid = |error: FieldError| ApiError::invalid(&kind.group, &kind.kind, "", &[error]);
        let part = |name: &str| spec.get(name).filter(|v| v.is_object());
        let decision = match (part("resourceAttributes"), part("nonResourceAttributes")) {
            (Some(_), Some(_)) => {
                let at = path.child("nonResourceAttributes");
                return Err(invalid(FieldError::invalid(
                    &at,
                    "",
                    "cannot be specified in combination with resourceAttributes",
                )));
            }
            (None, None) => {
                let at = path.child("resourceAttributes");
                return Err(invalid(FieldError::invalid(
                    &at,
                    "",
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified",
                )));
            }
            (Some(resource), None) => {
                let text = |field: &str| resource.get(field).and_then(Value::as_str).unwrap_or_default();
                if !namespace.is_empty() && text("namespace") != namespace {
                    let resource = path.child("resourceAttributes");
                    let error = FieldError::invalid(
                        &resource.child("namespace"),
                        text("namespace"),
                        format!("must match metadata.namespace: {namespace}"),
                    );
                    return Err(invalid(error));
                }
                let attributes = Attributes {
                    user,
                    verb: text("verb"),
                    target: Target::Resource(ResourceTarget {
                        group: text("group"),
                        version: text("version"),
                        namespace: text("namespace"),
                        resource: text("resource"),
                        subresource: text("subresource"),
                        name: text("name"),
                    }),
                };
                self.authorizer.decide(&attributes).await
            }
            (None, Some(other)) => {
                let text = |field: &str| other.get(field).and_then(Value::as_str).unwrap_or_default();
                let attributes = Attributes { user, verb: text("verb"), target: Target::Path(text("path")) };
                self.authorizer.decide(&attributes).await
            }
        };
        Ok(match decision {
            Decision::Allowed(reason) if reason.is_empty() => json!({"allowed": true}),
            Decision::Allowed(reason) => json!({"allowed": true, "reason": reason}),
            Decision::Denied(reason) if reason.is_empty() => json!({"allowed": false, "denied": true}),
            Decision::Denied(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
            Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false}),
            Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
        })
    }

    fn rules_review(&self, kind: &Kind, spec: &Value, user: &UserInfo) -> Result<Value, ApiError> {
        let namespace = spec.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if namespace.is_empty() {
            let root = FieldPath::root("spec");
            let error = FieldError::required(&root.child("namespace"), "no namespace on request");
            return Err(ApiError::invalid(&kind.group, &kind.kind, "", &[error]));
        }
        let (mut rules, silent) = self.authorizer.rules_for(user, namespace);
        if user.in_group(crate::authn::GROUP_MASTERS) {
            let all = || vec!["*".to_owned()];
            rules.insert(0, Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() });
            rules.insert(1, Rule { verbs: all(), paths: all(), ..Rule::default() });
        }
        let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|r| !r.paths.is_empty());
        let mut status = json!({
            "resourceRules": resources.iter().map(|r| r.to_value()).collect::<Vec<_>>(),
            "nonResourceRules": paths.iter().map(|r| r.to_value()).collect::<Vec<_>>(),
            "incomplete": !silent.is_empty(),
        });
        match silent.as_slice() {
            [] => {}
            [one] => status["evaluationError"] = json!(one),
            several => status["evaluationError"] = json!(format!("[{}]", several.join(", "))),
        }
        Ok(status)
    }

    async fn token_review(&self, kind: &Kind, review: &Value) -> Result<Value, ApiError> {
        let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
        if token.is_empty() {
            return Err(ApiError::bad_request(format!("token is required for {}", kind.kind)));
        }
        let mut audiences = texts(review.pointer("/spec/audiences"));
        if audiences.is_empty() {
            audiences = self.service_accounts.audiences().to_vec();
        }
        Ok(match self.authenticate_token(token, &audiences).await {
            Ok(found) => {
                let mut status = json!({"authenticated": true, "user": found.user.to_value()});
                let matching = if found.audiences.is_empty() {
                    // Tokens without audiences are for this server.
                    let own = self.service_accounts.audiences();
                    audiences.iter().filter(|a| own.contains(a)).cloned().collect()
                } else {
                    found.audiences
                };
                if matching.is_empty() {
                    return Ok(json!({"user": {}, "error": "token audiences do not match"}));
                }
                status["audiences"] = json!(matching);
                status
            }
            Err(error) => json!({"user": {}, "error": error.to_string()}),
        })
    }
}
