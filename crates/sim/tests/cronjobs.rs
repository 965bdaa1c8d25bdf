//! CronJobs through the real router, store and controllers under a virtual clock: a recorded run of a 1.36.2 controller
//! manager, replayed.
//!
//! What came from outside the CronJob controller (CronJobs, the states of Jobs, a Job that a user deleted) is
//! done again at the recorded times; what came of it has to be the same: Jobs, statuses and Events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stint_controllers::Config;
use stint_server::Api;
use stint_sim::virtual_time::{CountingIds, VirtualClock, send};
use stint_store::Store;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt;

/// A state of ours that lasts no longer is followed by the controller's own next write.
const MOMENT: Duration = Duration::from_millis(50);

/// Something that a watch showed.
#[derive(Clone, Debug)]
struct Entry {
    at: Duration,
    kind: String,
    change: String,
    object: Value,
}

impl Entry {
    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The CronJob that it is about.
    fn cron_job(&self) -> Option<&str> {
        match self.kind.as_str() {
            "cronjob" => Some(self.name()),
            "job" => self.object["metadata"]["ownerReferences"][0]["name"].as_str(),
            _ if self.object["involvedObject"]["kind"] == "CronJob" => self.object["involvedObject"]["name"].as_str(),
            _ => None,
        }
    }
}

fn recording() -> Option<Vec<Entry>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/golden/traces/cronjob.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: no recorded run at {path}");
        return None;
    };
    let all: Vec<Value> = serde_json::from_str(&text).expect("a recording is JSON");
    let text = |value: &Value| value.as_str().expect("a recording is well-formed").to_owned();
    Some(
        all.into_iter()
            .map(|mut entry| Entry {
                at: Duration::from_secs_f64(entry["t"].as_f64().expect("a recording has times")),
                kind: text(&entry["kind"]),
                change: text(&entry["event"]["type"]),
                object: entry["event"]["object"].take(),
            })
            .collect(),
    )
}

/// Writes down what one watch shows, for ever.
async fn watch(
    router: Router,
    kind: &'static str,
    path: &'static str,
    record: Arc<Mutex<Vec<Entry>>>,
    started: Instant,
) {
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
            record.lock().expect("nobody panics with it").push(entry);
        }
    }
}

