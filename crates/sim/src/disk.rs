//! The simulated disk below the real store. It keeps what was committed, shows it to the ledger, and is the place where
//! the process dies: before a write, or after it and before anybody hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use stint_store::{Change, Disk, DiskError, Entry, Loaded, Revision};

use crate::chaos::OnWrite;
use crate::world::{State, World};

/// What the disk holds.
#[derive(Debug, Default)]
pub struct Files {
    /// Every object.
    pub entries: BTreeMap<Arc<str>, Entry>,
    /// The last revision.
    pub revision: Revision,
    /// How many commits were asked for, performed or not.
    pub writes: u64,
    /// The disk refuses everything until the next start.
    pub broken: bool,
}

/// A store's handle of it.
pub struct SimDisk(pub World);

impl Disk for SimDisk {
    fn load(&mut self) -> Result<Loaded, DiskError> {
        let mut state = self.0.state();
        state.files.broken = false;
        Ok(Loaded { revision: state.files.revision, entries: state.files.entries.values().cloned().collect() })
    }

    fn commit(&mut self, batch: &[Change], revision: Revision) -> Result<(), DiskError> {
        let mut state = self.0.state();
        if state.crashed || state.files.broken {
            return Err("the process is dead".into());
        }
        state.files.writes += 1;
        let write = state.files.writes;
        match state.chaos.on_write(write) {
            OnWrite::Commit => self.apply(&mut state, batch, revision),
            OnWrite::CrashBefore => {
                self.0.end_process(&mut state, &format!("before write {write}: {}", keys(batch)));
                return Err("crashed before the write".into());
            }
            OnWrite::CrashAfter => {
                self.apply(&mut state, batch, revision);
                self.0.end_process(&mut state, &format!("after write {write}: {}", keys(batch)));
                return Err("crashed after the write".into());
            }
            OnWrite::Fail { kept } => {
                if kept {
                    self.apply(&mut state, batch, revision);
                }
                state.files.broken = true;
                self.0.dooms(&mut state);
                let kept = if kept { "and kept it" } else { "and lost it" };
                state.tell(|| format!("disk fails write {write} {kept}: {}", keys(batch)));
                return Err("the disk failed".into());
            }
            OnWrite::Lie => {}
        }
        Ok(())
    }

    fn immediate(&self) -> bool {
        true
    }
}

impl SimDisk {
    fn apply(&self, state: &mut State, batch: &[Change], revision: Revision) {
        for change in batch {
            let result = match change {
                Change::Put(entry) => {
                    state.files.entries.insert(entry.key.clone(), entry.clone());
                    crate::history::put(state, entry)
                }
                Change::Delete { key, revision } => {
                    state.files.entries.remove(key);
                    crate::history::gone(state, key, *revision);
                    Ok(())
                }
            };
            if let Err(broken) = result {
                self.0.breaks(state, broken);
            }
        }
        state.files.revision = revision;
    }
}

fn keys(batch: &[Change]) -> String {
    batch.iter().map(|change| change.key().to_string()).collect::<Vec<_>>().join(", ")
}
