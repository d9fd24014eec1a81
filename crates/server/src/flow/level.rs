//! A priority level: seats, and fair queues before them.
//!
//! A flow is dealt a hand of queues and waits in the shortest of them (shuffle sharding), so one flood meets few others.
//! Queues are served by virtual time: the queue that was served least, counted from when it last had nothing to do.

use super::config::{Limits, Queuing};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What an arriving request is told.
pub enum Answer {
    /// It has a seat.
    Sit,
    /// It is called when there is one.
    Wait(oneshot::Receiver<()>),
    /// It is sent away, for this reason.
    Refuse(&'static str),
}

/// How many were sent away, and why.
#[derive(Debug, Default)]
pub struct Refused {
    /// The queue was full.
    pub queue_full: u64,
    /// There are no queues.
    pub no_queue: u64,
    /// It waited too long.
    pub timed_out: u64,
}

/// Somebody who waits.
struct Waiting {
    id: u64,
    /// How many seats it takes.
    width: u32,
    call: oneshot::Sender<()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Virtual time at which its next request is due.
    due: u64,
}

/// A priority level.
pub struct Level {
    limits: Limits,
    nominal: u32,
    lends: u32,
    borrows: u32,
    used: u32,
    served: u64,
    waiting: usize,
    queues: Vec<Queue>,
    now: u64,
    retired: bool,
    /// How many were sent away.
    pub refused: Refused,
}

impl Level {
    /// A level without seats yet.
    pub fn new(limits: Limits) -> Self {
        let mut level = Self {
            limits,
            nominal: 0,
            lends: 0,
            borrows: 0,
            used: 0,
            served: 0,
            waiting: 0,
            queues: vec![],
            now: 0,
            retired: false,
            refused: Refused::default(),
        };
        level.make_queues();
        level
    }

    /// Takes other limits; who waits goes on waiting.
    pub fn configure(&mut self, limits: Limits) {
        self.limits = limits;
        self.retired = false;
        self.make_queues();
    }

    fn make_queues(&mut self) {
        let wanted = self.limits.queuing.map_or(0, |q| q.queues as usize);
        if self.queues.len() > wanted.max(1) {
            // Who waited in a queue that goes is put into one that stays.
            let keep = wanted.max(1);
            let gone: Vec<Queue> = self.queues.drain(keep..).collect();
            for (i, queue) in gone.into_iter().enumerate() {
                self.queues[i % keep].waiting.extend(queue.waiting);
            }
        }
        self.queues.resize_with(wanted.max(usize::from(self.waiting > 0)), Queue::default);
    }

    /// Its uid.
    pub fn uid(&self) -> Arc<str> {
        self.limits.uid.clone()
    }

    /// Its shares of the seats.
    pub fn shares(&self) -> u32 {
        if self.retired { 0 } else { self.limits.shares }
    }

    /// Percent of its seats that others may borrow.
    pub fn lendable(&self) -> u32 {
        self.limits.lendable
    }

    /// Says how many seats it has, how many of them it lends, and how many others lend in all.
    pub fn set_seats(&mut self, nominal: u32, lends: u32, lent_by_others: u32) {
        let limit = self.limits.borrowing.map_or(u32::MAX, |percent| {
            u32::try_from(u64::from(nominal) * u64::from(percent) / 100).unwrap_or(u32::MAX)
        });
        (self.nominal, self.lends, self.borrows) = (nominal, lends, lent_by_others.min(limit));
    }

    /// Seats that are its own.
    pub fn nominal(&self) -> u32 {
        if self.limits.exempt { u32::MAX } else { self.nominal }
    }

    /// Seats that it may have at most.
    pub fn most(&self) -> u32 {
        self.nominal.saturating_add(self.borrows)
    }

    /// Seats that nobody else may have.
    pub fn kept(&self) -> u32 {
        self.nominal - self.lends
    }

    /// Seats that are taken.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Requests that were given a seat.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether its seats are seats of the server.
    pub fn counts(&self) -> bool {
        !self.limits.exempt
    }

    /// Whether somebody waits.
    pub fn waits(&self) -> bool {
        self.waiting > 0
    }

