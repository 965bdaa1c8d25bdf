//! How soon `stint serve` is ready, and what it holds: with an empty store, and with 100,000 Jobs and their pods.
//!
//! The objects are put onto the disk directly, as copies of a Job and a pod that a daemon has stored.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stint_store::{Change, Disk, Entry, Revision, SqliteDisk};

const JOBS: usize = 100_000;
const STARTS: usize = 11;

fn main() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut times: Vec<Duration> = (0..STARTS).map(|_| stop(start(data.path(), &[]))).collect();
    times.sort();
    println!("| `stint serve` | ready after ms | resident MiB |");
    println!("|---|---|---|");
    let (child, _) = start(data.path(), &[]);
    println!("| empty, median of {STARTS} | {:.0} | {} |", ms(times[STARTS / 2]), resident(&child));
    seed(data.path());
    stop((child, Duration::ZERO));
    fill(data.path());
    let mut times: Vec<Duration> = (0..3).map(|_| stop(start(data.path(), &["--controllers", "none"]))).collect();
    times.sort();
    let (child, _) = start(data.path(), &["--controllers", "none"]);
    println!("| {JOBS} Jobs and their pods, API only | {:.0} | {} |", ms(times[1]), resident(&child));
    stop((child, Duration::ZERO));
    let (child, took) = start(data.path(), &[]);
    std::thread::sleep(Duration::from_secs(20));
    println!("| the same with controllers, after 20 s | {:.0} | {} |", ms(took), resident(&child));
    stop((child, Duration::ZERO));
}

/// Starts a daemon without an agent, and waits until it says that it serves.
fn start(data: &Path, args: &[&str]) -> (Child, Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
    command.arg("--data").arg(data).args(["serve", "--no-agent", "--listen", "127.0.0.1:0"]).args(args);
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    while !said.contains("serving at") {
        assert_ne!(log.read_line(&mut said).expect("its log can be read"), 0, "the daemon ended:\n{said}");
    }
    let took = began.elapsed();
    std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
    (child, took)
}

fn stop((mut child, took): (Child, Duration)) -> Duration {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    assert!(child.wait().expect("it is ours").success());
    took
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// MiB of memory that a process holds.
fn resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

/// Has the daemon store a finished Job and its pod.
fn seed(data: &Path) {
    let spec = r#"{"restartPolicy":"Never","containers":[{"name":"c","image":"busybox","command":["true"]}]}"#;
    let job = format!(
        r#"{{"apiVersion":"batch/v1","kind":"Job","metadata":{{"name":"seed"}},"spec":{{"template":{{"spec":{spec}}}}}}}"#
    );
    ask(data, "POST", "/apis/batch/v1/namespaces/default/jobs", &job);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = loop {
        let listed = ask(data, "GET", pods, "");
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("a list");
        if let Some(name) = listed["items"][0]["metadata"]["name"].as_str() {
            break name.to_owned();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut object: serde_json::Value =
        serde_json::from_str(&ask(data, "GET", &format!("{pods}/{pod}"), "")).expect("a pod");
    object["status"]["phase"] = "Succeeded".into();
    ask(data, "PUT", &format!("{pods}/{pod}/status"), &object.to_string());
    let job = "/apis/batch/v1/namespaces/default/jobs/seed";
    while !ask(data, "GET", job, "").contains(r#""type":"Complete""#) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ask(data: &Path, method: &str, path: &str, body: &str) -> String {
    let mut socket = UnixStream::connect(data.join("stint.sock")).expect("the daemon listens");
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: stint\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .expect("the daemon reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the daemon answers");
    assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).expect("a body")
}

/// Puts copies of the seed's Job and pod onto the disk, each with a name and uids of its own.
fn fill(data: &Path) {
    let mut disk = SqliteDisk::open(&data.join("store")).expect("no daemon is there");
    let loaded = disk.load().expect("it can be read");
    let seeds: Vec<Entry> = loaded.entries.into_iter().filter(|entry| entry.key.contains("/default/seed")).collect();
    assert_eq!(seeds.len(), 2, "a Job and a pod");
    let uids: Vec<String> = seeds
        .iter()
        .map(|seed| {
            let object: serde_json::Value = serde_json::from_slice(&seed.value).expect("JSON");
            object["metadata"]["uid"].as_str().expect("a uid").to_owned()
        })
        .collect();
    let mut revision = loaded.revision;
    for batch in 0..JOBS / 1000 {
        let mut changes = Vec::new();
        for number in batch * 1000..(batch + 1) * 1000 {
            let renamed = |text: &str| {
                let named = text.replace("seed", &format!("job-{number:06}"));
                uids.iter().fold(named, |text, uid| text.replace(uid.as_str(), &format!("{number:08x}{}", &uid[8..])))
            };
            for seed in &seeds {
                revision = Revision(revision.0 + 1);
                let value = renamed(std::str::from_utf8(&seed.value).expect("JSON is UTF-8"));
                let key = renamed(&seed.key).into();
                changes.push(Change::Put(Entry { key, revision, value: value.into() }));
            }
        }
        disk.commit(&changes, revision).expect("it can be written");
    }
}
