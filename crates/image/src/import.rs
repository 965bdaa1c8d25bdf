//! Importing: images from an OCI layout (a folder, or a tar archive of one) or from `docker save`, compressed or plain.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde::Deserialize;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::archive::{Archive, Part};
use crate::digest::{Digest, Digesting};
use crate::error::Error;
use crate::folder::Folder;
use crate::image::Image;
use crate::manifest::{Descriptor, Document, LARGEST_DOCUMENT, Layer, Plan, choose};
use crate::platform::Platform;
use crate::progress::{LayerState, Progress};
use crate::reference::Reference;
use crate::store::{ImageStore, Incoming};
use crate::unpack::Limits;

/// What to import from.
pub enum Source {
    /// A folder with an OCI layout, or an archive file.
    Path(PathBuf),
    /// A stream of an archive.
    Reader(Box<dyn Read + Send>),
}

/// How to import.
#[derive(Debug, Clone)]
pub struct Import {
    /// The name that the image shall have, instead of those that the archive gives. Needs an archive of one image.
    pub name: Option<Reference>,
    /// The platform to choose from a multi-platform image.
    pub platform: Platform,
    /// What one layer may unpack to, and the archive itself decompress to.
    pub limits: Limits,
}

impl Default for Import {
    fn default() -> Self {
        Self { name: None, platform: Platform::host(), limits: Limits::default() }
    }
}

type Report = UnboundedSender<(Digest, LayerState)>;

impl ImageStore {
    /// Imports every image of an archive, and answers them by name.
    ///
    /// Dropping the future stops the work soon; what is whole by then stays.
    pub async fn import(&self, source: Source, how: &Import, progress: &dyn Progress) -> Result<Vec<Image>, Error> {
        struct StopOnDrop(Arc<AtomicBool>);
        impl Drop for StopOnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = StopOnDrop(Arc::default());
        let (report, mut reports) = unbounded_channel();
        let job = {
            let (folder, how, stop) = (Arc::clone(&self.folder), how.clone(), Arc::clone(&stop.0));
            tokio::task::spawn_blocking(move || import(&folder, source, &how, &report, &stop))
        };
        while let Some((digest, state)) = reports.recv().await {
            progress.layer(digest.as_str(), state);
        }
        let names = job.await.map_err(|_| Error::Interrupted("the import".to_owned()))??;
        let mut images = Vec::new();
        for name in names {
            images.push(self.get(&name)?.ok_or(Error::Gone { image: name.familiar() })?);
        }
        Ok(images)
    }
}

/// An image found in an archive: its names, its plan, and where its layers' blobs are.
struct Found {
    names: Vec<Reference>,
    plan: Plan,
    index: Option<Digest>,
    /// The member of the archive for each blob.
    parts: HashMap<Digest, String>,
}

