//! Spreading a change of `spec.replicas` over the ReplicaSets, and the steps of a rolling update.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::plan::Draft;
use super::util::*;
use crate::common::annotation;

/// How many replicas the newest ReplicaSet may have now.
pub fn new_rs_size(d: &Deployment, all: &[&ReplicaSet], current: i32) -> i32 {
    if !rolling(d) {
        return replicas(d);
    }
    let total = sum(all.iter().copied(), rs_replicas);
    let room = replicas(d) + max_surge(d) - total;
    if room <= 0 { current } else { current + room.min(replicas(d) - current) }
}

/// The change of one ReplicaSet's size that is proportional to its share, within what is left of `to_add`.
fn proportion(rs: &ReplicaSet, d: &Deployment, to_add: i32, added: i32) -> i32 {
    if rs_replicas(rs) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(rs, d);
    let left = to_add - added;
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(rs: &ReplicaSet, d: &Deployment) -> i32 {
    if replicas(d) == 0 {
        return -rs_replicas(rs);
    }
    let before = annotation(rs, MAX)
        .and_then(|v| v.parse::<i32>().ok())
        .filter(|n| *n != 0)
        .or_else(|| d.status.as_ref().and_then(|s| s.replicas))
        .unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let after = f64::from(replicas(d) + max_surge(d));
    let size = f64::from(rs_replicas(rs)) * after / f64::from(before);
    size.round() as i32 - rs_replicas(rs)
}

/// Whether the newest ReplicaSet holds all desired replicas and all are available.
fn saturated(d: &Deployment, rs: &ReplicaSet) -> bool {
    let desired: Option<i32> = annotation(rs, DESIRED).and_then(|v| v.parse().ok());
    desired == Some(replicas(d)) && rs_replicas(rs) == replicas(d) && rs_available(rs) == replicas(d)
}

/// Sizes the ReplicaSets after `spec.replicas` changed (also of a paused Deployment).
pub fn scale(d: &Deployment, draft: &mut Draft) {
    let active: Vec<usize> = draft.indices().filter(|i| rs_replicas(draft.rs(*i)) > 0).collect();
    let only = match active.as_slice() {
        // None is active: the newest one is scaled.
        [] => draft.new.or_else(|| draft.old().into_iter().max_by(|a, b| by_age(draft.rs(*a), draft.rs(*b)))),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(i) = only {
        if rs_replicas(draft.rs(i)) != replicas(d) {
            draft.resize(d, i, replicas(d));
        }
        return;
    }
    if active.is_empty() {
        return;
    }
    if draft.new.is_some_and(|n| saturated(d, draft.rs(n))) {
        for i in draft.active_old() {
            draft.resize(d, i, 0);
        }
        return;
    }
    if rolling(d) {
        scale_proportionally(d, draft, active);
    }
}

fn scale_proportionally(d: &Deployment, draft: &mut Draft, mut active: Vec<usize>) {
    let total: i32 = active.iter().map(|i| rs_replicas(draft.rs(*i))).sum();
    let allowed = if replicas(d) > 0 { replicas(d) + max_surge(d) } else { 0 };
    let to_add = allowed - total;
    // The largest first; of equals the newer when adding, the older when taking away.
    active.sort_by(|a, b| {
        let (a, b) = (draft.rs(*a), draft.rs(*b));
        let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
        rs_replicas(b).cmp(&rs_replicas(a)).then(age)
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = vec![];
    for i in &active {
        let rs = draft.rs(*i);
        let part = if to_add == 0 { 0 } else { proportion(rs, d, to_add, added) };
        added += part;
        sizes.push(rs_replicas(rs) + part);
    }
    // What rounding left over goes to the largest.
    if to_add != 0
        && let Some(first) = sizes.first_mut()
    {
        *first = (*first + to_add - added).max(0);
    }
    for (i, size) in active.into_iter().zip(sizes) {
        draft.resize(d, i, size);
    }
}

/// One step of a rolling update: first up, else down; returns whether something was resized. With a cap the newest ReplicaSet stays
/// that small, and the others keep the rest.
pub fn roll(d: &Deployment, draft: &mut Draft, cap: Option<i32>) -> bool {
    roll_up(d, draft, cap) || roll_down(d, draft, cap)
}

fn roll_up(d: &Deployment, draft: &mut Draft, cap: Option<i32>) -> bool {
    let Some(new) = draft.new else { return false };
    let current = rs_replicas(draft.rs(new));
    if current == replicas(d) {
        return false;
    }
    let size = if current > replicas(d) {
        replicas(d)
    } else {
        new_rs_size(d, &draft.indices().map(|i| draft.rs(i)).collect::<Vec<_>>(), current)
    };
    draft.resize(d, new, cap.map_or(size, |c| size.min(c)))
}

fn roll_down(d: &Deployment, draft: &mut Draft, cap: Option<i32>) -> bool {
    let mut old = draft.active_old();
    let old_total: i32 = old.iter().map(|i| rs_replicas(draft.rs(*i))).sum();
    if old_total == 0 {
        return false;
    }
    old.sort_by(|a, b| by_age(draft.rs(*a), draft.rs(*b)));
    let (new_total, new_available) =
        draft.new.map_or((0, 0), |n| (rs_replicas(draft.rs(n)), rs_available(draft.rs(n))));
    let min_available = replicas(d) - max_unavailable(d);
    let may_go = cap.map_or(old_total, |c| old_total - (replicas(d) - c));
    let budget = (old_total + new_total - min_available - (new_total - new_available)).min(may_go);
    if budget <= 0 {
        return false;
    }
    let unhealthy = remove_unhealthy(d, draft, &old, budget);
    let healthy = remove_healthy(d, draft, &old, min_available, may_go - unhealthy);
    unhealthy + healthy > 0
}

/// Unavailable replicas of old ReplicaSets go first: they cost nobody anything.
fn remove_unhealthy(d: &Deployment, draft: &mut Draft, old: &[usize], budget: i32) -> i32 {
    let mut removed = 0;
    for i in old {
        let (size, available) = (rs_replicas(draft.rs(*i)), rs_available(draft.rs(*i)));
        if removed >= budget {
            break;
        }
        if size == 0 || size <= available {
            continue;
        }
        let take = (budget - removed).min(size - available);
        draft.resize(d, *i, size - take);
        removed += take;
    }
    removed
}

fn remove_healthy(d: &Deployment, draft: &mut Draft, old: &[usize], min_available: i32, may_go: i32) -> i32 {
    let available: i32 = old.iter().copied().chain(draft.new).map(|i| rs_available(draft.rs(i))).sum();
    let budget = (available - min_available).min(may_go);
    let mut removed = 0;
    for i in old {
        if removed >= budget {
            break;
        }
        let size = rs_replicas(draft.rs(*i));
        if size == 0 {
            continue;
        }
        let take = size.min(budget - removed);
        draft.resize(d, *i, size - take);
        removed += take;
    }
    removed.max(0)
}
