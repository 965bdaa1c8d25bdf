//! How many requests are answered at once: so many that read, so many that change something.
//!
//! Invariant: who finds no place is told at once to come again, and never waits. Requests that go on for as long as their
//! client likes have no place, and `system:masters` always find one, so that a flood can be looked into.
//! Upstream: `apiserver/pkg/server/filters/maxinflight.go`, v1.36. Left out: priority and fairness.

use stint_auth::identity::MASTERS;
use stint_auth::{User, What};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Asked, is_probed};
use crate::status::{Error, Result};

/// A place among the requests that run at once. Dropping it gives it back.
pub(super) type Slot<'a> = SemaphorePermit<'a>;

/// The places.
#[derive(Debug)]
pub struct Limits {
    reading: Places,
    mutating: Places,
}

#[derive(Debug)]
struct Places {
    free: Semaphore,
    all: usize,
}

impl Places {
    fn new(all: usize) -> Self {
        let all = if all == 0 { Semaphore::MAX_PERMITS } else { all };
        Self { free: Semaphore::new(all), all }
    }

    fn taken(&self) -> usize {
        self.all - self.free.available_permits()
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
        match places.free.try_acquire() {
            Ok(slot) => Ok(Some(slot)),
            Err(_) if user.is_in(MASTERS) => Ok(None),
            Err(_) => Err(Error::TooManyRequests),
        }
    }
}
