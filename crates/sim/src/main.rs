//! `sim`: runs worlds by their seeds, and shows the one that breaks.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use stint_sim::{Bug, Fault, Report, run_attached, run_exhaustively, run_model, run_seed, run_small};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs simulated worlds of Stint and checks its invariants.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
struct Args {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run these seeds: FROM..TO, TO excluded.
    #[arg(long, value_parser = range, default_value = "0..1000")]
    seeds: (u64, u64),
    /// Run seeds from the first of --seeds on for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Print the story of the seed, also when nothing breaks.
    #[arg(long)]
    trace: bool,
    /// Instead: so many small scenarios, each with a crash before and after every single write.
    #[arg(long, value_name = "SCENARIOS")]
    exhaustive: Option<u64>,
    /// Plant a bug: no-barrier, release-first, lying-disk, forgetful-node, create-twice, any-name.
    #[arg(long, value_parser = bug)]
    plant: Option<Bug>,
    /// The controllers are attached, as by `stint controllers`: two replicas before the API.
    #[arg(long, conflicts_with = "model")]
    attached: bool,
    /// Instead of the whole program: decisions about Jobs alone, in a model of the API. Thousands of worlds a second.
    #[arg(long)]
    model: bool,
    /// With --model: break a decision (no-barrier, creates-twice, ...).
    #[arg(long, value_parser = fault, requires = "model")]
    fault: Option<Fault>,
    /// How many worlds to run side by side. Each is a thread's own, so that this changes none of them.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Go on after a broken seed, and list them all.
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> anyhow::Result<(u64, u64)> {
    let (from, to) = text.split_once("..").context("expected FROM..TO")?;
    Ok((from.parse()?, to.parse()?))
}

fn bug(text: &str) -> Result<Bug, String> {
    match text {
        "no-barrier" => Ok(Bug::NoBarrier),
        "release-first" => Ok(Bug::ReleaseFirst),
        "lying-disk" => Ok(Bug::LyingDisk),
        "forgetful-node" => Ok(Bug::ForgetfulNode),
        "create-twice" => Ok(Bug::CreateTwice),
        "any-name" => Ok(Bug::AnyName),
        other => Err(format!("no bug is called {other}")),
    }
}

fn fault(text: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.map(Fault::name).join(", ");
    Fault::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| format!("expected one of {}", names()))
}

impl Args {
    /// Runs the world of a seed; keeps its story if `told`.
    fn run(&self, seed: u64, told: bool) -> Report {
        if self.model {
            run_model(seed, self.fault.unwrap_or_default(), told)
        } else if self.attached {
            run_attached(seed, self.plant.unwrap_or_default(), told)
        } else {
            run_seed(seed, self.plant.unwrap_or_default(), told)
        }
    }

    /// How to run this seed alone.
    fn again(&self, seed: u64) -> String {
        let level = match (self.model, self.attached) {
            (true, _) => "--model ",
            (_, true) => "--attached ",
            _ => "",
        };
        format!("again: sim {level}--seed {seed} --trace")
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(scenarios) = args.exhaustive {
        return exhaustive(scenarios);
    }
    if let Some(seed) = args.seed {
        let report = args.run(seed, args.trace);
        print!("{}", report.trace);
        println!("seed {seed}: {} writes, {} crashes, digest {:016x}", report.writes, report.crashes, report.digest);
        return verdict(report.broken.map(|broken| format!("seed {seed} breaks: {broken}")));
    }
    search(&args)
}

/// What the worlds of a search add up to.
#[derive(Default)]
struct Sum {
    worlds: u64,
    writes: u64,
    crashes: u64,
    broken: Vec<(u64, String)>,
}

/// Runs many seeds, and tells the story of the first that breaks.
fn search(args: &Args) -> ExitCode {
    let (from, to) = args.seeds;
    let to = if args.minutes.is_some() { u64::MAX } else { to };
    let started = Instant::now();
    let (next, stop, sum) = (AtomicU64::new(from), AtomicBool::new(false), Mutex::new(Sum::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = args.minutes.is_some_and(|minutes| started.elapsed() > Duration::from_secs(60 * minutes));
            if seed >= to || is_over || stop.load(Ordering::Relaxed) {
                return;
            }
            let report = args.run(seed, false);
            let mut sum = sum.lock().expect("nobody panics while it adds up");
            sum.worlds += 1;
            sum.writes += report.writes;
            sum.crashes += report.crashes;
            if let Some(what) = report.broken {
                println!("seed {seed} breaks: {what}");
                sum.broken.push((seed, what));
                stop.store(!args.keep_going, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let Sum { worlds, writes, crashes, mut broken } = sum.into_inner().expect("nobody panics while it adds up");
    broken.sort();
    if let Some((seed, what)) = broken.first().filter(|_| !args.keep_going) {
        print!("{}", args.run(*seed, true).trace);
        println!("seed {seed} breaks: {what}\n{}", args.again(*seed));
    }
    let took = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate to be read by people")]
    let rate = worlds as f64 / took;
    let count = broken.len();
    println!(
        "{worlds} seeds from {from} in {took:.1} s ({rate:.0}/s): {writes} writes, {crashes} crashes, {count} broken"
    );
    if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn exhaustive(scenarios: u64) -> ExitCode {
    let started = Instant::now();
    let mut worlds = 0;
    for number in 0..scenarios {
        match run_exhaustively(number) {
            Ok(more) => worlds += more,
            Err((at, Report { broken, .. })) => {
                print!("{}", run_small(number, at, true).trace);
                let broken = broken.unwrap_or_default();
                return verdict(Some(format!("scenario {number} with {at:?} breaks: {broken}")));
            }
        }
    }
    println!(
        "{scenarios} scenarios, a crash before and after each write: {worlds} worlds in {:.1?}",
        started.elapsed()
    );
    ExitCode::SUCCESS
}

fn verdict(broken: Option<String>) -> ExitCode {
    match broken {
        None => ExitCode::SUCCESS,
        Some(broken) => {
            println!("{broken}");
            ExitCode::FAILURE
        }
    }
}
