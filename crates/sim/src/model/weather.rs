//! What goes wrong in a model world, and how long things take: the simulator's chaos in milliseconds, and storms of conflicts.

use std::fmt::Write as _;

use crate::chaos::{Bug, Chaos, OnRequest, OnWrite};
use crate::rng::Rng;

use super::api::Api;

/// How long a storm of conflicts lasts, in writes.
const STORM: u64 = 12;

/// What goes wrong.
pub struct Weather {
    chaos: Chaos,
    chance: Rng,
    /// How many of a thousand writes begin a storm, in which most of them meet a conflict.
    storms: u64,
    storm_left: u64,
    is_on: bool,
    /// How many writes the API was asked for.
    pub writes: u64,
    story: Option<String>,
    elapsed: u64,
}

impl Weather {
    /// The weather of a seed; keeps the story if `told`.
    pub fn of_seed(seed: u64, told: bool) -> Weather {
        let mut chance = Rng::new(seed, 8);
        let storms = *chance.pick(&[0, 0, 0, 20]);
        let chaos = Chaos::of_seed(seed, Bug::None);
        let story = told.then(String::new);
        Weather { chaos, chance, storms, storm_left: 0, is_on: true, writes: 0, story, elapsed: 0 }
    }

    /// From now on nothing goes wrong any more.
    pub fn clears(&mut self) {
        self.is_on = false;
        self.chaos.ends();
    }

    /// Says what time it is, for the story.
    pub fn passes(&mut self, now: u64) {
        self.elapsed = now;
    }

    /// What becomes of a request for a write.
    pub fn on_request(&mut self, may_conflict: bool) -> OnRequest {
        if self.is_on && may_conflict && self.storms > 0 {
            if self.storm_left == 0 && self.chance.chance(self.storms) {
                self.storm_left = STORM;
            }
            if self.storm_left > 0 {
                self.storm_left -= 1;
                if self.chance.chance(800) {
                    return OnRequest::Conflict;
                }
            }
        }
        self.chaos.on_request(may_conflict)
    }

    /// What becomes of the process at this write.
    pub fn on_write(&mut self) -> OnWrite {
        self.writes += 1;
        self.chaos.on_write(self.writes)
    }

    /// How long a request takes, in milliseconds.
    pub fn latency(&mut self) -> u64 {
        millis(self.chaos.latency())
    }

    /// How long it takes until somebody sees what was committed, in milliseconds.
    pub fn lag(&mut self) -> u64 {
        millis(self.chaos.lag())
    }

    /// Whether a watch breaks.
    pub fn breaks_watch(&mut self) -> bool {
        self.chaos.breaks_watch()
    }

    /// How long the process stays away after a crash, in milliseconds.
    pub fn downtime(&mut self) -> u64 {
        millis(self.chaos.downtime())
    }

    /// How long the node has other things to do before it looks at a pod, in milliseconds.
    pub fn dawdles(&mut self) -> u64 {
        if self.is_on && self.chance.chance(20) { self.chance.range(1000, 60_000) } else { 0 }
    }

    /// How long the controllers let events gather.
    pub fn gather(&self) -> jiff::SignedDuration {
        self.chaos.gather
    }

    /// Adds a line to the story, after what was committed before it.
    pub fn tell(&mut self, api: &mut Api, line: impl FnOnce() -> String) {
        let Some(story) = &mut self.story else { return };
        let (seconds, millis) = (self.elapsed / 1000, self.elapsed % 1000);
        for line in api.lines.iter_mut().flat_map(std::mem::take).chain([line()]) {
            let _ = writeln!(story, "{seconds:>9}.{millis:03} {line}");
        }
    }

    /// The story so far.
    pub fn story(&mut self) -> String {
        self.story.take().unwrap_or_default()
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
