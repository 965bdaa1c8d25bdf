//! CronJobs of a daemon that is killed while they fire: the real program, SIGKILL, and one Job for each time.
//!
//! Schedules go by the minute; an interval counts from the last time that the status knows, which a test may write. So there
//! is something due whenever the test wants.

mod support;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::{Daemon, until};

const BATCH: &str = "/apis/batch/v1/namespaces/default";
/// CronJobs that are due in the same second.
const CROWD: usize = 40;
/// CronJobs that fire every minute, all the time.
const STEADY: usize = 20;
/// How often the daemon is killed in a fire, at least.
const ROUNDS: usize = 8;

/// Milliseconds, another number of them each time.
fn chance(below: u64) -> Duration {
    Duration::from_millis(RandomState::new().build_hasher().finish() % below)
}

fn create(daemon: &Daemon, name: &str, schedule: &str) {
    let template = json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "none" }] } });
    let spec = json!({ "schedule": schedule, "jobTemplate": { "spec": { "template": template } } });
    let cron_job = json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": name }, "spec": spec });
    daemon.create(&format!("{BATCH}/cronjobs"), &cron_job);
}

/// Lets a crowd be due at `at`, once; on a slow machine that may have passed.
fn create_crowd(daemon: &Daemon, round: usize, at: Timestamp) {
    for number in 0..CROWD {
        let name = format!("crowd-{round}-{number}");
        create(daemon, &name, "@every 1h");
        let path = format!("{BATCH}/cronjobs/{name}");
        let mut cron_job = daemon.get(&path);
        cron_job["status"] = json!({ "lastScheduleTime": at - SignedDuration::from_hours(1) });
        cron_job["metadata"]["resourceVersion"] = Value::Null;
        let (code, body) = daemon.ask("PUT", &format!("{path}/status"), &cron_job.to_string());
        assert_eq!(code, 200, "{body}");
    }
}

/// The next time at which a crowd can be due: a full minute, if one is near, so that the steady ones are due with it.
fn next_time() -> Timestamp {
    let now = Timestamp::now();
    let minute = Timestamp::from_second((now.as_second() / 60 + 1) * 60).unwrap();
    let soon = Timestamp::from_second(now.as_second() + 3).unwrap();
    if minute.duration_since(soon) < SignedDuration::from_secs(3) { minute } else { soon }
}

fn sleep_until(at: Timestamp) {
    sleep(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
}

fn items(daemon: &Daemon, path: &str) -> Vec<Value> {
    daemon.get(path)["items"].as_array().unwrap().clone()
}

/// Jobs by the name of the CronJob that controls them.
fn jobs_by_owner(daemon: &Daemon) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::new();
    for job in items(daemon, &format!("{BATCH}/jobs")) {
        let owner = job["metadata"]["ownerReferences"][0]["name"].as_str().unwrap().to_owned();
        all.entry(owner).or_insert_with(Vec::new).push(job);
    }
    all
}

/// For which time `job` was created.
fn time_of(job: &Value) -> Timestamp {
    let text = job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str();
    text.unwrap().parse().unwrap()
}

#[test]
fn every_time_has_one_job_however_often_the_daemon_is_killed_in_the_fire() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    for number in 0..STEADY {
        create(&daemon, &format!("steady-{number}"), "* * * * *");
    }
    let mut wanted = BTreeMap::new();
    let mut full_minutes = 0;
    for round in 0.. {
        if round >= ROUNDS && full_minutes > 0 {
            break;
        }
        let at = next_time();
        create_crowd(&daemon, round, at);
        wanted.extend((0..CROWD).map(|number| (format!("crowd-{round}-{number}"), at)));
        full_minutes += usize::from(at.as_second() % 60 == 0);
        sleep_until(at);
        let (first, second) = (chance(200), chance(100));
        sleep(first);
        daemon.kill();
        daemon.start_again(&["--no-agent"]);
        // What is missing is made up for at once: a fire again.
        sleep(second);
        daemon.kill();
        let all = daemon.start_again(&["--no-agent"]);
        eprintln!("round {round}: killed {first:?} after {at}, and {second:?} after it was ready again ({all:?})");
    }

    let cron_jobs = |daemon: &Daemon| items(daemon, &format!("{BATCH}/cronjobs"));
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let recorded = |cron_job: &Value| cron_job["status"]["lastScheduleTime"].as_str().unwrap_or_default().to_owned();
    until("every time of the crowds is recorded", || {
        let all = cron_jobs(&daemon);
        all.iter()
            .filter_map(|one| Some((one, wanted.get(&name(one))?)))
            .all(|(one, at)| recorded(one) == at.to_string())
    });
    let minute = || Timestamp::from_second(Timestamp::now().as_second() / 60 * 60).unwrap();
    let mut seen = None;
    until("the last minute is recorded", || {
        let last = minute();
        let is_done = |one: &Value| !name(one).starts_with("steady") || recorded(one) == last.to_string();
        if !cron_jobs(&daemon).iter().all(is_done) {
            return false;
        }
        let (jobs, all) = (jobs_by_owner(&daemon), cron_jobs(&daemon));
        // Unless a minute began between them.
        seen = (minute() == last).then_some((last, jobs, all));
        seen.is_some()
    });
    let (last, jobs, all) = seen.unwrap();
    let minutes_of = |cron_job: &Value| -> Vec<Timestamp> {
        let created: Timestamp = cron_job["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
        let first = (created.as_second() / 60 + 1) * 60;
        (first..=last.as_second()).step_by(60).map(|second| Timestamp::from_second(second).unwrap()).collect()
    };
    assert_eq!(all.len(), STEADY + wanted.len());
    for cron_job in &all {
        let (name, own) = (name(cron_job), &jobs[&name(cron_job)]);
        let mut times: Vec<Timestamp> = own.iter().map(time_of).collect();
        times.sort();
        let expected = wanted.get(&name).map_or_else(|| minutes_of(cron_job), |at| vec![*at]);
        assert_eq!(times, expected, "{name}");
        // None was created again: those that are there are those that were recorded.
        let uids = |jobs: &[Value], of: fn(&Value) -> &Value| {
            let mut uids: Vec<String> = jobs.iter().map(|job| of(job)["uid"].to_string()).collect();
            uids.sort();
            uids
        };
        let active = cron_job["status"]["active"].as_array().unwrap();
        assert_eq!(uids(active, |entry| entry), uids(own, |job| &job["metadata"]), "{name}");
    }
    daemon.stop();
}
