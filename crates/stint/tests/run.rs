//! `stint run` as a user runs it: the real program, real manifests, real containers on this machine's root filesystem.
//!
//! Containers need root; elsewhere these tests say that they are skipped.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A data folder of its own for one test, and the program on it.
struct Stint {
    data: tempfile::TempDir,
}

impl Stint {
    /// `None`, with a notice, where containers can't be started.
    fn new() -> Option<Stint> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: containers need root");
            return None;
        }
        Some(Stint { data: tempfile::tempdir().unwrap() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
        command.env("STINT_DATA", self.data.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs `stint` with `args` to its end.
    fn run(&self, args: &[&str]) -> Ended {
        Ended::of(&self.command(args).output().unwrap())
    }

    /// Runs `stint run` until it has said all of these words, and ends it as Ctrl-C does.
    fn run_until_told(&self, args: &[&str], words: &[&str]) -> Ended {
        let mut command = self.command(&[&["run"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut told, mut piece) = (Vec::new(), [0; 1 << 12]);
        let stderr = child.stderr.as_mut().unwrap();
        while !words.iter().all(|word| String::from_utf8_lossy(&told).contains(word)) {
            let read = stderr.read(&mut piece).unwrap();
            assert_ne!(read, 0, "it ended without {words:?}: {}", String::from_utf8_lossy(&told));
            told.extend_from_slice(&piece[..read]);
        }
        interrupt(&child);
        let mut ended = Ended::of(&child.wait_with_output().unwrap());
        ended.stderr.insert_str(0, &String::from_utf8_lossy(&told));
        ended
    }

    /// Runs `stint run --host -` with `manifest` on stdin.
    fn run_text(&self, args: &[&str], manifest: &str) -> Ended {
        let mut child = self.spawn_text(args, manifest);
        drop(child.stdin.take());
        Ended::of(&child.wait_with_output().unwrap())
    }

    fn spawn_text(&self, args: &[&str], manifest: &str) -> std::process::Child {
        let mut command = self.command(&["run", "--host", "-"]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A manifest that is refused early may close the pipe.
        let _ = child.stdin.take().unwrap().write_all(manifest.as_bytes());
        child
    }

    fn runs(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.data.path().join("runs")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn interrupt(child: &std::process::Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT).unwrap();
}

/// A number of seconds that nobody else's `sleep` has.
fn long(number: u32) -> u32 {
    1_000_000_000 + std::process::id() * 10 + number
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(output: &Output) -> Ended {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn example(name: &str) -> String {
    format!("{}/../../examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"))
}

/// A Job of one pod that runs `script` in a shell; `more` is put into its spec.
fn job(name: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    let pod = format!(
        r#"{{"containers":[{{"name":"c","image":"busybox","command":["/bin/sh","-c",{script}]}}],"restartPolicy":"Never","terminationGracePeriodSeconds":5}}"#
    );
    let metadata = format!(r#""apiVersion":"batch/v1","kind":"Job","metadata":{{"name":"{name}"}}"#);
    format!(r#"{{{metadata},"spec":{{"backoffLimit":0{more},"template":{{"spec":{pod}}}}}}}"#)
}

/// Whether any process of this machine has `needle` in its command line.
fn process_with(needle: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(needle) && entry.file_name() != std::process::id().to_string().as_str()
    })
}

/// The cgroups of this machine whose path has `needle` in it.
fn cgroups_with(needle: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, needle: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if path.to_string_lossy().contains(needle) {
                    found.push(path.clone());
                }
                walk(&path, needle, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), needle, 4, &mut found);
    found
}

/// How long a test waits for what has to happen: a machine may be busy with much else.
const PATIENCE: Duration = Duration::from_mins(2);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The first 2,000 digits of pi by the spigot of Rabinowitz and Wagon, as `3.14…`, truncated as `bpi` rounds the last.
fn pi(digits: usize) -> String {
    let length = digits * 10 / 3 + 1;
    let mut remainders = vec![2_u64; length];
    let mut out = String::new();
    let (mut nines, mut held) = (0, 0);
    for step in 0..digits + 2 {
        let mut carry = 0;
        for place in (0..length).rev() {
            let index = place as u64;
            let value = 10 * remainders[place] + carry * (index + 1);
            let divisor = if place == 0 { 10 } else { 2 * index + 1 };
            remainders[place] = value % divisor;
            carry = value / divisor;
        }
        match carry {
            9 => nines += 1,
            10 => {
                out.push_str(&(held + 1).to_string());
                out.extend(std::iter::repeat_n('0', nines));
                (held, nines) = (0, 0);
            }
            digit => {
                if step > 0 {
                    out.push_str(&held.to_string());
                }
                out.extend(std::iter::repeat_n('9', nines));
                (held, nines) = (digit, 0);
            }
        }
    }
    out
}

#[test]
fn pi_is_right_to_two_thousand_digits() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run(&["run", "--host", &example("pi")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let digits = ended.stdout.trim_end().replace('.', "");
    assert_eq!(digits.len(), 2000);
    // bpi rounds its last digit.
    assert_eq!(digits[..1999], pi(2010)[..1999]);
    let outcome = ended.stderr.lines().last().unwrap();
    assert!(outcome.starts_with("job/pi-calculator Complete 1/1 in "), "{outcome}");
}

#[test]
fn a_retry_waits_as_long_as_it_is_told_to() {
    let Some(stint) = Stint::new() else { return };
    let manifest = job("again", "exit 3", "").replace(r#""backoffLimit":0"#, r#""backoffLimit":3"#);
    // Three retries would wait 10 s, 20 s and 40 s.
    let started = Instant::now();
    let ended = stint.run_text(&["--job-backoff-base", "1s", "--job-backoff-max", "1s"], &manifest);
    let took = started.elapsed();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(69), "{took:?}");
}

#[test]
fn every_example_runs_on_the_host() {
    let Some(stint) = Stint::new() else { return };
    for (name, code, stdout) in [
        ("hello", 0, "hello from a Job\n"),
        ("config", 0, "good morning, correct horse\ncolour = blue\n"),
        ("retry", 0, "attempt 1\nattempt 2\n"),
        ("fail", 3, ""),
        ("managed", 0, "hello\n"),
    ] {
        let ended = stint.run(&["run", "--host", &example(name)]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), stdout), "{name}: {}", ended.stderr);
    }
    let ended = stint.run(&["run", "--host", &example("cronjob")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("20"), "{ended:?}");
    let known = ["pi", "hello", "config", "retry", "fail", "cronjob", "parallel", "managed"];
    for entry in fs::read_dir(Path::new(&example("pi")).parent().unwrap()).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "the example {name} has no test");
    }
}

#[test]
fn a_job_of_somebody_elses_is_refused_and_not_waited_for() {
    let Some(stint) = Stint::new() else { return };
    let text = fs::read_to_string(example("managed")).unwrap().replace("stint.dev/", "example.com/");
    let ended = stint.run_text(&[], &text);
    assert_eq!(ended.code, Some(65), "{ended:?}");
    assert!(ended.stderr.contains("spec.managedBy: Invalid value: \"example.com/job-controller\""), "{ended:?}");
}

#[test]
fn lines_of_parallel_pods_are_prefixed_with_the_pod() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run(&["run", "--host", &example("parallel")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{ended:?}");
    for line in lines {
        let (prefix, said) = line.split_once("] ").unwrap();
        assert_eq!(said, format!("{} works", &prefix[1..]));
    }
    let plain = stint.run(&["run", "--host", "--prefix=false", &example("parallel")]);
    assert!(plain.stdout.lines().all(|line| line.starts_with("parallel-")), "{plain:?}");
}

#[test]
fn a_failed_container_gives_its_exit_code_and_says_why() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run_text(&[], &job("f", "echo out; echo err >&2; exit 7", ""));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(7), "out\n"), "{ended:?}");
    assert!(ended.stderr.contains("err\n"), "{ended:?}");
    assert!(ended.stderr.contains("job/f Failed 0/1"), "{ended:?}");
    assert!(ended.stderr.contains("Job has reached the specified backoff limit (BackoffLimitExceeded)"), "{ended:?}");
}

#[test]
fn a_killed_container_gives_128_and_its_signal() {
    let Some(stint) = Stint::new() else { return };
    // PID 1 ignores its own SIGKILL; a child's death is passed on by the shell. In a command `$$` stands for `$`.
    let ended = stint.run_text(&[], &job("k", "sh -c 'kill -KILL $$$$'", ""));
    assert_eq!(ended.code, Some(137), "{ended:?}");
}

#[test]
fn a_command_that_is_not_there_fails_as_in_kubernetes() {
    let Some(stint) = Stint::new() else { return };
    let manifest = job("m", "x", "").replace(r#"["/bin/sh","-c","x"]"#, r#"["/no/such/command"]"#);
    let ended = stint.run_text(&[], &manifest);
    assert_eq!(ended.code, Some(128), "{ended:?}");
    assert!(ended.stderr.contains("/no/such/command"), "{ended:?}");
}

#[test]
fn usage_errors_end_with_64() {
    let Some(stint) = Stint::new() else { return };
    for args in [&["run"][..], &["run", "--no-such-flag", "x"], &["frobnicate"], &["run", "--timeout", "5", "x"]] {
        let ended = stint.run(args);
        assert_eq!(ended.code, Some(64), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
    assert_eq!(stint.run(&["--help"]).code, Some(0));
}

#[test]
fn every_fault_of_a_manifest_is_named_with_its_field() {
    let Some(stint) = Stint::new() else { return };
    let faulty = job("Bad_Name", "true", r#","parallelism":-1,"completionMode":"Sideways""#);
    let ended = stint.run_text(&[], &faulty);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(65), ""), "{ended:?}");
    for fault in [
        r#"metadata.name: Invalid value: "Bad_Name""#,
        "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        r#"spec.completionMode: Unsupported value: "Sideways": supported values: "NonIndexed", "Indexed""#,
    ] {
        assert!(ended.stderr.contains(fault), "{fault} is not in {}", ended.stderr);
    }
}

#[test]
fn without_an_image_a_container_needs_a_command() {
    let Some(stint) = Stint::new() else { return };
    let manifest = job("n", "x", "").replace(r#""command":["/bin/sh","-c","x"]"#, r#""args":["x"]"#);
    let ended = stint.run_text(&[], &manifest);
    assert_eq!(ended.code, Some(65), "{ended:?}");
    assert!(ended.stderr.contains("spec.template.spec.containers[0].command: Required value"), "{ended:?}");
}

#[test]
fn a_field_that_is_not_honoured_is_said() {
    let Some(stint) = Stint::new() else { return };
    let classed = r#""runtimeClassName":"x","containers""#;
    let ended = stint.run_text(&[], &job("n", "true", "").replace(r#""containers""#, classed));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("runtimeClassName"), "{ended:?}");
}

#[test]
fn unknown_fields_and_wrong_types_are_refused_with_their_path() {
    let Some(stint) = Stint::new() else { return };
    let unknown = stint.run_text(&[], &job("u", "true", r#","paralelism":2"#));
    assert_eq!(unknown.code, Some(65), "{unknown:?}");
    assert!(unknown.stderr.contains(r#"unknown field "spec.paralelism""#), "{unknown:?}");
    let wrong = stint.run_text(&[], &job("w", "true", r#","parallelism":"two""#));
    assert_eq!(wrong.code, Some(65), "{wrong:?}");
    assert!(wrong.stderr.contains("spec.parallelism"), "{wrong:?}");
}

#[test]
fn bombs_and_giants_are_refused_quickly() {
    let Some(stint) = Stint::new() else { return };
    let mut bomb = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_vec();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        writeln!(bomb, "a{level}: &a{level} [{}]", vec![below; 9].join(",")).unwrap();
    }
    let bomb = String::from_utf8(bomb).unwrap();
    let deep = format!("a: {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let giant = format!("# {}\n{}", "x".repeat(11 * 1024 * 1024), job("g", "true", ""));
    for (what, manifest) in [("bomb", bomb), ("depth", deep), ("giant", giant)] {
        let started = Instant::now();
        let ended = stint.run_text(&[], &manifest);
        assert_eq!(ended.code, Some(65), "{what}: {}", ended.stderr.chars().take(300).collect::<String>());
        assert!(started.elapsed() < PATIENCE, "{what} took {:?}", started.elapsed());
    }
}

#[test]
fn folders_and_several_files_are_taken_together() {
    let Some(stint) = Stint::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), job("a", "echo a", "")).unwrap();
    fs::write(folder.path().join("b.json"), job("b", "echo b", "")).unwrap();
    fs::write(folder.path().join("notes.txt"), "not a manifest").unwrap();
    let more = folder.path().join("more");
    fs::write(&more, job("c", "echo c", "")).unwrap();
    let ended = stint.run(&["run", "--host", &folder.path().to_string_lossy(), &more.to_string_lossy()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for letter in ["a", "b", "c"] {
        assert!(ended.stdout.lines().any(|line| line.ends_with(&format!("] {letter}"))), "{ended:?}");
        assert!(ended.stderr.contains(&format!("job/{letter} Complete 1/1")), "{ended:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run(&["run", "--host", "/no/such/file.yaml"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("can't read /no/such/file.yaml"), "{ended:?}");
}

#[test]
fn the_final_job_is_printed_as_json() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run_text(&["--output", "json"], &job("o", "echo said", ""));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let job: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(job["status"]["succeeded"], 1);
    assert_eq!(job["kind"], "Job");
    let last = job["status"]["conditions"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["type"], &last["status"]), (&"Complete".into(), &"True".into()));
    assert!(ended.stderr.contains("said"));
}

#[test]
fn quiet_says_nothing_but_what_containers_print() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run_text(&["--quiet"], &job("q", "echo said", ""));
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "said\n", ""));
}

#[test]
fn nothing_that_a_container_writes_survives() {
    let Some(stint) = Stint::new() else { return };
    let mark = format!("/stint-test-{}", std::process::id());
    let script = format!("echo x > {mark} && cat {mark} && rm -f /bin/true && ! ls /bin/true");
    let ended = stint.run_text(&[], &job("w", &script, ""));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!Path::new(&mark).exists());
    assert!(Path::new("/bin/true").exists());
    assert!(stint.runs().is_empty(), "{:?}", stint.runs());
}

#[test]
fn large_output_arrives_whole_and_in_order() {
    let Some(stint) = Stint::new() else { return };
    let ended = stint.run_text(&["--quiet"], &job("l", "seq 1 200000", ""));
    assert_eq!(ended.code, Some(0));
    let numbers: Vec<u32> = ended.stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.into_iter().eq(1..=200_000), "{} bytes", ended.stdout.len());
}

#[test]
fn the_timeout_ends_everything_with_124() {
    let Some(stint) = Stint::new() else { return };
    let started = Instant::now();
    let ended = stint.run_text(&["--timeout", "1s"], &job("t", &format!("sleep {}", long(1)), ""));
    assert_eq!(ended.code, Some(124), "{ended:?}");
    // PID 1 without a handler ignores SIGTERM: the grace period of 5 s passes.
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert!(!process_with(&format!("sleep\0{}", long(1))));
    assert!(stint.runs().is_empty());
}

#[test]
fn ctrl_c_ends_the_pods_with_their_grace_period() {
    let Some(stint) = Stint::new() else { return };
    let script = "trap 'echo ending; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let patient = job("i", script, "").replace("PeriodSeconds\":5", "PeriodSeconds\":300");
    let mut child = stint.spawn_text(&[], &patient);
    drop(child.stdin.take());
    until("the container is ready", || {
        stint.runs().iter().any(|run| {
            let log = Command::new("grep").args(["-rqsx", ".* stdout F ready"]).arg(run).status().unwrap();
            log.success()
        })
    });
    interrupt(&child);
    let ended = Ended::of(&child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), "ready\nending\n"), "{ended:?}");
    assert!(stint.runs().is_empty());
}

#[test]
fn what_a_killed_run_left_is_gone_after_the_next_start() {
    let Some(stint) = Stint::new() else { return };
    let mut child = stint.spawn_text(&[], &job("s", &format!("sleep {}", long(2)), ""));
    let runs = || process_with(&format!("sleep\0{}", long(2)));
    until("the container runs", runs);
    let run = stint.runs().remove(0);
    let id = run.file_name().unwrap().to_string_lossy().into_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(runs(), "a container outlives the process that started it");
    let ended = stint.run_text(&[], &job("n", "true", ""));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    until("the old container is gone", || !runs());
    assert!(!run.exists());
    until("no cgroup is left", || cgroups_with(&id).is_empty());
    until("no mount is left", || !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&id));
}

#[test]
fn an_image_that_cannot_be_pulled_waits_and_names_the_registrys_answer() {
    let Some(stint) = Stint::new() else { return };
    // Nothing listens on port 1 of loopback.
    let manifest = job("p", "true", "").replace("\"busybox\"", "\"127.0.0.1:1/no/such:1\"");
    let file = stint.data.path().join("p.json");
    fs::write(&file, manifest).unwrap();
    let ended = stint.run_until_told(&[&file.to_string_lossy()], &["ErrImagePull", "127.0.0.1:1/no/such:1"]);
    assert_eq!(ended.code, Some(130), "{ended:?}");
}

#[test]
fn an_imported_image_runs_without_a_registry() {
    let Some(stint) = Stint::new() else { return };
    if !Path::new("/bin/busybox").exists() {
        return eprintln!("skipped: busybox-static is not installed");
    }
    let archive = stint.data.path().join("image.tar");
    busybox_image(&archive, "example.test/tools/busybox:1");
    let imported = stint.run(&["image", "import", &archive.to_string_lossy()]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert!(stint.run(&["image", "ls"]).stdout.contains("example.test/tools/busybox"));
    let manifest = job("img", "echo $FROM_IMAGE; pwd; id -u; ls /", "")
        .replace("\"busybox\"", "\"example.test/tools/busybox:1\"")
        .replace("\"image\"", "\"imagePullPolicy\":\"IfNotPresent\",\"image\"");
    let file = stint.data.path().join("img.json");
    fs::write(&file, manifest).unwrap();
    for runtime in [&[][..], &["--runtime", "runc"]] {
        if !runtime.is_empty() && !Path::new("/usr/sbin/runc").exists() {
            eprintln!("skipped: runc is not installed");
            continue;
        }
        let mut args = vec!["run", "--quiet"];
        args.extend(runtime);
        let path = file.to_string_lossy().into_owned();
        args.push(&path);
        let ended = stint.run(&args);
        assert_eq!(ended.code, Some(0), "{runtime:?}: {ended:?}");
        let mut lines = ended.stdout.lines();
        assert_eq!((lines.next(), lines.next(), lines.next()), (Some("yes"), Some("/srv"), Some("1000")), "{ended:?}");
        assert!(!ended.stdout.contains("home"), "the host's folders are not there: {ended:?}");
    }
    let removed = stint.run(&["image", "rm", "example.test/tools/busybox:1"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert!(!stint.run(&["image", "ls"]).stdout.contains("example.test"));
}

#[test]
fn images_are_listed_with_their_use_and_those_that_nobody_uses_are_pruned() {
    let Some(stint) = Stint::new() else { return };
    if !Path::new("/bin/busybox").exists() {
        return eprintln!("skipped: busybox-static is not installed");
    }
    let archive = stint.data.path().join("image.tar");
    busybox_image(&archive, "example.test/busybox:1");
    assert_eq!(stint.run(&["image", "import", &archive.to_string_lossy()]).code, Some(0));
    let listed = || -> serde_json::Value {
        serde_json::from_str(&stint.run(&["image", "ls", "--output", "json"]).stdout).unwrap()
    };
    let file = stint.data.path().join("job.json");
    let manifest = job("j", "echo begun; read line", "").replace("\"busybox\"", "\"example.test/busybox:1\"");
    fs::write(&file, manifest.replace("\"image\"", "\"stdin\":true,\"image\"")).unwrap();
    let mut command = stint.command(&["run", "--quiet", &file.to_string_lossy()]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut begun = [0; 6];
    running.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let images = listed();
    assert_eq!((&images[0]["name"], &images[0]["users"]), (&"example.test/busybox:1".into(), &1.into()), "{images}");
    let table = stint.run(&["image", "ls"]).stdout;
    assert!(table.starts_with("IMAGE ") && table.trim_end().ends_with("  now"), "{table}");
    let pruned = stint.run(&["image", "prune"]);
    assert_eq!((pruned.code, pruned.stdout.as_str()), (Some(0), ""), "it is used: {pruned:?}");

    // Killed, it can't give its image back; whoever cleans up after it does.
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(listed()[0]["users"], 1);
    assert_eq!(stint.run_text(&["--quiet"], &job("next", "true", "")).code, Some(0));
    assert_eq!(listed()[0]["users"], 0);
    let kept = stint.run(&["image", "prune", "--unused-for", "1h"]);
    assert_eq!((kept.code, kept.stdout.as_str()), (Some(0), ""), "{kept:?}");
    let would = stint.run(&["image", "prune", "--dry-run"]);
    assert_eq!(would.stdout, "example.test/busybox:1\n", "{would:?}");
    let pruned = stint.run(&["image", "prune", "--output", "json"]);
    let gone: serde_json::Value = serde_json::from_str(&pruned.stdout).unwrap();
    assert_eq!(gone[0]["names"], serde_json::json!(["example.test/busybox:1"]));
    assert_eq!(listed(), serde_json::json!([]));
}

#[test]
fn the_usual_example_runs_from_its_image_through_a_mirror() {
    let Some(stint) = Stint::new() else { return };
    if !Path::new("/usr/bin/docker-registry").exists() {
        return eprintln!("skipped: docker-registry is not installed");
    }
    let registry = Registry::start(stint.data.path());
    registry.push_image("library/perl", "5.34.0", &perl_layer());
    let mirror = format!("docker.io=http://127.0.0.1:{}", registry.port);
    let ended = stint.run(&["run", "--mirror", &mirror, &example("pi")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout.trim_end().replace('.', "")[..1999], pi(2010)[..1999]);
    let listed = stint.run(&["image", "ls"]).stdout;
    assert!(listed.contains("perl:5.34.0"), "{listed}");
}

/// `app:secret`, which a registry with passwords lets in.
const APP_SECRET: &str = "YXBwOnNlY3JldA==";
const PASSWORDS: &str = "app:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

#[test]
fn credentials_come_from_pull_secrets_and_then_from_docker_and_its_programs() {
    let Some(stint) = Stint::new() else { return };
    if !Path::new("/usr/bin/docker-registry").exists() || !Path::new("/bin/busybox").exists() {
        return eprintln!("skipped: docker-registry or busybox-static is not installed");
    }
    let data = stint.data.path();
    fs::write(data.join("htpasswd"), PASSWORDS).unwrap();
    let registry = Registry::start(data);
    registry.push_image("team/tool", "1", &busybox_layer());
    let (host, docker, programs) = (format!("127.0.0.1:{}", registry.port), data.join("docker"), data.join("programs"));
    let image = format!("{host}/team/tool:1");
    fs::create_dir(&docker).unwrap();
    fs::create_dir(&programs).unwrap();
    let helper = |name: &str, script: &str| {
        let path = programs.join(format!("docker-credential-{name}"));
        // By another process: a program that this one writes could still be open where it forks meanwhile.
        let write = ["-c", "cat > $0 && chmod 755 $0", path.to_str().unwrap()];
        filtered(Command::new("sh").args(write), format!("#!/bin/sh\n{script}\n").as_bytes());
    };
    let asked = data.join("asked");
    let answer = r#"echo '{"ServerURL":"x","Username":"app","Secret":"secret"}'"#;
    helper("good", &format!("echo \"$1 $(cat)\" >{}; {answer}", asked.display()));
    helper("none", "echo credentials not found in native keychain; exit 1");
    helper("broken", "echo the vault is sealed >&2; exit 3");
    let pull = |config: &serde_json::Value| {
        fs::write(docker.join("config.json"), config.to_string()).unwrap();
        let mut command = stint.command(&["image", "pull", &image]);
        command.env("DOCKER_CONFIG", &docker).env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        let ended = Ended::of(&command.output().unwrap());
        stint.run(&["image", "rm", &image]);
        ended
    };
    let login = |auth: &str| serde_json::json!({ host.clone(): { "auth": auth } });
    let wrong = "YXBwOndyb25n";
    for (config, code, said) in [
        (serde_json::json!({}), 1, "authentication required"),
        (serde_json::json!({ "auths": login(wrong) }), 1, "check the credentials"),
        (serde_json::json!({ "auths": login(APP_SECRET) }), 0, ""),
        (serde_json::json!({ "credsStore": "good" }), 0, ""),
        (serde_json::json!({ "credHelpers": { host.clone(): "good" }, "credsStore": "broken" }), 0, ""),
        (serde_json::json!({ "credHelpers": { host.clone(): "none" }, "auths": login(APP_SECRET) }), 0, ""),
        (serde_json::json!({ "credsStore": "broken" }), 1, "docker-credential-broken: the vault is sealed"),
        (serde_json::json!({ "credsStore": "absent" }), 1, "docker-credential-absent: No such file"),
    ] {
        let ended = pull(&config);
        assert_eq!(ended.code, Some(code), "{config}: {ended:?}");
        assert!(ended.stderr.contains(said), "{config}: {ended:?}");
    }
    assert_eq!(fs::read_to_string(&asked).unwrap(), format!("get {host}\n"));

    // A pod's own secrets are tried before the node's.
    fs::write(docker.join("config.json"), serde_json::json!({ "auths": login(wrong) }).to_string()).unwrap();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "pull" }, "type": "kubernetes.io/dockerconfigjson",
        "data": { ".dockerconfigjson": base64(&serde_json::json!({ "auths": login(APP_SECRET) }).to_string()) },
    });
    let manifest = job("j", "echo $FROM_IMAGE", "")
        .replace("\"busybox\"", &format!("{image:?}"))
        .replace("\"containers\"", "\"imagePullSecrets\":[{\"name\":\"absent\"},{\"name\":\"pull\"}],\"containers\"");
    let file = data.join("job.yaml");
    fs::write(&file, format!("{secret}\n---\n{manifest}\n")).unwrap();
    let mut command = stint.command(&["run", "--quiet", "--timeout", "300s", &file.to_string_lossy()]);
    let ended = Ended::of(&command.env("DOCKER_CONFIG", &docker).output().unwrap());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "yes\n"), "{ended:?}");
}

/// Debian's registry on a port of loopback that it chooses, ended when dropped.
struct Registry {
    port: u16,
    process: std::process::Child,
}

impl Registry {
    fn start(folder: &Path) -> Registry {
        let config = folder.join("registry.yml");
        let (storage, passwords) = (folder.join("registry"), folder.join("htpasswd"));
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
        let auth = if passwords.exists() { auth.as_str() } else { "" };
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{auth}",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        let port = loop {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "the registry ended:\n{said}");
            let listens = said.split_once("listening on 127.0.0.1:").map(|(_, rest)| rest);
            let port = listens.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
            if let Some(port) = port {
                break port;
            }
        };
        // Somebody has to read what else it says.
        std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
        Registry { port, process }
    }

    /// One request; the answer's head.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let (port, length) = (self.port, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nAuthorization: Basic {APP_SECRET}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        answer
    }

    fn push_blob(&self, repository: &str, blob: &[u8]) -> String {
        let digest = format!("sha256:{}", sha256(blob));
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "text/plain", b"");
        let location = begun.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        let path = &location[location.find("/v2/").unwrap()..];
        self.request("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", blob);
        digest
    }

    /// An image of one layer.
    fn push_image(&self, repository: &str, tag: &str, (layer, config): &(Vec<u8>, Vec<u8>)) {
        let blob = |kind: &str, bytes: &[u8]| {
            let media_type = format!("application/vnd.oci.image.{kind}");
            let digest = self.push_blob(repository, bytes);
            serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
        };
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let (config, layer) = (blob("config.v1+json", config), blob("layer.v1.tar", layer));
        let manifest =
            serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.request("PUT", &path, kind, manifest.to_string().as_bytes());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sha256(bytes: &[u8]) -> String {
    filtered(&mut Command::new("sha256sum"), bytes)[..64].to_owned()
}

fn base64(text: &str) -> String {
    filtered(Command::new("base64").arg("--wrap=0"), text.as_bytes())
}

/// What a program makes of some bytes.
fn filtered(program: &mut Command, bytes: &[u8]) -> String {
    let mut running = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(running.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn an_image_is_pulled_through_a_mirror_and_kept() {
    let Some(stint) = Stint::new() else { return };
    if !Path::new("/usr/bin/docker-registry").exists() || !Path::new("/bin/busybox").exists() {
        return eprintln!("skipped: docker-registry or busybox-static is not installed");
    }
    let registry = Registry::start(stint.data.path());
    registry.push_image("library/tool", "1.0", &busybox_layer());

    let manifest = job("pulled", "echo $FROM_IMAGE", "").replace("\"busybox\"", "\"tool:1.0\"");
    let file = stint.data.path().join("pulled.json");
    fs::write(&file, manifest).unwrap();
    let reference: stint_image::Reference = "tool:1.0".parse().unwrap();
    let mirror = format!("{}=http://127.0.0.1:{}", reference.registry(), registry.port);
    let ended = stint.run(&["run", "--mirror", &mirror, &file.to_string_lossy()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "yes\n"), "{ended:?}");
    assert!(ended.stderr.contains(" Pulling\n"), "{ended:?}");

    // A missing image is the registry's word; the one that is here needs no registry any more.
    let missing = fs::read_to_string(&file).unwrap().replace("tool:1.0", "tool:9.9");
    let other = stint.data.path().join("missing.json");
    fs::write(&other, missing).unwrap();
    let args = ["--mirror", &mirror, &*other.to_string_lossy()];
    let ended = stint.run_until_told(&args, &["tool:9.9", "manifest unknown"]);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    drop(registry);
    let ended = stint.run(&["run", "--quiet", &file.to_string_lossy()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "yes\n"), "{ended:?}");
}

/// Writes a `docker save` archive with one layer: busybox and its links, and a configuration.
fn busybox_image(archive: &Path, name: &str) {
    let save = tempfile::tempdir().unwrap();
    let (layer, config) = busybox_layer();
    fs::write(save.path().join("layer.tar"), layer).unwrap();
    fs::write(save.path().join("config.json"), config).unwrap();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(save.path().join("manifest.json"), manifest.to_string()).unwrap();
    tar(save.path(), archive, &["manifest.json", "config.json", "layer.tar"]);
}

fn tar(folder: &Path, to: &Path, what: &[&str]) {
    let status = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(to).args(what).status().unwrap();
    assert!(status.success());
}

/// A layer of busybox and its links, and the configuration of an image of it.
fn busybox_layer() -> (Vec<u8>, Vec<u8>) {
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    for folder in ["bin", "srv", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "ls", "id", "pwd", "echo"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let env = ["PATH=/bin", "FROM_IMAGE=yes"];
    layer_of(&root, &serde_json::json!({ "Env": env, "WorkingDir": "/srv", "User": "1000", "Cmd": ["sh"] }))
}

/// The files of a folder as a layer, and the configuration of an image of it.
fn layer_of(root: &Path, config: &serde_json::Value) -> (Vec<u8>, Vec<u8>) {
    let archive = tempfile::NamedTempFile::new().unwrap();
    tar(root, archive.path(), &["."]);
    let layer = fs::read(archive.path()).unwrap();
    let digest = sha256(&layer);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [],
    });
    (layer, config.to_string().into_bytes())
}

/// A layer of this machine's perl with what the usual example loads, and the configuration of an image of it.
fn perl_layer() -> (Vec<u8>, Vec<u8>) {
    let lines = |command: &mut Command| -> Vec<String> {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    let script = "Math::BigFloat->bpi(20); print join qq(\n), values %INC, @DynaLoader::dl_shared_objects, $^X";
    let mut files = lines(Command::new("perl").args(["-MMath::BigFloat", "-we", script]));
    let libraries = lines(Command::new("ldd").arg("/usr/bin/perl"));
    files.extend(
        libraries
            .iter()
            .flat_map(|line| line.split_whitespace())
            .filter(|word| word.starts_with('/'))
            .map(str::to_owned),
    );
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    for file in files {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    layer_of(&root, &serde_json::json!({ "Env": ["PATH=/usr/bin"], "Cmd": ["perl"] }))
}
