//! A place where our controllers play: the real router over a store in memory, under a virtual clock, and a record of
//! what the watches show.
//!
//! The outside is played by hand. Its times are those of the recording, later by as much as it had to wait for pods that
//! our controllers created later than those that they are compared with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stint_controllers::{Config, Housekeeping, Metrics};
use stint_server::{Admission, Api};
use stint_sim::virtual_time::{CountingIds, VirtualClock, send};
use stint_store::Store;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tower::ServiceExt;

use crate::trace::{Act, Deed, Entry, Place, Target, places, revision};

/// How long upstream lets events gather.
const GATHER: SignedDuration = SignedDuration::from_secs(1);
/// The longest that the outside waits for our controllers.
const PATIENCE: Duration = Duration::from_mins(1);
type Record = Arc<Mutex<Vec<Entry>>>;

/// The place.
pub struct Stage {
    router: axum::Router,
    started: Instant,
    record: Record,
    tasks: Vec<JoinHandle<()>>,
    /// By how much the outside is late.
    delay: Duration,
    /// Where everything happens.
    namespace: String,
}

impl Stage {
    /// Opens the place at the wall time `begin`, where events gather as long as upstream. Call it inside a tokio runtime
    /// whose time is paused.
    pub fn open(begin: Timestamp, metrics: Metrics) -> Stage {
        Stage::open_with(begin, Admission::Bare, Config { gather: GATHER, metrics, ..Config::default() })
    }

    /// Opens the place for controllers of `config` before an API that admits as `admission` says.
    pub fn open_with(begin: Timestamp, admission: Admission, config: Config) -> Stage {
        let started = Instant::now();
        let clock = Arc::new(VirtualClock { begin, started });
        let api = Api::new(Store::in_memory(), clock.clone(), Arc::new(CountingIds::default()));
        let router = stint_server::router(Api { admission, ..api });
        let record = Record::default();
        let kinds = [("job", "/apis/batch/v1/jobs"), ("pod", "/api/v1/pods"), ("event", "/api/v1/events")];
        let watches =
            kinds.map(|(kind, path)| tokio::spawn(watch(router.clone(), kind, path, record.clone(), started)));
        let config = Config { housekeeping: Some(Housekeeping::default()), ..config };
        let client = kube::Client::new(router.clone(), "default");
        let controllers = tokio::spawn(stint_controllers::run(client, clock, config));
        let tasks = watches.into_iter().chain([controllers]).collect();
        Stage { router, started, record, tasks, delay: Duration::ZERO, namespace: "default".to_owned() }
    }

    /// Does what was done from outside, when its time has come and the pods are there that were there.
    pub async fn perform(&mut self, deed: Deed) {
        self.wait_until(deed.at).await;
        let begin = Instant::now();
        while places(&lock(&self.record)).len() < deed.after_pods && begin.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10)).await;
        }
        self.delay += begin.elapsed();
        match deed.act {
            Act::Create(resource, manifest) => {
                let namespace = manifest["metadata"]["namespace"].as_str().expect("Jobs and pods have a namespace");
                if self.namespace != namespace {
                    namespace.clone_into(&mut self.namespace);
                    let object = json!({ "metadata": { "name": namespace } });
                    self.send("POST", "/api/v1/namespaces", &object).await;
                }
                self.send("POST", &collection(resource, &self.namespace), &manifest).await;
            }
            Act::Patch(target, patch) => {
                self.send("PATCH", &self.path(&target), &patch).await;
            }
            Act::Tell(target, status) => {
                let patch = json!({ "status": self.later(&status) });
                self.send("PATCH", &format!("{}/status", self.path(&target)), &patch).await;
            }
            Act::Delete(target, options) => {
                self.send("DELETE", &self.path(&target), &options).await;
            }
        }
    }

    /// Waits until the recording's moment `at` has come here.
    pub async fn wait_until(&self, at: Duration) {
        sleep_until(self.started + at + self.delay).await;
    }

    /// What the watches have shown.
    pub fn close(self) -> Vec<Entry> {
        for task in self.tasks {
            assert!(!task.is_finished(), "controllers and watches go on for ever");
            task.abort();
        }
        let mut entries = std::mem::take(&mut *lock(&self.record));
        entries.sort_by_key(|entry| revision(&entry.object));
        entries
    }

    /// The path of what was meant.
    fn path(&self, target: &Target) -> String {
        let (resource, name) = match target {
            Target::Named(resource, name) => (*resource, name.clone()),
            Target::Pod(place) => {
                ("pods", self.pod_at(place).unwrap_or_else(|| panic!("there is no pod at {place:?}")))
            }
        };
        format!("{}/{name}", collection(resource, &self.namespace))
    }

    /// Our pod at a place, if it was created already.
    fn pod_at(&self, place: &Place) -> Option<String> {
        places(&lock(&self.record)).into_iter().find(|(_, at)| at == place).map(|(name, _)| name)
    }

    /// The status with its times, which are those of the recording, as late as everything is.
    fn later(&self, value: &Value) -> Value {
        match value {
            Value::Object(members) => members.iter().map(|(key, member)| (key.clone(), self.later(member))).collect(),
            Value::Array(items) => items.iter().map(|item| self.later(item)).collect(),
            Value::String(text) => match text.parse::<Timestamp>() {
                Ok(time) => json!((time + self.delay).to_string()),
                Err(_) => value.clone(),
            },
            other => other.clone(),
        }
    }

    /// Sends a request that has to succeed.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        send(&self.router, method, path, body).await
    }
}

fn collection(resource: &str, namespace: &str) -> String {
    let group = if resource == "jobs" { "/apis/batch/v1" } else { "/api/v1" };
    format!("{group}/namespaces/{namespace}/{resource}")
}

/// Writes down what one watch shows, for ever.
async fn watch(router: axum::Router, kind: &'static str, path: &'static str, record: Record, started: Instant) {
    let request = Request::get(format!("{path}?watch=1&timeoutSeconds=86400")).body(Body::empty());
    let answer = router.oneshot(request.expect("the request is well-formed")).await.expect("the router always answers");
    let (mut frames, mut text) = (answer.into_body().into_data_stream(), String::new());
    while let Some(frame) = frames.next().await {
        text.push_str(str::from_utf8(&frame.expect("the watch goes on")).expect("JSON is UTF-8"));
        while let Some(end) = text.find('\n') {
            let event: Value = serde_json::from_str(&text[..end]).expect("a watch event is JSON");
            text.drain(..=end);
            let change = event["type"].as_str().expect("a watch event has a type").to_owned();
            let entry = Entry { at: started.elapsed(), kind: kind.to_owned(), change, object: event["object"].clone() };
            lock(&record).push(entry);
        }
    }
}

fn lock(record: &Record) -> MutexGuard<'_, Vec<Entry>> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
