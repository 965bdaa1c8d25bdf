//! The life of CronJobs, told as stories: a small API in memory, its clock, and the controller.

use std::collections::BTreeMap;

use jiff::{SignedDuration, ToSpan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;

/// The API, as far as a CronJob needs it.
struct World {
    cron_job: CronJob,
    jobs: BTreeMap<String, Job>,
    look: Look,
    now: Timestamp,
    made: u32,
    /// `reason: message` of each Event.
    events: Vec<String>,
    /// Each Job ever made, with the time that it is for.
    started: Vec<(String, String)>,
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl World {
    /// A CronJob that was created at midnight, and a controller that has looked since then.
    fn new(spec: &serde_json::Value) -> World {
        let now = at("2026-06-01T00:00:00Z");
        let mut cron_job: CronJob = serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "cron-uid", "creationTimestamp": now.to_string() },
            "spec": {
                "schedule": "0 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
                "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
                "jobTemplate": {
                    "metadata": { "labels": { "l": "v" }, "annotations": { "a": "w" } },
                    "spec": { "backoffLimit": 2, "template": {} },
                },
            },
        }))
        .unwrap();
        let mut merged = serde_json::to_value(&cron_job.spec).unwrap();
        merged.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        cron_job.spec = serde_json::from_value(merged).unwrap();
        let look = Look { since: now, changed: None };
        World { cron_job, jobs: BTreeMap::new(), look, now, made: 0, events: vec![], started: vec![] }
    }

    fn plan(&self) -> Plan<Action> {
        let jobs: Vec<Job> = self.jobs.values().cloned().collect();
        let zone = match self.cron_job.spec.time_zone.as_deref() {
            None => Some(Zone::utc()),
            Some(name) => zone::named(name),
        };
        reconcile(&self.cron_job, &jobs, zone.as_ref(), self.look, self.now)
    }

    /// Executes the first `steps` steps of the plan, as a controller does that is killed after them.
    fn execute(&mut self, plan: &Plan<Action>, steps: usize) {
        for step in plan.steps.iter().take(steps) {
            match &step.action {
                Action::CreateJob(job) => self.create((**job).clone()),
                Action::DeleteJob(job) => {
                    let gone = self.jobs.remove(&job.name).expect("what is deleted is there");
                    assert_eq!(gone.metadata.uid, Some(job.uid.to_string()));
                }
                Action::WriteStatus(status) => self.cron_job.status = Some((**status).clone()),
                Action::Announce => {}
            }
            for event in &step.events {
                let Note::Text(text) = &event.note else { panic!("a CronJob's events name no pod") };
                self.events.push(format!("{}: {text}", event.reason));
            }
        }
    }

    fn create(&mut self, mut job: Job) {
        self.made += 1;
        job.metadata.uid = Some(format!("uid-{}", self.made));
        job.metadata.resource_version = Some(self.made.to_string());
        job.status = Some(serde_json::from_value(json!({ "startTime": self.now.to_string() })).unwrap());
        let name = job.metadata.name.clone().unwrap();
        let scheduled = job.metadata.annotations.iter().flatten().find(|(key, _)| *key == SCHEDULED_TIMESTAMP);
        self.started.push((name.clone(), scheduled.map_or_else(String::new, |(_, value)| value.clone())));
        assert!(self.jobs.insert(name, job).is_none(), "a name is used once");
    }

    /// Reconciles until nothing is written any more. Returns when to look again.
    fn settle(&mut self) -> Option<Timestamp> {
        for _ in 0..10 {
            let plan = self.plan();
            self.execute(&plan, usize::MAX);
            if plan.steps.iter().all(|step| step.action == Action::Announce) {
                return plan.wake.map(|wake| wake.at);
            }
        }
        panic!("it goes on and on: {:?}", self.plan());
    }

    /// Lets time pass until `end`, and the controller wake when it asks for it.
    fn run_until(&mut self, end: &str) {
        while let Some(wake) = self.settle().filter(|wake| *wake <= at(end)) {
            assert!(wake > self.now, "it wakes at {wake}, which is over at {}", self.now);
            self.now = wake;
        }
        self.now = at(end);
    }

    fn end(&mut self, job: &str, condition: &str) {
        let now = self.now;
        let status = self.jobs.get_mut(job).unwrap().status.as_mut().unwrap();
        status.conditions = Some(vec![serde_json::from_value(json!({ "type": condition, "status": "True" })).unwrap()]);
        if condition == "Complete" {
            status.completion_time = Some(Time(now));
        }
    }

    fn active(&self) -> Vec<&str> {
        let status = self.cron_job.status.as_ref();
        let active = status.and_then(|status| status.active.as_deref()).unwrap_or_default();
        active.iter().filter_map(|entry| entry.name.as_deref()).collect()
    }

    fn last(&self) -> Option<Timestamp> {
        Some(self.cron_job.status.as_ref()?.last_schedule_time.as_ref()?.0)
    }

    fn times(&self) -> Vec<&str> {
        self.started.iter().map(|(_, time)| time.as_str()).collect()
    }

    fn told(&self, reason: &str) -> usize {
        self.events.iter().filter(|event| event.starts_with(&format!("{reason}:"))).count()
    }
}

