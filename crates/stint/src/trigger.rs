//! `stint trigger`: a CronJob's Job, started by hand and followed to its end.
//!
//! Invariant: what is started is the CronJob's template, with the changes that were asked for and no other; the daemon
//! runs it, whether or not anybody follows.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::EnvVar;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use stint_core::cronjob::manual_job;

use crate::args::TriggerArgs;
use crate::client::named;
use crate::exit::Exit;
use crate::folder;
use crate::run::{Downloads, Follow, Place, Screen, Style};

/// Starts the Job.
pub fn main(data: &Path, args: &TriggerArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("can't start the async runtime")?.block_on(trigger(data, args))
}

async fn trigger(data: &Path, args: &TriggerArgs) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let client = named(args.kubeconfig.as_ref(), data).await?;
    let name = name_of(&args.what)?;
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &args.namespace);
    let cron_job = cron_jobs.get(name).await.with_context(|| format!("can't read {}", args.what))?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &args.namespace);
    let job = jobs.create(&PostParams::default(), &job(&cron_job, args)).await;
    let job = job.with_context(|| format!("can't start a Job of {}", args.what))?;
    let screen = Arc::new(Screen::new(Style { quiet: args.quiet, prefix: false, objects_on_stdout: false }));
    screen.say(&format!("job/{} started", job.name_any()));
    let (_, pulling) = Downloads::new(Arc::clone(&screen));
    let place = match args.kubeconfig {
        Some(_) => Place::Anywhere(args.namespace.clone()),
        None => Place::Here(folder::served(data, "")),
    };
    let mut follow = Follow::new(client, Arc::clone(&screen), place, pulling, vec![job], started);
    tokio::select! {
        ended = follow.until_finished() => ended?,
        _ = tokio::signal::ctrl_c() => {
            screen.say("interrupted: the Job goes on");
            screen.clear();
            return Ok(Exit::Interrupted);
        }
    }
    let exit = follow.outcome();
    screen.clear();
    Ok(exit)
}

/// The Job that is to be started.
fn job(cron_job: &CronJob, args: &TriggerArgs) -> Job {
    let base = format!("{}-manual-", cron_job.name_any());
    let mut job = manual_job(cron_job, String::new());
    (job.metadata.name, job.metadata.generate_name) = (None, Some(base));
    let pod = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    let containers = pod.map(|pod| pod.containers.as_mut_slice()).unwrap_or_default();
    for container in &mut *containers {
        let env = container.env.get_or_insert_default();
        env.retain(|known| args.env.iter().all(|(name, _)| known.name != *name));
        env.extend(args.env.iter().map(|(name, value)| EnvVar {
            name: name.clone(),
            value: Some(value.clone()),
            value_from: None,
        }));
    }
    if let Some(first) = containers.first_mut().filter(|_| !args.args.is_empty()) {
        first.args = Some(args.args.clone());
    }
    job
}

/// The name in `cronjob/NAME`, as kubectl writes it.
pub fn name_of(what: &str) -> anyhow::Result<&str> {
    match what.split_once('/') {
        Some(("cronjob" | "cronjobs" | "cj" | "cronjob.batch" | "cronjobs.batch", name)) if !name.is_empty() => {
            Ok(name)
        }
        _ => bail!("{what:?} names no CronJob: give cronjob/NAME"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manual_job_is_the_template_with_what_was_asked_for() {
        let cron_job: CronJob = serde_json::from_value(json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u" },
            "spec": { "schedule": "@daily", "jobTemplate": { "spec": { "template": { "spec": { "containers": [
                { "name": "a", "args": ["old"], "env": [{ "name": "K", "value": "1" }, { "name": "L", "value": "2" }] },
                { "name": "b" },
            ] } } } } },
        }))
        .unwrap();
        let args = TriggerArgs {
            what: "cronjob/c".to_owned(),
            namespace: "n".to_owned(),
            env: vec![("K".to_owned(), "3".to_owned())],
            quiet: false,
            kubeconfig: None,
            args: vec!["new".to_owned()],
        };
        let job = serde_json::to_value(job(&cron_job, &args)).unwrap();
        assert_eq!(job["metadata"]["generateName"], "c-manual-");
        assert_eq!(job["metadata"]["annotations"], json!({ "cronjob.kubernetes.io/instantiate": "manual" }));
        assert_eq!(job["metadata"]["ownerReferences"][0]["controller"], true);
        let containers = &job["spec"]["template"]["spec"]["containers"];
        let env = json!([{ "name": "L", "value": "2" }, { "name": "K", "value": "3" }]);
        assert_eq!((&containers[0]["args"], &containers[0]["env"]), (&json!(["new"]), &env));
        assert_eq!((&containers[1]["args"], &containers[1]["env"][0]["name"]), (&json!(null), &json!("K")));
    }

    #[test]
    fn only_cron_jobs_are_named() {
        assert_eq!(name_of("cj/a").unwrap(), "a");
        for wrong in ["a", "job/a", "cronjob/"] {
            assert!(name_of(wrong).is_err(), "{wrong}");
        }
    }
}
