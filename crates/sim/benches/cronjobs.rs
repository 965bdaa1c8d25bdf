//! CronJobs by the hundred thousand: the real controllers before the real server and a durable store, and a node that runs
//! nothing.
//!
//! `cargo bench -p stint-sim --bench cronjobs [-- SCALE]` prints what they cost while none is due; how late the Jobs of a
//! thousand are that are due at once, and how many CronJobs were looked at for it; and how late a few are on an idle
//! machine. A Job is there when a watch shows it: it is durable then. With a scale (a divisor of the numbers), a quick look.
//!
//! Left out: containers, and other processes (`crates/stint/benches/serve.rs` has the daemon's own figures).

mod pieces;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Client, ResourceExt};
use pieces::{NODE, add_node, cpu, run_pods, server_over};
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use stint_controllers::{Clock, Config, Housekeeping, Metrics, ToldBindings};
use stint_core::cronjob::SCHEDULED_TIMESTAMP;
use stint_server::Admission;
use stint_server::encoding::Encoded;
use stint_server::kinds::Kind;
use stint_sim::virtual_time::VirtualClock;
use stint_store::{Change, Disk, Entry, Revision, SqliteDisk};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

/// CronJobs that are stored.
const STORED: usize = 100_000;
/// How many of them are due in the same second.
const DUE: usize = 1_000;
/// CronJobs in one namespace.
const TEAM: usize = 500;
/// CronJobs on the idle machine, each of which fires once.
const FEW: usize = 100;
/// When the thousand are due: what the clock shows does not have to be so.
const NOON: &str = "2026-11-30T12:00:00Z";
/// How long before, the clock starts: controllers have to look at everything, and then to be seen idle.
const BEFORE: SignedDuration = SignedDuration::from_secs(75);
/// An hour without a fire but at noon.
const OTHERS: [&str; 6] =
    ["MINUTE 3 * * *", "*/15 0-10 * * *", "MINUTE 6 * * mon-fri", "MINUTE 1 1 * *", "0 0 1 1,7 *", "@every 24h"];

fn main() {
    // Cargo passes `--bench`.
    let scale: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the runtime starts");
    runtime.block_on(many(STORED / scale, DUE / scale));
    runtime.block_on(few());
}

/// Many that are stored, and some of them due at once.
async fn many(stored: usize, due: usize) {
    let noon: Timestamp = NOON.parse().expect("a time");
    let begin = noon - BEFORE;
    let every = stored / due;
    let cron_jobs = (0..stored).map(|number| match number % every {
        0 => cron_job(number, "0 12 30 11 *", begin),
        other => cron_job(number, &OTHERS[other % OTHERS.len()].replace("MINUTE", &(number % 60).to_string()), begin),
    });
    let world = World::start(cron_jobs, begin).await;
    let start = world.meter();
    world.until_quiet(|| world.reconciled() >= stored).await;
    let used = world.since(&start);
    println!("{stored} CronJobs: looked at all within {:.1} s of the start, {:.1} s of CPU", used.wall, used.cpu);

    let start = world.meter();
    let left = (noon - SignedDuration::from_secs(1)).duration_since(world.clock.now());
    sleep(Duration::try_from(left).unwrap_or_default()).await;
    let idle = world.since(&start);
    assert!(idle.wall > 20.0, "the machine is too slow to be seen idle: {:.0} s are left before noon", idle.wall);
    let share = idle.cpu / idle.wall * 100.0;
    println!("idle: {share:.2} % of a core over {:.0} s, {} reconciled", idle.wall, idle.reconciled);

    let start = world.meter();
    world.until_quiet(|| world.late().0.len() >= due).await;
    let used = world.since(&start);
    assert_eq!(world.late().0.len(), due, "there is one Job for each");
    println!("{due} due in one second: Jobs are there {}", world.late());
    println!("until all of them are Complete: {} reconciled, {:.1} s of CPU", used.reconciled, used.cpu);
    world.end();
}

