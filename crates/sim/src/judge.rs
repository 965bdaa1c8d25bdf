//! Looks at the end of a world: has everything settled, and do the Jobs say what really happened.

use std::time::Duration;

use k8s_openapi::api::batch::v1::JobSpec;
use stint_core::job::view::Class;
use stint_core::job::{Outcome, condition, finished, foreign_controller};
use stint_core::plan::Uid;

use crate::containers::Containers;
use crate::history::{History, JobRecord, PodRecord, has_ended, job_line};

/// Whether every Job that is there has ended, or waits for a user, of whom nothing is to come if all is `done`.
pub fn is_settled(history: &History, done: bool) -> bool {
    done && history.jobs.values().all(|job| job.gone || rests(job))
}

fn rests(job: &JobRecord) -> bool {
    let is_paused = |spec: &JobSpec| spec.parallelism == Some(0) || spec.suspend == Some(true);
    let is_foreign = |spec: &JobSpec| foreign_controller(spec).is_some();
    let waits = |spec: &JobSpec| is_paused(spec) || is_foreign(spec);
    let paused = job.job.spec.as_ref().is_some_and(waits) && !job.left;
    has_ended(&job.job) && !job.left || paused
}

/// Says what has not settled.
pub fn unsettled(history: &History, is_quiet: bool) -> String {
    let stuck: Vec<String> = history
        .jobs
        .values()
        .filter(|job| !job.gone && !rests(job))
        .map(|job| format!("{}: {}", job.job.metadata.name.as_deref().unwrap_or_default(), job_line(&job.job)))
        .collect();
    match (stuck.is_empty(), is_quiet) {
        (false, true) => format!("nothing moves any more, and these have not ended: {}", stuck.join("; ")),
        (false, false) => format!("there is no end of writes, and these have not ended: {}", stuck.join("; ")),
        (true, _) => "every Job has ended, and there is no end of writes".to_owned(),
    }
}

/// Compares what the Jobs say with what happened. An error is a broken invariant.
pub fn judge(history: &History, containers: &Containers, elapsed: Duration) -> Result<(), String> {
    history.settled()?;
    for (uid, pod) in &history.pods {
        judge_pod(history, containers, elapsed, uid, pod)?;
    }
    for (uid, job) in history.jobs.iter().filter(|(_, job)| !job.gone) {
        let name = job.job.metadata.name.as_deref().unwrap_or_default();
        let pods: Vec<&PodRecord> = history.pods_of(uid).map(|(_, pod)| pod).collect();
        judge_job(job, &pods).map_err(|what| format!("job {name}: {what}; {}", job_line(&job.job)))?;
    }
    Ok(())
}

fn judge_pod(
    history: &History,
    containers: &Containers,
    elapsed: Duration,
    uid: &Uid,
    pod: &PodRecord,
) -> Result<(), String> {
    let owner = pod.job.as_ref().and_then(|job| history.jobs.get(job));
    let is_orphan = owner.is_none_or(|job| job.gone);
    if is_orphan && !pod.gone && !pod.is_stray {
        return Err(format!("pod {} is there though its Job is gone", pod.name));
    }
    if !pod.gone && pod.class == Class::Leaving {
        return Err(format!("pod {} is still being deleted", pod.name));
    }
    let last = containers.of_pod(&uid.to_string()).next_back();
    if !pod.gone && last.is_some_and(|(_, one)| one.ends > elapsed) && pod.class != Class::Active {
        return Err(format!("pod {} has ended, and its container runs", pod.name));
    }
    match (pod.phase.as_str(), last) {
        ("Succeeded", None) => Err(format!("pod {} succeeded without having run", pod.name)),
        ("Succeeded", Some((_, one))) if one.code != 0 => {
            Err(format!("pod {} succeeded, and its container exited with {}", pod.name, one.code))
        }
        ("Failed", Some((_, one))) if one.code == 0 && !pod.left => {
            Err(format!("pod {} failed, and its container exited with 0", pod.name))
        }
        _ => Ok(()),
    }
}

fn judge_job(job: &JobRecord, pods: &[&PodRecord]) -> Result<(), String> {
    let status = job.job.status.clone().unwrap_or_default();
    let spec = job.job.spec.clone().unwrap_or_default();
    if foreign_controller(&spec).is_some() {
        return if pods.is_empty() { Ok(()) } else { Err("another controller manages it, and it has pods".to_owned()) };
    }
    let (succeeded, failed) = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
    let count =
        |what: &dyn Fn(&&&PodRecord) -> bool| i32::try_from(pods.iter().filter(what).count()).unwrap_or(i32::MAX);
    let really_succeeded = count(&|pod| pod.phase == "Succeeded");
    let left = count(&|pod| pod.left);
    let sent_away = count(&|pod| pod.sent_away);
    let really_failed = count(&|pod| pod.phase == "Failed");
    if succeeded > really_succeeded {
        return Err(format!("it counts {succeeded} succeeded pods of {really_succeeded}"));
    }
    if failed > really_failed + left {
        return Err(format!("it counts {failed} failed pods of {really_failed}, and {left} were sent away"));
    }
    // Of an Indexed Job indexes are counted, and the ledger looks after them; a policy may ignore failures.
    let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let all_count = !is_indexed && spec.pod_failure_policy.is_none();
    // A pod that it has let go is counted, or not, as it was when its labels went.
    let kept_all = !pods.iter().any(|pod| pod.is_stray || pod.unlabelled);
    let adopted = pods.iter().any(|pod| pod.was_adopted);
    let none_left = left == 0 && sent_away == 0 && !job.shrunk && kept_all;
    if none_left && all_count && (succeeded, failed) != (really_succeeded, really_failed) {
        return Err(format!("{really_succeeded} pods succeeded and {really_failed} failed"));
    }
    match finished(&status) {
        Some(Outcome::Success) if spec.success_policy.is_some() || job.shrunk => Ok(()),
        Some(Outcome::Success) => match spec.completions {
            // Pods that were adopted may end well before the ones that are too many are sent away.
            Some(completions) if succeeded > completions && !is_indexed && adopted => Ok(()),
            Some(completions) if succeeded != completions => {
                Err(format!("it is complete with {succeeded} of {completions} completions"))
            }
            None if succeeded == 0 => Err("it is complete without a success".to_owned()),
            _ => Ok(()),
        },
        Some(Outcome::Failure) => {
            let never = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("Never");
            let limit = job.least_backoff_limit.or(spec.backoff_limit).unwrap_or(6);
            let reason = condition(&status, "Failed").and_then(|condition| condition.reason.as_deref());
            if never && failed <= limit && reason == Some("BackoffLimitExceeded") {
                return Err(format!("it has failed with {failed} failures, and {limit} are allowed"));
            }
            Ok(())
        }
        None => Ok(()),
    }?;
    if status.terminating.unwrap_or(0) != 0 || has_ended(&job.job) && status.active.unwrap_or(0) != 0 {
        return Err("its gauges are wrong".to_owned());
    }
    let active = count(&|pod| !pod.gone && !pod.is_stray && pod.class == Class::Active);
    if !has_ended(&job.job) && status.active.unwrap_or(0) != active {
        return Err(format!("{active} pods are active"));
    }
    Ok(())
}
