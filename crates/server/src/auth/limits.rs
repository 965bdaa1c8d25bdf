//! How many requests are answered at once: so many that read, so many that change something.
//!
//! Invariant: who finds no place is told at once to come again, and never waits. Requests that go on for as long as their
//! client likes have no place, and `system:masters` always find one, so that a flood can be looked into.
//! Upstream: `apiserver/pkg/server/filters/maxinflight.go`, v1.36. Left out: priority and fairness.

use std::sync::atomic::{AtomicUsize, Ordering};

use stint_auth::identity::MASTERS;
use stint_auth::{User, What};

use super::{Asked, is_probed};
use crate::status::{Error, Result};

/// The places.
#[derive(Debug)]
pub struct Limits {
    reading: Places,
    mutating: Places,
}

#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    /// How many there are; 0: as many as come.
    all: AtomicUsize,
}

/// A place among the requests that run at once. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Places);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Places {
    fn new(all: usize) -> Self {
        Self { taken: AtomicUsize::new(0), all: AtomicUsize::new(all) }
    }

    fn enter(&self) -> Option<Slot<'_>> {
        let all = self.all.load(Ordering::Relaxed);
        let one_more = |taken: usize| (all == 0 || taken < all).then_some(taken + 1);
        let entered = self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more);
        entered.ok().map(|_| Slot(self))
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Default for Limits {
    /// As many as upstream: 400 that read and 200 that change something.
    fn default() -> Self {
        Self::new(400, 200)
    }
}

impl Limits {
    /// So many requests that read and that change something. 0: as many as come.
    pub fn new(reading: usize, mutating: usize) -> Self {
        Self { reading: Places::new(reading), mutating: Places::new(mutating) }
    }

    /// From now on so many. Those that have a place keep it.
    pub fn set(&self, reading: usize, mutating: usize) {
        self.reading.all.store(reading, Ordering::Relaxed);
        self.mutating.all.store(mutating, Ordering::Relaxed);
    }

    /// How many places are taken by requests that read, and by those that change something.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.reading.taken(), self.mutating.taken())
    }

    /// Finds the request a place. None: it needs none.
    pub(super) fn enter(&self, asked: &Asked, user: &User) -> Result<Option<Slot<'_>>> {
        // Health is what tells that there are too many requests.
        let probe = matches!(&asked.main.what, What::Path(path) if is_probed(path));
        if asked.is_long_running() || probe {
            return Ok(None);
        }
        let reads = matches!(asked.main.verb.as_str(), "get" | "list");
        let places = if reads { &self.reading } else { &self.mutating };
        match places.enter() {
            Some(slot) => Ok(Some(slot)),
            None if user.is_in(MASTERS) => Ok(None),
            None => Err(Error::TooManyRequests),
        }
    }
}
