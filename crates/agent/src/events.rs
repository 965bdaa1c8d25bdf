//! Kubernetes Events that this node tells of its pods, as a kubelet.
//!
//! Events are for people; no pod waits for one. They are written behind everything else, those that wait all at once, so that the
//! API can store them together; when it is so slow that too many wait, new ones are dropped and the log says how many.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use stint_core::events::{Journal, count_up};
use stint_core::plan::Severity;
use stint_core::pod::News;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::folder::Identity;

/// How many may wait to be written (`client-go/tools/record`, `maxQueuedEvents`).
const QUEUED: usize = 1000;
/// How many are written at once.
const AT_ONCE: usize = 32;

/// Takes what is to be told.
pub(crate) struct Recorder {
    journal: Mutex<Journal>,
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

/// What waits to be written, and who writes it.
pub(crate) struct Writer {
    client: Client,
    waiting: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

/// A recorder of what the kubelet of `node` tells, and the writer that has to be run for it.
pub(crate) fn recorder(client: Client, node: &str) -> (Recorder, Writer) {
    let (queue, waiting) = mpsc::channel(QUEUED);
    let dropped = Arc::new(AtomicU64::new(0));
    let journal = Mutex::new(Journal::new("kubelet", Some(node.to_owned())));
    (Recorder { journal, queue, dropped: Arc::clone(&dropped) }, Writer { client, waiting, dropped })
}

impl Recorder {
    /// Tells news of a pod.
    pub(crate) fn tell(&self, pod: &Identity, resource_version: Option<&str>, news: News, now: Timestamp) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            resource_version: resource_version.map(str::to_owned),
            field_path: news.part,
        };
        self.tell_of(about, news.severity, &news.reason, &news.message, now);
    }

    /// Tells news of the node itself.
    pub(crate) fn tell_of_node(&self, node: &str, severity: Severity, reason: &str, message: &str, now: Timestamp) {
        // A kubelet speaks of a node by its name alone.
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        self.tell_of(about, severity, reason, message, now);
    }

    fn tell_of(&self, about: ObjectReference, severity: Severity, reason: &str, message: &str, now: Timestamp) {
        // Held until the Event is in the queue: one that is counted up must not overtake its own creation.
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let event = journal.tell(about, severity, reason, message, now);
        if event.is_some_and(|event| self.queue.try_send(event).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes what is told until the recorder is gone.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.waiting.recv_many(&mut waiting, AT_ONCE).await > 0 {
            for events in apart(std::mem::take(&mut waiting)) {
                join_all(events.iter().map(|event| self.write(event))).await;
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "Events of pods were dropped: the API is too slow for them");
            }
        }
    }

    async fn write(&self, event: &Event) {
        if let Err(error) = put(&self.client, event).await {
            let reason = event.reason.as_deref().unwrap_or_default();
            tracing::debug!(error = %error.chain(), reason, "an Event of a pod could not be written");
        }
    }
}

/// Events in their order, cut so that none is written beside an earlier one of its name, which it counts up.
fn apart(events: Vec<Event>) -> Vec<Vec<Event>> {
    let (mut all, mut names) = (vec![Vec::new()], HashSet::new());
    for event in events {
        if !names.insert(event.metadata.name.clone()) {
            all.push(Vec::new());
            names = HashSet::from([event.metadata.name.clone()]);
        }
        all.last_mut().expect("there is one").push(event);
    }
    all
}

/// Counts an Event up that was told before; creates it where it is new, or no longer there.
async fn put(client: &Client, event: &Event) -> Result<(), Error> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/events"));
    let failed = |fault: String| Error::config(format!("failed to form the Event {name}: {fault}"));
    if let Some(patch) = count_up(event) {
        let patch = request.patch(name, &PatchParams::default(), &Patch::Strategic(patch));
        // As text, since nobody reads the answer.
        match client.request_text(patch.map_err(|fault| failed(fault.to_string()))?).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            answer => return answer.map(drop).map_err(Error::api("count up the Event", name)),
        }
    }
    let body = serde_json::to_vec(event).map_err(|fault| failed(fault.to_string()))?;
    let create = request.create(&PostParams::default(), body).map_err(|fault| failed(fault.to_string()))?;
    client.request_text(create).await.map(drop).map_err(Error::api("create the Event", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_never_written_beside_one_that_it_counts_up() {
        let named = |name: &str| {
            let mut event = Event::default();
            event.metadata.name = Some(name.to_owned());
            event
        };
        let cut = |names: &[&str]| -> Vec<usize> {
            let events = names.iter().map(|name| named(name)).collect();
            apart(events).iter().map(Vec::len).collect()
        };
        assert_eq!(cut(&["a", "b", "c"]), [3]);
        assert_eq!(cut(&["a", "b", "a", "c", "a"]), [2, 2, 1]);
    }
}
