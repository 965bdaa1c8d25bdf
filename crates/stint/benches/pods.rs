//! The figures of pods in `stint serve`: real containers, each with a network of its own, objects on the disk. Each stands beside
//! what `crun run` takes for the same program, interleaved, so that the ratios hold on a noisy machine. `make bench`
//! prints them; `cargo bench -p stint --bench pods -- small` is a try.
//!
//! All of it is in a network namespace of its own. CPU is what the whole machine was busy, with shims, kernel and all: it is
//! right on a machine that does nothing else.

mod others;
mod usage;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use others::{Others, Sample, percentile, timer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// How much is done.
struct Size {
    rounds: u32,
    pods: u32,
    running: u32,
    idle: Duration,
    lines: u32,
}

fn main() {
    if let Some(folder) = std::env::args().skip_while(|arg| arg != "--timer").nth(1) {
        return timer(Path::new(&folder));
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: containers need root");
    }
    let size = if std::env::args().any(|arg| arg == "small") {
        Size { rounds: 10, pods: 50, running: 20, idle: Duration::from_secs(5), lines: 200_000 }
    } else {
        Size { rounds: 100, pods: 500, running: 300, idle: Duration::from_secs(30), lines: 5_000_000 }
    };
    // Before any thread: daemon and pods are in it, and touch nothing of this machine's.
    stint_runtime::namespace::enter_new_network().expect("the kernel gives a network namespace");
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm takes a folder");
    let mut others = Others::start(folder.path());
    let data = tempfile::tempdir_in("/var/lib").expect("/var/lib takes a folder");
    let daemon = Daemon::start(data.path());
    one_by_one(&daemon, &mut others, &size);
    many(&daemon, &mut others, &size);
    log(&daemon, &size);
    at_rest(&daemon, &size);
}

fn one_by_one(daemon: &Daemon, others: &mut Others, size: &Size) {
    println!("| one container that runs `true` | p50 ms | p99 ms | × of crun |\n|---|---|---|---|");
    let (mut own, mut crun) = (Vec::new(), Vec::new());
    let has_crun = others.programs.iter().any(|program| program == "crun");
    for round in 0..=size.rounds {
        let sample = daemon.run(&format!("true-{round}"), 1, 1, "true");
        let other = has_crun.then(|| others.time("crun"));
        if round > 0 {
            own.push(sample); // everything is warm
            crun.extend(other);
        }
    }
    let row = |name: &str, samples: &[Sample]| {
        let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
        let ratio = if crun.is_empty() { "–".to_owned() } else { format!("{:.2}", p50 / percentile(&crun, 50)) };
        println!("| {name} | {p50:.1} | {p99:.1} | {ratio} |");
    };
    row("a Job in `stint serve`, from POST to `Complete` on a watch", &own);
    if has_crun {
        row("`crun run`", &crun);
    }
}

fn many(daemon: &Daemon, others: &mut Others, size: &Size) {
    println!("\n| containers, 16 at a time | containers/s | CPU ms each |\n|---|---|---|");
    let row = |name: &str, count: u32, sample: Sample| {
        let (rate, cpu) =
            (f64::from(count) / sample.wall.as_secs_f64(), sample.cpu.as_secs_f64() * 1e3 / f64::from(count));
        println!("| {name} | {rate:.0} | {cpu:.1} |");
    };
    row(
        &format!("one Job of {} pods in `stint serve`", size.pods),
        size.pods,
        daemon.run("many", size.pods, 16, "true"),
    );
    for program in others.programs.clone().iter().filter(|program| *program == "crun") {
        let before = busy();
        let sample = others.time(&format!("many {program}"));
        row("500 of `crun run`", 500, Sample { cpu: busy().saturating_sub(before), ..sample });
    }
}

/// How fast a container may write.
fn log(daemon: &Daemon, size: &Size) {
    // Lines of 100 bytes, faster than anything that takes them.
    let line = "x".repeat(99);
    let sample = daemon.run("log", 1, 1, &format!("yes {line} | head -n {}", size.lines));
    let megabytes = f64::from(size.lines) / 1e4;
    println!("\n| a container that writes {megabytes:.0} MB of lines of 100 bytes | |\n|---|---|");
    println!("| logged | {:.0} MB/s |", megabytes / sample.wall.as_secs_f64());
}

fn at_rest(daemon: &Daemon, size: &Size) {
    println!("\n| while {} pods sleep | |\n|---|---|", size.running);
    daemon.create("sleep", size.running, size.running, "sleep 10000");
    let began = Instant::now();
    while daemon.get(&format!("{JOBS}/sleep"))["status"]["ready"] != size.running {
        assert!(began.elapsed() < Duration::from_mins(5), "the pods run: {}", daemon.get(&format!("{JOBS}/sleep")));
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(5));
    let before = daemon.cpu();
    std::thread::sleep(size.idle);
    let share = daemon.cpu().saturating_sub(before).as_secs_f64() / size.idle.as_secs_f64() * 100.0;
    let mut shims: Vec<u64> = daemon.shims().iter().filter_map(|pid| pss(*pid)).collect();
    shims.sort_unstable();
    assert!(shims.len() >= size.running as usize, "{} shims", shims.len());
    let mean = shims.iter().sum::<u64>() / shims.len() as u64;
    println!("| a shim, PSS | {mean} kB, at most {} kB |", shims.last().unwrap_or(&0));
    println!("| the daemon's CPU | {share:.2} % of a core |");
    println!("| the daemon, PSS | {} MB |", pss(daemon.child.id()).unwrap_or(0) / 1000);
}

/// What the machine was busy since it was started, in ticks of 10 ms.
fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("there is one");
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    Duration::from_millis([0, 1, 2, 5, 6].iter().map(|at| ticks[*at]).sum::<u64>() * 10)
}