/// A few that are due one after the other, on an idle machine.
async fn few() {
    let begin = Timestamp::from_second(Timestamp::now().as_second()).expect("it is now");
    let apart = SignedDuration::from_millis(600);
    let cron_jobs = (0..FEW).map(|number| {
        let ahead = SignedDuration::from_secs(5) + apart * i32::try_from(number).expect("they are few");
        cron_job(number, "@every 1h", begin + ahead - SignedDuration::from_hours(1))
    });
    let world = World::start(cron_jobs, begin).await;
    let start = world.meter();
    world.until_quiet(|| world.late().0.len() >= FEW).await;
    let used = world.since(&start);
    println!("{FEW} due within {:.0} s on an idle machine: Jobs are there {}", used.wall, world.late());
    world.end();
}

/// Server, store, controllers and node, at work, and somebody who watches Jobs.
struct World {
    clock: Arc<VirtualClock>,
    metrics: Registry,
    late: Arc<Mutex<Vec<SignedDuration>>>,
    tasks: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

impl World {
    async fn start(cron_jobs: impl Iterator<Item = CronJob>, begin: Timestamp) -> World {
        let folder = tempfile::tempdir().expect("there is a folder for the store");
        fill(folder.path(), cron_jobs);
        let clock = Arc::new(VirtualClock { begin, started: Instant::now() });
        let mut server = server_over(folder.path(), clock.clone());
        server.admission = Admission::Cluster;
        let router = stint_server::router(server);
        let client = Client::new(router.clone(), "default");
        add_node(&client, 10_000).await;
        let counted = Metrics::default();
        let mut metrics = Registry::default();
        metrics.register_collector(Box::new(counted.clone()));
        // As `stint serve` has it.
        let config = Config {
            node: Some(NODE.to_owned()),
            told_bindings: ToldBindings::All,
            workers: 16,
            housekeeping: Some(Housekeeping { root_ca: Some("none".to_owned()) }),
            metrics: counted,
            ..Config::default()
        };
        let late = Arc::default();
        let tasks = vec![
            tokio::spawn(watch(router, clock.clone(), Arc::clone(&late))),
            tokio::spawn(run_pods(client.clone())),
            tokio::spawn(stint_controllers::run(client, clock.clone(), config)),
        ];
        World { clock, metrics, late, tasks, _folder: folder }
    }

    fn end(self) {
        for task in self.tasks {
            assert!(!task.is_finished(), "controllers and watches go on for ever");
            task.abort();
        }
    }

    /// How often a CronJob was looked at.
    fn reconciled(&self) -> usize {
        self.worked_on("cronjob")
    }

    fn worked_on(&self, queue: &str) -> usize {
        let mut text = String::new();
        encode(&mut text, &self.metrics).expect("a String takes everything");
        let name = format!("workqueue_work_duration_seconds_count{{name=\"{queue}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&name));
        count.and_then(|count| count.parse().ok()).expect("each queue tells how often it was worked on")
    }

    /// Waits until this holds, and then until nobody has worked on anything for two seconds.
    async fn until_quiet(&self, holds: impl Fn() -> bool) {
        let worked = || self.worked_on("cronjob") + self.worked_on("job");
        while !holds() {
            sleep(Duration::from_millis(50)).await;
        }
        let mut before = 0;
        while worked() > before {
            before = worked();
            sleep(Duration::from_secs(2)).await;
        }
    }

    fn late(&self) -> Late {
        let mut late = self.late.lock().expect("nobody panics with it").clone();
        late.sort_unstable();
        Late(late)
    }

    fn meter(&self) -> Meter {
        Meter { at: Instant::now(), cpu: cpu(), reconciled: self.reconciled() }
    }

    fn since(&self, start: &Meter) -> Used {
        Used {
            wall: start.at.elapsed().as_secs_f64(),
            cpu: cpu().saturating_sub(start.cpu).as_secs_f64(),
            reconciled: self.reconciled() - start.reconciled,
        }
    }
}

/// What had happened at a moment.
struct Meter {
    at: Instant,
    cpu: Duration,
    reconciled: usize,
}

/// What has happened since; times in seconds.
struct Used {
    wall: f64,
    cpu: f64,
    reconciled: usize,
}

/// By how much each Job was late, in order.
struct Late(Vec<SignedDuration>);

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |percent: usize| self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)].as_millis();
        write!(f, "after {} ms (p50), {} ms (p99), {} ms (all)", at(50), at(99), at(100))
    }
}

