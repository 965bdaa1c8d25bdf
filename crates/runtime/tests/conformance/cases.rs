//! Cases that are one container each: a script, an edit of the default spec, and what must come out.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxNamespaceType, MountBuilder, Process, Spec, User};
use serde_json::{Value, json};
use stint_runtime::{Rootfs, StartError, Writable};

use crate::world::{Ran, Setup, Verdict, World};

pub struct Case {
    pub name: &'static str,
    /// Whether the same case runs through runc too.
    oracle: bool,
    script: &'static str,
    edit: fn(&mut Setup),
    expect: Expect,
}

pub enum Expect {
    /// This exit code, and this on stdout.
    Exit(i32, &'static str),
    /// Anything that this function accepts.
    Check(fn(&Ran) -> bool),
    /// A refusal that this function accepts.
    Refusal(fn(&StartError) -> bool),
}

use Expect::{Check, Exit, Refusal};

fn same(_: &mut Setup) {}

pub fn names() -> Vec<&'static str> {
    CASES.iter().map(|c| c.name).collect()
}

pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|c| c.name == name)
}

impl Case {
    pub async fn run(&self, world: &World) -> Verdict {
        let mut setup = world.setup(self.script);
        (self.edit)(&mut setup);
        self.judge("native", &world.run(&world.native, setup).await)?;
        let mut setup = world.setup(self.script);
        (self.edit)(&mut setup);
        self.judge("native, as on older kernels", &world.run(&world.older, setup).await)?;
        if let (true, Some(runc)) = (self.oracle, &world.runc) {
            let mut setup = world.setup(self.script);
            (self.edit)(&mut setup);
            for_runc(&mut setup.spec);
            self.judge("runc", &world.run(runc, setup).await)?;
        }
        Ok(None)
    }

    fn judge(&self, who: &str, got: &Result<Ran, StartError>) -> Result<(), String> {
        let fits = match (&self.expect, got) {
            (Exit(code, stdout), Ok(ran)) => ran.exit.code == *code && ran.stdout == *stdout,
            (Check(check), Ok(ran)) => check(ran),
            (Refusal(check), Err(error)) => check(error),
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("{who}: {got:#?}")) }
    }
}

/// Debian's runc knows neither of these; the rest of the spec stays as it is.
fn for_runc(spec: &mut Spec) {
    let linux = spec.linux_mut().as_mut().unwrap();
    if let Some(seccomp) = linux.seccomp_mut() {
        // Rules about calls that its libseccomp does not know are left out by it with a warning; nothing to do.
        seccomp.set_listener_path(None);
    }
}

pub fn process(setup: &mut Setup) -> &mut Process {
    setup.spec.process_mut().as_mut().unwrap()
}

fn args(setup: &mut Setup, args: &[&str]) {
    process(setup).set_args(Some(args.iter().map(|a| (*a).to_owned()).collect()));
}

/// Edits the spec as JSON, where builders would be long-winded.
pub fn merge(setup: &mut Setup, at: &str, value: Value) {
    let mut json = serde_json::to_value(&setup.spec).unwrap();
    let (parent, name) = at.rsplit_once('/').unwrap();
    let mut node = &mut json;
    for key in parent.split('/').filter(|k| !k.is_empty()) {
        node = node.as_object_mut().unwrap().entry(key).or_insert(json!({}));
    }
    node[name] = value;
    setup.spec = serde_json::from_value(json).unwrap();
}

fn user(setup: &mut Setup, uid: u32, gid: u32, groups: &[u32]) {
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(groups.to_vec()));
    process(setup).set_user(user);
}

pub fn mount(setup: &mut Setup, destination: &str, kind: &str, source: &str, options: &[&str]) {
    let mount = MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap();
    setup.spec.mounts_mut().as_mut().unwrap().push(mount);
}

/// A further layer on top, with files to put into it.
fn layer(setup: &mut Setup, fill: impl FnOnce(&PathBuf)) {
    let top = setup.dir.join("layer");
    fs::create_dir(&top).unwrap();
    fill(&top);
    if let Rootfs::Overlay { lower, .. } = &mut setup.rootfs {
        lower.insert(0, top);
    }
}

