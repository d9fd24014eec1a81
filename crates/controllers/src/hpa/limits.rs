//! From a proposed number of replicas to the one that may be set now: stabilisation, rates, bounds (KEP-853).

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};

use crate::common::plus;

/// What was proposed and done before, newest last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Proposals, by time.
    pub proposals: Vec<(Timestamp, i32)>,
    /// Changes that were made, by time; positive is up.
    pub changes: Vec<(Timestamp, i32)>,
}

impl History {
    /// Forgets what no window reaches.
    pub fn trim(&mut self, now: Timestamp) {
        // No window or period is longer than an hour.
        let oldest = plus(now, -3600);
        self.proposals.retain(|(at, _)| *at >= oldest);
        self.changes.retain(|(at, _)| *at >= oldest);
    }

    fn since(&self, now: Timestamp, seconds: i32, up: bool) -> i32 {
        let from = plus(now, -i64::from(seconds));
        let made = self.changes.iter().filter(|(at, _)| *at > from).map(|(_, n)| *n);
        if up { made.filter(|n| *n > 0).sum() } else { made.filter(|n| *n < 0).map(|n| -n).sum() }
    }
}

/// The outcome: replicas, and the ScalingLimited and AbleToScale (reason, message) pairs.
#[derive(Debug, PartialEq)]
pub struct Limited {
    /// Replicas to set.
    pub replicas: i32,
    /// Whether a bound or rate held the number back, why.
    pub limited: (bool, &'static str, &'static str),
    /// Whether recent proposals held it.
    pub stabilized: Option<(&'static str, &'static str)>,
}

fn rules(spec: &HorizontalPodAutoscalerSpec, up: bool) -> HPAScalingRules {
    let set = spec
        .behavior
        .as_ref()
        .and_then(|b| if up { b.scale_up.clone() } else { b.scale_down.clone() })
        .unwrap_or_default();
    let policy = |type_: &str, value| HPAScalingPolicy { type_: type_.into(), value, period_seconds: 15 };
    let default = if up { vec![policy("Pods", 4), policy("Percent", 100)] } else { vec![policy("Percent", 100)] };
    HPAScalingRules {
        policies: Some(set.policies.filter(|p| !p.is_empty()).unwrap_or(default)),
        select_policy: Some(set.select_policy.unwrap_or_else(|| "Max".into())),
        stabilization_window_seconds: Some(set.stabilization_window_seconds.unwrap_or(if up { 0 } else { 300 })),
        tolerance: set.tolerance,
    }
}

