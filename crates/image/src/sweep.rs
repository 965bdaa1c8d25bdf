//! Sweeping: removing what nothing refers to any more.
//!
//! Under the exclusive lock it is decided what goes, and that is moved aside, which takes moments; the removal itself
//! follows without the lock.

use std::collections::HashSet;
use std::fs;

use crate::digest::Digest;
use crate::error::Error;
use crate::folder::{Folder, names};
use crate::manifest::{self, Document};
use crate::store::{Removed, all_records, read_unpacked};

/// What is referred to.
#[derive(Default)]
struct Referred {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

pub(crate) fn sweep(folder: &Folder) -> Result<Removed, Error> {
    let work = folder.work()?; // before the exclusive lock, which making it would wait for
    let mut removed = Removed::default();
    let _deciding = folder.exclude()?;

    let mut named = Referred::default();
    for record in all_records(folder)? {
        named.blobs.extend([record.digest, record.id]);
        named.layers.extend(record.layers);
    }
    let mut held = Referred::default();
    for owner in names(&folder.leases())? {
        let path = folder.leases().join(owner);
        let manifest = fs::read(&path).map_err(Error::io(format!("read lease {}", path.display())))?;
        held.add_image(folder, &manifest)?;
    }
    for kept in folder.kept_by_work()? {
        // Announced, but not written yet: then nothing of it is here.
        if let Some(manifest) = kept.parse().ok().and_then(|digest| fs::read(folder.blob(&digest)).ok()) {
            // One that is damaged belongs to an operation that was killed, or that will fail when it looks for its layers.
            let _ = held.add_image(folder, &manifest);
        }
    }

    for name in names(&folder.blobs())? {
        let Some(digest) = digest_of(&name) else { continue };
        if !named.blobs.contains(&digest) && !held.blobs.contains(&digest) {
            let path = folder.blob(&digest);
            fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))?;
        }
    }
    for name in names(&folder.layers())? {
        let Some(diff_id) = digest_of(&name) else { continue };
        if named.layers.contains(&diff_id) {
            continue;
        }
        if held.layers.contains(&diff_id) {
            removed.held += 1;
            continue;
        }
        removed.layers += 1;
        removed.bytes += read_unpacked(folder, &diff_id).unwrap_or_default().bytes;
        let path = folder.layer(&diff_id);
        fs::rename(&path, work.fresh()).map_err(Error::io(format!("move {} aside", path.display())))?;
    }
    let wanted = folder.sweep_wanted();
    if removed.held > 0 {
        fs::write(&wanted, "").map_err(Error::io(format!("write {}", wanted.display())))?;
    } else {
        let _ = fs::remove_file(&wanted); // usually not there
    }
    Ok(removed) // the lock goes first, then the work folder with all that was moved there
}

impl Referred {
    /// Adds an image by its manifest. A damaged one might refer to anything, so it stops the sweep.
    fn add_image(&mut self, folder: &Folder, manifest: &[u8]) -> Result<(), Error> {
        let digest = Digest::of(manifest);
        let damaged = || Error::malformed(format!("manifest {digest}, which is in use,"), "it names no configuration");
        let Document::Manifest { config, .. } = Document::parse(digest.as_str(), manifest)? else {
            return Err(damaged());
        };
        let path = folder.blob(&config.digest);
        let bytes = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        self.layers.extend(manifest::diff_ids(&bytes).ok_or_else(damaged)?);
        self.blobs.extend([digest, config.digest]);
        Ok(())
    }
}

fn digest_of(name: &std::ffi::OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}
