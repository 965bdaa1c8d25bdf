//! A few worlds, on every run of the tests: enough to see that the simulator works and finds what it is to find. The
//! search for bugs is the binary's: `cargo run --release -p stint-sim -- --seeds 0..10000`.

use stint_sim::{Bug, run_attached, run_exhaustively, run_seed};

fn assert_holds(seed: u64) {
    let report = run_seed(seed, Bug::None, false);
    if let Some(broken) = report.broken {
        panic!("{}seed {seed} breaks: {broken}", run_seed(seed, Bug::None, true).trace);
    }
}

#[test]
fn the_first_worlds_break_no_invariant() {
    (0..40).for_each(assert_holds);
}

#[test]
fn the_first_worlds_with_attached_controllers_break_no_invariant() {
    for seed in 0..20 {
        if let Some(broken) = run_attached(seed, Bug::None, false).broken {
            panic!("{}seed {seed} breaks, attached: {broken}", run_attached(seed, Bug::None, true).trace);
        }
    }
}

#[test]
fn a_crash_before_or_after_any_write_breaks_no_invariant() {
    // Jobs, and CronJobs.
    for scenario in [0, 3] {
        match run_exhaustively(scenario) {
            Ok(worlds) => assert!(worlds > 50, "the scenario writes something: {worlds} worlds"),
            Err((at, report)) => panic!("a crash at {at:?} of {scenario} breaks: {:?}", report.broken),
        }
    }
}

#[test]
fn one_seed_is_one_story() {
    for seed in [1, 3, 7, 9, 20, 22] {
        let (once, again) = (run_seed(seed, Bug::None, true), run_seed(seed, Bug::None, true));
        assert!(once.trace == again.trace, "seed {seed} tells two stories");
        assert!(!once.trace.is_empty());
        let untold = run_seed(seed, Bug::None, false);
        assert_eq!((untold.digest, untold.trace.as_str()), (once.digest, ""), "seed {seed} depends on who listens");
    }
}

#[test]
fn a_planted_bug_is_found_within_40_worlds() {
    for bug in Bug::ALL {
        let found = (0..40).find(|seed| run_seed(*seed, bug, false).broken.is_some());
        assert!(found.is_some(), "{bug:?} goes unnoticed");
    }
}
