//! The errors of the API: `metav1.Status` with upstream's codes, reasons and message forms.
//!
//! Clients branch on `reason`, people read `message`, and controllers look into `details`, so all
//! three follow `k8s.io/apimachinery/pkg/api/errors` to the letter.

use crate::field::{FieldError, aggregate};
use serde_json::{Map, Value, json};
use std::fmt;

/// One entry of `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, such as `FieldValueRequired`; may be empty.
    pub reason: String,
    pub message: String,
    /// Path of the field; may be empty.
    pub field: String,
}

/// `metav1.StatusDetails`. Empty strings and zero are left out on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource (`pods`) or, for validation errors, the kind (`Pod`).
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    /// Seconds after which a retry may succeed; the server also sends it as `Retry-After`.
    pub retry_after_seconds: u32,
}

/// An error as the API answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`; may be empty.
    pub reason: String,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// `metadata.continue` of the answer, for an expired continue token that offers a fresh one.
    pub continue_token: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// `pods` or `deployments.apps`: how messages write a group and resource (or a group and kind).
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// The message that follows a lost optimistic-concurrency race.
pub const OPTIMISTIC_LOCK: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl ApiError {
    /// An error with nothing but a code, a reason and a message.
    pub fn new(code: u16, reason: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { code, reason: reason.into(), message: message.into(), details: None, continue_token: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> ApiError {
        self.details =
            Some(Box::new(Details { group: group.into(), kind: kind.into(), name: name.into(), ..Details::default() }));
        self
    }

    /// 404: no such object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> ApiError {
        ApiError::new(404, "NotFound", format!("{} {:?} not found", qualified(group, resource), name))
            .about(group, resource, name)
    }

    /// 404 for a path that the API does not serve at all.
    pub fn unknown_path() -> ApiError {
        ApiError::new(404, "NotFound", "the server could not find the requested resource").about("", "", "")
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> ApiError {
        ApiError::new(409, "AlreadyExists", format!("{} {:?} already exists", qualified(group, resource), name))
            .about(group, resource, name)
    }

    /// 409: every name tried for a `generateName` was taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_after: u32) -> ApiError {
        ApiError::new(
            409,
            "AlreadyExists",
            format!(
                "{} {:?} already exists, the server was not able to generate a unique name for the object",
                qualified(group, resource),
                name
            ),
        )
        .about(group, resource, name)
        .retry_after(retry_after)
    }

    /// 409: the change collides with another one; `why` ends the message.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> ApiError {
        ApiError::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {:?}: {why}", qualified(group, resource), name),
        )
        .about(group, resource, name)
    }

    /// 409: the `resourceVersion` sent is not the present one.
    pub fn modified(group: &str, resource: &str, name: &str) -> ApiError {
        ApiError::conflict(group, resource, name, OPTIMISTIC_LOCK)
    }

    /// 409 of server-side apply: other managers own fields that the request sets.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> ApiError {
        let mut error = ApiError::new(409, "Conflict", message);
        error.details = Some(Box::new(Details { causes, ..Details::default() }));
        error
    }

    /// 422: the object breaks rules; `kind` is the kind (`Pod`), not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> ApiError {
        let what = qualified(group, kind);
        let message = if errors.is_empty() {
            format!("{what} {name:?} is invalid")
        } else {
            format!("{what} {name:?} is invalid: {}", aggregate(errors))
        };
        let causes = errors
            .iter()
            .map(|one| Cause { reason: one.kind.reason().into(), message: one.body(), field: one.field.clone() })
            .collect();
        let mut error = ApiError::new(422, "Invalid", message).about(group, kind, name);
        if let Some(details) = error.details.as_mut() {
            details.causes = causes;
        }
        error
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 401: the caller is not known.
    pub fn unauthorized(message: impl Into<String>) -> ApiError {
        ApiError::new(401, "Unauthorized", message)
    }

    /// 403: known, but not allowed; `why` ends the message. `resource` and `name` may be empty.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> ApiError {
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!("{} {:?} is forbidden: {why}", qualified(group, resource), name)
        };
        ApiError::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 405: the resource has no such verb. `action` is the verb, such as `update`.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> ApiError {
        ApiError::new(
            405,
            "MethodNotAllowed",
            format!("{action} is not supported on resources of kind {:?}", qualified(group, resource)),
        )
        .about(group, resource, "")
    }

    /// 405 for a method on a path that knows others.
    pub fn method_not_allowed() -> ApiError {
        ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .about("", "", "")
    }

    /// 406: none of the accepted media types can be served.
    pub fn not_acceptable(accepted: &[&str]) -> ApiError {
        ApiError::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    /// 410: the thing asked for is gone for good (a watch from a compacted revision).
    pub fn gone(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Gone", message)
    }

    /// 410: the revision (of a list, watch or continue token) is no longer kept.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 413: the body is larger than the server takes.
    pub fn too_large(message: impl fmt::Display) -> ApiError {
        ApiError::new(413, "RequestEntityTooLarge", format!("Request entity is too large: {message}"))
    }

    /// 415: the body's media type is not understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> ApiError {
        ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 429: come back later.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> ApiError {
        let mut error = ApiError::new(429, "TooManyRequests", message);
        error.details = Some(Box::new(Details { retry_after_seconds: retry_after, ..Details::default() }));
        error
    }

    /// 500: a fault of ours.
    pub fn internal(why: impl fmt::Display) -> ApiError {
        let why = why.to_string();
        let mut error = ApiError::new(500, "InternalError", format!("Internal error occurred: {why}"));
        error.details =
            Some(Box::new(Details { causes: vec![Cause { message: why, ..Cause::default() }], ..Details::default() }));
        error
    }

    /// 500 `ServerTimeout`: the operation could not be finished now, though nothing is wrong with it.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after: u32) -> ApiError {
        ApiError::new(
            500,
            "ServerTimeout",
            format!(
                "The {operation} operation against {} could not be completed at this time, please try again.",
                qualified(group, resource)
            ),
        )
        .about(group, resource, "")
        .retry_after(retry_after)
    }

    /// 503: not able to serve now.
    pub fn service_unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, "ServiceUnavailable", message)
    }

    /// 504: the request ran out of time.
    pub fn timeout(message: impl fmt::Display, retry_after: u32) -> ApiError {
        let mut error = ApiError::new(504, "Timeout", format!("Timeout: {message}"));
        error.details = Some(Box::new(Details { retry_after_seconds: retry_after, ..Details::default() }));
        error
    }

    /// Adds (or raises) the time after which a retry may succeed, in seconds.
    pub fn retry_after(mut self, seconds: u32) -> ApiError {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds the uid of the object that the error is about.
    pub fn with_uid(mut self, uid: &str) -> ApiError {
        self.details.get_or_insert_default().uid = uid.into();
        self
    }

    /// Adds one cause.
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> ApiError {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The `metav1.Status` object to send.
    pub fn to_status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), json!(token));
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }

    /// Reads back a `metav1.Status` failure (an answer of a webhook or another server).
    /// `None` when the value is no failure.
    pub fn from_status(status: &Value) -> Option<ApiError> {
        if status.get("status").and_then(Value::as_str) == Some("Success") {
            return None;
        }
        let text = |at: &str| status.get(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
        let details = status.get("details").filter(|d| d.is_object()).map(|d| Box::new(Details::from_value(d)));
        Some(ApiError { code, reason: text("reason"), message: text("message"), details, continue_token: None })
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            out.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            out.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }

    fn from_value(value: &Value) -> Details {
        let text = |v: &Value, at: &str| v.get(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        Details {
            name: text(value, "name"),
            group: text(value, "group"),
            kind: text(value, "kind"),
            uid: text(value, "uid"),
            causes: value
                .get("causes")
                .and_then(Value::as_array)
                .map(|all| {
                    all.iter()
                        .map(|one| Cause {
                            reason: text(one, "reason"),
                            message: text(one, "message"),
                            field: text(one, "field"),
                        })
                        .collect()
                })
                .unwrap_or_default(),
            retry_after_seconds: value
                .get("retryAfterSeconds")
                .and_then(Value::as_u64)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
        }
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        Value::Object(out)
    }
}

/// `metav1.Status` of a success (the answer to a delete that left nothing).
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.into(),
        group: group.into(),
        kind: resource.into(),
        uid: uid.into(),
        ..Details::default()
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value()})
}

