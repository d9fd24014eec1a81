//! Where objects lie in the store: `GROUP/RESOURCE/[NAMESPACE/]NAME`, the core group written `core`. The first two
//! segments are the store's bucket, so one kind is one bucket.

use caravel_api::kinds::Kind;

/// The store's name of a group.
fn group_segment(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}

/// The prefix of all objects of a resource.
pub fn bucket(group: &str, plural: &str) -> String {
    format!("{}/{plural}/", group_segment(group))
}

/// The prefix of the objects of `kind` in `namespace` (empty for all).
pub fn prefix(kind: &Kind, namespace: &str) -> String {
    let mut out = bucket(&kind.storage_group, &kind.plural);
    if kind.namespaced && !namespace.is_empty() {
        out.push_str(namespace);
        out.push('/');
    }
    out
}

/// The key of one object.
pub fn object(kind: &Kind, namespace: &str, name: &str) -> String {
    let mut out = prefix(kind, namespace);
    out.push_str(name);
    out
}

/// The key of one object by group and plural name.
pub fn of(group: &str, plural: &str, namespace: &str, name: &str) -> String {
    let mut out = bucket(group, plural);
    if !namespace.is_empty() {
        out.push_str(namespace);
        out.push('/');
    }
    out.push_str(name);
    out
}

/// Whether objects of `kind` are stored encrypted (when encryption is on).
pub fn may_be_sealed(kind: &Kind) -> bool {
    kind.storage_group.is_empty() && kind.plural == "secrets"
}

/// Namespace (or empty) and name of a key.
pub fn split(key: &str) -> (&str, &str) {
    let rest = key.splitn(3, '/').nth(2).unwrap_or_default();
    rest.split_once('/').unwrap_or(("", rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_into_what_made_them() {
        assert_eq!(of("", "pods", "ns", "p"), "core/pods/ns/p");
        assert_eq!(split("core/pods/ns/p"), ("ns", "p"));
        assert_eq!(split(&of("", "nodes", "", "n")), ("", "n"));
        assert_eq!(of("apps", "deployments", "x", "d"), "apps/deployments/x/d");
    }
}
