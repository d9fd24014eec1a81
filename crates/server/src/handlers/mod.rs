//! From a request to its answer: authentication → impersonation → flow control → authorization → the handler.

pub mod documents;
pub mod health;
mod impersonation;
pub mod paths;
pub mod present;
pub mod resource;
pub mod reviews;
pub mod special;
pub mod watch;

use crate::authn::{Authenticated, AuthnError, Remarks, UserInfo, impersonate, request_header, tokens};
use crate::authz::{Attributes, Decision};
use crate::flow::{Class, Room};
use crate::http::body::{Body, RequestBody};
use crate::http::negotiate::{Accept, MediaType};
use crate::http::{compress, respond};
use crate::registry::Call;
use crate::request_info::RequestInfo;
use crate::server::{Origin, Server};
use caravel_api::status::ApiError;
use futures::FutureExt as _;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Everything that a handler knows of its request.
pub struct Inbound {
    /// Method, path, headers, extensions.
    pub parts: Parts,
    /// The body, until somebody reads it.
    pub body: Mutex<Option<RequestBody>>,
    /// What the request is about.
    pub info: Arc<RequestInfo>,
    /// On whose behalf.
    pub call: Arc<Call>,
}

/// Among the extensions of a request that came from a component of this process.
#[derive(Clone, Copy)]
pub struct InProcess;

impl Inbound {
    /// Whether a component of this process asks, with no connection between.
    pub fn is_in_process(&self) -> bool {
        self.parts.extensions.get::<InProcess>().is_some()
    }

    /// The body, to be read. Once; afterwards it is empty.
    pub fn take_body(&self) -> RequestBody {
        self.body.lock().take().unwrap_or_else(|| {
            RequestBody::new(http_body_util::Empty::new().map_err(|never: std::convert::Infallible| match never {}))
        })
    }

    /// The query string, raw.
    pub fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }
}

/// What may be asked without credentials, if the authorizer allows it: health, and what a node reads before it trusts anybody.
fn is_for_anybody(info: &RequestInfo) -> bool {
    const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    match info.is_resource {
        true => info.path == CLUSTER_INFO && info.verb == "get",
        false => health::is_anonymous(&info.path),
    }
}

