//! The store from outside: over memory, over disks that fail, and over SQLite in processes that are killed.

mod crash;
mod disks;
mod group;
mod kill;
mod model;
mod sqlite;
mod watch;

use bytes::Bytes;
use futures::FutureExt;
use stint_store::{Entry, Error, Mutation, Outcome, Revision, Store};

/// A value that says which revision it was encoded for.
fn value(content: impl Into<String>) -> impl FnOnce(Revision) -> Bytes + Send + 'static {
    let content = content.into();
    move |revision| format!("{content}@{revision}").into()
}

/// Writes to a store over an immediate disk, which answers at once.
fn write(store: &Store, mutation: Mutation) -> Result<Outcome, Error> {
    store.write(mutation).now_or_never().expect("an immediate disk never waits")
}

fn create(store: &Store, key: &str) -> Entry {
    written(write(store, Mutation::create(key, value(key))))
}

fn written(outcome: Result<Outcome, Error>) -> Entry {
    match outcome {
        Ok(Outcome::Written(entry)) => entry,
        other => panic!("expected a write: {other:?}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
