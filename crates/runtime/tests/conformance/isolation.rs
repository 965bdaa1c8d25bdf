//! Cases of containers that are kept further apart than by default, or closer together: user namespaces, shared
//! processes, shared mounts, limits of several containers together.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_fs, mount_change, unmount};
use serde_json::json;
use stint_runtime::{ContainerId, Rootfs, Runtime, StartError};

use crate::cases::{merge, mount, process};
use crate::commands::{did, inside, long, sh, sleeps};
use crate::lives::expect;
use crate::world::{Setup, Verdict, World, cgroups, group, until};

type Story = for<'a> fn(&'a World) -> std::pin::Pin<Box<dyn Future<Output = Verdict> + 'a>>;

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        const STORIES: &[(&str, Story)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}

stories![
    root_in_a_user_namespace_is_nobody_outside,
    a_user_namespace_keeps_what_the_kernel_shows,
    volumes_in_a_user_namespace_hold_the_containers_ids,
    root_in_a_user_namespace_mounts_for_itself_alone,
    a_command_in_a_user_namespace_is_as_confined,
    the_hosts_root_filesystem_in_a_user_namespace,
    containers_share_the_processes_of_a_holder,
    a_container_that_shares_processes_ends_with_all_that_it_started,
    the_end_of_a_holder_is_the_end_of_all,
    a_killed_shim_leaves_nothing_of_a_container_that_shares_processes,
    the_hosts_processes_are_seen_when_asked_for,
    a_shared_mount_carries_mounts_to_the_host,
    limits_hold_for_containers_together,
];

pub fn names() -> Vec<&'static str> {
    STORIES.iter().map(|s| s.0).collect()
}

pub fn find(name: &str) -> Option<Story> {
    STORIES.iter().find(|s| s.0 == name).map(|s| s.1)
}

/// The host's id of the container's user 0.
const FIRST: u32 = 1_234_567_168;

/// Gives the container a user namespace.
pub fn with_users(setup: &mut Setup) {
    let kinds = ["pid", "mount", "uts", "ipc", "cgroup", "user"];
    merge(setup, "/linux/namespaces", json!(kinds.map(|kind| json!({"type": kind}))));
    let ids = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    merge(setup, "/linux/uidMappings", ids.clone());
    merge(setup, "/linux/gidMappings", ids);
}

/// Has the default profile let through what these capabilities are for, and gives them.
pub fn with_capabilities(setup: &mut Setup, names: &[&str]) {
    let mut all = stint_runtime::default_capabilities();
    let added: Vec<oci_spec::runtime::Capability> = serde_json::from_value(json!(names)).unwrap();
    all.extend(added);
    process(setup).set_capabilities(Some(stint_runtime::defaults::capability_sets(&all)));
    let profile = stint_runtime::seccomp::default_profile_with(&all);
    setup.spec.linux_mut().as_mut().unwrap().set_seccomp(Some(profile));
}

async fn ran(world: &World, setup: Setup) -> Result<String, String> {
    let ran = world.run(&world.native, setup).await.map_err(|e| format!("{e:?}"))?;
    expect(ran.exit.code == 0, &ran)?;
    Ok(ran.stdout)
}

/// Not on kernels before 6.15, where it is refused.
async fn refused_on_older_kernels(world: &World) -> Result<(), String> {
    let mut setup = world.setup("true");
    with_users(&mut setup);
    let refused = world.run(&world.older, setup).await;
    expect(matches!(&refused, Err(StartError::Unsupported { control, .. }) if control == "a user namespace"), &refused)
}

