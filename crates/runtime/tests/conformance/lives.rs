//! Cases that are a story: signals from outside, deaths of daemon and shim, long output, leaks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Capability;
use stint_runtime::{ContainerId, ContainerState, Exit, Joined, Rootfs, Runtime, StartError, Stdin};
use tokio::io::AsyncWriteExt;

use crate::commands::{did, long, sh, sleeps};
use crate::world::{Verdict, World, cgroups, group, ours, read, stream, until};

type Story = for<'a> fn(&'a World) -> std::pin::Pin<Box<dyn Future<Output = Verdict> + 'a>>;

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        const STORIES: &[(&str, Story)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}

stories![
    sigterm_from_outside_runs_the_trap,
    sigkill_from_outside_is_137,
    kill_takes_every_process,
    signal_after_the_end_is_no_error,
    wait_answers_many_and_late,
    unknown_containers_are_told_so,
    a_name_is_used_once,
    rlimit_above_the_hard_limit_is_an_error,
    each_default_capability_is_usable_or_listed,
    log_keeps_streams_and_long_lines,
    large_output_arrives_whole,
    a_slow_progress_line_appears_before_its_end,
    container_outlives_a_killed_daemon,
    start_of_a_killed_daemon_leaves_all_or_nothing,
    recover_finds_an_exit_that_nobody_saw,
    recover_of_an_empty_folder_is_nothing,
    killed_shim_kills_its_container,
    killed_shim_and_daemon_are_recovered_as_lost,
    shim_without_its_folder_ends_with_its_container,
    host_rootfs_shows_the_host_and_leaves_it_unchanged,
    shim_keeps_out_of_the_containers_cgroup_and_oom_score,
    shim_is_small,
    namespaces_are_joined_by_path,
    cgroup_v2_confines_devices_and_is_tidied,
    shared_device_rules_hold_for_containers_that_start_at_once,
    failed_starts_leave_nothing,
    a_start_that_fails_before_the_shim_lets_it_go_on_is_told,
    input_is_written_by_many_and_lives_on_without_them,
    input_for_one_ends_with_him,
    a_terminal_outlives_the_daemon,
    nothing_leaks_over_many_containers,
];

pub fn names() -> Vec<&'static str> {
    STORIES.iter().map(|s| s.0).collect()
}

pub async fn run(name: &str, world: &World) -> Verdict {
    let story = STORIES.iter().find(|s| s.0 == name).expect("names come from the same table");
    (story.1)(world).await
}

pub fn expect(holds: bool, otherwise: impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{otherwise:#?}")) }
}

/// Waits until the container has logged a line.
async fn logged(dir: &Path, line: &str) -> Result<(), String> {
    let log = dir.join("log");
    until(&format!("{line:?} in the log"), || {
        stream(&fs::read(&log).unwrap_or_default(), "stdout").lines().any(|l| l == line)
    })
    .await
}

pub fn exists(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// The pids in a container's record.
fn pids(dir: &Path) -> (i32, i32) {
    let state: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("state.json")).unwrap()).unwrap();
    let pid = |who: &str| i32::try_from(state[who]["pid"].as_i64().unwrap()).unwrap();
    (pid("shim"), pid("init"))
}