impl Server {
    /// Answers one request. Never fails and never panics: what goes wrong is an answer.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<RequestBody>, origin: Origin) -> Response<Body> {
        let began = Instant::now();
        let (mut parts, body) = request.into_parts();
        let info = Arc::new(RequestInfo::parse(&parts.method, &parts.uri));
        let audit_id = parts
            .headers
            .get("audit-id")
            .filter(|v| v.len() <= 64)
            .cloned()
            .or_else(|| HeaderValue::try_from(fresh_uid()).ok());
        let head = parts.method == Method::HEAD;
        let gzip = compress::wanted(&parts.headers) && !matches!(origin, Origin::Local(_));
        if matches!(origin, Origin::Local(_)) {
            parts.extensions.insert(InProcess);
        }
        let summary = info.clone();
        let long_running = info.is_long_running(&parts.uri);
        let trail = self.audit.as_ref().map(|audit| {
            let id = audit_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
            audit.begin(id, &parts, &info, &origin)
        });
        if let Some(trail) = &trail {
            parts.extensions.insert(trail.clone());
        }
        let mut panicked = false;
        let work = AssertUnwindSafe(self.clone().process(parts, body, info, origin)).catch_unwind().await;
        let mut response = match work {
            Ok(response) => response,
            Err(panic) => {
                self.metrics.panics.inc();
                panicked = true;
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|s| (*s).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                tracing::error!(path = %summary.path, verb = %summary.verb, panic = %text, "a request panicked");
                respond::error(
                    &ApiError::internal("this request caused a fault in the server, which went on"),
                    MediaType::Json,
                )
            }
        };
        if let Some(trail) = &trail {
            let answer = trail.take_response(&mut response);
            let answer = if panicked { crate::audit::Answer::Panic } else { answer };
            if let Some(end) = trail.answered(answer, long_running).await {
                response = hold(response, end);
            }
        }
        if let Some(id) = audit_id {
            response.headers_mut().insert("audit-id", id);
        }
        if gzip {
            response = compress::gzip(response);
        }
        if head {
            let length = response.body().len();
            *response.body_mut() = Body::Empty;
            if let Some(length) = length {
                response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        let known = summary.is_resource && response.status() != 404;
        self.metrics.finished(&summary, response.status().as_u16(), began.elapsed(), known);
        response
    }

    async fn process(
        self: Arc<Self>,
        mut parts: Parts,
        body: RequestBody,
        info: Arc<RequestInfo>,
        origin: Origin,
    ) -> Response<Body> {
        let media = Accept::plain_media(&parts.headers);
        if self.ending.load(Ordering::Acquire) && matches!(origin, Origin::Remote(_)) {
            // The client's next request should go elsewhere.
            let response = self.clone().authenticated(&mut parts, body, info, origin).await;
            let mut response = response.unwrap_or_else(|e| respond::error(&e, media));
            response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        match self.clone().authenticated(&mut parts, body, info, origin).await {
            Ok(response) => response,
            Err(error) => respond::error(&error, media),
        }
    }

    async fn authenticated(
        self: Arc<Self>,
        parts: &mut Parts,
        body: RequestBody,
        info: Arc<RequestInfo>,
        origin: Origin,
    ) -> Result<Response<Body>, ApiError> {
        let trail = crate::audit::Trail::of(parts).cloned();
        let attempted = credentials(parts, &origin);
        let user = match (self.identify(parts, &info, &origin).await, &trail) {
            (Ok(user), Some(trail)) => {
                trail.known(&user).await?;
                user
            }
            (Err(error), Some(trail)) => {
                trail.unknown(attempted);
                return Err(error);
            }
            (other, None) => other?,
        };
        // Apart, so that it takes no room in requests that do not ask for it.
        let user = match impersonate::is_asked(&parts.headers) {
            true => Box::pin(self.acting_as(parts, user, &info)).await?,
            false => user,
        };
        let class = self.flow.classify(&user, &info);
        let media = Accept::plain_media(&parts.headers);
        let result = self.clone().seated(parts, body, info, user, &class).await;
        let mut response = result.unwrap_or_else(|error| respond::error(&error, media));
        class.mark(response.headers_mut());
        Ok(response)
    }

    /// How many seats a request takes.
    fn width(&self, parts: &Parts, info: &RequestInfo) -> u32 {
        let sizes = &self.registry.sizes;
        if info.verb != "list" || sizes.is_empty() {
            return 1;
        }
        let kinds = self.registry.kinds();
        let Some(kind) = kinds.resource(&info.group, &info.version, &info.resource) else { return 1 };
        let stored = sizes.of(&crate::registry::keys::prefix(kind, &info.namespace));
        crate::flow::cost::seats_of_list(info, &parts.uri, stored)
    }

    /// Answers once there is room.
    async fn seated(
        self: Arc<Self>,
        parts: &mut Parts,
        body: RequestBody,
        info: Arc<RequestInfo>,
        user: Arc<UserInfo>,
        class: &Class,
    ) -> Result<Response<Body>, ApiError> {
        let long = info.is_long_running(&parts.uri);
        let room = if long {
            Some(self.flow.enter_long(&user)?)
        } else {
            Some(self.flow.enter(class, self.width(parts, &info)).await?)
        };
        let trail = crate::audit::Trail::of(parts).cloned();
        let decision = self.authorize(&user, &info).await?;
        if let Some(trail) = &trail {
            trail.decided(decision.allowed(), decision.reason());
        }
        Attributes::of(&user, &info).allowed_by(&decision)?;
        let call = Arc::new(Call::new(user, manager_of(parts)));
        if let Some(remarks) = parts.extensions.remove::<Remarks>() {
            remarks.warnings.into_iter().for_each(|text| call.warn(text));
            call.audit.lock().extend(remarks.annotations);
        }
        if let Some(trail) = &trail {
            trail.serving(&call);
        }
        let placeholder = Request::new(()).into_parts().0;
        let inbound = Inbound {
            parts: std::mem::replace(parts, placeholder),
            body: Mutex::new(Some(body)),
            info,
            call: call.clone(),
        };
        let mutating = !matches!(inbound.parts.method, Method::GET | Method::HEAD);
        let mut response = if long {
            self.metrics.long_running.inc();
            let guard = LongGuard { server: self.clone(), _room: room };
            hold(self.clone().dispatch(inbound).await?, guard)
        } else {
            let gauge = self.metrics.in_flight(mutating);
            gauge.inc();
            let result = tokio::time::timeout(self.config.request_timeout, self.clone().dispatch(inbound)).await;
            gauge.dec();
            drop(room);
            result
                .unwrap_or_else(|_| Err(ApiError::timeout("request did not complete within the allotted timeout", 0)))?
        };
        let warnings = std::mem::take(&mut *call.warnings.lock());
        respond::warnings(&mut response, &warnings);
        Ok(response)
    }

    /// Refuses what the user may not do. A node that is refused may only be faster than the node graph: it saw its Pod a
    /// moment before the graph did. So the Pods of that namespace are looked at once more before it is sent away.
    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<Decision, ApiError> {
        let attributes = Attributes::of(user, info);
        let decision = self.authorizer.decide(&attributes).await;
        let Some(node) = user.node_name().filter(|_| info.is_resource && !info.namespace.is_empty()) else {
            return Ok(decision);
        };
        if !matches!(decision, Decision::NoOpinion(_)) {
            return Ok(decision);
        }
        crate::bootstrap::policy_watch::refresh_node(&self.registry, &self.authorizer, node, &info.namespace).await?;
        Ok(self.authorizer.decide(&attributes).await)
    }

    /// Who asks.
    async fn identify(
        &self,
        parts: &mut Parts,
        info: &RequestInfo,
        origin: &Origin,
    ) -> Result<Arc<UserInfo>, ApiError> {
        let peer = match origin {
            Origin::Local(identity) => return Ok(identity.clone()),
            Origin::Remote(peer) => peer,
        };
        let mut failed: Option<AuthnError> = None;
        if !peer.peer.certificates.is_empty() {
            if let Some(user) = self.fronted(parts, peer) {
                return Ok(user);
            }
            let identity = peer.identity.get_or_init(|| self.x509.authenticate(&peer.peer.certificates));
            match identity.as_ref().map_err(Clone::clone).and_then(|i| self.x509.recheck(i)) {
                Ok(user) => return Ok(user),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(token) = bearer_token(parts) {
            // The token is a credential: nothing behind this point needs to see it.
            parts.headers.remove(AUTHORIZATION);
            match self.authenticate_token(&token, self.service_accounts.audiences()).await {
                Ok(found) => {
                    parts.extensions.insert(found.remarks);
                    return Ok(found.user);
                }
                Err(error) => failed = Some(error),
            }
        } else if parts.headers.contains_key(AUTHORIZATION) {
            failed = Some(AuthnError::UnknownToken);
        }
        match failed {
            Some(error) => {
                if let (AuthnError::Invalidated(namespace, secret), Some(trail)) =
                    (&error, crate::audit::Trail::of(parts))
                {
                    trail.annotate("authentication.k8s.io/legacy-token-invalidated", format!("{secret}/{namespace}"));
                }
                tracing::debug!(%error, path = %info.path, from = %peer.peer.address, "a request could not be authenticated");
                Err(ApiError::unauthorized("Unauthorized"))
            }
            None if self.is_open(info) => Ok(Arc::new(UserInfo::anonymous())),
            None => Err(ApiError::unauthorized("Unauthorized")),
        }
    }

    /// Whether a request is looked at that comes without credentials.
    fn is_open(&self, info: &RequestInfo) -> bool {
        match self.issuers.read().anonymous() {
            Some(anonymous) => anonymous.admits(&info.path),
            None => is_for_anybody(info),
        }
    }

    /// The user whom a front proxy names in headers, when the certificate of the connection is a front proxy's.
    fn fronted(&self, parts: &mut Parts, peer: &crate::server::RemotePeer) -> Option<Arc<UserInfo>> {
        let user = request_header::user(&parts.headers)?;
        let proxy = peer.front_proxy.get_or_init(|| {
            let found = self.front_proxy.authenticate(&peer.peer.certificates).ok();
            found.filter(|found| found.user.name == request_header::ALLOWED_NAME)
        });
        self.front_proxy.recheck(proxy.as_ref()?).ok()?;
        request_header::remove(&mut parts.headers);
        Some(Arc::new(user))
    }

    /// The user of a bearer token.
    pub(crate) async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Authenticated, AuthnError> {
        if let Some(user) = self.tokens.authenticate(token) {
            return Ok(Authenticated::plain(user, vec![]));
        }
        if let Some((id, secret)) = tokens::bootstrap_parts(token) {
            let user = tokens::bootstrap(&self.registry, id, secret).await?;
            return Ok(Authenticated::plain(user, vec![]));
        }
        if self.service_accounts.claims(token) {
            return self.service_accounts.authenticate(&self.registry, token, audiences).await;
        }
        let issuers = self.issuers.read().clone();
        if let Some(result) = issuers.authenticate(&self.registry, token).await {
            return result;
        }
        Err(AuthnError::UnknownToken)
    }

    async fn dispatch(self: Arc<Self>, inbound: Inbound) -> Result<Response<Body>, ApiError> {
        if let Some(claim) = self.aggregation.claim_request(&inbound.info) {
            return self.pass_on(inbound, claim).await;
        }
        if inbound.info.is_resource { self.resource(inbound).await } else { self.path(inbound).await }
    }
}

/// A random (version 4) UUID from the thread's generator, which needs no system call.
pub fn fresh_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

struct LongGuard {
    server: Arc<Server>,
    _room: Option<Room>,
}

impl Drop for LongGuard {
    fn drop(&mut self) {
        self.server.metrics.long_running.dec();
    }
}

/// Keeps `guard` as long as the answer's body is being sent.
fn hold<G: Send + 'static>(mut response: Response<Body>, guard: G) -> Response<Body> {
    use futures::StreamExt as _;
    let body = std::mem::take(response.body_mut());
    *response.body_mut() = match body {
        Body::Stream(stream) => Body::stream(stream.map(move |piece| {
            let _ = &guard;
            piece
        })),
        Body::Through(body) => Body::Through(RequestBody::new(body.map_frame(move |frame| {
            let _ = &guard;
            frame
        }))),
        other => other,
    };
    response
}

/// What a request shows to say who asks, as audit events name it.
fn credentials(parts: &Parts, origin: &Origin) -> Option<&'static str> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    match header.and_then(|text| text.split_once(' ')) {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("bearer") => Some("bearer"),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("basic") => Some("basic"),
        _ => matches!(origin, Origin::Remote(peer) if !peer.peer.certificates.is_empty()).then_some("x509"),
    }
}

fn bearer_token(parts: &Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(AUTHORIZATION) {
        let text = value.to_str().ok()?;
        let (scheme, token) = text.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()).filter(|t| !t.is_empty());
    }
    // Browsers cannot set headers on WebSockets: they carry the token as a subprotocol.
    use base64::Engine as _;
    let protocols = parts.headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded =
        protocols.split(',').map(str::trim).find_map(|p| p.strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok()
}

/// The first word of the user agent, up to a slash: who writes when the request does not say.
fn manager_of(parts: &Parts) -> String {
    let agent = parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(128).collect()
}
