//! From paths to handlers.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::auth::{Identity, Verdict};
use super::query::{Query, segments};
use super::reply::{self, Reply};
use super::{Context, logs, metrics, stats, stream};

pub(super) async fn handle(context: Arc<Context>, certificate: Option<Identity>, request: Request<Incoming>) -> Reply {
    let token = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .map(str::to_string);
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    match context.access.check(certificate.as_ref(), token.as_deref(), &method, &path).await {
        Verdict::Allowed => dispatch(context, request).await,
        Verdict::Unknown => reply::text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Verdict::Forbidden(why) => reply::text(StatusCode::FORBIDDEN, why),
        Verdict::Failed(why) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

async fn dispatch(context: Arc<Context>, request: Request<Incoming>) -> Reply {
    let parts = segments(request.uri().path());
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "syncloop" | "log"] if reads => reply::text(StatusCode::OK, "ok"),
        ["pods"] if reads => pods(&context, |_| true),
        ["runningpods"] if reads => pods(&context, |view| view.containers.iter().any(|c| c.running)),
        ["containerLogs", namespace, pod, container] if reads => {
            logs::handle(context, namespace, pod, container, &query, request).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            let target = stream::Target::new(namespace, pod, container);
            stream::exec(context, target, &query, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            let target = stream::Target::new(namespace, pod, container);
            stream::attach(context, target, &query, request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            let target = stream::Target::new(namespace, pod, "");
            stream::port_forward(context, target, &query, request).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if request.method() == Method::POST =>
        {
            stream::run(context, stream::Target::new(namespace, pod, container), &query).await
        }
        ["stats", "summary"] => stats::summary(&context).await,
        ["metrics"] if reads => metrics::own(&context).await,
        ["metrics", "resource"] if reads => metrics::resource(&context).await,
        ["metrics", "cadvisor"] if reads => metrics::cadvisor(&context).await,
        ["metrics", "probes"] if reads => metrics::text(String::new()),
        ["logs", rest @ ..] if reads => logs::node_file(&context, rest).await,
        _ => reply::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(context: &Context, wanted: impl Fn(&crate::PodView) -> bool) -> Reply {
    let items: Vec<_> = context.pods.pods().into_iter().filter(|view| wanted(view)).map(|view| view.pod).collect();
    // The list's elements carry no kind in upstream's answer either.
    let items: Vec<&k8s_openapi::api::core::v1::Pod> = items.iter().map(|pod| pod.as_ref()).collect();
    reply::json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}
