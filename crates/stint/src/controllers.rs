//! `stint controllers`: the controllers of Jobs and CronJobs before an API that somebody else serves: a cluster's, or that of a
//! `stint serve` far away.
//!
//! ```text
//!   kubeconfig ─► remote::client ─► rights: asked for at the start and from then on
//!                       └─────────► election ── leads ──► stint_controllers::run, behind the fence
//! ```
//!
//! Invariant: what is done is what the embedded controllers do, by the same code; here it is only settled where the API is,
//! which of its objects are ours, who of several replicas works, and when to stop.

mod health;

use std::sync::Arc;

use anyhow::{Context, bail};
use futures::FutureExt;
use stint_controllers::election::{self, Board, Election, Ended};
use stint_controllers::{Config, Lists, Metrics};
use stint_core::election::Terms;
use stint_core::job::Tuning;
use stint_core::mandate::Mandate;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{ControllersArgs, Work};
use crate::client::Part;
use crate::embedded::node_name;
use crate::exit::Exit;
use crate::real::{self, SystemClock};
use crate::settings::{number, signed};
use crate::{remote, zones};
use health::Health;

/// Works until SIGTERM or Ctrl-C.
pub fn main(args: &ControllersArgs) -> anyhow::Result<Exit> {
    stint_runtime::allocator::expect_many_threads();
    let _log = real::log_to_stderr_as(args.log_format, args.log_level);
    zones::settle();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("can't start the async runtime")?.block_on(work(args))?;
    Ok(Exit::Done)
}

async fn work(args: &ControllersArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for Ctrl-C")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
            _ = interrupt.recv() => tracing::info!("stopping on Ctrl-C"),
        }
    };
    let client = remote::client(&args.kubeconfig, Part::Controllers).await?;
    let config = config(args);
    let namespace = args.lease_namespace.as_deref().unwrap_or(client.default_namespace()).to_owned();
    let candidate = real::short_id(&node_name());
    let terms = Terms::of(args.lease_duration);
    let election = Election { namespace, name: args.lease_name.clone(), candidate, terms };
    let election = args.leader_elect.then(|| (election, Board::default()));

    let health = Health::new(config.metrics.clone(), election.clone());
    health.clone().serve(args.health_address, args.metrics_address).await?;
    tokio::spawn(health.watch_rights(client.clone(), config.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "controllers at work");
    let ended = match election {
        None => tokio::select! {
            () = stop => Ended::Stopped,
            () = stint_controllers::run(client, Arc::new(SystemClock), config) => Ended::WorkEnded,
        },
        Some((election, board)) => {
            let work = move |client| stint_controllers::run(client, Arc::new(SystemClock), config.clone()).boxed();
            election::run(client, Arc::new(SystemClock), election, board, work, stop).await
        }
    };
    match ended {
        Ended::Stopped => tracing::info!("stopped"),
        Ended::WorkEnded => bail!("the controllers have ended by themselves, which is a mistake in them"),
    }
    Ok(())
}

/// What the controllers are told.
fn config(args: &ControllersArgs) -> Config {
    let mandate = |work| if args.take_over.contains(&work) { Mandate::Instead } else { Mandate::Beside };
    Config {
        namespace: args.namespace.clone(),
        jobs: args.controllers.contains(&Work::Jobs),
        job_mandate: mandate(Work::Jobs),
        cron_jobs: args.controllers.contains(&Work::CronJobs),
        cron_job_mandate: mandate(Work::CronJobs),
        lists: Lists::Streams,
        workers: number(args.concurrent_job_syncs),
        tuning: Tuning { backoff: args.backoff.delays(), ..Tuning::default() },
        gather: signed(args.job_sync_batch_period),
        metrics: Metrics::default(),
        ..Config::default()
    }
}