#[test]
fn a_job_is_made_from_the_template_with_its_time_in_name_and_annotation() {
    let mut world = World::new(&json!({ "timeZone": "America/New_York" }));
    assert_eq!(world.settle(), Some(at("2026-06-01T01:00:00Z")), "its first time is yet to come");
    world.now = at("2026-06-01T01:00:00Z");
    assert_eq!(world.settle(), Some(at("2026-06-01T02:00:00Z")));
    let job = &world.jobs["c-29671260"];
    let expected: Job = serde_json::from_value(json!({
        "metadata": {
            "name": "c-29671260", "namespace": "n", "uid": "uid-1", "resourceVersion": "1", "labels": { "l": "v" },
            "annotations": { "a": "w", SCHEDULED_TIMESTAMP: "2026-05-31T21:00:00-04:00" },
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "cron-uid",
                "controller": true, "blockOwnerDeletion": true }],
        },
        "spec": { "backoffLimit": 2, "template": {} },
        "status": { "startTime": "2026-06-01T01:00:00Z" },
    }))
    .unwrap();
    assert_eq!(*job, expected);
    let status = json!({
        "active": [{ "kind": "Job", "namespace": "n", "name": "c-29671260", "uid": "uid-1", "apiVersion": "batch/v1",
            "resourceVersion": "1" }],
        "lastScheduleTime": "2026-06-01T01:00:00Z",
    });
    assert_eq!(serde_json::to_value(&world.cron_job.status).unwrap(), status);
    assert_eq!(world.events, ["SuccessfulCreate: Created job c-29671260"]);
}

#[test]
fn without_a_zone_the_annotation_is_in_utc() {
    let mut world = World::new(&json!({}));
    world.run_until("2026-06-01T02:30:00Z");
    assert_eq!(world.times(), ["2026-06-01T01:00:00Z", "2026-06-01T02:00:00Z"]);
}