/// Applies windows, rates and bounds. Notes the proposal in the history.
pub fn limit(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    proposed: i32,
    history: &mut History,
    now: Timestamp,
) -> Limited {
    let (up, down) = (rules(spec, true), rules(spec, false));
    let window = |r: &HPAScalingRules| plus(now, -i64::from(r.stabilization_window_seconds.unwrap_or(0)));
    let lowest = history.proposals.iter().filter(|(at, _)| *at > window(&up)).map(|(_, n)| *n).fold(proposed, i32::min);
    let highest =
        history.proposals.iter().filter(|(at, _)| *at > window(&down)).map(|(_, n)| *n).fold(proposed, i32::max);
    history.proposals.push((now, proposed));
    history.trim(now);
    // Up only as far as all of the window wanted, down likewise.
    let mut stable = current;
    stable = stable.max(lowest).min(highest.max(lowest));
    let stabilized = (stable != proposed).then_some({
        if proposed > current {
            (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
        } else {
            (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        }
    });
    let (replicas, limited) = bounded(spec, current, stable, (&up, &down), history, now);
    Limited { replicas, limited, stabilized }
}

fn bounded(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    wanted: i32,
    (up, down): (&HPAScalingRules, &HPAScalingRules),
    history: &History,
    now: Timestamp,
) -> (i32, (bool, &'static str, &'static str)) {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    if wanted > current {
        let rate = rate_limit(up, current, history, now, true).max(current);
        if wanted > most.min(rate) {
            return if most <= rate {
                (most, (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
            } else {
                (
                    rate,
                    (
                        true,
                        "ScaleUpLimit",
                        "the desired replica count is increasing faster than the maximum scale rate",
                    ),
                )
            };
        }
    } else if wanted < current {
        let rate = rate_limit(down, current, history, now, false).min(current);
        if wanted < least.max(rate) {
            return if least >= rate {
                (least, (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"))
            } else {
                (
                    rate,
                    (
                        true,
                        "ScaleDownLimit",
                        "the desired replica count is decreasing faster than the maximum scale rate",
                    ),
                )
            };
        }
    }
    (wanted.clamp(least, most), (false, "DesiredWithinRange", "the desired count is within the acceptable range"))
}

/// The farthest that the policies allow now.
fn rate_limit(r: &HPAScalingRules, current: i32, history: &History, now: Timestamp, up: bool) -> i32 {
    if r.select_policy.as_deref() == Some("Disabled") {
        return current;
    }
    let limits = r.policies.iter().flatten().map(|p| {
        let done = history.since(now, p.period_seconds, up);
        // Where the period began.
        let base = if up { current - done } else { current + done };
        match (p.type_.as_str(), up) {
            ("Pods", true) => base.saturating_add(p.value),
            ("Pods", false) => base - p.value,
            (_, true) => (f64::from(base) * (1.0 + f64::from(p.value) / 100.0)).ceil() as i32,
            (_, false) => (f64::from(base) * (1.0 - f64::from(p.value) / 100.0)) as i32,
        }
    });
    let most_change = r.select_policy.as_deref() != Some("Min");
    let chosen = if most_change == up { limits.max() } else { limits.min() };
    chosen.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap_or_default()
    }

    fn spec(least: i32, most: i32) -> HorizontalPodAutoscalerSpec {
        HorizontalPodAutoscalerSpec { min_replicas: Some(least), max_replicas: most, ..Default::default() }
    }

    #[test]
    fn bounds_and_default_rates() {
        let one = |current, proposed| {
            let l = limit(&spec(2, 20), current, proposed, &mut History::default(), at(0));
            (l.replicas, l.limited.1)
        };
        assert_eq!(one(5, 7), (7, "DesiredWithinRange"));
        assert_eq!(one(2, 30), (6, "ScaleUpLimit"), "four pods at once");
        assert_eq!(one(12, 30), (20, "TooManyReplicas"));
        assert_eq!(one(5, 1), (2, "TooFewReplicas"));
    }

    #[test]
    fn going_down_waits_for_the_window() {
        let mut h = History::default();
        assert_eq!(limit(&spec(1, 20), 10, 10, &mut h, at(0)).replicas, 10);
        let held = limit(&spec(1, 20), 10, 3, &mut h, at(100));
        assert_eq!((held.replicas, held.stabilized.map(|s| s.0)), (10, Some("ScaleDownStabilized")));
        assert_eq!(limit(&spec(1, 20), 10, 3, &mut h, at(301)).replicas, 3);
    }

    #[test]
    fn rates_of_the_user() {
        let policy = |type_: &str, value| HPAScalingPolicy { type_: type_.into(), value, period_seconds: 60 };
        let rules = |policies, select: &str| HPAScalingRules {
            policies: Some(policies),
            select_policy: Some(select.into()),
            stabilization_window_seconds: Some(0),
            tolerance: None,
        };
        let mut s = spec(1, 100);
        s.behavior = Some(HorizontalPodAutoscalerBehavior {
            scale_down: Some(rules(vec![policy("Pods", 2), policy("Percent", 50)], "Min")),
            scale_up: Some(rules(vec![], "Disabled")),
        });
        let mut h = History::default();
        assert_eq!(limit(&s, 10, 1, &mut h, at(0)).replicas, 8);
        h.changes.push((at(0), -2));
        assert_eq!(limit(&s, 8, 1, &mut h, at(30)).replicas, 8, "the period's allowance is used");
        assert_eq!(limit(&s, 8, 1, &mut h, at(61)).replicas, 6);
        assert_eq!(limit(&s, 8, 20, &mut h, at(61)).replicas, 8, "disabled");
    }
}
