//! Acting as another: the `Impersonate-*` headers. Here they are read; [`modes`] says in which ways the other identity may be
//! taken and what must be allowed for each; [`decision`] asks the authorizers, one way after the other.

pub mod decision;
pub mod memory;
pub mod metrics;
pub mod modes;

use super::UserInfo;
use caravel_api::status::ApiError;
use http::{HeaderMap, HeaderValue};

const PREFIX: &str = "impersonate-";

/// Whether any header is about impersonation. All that a request without such headers pays.
pub fn is_asked(headers: &HeaderMap) -> bool {
    headers.keys().any(|key| key.as_str().starts_with(PREFIX))
}

/// Takes the headers away: nothing behind this point may behave differently because of them.
pub fn remove(headers: &mut HeaderMap) {
    let keys: Vec<_> = headers.keys().filter(|key| key.as_str().starts_with(PREFIX)).cloned().collect();
    for key in keys {
        headers.remove(key);
    }
}

/// The identity as the headers name it, without anything added; `None` when they name none.
///
/// # Errors
/// 400: parts of an identity without a user name, or a value that is not UTF-8.
pub fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let one = |key: &str| headers.get(key).map_or(Ok(String::new()), |value| text(key, value));
    let groups = headers.get_all("impersonate-group").iter().map(|value| text("impersonate-group", value));
    let mut user = UserInfo {
        name: one("impersonate-user")?,
        uid: one("impersonate-uid")?,
        groups: groups.collect::<Result<_, _>>()?,
        ..UserInfo::default()
    };
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix("impersonate-extra-") {
            user.extra.entry(extra_key(key)).or_default().push(text(header.as_str(), value)?);
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.groups.is_empty() && user.extra.is_empty() && user.uid.is_empty() {
        return Ok(None);
    }
    Err(ApiError::bad_request(
        "requested groups, a uid or extra values to impersonate without impersonating a user: add the header Impersonate-User",
    ))
}

/// A value that cannot be read must not be left out: the request would be done as somebody else than was meant.
fn text(header: &str, value: &HeaderValue) -> Result<String, ApiError> {
    String::from_utf8(value.as_bytes().to_vec())
        .map_err(|_| ApiError::bad_request(format!("the value of the header {header} is not UTF-8")))
}

/// The key of an extra value. A key that is not well encoded is taken as it is.
fn extra_key(encoded: &str) -> String {
    let hex = |part: &str| part.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if encoded.split('%').skip(1).all(hex) { crate::request_info::percent_decode(encoded) } else { encoded.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (key, value) in pairs {
            map.append(*key, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn headers_name_an_identity() {
        let mut map = headers(&[
            ("impersonate-user", "jürgen"),
            ("impersonate-group", "dev"),
            ("accept", "x"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-scopes%2fx", "view"),
            ("impersonate-extra-scopes%2fx", "edit"),
            ("impersonate-extra-bad%2", "1"),
        ]);
        assert!(is_asked(&map));
        let user = wanted(&map).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jürgen", "7"));
        assert_eq!(user.groups, ["dev", "ops"], "nothing is added yet");
        assert_eq!(
            (&user.extra["scopes/x"], &user.extra["bad%2"]),
            (&vec!["view".into(), "edit".into()], &vec!["1".into()])
        );
        remove(&mut map);
        assert_eq!(map.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn no_user_is_an_error_only_with_other_headers() {
        for (pairs, code) in [
            (vec![], None),
            (vec![("accept", "x")], None),
            (vec![("impersonate-user", "")], None),
            (vec![("impersonate-group", "x")], Some(400)),
            (vec![("impersonate-group", "")], Some(400)),
            (vec![("impersonate-uid", "x")], Some(400)),
            (vec![("impersonate-extra-a", "x")], Some(400)),
        ] {
            let result = wanted(&headers(&pairs));
            assert_eq!(result.as_ref().err().map(|e| e.code), code, "{pairs:?}");
            assert!(result.unwrap_or_default().is_none());
        }
        let mut map = HeaderMap::new();
        map.insert("impersonate-user", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(wanted(&map).unwrap_err().code, 400, "never as the one who asks");
    }
}
