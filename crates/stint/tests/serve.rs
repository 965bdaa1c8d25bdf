//! `stint serve` as a user meets it: the real program, real kubectl, real containers on this machine's root filesystem.
//!
//! Containers need root, and kubectl has to be on the machine; what can't be done is said to be skipped.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{CONFIG_MAPS, Daemon, PATIENCE, config_map, text, until};

/// A Job whose pod runs `script` on the machine's own root filesystem.
fn job(name: &str, script: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "backoffLimit": 0, "template": {
            "metadata": { "annotations": { "stint.dev/rootfs": "host" } },
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "c", "image": "none", "command": ["/bin/sh", "-c", script] }],
            },
        } },
    })
}

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

/// The oldest and the newest kubectl of this machine.
fn kubectls() -> Vec<PathBuf> {
    let folder = Path::new("/usr/lib/google-cloud-sdk/bin");
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("kubectl.1."))
        .collect();
    found.sort();
    if found.is_empty() {
        eprintln!("skipped: there is no kubectl in {}", folder.display());
        return Vec::new();
    }
    let last = found.len() - 1;
    if last == 0 { found } else { vec![found[0].clone(), found[last].clone()] }
}

#[test]
fn kubectl_creates_a_job_and_reads_it_back_over_tls() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    for (at, kubectl) in kubectls().iter().enumerate() {
        let run = |args: &[&str], input: &str| {
            let mut command = Command::new(kubectl);
            command.arg("--kubeconfig").arg(daemon.kubeconfig()).args(args);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}: {args:?}: {}", kubectl.display(), text(&output));
            text(&output)
        };
        let name = format!("j{at}");
        let created = run(&["create", "--validate=false", "-f", "-"], &job(&name, "true").to_string());
        assert_eq!(created, format!("job.batch/{name} created\n"));
        assert!(run(&["get", "jobs", "-o", "name"], "").contains(&format!("job.batch/{name}")));
        // A pod waits, since there is no agent: so the controllers are at work.
        until("the Job has its pod", || {
            run(&["get", "pods", "-l", &format!("job-name={name}"), "-o", "name"], "").starts_with("pod/")
        });
        assert_eq!(run(&["delete", "job", &name, "--wait=false"], ""), format!("job.batch \"{name}\" deleted\n"));
    }
    daemon.stop();
}

