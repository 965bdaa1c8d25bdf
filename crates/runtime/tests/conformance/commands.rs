//! Cases of commands in running containers: as confined as the container, on the terminal or off it, and gone with whoever
//! asked for them. Where it can be, the same is asked of runc.

use std::fs;
use std::path::Path;

use stint_runtime::{ContainerId, ExecError, ExecExit, ExecHandle, ProcessSpec, Runtime, StartError, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lives::{exists, expect, send};
use crate::world::{Setup, Verdict, World, cgroups, ours, until};

type Story = for<'a> fn(&'a World) -> std::pin::Pin<Box<dyn Future<Output = Verdict> + 'a>>;

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        const STORIES: &[(&str, Story)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}

stories![
    a_command_tells_its_exit_code_and_signal,
    a_command_has_input_output_and_errors,
    the_input_of_a_command_ends,
    a_command_is_as_confined_as_its_container,
    a_command_is_who_the_container_is,
    a_command_without_capabilities_has_none,
    a_command_sees_the_containers_environment_and_folder,
    a_missing_command_is_told_apart,
    a_command_needs_a_running_container,
    a_command_ends_with_its_container,
    a_command_has_no_descriptor_of_the_hosts,
    a_command_cannot_start_the_hosts_executable,
    a_command_is_not_dumpable_before_it_is_executed,
    a_terminal_is_one,
    a_terminal_has_a_size_that_changes,
    control_c_interrupts_on_a_terminal,
    a_false_terminal_device_is_refused,
    hanging_up_kills_a_command_and_its_session,
    a_killed_helper_takes_its_command_along,
    a_killed_daemon_leaves_no_command,
    commands_run_after_a_restart_of_the_daemon,
    nothing_leaks_over_many_commands,
];

pub fn names() -> Vec<&'static str> {
    STORIES.iter().map(|s| s.0).collect()
}

pub fn find(name: &str) -> Option<Story> {
    STORIES.iter().find(|s| s.0 == name).map(|s| s.1)
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Did {
    pub(crate) exit: ExecExit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn sh(script: &str) -> ProcessSpec {
    ProcessSpec {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdio: Stdio::Pipes { stdin: false, stdout: true, stderr: true },
        ..ProcessSpec::default()
    }
}

fn on_terminal(script: &str) -> ProcessSpec {
    ProcessSpec { stdio: Stdio::Terminal, ..sh(script) }
}

/// A container that sleeps, as `change` has it, and what is asked of it; it is removed at the end.
pub(crate) async fn inside<'a, F: Future<Output = Result<(), String>>>(
    runtime: &'a dyn Runtime,
    setup: Setup,
    asked: impl FnOnce(&'a dyn Runtime, ContainerId) -> F,
) -> Result<(), String> {
    let id = setup.id.clone();
    runtime.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let verdict = asked(runtime, id.clone()).await;
    runtime.kill(&id).map_err(|e| e.to_string())?;
    runtime.remove(&id).await.map_err(|e| e.to_string())?;
    verdict
}

pub(crate) async fn did(runtime: &dyn Runtime, id: &ContainerId, process: ProcessSpec) -> Result<Did, String> {
    let handle = runtime.exec(id, process).await.map_err(|e| format!("{e:?}"))?;
    outcome(handle).await
}

async fn outcome(mut handle: ExecHandle) -> Result<Did, String> {
    drop(handle.stdin.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (handle.stdout.take(), handle.stderr.take());
    let read = async {
        if let Some(mut out) = out {
            out.read_to_end(&mut stdout).await?;
        }
        if let Some(mut err) = err {
            err.read_to_end(&mut stderr).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let (read, exit) = tokio::join!(read, handle.exit);
    read.map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Did { exit: exit.map_err(|e| e.to_string())?, stdout: text(&stdout), stderr: text(&stderr) })
}

const IDLE: &str = "sleep 1000";

async fn a_command_tells_its_exit_code_and_signal(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            for code in [0, 1, 42, 126, 127, 255] {
                let did = did(runtime, &id, sh(&format!("exit {code}"))).await?;
                expect(did.exit == ExecExit { code, signal: None }, did)?;
            }
            for signal in [9, 11, 15] {
                let did = did(runtime, &id, sh(&format!("kill -{signal} $$"))).await?;
                expect(did.exit == ExecExit { code: 128 + signal, signal: Some(signal) }, did)?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(None)
}

async fn a_command_has_input_output_and_errors(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let did = did(runtime, &id, sh("echo out; echo err >&2; head -c 1000000 /dev/zero | tr '\\0' x")).await?;
            let big = did.stdout.strip_prefix("out\n").is_some_and(|x| x.len() == 1_000_000);
            expect(big && did.stderr == "err\n" && did.exit.code == 0, (did.stdout.len(), did.stderr, did.exit))?;
            // What nobody asked for goes nowhere, and an input that nobody has is empty.
            let quiet = ProcessSpec { stdio: Stdio::default(), ..sh("cat; echo lost; echo lost >&2") };
            let handle = runtime.exec(&id, quiet).await.map_err(|e| format!("{e:?}"))?;
            let none = handle.stdin.is_none() && handle.stdout.is_none() && handle.stderr.is_none();
            expect(none && outcome(handle).await?.exit.code == 0, "streams that were not asked for")
        })
        .await?;
    }
    Ok(None)
}

async fn the_input_of_a_command_ends(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let stdio = Stdio::Pipes { stdin: true, stdout: true, stderr: false };
            let process = ProcessSpec { stdio, ..sh("cat; echo the end") };
            let mut handle = runtime.exec(&id, process).await.map_err(|e| format!("{e:?}"))?;
            let mut stdin = handle.stdin.take().ok_or("no input")?;
            stdin.write_all(b"hello\n").await.map_err(|e| e.to_string())?;
            stdin.shutdown().await.map_err(|e| e.to_string())?;
            let did = outcome(handle).await?;
            drop(stdin);
            expect(did.stdout == "hello\nthe end\n", did)
        })
        .await?;
    }
    Ok(None)
}

