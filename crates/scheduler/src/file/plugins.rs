//! Which plug-ins a profile uses, and with which weights.

use serde::Deserialize;

use super::{FileError, wrong};
use crate::config::{Profile, Weights};
use crate::plugins::Plugin;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Plugins {
    pre_enqueue: Set,
    queue_sort: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
    multi_point: Set,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Entry>,
    disabled: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    weight: Option<i64>,
}

/// Where plug-ins do something that can be turned off by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Point {
    PreEnqueue,
    QueueSort,
    Filter,
    PostFilter,
    Score,
    Bind,
    /// The rest: steps of a plug-in's own that go with its main one.
    Other(&'static str),
}

impl Point {
    fn name(self) -> &'static str {
        match self {
            Self::PreEnqueue => "preEnqueue",
            Self::QueueSort => "queueSort",
            Self::Filter => "filter",
            Self::PostFilter => "postFilter",
            Self::Score => "score",
            Self::Bind => "bind",
            Self::Other(name) => name,
        }
    }
}

/// A plug-in: its name, its main points, its other steps.
struct Row {
    name: &'static str,
    points: &'static [Point],
    steps: &'static [&'static str],
}

const fn row(name: &'static str, points: &'static [Point], steps: &'static [&'static str]) -> Row {
    Row { name, points, steps }
}

const ROWS: [Row; 20] = {
    use Point::{Bind, Filter, PostFilter, PreEnqueue, QueueSort, Score};
    [
        row("SchedulingGates", &[PreEnqueue], &[]),
        row("PrioritySort", &[QueueSort], &[]),
        row("NodeUnschedulable", &[Filter], &[]),
        row("NodeName", &[Filter], &[]),
        row("TaintToleration", &[Filter, Score], &["preScore"]),
        row("NodeAffinity", &[Filter, Score], &["preFilter", "preScore"]),
        row("NodePorts", &[Filter], &["preFilter"]),
        row("NodeResourcesFit", &[Filter, Score], &["preFilter", "preScore"]),
        row("VolumeRestrictions", &[Filter], &["preFilter"]),
        row("NodeVolumeLimits", &[Filter], &["preFilter"]),
        row("VolumeBinding", &[Filter], &["preFilter", "reserve", "preBind"]),
        row("VolumeZone", &[Filter], &["preFilter"]),
        row("PodTopologySpread", &[Filter, Score], &["preFilter", "preScore"]),
        row("InterPodAffinity", &[Filter, Score], &["preFilter", "preScore"]),
        row("DefaultPreemption", &[PostFilter], &[]),
        row("NodeResourcesBalancedAllocation", &[Score], &["preScore"]),
        row("ImageLocality", &[Score], &[]),
        row("DefaultBinder", &[Bind], &[]),
        row("DynamicResources", &[PreEnqueue, Filter, PostFilter, Score], &["preFilter", "reserve", "preBind"]),
        row("NodeDeclaredFeatures", &[Filter], &["preFilter"]),
    ]
};

fn find(name: &str, at: &str) -> Result<&'static Row, FileError> {
    match ROWS.iter().find(|r| r.name == name) {
        Some(row) => Ok(row),
        None => {
            let known: Vec<&str> = ROWS.iter().map(|r| r.name).collect();
            wrong(at, format!("there is no plug-in {name:?}; there are {}", known.join(", ")))
        }
    }
}

/// What is on: each plug-in with each of its main points.
struct Chosen(Vec<(&'static Row, Point)>);

impl Chosen {
    fn everything() -> Self {
        Self(ROWS.iter().flat_map(|row| row.points.iter().map(move |p| (row, *p))).collect())
    }

    fn has(&self, name: &str, point: Point) -> bool {
        self.0.iter().any(|(row, p)| row.name == name && *p == point)
    }

    fn remove(&mut self, name: &str, point: Option<Point>) {
        self.0.retain(|(row, p)| {
            let named = name == "*" || row.name == name;
            !(named && point.is_none_or(|only| only == *p))
        });
    }

    fn add(&mut self, row: &'static Row, point: Point) {
        if !self.has(row.name, point) {
            self.0.push((row, point));
        }
    }
}

fn weight_of<'a>(weights: &'a mut Weights, name: &str) -> Option<&'a mut i64> {
    Some(match name {
        "TaintToleration" => &mut weights.taints,
        "NodeAffinity" => &mut weights.node_affinity,
        "PodTopologySpread" => &mut weights.spread,
        "InterPodAffinity" => &mut weights.interpod,
        "NodeResourcesFit" => &mut weights.fit,
        "NodeResourcesBalancedAllocation" => &mut weights.balanced,
        "ImageLocality" => &mut weights.images,
        "DynamicResources" => &mut weights.devices,
        _ => return None,
    })
}

fn filter_of(name: &str) -> Option<Plugin> {
    [
        Plugin::NodeUnschedulable,
        Plugin::TaintToleration,
        Plugin::NodeAffinity,
        Plugin::NodePorts,
        Plugin::NodeResourcesFit,
        Plugin::VolumeRestrictions,
        Plugin::NodeVolumeLimits,
        Plugin::VolumeBinding,
        Plugin::VolumeZone,
        Plugin::PodTopologySpread,
        Plugin::InterPodAffinity,
        Plugin::DynamicResources,
        Plugin::NodeDeclaredFeatures,
    ]
    .into_iter()
    .find(|p| p.name() == name)
}

