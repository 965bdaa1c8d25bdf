//! What the kernel tells of this process, under the names of Prometheus' client libraries.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What the kernel tells.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        #[allow(clippy::cast_precision_loss)] // both are small
        let (ticks, page) = (rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64);
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok()).unwrap_or(0.0);
        // The numbers are those of proc(5), less the two before the state and one.
        let cpu = ConstCounter::new((field(11) + field(12)) / ticks);
        let name = "process_cpu_seconds";
        cpu.encode(encoder.encode_descriptor(name, "User and system time", None, cpu.metric_type())?)?;
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let gauges = [
            ("process_resident_memory_bytes", "Memory that is resident", field(21) * page),
            ("process_virtual_memory_bytes", "Memory that is mapped", field(20)),
            ("process_start_time_seconds", "When it started, since 1970", boot + field(19) / ticks),
            ("process_threads", "Threads", field(17)),
            ("process_open_fds", "Open descriptors", descriptors as f64),
            ("process_max_fds", "The most descriptors that may be open", most as f64),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::<f64>::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
