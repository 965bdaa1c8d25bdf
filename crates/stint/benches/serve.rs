//! The figures of `stint serve`: the real daemon, asked over its unix socket and over TLS, beside what the disk itself can
//! do and with 100,000 finished Jobs or waiting CronJobs stored. `make bench` prints them.
//!
//! Rounds are interleaved, so that a noisy machine is noisy for all, and the medians of the rounds are printed. Clients
//! are threads of this process: they share the machine's cores with the daemon, and what they cost is in the figures. The
//! daemon runs neither controllers nor an agent, so that nothing else writes; only one row and the last table have
//! controllers. `cargo bench -p stint --bench serve -- cronjobs` prints the last table alone.

mod stored;
mod usage;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use stored::{TEAM, cron_jobs, fill, finished_jobs};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const CLIENTS: usize = 64;
/// Jobs that are stored, each with a pod.
const FULL: usize = 100_000;
const GETS: usize = 2_000;
const LISTS: usize = 50;
const STARTS: usize = 10;
/// For how long an idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(30);
/// How long controllers may take to look at everything.
const SETTLING: Duration = Duration::from_secs(30);

fn main() {
    let file = tempfile::tempdir_in("/var/lib").expect("/var/lib takes a folder");
    if std::env::args().any(|argument| argument == "cronjobs") {
        return idle(&file.path().join("idle"));
    }
    let full = file.path().join("full");
    let stored = fill(&full, FULL, &finished_jobs());

    println!("| from exec to READY | p50 ms |\n|---|---|");
    let empty = file.path().join("empty");
    let first = Daemon::start(&empty);
    println!("| the first start, which makes keys and certificates | {:.0} |", millis(first.ready));
    let resident = first.resident();
    drop(first);
    let starts = (0..STARTS).map(|_| Daemon::start(&empty).ready).collect();
    println!("| every further start | {:.0} |", millis(percentile(starts, 50)));
    // The first start in the new folder makes certificates; the disk's cache is warm from filling it.
    drop(Daemon::start(&full));
    let starts = (0..3).map(|_| Daemon::start(&full).ready).collect();
    println!("| with {FULL} finished Jobs and their pods | {:.0} |", millis(percentile(starts, 50)));

    println!("\nRSS of a daemon that stores nothing yet: {resident} MB");

    let large = Daemon::start(&full);
    println!("\n| {FULL} finished Jobs and their pods | |\n|---|---|");
    println!("| their JSON | {} MB |\n| RSS when ready | {} MB |", stored / 1_000_000, large.resident());
    reads(&large);
    println!("| RSS after these | {} MB |", large.resident());
    drop(large);
    // Before `writes`, whose Jobs have yet to be run.
    let large = Daemon::start_with(&full, "all");
    std::thread::sleep(SETTLING);
    println!("| RSS with controllers, {} s after READY | {} MB |", SETTLING.as_secs(), large.resident());
    drop(large);
    let large = Daemon::start(&full);
    writes(file.path(), &large);
    println!("\n| RSS after all of this | {} MB |\n|---|---|", large.resident());
    drop(large);
    idle(&file.path().join("idle"));
}

/// What a daemon costs whose CronJobs all wait.
fn idle(data: &Path) {
    fill(data, FULL, &cron_jobs(Timestamp::now()));
    let daemon = Daemon::start_with(data, "all");
    let began = Instant::now();
    let settling = loop {
        let used = daemon.cpu();
        std::thread::sleep(IDLE / 10);
        if daemon.cpu().saturating_sub(used) < IDLE / 10 / 20 {
            break used;
        }
    };
    let (before, settled) = (daemon.cpu(), began.elapsed().saturating_sub(IDLE / 10));
    std::thread::sleep(IDLE);
    let share = daemon.cpu().saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    println!("\n| {FULL} CronJobs, all of them waiting; all controllers | |\n|---|---|");
    println!(
        "| CPU until all are looked at | {:.1} s, within {:.0} s |",
        settling.as_secs_f64(),
        settled.as_secs_f64()
    );
    println!("| CPU over {} s after that | {share:.2} % of a core |", IDLE.as_secs());
    println!("| RSS | {} MB |", daemon.resident());
}

