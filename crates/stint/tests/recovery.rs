//! A daemon that is killed at any moment, a machine that is started again, a program that is replaced: what becomes of pods.
//!
//! The real program, SIGKILL, and real containers, each on a network of its own. The moments are from one seed, which a
//! failure names; `STINT_SEED` sets another.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use support::{Daemon, leftovers, until};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// How often the daemon is killed.
const KILLS: usize = 200;
/// Pods that run all the time, and the lines that they have written at the end at least.
const LONG: usize = 5;
const LINES: usize = 100;

/// xorshift64*: the moments of a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: containers need root");
    }
    root
}

/// A Job whose pods leave their names in `shared` when they start.
fn job(name: &str, shared: &Path, completions: usize, script: &str) -> Value {
    let container = json!({
        "name": "c", "image": "host",
        "command": ["bash", "-c", format!("echo $POD >> /mnt/starts; {script}")],
        "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "volumeMounts": [{ "name": "shared", "mountPath": "/mnt" }],
    });
    let volumes = json!([{ "name": "shared", "hostPath": { "path": shared } }]);
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes });
    let template = json!({ "metadata": { "annotations": { "stint.dev/rootfs": "host" } }, "spec": spec });
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "completions": completions, "parallelism": completions, "backoffLimit": 0, "template": template },
    })
}

fn items(daemon: &Daemon, path: &str) -> Vec<Value> {
    daemon.get(path)["items"].as_array().unwrap().clone()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn log(daemon: &Daemon, pod: &str) -> String {
    let (code, log) = daemon.ask("GET", &format!("{PODS}/{pod}/log"), "");
    assert_eq!(code, 200, "{pod}: {log}");
    log
}

fn is_over(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter().any(|one| ["Complete", "Failed"].contains(&one["type"].as_str().unwrap()) && one["status"] == "True")
    })
}