async fn a_command_is_as_confined_as_its_container(world: &World) -> Verdict {
    // The container writes down what it is confined to; a command has to find the same.
    const WHAT: &str =
        "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status | sed s/Seccomp_filters.*//;
        cat /proc/self/cgroup; ulimit -c; cat /proc/self/oom_score_adj;
        for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done; umask; hostname";
    for (n, runtime) in world.runtimes().into_iter().enumerate() {
        let mut setup = world.setup(&format!("({WHAT}) > /tmp/own 2>&1; mv /tmp/own /tmp/done; {IDLE}"));
        let process = setup.spec.process_mut().as_mut().unwrap();
        process.set_no_new_privileges(Some(true)).set_oom_score_adj(Some(500));
        let limit = oci_spec::runtime::PosixRlimitBuilder::default()
            .typ(oci_spec::runtime::PosixRlimitType::RlimitCore)
            .soft(4096_u64)
            .hard(8192_u64)
            .build()
            .unwrap();
        process.set_rlimits(Some(vec![limit]));
        let mut pids = oci_spec::runtime::LinuxPids::default();
        pids.set_limit(50);
        setup.spec.linux_mut().as_mut().unwrap().resources_mut().as_mut().unwrap().set_pids(Some(pids));
        inside(runtime, setup, |runtime, id| async move {
            let wait = did(runtime, &id, sh("while ! test -e /tmp/done; do sleep 0.05; done; cat /tmp/done")).await?;
            let did = did(runtime, &id, sh(WHAT)).await?;
            expect(did.stdout == wait.stdout && did.stdout.contains("Seccomp:\t2"), (n, wait, did))
        })
        .await?;
    }
    // Nor can a command do what the filter and the missing capabilities forbid.
    inside(&world.native, world.setup(IDLE), |runtime, id| async move {
        for forbidden in
            ["mount -t tmpfs x /tmp", "unshare -m true", "chroot / true && mknod /tmp/d b 8 0 && cat /tmp/d"]
        {
            let did = did(runtime, &id, sh(forbidden)).await?;
            expect(did.exit.code != 0, (forbidden, did))?;
        }
        Ok(())
    })
    .await?;
    Ok(None)
}

