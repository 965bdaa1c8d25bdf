//! The example that everybody starts with, for a year, in three zones: through the real router, store and controllers,
//! under a virtual clock.
//!
//! The clock steps over the hours in which nothing is due anywhere, as on a machine that sleeps: controllers look at it once
//! a minute, and a year has many.
//!
//! Left out: a node. Pods that are bound to one succeed within the day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stint_controllers::{Config, Housekeeping};
use stint_server::{Api, Clock};
use stint_sim::virtual_time::{CountingIds, send};
use stint_store::Store;
use tokio::time::Instant;

struct VirtualClock {
    begin: Timestamp,
    started: Instant,
    /// Seconds that it has stepped over.
    stepped: AtomicI64,
}

impl VirtualClock {
    /// Lets time pass asleep until 90 s before `until`, and then runs on.
    async fn run_to(&self, until: Timestamp) {
        let asleep = until.duration_since(self.now()) - SignedDuration::from_secs(90);
        self.stepped.fetch_add(asleep.as_secs().max(0), Ordering::Relaxed);
        tokio::time::sleep(Duration::try_from(until.duration_since(self.now())).unwrap_or_default()).await;
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).expect("a test is short");
        self.begin + elapsed + SignedDuration::from_secs(self.stepped.load(Ordering::Relaxed))
    }
}

/// The manifest that everybody starts with.
const NIGHTLY: &str = r#"
apiVersion: batch/v1
kind: CronJob
metadata:
  name: nightly-backup
spec:
  schedule: "0 3 * * *" # Run at 3:00 AM every day
  jobTemplate:
    spec:
      template:
        spec:
          containers:
          - name: backup
            image: my-backup-tool:latest
            args: ["/bin/sh", "-c", "backup.sh"]
          restartPolicy: OnFailure
"#;

/// The zones, each with when three o'clock is on the days on which its clocks change.
const ZONES: [(&str, &str, [&str; 2], &[&str]); 3] = [
    // 02:00 to 03:00 is skipped, and there is a three o'clock; in autumn 02:00 to 03:00 is repeated.
    (
        "berlin",
        "Europe/Berlin",
        ["2026-03-29", "2026-10-25"],
        &["2026-03-29T03:00:00+02:00", "2026-10-25T03:00:00+01:00"],
    ),
    (
        "new-york",
        "America/New_York",
        ["2026-03-08", "2026-11-01"],
        &["2026-03-08T03:00:00-04:00", "2026-11-01T03:00:00-05:00"],
    ),
    // 03:00 to 04:00 is skipped, and three o'clock with it; in autumn there are two.
    (
        "helsinki",
        "Europe/Helsinki",
        ["2026-03-29", "2026-10-25"],
        &["2026-10-25T03:00:00+03:00", "2026-10-25T03:00:00+02:00"],
    ),
];

/// A Job as its annotation says what it is for, and by how much it was late.
type Fired = (String, SignedDuration);

/// A year of the nightly backup in every zone. Everything runs: also the Job controller, and a node that lets each pod
/// succeed.
async fn a_year() -> BTreeMap<String, Vec<Fired>> {
    let begin: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let clock = Arc::new(VirtualClock { begin, started: Instant::now(), stepped: AtomicI64::new(0) });
    let router = stint_server::router(Api::new(Store::in_memory(), clock.clone(), Arc::new(CountingIds::default())));
    let config =
        Config { node: Some("here".to_owned()), housekeeping: Some(Housekeeping::default()), ..Config::default() };
    let client = kube::Client::new(router.clone(), "default");
    let controllers = tokio::spawn(stint_controllers::run(client, clock.clone(), config));
    let json = stint_core::manifest::to_json(NIGHTLY, &stint_core::manifest::Limits::default());
    let mut manifest: Value = serde_json::from_slice(&json.expect("the example is YAML")).expect("and JSON");
    for (namespace, zone, ..) in ZONES {
        manifest["spec"]["timeZone"] = json!(zone);
        send(&router, "POST", "/api/v1/namespaces", &json!({ "metadata": { "name": namespace } })).await;
        send(&router, "POST", &format!("/apis/batch/v1/namespaces/{namespace}/cronjobs"), &manifest).await;
    }
    let mut fired: BTreeMap<String, Vec<Fired>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    // It is three o'clock in one of them at some of these hours of UTC.
    for hour in (0..365 * 24).filter(|hour| [0, 1, 2, 7, 8].contains(&(hour % 24))) {
        clock.run_to(begin + SignedDuration::from_hours(hour) + SignedDuration::from_secs(30)).await;
        if hour % 24 != 8 {
            continue; // what was started today is still there
        }
        let jobs = send(&router, "GET", "/apis/batch/v1/jobs", &Value::Null).await;
        let jobs = jobs["items"].as_array().expect("a list");
        assert!(jobs.len() <= 5 * ZONES.len(), "three are kept, and those of today");
        for job in jobs.iter().filter(|job| seen.insert(job["metadata"]["uid"].to_string())) {
            let meta = &job["metadata"];
            let time = meta["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str();
            let time = time.expect("a Job of a CronJob has its time");
            let created: Timestamp =
                meta["creationTimestamp"].as_str().and_then(|text| text.parse().ok()).expect("a time");
            let late = created.duration_since(time.parse().expect("a time"));
            let namespace = meta["namespace"].as_str().expect("a namespace").to_owned();
            fired.entry(namespace).or_default().push((time.to_owned(), late));
        }
        let pods = send(&router, "GET", "/api/v1/pods?fieldSelector=status.phase%3DPending", &Value::Null).await;
        for pod in pods["items"].as_array().expect("a list") {
            let meta = &pod["metadata"];
            let (namespace, name) = (meta["namespace"].as_str().expect("a namespace"), meta["name"].as_str());
            let path = format!("/api/v1/namespaces/{namespace}/pods/{}/status", name.expect("a name"));
            send(&router, "PATCH", &path, &json!({ "status": { "phase": "Succeeded" } })).await;
        }
    }
    assert!(!controllers.is_finished(), "controllers go on for ever");
    controllers.abort();
    fired
}

#[test]
fn the_nightly_backup_fires_at_three_o_clock_on_every_day_of_a_year_in_three_zones() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let all = runtime.expect("a runtime without I/O needs nothing").block_on(a_year());
    for (namespace, zone, changes, expected) in ZONES {
        let mut fired = all[namespace].clone();
        fired.sort();
        let at_changes: BTreeSet<&str> = fired
            .iter()
            .map(|(time, _)| time.as_str())
            .filter(|time| changes.iter().any(|day| time.starts_with(day)))
            .collect();
        assert_eq!(at_changes, expected.iter().copied().collect(), "{zone}");
        assert_eq!(fired.len(), 365, "once a day in {zone}, and as often as it is three o'clock where clocks change");
        let days: BTreeSet<&str> = fired.iter().map(|(time, _)| &time[..10]).collect();
        assert_eq!(days.len(), 363 + expected.iter().map(|time| &time[..10]).collect::<BTreeSet<_>>().len(), "{zone}");
        for (time, late) in &fired {
            assert!(time[10..].starts_with("T03:00:00"), "{time} in {zone}");
            assert!(*late < SignedDuration::from_secs(1), "{time} in {zone} was {late} late");
        }
    }
}
