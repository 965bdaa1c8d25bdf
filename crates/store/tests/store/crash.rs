//! A commit fails: nothing that was answered is lost, and nothing is visible before it is durable.

use futures::future::join_all;
use proptest::prelude::*;
use stint_store::{Entry, Error, Mutation, Outcome, Store};

use crate::disks::{FailingDisk, Failure, Platter};
use crate::model::{Intent, Model, drain, intents};
use crate::{create, runtime, value, write};

fn failing(platter: &Platter, good: usize, failure: Failure, immediate: bool) -> FailingDisk {
    FailingDisk { platter: platter.clone(), immediate, good, failure, failed: false }
}

fn failures() -> impl Strategy<Value = Failure> {
    prop_oneof![Just(Failure::Lost), Just(Failure::Kept)]
}

fn state(store: &Store) -> Vec<Entry> {
    store.list("").entries
}

proptest! {
    #[test]
    fn store_goes_on_after_a_crash_at_any_commit(
        intents in intents(), good in 0_usize..40, failure in failures(),
    ) {
        let (platter, mut model) = (Platter::default(), Model::default());
        let store = Store::open(failing(&platter, good, failure, true)).unwrap();
        let mut rest = intents.iter();
        for intent in rest.by_ref() {
            let before = model.clone();
            let (mutation, expected) = model.step(intent);
            match write(&store, mutation) {
                Ok(outcome) => prop_assert_eq!(outcome, expected),
                Err(Error::Commit { revision, .. }) => {
                    prop_assert_eq!(revision, model.revision);
                    if let Failure::Lost = failure {
                        model = before.clone();
                    }
                    // What failed is not visible, and reads go on.
                    prop_assert!(state(&store).iter().eq(before.entries.values()));
                    prop_assert_eq!(drain(&store, "", stint_store::Revision(0)), before.events);
                    let refused = write(&store, Mutation::create("new", value("")));
                    let poisoned = matches!(refused, Err(Error::Poisoned { revision: at, .. }) if at == revision);
                    prop_assert!(poisoned);
                    break;
                }
                Err(other) => return Err(TestCaseError::fail(format!("{other}"))),
            }
        }
        drop(store);

        let store = Store::open(failing(&platter, usize::MAX, failure, true)).unwrap();
        prop_assert_eq!(store.revision(), model.revision);
        prop_assert!(state(&store).iter().eq(model.entries.values()));
        prop_assert!(store.watch("", model.revision).is_ok());
        prop_assert_eq!(store.watch("", stint_store::Revision(0)).is_err(), model.revision.0 > 0);
        for intent in rest {
            let (mutation, expected) = model.step(intent);
            prop_assert_eq!(write(&store, mutation).unwrap(), expected);
        }
    }

    #[test]
    fn concurrent_writers_lose_nothing_that_was_answered(good in 0_usize..12, failure in failures()) {
        let platter = Platter::default();
        let store = Store::open(failing(&platter, good, failure, false)).unwrap();
        let acked: Vec<Entry> = runtime()
            .block_on(join_all((0..16).map(|writer| {
                let store = store.clone();
                async move {
                    let mut acked = Vec::new();
                    for number in 0..8 {
                        let key = format!("{writer:02}/{number}");
                        match store.write(Mutation::create(&*key, value("x"))).await {
                            Ok(Outcome::Written(entry)) => acked.push(entry),
                            Ok(conflict) => panic!("{conflict:?}"),
                            Err(Error::Commit { .. } | Error::Poisoned { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    acked
                }
            })))
            .into_iter()
            .flatten()
            .collect();
        let mut sorted = acked.clone();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        prop_assert_eq!(state(&store), sorted, "exactly what was answered is visible");
        drop(store);
        let store = Store::open(failing(&platter, 0, failure, false)).unwrap();
        for entry in acked {
            prop_assert_eq!(store.get(&entry.key), Some(entry));
        }
    }
}

#[test]
fn poisoned_store_names_the_first_cause() {
    let store = Store::open(failing(&Platter::default(), 1, Failure::Lost, true)).unwrap();
    create(&store, "a");
    let failed = write(&store, Mutation::create("b", value("b"))).unwrap_err();
    assert_eq!(
        failed.to_string(),
        "cannot commit the batch that ends at revision 2; whether it was written is unknown"
    );
    for _ in 0..2 {
        let refused = write(&store, Mutation::create("c", value("c"))).unwrap_err();
        assert_eq!(refused.to_string(), "writes are refused until restart, since the commit of revision 2 failed");
        let cause = std::error::Error::source(&refused).expect("it has a cause");
        assert_eq!(cause.to_string(), "the disk is on fire");
    }
    assert!(store.get("a").is_some());
}

#[test]
fn disk_that_contradicts_itself_is_refused() {
    let platter = Platter::default();
    let (mut model, intent) = (Model::default(), Intent { verb: stint_store::EventKind::Created, key: 0, stale: 0 });
    let Outcome::Written(entry) = model.step(&intent).1 else { panic!("the first creation works") };
    platter.0.lock().unwrap().entries.insert(entry.key.clone(), entry);
    let error = Store::open(failing(&platter, 0, Failure::Lost, true)).unwrap_err();
    let cause = std::error::Error::source(&error).expect("it has a cause");
    assert_eq!(cause.to_string(), "jobs/0 has revision 1, after the store's last revision 0");
}
