//! The objects an informer holds, with its secondary indexes.

use crate::informer::Object;
use crate::key::Key;
use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

type Filing<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    of: Filing<K>,
    /// The type of `of`, which no other function has.
    made_by: TypeId,
    keys: HashMap<String, BTreeSet<Key>>,
}

/// Objects by key, and keys by index value. Not synchronised: the informer's lock is around it.
pub(crate) struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Store { objects: BTreeMap::new(), indexes: HashMap::new() }
    }
}

impl<K: Object> Store<K> {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.objects.keys().cloned().collect()
    }

    pub(crate) fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects
            .range(Key::new(namespace, "")..)
            .take_while(|(k, _)| k.namespace == namespace)
            .map(|(_, v)| v.clone())
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn insert(&mut self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }

    pub(crate) fn add_index<F>(&mut self, name: &'static str, of: F)
    where
        F: Fn(&K) -> Vec<String> + Send + Sync + 'static,
    {
        let made_by = TypeId::of::<F>();
        if let Some(present) = self.indexes.get(name) {
            // The informers of a process are shared: what one finds under a name the other would look for in vain.
            assert!(present.made_by == made_by, "two indexes of {} are called {name:?}", std::any::type_name::<K>());
            return;
        }
        let mut index = Index { of: Box::new(of), made_by, keys: HashMap::new() };
        for (key, object) in &self.objects {
            index.insert(key, object);
        }
        self.indexes.insert(name, index);
    }

    pub(crate) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let keys = self.indexes.get(name).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|k| self.get(k)).collect()
    }

    pub(crate) fn any_by_index(&self, name: &str, value: &str) -> bool {
        self.indexes.get(name).and_then(|i| i.keys.get(value)).is_some_and(|keys| !keys.is_empty())
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Key, object: &K) {
        for value in (self.of)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.of)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn by_name(map: &ConfigMap) -> Vec<String> {
        map.metadata.name.clone().into_iter().collect()
    }

    #[test]
    fn the_same_index_may_be_asked_for_twice() {
        let mut store = Store::<ConfigMap>::default();
        store.add_index("name", by_name);
        store.add_index("name", by_name);
    }

    #[test]
    #[should_panic(expected = "two indexes")]
    fn two_indexes_of_one_name_are_a_mistake() {
        let mut store = Store::<ConfigMap>::default();
        store.add_index("name", by_name);
        store.add_index("name", |_: &ConfigMap| vec![]);
    }
}
