//! Users whom a front proxy names: the `X-Remote-*` headers, believed only from a connection whose certificate the front
//! proxy's authority signed for the allowed name.

use super::UserInfo;
use crate::request_info::percent_decode;
use http::HeaderMap;

/// The common name that a front proxy's certificate must have.
pub const ALLOWED_NAME: &str = "front-proxy-client";

/// The user that the headers name, if they name one.
pub fn user(headers: &HeaderMap) -> Option<UserInfo> {
    let text = |name: &str| headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok()).unwrap_or_default();
    let name = text("x-remote-user").to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = headers.get_all("x-remote-group").iter();
    let groups = groups.filter_map(|v| std::str::from_utf8(v.as_bytes()).ok()).map(str::to_owned).collect();
    let mut user = UserInfo { name, uid: text("x-remote-uid").to_owned(), groups, ..UserInfo::default() };
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix("x-remote-extra-")
            && let Ok(value) = std::str::from_utf8(value.as_bytes())
        {
            user.extra.entry(percent_decode(key).to_lowercase()).or_default().push(value.to_owned());
        }
    }
    user.authenticated();
    Some(user)
}

/// Takes the headers out: nothing behind the authenticator needs them.
pub fn remove(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_a_user() {
        let mut headers = HeaderMap::new();
        assert_eq!(user(&headers), None);
        headers.insert("x-remote-user", "jane".parse().unwrap());
        headers.append("x-remote-group", "dev".parse().unwrap());
        headers.append("x-remote-group", "ops".parse().unwrap());
        headers.insert("x-remote-extra-scopes%2fx", "view".parse().unwrap());
        let found = user(&headers).unwrap();
        assert_eq!((found.name.as_str(), &found.groups[..2]), ("jane", &["dev".to_owned(), "ops".to_owned()][..]));
        assert_eq!(found.extra["scopes/x"], ["view"]);
        remove(&mut headers);
        assert!(headers.is_empty());
    }
}
