//! A machine that is started again, a program that is replaced: what becomes of pods. The real program, and real containers.

mod support;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, leftovers, until};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

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

/// Waits until every Job is over.
fn until_settled(daemon: &Daemon) {
    let began = Instant::now();
    while let Some(job) = items(daemon, JOBS).iter().find(|job| !is_over(job)) {
        assert!(began.elapsed() < Duration::from_mins(3), "not over: {job}\n{}", daemon.get(PODS));
        sleep(Duration::from_millis(100));
    }
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
        fs::hard_link(&program, &path).or_else(|_| fs::copy(&program, &path).map(drop)).unwrap();
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
