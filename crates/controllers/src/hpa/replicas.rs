//! From metric samples to a number of replicas (upstream's `replica_calculator`). Amounts are in thousandths.

use std::collections::BTreeMap;

/// One pod in the eyes of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// It has a value and counts.
    Value(i64),
    /// It is not ready yet: it may not be measured.
    Unready,
    /// It should have a value and has none.
    Missing,
}

/// What a metric proposes, and the value that it saw (average, or per cent of the requests).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// Replicas.
    pub replicas: i32,
    /// Average in thousandths.
    pub average: i64,
    /// Per cent of the requests, for utilisation targets.
    pub utilization: Option<i32>,
}

/// Allowed deviation from the target, up and down.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// When scaling up.
    pub up: f64,
    /// When scaling down.
    pub down: f64,
}

impl Tolerance {
    fn within(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// By per-pod values against an average; `requests` makes it a utilisation in per cent of them.
pub fn by_pods(
    current: i32,
    samples: &BTreeMap<String, Sample>,
    target: i64,
    requests: Option<&BTreeMap<String, i64>>,
    tolerance: Tolerance,
) -> Option<Proposal> {
    let values: BTreeMap<&str, i64> = samples
        .iter()
        .filter_map(|(n, s)| if let Sample::Value(v) = s { Some((n.as_str(), *v)) } else { None })
        .collect();
    if values.is_empty() {
        return None;
    }
    let ratio = |values: &BTreeMap<&str, i64>| ratio_of(values, target, requests);
    let (first, utilization) = ratio(&values)?;
    let average = values.values().sum::<i64>() / i64::try_from(values.len()).unwrap_or(1);
    let proposal = |replicas| Some(Proposal { replicas, average, utilization });
    let unready = samples.values().any(|s| *s == Sample::Unready);
    let missing = samples.values().any(|s| *s == Sample::Missing);
    let up_with_unready = unready && first > 1.0;
    if !up_with_unready && !missing {
        return proposal(if tolerance.within(first) { current } else { ceil(first, values.len()) });
    }
    // What is not known is assumed to speak against the change: full load when scaling down, none when scaling up.
    let mut all = values.clone();
    for (n, s) in samples {
        let assumed = match s {
            Sample::Missing if first < 1.0 => full_load(n, target, requests),
            Sample::Missing if first > 1.0 => 0,
            Sample::Unready if first > 1.0 => 0,
            _ => continue,
        };
        all.insert(n, assumed);
    }
    let (second, _) = ratio(&all)?;
    if tolerance.within(second) || (first < 1.0) != (second < 1.0) {
        return proposal(current);
    }
    let replicas = ceil(second, all.len());
    let backwards = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    proposal(if backwards { current } else { replicas })
}

fn full_load(name: &str, target: i64, requests: Option<&BTreeMap<String, i64>>) -> i64 {
    match requests {
        None => target,
        // Never more than all that it asked for.
        Some(r) => r.get(name).copied().unwrap_or(0) * target.max(100) / 100,
    }
}

/// (value over target, per cent of the requests).
fn ratio_of(
    values: &BTreeMap<&str, i64>,
    target: i64,
    requests: Option<&BTreeMap<String, i64>>,
) -> Option<(f64, Option<i32>)> {
    let total: i64 = values.values().sum();
    if target == 0 {
        return None;
    }
    match requests {
        None => {
            let average = total as f64 / values.len() as f64;
            Some((average / target as f64, None))
        }
        Some(r) => {
            let requested: i64 = values.keys().filter_map(|n| r.get(*n)).sum();
            if requested == 0 {
                return None;
            }
            let percent = total * 100 / requested;
            Some((percent as f64 / target as f64, i32::try_from(percent).ok()))
        }
    }
}

fn ceil(ratio: f64, count: usize) -> i32 {
    (ratio * count as f64).ceil() as i32
}

/// By one value for the whole target; `ready` is the number of ready pods.
pub fn by_total(current: i32, value: i64, target: i64, ready: usize, tolerance: Tolerance) -> Option<i32> {
    if target == 0 {
        return None;
    }
    let ratio = value as f64 / target as f64;
    if current == 0 {
        return Some(ratio.ceil() as i32);
    }
    Some(if tolerance.within(ratio) { current } else { ceil(ratio, ready) })
}

/// By one value that is shared among the replicas.
pub fn by_share(current: i32, value: i64, target: i64, tolerance: Tolerance) -> Option<i32> {
    if target == 0 {
        return None;
    }
    let ratio = if current == 0 { f64::INFINITY } else { value as f64 / (target as f64 * f64::from(current)) };
    Some(if tolerance.within(ratio) { current } else { (value as f64 / target as f64).ceil() as i32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn samples(list: &[Sample]) -> BTreeMap<String, Sample> {
        list.iter().enumerate().map(|(i, s)| (format!("p{i}"), *s)).collect()
    }

    #[test]
    fn table() {
        use Sample::{Missing, Unready, Value};
        for (current, list, target, want) in [
            (3, vec![Value(100); 3], 100, 3),
            (3, vec![Value(105); 3], 100, 3),
            (3, vec![Value(200); 3], 100, 6),
            (3, vec![Value(50); 3], 100, 2),
            (3, vec![Value(300), Value(300), Unready], 100, 6),
            (3, vec![Value(50), Value(50), Missing], 100, 2),
            (2, vec![Value(10), Missing], 100, 2),
            (2, vec![Value(120), Missing], 100, 2),
        ] {
            let p = by_pods(current, &samples(&list), target, None, T).map(|p| p.replicas);
            assert_eq!(p, Some(want), "{current} {list:?}");
        }
        assert_eq!(by_pods(2, &samples(&[Unready]), 100, None, T), None);
        let requests: BTreeMap<String, i64> = [("p0".to_owned(), 1000), ("p1".to_owned(), 1000)].into();
        let p = by_pods(2, &samples(&[Value(900), Value(700)]), 50, Some(&requests), T);
        assert_eq!(p, Some(Proposal { replicas: 4, average: 800, utilization: Some(80) }));
        assert_eq!(by_total(3, 200, 100, 3, T), Some(6));
        assert_eq!(by_share(3, 700, 100, T), Some(7));
        assert_eq!(by_share(0, 700, 100, T), Some(7));
    }
}
