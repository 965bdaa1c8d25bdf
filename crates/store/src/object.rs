//! The words of the store: what is stored, what can be asked of it, and what it answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The position of a write in the store's one global order. The first write of a new store is revision 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of the write that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// One stored object. Cloning shares its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name under which the object is stored.
    pub key: Arc<str>,
    /// The revision of the write that produced this value.
    pub revision: Revision,
    /// The object, as its [`Encode`] made it.
    pub value: Bytes,
}

/// The entries under a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the snapshot, at least that of every entry. A watch after it misses nothing.
    pub revision: Revision,
    /// The entries, in key order.
    pub entries: Vec<Entry>,
}

/// Makes a value that embeds the revision of its own write, which is known at commit only.
///
/// It runs on the writer, between other writes: make it a splice into bytes that were encoded before, into a buffer
/// of the exact size (spare capacity stays allocated as long as the value). If it panics, its mutation fails with
/// [`Error::Encode`](crate::Error::Encode) and no other is affected.
pub type Encode = Box<dyn FnOnce(Revision) -> Bytes + Send>;

/// One intended write.
pub enum Mutation {
    /// Store a new object, if nothing is stored under the key.
    Create {
        /// Where to store it.
        key: Arc<str>,
        /// The object.
        value: Encode,
    },
    /// Replace an object, if its revision is still the expected one.
    Update {
        /// Where it is stored.
        key: Arc<str>,
        /// The revision of the state that the caller has seen.
        expected: Revision,
        /// The new state.
        value: Encode,
    },
    /// Remove an object, if its revision is still the expected one.
    Delete {
        /// Where it is stored.
        key: Arc<str>,
        /// The revision of the state that the caller has seen.
        expected: Revision,
        /// The last state, as watchers are to see it: it embeds the revision of the deletion.
        last: Encode,
    },
}

impl Mutation {
    /// A [`Mutation::Create`].
    pub fn create(key: impl Into<Arc<str>>, value: impl FnOnce(Revision) -> Bytes + Send + 'static) -> Self {
        Self::Create { key: key.into(), value: Box::new(value) }
    }

    /// A [`Mutation::Update`].
    pub fn update(
        key: impl Into<Arc<str>>,
        expected: Revision,
        value: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Self {
        Self::Update { key: key.into(), expected, value: Box::new(value) }
    }

    /// A [`Mutation::Delete`].
    pub fn delete(
        key: impl Into<Arc<str>>,
        expected: Revision,
        last: impl FnOnce(Revision) -> Bytes + Send + 'static,
    ) -> Self {
        Self::Delete { key: key.into(), expected, last: Box::new(last) }
    }

    /// The key that it is about.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

impl fmt::Debug for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { key, .. } => write!(f, "Create({key})"),
            Self::Update { key, expected, .. } => write!(f, "Update({key} at {expected})"),
            Self::Delete { key, expected, .. } => write!(f, "Delete({key} at {expected})"),
        }
    }
}

/// How a mutation ended. Both ends are expected ones; what went wrong is an [`Error`](crate::Error).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable and visible. For a deletion, the entry holds the last state and the deletion's revision.
    Written(Entry),
    /// Nothing was written, because the stored state is not the one that the mutation expected.
    Conflict {
        /// What is stored instead; for a creation, what exists already. None: there is no such object (any more).
        current: Option<Entry>,
    },
}

/// What a write did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// There was none before.
    Created,
    /// It had another value before.
    Updated,
    /// It is gone.
    Deleted,
}

/// One committed write, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What the write did.
    pub kind: EventKind,
    /// The key that was written.
    pub key: Arc<str>,
    /// The revision of the write. Every revision has exactly one event.
    pub revision: Revision,
    /// The state after the write; for a deletion the last state, encoded with the deletion's revision.
    pub value: Bytes,
    /// The state before the write, so that a selector can tell "stopped matching". None for a creation.
    pub previous: Option<Bytes>,
}