async fn root_in_a_user_namespace_is_nobody_outside(world: &World) -> Verdict {
    refused_on_older_kernels(world).await?;
    let mut setup = world.setup(
        "id -u; cat /proc/self/uid_map; cat /proc/1/status | grep ^CapEff; touch /made /tmp/made; mkdir /dev/own; \
         echo again > /dev/stdout; stat -c %u:%g /bin/busybox /made /dev /etc/passwd; echo > /dev/null; hostname own; \
         hostname; chown 1000:1000 /tmp/made && stat -c %u:%g /tmp/made; exec sleep 100",
    );
    with_users(&mut setup);
    setup.spec.set_hostname(Some("h".into()));
    let (dir, id) = (setup.dir.clone(), setup.id.clone());
    let started = world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let log = || crate::world::stream(&fs::read(dir.join("log")).unwrap_or_default(), "stdout");
    until("its last word", || log().ends_with("1000:1000\n")).await?;
    let text = log();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    expect(lines[0] == "0" && lines[1].split_whitespace().eq(["0", &FIRST.to_string(), "65536"]), &lines)?;
    expect(lines[3..8] == ["again", "0:0", "0:0", "0:0", "0:0"], &lines)?;
    expect(lines[8] == "h", &lines)?; // the default profile lets nobody change it
    let status = fs::read_to_string(format!("/proc/{}/status", started.pid)).map_err(|e| e.to_string())?;
    expect(status.contains(&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")), &status)?;
    let upper = dir.join("upper");
    for (path, owner) in [("made", FIRST), ("tmp/made", FIRST + 1000)] {
        let owned = fs::symlink_metadata(upper.join(path)).map_err(|e| e.to_string())?.uid();
        expect(owned == owner, (path, owned))?;
    }
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    let layer = fs::metadata(world.rootfs.join("bin/busybox")).map_err(|e| e.to_string())?;
    expect(layer.uid() == 0, "the layer is unchanged")?;
    Ok(None)
}

async fn a_user_namespace_keeps_what_the_kernel_shows(world: &World) -> Verdict {
    let mut setup = world.setup(
        "(echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo wrote; (echo 1 > /sys/kernel/mm/ksm/run) 2>/dev/null && \
         echo wrote; head -c 1 /proc/kcore 2>/dev/null; (mknod /tmp/disk b 254 0) 2>/dev/null && echo made; \
         head -c 1 /dev/zero | wc -c; ls /proc | grep -c '^[0-9]'; cat /proc/sys/kernel/shmmni",
    );
    with_users(&mut setup);
    merge(&mut setup, "/linux/sysctl", json!({"kernel.shmmni": "77"}));
    let said = ran(world, setup).await?;
    let lines: Vec<&str> = said.lines().collect();
    expect(lines.len() == 3 && lines[0] == "1" && lines[2] == "77", &lines)?;
    expect(lines[1].parse::<u32>().is_ok_and(|seen| seen < 10), &lines)?;
    Ok(None)
}

async fn volumes_in_a_user_namespace_hold_the_containers_ids(world: &World) -> Verdict {
    let mut setup =
        world.setup("stat -c %u /v/old; echo new > /v/new; su user -c 'touch /v/by-user'; stat -c %u /v/by-user");
    with_users(&mut setup);
    let volume = setup.dir.join("volume");
    fs::create_dir(&volume).map_err(|e| e.to_string())?;
    fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o777)).map_err(|e| e.to_string())?;
    fs::write(volume.join("old"), "").map_err(|e| e.to_string())?;
    mount(&mut setup, "/v", "bind", volume.to_str().unwrap(), &["rbind", "ridmap"]);
    let said = ran(world, setup).await?;
    expect(said == "0\n1000\n", &said)?;
    for (name, owner) in [("new", 0), ("by-user", 1000)] {
        let found = fs::metadata(volume.join(name)).map_err(|e| e.to_string())?.uid();
        expect(found == owner, (name, found))?;
    }
    // Unmapped, the same files are nobody's.
    let mut setup = world.setup("stat -c %u /v/old; (echo x > /v/old) 2>/dev/null || echo denied");
    with_users(&mut setup);
    mount(&mut setup, "/v", "bind", volume.to_str().unwrap(), &["rbind"]);
    let said = ran(world, setup).await?;
    expect(said == "65534\ndenied\n", &said)?;
    let mut setup = world.setup("true");
    mount(&mut setup, "/v", "bind", volume.to_str().unwrap(), &["rbind", "ridmap"]);
    let refused = world.run(&world.native, setup).await;
    expect(matches!(refused, Err(StartError::Invalid { .. })), &refused)?;
    Ok(None)
}

