//! The Job controller: one task that owns what is known of Jobs, and lets plans be executed beside it.

mod reconciler;

use std::pin::pin;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use kube::{Api, Client};
use stint_core::clock::Clock;
use stint_core::job::kept::SlimPod;
use stint_core::mandate::Mandate;
use stint_core::unmanaged::UnmanagedJob;

use crate::Config;
use crate::cache::JobKey;
use crate::events::recorder;
use crate::execute::{Executor, Report};
use crate::orphan::Orphans;
use crate::queue::wait_for;
pub use reconciler::{Reconciler, What, Work};
use stint_watch::{map, watch};

/// Runs the Job controller until it is dropped.
pub async fn run(client: Client, clock: Arc<dyn Clock>, config: &Config) {
    let (recorder, writing) = recorder(client.clone(), clock.clone(), "job-controller");
    let executor = Executor::new(client.clone(), recorder, config);
    let mut executing: FuturesUnordered<BoxFuture<'static, (JobKey, Report)>> = FuturesUnordered::new();
    let mut reconciler = Reconciler::new(clock.now(), config.clone());
    let mut orphans = Orphans::new(client.clone());
    let jobs = watch(scoped(&client, config), config.lists.first());
    let mut jobs = pin!(jobs.map(|event| map(event, |UnmanagedJob(job)| job)).fuse());
    let watch_pods = || {
        let events = watch(scoped(&client, config), config.lists.first());
        events.map(|event| map(event, |SlimPod(pod)| pod)).fuse()
    };
    let mut pods = pin!(watch_pods());
    let mut writing = pin!(writing.fuse());
    loop {
        if reconciler.wants_pods() {
            pods.set(watch_pods());
        }
        let more = reconciler.begin(clock.now(), |work| executing.push(execute(executor.clone(), work)));
        let wait = wait_for(Some(reconciler.wake()), clock.now());
        tokio::select! {
            biased; // so that one seed is one order of events
            // First, since it is bounded by the workers: then events can't keep the outcome of writes waiting.
            Some((key, report)) = executing.next() => reconciler.finish(&key, report, clock.now()),
            Some(event) = jobs.next() => reconciler.job_event(event, clock.now()),
            // After the Jobs, so that of a pod whose Job has ended no more is remembered than has to be.
            Some(event) = pods.next(), if reconciler.has_jobs() => {
                if config.job_mandate != Mandate::Beside {
                    orphans.see(&event);
                }
                config.metrics.saw(&event);
                reconciler.pod_event(event, clock.now());
            }
            Some(()) = orphans.progress() => {}
            () = tokio::task::yield_now(), if more => {}
            () = tokio::time::sleep(wait) => {}
            () = &mut writing => {}
        }
    }
}

fn execute(executor: Executor, Work { key, what }: Work) -> BoxFuture<'static, (JobKey, Report)> {
    async move {
        let report = match what {
            What::Plan { job, plan } => executor.execute(key.clone(), job, plan).await,
            What::Absent { owners, plan } => executor.execute_absent(key.clone(), owners, plan).await,
        };
        (key, report)
    }
    .boxed()
}

/// The objects of a kind that the controllers look at.
pub fn scoped<K>(client: &Client, config: &Config) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match &config.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