#[test]
fn kubectl_reads_logs_runs_commands_copies_and_forwards_ports() {
    let Some(newest) = kubectls().pop() else { return };
    let Some(mut daemon) = Daemon::with_agent() else { return };
    // What a pod serves at its port: on the host's network that can be anybody.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"hello from the port");
        }
    });
    daemon.create(JOBS, &job("work", "echo begun; until test -e /tmp/go; do sleep 0.05; done"));
    let pods = |daemon: &Daemon| daemon.get("/api/v1/namespaces/default/pods")["items"][0].clone();
    until("the container runs", || pods(&daemon)["status"]["containerStatuses"][0]["state"]["running"].is_object());
    let pod = pods(&daemon)["metadata"]["name"].as_str().unwrap().to_owned();
    let files = tempfile::tempdir().unwrap();
    let sent = files.path().join("sent");
    fs::write(&sent, (0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    for (at, kubectl) in kubectls().iter().enumerate() {
        let command = |args: &[&str]| {
            let mut command = Command::new(kubectl);
            command.arg("--kubeconfig").arg(daemon.kubeconfig()).args(args).stdin(Stdio::null());
            command
        };
        let run = |args: &[&str]| {
            let output = command(args).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), text(&output))
        };
        until("the log is there", || run(&["logs", "job/work"]).1 == "begun\n");
        let (code, out, all) = run(&["exec", &pod, "--", "sh", "-c", "echo out; echo err >&2; exit 5"]);
        assert_eq!((code, out.as_str()), (Some(5), "out\n"), "{}: {all}", kubectl.display());
        assert!(all.contains("err\n") && all.contains("exit code 5"), "{all}");
        let (code, _, all) = run(&["exec", &pod, "--", "no-such-command"]);
        assert!(code == Some(127) && all.contains("executable file not found in $PATH"), "{code:?}: {all}");

        let mut child = command(&["exec", "-i", &pod, "--", "wc", "-c"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&vec![b'x'; 300_000]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output).trim(), "300000", "{}", kubectl.display());

        let (there, back) = (format!("{pod}:/tmp/copy-{at}"), files.path().join(format!("back-{at}")));
        let (code, _, all) = run(&["cp", sent.to_str().unwrap(), &there]);
        assert_eq!(code, Some(0), "{}: {all}", kubectl.display());
        let (code, _, all) = run(&["cp", &there, back.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{}: {all}", kubectl.display());
        assert!(fs::read(&sent).unwrap() == fs::read(&back).unwrap(), "{}: the copy differs", kubectl.display());

        let mut forward = command(&["port-forward", &pod, &format!(":{port}"), "--address", "127.0.0.1"]);
        let mut forward = forward.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        // Held to the end: kubectl dies of a pipe that nobody reads.
        let mut shown = BufReader::new(forward.stdout.take().unwrap());
        shown.read_line(&mut said).unwrap();
        let local = said.split(' ').find_map(|word| word.strip_prefix("127.0.0.1:")).map(str::to_owned);
        let mut answer = String::new();
        if let Some(local) = &local {
            let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{local}")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_to_string(&mut answer).expect("that the pod has closed the connection closes it here");
        }
        forward.kill().unwrap();
        forward.wait().unwrap();
        drop(shown);
        assert_eq!(answer, "hello from the port", "{}: {said}", kubectl.display());
    }
    let end = ["exec", &pod, "--", "touch", "/tmp/go"];
    let ended = Command::new(newest).arg("--kubeconfig").arg(daemon.kubeconfig()).args(end).status();
    assert!(ended.unwrap().success());
    until("the Job is complete", || daemon.get(&format!("{JOBS}/work"))["status"]["succeeded"] == 1);
    daemon.stop();
}

#[test]
fn kubectl_debug_looks_into_a_pod_that_runs() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    daemon.create(JOBS, &job("stuck", "until test -e /tmp/go; do sleep 0.05; done"));
    let pods = |daemon: &Daemon| daemon.get("/api/v1/namespaces/default/pods")["items"][0].clone();
    until("the container runs", || pods(&daemon)["status"]["containerStatuses"][0]["state"]["running"].is_object());
    let pod = pods(&daemon)["metadata"]["name"].as_str().unwrap().to_owned();
    for (at, kubectl) in kubectls().iter().enumerate() {
        let name = format!("debugger-{at}");
        let run = |args: &[&str]| {
            let mut command = Command::new(kubectl);
            command.arg("--kubeconfig").arg(daemon.kubeconfig()).args(args).stdin(Stdio::null());
            let output = command.output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned(), text(&output))
        };
        // What it is added for: it sees the processes of the container that hangs, and may act on them.
        let look = "tr '\\0' ' ' < /proc/1/cmdline";
        let (done, _, all) =
            run(&["debug", &pod, "--image=none", "--target=c", "-c", &name, "--", "/bin/sh", "-c", look]);
        assert!(done, "{}: {all}", kubectl.display());
        let ended = || {
            let statuses = pods(&daemon)["status"]["ephemeralContainerStatuses"].clone();
            let of = statuses.as_array().into_iter().flatten().find(|status| status["name"] == name.as_str()).cloned();
            of.is_some_and(|status| status["state"]["terminated"]["exitCode"] == 0)
        };
        until("the debugger has looked", ended);
        let (_, out, all) = run(&["logs", &pod, "-c", &name]);
        assert!(out.contains("test -e /tmp/go"), "{}: {all}", kubectl.display());
    }
    daemon.stop();
}

