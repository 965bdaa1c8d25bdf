//! Stint in a world of its own: the real router, store and controllers over a simulated disk, a virtual clock and
//! containers that exist in memory only. One seed is one world with its users, crashes, lost answers and lagging
//! watches; the same seed is always the same world.
//!
//! ```text
//!   users ──────────┐           ┌── controllers (real)
//!   (scenario.rs)   │  chaos    │
//!   node (node.rs) ─┴─ client.rs┴─► router (real) ─► store (real) ─► disk.rs ─► history.rs: core::check
//!        │                                                             ▲
//!        └─► containers.rs          world.rs: what outlives a crash ───┘
//! ```
//!
//! Invariants: nothing here or in what it runs draws chance, time or order from anywhere but the seed; every committed
//! state passes `core::check`; at the end chaos stops, everything settles, nothing is written any more, and the Jobs'
//! counters agree with what the containers did.
//!
//! Left out so far: the real agent (node.rs plays it), the garbage collector (users.rs plays it), other
//! clients' lists with `limit`.

mod auditor;
mod chaos;
mod client;
mod containers;
mod disk;
pub mod features;
mod history;
mod judge;
mod model;
mod node;
mod process;
mod rng;
mod scenario;
mod users;
pub mod virtual_time;
mod world;

use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;

use chaos::Chaos;
pub use chaos::{Bug, OnWrite};
pub use model::{Fault, run_model};
use process::Ended;
pub use process::Wiring;
use scenario::Scenario;
use world::World;

/// What came of one world.
#[derive(Clone, Debug)]
pub struct Report {
    /// The broken invariant.
    pub broken: Option<String>,
    /// The story, if it was kept.
    pub trace: String,
    /// How many writes the disk was asked for.
    pub writes: u64,
    /// How often the process crashed.
    pub crashes: u64,
    /// A hash of the course of events.
    pub digest: u64,
}

/// Runs the world of `seed`, with `bug` planted; keeps the story if `trace`.
pub fn run_seed(seed: u64, bug: Bug, trace: bool) -> Report {
    run(&World::new(Scenario::of_seed(seed), Chaos::of_seed(seed, bug), seed, trace))
}

/// Runs the world of `seed` with controllers that are [attached](Wiring::Attached), as `stint controllers` are.
pub fn run_attached(seed: u64, bug: Bug, trace: bool) -> Report {
    let world = World::new(Scenario::of_seed(seed), Chaos::of_seed(seed, bug), seed, trace);
    world.state().wiring = Wiring::Attached;
    run(&world)
}

/// Runs a small scenario in which one thing goes wrong, at one write.
pub fn run_small(number: u64, at: Option<(u64, OnWrite)>, trace: bool) -> Report {
    let scenario = if number % 4 == 3 { Scenario::small_cron(number) } else { Scenario::small(number) };
    run(&World::new(scenario, Chaos::only(at), number, trace))
}

/// Runs a small scenario once, and then with a crash before and one after each of its writes; every fourth is one of
/// CronJobs. Returns how many worlds that were, or the first broken one: where it crashed and what broke.
pub fn run_exhaustively(number: u64) -> Result<u64, (Option<(u64, OnWrite)>, Report)> {
    let calm = run_small(number, None, false);
    let writes = calm.writes;
    let mut worlds = 1;
    if calm.broken.is_some() {
        return Err((None, calm));
    }
    for write in 1..=writes {
        for how in [OnWrite::CrashBefore, OnWrite::CrashAfter] {
            let report = run_small(number, Some((write, how)), false);
            worlds += 1;
            if report.broken.is_some() {
                return Err((Some((write, how)), report));
            }
        }
    }
    Ok(worlds)
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics of this thread: a task's panic is caught by tokio, and is a bug all the same.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            usual(info);
        }));
    });
}

fn run(world: &World) -> Report {
    count_panics();
    let panics = PANICS.with(Cell::get);
    let mut crashes = 0;
    loop {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O needs nothing");
        let ended = runtime.block_on(process::live(world));
        drop(runtime);
        match ended {
            Ended::Done => break,
            Ended::Crashed(at) => {
                crashes += 1;
                let downtime: Duration = world.state().chaos.downtime();
                world.process_ended(at, downtime);
            }
        }
    }
    let trace = world.trace();
    let state = world.state();
    let panicked = PANICS.with(Cell::get) > panics;
    let broken = state.broken.clone().or_else(|| panicked.then(|| "something panicked".to_owned()));
    Report { broken, trace, writes: state.files.writes, crashes, digest: state.digest }
}
