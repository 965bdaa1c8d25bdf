//! What a program in a container of the default spec, as its root, may try against the machine; and that it gets nowhere.
//!
//! Each case is named after what is tried. Those that need a command from outside are told by `commands`.

use crate::isolation::{with_capabilities, with_users};
use crate::lives::expect;
use crate::world::{Setup, Verdict, World};

/// An attempt, and the shell's way to tell that it failed.
struct Attack {
    name: &'static str,
    /// Prints `got through` if it works.
    script: &'static str,
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "attack_overwrite_the_hosts_executable_through_proc_self_exe",
        script: "for p in /proc/[0-9]*/exe; do (echo x >> $p) 2>/dev/null && case $(readlink $p) in *stint*) echo got through;; esac; done",
    },
    Attack {
        name: "attack_write_to_cgroups",
        script: "mkdir /c; for k in cgroup cgroup2; do mount -t $k x /c && echo got through; done; \
                 for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 1 > $f && echo got through; done",
    },
    Attack {
        name: "attack_write_to_sysfs",
        script: "for f in /sys/kernel/uevent_helper /sys/power/state /sys/kernel/mm/ksm/run /sys/module/*/parameters/*; do \
                 (echo 1 > $f) && echo got through; done; mount -o remount,rw /sys && echo got through",
    },
    Attack {
        name: "attack_read_the_kernels_memory",
        script: "for f in /proc/kcore /dev/mem /dev/kmem /dev/port; do head -c 64 $f | grep -q . && echo got through; done; \
                 mknod /m c 1 1 && head -c 64 /m | grep -q . && echo got through",
    },
    Attack {
        name: "attack_read_the_hosts_disk_through_a_node",
        script: "for major in 8 253 254 259; do mknod /d$major b $major 0; head -c 64 /d$major | grep -q . && echo got through; done",
    },
    Attack {
        name: "attack_set_sysctls_of_the_host",
        script: "for f in kernel/core_pattern kernel/modprobe vm/overcommit_memory kernel/sysrq; do \
                 (cat /proc/sys/$f > /tmp/v && cat /tmp/v > /proc/sys/$f) && echo got through; done; \
                 echo h > /proc/sysrq-trigger && echo got through",
    },
    Attack {
        name: "attack_mount",
        script: "mkdir /m; mount -t tmpfs x /m && echo got through; mount --bind / /m && echo got through; \
                 umount /proc/kcore && echo got through; umount /sys && echo got through",
    },
    Attack {
        name: "attack_unshare_a_user_namespace",
        script: "unshare -U true && echo got through; unshare -r id && echo got through; unshare -m true && echo got through",
    },
    Attack {
        name: "attack_enter_the_namespaces_of_process_1",
        script: "nsenter -t 1 -m true && echo got through; chroot /proc/1/root/../../.. ls /proc/1/root/home/nobody-has-this && echo got through",
    },
    Attack {
        name: "attack_load_a_module_or_a_kernel",
        script: "insmod /bin/busybox && echo got through; modprobe loop && echo got through; reboot -f && echo got through",
    },
    Attack {
        name: "attack_change_the_clock_and_the_name",
        script: "date -s @$(date +%s) 2>&1 | grep -q permitted || echo got through; hostname evil && echo got through",
    },
    Attack {
        name: "attack_raise_limits_and_priority",
        script: "(ulimit -Hn 99999999) && echo got through; nice -n -20 sh -c 'test $(nice) -lt 0' && echo got through; \
                 (echo -1000 > /proc/self/oom_score_adj) && echo got through",
    },
];

pub fn names() -> Vec<&'static str> {
    ATTACKS.iter().map(|attack| attack.name).chain(["attack_by_system_calls_that_the_profile_forbids"]).collect()
}

pub async fn run(name: &str, world: &World) -> Option<Verdict> {
    if name == "attack_by_system_calls_that_the_profile_forbids" {
        return Some(forbidden_calls(world).await);
    }
    let attack = ATTACKS.iter().find(|attack| attack.name == name)?;
    Some(attempt(world, attack).await)
}

/// Who tries, and how its container differs from the default one.
type Way<'a> = (&'static str, &'a dyn Fn(&mut Setup));

/// The default container, one in a user namespace, and there as its almighty root.
async fn attempt(world: &World, attack: &Attack) -> Verdict {
    let almighty = |setup: &mut Setup| {
        with_users(setup);
        with_capabilities(setup, &["CAP_SYS_RAWIO", "CAP_SYS_MODULE", "CAP_SYS_BOOT", "CAP_SYS_TIME", "CAP_SYS_NICE"]);
    };
    let ways: [Way<'_>; 3] =
        [("by default", &|_| {}), ("in a user namespace", &with_users), ("as its almighty root", &almighty)];
    for (who, edit) in ways {
        let mut setup = world.setup(&format!("({}) 2>/dev/null; echo tried", attack.script));
        edit(&mut setup);
        let ran = world.run(&world.native, setup).await.map_err(|e| format!("{e:?}"))?;
        expect(ran.stdout == "tried\n", (who, &ran))?;
    }
    Ok(None)
}

/// What has no command of its own in busybox: the numbers are the kernel's.
async fn forbidden_calls(world: &World) -> Verdict {
    let profile = stint_runtime::seccomp::default_profile();
    let allowed = |name: &str| {
        profile.syscalls().iter().flatten().any(|rule| {
            rule.names().iter().any(|known| known == name)
                && rule.args().as_ref().is_none_or(Vec::is_empty)
                && rule.action() == oci_spec::runtime::LinuxSeccompAction::ScmpActAllow
        })
    };
    for name in [
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "open_by_handle_at",
        "init_module",
        "finit_module",
        "kexec_load",
        "reboot",
        "io_uring_setup",
        "move_mount",
        "fsopen",
        "swapon",
        "clock_settime",
        "ioperm",
        "iopl",
        "quotactl",
        "clone3",
    ] {
        expect(!allowed(name), format!("{name} is allowed by default"))?;
    }
    let loaded = world.script("grep ^Seccomp: /proc/self/status; unshare -m true 2>&1").await;
    expect(loaded.stdout.starts_with("Seccomp:\t2\n") && loaded.stdout.contains("not permitted"), &loaded)?;
    Ok(None)
}
