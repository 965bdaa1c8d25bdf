//! The store itself: what is in it, by which name, and who uses it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Config;
use serde::{Deserialize, Serialize};

use crate::compression::decompress;
use crate::digest::{Digest, Digesting};
use crate::error::Error;
use crate::folder::{Folder, Work, names, open_folder};
use crate::image::Image;
use crate::manifest::{Layer, Plan};
use crate::platform::Platform;
use crate::pull::Flights;
use crate::reference::Reference;
use crate::sweep::sweep;
use crate::unpack::{Limits, UnpackError, Unpacked, is_opaque, unpack};

/// A folder of images, shared by any number of tasks and processes. Clones are the same store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) folder: Arc<Folder>,
    pub(crate) flights: Arc<Flights>,
}

/// What a removal took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone. Empty when there was no such image.
    pub references: Vec<Reference>,
    /// Layers that nothing refers to any more and that are gone.
    pub layers: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Layers that nothing refers to any more, but that a lease still holds. They go when it is released.
    pub held: usize,
}

/// What a reference means.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) reference: Reference,
    pub(crate) digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<Digest>,
    pub(crate) id: Digest,
    /// Diff ids, the topmost first, each once.
    pub(crate) layers: Vec<Digest>,
    platform: Platform,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    config: Config,
    pub(crate) size: u64,
}

impl ImageStore {
    /// Opens the store in a folder, creates what is missing of it, and removes what killed processes left behind.
    ///
    /// The folder is made readable by its owner alone. It must lie on one file system.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let folder = Folder::open(folder)?;
        folder.remove_leftovers()?;
        Ok(Self { folder: Arc::new(folder), flights: Arc::default() })
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        self.folder.root()
    }

    /// The image of this name, if it is here. Asks nobody else; costs one small file and a look at each layer.
    ///
    /// A reference by digest finds an image that came under a tag of the same repository, too.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, Error> {
        let Some(record) = self.find(reference)? else {
            return Ok(None);
        };
        let layers: Vec<PathBuf> = record.layers.iter().map(|diff_id| self.folder.layer_files(diff_id)).collect();
        // Somebody may have removed a layer by hand: then the image has to come again.
        if !layers.iter().all(|layer| layer.exists()) {
            return Ok(None);
        }
        Ok(Some(Image {
            reference: reference.clone(),
            digest: record.digest,
            index: record.index,
            id: record.id,
            layers,
            config: record.config,
            platform: record.platform,
            created: record.created,
            size: record.size,
        }))
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let mut images = Vec::new();
        for record in self.records()? {
            images.extend(self.get(&record.reference)?);
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Removes a name, and with it the layers that no other name refers to and no lease holds.
    ///
    /// A reference by digest removes every name of that image in its repository. Deleting a layer's files can take
    /// seconds; the store is locked for a moment only.
    pub fn remove(&self, reference: &Reference) -> Result<Removed, Error> {
        let references = {
            let _changing = self.folder.share()?;
            let records = match reference.digest() {
                None => read_record(&self.folder.record(reference))?.into_iter().collect(),
                Some(digest) => {
                    let mut records = read_records(&self.folder.repository(reference))?;
                    records.retain(|record| record.is(digest));
                    records
                }
            };
            self.forget(records)?
        };
        self.sweep_after(references)
    }

    /// Takes names away; returns those that were there.
    pub(crate) fn forget(&self, records: Vec<Record>) -> Result<Vec<Reference>, Error> {
        let mut references = Vec::new();
        for record in records {
            let path = self.folder.record(&record.reference);
            match fs::remove_file(&path) {
                Ok(()) => references.push(record.reference),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("remove {}", path.display()))(error)),
            }
        }
        Ok(references)
    }

    /// Removes what only these names referred to, which are gone.
    pub(crate) fn sweep_after(&self, references: Vec<Reference>) -> Result<Removed, Error> {
        if references.is_empty() {
            return Ok(Removed::default());
        }
        let swept = sweep(&self.folder)?;
        Ok(Removed { references, ..swept })
    }

    /// Removes everything that no name refers to and no lease holds: leftovers of killed processes, mostly.
    pub fn sweep(&self) -> Result<Removed, Error> {
        self.folder.remove_leftovers()?;
        sweep(&self.folder)
    }

    /// Holds an image's layers until [`Self::release`], also across restarts and crashes of this process, since
    /// containers outlive it. `owner` is a name of the caller's choice, such as a container's id: letters, digits, `.`,
    /// `_` and `-`. An owner has one lease; a second one replaces the first.
    pub fn lease(&self, image: &Image, owner: &str) -> Result<(), Error> {
        let path = self.lease_path(owner)?;
        let blob = self.folder.blob(&image.digest);
        let _adding = self.folder.share()?;
        if !image.layers.iter().all(|layer| layer.exists()) || !blob.exists() {
            return Err(Error::Gone { image: image.reference.familiar() });
        }
        write_lease(&blob, &path).map_err(Error::io(format!("write lease {}", path.display())))?;
        touch(&path);
        Ok(())
    }

    /// Ends a lease. Layers that only it held go now, which can take seconds where files are slow to delete. Without
    /// such a lease this does nothing.
    pub fn release(&self, owner: &str) -> Result<(), Error> {
        let path = self.lease_path(owner)?;
        touch(&path);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("remove lease {}", path.display()))(error)),
        }
        if self.folder.sweep_wanted().exists() {
            sweep(&self.folder)?;
        }
        Ok(())
    }

    /// The owners of all leases: after a crash, those whose containers are gone are to be released.
    pub fn leases(&self) -> Result<Vec<String>, Error> {
        let mut owners: Vec<_> =
            names(&self.folder.leases())?.into_iter().filter_map(|name| name.into_string().ok()).collect();
        owners.retain(|owner| !owner.starts_with('.'));
        owners.sort_unstable();
        Ok(owners)
    }

    fn lease_path(&self, owner: &str) -> Result<PathBuf, Error> {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if owner.is_empty() || owner.len() > 200 || owner.starts_with('.') || !owner.bytes().all(inside) {
            return Err(Error::malformed(format!("lease owner {owner:?}"), "it is no file name"));
        }
        Ok(self.folder.leases().join(owner))
    }

    fn find(&self, reference: &Reference) -> Result<Option<Record>, Error> {
        if let Some(record) = read_record(&self.folder.record(reference))? {
            return Ok(Some(record));
        }
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        let records = read_records(&self.folder.repository(reference))?;
        Ok(records.into_iter().find(|record| record.is(digest)))
    }

    fn records(&self) -> Result<Vec<Record>, Error> {
        all_records(&self.folder)
    }
}

