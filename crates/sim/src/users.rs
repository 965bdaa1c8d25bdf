//! The users: they do what the scenario says, wait until all has settled, and then look whether it is right.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, Client};
use serde_json::json;
use stint_core::job::view::Class;

use crate::auditor::Auditor;
use crate::history::PodRecord;
use crate::judge;
use crate::process::Controllers;
use crate::scenario::Deed;
use crate::world::{State, World};

/// How long nothing may change before all is called quiet: two full passes of the controllers, and some.
const QUIET: Duration = Duration::from_secs(130);
/// How long after the end of chaos everything must have settled.
const PATIENCE: Duration = Duration::from_hours(3);

/// Does what is left to do of the scenario, waits, and judges. An error is a broken invariant.
pub async fn run(world: &World, client: Client, mut controllers: Controllers, auditor: Auditor) -> Result<(), String> {
    loop {
        let (next, now) = {
            let state = world.state();
            (state.scenario.deeds.get(state.deeds_done).cloned(), state.elapsed())
        };
        let Some((at, deed)) = next else { break };
        tokio::time::sleep(Duration::from_millis(at).saturating_sub(now)).await;
        perform(world, &client, &deed, &mut controllers).await?;
        world.state().deeds_done += 1;
    }
    let (calm, now) = {
        let state = world.state();
        (Duration::from_millis(state.scenario.calm), state.elapsed())
    };
    if !is_settled(&world.state()) {
        tokio::time::sleep(calm.saturating_sub(now)).await;
    }
    {
        let mut state = world.state();
        state.tell(|| "chaos ends".to_owned());
        state.chaos.ends();
    }
    let deadline = world.state().elapsed() + PATIENCE;
    loop {
        let before = world.state().history.last_change;
        tokio::time::sleep(QUIET).await;
        if controllers.are_dead() {
            return Err("the controllers have ended by themselves".to_owned());
        }
        let state = world.state();
        let is_quiet = state.history.last_change == before;
        let settled = is_settled(&state);
        if is_quiet && settled {
            break;
        }
        if state.elapsed() > deadline {
            return Err(judge::unsettled(&state.history, is_quiet));
        }
    }
    let state = world.state();
    judge::judge(&state.history, &state.containers, state.elapsed())?;
    auditor.agrees_with(&state)
}

fn is_settled(state: &State) -> bool {
    judge::is_settled(&state.history, state.deeds_done == state.scenario.deeds.len())
}

async fn perform(world: &World, client: &Client, deed: &Deed, controllers: &mut Controllers) -> Result<(), String> {
    world.tell(|| format!("deed {deed:?}"));
    match deed {
        Deed::StepClock(by) => {
            let mut state = world.state();
            state.wall_offset += *by;
            return Ok(());
        }
        Deed::RestartControllers => {
            controllers.restart();
            return Ok(());
        }
        _ => {}
    }
    loop {
        match attempt(world, client, deed).await {
            Ok(()) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Ok(()),
            Err(kube::Error::Api(status)) if status.code < 500 => {
                return Err(format!("the API refuses {deed:?}: {}", status.message));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

async fn attempt(world: &World, client: &Client, deed: &Deed) -> Result<(), kube::Error> {
    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let cron_jobs: Api<CronJob> = Api::default_namespaced(client.clone());
    match deed {
        Deed::CreateCron(wish) => {
            let cron_job: CronJob = serde_json::from_value(wish.manifest()).expect("the manifest is a CronJob");
            cron_jobs.create(&PostParams::default(), &cron_job).await.map(drop)
        }
        Deed::SuspendCron(name, suspend) => {
            let patch = json!({ "spec": { "suspend": suspend } });
            cron_jobs.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Deed::Reschedule(name, schedule) => {
            let patch = json!({ "spec": { "schedule": schedule } });
            cron_jobs.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Deed::Create(wish) => {
            let job: Job = serde_json::from_value(wish.manifest()).expect("the manifest is a Job");
            jobs.create(&PostParams::default(), &job).await.map(drop)
        }
        Deed::Scale(job, parallelism) => {
            let patch = json!({ "spec": { "parallelism": parallelism } });
            jobs.patch(job, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Deed::Suspend(job, suspend) => {
            let patch = json!({ "spec": { "suspend": suspend } });
            jobs.patch(job, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Deed::Resize(job, completions) => {
            let patch = json!({ "spec": { "completions": completions, "parallelism": completions } });
            jobs.patch(job, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Deed::DeletePod(job, which) => match pod_of(world, job, *which) {
            Some(pod) => pods.delete(&pod, &DeleteParams::default()).await.map(drop),
            None => Ok(()),
        },
        Deed::KillPod(job, which) => match pod_of(world, job, *which) {
            Some(pod) => pods.delete(&pod, &DeleteParams::default().grace_period(0)).await.map(drop),
            None => Ok(()),
        },
        Deed::DeleteJob(job, policy) => {
            let policy = match *policy {
                "Foreground" => PropagationPolicy::Foreground,
                _ => PropagationPolicy::Background,
            };
            let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
            jobs.delete(job, &params).await.map(drop)
        }
        // The model's alone.
        Deed::EvictPod(..) | Deed::MakeOrphan(_) | Deed::Relabel(..) | Deed::Turn(..) | Deed::Conclude(_) => Ok(()),
        Deed::StepClock(_) | Deed::RestartControllers => unreachable!("nothing that the API is asked for"),
    }
}

/// The name of one of the Job's pods that are there.
fn pod_of(world: &World, job: &str, which: usize) -> Option<String> {
    let state = world.state();
    let prefix = format!("{job}-");
    let pods: Vec<&str> = state
        .history
        .pods
        .values()
        .filter(|pod| !pod.gone && pod.name.starts_with(&prefix))
        .map(|pod| pod.name.as_str())
        .collect();
    pods.get(which % pods.len().max(1)).map(|name| (*name).to_owned())
}

/// Stands in for the garbage collectors: pods of Jobs that are gone, or wait for their pods to go, are deleted; pods that
/// were deleted before they got a node have failed, and go (upstream: `pkg/controller/podgc`, `gcUnscheduledTerminating`).
pub async fn collect_garbage(world: World, client: Client) {
    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut lost = Vec::new();
        let mut bare = Vec::new();
        let mut unbound = Vec::new();
        {
            let state = world.state();
            let lies = |pod: &&PodRecord| !pod.gone && pod.is_left_lying && !pod.bound;
            lost.extend(state.history.pods.values().filter(lies).map(|pod| pod.name.clone()));
            let never_bound =
                |pod: &&PodRecord| !pod.gone && pod.class == Class::Leaving && !pod.bound && !pod.is_left_lying;
            unbound.extend(state.history.pods.values().filter(never_bound).map(|pod| pod.name.clone()));
            for (uid, job) in state.history.jobs.iter().filter(|(_, job)| job.left || job.gone) {
                let of_job = || state.history.pods_of(uid).filter(|(_, pod)| !pod.gone);
                lost.extend(of_job().filter(|(_, pod)| !pod.deleting).map(|(_, pod)| pod.name.clone()));
                if !job.gone && of_job().next().is_none() {
                    bare.push((uid.clone(), job.job.metadata.name.clone().unwrap_or_default()));
                }
            }
        }
        for pod in unbound {
            let patch = json!({ "status": { "phase": "Failed", "reason": "NeverBound" } });
            let _ = pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
        for pod in lost {
            let _ = pods.delete(&pod, &DeleteParams::default()).await;
        }
        for (uid, job) in bare {
            let patch = json!({ "metadata": { "uid": uid, "finalizers": null } });
            let _ = jobs.patch(&job, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
    }
}