async fn root_in_a_user_namespace_mounts_for_itself_alone(world: &World) -> Verdict {
    let mut setup = world.setup(
        "mkdir /m && mount -t tmpfs own /m && touch /m/x && echo mounted; hostname own && hostname; \
         (mount -t proc again /m) 2>/dev/null && echo revealed; chroot / true && echo chrooted",
    );
    with_users(&mut setup);
    with_capabilities(&mut setup, &["CAP_SYS_ADMIN"]);
    setup.spec.set_hostname(Some("h".into()));
    let before = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let said = ran(world, setup).await?;
    expect(said == "mounted\nown\nchrooted\n", &said)?;
    let after = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    expect(before == after, "nothing is mounted on the host")?;
    Ok(None)
}

async fn a_command_in_a_user_namespace_is_as_confined(world: &World) -> Verdict {
    let mut setup = world.setup("exec sleep 100");
    with_users(&mut setup);
    process(&mut setup).user_mut().set_uid(1000).set_gid(1000);
    inside(&world.native, setup, async |runtime, id| {
        let script = "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user; readlink /proc/1/ns/user; \
                      echo again > /dev/stdout; touch /tmp/x && stat -c %u /tmp/x";
        let done = did(runtime, &id, sh(script)).await?;
        let lines: Vec<&str> = done.stdout.lines().map(str::trim).collect();
        expect(lines.len() == 6 && lines[0] == "1000" && lines[1].contains(&FIRST.to_string()), &done)?;
        expect(lines[2] == lines[3] && lines[4..] == ["again", "1000"], &done)
    })
    .await?;
    Ok(None)
}

async fn the_hosts_root_filesystem_in_a_user_namespace(world: &World) -> Verdict {
    let mut setup =
        world.setup("stat -c %u /bin/sh; (touch /etc/made) && stat -c %u /etc/made; cat /etc/shadow | wc -l");
    setup.rootfs = Rootfs::Host { size: Some(1 << 20) };
    with_users(&mut setup);
    let said = ran(world, setup).await?;
    expect(said.starts_with("0\n0\n"), &said)?;
    expect(!Path::new("/etc/made").exists(), "the host is unchanged")?;
    Ok(None)
}

/// A container that holds a PID namespace, and the way there.
async fn holder(world: &World) -> Result<(ContainerId, PathBuf), String> {
    let mut setup = world.setup("");
    setup.rootfs = Rootfs::Nothing;
    process(&mut setup).set_args(None).set_capabilities(None);
    setup.spec.set_mounts(None);
    let id = setup.id.clone();
    let started = world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    Ok((id, PathBuf::from(format!("/proc/{}/ns/pid", started.pid))))
}

fn sharing(world: &World, script: &str, namespace: &Path) -> Setup {
    let mut setup = world.setup(script);
    let kinds = ["mount", "uts", "ipc", "cgroup"].map(|kind| json!({"type": kind}));
    let processes = [json!({"type": "pid", "path": namespace})];
    merge(&mut setup, "/linux/namespaces", json!(kinds.iter().chain(&processes).collect::<Vec<_>>()));
    setup
}