async fn a_command_is_who_the_container_is(world: &World) -> Verdict {
    for (n, runtime) in world.runtimes().into_iter().enumerate() {
        let mut setup = world.setup(IDLE);
        let mut user = oci_spec::runtime::User::default();
        user.set_uid(1000).set_gid(1001).set_additional_gids(Some(vec![7, 8])).set_umask(Some(0o077));
        setup.spec.process_mut().as_mut().unwrap().set_user(user);
        inside(runtime, setup, |runtime, id| async move {
            let what = "echo $(id -u) $(id -g) $(id -G) $(umask); echo again > /dev/stdout";
            let did = did(runtime, &id, sh(what)).await?;
            // runc has no regard for the umask here.
            let umask = if n < 2 { "0077" } else { "0022" };
            expect(did.stdout == format!("1000 1001 1001 7 8 {umask}\nagain\n"), did)?;
            let did = self::did(runtime, &id, on_terminal("id -u > $(tty); stat -c %u $(tty)")).await?;
            expect(did.stdout == "1000\r\n1000\r\n", did)
        })
        .await?;
    }
    Ok(None)
}

async fn a_command_without_capabilities_has_none(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let mut setup = world.setup(IDLE);
        let mut none = oci_spec::runtime::LinuxCapabilities::default();
        none.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
        setup.spec.process_mut().as_mut().unwrap().set_capabilities(Some(none));
        inside(runtime, setup, |runtime, id| async move {
            let did = did(runtime, &id, sh("grep ^Cap /proc/self/status; chown 1 /tmp")).await?;
            let none = did.stdout.lines().all(|line| line.ends_with("0000000000000000"));
            expect(none && did.stdout.lines().count() == 5 && did.exit.code != 0, did)
        })
        .await?;
    }
    Ok(None)
}

async fn a_command_sees_the_containers_environment_and_folder(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let mut setup = world.setup(IDLE);
        let process = setup.spec.process_mut().as_mut().unwrap();
        process.env_mut().as_mut().unwrap().extend(["A=1".to_owned(), "B=2".to_owned()]);
        process.set_cwd("/home".into());
        inside(runtime, setup, |runtime, id| async move {
            let what = "echo $A $B $C ${TERM-none}; pwd; cat /etc/passwd | head -n 1; ls /proc/1/root";
            let mut process = sh(what);
            process.env = vec!["B=two".to_owned(), "C=3".to_owned()];
            let did = did(runtime, &id, process).await?;
            expect(did.stdout.starts_with("1 two 3 none\n/home\nroot:x:0:0:root"), &did)?;
            let mut process = sh(what);
            process.cwd = Some("/tmp".into());
            let did = self::did(runtime, &id, process).await?;
            expect(did.stdout.starts_with("1 2 none\n/tmp\n"), &did)?;
            let did = self::did(runtime, &id, on_terminal("echo $TERM")).await?;
            expect(did.stdout == "xterm\r\n", did)
        })
        .await?;
    }
    Ok(None)
}

async fn a_missing_command_is_told_apart(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let run = |args: &[&str]| {
                let args = args.iter().map(|&arg| arg.to_owned()).collect();
                runtime.exec(&id, ProcessSpec { args, ..sh("") })
            };
            let missing = run(&["no-such-command"]).await.err();
            expect(matches!(missing, Some(ExecError::CommandNotFound { .. })), missing)?;
            let file = run(&["/etc/passwd"]).await.err();
            expect(matches!(file, Some(ExecError::CommandNotExecutable { .. })), file)?;
            let none = run(&[]).await.err();
            expect(matches!(none, Some(ExecError::Invalid { .. })), none)?;
            let well = did(runtime, &id, sh("true")).await?;
            expect(well.exit.code == 0, well)
        })
        .await?;
    }
    Ok(None)
}

