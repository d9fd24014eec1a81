//! What the server tells of itself, in Prometheus' text form.

use crate::reload::Reloads;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::time::Duration;

/// Labels of a finished request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// Verb in upper case, `WATCH` for watches.
    pub verb: Cow<'static, str>,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Status code.
    pub code: u16,
}

/// Labels of a duration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DurationLabels {
    /// Verb in upper case.
    pub verb: Cow<'static, str>,
    /// API group.
    pub group: String,
    /// Resource.
    pub resource: String,
}

/// The kind of an in-flight request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FlightLabels {
    /// `mutating` or `readOnly`.
    pub request_kind: &'static str,
}

/// All metrics of the server.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    in_flight: Family<FlightLabels, Gauge>,
    /// Open watches and other long requests.
    pub long_running: Gauge,
    /// Requests that panicked.
    pub panics: Counter,
    /// What audit tells.
    pub audit: crate::audit::metrics::AuditMetrics,
    /// Requests in another's name.
    pub impersonation: crate::authn::impersonate::metrics::ImpersonationMetrics,
    /// Uses of tokens in Secrets.
    pub legacy_tokens: crate::authn::legacy::Uses,
    /// Changes of the file with further token issuers.
    pub authentication_reloads: Reloads,
    /// Changes of the file that says who decides.
    pub authorization_reloads: Reloads,
    /// Changes of the file with encryption keys.
    pub encryption_reloads: Reloads,
}

impl Metrics {
    /// Fresh metrics of the server with this identity.
    pub fn new(identity: &str) -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])
        });
        registry.register("apiserver_request_duration_seconds", "Response latency", durations.clone());
        let in_flight = Family::<FlightLabels, Gauge>::default();
        registry.register("apiserver_current_inflight_requests", "Requests being served", in_flight.clone());
        let long_running: Gauge = Gauge::default();
        registry.register("apiserver_longrunning_requests", "Watches and other long requests", long_running.clone());
        let panics = Counter::default();
        registry.register("apiserver_request_panics", "Requests that ended in a panic", panics.clone());
        let audit = crate::audit::metrics::AuditMetrics::register(&mut registry);
        let impersonation = crate::authn::impersonate::metrics::ImpersonationMetrics::register(&mut registry);
        let legacy_tokens = crate::authn::legacy::Uses::register(&mut registry);
        let mut reloads = |name: &str| Reloads::register(&mut registry, name, identity);
        let authentication_reloads = reloads("authentication_config");
        let authorization_reloads = reloads("authorization_config");
        let encryption_reloads = reloads("encryption_config");
        Self {
            registry,
            requests,
            durations,
            in_flight,
            long_running,
            panics,
            audit,
            impersonation,
            legacy_tokens,
            authentication_reloads,
            authorization_reloads,
            encryption_reloads,
        }
    }

    /// The gauge of requests being served.
    pub fn in_flight(&self, mutating: bool) -> Gauge {
        let request_kind = if mutating { "mutating" } else { "readOnly" };
        self.in_flight.get_or_create(&FlightLabels { request_kind }).clone()
    }

    /// Counts a finished request. Names go into labels only when they are `known`: what clients make up must not make series.
    pub fn finished(&self, info: &crate::request_info::RequestInfo, code: u16, took: Duration, known: bool) {
        let verb: Cow<'static, str> = match info.verb.as_str() {
            "get" => "GET".into(),
            "list" => "LIST".into(),
            "watch" => "WATCH".into(),
            "create" | "post" => "POST".into(),
            "update" | "put" => "PUT".into(),
            "patch" => "PATCH".into(),
            "delete" => "DELETE".into(),
            "deletecollection" => "DELETECOLLECTION".into(),
            _ => "other".into(),
        };
        let mut labels = RequestLabels {
            verb: verb.clone(),
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            code,
        };
        if known {
            labels.group.clone_from(&info.group);
            labels.version.clone_from(&info.version);
            labels.resource.clone_from(&info.resource);
            labels.subresource.clone_from(&info.subresource);
        }
        self.requests.get_or_create(&labels).inc();
        if verb != "WATCH" {
            let labels = DurationLabels { verb, group: labels.group, resource: labels.resource };
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Everything as text, with more lines of the caller's.
    pub fn text(&self, more: &str) -> String {
        let mut out = String::new();
        let _ = encode(&mut out, &self.registry);
        let end = out.rfind("# EOF").unwrap_or(out.len());
        out.insert_str(end, more);
        out
    }
}
