//! What was committed, as far as it has to be remembered to judge the end: the ledger of `core::check`, and of every pod
//! how it went.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, Pod};
use stint_core::check::Ledger;
use stint_core::check::cronjob::CronLedger;
use stint_core::job::finished;
use stint_core::job::view::{Class, class, controller_of, is_tracked, phase, restarts, uid_of};
use stint_core::plan::Uid;
use stint_store::{Entry, Revision};

use crate::world::State;

/// The record.
#[derive(Default)]
pub struct History {
    ledger: Ledger,
    cron_ledger: CronLedger,
    /// The UID behind each key of a Job or pod.
    uids: BTreeMap<String, Uid>,
    /// Every pod that ever was.
    pub pods: BTreeMap<Uid, PodRecord>,
    /// Every Job that ever was.
    pub jobs: BTreeMap<Uid, JobRecord>,
    /// The last revision that changed a Job or a pod.
    pub last_change: Revision,
}

/// How a pod went.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are facts about one pod, and any of them may hold with any other"
)]
pub struct PodRecord {
    /// `metadata.name`.
    pub name: String,
    /// Its Job, or the last one that it had.
    pub job: Option<Uid>,
    /// `status.phase`.
    pub phase: String,
    /// Whether it was being deleted before it had ended.
    pub left: bool,
    /// Whether it had lost its finalizer before it ended: it was sent away, and may have ended by itself before it was deleted.
    pub sent_away: bool,
    /// Whether its labels were ever taken off, so that its Job may have let it go uncounted.
    pub unlabelled: bool,
    /// Whether the tracking finalizer was on it.
    tracked: bool,
    /// Container restarts.
    pub restarts: i32,
    /// Whether its deletion was asked for.
    pub deleting: bool,
    /// Whether nothing holds it any more: deleted without grace and without a finalizer, and yet still there. That is
    /// what a crash between the API's two writes of such a deletion leaves.
    pub is_left_lying: bool,
    /// Whether it has a node.
    pub bound: bool,
    /// Whether nobody controls it: it may stay, whatever becomes of Jobs.
    pub is_stray: bool,
    /// Whether a Job has adopted it, and so had one more than it asked for.
    pub was_adopted: bool,
    /// Where it stands.
    pub class: Class,
    /// Whether the object is gone.
    pub gone: bool,
}

/// How a Job went.
#[derive(Clone, Debug, Default)]
pub struct JobRecord {
    /// Its last state.
    pub job: Arc<Job>,
    /// Whether its parallelism or completions were ever lowered, or it was suspended: pods were sent away uncounted then.
    pub shrunk: bool,
    /// The lowest that its `backoffLimit` ever was.
    pub least_backoff_limit: Option<i32>,
    /// Whether it was ever being deleted.
    pub left: bool,
    /// Whether the object is gone.
    pub gone: bool,
}

impl History {
    /// Takes in a committed Job. An error is a broken invariant.
    pub fn put_job(&mut self, key: &str, job: &Arc<Job>, revision: Revision) -> Result<(), String> {
        self.last_change = revision;
        let uid = Uid::of(&job.metadata);
        self.uids.insert(key.to_owned(), uid.clone());
        let known = self.jobs.entry(uid).or_default();
        let parallelism = |job: &Job| job.spec.as_ref().and_then(|spec| spec.parallelism);
        known.shrunk |= known.job.metadata.uid.is_some() && parallelism(job) < parallelism(&known.job);
        let completions = |job: &Job| job.spec.as_ref().and_then(|spec| spec.completions);
        known.shrunk |= known.job.metadata.uid.is_some() && completions(job) != completions(&known.job);
        known.shrunk |= job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
        let limit = job.spec.as_ref().and_then(|spec| spec.backoff_limit);
        known.least_backoff_limit = known.least_backoff_limit.into_iter().chain(limit).min();
        known.left |= job.metadata.deletion_timestamp.is_some();
        known.job = Arc::clone(job);
        self.ledger.job(job).map_err(|broken| broken.to_string())?;
        self.cron_ledger.job(job).map_err(|broken| broken.to_string())
    }

