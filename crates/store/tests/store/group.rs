//! Writers share commits, readers wait for none, and a write that was queued runs to its end.

use futures::future::{join_all, poll_immediate};
use stint_store::{Mutation, Outcome, Revision, Store};

use crate::disks::{Platter, gated};
use crate::{runtime, value, written};

#[test]
fn waiting_writers_share_one_commit() {
    let platter = Platter::default();
    let (disk, gate) = gated(&platter);
    let store = Store::open(disk).unwrap();
    runtime().block_on(async {
        let mut first = Box::pin(store.write(Mutation::create("first", value(""))));
        assert!(poll_immediate(&mut first).await.is_none());
        gate.began.recv().unwrap();

        let mut others: Vec<_> =
            (0..63).map(|n| Box::pin(store.write(Mutation::create(format!("other/{n:02}"), value(""))))).collect();
        for other in &mut others {
            assert!(poll_immediate(other).await.is_none());
        }
        drop(gate);
        assert_eq!(written(first.await).revision, Revision(1));
        let revisions: Vec<u64> = join_all(others).await.into_iter().map(|o| written(o).revision.0).collect();
        assert_eq!(revisions, (2..=64).collect::<Vec<_>>());
    });
    assert_eq!(platter.commits(), [1, 63]);
}

#[test]
fn later_mutations_of_a_batch_see_the_earlier_ones() {
    let platter = Platter::default();
    let (disk, gate) = gated(&platter);
    let store = Store::open(disk).unwrap();
    let outcomes = runtime().block_on(async {
        let mut writes: Vec<_> = [
            Mutation::create("first", value("")),
            Mutation::create("a", value("one")),                // revision 2
            Mutation::create("a", value("two")),                // conflict
            Mutation::update("a", Revision(2), value("three")), // revision 3
            Mutation::update("a", Revision(2), value("four")),  // conflict
            Mutation::delete("a", Revision(3), value("three")), // revision 4
            Mutation::update("a", Revision(3), value("five")),  // conflict, gone
            Mutation::create("a", value("six")),                // revision 5
        ]
        .into_iter()
        .map(|mutation| Box::pin(store.write(mutation)))
        .collect();
        for write in &mut writes {
            assert!(poll_immediate(write).await.is_none());
        }
        gate.began.recv().unwrap();
        drop(gate);
        join_all(writes).await
    });
    let told: Vec<String> = outcomes
        .into_iter()
        .skip(1)
        .map(|outcome| match outcome.unwrap() {
            Outcome::Written(entry) => format!("written {}", entry.revision),
            Outcome::Conflict { current: Some(entry) } => format!("conflict {}", entry.revision),
            Outcome::Conflict { current: None } => "conflict, gone".into(),
        })
        .collect();
    assert_eq!(
        told,
        ["written 2", "conflict 2", "written 3", "conflict 3", "written 4", "conflict, gone", "written 5"]
    );
    assert_eq!(store.list("").entries.len(), 2);
}

#[test]
fn readers_neither_wait_for_a_commit_nor_see_it_early() {
    let platter = Platter::default();
    let (disk, gate) = gated(&platter);
    let store = Store::open(disk).unwrap();
    let mut watch = store.watch("", Revision(0)).unwrap();
    runtime().block_on(async {
        let mut write = Box::pin(store.write(Mutation::create("a", value("a"))));
        assert!(poll_immediate(&mut write).await.is_none());
        gate.began.recv().unwrap();
        assert_eq!(store.get("a"), None);
        assert_eq!(store.list("").entries, []);
        assert_eq!(store.revision(), Revision(0));
        assert!(watch.try_next().is_none());
        gate.proceed.send(()).unwrap();
        let entry = written(write.await);
        assert_eq!(store.get("a"), Some(entry));
        assert_eq!(watch.try_next().unwrap().unwrap().revision, Revision(1));
    });
}

#[test]
fn dropped_write_is_carried_out() {
    let platter = Platter::default();
    let (disk, gate) = gated(&platter);
    let store = Store::open(disk).unwrap();
    let mut watch = store.watch("", Revision(0)).unwrap();
    runtime().block_on(async {
        for key in ["committing", "queued"] {
            let mut write = Box::pin(store.write(Mutation::create(key, value(key))));
            assert!(poll_immediate(&mut write).await.is_none());
        }
        gate.began.recv().unwrap();
        drop(gate);
        for key in ["committing", "queued"] {
            assert_eq!(&*watch.next().await.unwrap().unwrap().key, key);
        }
    });
    assert!(store.get("queued").is_some());
}

#[test]
fn dropping_the_store_writes_what_is_queued_and_ends_the_watches() {
    let platter = Platter::default();
    let (disk, gate) = gated(&platter);
    let store = Store::open(disk).unwrap();
    let mut watch = store.watch("", Revision(0)).unwrap();
    runtime().block_on(async {
        for number in 0..3 {
            let mut write = Box::pin(store.write(Mutation::create(format!("{number}"), value(""))));
            assert!(poll_immediate(&mut write).await.is_none());
        }
    });
    drop(gate);
    drop(store);
    assert_eq!(platter.load().entries.len(), 3);
    let mut events = std::iter::from_fn(|| watch.try_next());
    assert_eq!(events.by_ref().map(|event| event.unwrap().revision.0).collect::<Vec<_>>(), [1, 2, 3]);
}
