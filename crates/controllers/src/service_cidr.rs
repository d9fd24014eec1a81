//! Ranges of Service addresses (KEP-1880): a range is ready when it is seen, and is not let go while an address of it is used that
//! no other range has.

use std::net::IpAddr;
use std::sync::Arc;

use caravel_client::{Change, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::PostParams;

use crate::common::*;
use crate::context::{Context, enqueue_each};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";

/// What is to be written next.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// The object itself: its finalizers.
    Object(Box<ServiceCIDR>),
    /// Its status.
    Status(Box<ServiceCIDR>),
}

fn bits(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(a) => (32, u128::from(u32::from(a))),
        IpAddr::V6(a) => (128, u128::from(a)),
    }
}

fn contains(cidr: &str, address: IpAddr) -> bool {
    let Some((network, length)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let ((family, network), (own, address)) = (bits(network), bits(address));
    let shift = family.saturating_sub(length);
    family == own && network.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
}

fn has(range: &ServiceCIDR, address: IpAddr) -> bool {
    range.spec.iter().flat_map(|s| s.cidrs.iter().flatten()).any(|cidr| contains(cidr, address))
}

fn with_ready(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Step {
    let standing = range.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == READY);
    if standing.is_some_and(|c| c.status == status && c.message == message) {
        return Step::Nothing;
    }
    let since = standing.filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let mut changed = range.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != READY);
    conditions.push(Condition {
        type_: READY.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since.unwrap_or_else(|| stored_time(now)),
        observed_generation: None,
    });
    Step::Status(Box::new(changed))
}

/// Decides about one range.
fn plan(range: &ServiceCIDR, ranges: &[Arc<ServiceCIDR>], used: &[IpAddr], now: Timestamp) -> Step {
    let finalizers = range.metadata.finalizers.as_deref().unwrap_or_default();
    let held = finalizers.iter().any(|f| f == FINALIZER);
    if !deleting(range) {
        if held {
            let message = match name(range) {
                "kubernetes" => "Kubernetes default Service CIDR is ready",
                _ => "Kubernetes Service CIDR is ready",
            };
            return with_ready(range, "True", "", message, now);
        }
        let mut changed = range.clone();
        changed.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
        return Step::Object(Box::new(changed));
    }
    if !held {
        return Step::Nothing;
    }
    let others: Vec<_> = ranges.iter().filter(|r| name(&***r) != name(range) && !deleting(&***r)).collect();
    let orphan = used.iter().find(|a| has(range, **a) && !others.iter().any(|r| has(r, **a)));
    if orphan.is_some() {
        let message =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return with_ready(range, "False", "Terminating", message, now);
    }
    let mut changed = range.clone();
    changed.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
    Step::Object(Box::new(changed))
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let ranges: Informer<ServiceCIDR> = context.cluster.informer();
    let addresses: Informer<IPAddress> = context.cluster.informer();
    let queue = WorkQueue::new();
    enqueue_each(&ranges, &queue);
    // A range that goes makes others responsible, and an address that goes may free one.
    let all = {
        let (ranges, queue) = (ranges.clone(), queue.clone());
        move || ranges.list().iter().filter(|r| deleting(&***r)).for_each(|r| queue.add(Key::of(&**r)))
    };
    let again = all.clone();
    ranges.on_change(move |change| {
        if matches!(change, Change::Added(_)) {
            again();
        }
    });
    addresses.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) {
            all();
        }
    });
    ranges.synced().await;
    addresses.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let range = ranges.get(&key);
        let used: Vec<IpAddr> = addresses.list().iter().filter_map(|a| name(&**a).parse().ok()).collect();
        let step = range.map_or(Step::Nothing, |r| plan(&r, &ranges.list(), &used, context.now()));
        let api: Api<ServiceCIDR> = Api::all(client.clone());
        async move {
            match step {
                Step::Nothing => {}
                Step::Object(changed) => gone_is_fine(api.replace(&key.name, &PostParams::default(), &changed).await)?,
                Step::Status(changed) => gone_is_fine(put_status(&api, &*changed).await)?,
            }
            Ok(None)
        }
    };
    context.work(queue, 1, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn range(name: &str, cidr: &str, deleting: bool, held: bool) -> Arc<ServiceCIDR> {
        let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if held {
            object["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn ready(step: &Step) -> Option<(String, String)> {
        let Step::Status(range) = step else { return None };
        let condition = range.status.as_ref()?.conditions.as_ref()?.first()?;
        Some((condition.status.clone(), condition.reason.clone()))
    }

    #[test]
    fn a_range_is_held_then_ready_and_let_go_when_it_is_not_needed() {
        let now = Timestamp::UNIX_EPOCH;
        let used = ["203.0.113.10".parse().unwrap()];
        let fresh = range("a", "203.0.113.0/24", false, false);
        assert!(
            matches!(plan(&fresh, &[], &used, now), Step::Object(r) if r.metadata.finalizers.as_deref() == Some(&[FINALIZER.into()]))
        );
        let held = range("a", "203.0.113.0/24", false, true);
        assert_eq!(ready(&plan(&held, &[], &used, now)), Some(("True".into(), String::new())));
        let going = range("a", "203.0.113.0/24", true, true);
        assert_eq!(ready(&plan(&going, &[], &used, now)), Some(("False".into(), "Terminating".into())));
        let other = range("b", "203.0.113.0/25", false, true);
        assert!(matches!(plan(&going, &[other], &used, now), Step::Object(r) if r.metadata.finalizers == Some(vec![])));
        assert!(matches!(plan(&going, &[], &[], now), Step::Object(_)));
    }

    #[test]
    fn ranges_contain_addresses_of_their_family() {
        for (cidr, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "11.0.0.1", true),
            ("fd00::/108", "fd00::1", true),
            ("fd00::/108", "10.0.0.1", false),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("nonsense", "10.0.0.1", false),
        ] {
            assert_eq!(contains(cidr, address.parse().unwrap()), inside, "{cidr} {address}");
        }
    }
}