async fn containers_share_the_processes_of_a_holder(world: &World) -> Verdict {
    let (id, namespace) = holder(world).await?;
    let sleeper = sharing(world, "exec sleep 4321", &namespace);
    inside(&world.native, sleeper, async |runtime, sleeper| {
        // An orphan goes to process 1, which leaves no zombie.
        let script = "until ps -o args | grep '^sleep 4321'; do sleep 0.05; done; readlink /proc/1/exe; \
                      (sh -c 'sleep 0.1 & exit 0'); while ps -o args | grep -q '^sleep 0[.]1'; do sleep 0.05; done; \
                      until ! grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do sleep 0.05; done; echo 0; \
                      (echo x > /proc/1/exe) 2>/dev/null && echo wrote; kill -TERM 1; kill -STOP 1; true";
        for runtime in [runtime, &world.older as &dyn Runtime] {
            let looker = sharing(world, script, &namespace);
            let looked = world.run(runtime, looker).await.map_err(|e| format!("{e:?}"))?;
            expect(looked.stdout.contains("sleep 4321") && !looked.stdout.contains("wrote"), &looked)?;
            expect(looked.stdout.lines().any(|line| line.trim() == "0"), &looked)?;
        }
        let seen = did(runtime, &sleeper, sh("ps -o args")).await?;
        expect(seen.stdout.contains("sleep 4321"), &seen)
    })
    .await?;
    // It holds on through all that, and others may come.
    ran(world, sharing(world, "true", &namespace)).await?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    let late = world.run(&world.native, sharing(world, "true", &namespace)).await;
    expect(matches!(&late, Err(StartError::Failed { step, .. }) if step.contains("PID namespace")), &late)?;
    until("no cgroup is left", || cgroups().is_empty()).await?;
    Ok(None)
}

async fn a_container_that_shares_processes_ends_with_all_that_it_started(world: &World) -> Verdict {
    let (id, namespace) = holder(world).await?;
    for runtime in [&world.native as &dyn Runtime, &world.older] {
        let setup =
            sharing(world, "setsid sleep 5432 & sh -c 'setsid sleep 5432 & exit 0'; echo end; exit 7", &namespace);
        let ended = world.run(runtime, setup).await.map_err(|e| format!("{e:?}"))?;
        expect(ended.exit.code == 7 && ended.stdout == "end\n", &ended)?;
        let left = ran(world, sharing(world, "ps -o args", &namespace)).await?;
        expect(!left.contains("sleep 5432"), &left)?;
    }
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    Ok(None)
}

async fn the_end_of_a_holder_is_the_end_of_all(world: &World) -> Verdict {
    let (id, namespace) = holder(world).await?;
    let setup = sharing(world, "exec sleep 100", &namespace);
    let sleeper = setup.id.clone();
    world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    world.native.kill(&id).map_err(|e| e.to_string())?;
    let exit = world.native.wait(&sleeper).await.map_err(|e| e.to_string())?;
    expect(exit.code == 137, exit)?;
    for id in [&sleeper, &id] {
        world.native.remove(id).await.map_err(|e| e.to_string())?;
    }
    Ok(None)
}

async fn a_killed_shim_leaves_nothing_of_a_container_that_shares_processes(world: &World) -> Verdict {
    let (id, namespace) = holder(world).await?;
    let setup = sharing(world, "setsid sleep 6543 & exec sleep 100", &namespace);
    let sleeper = setup.id.clone();
    let started = world.native.start(setup.bundle()).await.map_err(|e| format!("{e:?}"))?;
    let status = fs::read_to_string(format!("/proc/{}/status", started.pid)).map_err(|e| e.to_string())?;
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    let shim = shim.and_then(rustix::process::Pid::from_raw).ok_or("it has a parent")?;
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).map_err(|e| e.to_string())?;
    let exit = world.native.wait(&sleeper).await.map_err(|e| e.to_string())?;
    expect(exit.lost, exit)?;
    world.native.remove(&sleeper).await.map_err(|e| e.to_string())?;
    let left = ran(world, sharing(world, "ps -o args", &namespace)).await?;
    expect(!left.contains("sleep 6543"), &left)?;
    world.native.remove(&id).await.map_err(|e| e.to_string())?;
    until("no cgroup is left", || cgroups().is_empty()).await?;
    Ok(None)
}

