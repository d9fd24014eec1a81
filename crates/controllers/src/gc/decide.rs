//! Whether an object is garbage: from its live metadata and what became of its owners.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PropagationPolicy;

use super::graph::{FOREGROUND, ORPHAN};

/// What became of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It exists.
    Solid,
    /// It does not exist (any more, or never in the dependent's namespace).
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It lives on as it is.
    Keep,
    /// It has other owners: only these references go (the list that stays is given).
    Unlink(Vec<OwnerReference>),
    /// Its owners wait for it and it has dependents that do not themselves wait: it goes with them, in the foreground. Where a dependent waits
    /// already there is a circle, which is broken by not blocking the owners any more.
    DeleteForeground,
    /// It goes.
    Delete(PropagationPolicy),
}

/// Decides about one object. `owners` is in the order of its owner references; `has_dependents` is whether others name it as owner.
pub fn decide(live: &ObjectMeta, owners: &[Owner], has_dependents: bool) -> Verdict {
    let references = live.owner_references.as_deref().unwrap_or_default();
    if references.is_empty() {
        return Verdict::Keep;
    }
    let any = |wanted: Owner| owners.contains(&wanted);
    if any(Owner::Solid) {
        if owners.iter().all(|o| *o == Owner::Solid) {
            return Verdict::Keep;
        }
        let solid = references.iter().zip(owners).filter(|(_, o)| **o == Owner::Solid).map(|(r, _)| r.clone());
        return Verdict::Unlink(solid.collect());
    }
    if any(Owner::Waiting) && has_dependents {
        return Verdict::DeleteForeground;
    }
    let finalizer = |f: &str| live.finalizers.iter().flatten().any(|x| x == f);
    Verdict::Delete(if finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if finalizer(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

#[cfg(test)]
mod tests {
    use super::Owner::{Absent, Solid, Waiting};
    use super::*;

    #[test]
    fn table() {
        let reference = |uid: &str| OwnerReference { uid: uid.into(), ..Default::default() };
        let live = |n: usize| ObjectMeta {
            owner_references: Some((0..n).map(|i| reference(&i.to_string())).collect()),
            ..Default::default()
        };
        let background = || Verdict::Delete(PropagationPolicy::Background);
        let cases = [
            (0, vec![], false, Verdict::Keep),
            (1, vec![Solid], false, Verdict::Keep),
            (1, vec![Absent], false, background()),
            (2, vec![Solid, Absent], false, Verdict::Unlink(vec![reference("0")])),
            (2, vec![Waiting, Solid], true, Verdict::Unlink(vec![reference("1")])),
            (2, vec![Absent, Absent], true, background()),
            (1, vec![Waiting], false, background()),
            (1, vec![Waiting], true, Verdict::DeleteForeground),
        ];
        for (i, (n, owners, dependents, want)) in cases.into_iter().enumerate() {
            assert_eq!(decide(&live(n), &owners, dependents), want, "case {i}");
        }
        let orphaning = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..live(1) };
        assert_eq!(decide(&orphaning, &[Absent], false), Verdict::Delete(PropagationPolicy::Orphan));
    }
}
