//! The one thread that writes: takes all waiting commits as a group, makes them durable with one fsync, shows them, answers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::frame::{Frame, PUT_OVERHEAD};
use super::log::Log;
use super::media::Media;
use super::plan::{Group, Refusal};
use super::queue::{Queue, Request};
use crate::{Committed, Entry, Error, Expect, Index, MAX_WRITES, Revision, Write};

/// How much a group may clean beside its own bytes: enough to keep up, little enough not to be felt.
const CLEAN_STEP: u64 = 256 << 10;
const MAX_CLEAN_STEP: u64 = 4 << 20;
/// Wait this long after a failed cleaning before the next try.
const CLEAN_PAUSE: Duration = Duration::from_secs(5);

/// What the writer tells the rest.
#[derive(Default)]
pub(super) struct Condition {
    pub(super) disk_bytes: AtomicU64,
    /// The disk is full: only what does not grow the data is taken.
    pub(super) full: AtomicBool,
    /// The last failure, until a write succeeds again.
    pub(super) failure: Mutex<Option<Error>>,
}

/// The room kept for a full disk: a file of zeros that is given up then.
pub(super) struct Reserve {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) media: Arc<dyn Media>,
    pub(super) held: bool,
    /// When to look again whether there is room.
    pub(super) look_after: Option<Instant>,
}

impl Reserve {
    /// Takes the room at start; false when there is none.
    pub(super) fn take(&mut self) -> bool {
        self.held = self.held || self.fill(self.bytes).is_ok();
        self.held
    }

    /// Takes the room again after it was given up, once there is as much beside it: else the disk would be full again with
    /// the next write. Looks at most once a second.
    fn retake(&mut self) -> bool {
        if self.look_after.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        self.look_after = Some(Instant::now() + Duration::from_secs(1));
        self.held = self.fill(self.bytes * 2).is_ok();
        self.held
    }

    /// Makes the file, proving that there is room for `bytes`.
    fn fill(&self, bytes: u64) -> std::io::Result<()> {
        let _ = self.media.remove(&self.path);
        let zeros = vec![0; 64 << 10];
        let made = self.media.create(&self.path).and_then(|mut file| {
            for _ in 0..bytes.div_ceil(zeros.len() as u64) {
                file.append(&zeros)?;
            }
            file.truncate(self.bytes)?;
            file.sync()
        });
        if made.is_err() {
            let _ = self.media.remove(&self.path);
        }
        made
    }

    fn give(&mut self) {
        self.held = false;
        self.look_after = Some(Instant::now() + Duration::from_secs(1));
        let _ = self.media.remove(&self.path);
    }
}

pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) index: Arc<Index>,
    pub(super) queue: Arc<Queue>,
    pub(super) condition: Arc<Condition>,
    pub(super) reserve: Reserve,
    /// When which entry dies. Entries written again since then are passed over when their time comes.
    pub(super) deaths: BinaryHeap<Reverse<(u64, Revision, Arc<str>)>>,
    pub(super) frame: Frame,
    pub(super) clean_after: Option<Instant>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Writer {
    pub(super) fn run(mut self) {
        self.report_size();
        while let Some(group) = self.queue.next(self.deadline()) {
            let now = now();
            self.expire(now);
            if group.is_empty() {
                self.clean_idle();
            } else {
                self.group(group, now);
            }
        }
    }

    /// When to act without being asked: at once to go on cleaning, or when the next entry dies.
    fn deadline(&self) -> Option<Instant> {
        let clean = self.wants_cleaning().then(|| self.clean_after.unwrap_or_else(Instant::now));
        let death = self.deaths.peek().map(|Reverse((at, _, _))| {
            Instant::now() + Duration::from_secs(at.saturating_sub(now())).max(Duration::from_millis(100))
        });
        clean.into_iter().chain(death).min()
    }

    fn live(&self) -> u64 {
        let stats = self.index.size();
        stats.1 + stats.0 * PUT_OVERHEAD
    }

    fn full(&self) -> bool {
        self.condition.full.load(Ordering::Relaxed)
    }

    fn wants_cleaning(&self) -> bool {
        self.log.wants_cleaning(self.live(), self.full())
    }

    fn group(&mut self, requests: Vec<Request>, now: u64) {
        if self.full() && self.reserve.retake() {
            self.condition.full.store(false, Ordering::Relaxed);
        }
        let shrinking_only = self.full();
        let index = self.index.clone();
        let mut group = Group::new(&index, now);
        let mut answers: Vec<(Request, Result<Committed, Error>)> = Vec::with_capacity(requests.len());
        for request in requests {
            let answer = group.add(&request.writes, shrinking_only).map_err(|refusal| self.refused(refusal));
            answers.push((request, answer));
        }
        match self.write(&group) {
            Ok(()) => {
                for (request, answer) in answers {
                    let _ = request.reply.send(answer);
                }
            }
            Err(error @ Error::Full { .. }) if !shrinking_only => {
                // The reserve is for what makes room; try the group once more under that rule.
                tracing::warn!(%error, "the disk is full: only deletions and small updates are taken");
                self.condition.full.store(true, Ordering::Relaxed);
                self.reserve.give();
                self.group_again(answers.into_iter().map(|(request, _)| request).collect(), now);
            }
            Err(error) => {
                for (request, _) in answers {
                    let _ = request.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// The second try of a group that met a full disk.
    fn group_again(&mut self, requests: Vec<Request>, now: u64) {
        let index = self.index.clone();
        let mut group = Group::new(&index, now);
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let answer = group.add(&request.writes, true).map_err(|refusal| self.refused(refusal));
            answers.push((request, answer));
        }
        let written = self.write(&group);
        for (request, answer) in answers {
            let _ = request.reply.send(written.clone().and(answer));
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Conflict(error) => error,
            Refusal::Grows => Error::Full { path: self.reserve.path.parent().unwrap_or(&self.reserve.path).to_owned() },
        }
    }

    /// Makes a group durable and visible, cleaning a little on the way.
    fn write(&mut self, group: &Group<'_>) -> Result<(), Error> {
        if group.commits.is_empty() {
            return Ok(());
        }
        let live = self.live();
        self.frame.clear();
        let step = if self.wants_cleaning() && self.clean_after.is_none_or(|at| at <= Instant::now()) {
            let own: usize =
                group.commits.iter().flat_map(|c| &c.1).map(|c| c.entry.as_ref().map_or(64, |e| e.value.len())).sum();
            self.clean_step((own as u64 * 4).clamp(CLEAN_STEP, MAX_CLEAN_STEP))
        } else {
            None
        };
        group.encode(&mut self.frame);
        self.append(live)?;
        if let Some(step) = step {
            self.log.cleaned(&step);
        }
        self.index.apply(&group.commits);
        for entry in group.commits.iter().flat_map(|c| &c.1).filter_map(|c| c.entry.as_ref()) {
            self.remember_death(entry);
        }
        self.report_size();
        Ok(())
    }

    fn append(&mut self, live: u64) -> Result<(), Error> {
        let written = self.log.append(&mut self.frame, self.index.revision(), live);
        let mut failure = self.condition.failure.lock();
        match &written {
            Ok(()) => *failure = None,
            Err(error) => {
                if failure.is_none() {
                    tracing::error!(%error, "a write to the store failed");
                }
                *failure = Some(error.clone());
            }
        }
        written
    }

    fn clean_step(&mut self, budget: u64) -> Option<super::log::Step> {
        match self.log.clean(&mut self.frame, &self.index, budget) {
            Ok(step) => step,
            Err(error) => {
                tracing::warn!(%error, "cannot clean the log");
                self.frame.clear();
                self.clean_after = Some(Instant::now() + CLEAN_PAUSE);
                None
            }
        }
    }

    /// Cleans while nobody waits.
    fn clean_idle(&mut self) {
        if !self.wants_cleaning() || self.clean_after.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.clean_after = None;
        self.frame.clear();
        let live = self.live();
        let Some(step) = self.clean_step(CLEAN_STEP * 4) else { return };
        let moved = if self.frame.is_empty() { Ok(()) } else { self.append(live) };
        match moved {
            Ok(()) => self.log.cleaned(&step),
            Err(_) => self.clean_after = Some(Instant::now() + CLEAN_PAUSE),
        }
        self.report_size();
    }

    pub(super) fn remember_death(&mut self, entry: &Entry) {
        if entry.expires == 0 {
            return;
        }
        self.deaths.push(Reverse((entry.expires, entry.revision, entry.key.clone())));
        // Entries written again and again leave stale deaths behind: sweep when they outnumber the living.
        if self.deaths.len() > 1024 && self.deaths.len() as u64 > 2 * self.index.size().0 {
            let index = &self.index;
            self.deaths.retain(|Reverse((_, revision, key))| {
                index.current(key).is_some_and(|e| e.revision == *revision) || *revision >= index.revision()
            });
        }
    }

    fn expire(&mut self, now: u64) {
        while self.deaths.peek().is_some_and(|Reverse((at, _, _))| *at <= now) {
            let mut writes = Vec::new();
            let mut taken = Vec::new();
            while writes.len() < MAX_WRITES
                && let Some(Reverse((_, revision, key))) = self.deaths.peek().filter(|Reverse((at, _, _))| *at <= now)
            {
                if self.index.current(key).is_some_and(|e| e.revision == *revision) {
                    writes.push(Write::delete(&**key, Expect::Revision(*revision)));
                }
                taken.extend(self.deaths.pop());
            }
            let index = self.index.clone();
            let mut group = Group::new(&index, now);
            let failed = !writes.is_empty() && (group.add(&writes, false).is_err() || self.write(&group).is_err());
            if failed {
                // Their time has come but the disk refuses: try again a little later.
                self.deaths.extend(taken.into_iter().map(|Reverse((_, r, k))| Reverse((now + 5, r, k))));
                return;
            }
        }
    }

    fn report_size(&self) {
        let reserve = if self.reserve.held { self.reserve.bytes } else { 0 };
        self.condition.disk_bytes.store(self.log.total() + reserve, Ordering::Relaxed);
    }
}