/// A plug-in may be named once in a list.
fn once(list: &[Entry], at: &str) -> Result<(), FileError> {
    for (i, entry) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.name == entry.name) {
            return wrong(format!("{at}[{i}]"), format!("{} is listed twice", entry.name));
        }
    }
    Ok(())
}

impl Set {
    fn check(&self, at: &str) -> Result<(), FileError> {
        once(&self.enabled, &format!("{at}.enabled"))?;
        once(&self.disabled, &format!("{at}.disabled"))?;
        for (i, entry) in self.enabled.iter().enumerate() {
            find(&entry.name, &format!("{at}.enabled[{i}].name"))?;
            if let Some(weight) = entry.weight.filter(|w| !(0..=100).contains(w)) {
                return wrong(format!("{at}.enabled[{i}].weight"), format!("{weight} is not between 0 and 100"));
            }
        }
        for (i, entry) in self.disabled.iter().enumerate().filter(|(_, e)| e.name != "*") {
            find(&entry.name, &format!("{at}.disabled[{i}].name"))?;
        }
        Ok(())
    }
}

impl Plugins {
    /// The sets by point, in the order in which they are read.
    fn sets(&self) -> [(Point, &Set); 12] {
        [
            (Point::PreEnqueue, &self.pre_enqueue),
            (Point::QueueSort, &self.queue_sort),
            (Point::Other("preFilter"), &self.pre_filter),
            (Point::Filter, &self.filter),
            (Point::PostFilter, &self.post_filter),
            (Point::Other("preScore"), &self.pre_score),
            (Point::Score, &self.score),
            (Point::Other("reserve"), &self.reserve),
            (Point::Other("permit"), &self.permit),
            (Point::Other("preBind"), &self.pre_bind),
            (Point::Bind, &self.bind),
            (Point::Other("postBind"), &self.post_bind),
        ]
    }

    /// Sets up a profile.
    pub(super) fn apply(&self, profile: &mut Profile, at: &str) -> Result<(), FileError> {
        let mut chosen = Chosen::everything();
        let mut weights = Weights::default();
        let multi = format!("{at}.multiPoint");
        self.multi_point.check(&multi)?;
        for entry in &self.multi_point.disabled {
            chosen.remove(&entry.name, None);
        }
        for entry in &self.multi_point.enabled {
            let row = find(&entry.name, &multi)?;
            row.points.iter().for_each(|point| chosen.add(row, *point));
            set_weight(&mut weights, entry);
        }
        for (point, set) in self.sets() {
            let at = format!("{at}.{}", point.name());
            set.check(&at)?;
            if let Point::Other(step) = point {
                only_what_is_there(set, step, &at)?;
                continue;
            }
            for entry in &set.disabled {
                chosen.remove(&entry.name, Some(point));
            }
            for (i, entry) in set.enabled.iter().enumerate() {
                let row = find(&entry.name, &at)?;
                if !row.points.contains(&point) {
                    return wrong(
                        format!("{at}.enabled[{i}].name"),
                        format!("{} has nothing to do at {}", row.name, point.name()),
                    );
                }
                chosen.add(row, point);
                if point == Point::Score {
                    set_weight(&mut weights, entry);
                }
            }
        }
        settle(&chosen, weights, profile, at)
    }
}

/// A weight of 0, or none, at a plug-in that is enabled by name is 1.
fn set_weight(weights: &mut Weights, entry: &Entry) {
    if let Some(weight) = weight_of(weights, &entry.name) {
        *weight = entry.weight.filter(|w| *w > 0).unwrap_or(1);
    }
}

/// Steps before and after the main points come with them.
fn only_what_is_there(set: &Set, step: &str, at: &str) -> Result<(), FileError> {
    if !set.disabled.is_empty() {
        return wrong(
            format!("{at}.disabled"),
            "a step of a plug-in cannot be taken from it: disable the plug-in at filter or score, or at multiPoint",
        );
    }
    for (i, entry) in set.enabled.iter().enumerate() {
        let row = find(&entry.name, at)?;
        if !row.steps.contains(&step) {
            return wrong(format!("{at}.enabled[{i}].name"), format!("{} has nothing to do at {step}", row.name));
        }
    }
    Ok(())
}

fn settle(chosen: &Chosen, weights: Weights, profile: &mut Profile, at: &str) -> Result<(), FileError> {
    for (name, point) in
        [("PrioritySort", Point::QueueSort), ("DefaultBinder", Point::Bind), ("SchedulingGates", Point::PreEnqueue)]
    {
        if !chosen.has(name, point) {
            return wrong(
                at,
                format!("{name} cannot be done without here: enable it at {} or multiPoint", point.name()),
            );
        }
    }
    profile.weights = weights;
    let mut rules = (*profile.rules).clone();
    for row in &ROWS {
        if row.points.contains(&Point::Filter)
            && !chosen.has(row.name, Point::Filter)
            && let Some(plugin) = filter_of(row.name)
        {
            rules.off.insert(plugin);
        }
        if row.points.contains(&Point::Score)
            && !chosen.has(row.name, Point::Score)
            && let Some(weight) = weight_of(&mut profile.weights, row.name)
        {
            *weight = 0;
        }
    }
    profile.rules = rules.into();
    profile.preemption.enabled = chosen.has("DefaultPreemption", Point::PostFilter);
    Ok(())
}
