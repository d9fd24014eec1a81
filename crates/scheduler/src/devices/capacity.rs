//! Devices of which several claims take a part (KEP-5075): how much a request takes.

use std::collections::BTreeMap;

use caravel_api::quantity::Quantity;
use k8s_openapi::api::resource::v1 as resource;

use super::slice::quantity;

/// What a device has of something, and how much of it may be taken at once.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// All of it.
    pub value: Quantity,
    /// What a request takes that does not say.
    default: Option<Quantity>,
    /// The least, the most and the step of what may be taken.
    range: Option<(Quantity, Option<Quantity>, Option<Quantity>)>,
    /// All that may be taken, in order.
    values: Vec<Quantity>,
}

/// Amounts by name.
pub type Amounts = BTreeMap<String, Quantity>;

impl Capacity {
    /// Reads one.
    pub fn new(capacity: &resource::DeviceCapacity) -> Self {
        let policy = capacity.request_policy.as_ref();
        let range = policy.and_then(|p| p.valid_range.as_ref());
        let mut values: Vec<Quantity> =
            policy.iter().flat_map(|p| p.valid_values.iter().flatten()).map(quantity).collect();
        values.sort_unstable();
        Self {
            value: quantity(&capacity.value),
            default: policy.and_then(|p| p.default.as_ref()).map(quantity),
            range: range.map(|r| (quantity(&r.min), r.max.as_ref().map(quantity), r.step.as_ref().map(quantity))),
            values,
        }
    }

    /// The same where one has all of it.
    pub fn without_policy(&self) -> Self {
        Self { value: self.value, ..Self::default() }
    }

    /// What is taken when so much is asked for; `None` when so much cannot be had at once.
    pub fn taken(&self, asked: Option<Quantity>) -> Option<Quantity> {
        let Some(asked) = asked else { return Some(self.default.unwrap_or(self.value)) };
        if let Some((min, max, step)) = self.range {
            let taken = match step.filter(|s| s.nanos() > 0) {
                _ if asked <= min => min,
                Some(step) => {
                    let over = (asked.nanos() - min.nanos()).checked_add(step.nanos() - 1)? / step.nanos();
                    Quantity::from_nanos(min.nanos().checked_add(over.checked_mul(step.nanos())?)?, min.format())
                }
                None => asked,
            };
            return (max.is_none_or(|max| taken <= max)).then_some(taken);
        }
        if !self.values.is_empty() {
            return self.values.iter().copied().find(|v| *v >= asked);
        }
        Some(asked)
    }
}

/// What a request takes of each capacity of a device, by the device's own names; `None` when the device lacks something that is asked
/// for or cannot give so much at once.
pub fn taken(driver: &str, capacity: &BTreeMap<String, Capacity>, asked: &Amounts) -> Option<Amounts> {
    let mut wanted: BTreeMap<&str, Quantity> = BTreeMap::new();
    for (name, amount) in asked {
        let own = capacity.keys().find(|own| same(driver, own, name))?;
        // The same by two names: which is meant nobody knows.
        if wanted.insert(own, *amount).is_some() {
            return None;
        }
    }
    let all = capacity.iter().map(|(name, c)| Some((name.clone(), c.taken(wanted.get(name.as_str()).copied())?)));
    all.collect()
}

/// Whether two names are of the same capacity: the driver's domain may be left out.
fn same(driver: &str, a: &str, b: &str) -> bool {
    let id = |name: &str| match name.split_once('/') {
        Some((domain, id)) if domain == driver => (None, id.to_owned()),
        Some((domain, id)) => (Some(domain.to_owned()), id.to_owned()),
        None => (None, name.to_owned()),
    };
    id(a) == id(b)
}

/// Whether what is taken now and what was taken before fit into a device.
pub fn fits(capacity: &BTreeMap<String, Capacity>, before: &[Option<&Amounts>], now: &Amounts) -> bool {
    capacity.iter().all(|(name, c)| {
        let all = before.iter().flatten().copied().chain([now]).filter_map(|amounts| amounts.get(name));
        all.fold(Quantity::ZERO, |sum, q| sum.add(*q)) <= c.value
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn capacity(value: serde_json::Value) -> Capacity {
        Capacity::new(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn what_a_request_takes() {
        let free = capacity(json!({"value": "40Gi"}));
        let range = capacity(json!({"value": "40Gi", "requestPolicy":
            {"default": "4Gi", "validRange": {"min": "2Gi", "max": "20Gi", "step": "2Gi"}}}));
        let values = capacity(json!({"value": "40Gi", "requestPolicy":
            {"default": "10Gi", "validValues": ["10Gi", "20Gi"]}}));
        for (name, of, asked, want) in [
            ("nothing asked for: all of it", &free, None, Some("40Gi")),
            ("as asked", &free, Some("3Gi"), Some("3Gi")),
            ("the default", &range, None, Some("4Gi")),
            ("not less than the least", &range, Some("1Gi"), Some("2Gi")),
            ("up to the next step", &range, Some("3Gi"), Some("4Gi")),
            ("a step exactly", &range, Some("6Gi"), Some("6Gi")),
            ("more than the most", &range, Some("21Gi"), None),
            ("up to the next value", &values, Some("11Gi"), Some("20Gi")),
            ("no such value", &values, Some("21Gi"), None),
        ] {
            let got = of.taken(asked.map(|a: &str| Quantity::parse(a).unwrap()));
            assert_eq!(got, want.map(|w| Quantity::parse(w).unwrap()), "{name}");
        }
    }

    #[test]
    fn names_may_leave_the_domain_out() {
        let all = BTreeMap::from([("memory".to_owned(), capacity(json!({"value": "8Gi"})))]);
        let asked = |names: &[&str]| -> Amounts {
            names.iter().map(|n| ((*n).to_owned(), Quantity::parse("2Gi").unwrap())).collect()
        };
        assert!(taken("d.example", &all, &asked(&["memory"])).is_some());
        assert!(taken("d.example", &all, &asked(&["d.example/memory"])).is_some());
        assert!(taken("d.example", &all, &asked(&["other/memory"])).is_none());
        assert!(taken("d.example", &all, &asked(&["d.example/memory", "memory"])).is_none(), "twice the same");
        let part = taken("d.example", &all, &asked(&["memory"])).unwrap();
        assert!(fits(&all, &[Some(&part), Some(&part), Some(&part)], &part));
        assert!(!fits(&all, &[Some(&part), Some(&part), Some(&part), Some(&part)], &part));
    }
}
