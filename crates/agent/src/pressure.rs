//! Looks after the node while it is short of something: what nobody needs is given back first, then one pod after the other.
//!
//! ```text
//!  Gauge ─► Monitor ─► conditions ─► node (taints), and pods that come are refused
//!              │
//!              └─► Crossed ─► reclaim ─► read again ─► enough?
//!                                                        └─► no: measure the pods, evict the first, wait until it is gone
//! ```
//!
//! What is short, what is enough, and who goes first is decided by [`stint_core::pressure`].
//! Upstream: `pkg/kubelet/eviction/eviction_manager.go`, v1.36.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use stint_core::plan::Severity;
use stint_core::pod::{Attempt, Event, Eviction};
use stint_core::pressure::{self, Candidate, Condition, Crossed, ImageDisk, Monitor, PodUsage, Settings, Signal};
use stint_runtime::{ContainerState, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::agent::{AgentConfig, Shared};
use crate::collector::Collector;
use crate::folder::{Folders, PodFolder};
use crate::gauge::Measured;
use crate::worker::{Message, blocking};

/// How long an evicted pod is waited for before the node is looked at again (`podCleanupTimeout`).
const CLEANUP: Duration = Duration::from_secs(30);
/// How often it is looked whether it has gone (`podCleanupPollFreq`).
const CLEANUP_PERIOD: Duration = Duration::from_secs(1);

/// When a node is short of something, and how often it is looked.
#[derive(Clone, Debug)]
pub struct PressureConfig {
    /// Below which amounts.
    pub settings: Settings,
    /// How often (the kubelet's `monitoringInterval`).
    pub period: Duration,
}

impl Default for PressureConfig {
    /// Never.
    fn default() -> PressureConfig {
        PressureConfig { settings: Settings::default(), period: Duration::from_secs(10) }
    }
}

/// A pod that has a worker, and the way to it.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) pod: Arc<Pod>,
    pub(crate) outbox: mpsc::UnboundedSender<Message>,
}

/// Asks the agent for the pods that it keeps.
pub(crate) type Ask = oneshot::Sender<Vec<Kept>>;

/// Who looks after the node.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    monitor: Monitor,
    collector: Option<Collector>,
    conditions: watch::Sender<BTreeSet<Condition>>,
    asks: mpsc::UnboundedSender<Ask>,
}

