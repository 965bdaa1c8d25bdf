//! What starting a container costs: latency, CPU, throughput and resident memory, beside `runc run`, `crun run` and a
//! bare fork and exec of the same program, interleaved in one run so that the ratios hold on a busy machine.
//!
//! `cargo bench -p stint-runtime`; `-- --quick` for a tenth of the rounds, `-- --only stint` for one row. Needs root and /bin/busybox. On a hybrid
//! cgroup machine the whole bench runs without `/sys/fs/cgroup/unified`, in its own mount namespace, because crun
//! refuses to start beside it.
#![allow(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use stint_runtime::zygote::ZygoteHandle;
use stint_runtime::{Bundle, ContainerId, Native, Rootfs, Runtime, Stdin, Writable, default_spec};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// `posix_spawn` of the program, no container.
    Spawn,
    /// start and wait and remove; an image's layer, writes to memory.
    Native,
    /// The same with writes to disk.
    NativeDisk,
    /// The same on the host's own root filesystem.
    NativeHost,
    /// `<program> run`.
    Program(&'static str),
}

struct Bench {
    dir: PathBuf,
    rootfs: PathBuf,
    native: Native,
    next: AtomicU32,
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let only = std::env::args().skip_while(|a| a != "--only").nth(1);
    if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        println!("skipped: the bench needs root and /bin/busybox (package busybox-static)");
        return;
    }
    hide_unified();
    let account = Account::new();
    let zygote = stint_runtime::zygote::spawn().expect("one thread");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio starts");
    let bench = Arc::new(Bench::new(zygote));
    let mut modes = vec![Mode::Spawn, Mode::Native, Mode::NativeDisk, Mode::NativeHost];
    for path in ["/usr/sbin/runc", "/usr/bin/runc", "/usr/bin/crun", "/usr/sbin/crun"] {
        if Path::new(path).exists() && !modes.iter().any(|m| m.name().starts_with(&Mode::Program(path).name())) {
            modes.push(Mode::Program(path));
        }
    }
    if let Some(only) = only {
        modes.retain(|m| m.name() == only);
    }
    runtime.block_on(async {
        latency(&bench, &modes, &account, if quick { 10 } else { 100 }).await;
        throughput(&bench, &modes, &account, if quick { 32 } else { 128 }, if quick { 1 } else { 3 }).await;
        memory(&bench).await;
    });
    drop(runtime);
    bench.end();
    drop(bench);
    std::thread::sleep(Duration::from_millis(100)); // the zygote ends with the last handle
    leave_cgroups();
}

impl Mode {
    fn name(self) -> String {
        match self {
            Self::Spawn => "fork+exec".into(),
            Self::Native => "stint".into(),
            Self::NativeDisk => "stint, upper on disk".into(),
            Self::NativeHost => "stint, host root".into(),
            Self::Program(path) => format!("{} run", Path::new(path).file_name().unwrap().display()),
        }
    }
}

