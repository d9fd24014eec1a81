//! Pools of devices: slices put together.
//!
//! Only the newest generation of a pool counts. A pool of which slices are missing is incomplete, and one with two devices of a name is
//! invalid: nothing is taken from either.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::slice::{Place, Slice};
use crate::model::NodeInfo;

/// Driver and pool.
type PoolName = (Arc<str>, Arc<str>);

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// Who drives its devices.
    pub driver: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The slices of its newest generation.
    pub slices: Vec<Arc<Slice>>,
    /// Not all of them are there.
    pub incomplete: bool,
    /// Two devices have the same name.
    pub invalid: bool,
    /// Some device has conditions to be met before binding: such pools come last.
    pub has_conditions: bool,
}

impl Pool {
    fn new(driver: Arc<str>, name: Arc<str>, mut slices: Vec<Arc<Slice>>) -> Self {
        let newest = slices.iter().map(|s| s.generation).max().unwrap_or(0);
        slices.retain(|s| s.generation == newest);
        let count = slices.first().map_or(0, |s| s.count);
        let mut names = HashSet::new();
        let invalid = slices.iter().flat_map(|s| &s.devices).any(|d| !names.insert(&d.id.device));
        slices.sort_by_key(|s| s.has_conditions());
        let has_conditions = slices.iter().any(|s| s.has_conditions());
        Self { driver, name, incomplete: slices.len() as i64 != count, invalid, has_conditions, slices }
    }

    /// Whether devices may be taken from it.
    pub fn is_usable(&self) -> bool {
        !self.incomplete && !self.invalid
    }

    /// Whether a node can use some device of it.
    pub fn reaches(&self, node: &NodeInfo) -> bool {
        self.slices.iter().any(|s| match s.place {
            Place::EachDevice => s.devices.iter().any(|d| d.place.reaches(node)),
            _ => s.place.reaches(node),
        })
    }
}

/// All pools, with an index of those that belong to one node.
#[derive(Debug, Default)]
pub struct Pools {
    of_node: HashMap<Arc<str>, Vec<Arc<Pool>>>,
    /// Those of which more than one node may have something.
    common: Vec<Arc<Pool>>,
}

impl Pools {
    /// Puts slices together, in the order of drivers, pools and slices.
    pub fn new<'a>(slices: impl Iterator<Item = &'a Arc<Slice>>) -> Self {
        let mut groups: BTreeMap<PoolName, Vec<Arc<Slice>>> = BTreeMap::new();
        for slice in slices {
            groups.entry((slice.driver.clone(), slice.pool.clone())).or_default().push(slice.clone());
        }
        let mut out = Self::default();
        for ((driver, name), mut slices) in groups {
            slices.sort_by(|a, b| a.name.cmp(&b.name));
            let pool = Arc::new(Pool::new(driver, name, slices));
            let mut nodes: Vec<&Arc<str>> = Vec::new();
            let local = pool.slices.iter().all(|s| match &s.place {
                Place::Node(node) => {
                    nodes.push(node);
                    true
                }
                _ => false,
            });
            nodes.dedup();
            match nodes[..] {
                [node] if local => out.of_node.entry(node.clone()).or_default().push(pool.clone()),
                _ => out.common.push(pool.clone()),
            }
        }
        out
    }

    /// The pools of which a node can use something, in the order of drivers and names; those with conditions to be met last.
    pub fn of(&self, node: &NodeInfo) -> Vec<&Pool> {
        let own = self.of_node.get(&node.name).into_iter().flatten();
        let mut all: Vec<&Pool> =
            own.chain(self.common.iter().filter(|p| p.reaches(node))).map(|pool| &**pool).collect();
        all.sort_by(|a, b| (a.has_conditions, &a.driver, &a.name).cmp(&(b.has_conditions, &b.driver, &b.name)));
        all
    }
}