fn program(setup: &mut Setup, name: &str, text: &str, mode: u32, owner: u32) {
    layer(setup, |top| {
        let path = top.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
    });
}

fn errno_rule(setup: &mut Setup, action: &str, errno: Option<u32>, new_privileges: bool) {
    let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
    if let Some(errno) = errno {
        rule["errnoRet"] = json!(errno);
    }
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]});
    merge(setup, "/linux/seccomp", profile);
    process(setup).set_no_new_privileges(Some(!new_privileges));
}

fn memory(setup: &mut Setup, limit: i64) {
    merge(setup, "/linux/resources/memory", json!({"limit": limit}));
}

fn unsupported(error: &StartError, word: &str) -> bool {
    matches!(error, StartError::Unsupported { control, .. } if control.contains(word))
}

const CASES: &[Case] = &[
    // Exit codes.
    Case { name: "true_exits_0", oracle: true, script: "true", edit: same, expect: Exit(0, "") },
    Case { name: "exit_code_is_passed_on", oracle: true, script: "exit 3", edit: same, expect: Exit(3, "") },
    Case { name: "exit_code_255", oracle: true, script: "exit 255", edit: same, expect: Exit(255, "") },
    Case {
        name: "child_killed_inside_is_137_for_its_parent",
        oracle: true,
        script: "sh -c 'kill -9 $$'; echo $?",
        edit: same,
        expect: Exit(0, "137\n"),
    },
    // Who the process is.
    Case {
        name: "it_is_pid_1_with_its_own_hostname",
        oracle: true,
        script: "echo $$ $(hostname)",
        edit: |s| {
            s.spec.set_hostname(Some("box".into()));
        },
        expect: Exit(0, "1 box\n"),
    },
    Case {
        name: "user_groups_and_umask",
        oracle: true,
        script: "id -u; id -g; id -G; umask; grep Groups /proc/self/status",
        edit: |s| {
            user(s, 1000, 1000, &[7, 8]);
            merge(s, "/process/user/umask", json!(0o027));
        },
        expect: Exit(0, "1000\n1000\n1000 7 8\n0027\nGroups:\t7 8 \n"),
    },
    Case {
        name: "root_has_the_default_umask",
        oracle: true,
        script: "id -u; umask",
        edit: same,
        expect: Exit(0, "0\n0022\n"),
    },
    Case {
        name: "environment_is_the_specs",
        oracle: true,
        script: "echo $A; echo $B; env | wc -l",
        edit: |s| {
            let env = ["PATH=/bin", "HOME=/x", "A=one two", "B=ü"].map(str::to_owned).to_vec();
            process(s).set_env(Some(env));
        },
        // PWD and SHLVL come from the shell.
        expect: Exit(0, "one two\nü\n6\n"),
    },
    Case {
        name: "working_directory",
        oracle: true,
        script: "pwd",
        edit: |s| {
            process(s).set_cwd("/home".into());
        },
        expect: Exit(0, "/home\n"),
    },
    Case {
        name: "missing_working_directory_is_made",
        oracle: true,
        script: "pwd",
        edit: |s| {
            process(s).set_cwd("/a/b/c".into());
        },
        expect: Exit(0, "/a/b/c\n"),
    },
    Case {
        name: "user_may_reopen_its_stdout",
        oracle: true,
        script: "echo there > /dev/stdout",
        edit: |s| user(s, 1000, 1000, &[]),
        expect: Exit(0, "there\n"),
    },
    Case { name: "stdin_is_empty", oracle: true, script: "cat; echo end", edit: same, expect: Exit(0, "end\n") },
    Case {
        name: "signals_have_their_defaults",
        oracle: true,
        script: "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        edit: |s| args(s, &["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]),
        expect: Exit(0, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"),
    },
    Case {
        name: "nothing_but_stdio_is_open",
        oracle: false,
        script: "",
        edit: |s| args(s, &["ls", "/proc/self/fd"]),
        expect: Exit(0, "0\n1\n2\n3\n"), // 3 is ls reading the folder
    },
    // Capabilities and privileges.
    Case {
        name: "default_capabilities_are_present_and_others_absent",
        oracle: true,
        script: "grep Cap /proc/self/status",
        edit: same,
        expect: Exit(
            0,
            "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n",
        ),
    },
    Case {
        name: "no_capabilities_means_none",
        oracle: true,
        script: "grep Cap /proc/self/status; chown 1 /tmp 2>/dev/null || echo refused",
        edit: |s| {
            process(s).set_capabilities(Some(stint_runtime::defaults::capability_sets(&HashSet::default())));
        },
        expect: Exit(
            0,
            "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nrefused\n",
        ),
    },
    Case {
        name: "other_users_have_the_bounding_set_only",
        oracle: true,
        script: "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status",
        edit: |s| user(s, 1000, 1000, &[]),
        expect: Exit(0, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n"),
    },
    Case {
        name: "ambient_capabilities_reach_other_users",
        oracle: true,
        script: "grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status",
        edit: |s| {
            user(s, 1000, 1000, &[]);
            let set = [Capability::NetBindService].into_iter().collect();
            let mut sets = stint_runtime::defaults::capability_sets(&set);
            sets.set_inheritable(Some(set.clone())).set_ambient(Some(set));
            process(s).set_capabilities(Some(sets));
        },
        expect: Exit(0, "CapInh:\t0000000000000400\nCapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n"),
    },
    Case {
        name: "no_new_privileges_is_set_when_asked",
        oracle: true,
        script: "grep NoNewPrivs /proc/self/status",
        edit: |s| {
            process(s).set_no_new_privileges(Some(true));
        },
        expect: Exit(0, "NoNewPrivs:\t1\n"),
    },
    Case {
        name: "no_new_privileges_is_off_when_not",
        oracle: true,
        script: "grep NoNewPrivs /proc/self/status",
        edit: same,
        expect: Exit(0, "NoNewPrivs:\t0\n"),
    },
    // Seccomp.
    Case {
        name: "default_profile_is_loaded",
        oracle: true,
        script: "grep Seccomp: /proc/self/status; unshare -m true 2>/dev/null || echo refused",
        edit: same,
        expect: Exit(0, "Seccomp:\t2\nrefused\n"),
    },
    Case {
        name: "seccomp_allows_the_rest_without_no_new_privileges",
        oracle: true,
        script: "mkdir /tmp/x; echo $?",
        edit: |s| {
            merge(s, "/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
            process(s).set_no_new_privileges(Some(false));
        },
        expect: Exit(0, "0\n"),
    },
    Case {
        name: "seccomp_errno_without_no_new_privileges",
        oracle: true,
        script: "mkdir /tmp/x 2>&1",
        edit: |s| errno_rule(s, "SCMP_ACT_ERRNO", Some(28), true),
        expect: Exit(1, "mkdir: can't create directory '/tmp/x': No space left on device\n"),
    },
    Case {
        name: "seccomp_errno_with_no_new_privileges",
        oracle: true,
        script: "mkdir /tmp/x 2>&1",
        edit: |s| errno_rule(s, "SCMP_ACT_ERRNO", Some(28), false),
        expect: Exit(1, "mkdir: can't create directory '/tmp/x': No space left on device\n"),
    },
    Case {
        name: "seccomp_kill_without_no_new_privileges",
        oracle: true,
        script: "mkdir /tmp/x; echo $?",
        edit: |s| errno_rule(s, "SCMP_ACT_KILL_PROCESS", None, true),
        expect: Exit(0, "159\n"),
    },
    Case {
        name: "seccomp_kill_with_no_new_privileges",
        oracle: true,
        script: "mkdir /tmp/x; echo $?",
        edit: |s| errno_rule(s, "SCMP_ACT_KILL_PROCESS", None, false),
        expect: Exit(0, "159\n"),
    },
    Case {
        name: "seccomp_kills_pid_1_too",
        oracle: true,
        script: "",
        edit: |s| {
            errno_rule(s, "SCMP_ACT_KILL_PROCESS", None, false);
            args(s, &["mkdir", "/tmp/x"]);
        },
        expect: Check(|ran| ran.exit.code == 159 && ran.exit.signal == Some(31)),
    },
    Case {
        name: "seccomp_notify_is_refused",
        oracle: false,
        script: "true",
        edit: |s| errno_rule(s, "SCMP_ACT_NOTIFY", None, false),
        expect: Refusal(|e| unsupported(e, "SCMP_ACT_NOTIFY") || unsupported(e, "Notify")),
    },
    // Resource limits.
    Case {
        name: "rlimits_are_set",
        oracle: true,
        script: "grep -E 'open files|core file' /proc/self/limits | tr -s ' '",
        edit: |s| {
            let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
            merge(s, "/process/rlimits", limits);
        },
        expect: Exit(0, "Max core file size 0 0 bytes \nMax open files 100 200 files \n"),
    },
    Case {
        name: "invalid_rlimit_is_an_error",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 10}])),
        expect: Refusal(|e| matches!(e, StartError::Failed { step, .. } if step.contains("RLIMIT_NOFILE"))),
    },
    Case {
        name: "oom_score_adj_is_set",
        oracle: true,
        script: "cat /proc/self/oom_score_adj",
        edit: |s| {
            process(s).set_oom_score_adj(Some(500));
        },
        expect: Exit(0, "500\n"),
    },
    Case {
        name: "pids_limit_holds",
        oracle: true,
        script: "sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 0.1 & done' 2>/dev/null; sleep 0.3; echo end",
        edit: |s| merge(s, "/linux/resources/pids", json!({"limit": 5})),
        expect: Check(|ran| ran.exit.code == 0 || ran.exit.code == 2),
    },
    Case {
        name: "oom_of_pid_1_is_137_and_told",
        oracle: true,
        script: "",
        edit: |s| {
            memory(s, 16 << 20);
            args(s, &["sh", "-c", "exec tail /dev/zero"]);
        },
        expect: Check(|ran| ran.exit.code == 137 && ran.exit.signal == Some(9) && ran.exit.oom_killed),
    },
    Case {
        name: "oom_of_a_child_is_told_with_the_parents_code",
        oracle: true,
        script: "tail /dev/zero; exit 5",
        edit: |s| memory(s, 16 << 20),
        expect: Check(|ran| ran.exit.code == 5 && ran.exit.signal.is_none() && ran.exit.oom_killed),
    },
    Case {
        name: "no_oom_no_flag",
        oracle: true,
        script: "kill -9 $$; true",
        edit: |s| memory(s, 64 << 20),
        expect: Check(|ran| !ran.exit.oom_killed && ran.exit.code == 0),
    },
    Case {
        name: "memory_limit_is_the_cgroups",
        oracle: false,
        script: "cat /proc/self/cgroup | grep -c memory:/$",
        edit: |s| memory(s, 64 << 20),
        expect: Check(|ran| ran.stdout == "1\n" || ran.stdout == "0\n"),
    },
    // What is executed.
    Case {
        name: "absolute_path_without_path_variable",
        oracle: true,
        script: "",
        edit: |s| {
            args(s, &["/bin/echo", "hi"]);
            process(s).set_env(Some(vec!["A=b".into()]));
        },
        expect: Exit(0, "hi\n"),
    },
    Case {
        name: "command_is_found_along_path",
        oracle: true,
        script: "",
        edit: |s| {
            args(s, &["echo", "hi"]);
            process(s).set_env(Some(vec!["PATH=/nowhere:/bin".into()]));
        },
        expect: Exit(0, "hi\n"),
    },
    Case {
        name: "missing_command",
        oracle: true,
        script: "",
        edit: |s| args(s, &["no-such-command"]),
        expect: Refusal(|e| matches!(e, StartError::CommandNotFound { command, .. } if command == "no-such-command")),
    },
    Case {
        name: "missing_absolute_command",
        oracle: true,
        script: "",
        edit: |s| args(s, &["/no/such/command"]),
        expect: Refusal(|e| matches!(e, StartError::CommandNotFound { .. })),
    },
    Case {
        name: "not_executable_command",
        oracle: true,
        script: "",
        edit: |s| args(s, &["/etc/passwd"]),
        expect: Refusal(|e| matches!(e, StartError::CommandNotExecutable { .. })),
    },
    Case {
        name: "folder_as_command",
        oracle: false,
        script: "",
        edit: |s| args(s, &["/etc"]),
        expect: Refusal(|e| matches!(e, StartError::CommandNotExecutable { .. })),
    },
    Case {
        name: "missing_interpreter_is_said_so",
        oracle: false,
        script: "",
        edit: |s| {
            program(s, "run", "#!/no/such/shell\n", 0o755, 0);
            args(s, &["/run"]);
        },
        expect: Refusal(
            |e| matches!(e, StartError::CommandNotExecutable { reason, .. } if reason.contains("interpreter")),
        ),
    },
    Case {
        name: "private_executable_of_the_user",
        oracle: true,
        script: "",
        edit: |s| {
            program(s, "run", "#!/bin/sh\necho mine\n", 0o700, 1000);
            user(s, 1000, 1000, &[]);
            args(s, &["/run"]);
        },
        expect: Exit(0, "mine\n"),
    },
    Case {
        name: "private_executable_of_another_user",
        oracle: true,
        script: "",
        edit: |s| {
            program(s, "run", "#!/bin/sh\necho mine\n", 0o700, 1001);
            user(s, 1000, 1000, &[]);
            process(s).set_capabilities(Some(stint_runtime::defaults::capability_sets(&HashSet::default())));
            args(s, &["/run"]);
        },
        expect: Refusal(|e| matches!(e, StartError::CommandNotExecutable { .. })),
    },
    Case {
        name: "the_hosts_own_binary_is_never_executed",
        oracle: false,
        script: "",
        edit: |s| args(s, &["/proc/self/exe"]),
        expect: Refusal(|e| matches!(e, StartError::CommandNotExecutable { .. })),
    },
    Case {
        name: "the_hosts_own_binary_is_never_executed_through_a_symlink",
        oracle: false,
        script: "",
        edit: |s| {
            layer(s, |top| std::os::unix::fs::symlink("/proc/self/exe", top.join("run")).unwrap());
            args(s, &["/run"]);
        },
        expect: Refusal(|e| matches!(e, StartError::CommandNotExecutable { .. })),
    },
    Case {
        name: "no_command_is_invalid",
        oracle: false,
        script: "",
        edit: |s| {
            process(s).set_args(Some(Vec::new()));
        },
        expect: Refusal(|e| matches!(e, StartError::Invalid { .. })),
    },
    // The filesystem.
    Case {
        name: "masked_paths_show_nothing",
        oracle: true,
        script: "cat /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v ':$' | grep -c .",
        edit: same,
        expect: Exit(1, "0\n0\n"),
    },
    Case {
        name: "readonly_paths_take_no_writes",
        oracle: true,
        script: "echo 1 2>/dev/null > /proc/sys/kernel/sysrq || echo refused; mkdir /sys/x 2>/dev/null || echo refused; touch /proc/bus/x 2>/dev/null || echo refused",
        edit: same,
        expect: Exit(0, "refused\nrefused\nrefused\n"),
    },
    Case {
        name: "root_is_writable_and_its_layers_stay",
        oracle: true,
        script: "echo x > /etc/new && rm /etc/passwd && ls /etc",
        edit: same,
        expect: Exit(0, "group\nnew\n"),
    },
    Case {
        name: "readonly_root_takes_no_writes",
        oracle: true,
        script: "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo written",
        edit: |s| {
            s.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
        },
        expect: Exit(0, "refused\nwritten\n"),
    },
    Case {
        name: "writes_to_memory",
        oracle: true,
        script: "echo x > /new && cat /new",
        edit: |s| {
            if let Rootfs::Overlay { writable, .. } = &mut s.rootfs {
                *writable = Writable::Tmpfs { size: Some(1 << 20) };
            }
        },
        expect: Exit(0, "x\n"),
    },
    Case {
        name: "writes_to_memory_end_at_their_size",
        oracle: true,
        script: "head -c 3000000 /dev/zero > /new 2>/dev/null || echo full",
        edit: |s| {
            if let Rootfs::Overlay { writable, .. } = &mut s.rootfs {
                *writable = Writable::Tmpfs { size: Some(1 << 20) };
            }
        },
        expect: Exit(0, "full\n"),
    },
    Case {
        name: "devices_are_the_standard_ones",
        oracle: false,
        script: "ls /dev; head -c 4 /dev/zero | wc -c; echo x > /dev/null; head -c 1 /dev/urandom | wc -c; ls /dev/pts; readlink /dev/ptmx",
        edit: same,
        expect: Exit(
            0,
            "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n4\n1\nptmx\npts/ptmx\n",
        ),
    },
    Case {
        name: "nodes_of_other_devices_do_not_open",
        oracle: true,
        script: "mknod /dev/mine c 1 1 && mknod /tmp/disk b 254 0; head -c 1 /dev/mine >/dev/null 2>&1 || echo refused; head -c 1 /tmp/disk >/dev/null 2>&1 || echo refused",
        edit: same,
        expect: Exit(0, "refused\nrefused\n"),
    },
    Case {
        name: "bind_mounts_of_folders_and_files",
        oracle: true,
        script: "cat /data/a /etc/one; echo new > /data/b; echo x 2>/dev/null > /ro/a || echo refused",
        edit: |s| {
            let data = s.dir.join("data");
            fs::create_dir(&data).unwrap();
            fs::write(data.join("a"), "A\n").unwrap();
            let (folder, file) = (data.to_str().unwrap().to_owned(), data.join("a").to_str().unwrap().to_owned());
            mount(s, "/data", "bind", &folder, &["rbind", "rprivate"]);
            mount(s, "/ro", "bind", &folder, &["bind", "ro", "nosuid", "nodev"]);
            mount(s, "/etc/one", "bind", &file, &["bind", "ro"]);
        },
        expect: Exit(0, "A\nA\nrefused\n"),
    },
    Case {
        name: "a_bind_mount_shows_a_part_of_its_source",
        oracle: true,
        script: "cat /part/a /one; echo new > /part/b; ls /part; echo x 2>/dev/null > /one || echo refused",
        edit: |s| {
            let data = s.dir.join("data");
            fs::create_dir_all(data.join("sub/deep")).unwrap();
            fs::write(data.join("sub/deep/a"), "A\n").unwrap();
            std::os::unix::fs::symlink("sub/deep", data.join("link")).unwrap();
            let source = data.to_str().unwrap().to_owned();
            mount(s, "/part", "bind", &source, &["rbind", "rprivate", "X-mount.subdir=link"]);
            mount(s, "/one", "bind", &source, &["rbind", "ro", "X-mount.subdir=sub/deep/a"]);
        },
        expect: Exit(0, "A\nA\na\nb\nrefused\n"),
    },
    Case {
        name: "a_link_does_not_lead_a_part_out_of_its_source",
        oracle: true,
        script: "cat /part/secret",
        edit: |s| {
            let (data, outside) = (s.dir.join("data"), s.dir.join("outside"));
            fs::create_dir(&data).unwrap();
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("secret"), "the host's\n").unwrap();
            std::os::unix::fs::symlink("../outside", data.join("part")).unwrap();
            let source = data.to_str().unwrap().to_owned();
            mount(s, "/part", "bind", &source, &["rbind", "X-mount.subdir=part"]);
        },
        expect: Refusal(|e| matches!(e, StartError::Failed { step, .. } if step.contains("and nothing outside"))),
    },
    Case {
        name: "a_path_in_a_source_that_leads_up_is_refused",
        oracle: true,
        script: "true",
        edit: |s| {
            let source = s.dir.to_str().unwrap().to_owned();
            mount(s, "/part", "bind", &source, &["rbind", "X-mount.subdir=a/../.."]);
        },
        expect: Refusal(|e| matches!(e, StartError::Invalid { fault, .. } if fault.contains("X-mount.subdir"))),
    },
    Case {
        name: "noexec_bind_mounts_do_not_execute",
        oracle: true,
        script: "/data/run 2>/dev/null || echo refused; grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6",
        edit: |s| {
            let data = s.dir.join("data");
            fs::create_dir(&data).unwrap();
            fs::write(data.join("run"), "#!/bin/sh\necho ran\n").unwrap();
            fs::set_permissions(data.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let folder = data.to_str().unwrap().to_owned();
            mount(s, "/data", "bind", &folder, &["rbind", "noexec", "nosuid", "nodev"]);
        },
        expect: Check(|ran| ran.stdout.starts_with("refused\nrw,nosuid,nodev,noexec")),
    },
    Case {
        name: "tmpfs_mounts_have_their_size_and_mode",
        oracle: true,
        script: "stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'; touch /scratch/x && echo written",
        edit: |s| mount(s, "/scratch", "tmpfs", "tmpfs", &["nosuid", "nodev", "size=64k", "mode=0711"]),
        expect: Exit(0, "711\n64\nwritten\n"),
    },
    Case {
        name: "mount_points_are_made_within_the_root_through_symlinks",
        oracle: true,
        script: "cat /elsewhere/secrets/a; ls -d /var/run/secrets",
        edit: |s| {
            let data = s.dir.join("data");
            fs::create_dir(&data).unwrap();
            fs::write(data.join("a"), "A\n").unwrap();
            layer(s, |top| {
                fs::create_dir(top.join("var")).unwrap();
                std::os::unix::fs::symlink("/elsewhere", top.join("var/run")).unwrap();
            });
            let folder = data.to_str().unwrap().to_owned();
            mount(s, "/var/run/secrets", "bind", &folder, &["rbind"]);
        },
        expect: Exit(0, "A\n/var/run/secrets\n"),
    },
    Case {
        name: "symlinks_do_not_lead_mounts_outside",
        oracle: true,
        script: "cat /escape/a; cat /up/a",
        edit: |s| {
            let data = s.dir.join("data");
            fs::create_dir(&data).unwrap();
            fs::write(data.join("a"), "A\n").unwrap();
            layer(s, |top| {
                std::os::unix::fs::symlink("/stint-escape-1", top.join("escape")).unwrap();
                std::os::unix::fs::symlink("../../../../../../stint-escape-2", top.join("up")).unwrap();
            });
            let folder = data.to_str().unwrap().to_owned();
            mount(s, "/escape", "bind", &folder, &["rbind"]);
            mount(s, "/up", "bind", &folder, &["rbind"]);
        },
        expect: Check(|ran| {
            let outside = fs::exists("/stint-escape-1").unwrap() || fs::exists("/stint-escape-2").unwrap();
            ran.stdout == "A\nA\n" && !outside
        }),
    },
    Case {
        name: "a_symlink_in_place_of_proc_is_an_error",
        oracle: false,
        script: "true",
        edit: |s| {
            layer(s, |top| std::os::unix::fs::symlink("/tmp", top.join("proc")).unwrap());
        },
        expect: Refusal(|e| matches!(e, StartError::Failed { step, .. } if step.contains("proc at /proc"))),
    },
    Case {
        name: "many_layers_stack_in_order",
        oracle: true,
        script: "cat /which; ls /l | wc -l",
        edit: |s| {
            for n in 0..60 {
                let top = s.dir.join(format!("a-rather-long-name-of-a-layer-as-a-digest-would-be-{n}"));
                fs::create_dir_all(top.join("l")).unwrap();
                fs::write(top.join("which"), format!("{n}\n")).unwrap();
                fs::write(top.join(format!("l/{n}")), "").unwrap();
                if let Rootfs::Overlay { lower, .. } = &mut s.rootfs {
                    lower.insert(0, top);
                }
            }
        },
        expect: Exit(0, "59\n60\n"),
    },
    Case {
        name: "namespaced_sysctls_are_set",
        oracle: true,
        script: "cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max",
        edit: |s| merge(s, "/linux/sysctl", json!({"kernel.shmmni": "77", "fs.mqueue.msg_max": "11"})),
        expect: Exit(0, "77\n11\n"),
    },
    Case {
        name: "sysctls_of_the_host_are_refused",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/linux/sysctl", json!({"kernel.panic": "1"})),
        expect: Refusal(|e| unsupported(e, "kernel.panic")),
    },
    Case {
        name: "network_sysctls_need_a_network_namespace",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})),
        expect: Refusal(|e| unsupported(e, "net.ipv4.ip_forward")),
    },
    Case {
        name: "a_new_network_has_loopback_only",
        oracle: true,
        script: "ls /sys/class/net; ip -o link show lo | grep -c UP",
        edit: |s| {
            let namespaces = s.spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
            let mut network = namespaces[0].clone();
            network.set_typ(LinuxNamespaceType::Network);
            namespaces.push(network);
        },
        expect: Check(|ran| ran.stdout.contains("lo\n") && !ran.stdout.contains("eth") && ran.stdout.ends_with("1\n")),
    },
    // Fail closed.
    Case {
        name: "hooks_are_refused",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/hooks", json!({"prestart": [{"path": "/bin/true"}]})),
        expect: Refusal(|e| unsupported(e, "hooks")),
    },
    Case {
        name: "an_apparmor_profile_that_does_not_exist_is_refused",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/process/apparmorProfile", json!("strict")),
        expect: Refusal(|e| match e {
            StartError::Failed { step, .. } => step.contains("AppArmor profile strict"),
            other => unsupported(other, "apparmorProfile"),
        }),
    },
    Case {
        name: "a_user_namespace_without_ids_is_invalid",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/linux/namespaces", json!([{"type": "pid"}, {"type": "mount"}, {"type": "user"}])),
        expect: Refusal(|e| matches!(e, StartError::Invalid { .. })),
    },
    Case {
        name: "the_hosts_mount_namespace_is_refused",
        oracle: false,
        script: "true",
        edit: |s| merge(s, "/linux/namespaces", json!([{"type": "pid"}])),
        expect: Refusal(|e| unsupported(e, "mount namespace")),
    },
    Case {
        name: "hostname_of_the_host_is_not_changed",
        oracle: false,
        script: "true",
        edit: |s| {
            merge(s, "/linux/namespaces", json!([{"type": "pid"}, {"type": "mount"}]));
            s.spec.set_hostname(Some("x".into()));
        },
        expect: Refusal(|e| matches!(e, StartError::Invalid { .. })),
    },
    Case {
        name: "limits_without_a_cgroup_are_invalid",
        oracle: false,
        script: "true",
        edit: |s| {
            s.spec.linux_mut().as_mut().unwrap().set_cgroups_path(None);
        },
        expect: Refusal(|e| matches!(e, StartError::Invalid { .. })),
    },
    Case {
        name: "a_mount_over_proc_files_is_refused",
        oracle: false,
        script: "true",
        edit: |s| mount(s, "/proc/sys", "bind", "/tmp", &["rbind"]),
        expect: Refusal(|e| unsupported(e, "/proc/sys")),
    },
    Case {
        name: "missing_volume_is_named",
        oracle: false,
        script: "true",
        edit: |s| mount(s, "/x", "bind", "/no/such/volume", &["rbind"]),
        expect: Refusal(|e| matches!(e, StartError::Failed { step, .. } if step.contains("/no/such/volume"))),
    },
];