async fn a_command_needs_a_running_container(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let setup = world.setup("true");
        let id = setup.id.clone();
        let never = runtime.exec(&id, sh("true")).await.err();
        expect(matches!(never, Some(ExecError::NotRunning(_))), never)?;
        runtime.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
        runtime.wait(&id).await.map_err(|e| e.to_string())?;
        let over = runtime.exec(&id, sh("true")).await.err();
        expect(matches!(over, Some(ExecError::NotRunning(_))), over)?;
        runtime.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn a_command_ends_with_its_container(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        let setup = world.setup(IDLE);
        let id = setup.id.clone();
        runtime.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
        let handle = runtime.exec(&id, sh("trap '' TERM HUP; sleep 1000")).await.map_err(|e| format!("{e:?}"))?;
        runtime.kill(&id).map_err(|e| e.to_string())?;
        let did = outcome(handle).await?;
        expect(did.exit == ExecExit { code: 137, signal: Some(9) }, did)?;
        runtime.remove(&id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn a_command_has_no_descriptor_of_the_hosts(world: &World) -> Verdict {
    for stdio in [Stdio::Pipes { stdin: true, stdout: true, stderr: true }, Stdio::Terminal] {
        inside(&world.native, world.setup(IDLE), |runtime, id| async move {
            let did = did(runtime, &id, ProcessSpec { stdio, ..sh("ls /proc/$$/fd; true") }).await?;
            // 10 is the terminal's, in the shell's own keeping.
            expect(
                ["0 1 2", "0 1 10 2", "0 1 2 10"]
                    .contains(&did.stdout.split_whitespace().collect::<Vec<_>>().join(" ").as_str()),
                did,
            )?;
            // A working directory that leads through one of the helper's descriptors is none.
            for n in 0..32 {
                let through = ProcessSpec { cwd: Some(format!("/proc/self/fd/{n}").into()), ..sh("ls") };
                let led = runtime.exec(&id, through).await;
                expect(led.is_err(), format!("descriptor {n} is a folder"))?;
                let through = format!("/proc/self/fd/{n}/bin/busybox");
                let led = runtime.exec(&id, ProcessSpec { args: vec![through], ..sh("") }).await;
                expect(led.is_err(), format!("descriptor {n} leads to a program"))?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(None)
}

fn is_denied(reason: &str) -> bool {
    reason.starts_with("Permission denied")
}

/// CVE-2019-5736: a program of the container's that names `/proc/self/exe` would have the host's executable run, and
/// then be able to open it.
async fn a_command_cannot_start_the_hosts_executable(world: &World) -> Verdict {
    inside(&world.native, world.setup(IDLE), |runtime, id| async move {
        let run = |args: &[&str]| {
            let args = args.iter().map(|&arg| arg.to_owned()).collect();
            runtime.exec(&id, ProcessSpec { args, ..sh("") })
        };
        let made = did(
            runtime,
            &id,
            sh("ln -s /proc/self/exe /tmp/link; echo '#!/proc/self/exe' > /tmp/script; chmod +x /tmp/script"),
        )
        .await?;
        expect(made.exit.code == 0, made)?;
        for path in ["/proc/self/exe", "/tmp/link", "/tmp/script"] {
            let refused = run(&[path]).await.err();
            // A refusal of ours: the kernel's would be that this test's own libraries are not there.
            let ours = matches!(&refused, Some(ExecError::CommandNotExecutable { reason, .. }) if is_denied(reason));
            expect(ours, (path, refused))?;
        }
        Ok(())
    })
    .await?;
    // Nor can the container's own program.
    fs::write(world.rootfs.join("evil"), "#!/proc/self/exe\n").map_err(|e| e.to_string())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(world.rootfs.join("evil"), mode).map_err(|e| e.to_string())?;
    for runtime in [&world.native, &world.older] {
        let mut setup = world.setup("");
        setup.spec.process_mut().as_mut().unwrap().set_args(Some(vec!["/evil".into()]));
        let refused = runtime.start(setup.bundle()).await.err();
        let ours = matches!(&refused, Some(StartError::CommandNotExecutable { reason, .. }) if is_denied(reason));
        expect(ours, refused)?;
    }
    fs::remove_file(world.rootfs.join("evil")).map_err(|e| e.to_string())?;
    Ok(None)
}

/// Nobody in the container may look into the process that is to become a command while it still is the host's.
async fn a_command_is_not_dumpable_before_it_is_executed(world: &World) -> Verdict {
    // The watcher is root in the container and tries to open the executable of whatever appears.
    let watch = "while :; do for p in /proc/[0-9]*; do
        e=$(readlink $p/exe 2>/dev/null) || continue; case $e in /bin/busybox|/memfd:stint-stub*) ;; *) echo $e >> /tmp/seen;; esac; done; done";
    inside(&world.native, world.setup(watch), |runtime, id| async move {
        for _ in 0..50 {
            did(runtime, &id, sh("true")).await?;
        }
        let seen = did(runtime, &id, sh("cat /tmp/seen 2>/dev/null")).await?;
        expect(seen.stdout.is_empty(), seen)
    })
    .await?;
    Ok(None)
}

async fn a_terminal_is_one(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let what = "test -t 0 && test -t 1 && test -t 2 && tty && echo typed > /dev/tty; echo err >&2; exit 3";
            let did = did(runtime, &id, on_terminal(what)).await?;
            let shown = did.stdout.starts_with("/dev/pts/") && did.stdout.ends_with("\r\ntyped\r\nerr\r\n");
            expect(shown && did.exit.code == 3, &did)?;
            let did = self::did(runtime, &id, sh("test -t 0 || test -t 1 || tty")).await?;
            expect(did.exit.code == 1 && did.stdout == "not a tty\n", did)
        })
        .await?;
    }
    Ok(None)
}

async fn a_terminal_has_a_size_that_changes(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let script = "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done";
            let mut handle = runtime.exec(&id, on_terminal(script)).await.map_err(|e| format!("{e:?}"))?;
            let mut stdout = handle.stdout.take().ok_or("no output")?;
            let mut ready = [0; 7];
            stdout.read_exact(&mut ready).await.map_err(|e| e.to_string())?;
            let terminal = handle.terminal.clone().ok_or("no terminal")?;
            terminal.resize(123, 45).map_err(|e| e.to_string())?;
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).await.map_err(|e| e.to_string())?;
            let exit = handle.exit.await.map_err(|e| e.to_string())?;
            expect(rest == "45 123\r\n" && exit.code == 7, (rest, exit))
        })
        .await?;
    }
    Ok(None)
}

