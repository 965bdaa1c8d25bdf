//! Networks of an ordinary user's pods: behind a router, with pasta or slirp4netns as its way out.
//!
//! Each test has a network namespace in the place of the machine's, in which a user's daemon runs, so it needs root. What leaves a
//! pod reaches that machine's own address, and nobody else.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use support::until;
use support::user::{Daemon, PODS, User};

/// The machine's address.
const MACHINE: &str = "198.51.100.1";
/// Becomes a user who may make interfaces of the kind that a way out needs, as users of most machines may.
const AS_USER: &str = "uid=$1 path=$2; shift 2; mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
                       exec setpriv --reuid $uid --regid $uid --clear-groups env PATH=\"$path\" \"$@\"";

/// Runs a test on a machine of its own, on which a user finds this program and no other way out.
fn on_a_machine(program: &'static str, test: impl FnOnce(&User, &Path) + Send + 'static) {
    let path = Path::new("/usr/bin").join(program);
    if !rustix::process::geteuid().is_root() || !path.exists() || !Path::new("/usr/bin/perl").exists() {
        return eprintln!("skipped: this needs root, {program} and perl");
    }
    let machine = std::thread::spawn(move || {
        let Some(user) = User::new() else { return };
        stint_runtime::namespace::enter_new_network().unwrap();
        let tun = "mount -t tmpfs none /dev/net && mknod /dev/net/tun c 10 200 && : 3<> /dev/net/tun";
        let made = format!(
            "ip link add out type bridge && ip address add {MACHINE}/24 dev out && ip link set out up && \
             ip route add default via 198.51.100.254 && unshare --mount sh -c '{tun}'"
        );
        if !Command::new("sh").args(["-c", &made]).status().is_ok_and(|made| made.success()) {
            return eprintln!("skipped: this needs iproute2, and a kernel with bridges and tun");
        }
        let only = user.path("bin");
        fs::create_dir(&only).unwrap();
        fs::set_permissions(&only, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(path, only.join(program)).unwrap();
        test(&user, &only);
        until("nothing of the user's is left", || processes(&user).is_empty());
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

fn start<'a>(user: &'a User, path: &Path, network: &str) -> Daemon<'a> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", AS_USER, "sh", &user.uid.to_string()]).arg(path).arg(user.path("stint"));
    command.env("STINT_DATA", user.path("data")).env("XDG_RUNTIME_DIR", user.session.path());
    command.env("STINT_POD_NETWORK", network).current_dir(user.home.path());
    Daemon::start_by(user, command)
}

/// All processes of the user's that run.
fn processes(user: &User) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let is_users = entry.metadata().is_ok_and(|meta| meta.uid() == user.uid);
        // One that has ended and waits for its parent is none.
        if is_users
            && let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && !stat.contains(") Z ")
        {
            found.push(stat);
        }
    }
    found
}

/// The number of the process that is the way out, as the router's record has it.
fn way_out(user: &User) -> Option<Pid> {
    let folders = fs::read_dir(user.session.path().join("stint")).unwrap().flatten();
    let mut records = folders.map(|folder| folder.path().join(".network/.router/way-out"));
    let text = records.find_map(|record| fs::read_to_string(record).ok())?;
    let pid = Pid::from_raw(text.split(' ').next()?.parse().ok()?)?;
    rustix::process::test_kill_process(pid).ok().map(|()| pid)
}

/// Tells everybody who connects to the machine's address that they have come.
fn welcome() -> u16 {
    let listener = TcpListener::bind((MACHINE, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let _ = client.write_all(b"welcome\n");
        }
    });
    port
}

fn template(command: &[&str], more: &Value) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "c", "image": "host", "command": command }],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({ "metadata": { "annotations": { "stint.dev/rootfs": "host" }, "labels": { "app": "test" } }, "spec": spec })
}

fn create(daemon: &Daemon<'_>, path: &str, object: &Value) {
    until("it is created", || {
        let (code, body) = daemon.ask("POST", path, &object.to_string());
        // A namespace has the account of its pods some time after the daemon serves.
        assert!(code == 201 || body.contains("serviceaccount \\\"default\\\" not found"), "{code} {body}");
        code == 201
    });
}

fn create_pod(daemon: &Daemon<'_>, name: &str, command: &[&str], more: &Value) {
    let mut pod = template(command, more);
    pod["metadata"]["name"] = json!(name);
    create(daemon, PODS, &pod);
}

/// What a pod that comes to its end said.
fn said(daemon: &Daemon<'_>, pod: &str) -> String {
    until("the pod has ended", || ["Succeeded", "Failed"].contains(&daemon.phase(pod).as_str()));
    let (_, log) = daemon.ask("GET", &format!("{PODS}/{pod}/log"), "");
    assert_eq!(daemon.phase(pod), "Succeeded", "{log}");
    log
}

/// What is said at a port, if somebody says something soon.
fn heard(address: impl Into<SocketAddr>) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok().map(|_| text)
}