/// In kB.
fn pss(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}

/// `stint serve` with an agent. Dropping it ends its pods, then it.
struct Daemon {
    child: Child,
    data: PathBuf,
}

impl Daemon {
    fn start(data: &Path) -> Daemon {
        let path = data.join("notify");
        let notified = UnixDatagram::bind(&path).expect("a socket to be notified by");
        notified.set_read_timeout(Some(Duration::from_mins(1))).expect("it takes a timeout");
        let child = Command::new(env!("CARGO_BIN_EXE_stint"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--allow-host-rootfs"])
            .args(["--pod-network", "own", "--max-pods", "1000", "--data"])
            .arg(data)
            .arg("--socket")
            .arg(data.join("stint.sock"))
            .env("NOTIFY_SOCKET", &path)
            .stdin(Stdio::null())
            .spawn()
            .expect("stint starts");
        notified.recv(&mut [0; 64]).expect("the daemon gets ready within a minute");
        Daemon { child, data: data.to_owned() }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> UnixStream {
        let mut socket = UnixStream::connect(self.data.join("stint.sock")).expect("the daemon listens");
        let head = format!("{method} {path} HTTP/1.0\r\nHost: stint\r\nContent-Type: application/json\r\n");
        write!(socket, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("the daemon takes a request");
        socket
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut answer = String::new();
        self.send(method, path, body).read_to_string(&mut answer).expect("the daemon answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), "{answer}");
        body.to_owned()
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.ask("GET", path, "")).expect("the answer is JSON")
    }

    fn create(&self, name: &str, completions: u32, parallelism: u32, script: &str) {
        let container = json!({ "name": "c", "image": "host", "command": ["sh", "-c", script] });
        let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container] });
        let template = json!({ "metadata": { "annotations": { "stint.dev/rootfs": "host" } }, "spec": spec });
        let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "completions": completions, "parallelism": parallelism, "template": template } });
        self.ask("POST", JOBS, &job.to_string());
    }

    /// A Job to its end, as somebody sees it who watches.
    fn run(&self, name: &str, completions: u32, parallelism: u32, script: &str) -> Sample {
        let watch = self.send("GET", &format!("{JOBS}?watch=true&fieldSelector=metadata.name%3D{name}"), "");
        let mut watch = BufReader::new(watch);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            watch.read_line(&mut line).expect("the watch begins");
        }
        let (began, before) = (Instant::now(), busy());
        self.create(name, completions, parallelism, script);
        while !line.contains("\"type\":\"Complete\"") {
            line.clear();
            assert_ne!(watch.read_line(&mut line).expect("the watch goes on"), 0, "the watch ended");
            assert!(!line.contains("\"type\":\"Failed\""), "{line}");
        }
        Sample { wall: began.elapsed(), cpu: busy().saturating_sub(before) }
    }

    /// The processes of containers.
    fn shims(&self) -> Vec<u32> {
        let data = self.data.to_string_lossy();
        let numbers = fs::read_dir("/proc").expect("it is there").flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_shim = |pid: &u32| {
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            read("comm").trim() == "stint-shim" && read("cmdline").contains(&*data)
        };
        numbers.filter(is_shim).collect()
    }

    /// What the daemon has used so far.
    fn cpu(&self) -> Duration {
        usage::cpu(self.child.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask("DELETE", &format!("{JOBS}?propagationPolicy=Background"), "");
            while self.get(PODS)["items"].as_array().is_some_and(|pods| !pods.is_empty()) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
