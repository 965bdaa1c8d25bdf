//! Watches: who sees what, and what happens to those who are slow.

use futures::StreamExt;
use stint_store::{EventKind, Expired, MemoryDisk, Mutation, Options, Revision, Store};

use crate::{create, runtime, value, write};

fn short_history() -> Store {
    Store::open_with(MemoryDisk, &Options { history_events: 400, ..Options::default() }).unwrap()
}

#[test]
fn watch_sees_its_prefix_only() {
    let store = Store::in_memory();
    let mut jobs = store.watch("jobs/", Revision(0)).unwrap();
    let mut one = store.watch("jobs/a", Revision(0)).unwrap();
    for key in ["jobs/a", "jobs/b", "pods/a", "jobs", "job", "jobs/"] {
        create(&store, key);
    }
    let keys = |watch: &mut stint_store::Watch| -> Vec<String> {
        std::iter::from_fn(|| watch.try_next()).map(|event| event.unwrap().key.to_string()).collect()
    };
    assert_eq!(keys(&mut jobs), ["jobs/a", "jobs/b", "jobs/"]);
    assert_eq!(keys(&mut one), ["jobs/a"]);
    assert_eq!(one.revision(), Revision(6), "a bookmark advances without events");
}

#[test]
fn deletion_carries_its_own_revision_and_the_state_before() {
    let store = Store::in_memory();
    let entry = create(&store, "a");
    write(&store, Mutation::delete("a", entry.revision, value("a"))).unwrap();
    let mut watch = store.watch("a", entry.revision).unwrap();
    let event = watch.try_next().unwrap().unwrap();
    assert_eq!((event.kind, event.revision), (EventKind::Deleted, Revision(2)));
    assert_eq!(event.value, "a@2");
    assert_eq!(event.previous.as_deref(), Some(&b"a@1"[..]));
}

#[test]
fn watchers_share_the_bytes_of_the_store() {
    let store = Store::in_memory();
    let (mut first, mut second) = (store.watch("", Revision(0)).unwrap(), store.watch("a", Revision(0)).unwrap());
    let entry = create(&store, "a");
    for watch in [&mut first, &mut second] {
        assert_eq!(watch.try_next().unwrap().unwrap().value.as_ptr(), entry.value.as_ptr());
    }
    assert_eq!(store.get("a").unwrap().value.as_ptr(), entry.value.as_ptr());
}

#[test]
fn sleeping_watch_is_woken_and_ends_with_the_store() {
    let store = Store::in_memory();
    let watch = store.watch("", Revision(0)).unwrap();
    let keys = runtime().block_on(async {
        let reader = async { watch.map(|event| event.unwrap().key.to_string()).collect::<Vec<_>>().await };
        let writer = async move {
            for key in ["a", "b"] {
                tokio::task::yield_now().await;
                create(&store, key);
            }
            tokio::task::yield_now().await;
        };
        tokio::join!(reader, writer).0
    });
    assert_eq!(keys, ["a", "b"]);
}

#[test]
fn late_watch_that_the_history_can_serve_misses_nothing() {
    let store = short_history();
    let mut watch = store.watch("a", Revision(0)).unwrap();
    for number in 0..400 {
        create(&store, &format!("a/{number}"));
    }
    for number in 1..=300 {
        assert_eq!(watch.try_next().unwrap().unwrap().revision, Revision(number));
    }
    for number in 400..600 {
        create(&store, &format!("a/{number}"));
    }
    for number in 301..=600 {
        assert_eq!(watch.try_next().unwrap().unwrap().revision, Revision(number));
    }
    assert!(watch.try_next().is_none());
    create(&store, "a");
    assert_eq!(watch.try_next().unwrap().unwrap().revision, Revision(601));
}

#[test]
fn slow_watch_expires_and_then_ends() {
    let store = short_history();
    let mut slow = store.watch("", Revision(0)).unwrap();
    let mut elsewhere = store.watch("b", Revision(0)).unwrap();
    for number in 0..1000 {
        create(&store, &format!("a/{number}"));
    }
    assert_eq!(slow.try_next(), Some(Err(Expired { after: Revision(0), oldest: Revision(1) })));
    assert_eq!(slow.try_next(), None);
    runtime().block_on(async { assert_eq!(slow.next().await, None) });
    create(&store, "b");
    assert_eq!(elsewhere.try_next().unwrap().unwrap().revision, Revision(1001), "events of others cost it nothing");
}

/// A few large events fill the history long before a mailbox is full.
#[test]
fn events_that_nobody_reads_are_kept_no_longer_than_the_history_keeps_them() {
    let store = Store::open_with(MemoryDisk, &Options { history_bytes: 3000, ..Options::default() }).unwrap();
    let mut slow = store.watch("", Revision(0)).unwrap();
    write(&store, Mutation::create("large", |_| vec![b'x'; 1400].into())).unwrap();
    let entry = store.get("large").unwrap();
    assert!(!entry.value.is_unique(), "the store, the history and the mailbox hold it");
    write(&store, Mutation::delete("large", entry.revision, value("small"))).unwrap();
    write(&store, Mutation::create("other", |_| vec![b'z'; 2000].into())).unwrap();
    assert!(entry.value.is_unique(), "nothing but this test holds it");
    assert_eq!(slow.try_next(), Some(Err(Expired { after: Revision(0), oldest: Revision(2) })));
    assert_eq!(slow.try_next(), None);
}

#[test]
fn watch_from_before_the_history_is_refused() {
    let store = short_history();
    for number in 0..500 {
        create(&store, &format!("a/{number}"));
    }
    let expired = store.watch("", Revision(99)).unwrap_err();
    assert_eq!(expired, Expired { after: Revision(99), oldest: Revision(100) });
    assert_eq!(expired.to_string(), "events after revision 99 have expired; the oldest watchable revision is 100");
    assert_eq!(store.watch("", Revision(100)).unwrap().try_next().unwrap().unwrap().revision, Revision(101));
}

#[test]
fn history_is_bounded_in_bytes() {
    let store = Store::open_with(MemoryDisk, &Options { history_bytes: 3000, ..Options::default() }).unwrap();
    for number in 0..10 {
        write(&store, Mutation::create(format!("{number}"), |_| vec![b'x'; 999].into())).unwrap();
    }
    assert!(store.watch("", Revision(6)).is_err());
    assert!(store.watch("", Revision(7)).is_ok());
}

#[test]
fn watch_from_the_future_skips_what_comes_before() {
    let store = Store::in_memory();
    let mut watch = store.watch("", Revision(2)).unwrap();
    for key in ["a", "b", "c"] {
        create(&store, key);
    }
    assert_eq!(watch.try_next().unwrap().unwrap().revision, Revision(3));
}