#[test]
fn a_killed_daemon_loses_nothing_that_it_answered() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    for round in 0..3 {
        let socket = daemon.data.path().join("stint.sock");
        // A client that creates as fast as it can while the daemon is killed.
        let (first, has_begun) = std::sync::mpsc::channel();
        let client = std::thread::spawn(move || {
            let mut answered = Vec::new();
            for at in 0.. {
                let name = format!("round-{round}-{at}");
                let body = config_map(&name).to_string();
                let Ok(mut socket) = UnixStream::connect(&socket) else { break };
                let request = format!(
                    "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: stint\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                );
                let mut answer = String::new();
                if socket.write_all(request.as_bytes()).is_err() || socket.read_to_string(&mut answer).is_err() {
                    break;
                }
                if answer.starts_with("HTTP/1.1 201") {
                    answered.push(name);
                    let _ = first.send(());
                }
            }
            answered
        });
        has_begun.recv_timeout(PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(100 + 70 * round));
        daemon.kill();
        let answered = client.join().unwrap();
        daemon.start_again(&["--no-agent"]);
        assert!(!answered.is_empty());
        for name in &answered {
            daemon.get(&format!("{CONFIG_MAPS}/{name}"));
        }
        eprintln!("round {round}: {} creations were answered, and are there", answered.len());
    }
}

#[test]
fn a_container_lives_through_sigkill_and_sigterm_of_the_daemon() {
    let Some(mut daemon) = Daemon::with_agent() else { return };
    // It ends when it is told to, and keeps count of its starts.
    let shared = tempfile::tempdir().unwrap();
    let mut long = job("long", "echo begun; echo >> /mnt/starts; until test -e /mnt/go; do sleep 0.05; done; exit 7");
    let pod = &mut long["spec"]["template"]["spec"];
    pod["volumes"] = serde_json::json!([{ "name": "shared", "hostPath": { "path": shared.path() } }]);
    pod["containers"][0]["volumeMounts"] = serde_json::json!([{ "name": "shared", "mountPath": "/mnt" }]);
    daemon.create(JOBS, &long);
    let pods = |daemon: &Daemon| daemon.get("/api/v1/namespaces/default/pods")["items"].clone();
    let running = |daemon: &Daemon| pods(daemon)[0]["status"]["containerStatuses"][0]["state"]["running"].is_object();
    until("the container runs", || running(&daemon));
    let id = pods(&daemon)[0]["status"]["containerStatuses"][0]["containerID"].clone();
    let name = pods(&daemon)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/namespaces/default/pods/{name}/log");
    until("it has begun", || daemon.ask("GET", &path, "") == (200, "begun\n".to_owned()));
    let starts = || fs::read(shared.path().join("starts")).unwrap_or_default();
    until("it has counted its start", || starts() == b"\n");

    let inside = |daemon: &Daemon| {
        for kubectl in kubectls() {
            let run = || {
                let mut command = Command::new(&kubectl);
                let command = command.arg("--kubeconfig").arg(daemon.kubeconfig());
                command.args(["exec", "job/long", "--", "sh", "-c", "cat /mnt/starts; exit 3"]).output().unwrap()
            };
            // A daemon that has just started may still be looking for its containers.
            let mut output = run();
            until("a command runs in the container", || {
                output = run();
                text(&output).contains("exit code 3")
            });
            assert_eq!(output.stdout, b"\n", "{}", text(&output));
        }
    };
    inside(&daemon);

    daemon.kill();
    daemon.start_again(&["--allow-host-rootfs"]);
    daemon.stop();
    daemon.start_again(&["--allow-host-rootfs"]);
    std::thread::sleep(Duration::from_millis(300));
    inside(&daemon);
    assert!(running(&daemon), "{}", pods(&daemon));
    assert_eq!(pods(&daemon)[0]["status"]["containerStatuses"][0]["containerID"], id);
    assert_eq!(pods(&daemon).as_array().unwrap().len(), 1);

    // It ends while no daemon is there, and the next one learns how.
    daemon.kill();
    fs::write(shared.path().join("go"), b"").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    daemon.start_again(&["--allow-host-rootfs"]);
    until("the Job has failed", || daemon.get(&format!("{JOBS}/long"))["status"]["failed"] == 1);
    let state = &pods(&daemon)[0]["status"]["containerStatuses"][0]["state"];
    assert_eq!(state["terminated"]["exitCode"], 7, "{state}");
    assert_eq!(starts(), b"\n", "it was started once");
    daemon.stop();
}

