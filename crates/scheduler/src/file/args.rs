//! Arguments of plug-ins.

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

use super::{FileError, wrong};
use crate::config::Profile;
use crate::model::{NodeRule, NodeTerm, WhenUnsatisfiable};
use crate::plugins::fit::{Scoring, Strategy};
use crate::plugins::spread::Defaults;

/// Sets a plug-in's arguments.
pub(super) fn apply(profile: &mut Profile, plugin: &str, args: &Value, at: &str) -> Result<(), FileError> {
    let at = format!("{at}.args");
    match plugin {
        "NodeResourcesFit" => fit(profile, read(args, plugin, &at)?, &at),
        "NodeResourcesBalancedAllocation" => balanced(read(args, plugin, &at)?, &at),
        "PodTopologySpread" => spread(profile, read(args, plugin, &at)?, &at),
        "InterPodAffinity" => interpod(profile, &read(args, plugin, &at)?, &at),
        "NodeAffinity" => affinity(profile, read(args, plugin, &at)?, &at),
        "DefaultPreemption" => preemption(profile, &read(args, plugin, &at)?, &at),
        "VolumeBinding" => volumes(profile, &read(args, plugin, &at)?, &at),
        "DynamicResources" => devices(profile, &read(args, plugin, &at)?, &at),
        other => wrong(
            at,
            format!(
                "{other:?} takes no arguments here; these do: NodeResourcesFit, NodeResourcesBalancedAllocation, PodTopologySpread, \
                 InterPodAffinity, NodeAffinity, DefaultPreemption, VolumeBinding, DynamicResources"
            ),
        ),
    }
}

