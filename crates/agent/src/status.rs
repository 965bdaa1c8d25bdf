//! The one writer of a pod's API object: its status, and at the end its deletion.
//!
//! Invariants: of consecutive statuses only the newest is written; the object is released only after its last status
//! was written; a pod of the same name with another uid is never touched. What was written is known to those who must not let
//! go of something before the API has it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde_json::json;
use stint_core::pod::Attempt;
use stint_runtime::ContainerId;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::folder::Identity;

/// What the API is to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) status: Option<Arc<PodStatus>>,
    /// Whether the object is to be deleted once the status is written.
    pub(crate) release: bool,
}

/// How many times longer than others the status of a pod waits that is being started.
const STARTING: u32 = 5;
/// The delays between attempts while the API does not answer.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// What came of an attempt.
enum Answer {
    Done,
    /// The object is gone, or another one has its name.
    Gone,
    Again,
}

/// Writes what is wanted until the sender is gone and everything is written, or the object is gone; tells `known` what the API
/// has then.
///
/// A status that is not final is held back for `delay`, since the next one may follow at once; that a pod is being started
/// may wait for [`STARTING`] times as long, since nobody can do anything with it yet.
pub(crate) async fn write(
    client: Client,
    pod: Identity,
    mut wanted: watch::Receiver<Wanted>,
    known: watch::Sender<Arc<PodStatus>>,
    delay: Duration,
) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let mut written: Option<Arc<PodStatus>> = None;
    while wanted.changed().await.is_ok() {
        let is_final = |wanted: &Wanted| wanted.release || wanted.status.as_deref().is_some_and(is_terminal);
        let has_started = |wanted: &Wanted| wanted.release || !wanted.status.as_deref().is_some_and(is_pending);
        // An error means that the sender is gone: then the newest is written without delay.
        let _ = tokio::time::timeout(delay * STARTING, wanted.wait_for(has_started)).await;
        let _ = tokio::time::timeout(delay, wanted.wait_for(is_final)).await;
        let mut pause = FIRST_DELAY;
        loop {
            let newest = wanted.borrow_and_update().clone();
            let mut answer = Answer::Done;
            if let Some(status) = newest.status.filter(|status| written.as_ref() != Some(status)) {
                answer = write_status(&client, &pod, &status).await;
                if let Answer::Done = answer {
                    known.send_replace(Arc::clone(&status));
                    written = Some(status);
                }
            }
            if newest.release && matches!(answer, Answer::Done) {
                answer = release(&api, &pod).await;
            }
            match answer {
                Answer::Done => break,
                Answer::Gone => return,
                Answer::Again => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_DELAY);
                }
            }
        }
    }
}

fn is_pending(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Pending")
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Whether a status tells how a run of a container ended, or makes that no matter.
pub(crate) fn tells_end(status: &PodStatus, container: &str, attempt: Attempt, id: &ContainerId) -> bool {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let Some(own) = all.into_iter().find(|own| own.name == container) else { return is_terminal(status) };
    let states = [&own.state, &own.last_state].into_iter().flatten();
    let is_it = |state: &ContainerState| {
        let ended = state.terminated.as_ref().and_then(|ended| ended.container_id.as_deref());
        ended.and_then(|ended| ended.strip_prefix("stint://")) == Some(id.as_str())
    };
    let is_past = u32::try_from(own.restart_count).is_ok_and(|count| count > attempt.0);
    is_terminal(status) || is_past || states.into_iter().any(is_it)
}

/// Lists of the status have merge keys or are replaced as a whole, so what other writers set stays.
async fn write_status(client: &Client, pod: &Identity, status: &PodStatus) -> Answer {
    let patch = json!({ "metadata": { "uid": pod.uid }, "status": status });
    let pods = Request::new(Pod::url_path(&(), Some(&pod.namespace)));
    let request = pods.patch_subresource("status", &pod.name, &PatchParams::default(), &Patch::Strategic(&patch));
    // As text, since nobody reads the answer.
    let answer = match request {
        Ok(request) => client.request_text(request).await,
        Err(fault) => Err(kube::Error::BuildRequest(fault)),
    };
    match answer {
        Ok(_) => Answer::Done,
        Err(error) => judge(pod, "write the status of", &error),
    }
}

async fn release(api: &Api<Pod>, pod: &Identity) -> Answer {
    let preconditions = Some(Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() });
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    match api.delete(&pod.name, &params).await {
        Ok(_) => Answer::Done,
        Err(error) => judge(pod, "delete", &error),
    }
}

fn judge(pod: &Identity, attempt: &str, error: &kube::Error) -> Answer {
    let Identity { namespace, name, uid } = pod;
    if let kube::Error::Api(status) = error {
        if status.code == 404 || (status.code == 409 && status.message.contains("UID in")) {
            tracing::debug!(namespace, name, uid, "the pod is gone from the API");
            return Answer::Gone;
        }
        if status.code == 422 || status.code == 400 || status.code == 403 {
            tracing::error!(namespace, name, uid, %error, "the API refuses to {attempt} the pod; it is tried again");
            return Answer::Again;
        }
    }
    tracing::warn!(namespace, name, uid, %error, "failed to {attempt} the pod; it is tried again");
    Answer::Again
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_once_the_api_has_it_or_needs_it_no_more() {
        let id = ContainerId::new("u_c_1").unwrap();
        let ended = |id: &str| json!({ "terminated": { "exitCode": 0, "containerID": format!("stint://{id}") } });
        let running = json!({ "running": {} });
        for (phase, count, state, last, expected) in [
            ("Running", 1, &running, &ended("u_c_0"), false),
            ("Running", 1, &ended("u_c_1"), &json!({}), true),
            ("Running", 1, &ended("u_c_0"), &json!({}), false),
            ("Running", 1, &json!({ "waiting": {} }), &ended("u_c_1"), true),
            ("Running", 2, &running, &json!({}), true),
            ("Failed", 1, &running, &json!({}), true),
        ] {
            let own = json!({ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": count,
                "state": state, "lastState": last });
            let status = serde_json::from_value(json!({ "phase": phase, "containerStatuses": [own] })).unwrap();
            assert_eq!(tells_end(&status, "c", Attempt(1), &id), expected, "{status:?}");
            assert_eq!(tells_end(&status, "other", Attempt(1), &id), phase == "Failed");
        }
    }
}
