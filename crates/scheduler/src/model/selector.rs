//! Labels and compiled selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::sym::Sym;

/// Labels, ordered by key symbol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Sym, Sym)]>);

impl Labels {
    /// The symbols of some labels.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let mut pairs: Vec<_> = labels.into_iter().map(|(k, v)| (Sym::of(k), Sym::of(v))).collect();
        pairs.sort_unstable();
        Self(pairs.into())
    }

    /// The value of a key.
    pub fn get(&self, key: Sym) -> Option<Sym> {
        if self.0.len() <= 8 {
            return self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        }
        self.0.binary_search_by_key(&key, |(k, _)| *k).ok().map(|i| self.0[i].1)
    }

    /// All pairs.
    pub fn pairs(&self) -> &[(Sym, Sym)] {
        &self.0
    }
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The value is one of those given.
    In,
    /// It is absent or none of those given.
    NotIn,
    /// It is present.
    Exists,
    /// It is absent.
    Absent,
    /// It is a number greater than this (node labels only).
    Gt(i64),
    /// It is a number less than this (node labels only).
    Lt(i64),
    /// Malformed: nothing matches.
    Never,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Req {
    /// The label's key.
    pub key: Sym,
    /// The comparison.
    pub op: Op,
    /// For [`Op::In`] and [`Op::NotIn`]: the values, ordered.
    pub values: Box<[Sym]>,
}

impl Req {
    /// A requirement in the API's words.
    pub fn new(key: &str, operator: &str, values: &[String]) -> Self {
        let number = || values.first().and_then(|v| v.parse::<i64>().ok());
        let op = match operator {
            "In" => Op::In,
            "NotIn" => Op::NotIn,
            "Exists" => Op::Exists,
            "DoesNotExist" => Op::Absent,
            "Gt" => number().map_or(Op::Never, Op::Gt),
            "Lt" => number().map_or(Op::Never, Op::Lt),
            _ => Op::Never,
        };
        let mut symbols: Vec<_> = match op {
            Op::In | Op::NotIn => values.iter().map(|v| Sym::of(v)).collect(),
            _ => Vec::new(),
        };
        symbols.sort_unstable();
        Self { key: Sym::of(key), op, values: symbols.into() }
    }

    /// `key in (value)`.
    pub fn equals(key: Sym, value: Sym) -> Self {
        Self { key, op: Op::In, values: [value].into() }
    }

    /// Whether labels meet it; `number` gives the label's value as a number.
    #[inline]
    pub fn matches(&self, labels: &Labels, number: impl Fn(Sym) -> Option<i64>) -> bool {
        let value = labels.get(self.key);
        match self.op {
            Op::In => value.is_some_and(|v| self.values.contains(&v)),
            Op::NotIn => value.is_none_or(|v| !self.values.contains(&v)),
            Op::Exists => value.is_some(),
            Op::Absent => value.is_none(),
            Op::Gt(than) => number(self.key).is_some_and(|n| n > than),
            Op::Lt(than) => number(self.key).is_some_and(|n| n < than),
            Op::Never => false,
        }
    }
}

/// A compiled label selector: all requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    reqs: Box<[Req]>,
    nothing: bool,
}

impl Selector {
    /// Matches no labels: what an absent selector means to affinity and spreading.
    pub fn nothing() -> Self {
        Self { reqs: Box::default(), nothing: true }
    }

    /// Matches what meets all requirements.
    pub fn all_of(mut reqs: Vec<Req>) -> Self {
        reqs.sort_unstable_by(|a, b| (a.key, &a.values).cmp(&(b.key, &b.values)));
        reqs.dedup();
        Self { reqs: reqs.into(), nothing: false }
    }

    /// A `metav1.LabelSelector`; an absent one matches nothing.
    pub fn of(selector: Option<&LabelSelector>) -> Self {
        selector.map_or_else(Self::nothing, |s| Self::all_of(requirements(s)))
    }

    /// A map selector, as in Services.
    pub fn of_map(labels: &BTreeMap<String, String>) -> Self {
        Self::all_of(labels.iter().map(|(k, v)| Req::equals(Sym::of(k), Sym::of(v))).collect())
    }

    /// This and more requirements.
    #[must_use]
    pub fn and(&self, more: impl IntoIterator<Item = Req>) -> Self {
        if self.nothing {
            return self.clone();
        }
        Self::all_of(self.reqs.iter().cloned().chain(more).collect())
    }

    /// Whether labels match.
    #[inline]
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing && self.reqs.iter().all(|r| r.matches(labels, |_| None))
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.reqs.is_empty()
    }

    /// Whether it matches nothing.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements.
    pub fn reqs(&self) -> &[Req] {
        &self.reqs
    }

    /// Pairs of which any labels that match have at least one; `None` when there are no such.
    pub fn any_pair(&self) -> Option<impl Iterator<Item = (Sym, Sym)> + '_> {
        let req = self.reqs.iter().filter(|r| r.op == Op::In).min_by_key(|r| r.values.len())?;
        Some(req.values.iter().map(|v| (req.key, *v)))
    }
}

fn requirements(selector: &LabelSelector) -> Vec<Req> {
    let equal = selector.match_labels.iter().flatten().map(|(k, v)| Req::equals(Sym::of(k), Sym::of(v)));
    let others = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|e| Req::new(&e.key, &e.operator, e.values.as_deref().unwrap_or_default()));
    equal.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Labels::new(&map)
    }

    #[test]
    fn operators() {
        let web = labels(&[("app", "web"), ("n", "5")]);
        let v = |values: &[&str]| values.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let number = |key: Sym| (key == Sym::of("n")).then_some(5);
        for (key, op, values, want) in [
            ("app", "In", v(&["web", "db"]), true),
            ("app", "In", v(&["db"]), false),
            ("app", "NotIn", v(&["db"]), true),
            ("app", "NotIn", v(&["web"]), false),
            ("none", "NotIn", v(&["web"]), true),
            ("app", "Exists", v(&[]), true),
            ("none", "Exists", v(&[]), false),
            ("none", "DoesNotExist", v(&[]), true),
            ("app", "DoesNotExist", v(&[]), false),
            ("n", "Gt", v(&["4"]), true),
            ("n", "Gt", v(&["5"]), false),
            ("n", "Lt", v(&["6"]), true),
            ("app", "Lt", v(&["6"]), false),
            ("n", "Lt", v(&["x"]), false),
            ("n", "Nonsense", v(&["6"]), false),
        ] {
            assert_eq!(Req::new(key, op, &values).matches(&web, number), want, "{key} {op} {values:?}");
        }
        assert!(Selector::all_of(Vec::new()).matches(&web));
        assert!(!Selector::nothing().matches(&web));
        assert!(!Selector::of(None).matches(&web));
    }
}
