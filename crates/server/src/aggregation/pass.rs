//! Passing a request on to whoever answers its group.

use super::{Claim, Remote};
use crate::authn::UserInfo;
use crate::handlers::Inbound;
use crate::http::body::Body;
use crate::http::respond;
use crate::proxy::{Backend, forward, strip_named};
use crate::request_info::percent_decode;
use crate::server::Server;
use caravel_api::status::ApiError;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Request, Response, StatusCode};
use std::sync::Arc;

impl Server {
    /// Answers a request for a group that is not this server's own.
    pub(crate) async fn pass_on(self: &Arc<Self>, inbound: Inbound, claim: Claim) -> Result<Response<Body>, ApiError> {
        let user = inbound.call.user.clone();
        match claim {
            Claim::InProcess(part) => {
                let body = inbound.take_body();
                let request = Request::from_parts(inbound.parts, body);
                Ok(part.answer(request, user).await)
            }
            Claim::Remote(remote) => {
                let target = inbound.parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
                self.pass_to(&remote, inbound, &user, &target).await
            }
        }
    }

    /// Passes a request on to an aggregated server, as `user`.
    pub(crate) async fn pass_to(
        &self,
        remote: &Remote,
        inbound: Inbound,
        user: &UserInfo,
        target: &str,
    ) -> Result<Response<Body>, ApiError> {
        if !remote.known().available {
            return Ok(respond::text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n"));
        }
        if climbs(target) {
            return Err(ApiError::bad_request("the path has a segment that is \".\" or \"..\"".to_owned()));
        }
        let unavailable = |why: String| {
            tracing::debug!(service = %remote.name, %why, "an aggregated server cannot be called");
            remote.doubt.notify_one();
            Ok(respond::text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n"))
        };
        let addresses = match self.registry.addresses_of(&remote.place).await {
            Ok(addresses) => addresses,
            Err(why) => return unavailable(why),
        };
        let tls = match remote.tls() {
            Ok(tls) => tls,
            Err(why) => return unavailable(why),
        };
        let body = inbound.take_body();
        let Inbound { mut parts, .. } = inbound;
        strip_named(&mut parts.headers);
        identify(&mut parts.headers, user)?;
        let backend = Backend {
            addresses,
            host: remote.place.authority(),
            tls: Some(tls),
            server_name: Some(remote.place.server_name()),
            what: "service".to_owned(),
        };
        let answer = forward(parts, body, &backend, target, self.stop.clone()).await;
        match answer {
            Ok(answer) if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) => {
                // A redirect would send the client, credentials and all, where the aggregated server wants it.
                let why = "the backend attempted to redirect this request, which is not permitted\n";
                Ok(respond::text(StatusCode::BAD_GATEWAY, why))
            }
            Ok(answer) => Ok(answer),
            Err(failed) => {
                let error = failed.error(&backend.what);
                if error.code == 503 {
                    remote.doubt.notify_one();
                }
                Err(error)
            }
        }
    }
}

/// Whether a path would lead out of the group that was asked for.
fn climbs(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    percent_decode(path).split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Says who asks, in the headers that aggregated servers believe from the front proxy, and in no others.
fn identify(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), ApiError> {
    let said: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in said.into_iter().chain([AUTHORIZATION, COOKIE]) {
        headers.remove(name);
    }
    let mut put = |name: &str, value: &str| -> Result<(), ApiError> {
        let odd = || ApiError::bad_request("the caller's identity cannot be written in a header".to_owned());
        let name = HeaderName::try_from(name).map_err(|_| odd())?;
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| odd())?);
        Ok(())
    };
    put("x-remote-user", &user.name)?;
    if !user.uid.is_empty() {
        put("x-remote-uid", &user.uid)?;
    }
    for group in &user.groups {
        put("x-remote-group", group)?;
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        for value in values {
            put(&name, value)?;
        }
    }
    Ok(())
}

/// A key as it may stand in the name of a header (RFC 9110 §5.6.2), the rest percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        let token = byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        if token { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02x}")) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_cannot_say_who_they_are() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-a", "b"),
            ("authorization", "Bearer x"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let mut user = UserInfo::new("jane", &["dev"]);
        user.extra.insert("scopes/x".into(), vec!["view".into()]);
        identify(&mut headers, &user).unwrap();
        assert_eq!(headers["x-remote-user"], "jane");
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["dev", "system:authenticated"]);
        assert_eq!(headers["x-remote-extra-scopes%2fx"], "view");
        assert!(!headers.contains_key("authorization") && !headers.contains_key("x-remote-extra-a"));
        assert!(headers.contains_key("accept"));
        let odd = UserInfo { name: "a\r\nb".into(), ..UserInfo::default() };
        assert!(identify(&mut headers, &odd).is_err());
    }

    #[test]
    fn callers_cannot_make_their_names_get_lost() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", "X-Remote-User, x-remote-group, upgrade".parse().unwrap());
        headers.insert("upgrade", "websocket".parse().unwrap());
        strip_named(&mut headers);
        identify(&mut headers, &UserInfo::new("jane", &["dev"])).unwrap();
        assert!(headers["connection"] == "Upgrade" && headers["upgrade"] == "websocket");
        crate::proxy::forward::strip(&mut headers);
        assert!(headers["x-remote-user"] == "jane" && headers.get_all("x-remote-group").iter().count() == 2);
    }

    #[test]
    fn paths_do_not_climb() {
        for bad in ["/apis/g/v/../x", "/apis/g/v/%2e%2E/x", "/apis/g/v/./x", "/apis/g/v/a%2f..%2fb"] {
            assert!(climbs(bad), "{bad}");
        }
        for good in ["/apis/g/v/x?y=../z", "/apis/g/v/..x", "/apis/g/v/x%2fy"] {
            assert!(!climbs(good), "{good}");
        }
    }
}