async fn control_c_interrupts_on_a_terminal(world: &World) -> Verdict {
    for runtime in world.runtimes() {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let mut handle =
                runtime.exec(&id, on_terminal("echo ready; exec sleep 1000")).await.map_err(|e| format!("{e:?}"))?;
            let mut stdout = handle.stdout.take().ok_or("no output")?;
            let mut ready = [0; 7];
            stdout.read_exact(&mut ready).await.map_err(|e| e.to_string())?;
            let mut stdin = handle.stdin.take().ok_or("no input")?;
            stdin.write_all(b"\x03").await.map_err(|e| e.to_string())?;
            let exit = handle.exit.await.map_err(|e| e.to_string())?;
            expect(exit == ExecExit { code: 130, signal: Some(2) }, exit)
        })
        .await?;
    }
    Ok(None)
}

async fn a_false_terminal_device_is_refused(world: &World) -> Verdict {
    let mut setup = world.setup(&format!("mkdir /dev/pts; mkfifo /dev/pts/ptmx; {IDLE}"));
    let mounts = setup.spec.mounts().clone().unwrap();
    let others = mounts.into_iter().filter(|mount| mount.destination() != Path::new("/dev/pts"));
    setup.spec.set_mounts(Some(others.collect()));
    inside(&world.native, setup, |runtime, id| async move {
        let made = did(runtime, &id, sh("while ! test -p /dev/pts/ptmx; do sleep 0.05; done")).await?;
        expect(made.exit.code == 0, made)?;
        let refused = runtime.exec(&id, on_terminal("true")).await.err();
        expect(matches!(refused, Some(ExecError::Failed { .. })), refused)
    })
    .await?;
    Ok(None)
}

/// A number of seconds that nobody else's `sleep` has.
pub(crate) fn long(number: u32) -> u32 {
    1_000_000_000 + std::process::id() * 10 + number
}

/// Whether a process of the host runs `sleep` for so long.
pub(crate) fn sleeps(seconds: u32) -> bool {
    let wanted = format!("sleep\0{seconds}\0");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.into_iter().any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
}