/// Notes that an image is used now: the time of its manifest, of which a lease is a link, says so (see `usage`). A failure
/// makes the image look as if it were unused for longer.
fn touch(lease: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
    let time = |nanoseconds| Timespec { tv_sec: 0, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
    let _ = rustix::fs::utimensat(CWD, lease, &times, AtFlags::SYMLINK_NOFOLLOW);
}

/// A lease is another link to the image's manifest: it costs neither an inode nor a block, and one system call.
fn write_lease(blob: &Path, path: &Path) -> io::Result<()> {
    // A file can have some ten thousand links.
    let link = |to: &Path| match fs::hard_link(blob, to) {
        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => fs::copy(blob, to).map(drop),
        other => other,
    };
    match link(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    // A dot is no owner's first character. Renaming one link of a file to another leaves both, so it is removed.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}"));
    let _ = fs::remove_file(&aside);
    let replaced = link(&aside).and_then(|()| fs::rename(&aside, path));
    let _ = fs::remove_file(&aside);
    replaced
}

impl Record {
    /// Whether this image has a digest, as a manifest or through an index.
    fn is(&self, digest: &Digest) -> bool {
        self.digest == *digest || self.index.as_ref() == Some(digest)
    }
}

/// Every record in the store. One that cannot be read counts as absent: its image comes again when it is asked for.
pub(crate) fn all_records(folder: &Folder) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    for repository in names(&folder.references())? {
        records.extend(read_records(&folder.references().join(repository))?);
    }
    Ok(records)
}

fn read_records(repository: &Path) -> Result<Vec<Record>, Error> {
    if !repository.exists() {
        return Ok(Vec::new());
    }
    let mut records = Vec::new();
    for name in names(repository)? {
        records.extend(read_record(&repository.join(name))?);
    }
    Ok(records)
}

fn read_record(path: &Path) -> Result<Option<Record>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()))(error)),
    }
}

/// An image on its way into the store. Dropped unfinished, it leaves only whole layers, which the next attempt finds.
#[derive(Debug)]
pub(crate) struct Incoming {
    folder: Arc<Folder>,
    work: Work,
    plan: Plan,
}

impl Incoming {
    /// Announces the image, so that nothing of it is swept, and stores its documents.
    pub(crate) fn begin(folder: &Arc<Folder>, plan: Plan) -> Result<Self, Error> {
        let work = folder.work()?;
        {
            let _adding = folder.share()?;
            work.keep(&plan.digest)?;
            for (digest, bytes) in [(&plan.id, &plan.configuration), (&plan.digest, &plan.manifest)] {
                let path = folder.blob(digest);
                if !path.exists() {
                    work.publish(bytes, &path)?;
                }
            }
        }
        Ok(Self { folder: Arc::clone(folder), work, plan })
    }

