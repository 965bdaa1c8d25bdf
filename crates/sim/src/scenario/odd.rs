//! What few Jobs ask for, and what few users do to them. The model's worlds have all of it, each now and then.

use k8s_openapi::api::batch::v1::JobSpec;
use serde_json::{Value, json};

use super::{Deed, JobWish};
use crate::rng::Rng;

/// The label by which Jobs select whose selector a user wrote.
const LABEL: &str = "own";
/// A controller of Jobs that is not ours.
const ANOTHER: &str = "sim.example/controller";

/// What few Jobs ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// `spec.managedBy`.
    pub managed_by: Option<&'static str>,
    /// With `spec.manualSelector`: the value of the label that it selects by, which is another Job's, too, or its own.
    pub selects: Option<String>,
    /// What its pods have beside their main container.
    pub beside: Option<Beside>,
    /// Whether it is suspended when it is created.
    pub begins_suspended: bool,
    /// `succeededIndexes` of its `successPolicy`.
    pub enough: Option<&'static str>,
    /// Whether its `podFailurePolicy` ignores a main container that was killed.
    pub spares_killed: bool,
}

/// A container beside the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// One that ends before the main one starts.
    Setup,
    /// One that runs as long as the main one, and is restarted as often.
    Sidecar,
}

/// A number or word of a Job that may be changed while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knob {
    /// `backoffLimit`.
    BackoffLimit(i32),
    /// `activeDeadlineSeconds`.
    Deadline(i64),
    /// `ttlSecondsAfterFinished`.
    Ttl(i32),
    /// `maxFailedIndexes`.
    MaxFailed(i32),
    /// `podReplacementPolicy`.
    Replacement(&'static str),
}

impl Odd {
    /// What the Job `wish` asks for beside all else.
    pub fn of(wish: &JobWish, rng: &mut Rng) -> Odd {
        let own = if rng.chance(500) { wish.name.clone() } else { "shared".to_owned() };
        let has_policy = wish.ignores || wish.on_three.is_some();
        let managed_by = *rng.pick(&[ANOTHER, ANOTHER, "kubernetes.io/job-controller"]);
        Odd {
            managed_by: rng.chance(80).then_some(managed_by),
            selects: rng.chance(150).then_some(own),
            beside: rng.chance(250).then(|| *rng.pick(&[Beside::Setup, Beside::Sidecar])),
            begins_suspended: rng.chance(80),
            enough: (wish.content && rng.chance(500)).then_some("0"),
            spares_killed: has_policy && rng.chance(300),
        }
    }

    /// Adds it to the Job's spec.
    pub fn ask(&self, spec: &mut Value) {
        if let Some(manager) = self.managed_by {
            spec["managedBy"] = json!(manager);
        }
        if let Some(value) = &self.selects {
            let labels = json!({ LABEL: value });
            spec["manualSelector"] = json!(true);
            spec["selector"] = json!({ "matchLabels": labels });
            spec["template"]["metadata"] = json!({ "labels": labels });
        }
        if let Some(beside) = self.beside {
            let mut container = json!({ "name": "beside", "image": "sim:1" });
            if beside == Beside::Sidecar {
                container["restartPolicy"] = json!("Always");
            }
            spec["template"]["spec"]["initContainers"] = json!([container]);
        }
        if self.begins_suspended {
            spec["suspend"] = json!(true);
        }
        if let Some(indexes) = self.enough {
            spec["successPolicy"] = json!({ "rules": [{ "succeededIndexes": indexes }] });
        }
        let rules = spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut);
        if let Some(rules) = rules.filter(|_| self.spares_killed) {
            let killed = json!({ "containerName": "main", "operator": "NotIn", "values": [1, 2, 3] });
            rules.push(json!({ "action": "Ignore", "onExitCodes": killed }));
        }
    }

    /// What is done to the Job of this name, created at `begins`, until `end`.
    pub fn deeds(&self, name: &str, begins: u64, end: u64, rng: &mut Rng) -> Vec<(u64, Deed)> {
        let mut deeds = Vec::new();
        let mut at = |rng: &mut Rng, deed| deeds.push((rng.range(begins + 1, end + 1), deed));
        if self.begins_suspended && rng.chance(800) {
            at(rng, Deed::Suspend(name.to_owned(), false));
        }
        if self.managed_by == Some(ANOTHER) && rng.chance(500) {
            at(rng, Deed::Conclude(name.to_owned()));
        }
        if rng.chance(120) {
            let which = usize::try_from(rng.range(0, 7)).expect("small");
            at(rng, Deed::Relabel(name.to_owned(), which));
        }
        if rng.chance(200) {
            let knob = match rng.range(0, 4) {
                0 => Knob::BackoffLimit(rng.small(0, 5)),
                1 => Knob::Deadline(rng.small(1, 120).into()),
                2 => Knob::Ttl(*rng.pick(&[0, 5, 60])),
                3 => Knob::MaxFailed(rng.small(0, 3)),
                _ => Knob::Replacement(rng.pick::<&str>(&["Failed", "TerminatingOrFailed"])),
            };
            at(rng, Deed::Turn(name.to_owned(), knob));
        }
        deeds
    }
}

impl Knob {
    /// Turns it.
    pub fn turn(&self, spec: &mut JobSpec) {
        match self {
            Knob::BackoffLimit(limit) => spec.backoff_limit = Some(*limit),
            Knob::Deadline(seconds) => spec.active_deadline_seconds = Some(*seconds),
            Knob::Ttl(seconds) => spec.ttl_seconds_after_finished = Some(*seconds),
            Knob::MaxFailed(most) => spec.max_failed_indexes = Some(*most),
            Knob::Replacement(policy) => spec.pod_replacement_policy = Some((*policy).to_owned()),
        }
    }
}
