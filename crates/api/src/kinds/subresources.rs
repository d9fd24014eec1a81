//! What each subresource of a built-in kind is: the kind read and written there, and its verbs.

use super::{Gvk, Subresource, Verbs};

/// The subresource of that name under the given parent.
pub(super) fn subresource(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
) -> Subresource {
    let own = || Gvk::new(group, version, kind);
    let core = |kind: &'static str| Gvk::new("", "v1", kind);
    let connect = Verbs::CREATE.with(Verbs::GET);
    let (gvk, verbs) = match name {
        "attach" => (core("PodAttachOptions"), connect),
        "binding" => (core("Binding"), Verbs::CREATE),
        "eviction" => (Gvk::new("policy", "v1", "Eviction"), Verbs::CREATE),
        "exec" => (core("PodExecOptions"), connect),
        "finalize" => (own(), Verbs::UPDATE),
        "log" => (own(), Verbs::GET),
        "portforward" => (core("PodPortForwardOptions"), connect),
        "proxy" => {
            let options = match kind {
                "Pod" => "PodProxyOptions",
                "Node" => "NodeProxyOptions",
                _ => "ServiceProxyOptions",
            };
            (core(options), Verbs::CREATE.with(Verbs::DELETE).with(Verbs::GET_PATCH_UPDATE))
        }
        "scale" => (Gvk::new("autoscaling", "v1", "Scale"), Verbs::GET_PATCH_UPDATE),
        "token" => (Gvk::new("authentication.k8s.io", "v1", "TokenRequest"), Verbs::CREATE),
        // status, approval, ephemeralcontainers, resize: the object itself, seen through a smaller door.
        _ => (own(), Verbs::GET_PATCH_UPDATE),
    };
    Subresource { name: name.into(), kind: gvk, verbs }
}