/// What reading costs, while everything else is quiet.
fn reads(large: &Daemon) {
    let mut client = large.client(Via::Socket);
    let path = |number: usize| {
        let team = number / TEAM;
        format!("/apis/batch/v1/namespaces/team-{team:03}/jobs/report-{number:06}")
    };
    let ask = |client: &mut Client, path: &str| {
        let began = Instant::now();
        let code = client.ask(&get(path));
        assert_eq!(code, 200, "{path}: {}", client.text());
        began.elapsed()
    };
    let took: Vec<_> = (0..GETS).map(|round| ask(&mut client, &path(round * 7919 % FULL))).collect();
    let (p50, p99) = (micros(percentile(took.clone(), 50)), micros(percentile(took, 99)));
    println!("| `get` by name, unix socket: p50, p99 | {p50} µs, {p99} µs |");
    let mut client = large.client(Via::Tls);
    let took: Vec<_> = (0..GETS).map(|round| ask(&mut client, &path(round * 7919 % FULL))).collect();
    let (p50, p99) = (micros(percentile(took.clone(), 50)), micros(percentile(took, 99)));
    println!("| `get` by name, TLS: p50, p99 | {p50} µs, {p99} µs |");
    let all = many(large, Via::Tls, |client, thread, turn| {
        let path = path((thread * 7919 + turn * 104_729) % FULL);
        assert_eq!(client.ask(&get(&path)), 200, "{path}: {}", client.text());
    });
    println!("| `get` by name, TLS, {CLIENTS} clients | {:.0}/s |", all.rate);
    let mut client = large.client(Via::Socket);
    for (what, path) in [
        ("a namespace of 500", "/apis/batch/v1/namespaces/team-007/jobs"),
        ("the first 500 of all", "/apis/batch/v1/jobs?limit=500"),
    ] {
        let took = (0..LISTS).map(|_| ask(&mut client, path)).collect();
        let size = client.body.len() / 1000;
        println!("| list of {what} Jobs ({size} kB): p50 | {:.1} ms |", millis(percentile(took, 50)));
    }
    let took = ask(&mut client, "/apis/batch/v1/jobs");
    println!("| list of all Jobs ({} MB) | {:.0} ms |", client.body.len() / 1_000_000, millis(took));
}

/// What writing costs: with little stored, with much stored, and beside the disk alone.
fn writes(file: &Path, large: &Daemon) {
    let object = |kind: &str| -> (&'static str, String) {
        match kind {
            "ConfigMap" => ("/api/v1/namespaces/default/configmaps", {
                let data: serde_json::Map<_, _> =
                    (0..16).map(|n| (format!("key-{n:02}"), "x".repeat(32).into())).collect();
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "NAME"}, "data": data}).to_string()
            }),
            _ => ("/apis/batch/v1/namespaces/default/jobs", job_to_create()),
        }
    };
    let mut rows: Vec<(String, Vec<Figures>)> = Vec::new();
    let mut note = |name: String, figures: Figures| match rows.iter_mut().find(|(known, _)| *known == name) {
        Some((_, all)) => all.push(figures),
        None => rows.push((name, vec![figures])),
    };
    for round in 0..=ROUNDS {
        let folder = file.join(format!("round-{round}"));
        let small = Daemon::start(&folder);
        let mut round_figures = Vec::new();
        for kind in ["ConfigMap", "Job"] {
            let (path, body) = object(kind);
            let size = small.size_of(path, &body.replace("NAME", "first"));
            round_figures.push((format!("append and fdatasync of {size} B, raw"), raw(file, size)));
            for (what, daemon, via) in [
                ("empty store, unix socket", &small, Via::Socket),
                ("empty store, TLS", &small, Via::Tls),
                ("full store, unix socket", large, Via::Socket),
            ] {
                let word = match via {
                    Via::Socket => "s",
                    Via::Tls => "t",
                };
                let figures = many(daemon, via, |client, thread, turn| {
                    let name = format!("made-{round}-{word}-{thread:02}-{turn:06}");
                    let code = client.ask(&post(path, &body.replace("NAME", &name)));
                    assert_eq!(code, 201, "{name}: {}", client.text());
                });
                round_figures.push((format!("create a {kind}, {what}"), figures));
            }
        }
        drop(small);
        fs::remove_dir_all(&folder).expect("its folder can be removed");
        // The first round warms up.
        if round > 0 {
            for (name, figures) in round_figures {
                note(name, figures);
            }
        }
    }
    println!("\n| durable writes, {CLIENTS} clients | per s | p50 ms | p99 ms | daemon's CPU µs each | × of raw |");
    println!("|---|---|---|---|---|---|");
    let mut raw = 1.0;
    for (name, all) in rows {
        let median = |of: fn(&Figures) -> f64| {
            let mut all: Vec<f64> = all.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let rate = median(|figures| figures.rate);
        if name.ends_with("raw") {
            raw = rate;
        }
        let (p50, p99) = (median(|figures| millis(figures.p50)), median(|figures| millis(figures.p99)));
        let (cpu, ratio) = (median(|figures| figures.cpu), rate / raw);
        println!("| {name} | {rate:.0} | {p50:.2} | {p99:.2} | {cpu:.0} | {ratio:.2} |");
    }
}