impl Bench {
    fn new(zygote: ZygoteHandle) -> Self {
        let base = std::env::var_os("STINT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = base.join(format!("stint-bench-{}", std::process::id()));
        let rootfs = dir.join("rootfs");
        for folder in ["bin", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        Self { dir, rootfs, native: Native::new(zygote), next: AtomicU32::new(0) }
    }

    fn spec(&self, id: &str, args: &[&str]) -> Spec {
        let mut spec = default_spec();
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        spec.process_mut().as_mut().unwrap().set_args(Some(args));
        spec.root_mut().as_mut().unwrap().set_path(self.rootfs.clone());
        spec.set_hostname(Some("bench".into()));
        let linux = spec.linux_mut().as_mut().unwrap();
        linux.set_cgroups_path(Some(PathBuf::from(format!("/stint-bench/{id}"))));
        let mut json = serde_json::to_value(&spec).unwrap();
        json["linux"]["resources"]["memory"] = serde_json::json!({"limit": 256 << 20});
        json["linux"]["resources"]["pids"] = serde_json::json!({"limit": 100});
        json["linux"]["resources"]["cpu"] = serde_json::json!({"shares": 1024});
        serde_json::from_value(json).unwrap()
    }

    /// One container, from nothing to nothing; returns when its exit was known and when all of it was gone.
    async fn once(&self, mode: Mode) -> (Duration, Duration) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("bench-{}-{n}", std::process::id());
        let args = ["/bin/busybox", "true"];
        let spec = (mode != Mode::Spawn).then(|| self.spec(&id, &args));
        let dir = self.dir.join(&id);
        let started = Instant::now();
        match mode {
            Mode::Spawn => {
                run(Command::new(args[0]).arg(args[1])).await;
                (started.elapsed(), started.elapsed())
            }
            Mode::Native | Mode::NativeDisk | Mode::NativeHost => {
                fs::create_dir(&dir).unwrap();
                let id = ContainerId::new(id).unwrap();
                let lower = vec![self.rootfs.clone()];
                let rootfs = match mode {
                    Mode::NativeHost => Rootfs::Host { size: None },
                    Mode::NativeDisk => Rootfs::Overlay { lower, writable: Writable::Directory(dir.clone()) },
                    _ => Rootfs::Overlay { lower, writable: Writable::Tmpfs { size: None } },
                };
                let bundle = Bundle {
                    id: id.clone(),
                    spec: spec.unwrap(),
                    rootfs,
                    log: dir.join("log"),
                    dir: dir.clone(),
                    rotation: None,
                    stdin: Stdin::Empty,
                    together: None,
                };
                self.native.start(bundle).await.unwrap();
                let exit = self.native.wait(&id).await.unwrap();
                let exited = started.elapsed();
                assert_eq!(exit.code, 0);
                self.native.remove(&id).await.unwrap();
                fs::remove_dir_all(&dir).unwrap();
                (exited, started.elapsed())
            }
            Mode::Program(path) => {
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("config.json"), serde_json::to_vec(&spec.unwrap()).unwrap()).unwrap();
                run(Command::new(path).args(["run", "--bundle"]).arg(&dir).arg(&id)).await;
                fs::remove_dir_all(&dir).unwrap();
                (started.elapsed(), started.elapsed())
            }
        }
    }