#[test]
fn a_pod_gets_the_hosts_root_only_where_the_operator_allows_it() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: containers need root");
    }
    let mut daemon = Daemon::start(&[]);
    let mut odd = job("odd", "true");
    odd["spec"]["template"]["metadata"]["annotations"]["stint.dev/rootfs"] = serde_json::json!("Host");
    let jobs = [(job("nosy", "true"), "--allow-host-rootfs"), (odd, "write `host`")];
    for (job, told) in jobs {
        daemon.create(JOBS, &job);
        let name = job["metadata"]["name"].as_str().unwrap();
        let of_it = format!("labelSelector=job-name%3D{name}");
        let waiting = |daemon: &Daemon| {
            let pods = daemon.get(&format!("/api/v1/namespaces/default/pods?{of_it}"));
            pods["items"][0]["status"]["containerStatuses"][0]["state"]["waiting"].clone()
        };
        until("the pod is refused", || waiting(&daemon)["reason"] == "CreateContainerConfigError");
        assert!(waiting(&daemon)["message"].as_str().unwrap().contains(told), "{}", waiting(&daemon));
        until("an Event says why", || {
            let events = daemon.get("/api/v1/namespaces/default/events?fieldSelector=reason%3DFailed");
            let events = events["items"].as_array().unwrap();
            events.iter().any(|event| event["message"].as_str().unwrap().contains(told))
        });
        daemon.ask("DELETE", &format!("{JOBS}/{name}?propagationPolicy=Background"), "");
    }
    daemon.stop();
}

