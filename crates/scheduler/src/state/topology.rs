//! Which node is in which domain of which topology key.

use crate::sym::{Sym, SymMap};

/// "The node has no such label."
pub const NOWHERE: u32 = u32::MAX;

/// One topology key: every value that nodes have for it is a domain with a small number.
#[derive(Debug, Default)]
pub struct Topology {
    /// The node label.
    pub key: Option<Sym>,
    /// The domain of each node, by node id; [`NOWHERE`] when it lacks the label or there is no such node.
    pub of_node: Vec<u32>,
    by_value: SymMap<Sym, u32>,
    values: Vec<Sym>,
    /// How many nodes are in each domain.
    pub population: Vec<u32>,
    free: Vec<u32>,
    /// How many nodes have the label.
    pub nodes: u32,
}

impl Topology {
    /// A topology without nodes.
    pub fn new(key: Sym) -> Self {
        Self { key: Some(key), ..Self::default() }
    }

    /// The domain of a node.
    #[inline]
    pub fn domain(&self, node: u32) -> u32 {
        self.of_node.get(node as usize).copied().unwrap_or(NOWHERE)
    }

    /// Domains with at least one node.
    pub fn domains(&self) -> usize {
        self.by_value.len()
    }

    /// An upper bound of domain numbers.
    pub fn size(&self) -> usize {
        self.population.len()
    }

    /// Puts a node where its label says. Its pods must not be counted at that moment.
    pub fn place(&mut self, node: u32, value: Option<Sym>) {
        self.remove(node);
        let Some(value) = value else { return };
        let domain = match self.by_value.get(&value) {
            Some(domain) => *domain,
            None => {
                let domain = self.free.pop().unwrap_or_else(|| {
                    self.population.push(0);
                    self.values.push(value);
                    self.population.len() as u32 - 1
                });
                self.values[domain as usize] = value;
                self.by_value.insert(value, domain);
                domain
            }
        };
        if self.of_node.len() <= node as usize {
            self.of_node.resize(node as usize + 1, NOWHERE);
        }
        self.of_node[node as usize] = domain;
        self.population[domain as usize] += 1;
        self.nodes += 1;
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: u32) {
        let domain = self.domain(node);
        if domain == NOWHERE {
            return;
        }
        self.of_node[node as usize] = NOWHERE;
        self.nodes -= 1;
        self.population[domain as usize] -= 1;
        if self.population[domain as usize] == 0 {
            self.by_value.remove(&self.values[domain as usize]);
            self.free.push(domain);
        }
    }
}
