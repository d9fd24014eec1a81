//! Acting as another: the `Impersonate-*` headers. Every part of the other identity needs the verb `impersonate` on
//! it; this module reads the headers and says which permissions are needed, the pipeline asks the authorizer.

use super::{GROUP_AUTHENTICATED, GROUP_SERVICE_ACCOUNTS, GROUP_UNAUTHENTICATED, SERVICE_ACCOUNT_PREFIX};
use super::{USER_ANONYMOUS, UserInfo};
use caravel_api::status::ApiError;
use http::HeaderMap;

/// One permission that impersonation needs: verb `impersonate` on this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// API group of the pseudo-resource.
    pub group: &'static str,
    /// `users`, `groups`, `uids`, `serviceaccounts` or `userextras`.
    pub resource: &'static str,
    /// The key of an extra value.
    pub subresource: String,
    /// Namespace of a service account.
    pub namespace: String,
    /// Who or what.
    pub name: String,
}

/// What the headers ask for: the identity to take, and what must be allowed for it.
pub type Impersonation = (UserInfo, Vec<Needed>);

/// Reads the headers; `None` when there are none.
pub fn requested(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    let one = |key: &str| headers.get(key).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = one("impersonate-user");
    let uid = one("impersonate-uid");
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    let mut user = UserInfo { name, uid, groups, ..UserInfo::default() };
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix("impersonate-extra-")
            && let Ok(value) = value.to_str()
        {
            let key = crate::request_info::percent_decode(key).to_lowercase();
            user.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if user.name.is_empty() {
        if user.groups.is_empty() && user.extra.is_empty() && user.uid.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(
            "requested groups, a uid or extra values to impersonate without impersonating a user: add the header Impersonate-User",
        ));
    }
    let needed = needed(&user);
    complete(&mut user);
    Ok(Some((user, needed)))
}

fn needed(user: &UserInfo) -> Vec<Needed> {
    let plain = |group, resource, name: &str| Needed {
        group,
        resource,
        subresource: String::new(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    let mut all = vec![];
    match user.service_account() {
        Some((namespace, name)) => {
            all.push(Needed { namespace: namespace.to_owned(), ..plain("", "serviceaccounts", name) });
        }
        None => all.push(plain("", "users", &user.name)),
    }
    all.extend(user.groups.iter().map(|group| plain("", "groups", group)));
    if !user.uid.is_empty() {
        all.push(plain("authentication.k8s.io", "uids", &user.uid));
    }
    for (key, values) in &user.extra {
        all.extend(
            values.iter().map(|value| Needed {
                subresource: key.clone(),
                ..plain("authentication.k8s.io", "userextras", value)
            }),
        );
    }
    all
}

/// Adds the groups that the identity would have had, had it authenticated itself.
fn complete(user: &mut UserInfo) {
    if user.name.starts_with(SERVICE_ACCOUNT_PREFIX)
        && user.groups.is_empty()
        && let Some((namespace, _)) = user.service_account()
    {
        user.groups = vec![GROUP_SERVICE_ACCOUNTS.into(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")];
    }
    if user.name == USER_ANONYMOUS {
        if !user.in_group(GROUP_UNAUTHENTICATED) && !user.in_group(GROUP_AUTHENTICATED) {
            user.groups.push(GROUP_UNAUTHENTICATED.into());
        }
    } else {
        user.authenticated();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (key, value) in pairs {
            map.append(*key, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn every_part_needs_a_permission() {
        let (user, needed) = requested(&headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-scopes%2fx", "view"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!(user.groups, ["dev", "ops", GROUP_AUTHENTICATED]);
        assert_eq!(user.extra["scopes/x"], ["view"]);
        let all: Vec<_> = needed.iter().map(|n| (n.resource, n.subresource.as_str(), n.name.as_str())).collect();
        assert_eq!(
            all,
            [
                ("users", "", "jane"),
                ("groups", "", "dev"),
                ("groups", "", "ops"),
                ("uids", "", "7"),
                ("userextras", "scopes/x", "view")
            ]
        );
    }

    #[test]
    fn service_accounts_get_their_groups() {
        let (user, needed) =
            requested(&headers(&[("impersonate-user", "system:serviceaccount:ns:sa")])).unwrap().unwrap();
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
        assert_eq!((needed[0].resource, needed[0].namespace.as_str()), ("serviceaccounts", "ns"));
    }

    #[test]
    fn no_user_is_an_error_only_with_other_headers() {
        assert_eq!(requested(&headers(&[])).unwrap(), None);
        assert_eq!(requested(&headers(&[("impersonate-group", "x")])).unwrap_err().code, 400);
    }
}