/// A day of a CronJob whose Jobs end now and then, killed before each of its writes in turn.
#[test]
fn one_job_is_started_for_each_time_whichever_write_a_crash_comes_before() {
    for policy in ["Allow", "Forbid", "Replace"] {
        let mut crash_at = 0;
        loop {
            let mut world = World::new(&json!({ "concurrencyPolicy": policy, "failedJobsHistoryLimit": 0 }));
            let (mut written, mut crashed) = (0, false);
            while world.now < at("2026-06-01T08:00:00Z") {
                let plan = world.plan();
                let writes = plan.steps.len();
                if !crashed && written + writes > crash_at {
                    crashed = true;
                    world.execute(&plan, crash_at - written);
                    // It is away for a while, and the Jobs go on.
                    world.now = world.now.saturating_add(SignedDuration::from_mins(10)).unwrap();
                    world.look.since = world.now;
                    let running: Vec<String> = world.jobs.keys().cloned().collect();
                    for job in running {
                        world.end(&job, "Failed");
                    }
                    continue;
                }
                written += writes;
                world.execute(&plan, usize::MAX);
                if plan.steps.iter().all(|step| step.action == Action::Announce) {
                    world.now = plan.wake.map_or(at("2026-06-01T08:00:00Z"), |wake| wake.at);
                    let newest = world.started.last().map(|(name, _)| name.clone());
                    if let Some(job) = newest.filter(|job| world.jobs.contains_key(job)) {
                        world.end(&job, "Complete");
                    }
                }
            }
            let hours: Vec<String> = (1..8).map(|hour| format!("2026-06-01T{hour:02}:00:00Z")).collect();
            assert_eq!(world.times(), hours, "{policy}, crashed before write {crash_at}");
            assert_eq!(world.told("UnexpectedJob"), 0);
            if !crashed {
                assert!(crash_at >= 20, "only {crash_at} writes");
                break;
            }
            crash_at += 1;
        }
    }
}

#[test]
fn forbid_starts_nothing_while_a_job_is_active_and_makes_up_for_the_last_time_when_it_ends() {
    let mut world = World::new(&json!({ "concurrencyPolicy": "Forbid" }));
    world.run_until("2026-06-01T03:20:00Z");
    assert_eq!((world.times().len(), world.told("JobAlreadyActive")), (1, 2));
    world.end("c-29671260", "Complete");
    world.settle();
    assert_eq!(world.times(), ["2026-06-01T01:00:00Z", "2026-06-01T03:00:00Z"]);
    assert_eq!(world.active(), ["c-29671380"]);
    assert_eq!(world.told("SawCompletedJob"), 1);
    assert_eq!(world.told("MissedTimes"), 0);
}

#[test]
fn replace_deletes_what_is_active_and_starts_anew() {
    let mut world = World::new(&json!({ "concurrencyPolicy": "Replace" }));
    world.run_until("2026-06-01T02:30:00Z");
    assert_eq!(world.jobs.keys().collect::<Vec<_>>(), ["c-29671320"]);
    assert_eq!(world.active(), ["c-29671320"]);
    let expected = [
        "SuccessfulCreate: Created job c-29671260",
        "SuccessfulDelete: Deleted job c-29671260",
        "SuccessfulCreate: Created job c-29671320",
    ];
    assert_eq!(world.events, expected);
}

#[test]
fn after_downtime_only_the_last_time_is_made_up_for_and_the_count_is_told() {
    let mut world = World::new(&json!({}));
    world.run_until("2026-06-01T01:30:00Z");
    (world.now, world.look.since) = (at("2026-06-01T09:10:00Z"), at("2026-06-01T09:10:00Z"));
    world.run_until("2026-06-01T10:30:00Z");
    assert_eq!(world.times(), ["2026-06-01T01:00:00Z", "2026-06-01T09:00:00Z", "2026-06-01T10:00:00Z"]);
    let told = "MissedTimes: 8 scheduled times passed while nobody looked at the clock; the last one, \
                2026-06-01T09:00:00Z, is started 600 s late";
    assert!(world.events.iter().any(|event| event == told), "{:?}", world.events);
    assert_eq!(world.told("TooManyMissedTimes"), 0);
}

#[test]
fn more_than_a_hundred_missed_times_are_warned_about_and_the_last_one_runs() {
    let mut world = World::new(&json!({ "schedule": "* * * * *" }));
    world.now = at("2026-06-01T01:41:30Z");
    world.settle();
    assert_eq!((world.times(), world.told("TooManyMissedTimes")), (vec!["2026-06-01T01:41:00Z"], 1));
    let mut world = World::new(&json!({ "schedule": "* * * * *" }));
    world.now = at("2026-06-01T01:40:30Z");
    world.settle();
    assert_eq!((world.times(), world.told("TooManyMissedTimes")), (vec!["2026-06-01T01:40:00Z"], 0));
}

