//! The seam below the store: where batches become durable.
//!
//! A disk is told what to keep and never asked to decide. The store loads it once, then only commits.

use std::sync::Arc;

use crate::{Entry, Revision};

/// What a disk says when it cannot do as told.
pub type DiskError = Box<dyn std::error::Error + Send + Sync>;

/// Everything that a disk holds.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The revision of the last commit, also where that was a deletion. Zero for a new disk.
    pub revision: Revision,
    /// The objects, strictly ascending by key, none newer than `revision`.
    pub entries: Vec<Entry>,
}

/// One key's part in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Store this entry in place of what was under its key.
    Put(Entry),
    /// Remove what is under the key.
    Delete {
        /// The key to remove.
        key: Arc<str>,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// The key that changes.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the write that changes it.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Keeps what the store commits.
pub trait Disk: Send + 'static {
    /// Reads back everything that was committed. Called once, before the first commit.
    fn load(&mut self) -> Result<Loaded, DiskError>;

    /// Makes a batch durable: all of it, or none of it.
    ///
    /// The changes are in revision order, and the last one has `revision`; a key may change more than once. When this
    /// returns Ok, [`load`](Self::load) after any crash must show the batch. When it returns an error, a later load
    /// may show the batch or not, but never a part; the store then calls it no more.
    fn commit(&mut self, batch: &[Change], revision: Revision) -> Result<(), DiskError>;

    /// Whether a commit costs next to nothing. The store then commits on the caller, one mutation at a time and
    /// without a thread, which makes every run repeatable. Otherwise a writer thread gathers what waits into one commit.
    fn immediate(&self) -> bool {
        false
    }
}

/// Keeps nothing: its objects live as long as the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryDisk;

impl Disk for MemoryDisk {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        Ok(Loaded::default())
    }

    fn commit(&mut self, _batch: &[Change], _revision: Revision) -> Result<(), DiskError> {
        Ok(())
    }

    fn immediate(&self) -> bool {
        true
    }
}