pub fn send(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn sigterm_from_outside_runs_the_trap(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let setup = world.setup("trap 'echo bye; exit 42' TERM; echo ready; while :; do sleep 0.05; done");
        let (id, dir) = (setup.id.clone(), setup.dir.clone());
        runtime.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
        logged(&dir, "ready").await?;
        runtime.signal(&id, 15).map_err(|e| e.to_string())?;
        let ran = read(&dir, runtime.wait(&id).await.map_err(|e| e.to_string())?);
        expect(ran.exit.code == 42 && ran.exit.signal.is_none() && ran.stdout == "ready\nbye\n", &ran)?;
        runtime.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn sigkill_from_outside_is_137(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let setup = world.setup("echo ready; sleep 100");
        let (id, dir) = (setup.id.clone(), setup.dir.clone());
        runtime.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
        logged(&dir, "ready").await?;
        runtime.signal(&id, 9).map_err(|e| e.to_string())?;
        let exit = runtime.wait(&id).await.map_err(|e| e.to_string())?;
        expect(exit.code == 137 && exit.signal == Some(9) && !exit.oom_killed && !exit.lost, exit)?;
        runtime.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn kill_takes_every_process(world: &World) -> Verdict {
    let sleep = format!("setsid sleep {}", long(7));
    let setup = world.setup(&format!("trap '' TERM; (trap '' TERM; {sleep}) & {sleep} & echo ready; wait"));
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    logged(&dir, "ready").await?;
    world.native.kill(&id).map_err(|e| e.to_string())?;
    world.native.wait(&id).await.map_err(|e| e.to_string())?;
    expect(!sleeps(long(7)), "a process is left")?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn signal_after_the_end_is_no_error(world: &World) -> Verdict {
    let setup = world.setup("true");
    let id = setup.id.clone();
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    world.native.wait(&id).await.map_err(|e| e.to_string())?;
    world.native.signal(&id, 15).map_err(|e| e.to_string())?;
    world.native.kill(&id).map_err(|e| e.to_string())?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn wait_answers_many_and_late(world: &World) -> Verdict {
    let setup = world.setup("sleep 0.2; exit 4");
    let id = setup.id.clone();
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let (a, b) = tokio::join!(world.native.wait(&id), world.native.wait(&id));
    let c = world.native.wait(&id).await;
    for exit in [a, b, c] {
        expect(matches!(exit, Ok(Exit { code: 4, .. })), exit)?;
    }
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn unknown_containers_are_told_so(world: &World) -> Verdict {
    let id = ContainerId::new("nobody").unwrap();
    expect(world.native.wait(&id).await.is_err(), "wait")?;
    expect(world.native.signal(&id, 15).is_err(), "signal")?;
    expect(world.native.remove(&id).await.is_ok(), "remove")?;
    Ok(None)
}

async fn a_name_is_used_once(world: &World) -> Verdict {
    let setup = world.setup("sleep 100");
    let bundle = setup.bundle();
    let id = bundle.id.clone();
    world.native.start(bundle.clone()).await.map_err(|e| format!("{e:?}"))?;
    let again = world.native.start(bundle).await;
    expect(matches!(again, Err(StartError::Invalid { .. })), again)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn rlimit_above_the_hard_limit_is_an_error(world: &World) -> Verdict {
    let may = rustix::thread::capabilities(None)
        .is_ok_and(|c| c.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE));
    if may {
        return Ok(Some("this process has CAP_SYS_RESOURCE, it may".into()));
    }
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1 << 20);
    let mut setup = world.setup("true");
    let mut json = serde_json::to_value(&setup.spec).unwrap();
    json["process"]["rlimits"] = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": hard + 1}]);
    setup.spec = serde_json::from_value(json).unwrap();
    let got = world.native.start(setup.bundle()).await;
    expect(matches!(&got, Err(StartError::Failed { step, .. }) if step.contains("RLIMIT_NOFILE")), got)?;
    Ok(None)
}

async fn each_default_capability_is_usable_or_listed(world: &World) -> Verdict {
    // Every one alone: the process has exactly the bit asked for.
    let mut all: Vec<Capability> = stint_runtime::default_capabilities().into_iter().collect();
    all.sort_by_key(ToString::to_string);
    for capability in all {
        let mut setup = world.setup("grep CapEff /proc/self/status | cut -f2");
        let sets = stint_runtime::defaults::capability_sets(&[capability].into());
        setup.spec.process_mut().as_mut().unwrap().set_capabilities(Some(sets));
        let ran = world.run(&world.native, setup).await.map_err(|e| format!("{e:?}"))?;
        let mask = u64::from_str_radix(ran.stdout.trim(), 16).unwrap_or(0);
        expect(mask.is_power_of_two(), (capability, &ran))?;
    }
    let ran = world
        .script("chown 5:5 /tmp && chmod u+s /bin/busybox && mknod /tmp/x p && chroot / true && kill -0 1 && echo all")
        .await;
    expect(ran.stdout == "all\n", &ran)?;
    Ok(None)
}

async fn log_keeps_streams_and_long_lines(world: &World) -> Verdict {
    let script = "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end'";
    for runtime in world.runtimes() {
        let setup = world.setup(script);
        let (id, dir) = (setup.id.clone(), setup.dir.clone());
        runtime.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
        let ran = read(&dir, runtime.wait(&id).await.map_err(|e| e.to_string())?);
        let expected = format!("out\n{}\nno end", "x".repeat(40_000));
        expect(ran.stdout == expected && ran.stderr == "err\n", &ran)?;
        let log = fs::read_to_string(dir.join("log")).unwrap();
        let longest = log.lines().map(str::len).max().unwrap_or(0);
        expect(longest <= 16 * 1024 + 64 && log.contains(" stdout P xxx"), longest)?;
        runtime.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn large_output_arrives_whole(world: &World) -> Verdict {
    let setup = world.setup("yes 0123456789abcdef | head -n 2000000");
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let (shim, _) = pids(&dir);
    let mut most = 0;
    let mut exit = std::pin::pin!(world.native.wait(&id));
    let exit = loop {
        tokio::select! {
            exit = &mut exit => break exit.map_err(|e| e.to_string())?,
            () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(private_kb(shim)),
        }
    };
    let ran = read(&dir, exit);
    expect(ran.exit.code == 0 && ran.stdout.len() == 34_000_000, (ran.exit, ran.stdout.len()))?;
    expect(most < 400, format!("the shim grew to {most} kB"))?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn a_slow_progress_line_appears_before_its_end(world: &World) -> Verdict {
    let setup = world.setup("printf 'working'; until test -e /tmp/go; do sleep 0.05; done; echo ' done'");
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    logged(&dir, "working").await?;
    did(&world.native, &id, sh("touch /tmp/go")).await?;
    let ran = read(&dir, world.native.wait(&id).await.map_err(|e| e.to_string())?);
    expect(ran.stdout == "working done\n", &ran)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

/// What the child process does: start one container with this script, say so, and wait to be killed.
pub fn act_as_daemon(args: &[String]) {
    let zygote = stint_runtime::zygote::spawn().expect("one thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    let dir = PathBuf::from(&args[0]);
    let world = World::at(zygote, dir.clone());
    let mut setup = world.setup(&args[1]);
    setup.dir = dir.join("container");
    setup.rootfs = Rootfs::Overlay {
        lower: vec![dir.join("rootfs")],
        writable: stint_runtime::Writable::Directory(setup.dir.clone()),
    };
    let silent = args.len() > 2;
    runtime.block_on(async {
        if silent {
            println!("starting");
        }
        world.native.start(setup.bundle()).await.expect("it starts");
        println!("started");
        tokio::time::sleep(Duration::from_secs(100)).await;
    });
}

struct Daemon {
    process: std::process::Child,
    dir: PathBuf,
}

/// Starts a daemon with a container, in a folder of its own.
async fn daemon(world: &World, script: &str, wait_for: &str) -> Result<Daemon, String> {
    let dir = world.dir.join(format!("daemon-{:?}", Instant::now()).replace([' ', ':', '{', '}', ','], ""));
    fs::create_dir_all(dir.join("container")).unwrap();
    std::os::unix::fs::symlink(&world.rootfs, dir.join("rootfs")).unwrap();
    let output = dir.join("output");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.arg("--act-as-daemon").arg(&dir).arg(script);
    if wait_for == "starting" {
        command.arg("silent");
    }
    let process = command.stdout(fs::File::create(&output).unwrap()).spawn().unwrap();
    let mut daemon = Daemon { process, dir: dir.join("container") };
    let up = until("the daemon", || fs::read_to_string(&output).unwrap_or_default().contains(wait_for)).await;
    if up.is_err() {
        daemon.kill();
    }
    up.map(|()| daemon)
}

impl Daemon {
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn container_outlives_a_killed_daemon(world: &World) -> Verdict {
    let mut daemon =
        daemon(world, "echo one; until test -e /tmp/go; do sleep 0.05; done; echo two; exit 7", "started").await?;
    logged(&daemon.dir, "one").await?;
    daemon.kill();
    let (shim, init) = pids(&daemon.dir);
    expect(exists(shim) && exists(init), "shim and container are gone")?;
    let native = world.another();
    let state = native.recover(&daemon.dir).map_err(|e| e.to_string())?;
    let Some(ContainerState::Running { id, started }) = state else { return Err(format!("{state:?}")) };
    expect(started.pid == init, started)?;
    native.signal(&id, 0).map_err(|e| e.to_string())?;
    did(&native, &id, sh("touch /tmp/go")).await?;
    let ran = read(&daemon.dir, native.wait(&id).await.map_err(|e| e.to_string())?);
    expect(ran.exit.code == 7 && !ran.exit.lost && ran.stdout == "one\ntwo\n", &ran)?;
    native.remove(&id).await.map_err(|e| e.to_string())?;
    until("the shim's end", || !exists(shim)).await?;
    expect(native.recover(&daemon.dir).map_err(|e| e.to_string())?.is_none(), "removed, and recovered")?;
    Ok(None)
}

async fn start_of_a_killed_daemon_leaves_all_or_nothing(world: &World) -> Verdict {
    let (mut running, mut nothing) = (0, 0);
    for n in 0..12_u32 {
        let mut daemon = daemon(world, "echo here; sleep 100", "starting").await?;
        tokio::time::sleep(Duration::from_micros(u64::from(n) * 400)).await;
        daemon.kill();
        let native = world.another();
        if let Some(state) = native.recover(&daemon.dir).map_err(|e| e.to_string())? {
            let (ContainerState::Running { id, .. } | ContainerState::Exited { id, .. }) = state;
            running += 1;
            native.remove(&id).await.map_err(|e| e.to_string())?;
        } else {
            nothing += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let log = fs::read_to_string(daemon.dir.join("log")).unwrap_or_default();
            expect(!log.contains("here"), "it ran although there was no record of it")?;
        }
    }
    expect(running + nothing == 12, (running, nothing))?;
    Ok(None)
}

async fn recover_finds_an_exit_that_nobody_saw(world: &World) -> Verdict {
    let mut daemon = daemon(world, "sleep 0.3; exit 9", "started").await?;
    daemon.kill();
    until("the record", || daemon.dir.join("exit.json").exists()).await?;
    let native = world.another();
    let state = native.recover(&daemon.dir).map_err(|e| e.to_string())?;
    let Some(ContainerState::Exited { id, exit }) = state else { return Err(format!("{state:?}")) };
    expect(exit.code == 9 && exit.finished_at > exit.started_at, exit)?;
    expect(native.wait(&id).await.is_ok_and(|e| e == exit), "wait says otherwise")?;
    native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn recover_of_an_empty_folder_is_nothing(world: &World) -> Verdict {
    let dir = world.dir.join("empty");
    fs::create_dir(&dir).unwrap();
    expect(world.native.recover(&dir).is_ok_and(|s| s.is_none()), "something")?;
    fs::write(dir.join("state.json"), "{").unwrap();
    expect(world.native.recover(&dir).is_err(), "a broken record is an error")?;
    Ok(None)
}

/// Many times: a shim hangs up a moment before it has ended, and only then its container is the daemon's to reap.
async fn killed_shim_kills_its_container(world: &World) -> Verdict {
    for _ in 0..30 {
        let setup = world.setup("echo ready; sleep 100");
        let (id, dir) = (setup.id.clone(), setup.dir.clone());
        world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
        logged(&dir, "ready").await?;
        let (shim, init) = pids(&dir);
        send(shim, rustix::process::Signal::KILL);
        let exit = world.native.wait(&id).await.map_err(|e| e.to_string())?;
        expect(exit.lost && exit.code == 255, exit)?;
        expect(!Path::new(&format!("/proc/{init}")).exists(), "the container is a zombie")?;
        world.native.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn killed_shim_and_daemon_are_recovered_as_lost(world: &World) -> Verdict {
    let mut daemon = daemon(world, "echo ready; sleep 100", "started").await?;
    logged(&daemon.dir, "ready").await?;
    let (shim, init) = pids(&daemon.dir);
    daemon.kill();
    send(shim, rustix::process::Signal::KILL);
    until("the container's end", || !exists(init)).await?;
    let native = world.another();
    let state = native.recover(&daemon.dir).map_err(|e| e.to_string())?;
    let id = match &state {
        Some(ContainerState::Exited { id, .. } | ContainerState::Running { id, .. }) => id.clone(),
        None => return Err("nothing".into()),
    };
    let exit = native.wait(&id).await.map_err(|e| e.to_string())?;
    expect(exit.lost && exit.code == 255, exit)?;
    native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn shim_without_its_folder_ends_with_its_container(world: &World) -> Verdict {
    let setup = world.setup("echo ready; sleep 100");
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    logged(&dir, "ready").await?;
    let (shim, init) = pids(&dir);
    fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    send(init, rustix::process::Signal::KILL);
    until("the shim's end", || !exists(shim)).await?;
    let exit = world.native.wait(&id).await.map_err(|e| e.to_string())?;
    expect(exit.code == 137 && !exit.lost, exit)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn host_rootfs_shows_the_host_and_leaves_it_unchanged(world: &World) -> Verdict {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let marker = format!("/stint-host-marker-{}", std::process::id());
    let script = format!(
        "test -x /bin/busybox && echo sees; echo x > {marker} && echo writes; rm -rf /etc/hostname; ls /run | wc -l; ls /dev | wc -l; ls -d /proc/[0-9]* | wc -l"
    );
    for (n, rootfs) in [
        Rootfs::Host { size: Some(16 << 20) },
        Rootfs::Overlay { lower: vec!["/".into()], writable: stint_runtime::Writable::Tmpfs { size: None } },
    ]
    .into_iter()
    .cycle()
    .take(4)
    .enumerate()
    {
        let runtime = if n < 2 { &world.native } else { &world.older };
        let mut setup = world.setup(&script);
        setup
            .spec
            .process_mut()
            .as_mut()
            .unwrap()
            .set_args(Some(["/bin/busybox", "sh", "-c", &script].map(str::to_owned).to_vec()));
        setup.rootfs = rootfs;
        let before = fs::read("/etc/hostname").ok();
        let ran = world.run(runtime, setup).await.map_err(|e| format!("{e:?}"))?;
        expect(ran.stdout.starts_with("sees\nwrites\n0\n14\n"), &ran)?;
        expect(!Path::new(&marker).exists(), "it wrote to the host")?;
        expect(fs::read("/etc/hostname").ok() == before, "it removed a file of the host")?;
    }
    expect(fs::read_to_string("/proc/self/mountinfo").unwrap() == mounts, "mounts are left")?;
    Ok(None)
}

async fn shim_keeps_out_of_the_containers_cgroup_and_oom_score(world: &World) -> Verdict {
    let mut setup = world.setup("echo ready; sleep 100");
    let mut json = serde_json::to_value(&setup.spec).unwrap();
    json["process"]["oomScoreAdj"] = 700.into();
    json["linux"]["resources"]["memory"] = serde_json::json!({"limit": 64 << 20});
    setup.spec = serde_json::from_value(json).unwrap();
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    logged(&dir, "ready").await?;
    let (shim, init) = pids(&dir);
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    expect(cgroup(init).contains(&group()) && !cgroup(shim).contains(&group()), cgroup(shim))?;
    expect(score(init).trim() == "700" && score(shim).trim() != "700", score(shim))?;
    let fds = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    expect(fds <= 16, format!("the shim holds {fds} descriptors"))?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

fn private_kb(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup
        .lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

async fn shim_is_small(world: &World) -> Verdict {
    let setup = world.setup("echo ready; sleep 100");
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    logged(&dir, "ready").await?;
    let (shim, _) = pids(&dir);
    let private = private_kb(shim);
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    expect(private < 200, format!("{private} kB private"))?;
    Ok(None)
}

async fn namespaces_are_joined_by_path(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let mut first = world.setup("echo ready; sleep 100");
        first.spec.set_hostname(Some("shared".into()));
        let mut json = serde_json::to_value(&first.spec).unwrap();
        json["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({"type": "network"}));
        first.spec = serde_json::from_value(json).unwrap();
        let (id, dir) = (first.id.clone(), first.dir.clone());
        let started = runtime.start(first.bundle()).await.map_err(|e| format!("{e:?}"))?;
        logged(&dir, "ready").await?;
        let mut second = world.setup("hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
        let mut json = serde_json::to_value(&second.spec).unwrap();
        let path = |name: &str| format!("/proc/{}/ns/{name}", started.pid);
        json["linux"]["namespaces"] = serde_json::json!([
            {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
            {"type": "uts", "path": path("uts")}, {"type": "ipc", "path": path("ipc")},
            {"type": "network", "path": path("net")},
        ]);
        second.spec = serde_json::from_value(json).unwrap();
        let link = |name: &str| fs::read_link(path(name)).unwrap().display().to_string();
        let expected = format!("shared\n{}\n{}\n", link("net"), link("ipc"));
        let ran = world.run(runtime, second).await.map_err(|e| format!("{e:?}"))?;
        expect(ran.stdout == expected, (&ran, &expected))?;
        runtime.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

/// What the child process does, in a mount namespace where cgroup v2 is all there is.
pub fn on_cgroup_v2(args: &[String]) {
    let zygote = stint_runtime::zygote::spawn().expect("one thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    let world = World::at(zygote, PathBuf::from(&args[0]));
    let script = "cat /proc/self/cgroup; echo x > /dev/null && head -c 1 /dev/zero | wc -c; \
        mknod /dev/mine c 1 1; head -c 1 /dev/mine >/dev/null 2>&1 || echo refused";
    let setup = world.setup(script);
    let group = Path::new("/sys/fs/cgroup").join(group()).join(setup.id.as_str());
    runtime.block_on(async {
        let ran = world.run(&world.native, setup).await.expect("it starts");
        print!("{}{}", ran.stdout, ran.stderr);
        let limited = world.setup("true");
        let mut json = serde_json::to_value(&limited.spec).unwrap();
        json["linux"]["resources"]["memory"] = serde_json::json!({"limit": 1 << 20});
        let spec = serde_json::from_value(json).unwrap();
        let refused = world.run(&world.native, crate::world::Setup { spec, ..limited }).await;
        println!("{}", if matches!(refused, Err(StartError::Unsupported { .. })) { "unsupported" } else { "?" });
    });
    println!("{}", if group.exists() { "left" } else { "tidy" });
    let _ = fs::remove_dir(group.parent().expect("it is in the suite's"));
}

async fn cgroup_v2_confines_devices_and_is_tidied(world: &World) -> Verdict {
    // On a hybrid machine, the v2 hierarchy takes the place of all; it has the device filter, and few controllers.
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|p| Path::new(p).join("cgroup.controllers").exists());
    let Some(unified) = unified else { return Ok(Some("this machine has no cgroup v2".into())) };
    if fs::read_to_string(format!("{unified}/cgroup.controllers")).unwrap().contains("memory") {
        return Ok(Some("every other case runs on cgroup v2 here".into()));
    }
    let script = "mount --make-rprivate / && mount --bind \"$1\" /sys/fs/cgroup && exec \"$2\" --on-cgroup-v2 \"$3\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", unified]).arg(std::env::current_exe().unwrap()).arg(&world.dir);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().filter(|l| !l.contains(':')).collect::<Vec<_>>();
    // The cgroup namespace shows the container's own group as the root of its hierarchy.
    expect(text.contains("0::/\n") && last == ["1", "refused", "unsupported", "tidy"], (&text, &output))?;
    Ok(None)
}

async fn shared_device_rules_hold_for_containers_that_start_at_once(world: &World) -> Verdict {
    // A set of rules that no container had before, so that all of these race for making its cgroup.
    let runs = (0..8).map(|_| async {
        let mut setup = world.setup("mknod /dev/mine c 1 1; head -c 1 /dev/mine >/dev/null 2>&1 || echo refused");
        let mut json = serde_json::to_value(&setup.spec).unwrap();
        let rules = json["linux"]["resources"]["devices"].as_array_mut().unwrap();
        rules.push(serde_json::json!({"allow": true, "type": "c", "major": 200, "minor": std::process::id() % 200, "access": "r"}));
        setup.spec = serde_json::from_value(json).unwrap();
        let ran = world.run(&world.native, setup).await;
        expect(ran.as_ref().is_ok_and(|r| r.stdout == "refused\n"), ran)
    });
    for run in futures(runs).await {
        run?;
    }
    Ok(None)
}

/// Mounts, processes of ours, descriptors, cgroups.
type Inventory = (usize, usize, usize, Vec<PathBuf>);

fn inventory() -> Inventory {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    (mounts, ours("stint-shim"), fs::read_dir("/proc/self/fd").unwrap().count(), cgroups())
}

/// What there is when all that other cases started has ended.
async fn inventory_at_rest() -> Result<Inventory, String> {
    until("the end of what was before", || ours("stint-shim") == 0 && cgroups().is_empty()).await?;
    Ok(inventory())
}

/// Waits until there is no more than before.
async fn nothing_more_than(before: &Inventory) -> Result<(), String> {
    let is_left = |now: &Inventory| (now.0, now.1, &now.3) != (before.0, before.1, &before.3) || now.2 > before.2;
    let told = |e: String| format!("{e}: {before:?} {:?}", inventory());
    until("the end of all that was started", || !is_left(&inventory())).await.map_err(told)
}

async fn failed_starts_leave_nothing(world: &World) -> Verdict {
    let before = inventory_at_rest().await?;
    for n in 0..20 {
        let mut setup = world.setup("true");
        let command = if n % 2 == 0 { "no-such-command" } else { "/etc/passwd" };
        setup.spec.process_mut().as_mut().unwrap().set_args(Some(vec![command.into()]));
        let dir = setup.dir.clone();
        expect(world.native.start(setup.bundle()).await.is_err(), "it started")?;
        expect(!dir.join("state.json").exists(), "a record is left")?;
        expect(world.native.recover(&dir).is_ok_and(|s| s.is_none()), "recovered")?;
    }
    nothing_more_than(&before).await?;
    Ok(None)
}

/// Init may fail before its shim has written down the container and tells it to go on. The shim then wrote to a pipe that
/// nobody read, and died of SIGPIPE: the daemon heard of a dead shim and not of the step that failed. Which of the two
/// comes first is a race, hence the many tries.
async fn a_start_that_fails_before_the_shim_lets_it_go_on_is_told(world: &World) -> Verdict {
    for _ in 0..50 {
        let mut setup = world.setup("true");
        let mut json = serde_json::to_value(&setup.spec).unwrap();
        json["process"]["rlimits"] = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 10}]);
        setup.spec = serde_json::from_value(json).unwrap();
        let got = world.native.start(setup.bundle()).await;
        expect(matches!(&got, Err(StartError::Failed { step, .. }) if step.contains("RLIMIT_NOFILE")), got)?;
    }
    Ok(None)
}

async fn nothing_leaks_over_many_containers(world: &World) -> Verdict {
    let before = inventory_at_rest().await?;
    for _ in 0..10 {
        let runs = (0..10).map(|_| async {
            let mut setup = world.setup("true");
            let mut json = serde_json::to_value(&setup.spec).unwrap();
            json["linux"]["resources"]["memory"] = serde_json::json!({"limit": 64 << 20});
            json["linux"]["resources"]["pids"] = serde_json::json!({"limit": 64});
            setup.spec = serde_json::from_value(json).unwrap();
            let dir = setup.dir.clone();
            let ran = world.run(&world.native, setup).await;
            let left = fs::read_dir(&dir).unwrap().flatten().map(|e| e.file_name()).collect::<Vec<_>>();
            expect(left == ["log"], left)?;
            expect(ran.as_ref().is_ok_and(|r| r.exit.code == 0), ran)
        });
        for run in futures(runs).await {
            run?;
        }
    }
    nothing_more_than(&before).await?;
    Ok(None)
}

/// Runs futures side by side.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

async fn join(runtime: &dyn Runtime, id: &ContainerId) -> Result<Joined, String> {
    runtime.join(id).await.map_err(|e| e.to_string())?.ok_or_else(|| "there is no input to join".to_owned())
}

async fn write(joined: &mut Joined, text: &str) -> Result<(), String> {
    joined.stdin.write_all(text.as_bytes()).await.map_err(|e| e.to_string())
}

async fn input_is_written_by_many_and_lives_on_without_them(world: &World) -> Verdict {
    let mut setup = world.setup("read a; read b; echo $a-$b; id -u; echo again > /dev/stdin && echo writable");
    setup.stdin = Stdin::Open;
    setup
        .spec
        .process_mut()
        .as_mut()
        .unwrap()
        .set_user(oci_spec::runtime::UserBuilder::default().uid(1000_u32).gid(1000_u32).build().unwrap());
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| e.to_string())?;
    for text in ["one\n", "two\n"] {
        let mut joined = join(&world.native, &id).await?;
        expect(joined.terminal.is_none(), "a pipe is no terminal")?;
        write(&mut joined, text).await?;
    }
    let ran = read(&dir, world.native.wait(&id).await.map_err(|e| e.to_string())?);
    expect(ran.stdout == "one-two\n1000\nwritable\n", &ran)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    expect(world.native.join(&id).await.is_err(), "it is gone")?;
    Ok(None)
}

async fn input_for_one_ends_with_him(world: &World) -> Verdict {
    let mut setup = world.setup("cat; echo over");
    setup.stdin = Stdin::Once;
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| e.to_string())?;
    let mut first = join(&world.native, &id).await?;
    expect(world.native.join(&id).await.is_ok_and(|second| second.is_none()), "a second one was let in")?;
    write(&mut first, "hello\n").await?;
    first.stdin.shutdown().await.map_err(|e| e.to_string())?;
    let ran = read(&dir, world.native.wait(&id).await.map_err(|e| e.to_string())?);
    expect(ran.exit.code == 0 && ran.stdout == "hello\nover\n", &ran)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;

    let empty = world.setup("cat; sleep 100");
    let id = empty.id.clone();
    world.native.start(empty.bundle()).await.map_err(|e| e.to_string())?;
    expect(world.native.join(&id).await.is_ok_and(|none| none.is_none()), "it has no input")?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn a_terminal_outlives_the_daemon(world: &World) -> Verdict {
    let script = "test -t 0 && test -t 1 && test -t 2 || exit 9; stty -echo; echo ready; read a; stty size; \
                  echo got $a; echo > $(tty) && sh -c 'echo > /dev/tty' && id -u";
    let mut setup = world.setup(script);
    let process = setup.spec.process_mut().as_mut().unwrap();
    process.set_terminal(Some(true));
    process.set_user(oci_spec::runtime::UserBuilder::default().uid(1000_u32).gid(1000_u32).build().unwrap());
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| e.to_string())?;
    let log = dir.join("log");
    until("the terminal", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))).await?;
    let other = world.another();
    other.recover(&dir).map_err(|e| e.to_string())?;
    let mut joined = join(&other, &id).await?;
    let terminal = joined.terminal.take().ok_or("it has no terminal")?;
    terminal.resize(120, 40).map_err(|e| e.to_string())?;
    write(&mut joined, "this\n").await?;
    drop((joined, terminal));
    let ran = read(&dir, world.native.wait(&id).await.map_err(|e| e.to_string())?);
    let lines: Vec<&str> =
        ran.stdout.lines().map(|line| line.trim_end_matches('\r')).filter(|l| !l.is_empty()).collect();
    expect(ran.exit.code == 0 && lines == ["ready", "40 120", "got this", "1000"], &ran)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}
