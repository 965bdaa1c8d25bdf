//! What the users want of one world: Jobs, and what they do to them over time.

mod odd;

use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use crate::rng::Rng;
pub use odd::{Knob, Odd};

/// What the users do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The deeds with their times in milliseconds, in order.
    pub deeds: Vec<(u64, Deed)>,
    /// When chaos ends, in milliseconds.
    pub calm: u64,
}

/// One thing that a user does, or that befalls the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Creates a Job.
    Create(JobWish),
    /// Changes a Job's parallelism.
    Scale(String, i32),
    /// Suspends a Job, or resumes it.
    Suspend(String, bool),
    /// Changes the completions of an Indexed Job, and its parallelism to the same.
    Resize(String, i32),
    /// Deletes a pod of a Job: which one of those that are there.
    DeletePod(String, usize),
    /// Deletes a pod without grace.
    KillPod(String, usize),
    /// Deletes a Job, its pods after it (Background) or before it (Foreground).
    DeleteJob(String, &'static str),
    /// Evicts a pod of a Job.
    EvictPod(String, usize),
    /// Creates a pod that nobody controls and that the Job's selector selects.
    MakeOrphan(String),
    /// Takes the labels off a pod of a Job, so that the Job's selector selects it no more.
    Relabel(String, usize),
    /// Changes a number or word of a Job.
    Turn(String, Knob),
    /// Another controller, which manages the Job, says that it is complete.
    Conclude(String),
    /// Creates a CronJob.
    CreateCron(CronWish),
    /// Suspends a CronJob, or resumes it.
    SuspendCron(String, bool),
    /// Changes a CronJob's schedule.
    Reschedule(String, &'static str),
    /// The wall clock steps. Forwards by much, it is a machine that was suspended.
    StepClock(SignedDuration),
    /// The controllers alone are started anew; requests that they sent may still be carried out.
    RestartControllers,
}

/// A Job that a user creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobWish {
    /// `metadata.name`.
    pub name: String,
    /// `spec.parallelism`.
    pub parallelism: i32,
    /// `spec.completions`.
    pub completions: Option<i32>,
    /// `spec.backoffLimit`.
    pub backoff_limit: i32,
    /// `restartPolicy`.
    pub restart_policy: &'static str,
    /// Whether its completions have indexes.
    pub indexed: bool,
    /// `backoffLimitPerIndex`.
    pub per_index: Option<i32>,
    /// Whether a `podFailurePolicy` ignores the exit code 2.
    pub ignores: bool,
    /// Whether a `successPolicy` is content with one index.
    pub content: bool,
    /// What a `podFailurePolicy` makes of the exit code 3, and whether it ignores disruptions.
    pub on_three: Option<&'static str>,
    /// `maxFailedIndexes`.
    pub max_failed: Option<i32>,
    /// `ttlSecondsAfterFinished`.
    pub ttl: Option<i32>,
    /// `activeDeadlineSeconds`.
    pub deadline: Option<i64>,
    /// `podReplacementPolicy`.
    pub replacement: Option<&'static str>,
    /// How many of a thousand containers fail.
    pub fails: u64,
    /// The longest that a container runs, in milliseconds.
    pub longest: u64,
    /// What each pod requests of the node's CPU.
    pub cpu: Option<&'static str>,
    /// What few Jobs ask for.
    pub odd: Odd,
}

/// A CronJob that a user creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronWish {
    /// `metadata.name`.
    pub name: String,
    /// `spec.schedule`.
    pub schedule: &'static str,
    /// `spec.concurrencyPolicy`.
    pub policy: &'static str,
    /// `spec.startingDeadlineSeconds`.
    pub deadline: Option<i64>,
    /// `spec.successfulJobsHistoryLimit` and `spec.failedJobsHistoryLimit`.
    pub limits: (i32, i32),
    /// Its Job.
    pub job: JobWish,
}

