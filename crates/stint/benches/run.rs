//! The figures of `stint run`, each beside what the machine's other tools take for the same work, interleaved in one run
//! so that the ratios hold on a noisy machine. `make bench` prints them.
//!
//! crun refuses hybrid cgroups; it and runc are timed from inside a private mount namespace where the unified hierarchy
//! is not mounted and the root filesystem is mounted once below a throw-away overlay, which `stint run` does anew for
//! each container. Root and Debian's runc and crun are needed; what is missing is left out with a notice.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use stint::embedded::{Claims, Embedded, Launcher};
use stint::folder::RunFolder;
use stint_agent::{NoObserver, RootfsMode};
use stint_core::job::Backoff;

const ROUNDS: u32 = 100;

fn main() {
    if let Some(folder) = std::env::args().skip_while(|arg| arg != "--timer").nth(1) {
        return timer(Path::new(&folder));
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: containers need root");
    }
    // Before any thread, as the program does it.
    let launcher = Launcher::fork(Path::new("/nonexistent"), None).expect("the zygote starts");
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm takes a folder");
    let mut others = Others::start(folder.path());
    let data = tempfile::tempdir_in("/var/lib").expect("/var/lib takes a folder");
    let stint = Stint { data: data.path().to_owned(), manifest: data.path().join("true.json") };
    fs::write(&stint.manifest, manifest("true", &["/bin/true"], 1, 1)).expect("the data folder takes a file");

    println!("| one container that runs `true` | p50 ms | p99 ms | CPU ms | × of crun |\n|---|---|---|---|---|");
    let mut rows: Vec<(String, Vec<Sample>)> = Vec::new();
    let mut note = |name: &str, sample: Sample| match rows.iter_mut().find(|(known, _)| known == name) {
        Some((_, samples)) => samples.push(sample),
        None => rows.push((name.to_owned(), vec![sample])),
    };
    for round in 0..=ROUNDS {
        let stint = stint.once();
        let spawned = others.time("spawn");
        let programs = others.programs.clone().into_iter().map(|program| (program.clone(), others.time(&program)));
        let programs: Vec<_> = programs.collect();
        if round == 0 {
            continue; // everything is warm from here on
        }
        note("`stint run --host`, the whole process", stint);
        note("fork and exec", spawned);
        for (program, sample) in programs {
            note(&format!("`{program} run`"), sample);
        }
    }
    let crun = rows.iter().find(|(name, _)| name.contains("crun")).map(|(_, samples)| percentile(samples, 50));
    for (name, samples) in &rows {
        let ratio = crun.map_or("–".to_owned(), |crun| format!("{:.2}", percentile(samples, 50) / crun));
        let cpu: f64 = samples.iter().map(|sample| sample.cpu.as_secs_f64()).sum();
        let cpu = cpu * 1e3 / f64::from(ROUNDS);
        let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
        println!("| {name} | {p50:.1} | {p99:.1} | {cpu:.1} | {ratio} |");
    }

    stint.sequential(launcher);
    stint.parallel(&mut others);
    stint.idle();
    let size = fs::metadata(env!("CARGO_BIN_EXE_stint")).expect("the program is there").len();
    println!("| release binary | {}.{} MB |", size / 1_000_000, size / 100_000 % 10);
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    wall: Duration,
    cpu: Duration,
}

/// The p-th percentile of the wall times, in milliseconds.
fn percentile(samples: &[Sample], p: usize) -> f64 {
    let mut walls: Vec<Duration> = samples.iter().map(|sample| sample.wall).collect();
    walls.sort();
    walls[(walls.len() * p / 100).min(walls.len() - 1)].as_secs_f64() * 1e3
}

fn manifest(name: &str, command: &[&str], completions: u32, parallelism: u32) -> String {
    serde_json::json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "completions": completions, "parallelism": parallelism, "template": { "spec": {
            "containers": [{ "name": "c", "image": "none", "command": command }], "restartPolicy": "Never",
        }}},
    })
    .to_string()
}

/// What this process's children, and theirs, have used.
fn children_cpu() -> Duration {
    // Fields 16 and 17 of /proc/self/stat, after the name in parentheses: cutime and cstime in ticks of 10 ms. Too coarse
    // for one child; its own accounting is read instead, see `timed`.
    let stat = fs::read_to_string("/proc/self/stat").expect("this process has a stat file");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[13].parse::<u64>().unwrap_or(0) + fields[14].parse::<u64>().unwrap_or(0);
    Duration::from_millis(ticks * 10)
}

/// Runs `command` to its end.
fn timed(command: &mut Command) -> Sample {
    let before = children_cpu();
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let wall = started.elapsed();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {status:?}");
    // Ticks are coarse for one run and right on the average over a hundred.
    Sample { wall, cpu: children_cpu().saturating_sub(before) }
}

struct Stint {
    data: std::path::PathBuf,
    manifest: std::path::PathBuf,
}

impl Stint {
    fn command(&self, manifest: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
        command.env("STINT_DATA", &self.data).args(["run", "--host", "--quiet"]).arg(manifest);
        command
    }

    fn once(&self) -> Sample {
        timed(&mut self.command(&self.manifest))
    }

