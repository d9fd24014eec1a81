//! The drivers that are registered now. During a driver's update two instances may be: the newer one is asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::wire::{Client, Service};

/// A registered instance of a driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The socket that it registered with.
    pub registered_by: PathBuf,
    /// The socket of its service.
    pub endpoint: PathBuf,
    /// Its service.
    pub service: Service,
    /// The connection.
    pub client: Client,
}

/// All of them, by name.
#[derive(Debug, Default)]
pub struct Drivers(Mutex<HashMap<String, Vec<Driver>>>);

impl Drivers {
    /// A driver registered.
    pub fn add(&self, name: &str, driver: Driver) {
        let mut all = self.0.lock();
        let instances = all.entry(name.to_owned()).or_default();
        instances.retain(|d| d.registered_by != driver.registered_by);
        instances.push(driver);
    }

    /// The instance that registered with a socket is gone; gives its name.
    pub fn remove(&self, registered_by: &Path) -> Option<String> {
        let mut all = self.0.lock();
        let name =
            all.iter().find(|(_, i)| i.iter().any(|d| d.registered_by == registered_by)).map(|(n, _)| n.clone())?;
        if let Some(instances) = all.get_mut(&name) {
            instances.retain(|d| d.registered_by != registered_by);
            if instances.is_empty() {
                all.remove(&name);
            }
        }
        Some(name)
    }

    /// The instance to ask.
    pub fn get(&self, name: &str) -> Option<Driver> {
        self.0.lock().get(name).and_then(|i| i.last()).cloned()
    }

    /// The names of all.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}