fn import(
    folder: &Arc<Folder>,
    source: Source,
    how: &Import,
    report: &Report,
    stop: &AtomicBool,
) -> Result<Vec<Reference>, Error> {
    let work = folder.work()?;
    let archive = Archive::open(source, &work, how.limits)?;
    let mut found = find(&archive, &how.platform)?;
    if let Some(name) = &how.name {
        let [only] = found.as_mut_slice() else {
            let fault = format!("it holds {} images, so they cannot all be named {name}", found.len());
            return Err(Error::malformed(archive.what(), fault));
        };
        only.names = vec![name.clone()];
    }
    if found.iter().any(|image| image.names.is_empty()) {
        return Err(Error::Unnamed { what: archive.what().to_owned() });
    }
    let mut names = Vec::new();
    for image in found {
        let incoming = Incoming::begin(folder, image.plan)?;
        add_layers(&incoming, &archive, &image.parts, how.limits, report, stop)?;
        for name in image.names {
            incoming.finish(&name, image.index.clone())?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

fn add_layers(
    incoming: &Incoming,
    archive: &Archive,
    parts: &HashMap<Digest, String>,
    limits: Limits,
    report: &Report,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let layers = incoming.layers();
    for layer in &layers {
        let _ = report.send((layer.blob.clone(), LayerState::Waiting));
    }
    let workers = thread::available_parallelism().map_or(1, usize::from).min(4).min(layers.len());
    let queue = Mutex::new(layers.into_iter());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let work = || -> Result<(), Error> {
        while let Some(layer) = next() {
            add_layer(incoming, archive, parts, &layer, limits, report, stop)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut outcome = Ok(());
        for worker in workers {
            let done = worker.join().unwrap_or_else(|_| Err(Error::Interrupted("unpacking a layer".to_owned())));
            outcome = outcome.and(done);
        }
        outcome
    })
}

fn add_layer(
    incoming: &Incoming,
    archive: &Archive,
    parts: &HashMap<Digest, String>,
    layer: &Layer,
    limits: Limits,
    report: &Report,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let tell = |state| drop(report.send((layer.blob.clone(), state)));
    if incoming.has(layer) {
        tell(LayerState::Cached);
        return Ok(());
    }
    let _lock = incoming.folder().lock_layer(&layer.diff_id)?;
    if incoming.has(layer) {
        tell(LayerState::Cached);
        return Ok(());
    }
    let name = parts.get(&layer.blob).cloned().unwrap_or_else(|| blob_name(&layer.blob));
    let Some((part, _)) = archive.part(&name)? else {
        return Err(Error::malformed(archive.what(), format!("it lacks layer {name:?}")));
    };
    let blob = Watched { part, done: 0, told: 0, layer, report, stop };
    incoming.add(layer, blob, limits)?;
    tell(LayerState::Done);
    Ok(())
}

/// A blob being read: tells how far, and stops when it should.
struct Watched<'a> {
    part: Part,
    done: u64,
    told: u64,
    layer: &'a Layer,
    report: &'a Report,
    stop: &'a AtomicBool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("the import was stopped"));
        }
        let length = self.part.read(buffer)?;
        self.done += length as u64;
        if self.done - self.told >= 1 << 20 || (length == 0 && self.told < self.done) {
            self.told = self.done;
            let state = LayerState::Downloading { done: self.done, total: self.layer.size };
            let _ = self.report.send((self.layer.blob.clone(), state));
        }
        if self.done == self.layer.size && length > 0 {
            let _ = self.report.send((self.layer.blob.clone(), LayerState::Unpacking));
        }
        Ok(length)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An entry of `docker save`'s own table.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn find(archive: &Archive, platform: &Platform) -> Result<Vec<Found>, Error> {
    let saved: Vec<Saved> = match archive.find("manifest.json", LARGEST_DOCUMENT)? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|fault| Error::malformed(format!("manifest.json of {}", archive.what()), fault))?,
        None => Vec::new(),
    };
    let found = match archive.find("index.json", LARGEST_DOCUMENT)? {
        Some(index) => find_in_layout(archive, &index, &saved, platform)?,
        None => saved.iter().map(|saved| find_saved(archive, saved, platform)).collect::<Result<_, _>>()?,
    };
    if found.is_empty() {
        let fault = "it holds no image: neither an OCI layout (index.json) nor docker save's manifest.json";
        return Err(Error::malformed(archive.what(), fault));
    }
    Ok(found)
}

fn find_in_layout(archive: &Archive, index: &[u8], saved: &[Saved], platform: &Platform) -> Result<Vec<Found>, Error> {
    let what = format!("index.json of {}", archive.what());
    let Document::Index(descriptors) = Document::parse(&what, index)? else {
        return Err(Error::malformed(what, "it is no index"));
    };
    // Several manifests of one name are one image for several platforms.
    let mut by_name: Vec<(Vec<Reference>, Vec<Descriptor>)> = Vec::new();
    for descriptor in descriptors {
        let names = names_of(&descriptor)?;
        match by_name.iter_mut().find(|(known, _)| *known == names) {
            Some((_, group)) => group.push(descriptor),
            None => by_name.push((names, vec![descriptor])),
        }
    }
    let mut found = Vec::new();
    for (mut names, group) in by_name {
        let chosen = choose_one(&what, &group, platform)?;
        let mut bytes = read_blob(archive, &chosen.digest)?;
        let mut through = None;
        let label = names.first().map_or_else(|| format!("the image in {}", archive.what()), Reference::familiar);
        if let Document::Index(inner) = Document::parse(&label, &bytes)? {
            through = Some(chosen.digest.clone());
            bytes = read_blob(archive, &choose(&label, &inner, platform)?.digest)?;
        }
        let Document::Manifest { config, .. } = Document::parse(&label, &bytes)? else {
            return Err(Error::malformed(label, "it is an index of indexes"));
        };
        let configuration = read_blob(archive, &config.digest)?;
        let plan = Plan::new(&label, bytes, configuration, platform)?;
        if names.is_empty() {
            let same = saved.iter().filter(|saved| saved.config.contains(plan.id.hex()));
            names =
                same.flat_map(|saved| saved.repo_tags.iter().flatten()).map(|n| n.parse()).collect::<Result<_, _>>()?;
        }
        found.push(Found { names, plan, index: through, parts: HashMap::new() });
    }
    Ok(found)
}

