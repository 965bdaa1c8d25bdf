//! Decides mutations against the committed state and the batch so far. Pure: it touches neither disk nor readers.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::{Change, Encode, Entry, Error, Event, EventKind, Mutation, Outcome, Revision, Snapshot};

/// Mutations that were decided and are to be committed together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The last revision: that of the committed state, if nothing is to be written.
    pub(crate) revision: Revision,
    /// What to write, in revision order.
    pub(crate) changes: Vec<Change>,
    /// What to tell watchers, in the same order.
    pub(crate) events: Vec<Arc<Event>>,
    /// What to answer once it is durable, in the order of the mutations.
    pub(crate) answers: Vec<Result<Outcome, Error>>,
}

/// Decides mutations one after the other, each as if the ones before it had been committed.
pub(crate) fn decide(committed: &Snapshot, mutations: impl IntoIterator<Item = Mutation>) -> Batch {
    let mut pending = Pending {
        committed,
        written: BTreeMap::new(),
        batch: Batch { revision: committed.revision(), ..Batch::default() },
    };
    for mutation in mutations {
        let answer = pending.decide(mutation);
        pending.batch.answers.push(answer);
    }
    pending.batch
}

/// The committed state with the batch so far on top.
struct Pending<'a> {
    committed: &'a Snapshot,
    /// Keys written by this batch; none is a deletion.
    written: BTreeMap<Arc<str>, Option<Entry>>,
    batch: Batch,
}

impl Pending<'_> {
    fn decide(&mut self, mutation: Mutation) -> Result<Outcome, Error> {
        let current = self.current(mutation.key());
        match mutation {
            Mutation::Create { key, value } => match current {
                None => self.write(EventKind::Created, key, value, None),
                exists => Ok(Outcome::Conflict { current: exists }),
            },
            Mutation::Update { expected, value, .. } => match current {
                Some(entry) if entry.revision == expected => {
                    self.write(EventKind::Updated, entry.key, value, Some(entry.value))
                }
                current => Ok(Outcome::Conflict { current }),
            },
            Mutation::Delete { expected, last, .. } => match current {
                Some(entry) if entry.revision == expected => {
                    self.write(EventKind::Deleted, entry.key, last, Some(entry.value))
                }
                current => Ok(Outcome::Conflict { current }),
            },
        }
    }

    fn current(&self, key: &str) -> Option<Entry> {
        match self.written.get(key) {
            Some(entry) => entry.clone(),
            None => self.committed.get(key).cloned(),
        }
    }

    fn write(
        &mut self,
        kind: EventKind,
        key: Arc<str>,
        encode: Encode,
        previous: Option<Bytes>,
    ) -> Result<Outcome, Error> {
        let revision = self.batch.revision.next();
        let Ok(value) = catch_unwind(AssertUnwindSafe(|| encode(revision))) else {
            return Err(Error::Encode { key });
        };
        let entry = Entry { key, revision, value };
        let (change, state) = match kind {
            EventKind::Deleted => (Change::Delete { key: entry.key.clone(), revision }, None),
            EventKind::Created | EventKind::Updated => (Change::Put(entry.clone()), Some(entry.clone())),
        };
        self.batch.revision = revision;
        self.batch.changes.push(change);
        self.batch.events.push(Arc::new(Event {
            kind,
            key: entry.key.clone(),
            revision,
            value: entry.value.clone(),
            previous,
        }));
        self.written.insert(entry.key.clone(), state);
        Ok(Outcome::Written(entry))
    }
}
