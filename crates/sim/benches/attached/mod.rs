//! The controllers as `stint controllers` runs them, against those in `stint serve`: the released program in both, over TLS,
//! with clients, binder and node of our own. And what they remember of many pods, in memory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config as Kube};
use stint_controllers::Config;
use stint_sim::virtual_time::VirtualClock;
use stint_store::SqliteDisk;

use crate::pieces::{NODE, add_node, run_pods};
use crate::{fill, job, print, wait};

/// Which controllers do the work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Controllers {
    Embedded,
    Attached,
}

/// One-pod Jobs a second by both, in turns, and how much memory attached controllers have beside so many that have ended.
pub async fn compare(jobs: usize, ended: usize) {
    let Some(program) = program() else {
        println!("attached controllers: skipped, there is no program; `cargo build --release` makes it");
        return;
    };
    for _ in 0..2 {
        for (what, which) in [("embedded", Controllers::Embedded), ("attached", Controllers::Attached)] {
            let place = Place::open(&program, which, 0).await;
            print(&format!("one-pod Jobs over TLS, controllers {what}"), jobs, place.run(jobs).await);
        }
    }
    let place = Place::open(&program, Controllers::Attached, ended).await;
    place.run(1).await;
    println!("attached controllers beside {ended} Jobs that have ended, and their pods: {} MiB", place.memory());
}

/// Where `cargo build --release` leaves it: above this benchmark.
fn program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.parent()?.parent()?.join("stint");
    program.is_file().then_some(program)
}

/// A process that ends with this, and says when it is ready.
struct Process(Child);

impl Process {
    fn start(mut command: Command, ready: &str) -> Process {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        while !said.contains(ready) {
            assert_ne!(log.read_line(&mut said).expect("it writes text"), 0, "it ended: {said}");
        }
        std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
        Process(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is there, unless it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon, controllers, and a node.
struct Place {
    client: Client,
    tasks: [tokio::task::JoinHandle<()>; 2],
    controllers: Option<Process>,
    _daemon: Process,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn open(program: &Path, which: Controllers, ended: usize) -> Place {
        let folder = tempfile::tempdir().expect("there is a folder for the store");
        if ended > 0 {
            fill(&mut SqliteDisk::open(&folder.path().join("store")).expect("the disk opens"), ended);
        }
        let stint = || {
            let mut command = Command::new(program);
            command.arg("--data").arg(folder.path());
            command
        };
        let mut serve = stint();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--no-agent", "--controllers"]);
        // Pods need an account, which is made by who keeps the house.
        serve.arg(if which == Controllers::Embedded { "jobs,housekeeping" } else { "housekeeping" });
        let daemon = Process::start(serve, "serving at");
        let kubeconfig = folder.path().join("kubeconfig");
        let controllers = (which == Controllers::Attached).then(|| {
            let mut command = stint();
            command.args(["controllers", "--take-over", "job,cronjob", "--kubeconfig"]).arg(&kubeconfig);
            Process::start(command, "leads lease")
        });
        let config = Kubeconfig::read_from(&kubeconfig).expect("the daemon has written it");
        let config = Kube::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("it can be used")).expect("a client can be made of it");
        add_node(&client, 1000).await;
        let clock = VirtualClock { begin: Timestamp::now(), started: tokio::time::Instant::now() };
        let binder = Config { node: Some(NODE.to_owned()), jobs: false, cron_jobs: false, ..Config::default() };
        let binder = tokio::spawn(stint_controllers::run(client.clone(), Arc::new(clock), binder));
        let tasks = [binder, tokio::spawn(run_pods(client.clone()))];
        Place { client, tasks, controllers, _daemon: daemon, _folder: folder }
    }

    /// How long so many Jobs take, after one that waits until everything was listed.
    async fn run(&self, jobs: usize) -> Duration {
        let api: Api<Job> = Api::namespaced(self.client.clone(), "default");
        let begin = async |names: Vec<String>| {
            let create = async |name: String| {
                api.create(&PostParams::default(), &job(&name, 1, 1)).await.expect("the Job is taken");
            };
            stream::iter(names).for_each_concurrent(16, create).await;
        };
        begin(vec!["first".to_owned()]).await;
        let only = kube::runtime::watcher::Config::default().fields("metadata.name=first");
        crate::wait_for(std::pin::pin!(kube::runtime::watcher(api.clone(), only)), 1).await;
        let began = Instant::now();
        let ended = tokio::spawn(wait(api.clone(), jobs + 1));
        begin((0..jobs).map(|number| format!("j{number}")).collect()).await;
        ended.await.expect("the Jobs end");
        began.elapsed()
    }

    /// How much memory the controllers have, in MiB.
    fn memory(&self) -> u64 {
        let pid = self.controllers.as_ref().map_or_else(std::process::id, |process| process.0.id());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") >> 10
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