/// Notes when each Job is seen for the first time, for ever.
async fn watch(router: Router, clock: Arc<VirtualClock>, late: Arc<Mutex<Vec<SignedDuration>>>) {
    let request = Request::get("/apis/batch/v1/jobs?watch=1&timeoutSeconds=86400").body(Body::empty());
    let answer = router.oneshot(request.expect("the request is well-formed")).await.expect("the router always answers");
    let (mut frames, mut text) = (answer.into_body().into_data_stream(), Vec::new());
    let mark = format!("\"{SCHEDULED_TIMESTAMP}\":\"");
    while let Some(frame) = frames.next().await {
        let now = clock.now();
        text.extend_from_slice(&frame.expect("the watch goes on"));
        let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines = String::from_utf8(text.drain(..=end).collect()).expect("JSON is UTF-8");
        for line in lines.lines().filter(|line| line.starts_with(r#"{"type":"ADDED""#)) {
            let time = line.split_once(&mark).and_then(|(_, rest)| rest.split_once('"')?.0.parse::<Timestamp>().ok());
            let time = time.expect("each Job is for a time");
            late.lock().expect("nobody panics with it").push(now.duration_since(time));
        }
    }
}

/// A CronJob as the API stores it.
fn cron_job(number: usize, schedule: &str, created: Timestamp) -> CronJob {
    let container = json!({
        "name": "report", "image": "example.test/tools/report:1.4.2", "command": ["/bin/report", "--daily"],
        "env": [{ "name": "REGION", "value": "eu-west" }, { "name": "TEAM", "value": number.to_string() }],
        "resources": { "requests": { "cpu": "1m", "memory": "1Mi" } },
        "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    });
    let pod = json!({ "restartPolicy": "Never", "containers": [container], "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30 });
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("report-{number}"), "namespace": team(number), "uid": format!("cron-{number}"),
            "creationTimestamp": created, "generation": 1, "labels": { "team": team(number) },
        },
        "spec": {
            "schedule": schedule, "concurrencyPolicy": "Allow", "suspend": false,
            "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            "jobTemplate": { "spec": { "backoffLimit": 3, "template": { "spec": pod } } },
        },
        "status": {},
    }))
    .expect("it is a CronJob")
}

fn team(number: usize) -> String {
    format!("team-{:03}", number / TEAM)
}

/// Stores them in a new data folder, and the namespaces that they are in.
fn fill(folder: &Path, cron_jobs: impl Iterator<Item = CronJob>) {
    let mut disk = SqliteDisk::open(folder).expect("the disk opens");
    disk.load().expect("it is empty");
    let kind = |group, plural| Kind::at(group, "v1", plural).expect("it is served");
    let (namespaces, kind) = (kind("", "namespaces"), kind("batch", "cronjobs"));
    let (mut revision, mut batch) = (Revision(0), Vec::new());
    let mut put = |key: String, object: &Encoded, batch: &mut Vec<Change>| {
        revision = revision.next();
        batch.push(Change::Put(Entry { key: key.into(), revision, value: object.at(revision) }));
        revision
    };
    let mut known = String::new();
    for cron_job in cron_jobs {
        let (namespace, name) = (cron_job.namespace().expect("it has one"), cron_job.name_any());
        if namespace != known {
            let object = json!({ "metadata": { "name": namespace, "uid": namespace },
                "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" } });
            let object: Namespace = serde_json::from_value(object).expect("it is a Namespace");
            put(namespaces.key(None, &namespace), &Encoded::of(&object), &mut batch);
            known.clone_from(&namespace);
        }
        let last = put(kind.key(Some(&namespace), &name), &Encoded::of(&cron_job), &mut batch);
        if batch.len() >= 5_000 {
            disk.commit(&batch, last).expect("the disk works");
            batch.clear();
        }
    }
    disk.commit(&batch, revision).expect("the disk works");
}
