//! What the controller remembers between two looks; losing it costs time, never correctness.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::names::VolumeId;

/// A volume on a node.
pub type Place = (String, VolumeId);

/// An attachment that was asked for and is not in the cache yet.
pub struct Asked {
    /// Which volume, and where.
    pub place: Place,
    /// When.
    pub at: Instant,
    /// Its uid, once the answer has told it.
    pub uid: Option<String>,
    /// It was deleted again before the cache showed it; until it is known to be gone it is in the way of others.
    pub going: bool,
}

impl Asked {
    /// Whether an attachment of its name that a watch shows is this one. `before`: it is one that was deleted earlier.
    fn is(&self, uid: &str, going: bool, before: bool) -> bool {
        match &self.uid {
            Some(known) => known == uid,
            None => !before && (self.going || !going),
        }
    }
}

/// All of it.
#[derive(Default)]
pub struct Memory {
    /// By the name of the attachment.
    pub asked: HashMap<String, Asked>,
    /// Attachments that were deleted and that the cache may still show, by name; the value is the uid.
    pub deleted: HashMap<String, String>,
    /// Since when volumes on nodes are not wanted.
    unwanted: HashMap<Place, Instant>,
    /// Since when attachments are waited for.
    waiting: HashMap<Place, Instant>,
    /// The last trouble that was told of.
    told: HashMap<Place, String>,
    /// `volumesInUse` of nodes whose object is gone: they may be running all the same.
    ghosts: HashMap<String, BTreeSet<String>>,
}

impl Memory {
    /// A watch has shown an attachment. All that is to one node has one name, so what is shown may be one that was there before.
    pub fn seen(&mut self, name: &str, uid: &str, going: bool) {
        let before = self.deleted.get(name).is_some_and(|u| u == uid);
        if self.asked.get(name).is_some_and(|a| a.is(uid, going, before)) {
            self.asked.remove(name);
        }
        if going == before {
            self.deleted.remove(name);
        }
    }

    /// How long the volume is not wanted on the node, counted from the first time that this is asked.
    pub fn unwanted_for(&mut self, place: &Place) -> Duration {
        self.unwanted.entry(place.clone()).or_insert_with(Instant::now).elapsed()
    }

    /// It is wanted.
    pub fn wanted(&mut self, place: &Place) {
        self.unwanted.remove(place);
    }

    /// How long an attachment is waited for, counted from the first time that this is asked.
    pub fn waiting_for(&mut self, place: &Place) -> Duration {
        self.waiting.entry(place.clone()).or_insert_with(Instant::now).elapsed()
    }

    /// Counts the waiting anew.
    pub fn wait_anew(&mut self, place: &Place) {
        self.waiting.remove(place);
    }

    /// Whether this trouble is news.
    pub fn is_news(&mut self, place: &Place, note: &str) -> bool {
        self.told.insert(place.clone(), note.to_owned()).as_deref() != Some(note)
    }

    /// The trouble is over.
    pub fn settled(&mut self, place: &Place) {
        self.told.remove(place);
        self.waiting.remove(place);
    }

    /// Forgets what concerns other volumes of the node than these.
    pub fn keep(&mut self, node: &str, volumes: impl Fn(&VolumeId) -> bool) {
        let stays = |(n, v): &Place| n != node || volumes(v);
        self.unwanted.retain(|p, _| stays(p));
        self.waiting.retain(|p, _| stays(p));
        self.told.retain(|p, _| stays(p));
    }

    /// A node's object is gone.
    pub fn node_gone(&mut self, node: &str, in_use: BTreeSet<String>) {
        if !in_use.is_empty() {
            self.ghosts.insert(node.to_owned(), in_use);
        }
    }

    /// It is there (again), or nothing is attached to it any more.
    pub fn lay(&mut self, node: &str) {
        self.ghosts.remove(node);
    }

    /// What a node that is gone used last.
    pub fn ghost(&self, node: &str) -> BTreeSet<String> {
        self.ghosts.get(node).cloned().unwrap_or_default()
    }
}
