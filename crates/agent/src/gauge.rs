//! How much of the machine is in use.
//!
//! A reading costs a few small files and system calls, so that it can be taken every few seconds; pods are measured only when
//! one of them has to go.
//! Upstream: `pkg/kubelet/eviction/helpers.go` (`makeSignalObservations`), v1.36; cadvisor of a root cgroup v2: memory that is
//! in use is all but what is free and what can be dropped (`Inactive(file)`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use stint_core::pressure::{Amount, ImageDisk, PodUsage, Readings, Signal};

use crate::folder::{Folders, PodFolder};
use crate::processes::Processes;
use crate::usage;

/// Tells how much of a machine is in use. The seam between the agent's decisions about shortages and the machine.
pub trait Gauge: Send + Sync + 'static {
    /// Reads everything. What can't be read is left out.
    fn read(&self) -> Readings;

    /// Whether images have a filesystem of their own.
    fn image_disk(&self) -> ImageDisk;

    /// Measures what each pod uses of what `signal` is about. `None`: that can't be told.
    fn pods(&self, pods: &[Measured], signal: Signal) -> Vec<Option<PodUsage>>;
}

/// A pod that is to be measured.
pub struct Measured {
    /// Its uid.
    pub uid: String,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The first process of each container that runs, by its container's name.
    pub processes: Vec<(String, i32)>,
    /// What it has on disk.
    pub folder: PodFolder,
}

/// The machine that this runs on.
#[derive(Clone, Debug)]
pub struct MachineGauge {
    /// What containers write is here. It need not be there yet.
    scratch: PathBuf,
    /// Images are here.
    images: PathBuf,
}

impl MachineGauge {
    /// Of a node that keeps the things of pods in `folders`, and images in a store, if it has one.
    pub fn new(folders: &Folders, images: Option<PathBuf>) -> MachineGauge {
        let scratch = folders.scratch.clone();
        MachineGauge { images: images.unwrap_or_else(|| scratch.clone()), scratch }
    }
}

impl Gauge for MachineGauge {
    fn read(&self) -> Readings {
        let mut readings = Readings::new();
        readings.extend(memory().map(|amount| (Signal::MemoryAvailable, amount)));
        readings.extend(pids().map(|amount| (Signal::PidAvailable, amount)));
        let disks = [
            (&self.scratch, Signal::NodefsAvailable, Signal::NodefsInodesFree),
            (&self.images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
        ];
        for (folder, bytes, inodes) in disks {
            let Some((space, files)) = filesystem(folder) else { continue };
            readings.insert(bytes, space);
            // Some filesystems have no number of inodes.
            if files.capacity > 0 {
                readings.insert(inodes, files);
            }
        }
        readings
    }

    fn image_disk(&self) -> ImageDisk {
        let id = |folder: &Path| existing(folder).and_then(|it| rustix::fs::stat(it).ok()).map(|it| it.st_dev);
        if id(&self.scratch) == id(&self.images) { ImageDisk::Shared } else { ImageDisk::Own }
    }

    fn pods(&self, pods: &[Measured], signal: Signal) -> Vec<Option<PodUsage>> {
        match signal {
            Signal::MemoryAvailable | Signal::PidAvailable => {
                let processes = Processes::read();
                pods.iter().map(|pod| of_processes(pod, &processes, signal)).collect()
            }
            _ => pods.iter().map(|pod| Some(on_disk(pod))).collect(),
        }
    }
}

/// Memory and processes of a pod. `None`: it shares the machine's processes, and nobody can tell which are its own.
fn of_processes(pod: &Measured, processes: &Processes, signal: Signal) -> Option<PodUsage> {
    let mut usage = PodUsage::default();
    let mut counted = Vec::new();
    for (container, first) in &pod.processes {
        let Some(namespace) = processes.namespace(*first) else { continue }; // it has just ended
        if processes.is_own(namespace) {
            return None;
        }
        // Containers may share one.
        if counted.contains(&namespace) {
            continue;
        }
        counted.push(namespace);
        let all = processes.within(namespace);
        usage.processes += all.len() as u64;
        if signal == Signal::MemoryAvailable {
            let memory = all.iter().map(|pid| memory_of(*pid)).sum();
            usage.memory += memory;
            usage.containers.entry(container.clone()).or_default().memory = memory;
        }
    }
    if signal == Signal::MemoryAvailable {
        usage.memory += in_memory(pod);
    }
    Some(usage)
}

/// What a process has of memory, its part of what it shares with others included.
fn memory_of(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    kibibytes(&text, "Pss").map_or(0, |amount| amount.saturating_mul(1024))
}

/// What the pod's volumes in memory hold.
fn in_memory(pod: &Measured) -> u64 {
    let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let memory =
        volumes.filter(|it| it.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref() == Some("Memory")));
    let used = memory.filter_map(|volume| {
        let found = rustix::fs::statvfs(pod.folder.volume(&volume.name)).ok()?;
        Some(found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(found.f_frsize))
    });
    used.sum()
}

