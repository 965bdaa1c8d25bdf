//! Every target on its seeds and on what a simple mutator makes of them, without a fuzzer: a second or three each, or as many as
//! `STINT_FUZZ_SECONDS` says. What failed is told with its bytes, and fails again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use stint_fuzz::Target;
use stint_fuzz::dice::Dice;
use stint_fuzz::mutate::scramble;

fn run(target: &Target, bytes: &[u8]) {
    if let Err(why) = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) {
        eprintln!("{} fails on {:?}", target.name, bytes.escape_ascii().to_string());
        std::panic::resume_unwind(why);
    }
}

/// A good seed with some of its bytes changed, sometimes with a piece of another one.
fn mutant(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let dice = &mut Dice::new(number);
    let mut bytes = dice.one(seeds);
    if dice.below(4) == 0 {
        let other = dice.one(seeds);
        let (from, at) = (dice.below(other.len() + 1), dice.below(bytes.len() + 1));
        let end = (from + dice.below(200)).min(other.len());
        drop(bytes.splice(at..at, other[from..end].iter().copied()));
    }
    if dice.below(8) == 0 && !bytes.is_empty() {
        bytes[0] = bytes[0].wrapping_add(1);
    }
    scramble(&mut bytes, dice);
    bytes
}

fn test(name: &str) {
    let target = Target::named(name).unwrap_or_else(|| panic!("there is no target {name}"));
    // What is made by chance begins with a new server each time.
    let usual = if matches!(name, "requests" | "paths") { 3 } else { 1 };
    let seconds = std::env::var("STINT_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(usual);
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        run(target, seed);
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut number = 0;
    while Instant::now() < until || number < 20 {
        run(target, &mutant(&seeds, number));
        number += 1;
    }
    eprintln!("{name}: {} seeds and {number} mutants", seeds.len());
}

macro_rules! tests {
    ($($name:ident)+) => {
        $(#[test] fn $name() { test(stringify!($name)); })+

        #[test]
        fn every_target_is_tested_here_and_has_its_file_for_the_fuzzer() {
            let mut here = [$(stringify!($name)),+];
            here.sort_unstable();
            let mut all: Vec<&str> = stint_fuzz::TARGETS.iter().map(|target| target.name).collect();
            all.sort_unstable();
            assert_eq!(here.as_slice(), all.as_slice());
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/fuzz_targets");
            let mut files: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            files.sort_unstable();
            assert_eq!(files, all);
        }
    };
}

tests!(manifest protobuf schedule crontab next layer create patch selector continue_token requests paths);