impl CronWish {
    /// The manifest.
    pub fn manifest(&self) -> Value {
        json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": self.name }, "spec": {
            "schedule": self.schedule,
            "concurrencyPolicy": self.policy,
            "startingDeadlineSeconds": self.deadline,
            "successfulJobsHistoryLimit": self.limits.0,
            "failedJobsHistoryLimit": self.limits.1,
            "jobTemplate": { "spec": self.job.manifest()["spec"] },
        }})
    }
}

impl JobWish {
    /// Asks for more, now and then.
    fn extend(&mut self, rng: &mut Rng) {
        self.ttl = rng.chance(200).then(|| *rng.pick(&[0, 5, 60, 600]));
        if self.per_index.is_some() {
            self.max_failed = rng.chance(300).then(|| rng.small(0, 3).min(self.completions.unwrap_or(0)));
        }
        if self.restart_policy == "Never" && rng.chance(250) && self.replacement != Some("TerminatingOrFailed") {
            let actions: &[&str] =
                if self.per_index.is_some() { &["FailJob", "FailIndex", "Count"] } else { &["FailJob", "Count"] };
            self.on_three = Some(*rng.pick(actions));
        }
    }

    /// The Job.
    pub fn job(&self) -> Job {
        serde_json::from_value(self.manifest()).expect("the manifest is a Job")
    }

    /// The manifest.
    pub fn manifest(&self) -> Value {
        let command = ["work".to_owned(), self.fails.to_string(), self.longest.to_string()];
        let mut spec = json!({
            "parallelism": self.parallelism,
            "backoffLimit": self.backoff_limit,
            "template": { "spec": {
                "restartPolicy": self.restart_policy,
                "containers": [{ "name": "main", "image": "sim:1", "command": command }],
            }},
        });
        if let Some(completions) = self.completions {
            spec["completions"] = json!(completions);
        }
        if let Some(policy) = self.replacement {
            spec["podReplacementPolicy"] = json!(policy);
        }
        if self.indexed {
            spec["completionMode"] = json!("Indexed");
        }
        if let Some(limit) = self.per_index {
            spec["backoffLimitPerIndex"] = json!(limit);
            if self.restart_policy == "Never" {
                spec["backoffLimit"] = json!(i32::MAX); // else a container would be started again without end
            }
        }
        let mut rules = Vec::new();
        if self.ignores {
            let codes = json!({ "operator": "In", "values": [2] });
            rules.push(json!({ "action": "Ignore", "onExitCodes": codes }));
        }
        if let Some(action) = self.on_three {
            let disrupted = json!([{ "type": "DisruptionTarget", "status": "True" }]);
            rules.push(json!({ "action": "Ignore", "onPodConditions": disrupted }));
            rules.push(json!({ "action": action, "onExitCodes": { "operator": "In", "values": [3] } }));
        }
        if !rules.is_empty() {
            spec["podFailurePolicy"] = json!({ "rules": rules });
        }
        if let Some(most) = self.max_failed {
            spec["maxFailedIndexes"] = json!(most);
        }
        if let Some(seconds) = self.ttl {
            spec["ttlSecondsAfterFinished"] = json!(seconds);
        }
        if self.content {
            spec["successPolicy"] = json!({ "rules": [{ "succeededCount": 1 }] });
        }
        if let Some(seconds) = self.deadline {
            spec["activeDeadlineSeconds"] = json!(seconds);
        }
        if let Some(cpu) = self.cpu {
            spec["template"]["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
        }
        self.odd.ask(&mut spec);
        json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": self.name }, "spec": spec })
    }
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of_seed(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed, 1);
        let mut deeds = Vec::new();
        let span = *rng.pick(&[5_000, 60_000, 300_000]);
        for number in 0..rng.range(1, 4) {
            let wish = wish(&mut rng, number);
            let is_indexed = wish.indexed;
            let begins = if number == 0 { 0 } else { rng.range(0, span / 2) };
            let name = wish.name.clone();
            deeds.push((begins, Deed::Create(wish)));
            for _ in 0..*rng.pick(&[0, 0, 1, 3]) {
                let at = rng.range(begins + 1, span);
                let which = usize::try_from(rng.range(0, 7)).expect("small");
                let deed = match rng.range(0, 12) {
                    10 | 11 => Deed::Suspend(name.clone(), rng.chance(600)),
                    12 if is_indexed => Deed::Resize(name.clone(), rng.small(1, 6)),
                    0..=3 | 12 => Deed::Scale(name.clone(), rng.small(0, 5)),
                    4..=6 => Deed::DeletePod(name.clone(), which),
                    7 | 8 => Deed::KillPod(name.clone(), which),
                    _ => Deed::DeleteJob(name.clone(), rng.pick::<&str>(&["Background", "Foreground"])),
                };
                deeds.push((at, deed));
            }
        }
        for _ in 0..*rng.pick(&[0, 0, 1, 2]) {
            let seconds = *rng.pick(&[-300, -60, -1, 1, 60, 3600, 86_400]);
            deeds.push((rng.range(0, span), Deed::StepClock(SignedDuration::from_secs(seconds))));
        }
        for _ in 0..*rng.pick(&[0, 0, 1, 2]) {
            deeds.push((rng.range(0, span), Deed::RestartControllers));
        }
        let calm = span.max(cron_jobs(seed, &mut deeds));
        deeds.sort_by_key(|(at, _)| *at);
        Scenario { deeds, calm }
    }

