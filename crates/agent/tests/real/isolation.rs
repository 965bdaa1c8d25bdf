//! Pods that are kept further apart than by default, or closer together, or are let do more; seen from inside and from
//! outside.

use std::os::unix::fs::MetadataExt;

use rustix::mount::{MountPropagationFlags, mount_change};

use super::{
    Api, ConfigMap, Duration, Memory, Path, PodStatus, PostParams, Streams, UnmountFlags, Value, Verdict, World, check,
    is_running, json, run, sh, unmount,
};

/// The kernel of user namespaces with root filesystems of their own.
fn has_user_namespaces() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

fn with(container: Value, fields: &Value) -> Value {
    let mut container = container;
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    container
}

async fn reason(world: &World, name: &str) -> (String, String) {
    let status = world.wait(name, |status| status.phase.as_deref() == Some("Failed")).await;
    (status.reason.unwrap_or_default(), status.message.unwrap_or_default())
}

pub async fn pods_without_host_users_have_ids_of_their_own(world: &World) -> Verdict {
    if !has_user_namespaces() {
        println!("notice: user namespaces need Linux 6.15; nothing was tested");
        return Ok(());
    }
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "owned"}, "data": {"key": "value"}})).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    maps.create(&PostParams::default(), &map).await.unwrap();
    let script = "id -u; read inside outside count < /proc/self/uid_map; echo $outside; cat /m/key; echo; stat -c %u /m/key /v; touch /v/made /etc/made; \
                  echo last > /dev/termination-log; exec sleep 100";
    let spec = json!({
        "hostUsers": false,
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "owned"}}],
        "containers": [with(sh(script), &json!({"volumeMounts": [
            {"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]}))],
    });
    let mut first_ids = Vec::new();
    for name in ["owned-1", "owned-2"] {
        let pod = world.create(name, spec.clone()).await;
        is_running(world, name).await;
        let made = world.data.join("scratch").join(pod.metadata.uid.as_deref().unwrap()).join("volumes/v/made");
        // What it said before is on its way to the log.
        while !made.exists() || world.output(&pod).await.lines().count() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        check(std::fs::metadata(&made).is_ok_and(|file| file.uid() == 0), "the volume has the container's ids")?;
        let text = world.output(&pod).await;
        let lines: Vec<&str> = text.lines().collect();
        check(lines.len() == 5 && lines[0] == "0" && lines[2..] == ["value", "0", "0"], &lines)?;
        let (code, said, _) =
            run(world, &pod, &["/usr/bin/id", "-u"], Streams { stdout: true, ..Streams::default() }).await?;
        check((code, said.trim()) == (0, "0"), &said)?;
        first_ids.push(lines[1].parse::<u32>().unwrap());
    }
    check(first_ids[0] != first_ids[1] && first_ids.iter().all(|first| *first >= 65_536), &first_ids)?;
    for name in ["owned-1", "owned-2"] {
        world.delete(name, 0).await;
    }
    Ok(())
}

pub async fn a_privileged_container_has_the_machine(world: &World) -> Verdict {
    let script = "grep ^CapEff /proc/self/status; grep ^Seccomp: /proc/self/status; ls /dev/kmsg; test -w /proc/sys/kernel/panic \
                  && echo writable; mkdir -p /tmp/m && mount -t tmpfs x /tmp/m && echo mounted";
    let pod = world
        .create(
            "privileged",
            json!({"containers": [with(sh(script), &json!({"securityContext": {"privileged": true}}))]}),
        )
        .await;
    world.ended("privileged").await;
    let text = world.output(&pod).await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    let device = if Path::new("/dev/kmsg").exists() { "/dev/kmsg\n" } else { "" };
    check(text == format!("{own}\nSeccomp:\t0\n{device}writable\nmounted\n"), &text)
}

pub async fn a_privileged_container_mounts_for_the_host(world: &World) -> Verdict {
    let folder = world.data.join("passed-on");
    let _memory = Memory::at(folder.clone());
    mount_change(&folder, MountPropagationFlags::SHARED).unwrap();
    let container = with(
        sh("mkdir /h/in && mount -t tmpfs x /h/in && touch /h/in/x"),
        &json!({"securityContext": {"privileged": true},
               "volumeMounts": [{"name": "h", "mountPath": "/h", "mountPropagation": "Bidirectional"}]}),
    );
    let volumes = json!([{"name": "h", "hostPath": {"path": folder}}]);
    world.create("bidirectional", json!({"volumes": volumes, "containers": [container]})).await;
    let (phase, ended) = world.ended("bidirectional").await;
    check(phase == "Succeeded", &ended)?;
    let seen = folder.join("in/x").exists();
    let _ = unmount(folder.join("in"), UnmountFlags::DETACH);
    check(seen, "what it mounted is seen on the host")
}

pub async fn sysctls_are_set_or_the_pod_is_rejected(world: &World) -> Verdict {
    let pod = |name: &str, value: &str| {
        json!({"securityContext": {"sysctls": [{"name": name, "value": value}]},
               "containers": [sh("cat /proc/sys/kernel/shm_rmid_forced")]})
    };
    let safe = world.create("sysctl-safe", pod("kernel.shm_rmid_forced", "1")).await;
    world.ended("sysctl-safe").await;
    let text = world.output(&safe).await;
    check(text == "1\n", &text)?;
    for (name, sysctl, told) in [
        ("sysctl-unsafe", "kernel.msgmax", "\"kernel.msgmax\" not allowlisted"),
        ("sysctl-host", "net.ipv4.tcp_syncookies", "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"),
    ] {
        world.create(name, pod(sysctl, "1")).await;
        let (reason, message) = reason(world, name).await;
        check(reason == "SysctlForbidden", &reason)?;
        check(message == format!("Pod was rejected: forbidden sysctl: {told}"), &message)?;
    }
    Ok(())
}

pub async fn a_pod_that_wants_app_armor_is_rejected_without_it(world: &World) -> Verdict {
    if Path::new("/sys/module/apparmor").exists() {
        println!("notice: this kernel has AppArmor; nothing was tested");
        return Ok(());
    }
    let spec = json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}, "containers": [sh("true")]});
    world.create("armoured", spec).await;
    let (reason, message) = reason(world, "armoured").await;
    check(reason == "AppArmor", &reason)?;
    check(message == "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host", &message)
}