    /// No longer configured.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether it is no longer configured.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// No longer configured, and nobody is left.
    pub fn is_done(&self) -> bool {
        self.retired && self.used == 0 && self.waiting == 0
    }

    /// The most seats that one request may take.
    pub fn widest(&self) -> u32 {
        if self.limits.exempt {
            return 1;
        }
        let part = (u64::from(self.nominal) * 15).div_ceil(100);
        u32::try_from(part).unwrap_or(u32::MAX).clamp(1, super::cost::MOST_SEATS)
    }

    /// How many seats the one who is due takes.
    pub fn next_width(&self) -> Option<u32> {
        let due = self.queues.iter().filter(|q| !q.waiting.is_empty()).min_by_key(|q| q.due)?;
        due.waiting.front().map(|w| w.width)
    }

    /// A request of a flow comes, which takes `width` seats; `may` says whether there are so many.
    pub fn arrive(&mut self, id: u64, flow: u64, width: u32, may: bool) -> Answer {
        if self.limits.exempt || (may && self.waiting == 0) {
            self.sit(width);
            return Answer::Sit;
        }
        let Some(queuing) = self.limits.queuing else {
            self.refused.no_queue += 1;
            return Answer::Refuse("concurrency-limit");
        };
        let chosen = self.shortest(flow, queuing);
        let Some(queue) = self.queues.get_mut(chosen) else { return Answer::Refuse("queue-full") };
        if queue.waiting.len() >= queuing.length as usize {
            self.refused.queue_full += 1;
            return Answer::Refuse("queue-full");
        }
        let (call, called) = oneshot::channel();
        if queue.waiting.is_empty() {
            queue.due = queue.due.max(self.now);
        }
        queue.waiting.push_back(Waiting { id, width, call });
        self.waiting += 1;
        if may {
            self.serve_one();
        }
        Answer::Wait(called)
    }

    /// The shortest queue of a flow's hand.
    fn shortest(&self, flow: u64, queuing: Queuing) -> usize {
        hand(flow, self.queues.len(), queuing.hand as usize)
            .into_iter()
            .min_by_key(|i| self.queues.get(*i).map_or(usize::MAX, |q| q.waiting.len()))
            .unwrap_or(0)
    }

    /// Gives a seat to the one who is due; false when nobody waits.
    pub fn serve_one(&mut self) -> bool {
        loop {
            let due = self.queues.iter_mut().filter(|q| !q.waiting.is_empty()).min_by_key(|q| q.due);
            let Some(queue) = due else { return false };
            let Some(next) = queue.waiting.pop_front() else { return false };
            self.now = queue.due;
            queue.due += u64::from(next.width);
            self.waiting -= 1;
            // Who went away meanwhile does not count.
            if next.call.send(()).is_ok() {
                self.sit(next.width);
                return true;
            }
        }
    }

    fn sit(&mut self, width: u32) {
        self.used += width;
        self.served += 1;
    }

    /// Seats are given back.
    pub fn release(&mut self, width: u32) {
        self.used = self.used.saturating_sub(width);
    }

    /// Somebody who waits goes away; false when it is not in a queue any more, as it was given a seat.
    pub fn leave(&mut self, id: u64) -> bool {
        for queue in &mut self.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|other| other.id != id);
            if queue.waiting.len() < before {
                self.waiting -= 1;
                return true;
            }
        }
        false
    }
}

/// Deals `size` different queues of `deck` to a flow.
fn hand(mut flow: u64, deck: usize, size: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(size);
    for i in 0..size.min(deck) {
        let left = (deck - i) as u64;
        let mut card = usize::try_from(flow % left).unwrap_or(0);
        flow /= left;
        // The card counts among those that are not dealt yet.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_are_of_different_cards() {
        for flow in [0, 1, 12345, u64::MAX, 0xdead_beef_cafe] {
            let mut cards = hand(flow, 64, 6);
            assert_eq!(cards.len(), 6);
            assert!(cards.iter().all(|c| *c < 64));
            cards.sort_unstable();
            cards.dedup();
            assert_eq!(cards.len(), 6);
        }
        assert_eq!(hand(7, 3, 8).len(), 3);
    }
}
