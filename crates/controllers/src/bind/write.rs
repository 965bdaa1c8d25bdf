//! What the scheduler writes: bindings, and the condition and Event of a pod that does not fit.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::request;
use serde_json::json;
use stint_core::bind::Seat;
use stint_core::clock::Clock;
use stint_core::plan::{Event, Note, Severity};

use crate::ToldBindings;
use crate::events::Recorder;
use crate::request::{of, send_unread};

/// What became of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The pod is bound, or gone: the watch says which.
    Settled,
    /// It was not performed, and will not be.
    Refused,
    /// It may have been performed.
    Unknown,
}

/// Writes to the API. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(super) clock: Arc<dyn Clock>,
    /// The node's name.
    pub(super) node: Arc<str>,
    pub(super) told: ToldBindings,
}

impl Writer {
    /// Binds a pod.
    pub async fn bind(&self, seat: &Seat) -> Bound {
        let since = self.clock.now();
        let metadata = ObjectMeta { name: Some(seat.name.to_string()), ..identity(seat) };
        let node = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node.to_string()),
            ..ObjectReference::default()
        };
        let binding = Binding { metadata, target: node };
        let binding = serde_json::to_vec(&binding).map_err(request::Error::SerializeBody);
        let request = binding.and_then(|binding| {
            of::<Pod>(&seat.namespace).create_subresource("binding", &seat.name, &PostParams::default(), binding)
        });
        match send_unread(&self.client, request).await {
            Ok(()) => {
                // Where nobody reads Events, one that was bound at once needs none: a write is as dear as the binding itself.
                if seat.had_waited || self.told == ToldBindings::All {
                    let Seat { namespace, name, .. } = seat;
                    let note = format!("Successfully assigned {namespace}/{name} to {}", self.node);
                    self.announce(since, seat, Severity::Normal, "Scheduled", note);
                }
                Bound::Settled
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                tracing::debug!(pod = &*seat.name, message = status.message, "a binding came too late");
                Bound::Settled
            }
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                tracing::warn!(pod = &*seat.name, message = status.message, "a binding was refused");
                Bound::Refused
            }
            Err(error) => {
                tracing::warn!(%error, pod = &*seat.name, "a binding failed; it is tried again");
                Bound::Unknown
            }
        }
    }

    /// Tells a pod why it does not fit; returns whether that is done with.
    pub async fn tell(&self, seat: &Seat, why: &str) -> bool {
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastProbeTime": null,
        });
        if !seat.had_waited {
            let now = Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default();
            condition["lastTransitionTime"] = json!(Time(now));
        }
        let patch = json!({ "metadata": { "uid": seat.uid.to_string() }, "status": { "conditions": [condition] } });
        let pods = of::<Pod>(&seat.namespace);
        let request = pods.patch_subresource("status", &seat.name, &PatchParams::default(), &Patch::Strategic(patch));
        match send_unread(&self.client, request).await {
            Ok(()) => {
                self.announce(self.clock.now(), seat, Severity::Warning, "FailedScheduling", why.to_owned());
                true
            }
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                tracing::debug!(pod = &*seat.name, message = status.message, "a pod was not told that it does not fit");
                true
            }
            Err(error) => {
                tracing::debug!(%error, pod = &*seat.name, "a pod is told later that it does not fit");
                false
            }
        }
    }

    fn announce(&self, since: Timestamp, seat: &Seat, severity: Severity, reason: &str, note: String) {
        let pod =
            Pod { metadata: ObjectMeta { name: Some(seat.name.to_string()), ..identity(seat) }, ..Pod::default() };
        let event = Event { severity, reason: reason.to_owned(), note: Note::Text(note) };
        self.recorder.record_since(since, &pod, &event, None);
    }
}

fn identity(seat: &Seat) -> ObjectMeta {
    ObjectMeta { namespace: Some(seat.namespace.to_string()), uid: Some(seat.uid.to_string()), ..ObjectMeta::default() }
}
