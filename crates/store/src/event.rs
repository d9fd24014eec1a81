//! What watches deliver.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::{Entry, Revision};

/// A place for one value that a reader computes once for all readers. It holds one type per use: the first to fill it
/// decides, and asking for another type computes anew without storing.
#[derive(Default)]
pub struct Slot(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Slot {
    /// The value kept here, made by `make` when there is none yet.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(kept) = self.0.get() {
            if let Ok(found) = Arc::clone(kept).downcast::<T>() {
                return found;
            }
            return Arc::new(make());
        }
        let made = Arc::new(make());
        match self.0.set(made.clone()) {
            Ok(()) => made,
            Err(_) => self.get::<T>().unwrap_or(made),
        }
    }

    /// The value kept here, when there is one of this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get()?).downcast::<T>().ok()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Slot(full)" } else { "Slot(empty)" })
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An entry was stored where there was none.
    Created,
    /// An entry was replaced.
    Updated,
    /// An entry was removed.
    Deleted,
}

/// One change of one key, shared by all watches that see it.
#[derive(Debug)]
pub struct Event {
    /// The revision of the commit.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The new state; after a deletion the last one, stamped with the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The state before; `None` after a creation.
    pub prev: Option<Arc<Entry>>,
    /// A place for what is made from this event once for all watches: its encoded frame, say.
    pub slot: Slot,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        &self.entry.key
    }

    /// The bytes that this event keeps from being freed beyond the live entries, about.
    pub(crate) fn cost(&self) -> usize {
        let stamped = if self.kind == EventKind::Deleted { self.entry.value.len() } else { 0 };
        self.prev.as_ref().map_or(0, |prev| prev.value.len()) + stamped + 256
    }
}