    /// Takes in a committed pod. An error is a broken invariant.
    pub fn put_pod(&mut self, key: &str, pod: &Pod, revision: Revision) -> Result<(), String> {
        self.last_change = revision;
        pod_put(self, key, pod)
    }

    /// Takes in the committed node.
    pub fn put_node(&mut self, node: &Node) {
        self.ledger.node(node);
    }

    /// Takes in that an object is gone.
    pub fn gone(&mut self, key: &str, revision: Revision) {
        let Some(uid) = self.uids.remove(key) else { return };
        self.last_change = revision;
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.gone = true;
            self.ledger.pod_gone(&uid);
        } else if let Some(job) = self.jobs.get_mut(&uid) {
            job.gone = true;
            self.ledger.job_gone(&uid);
            self.cron_ledger.job_gone(&uid);
        } else {
            self.cron_ledger.cron_job_gone(&uid);
        }
    }

    /// Checks that everything which finished was counted.
    pub fn settled(&self) -> Result<(), String> {
        self.ledger.settled().map_err(|broken| broken.to_string())?;
        self.cron_ledger.settled().map_err(|broken| broken.to_string())
    }

    /// The pods of a Job.
    pub fn pods_of(&self, job: &Uid) -> impl Iterator<Item = (&Uid, &PodRecord)> {
        self.pods.iter().filter(move |(_, pod)| pod.job.as_ref() == Some(job))
    }
}

/// Takes in a committed object.
pub fn put(state: &mut State, entry: &Entry) -> Result<(), String> {
    let kind = entry.key.split('/').nth(1).unwrap_or_default();
    let read = |error| format!("{} at {} is not readable: {error}", entry.key, entry.revision);
    match kind {
        "jobs" => {
            let job: Arc<Job> = Arc::new(serde_json::from_slice(&entry.value).map_err(read)?);
            state.tell(|| format!("commit {} {} {}", entry.revision, entry.key, job_line(&job)));
            state.history.put_job(&entry.key, &job, entry.revision)
        }
        "cronjobs" => {
            let cron_job: CronJob = serde_json::from_slice(&entry.value).map_err(read)?;
            state.history.last_change = entry.revision;
            state.tell(|| format!("commit {} {} {}", entry.revision, entry.key, cron_job_line(&cron_job)));
            let history = &mut state.history;
            history.uids.insert(entry.key.to_string(), Uid::of(&cron_job.metadata));
            history.cron_ledger.cron_job(&cron_job).map_err(|broken| broken.to_string())
        }
        "pods" => {
            let pod: Pod = serde_json::from_slice(&entry.value).map_err(read)?;
            state.tell(|| format!("commit {} {} {}", entry.revision, entry.key, pod_line(&pod)));
            state.history.put_pod(&entry.key, &pod, entry.revision)
        }
        "nodes" => {
            let node: Node = serde_json::from_slice(&entry.value).map_err(read)?;
            state.tell(|| format!("commit {} {}", entry.revision, entry.key));
            state.history.put_node(&node);
            Ok(())
        }
        _ => {
            state.tell(|| format!("commit {} {}", entry.revision, entry.key));
            Ok(())
        }
    }
}

