//! An ordinary user's pods in cgroups below one that is delegated to the user, on Debian's own kernel: each test boots a virtual
//! machine, and runs itself in it as root, who delegates as systemd does.

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use support::machine::Machine;
use support::user::{Daemon, PODS, User};
use support::{text, until};

/// Set in the machine, where tests do what they are for.
const INSIDE: &str = "STINT_TEST_IN_MACHINE";

/// A user's own systemd, and what speaks with it.
const SYSTEMD: [&str; 3] = ["/lib/systemd/systemd", "/usr/bin/systemd-run", "/usr/bin/systemctl"];

/// Runs a test in a machine of its own, as this program's test of this name.
fn in_machine(test: &str, case: impl FnOnce()) {
    in_machine_with(test, &[], case);
}

/// The same, with programs of this machine's.
fn in_machine_with(test: &str, programs: &[&str], case: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return case();
    }
    let Some(mut machine) = Machine::new() else { return };
    machine.program(&std::env::current_exe().unwrap(), "/test");
    for program in ["/usr/bin/setpriv", "/usr/bin/unshare"].iter().chain(programs) {
        if !Path::new(program).exists() {
            return eprintln!("skipped: {program} is not installed");
        }
        machine.program(Path::new(program), program);
    }
    let stint = env!("CARGO_BIN_EXE_stint");
    let script = format!(
        "#!/bin/sh\nset -e\nmkdir -p {}\nln -s /usr/bin/stint {stint}\nmount -o remount,nsdelegate /sys/fs/cgroup\n\
         {INSIDE}=1 RUST_BACKTRACE=0 /test --exact {test} --nocapture",
        Path::new(stint).parent().unwrap().display()
    );
    let ended = machine.boot(&script, Duration::from_mins(15));
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

/// A cgroup as systemd delegates it, with this process in it.
struct Delegated(PathBuf);

impl Delegated {
    /// To this user, with these controllers.
    fn to(user: &User, controllers: &[&str]) -> Delegated {
        let slice = Path::new("/sys/fs/cgroup/user.slice");
        fs::create_dir(slice).unwrap();
        for controller in controllers {
            fs::write(slice.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        }
        let base = slice.join("user@1000.service");
        fs::create_dir(&base).unwrap();
        for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            chown(base.join(name), Some(user.uid), Some(user.uid)).unwrap();
        }
        fs::write(base.join("cgroup.procs"), "0").unwrap();
        Delegated(base)
    }

    /// A container's cgroup, by a part of its path.
    fn of_container(&self, name: &str) -> PathBuf {
        let found = below(&self.0).into_iter().find(|path| path.ends_with(name));
        found.unwrap_or_else(|| panic!("no cgroup {name} in {:?}", below(&self.0)))
    }

    fn has_no_pods(&self) -> bool {
        below(&self.0.join("stint")).is_empty()
    }
}

/// The folders below one.
fn below(folder: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter(|path| path.is_dir()).flat_map(|path| [vec![path.clone()], below(&path)].concat()).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn pod(name: &str, script: &str, limits: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": {"stint.dev/rootfs": "host"}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "c", "image": "none", "command": ["/bin/sh", "-c", script], "resources": {"limits": limits}}]}})
}

fn create(daemon: &Daemon<'_>, pod: &Value) {
    let (code, body) = daemon.ask("POST", PODS, &pod.to_string());
    assert_eq!(code, 201, "{body}");
}

fn delete(daemon: &Daemon<'_>, name: &str) {
    let (code, body) = daemon.ask("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=1"), "");
    assert_eq!(code, 200, "{body}");
    until("it is gone", || daemon.ask("GET", &format!("{PODS}/{name}"), "").0 == 404);
}

fn terminated(daemon: &Daemon<'_>, name: &str) -> Value {
    until("it has ended", || ["Failed", "Succeeded"].contains(&daemon.phase(name).as_str()));
    daemon.status(name)["containerStatuses"][0]["state"]["terminated"].clone()
}

/// `tail` keeps a line that never ends.
const GREEDY: &str = "tail /dev/zero";

/// `stint run` of a Job on a data folder of its own.
fn run(user: &User, command: Command, script: &str, limits: &Value) -> Output {
    let mut spec = pod("", script, limits)["spec"].clone();
    spec["containers"][0]["name"] = json!("run");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"backoffLimit": 0, "template": {"spec": spec}}});
    user.write("job.json", &job.to_string());
    let mut command = command;
    command.env("STINT_DATA", user.path("other")).args(["run", "--host", "job.json"]).output().unwrap()
}

