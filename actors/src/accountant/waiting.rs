//! Those who wait for a permit: in the order of their turns, and by the end of their patience.
//!
//! Every step costs O(log n). Who is gone is met when its turn comes, or leaves by its place.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::budget::Tick;

use super::account::Answer;
use crate::calls::Order;

/// How often one that needs many tokens is overtaken by those that need fewer.
pub const MOST_OVERTAKEN: u8 = 8;

/// How many behind the first are looked at for one that fits.
const LOOK_BEHIND: usize = 8;

/// A place among those that wait: by order, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    order: Order,
    arrival: u64,
}

impl Place {
    /// The place of the `arrival`th that came, within `order`.
    pub fn new(order: Order, arrival: u64) -> Self {
        Place { order, arrival }
    }
}

/// One who waits.
#[derive(Debug)]
pub struct Waiter<W> {
    /// Tokens that it needs.
    pub tokens: u64,
    /// When it came.
    pub since: Tick,
    /// When its patience ends.
    pub until: Tick,
    /// Where its answer goes.
    pub answer: W,
    overtaken: u8,
}

impl<W> Waiter<W> {
    /// One who comes at `since`.
    pub fn new(tokens: u64, since: Tick, until: Tick, answer: W) -> Self {
        Waiter { tokens, since, until, answer, overtaken: 0 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Waiting<W> {
    by_place: BTreeMap<Place, Waiter<W>>,
    by_until: BTreeSet<(Tick, Place)>,
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Waiting { by_place: BTreeMap::new(), by_until: BTreeSet::new() }
    }
}

impl<W: Answer> Waiting<W> {
    /// Takes its place.
    pub fn join(&mut self, place: Place, waiter: Waiter<W>) {
        self.by_until.insert((waiter.until, place));
        if let Some(before) = self.by_place.insert(place, waiter) {
            self.by_until.remove(&(before.until, place));
        }
    }

    /// Gives its place up; `None` if it was gone already.
    pub fn remove(&mut self, place: Place) -> Option<Waiter<W>> {
        let waiter = self.by_place.remove(&place)?;
        self.by_until.remove(&(waiter.until, place));
        Some(waiter)
    }

    /// Whose turn it is, and the tokens that it needs; those who are gone are forgotten on the way.
    pub fn first(&mut self) -> Option<(Place, u64)> {
        loop {
            let (place, waiter) = self.by_place.first_key_value()?;
            let (place, tokens) = (*place, waiter.tokens);
            if !waiter.answer.is_gone() {
                return Some((place, tokens));
            }
            self.remove(place);
        }
    }

    /// One of the next behind the first, of the same priority, that `fits` now where the first does
    /// not. All whom it overtakes remember it, and nobody is overtaken too often.
    pub fn overtaking(&mut self, mut fits: impl FnMut(u64) -> bool) -> Option<Place> {
        let (first, _) = self.first()?;
        let mut gone = Vec::new();
        let mut found = None;
        for (place, waiter) in self.by_place.iter().take(1 + LOOK_BEHIND) {
            if place.order.priority != first.order.priority {
                break;
            }
            if waiter.answer.is_gone() {
                gone.push(*place);
            } else if *place != first && fits(waiter.tokens) {
                found = Some(*place);
                break;
            } else if waiter.overtaken >= MOST_OVERTAKEN {
                break;
            }
        }
        for place in gone {
            self.remove(place);
        }
        let found = found?;
        for (_, overtaken) in self.by_place.range_mut(..found) {
            overtaken.overtaken += 1;
        }
        Some(found)
    }

    /// Takes out those whose patience ends before `opens`, or has ended at `now`; in the order of
    /// their turns.
    pub fn tired(&mut self, now: Tick, opens: Tick) -> Vec<Waiter<W>> {
        let mut tired = Vec::new();
        while let Some((until, place)) = self.by_until.first().copied() {
            if until > now && until >= opens {
                break;
            }
            self.by_until.pop_first();
            if let Some(waiter) = self.by_place.remove(&place) {
                tired.push((place, waiter));
            }
        }
        tired.sort_unstable_by_key(|(place, _)| *place);
        tired.into_iter().map(|(_, waiter)| waiter).filter(|waiter| !waiter.answer.is_gone()).collect()
    }

    /// When the first patience ends.
    pub fn first_until(&self) -> Option<Tick> {
        self.by_until.first().map(|(until, _)| *until)
    }

    /// When the one came that waits longest. Looks at all: for status only.
    pub fn oldest(&self) -> Option<Tick> {
        self.by_place.values().map(|waiter| waiter.since).min()
    }

    /// Tokens of those who wait, in the order of their turns.
    pub fn sizes(&self) -> impl Iterator<Item = u64> {
        self.by_place.values().map(|waiter| waiter.tokens)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }
}
