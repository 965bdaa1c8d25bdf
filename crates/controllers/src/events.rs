//! Kubernetes Events about Jobs (section 5.13 of the API: component `job-controller`).
//!
//! Events tell people what happened; nothing is decided by them. So they are written behind the plan's back, one after
//! the other, and one that cannot be written is dropped with a line in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use stint_core::clock::Clock;
use stint_core::plan::{Event, Note, Severity};
use tokio::sync::mpsc;

const COMPONENT: &str = "job-controller";

/// Takes Events to be written. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<ApiEvent>,
    clock: Arc<dyn Clock>,
    /// Tells Events of one nanosecond apart.
    serial: Arc<AtomicU64>,
}

/// A recorder, and the future that writes what it takes.
pub fn recorder(client: Client, clock: Arc<dyn Clock>) -> (Recorder, impl Future<Output = ()>) {
    let (queue, waiting) = mpsc::channel(1024);
    (Recorder { queue, clock, serial: Arc::new(AtomicU64::new(0)) }, write(client, waiting))
}

impl Recorder {
    /// Records `event` about `job`; `pod` is the one that its action was about.
    pub fn record(&self, job: &Job, event: &Event, pod: Option<&str>) {
        let message = match &event.note {
            Note::Text(text) => text.clone(),
            Note::Pod(prefix) => format!("{prefix} {}", pod.unwrap_or_default()),
        };
        self.send(job, event.severity, &event.reason, message);
    }

    /// Records a warning about `job`.
    pub fn warn(&self, job: &Job, reason: &str, message: String) {
        self.send(job, Severity::Warning, reason, message);
    }

    fn send(&self, job: &Job, severity: Severity, reason: &str, message: String) {
        let now = self.clock.now();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let event = event(job, severity, reason, message, now, serial);
        if self.queue.try_send(event).is_err() {
            tracing::warn!(reason, "an Event is dropped: too many wait to be written");
        }
    }
}

async fn write(client: Client, mut waiting: mpsc::Receiver<ApiEvent>) {
    while let Some(event) = waiting.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<ApiEvent> = Api::namespaced(client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            let reason = event.reason.unwrap_or_default();
            tracing::debug!(%error, reason, "an Event could not be written");
        }
    }
}

fn event(job: &Job, severity: Severity, reason: &str, message: String, now: Timestamp, serial: u64) -> ApiEvent {
    let meta = &job.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let nanoseconds = u64::try_from(now.as_nanosecond()).unwrap_or(0).wrapping_add(serial);
    ApiEvent {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{nanoseconds:016x}")),
            namespace: meta.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            name: Some(name),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        },
        type_: Some(match severity {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        reason: Some(reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(String::new()),
        ..ApiEvent::default()
    }
}
