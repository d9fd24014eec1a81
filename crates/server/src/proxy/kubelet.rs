//! What is said when a kubelet refuses, or is not there: for clients it is this server that speaks.
//!
//! Upstream's ways: who wanted an upgrade hears of a failed connection as an error without a reason, and of the kubelet's own refusal
//! as it is; of a log only its text is handed on, so that any other answer becomes a Status.

use super::forward::{Backend, Unreachable, forward, upgrade_of};
use crate::http::body::{Body, RequestBody};
use caravel_api::status::{ApiError, Details};
use http::header::{CONNECTION, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio_util::sync::CancellationToken;

/// How much of a refusal is repeated, in bytes.
const SHOWN: usize = 50_000;

/// An error that no reason is known for.
fn unknown(message: String) -> ApiError {
    ApiError::new(500, "", message)
}

/// Passes an upgrade on to the kubelet (`exec`, `attach`, `portForward`).
pub(super) async fn upgrade(
    parts: Parts,
    body: RequestBody,
    backend: &Backend,
    target: &str,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    if upgrade_of(&parts).is_none() {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let answer = forward(parts, body, backend, target, stop).await;
    let mut answer = answer.map_err(|failed| match failed {
        Unreachable::Dial(why) => unknown(format!("error dialing backend: {why}")),
        Unreachable::Answer(why) => unknown(why),
        Unreachable::Request(error) => error,
    })?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        status if status.as_u16() < 400 => {
            return Err(unknown(format!("invalid upgrade response: status code {}", status.as_u16())));
        }
        // What the client sent behind its request was for the upgraded connection.
        _ => drop(answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
    }
    Ok(answer)
}

/// Reads a log of the Pod with this name.
pub(super) async fn log(
    parts: Parts,
    body: RequestBody,
    backend: &Backend,
    target: &str,
    pod: &str,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let address = backend.addresses.first().map(ToString::to_string).unwrap_or_default();
    let get = |target: &str, why: &str| unknown(format!("Get {target:?}: {why}"));
    let url = format!("https://{address}{target}");
    let upgrades = upgrade_of(&parts).is_some();
    let answer = forward(parts, body, backend, target, stop).await.map_err(|failed| match failed {
        Unreachable::Dial(why) | Unreachable::Answer(why) => get(&url, &why),
        Unreachable::Request(error) => error,
    })?;
    let status = answer.status();
    // Switched protocols only when the client asked for it: a log over a WebSocket.
    if matches!(status.as_u16(), 200..=206) || (upgrades && status == StatusCode::SWITCHING_PROTOCOLS) {
        return Ok(answer);
    }
    if status.is_redirection()
        && let Some(place) = answer.headers().get(LOCATION)
    {
        return Err(get(&String::from_utf8_lossy(place.as_bytes()), "redirects forbidden"));
    }
    let text = Limited::new(answer.into_body(), SHOWN).collect().await;
    let text = text.map_or_else(|_| String::new(), |all| String::from_utf8_lossy(&all.to_bytes()).into_owned());
    Err(refused(status.as_u16(), &text, pod))
}

/// What upstream makes of an answer that is no log.
fn refused(code: u16, text: &str, pod: &str) -> ApiError {
    let (reason, message) = match code {
        500 => return ApiError::internal(text),
        400 => return ApiError::bad_request(text),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials"),
        403 => ("Forbidden", text),
        404 => ("NotFound", "the server could not find the requested resource"),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
        409 => ("Conflict", "the server reported a conflict"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        _ => ("", ""),
    };
    let message = match (message, code) {
        ("", 501..) => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ("", _) if code != 403 => {
            format!("the server responded with the status code {code} but did not return more information")
        }
        (message, _) => message.to_owned(),
    };
    let reason = if reason.is_empty() && code > 500 { "InternalError" } else { reason };
    let mut error = ApiError::new(code, reason, format!("{message} ( pods/log {pod})"));
    let details = Details { name: pod.to_owned(), kind: "pods/log".to_owned(), ..Details::default() };
    error.details = Some(Box::new(details));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_upstreams() {
        let cases = [
            (500, "boom", "InternalError", "Internal error occurred: boom"),
            (400, "container \"c\" is waiting", "BadRequest", "container \"c\" is waiting"),
            (401, "x", "Unauthorized", "the server has asked for the client to provide credentials ( pods/log p)"),
            (403, "no way", "Forbidden", "no way ( pods/log p)"),
            (404, "x", "NotFound", "the server could not find the requested resource ( pods/log p)"),
            (503, "x", "ServiceUnavailable", "the server is currently unable to handle the request ( pods/log p)"),
            (
                502,
                "bad gateway",
                "InternalError",
                "an error on the server (\"bad gateway\") has prevented the request from succeeding ( pods/log p)",
            ),
            (
                418,
                "x",
                "",
                "the server responded with the status code 418 but did not return more information ( pods/log p)",
            ),
        ];
        for (code, text, reason, message) in cases {
            let found = refused(code, text, "p");
            assert_eq!((found.code, found.reason.as_str(), found.message.as_str()), (code, reason, message));
        }
    }
}