    fn end(&self) {
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

async fn run(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

async fn latency(bench: &Bench, modes: &[Mode], account: &Account, rounds: usize) {
    let mut times = vec![(Vec::new(), Vec::new()); modes.len()];
    let mut cpu = vec![Duration::ZERO; modes.len()];
    for round in 0..rounds + 3 {
        for (n, mode) in modes.iter().enumerate() {
            let before = account.cpu();
            let (exited, gone) = bench.once(*mode).await;
            if round >= 3 {
                times[n].0.push(exited);
                times[n].1.push(gone);
                cpu[n] += account.cpu().saturating_sub(before);
            }
        }
    }
    println!("\none at a time, `true`, {rounds} each, default security (ms)");
    println!("{:<22}{:>9}{:>9}{:>9}{:>12}{:>10}{:>10}", "", "min", "p50", "p99", "gone, p50", "CPU", "p50 ratio");
    let stint = modes.iter().position(|m| *m == Mode::Native).unwrap_or(0);
    let reference = percentile(&mut times[stint].0, 50);
    for (n, mode) in modes.iter().enumerate() {
        let (exited, gone) = &mut times[n];
        let p50 = percentile(exited, 50);
        println!(
            "{:<22}{:>9.2}{:>9.2}{:>9.2}{:>12.2}{:>10.2}{:>10.2}",
            mode.name(),
            percentile(exited, 0),
            p50,
            percentile(exited, 99),
            percentile(gone, 50),
            cpu[n].as_secs_f64() * 1e3 / rounds_of(rounds),
            p50 / reference,
        );
    }
}

fn rounds_of(rounds: usize) -> f64 {
    f64::from(u32::try_from(rounds).unwrap())
}

async fn throughput(bench: &Arc<Bench>, modes: &[Mode], account: &Account, count: usize, rounds: usize) {
    println!("\nthroughput, median of {rounds} rounds of {count} (containers/s, in brackets CPU ms each)");
    println!("{:<22}{:>18}{:>18}{:>18}", "", "1 in flight", "8", "32");
    let mut table = vec![Vec::new(); modes.len()];
    for width in [1, 8, 32] {
        let mut rates = vec![Vec::new(); modes.len()];
        for _ in 0..rounds {
            for (n, mode) in modes.iter().enumerate() {
                let left = Arc::new(AtomicU32::new(u32::try_from(count).unwrap()));
                let (cpu, started) = (account.cpu(), Instant::now());
                let workers: Vec<_> = (0..width)
                    .map(|_| {
                        let (bench, left, mode) = (bench.clone(), left.clone(), *mode);
                        tokio::spawn(async move {
                            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
                            {
                                bench.once(mode).await;
                            }
                        })
                    })
                    .collect();
                for worker in workers {
                    worker.await.unwrap();
                }
                let rate = rounds_of(count) / started.elapsed().as_secs_f64();
                rates[n].push((rate, account.cpu().saturating_sub(cpu).as_secs_f64() * 1e3 / rounds_of(count)));
            }
        }
        for (n, mut all) in rates.into_iter().enumerate() {
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            table[n].push(all[all.len() / 2]);
        }
    }
    for (n, mode) in modes.iter().enumerate() {
        print!("{:<22}", mode.name());
        for (rate, cpu) in &table[n] {
            print!("{:>18}", format!("{rate:.0} ({cpu:.1})"));
        }
        println!();
    }
}

async fn memory(bench: &Bench) {
    let mut ids = Vec::new();
    for n in 0..16 {
        let id = ContainerId::new(format!("memory-{}-{n}", std::process::id())).unwrap();
        let dir = bench.dir.join(id.as_str());
        fs::create_dir(&dir).unwrap();
        let spec = bench.spec(id.as_str(), &["/bin/busybox", "sleep", "1000"]);
        let rootfs = Rootfs::Overlay { lower: vec![bench.rootfs.clone()], writable: Writable::Directory(dir.clone()) };
        let log = dir.join("log");
        bench
            .native
            .start(Bundle {
                id: id.clone(),
                spec,
                rootfs,
                dir: dir.clone(),
                log,
                rotation: None,
                stdin: Stdin::Empty,
                together: None,
            })
            .await
            .unwrap();
        ids.push((id, dir));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut rss, mut pss, mut private) = (0, 0, 0);
    for (_, dir) in &ids {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("state.json")).unwrap()).unwrap();
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", state["shim"]["pid"])).unwrap();
        let sum = |names: &[&str]| -> u64 {
            rollup
                .lines()
                .filter(|l| names.iter().any(|n| l.starts_with(n)))
                .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
                .sum()
        };
        rss += sum(&["Rss:"]);
        pss += sum(&["Pss:"]);
        private += sum(&["Private_Clean:", "Private_Dirty:"]);
    }
    println!("\nresident shim, mean of 16 (kB): RSS {}, PSS {}, private {}", rss / 16, pss / 16, private / 16);
    for (id, _) in &ids {
        bench.native.remove(id).await.unwrap();
    }
}

/// In milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

/// CPU time of this process and all that came of it, also of what was reaped elsewhere: by a cgroup.
struct Account {
    usage: Option<PathBuf>,
}

impl Account {
    fn new() -> Self {
        let v1 = Path::new("/sys/fs/cgroup/cpuacct/stint-bench");
        let v2 = Path::new("/sys/fs/cgroup/stint-bench");
        let (group, own, usage) = if Path::new("/sys/fs/cgroup/cpuacct").exists() {
            (v1, v1.to_owned(), v1.join("cpuacct.usage"))
        } else {
            (v2, v2.join("bench"), v2.join("cpu.stat"))
        };
        let joined = fs::create_dir_all(&own).and_then(|()| fs::write(own.join("cgroup.procs"), "0"));
        Self { usage: joined.ok().filter(|()| group.exists()).map(|()| usage) }
    }

    fn cpu(&self) -> Duration {
        let Some(usage) = &self.usage else { return Duration::ZERO };
        let text = fs::read_to_string(usage).unwrap_or_default();
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            [nanos] => Duration::from_nanos(nanos.parse().unwrap_or(0)),
            ["usage_usec", micros, ..] => Duration::from_micros(micros.parse().unwrap_or(0)),
            _ => Duration::ZERO,
        }
    }
}

/// Leaves the cgroup and removes the bench's, in every hierarchy.
fn leave_cgroups() {
    let top = Path::new("/sys/fs/cgroup");
    let _ = fs::write(top.join("cpuacct/cgroup.procs"), "0").or_else(|_| fs::write(top.join("cgroup.procs"), "0"));
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|e| e.path());
    for group in hierarchies.chain([top.to_owned()]).map(|h| h.join("stint-bench")) {
        for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(group);
    }
}

fn hide_unified() {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        return;
    }
    // SAFETY: a new mount namespace leaves memory and descriptors as they are.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH).unwrap();
}