impl Guard {
    /// That of an agent, which answers what is asked for.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        conditions: watch::Sender<BTreeSet<Condition>>,
        asks: mpsc::UnboundedSender<Ask>,
    ) -> Guard {
        let monitor = Monitor::new(shared.config.pressure.settings.clone());
        Guard { shared: Arc::clone(shared), monitor, collector: Collector::of(shared), conditions, asks }
    }

    /// Looks again and again until it is dropped.
    pub(crate) async fn run(mut self) {
        if self.monitor.is_idle() {
            return;
        }
        loop {
            let AgentConfig { gauge, pressure, .. } = &self.shared.config;
            let period = pressure.period;
            let verdict = self.monitor.observe(&gauge.read(), self.shared.clock.now());
            self.show(verdict.conditions);
            let evicted = match verdict.crossed {
                Some(crossed) => self.act(&crossed).await,
                None => None,
            };
            match evicted {
                Some(uid) => self.wait_until_gone(&uid).await,
                None => sleep(period).await,
            }
        }
    }

    fn show(&self, conditions: BTreeSet<Condition>) {
        let before = self.conditions.borrow().clone();
        for condition in before.symmetric_difference(&conditions) {
            let reason = condition.event(conditions.contains(condition));
            let node = &self.shared.config.machine.name;
            self.tell(Severity::Normal, reason, &format!("Node {node} status is now: {reason}"));
        }
        self.conditions.send_if_modified(|shown| {
            let is_new = *shown != conditions;
            *shown = conditions;
            is_new
        });
    }

    /// Gives back what nobody needs, and if that is not enough evicts a pod, whose uid is returned.
    async fn act(&self, crossed: &Crossed) -> Option<String> {
        let resource = crossed.signal.resource();
        tracing::warn!(resource, threshold = %crossed.threshold, available = %crossed.available, "the node is short");
        self.tell(Severity::Warning, "EvictionThresholdMet", &format!("Attempting to reclaim {resource}"));
        let pods = self.pods().await?;
        if self.reclaim(crossed.signal, &pods).await && self.monitor.is_relieved(&self.shared.config.gauge.read()) {
            return None;
        }
        self.evict(crossed, pods).await
    }

    /// Gives back what nobody needs; false where that can't help.
    async fn reclaim(&self, signal: Signal, pods: &[Kept]) -> bool {
        let shared_disk = self.shared.config.gauge.image_disk() == ImageDisk::Shared;
        let (of_node, of_images) = match signal {
            Signal::MemoryAvailable | Signal::PidAvailable => return false,
            Signal::NodefsAvailable | Signal::NodefsInodesFree => (true, shared_disk),
            Signal::ImagefsAvailable | Signal::ImagefsInodesFree => (shared_disk, true),
        };
        if let Some(collector) = self.collector.as_ref().filter(|_| of_images)
            && let Err(error) = collector.collect_all().await
        {
            tracing::warn!(error = %error.chain(), "images that nobody uses could not be taken away");
        }
        if of_node {
            let folders = self.shared.config.folders.clone();
            let running =
                pods.iter().filter(|kept| !is_over(&kept.pod)).filter_map(|kept| kept.pod.metadata.uid.clone());
            let running: BTreeSet<String> = running.collect();
            let _ = blocking(move || {
                remove_logs(&folders, &running);
                Ok(())
            })
            .await;
        }
        true
    }

    /// Evicts the pod that is to go first; returns its uid.
    async fn evict(&self, crossed: &Crossed, pods: Vec<Kept>) -> Option<String> {
        let pods: Vec<Kept> = pods.into_iter().filter(|kept| !is_over(&kept.pod)).collect();
        let (shared, signal) = (Arc::clone(&self.shared), crossed.signal);
        let measured: Vec<Measured> =
            pods.iter().filter_map(|kept| measured(&shared.config.folders, &*shared.runtime, &kept.pod)).collect();
        let usage = blocking(move || {
            let usage = shared.config.gauge.pods(&measured, signal);
            Ok(measured.into_iter().map(|it| it.uid).zip(usage).collect::<Vec<(String, Option<PodUsage>)>>())
        });
        let usage = usage.await.unwrap_or_default();
        let of = |pod: &Pod| {
            let uid = pod.metadata.uid.as_ref()?;
            usage.iter().find(|(of, _)| of == uid)?.1.as_ref()
        };
        let candidates: Vec<Candidate<'_>> =
            pods.iter().map(|kept| Candidate { pod: &kept.pod, usage: of(&kept.pod) }).collect();
        let order = pressure::order(&candidates, signal, self.shared.config.gauge.image_disk());
        let Some(first) = order.first() else {
            tracing::warn!(resource = signal.resource(), "the node is short, and there is no pod that could go");
            return None;
        };
        let Candidate { pod, usage } = candidates[*first];
        let message = pressure::message(crossed, pod, usage);
        tracing::warn!(pod = pod.metadata.name, message, "a pod is evicted");
        let why = Eviction::Pressure { grace: crossed.grace };
        let _ = pods[*first].outbox.send(Message::Event(Event::Evicted { why, message }));
        pod.metadata.uid.clone()
    }

    async fn wait_until_gone(&self, uid: &str) {
        let waiting = async {
            while let Some(pods) = self.pods().await
                && pods.iter().any(|kept| kept.pod.metadata.uid.as_deref() == Some(uid) && !is_over(&kept.pod))
            {
                sleep(CLEANUP_PERIOD.min(self.shared.config.pressure.period)).await;
            }
        };
        if tokio::time::timeout(CLEANUP, waiting).await.is_err() {
            tracing::warn!(uid, "an evicted pod has not gone yet");
        }
    }

    /// The pods that have workers. `None`: the agent ends.
    async fn pods(&self) -> Option<Vec<Kept>> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(answer).ok()?;
        answered.await.ok()
    }

    fn tell(&self, severity: Severity, reason: &str, message: &str) {
        if let Some(recorder) = &self.shared.recorder {
            let node = &self.shared.config.machine.name;
            recorder.tell_of_node(node, severity, reason, message, self.shared.clock.now());
        }
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// What is to be measured of a pod.
fn measured(folders: &Folders, runtime: &dyn Runtime, pod: &Arc<Pod>) -> Option<Measured> {
    let uid = pod.metadata.uid.clone()?;
    let folder = PodFolder::new(folders, &uid).ok()?;
    let process =
        |(container, attempt): (String, Attempt)| match runtime.recover(&folder.container(&container, attempt)) {
            Ok(Some(ContainerState::Running { started, .. })) => Some((container, started.pid)),
            _ => None,
        };
    let processes = folder.attempts().into_iter().filter_map(process).collect();
    Some(Measured { uid, pod: Arc::clone(pod), processes, folder })
}

/// Removes the logs of what ended: of pods that are over, and of runs of containers before their last.
fn remove_logs(folders: &Folders, running: &BTreeSet<String>) {
    for uid in folders.pods() {
        let Ok(folder) = PodFolder::new(folders, &uid) else { continue };
        let attempts = folder.attempts();
        for (container, attempt) in &attempts {
            let is_last = !attempts.iter().any(|(name, other)| name == container && other > attempt);
            if is_last && running.contains(&uid) {
                continue;
            }
            match folder.remove_log(container, *attempt) {
                Ok(()) => {
                    tracing::info!(
                        uid,
                        container,
                        run = attempt.0,
                        "the log of what ended is removed for want of room"
                    );
                }
                Err(error) => tracing::warn!(uid, error = %error.chain(), "the log of what ended could not be removed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn logs_go_of_what_ended_and_no_other() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::within(data.path());
        fs::create_dir_all(&folders.logs).unwrap();
        let log = |uid: &str, attempt: u32| folders.logs.join(format!("{uid}_c_{attempt}.log"));
        for (uid, attempt) in [("runs", 0), ("runs", 1), ("runs", 2), ("over", 0)] {
            let folder = PodFolder::new(&folders, uid).unwrap();
            fs::create_dir_all(folder.container("c", Attempt(attempt))).unwrap();
            fs::write(log(uid, attempt), "x").unwrap();
        }
        remove_logs(&folders, &BTreeSet::from(["runs".to_owned()]));
        let left = [log("runs", 0), log("runs", 1), log("runs", 2), log("over", 0)].map(|log| log.exists());
        assert_eq!(left, [false, false, true, false]);
    }
}
