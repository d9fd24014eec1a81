//! The picks of a claim as the API has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::quantity::Quantity;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::claim::{Allocation, Held};
use super::search::{Pick, Wanted};
use super::slice::Place;
use crate::model::{NodeInfo, NodeRule};

/// What a claim gets: as the scheduler remembers it, and as it is written. Shares have no ids yet: those are made when it is written.
pub fn allocation(wanted: &Wanted, picks: &[Pick<'_>], node: &NodeInfo) -> (Allocation, resource::AllocationResult) {
    let selector = node_selector(picks, node);
    let held = picks.iter().map(|p| Held { id: p.device.id.clone(), admin: p.request.admin, share: p.share.clone() });
    let own = Allocation { devices: held.collect(), nodes: selector.as_ref().map(NodeRule::of_selector) };
    let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
    let written = resource::AllocationResult {
        allocation_timestamp: None,
        devices: Some(resource::DeviceAllocationResult {
            config: some(config(wanted, picks)),
            results: Some(picks.iter().map(result).collect()),
        }),
        node_selector: selector,
    };
    (own, written)
}

fn text(quantity: Quantity) -> Text {
    Text(quantity.to_string())
}

fn result(pick: &Pick<'_>) -> resource::DeviceRequestAllocationResult {
    let consumed: BTreeMap<String, Text> =
        pick.share.iter().flatten().map(|(name, amount)| (name.clone(), text(*amount))).collect();
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    resource::DeviceRequestAllocationResult {
        request: pick.request.name.to_string(),
        driver: pick.device.id.driver.to_string(),
        pool: pick.device.id.pool.to_string(),
        device: pick.device.id.device.to_string(),
        admin_access: pick.request.admin.then_some(true),
        tolerations: (!pick.request.tolerations.is_empty()).then(|| pick.request.tolerations.clone()),
        share_id: pick.share.as_ref().map(|_| String::new()),
        binding_conditions: some(&pick.device.conditions.0),
        binding_failure_conditions: some(&pick.device.conditions.1),
        consumed_capacity: (!consumed.is_empty()).then_some(consumed),
    }
}

/// Which alternative of each request was picked.
fn chosen(wanted: &Wanted, picks: &[Pick<'_>]) -> Vec<(usize, usize)> {
    let requests = wanted.claim.wants.requests.iter().enumerate();
    requests
        .filter_map(|(r, all)| Some((r, all.iter().position(|a| picks.iter().any(|p| p.request.name == a.name))?)))
        .collect()
}

/// What is passed on to drivers: first what the classes say (once each, with all requests it is for), then what the claim says.
fn config(wanted: &Wanted, picks: &[Pick<'_>]) -> Vec<resource::DeviceAllocationConfiguration> {
    let wants = &wanted.claim.wants;
    let chosen = chosen(wanted, picks);
    let mut out: Vec<resource::DeviceAllocationConfiguration> = Vec::new();
    let mut seen: Vec<(Arc<str>, std::ops::Range<usize>)> = Vec::new();
    for (r, a) in &chosen {
        let request = &wants.requests[*r][*a];
        if let Some((_, range)) = seen.iter().find(|(class, _)| *class == request.class) {
            for one in &mut out[range.clone()] {
                one.requests.get_or_insert_default().push(request.name.to_string());
            }
            continue;
        }
        let start = out.len();
        out.extend(wanted.requests[*r][*a].0.config.iter().map(|c| resource::DeviceAllocationConfiguration {
            source: "FromClass".into(),
            requests: Some(vec![request.name.to_string()]),
            opaque: c.opaque.clone(),
        }));
        seen.push((request.class.clone(), start..out.len()));
    }
    for c in &wants.config {
        let about = c.requests.as_deref().unwrap_or_default();
        let is_about = |(r, a): &(usize, usize)| {
            let request = &wants.requests[*r][*a];
            about.iter().any(|name| *name == *request.name || name == request.main())
        };
        if about.is_empty() || chosen.iter().any(is_about) {
            out.push(resource::DeviceAllocationConfiguration {
                source: "FromClaim".into(),
                requests: (!about.is_empty()).then(|| about.to_vec()),
                opaque: c.opaque.clone(),
            });
        }
    }
    // What is about all of them says so by naming none.
    for one in &mut out {
        if one.requests.as_ref().is_some_and(|names| names.len() == wants.requests.len()) {
            one.requests = None;
        }
    }
    out
}

fn by_name(node: &str) -> core::NodeSelector {
    let name = core::NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = core::NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    core::NodeSelector { node_selector_terms: vec![term] }
}

/// The nodes that can use all the devices; `None` when all can. The selectors of slices have one term each.
fn node_selector(picks: &[Pick<'_>], node: &NodeInfo) -> Option<core::NodeSelector> {
    let mut term = core::NodeSelectorTerm::default();
    let add = |to: &mut Option<Vec<core::NodeSelectorRequirement>>, from: &Option<Vec<_>>| {
        for requirement in from.iter().flatten() {
            let all = to.get_or_insert_default();
            if !all.contains(requirement) {
                all.push(requirement.clone());
            }
        }
    };
    for pick in picks {
        match &pick.device.place {
            _ if pick.device.binds_to_node => return Some(by_name(&node.name)),
            Place::Node(name) => return Some(by_name(name)),
            Place::Nodes(_, selector) => {
                for one in selector.node_selector_terms.iter().take(1) {
                    add(&mut term.match_expressions, &one.match_expressions);
                    add(&mut term.match_fields, &one.match_fields);
                }
            }
            Place::All | Place::EachDevice | Place::Nowhere => {}
        }
    }
    (term != core::NodeSelectorTerm::default()).then(|| core::NodeSelector { node_selector_terms: vec![term] })
}