async fn hanging_up_kills_a_command_and_its_session(world: &World) -> Verdict {
    for (runtime, seconds) in world.runtimes().into_iter().zip([long(1), long(2), long(3)]) {
        inside(runtime, world.setup(IDLE), |runtime, id| async move {
            let script = format!("trap '' HUP; sleep {seconds} & echo ready; wait");
            for process in [sh(&script), on_terminal(&script)] {
                let mut handle = runtime.exec(&id, process).await.map_err(|e| format!("{e:?}"))?;
                let mut ready = [0; 5];
                let mut stdout = handle.stdout.take().ok_or("no output")?;
                stdout.read_exact(&mut ready).await.map_err(|e| e.to_string())?;
                until("it sleeps", || sleeps(seconds)).await?;
                let pid = handle.pid;
                drop(handle);
                until("the command is gone", || !exists(pid) && !sleeps(seconds)).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(None)
}

/// The helper of a command: its parent.
fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

async fn a_killed_helper_takes_its_command_along(world: &World) -> Verdict {
    inside(&world.native, world.setup(IDLE), |runtime, id| async move {
        // Many times: a helper hangs up a moment before it has ended, and only then its command is the daemon's to reap.
        for _ in 0..30 {
            let handle = runtime.exec(&id, sh("exec sleep 771004")).await.map_err(|e| format!("{e:?}"))?;
            let pid = handle.pid;
            until("it sleeps", || sleeps(771_004)).await?;
            send(parent(pid), rustix::process::Signal::KILL);
            expect(handle.exit.await.is_err(), "an end that nobody saw was told")?;
            expect(!Path::new(&format!("/proc/{pid}")).exists(), "the command is a zombie")?;
        }
        Ok(())
    })
    .await?;
    Ok(None)
}

async fn a_killed_daemon_leaves_no_command(world: &World) -> Verdict {
    let setup = world.setup(IDLE);
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .arg("--act-as-daemon-with-a-command")
        .arg(&dir)
        .arg(format!("sleep {} & exec sleep {}", long(5), long(6)))
        .spawn()
        .unwrap();
    let runs = until("the command runs", || sleeps(long(5)) && sleeps(long(6))).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    runs?;
    until("the command is gone", || !sleeps(long(5)) && !sleeps(long(6))).await?;
    let did = did(&world.native, &id, sh("echo well")).await?;
    expect(did.stdout == "well\n", did)?;
    world.native.kill(&id).map_err(|e| e.to_string())?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

/// Another daemon that takes hold of a container and runs a command in it until it is killed.
pub fn act_as_daemon(args: &[String]) {
    let zygote = stint_runtime::zygote::spawn().expect("there is one thread");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    tokio.block_on(async {
        let runtime = stint_runtime::Native::new(zygote);
        let found = runtime.recover(Path::new(&args[0])).expect("the record is read").expect("there is one");
        let stint_runtime::ContainerState::Running { id, .. } = found else { panic!("{found:?}") };
        let handle = runtime.exec(&id, sh(&args[1])).await.expect("it runs");
        let _ = handle.exit.await;
    });
}

async fn commands_run_after_a_restart_of_the_daemon(world: &World) -> Verdict {
    let setup = world.setup(IDLE);
    let (id, dir) = (setup.id.clone(), setup.dir.clone());
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let other = world.another();
    other.recover(&dir).map_err(|e| e.to_string())?;
    let did = did(&other, &id, sh("grep Seccomp: /proc/self/status")).await?;
    expect(did.stdout == "Seccomp:\t2\n", did)?;
    other.kill(&id).map_err(|e| e.to_string())?;
    other.remove(&id).await.map_err(|e| e.to_string())?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn nothing_leaks_over_many_commands(world: &World) -> Verdict {
    inside(&world.native, world.setup(IDLE), |runtime, id| async move {
        did(runtime, &id, sh("true")).await?;
        let before = (descriptors(), cgroups().len());
        for n in 0..100 {
            let process = if n % 2 == 0 { sh("echo x") } else { on_terminal("echo x") };
            let did = did(runtime, &id, process).await?;
            expect(did.exit.code == 0 && did.stdout.trim() == "x", did)?;
        }
        until("every helper is gone", || ours("stint-exec") == 0).await?;
        let after = || (descriptors(), cgroups().len());
        until("what they had is let go of", || after().0 <= before.0 && after().1 == before.1)
            .await
            .map_err(|e| format!("{e}: {before:?} {:?}", after()))?;
        let left = did(runtime, &id, sh("ls -d /proc/[0-9]* | wc -l; ls /dev/pts")).await?;
        // PID 1, the shell, ls and wc; of the terminals only the device that makes them.
        expect(left.stdout.ends_with("\nptmx\n") && left.stdout.trim().len() <= "99\nptmx".len(), left)
    })
    .await?;
    Ok(None)
}