/// A Job as a user writes it.
fn job_to_create() -> String {
    let container = json!({
        "name": "report", "image": "registry.example/tools/report:1.4.2", "command": ["/bin/report", "--daily"],
        "env": [{"name": "REGION", "value": "eu-west"}, {"name": "DAY", "value": "2026-11-24"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    });
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "NAME"},
        "spec": {"backoffLimit": 3, "ttlSecondsAfterFinished": 86_400, "template": {"spec": {
            "restartPolicy": "Never", "containers": [container],
        }}},
    })
    .to_string()
}

#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// The daemon's, in microseconds for each.
    cpu: f64,
}

#[allow(clippy::cast_precision_loss)] // all are far below 2^52
impl Figures {
    fn new(latencies: Vec<Duration>, took: Duration, cpu: Duration) -> Figures {
        let count = latencies.len() as f64;
        Figures {
            rate: count / took.as_secs_f64(),
            p50: percentile(latencies.clone(), 50),
            p99: percentile(latencies, 99),
            cpu: cpu.as_secs_f64() * 1e6 / count,
        }
    }
}

fn percentile(mut all: Vec<Duration>, p: usize) -> Duration {
    all.sort_unstable();
    all[(all.len() * p / 100).min(all.len() - 1)]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn micros(duration: Duration) -> u128 {
    duration.as_micros()
}

/// Appends records to a file and syncs each: what one writer could have at best.
fn raw(folder: &Path, size: usize) -> Figures {
    let path = folder.join("raw");
    let mut file = File::create(&path).expect("a file to write");
    let record = vec![b'x'; size];
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < ROUND {
        let before = Instant::now();
        file.write_all(&record).and_then(|()| file.sync_data()).expect("the disk takes a record");
        latencies.push(before.elapsed());
    }
    let took = start.elapsed();
    fs::remove_file(path).expect("it is there");
    Figures::new(latencies, took, Duration::ZERO)
}

/// Lets clients do `one` over and over, each on a connection of its own.
fn many(daemon: &Daemon, via: Via, one: impl Fn(&mut Client, usize, usize) + Sync) -> Figures {
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| daemon.client(via)).collect();
    let (cpu, start, one) = (daemon.cpu(), Instant::now(), &one);
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(thread, client)| {
                scope.spawn(move || {
                    let mut latencies = Vec::new();
                    while start.elapsed() < ROUND {
                        let before = Instant::now();
                        one(client, thread, latencies.len());
                        latencies.push(before.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("every answer was right")).collect()
    });
    Figures::new(all, start.elapsed(), daemon.cpu().saturating_sub(cpu))
}

/// `stint serve` on a data folder. Dropping it stops it.
struct Daemon {
    child: Child,
    data: std::path::PathBuf,
    address: String,
    /// From exec to READY.
    ready: Duration,
    /// What it tells its service manager; somebody has to be there.
    _notified: UnixDatagram,
}

#[derive(Clone, Copy, Debug)]
enum Via {
    Socket,
    Tls,
}

impl Daemon {
    fn start(data: &Path) -> Daemon {
        Daemon::start_with(data, "none")
    }

    fn start_with(data: &Path, controllers: &str) -> Daemon {
        fs::create_dir_all(data).expect("the data folder can be made");
        let path = data.join("notify");
        let _ = fs::remove_file(&path);
        let notified = UnixDatagram::bind(&path).expect("a socket to be notified by");
        notified.set_read_timeout(Some(Duration::from_mins(1))).expect("it takes a timeout");
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_stint"))
            .arg("serve")
            .arg("--data")
            .arg(data)
            .arg("--socket")
            .arg(data.join("stint.sock"))
            .args(["--listen", "127.0.0.1:0", "--no-agent", "--controllers", controllers, "--log-level", "warn"])
            .env("NOTIFY_SOCKET", &path)
            .stdin(Stdio::null())
            .spawn()
            .expect("stint starts");
        let mut state = [0; 64];
        let size = notified.recv(&mut state).expect("the daemon gets ready within a minute");
        let ready = began.elapsed();
        assert!(state[..size].starts_with(b"READY=1"), "{}", String::from_utf8_lossy(&state[..size]));
        let config = fs::read_to_string(data.join("kubeconfig")).expect("the daemon writes a kubeconfig");
        let address = config.split("https://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.expect("it names the server").trim_matches(['"', '\'']).to_owned();
        Daemon { child, data: data.to_owned(), address, ready, _notified: notified }
    }

    fn client(&self, via: Via) -> Client {
        let stream: Box<dyn Stream> = match via {
            Via::Socket => Box::new(UnixStream::connect(self.data.join("stint.sock")).expect("the daemon listens")),
            Via::Tls => Box::new(self.tls()),
        };
        Client { stream, head: Vec::new(), body: Vec::new() }
    }

    /// A connection as the administrator of the kubeconfig.
    fn tls(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let file = |name: &str| self.data.join("pki").join(name);
        let certificate = |name| CertificateDer::from_pem_file(file(name)).expect("the daemon made it");
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.crt")).expect("it is an authority");
        let key = PrivateKeyDer::from_pem_file(file("admin.key")).expect("the daemon made it");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the usual versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate("admin.crt")], key)
            .expect("the key is the certificate's");
        let stream = TcpStream::connect(&self.address).expect("the daemon listens");
        stream.set_nodelay(true).expect("TCP has it");
        let name = ServerName::try_from("localhost").expect("it is a name");
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("the name is good"), stream)
    }

    /// How many bytes are stored of an object that is created from `body`.
    fn size_of(&self, path: &str, body: &str) -> usize {
        let mut client = self.client(Via::Socket);
        let code = client.ask(&post(path, body));
        assert_eq!(code, 201, "{}", client.text());
        client.body.len()
    }

    /// Megabytes.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells it");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number of kB") * 1024 / 1_000_000
    }

    /// What the daemon has used so far.
    fn cpu(&self) -> Duration {
        usage::cpu(self.child.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A connection that costs little: HTTP/1.1 with a request after the other.
struct Client {
    stream: Box<dyn Stream>,
    head: Vec<u8>,
    body: Vec<u8>,
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: stint\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n\r\n")
        .into_bytes()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: stint\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Client {
    /// Sends a request, reads its answer into `body`, and returns its code.
    fn ask(&mut self, request: &[u8]) -> u16 {
        self.stream.write_all(request).and_then(|()| self.stream.flush()).expect("the daemon takes a request");
        self.body.clear();
        self.head.clear();
        let end = self.fill_until(|read| find(read, b"\r\n\r\n").map(|at| at + 4));
        let rest = self.head.split_off(end);
        let head = String::from_utf8_lossy(&self.head).to_ascii_lowercase();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an answer has a code");
        self.head = rest;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        if let Some(length) = length {
            self.take(length);
        } else {
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            loop {
                let end = self.fill_until(|read| find(read, b"\r\n").map(|at| at + 2));
                let line = String::from_utf8_lossy(&self.head[..end - 2]).into_owned();
                self.head.drain(..end);
                let size = usize::from_str_radix(&line, 16).expect("a chunk has a size");
                self.take(size);
                let end = self.fill_until(|read| (read.len() >= 2).then_some(2));
                self.head.drain(..end);
                if size == 0 {
                    break;
                }
            }
        }
        code
    }

    /// Reads until `end` finds where something ends.
    fn fill_until(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> usize {
        loop {
            if let Some(end) = end(&self.head) {
                return end;
            }
            self.read().expect("the daemon answers");
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let size = self.stream.read(&mut buffer)?;
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.head.extend_from_slice(&buffer[..size]);
        Ok(())
    }

    /// Moves `length` bytes of what was read, and of what comes, into the body.
    fn take(&mut self, length: usize) {
        let there = length.min(self.head.len());
        self.body.extend(self.head.drain(..there));
        let start = self.body.len();
        self.body.resize(start + length - there, 0);
        self.stream.read_exact(&mut self.body[start..]).expect("the daemon answers");
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
