//! Durable commits per second, beside what the disk itself can do.
//!
//! Each round appends and syncs raw 3 KB records, then lets 1, 8 and 64 writers create objects of 3 KB in a store on
//! the same file system. Rounds are interleaved, so that a noisy machine is noisy for all; the medians of the rounds
//! are printed. `cargo bench -p stint-store [-- FOLDER]`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stint_store::{Change, Disk, DiskError, Loaded, Mutation, Revision, SqliteDisk, Store};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const VALUE: usize = 3 * 1024;
const WRITERS: [usize; 3] = [1, 8, 64];

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = folder.map_or_else(|| std::env::current_dir().expect("a current folder"), Into::into);
    let mut lines: Vec<(String, Vec<Figures>)> = Vec::new();
    for _ in 0..ROUNDS {
        let mut round = vec![("write+fdatasync, raw".to_owned(), raw(&folder))];
        for writers in WRITERS {
            round.push((format!("store, {writers} writers"), store(&folder, writers)));
        }
        for (index, (name, figures)) in round.into_iter().enumerate() {
            match lines.get_mut(index) {
                Some((_, all)) => all.push(figures),
                None => lines.push((name, vec![figures])),
            }
        }
    }
    println!("{:24} {:>10} {:>10} {:>10} {:>10}", "", "writes/s", "p50 µs", "p99 µs", "commits/s");
    for (name, all) in lines {
        let median = |of: fn(&Figures) -> u128| {
            let mut all: Vec<u128> = all.iter().map(of).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        println!(
            "{name:24} {:>10} {:>10} {:>10} {:>10}",
            median(|f| f.writes),
            median(|f| f.p50.as_micros()),
            median(|f| f.p99.as_micros()),
            median(|f| f.commits)
        );
    }
}

struct Figures {
    writes: u128,
    commits: u128,
    p50: Duration,
    p99: Duration,
}

impl Figures {
    fn new(mut latencies: Vec<Duration>, commits: u64, took: Duration) -> Self {
        latencies.sort_unstable();
        let per_second = |count: u128| count * 1_000_000 / took.as_micros();
        Self {
            writes: per_second(latencies.len() as u128),
            commits: per_second(commits.into()),
            p50: latencies[latencies.len() / 2],
            p99: latencies[latencies.len() * 99 / 100],
        }
    }
}

/// Appends records to a file and syncs each: what one writer could have at best.
fn raw(folder: &Path) -> Figures {
    let folder = tempfile::tempdir_in(folder).expect("a folder to write in");
    let mut file = File::create(folder.path().join("raw")).expect("a file to write");
    let record = [b'x'; VALUE];
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < ROUND {
        let before = Instant::now();
        file.write_all(&record).and_then(|()| file.sync_data()).expect("the disk takes a record");
        latencies.push(before.elapsed());
    }
    let commits = latencies.len() as u64;
    Figures::new(latencies, commits, start.elapsed())
}

/// Writers that each create one object after the other.
fn store(folder: &Path, writers: usize) -> Figures {
    let folder = tempfile::tempdir_in(folder).expect("a folder to write in");
    let commits = Arc::new(AtomicU64::new(0));
    let disk = Counting { disk: SqliteDisk::open(folder.path()).expect("a new data file"), commits: commits.clone() };
    let store = Store::open(disk).expect("an empty store");
    let all = Mutex::new(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let start = Instant::now();
    runtime.block_on(async {
        let tasks = (0..writers).map(|writer| {
            let (store, all) = (&store, &all);
            async move {
                let mut latencies = Vec::new();
                for number in 0_u64.. {
                    if start.elapsed() > ROUND {
                        break;
                    }
                    let key = format!("batch/jobs/default/job-{writer:02}-{number:08}");
                    let before = Instant::now();
                    store.write(Mutation::create(key, value)).await.expect("the disk works");
                    latencies.push(before.elapsed());
                }
                all.lock().expect("no writer panics").append(&mut latencies);
            }
        });
        futures::future::join_all(tasks).await;
    });
    let took = start.elapsed();
    Figures::new(all.into_inner().expect("no writer panics"), commits.load(Ordering::Relaxed), took)
}

fn value(revision: Revision) -> Bytes {
    let mut value = format!("{{\"resourceVersion\":\"{revision}\"").into_bytes();
    value.resize(VALUE, b'x');
    value.into()
}

/// Counts the commits of a disk.
struct Counting {
    disk: SqliteDisk,
    commits: Arc<AtomicU64>,
}

impl Disk for Counting {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        self.disk.load()
    }

    fn commit(&mut self, batch: &[Change], revision: Revision) -> Result<(), DiskError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.disk.commit(batch, revision)
    }
}