/// Does what came from outside in `recorded`, and returns what our controllers made of it.
async fn replay(recorded: &[Entry]) -> Vec<Entry> {
    // The first CronJob was created at the end of its second: what came 20 ms later is of the next one.
    let first: Timestamp =
        recorded[0].object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse().ok()).expect("a time");
    let begin = first + SignedDuration::from_millis(985);
    let started = Instant::now();
    let clock = Arc::new(VirtualClock { begin, started });
    let router = stint_server::router(Api::new(Store::in_memory(), clock.clone(), Arc::new(CountingIds::default())));
    let namespace = recorded[0].object["metadata"]["namespace"].as_str().expect("a namespace");
    let base = format!("/apis/batch/v1/namespaces/{namespace}");
    send(&router, "POST", "/api/v1/namespaces", &json!({ "metadata": { "name": namespace } })).await;
    let record = Arc::default();
    let kinds = [("cronjob", "/apis/batch/v1/cronjobs"), ("job", "/apis/batch/v1/jobs"), ("event", "/api/v1/events")];
    let mut tasks: Vec<_> = kinds
        .into_iter()
        .map(|(kind, path)| tokio::spawn(watch(router.clone(), kind, path, Arc::clone(&record), started)))
        .collect();
    let config = Config { jobs: false, ..Config::default() };
    tasks.push(tokio::spawn(stint_controllers::run(kube::Client::new(router.clone(), "default"), clock, config)));
    let deleted_by_controller = told(recorded, "SuccessfulDelete");
    for entry in recorded {
        sleep_until(started + entry.at).await;
        match (entry.kind.as_str(), entry.change.as_str()) {
            ("cronjob", "ADDED") => {
                let meta = json!({ "name": entry.name() });
                let object = json!({ "metadata": meta, "spec": entry.object["spec"] });
                send(&router, "POST", &format!("{base}/cronjobs"), &object).await;
            }
            ("job", "MODIFIED") if entry.object["status"].is_object() => {
                let mut patch = json!({ "status": { "active": null } });
                patch["status"]
                    .as_object_mut()
                    .expect("an object")
                    .extend(entry.object["status"].as_object().cloned().unwrap_or_default());
                if patch["status"]["uncountedTerminatedPods"] == json!({}) {
                    patch["status"]["uncountedTerminatedPods"] = json!({ "succeeded": null, "failed": null });
                }
                send(&router, "PATCH", &format!("{base}/jobs/{}/status", entry.name()), &patch).await;
            }
            ("job", "DELETED") if !deleted_by_controller.contains(&format!("Deleted job {}", entry.name())) => {
                let options = json!({ "propagationPolicy": "Background" });
                send(&router, "DELETE", &format!("{base}/jobs/{}", entry.name()), &options).await;
            }
            _ => {}
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for task in tasks {
        assert!(!task.is_finished(), "controllers and watches go on for ever");
        task.abort();
    }
    std::mem::take(&mut *record.lock().expect("nobody panics with it"))
}

fn told(entries: &[Entry], reason: &str) -> Vec<String> {
    let events = entries.iter().filter(|entry| entry.kind == "event" && entry.object["reason"] == reason);
    events.map(|event| event.object["message"].as_str().unwrap_or_default().to_owned()).collect()
}

/// What matters of a run, by CronJob.
type Story = BTreeMap<String, Vec<String>>;

/// The Jobs that were created and deleted, in order.
fn jobs(entries: &[Entry]) -> Story {
    let mut story = Story::new();
    for entry in entries.iter().filter(|entry| entry.kind == "job" && entry.change != "MODIFIED") {
        let (meta, cron_job) = (&entry.object["metadata"], entry.cron_job().expect("a Job of a CronJob"));
        let mut owner = meta["ownerReferences"][0].clone();
        owner["uid"] = Value::Null;
        let backoff = &entry.object["spec"]["backoffLimit"];
        let line = match entry.change.as_str() {
            "ADDED" => {
                let label = &meta["labels"]["l"];
                format!("+ {} {} {label} {owner} {backoff}", entry.name(), meta["annotations"])
            }
            _ => format!("- {}", entry.name()),
        };
        story.entry(cron_job.to_owned()).or_default().push(line);
    }
    story
}

/// The states of each CronJob, but for those that last for a moment only.
fn states(entries: &[Entry]) -> Story {
    let mut story = Story::new();
    let of_kind: Vec<&Entry> = entries.iter().filter(|entry| entry.kind == "cronjob").collect();
    for (number, entry) in of_kind.iter().enumerate() {
        let next = of_kind[number + 1..].iter().find(|later| later.name() == entry.name());
        if next.is_some_and(|next| next.at.saturating_sub(entry.at) < MOMENT) {
            continue;
        }
        let mut status = entry.object["status"].clone();
        for active in status["active"].as_array_mut().into_iter().flatten() {
            (active["uid"], active["resourceVersion"]) = (Value::Null, Value::Null);
        }
        let states = story.entry(entry.name().to_owned()).or_default();
        let text = status.to_string();
        if states.last() != Some(&text) {
            states.push(text);
        }
    }
    story
}

/// The Events about each CronJob. A Job that the controller itself deleted may be told to be missing, where its cache was
/// behind.
fn events(entries: &[Entry]) -> Story {
    let deleted = told(entries, "SuccessfulDelete");
    let mut story = Story::new();
    for entry in entries.iter().filter(|entry| entry.kind == "event") {
        let (Some(cron_job), object) = (entry.cron_job(), &entry.object) else { continue };
        let message = object["message"].as_str().unwrap_or_default();
        let missing = message.strip_prefix("Active job went missing: ");
        if missing.is_some_and(|job| deleted.contains(&format!("Deleted job {job}"))) {
            continue;
        }
        let line = format!("{} {} {message} {}", object["type"], object["reason"], object["count"]);
        story.entry(cron_job.to_owned()).or_default().push(line);
    }
    story
}

#[test]
fn the_recorded_run_of_cron_jobs_replays_equal() {
    let Some(recorded) = recording() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let ours = runtime.expect("a runtime without I/O needs nothing").block_on(replay(&recorded));
    assert!(jobs(&recorded).values().flatten().count() > 15, "the recording holds something");
    for (what, of) in [("jobs", jobs as fn(&[Entry]) -> Story), ("states", states), ("events", events)] {
        let (theirs, ours) = (of(&recorded), of(&ours));
        for cron_job in theirs.keys().chain(ours.keys()) {
            assert_eq!(ours.get(cron_job), theirs.get(cron_job), "{what} of {cron_job}: ours left, recorded right");
        }
    }
}

/// Jobs that were created, with their CronJobs' last times, when a user deletes every Job as soon as a watch shows it.
async fn deleted_at_once(count: usize) -> (usize, usize) {
    let begin: Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
    let clock = Arc::new(VirtualClock { begin, started: Instant::now() });
    let router = stint_server::router(Api::new(Store::in_memory(), clock.clone(), Arc::new(CountingIds::default())));
    let path = "/apis/batch/v1/namespaces/default/cronjobs";
    for number in 0..count {
        let template = json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }] } });
        let spec = json!({ "schedule": "* * * * *", "jobTemplate": { "spec": { "template": template } } });
        let meta = json!({ "name": format!("c{number}") });
        send(&router, "POST", path, &json!({ "metadata": meta, "spec": spec })).await;
    }
    let record: Arc<Mutex<Vec<Entry>>> = Arc::default();
    let (seen, of_router) = (Arc::clone(&record), router.clone());
    let user = async move {
        let mut done = 0;
        loop {
            let jobs: Vec<String> = seen
                .lock()
                .expect("nobody panics with it")
                .iter()
                .skip(done)
                .map(|entry| if entry.change == "ADDED" { entry.name().to_owned() } else { String::new() })
                .collect();
            done += jobs.len();
            for job in jobs.iter().filter(|job| !job.is_empty()) {
                let path = format!("/apis/batch/v1/namespaces/default/jobs/{job}");
                send(&of_router, "DELETE", &path, &json!({ "propagationPolicy": "Background" })).await;
            }
            tokio::task::yield_now().await;
            if jobs.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let config = Config { jobs: false, ..Config::default() };
    let client = kube::Client::new(router.clone(), "default");
    let tasks = [
        tokio::spawn(watch(router.clone(), "job", "/apis/batch/v1/jobs", Arc::clone(&record), Instant::now())),
        tokio::spawn(user),
        tokio::spawn(stint_controllers::run(client, clock, config)),
    ];
    tokio::time::sleep(Duration::from_secs(100)).await; // one full minute is within
    for task in tasks {
        assert!(!task.is_finished(), "controllers, watches and users go on for ever");
        task.abort();
    }
    let cron_jobs = send(&router, "GET", path, &Value::Null).await;
    let is_recorded = |one: &&Value| one["status"]["lastScheduleTime"] == "2026-01-01T00:01:00Z";
    let recorded = cron_jobs["items"].as_array().expect("a list").iter().filter(is_recorded).count();
    let created = record.lock().expect("nobody panics with it").iter().filter(|entry| entry.change == "ADDED").count();
    (created, recorded)
}

/// Of a crowd that was due at once, Jobs that had gone before their creation was recorded were created again.
#[test]
fn a_job_that_is_gone_as_soon_as_it_is_there_is_not_started_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let told = runtime.expect("a runtime without I/O needs nothing").block_on(deleted_at_once(200));
    assert_eq!(told, (200, 200));
}
