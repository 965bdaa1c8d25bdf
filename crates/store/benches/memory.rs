//! What reads, writes and watches cost without a disk, with 100,000 objects of 3 KB stored.
//!
//! `cargo bench -p stint-store --bench memory`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use stint_store::{Change, Disk, DiskError, Entry, Loaded, Mutation, Outcome, Revision, Store, Watch};

const OBJECTS: u64 = 100_000;
const VALUE: usize = 3 * 1024;
const TIMES: u64 = 20_000;
const WATCHERS: u64 = 1_000;
const EVENTS: u64 = 1_000;

fn main() {
    let before = resident();
    let (store, took) = time(|| Store::open(Full).expect("it loads"));
    let bytes = OBJECTS * VALUE as u64 / 1_000_000;
    println!("load {OBJECTS} objects, {bytes} MB    {took:>10.1?}, {} MB resident", resident() - before);

    let each = |name: &str, run: &mut dyn FnMut(u64)| {
        let ((), took) = time(|| (0..TIMES).for_each(run));
        println!("{name:34} {:>10.2?}", took / u32::try_from(TIMES).expect("a small number"));
    };
    each("get", &mut |number| drop(store.get(&key(number * 7919 % OBJECTS))));
    each("list 10", &mut |number| assert_eq!(store.list(&key(number)[..28]).entries.len(), 10));
    each("create among them", &mut |number| write(&store, Mutation::create(format!("{}-new", key(number)), value)));
    each("update", &mut |number| update(&store, &key(number)));
    let held = store.snapshot();
    each("update while a snapshot is held", &mut |number| update(&store, &key(number * 7919 % OBJECTS)));
    drop(held);
    let (listing, took) = time(|| store.list(""));
    println!("{:34} {took:>10.2?}", format!("list all {}", listing.entries.len()));
    drop(listing);

    for (name, prefix) in [("watchers of the key", &*key(1)), ("watchers of other keys", "batch/jobs/elsewhere/")] {
        let took = fan_out(&store, prefix);
        let each = took / u32::try_from(EVENTS).expect("a small number");
        let watcher = each / u32::try_from(WATCHERS).expect("a small number");
        println!("{:34} {each:>10.2?}, {watcher:?} per watcher", format!("update, {WATCHERS} {name}"));
    }
}

/// Updates one key, while tasks watch a prefix; each event is awaited by all of them before the next one.
fn fan_out(store: &Store, prefix: &str) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let interested = key(1).starts_with(prefix);
    let tasks: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let mut watch = store.watch(prefix, store.revision()).expect("a watch from now on");
            runtime.spawn(async move {
                for _ in 0..if interested { EVENTS } else { 0 } {
                    next(&mut watch).await;
                }
            })
        })
        .collect();
    let ((), took) = time(|| {
        runtime.block_on(async {
            for _ in 0..EVENTS {
                update(store, &key(1));
                tokio::task::yield_now().await;
            }
            join_all(tasks).await;
        });
    });
    took
}

async fn next(watch: &mut Watch) {
    watch.next().await.expect("the store is open").expect("the watch keeps up");
}

fn update(store: &Store, key: &str) {
    let revision = store.get(key).expect("it is stored").revision;
    write(store, Mutation::update(key, revision, value));
}

fn write(store: &Store, mutation: Mutation) {
    let outcome = store.write(mutation).now_or_never().expect("an immediate disk never waits");
    assert!(matches!(outcome, Ok(Outcome::Written(_))), "{outcome:?}");
}

fn key(number: u64) -> String {
    format!("batch/jobs/default/job-{number:06}")
}

fn value(_: Revision) -> Bytes {
    vec![b'x'; VALUE].into()
}

/// A disk that has everything already, and forgets the rest.
struct Full;

impl Disk for Full {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        let entry = |number| Entry { key: key(number).into(), revision: Revision(1), value: value(Revision(1)) };
        Ok(Loaded { revision: Revision(1), entries: (0..OBJECTS).map(entry).collect() })
    }

    fn commit(&mut self, _batch: &[Change], _revision: Revision) -> Result<(), DiskError> {
        Ok(())
    }

    fn immediate(&self) -> bool {
        true
    }
}

fn time<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed())
}

/// The resident memory of this process, in megabytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number of kB") / 1000
}