fn on_disk(pod: &Measured) -> PodUsage {
    let (used, inodes) = usage::with_inodes(&pod.pod, &pod.folder);
    let mut usage = PodUsage { inodes, ..PodUsage::default() };
    usage.disk =
        used.volumes.values().chain(used.containers.values()).fold(0, |sum: u64, one| sum.saturating_add(*one));
    for (container, bytes) in used.containers {
        usage.containers.entry(container).or_default().disk = bytes;
    }
    usage
}

/// The folder, or what is there of the way to it.
fn existing(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|folder| folder.exists())
}

/// Bytes and inodes of the filesystem that a folder is on, as far as they are for programs without privilege.
fn filesystem(folder: &Path) -> Option<(Amount, Amount)> {
    let found = rustix::fs::statvfs(existing(folder)?).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let space = Amount { available: bytes(found.f_bavail), capacity: bytes(found.f_blocks) };
    Some((space, Amount { available: found.f_favail, capacity: found.f_files }))
}

fn memory() -> Option<Amount> {
    memory_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn memory_in(text: &str) -> Option<Amount> {
    let bytes = |name: &str| kibibytes(text, name)?.checked_mul(1024);
    let (free, droppable) = (bytes("MemFree")?, bytes("Inactive(file)")?);
    Some(Amount { available: free.saturating_add(droppable), capacity: bytes("MemTotal")? })
}

/// The number behind a name: `Name:   12 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// How many processes and threads there may be, and how many more than there are.
fn pids() -> Option<Amount> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let capacity = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let used = tasks_in(&fs::read_to_string("/proc/loadavg").ok()?)?;
    Some(Amount { available: capacity.saturating_sub(used), capacity })
}

/// `0.00 0.01 0.05 2/345 6789`: 345 there are.
fn tasks_in(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        let folders = Folders::within(Path::new("/not/there/yet"));
        let gauge = MachineGauge::new(&folders, None);
        let readings = gauge.read();
        for signal in [Signal::MemoryAvailable, Signal::PidAvailable, Signal::NodefsAvailable, Signal::ImagefsAvailable]
        {
            let Amount { available, capacity } = readings[&signal];
            assert!(capacity > 0 && available <= capacity, "{signal:?} {available} {capacity}");
        }
        assert_eq!(gauge.image_disk(), ImageDisk::Shared);
    }

    #[test]
    fn a_process_has_memory() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(memory_of(own) > 1 << 16);
        assert_eq!(memory_of(i32::MAX), 0);
    }

    #[test]
    fn memory_that_can_be_dropped_is_available() {
        let text = "MemTotal:  1000 kB\nMemFree: 100 kB\nInactive:  70 kB\nInactive(file):   50 kB\n";
        assert_eq!(memory_in(text), Some(Amount { available: 150 * 1024, capacity: 1000 * 1024 }));
        assert_eq!(memory_in("MemTotal: x"), None);
        assert_eq!(tasks_in("0.00 0.01 0.05 2/345 6789\n"), Some(345));
    }
}
