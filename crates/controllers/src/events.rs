//! Kubernetes Events about Jobs and whatever else a controller has (section 5.13 of the API).
//!
//! How they are counted and combined is decided in `core::events`. Events tell people what happened; nothing is decided by
//! them. So they are written behind the plan's back, and one that cannot be written is dropped with a line in the log.
//! Several are written at once, so that the store commits them together; those of one name one after the other.

pub(crate) mod expiry;

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as ApiEvent, ObjectReference};
use kube::api::{Patch, PatchParams};
use kube::{Client, Resource};
use stint_core::clock::Clock;
use stint_core::events::{Journal, count_up};
use stint_core::plan::{Event, Note, Severity};
use tokio::sync::mpsc;

use crate::request::{create, of, send_unread};

/// How many Events are written at once.
const LANES: usize = 8;

/// How many wait in each lane.
const WAITING: usize = 512;

/// Takes Events to be written. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    /// An Event's lane follows from its name.
    lanes: Arc<[mpsc::Sender<ApiEvent>]>,
    clock: Arc<dyn Clock>,
    journal: Arc<Mutex<Journal>>,
}

/// A recorder of Events that `component` tells, and the future that writes what it takes.
pub fn recorder(
    client: Client,
    clock: Arc<dyn Clock>,
    component: &'static str,
) -> (Recorder, impl Future<Output = ()>) {
    let (lanes, waiting): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel(WAITING)).unzip();
    let journal = Arc::new(Mutex::new(Journal::new(component, None)));
    let recorder = Recorder { lanes: lanes.into(), clock, journal };
    let writing = waiting.into_iter().map(move |waiting| write(client.clone(), waiting));
    (recorder, async { drop(join_all(writing).await) })
}

impl Recorder {
    /// Records `event` about `object`; `pod` is the one that its action was about.
    pub fn record<K: Resource<DynamicType = ()>>(&self, object: &K, event: &Event, pod: Option<&str>) {
        self.record_since(self.clock.now(), object, event, pod);
    }

    /// [`Recorder::record`], of what began at `since`: what others tell of it meanwhile comes after it.
    pub fn record_since<K: Resource<DynamicType = ()>>(
        &self,
        since: Timestamp,
        object: &K,
        event: &Event,
        pod: Option<&str>,
    ) {
        let message = match &event.note {
            Note::Text(text) => text,
            Note::Pod(prefix) => &format!("{prefix} {}", pod.unwrap_or_default()),
        };
        self.send(since, object, event.severity, &event.reason, message);
    }

    /// What time it is where Events are recorded.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Records a warning about `object`.
    pub fn warn<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: &str) {
        self.send(self.clock.now(), object, Severity::Warning, reason, message);
    }

    fn send<K: Resource<DynamicType = ()>>(
        &self,
        at: Timestamp,
        object: &K,
        severity: Severity,
        reason: &str,
        message: &str,
    ) {
        let resource_version = object.meta().resource_version.clone();
        let about = ObjectReference { resource_version, ..object.object_ref(&()) };
        // Held until the Event is in the queue: one that is counted up must not overtake its own creation.
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(event) = journal.tell(about, severity, reason, message, at) else { return };
        if self.lanes[lane(&event)].try_send(event).is_err() {
            tracing::warn!(reason, "an Event is dropped: too many wait to be written");
        }
    }
}

/// Which lane an Event goes.
fn lane(event: &ApiEvent) -> usize {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    name.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte))) % LANES
}

async fn write(client: Client, mut waiting: mpsc::Receiver<ApiEvent>) {
    while let Some(event) = waiting.recv().await {
        if let Err(error) = put(&client, &event).await {
            let reason = event.reason.unwrap_or_default();
            tracing::debug!(%error, reason, "an Event could not be written");
        }
    }
}

/// Counts an Event up that was told before; creates it where it is new, or no longer there.
async fn put(client: &Client, event: &ApiEvent) -> kube::Result<()> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(patch) = count_up(event) {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let patch = of::<ApiEvent>(namespace).patch(name, &PatchParams::default(), &Patch::Strategic(patch));
        match send_unread(client, patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => return result,
        }
    }
    send_unread(client, create(namespace, event)).await
}
