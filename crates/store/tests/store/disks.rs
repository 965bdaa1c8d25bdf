//! Disks that outlive their store, fail, and wait.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use stint_store::{Change, Disk, DiskError, Entry, Loaded, Revision};

/// What a disk keeps when its store is gone.
#[derive(Debug, Clone, Default)]
pub struct Platter(pub Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
pub struct Kept {
    pub revision: Revision,
    pub entries: BTreeMap<Arc<str>, Entry>,
    /// How many changes each commit had.
    pub commits: Vec<usize>,
}

impl Platter {
    pub fn apply(&self, batch: &[Change], revision: Revision) {
        let mut kept = self.0.lock().unwrap();
        assert_eq!(batch.first().map(Change::revision), Some(kept.revision.next()), "no revision is left out");
        assert_eq!(batch.last().map(Change::revision), Some(revision), "the last change has the commit's revision");
        for change in batch {
            match change {
                Change::Put(entry) => drop(kept.entries.insert(entry.key.clone(), entry.clone())),
                Change::Delete { key, .. } => drop(kept.entries.remove(key).expect("only what exists is deleted")),
            }
        }
        kept.revision = revision;
        kept.commits.push(batch.len());
    }

    pub fn load(&self) -> Loaded {
        let kept = self.0.lock().unwrap();
        Loaded { revision: kept.revision, entries: kept.entries.values().cloned().collect() }
    }

    pub fn commits(&self) -> Vec<usize> {
        self.0.lock().unwrap().commits.clone()
    }
}

/// How a commit fails.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    /// Nothing of it was written.
    Lost,
    /// It was written, and the answer was lost.
    Kept,
}

/// Fails one commit, and must not be asked again.
#[derive(Debug)]
pub struct FailingDisk {
    pub platter: Platter,
    pub immediate: bool,
    /// How many commits work.
    pub good: usize,
    pub failure: Failure,
    pub failed: bool,
}

impl Disk for FailingDisk {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        Ok(self.platter.load())
    }

    fn commit(&mut self, batch: &[Change], revision: Revision) -> Result<(), DiskError> {
        assert!(!self.failed, "a disk that failed is not used again");
        if self.good > 0 {
            self.good -= 1;
            self.platter.apply(batch, revision);
            return Ok(());
        }
        self.failed = true;
        if let Failure::Kept = self.failure {
            self.platter.apply(batch, revision);
        }
        Err("the disk is on fire".into())
    }

    fn immediate(&self) -> bool {
        self.immediate
    }
}

/// Says when a commit begins, and ends it when told to.
#[derive(Debug)]
pub struct GatedDisk {
    platter: Platter,
    began: Sender<()>,
    proceed: Receiver<()>,
}

/// The other side of a [`GatedDisk`]. Dropping it opens the gate for good.
pub struct Gate {
    pub began: Receiver<()>,
    pub proceed: Sender<()>,
}

pub fn gated(platter: &Platter) -> (GatedDisk, Gate) {
    let (began, on_began) = channel();
    let (proceed, on_proceed) = channel();
    (GatedDisk { platter: platter.clone(), began, proceed: on_proceed }, Gate { began: on_began, proceed })
}

impl Disk for GatedDisk {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        Ok(self.platter.load())
    }

    fn commit(&mut self, batch: &[Change], revision: Revision) -> Result<(), DiskError> {
        // Both fail once the gate is dropped, and then there is nothing to wait for.
        let _ = self.began.send(());
        let _ = self.proceed.recv();
        self.platter.apply(batch, revision);
        Ok(())
    }
}
