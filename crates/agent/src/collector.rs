//! Takes images away that nobody uses: when their disk fills up, when they were unused for too long, and when the node is
//! short of room.
//!
//! Which images go, and how many bytes, is decided by [`stint_core::pressure::ImagePolicy`]; here one after the other is
//! removed until enough is free. An image that somebody begins to use meanwhile stays.
//! Upstream: `pkg/kubelet/kubelet.go` (`StartGarbageCollection`), v1.36: a first failure in a row is not told.

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use stint_core::plan::Severity;
use stint_core::pressure::{Amount, ImagePolicy, ImageUse, Signal, shortfall};
use stint_image::{Digest, ImageStore};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::agent::{RootfsMode, Shared};
use crate::error::Error;
use crate::worker::{blocking, timestamp};

/// Who takes images away.
#[derive(Clone)]
pub(crate) struct Collector {
    shared: Arc<Shared>,
    store: ImageStore,
    policy: ImagePolicy,
}

/// How much is to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Images that were unused for too long.
    Outdated,
    /// So many bytes.
    Bytes(u64),
}

impl Collector {
    /// That of an agent; `None` where there are no images, or none are to go.
    pub(crate) fn of(shared: &Arc<Shared>) -> Option<Collector> {
        let RootfsMode::Image { store, .. } = &shared.config.rootfs else { return None };
        let policy = shared.config.images?;
        Some(Collector { shared: Arc::clone(shared), store: store.clone(), policy })
    }

    /// Looks now and then until it is dropped.
    pub(crate) async fn run(self) {
        let period = self.shared.config.collect_period;
        let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed_before = false;
        loop {
            ticks.tick().await;
            let done = self.collect().await;
            if let Err(error) = &done {
                tracing::warn!(error = %error.chain(), "images could not be taken away as they should");
                if failed_before {
                    self.tell("ImageGCFailed", &error.chain());
                }
            }
            failed_before = done.is_err();
        }
    }

    /// Takes away every image that may go.
    pub(crate) async fn collect_all(&self) -> Result<u64, Error> {
        self.free(Goal::Bytes(u64::MAX)).await
    }

    async fn collect(&self) -> Result<(), Error> {
        if self.policy.max_age.is_some() {
            self.free(Goal::Outdated).await?;
        }
        let Some(disk) = self.disk() else { return Ok(()) };
        if disk.capacity == 0 {
            let message = "invalid capacity 0 on image filesystem";
            self.tell("InvalidDiskCapacity", message);
            return Err(Error::config(message));
        }
        let Some(excess) = self.policy.excess(disk) else { return Ok(()) };
        let freed = self.free(Goal::Bytes(excess)).await?;
        if freed < excess {
            let message = shortfall(disk, freed);
            self.tell("FreeDiskSpaceFailed", &message);
            return Err(Error::config(message));
        }
        Ok(())
    }

    fn disk(&self) -> Option<Amount> {
        self.shared.config.gauge.read().get(&Signal::ImagefsAvailable).copied()
    }

    /// Takes images away until the goal is met, or none is left that may go; returns how many bytes that freed.
    async fn free(&self, goal: Goal) -> Result<u64, Error> {
        let (store, policy, now) = (self.store.clone(), self.policy, self.shared.clock.now());
        blocking(move || free(&store, policy, goal, now)).await
    }

    fn tell(&self, reason: &str, message: &str) {
        if let Some(recorder) = &self.shared.recorder {
            let node = &self.shared.config.machine.name;
            recorder.tell_of_node(node, Severity::Warning, reason, message, self.shared.clock.now());
        }
    }
}

fn free(store: &ImageStore, policy: ImagePolicy, goal: Goal, now: Timestamp) -> Result<u64, Error> {
    let fault = |error: stint_image::Error| Error::config(error.to_string());
    let at = |time: SystemTime| timestamp(time).min(now);
    let images: Vec<ImageUse> = store
        .usage()
        .map_err(fault)?
        .into_iter()
        .map(|image| ImageUse {
            is_used: !image.owners.is_empty(),
            came: at(image.came),
            last_used: at(image.last_used),
            id: image.digest.into(),
        })
        .collect();
    let (chosen, wanted) = match goal {
        Goal::Outdated => (policy.outdated(&images, now), u64::MAX),
        Goal::Bytes(bytes) => (policy.order(&images, now), bytes),
    };
    let mut freed: u64 = 0;
    for image in chosen {
        if freed >= wanted {
            break;
        }
        let digest: Digest = image.id.parse().map_err(|fault| Error::config(format!("image {}: {fault}", image.id)))?;
        if let Some(removed) = store.remove_unused(&digest).map_err(fault)? {
            tracing::info!(image = image.id, bytes = removed.bytes, "an image is taken away that nobody uses");
            freed = freed.saturating_add(removed.bytes);
        }
    }
    Ok(freed)
}
