//! Label selectors over the typed API objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// A label selector ready to match. An absent selector matches nothing; an empty one matches everything.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    /// Matches no object.
    Nothing,
    /// All requirements must hold.
    All(LabelSelector),
}

impl Selector {
    /// From the `metav1.LabelSelector` of a spec.
    pub fn new(selector: Option<&LabelSelector>) -> Self {
        selector.map_or(Self::Nothing, |s| Self::All(s.clone()))
    }

    /// From a plain map, as ReplicationController and Service have; empty maps match nothing there.
    pub fn from_map(map: Option<&BTreeMap<String, String>>) -> Self {
        match map {
            Some(m) if !m.is_empty() => {
                Self::All(LabelSelector { match_labels: Some(m.clone()), match_expressions: None })
            }
            _ => Self::Nothing,
        }
    }

    /// Whether the selector has no requirement at all (and so matches every object).
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(s) if s.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && s.match_expressions.as_ref().is_none_or(Vec::is_empty))
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let Self::All(s) = self else { return false };
        s.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
            && s.match_expressions.iter().flatten().all(|r| requirement_holds(r, labels))
    }
}

/// One requirement; an operator that is unknown never holds.
fn requirement_holds(r: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&r.key);
    let listed = |v: &String| r.values.iter().flatten().any(|x| x == v);
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// The selector in query form (`a=b,c in (d,e),!f`), as `status.selector` and list calls carry it.
pub fn to_query(s: &LabelSelector) -> String {
    let mut parts: Vec<String> = s.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    for r in s.match_expressions.iter().flatten() {
        let mut values = r.values.clone().unwrap_or_default();
        values.sort();
        parts.push(match r.operator.as_str() {
            "In" => format!("{} in ({})", r.key, values.join(",")),
            "NotIn" => format!("{} notin ({})", r.key, values.join(",")),
            "DoesNotExist" => format!("!{}", r.key),
            _ => r.key.clone(),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn operators() {
        let req = |op: &str, values: &[&str]| LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "k".into(),
                operator: op.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        };
        let cases = [
            ("In", vec!["a"], &[("k", "a")][..], true),
            ("In", vec!["a"], &[][..], false),
            ("NotIn", vec!["a"], &[][..], true),
            ("NotIn", vec!["a"], &[("k", "a")][..], false),
            ("Exists", vec![], &[("k", "z")][..], true),
            ("DoesNotExist", vec![], &[("k", "z")][..], false),
            ("Bogus", vec![], &[("k", "z")][..], false),
        ];
        for (op, values, have, want) in cases {
            assert_eq!(Selector::new(Some(&req(op, &values))).matches(&labels(have)), want, "{op}");
        }
        assert!(Selector::new(Some(&LabelSelector::default())).is_everything());
        assert!(!Selector::new(None).matches(&labels(&[])));
        assert!(!Selector::from_map(Some(&labels(&[]))).matches(&labels(&[("a", "b")])));
    }
}