async fn the_hosts_processes_are_seen_when_asked_for(world: &World) -> Verdict {
    for runtime in [&world.native as &dyn Runtime, &world.older] {
        let mut setup = world.setup(&format!(
            "test -d /proc/{} && echo seen; setsid sleep {} & exit 0",
            std::process::id(),
            long(8)
        ));
        let kinds = ["mount", "uts", "ipc", "cgroup"].map(|kind| json!({"type": kind}));
        merge(&mut setup, "/linux/namespaces", json!(kinds));
        let ended = world.run(runtime, setup).await.map_err(|e| format!("{e:?}"))?;
        expect(ended.exit.code == 0 && ended.stdout == "seen\n", &ended)?;
        until("what it started ends with it", || !sleeps(long(8))).await?;
    }
    Ok(None)
}

async fn a_shared_mount_carries_mounts_to_the_host(world: &World) -> Verdict {
    let folder = world.dir.join("shared");
    fs::create_dir(&folder).map_err(|e| e.to_string())?;
    mount_fs("test", &folder, "tmpfs", MountFlags::empty(), None).map_err(|e| e.to_string())?;
    let verdict = async {
        mount_change(&folder, MountPropagationFlags::PRIVATE).map_err(|e| e.to_string())?;
        let share = |world: &World, option: &str| {
            let mut setup = world.setup("mkdir -p /s/in && mount -t tmpfs own /s/in && touch /s/in/x && echo mounted");
            with_capabilities(&mut setup, &["CAP_SYS_ADMIN"]);
            mount(&mut setup, "/s", "bind", folder.to_str().unwrap(), &["rbind", option]);
            setup
        };
        let refused = world.run(&world.native, share(world, "rshared")).await;
        expect(
            matches!(&refused, Err(StartError::Unsupported { control, .. }) if control.contains("rshared")),
            &refused,
        )?;
        mount_change(&folder, MountPropagationFlags::SHARED).map_err(|e| e.to_string())?;
        for (option, seen) in [("rslave", false), ("rprivate", false), ("rshared", true)] {
            for runtime in [&world.native as &dyn Runtime, &world.older] {
                let ended = world.run(runtime, share(world, option)).await.map_err(|e| format!("{e:?}"))?;
                expect(ended.stdout == "mounted\n", &ended)?;
                expect(folder.join("in/x").exists() == seen, option)?;
                if seen {
                    unmount(folder.join("in"), UnmountFlags::DETACH).map_err(|e| e.to_string())?;
                }
            }
        }
        Ok(None)
    }
    .await;
    unmount(&folder, UnmountFlags::DETACH).map_err(|e| e.to_string())?;
    verdict
}

async fn limits_hold_for_containers_together(world: &World) -> Verdict {
    let together: LinuxResources = serde_json::from_value(json!({"pids": {"limit": 12}})).unwrap();
    let pod = PathBuf::from(format!("/{}/pod-{}", group(), std::process::id()));
    let member = |name: &str, script: &str| {
        let mut setup = world.setup(script);
        setup.spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(pod.join(name)));
        setup.together = Some(together.clone());
        setup
    };
    let first = member("first", "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; exec sleep 100");
    inside(&world.native, first, async |runtime, id| {
        until("the first has its nine", || {
            let hierarchy = if is_unified() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
            let procs = Path::new(hierarchy).join(pod.strip_prefix("/").unwrap()).join("pids.current");
            fs::read_to_string(procs).is_ok_and(|text| text.trim().parse::<u32>().is_ok_and(|all| all >= 9))
        })
        .await?;
        // Three are left: the shell and two more.
        let second = member("second", "sleep 100 & sleep 100 & sleep 100 & sleep 100 & wait");
        let ended = world.run(runtime, second).await.map_err(|e| format!("{e:?}"))?;
        expect(ended.stderr.contains("can't fork"), &ended)?;
        let done = did(runtime, &id, sh("echo fits")).await?;
        expect(done.stdout == "fits\n", &done)
    })
    .await?;
    until("no cgroup is left", || cgroups().is_empty()).await?;
    Ok(None)
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
