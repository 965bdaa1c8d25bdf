//! What the machine's other tools take for the same work.
//!
//! crun refuses hybrid cgroups; it and runc are timed from inside a private mount namespace where the unified hierarchy
//! is not mounted and the root filesystem is mounted once below a throw-away overlay, which Stint does anew for
//! each container. The bench starts itself there with `--timer`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub wall: Duration,
    pub cpu: Duration,
}

/// The p-th percentile of the wall times, in milliseconds.
pub fn percentile(samples: &[Sample], p: usize) -> f64 {
    let mut walls: Vec<Duration> = samples.iter().map(|sample| sample.wall).collect();
    walls.sort();
    walls[(walls.len() * p / 100).min(walls.len() - 1)].as_secs_f64() * 1e3
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
pub fn timed(command: &mut Command) -> Sample {
    let before = children_cpu();
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let wall = started.elapsed();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {status:?}");
    // Ticks are coarse for one run and right on the average over a hundred.
    Sample { wall, cpu: children_cpu().saturating_sub(before) }
}

/// The other tools, in a namespace of their own.
pub struct Others {
    pub programs: Vec<String>,
    timer: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Others {
    pub fn start(folder: &Path) -> Others {
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

    pub fn time(&mut self, what: &str) -> Sample {
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
pub fn timer(folder: &Path) {
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
