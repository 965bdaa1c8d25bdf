//! Pulling: an image from a registry, or one of its mirrors, into the store.
//!
//! A layer is unpacked while it comes in; its compressed bytes are never on disk. That halves the writing and overlaps
//! the two long parts of a pull, which is what a waiting container feels. A broken connection is resumed where it broke
//! (`Range`) with the unpacking still under way; only a restart of the process loses a layer's bytes, and at most those
//! of the layers that were coming in.
//!
//! ```text
//! wait for a place (4 at once) → lock the layer → download ⇒ channel ⇒ digest → decompress → digest → unpack → rename
//! ```
//!
//! Everyone in this process who wants the same image with the same access shares one flight; it is abandoned when
//! nobody waits any more.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedSender, channel, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::access::{Access, Endpoint, Login};
use crate::digest::Digest;
use crate::error::{Error, PullError};
use crate::image::Image;
use crate::manifest::{Document, Layer, Plan, choose};
use crate::progress::{LayerState, Progress};
use crate::reference::Reference;
use crate::registry::{Fault, Repository, STALL_TIMEOUT, chain, stalled};
use crate::store::{ImageStore, Incoming};

/// Layers that come in at once, per pull.
const LAYERS_AT_ONCE: usize = 4;
/// How often in a row a layer's connection may break without bringing [`WORTHWHILE`] bytes.
const MOST_BREAKS: u32 = 5;
const WORTHWHILE: u64 = 1 << 20;
/// Bytes between two reports of progress.
const REPORT_STEP: u64 = 256 << 10;

/// The pulls under way in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    list: Mutex<Vec<Flight>>,
}

/// One pull, for everyone who waits for it.
#[derive(Debug)]
struct Flight {
    reference: Reference,
    access: Access,
    watchers: Arc<Watchers>,
    outcome: watch::Receiver<Option<Result<(), PullError>>>,
    waiting: usize,
    task: AbortHandle,
}

/// Those who watch a flight, and what those who come late need to know.
#[derive(Debug, Default)]
struct Watchers {
    state: Mutex<(Vec<UnboundedSender<Report>>, Vec<Report>)>,
}

type Report = (Digest, LayerState);

impl Watchers {
    fn tell(&self, digest: &Digest, state: LayerState) {
        let mut guard = lock(&self.state);
        let (watchers, last) = &mut *guard;
        watchers.retain(|watcher| watcher.send((digest.clone(), state)).is_ok());
        match last.iter_mut().find(|(known, _)| known == digest) {
            Some(known) => known.1 = state,
            None => last.push((digest.clone(), state)),
        }
    }