/// Reads arguments, which may say their own version and kind.
fn read<T: DeserializeOwned>(args: &Value, plugin: &str, at: &str) -> Result<T, FileError> {
    let mut args = args.clone();
    if let Some(fields) = args.as_object_mut() {
        let kind = format!("{plugin}Args");
        for (field, right) in [("apiVersion", super::API_VERSION), ("kind", kind.as_str())] {
            if let Some(said) = fields.remove(field).filter(|said| *said != right) {
                return wrong(
                    format!("{at}.{field}"),
                    format!("{said} is not right here; write {right} or leave it out"),
                );
            }
        }
    }
    T::deserialize(args).or_else(|error| wrong(at, error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resource {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringArgs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringArgs {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<Resource>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Shape>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Shape {
    utilization: i64,
    score: i64,
}

fn fit(profile: &mut Profile, args: FitArgs, at: &str) -> Result<(), FileError> {
    if let Some(i) = args.ignored_resource_groups.iter().position(|group| group.contains('/')) {
        let group = &args.ignored_resource_groups[i];
        return wrong(
            format!("{at}.ignoredResourceGroups[{i}]"),
            format!("{group:?}: a group is what stands before the slash"),
        );
    }
    let mut rules = (*profile.rules).clone();
    rules.ignored = args.ignored_resources;
    rules.ignored_groups = args.ignored_resource_groups;
    profile.rules = rules.into();
    let Some(given) = args.scoring_strategy else { return Ok(()) };
    let at = format!("{at}.scoringStrategy");
    let strategy = match given.kind.as_deref() {
        None | Some("LeastAllocated") => Strategy::LeastAllocated,
        Some("MostAllocated") => Strategy::MostAllocated,
        Some("RequestedToCapacityRatio") => {
            Strategy::RequestedToCapacityRatio(shape(given.requested_to_capacity_ratio.as_ref(), &at)?)
        }
        Some(other) => {
            return wrong(
                format!("{at}.type"),
                format!("{other:?} is not LeastAllocated, MostAllocated or RequestedToCapacityRatio"),
            );
        }
    };
    let mut scoring = Scoring { strategy, ..Scoring::default() };
    if !given.resources.is_empty() {
        scoring.resources.clear();
    }
    for (i, resource) in given.resources.iter().enumerate() {
        let weight = resource.weight.unwrap_or(1);
        if !(1..=100).contains(&weight) {
            return wrong(format!("{at}.resources[{i}].weight"), format!("{weight} is not between 1 and 100"));
        }
        if given.resources[..i].iter().any(|other| other.name == resource.name) {
            return wrong(format!("{at}.resources[{i}].name"), format!("{} is listed twice", resource.name));
        }
        scoring.resources.push((resource.name.as_str().into(), weight));
    }
    profile.fit = scoring;
    Ok(())
}

fn shape(ratio: Option<&Ratio>, at: &str) -> Result<Vec<(i64, i64)>, FileError> {
    let at = format!("{at}.requestedToCapacityRatio.shape");
    let points: Vec<(i64, i64)> =
        ratio.iter().flat_map(|r| r.shape.iter()).map(|point| (point.utilization, point.score)).collect();
    if points.is_empty() {
        return wrong(at, "at least one point is needed, like {utilization: 0, score: 0}");
    }
    for (i, (utilization, score)) in points.iter().enumerate() {
        if !(0..=100).contains(utilization) {
            return wrong(format!("{at}[{i}].utilization"), format!("{utilization} is not between 0 and 100"));
        }
        if !(0..=10).contains(score) {
            return wrong(format!("{at}[{i}].score"), format!("{score} is not between 0 and 10"));
        }
        if i > 0 && *utilization <= points[i - 1].0 {
            return wrong(format!("{at}[{i}].utilization"), "utilizations must grow from point to point");
        }
    }
    Ok(points)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BalancedArgs {
    #[serde(default)]
    resources: Vec<Resource>,
}

fn balanced(args: BalancedArgs, at: &str) -> Result<(), FileError> {
    let mut names: Vec<&str> = args.resources.iter().map(|r| r.name.as_str()).collect();
    names.sort_unstable();
    if !names.is_empty() && names != ["cpu", "memory"] {
        return wrong(
            format!("{at}.resources"),
            "only the balance of cpu and memory is weighed here: name both, or leave the list out",
        );
    }
    if args.resources.iter().any(|r| r.weight.is_some_and(|w| w != 1)) {
        return wrong(format!("{at}.resources"), "weights are 1");
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<core::TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

fn spread(profile: &mut Profile, args: SpreadArgs, at: &str) -> Result<(), FileError> {
    let constraints = format!("{at}.defaultConstraints");
    let system = match args.defaulting_type.as_deref() {
        None | Some("System") => true,
        Some("List") => false,
        Some(other) => return wrong(format!("{at}.defaultingType"), format!("{other:?} is not System or List")),
    };
    if system {
        if !args.default_constraints.is_empty() {
            return wrong(constraints, "with defaultingType System the list must be empty; say defaultingType: List");
        }
        profile.spread = Defaults::System;
        return Ok(());
    }
    let mut list = Vec::new();
    for (i, constraint) in args.default_constraints.iter().enumerate() {
        let at = format!("{constraints}[{i}]");
        if constraint.max_skew <= 0 {
            return wrong(format!("{at}.maxSkew"), format!("{} is not greater than 0", constraint.max_skew));
        }
        if constraint.topology_key.is_empty() {
            return wrong(
                format!("{at}.topologyKey"),
                "it is missing: the node label over whose values pods are spread",
            );
        }
        let when = match constraint.when_unsatisfiable.as_str() {
            "DoNotSchedule" => WhenUnsatisfiable::DoNotSchedule,
            "ScheduleAnyway" => WhenUnsatisfiable::ScheduleAnyway,
            other => {
                return wrong(
                    format!("{at}.whenUnsatisfiable"),
                    format!("{other:?} is not DoNotSchedule or ScheduleAnyway"),
                );
            }
        };
        if constraint.label_selector.is_some() {
            return wrong(format!("{at}.labelSelector"), "it must be left out: each pod's Services and owner select");
        }
        let own = constraint.min_domains.is_some()
            || constraint.match_label_keys.is_some()
            || constraint.node_affinity_policy.is_some()
            || constraint.node_taints_policy.is_some();
        if own {
            return wrong(at, "only maxSkew, topologyKey and whenUnsatisfiable can be defaults here");
        }
        if list.iter().any(|(_, key, w)| *key == constraint.topology_key && *w == when) {
            return wrong(at, "another constraint has the same topologyKey and whenUnsatisfiable");
        }
        list.push((constraint.max_skew, constraint.topology_key.clone(), when));
    }
    profile.spread = Defaults::List(list);
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPodArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: Option<bool>,
}

fn interpod(profile: &mut Profile, args: &InterPodArgs, at: &str) -> Result<(), FileError> {
    let weight = args.hard_pod_affinity_weight.unwrap_or(1);
    if !(0..=100).contains(&weight) {
        return wrong(format!("{at}.hardPodAffinityWeight"), format!("{weight} is not between 0 and 100"));
    }
    profile.hard_affinity_weight = weight;
    profile.ignore_preferences_of_others = args.ignore_preferred_terms_of_existing_pods.unwrap_or(false);
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    added_affinity: Option<core::NodeAffinity>,
}

fn affinity(profile: &mut Profile, args: AffinityArgs, at: &str) -> Result<(), FileError> {
    let at = format!("{at}.addedAffinity");
    let Some(added) = args.added_affinity else { return Ok(()) };
    let check = |term: &core::NodeSelectorTerm| {
        let both = term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten());
        for req in both {
            let values = req.values.as_ref().map_or(0, Vec::len);
            let good = match req.operator.as_str() {
                "In" | "NotIn" => values > 0,
                "Exists" | "DoesNotExist" => values == 0,
                "Gt" | "Lt" => values == 1,
                other => return wrong(&*at, format!("{other:?} is not In, NotIn, Exists, DoesNotExist, Gt or Lt")),
            };
            if !good {
                return wrong(&*at, format!("{} {} has {values} values", req.key, req.operator));
            }
        }
        Ok(())
    };
    let mut rules = (*profile.rules).clone();
    if let Some(required) = &added.required_during_scheduling_ignored_during_execution {
        required.node_selector_terms.iter().try_for_each(check)?;
        if required.node_selector_terms.is_empty() {
            return wrong(at, "nodeSelectorTerms is empty: then no node would do");
        }
        rules.added = Some(NodeRule::of_selector(required));
    }
    let mut preferences = Vec::new();
    for preferred in added.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
        check(&preferred.preference)?;
        if !(1..=100).contains(&preferred.weight) {
            return wrong(&*at, format!("the weight {} is not between 1 and 100", preferred.weight));
        }
        preferences.push((i64::from(preferred.weight), NodeTerm::new(&preferred.preference)));
    }
    rules.preferences = preferences;
    profile.rules = rules.into();
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

fn preemption(profile: &mut Profile, args: &PreemptionArgs, at: &str) -> Result<(), FileError> {
    let percent = args.min_candidate_nodes_percentage.unwrap_or(10);
    let absolute = args.min_candidate_nodes_absolute.unwrap_or(100);
    if !(0..=100).contains(&percent) {
        return wrong(format!("{at}.minCandidateNodesPercentage"), format!("{percent} is not between 0 and 100"));
    }
    if absolute < 0 {
        return wrong(format!("{at}.minCandidateNodesAbsolute"), format!("{absolute} is less than 0"));
    }
    if percent == 0 && absolute == 0 {
        return wrong(at, "minCandidateNodesPercentage and minCandidateNodesAbsolute must not both be 0");
    }
    profile.preemption.percentage = percent as usize;
    profile.preemption.absolute = absolute as usize;
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeArgs {
    bind_timeout_seconds: Option<i64>,
}

fn volumes(profile: &mut Profile, args: &VolumeArgs, at: &str) -> Result<(), FileError> {
    let seconds = args.bind_timeout_seconds.unwrap_or(600);
    match u64::try_from(seconds) {
        Ok(seconds) => profile.bind_timeout = Duration::from_secs(seconds),
        Err(_) => return wrong(format!("{at}.bindTimeoutSeconds"), format!("{seconds} is less than 0")),
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceArgs {
    /// How long the search for devices of one node may take. The search here is limited by steps, not by time.
    filter_timeout: Option<String>,
    binding_timeout: Option<String>,
}

fn devices(profile: &mut Profile, args: &DeviceArgs, at: &str) -> Result<(), FileError> {
    let read = |field: &str, text: &Option<String>, least: Duration| {
        let Some(text) = text else { return Ok(None) };
        match caravel_api::duration::parse_std(text).filter(|time| *time >= least) {
            Some(time) => Ok(Some(time)),
            None => {
                wrong(format!("{at}.{field}"), format!("{text:?} is not a duration of {} s or more", least.as_secs()))
            }
        }
    };
    read("filterTimeout", &args.filter_timeout, Duration::ZERO)?;
    if let Some(time) = read("bindingTimeout", &args.binding_timeout, Duration::from_secs(1))? {
        profile.device_timeout = time;
    }
    Ok(())
}
