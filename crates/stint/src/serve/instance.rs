//! One daemon per data folder.
//!
//! Invariant: who holds the lock is alive and is the only daemon on the folder; the lock goes with its process, however
//! that ends. What the file says is for people.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::folder::write_private;
use crate::real;

/// The lock on a data folder, and what is constant about it.
#[derive(Debug)]
pub struct Instance {
    /// The folder's name for cgroups and folders outside of it, the same for every daemon on it.
    pub id: String,
    lock: File,
}

impl Instance {
    /// Takes the data folder for this process, and makes it if it is not there.
    pub fn take(data: &Path) -> anyhow::Result<Instance> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
        made.with_context(|| format!("can't make the data folder {}; choose another one with --data", data.display()))?;
        let path = lock_file(data);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut lock = opened.with_context(|| {
            format!("can't open {}; run as the user that the data folder belongs to", path.display())
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Of a holder that has only just started nothing may be known yet.
                let _ = lock.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "another process".to_owned() } else { holder.replace('\n', ", ") };
                bail!(
                    "the data folder {} is in use by {holder}; stop that daemon, or choose another folder with --data",
                    data.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("can't lock {}", path.display()));
            }
        }
        let instance = Instance { id: id(data)?, lock };
        instance.tell("starting")?;
        Ok(instance)
    }

    /// Writes down what another daemon is to be told of this one.
    pub fn tell(&self, what: &str) -> anyhow::Result<()> {
        let text = format!("process {}\n{what}\n", std::process::id());
        let mut lock = &self.lock;
        let write = || -> std::io::Result<()> {
            rustix::fs::seek(lock, rustix::fs::SeekFrom::Start(0))?;
            lock.set_len(0)?;
            lock.write_all(text.as_bytes())
        };
        let mut write = write;
        write().context("can't write the lock file")
    }
}

fn lock_file(data: &Path) -> PathBuf {
    data.join("serve.lock")
}

/// The folder's id, made once.
fn id(data: &Path) -> anyhow::Result<String> {
    let path = data.join("id");
    let usable = |id: &str| id.len() > 6 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if let Ok(id) = std::fs::read_to_string(&path)
        && usable(id.trim())
    {
        return Ok(id.trim().to_owned());
    }
    let id = real::short_id("serve");
    write_private(&path, id.as_bytes())?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_holds_the_folder() {
        let data = tempfile::tempdir().unwrap();
        let first = Instance::take(data.path()).unwrap();
        first.tell("at https://127.0.0.1:6443").unwrap();
        let error = Instance::take(data.path()).unwrap_err().to_string();
        let me = format!("in use by process {}, at https://127.0.0.1:6443;", std::process::id());
        assert!(error.contains(&me), "{error}");
        let id = first.id.clone();
        drop(first);
        assert_eq!(Instance::take(data.path()).unwrap().id, id, "the id stays");
    }
}