    fn join(&self) -> tokio::sync::mpsc::UnboundedReceiver<Report> {
        let (watcher, reports) = unbounded_channel();
        let mut guard = lock(&self.state);
        for report in &guard.1 {
            let _ = watcher.send(report.clone());
        }
        guard.0.push(watcher);
        reports
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ImageStore {
    /// Pulls an image: asks the mirrors and then the registry what the name means now, and brings what is missing.
    ///
    /// It asks even if the image is here; [`Self::get`] tells that. It fails in bounded time when nobody answers (about
    /// 15 s for each mirror and the registry). Must be called inside a tokio runtime. Dropping the future ends the
    /// pull, unless others wait for the same.
    pub async fn pull(
        &self,
        reference: &Reference,
        access: &Access,
        progress: &dyn Progress,
    ) -> Result<Image, PullError> {
        let (mut reports, mut outcome, _waiting) = self.board(reference, access);
        let result = loop {
            tokio::select! {
                biased;
                Some((digest, state)) = reports.recv() => progress.layer(digest.as_str(), state),
                ended = outcome.wait_for(Option::is_some) => break match ended {
                    Ok(result) => result.clone().unwrap_or(Ok(())),
                    Err(_) => Err(store_error(reference, Error::Interrupted("the pull".to_owned()))),
                },
            }
        };
        while let Ok((digest, state)) = reports.try_recv() {
            progress.layer(digest.as_str(), state);
        }
        result?;
        let image = self.get(reference).map_err(|error| store_error(reference, error))?;
        image.ok_or_else(|| store_error(reference, Error::Gone { image: reference.familiar() }))
    }

    /// Joins the flight for this image, or starts it.
    #[allow(clippy::type_complexity)] // three things that only the caller above takes apart
    fn board(
        &self,
        reference: &Reference,
        access: &Access,
    ) -> (tokio::sync::mpsc::UnboundedReceiver<Report>, watch::Receiver<Option<Result<(), PullError>>>, Waiting) {
        let mut list = lock(&self.flights.list);
        let known = list.iter_mut().find(|flight| {
            flight.reference == *reference && flight.access == *access && flight.outcome.borrow().is_none()
        });
        let flight = if let Some(flight) = known {
            flight
        } else {
            let watchers = Arc::new(Watchers::default());
            let (ended, outcome) = watch::channel(None);
            let task = tokio::spawn({
                let (store, reference, access) = (self.clone(), reference.clone(), access.clone());
                let watchers = Arc::clone(&watchers);
                async move {
                    let result = fly(&store, &reference, &access, &watchers).await;
                    ended.send_replace(Some(result));
                }
            });
            list.push(Flight {
                reference: reference.clone(),
                access: access.clone(),
                watchers,
                outcome,
                waiting: 0,
                task: task.abort_handle(),
            });
            list.last_mut().expect("it was pushed just now")
        };
        flight.waiting += 1;
        let waiting = Waiting { flights: Arc::clone(&self.flights), watchers: Arc::clone(&flight.watchers) };
        (flight.watchers.join(), flight.outcome.clone(), waiting)
    }
}

/// Someone waits for a flight; the last one to leave ends it.
struct Waiting {
    flights: Arc<Flights>,
    watchers: Arc<Watchers>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut list = lock(&self.flights.list);
        let Some(place) = list.iter().position(|flight| Arc::ptr_eq(&flight.watchers, &self.watchers)) else {
            return;
        };
        list[place].waiting -= 1;
        if list[place].waiting == 0 {
            list.swap_remove(place).task.abort();
        }
    }
}

async fn fly(
    store: &ImageStore,
    reference: &Reference,
    access: &Access,
    watchers: &Arc<Watchers>,
) -> Result<(), PullError> {
    let mut attempts: Vec<PullError> = Vec::new();
    let mut try_tls = false;
    for endpoint in access.endpoints(reference) {
        if endpoint.is_second_scheme && !try_tls {
            continue;
        }
        let opened = open(&endpoint, reference, access).await;
        try_tls = opened.as_ref().is_err_and(may_want_tls);
        let outcome = match opened {
            Ok(opened) => bring(store, &endpoint, opened, reference, access, watchers).await,
            Err(error) => Err(error),
        };
        let Err(error) = outcome else {
            return Ok(());
        };
        match error {
            // A full disk here is not cured by asking elsewhere.
            PullError::Store { ref error, .. } if !error.is_permanent() => {
                return Err(store_error(reference, error.clone()));
            }
            // Nobody speaks TLS there either: the first scheme's answer is the telling one.
            PullError::Unreachable { .. } if endpoint.is_second_scheme => {}
            error if endpoint.is_second_scheme => {
                attempts.pop();
                attempts.push(error);
            }
            error => attempts.push(error),
        }
    }
    match <[_; 1]>::try_from(attempts) {
        Ok([only]) => Err(only),
        Err(attempts) => Err(PullError::Everywhere { reference: reference.familiar(), attempts }),
    }
}

/// Whether a plain-HTTP attempt failed as it does at a registry that wants TLS.
fn may_want_tls(error: &PullError) -> bool {
    matches!(error, PullError::Unreachable { .. } | PullError::Registry { status: Some(400), .. })
}

/// A repository that answered, and what it says that the reference means.
struct Opened {
    repository: Repository,
    manifest: Vec<u8>,
    digest: Digest,
}

/// Asks a registry for the reference, with each login that fits.
async fn open(endpoint: &Endpoint, reference: &Reference, access: &Access) -> Result<Opened, PullError> {
    let wrap = |fault| answer_error(reference, endpoint, fault);
    let repository = format!("{}{}", endpoint.prefix, reference.repository());
    let (logins, fault) = access.logins_for(&endpoint.host, &repository).await;
    let logins: Vec<Option<&Login>> = if logins.is_empty() { vec![None] } else { logins.iter().map(Some).collect() };
    let asked = reference.digest().map_or_else(|| reference.tag().unwrap_or_default(), Digest::as_str);

    let mut refused = None;
    for login in logins {
        let repository = Repository::new(endpoint, reference, login, access).map_err(wrap)?;
        match repository.manifest(asked).await.map_err(wrap) {
            Ok((manifest, digest)) => return Ok(Opened { repository, manifest, digest }),
            // The next login may be the right one.
            Err(PullError::Unauthorized { reference, registry, mut answer }) => {
                answer.extend(fault.iter().flat_map(|fault| ["; ", fault]));
                refused = Some(PullError::Unauthorized { reference, registry, answer });
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.expect("there is at least one login, and each was refused"))
}

/// Everything after the first manifest.
async fn bring(
    store: &ImageStore,
    endpoint: &Endpoint,
    opened: Opened,
    reference: &Reference,
    access: &Access,
    watchers: &Arc<Watchers>,
) -> Result<(), PullError> {
    let Opened { ref repository, mut manifest, digest } = opened;
    let wrap = |fault| answer_error(reference, endpoint, fault);
    let broken = |error| store_error(reference, error);
    let what = reference.familiar();
    let mut index = None;
    if let Document::Index(images) = Document::parse(&what, &manifest).map_err(broken)? {
        let chosen = choose(&what, &images, &access.platform).map_err(broken)?;
        manifest = repository.manifest(chosen.digest.as_str()).await.map_err(wrap)?.0;
        index = Some(digest);
    }
    let Document::Manifest { config, .. } = Document::parse(&what, &manifest).map_err(broken)? else {
        return Err(broken(Error::malformed(what, "it is an index of indexes")));
    };
    let configuration = repository.document(&config.digest).await.map_err(wrap)?;
    let plan = Plan::new(&what, manifest, configuration, &access.platform).map_err(broken)?;

    let folder = Arc::clone(&store.folder);
    let incoming = in_background(move || Incoming::begin(&folder, plan)).await.map_err(broken)?;
    let incoming = Arc::new(incoming);
    let layers = incoming.layers();
    for layer in &layers {
        watchers.tell(&layer.blob, LayerState::Waiting);
    }
    let layers = futures::stream::iter(layers.into_iter().map(Ok));
    let bring = |layer: Layer| {
        let incoming = &incoming;
        async move {
            match bring_layer(incoming, repository, &layer, access, watchers).await {
                Ok(()) => Ok(()),
                Err(LayerFault::Registry(fault)) => Err(wrap(fault)),
                Err(LayerFault::Store(error @ Error::DigestMismatch { .. })) => {
                    Err(wrap(Fault::Digest(error.to_string())))
                }
                Err(LayerFault::Store(error)) => Err(broken(error)),
            }
        }
    };
    layers.try_for_each_concurrent(LAYERS_AT_ONCE, bring).await?;

    let named = reference.clone();
    in_background(move || incoming.finish(&named, index)).await.map_err(broken)
}

enum LayerFault {
    Registry(Fault),
    Store(Error),
}

impl From<Error> for LayerFault {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

async fn bring_layer(
    incoming: &Arc<Incoming>,
    repository: &Repository,
    layer: &Layer,
    access: &Access,
    watchers: &Watchers,
) -> Result<(), LayerFault> {
    if incoming.has(layer) {
        watchers.tell(&layer.blob, LayerState::Cached);
        return Ok(());
    }
    // Another task or process may be at it. A layer takes seconds, so asking now and then is soon enough.
    let lock = loop {
        if let Some(lock) = incoming.folder().try_lock_layer(&layer.diff_id)? {
            break lock;
        }
        sleep(Duration::from_millis(20)).await;
    };
    if incoming.has(layer) {
        watchers.tell(&layer.blob, LayerState::Cached);
        return Ok(());
    }
    let (chunks, received) = channel(32);
    let unpacking = spawn_blocking({
        let (incoming, layer, limits) = (Arc::clone(incoming), layer.clone(), access.limits);
        move || {
            let _lock = lock; // also when the task that waits for this is gone
            incoming.add(&layer, Chunks { received, current: Chunk::default(), place: 0 }, limits)
        }
    });
    let downloaded = download(repository, layer, chunks, watchers).await;
    if downloaded.is_ok() {
        watchers.tell(&layer.blob, LayerState::Unpacking);
    }
    let unpacked = unpacking.await.map_err(|_| Error::Interrupted(format!("unpacking layer {}", layer.blob)))?;
    // A download that broke is why unpacking found no more bytes, not the other way round.
    downloaded.map_err(LayerFault::Registry)?;
    unpacked?;
    watchers.tell(&layer.blob, LayerState::Done);
    Ok(())
}

/// Bytes as they come from the network.
type Chunk = Vec<u8>;

/// Brings a layer's bytes into the channel, over as many connections as it takes.
async fn download(
    repository: &Repository,
    layer: &Layer,
    chunks: Sender<Chunk>,
    watchers: &Watchers,
) -> Result<(), Fault> {
    let (mut done, mut told, mut breaks) = (0, 0, 0);
    let total = layer.size;
    watchers.tell(&layer.blob, LayerState::Downloading { done, total });
    loop {
        let began = done;
        let fault = match repository.blob(&layer.blob, done).await {
            // A server in trouble may recover; one that says no will not.
            Err(fault @ (Fault::Connection(_) | Fault::Answer { status: 500.. | 408 | 429, .. })) => fault,
            Err(fault) => return Err(fault),
            Ok((mut response, start)) => {
                let promised = response.content_length();
                let mut place = start;
                loop {
                    let chunk = match timeout(STALL_TIMEOUT, response.chunk()).await {
                        Err(_) => break stalled("bytes", STALL_TIMEOUT),
                        Ok(Err(fault)) => break Fault::Connection(chain(&fault)),
                        Ok(Ok(Some(chunk))) => chunk,
                        Ok(Ok(None)) if done == total => return Ok(()),
                        // All that the registry promised came, and it is not what the manifest promised.
                        Ok(Ok(None)) if promised.is_some() => {
                            return Err(wrong_length(layer, &place.to_string()));
                        }
                        Ok(Ok(None)) => break Fault::Connection("the connection was closed".to_owned()),
                    };
                    // A registry that cannot resume sends again what is here already.
                    let known = usize::try_from(done - place).unwrap_or(usize::MAX).min(chunk.len());
                    place += chunk.len() as u64;
                    let fresh = &chunk[known..];
                    if fresh.is_empty() {
                        continue;
                    }
                    done += fresh.len() as u64;
                    if done > total {
                        return Err(wrong_length(layer, &format!("at least {done}")));
                    }
                    if chunks.send(fresh.to_vec()).await.is_err() {
                        return Ok(()); // unpacking has ended: its own answer tells why
                    }
                    if done - told >= REPORT_STEP || done == total {
                        told = done;
                        watchers.tell(&layer.blob, LayerState::Downloading { done, total });
                    }
                }
            }
        };
        if done == total {
            return Ok(());
        }
        breaks = if done - began >= WORTHWHILE { 1 } else { breaks + 1 };
        if breaks > MOST_BREAKS {
            return Err(match fault {
                Fault::Connection(text) => {
                    Fault::Connection(format!("layer {} broke off at byte {done} of {total}: {text}", layer.blob))
                }
                other => other,
            });
        }
        sleep(Duration::from_millis(100) * 2_u32.pow(breaks)).await;
    }
}

fn wrong_length(layer: &Layer, came: &str) -> Fault {
    Fault::Digest(format!("layer {} has {came} bytes, its manifest says {}", layer.blob, layer.size))
}

/// The channel's bytes for a thread that reads.
struct Chunks {
    received: Receiver<Chunk>,
    current: Chunk,
    place: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.place == self.current.len() {
            match self.received.blocking_recv() {
                Some(chunk) => (self.current, self.place) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len() - self.place);
        buffer[..length].copy_from_slice(&self.current[self.place..self.place + length]);
        self.place += length;
        Ok(length)
    }
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|_| Error::Interrupted("storing the image".to_owned()))?
}

fn store_error(reference: &Reference, error: Error) -> PullError {
    PullError::Store { reference: reference.familiar(), error }
}

fn answer_error(reference: &Reference, endpoint: &Endpoint, fault: Fault) -> PullError {
    let reference = reference.familiar();
    let kind = if endpoint.mirror { "mirror " } else { "" };
    let registry = format!("{kind}{}", endpoint.host);
    match fault {
        Fault::Answer { status: 401 | 403, text: answer, .. } => {
            PullError::Unauthorized { reference, registry, answer }
        }
        Fault::Answer { status: 404, text: answer, .. } => PullError::NotFound { reference, registry, answer },
        Fault::Answer { status, codes, text: answer } => {
            let says = |code: &str| codes.iter().any(|known| known == code);
            if says("MANIFEST_UNKNOWN") || says("NAME_UNKNOWN") {
                PullError::NotFound { reference, registry, answer }
            } else if says("UNAUTHORIZED") || says("DENIED") {
                PullError::Unauthorized { reference, registry, answer }
            } else {
                PullError::Registry { reference, registry, status: Some(status), answer }
            }
        }
        Fault::Connection(fault) => PullError::Unreachable { reference, registry, fault },
        Fault::Nonsense(answer) => PullError::Registry { reference, registry, status: None, answer },
        Fault::Digest(fault) => PullError::DigestMismatch { reference, registry, fault },
    }
}