#[test]
fn a_second_daemon_on_the_folder_is_refused_with_the_name_of_the_first() {
    let daemon = Daemon::start(&["--no-agent"]);
    let second = daemon.command(&["serve", "--no-agent", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let pid = daemon.child.as_ref().unwrap().id();
    let said = text(&second);
    assert!(said.contains(&format!("in use by process {pid}, at https://127.0.0.1:")), "{said}");
    assert_eq!(daemon.ask("GET", "/readyz", ""), (200, "ok".to_owned()));
}

#[test]
fn nobody_gets_in_without_a_certificate_and_keys_are_private() {
    let daemon = Daemon::start(&["--no-agent"]);
    let kubeconfig = fs::read_to_string(daemon.kubeconfig()).unwrap();
    for file in ["kubeconfig", "pki/ca.key", "pki/server.key", "pki/admin.key", "pki/ca.crt", "store/store.sqlite"] {
        let mode = fs::metadata(daemon.data.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let Some(kubectl) = kubectls().pop() else { return };
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap();
    let ca = daemon.data.path().join("pki/ca.crt");
    // Without any credentials kubectl asks for some; a password is nothing that the API looks at.
    let stranger = |args: &[&str]| {
        let mut command = Command::new(&kubectl);
        command
            .arg("--kubeconfig=/dev/null")
            .args(["--username=nobody", "--password=nothing", "--server", server, "--certificate-authority"])
            .arg(&ca);
        text(&command.args(args).stdin(Stdio::null()).output().unwrap())
    };
    assert_eq!(stranger(&["get", "--raw", "/readyz"]), "ok");
    let refused = stranger(&["get", "--raw", JOBS]);
    assert!(refused.contains("User \"system:anonymous\" cannot list resource"), "{refused}");
    assert!(stranger(&["get", "--raw", "/metrics"]).contains("cannot get path"));
}

#[test]
fn a_service_accounts_token_outlives_the_daemon_that_made_it() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until("the account is there", || daemon.ask("GET", account, "").0 == 200);
    let request = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[]}}"#;
    let (code, answer) = daemon.ask("POST", &format!("{account}/token"), request);
    assert_eq!(code, 201, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    daemon.kill();
    daemon.start_again(&["--no-agent"]);
    let Some(kubectl) = kubectls().pop() else { return };
    let with = |token: &str| {
        let kubeconfig = fs::read_to_string(daemon.kubeconfig()).unwrap();
        let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().to_owned();
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig=/dev/null").args(["--server", &server, "--token", token, "--certificate-authority"]);
        text(
            &command
                .arg(daemon.data.path().join("pki/ca.crt"))
                .args(["get", "--raw", "/api/v1/pods"])
                .output()
                .unwrap(),
        )
    };
    assert!(with(token).contains("system:serviceaccount:default:default"), "{}", with(token));
    assert!(with(&format!("{token}x")).contains("Unauthorized"));
}

#[test]
fn a_kubeconfig_is_merged_into_the_one_that_kubectl_uses() {
    let daemon = Daemon::start(&["--no-agent"]);
    let home = tempfile::tempdir().unwrap();
    let merge = || {
        let mut command = daemon.command(&["kubeconfig", "--merge"]);
        let output = command.env_remove("KUBECONFIG").env("HOME", home.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        fs::read_to_string(home.path().join(".kube/config")).unwrap()
    };
    let first = merge();
    assert_eq!(merge(), first, "merging twice changes nothing");
    let printed = daemon.command(&["kubeconfig", "--server", "https://example:1"]).output().unwrap();
    assert!(text(&printed).contains("server: https://example:1\n"));
    for kubectl in kubectls() {
        let mut command = Command::new(kubectl);
        command.env_remove("KUBECONFIG").env("HOME", home.path()).args(["get", "namespace", "default", "-o", "name"]);
        assert_eq!(text(&command.output().unwrap()), "namespace/default\n");
    }
}

#[test]
fn settings_come_from_flag_then_environment_then_file() {
    let daemon = Daemon::folder();
    let file = daemon.data.path().join("stint.toml");
    fs::write(&file, "log-level = \"error\"\nlog-format = \"json\"\ntls-san = [\"a\", \"b\"]\n").unwrap();
    let mut command = daemon.command(&["config", "--tls-san", "c", "--config"]);
    let output = command.arg(&file).env("STINT_LOG_LEVEL", "debug").output().unwrap();
    let said = text(&output);
    let line = |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{said}"));
    assert!(line("log-level").starts_with("log-level = \"debug\"") && line("log-level").ends_with("STINT_LOG_LEVEL"));
    assert!(line("log-format").starts_with("log-format = \"json\"") && line("log-format").ends_with("stint.toml"));
    assert!(line("tls-san").starts_with("tls-san = [\"c\"]") && line("tls-san").ends_with("command line"));
    assert!(line("controllers").ends_with("default"));
    fs::write(&file, "listn = \"127.0.0.1:1\"\n").unwrap();
    let refused = text(&daemon.command(&["serve", "--config"]).arg(&file).output().unwrap());
    assert!(refused.contains("there is no setting listn") && refused.contains("did you mean listen?"), "{refused}");
}

#[test]
fn sighup_takes_new_names_into_the_certificate_and_keeps_serving() {
    let mut daemon = Daemon::folder();
    let file = daemon.data.path().join("stint.toml");
    fs::write(&file, "tls-san = [\"first.example\"]\n").unwrap();
    daemon.start_again(&["--no-agent", "--config", file.to_str().unwrap()]);
    let certificate = || fs::read(daemon.data.path().join("pki/server.crt")).unwrap();
    let before = certificate();
    fs::write(&file, "tls-san = [\"first.example\", \"second.example\"]\n").unwrap();
    daemon.signal(Signal::HUP);
    until("the certificate is another one", || certificate() != before);
    // A file that can't be read leaves things as they are.
    let now = certificate();
    fs::write(&file, "tls-san = {}\n").unwrap();
    daemon.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(certificate(), now);
    assert_eq!(daemon.ask("GET", "/livez", "").0, 200);
    daemon.stop();
}

#[test]
fn a_watch_ends_behind_a_whole_line_when_the_daemon_stops() {
    let mut daemon = Daemon::start(&["--no-agent", "--shutdown-grace", "1h"]);
    let mut socket = UnixStream::connect(daemon.data.path().join("stint.sock")).unwrap();
    write!(socket, "GET {CONFIG_MAPS}?watch=true HTTP/1.1\r\nHost: stint\r\n\r\n").unwrap();
    daemon.create(CONFIG_MAPS, &config_map("seen"));
    // Whoever reads it slowly does not hold up the daemon, and still gets all of what it was sent.
    let (mut answer, mut piece) = (Vec::new(), [0; 1]);
    while !answer.ends_with(b"\"name\":\"seen\"") {
        assert_eq!(socket.read(&mut piece).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece);
    }
    let began = Instant::now();
    daemon.stop();
    assert!(began.elapsed() < PATIENCE, "stopping took {:?}", began.elapsed());
    socket.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("\"name\":\"seen\""), "{answer}");
    assert!(answer.ends_with("}\n\r\n0\r\n\r\n"), "the last chunk is a whole line, and the body has an end: {answer}");
}

#[test]
fn health_and_metrics_tell_of_the_parts() {
    let daemon = Daemon::start(&["--no-agent"]);
    daemon.create(CONFIG_MAPS, &config_map("one"));
    let (code, health) = daemon.ask("GET", "/readyz?verbose", "");
    assert_eq!((code, health.as_str()), (200, "[+]ping ok\n[+]store ok\n[+]controllers ok\nreadyz check passed\n"));
    assert_eq!(daemon.ask("GET", "/livez/store", ""), (200, "ok".to_owned()));
    assert_eq!(daemon.ask("GET", "/livez/nothing", "").0, 404);
    let mut watcher = UnixStream::connect(daemon.data.path().join("stint.sock")).unwrap();
    write!(watcher, "GET {CONFIG_MAPS}?watch=true&resourceVersion=1 HTTP/1.1\r\nHost: stint\r\n\r\n").unwrap();
    let about = |verb: &str| {
        let about = "group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"namespace\"";
        format!("verb=\"{verb}\",{about}")
    };
    let labels = serde_json::json!({"pod-security.kubernetes.io/warn": "baseline"});
    daemon.create("/api/v1/namespaces", &serde_json::json!({"metadata": {"name": "wary", "labels": labels}}));
    let mut wild = job("wild", "true");
    wild["spec"]["suspend"] = true.into();
    wild["spec"]["template"]["spec"]["hostPID"] = true.into();
    daemon.create("/apis/batch/v1/namespaces/wary/jobs", &wild);
    let warned = "decision=\"deny\",mode=\"warn\",policy_level=\"baseline\",policy_version=\"latest\"";
    let by = "request_operation=\"create\",resource=\"controller\",subresource=\"\"";
    let expected = [
        format!("pod_security_evaluations_total{{{warned},{by}}} 1"),
        format!("apiserver_request_total{{{},code=\"201\"}} 1", about("POST")),
        format!("apiserver_longrunning_requests{{{}}} 1", about("WATCH")),
        "apiserver_watch_events_total{group=\"\",version=\"v1\",resource=\"configmaps\"} ".to_owned(),
        "process_resident_memory_bytes ".to_owned(),
        "stint_build_info{".to_owned(),
    ];
    until("the metrics tell all", || {
        let (_, metrics) = daemon.ask("GET", "/metrics", "");
        expected.iter().all(|line| metrics.contains(line))
    });
    drop(watcher);
    let closed = format!("apiserver_longrunning_requests{{{}}} 0", about("WATCH"));
    until("the watch is not counted any more", || daemon.ask("GET", "/metrics", "").1.contains(&closed));
}

/// The figure that the README gives is that of an optimized build; this bound only notices what is grossly wrong.
#[test]
fn a_daemon_is_soon_ready() {
    let mut daemon = Daemon::start(&["--no-agent"]);
    daemon.stop();
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..5 {
        times.push(daemon.start_again(&["--no-agent"]));
        daemon.stop();
    }
    times.sort();
    eprintln!("ready after {:?} (the median of 5 starts)", times[2]);
    assert!(times[0] < Duration::from_secs(20), "{times:?}");
}
