//! The groups of a table in the order in which upstream lists them.

use crate::kinds::{KindTable, Str, compare_versions};

/// A group and its versions, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Group name; never empty (the core group is not listed under `/apis`).
    pub name: Str,
    /// Served versions from the most to the least preferred.
    pub versions: Vec<Str>,
}

/// Built-in groups in the order of upstream's priorities; `kubectl` takes the first group that has a
/// resource when it is asked for a bare name, so the order is seen by users.
const ORDER: [&str; 20] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Every named group: built-in ones in upstream's order, others after them alphabetically.
pub fn groups(table: &KindTable) -> Vec<Group> {
    let mut found: Vec<Group> = Vec::new();
    for row in table.iter().filter(|k| !k.group.is_empty()) {
        match found.iter_mut().find(|g| g.name == row.group) {
            Some(group) if group.versions.contains(&row.version) => {}
            Some(group) => group.versions.push(row.version.clone()),
            None => found.push(Group { name: row.group.clone(), versions: vec![row.version.clone()] }),
        }
    }
    for group in &mut found {
        group.versions.sort_by(|a, b| compare_versions(a, b));
    }
    let rank = |name: &str| ORDER.iter().position(|o| *o == name).unwrap_or(ORDER.len());
    found.sort_by(|a, b| rank(&a.name).cmp(&rank(&b.name)).then_with(|| a.name.cmp(&b.name)));
    found
}
