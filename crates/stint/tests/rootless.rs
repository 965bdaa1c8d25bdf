//! Stint as an ordinary user runs it: the real program under a number that is nobody's, in a namespace of that user's.
//!
//! Run by root, these tests become that user; run by another, they are it. Where the kernel lets users make no namespaces they
//! say that they are skipped.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::user::{Daemon, PODS, User, id_of_user};
use support::{text, until};

fn job(name: &str, pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["restartPolicy"] = json!("Never");
    pod["terminationGracePeriodSeconds"] = json!(1);
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
           "spec": {"backoffLimit": 0, "template": {"spec": pod}}})
}

fn shell(script: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "none", "command": ["/bin/sh", "-c", script]}]})
}

#[test]
fn a_job_runs_on_the_machines_root_and_says_what_does_not_hold() {
    let Some(user) = User::new() else { return };
    let script = "id -u; echo $$$$; hostname; touch /etc/x /tmp/y /root-x && cat /etc/x; \
                  grep -c . /proc/self/uid_map; test -w /dev/null -a -r /dev/urandom && ls /sys/class > /dev/null && exit 7";
    let mut pod = shell(script);
    pod["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
    let ended = user.run(&["--host"], &[job("pi", &pod)]);
    let said = text(&ended);
    assert_eq!(ended.status.code(), Some(7), "{said}");
    let out = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(out.starts_with("0\n1\npi-"), "{said}");
    assert_eq!(said.matches("without root: limits of CPU, memory and processes are not enforced").count(), 1, "{said}");
    assert!(!Path::new("/etc/x").exists() && !Path::new("/root-x").exists());
    until("nothing of it is left", || user.processes().is_empty());
    assert_eq!(fs::read_dir(user.path("data/runs")).unwrap().count(), 0);
}

#[test]
fn config_maps_are_volumes_and_what_is_written_is_the_users() {
    let Some(user) = User::new() else { return };
    user.write("own", "mine");
    let mut pod =
        shell("cat /config/key /home/own; echo more >> /home/own; mkdir /home/made; echo x > /memory/x; cat /memory/x");
    pod["containers"][0]["volumeMounts"] = json!([{"name": "config", "mountPath": "/config"},
        {"name": "home", "mountPath": "/home"}, {"name": "memory", "mountPath": "/memory"}]);
    pod["volumes"] = json!([{"name": "config", "configMap": {"name": "m"}},
        {"name": "home", "hostPath": {"path": user.home.path()}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": "value "}});
    let ended = user.run(&["--host", "--quiet"], &[map, job("j", &pod)]);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "value minex\n", "{}", text(&ended));
    assert_eq!(fs::metadata(user.path("made")).unwrap().uid(), user.uid);
    assert_eq!(fs::read_to_string(user.path("own")).unwrap(), "minemore\n");
}

#[test]
fn an_image_is_unpacked_as_far_as_the_users_ids_go() {
    let Some(user) = User::new() else { return };
    if !Path::new("/bin/busybox").exists() {
        return eprintln!("skipped: busybox is not installed");
    }
    image(&user, "image.tar", "example.test/tool:1");
    let imported = user.stint(&["image", "import", "image.tar"]).output().unwrap();
    assert!(imported.status.success(), "{}", text(&imported));
    // Set to the user 42, whom the namespace does not have: it must not become one that is set to root.
    let pod = json!({"containers": [{"name": "c", "image": "example.test/tool:1",
        "command": ["sh", "-c", "stat -c '%u:%g %a' /bin/busybox /srv/strange; rm -r /srv && mkdir /srv && ls -A /srv"]}]});
    let ended = user.run(&["--quiet"], &[job("j", &pod)]);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0:0 755\n0:0 755\n", "{}", text(&ended));
    assert_eq!(ended.status.code(), Some(0));
    let mut pod = pod;
    pod["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    let ended = user.run(&["--timeout", "20s"], &[job("j", &pod)]);
    assert!(text(&ended).contains("user 1000, which this user's namespace does not have"), "{}", text(&ended));
    let removed = user.stint(&["image", "rm", "example.test/tool:1"]).output().unwrap();
    assert!(removed.status.success(), "{}", text(&removed));
}

/// Writes a `docker save` archive with busybox, and a file that is set to a user of its own.
fn image(user: &User, archive: &str, name: &str) {
    let save = tempfile::tempdir().unwrap();
    let root = save.path().join("root");
    for folder in ["bin", "srv"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "ls", "stat", "rm", "mkdir"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("srv/strange"), "").unwrap();
    fs::set_permissions(root.join("srv/strange"), fs::Permissions::from_mode(0o6755)).unwrap();
    let tar = |folder: &Path, to: &Path, args: &[&str]| {
        let status = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(to).args(args).status().unwrap();
        assert!(status.success());
    };
    let layer = save.path().join("layer.tar");
    tar(&root, &layer, &["--owner=0", "--group=0", "bin", "--owner=42", "--group=43", "srv"]);
    let append =
        ["-C", root.to_str().unwrap(), "-rf", layer.to_str().unwrap(), "--owner=42", "--group=43", "srv/strange"];
    assert!(Command::new("tar").args(append).status().unwrap().success());
    let sum = Command::new("sha256sum").arg(&layer).output().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "config": {"Env": ["PATH=/bin"]}, "history": [],
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", &text(&sum)[..64])]},
    });
    fs::write(save.path().join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(save.path().join("manifest.json"), manifest.to_string()).unwrap();
    tar(save.path(), &user.path(archive), &["manifest.json", "config.json", "layer.tar"]);
    fs::set_permissions(user.path(archive), fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn containers_outlive_a_killed_daemon_and_the_next_one_ends_them() {
    let Some(user) = User::new() else { return };
    let daemon = Daemon::start(&user);
    let pod = |name: &str, script: &str| {
        let mut spec = shell(script);
        spec["restartPolicy"] = json!("Never");
        spec["terminationGracePeriodSeconds"] = json!(1);
        let annotations = json!({"stint.dev/rootfs": "host"});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec})
    };
    let stop = user.path("stop");
    for (name, script) in [
        ("waits", format!("while ! test -e {}; do sleep 0.1; done; exit 3", stop.display())),
        ("sleeps", "trap : TERM; sleep 1000000".to_owned()),
    ] {
        let mut pod = pod(name, &script);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "home", "mountPath": user.home.path()}]);
        pod["spec"]["volumes"] = json!([{"name": "home", "hostPath": {"path": user.home.path()}}]);
        let ready = json!(["test", "-e", user.path("ready")]);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ready}, "periodSeconds": 1, "timeoutSeconds": 60});
        let (code, body) = daemon.ask("POST", PODS, &pod.to_string());
        assert_eq!(code, 201, "{body}");
        until("it runs", || daemon.phase(name) == "Running");
    }
    drop(daemon); // SIGKILL
    until("the zygote is gone with it", || !user.processes().contains(&"stint-zygote".to_owned()));
    let left = user.processes();
    assert_eq!(left.iter().filter(|name| *name == "stint-shim").count(), 2, "{left:?}");
    assert_eq!(left.iter().filter(|name| *name == "stint-userns").count(), 1, "{left:?}");

    let daemon = Daemon::start(&user);
    until("it still runs", || daemon.phase("waits") == "Running");
    user.write("stop", "");
    until("its end is seen", || daemon.phase("waits") == "Failed");
    // Only who is in their namespace may run commands in the containers of the daemon before, and signal them.
    user.write("ready", "");
    until("its probe succeeds", || daemon.is_ready("sleeps"));
    let (code, body) = daemon.ask("DELETE", &format!("{PODS}/sleeps?gracePeriodSeconds=1"), "");
    assert_eq!(code, 200, "{body}");
    until("it is gone", || daemon.ask("GET", &format!("{PODS}/sleeps"), "").0 == 404);
    drop(daemon);
    until("nothing is left", || user.processes().is_empty());
}