/// Perl that defines `ask`, which asks at an address again and again until it is told something.
const ASK: &str = r#"use IO::Socket::INET; $| = 1;
    sub once { my $at = shift; my $told;
        eval { local $SIG{ALRM} = sub { die }; alarm 5;
            my $s = IO::Socket::INET->new(PeerAddr => $at); $told = <$s> if $s; alarm 0 }; alarm 0; $told }
    sub ask { my $at = shift; for (1 .. 600) { my $told = once($at); return $told if defined $told; select undef, undef, undef, 0.1 }
        die "nobody at $at" }
"#;

fn pods_find_each_other_and_get_out(user: &User, path: &Path) {
    let daemon = start(user, path, "auto");
    let port = welcome();
    let private = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = private.local_addr().unwrap().port();
    let service = json!({ "metadata": { "name": "workers" },
        "spec": { "clusterIP": "None", "selector": { "app": "test" } } });
    create(&daemon, "/api/v1/namespaces/default/services", &service);
    // Each serves on the same port until it has been heard by the other.
    let script = format!(
        r#"{ASK}
        my $index = $ENV{{JOB_COMPLETION_INDEX}};
        my $listener = IO::Socket::INET->new(LocalPort => 500, Listen => 5, ReuseAddr => 1) or die;
        my $child = fork; if (!$child) {{ while (my $c = $listener->accept) {{ print $c "hello from $index\n" }} }}
        print ask("sum-" . (1 - $index) . ".workers:500");
        print ask("{MACHINE}:{port}");
        for my $at ("10.86.0.2:{closed}", "10.85.0.1:{closed}") {{ print "open: $at\n" if defined once($at) }}
        for my $host ("kubernetes.default", $ENV{{KUBERNETES_SERVICE_HOST}}) {{
            my $s; select undef, undef, undef, 0.1
                until $s = IO::Socket::INET->new(PeerAddr => "$host:$ENV{{KUBERNETES_SERVICE_PORT}}");
            print "api\n" }}
        select undef, undef, undef, 0.1 until -e "/data/over"; kill "KILL", $child;"#
    );
    let more = json!({ "subdomain": "workers", "volumes": [{ "name": "data", "hostPath": { "path": user.home.path() } }],
        "containers": [{ "name": "c", "image": "host", "command": ["perl", "-e", script],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }] });
    let job = json!({ "metadata": { "name": "sum" }, "spec": {
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0,
        "template": template(&[], &more) } });
    create(&daemon, "/apis/batch/v1/namespaces/default/jobs", &job);
    let pods = || -> Vec<String> {
        let (_, body) = daemon.ask("GET", PODS, "");
        let found: Vec<&str> = body.split(r#""name":""#).filter_map(|rest| rest.split('"').next()).collect();
        let found: HashSet<&str> = found.into_iter().filter(|name| name.starts_with("sum-")).collect();
        found.into_iter().map(str::to_owned).collect()
    };
    until("there are two pods", || pods().len() == 2);
    let pods = pods();
    let log = |pod: &str| daemon.ask("GET", &format!("{PODS}/{pod}/log"), "").1;
    until("each pod has done what it does", || pods.iter().all(|pod| log(pod).matches("api").count() == 2));
    user.write("over", "");
    let mut all: Vec<String> = pods.iter().map(|pod| said(&daemon, pod)).collect();
    all.sort();
    for (other, log) in all.iter().enumerate() {
        for line in [&format!("hello from {other}"), "welcome"] {
            assert!(log.contains(line), "no {line:?} in\n{log}");
        }
        assert!(!log.contains("open"), "this machine's loopback is closed to pods: {log}");
    }
    end(daemon);
}

/// Stops a daemon of which no pod goes on.
fn end(daemon: Daemon<'_>) {
    let mut daemon = daemon;
    kill_process(Pid::from_child(&daemon.child), Signal::TERM).unwrap();
    assert!(daemon.child.wait().unwrap().success());
}

#[test]
fn pods_find_each_other_and_get_out_by_pasta() {
    on_a_machine("pasta", pods_find_each_other_and_get_out);
}

#[test]
fn pods_find_each_other_and_get_out_by_slirp4netns() {
    on_a_machine("slirp4netns", pods_find_each_other_and_get_out);
}

/// Takes connections at the machine's address, and counts the lines that come by each.
fn count_lines() -> (u16, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind((MACHINE, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let all = Arc::new(Mutex::new(Vec::new()));
    let counted = Arc::clone(&all);
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
            counted.lock().unwrap().push(0);
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                for _ in BufReader::new(client).lines().map_while(Result::ok) {
                    counted.lock().unwrap()[number] += 1;
                }
            });
        }
    });
    (port, all)
}

