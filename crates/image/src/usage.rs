//! Who uses which image, and for how long nobody has: what is to be known to choose which images go.
//!
//! The time of an image's manifest is when the image was last leased or released, or came; the filesystem keeps it, so it is
//! still known after a restart, and every process on the store counts.
//!
//! Invariant: an image that somebody leases while another removes it as unused stays whole until it is released.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::Error;
use crate::folder::names;
use crate::reference::Reference;
use crate::store::{ImageStore, Removed, all_records};

/// An image that has a name, and its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its names, in order.
    pub references: Vec<Reference>,
    /// Bytes of its unpacked layers, those shared with other images included.
    pub size: u64,
    /// When its newest name came to mean it.
    pub came: SystemTime,
    /// When it was last leased or released, or came.
    pub last_used: SystemTime,
    /// Who holds leases of it.
    pub owners: Vec<String>,
}

impl ImageStore {
    /// All images that have names, by digest.
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        let mut images: BTreeMap<String, Usage> = BTreeMap::new();
        for record in all_records(&self.folder)? {
            // What is removed this instant is not there any more.
            let Some(came) = modified(&self.folder.record(&record.reference))? else { continue };
            let Some(last_used) = modified(&self.folder.blob(&record.digest))? else { continue };
            let image = images.entry(record.digest.to_string()).or_insert_with(|| Usage {
                digest: record.digest.clone(),
                references: Vec::new(),
                size: record.size,
                came,
                last_used,
                owners: Vec::new(),
            });
            image.references.push(record.reference);
            image.came = image.came.max(came);
            image.last_used = image.last_used.max(came);
        }
        for (owner, digest) in self.held()? {
            // A dot is no owner's first character: such a lease is just being replaced.
            if let Some(image) = images.get_mut(digest.as_str()).filter(|_| !owner.starts_with('.')) {
                image.owners.push(owner);
            }
        }
        let mut images: Vec<Usage> = images.into_values().collect();
        for image in &mut images {
            image.references.sort();
            image.owners.sort();
        }
        Ok(images)
    }

    /// Removes an image with all its names, unless somebody uses it now. `None`: somebody does.
    ///
    /// Deleting files can take seconds; the store is locked for a moment only.
    pub fn remove_unused(&self, digest: &Digest) -> Result<Option<Removed>, Error> {
        let references = {
            let _deciding = self.folder.exclude()?;
            if self.held()?.values().any(|held| held == digest) {
                return Ok(None);
            }
            let mut records = all_records(&self.folder)?;
            records.retain(|record| record.digest == *digest);
            self.forget(records)?
        };
        self.sweep_after(references).map(Some)
    }

    /// The digest of the manifest that each lease holds, by owner.
    fn held(&self) -> Result<HashMap<String, Digest>, Error> {
        let mut held = HashMap::new();
        for owner in names(&self.folder.leases())? {
            let path = self.folder.leases().join(&owner);
            match fs::read(&path) {
                Ok(manifest) => drop(held.insert(owner.to_string_lossy().into_owned(), Digest::of(&manifest))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // released this instant
                Err(error) => return Err(Error::io(format!("read lease {}", path.display()))(error)),
            }
        }
        Ok(held)
    }
}

/// When a file last changed; nothing, if it is not there.
fn modified(path: &Path) -> Result<Option<SystemTime>, Error> {
    match fs::metadata(path).and_then(|found| found.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("look at {}", path.display()))(error)),
    }
}
