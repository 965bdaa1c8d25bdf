//! Kubernetes Events about Jobs and whatever else a controller has (section 5.13 of the API).
//!
//! Events tell people what happened; nothing is decided by them. So they are written behind the plan's back, one after
//! the other, and one that cannot be written is dropped with a line in the log.

mod correlate;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use stint_core::clock::Clock;
use stint_core::plan::{Event, Note, Severity};
use tokio::sync::mpsc;

use correlate::{Correlator, Draft, Telling};

/// Takes Events to be written. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<ApiEvent>,
    clock: Arc<dyn Clock>,
    correlator: Arc<Mutex<Correlator>>,
    /// Tells Events of one nanosecond apart.
    serial: Arc<AtomicU64>,
}

/// A recorder of Events that `component` tells, and the future that writes what it takes.
pub fn recorder(
    client: Client,
    clock: Arc<dyn Clock>,
    component: &'static str,
) -> (Recorder, impl Future<Output = ()>) {
    let (queue, waiting) = mpsc::channel(1024);
    let recorder = Recorder { component, queue, clock, correlator: Arc::default(), serial: Arc::default() };
    (recorder, write(client, waiting))
}

impl Recorder {
    /// Records `event` about `object`; `pod` is the one that its action was about.
    pub fn record<K: Resource<DynamicType = ()>>(&self, object: &K, event: &Event, pod: Option<&str>) {
        match &event.note {
            Note::Text(text) => self.send(object, event.severity, &event.reason, text),
            Note::Pod(prefix) => {
                let message = format!("{prefix} {}", pod.unwrap_or_default());
                self.send(object, event.severity, &event.reason, &message);
            }
        }
    }

    /// What time it is where Events are recorded.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Records a warning about `object`.
    pub fn warn<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: &str) {
        self.send(object, Severity::Warning, reason, message);
    }

    fn send<K: Resource<DynamicType = ()>>(&self, object: &K, severity: Severity, reason: &str, message: &str) {
        let resource_version = object.meta().resource_version.clone();
        self.tell(ObjectReference { resource_version, ..object.object_ref(&()) }, severity, reason, message);
    }

    fn tell(&self, about: ObjectReference, severity: Severity, reason: &str, message: &str) {
        let now = self.clock.now();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let kind = match severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        let draft = Draft { about: about.uid.as_deref().unwrap_or_default(), kind, reason, message };
        let name = name(&about, now, serial);
        let telling = self.correlator.lock().unwrap_or_else(PoisonError::into_inner).tell(&draft, name, now);
        let Some(telling) = telling else { return };
        let event = self.event(about, kind, reason, telling, now);
        if self.queue.try_send(event).is_err() {
            tracing::warn!(reason, "an Event is dropped: too many wait to be written");
        }
    }

    fn event(&self, about: ObjectReference, kind: &str, reason: &str, told: Telling, now: Timestamp) -> ApiEvent {
        let namespace = about.namespace.clone();
        ApiEvent {
            metadata: ObjectMeta { name: Some(told.name), namespace, ..ObjectMeta::default() },
            involved_object: about,
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(told.message),
            count: Some(told.count),
            first_timestamp: Some(Time(told.first)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(String::new()),
            ..ApiEvent::default()
        }
    }
}

/// The object's name and the time, as `client-go/tools/record` names Events.
fn name(about: &ObjectReference, now: Timestamp, serial: u64) -> String {
    let nanoseconds = u64::try_from(now.as_nanosecond()).unwrap_or(0).wrapping_add(serial);
    format!("{}.{nanoseconds:016x}", about.name.as_deref().unwrap_or_default())
}

async fn write(client: Client, mut waiting: mpsc::Receiver<ApiEvent>) {
    while let Some(event) = waiting.recv().await {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<ApiEvent> = Api::namespaced(client.clone(), namespace);
        if let Err(error) = put(&api, &event).await {
            let reason = event.reason.unwrap_or_default();
            tracing::debug!(%error, reason, "an Event could not be written");
        }
    }
}

/// Counts an Event up that was told before; creates it where it is new, or no longer there.
async fn put(api: &Api<ApiEvent>, event: &ApiEvent) -> kube::Result<()> {
    if event.count > Some(1) {
        let patch = json!({
            "count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message,
        });
        let name = event.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => return result.map(drop),
        }
    }
    api.create(&PostParams::default(), event).await.map(drop)
}
