//! What outlives a crash: the disk, the containers, the clocks, and the record of what has happened.
//!
//! Invariant: after the moment of a crash nothing changes here until the process starts again, whatever its tasks still
//! try. Every committed state passes the ledger in the order of its revision.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stint_core::clock::Clock;
use tokio::sync::Notify;

use crate::chaos::Chaos;
use crate::containers::Containers;
use crate::disk::Files;
use crate::history::History;
use crate::process::Wiring;
use crate::rng::Rng;
use crate::scenario::Scenario;

/// Where virtual time begins.
const EPOCH: i64 = 1_800_000_000;

/// The world, shared by everything in it. There is one thread; the lock only satisfies the compiler.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    crash: Notify,
}

/// The world's state.
pub struct State {
    /// What the disk holds.
    pub files: Files,
    /// What the runtime holds.
    pub containers: Containers,
    /// What goes wrong, and when.
    pub chaos: Chaos,
    /// What has happened, with the invariants.
    pub history: History,
    /// What the users do.
    pub scenario: Scenario,
    /// How many of the users' deeds are done.
    pub deeds_done: usize,
    /// Chance for names.
    pub names: Rng,
    /// How the controllers are joined to the API.
    pub wiring: Wiring,
    /// Whether the process has crashed and was not started again.
    pub crashed: bool,
    /// When the process will crash, because its disk has failed.
    pub doom: Option<Duration>,
    /// The broken invariant, once there is one.
    pub broken: Option<String>,
    /// By how much the wall clock differs from virtual time.
    pub wall_offset: SignedDuration,
    uids: u64,
    /// Virtual time when this process started.
    began: Duration,
    started: Option<tokio::time::Instant>,
    trace: Option<String>,
    /// A running hash of the trace's place: the same for the same course of events.
    pub digest: u64,
}

impl World {
    /// A world before anything has happened. `trace` keeps the story.
    pub fn new(scenario: Scenario, chaos: Chaos, seed: u64, trace: bool) -> World {
        World(Arc::new(Inner {
            state: Mutex::new(State {
                files: Files::default(),
                containers: Containers::new(Rng::new(seed, 3)),
                chaos,
                history: History::default(),
                scenario,
                deeds_done: 0,
                names: Rng::new(seed, 4),
                wiring: Wiring::Joined,
                crashed: false,
                doom: None,
                broken: None,
                wall_offset: SignedDuration::ZERO,
                uids: 0,
                began: Duration::ZERO,
                started: None,
                trace: trace.then(String::new),
                digest: 0xcbf2_9ce4_8422_2325,
            }),
            crash: Notify::new(),
        }))
    }

    /// The state. Never hold it across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Says that a process starts now, inside its tokio runtime.
    pub fn process_starts(&self) {
        let mut state = self.state();
        state.started = Some(tokio::time::Instant::now());
        state.crashed = false;
        state.doom = None;
        state.tell(|| "process starts".to_owned());
    }

    /// Says that the process is gone; it stays away for `downtime`.
    pub fn process_ended(&self, elapsed: Duration, downtime: Duration) {
        let mut state = self.state();
        state.began = elapsed + downtime;
        state.started = None;
    }

    /// Resolves when the process crashes or an invariant breaks.
    pub async fn crash(&self) {
        loop {
            let notified = self.0.crash.notified();
            let doom = {
                let state = self.state();
                if state.crashed || state.broken.is_some() {
                    return;
                }
                state.doom.map(|at| at.saturating_sub(state.elapsed()))
            };
            let Some(left) = doom else {
                notified.await;
                continue;
            };
            tokio::time::sleep(left).await;
            self.end_process(&mut self.state(), "some time after its disk failed");
        }
    }

    /// Ends the process at this moment.
    pub fn end_process(&self, state: &mut State, why: &str) {
        state.tell(|| format!("CRASH {why}"));
        state.crashed = true;
        self.0.crash.notify_one();
    }

    /// Lets the process live on for a while, now that its disk has failed.
    pub fn dooms(&self, state: &mut State) {
        let agony = state.chaos.agony();
        state.doom = Some(state.elapsed() + agony);
        self.0.crash.notify_one();
    }

    /// Notes a broken invariant, the first only.
    pub fn breaks(&self, state: &mut State, what: String) {
        state.tell(|| format!("BROKEN {what}"));
        state.broken.get_or_insert(what);
        self.0.crash.notify_one();
    }

    /// Adds a line to the story.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        self.state().tell(line);
    }

    /// The story so far.
    pub fn trace(&self) -> String {
        self.state().trace.clone().unwrap_or_default()
    }
}

impl State {
    /// Virtual time since the beginning; it stands still while no process runs.
    pub fn elapsed(&self) -> Duration {
        self.began + self.started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(EPOCH).expect("the epoch is a timestamp");
        let elapsed = SignedDuration::try_from(self.elapsed()).unwrap_or(SignedDuration::MAX);
        start.saturating_add(elapsed).and_then(|at| at.saturating_add(self.wall_offset)).unwrap_or(Timestamp::MAX)
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let at = self.elapsed();
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.digest = (self.digest ^ millis).wrapping_mul(0x0100_0000_01b3);
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>9}.{:03} {}", millis / 1000, millis % 1000, line());
        }
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        self.state().now()
    }
}

impl stint_server::Ids for World {
    fn uid(&self) -> String {
        self.state().uid()
    }

    fn suffix(&self) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut state = self.state();
        (0..5).map(|_| char::from(*state.names.pick(LETTERS))).collect()
    }
}
