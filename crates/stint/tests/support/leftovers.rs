//! What a daemon leaves on the machine: counted, and ended where a test is over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Kills every container whose record is in a daemon's folder in memory, and waits until their shims have recorded that.
pub fn end_containers(memory: &Path) {
    let records = records(memory);
    let alive = |process: &Value| is_alive(process).then(|| process["pid"].as_i64()).flatten();
    for init in records.iter().filter_map(|record| alive(&record["init"])) {
        let _ = kill_process(Pid::from_raw(init.try_into().unwrap()).unwrap(), Signal::KILL);
    }
    let began = Instant::now();
    while records.iter().any(|record| alive(&record["shim"]).is_some()) && began.elapsed() < super::PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The records of containers that were started and not removed.
fn records(memory: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for pod in entries(memory) {
        for container in entries(&pod.join("containers")) {
            for attempt in entries(&container) {
                let record = fs::read(attempt.join("state.json")).unwrap_or_default();
                found.extend(serde_json::from_slice::<Value>(&record));
            }
        }
    }
    found
}

/// Whether a process of a record exists, and is no other of the same number.
fn is_alive(process: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process["pid"])).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    fields.first().is_some_and(|state| *state != "Z")
        && fields.get(19).and_then(|start| start.parse::<u64>().ok()) == process["start_time"].as_u64()
}

/// Takes away what is mounted in a folder.
pub fn unmount_below(folder: &Path) {
    for mount in mounts().into_iter().rev().filter(|mount| mount.starts_with(folder)) {
        let _ = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Where something is mounted, in the order of mounting.
pub fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?))).collect()
}

/// What is in a folder; nothing, if it is not there.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// How many files a folder holds, in all folders below it.
pub fn files(folder: &Path) -> usize {
    entries(folder).iter().map(|path| if path.is_dir() && !path.is_symlink() { files(path) } else { 1 }).sum()
}

/// The cgroups whose name is `name`, and those below them.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    fn look(folder: &Path, depth: usize, name: &str, found: &mut Vec<PathBuf>) {
        for path in entries(folder).into_iter().filter(|path| path.is_dir()) {
            if path.iter().any(|part| part == name) {
                found.push(path.clone());
            }
            if depth > 0 {
                look(&path, depth - 1, name, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), 6, name, &mut found);
    found
}

/// The descriptors that a process has.
pub fn descriptors(pid: u32) -> usize {
    entries(Path::new(&format!("/proc/{pid}/fd"))).len()
}

/// Network namespaces of processes whose command line has `needle`, and how many of those processes there are.
pub fn processes(needle: &str) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for folder in entries(Path::new("/proc")) {
        let Some(pid) = folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
        let line = fs::read(folder.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(needle) {
            found.insert(pid, line);
        }
    }
    found
}
