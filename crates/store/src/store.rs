//! The store as its users see it.

use std::fmt;
use std::sync::{Arc, OnceLock, RwLock};

use crate::error::shared;
use crate::watch::Hub;
use crate::writer::{Shared, Writer};
use crate::{
    Disk, Entry, Error, Expired, Listing, Loaded, MemoryDisk, Mutation, Outcome, Page, Revision, Snapshot, Watch,
};

/// How much a store remembers for its watchers.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most events in the history.
    pub history_events: usize,
    /// The most bytes that the history's keys and values add up to, before and after each event.
    pub history_bytes: usize,
}

impl Default for Options {
    /// 8192 events and 64 MiB.
    fn default() -> Self {
        Self { history_events: 8192, history_bytes: 64 << 20 }
    }
}

/// Objects by key, with revisions, history and watch. Clones are handles of the same store.
///
/// Dropping the last handle waits until every queued write is durable, lets the disk go, and ends the watches.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Option<Writer>,
    shared: Arc<Shared>,
}

impl Store {
    /// Loads what a disk holds. The watch history starts at the revision that was loaded.
    pub fn open(disk: impl Disk) -> Result<Self, Error> {
        Self::open_with(disk, &Options::default())
    }

    /// Like [`open`](Self::open), with other limits than the usual ones.
    pub fn open_with(disk: impl Disk, options: &Options) -> Result<Self, Error> {
        let mut disk = Box::new(disk);
        let Loaded { revision, entries } = disk.load().map_err(|cause| Error::Load(shared(cause)))?;
        check(revision, &entries)?;
        let shared = Arc::new(Shared {
            current: RwLock::new(Snapshot::load(revision, entries)),
            hub: Arc::new(Hub::new(revision, options)),
            failure: OnceLock::new(),
        });
        let writer = Some(Writer::start(disk, shared.clone())?);
        Ok(Self(Arc::new(Inner { writer, shared })))
    }

    /// A new store that keeps nothing on disk.
    ///
    /// # Panics
    ///
    /// Never: there is nothing that could fail.
    pub fn in_memory() -> Self {
        Self::open(MemoryDisk).expect("memory has nothing to load and needs no thread")
    }

    /// The entry under a key, with every write that was answered before this call.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.0.shared.read(|current| current.get(key).cloned())
    }

    /// The entries under a prefix, all of one revision.
    pub fn list(&self, prefix: &str) -> Listing {
        self.snapshot().list(prefix)
    }

    /// At most `limit` entries under a prefix that come after a key, of the current revision. For pages of one and the
    /// same state, keep a [`snapshot`](Self::snapshot).
    pub fn list_page(&self, prefix: &str, after_key: Option<&str>, limit: usize) -> Page {
        self.snapshot().page(prefix, after_key, limit)
    }

    /// The whole state as it is now, for several reads that have to agree. It takes no time and blocks no writer.
    pub fn snapshot(&self) -> Snapshot {
        self.0.shared.read(Snapshot::clone)
    }

    /// The revision of the last durable write.
    pub fn revision(&self) -> Revision {
        self.0.shared.read(Snapshot::revision)
    }

    /// Why nothing is written any more. None: writes are taken.
    pub fn failure(&self) -> Option<&str> {
        self.0.shared.failure.get().map(String::as_str)
    }

    /// Carries out a mutation, and returns when its outcome is durable.
    ///
    /// Once it waits for the disk it is not cancellable: dropping the future then leaves the outcome unknown to the
    /// caller, but does not undo it.
    pub async fn write(&self, mutation: Mutation) -> Result<Outcome, Error> {
        match &self.0.writer {
            Some(writer) => writer.write(mutation).await,
            None => Err(Error::Closed),
        }
    }

    /// Every committed event under a prefix with a revision greater than `after`, in order.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Expired> {
        self.0.shared.hub.watch(prefix, after)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // First the writer, so that watches still get what it has queued.
        drop(self.writer.take());
        self.shared.hub.close();
    }
}

/// A disk that contradicts itself must not be built upon.
fn check(revision: Revision, entries: &[Entry]) -> Result<(), Error> {
    let fault = if let Some(pair) = entries.windows(2).find(|pair| pair[0].key >= pair[1].key) {
        format!("{} does not come before {}", pair[0].key, pair[1].key)
    } else if let Some(entry) = entries.iter().find(|entry| entry.revision > revision) {
        format!("{} has revision {}, after the store's last revision {revision}", entry.key, entry.revision)
    } else {
        return Ok(());
    };
    Err(Error::Load(Arc::from(crate::DiskError::from(fault))))
}
