//! The two names of a built-in type: short, as the type table has it (`apps.v1.Deployment`), and
//! full, as OpenAPI documents have it (`io.k8s.api.apps.v1.Deployment`).

use std::borrow::Cow;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.";
const MACHINERY: &str = "io.k8s.apimachinery.pkg.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.";
const AGGREGATOR: &str = "io.k8s.kube-aggregator.pkg.apis.";
const METRICS: &str = "io.k8s.metrics.pkg.apis.";
const API: &str = "io.k8s.api.";

/// The short name of a full one. A name that is short already is returned as it is.
pub fn short(full: &str) -> Cow<'_, str> {
    if let Some(rest) = full.strip_prefix(META) {
        return format!("meta.{rest}").into();
    }
    if let Some(rest) = full.strip_prefix(MACHINERY) {
        return format!("machinery.{rest}").into();
    }
    for prefix in [EXTENSIONS, AGGREGATOR, METRICS, API] {
        if let Some(rest) = full.strip_prefix(prefix) {
            return rest.into();
        }
    }
    full.into()
}

/// The full name of a short one.
pub fn full(short: &str) -> String {
    match short.split_once('.') {
        Some(("meta", rest)) => format!("{META}{rest}"),
        Some(("machinery", rest)) => format!("{MACHINERY}{rest}"),
        Some(("apiextensions", _)) => format!("{EXTENSIONS}{short}"),
        Some(("apiregistration", _)) => format!("{AGGREGATOR}{short}"),
        Some(("metrics", _)) => format!("{METRICS}{short}"),
        _ => format!("{API}{short}"),
    }
}