fn pod_put(history: &mut History, key: &str, pod: &Pod) -> Result<(), String> {
    let uid = uid_of(pod);
    history.uids.insert(key.to_owned(), uid.clone());
    let known = history.pods.entry(uid).or_insert_with(|| PodRecord {
        name: pod.metadata.name.clone().unwrap_or_default(),
        job: controller_of(pod).map(|owner| Uid::from(owner.uid.as_str())),
        phase: String::new(),
        left: false,
        sent_away: false,
        unlabelled: false,
        tracked: false,
        restarts: 0,
        deleting: false,
        bound: false,
        is_left_lying: false,
        is_stray: false,
        was_adopted: false,
        class: class(pod),
        gone: false,
    });
    let owner = controller_of(pod).map(|owner| Uid::from(owner.uid.as_str()));
    known.was_adopted |= known.is_stray && owner.is_some();
    known.is_stray = owner.is_none();
    known.job = owner.or(known.job.take());
    let phase = phase(pod).to_owned();
    let ended = |phase: &str| matches!(phase, "Succeeded" | "Failed");
    if ended(&known.phase) && known.phase != phase {
        return Err(format!("pod {}: its phase was {} and is {phase}", known.name, known.phase));
    }
    let restarts = restarts(pod);
    if restarts < known.restarts {
        return Err(format!("pod {}: its restarts fell from {} to {restarts}", known.name, known.restarts));
    }
    let deleting = pod.metadata.deletion_timestamp.is_some();
    if !ended(&known.phase) {
        known.left |= deleting;
        known.sent_away |= known.tracked && !is_tracked(pod);
    }
    known.unlabelled |= pod.metadata.labels.is_none();
    known.tracked = is_tracked(pod);
    known.bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let unheld = pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
    known.is_left_lying = unheld && pod.metadata.deletion_grace_period_seconds == Some(0);
    known.deleting = deleting;
    (known.phase, known.restarts, known.class) = (phase, restarts, class(pod));
    history.ledger.pod(pod).map_err(|broken| broken.to_string())
}

/// Takes in a committed deletion.
pub fn gone(state: &mut State, key: &str, revision: Revision) {
    state.tell(|| format!("commit {revision} {key} gone"));
    state.history.gone(key, revision);
}

/// A Job in a line of the story.
pub fn job_line(job: &Job) -> String {
    let status = job.status.clone().unwrap_or_default();
    let spec = job.spec.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let short = |list: Option<Vec<String>>| {
        let ends: Vec<String> = list.into_iter().flatten().map(|uid| short(&uid).to_owned()).collect();
        ends.join("+")
    };
    let conditions: Vec<String> = status.conditions.iter().flatten().map(|c| c.type_.clone()).collect();
    format!(
        "p={} c={} active={} ready={} terminating={} succeeded={} failed={} uncounted=[{}|{}] {}{}",
        spec.parallelism.unwrap_or(1),
        spec.completions.map_or("-".to_owned(), |n| n.to_string()),
        status.active.unwrap_or(0),
        status.ready.unwrap_or(0),
        status.terminating.unwrap_or(0),
        status.succeeded.unwrap_or(0),
        status.failed.unwrap_or(0),
        short(uncounted.succeeded),
        short(uncounted.failed),
        conditions.join("+"),
        if job.metadata.deletion_timestamp.is_some() { " deleting" } else { "" },
    )
}

/// A CronJob in a line of the story.
fn cron_job_line(cron_job: &CronJob) -> String {
    let status = cron_job.status.clone().unwrap_or_default();
    let active: Vec<String> = status.active.into_iter().flatten().filter_map(|entry| entry.name).collect();
    let last = status.last_schedule_time.map_or("-".to_owned(), |last| last.0.to_string());
    let suspended = if cron_job.spec.suspend == Some(true) { " suspended" } else { "" };
    format!("{:?} active=[{}] last={last}{suspended}", cron_job.spec.schedule, active.join("+"))
}

/// A pod in a line of the story.
pub fn pod_line(pod: &Pod) -> String {
    let deleting = pod
        .metadata
        .deletion_timestamp
        .is_some()
        .then(|| format!(" deleting({}s)", pod.metadata.deletion_grace_period_seconds.unwrap_or(0)));
    format!(
        "{} {}{}{}{} restarts={}",
        short(&uid_of(pod).to_string()),
        phase(pod),
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) { " bound" } else { "" },
        if is_tracked(pod) { " tracked" } else { "" },
        deleting.unwrap_or_default(),
        restarts(pod)
    )
}

/// The end of a UID, which tells it apart.
pub fn short(uid: &str) -> &str {
    uid.get(uid.len().saturating_sub(4)..).unwrap_or(uid)
}

/// Whether a Job has ended.
pub fn has_ended(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| finished(status).is_some())
}
