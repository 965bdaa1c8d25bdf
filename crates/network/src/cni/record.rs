//! What was asked of plugins for a pod, and what they said: all that is needed to take it back.
//!
//! Invariant: a record is there whole or not at all, and outlives a reboot, since addresses that plugins hand out may do so, too.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::List;
use crate::error::Error;

/// One pod's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) list: List,
    pub(super) namespace: PathBuf,
    pub(super) interface: String,
    pub(super) args: Vec<(String, String)>,
    pub(super) capabilities: Map<String, Value>,
    /// What ADD came to. `None`: it was not done to its end.
    pub(super) result: Option<Value>,
}

/// All pods', a file each.
#[derive(Clone, Debug)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn open(folder: &Path) -> Result<Records, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(Error::failed(format!("make the folder {}", folder.display())))?;
        Ok(Records(folder.to_owned()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }

    /// The pods that have one.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned());
        entries.filter_map(name).collect()
    }

    pub(super) fn write(&self, name: &str, record: &Record) -> Result<(), Error> {
        let (file, new) = (self.file(name), self.0.join(format!("{name}.new")));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()
        });
        let written = written.and_then(|()| fs::rename(&new, &file));
        written.map_err(Error::failed(format!("write {}", file.display())))
    }

    /// `None`: there is none. One that can't be read is an error, since what it tells of could not be given back.
    pub(super) fn read(&self, name: &str) -> Result<Option<Record>, Error> {
        let file = self.file(name);
        let failed = || Error::failed(format!("read {}", file.display()));
        match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed()(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|fault| failed()(fault.into())),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let file = self.file(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::failed(format!("remove {}", file.display()))(error))
            }
            _ => Ok(()),
        }
    }
}
