//! `AdmissionReview`: the question and the answer (`admission.k8s.io/v1` and `v1beta1`, which differ in name alone).

use super::super::matching::kind_at;
use super::super::{Operation, Request};
use super::Hook;
use base64::Engine as _;
use caravel_api::kinds::{Gvk, Kind};
use caravel_api::status::ApiError;
use serde_json::{Value, json};

/// What a hook answered.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub allowed: bool,
    /// `response.status`.
    pub status: Value,
    /// A JSON patch.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

fn gvk(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn gvr(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "resource": kind.plural})
}

/// The question. `kind` is the row in whose version `object` and `old` are.
pub(super) fn question(
    hook: &Hook,
    uid: &str,
    request: &Request,
    kind: &Kind,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let mut user = request.user.to_value();
    if let Some(user) = user.as_object_mut() {
        user.entry("username").or_insert_with(|| json!(""));
    }
    let mut out = json!({
        "uid": uid,
        "kind": gvk(&kind_at(kind, &request.subresource)),
        "resource": gvr(kind),
        "requestKind": gvk(&kind_at(&request.kind, &request.subresource)),
        "requestResource": gvr(&request.kind),
        "operation": request.operation.name(),
        "userInfo": user,
        "object": object,
        "oldObject": old,
        "dryRun": request.dry_run,
        "options": if request.operation == Operation::Connect { &Value::Null } else { &request.options },
    });
    if !request.subresource.is_empty() {
        out["subResource"] = json!(request.subresource);
        out["requestSubResource"] = json!(request.subresource);
    }
    for (field, value) in [("name", &request.name), ("namespace", &request.namespace)] {
        if !value.is_empty() {
            out[field] = json!(value);
        }
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{}", hook.version), "request": out})
}

/// The answer, checked. `uid` is that of the question.
///
/// # Errors
/// It is none: of another kind, to another question, with a patch that is none.
pub(super) fn answer(hook: &Hook, uid: &str, mutating: bool, review: &Value) -> Result<Verdict, String> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let v1 = hook.version == "v1";
    let (kind, version) = (text(review, "kind"), text(review, "apiVersion"));
    let wanted = format!("admission.k8s.io/{}", hook.version);
    if (v1 || !kind.is_empty()) && (kind != "AdmissionReview" || version != wanted) {
        return Err(format!("expected webhook response of {wanted}, Kind=AdmissionReview, got {version}, Kind={kind}"));
    }
    let response = review.get("response").filter(|r| r.is_object());
    let response = response.ok_or_else(|| "webhook response was absent".to_owned())?;
    if v1 && text(response, "uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
    }
    let allowed = match response.get("allowed") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(allowed)) => *allowed,
        Some(other) => return Err(format!("response.allowed must be true or false, got {other}")),
    };
    let patch = patch(response, v1, mutating)?;
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    Ok(Verdict {
        allowed,
        status: response.get("status").cloned().unwrap_or_default(),
        patch,
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: annotations
            .filter_map(|(key, value)| Some((format!("{}/{key}", hook.name), value.as_str()?.to_owned())))
            .collect(),
    })
}

fn patch(response: &Value, v1: bool, mutating: bool) -> Result<Option<Value>, String> {
    let encoded = response.get("patch").and_then(Value::as_str).unwrap_or_default();
    let kind = response.get("patchType").and_then(Value::as_str);
    if v1 {
        let problem = match (encoded.is_empty(), kind) {
            (_, Some(_)) | (false, _) if !mutating => "webhook response.patch and patchType are not allowed here",
            (false, None) => "webhook returned response.patch but not response.patchType",
            (true, Some(_)) => "webhook returned response.patchType but not response.patch",
            (false, Some(kind)) if kind != "JSONPatch" => {
                "webhook returned an invalid response.patchType: only JSONPatch is one"
            }
            _ => "",
        };
        if !problem.is_empty() {
            return Err(problem.to_owned());
        }
    }
    if encoded.is_empty() || !mutating {
        return Ok(None);
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|e| format!("response.patch is not base64: {e}"))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("response.patch is not JSON: {e}"))
}

/// The refusal that a hook's status becomes.
pub(super) fn refusal(hook: &str, status: &Value) -> ApiError {
    let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or_default();
    let denied = format!("admission webhook {hook:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or(0);
    let code = if (400..=599).contains(&code) { code } else { 400 };
    let mut full = status.as_object().cloned().unwrap_or_default();
    full.insert("kind".into(), json!("Status"));
    full.insert("apiVersion".into(), json!("v1"));
    full.insert("status".into(), json!("Failure"));
    full.insert("code".into(), json!(code));
    full.insert("message".into(), json!(message));
    ApiError::from_status(&Value::Object(full)).unwrap_or_else(|| ApiError::new(code, text("reason"), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_hook() {
        let error = refusal("a.b.c", &json!({"message": "no", "code": 403, "reason": "Forbidden"}));
        assert_eq!((error.code, error.reason.as_str()), (403, "Forbidden"));
        assert_eq!(error.message, "admission webhook \"a.b.c\" denied the request: no");
        let error = refusal("a.b.c", &Value::Null);
        assert_eq!(
            (error.code, error.message.as_str()),
            (400, "admission webhook \"a.b.c\" denied the request without explanation")
        );
        assert_eq!(refusal("h", &json!({"code": 200, "reason": "R"})).code, 400);
    }

    #[test]
    fn patches_are_checked() {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let good = json!({"patch": encode("[]"), "patchType": "JSONPatch"});
        assert_eq!(patch(&good, true, true), Ok(Some(json!([]))));
        assert!(patch(&good, true, false).is_err());
        assert!(patch(&json!({"patch": encode("[]")}), true, true).is_err());
        assert!(patch(&json!({"patchType": "JSONPatch"}), true, true).is_err());
        assert!(patch(&json!({"patch": encode("[]"), "patchType": "Merge"}), true, true).is_err());
        assert!(patch(&json!({"patch": "%%"}), false, true).is_err());
        assert_eq!(patch(&json!({"patch": encode("[]")}), false, true), Ok(Some(json!([]))));
        assert_eq!(patch(&json!({}), true, true), Ok(None));
    }
}
