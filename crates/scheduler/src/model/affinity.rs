//! Compiled node affinity and pod affinity terms.

use k8s_openapi::api::core::v1 as core;

use super::{Labels, NodeInfo, Req, Selector};
use crate::sym::Sym;

/// One node selector term: all its requirements must hold. An empty one matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct NodeTerm {
    labels: Box<[Req]>,
    /// Requirements on `metadata.name`.
    names: Box<[Req]>,
}

impl NodeTerm {
    /// Compiles a term.
    pub fn new(term: &core::NodeSelectorTerm) -> Self {
        let compile = |reqs: &Option<Vec<core::NodeSelectorRequirement>>| -> Box<[Req]> {
            let reqs = reqs.iter().flatten();
            reqs.map(|r| Req::new(&r.key, &r.operator, r.values.as_deref().unwrap_or_default())).collect()
        };
        Self { labels: compile(&term.match_expressions), names: compile(&term.match_fields) }
    }

    /// Whether a node matches.
    pub fn matches(&self, node: &NodeInfo) -> bool {
        if self.labels.is_empty() && self.names.is_empty() {
            return false;
        }
        self.labels.iter().all(|r| r.matches(&node.labels, |key| node.number(key)))
            && self
                .names
                .iter()
                .all(|r| r.key == Sym::of("metadata.name") && r.matches(&node.name_as_labels(), |_| None))
    }

    /// The only node names that can match, when the term names some.
    fn node_names(&self) -> Option<&[Sym]> {
        self.names.iter().find(|r| r.op == super::Op::In).map(|r| &*r.values)
    }
}

/// Which nodes a pod may go to: its `nodeSelector` and its required node affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct NodeRule {
    selector: Box<[Req]>,
    /// Any of these; `None` for no demand.
    terms: Option<Box<[NodeTerm]>>,
}

impl NodeRule {
    /// The rule of a pod; `None` when every node will do.
    pub fn of(spec: &core::PodSpec) -> Option<Self> {
        let selector: Box<[Req]> =
            spec.node_selector.iter().flatten().map(|(k, v)| Req::equals(Sym::of(k), Sym::of(v))).collect();
        let required = spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.map(|s| s.node_selector_terms.iter().map(NodeTerm::new).collect());
        let rule = Self { selector, terms };
        (rule != Self::default()).then_some(rule)
    }

    /// The rule of a `NodeSelector`, as volumes have.
    pub fn of_selector(selector: &core::NodeSelector) -> Self {
        Self { selector: Box::default(), terms: Some(selector.node_selector_terms.iter().map(NodeTerm::new).collect()) }
    }

    /// Whether a node will do.
    pub fn matches(&self, node: &NodeInfo) -> bool {
        self.selector.iter().all(|r| r.matches(&node.labels, |key| node.number(key)))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }

    /// The only names that can match, when every term names its nodes (as for pods of a DaemonSet).
    pub fn node_names(&self) -> Option<Vec<Sym>> {
        let mut names = Vec::new();
        for term in self.terms.as_ref()?.iter() {
            names.extend_from_slice(term.node_names()?);
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

/// Pods selected by namespace and labels, to be near to or far from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// Namespaces by name, ordered.
    namespaces: Box<[Sym]>,
    /// Namespaces by their labels.
    namespace_selector: Option<Selector>,
    /// Pods by their labels.
    pub selector: Selector,
    /// The node label whose equal values mean "near".
    pub topology: Sym,
}

impl PodTerm {
    /// A term of a pod in the namespace `own`.
    pub fn new(term: &core::PodAffinityTerm, own: Sym) -> Self {
        let mut namespaces: Vec<_> = term.namespaces.iter().flatten().map(|n| Sym::of(n)).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own);
        }
        namespaces.sort_unstable();
        Self {
            namespaces: namespaces.into(),
            namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::of(Some(s))),
            selector: Selector::of(term.label_selector.as_ref()),
            topology: Sym::of(&term.topology_key),
        }
    }

    /// Pods of one namespace, for spreading.
    pub fn in_namespace(namespace: Sym, selector: Selector, topology: Sym) -> Self {
        Self { namespaces: [namespace].into(), namespace_selector: None, selector, topology }
    }

    /// The same pods by another topology.
    #[must_use]
    pub fn at(&self, topology: Sym) -> Self {
        Self { topology, ..self.clone() }
    }

    /// Whether it depends on the labels of namespaces.
    pub fn selects_namespaces(&self) -> bool {
        self.namespace_selector.as_ref().is_some_and(|s| !s.is_everything())
    }

    /// Whether a pod is selected; `namespace_labels` are those of its namespace.
    #[inline]
    pub fn matches(&self, namespace: Sym, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        let inside = self.namespaces.contains(&namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| match namespace_labels {
                Some(known) => s.matches(known),
                None => s.is_everything(),
            });
        inside && self.selector.matches(labels)
    }
}