/// What a denied request wanted, for [`forbidden_message`].
#[derive(Clone, Copy, Debug)]
pub enum Attempt<'a> {
    /// `resource` is `pods` or, with a subresource, `pods/log`; an empty namespace means cluster scope.
    Resource { verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str },
    /// A URL that is no resource.
    Path { verb: &'a str, path: &'a str },
}

/// The explanation of a denial: who may not do what.
pub fn forbidden_message(user: &str, attempt: Attempt<'_>) -> String {
    match attempt {
        Attempt::Resource { verb, group, resource, namespace } => {
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}")
        }
        Attempt::Path { verb, path } => format!("User {user:?} cannot {verb} path {path:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FieldPath;

    #[test]
    fn messages_are_upstreams() {
        let cases = [
            (ApiError::not_found("", "pods", "x"), 404, "pods \"x\" not found"),
            (ApiError::not_found("apps", "deployments", "x"), 404, "deployments.apps \"x\" not found"),
            (ApiError::already_exists("", "pods", "x"), 409, "pods \"x\" already exists"),
            (
                ApiError::modified("apps", "deployments", "x"),
                409,
                "Operation cannot be fulfilled on deployments.apps \"x\": the object has been modified; please apply \
                 your changes to the latest version and try again",
            ),
            (
                ApiError::forbidden(
                    "",
                    "pods",
                    "",
                    forbidden_message(
                        "u",
                        Attempt::Resource { verb: "list", group: "", resource: "pods", namespace: "n" },
                    ),
                ),
                403,
                "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the namespace \"n\"",
            ),
            (ApiError::internal("boom"), 500, "Internal error occurred: boom"),
            (ApiError::timeout("late", 0), 504, "Timeout: late"),
        ];
        for (error, code, message) in cases {
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
    }

    #[test]
    fn invalid_carries_causes() {
        let spec = FieldPath::root("spec");
        let error = ApiError::invalid("", "Pod", "x", &[FieldError::required(&spec.child("containers"), "")]);
        assert_eq!(error.message, "Pod \"x\" is invalid: spec.containers: Required value");
        assert_eq!(
            error.to_status(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Pod \"x\" is invalid: spec.containers: Required value",
                "reason": "Invalid", "code": 422,
                "details": {"name": "x", "kind": "Pod", "causes": [
                    {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"}]},
            })
        );
    }

    #[test]
    fn a_status_reads_back() {
        let error = ApiError::too_many_requests("slow down", 7).with_uid("u-1").with_cause("A", "b", "c");
        assert_eq!(ApiError::from_status(&error.to_status()), Some(error));
        assert_eq!(ApiError::from_status(&success("", "pods", "x", "u")), None);
    }
}