    /// A hundred Jobs one after the other through one API in this process, from creation to `Complete` on a watch.
    fn sequential(&self, launcher: Launcher) {
        let folder = RunFolder::create(&self.data, "bench".to_owned()).expect("the data folder takes a run");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
        let mut samples = runtime.block_on(async {
            let containers = launcher.runtime();
            let rootfs = RootfsMode::Host { size: None };
            let stint = Embedded::start(
                Arc::clone(&containers),
                &folder,
                rootfs,
                Arc::new(NoObserver),
                Backoff::default(),
                Claims::None,
            );
            let jobs: Api<Job> = Api::default_namespaced(stint.client.clone());
            let mut samples = Vec::new();
            for round in 0..=ROUNDS {
                let name = format!("true-{round}");
                let job = manifest(&name, &["/bin/true"], 1, 1);
                let job: Job = serde_json::from_str(&job).expect("the manifest is a Job");
                let started = Instant::now();
                jobs.create(&PostParams::default(), &job).await.expect("the API takes the Job");
                await_condition(jobs.clone(), &name, |job: Option<&Job>| {
                    let status = job.and_then(|job| job.status.clone()).unwrap_or_default();
                    stint_core::job::finished(&status).is_some()
                })
                .await
                .expect("the Job completes");
                samples.push(Sample { wall: started.elapsed(), cpu: Duration::ZERO });
            }
            stint.stop().await;
            stint_agent::sweep(&folder.agent, &*containers).await.expect("everything can be cleaned up");
            samples
        });
        samples.remove(0);
        let (p50, p99) = (percentile(&samples, 50), percentile(&samples, 99));
        println!("| one Job in a running Stint, created to `Complete` | {p50:.1} | {p99:.1} | – | – |");
    }

    /// One Job of 500 pods, 16 at a time; beside it the same number of containers by the other tools, 16 at a time.
    fn parallel(&self, others: &mut Others) {
        println!("\n| 500 containers, 16 at a time | containers/s | CPU ms each |\n|---|---|---|");
        let file = self.data.join("many.json");
        fs::write(&file, manifest("many", &["/bin/true"], 500, 16)).expect("the data folder takes a file");
        let sample = timed(&mut self.command(&file));
        let row = |name: &str, sample: Sample| {
            let (rate, cpu) = (500.0 / sample.wall.as_secs_f64(), sample.cpu.as_secs_f64() * 1e3 / 500.0);
            println!("| {name} | {rate:.0} | {cpu:.1} |");
        };
        row("one Job in `stint run --host`", sample);
        for program in others.programs.clone() {
            let sample = others.time(&format!("many {program}"));
            row(&format!("`{program} run`"), sample);
        }
    }

    /// What the processes of a run hold while its container sleeps.
    fn idle(&self) {
        println!("\n| while one container sleeps | |\n|---|---|");
        let file = self.data.join("sleep.json");
        fs::write(&file, manifest("sleep", &["/bin/sleep", "3"], 1, 1)).expect("the data folder takes a file");
        let mut child = self.command(&file).stdout(Stdio::null()).spawn().expect("stint starts");
        std::thread::sleep(Duration::from_secs(1));
        let proc = format!("/proc/{}", child.id());
        let status = fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0)
        };
        println!(
            "| `stint run`, RSS | {:.1} MB |\n| `stint run`, threads | {} |",
            field("VmRSS:") / 1e3,
            field("Threads:")
        );
        child.wait().expect("stint ends");
    }
}

/// The other tools, in a namespace of their own.
struct Others {
    programs: Vec<String>,
    timer: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Others {
    fn start(folder: &Path) -> Others {
        let there = |program: &&str| {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
            if !found {
                println!("{program} is not installed: left out");
            }
            found
        };
        let programs = ["crun", "runc"].into_iter().filter(there).map(str::to_owned).collect();
        let mut timer = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().expect("this program has a path"))
            .arg("--timer")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let (to, from) = (timer.stdin.take().expect("it is piped"), timer.stdout.take().expect("it is piped"));
        Others { programs, timer, to, from: BufReader::new(from) }
    }

    fn time(&mut self, what: &str) -> Sample {
        writeln!(self.to, "{what}").expect("the timer listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the timer answers");
        let mut numbers = line.split_whitespace().map(|word| Duration::from_nanos(word.parse().expect("a number")));
        Sample { wall: numbers.next().expect("wall time"), cpu: numbers.next().expect("CPU time") }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = self.timer.kill();
        let _ = self.timer.wait();
    }
}

/// Inside the private namespace: mounts the root filesystem once, then times what it is told to on stdin.
fn timer(folder: &Path) {
    let shell = "mkdir u w rootfs && mount -t overlay overlay -o lowerdir=/,upperdir=u,workdir=w rootfs; \
                 mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; true";
    let prepared = Command::new("sh").args(["-ec", shell]).current_dir(folder).status();
    assert!(prepared.is_ok_and(|status| status.success()), "the bundle can be prepared");
    bundle(folder);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the bench writes lines");
        let sample = match line.split_once(' ') {
            Some((_, program)) => many(program, folder),
            None if line == "spawn" => timed(&mut Command::new("/bin/true")),
            None => timed(Command::new(&line).args(["run", "--bundle"]).arg(folder).arg("bench")),
        };
        println!("{} {}", sample.wall.as_nanos(), sample.cpu.as_nanos());
    }
}

fn many(program: &str, folder: &Path) -> Sample {
    let script = format!("seq 500 | xargs -P 16 -I N {program} run --bundle {} bench-N", folder.display());
    timed(Command::new("sh").args(["-c", &script]))
}

/// The tools' own default specification, without a terminal and with `true` to run.
fn bundle(folder: &Path) {
    let program = if Path::new("/usr/bin/crun").exists() { "crun" } else { "runc" };
    let _ = Command::new(program).arg("spec").current_dir(folder).status();
    let file = folder.join("config.json");
    let Ok(text) = fs::read_to_string(&file) else { return };
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("a specification is JSON");
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    spec["process"].as_object_mut().expect("it is an object").remove("rlimits");
    spec["root"]["path"] = "rootfs".into();
    fs::write(file, spec.to_string()).expect("the folder takes a file");
}