    /// The scenario of a seed for the model: without CronJobs, and with more of what Jobs can be and of what befalls them.
    pub fn of_jobs(seed: u64) -> Scenario {
        let mut scenario = Scenario::of_seed(seed);
        let is_of_cron =
            |deed: &Deed| matches!(deed, Deed::CreateCron(_) | Deed::SuspendCron(..) | Deed::Reschedule(..));
        scenario.deeds.retain(|(_, deed)| !is_of_cron(deed));
        // Chances of their own, so that the Jobs of a seed stay what they are but for this.
        let (mut rng, mut odds) = (Rng::new(seed, 7), Rng::new(seed, 9));
        let last = scenario.deeds.last().map_or(0, |(at, _)| *at);
        let span = last.max(*rng.pick(&[5_000, 60_000, 300_000]));
        let mut more = Vec::new();
        for (begins, deed) in &mut scenario.deeds {
            if let Deed::DeleteJob(_, policy) = deed
                && rng.chance(300)
            {
                *policy = "Orphan";
            }
            let Deed::Create(wish) = deed else { continue };
            wish.extend(&mut rng);
            wish.odd = Odd::of(wish, &mut odds);
            more.extend(wish.odd.deeds(&wish.name, *begins, span, &mut odds));
            for _ in 0..*rng.pick(&[0, 0, 0, 1, 2]) {
                let which = usize::try_from(rng.range(0, 7)).expect("small");
                let name = wish.name.clone();
                let deed = if rng.chance(600) { Deed::EvictPod(name, which) } else { Deed::MakeOrphan(name) };
                more.push((rng.range(*begins + 1, span + 1), deed));
            }
        }
        scenario.deeds.extend(more);
        scenario.deeds.sort_by_key(|(at, _)| *at);
        scenario.calm = scenario.deeds.last().map_or(0, |(at, _)| *at).max(span);
        scenario
    }

    /// A small scenario of a CronJob for crashes at every write, which fires twice.
    pub fn small_cron(number: u64) -> Scenario {
        let mut rng = Rng::new(number, 5);
        let mut wish = cron_wish(&mut rng, 0);
        (wish.deadline, wish.schedule) = (None, "* * * * *");
        let suspend = (130_000, Deed::SuspendCron(wish.name.clone(), true));
        Scenario { deeds: vec![(1, Deed::CreateCron(wish)), suspend], calm: 3_600_000 }
    }

