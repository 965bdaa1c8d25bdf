//! What a queue of keys tells: how much came, how long it waited, how long work on it took (`workqueue_*`).
//!
//! Upstream: `component-base/metrics/prometheus/workqueue/metrics.go`, v1.36.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::time::Instant;

use super::text;

type Labels = [(&'static str, Cow<'static, str>); 1];

/// What one queue tells. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Work {
    name: &'static str,
    adds: Counter,
    retries: Counter,
    depth: Gauge,
    queued: Histogram,
    worked: Histogram,
    running: Arc<Mutex<HashMap<u64, Instant>>>,
    serial: Arc<AtomicU64>,
}

/// Work that goes on until this is dropped.
#[derive(Debug)]
pub struct Running {
    work: Work,
    number: u64,
    since: Instant,
}

impl Work {
    /// An empty queue of this name.
    pub fn new(name: &'static str) -> Work {
        let durations = || Histogram::new(exponential_buckets(10e-9, 10.0, 12));
        Work {
            name,
            adds: Counter::default(),
            retries: Counter::default(),
            depth: Gauge::default(),
            queued: durations(),
            worked: durations(),
            running: Arc::default(),
            serial: Arc::default(),
        }
    }

    /// A key was put into the queue.
    pub fn added(&self) {
        self.adds.inc();
    }

    /// A key is put back after a failure.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// So many keys are in the queue.
    pub fn holds(&self, keys: usize) {
        self.depth.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// Work on a key begins, which was in the queue so long.
    pub fn begin(&self, queued: Duration) -> Running {
        self.queued.observe(queued.as_secs_f64());
        let (number, since) = (self.serial.fetch_add(1, Ordering::Relaxed), Instant::now());
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(number, since);
        Running { work: self.clone(), number, since }
    }

    /// For how many seconds each work goes on that has not ended.
    fn ages(&self) -> Vec<f64> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().map(|since| since.elapsed().as_secs_f64()).collect()
    }
}

/// Shows what these queues tell, as a part of what controllers show.
pub(super) fn encode(queues: &[&Work], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    show(queues, encoder, text::ADDS, |work| work.adds.clone())?;
    show(queues, encoder, text::DEPTH, |work| work.depth.clone())?;
    show(queues, encoder, text::LONGEST, |work| age(work.ages().into_iter().fold(0.0, f64::max)))?;
    show(queues, encoder, text::QUEUED, |work| work.queued.clone())?;
    show(queues, encoder, text::RETRIES, |work| work.retries.clone())?;
    show(queues, encoder, text::UNFINISHED, |work| age(work.ages().into_iter().fold(0.0, |sum, age| sum + age)))?;
    show(queues, encoder, text::WORKED, |work| work.worked.clone())
}

fn age(seconds: f64) -> ConstGauge<f64> {
    ConstGauge::new(seconds)
}

fn show<M: EncodeMetric + TypedMetric>(
    queues: &[&Work],
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&'static str, &'static str),
    metric: fn(&Work) -> M,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, M::TYPE)?;
    for queue in queues {
        let labels: Labels = [("name", Cow::Borrowed(queue.name))];
        metric(queue).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Default for Work {
    /// A queue without a name, of which nobody asks.
    fn default() -> Work {
        Work::new("")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.work.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        self.work.worked.observe(self.since.elapsed().as_secs_f64());
    }
}
