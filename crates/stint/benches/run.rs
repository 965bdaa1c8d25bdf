//! The figures of `stint run`, each beside what the machine's other tools take for the same work, interleaved in one run
//! so that the ratios hold on a noisy machine. `make bench` prints them.
//!
//! Root and Debian's runc and crun are needed; what is missing is left out with a notice.

mod others;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use others::{Others, Sample, percentile, timed, timer};
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

fn manifest(name: &str, command: &[&str], completions: u32, parallelism: u32) -> String {
    serde_json::json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "completions": completions, "parallelism": parallelism, "template": { "spec": {
            "containers": [{ "name": "c", "image": "none", "command": command }], "restartPolicy": "Never",
        }}},
    })
    .to_string()
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