#[test]
fn what_is_past_its_deadline_does_not_run() {
    let mut world = World::new(&json!({ "startingDeadlineSeconds": 600, "concurrencyPolicy": "Forbid" }));
    world.run_until("2026-06-01T01:30:00Z");
    world.now = at("2026-06-01T03:10:00Z");
    world.end("c-29671260", "Complete");
    assert_eq!(world.settle(), Some(at("2026-06-01T04:00:00Z")));
    assert_eq!(world.times().len(), 1, "the deadline was at 03:10, and with it the time is out of sight");
    world.now = at("2026-06-01T04:09:59Z");
    world.settle();
    assert_eq!(world.times(), ["2026-06-01T01:00:00Z", "2026-06-01T04:00:00Z"]);
}

#[test]
fn an_interval_longer_than_the_deadline_never_fires() {
    let mut world = World::new(&json!({ "schedule": "@every 20s", "startingDeadlineSeconds": 5 }));
    world.run_until("2026-06-01T00:05:00Z");
    assert_eq!(world.times(), [""; 0]);
}

#[test]
fn two_times_in_one_minute_have_one_job() {
    let mut world = World::new(&json!({ "schedule": "@every 20s" }));
    world.now = at("2026-06-01T00:00:19Z");
    world.cron_job.metadata.creation_timestamp = Some(Time(world.now));
    world.run_until("2026-06-01T00:02:10Z");
    assert_eq!(world.times(), ["2026-06-01T00:00:39Z", "2026-06-01T00:01:19Z", "2026-06-01T00:02:19Z"][..2]);
    assert_eq!(world.last(), Some(at("2026-06-01T00:01:19Z")));
}

#[test]
fn a_time_whose_name_an_ended_job_of_its_own_has_is_passed_over() {
    let mut world = World::new(&json!({ "schedule": "@every 20s" }));
    world.run_until("2026-06-01T00:00:30Z");
    world.end("c-29671200", "Complete");
    world.run_until("2026-06-01T00:01:10Z");
    assert_eq!(world.times(), ["2026-06-01T00:00:20Z", "2026-06-01T00:01:00Z"]);
    assert_eq!(world.last(), Some(at("2026-06-01T00:01:00Z")));
}

#[test]
fn a_suspended_cron_job_starts_nothing_and_afterwards_the_last_missed_time() {
    let mut world = World::new(&json!({ "suspend": true }));
    world.now = at("2026-06-01T05:30:00Z");
    assert_eq!(world.settle(), None);
    assert_eq!(world.events, [""; 0]);
    world.cron_job.spec.suspend = Some(false);
    world.settle();
    assert_eq!(world.times(), ["2026-06-01T05:00:00Z"]);
}

#[test]
fn a_changed_schedule_counts_from_the_change() {
    let mut world = World::new(&json!({ "schedule": "0 3 * * *" }));
    world.run_until("2026-06-01T12:00:00Z");
    world.cron_job.spec.schedule = "0 10 * * *".to_owned();
    world.look.changed = Some(world.now);
    assert_eq!(world.settle(), Some(at("2026-06-02T10:00:00Z")));
    world.run_until("2026-06-02T11:00:00Z");
    assert_eq!(world.times(), ["2026-06-01T03:00:00Z", "2026-06-02T10:00:00Z"]);
}