pub async fn a_seccomp_profile_of_the_node_is_loaded(world: &World) -> Verdict {
    let folder = world.data.join("seccomp/audit");
    std::fs::create_dir_all(&folder).unwrap();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
                         "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]});
    std::fs::write(folder.join("no-mkdir.json"), profile.to_string()).unwrap();
    std::fs::write(folder.join("broken.json"), "{").unwrap();
    let pod = |file: &str| {
        let profile = json!({"type": "Localhost", "localhostProfile": file});
        let script = "mkdir /tmp/x 2>&1; grep ^Seccomp: /proc/self/status";
        json!({"containers": [with(sh(script), &json!({"securityContext": {"seccompProfile": profile}}))]})
    };
    let good = world.create("profiled", pod("audit/no-mkdir.json")).await;
    world.ended("profiled").await;
    let text = world.output(&good).await;
    check(text.contains("Permission denied") && text.ends_with("Seccomp:\t2\n"), &text)?;
    for (name, file, told) in [
        ("profile-missing", "audit/none.json", "cannot load seccomp profile \"audit/none.json\": No such file"),
        ("profile-broken", "audit/broken.json", "cannot load seccomp profile \"audit/broken.json\": cannot be decoded"),
    ] {
        world.create(name, pod(file)).await;
        let waits = |status: &PodStatus| {
            let first = status.container_statuses.as_ref()?.first()?.state.clone()?.waiting?;
            (first.reason.as_deref() == Some("CreateContainerConfigError")).then(|| first.message.unwrap_or_default())
        };
        let status = world.wait(name, |status| waits(status).is_some()).await;
        check(waits(&status).is_some_and(|message| message.contains(told)), waits(&status))?;
        world.delete(name, 0).await;
    }
    Ok(())
}

pub async fn containers_of_a_pod_share_their_processes(world: &World) -> Verdict {
    // Processes come and go while it looks, its own among them.
    let looker = sh("find() { for p in /proc/[0-9]*; do \
                         [ \"$({ tr '\\0' ' ' < $p/cmdline; } 2> /dev/null)\" = 'sleep 8765 ' ] && echo ${p#/proc/}; done; }; \
                     until pid=$(find); [ -n \"$pid\" ]; do sleep 0.3; done; \
                     tr '\\0' '\\n' < /proc/1/cmdline; kill -9 $pid && echo killed");
    let sleeper = with(sh("sleep 8765; echo woken; exit 3"), &json!({"name": "other"}));
    let spec = json!({"shareProcessNamespace": true, "containers": [looker, sleeper]});
    let pod = world.create("shared", spec).await;
    let status = world.wait("shared", |status| status.phase.as_deref() == Some("Failed")).await;
    let text = world.output(&pod).await;
    let lines: Vec<&str> = text.lines().collect();
    check(lines == ["stint-holder", "killed"], (&lines, &status))?;
    let codes: Vec<_> = status
        .container_statuses
        .unwrap()
        .iter()
        .map(|one| one.state.clone().unwrap().terminated.unwrap().exit_code)
        .collect();
    check(codes == [0, 3], &codes)
}

pub async fn a_fork_bomb_is_its_pods_own_trouble(world: &World) -> Verdict {
    world.sh("bomb", "b() { b | b & b; }; (b) 2>/dev/null & exec sleep 100").await;
    is_running(world, "bomb").await;
    let pod = world.sh("bystander", "for i in 1 2 3 4 5 6 7 8 9; do (true) || exit 1; done; echo fine").await;
    let (phase, ended) = world.ended("bystander").await;
    check(phase == "Succeeded", &ended)?;
    check(world.output(&pod).await == "fine\n", "it could fork")?;
    world.delete("bomb", 0).await;
    Ok(())
}

pub async fn a_pods_own_limit_holds_for_its_containers(world: &World) -> Verdict {
    let script = "head -c 64m /dev/zero | tail -c 64m | wc -c";
    let spec = json!({"resources": {"limits": {"memory": "24Mi"}}, "containers": [sh(script)]});
    let pod = world.create("limited", spec).await;
    world.ended("limited").await;
    let text = world.output(&pod).await;
    check(!text.starts_with("67108864"), &text)
}
