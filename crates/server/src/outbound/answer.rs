//! Reading what an extension answered.

use super::MAX_ANSWER;
use bytes::{Bytes, BytesMut};
use caravel_api::status::ApiError;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// How much of an unexpected answer is repeated in the error.
const SHOWN: usize = 256;

/// The JSON of a successful answer.
pub(super) async fn read(response: Response<Incoming>) -> Result<Value, String> {
    let status = response.status().as_u16();
    let bytes = limited(response.into_body(), MAX_ANSWER).await?;
    if !(200..=206).contains(&status) {
        return Err(refusal(status, &bytes));
    }
    // Deeply nested rubbish is refused by the parser's own limit of 128 levels.
    serde_json::from_slice(&bytes).map_err(|e| format!("couldn't decode the answer, which must be JSON: {e}"))
}

/// The whole body, if it is within the limit.
pub(super) async fn limited(mut body: Incoming, most: usize) -> Result<Bytes, String> {
    let too_large = || format!("the answer is larger than {most} bytes");
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("the answer broke off: {e}"))?;
        let Ok(data) = frame.into_data() else { continue };
        if out.len() + data.len() > most {
            return Err(too_large());
        }
        out.extend_from_slice(&data);
    }
    Ok(out.freeze())
}

/// What an answer that is no success says. A `Status` speaks for itself; otherwise the code does.
fn refusal(status: u16, body: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    if let Some(error) = parsed.as_ref().and_then(ApiError::from_status)
        && !error.message.is_empty()
    {
        return error.message;
    }
    match status {
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "access to the webhook is forbidden".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted".to_owned(),
        500.. => {
            let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
            let text = if text.trim().is_empty() { "unknown" } else { text.trim() };
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        300..=399 => format!("the server responded with the status code {status}, and redirects are not followed"),
        _ => format!("the server responded with the status code {status} but did not return more information"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_why() {
        assert_eq!(refusal(404, b"nope"), "the server could not find the requested resource");
        assert_eq!(
            refusal(500, b"boom"),
            "an error on the server (\"boom\") has prevented the request from succeeding"
        );
        let status =
            br#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"so","reason":"X","code":409}"#;
        assert_eq!(refusal(409, status), "so");
        assert!(refusal(302, b"").contains("redirects are not followed"));
    }
}