#[test]
fn users_have_nothing_to_do_with_each_other() {
    let (Some(one), Some(other)) = (User::new(), User::new()) else { return };
    if one.uid == other.uid {
        return eprintln!("skipped: only root can be two users");
    }
    let daemon = Daemon::start(&one);
    let data = one.path("data");
    let listed = other.stint(&["--data", data.to_str().unwrap(), "image", "ls"]).output();
    assert!(!listed.unwrap().status.success(), "another user's data folder is closed");
    let (socket, uid) = (one.path("data/stint.sock"), other.uid);
    let refused = std::thread::spawn(move || {
        rustix::thread::set_thread_res_uid(id_of_user(uid), id_of_user(uid), id_of_user(uid)).unwrap();
        UnixStream::connect(socket).is_err()
    });
    assert!(refused.join().unwrap());
    let ended = other.run(&["--host", "--quiet"], &[job("j", &shell("ps ax | grep -c '[s]tint serve'; id -u"))]);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0\n0\n", "{}", text(&ended));
    drop(daemon);
}

#[test]
fn where_users_may_have_no_namespaces_the_setting_is_told() {
    let Some(user) = User::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can forbid it");
    }
    // The setting holds for a namespace and all below it: this one is of nobody else.
    let mut holder = Command::new("unshare").args(["--user", "sleep", "3600"]).spawn().unwrap();
    let pid = holder.id().to_string();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    until("it is in a namespace", || namespace(&pid) != namespace("self"));
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("0 0 1\n1 {} 1\n", user.uid)).unwrap();
    }
    user.write("job.json", &job("j", &shell("true")).to_string());
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --reuid 1 --regid 1 --clear-groups ./stint run --host job.json";
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid, "--user", "--setuid", "0", "--setgid", "0", "sh", "-c", script]);
    command.current_dir(user.home.path()).stdin(Stdio::null());
    let ended = command.env("STINT_DATA", user.path("data")).env("XDG_RUNTIME_DIR", user.session.path()).output();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let ended = ended.unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended));
    assert!(text(&ended).contains("the setting user.max_user_namespaces is 0"), "{}", text(&ended));
}