    /// A small scenario for crashes at every write: two Jobs, failures among their pods, one pod deleted, one Job scaled.
    pub fn small(number: u64) -> Scenario {
        let mut rng = Rng::new(number, 1);
        let mut deeds = Vec::new();
        for job in 0..2 {
            let mut wish = wish(&mut rng, job);
            wish.completions = wish.completions.map(|n| n.min(3));
            wish.parallelism = wish.parallelism.clamp(1, 3);
            let name = wish.name.clone();
            deeds.push((job * 500, Deed::Create(wish)));
            deeds.push((3000 + job, if job == 0 { Deed::DeletePod(name, 0) } else { Deed::Scale(name, 2) }));
        }
        deeds.sort_by_key(|(at, _)| *at);
        Scenario { deeds, calm: 3_600_000 }
    }
}

fn wish(rng: &mut Rng, number: u64) -> JobWish {
    let completions = if rng.chance(700) { Some(rng.small(0, 8)) } else { None };
    let indexed = completions.is_some() && rng.chance(500);
    let ignores = rng.chance(200);
    JobWish {
        name: format!("job{number}"),
        parallelism: if rng.chance(50) { 0 } else { rng.small(1, 5) },
        completions,
        backoff_limit: rng.small(0, 4),
        restart_policy: if ignores { "Never" } else { rng.pick::<&str>(&["Never", "OnFailure"]) },
        indexed,
        per_index: (indexed && rng.chance(500)).then(|| rng.small(0, 2)),
        ignores,
        content: indexed && completions > Some(0) && rng.chance(200),
        on_three: None,
        max_failed: None,
        ttl: None,
        deadline: rng.chance(150).then(|| rng.small(1, 120).into()),
        replacement: *rng.pick(if ignores {
            &[None, Some("Failed"), None, None]
        } else {
            &[None, None, Some("Failed"), Some("TerminatingOrFailed")]
        }),
        fails: *rng.pick(&[0, 100, 300, 800]),
        longest: *rng.pick(&[1, 1000, 10_000, 60_000]),
        // None asks for more than the node has, so that every Job can come to its end.
        cpu: *rng.pick(&[None, None, Some("100m"), Some("700m"), Some("1"), Some("2")]),
        odd: Odd::default(),
    }
}

/// In one world of four there are CronJobs. At the end they are suspended, so that the world comes to rest; returns when.
fn cron_jobs(seed: u64, deeds: &mut Vec<(u64, Deed)>) -> u64 {
    const END: u64 = 600_000;
    // A chance of its own, so that the Jobs of a seed stay what they are.
    let mut rng = Rng::new(seed, 5);
    if !rng.chance(250) {
        return 0;
    }
    for number in 0..usize::try_from(rng.range(1, 3)).expect("small") {
        let wish = cron_wish(&mut rng, number);
        let (name, begins) = (wish.name.clone(), rng.range(0, END / 4));
        deeds.push((begins, Deed::CreateCron(wish)));
        if rng.chance(300) {
            let at = rng.range(begins, END / 2);
            deeds.push((at, Deed::SuspendCron(name.clone(), true)));
            deeds.push((at + rng.range(1, END / 2 - 1), Deed::SuspendCron(name.clone(), false)));
        }
        if rng.chance(300) {
            deeds.push((rng.range(begins, END), Deed::Reschedule(name.clone(), rng.pick::<&str>(&SCHEDULES))));
        }
        deeds.push((END, Deed::SuspendCron(name, true)));
    }
    END
}

const SCHEDULES: [&str; 6] = ["* * * * *", "*/2 * * * *", "1-59/3 * * * *", "@every 20s", "@every 45s", "@every 100s"];

fn cron_wish(rng: &mut Rng, number: usize) -> CronWish {
    let mut job = wish(rng, 0);
    (job.completions, job.parallelism, job.indexed, job.per_index, job.content) = (Some(1), 1, false, None, false);
    job.longest = *rng.pick(&[1, 1000, 60_000, 150_000]);
    CronWish {
        name: format!("cron{number}"),
        schedule: rng.pick::<&str>(&SCHEDULES),
        policy: rng.pick::<&str>(&["Allow", "Forbid", "Replace"]),
        deadline: *rng.pick(&[None, None, Some(5), Some(200)]),
        limits: (rng.small(0, 3), rng.small(0, 2)),
        job,
    }
}