fn ended(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

/// How the pods of a Job are.
fn statuses(daemon: &Daemon, job: &str) -> Vec<String> {
    let pods = items(daemon, &format!("{PODS}?labelSelector=job-name%3D{job}"));
    pods.iter().map(|pod| format!("{} {}", name(pod), pod["status"])).collect()
}

/// Waits as long as a slow machine needs for what the kills have put off.
fn until_settled(daemon: &Daemon) {
    let began = Instant::now();
    while let Some(job) = items(daemon, JOBS).iter().find(|job| !is_over(job)) {
        assert!(began.elapsed() < Duration::from_mins(10), "not over: {job}\n{}", daemon.get(PODS));
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_daemon_that_is_killed_two_hundred_times_accounts_for_every_pod() {
    if !is_root() {
        return;
    }
    let seed = std::env::var("STINT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_130);
    eprintln!("seed {seed}");
    // The pods' networks are of this thread's, so that nothing of the machine is touched.
    let machine = std::thread::spawn(move || {
        stint_runtime::namespace::enter_new_network().unwrap();
        account_for_every_pod(seed);
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

fn account_for_every_pod(seed: u64) {
    let own = ["--allow-host-rootfs", "--pod-network", "own", "--max-pods", "500"];
    let (mut chance, mut daemon) = (Chance(seed), Daemon::folder());
    let shared = tempfile::tempdir().unwrap();
    let mut ready = daemon.start_again(&own);
    // They say how they are, until they are let go while no daemon is there.
    let script =
        "n=0; until [ -e /mnt/go ]; do echo line $((n++)); sleep 0.1; done; date +%s.%N > /mnt/end-$POD; exit 7";
    daemon.create(JOBS, &job("long", shared.path(), LONG, script));
    until("they run", || daemon.get(&format!("{JOBS}/long"))["status"]["ready"] == LONG);
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let running: Vec<String> = items(&daemon, PODS).iter().map(uid).collect();
    let mut wanted = BTreeMap::new();
    for kill in 0..KILLS {
        if daemon.child.is_some() {
            // Jobs of some pods, which end as they start, soon, or badly.
            let name = format!("short-{kill}");
            let (pods, script, failed) = match chance.below(4) {
                0 => (1, "echo failing; exit 3", 1),
                1 => (2, "echo slowly; sleep 0.$((RANDOM % 5)); echo done", 0),
                _ => (3, "echo done", 0),
            };
            daemon.create(JOBS, &job(&name, shared.path(), pods, script));
            wanted.insert(name, (pods, failed));
            sleep(Duration::from_millis(chance.below(250)));
        } else {
            // Before it is ready, or hardly later.
            let longest = u64::try_from(ready.as_millis()).unwrap() * 5 / 4;
            daemon.begin(&own);
            sleep(Duration::from_millis(chance.below(longest)));
        }
        daemon.kill();
        if chance.below(2) == 0 {
            ready = daemon.start_again(&own);
        }
    }
    if daemon.child.is_some() {
        daemon.kill();
    }
    fs::write(shared.path().join("go"), "").unwrap();
    until("their ends are recorded", || running.iter().all(|uid| is_recorded(&daemon, uid)));
    let recorded = Timestamp::now();
    sleep(Duration::from_millis(2500));
    daemon.start_again(&own);
    until_settled(&daemon);

    for job in items(&daemon, JOBS).iter().filter(|job| name(job) != "long") {
        let (pods, failed) = wanted.remove(&name(job)).unwrap();
        let count = |key: &str| job["status"][key].as_u64().unwrap_or(0);
        let counted = (count("succeeded"), count("failed"), count("active"));
        assert_eq!(counted, (pods as u64 - failed, failed, 0), "{}: {:#?}", name(job), statuses(&daemon, &name(job)));
    }
    assert!(wanted.is_empty(), "{wanted:?} were answered, and are gone");
    let mut starts: Vec<String> =
        fs::read_to_string(shared.path().join("starts")).unwrap().lines().map(str::to_owned).collect();
    starts.sort();
    let pods = items(&daemon, PODS);
    let mut names: Vec<String> = pods.iter().map(name).collect();
    names.sort();
    assert_eq!(starts, names, "every pod was started once, and no other");
    for pod in &pods {
        let (job, log) = (&pod["metadata"]["labels"]["job-name"], log(&daemon, &name(pod)));
        let code = ended(pod)["exitCode"].as_i64();
        if job != "long" {
            let expected = if log == "failing\n" { 3 } else { 0 };
            assert!(code == Some(expected) && log.lines().next_back() != Some("slowly"), "{pod}\n{log}");
            continue;
        }
        assert_eq!(code, Some(7), "{pod}");
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines.len() > LINES, "{} lines", lines.len());
        lines.iter().enumerate().for_each(|(at, line)| assert_eq!(*line, format!("line {at}"), "of {}", name(pod)));
        let told: Timestamp = ended(pod)["finishedAt"].as_str().unwrap().parse().unwrap();
        let end = fs::read_to_string(shared.path().join(format!("end-{}", name(pod)))).unwrap();
        let end: i64 = end.split('.').next().unwrap().parse().unwrap();
        let when = end..=recorded.as_second();
        assert!(when.contains(&told.as_second()), "it ended while no daemon was there: {told} is not in {when:?}");
    }
    eprintln!("{} pods of {} Jobs, {} kills", pods.len(), items(&daemon, JOBS).len(), KILLS);

    let (code, body) = daemon.ask("DELETE", &format!("{JOBS}?propagationPolicy=Background"), "");
    assert_eq!(code, 200, "{body}");
    leaves_nothing(&daemon);
    daemon.stop();
}

/// Whether the end of a pod's container is recorded.
fn is_recorded(daemon: &Daemon, uid: &str) -> bool {
    let attempts = daemon
        .memory_folders()
        .into_iter()
        .flat_map(|folder| leftovers::entries(&folder.join(uid).join("containers/c")));
    attempts.into_iter().any(|attempt| attempt.join("exit.json").exists())
}

/// Waits until nothing is left of any pod.
fn leaves_nothing(daemon: &Daemon) {
    until("no pod is left in the API", || items(daemon, PODS).is_empty());
    let id = fs::read_to_string(daemon.data.path().join("id")).unwrap();
    for folder in daemon.memory_folders() {
        let pods = || leftovers::entries(&folder).into_iter().filter(|path| path.join("containers").exists()).count();
        until("no record is left", || pods() == 0);
    }
    for folder in ["logs", "scratch"] {
        until("nothing is left on disk", || leftovers::files(&daemon.data.path().join(folder)) == 0);
    }
    until("no cgroup is left", || leftovers::cgroups(id.trim()).iter().all(|path| path.ends_with(id.trim())));
}

#[test]
fn after_a_reboot_pods_that_ran_have_failed_and_their_job_decides() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let shared = tempfile::tempdir().unwrap();
    daemon.create(JOBS, &job("over", shared.path(), 1, "echo all is well"));
    until("it is over", || is_over(&daemon.get(&format!("{JOBS}/over"))));
    let mut again = job("again", shared.path(), 2, "echo begun; [ -e /mnt/rebooted ] || sleep 1000");
    again["spec"]["backoffLimit"] = json!(2);
    daemon.create(JOBS, &again);
    daemon.create(JOBS, &job("once", shared.path(), 1, "echo begun; sleep 1000"));
    let ready = |job: &str, count: usize| daemon.get(&format!("{JOBS}/{job}"))["status"]["ready"] == count;
    until("they run", || ready("again", 2) && ready("once", 1));
    let is_over_or_has_begun = |pod: &Value| ["begun\n", "all is well\n"].contains(&&*log(&daemon, &name(pod)));
    until("they have begun", || items(&daemon, PODS).iter().all(is_over_or_has_begun));
    daemon.kill();

    // All processes end, and memory is empty where the records are; were they on a disk, they would be of another boot.
    for (at, memory) in daemon.memory_folders().iter().enumerate() {
        leftovers::end_containers(memory);
        if at > 0 {
            fs::remove_dir_all(memory).unwrap();
        } else {
            for exit in leftovers::entries(memory).iter().flat_map(|pod| leftovers::entries(&pod.join("containers/c")))
            {
                let _ = fs::remove_file(exit.join("exit.json")); // nobody has seen how they ended
            }
            fs::write(memory.join(".boot"), "an earlier one").unwrap();
        }
    }
    fs::write(shared.path().join("rebooted"), "").unwrap();
    daemon.start_again(&["--allow-host-rootfs"]);
    until_settled(&daemon);

    let job = |name: &str| daemon.get(&format!("{JOBS}/{name}"))["status"].clone();
    assert_eq!((&job("again")["succeeded"], &job("again")["failed"]), (&json!(2), &json!(2)), "{}", job("again"));
    assert_eq!((&job("over")["succeeded"], &job("over")["failed"]), (&json!(1), &Value::Null), "{}", job("over"));
    assert_eq!(job("once")["failed"], 1);
    assert!(job("once")["conditions"].to_string().contains("BackoffLimitExceeded"), "{}", job("once"));
    let pods = items(&daemon, PODS);
    let of = |job: &str| pods.iter().filter(|pod| pod["metadata"]["labels"]["job-name"] == job).collect::<Vec<_>>();
    let lost: Vec<_> =
        of("again").into_iter().chain(of("once")).filter(|pod| pod["status"]["phase"] == "Failed").collect();
    assert_eq!(lost.len(), 3);
    for pod in lost {
        assert_eq!(
            (&ended(pod)["exitCode"], &ended(pod)["reason"]),
            (&json!(137), &json!("ContainerStatusUnknown")),
            "{pod}"
        );
        assert_eq!(log(&daemon, &name(pod)), "begun\n");
    }
    assert_eq!(of("over")[0]["status"]["phase"], "Succeeded");
    assert_eq!(log(&daemon, &name(of("over")[0])), "all is well\n", "what ended before can still be read");

    let (code, body) = daemon.ask("DELETE", &format!("{JOBS}?propagationPolicy=Background"), "");
    assert_eq!(code, 200, "{body}");
    leaves_nothing(&daemon);
}

#[test]
fn jobs_go_on_while_the_program_is_replaced() {
    if !is_root() {
        return;
    }
    let mut daemon = Daemon::folder();
    let (shared, program) = (tempfile::tempdir().unwrap(), daemon.program.clone());
    let install = |name: &str| {
        let path = shared.path().join(name);
        // Copied by another process: a program that this one writes could still be open where it forks meanwhile.
        let copies = || std::process::Command::new("cp").args([&program, &path]).status().is_ok_and(|it| it.success());
        assert!(fs::hard_link(&program, &path).is_ok() || copies(), "{} can't be installed", path.display());
        path
    };
    daemon.program = install("stint-1");
    daemon.start_again(&["--allow-host-rootfs"]);
    let script = "n=0; until [ -e /mnt/go ]; do echo line $((n++)); sleep 0.05; done; exit 0";
    daemon.create(JOBS, &job("long", shared.path(), 2, script));
    until("they run", || daemon.get(&format!("{JOBS}/long"))["status"]["ready"] == 2);
    daemon.stop();
    let next = install("stint-2");
    fs::remove_file(&daemon.program).unwrap();
    daemon.program = next;
    daemon.start_again(&["--allow-host-rootfs"]);
    daemon.create(JOBS, &job("next", shared.path(), 1, "echo done"));
    until("a Job runs by the new program", || is_over(&daemon.get(&format!("{JOBS}/next"))));
    assert_eq!(daemon.get(&format!("{JOBS}/long"))["status"]["ready"], 2);
    fs::write(shared.path().join("go"), "").unwrap();
    until_settled(&daemon);
    assert_eq!(daemon.get(&format!("{JOBS}/long"))["status"]["succeeded"], 2);
    for pod in items(&daemon, PODS).iter().filter(|pod| pod["metadata"]["labels"]["job-name"] == "long") {
        log(&daemon, &name(pod)).lines().enumerate().for_each(|(at, line)| assert_eq!(line, format!("line {at}")));
    }
}

#[test]
fn what_has_ended_in_a_pod_that_goes_on_is_not_run_again() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    let shared = tempfile::tempdir().unwrap();
    let mut job = job("parts", shared.path(), 1, "until [ -e /mnt/go ]; do sleep 0.05; done");
    let spec = &mut job["spec"]["template"]["spec"];
    spec["restartPolicy"] = json!("OnFailure");
    let part = |name: &str| {
        let mut part = spec["containers"][0].clone();
        part["name"] = json!(name);
        part["command"] = json!(["sh", "-c", format!("echo {name} >> /mnt/parts")]);
        part
    };
    let (first, short) = (part("first"), part("short"));
    spec["initContainers"] = json!([first]);
    spec["containers"].as_array_mut().unwrap().push(short);
    daemon.create(JOBS, &job);
    for _ in 0..3 {
        until("only the long one runs", || {
            let pods = items(&daemon, PODS);
            let told =
                pods.iter().flat_map(|pod| pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default());
            let runs: Vec<bool> = told.map(|status| status["state"]["running"].is_object()).collect();
            runs == [true, false]
                && fs::read_to_string(shared.path().join("parts")).is_ok_and(|parts| parts.lines().count() > 1)
        });
        daemon.kill();
        daemon.start_again(&["--allow-host-rootfs"]);
    }
    fs::write(shared.path().join("go"), "").unwrap();
    until_settled(&daemon);
    assert_eq!(daemon.get(&format!("{JOBS}/parts"))["status"]["succeeded"], 1);
    assert_eq!(fs::read_to_string(shared.path().join("parts")).unwrap(), "first\nshort\n");
    assert_eq!(fs::read_to_string(shared.path().join("starts")).unwrap().lines().count(), 1);
}
