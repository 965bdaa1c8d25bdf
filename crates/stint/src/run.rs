//! `stint run`: Jobs from manifests to their end, in this process, with nothing left behind.
//!
//! ```text
//! manifests ─► checked ─► API in memory ◄─► controllers
//!                              ▲  ▲
//!                    follow ───┘  └───► agent ─► containers
//! ```

mod follow;
mod load;
mod screen;

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use stint_agent::RootfsMode;
use stint_runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::RunArgs;
use crate::embedded::{self, Embedded, Launcher};
use crate::exit::Exit;
use crate::folder::{self, RunFolder};
use crate::real;
use crate::rootless;
pub(crate) use follow::{Downloads, Follow, Place};
pub(crate) use load::manifests;
use load::{LoadError, Root, Workload, load};
pub use screen::{Screen, Stream, Style};

/// Runs the Jobs that `args` name.
pub fn main(data: &Path, args: &RunArgs) -> anyhow::Result<Exit> {
    // The zygote is forked from a process that is still small and has one thread.
    let launcher = Launcher::fork(data, args.runtime.as_deref())?;
    let root = if args.host { Root::Host } else { Root::Image };
    let workload = match load(&args.files, root) {
        Ok(workload) => workload,
        Err(LoadError::Unreadable(error)) => return Err(error),
        Err(LoadError::Faults(faults)) => {
            for fault in faults {
                eprintln!("{fault}");
            }
            return Ok(Exit::Data);
        }
    };
    let problems = stint_runtime::check_host();
    if !problems.is_empty() {
        let lines: Vec<String> = problems.iter().map(|problem| format!("- {problem}")).collect();
        bail!("this machine can't run containers as things are:\n{}", lines.join("\n"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("can't start the async runtime")?.block_on(run(data, args, launcher, workload))
}

async fn run(data: &Path, args: &RunArgs, launcher: Launcher, workload: Workload) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let screen = Arc::new(Screen::new(Style {
        quiet: args.quiet,
        prefix: args.prefix.unwrap_or_else(|| workload.is_parallel()),
        objects_on_stdout: args.output.is_some(),
    }));
    for warning in &workload.warnings {
        screen.say(&format!("warning: {warning}"));
    }

    if !args.quiet
        && let Some(told) = rootless::not_enforced(&rootless::Network::AsAsked)
    {
        screen.say(&told);
    }

    let containers = launcher.runtime();
    for dead in folder::abandoned(data) {
        tracing::info!(run = dead.id, "a run that was killed is cleaned up");
        sweep(data, &dead, &*containers).await?;
    }
    let folder = RunFolder::create(data, real::run_id())?;
    let rootfs = if args.host {
        RootfsMode::Host { size: None }
    } else {
        RootfsMode::Image { store: embedded::images(data)?, access: embedded::access(&args.registry) }
    };
    let (observer, pulling) = Downloads::new(Arc::clone(&screen));
    let claims = workload.claims_at_all();
    let backoff = args.backoff.delays();
    let stint = Embedded::start(Arc::clone(&containers), &folder, rootfs, Arc::new(observer), backoff, claims);
    let jobs = submit(&stint.client, workload).await?;
    let (client, folders) = (stint.client.clone(), folder.agent.clone());
    let mut follow = Follow::new(client, Arc::clone(&screen), Place::Here(folders), pulling, jobs, started);
    let timeout = async {
        match args.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => pending().await,
        }
    };
    let cut_short = tokio::select! {
        ended = follow.until_finished() => { ended?; None }
        () = timeout => Some((Exit::Timeout, "the time given by --timeout is over")),
        _ = interrupt.recv() => Some((Exit::Interrupted, "interrupted")),
        _ = terminate.recv() => Some((Exit::Interrupted, "terminated")),
    };
    let exit = match cut_short {
        None => follow.outcome(),
        Some((exit, why)) => {
            screen.say(&format!("{why}: ending the pods (again to end them at once)"));
            tokio::select! {
                ended = follow.cut_short() => ended?,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            exit
        }
    };
    // From here on nothing is decided any more, and whatever still runs is ended and taken away.
    stint.stop().await;
    sweep(data, &folder, &*containers).await?;
    screen.clear();
    if args.output.is_some() {
        screen.object(&follow.objects()).context("can't print the Jobs")?;
    }
    Ok(exit)
}

/// Ends and removes every container of a run, and gives back its images.
async fn sweep(data: &Path, folder: &RunFolder, runtime: &dyn Runtime) -> anyhow::Result<()> {
    stint_agent::sweep(&folder.agent, runtime).await.with_context(|| {
        format!("can't clean up {}; the next run on this data folder tries again", folder.path.display())
    })?;
    if folder::images(data).exists() {
        stint_agent::release_images(&embedded::images(data)?, &folder.id, |_| false);
    }
    Ok(())
}

/// Puts the workload into the API; returns the Jobs as it took them.
async fn submit(client: &Client, workload: Workload) -> anyhow::Result<Vec<Job>> {
    let params = PostParams::default();
    let metadata = |namespace: Option<String>| namespace.unwrap_or_else(|| "default".to_owned());
    let mut namespaces: Vec<String> = workload.jobs.iter().filter_map(ResourceExt::namespace).collect();
    namespaces.extend(workload.config_maps.iter().filter_map(ResourceExt::namespace));
    namespaces.extend(workload.secrets.iter().filter_map(ResourceExt::namespace));
    namespaces.extend(workload.claims.iter().filter_map(ResourceExt::namespace));
    namespaces.sort();
    namespaces.dedup();
    for name in namespaces.into_iter().filter(|name| name != "default") {
        let namespace =
            Namespace { metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() }, ..Namespace::default() };
        let api: Api<Namespace> = Api::all(client.clone());
        match api.create(&params, &namespace).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.context("can't create a namespace")?),
        }
    }
    for object in workload.config_maps {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &metadata(object.namespace()));
        api.create(&params, &object).await.with_context(|| format!("ConfigMap {}", object.name_any()))?;
    }
    for object in workload.secrets {
        let api: Api<Secret> = Api::namespaced(client.clone(), &metadata(object.namespace()));
        api.create(&params, &object).await.with_context(|| format!("Secret {}", object.name_any()))?;
    }
    for object in workload.claims {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &metadata(object.namespace()));
        api.create(&params, &object).await.with_context(|| format!("PersistentVolumeClaim {}", object.name_any()))?;
    }
    let mut jobs = Vec::new();
    for job in workload.jobs {
        let api: Api<Job> = Api::namespaced(client.clone(), &metadata(job.namespace()));
        jobs.push(api.create(&params, &job).await.with_context(|| format!("Job {}", job.name_any()))?);
    }
    Ok(jobs)
}
