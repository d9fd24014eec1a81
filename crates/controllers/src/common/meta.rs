//! Small readings of object metadata.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

/// The object's name (empty when it has none yet).
pub fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// The object's namespace (empty for cluster scope).
pub fn namespace<K: Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// The object's uid (empty before it is stored).
pub fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// Whether deletion of the object was asked for.
pub fn deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// The owner that manages the object, if any (`controller: true`; there is at most one).
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    controller_in(object.meta())
}

/// As [`controller_of`], of bare metadata.
pub fn controller_in(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Whether `owner_uid` names the managing owner of the object.
pub fn controlled_by<K: Resource>(object: &K, owner_uid: &str) -> bool {
    controller_of(object).is_some_and(|o| o.uid == owner_uid)
}

/// The managing owner reference that an object made by `owner` carries.
pub fn owner_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The object's labels; an empty map when it has none.
pub fn labels<K: Resource>(object: &K) -> &BTreeMap<String, String> {
    static EMPTY: BTreeMap<String, String> = BTreeMap::new();
    object.meta().labels.as_ref().unwrap_or(&EMPTY)
}

/// One annotation's value.
pub fn annotation<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// The moment of creation (the epoch for an object not stored yet).
pub fn created<K: Resource>(object: &K) -> Timestamp {
    object.meta().creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// `at + seconds`, saturating.
pub fn plus(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// The time from `now` to `at`, or `None` when `at` has passed.
pub fn until(at: Timestamp, now: Timestamp) -> Option<Duration> {
    if at <= now { None } else { at.duration_since(now).try_into().ok() }
}

/// A `Time` with the sub-second part cut off, as it is stored: comparing a stored value with a fresh one must not differ by that.
pub fn stored_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Resolves an int-or-percent against a total (apimachinery `GetScaledValueFromIntOrPercent`); `None` when it is malformed.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(s) => {
            let percent: i64 = s.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let whole = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(whole).ok()
        }
    }
}

/// The name of the index by managing owner.
pub const BY_CONTROLLER: &str = "controller";

/// Index function: the uid of the managing owner, or `orphan/<namespace>` for objects that none manages.
pub fn controller_index<K: Resource>(object: &K) -> Vec<String> {
    vec![match controller_of(object) {
        Some(o) => o.uid.clone(),
        None => orphans_of(namespace(object)),
    }]
}

/// The index value under which the unmanaged objects of a namespace stand.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let p = IntOrString::String("25%".into());
        assert_eq!(scaled(&p, 10, true), Some(3));
        assert_eq!(scaled(&p, 10, false), Some(2));
        assert_eq!(scaled(&IntOrString::Int(7), 10, false), Some(7));
        assert_eq!(scaled(&IntOrString::String("x".into()), 10, false), None);
    }
}