fn networks_outlive_the_daemon_and_its_way_out(user: &User, path: &Path) {
    let daemon = start(user, path, "own");
    let welcome = welcome();
    let (port, lines) = count_lines();
    let host_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Whoever connects is told what is told at the machine's address; besides, one connection to there is used all the time.
    let script = format!(
        r#"{ASK}
        $SIG{{PIPE}} = "IGNORE";
        if (!fork) {{ for (;;) {{
            my $s = IO::Socket::INET->new(PeerAddr => "{MACHINE}:{port}", Timeout => 5);
            while ($s && print $s "line\n") {{ $s->flush or last; select undef, undef, undef, 0.1 }}
            select undef, undef, undef, 0.1 }} }}
        my $listener = IO::Socket::INET->new(LocalPort => 80, Listen => 50, ReuseAddr => 1) or die;
        while (1) {{ my $c = $listener->accept or next; next if fork; print $c once("{MACHINE}:{welcome}") // "nobody\n"; exit }}"#
    );
    let more = json!({ "containers": [{ "name": "c", "image": "host", "command": ["perl", "-e", script],
        "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 },
        "ports": [{ "containerPort": 80, "hostPort": host_port }] }] });
    create_pod(&daemon, "long", &[], &more);
    let is_told = || heard(([127, 0, 0, 1], host_port)).is_some_and(|told| told == "welcome\n");
    until("the pod is ready by its probe", || daemon.is_ready("long"));
    until("its host port leads to it, and it gets out", is_told);
    let at_machine: SocketAddr = format!("{MACHINE}:{host_port}").parse().unwrap();
    until("it does at the machine's address", || heard(at_machine).is_some_and(|told| told == "welcome\n"));
    let ask = format!(r#"{ASK} print ask("{MACHINE}:{host_port}"), ask("10.85.0.1:{host_port}");"#);
    create_pod(&daemon, "other", &["perl", "-e", &ask], &json!({}));
    assert_eq!(said(&daemon, "other").matches("welcome").count(), 2, "by the host port, of a pod");
    let ip = daemon.status("long")["podIP"].clone();
    let counted = |connection: usize| lines.lock().unwrap()[connection];
    // It may have tried more than once, on a busy machine; what is asked is that this one goes on.
    let last = || lines.lock().unwrap().iter().rposition(|&lines| lines > 0);
    until("it has sent lines", || last().is_some());
    let connection = last().unwrap();
    let goes_on = |when: &str| {
        let before = counted(connection);
        until(&format!("lines go on coming by the same connection {when}"), || counted(connection) > before + 10);
    };
    let first = way_out(user).unwrap();

    drop(daemon); // SIGKILL
    let has_zygote = || processes(user).iter().any(|stat| stat.contains("(stint-zygote)"));
    until("the zygote is gone with it", || !has_zygote());
    goes_on("without a daemon");
    let daemon = start(user, path, "own");
    until("the pod is ready again", || daemon.is_ready("long"));
    assert_eq!((daemon.status("long")["podIP"].clone(), way_out(user)), (ip.clone(), Some(first)));
    goes_on("with the next daemon");
    until("its host port leads to it again", is_told);

    kill_process(first, Signal::KILL).unwrap();
    until("there is another way out", || way_out(user).is_some_and(|pid| pid != first));
    until("the pod gets out by it", is_told);
    until("the pod is ready", || daemon.is_ready("long"));
    assert_eq!(daemon.status("long")["podIP"], ip);

    // One that was killed with pods is ended with the last of their processes.
    drop(daemon);
    let daemon = start(user, path, "own");
    let (code, body) = daemon.ask("DELETE", &format!("{PODS}/long"), "");
    assert_eq!(code, 200, "{body}");
    until("the pod is gone", || daemon.ask("GET", &format!("{PODS}/long"), "").0 == 404);
    until("its host port is closed", || TcpStream::connect(("127.0.0.1", host_port)).is_err());
    drop(daemon); // SIGKILL: nobody is left who could take the way out with it
}

#[test]
fn networks_outlive_the_daemon_and_its_way_out_with_pasta() {
    on_a_machine("pasta", networks_outlive_the_daemon_and_its_way_out);
}

#[test]
fn networks_outlive_the_daemon_and_its_way_out_with_slirp4netns() {
    on_a_machine("slirp4netns", networks_outlive_the_daemon_and_its_way_out);
}

#[test]
fn without_a_way_out_pods_are_on_the_machines_network_and_it_is_told() {
    let Some(user) = User::new() else { return };
    let nowhere: PathBuf = user.path("nowhere");
    let serve = |network: &str| {
        let mut command = user.stint(&["serve", "--listen", "none", "--pod-network", network]);
        command.env("PATH", &nowhere);
        command
    };
    let refused = serve("own").output().unwrap();
    let said = support::text(&refused);
    assert!(!refused.status.success() && said.contains("install passt or slirp4netns"), "{said}");
    let mut child = serve("auto").stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("serving at") {
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "the daemon ended:\n{said}");
    }
    assert!(said.contains("pods are on this machine's network (install passt or slirp4netns"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
}