#[test]
fn ranges_of_ids_give_containers_users_of_their_own() {
    let Some(user) = User::new() else { return };
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !Path::new("/usr/bin/newuidmap").exists() || !Path::new("/usr/bin/setpriv").exists() {
        return eprintln!("skipped: ranges of ids need root, uidmap and setpriv");
    }
    // The system's files as they would be, for nobody else.
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let uid = user.uid;
    user.write("passwd", &format!("{passwd}stinttest:x:{uid}:{uid}::/:/bin/sh\n"));
    user.write("ranges", "stinttest:1300000000:65536\n");
    let mut pod = shell("id -u; id -G; echo x > /home/made");
    pod["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1001, "supplementalGroups": [7]});
    pod["containers"][0]["volumeMounts"] = json!([{"name": "home", "mountPath": "/home"}]);
    pod["volumes"] = json!([{"name": "home", "hostPath": {"path": user.path("shared")}}]);
    fs::create_dir(user.path("shared")).unwrap();
    fs::set_permissions(user.path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    user.write("job.json", &job("j", &pod).to_string());
    let script = format!(
        "mount --bind passwd /etc/passwd && mount --bind ranges /etc/subuid && mount --bind ranges /etc/subgid && \
         exec setpriv --reuid {uid} --regid {uid} --clear-groups ./stint run --host job.json"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir(user.home.path()).stdin(Stdio::null());
    command.env("STINT_DATA", user.path("data")).env("XDG_RUNTIME_DIR", user.session.path());
    let ended = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "1000\n1001 7\n", "{}", text(&ended));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("without root:") && !said.contains("uidmap"), "{said}");
    let made = fs::metadata(user.path("shared/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1_300_000_999, 1_300_001_000));
    until("nothing of it is left", || user.processes().is_empty());
}
