//! A process that writes is killed: everything that it was told is written is there afterwards.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use futures::future::join_all;
use stint_store::{Entry, Mutation, Revision, SqliteDisk, Store};

use crate::{runtime, written};

/// Names the folder to the child, which is this test binary, too.
const FOLDER: &str = "STINT_STORE_KILLED_WRITER";
const WRITERS: usize = 16;

/// Counts up one key per writer, beside a key that comes and goes, and prints each answer.
#[test]
fn killed_writer() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = Store::open(SqliteDisk::open(Path::new(&folder)).unwrap()).unwrap();
    let acked = |kind: &str, writer: usize, number: u64, entry: &Entry| {
        let line = format!("\nacked {kind} {writer} {number} {}\n", entry.revision);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    };
    runtime().block_on(join_all((0..WRITERS).map(|writer| {
        let (store, acked) = (&store, &acked);
        async move {
            let key = format!("counter/{writer}");
            let mut counter = store.get(&key);
            loop {
                let number = counter.as_ref().map_or(0, number) + 1;
                let value = move |revision: Revision| format!("{number} {revision} {}", "x".repeat(3000)).into();
                let mutation = match &counter {
                    None => Mutation::create(&*key, value),
                    Some(entry) => Mutation::update(&*key, entry.revision, value),
                };
                let entry = written(store.write(mutation).await);
                acked("counter", writer, number, &entry);
                counter = Some(entry);

                let passing = format!("passing/{writer}/{number}");
                let entry = written(store.write(Mutation::create(&*passing, value)).await);
                acked("created", writer, number, &entry);
                if number % 2 == 0 {
                    let entry = written(store.write(Mutation::delete(&*passing, entry.revision, value)).await);
                    acked("deleted", writer, number, &entry);
                }
            }
        }
    })));
}

fn number(entry: &Entry) -> u64 {
    let text = std::str::from_utf8(&entry.value).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn killed_process_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut highest = Revision(0);
    // Far enough for the WAL to be checkpointed in between.
    for acks in [1, 40, 400, 3000, 700] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::killed_writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut counters = HashMap::new();
        let mut passing = HashMap::new();
        let mut seen = 0;
        // After the kill, the pipe still holds what was answered before.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let ["acked", kind, writer, number, revision] = words[..] else { continue };
            let (writer, number): (usize, u64) = (writer.parse().unwrap(), number.parse().unwrap());
            highest = highest.max(Revision(revision.parse().unwrap()));
            match kind {
                "counter" => drop(counters.insert(writer, number)),
                _ => drop(passing.insert((writer, number), kind == "created")),
            }
            seen += 1;
            if seen == acks {
                child.kill().unwrap();
            }
        }
        assert!(seen >= acks, "the child ended after {seen} answers");
        child.wait().unwrap();

        let store = Store::open(SqliteDisk::open(folder.path()).unwrap()).unwrap();
        assert!(store.revision() >= highest, "{} is below {highest}", store.revision());
        for (writer, answered) in counters {
            let entry = store.get(&format!("counter/{writer}")).expect("an acknowledged counter");
            let found = number(&entry);
            assert!(found == answered || found == answered + 1, "counter {writer}: {found}, answered {answered}");
        }
        for ((writer, number), exists) in passing {
            let found = store.get(&format!("passing/{writer}/{number}")).is_some();
            // An even one was about to be deleted.
            assert!(found == exists || (exists && number % 2 == 0), "{writer}/{number}: {found}, answered {exists}");
        }
        for entry in store.list("").entries {
            let text = std::str::from_utf8(&entry.value).unwrap();
            assert_eq!(text.split(' ').nth(1), Some(&*entry.revision.to_string()), "{} is whole", entry.key);
        }
    }
}