#[test]
fn the_oldest_finished_jobs_beyond_the_limits_are_deleted_by_outcome() {
    let mut world = World::new(&json!({ "successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1 }));
    for hour in 1..8 {
        world.run_until(&format!("2026-06-01T{hour:02}:30:00Z"));
        let newest = world.started.last().unwrap().0.clone();
        world.end(&newest, if hour % 3 == 0 { "Failed" } else { "Complete" });
    }
    world.settle();
    // 1 C, 2 C, 3 F, 4 C, 5 C, 6 F, 7 C
    let kept: Vec<&str> = world.jobs.keys().map(String::as_str).collect();
    assert_eq!(kept, ["c-29671500", "c-29671560", "c-29671620"]);
    assert_eq!(world.told("SuccessfulDelete"), 4);
    let status = world.cron_job.status.as_ref().unwrap();
    assert_eq!(
        (status.active.clone(), status.last_successful_time.clone()),
        (None, Some(Time(at("2026-06-01T07:30:00Z"))))
    );
    for limit in
        [&mut world.cron_job.spec.successful_jobs_history_limit, &mut world.cron_job.spec.failed_jobs_history_limit]
    {
        *limit = Some(0);
    }
    world.settle();
    assert!(world.jobs.is_empty());
}

#[test]
fn jobs_that_vanish_leave_the_list_of_active_ones() {
    let mut world = World::new(&json!({ "concurrencyPolicy": "Forbid" }));
    world.run_until("2026-06-01T02:30:00Z");
    world.jobs.clear();
    world.settle();
    assert_eq!(world.told("MissingJob"), 1);
    assert_eq!(world.times(), ["2026-06-01T01:00:00Z", "2026-06-01T02:00:00Z"], "the missed time is made up for");
}

#[test]
fn a_job_started_by_hand_counts_for_the_history_and_is_never_active() {
    let mut world = World::new(&json!({ "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 1 }));
    world.create(manual_job(&world.cron_job, "by-hand".to_owned()));
    assert_eq!(
        world.jobs["by-hand"].metadata.annotations.as_ref().unwrap()["cronjob.kubernetes.io/instantiate"],
        "manual"
    );
    world.run_until("2026-06-01T01:10:00Z");
    assert_eq!(world.active(), ["c-29671260"], "it holds nothing up");
    assert!(world.told("UnexpectedJob") > 0);
    world.end("by-hand", "Complete");
    world.end("c-29671260", "Complete");
    world.settle();
    assert_eq!(world.jobs.keys().collect::<Vec<_>>(), ["c-29671260"]);
}

#[test]
fn what_cannot_be_read_or_never_comes_is_told() {
    for (spec, told) in [
        (
            json!({ "schedule": "x" }),
            "UnparseableSchedule: unparseable schedule: \"x\" : expected exactly 5 fields, found 1: [x]",
        ),
        (json!({ "timeZone": "Mars/X" }), "UnknownTimeZone: invalid timeZone: \"Mars/X\": unknown time zone Mars/X"),
        (
            json!({ "schedule": "0 0 31 2 *" }),
            "InvalidSchedule: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second",
        ),
    ] {
        let mut world = World::new(&spec);
        world.now += 100.hours();
        assert_eq!(world.settle(), None);
        assert_eq!(world.events, [told]);
    }
    let mut world = World::new(&json!({ "schedule": "TZ=Asia/Tokyo 0 3 * * *" }));
    world.now += 100.hours();
    world.settle();
    assert_eq!(world.times(), ["2026-06-04T18:00:00Z"]);
    assert_eq!(world.told("UnsupportedSchedule"), 2, "once for each look");
}

#[test]
fn a_clock_that_steps_back_repeats_nothing_and_one_that_steps_forward_runs_the_last_time() {
    let mut world = World::new(&json!({}));
    world.run_until("2026-06-01T05:30:00Z");
    world.now = at("2026-06-01T02:10:00Z");
    assert_eq!(world.settle(), Some(at("2026-06-01T06:00:00Z")), "until then it has been");
    assert_eq!(world.times().len(), 5);
    world.now = at("2026-06-01T11:10:00Z");
    world.settle();
    assert_eq!(world.times()[5..], ["2026-06-01T11:00:00Z"]);
}

#[test]
fn a_cron_job_that_is_being_deleted_starts_nothing() {
    let mut world = World::new(&json!({}));
    world.cron_job.metadata.deletion_timestamp = Some(Time(world.now));
    world.now += 100.hours();
    assert_eq!((world.settle(), world.times()), (None, vec![]));
}
