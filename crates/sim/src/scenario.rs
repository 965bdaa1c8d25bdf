//! What the users want of one world: Jobs, and what they do to them over time.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::rng::Rng;

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
}

impl JobWish {
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
            spec["backoffLimit"] = json!(i32::MAX);
        }
        if self.ignores {
            let codes = json!({ "operator": "In", "values": [2] });
            spec["podFailurePolicy"] = json!({ "rules": [{ "action": "Ignore", "onExitCodes": codes }] });
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
        deeds.sort_by_key(|(at, _)| *at);
        Scenario { deeds, calm: span }
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
    }
}
