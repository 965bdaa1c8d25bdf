//! Events end an hour after they were last told; where an API server's store would forget them by itself, somebody has to
//! delete them here.
//!
//! Invariant: an Event that was counted up since it was looked at stays.
//! Upstream: kube-apiserver's `--event-ttl`, v1.36.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client};
use stint_core::clock::Clock;
use stint_core::events::is_over;

/// How often Events are looked through.
const EVERY: Duration = Duration::from_mins(10);
/// How many are looked at in one go.
const PAGE: u32 = 500;

/// Deletes what is over, until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>) {
    loop {
        if let Err(error) = pass(&client, &*clock).await {
            tracing::warn!(%error, "Events that are over could not be deleted; it is tried again");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn pass(client: &Client, clock: &dyn Clock) -> kube::Result<()> {
    let all: Api<Event> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let events = all.list(&page).await?;
        for event in events.items.iter().filter(|event| is_over(event, clock.now())) {
            delete(client, event).await?;
        }
        match events.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn delete(client: &Client, event: &Event) -> kube::Result<()> {
    let meta = &event.metadata;
    let api: Api<Event> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let seen = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
    match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        // Gone, or told again.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use jiff::{Timestamp, ToSpan};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// Two hours after the epoch.
    struct Later;

    impl Clock for Later {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH + 2.hours()
        }
    }

    /// An API with two pages of one Event each, and what it was asked to delete.
    fn api() -> (Client, Arc<Mutex<Vec<String>>>) {
        let deleted = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&deleted);
        let serve = move |request: Request<Body>| {
            let page = |name: &str, last: &str, next: &str| {
                let meta = json!({"namespace": "ns", "name": name, "uid": "u", "resourceVersion": "7"});
                let event = json!({"metadata": meta, "involvedObject": {}, "lastTimestamp": last});
                json!({"kind": "EventList", "apiVersion": "v1", "metadata": {"continue": next}, "items": [event]})
            };
            let uri = request.uri().to_string();
            let (code, answer) = match request.method() {
                &Method::DELETE => {
                    seen.lock().expect("no test panics here").push(uri);
                    (409, json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409}))
                }
                _ if uri.contains("continue=") => (200, page("old", "1970-01-01T01:00:00Z", "")),
                _ => (200, page("new", "1970-01-01T01:00:01Z", "more")),
            };
            let body = Body::from(answer.to_string().into_bytes());
            let answer = Response::builder().status(code).body(body).expect("the answer is well-formed");
            std::future::ready(Ok::<_, Infallible>(answer))
        };
        (Client::new(tower::service_fn(serve), "default"), deleted)
    }

    #[tokio::test]
    async fn what_is_an_hour_old_is_deleted_from_every_page() {
        let (client, deleted) = api();
        pass(&client, &Later).await.expect("one that was told again meanwhile is no failure");
        let deleted = deleted.lock().expect("no test panics here").clone();
        assert_eq!(deleted.len(), 1, "{deleted:?}");
        assert!(deleted[0].starts_with("/api/v1/namespaces/ns/events/old"), "{deleted:?}");
    }
}