fn choose_one<'a>(what: &str, group: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor, Error> {
    match group {
        [only] => Ok(only),
        _ => choose(what, group, platform),
    }
}

/// The names that an index gives an image. A bare tag, as some builders write it, is no name.
fn names_of(descriptor: &Descriptor) -> Result<Vec<Reference>, Error> {
    if let Some(name) = descriptor.annotation("io.containerd.image.name") {
        return Ok(vec![name.parse()?]);
    }
    let name = descriptor.annotation("org.opencontainers.image.ref.name");
    let name = name.filter(|name| name.contains([':', '/']));
    Ok(name.and_then(|name| name.parse().ok()).into_iter().collect())
}

fn read_blob(archive: &Archive, digest: &Digest) -> Result<Vec<u8>, Error> {
    let name = blob_name(digest);
    let bytes = archive.read(&name, LARGEST_DOCUMENT)?;
    let actual = Digest::of(&bytes);
    if actual != *digest {
        let what = format!("{name} of {}", archive.what());
        return Err(Error::DigestMismatch { what, expected: digest.clone(), actual });
    }
    Ok(bytes)
}

/// An image in `docker save`'s own form: a manifest is made for it, the same for the same image everywhere.
fn find_saved(archive: &Archive, saved: &Saved, platform: &Platform) -> Result<Found, Error> {
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }
    #[derive(Deserialize)]
    struct Configuration {
        rootfs: RootFs,
    }
    let configuration = archive.read(&saved.config, LARGEST_DOCUMENT)?;
    let what = format!("{:?} of {}", saved.config, archive.what());
    let read: Configuration =
        serde_json::from_slice(&configuration).map_err(|fault| Error::malformed(&*what, fault))?;
    let members = saved.layers.as_deref().unwrap_or_default();
    let mut parts = HashMap::new();
    let mut layers = Vec::new();
    for (member, diff_id) in members.iter().zip(&read.rootfs.diff_ids) {
        let Some((part, size)) = archive.part(member)? else {
            return Err(Error::malformed(archive.what(), format!("it lacks layer {member:?}")));
        };
        let blob = blob_digest(part, diff_id).map_err(Error::io(format!("read {member:?} of {}", archive.what())))?;
        layers.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{blob}","size":{size}}}"#
        ));
        parts.insert(blob, member.clone());
    }
    if members.len() != read.rootfs.diff_ids.len() {
        let fault = format!("it lists {} layers, the archive {}", read.rootfs.diff_ids.len(), members.len());
        return Err(Error::malformed(what, fault));
    }
    let manifest = format!(
        concat!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#
        ),
        Digest::of(&configuration),
        configuration.len(),
        layers.join(",")
    );
    let names = saved.repo_tags.iter().flatten().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let plan = Plan::new(&what, manifest.into_bytes(), configuration, platform)?;
    Ok(Found { names, plan, index: None, parts })
}

/// A plain layer is its own blob, which unpacking will verify; of a compressed one the digest is not written anywhere.
fn blob_digest(mut part: Part, diff_id: &Digest) -> io::Result<Digest> {
    if part.is_plain() {
        return Ok(diff_id.clone());
    }
    let mut digesting = Digesting::new(&mut part);
    io::copy(&mut digesting, &mut io::sink())?;
    Ok(digesting.finish())
}
