//! Which devices are taken, and how much of those that are shared.

use std::collections::HashMap;

use super::DeviceId;
use super::capacity::Amounts;
use super::claim::Allocation;

#[derive(Clone, Debug, Default)]
struct Use {
    /// Claims that have all of it.
    whole: usize,
    /// Claims that have a part of it.
    parts: usize,
    /// What these have.
    amounts: Amounts,
}

/// See the module's documentation. Kept up with every claim that comes, changes or goes.
#[derive(Clone, Debug, Default)]
pub struct Usage(HashMap<DeviceId, Use>);

impl Usage {
    /// A claim got devices.
    pub fn add(&mut self, allocation: &Allocation) {
        for held in allocation.devices.iter().filter(|h| !h.admin) {
            let entry = self.0.entry(held.id.clone()).or_default();
            let Some(share) = &held.share else {
                entry.whole += 1;
                continue;
            };
            entry.parts += 1;
            for (name, amount) in share {
                let sum = entry.amounts.entry(name.clone()).or_default();
                *sum = sum.add(*amount);
            }
        }
    }

    /// A claim gave its devices back.
    pub fn remove(&mut self, allocation: &Allocation) {
        for held in allocation.devices.iter().filter(|h| !h.admin) {
            let Some(entry) = self.0.get_mut(&held.id) else { continue };
            match &held.share {
                None => entry.whole = entry.whole.saturating_sub(1),
                Some(share) => {
                    entry.parts = entry.parts.saturating_sub(1);
                    for (name, amount) in share {
                        if let Some(sum) = entry.amounts.get_mut(name) {
                            *sum = sum.sub(*amount);
                        }
                    }
                }
            }
            if entry.whole == 0 && entry.parts == 0 {
                self.0.remove(&held.id);
            }
        }
    }

    /// Whether somebody has all of a device.
    pub fn is_taken(&self, id: &DeviceId) -> bool {
        self.0.get(id).is_some_and(|u| u.whole > 0)
    }

    /// Whether somebody has a device or a part of it.
    pub fn is_used(&self, id: &DeviceId) -> bool {
        self.0.contains_key(id)
    }

    /// How much of a shared device others have.
    pub fn amounts(&self, id: &DeviceId) -> Option<&Amounts> {
        self.0.get(id).map(|u| &u.amounts)
    }
}