    /// The layers, the lowest first, each once.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let mut seen = HashSet::new();
        self.plan.layers.iter().filter(|layer| seen.insert(&layer.diff_id)).cloned().collect()
    }

    pub(crate) fn has(&self, layer: &Layer) -> bool {
        self.folder.layer(&layer.diff_id).exists()
    }

    pub(crate) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Unpacks a layer from its blob and verifies both its digests. The caller holds the layer's lock.
    pub(crate) fn add(&self, layer: &Layer, blob: impl io::Read, limits: Limits) -> Result<(), Error> {
        let place = self.work.fresh();
        fs::create_dir(&place).map_err(Error::io(format!("create {}", place.display())))?;
        let unpacked = unpack_verified(layer, blob, &place, limits)?;
        let about = place.join("layer.json");
        let json = serde_json::to_vec(&unpacked).expect("plain data serialises");
        fs::write(&about, json).map_err(Error::io(format!("write {}", about.display())))?;
        Work::publish_folder(&place, &self.folder.layer(&layer.diff_id))?;
        Ok(())
    }

    /// Gives the image its name, once all layers are there. What the name meant before goes if nothing else needs it.
    pub(crate) fn finish(&self, reference: &Reference, index: Option<Digest>) -> Result<(), Error> {
        // A layer that comes twice would be refused by the overlay; above itself it changes nothing.
        let mut layers: Vec<Digest> = Vec::new();
        let mut size = 0;
        for Layer { diff_id, .. } in self.plan.layers.iter().rev() {
            if layers.contains(diff_id) {
                continue;
            }
            layers.push(diff_id.clone());
            size += read_unpacked(&self.folder, diff_id)?.bytes;
            // The overlay looks for the opaque mark everywhere but at the root, so it is obeyed here.
            if is_opaque(open_folder(&self.folder.layer_files(diff_id))?.as_fd()) {
                break;
            }
        }
        let record = Record {
            reference: reference.clone(),
            digest: self.plan.digest.clone(),
            index,
            id: self.plan.id.clone(),
            layers,
            platform: self.plan.platform.clone(),
            created: self.plan.created.clone(),
            config: self.plan.config.clone(),
            size,
        };
        let path = self.folder.record(reference);
        let before = read_record(&path)?;
        let repository = self.folder.repository(reference);
        fs::create_dir_all(&repository).map_err(Error::io(format!("create {}", repository.display())))?;
        {
            let _adding = self.folder.share()?;
            let json =
                serde_json::to_vec(&record).map_err(|fault| Error::malformed("the image's configuration", fault))?;
            self.work.publish(&json, &path)?;
        }
        if before.is_some_and(|before| before.digest != record.digest) {
            sweep(&self.folder)?;
        }
        Ok(())
    }
}

pub(crate) fn read_unpacked(folder: &Folder, diff_id: &Digest) -> Result<Unpacked, Error> {
    let path = folder.layer(diff_id).join("layer.json");
    let bytes = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    serde_json::from_slice(&bytes).map_err(|fault| Error::malformed(path.display().to_string(), fault))
}

fn unpack_verified(layer: &Layer, blob: impl io::Read, place: &Path, limits: Limits) -> Result<Unpacked, Error> {
    // One byte more than promised shows that there are more.
    let mut blob = Digesting::new(blob.take(layer.size.saturating_add(1)));
    let read = |error: io::Error| UnpackError::Read(Arc::new(error));
    let outcome = (|| {
        let plain = decompress(io::BufReader::with_capacity(128 << 10, &mut blob)).map_err(read)?;
        let mut plain = Digesting::new(plain);
        let unpacked = unpack(io::BufReader::with_capacity(128 << 10, &mut plain), place, limits)?;
        Ok((unpacked, plain.finish()))
    })();
    if let Err(UnpackError::TooLarge { .. } | UnpackError::Io { .. }) = outcome {
        return outcome
            .map(|(unpacked, _)| unpacked)
            .map_err(|fault| Error::Unpack { layer: layer.blob.clone(), fault });
    }
    // Damaged bytes fail in odd ways before their end: what they are is the better answer, if the rest can be had.
    let whole = io::copy(&mut blob, &mut io::sink()).is_ok();
    let (count, actual) = (blob.count(), blob.finish());
    if whole && actual != layer.blob {
        let what = format!("layer {} ({count} of {} bytes)", layer.blob, layer.size);
        return Err(Error::DigestMismatch { what, expected: layer.blob.clone(), actual });
    }
    let (unpacked, diff_id) = outcome.map_err(|fault| Error::Unpack { layer: layer.blob.clone(), fault })?;
    if count != layer.size {
        let fault = format!("it has {count} bytes, its manifest says {}", layer.size);
        return Err(Error::malformed(format!("layer {}", layer.blob), fault));
    }
    if diff_id != layer.diff_id {
        let what = format!("the content of layer {}", layer.blob);
        return Err(Error::DigestMismatch { what, expected: layer.diff_id.clone(), actual: diff_id });
    }
    Ok(unpacked)
}
