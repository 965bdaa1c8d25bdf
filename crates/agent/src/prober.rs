//! Asks the probes of one run of a container, for as long as it runs.
//!
//! One task per container that has probes. When which is asked and what its answers come to is decided by
//! [`stint_core::pod::probe::Prober`]; the worker hears only of what matters, so that a probe that keeps succeeding costs
//! the pod nothing.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Container, Probe};
use stint_core::pod::probe::{ProbeKind, Prober};
use stint_core::pod::{Attempt, Event};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::handler::Target;
use crate::worker::{Context, LONGEST_WAIT, until};

/// Keeps a task that asks. It ends when this is dropped.
pub(crate) struct Handle {
    task: AbortHandle,
    quiet: watch::Sender<bool>,
}

impl Handle {
    pub(crate) fn new(task: AbortHandle, quiet: watch::Sender<bool>) -> Handle {
        Handle { task, quiet }
    }

    /// The container is being ended: nobody needs to know any more whether it lives.
    pub(crate) fn quieten(&self) {
        self.quiet.send_if_modified(|quiet| !std::mem::replace(quiet, true));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks, and tells the worker what matters, until it is aborted.
pub(crate) async fn ask(
    context: Context,
    target: Target,
    attempt: Attempt,
    mut prober: Prober,
    mut quiet: watch::Receiver<bool>,
) {
    let clock = context.shared.clock.clone();
    let mut asked = FuturesUnordered::new();
    loop {
        let now = clock.now();
        for (kind, limit) in prober.due(now) {
            let limit = Duration::try_from(limit).unwrap_or(LONGEST_WAIT);
            let target = &target;
            asked.push(async move {
                let answer = match find(&target.container, kind) {
                    Some(probe) => target.probe(probe, limit).await,
                    None => return None,
                };
                Some((kind, answer))
            });
        }
        let wait = prober.wake().map_or(LONGEST_WAIT, |at| until(at, now));
        tokio::select! {
            biased;
            Ok(()) = quiet.changed() => prober.quieten(),
            Some(answer) = asked.next(), if !asked.is_empty() => {
                let report = answer.and_then(|(kind, answer)| prober.take(kind, answer, clock.now()));
                if let Some(report) = report {
                    let container = target.container.name.clone();
                    context.send(Event::Probed { container, attempt, report });
                }
            }
            () = sleep(wait) => {}
        }
    }
}

fn find(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}