#[test]
fn limits_hold_below_a_delegated_cgroup_and_pods_outlive_the_daemon() {
    in_machine("limits_hold_below_a_delegated_cgroup_and_pods_outlive_the_daemon", || {
        let user = User::new().unwrap();
        let cgroup = Delegated::to(&user, &["cpu", "memory", "pids"]);
        let start = || {
            let mut command = user.stint(&[]);
            command.env("STINT_POD_NETWORK", "host").env("STINT_POD_MAX_PIDS", "32");
            Daemon::start_by(&user, command)
        };
        let daemon = start();
        assert!(!daemon.said.contains("limits"), "{}", daemon.said);
        assert_eq!(read(&cgroup.0.join("cgroup.procs")), "", "all of its processes are in a leaf");

        create(&daemon, &pod("greedy", GREEDY, &json!({"memory": "32Mi"})));
        assert_eq!(terminated(&daemon, "greedy")["reason"], "OOMKilled");

        create(&daemon, &pod("bomb", "(for n in $(seq 100); do sleep 1000 & done); exec sleep 1000", &json!({})));
        until("the bomb runs", || daemon.phase("bomb") == "Running");
        let own = cgroup.of_container("c_0");
        until("it can't fork any more", || read(&own.join("pids.events")) != "max 0");
        let of_pod = own.parent().unwrap();
        assert_eq!(read(&of_pod.join("pids.max")), "32");
        // The shell that could not ends.
        assert!(["31", "32"].contains(&read(&of_pod.join("pids.current")).as_str()));
        delete(&daemon, "bomb");

        // A command that is run in a container is in its cgroup, which is the root of what the container sees.
        let mut steady = pod("steady", "trap : TERM; sleep 100000", &json!({"memory": "64Mi", "cpu": "500m"}));
        steady["spec"]["containers"][0]["name"] = json!("steady");
        steady["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["grep", "-qx", "0::/", "/proc/self/cgroup"]}, "timeoutSeconds": 60});
        create(&daemon, &steady);
        until("its probe succeeds", || daemon.is_ready("steady"));
        let own = cgroup.of_container("steady_0");
        assert_eq!(read(&own.join("cpu.max")), "50000 100000");
        // 1 + (512 - 2) * 9999 / 262142
        assert_eq!(read(&own.join("cpu.weight")), "20");
        assert_eq!(read(&own.join("memory.max")), "67108864");

        drop(daemon); // SIGKILL
        until("the zygote is gone with it", || !user.processes().contains(&"stint-zygote".to_owned()));
        let daemon = start();
        assert!(!daemon.said.contains("limits"), "{}", daemon.said);
        until("it still runs, and commands in it", || daemon.is_ready("steady"));
        assert_ne!(read(&own.join("cgroup.procs")), "");

        // Another data folder's are beside it, with limits of their own.
        let ended = run(&user, user.stint(&[]), GREEDY, &json!({"memory": "32Mi"}));
        assert_eq!(ended.status.code(), Some(137), "{}", text(&ended));
        assert!(!text(&ended).contains("without root: limits"), "{}", text(&ended));

        for name in ["greedy", "steady"] {
            delete(&daemon, name);
        }
        until("no cgroup of a pod is left", || cgroup.has_no_pods());
        drop(daemon);
    });
}

#[test]
fn a_controller_that_is_not_delegated_is_named_and_the_others_hold() {
    in_machine("a_controller_that_is_not_delegated_is_named_and_the_others_hold", || {
        let user = User::new().unwrap();
        let cgroup = Delegated::to(&user, &["memory", "pids"]);
        let daemon = Daemon::start(&user);
        let told = "without root: limits of CPU are not enforced: the controller cpu is not delegated to you; pods";
        assert!(daemon.said.contains(told), "{}", daemon.said);
        create(&daemon, &pod("steady", "sleep 100000", &json!({"memory": "64Mi", "cpu": "500m"})));
        until("it runs", || daemon.phase("steady") == "Running");
        let own = cgroup.of_container("c_0");
        assert_eq!(read(&own.join("memory.max")), "67108864");
        assert_eq!(read(&own.parent().unwrap().join("pids.max")), "16384");
        create(&daemon, &pod("greedy", GREEDY, &json!({"memory": "32Mi", "cpu": "1"})));
        assert_eq!(terminated(&daemon, "greedy")["reason"], "OOMKilled");
        for name in ["greedy", "steady"] {
            delete(&daemon, name);
        }
        until("no cgroup of a pod is left", || cgroup.has_no_pods());
    });
}

#[test]
fn where_nothing_is_delegated_no_limit_holds_and_a_cgroup_namespace_can_be() {
    in_machine("where_nothing_is_delegated_no_limit_holds_and_a_cgroup_namespace_can_be", || {
        let user = User::new().unwrap();
        // What systemd makes of a login: root's, with the user's processes in it.
        let session = Path::new("/sys/fs/cgroup/session-1.scope");
        fs::create_dir(session).unwrap();
        fs::write(session.join("cgroup.procs"), "0").unwrap();
        let ended = run(&user, user.stint(&[]), "exit 7", &json!({"memory": "32Mi", "cpu": "1"}));
        assert_eq!(ended.status.code(), Some(7), "{}", text(&ended));
        assert!(
            text(&ended).contains("without root: limits of CPU, memory and processes are not enforced;"),
            "{}",
            text(&ended)
        );
        assert_eq!(below(session), [""; 0].map(PathBuf::from));

        // The root of a cgroup namespace, as in a container, is delegated like any other.
        let cgroup = Delegated::to(&user, &["cpu", "memory", "pids"]);
        let uid = user.uid.to_string();
        let mut command = Command::new("unshare");
        command.args([
            "--cgroup",
            "--mount",
            "sh",
            "-c",
            "umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"",
            "sh",
        ]);
        command.args(["/usr/bin/setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"]).arg(user.path("stint"));
        command.env("XDG_RUNTIME_DIR", user.session.path()).current_dir(user.home.path());
        let ended = run(&user, command, GREEDY, &json!({"memory": "32Mi"}));
        assert_eq!(ended.status.code(), Some(137), "{}", text(&ended));
        assert!(!text(&ended).contains("without root: limits"), "{}", text(&ended));
        until("no cgroup of a pod is left", || cgroup.has_no_pods());
    });
}

#[test]
fn systemds_scope_is_taken_if_it_is_delegated_and_the_next_ones_daemon_has_its_pods() {
    let name = "systemds_scope_is_taken_if_it_is_delegated_and_the_next_ones_daemon_has_its_pods";
    in_machine_with(name, &SYSTEMD, || {
        let user = User::new().unwrap();
        let cgroup = Delegated::to(&user, &["cpu", "memory", "pids"]);
        // It works only where the system is run by one like it.
        fs::create_dir_all("/run/systemd/system").unwrap();
        fs::create_dir_all("/usr/lib/systemd/user").unwrap();
        fs::write("/usr/lib/systemd/user/default.target", "[Unit]\n").unwrap();
        let mut systemd = user.as_user(SYSTEMD[0]);
        let mut systemd = systemd.arg("--user").env("XDG_RUNTIME_DIR", user.session.path()).spawn().unwrap();
        until("systemd listens", || user.session.path().join("systemd/private").exists());
        let start = |options: &[&str]| {
            let mut command = user.as_user(SYSTEMD[1]);
            command.args(["--user", "--scope", "--quiet"]).args(options).arg(user.path("stint"));
            command.env("STINT_DATA", user.path("data")).env("XDG_RUNTIME_DIR", user.session.path());
            command.env("STINT_POD_NETWORK", "host");
            Daemon::start_by(&user, command)
        };

        let daemon = start(&["--property=Delegate=yes", "--unit=first"]);
        assert!(!daemon.said.contains("limits"), "{}", daemon.said);
        let mut steady = pod("steady", "trap : TERM; sleep 100000", &json!({"memory": "64Mi", "cpu": "500m"}));
        steady["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["true"]}, "timeoutSeconds": 60});
        create(&daemon, &steady);
        until("it is ready", || daemon.is_ready("steady"));
        let own = cgroup.of_container("c_0");
        assert!(own.starts_with(cgroup.0.join("app.slice/first.scope/stint")), "{}", own.display());
        assert_eq!(read(&own.join("cpu.max")), "50000 100000");
        drop(daemon); // SIGKILL

        let daemon = start(&["--property=Delegate=yes", "--unit=second"]);
        until("the pod is ready again", || daemon.is_ready("steady"));
        create(&daemon, &pod("greedy", GREEDY, &json!({"memory": "32Mi"})));
        assert_eq!(terminated(&daemon, "greedy")["reason"], "OOMKilled");
        for name in ["greedy", "steady"] {
            delete(&daemon, name);
        }
        drop(daemon);
        until("both scopes are gone with what was in them", || below(&cgroup.0.join("app.slice")).is_empty());

        // Such a scope systemd would stop as a whole, with the daemon, once a container is out of memory.
        let daemon = start(&["--unit=third"]);
        let told =
            "without root: limits of CPU, memory and processes are not enforced (no cgroup is delegated to you: ";
        assert!(daemon.said.contains(told), "{}", daemon.said);
        assert!(!cgroup.0.join("app.slice/third.scope/stint-daemon").exists());
        drop(daemon);
        systemd.kill().unwrap();
        systemd.wait().unwrap();
    });
}
