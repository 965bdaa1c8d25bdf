//! Any sequence of mutations gives what a map and a list of events give.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use stint_store::{Entry, Error, Event, EventKind, Mutation, Outcome, Revision, Store};

use crate::{create, value, write};

/// A mutation as a test chooses it.
#[derive(Debug, Clone)]
pub struct Intent {
    pub verb: EventKind,
    pub key: u8,
    /// How many revisions the caller's view of the key is behind.
    pub stale: u64,
}

pub fn intents() -> impl Strategy<Value = Vec<Intent>> {
    let verb = prop_oneof![Just(EventKind::Created), Just(EventKind::Updated), Just(EventKind::Deleted)];
    let intent = (verb, 0_u8..6, prop_oneof![4 => Just(0_u64), 1 => 1_u64..3]);
    proptest::collection::vec(intent.prop_map(|(verb, key, stale)| Intent { verb, key, stale }), 0..120)
}

/// What the store should be.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub revision: Revision,
    pub entries: BTreeMap<Arc<str>, Entry>,
    pub events: Vec<Event>,
}

impl Model {
    /// The mutation that an intent means now, and the outcome that it should have.
    pub fn step(&mut self, intent: &Intent) -> (Mutation, Outcome) {
        let key: Arc<str> = format!("{}/{}", ["jobs", "pods"][usize::from(intent.key) % 2], intent.key).into();
        let current = self.entries.get(&key).cloned();
        let expected = current.as_ref().map_or(Revision(7), |entry| Revision(entry.revision.0 + intent.stale));
        let content = format!("{:?} {key}", intent.verb);
        let mutation = match intent.verb {
            EventKind::Created => Mutation::create(key.clone(), value(content.clone())),
            EventKind::Updated => Mutation::update(key.clone(), expected, value(content.clone())),
            EventKind::Deleted => Mutation::delete(key.clone(), expected, value(content.clone())),
        };
        let agreed = match intent.verb {
            EventKind::Created => current.is_none(),
            EventKind::Updated | EventKind::Deleted => current.is_some() && intent.stale == 0,
        };
        if !agreed {
            return (mutation, Outcome::Conflict { current });
        }
        self.revision = self.revision.next();
        let bytes = Bytes::from(format!("{content}@{}", self.revision));
        let entry = Entry { key: key.clone(), revision: self.revision, value: bytes.clone() };
        match intent.verb {
            EventKind::Deleted => drop(self.entries.remove(&key)),
            EventKind::Created | EventKind::Updated => drop(self.entries.insert(key.clone(), entry.clone())),
        }
        self.events.push(Event {
            kind: intent.verb,
            key,
            revision: self.revision,
            value: bytes,
            previous: current.map(|entry| entry.value),
        });
        (mutation, Outcome::Written(entry))
    }
}

/// Everything that a watch has ready.
pub fn drain(store: &Store, prefix: &str, after: Revision) -> Vec<Event> {
    let mut watch = store.watch(prefix, after).expect("the history is long enough");
    std::iter::from_fn(|| watch.try_next()).map(|event| Event::clone(&event.expect("it keeps up"))).collect()
}

proptest! {
    #[test]
    fn mutations_give_what_the_model_gives(intents in intents(), begin in any::<prop::sample::Index>()) {
        let (store, mut model) = (Store::in_memory(), Model::default());
        let mut live = store.watch("", Revision(0)).unwrap();
        let begin = begin.index(intents.len() + 1);
        let mut listed = None;
        for (step, intent) in intents.iter().enumerate() {
            if step == begin {
                listed = Some(store.list("jobs/"));
            }
            let (mutation, expected) = model.step(intent);
            prop_assert_eq!(write(&store, mutation).unwrap(), expected);
            prop_assert_eq!(store.revision(), model.revision);
        }
        for key in ["jobs/0", "pods/1", "jobs/4", "none"] {
            prop_assert_eq!(store.get(key), model.entries.get(key).cloned());
        }
        prop_assert!(store.list("").entries.iter().eq(model.entries.values()));
        prop_assert_eq!(store.list("").revision, model.revision);

        // A watch that was there from the start, and one from each revision, see the same events.
        let seen: Vec<Event> = std::iter::from_fn(|| live.try_next()).map(|event| Event::clone(&event.unwrap())).collect();
        prop_assert_eq!(&seen, &model.events);
        prop_assert_eq!(live.revision(), model.revision);
        for after in 0..=model.events.len() {
            prop_assert_eq!(drain(&store, "", Revision(after as u64)), &model.events[after..]);
        }

        // A list and a watch from it replay to the state under the prefix.
        let listed = listed.unwrap_or_else(|| store.list("jobs/"));
        let mut replayed: BTreeMap<Arc<str>, Bytes> =
            listed.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        for event in drain(&store, "jobs/", listed.revision) {
            prop_assert_eq!(replayed.get(&event.key), event.previous.as_ref());
            match event.kind {
                EventKind::Deleted => drop(replayed.remove(&event.key)),
                EventKind::Created | EventKind::Updated => drop(replayed.insert(event.key, event.value)),
            }
        }
        let state = store.list("jobs/").entries.into_iter().map(|entry| (entry.key, entry.value));
        prop_assert!(replayed.into_iter().eq(state));
    }
}

#[test]
fn failed_encoding_consumes_no_revision_and_hurts_nobody() {
    let store = Store::in_memory();
    create(&store, "a");
    let failed = write(&store, Mutation::create("b", |_| panic!("this value cannot be encoded")));
    assert!(matches!(failed, Err(Error::Encode { key }) if &*key == "b"));
    assert_eq!(store.get("b"), None);
    assert_eq!(create(&store, "c").revision, Revision(2));
}

#[test]
fn snapshot_keeps_its_state_while_the_store_moves_on() {
    let store = Store::in_memory();
    for number in 0..300 {
        create(&store, &format!("k/{number:03}"));
    }
    let snapshot = store.snapshot();
    let first = snapshot.page("k/", None, 100);
    assert_eq!(first.remaining, 200);
    for entry in store.list("k/").entries.iter().step_by(2) {
        write(&store, Mutation::delete(entry.key.clone(), entry.revision, value(""))).unwrap();
    }
    let second = snapshot.page("k/", first.listing.entries.last().map(|entry| &*entry.key), 500);
    assert_eq!((second.listing.entries.len(), second.remaining), (200, 0));
    assert_eq!(second.listing.revision, first.listing.revision);
    assert_eq!(store.list("k/").entries.len(), 150);
}
