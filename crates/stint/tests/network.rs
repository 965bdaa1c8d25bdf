//! Networks of pods, as the pods of a daemon see them. Each test has a network namespace in the place of the machine's, in which
//! the daemon runs, so that nothing of this machine is touched and nothing leaves it.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Daemon, until};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Runs a test with a daemon on a machine of its own.
fn on_a_machine(test: impl FnOnce(&mut Daemon) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: networks need root");
        return;
    }
    let machine = std::thread::spawn(|| {
        stint_runtime::namespace::enter_new_network().unwrap();
        let mut daemon = Daemon::folder();
        daemon.start_again(&["--allow-host-rootfs", "--pod-network", "own"]);
        test(&mut daemon);
        daemon.stop();
        until("no interface is left", || interfaces().is_empty());
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The interfaces of this machine that a daemon made.
fn interfaces() -> Vec<String> {
    let names = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = names.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.filter(|name| name.starts_with("st")).collect()
}

/// A CNI network with room for so many pods, as Debian's plugins make it; `None`, with a notice, where there are none.
fn cni(daemon: &Daemon, bits: u8) -> Option<Vec<String>> {
    let plugins = "/usr/lib/cni";
    if !Path::new(plugins).join("bridge").exists() {
        eprintln!("skipped: containernetworking-plugins is not installed");
        return None;
    }
    let (folder, addresses) = (daemon.data.path().join("net.d"), daemon.data.path().join("addresses"));
    fs::create_dir(&folder).unwrap();
    let ipam = json!({ "type": "host-local", "dataDir": addresses,
        "ranges": [[{ "subnet": format!("10.99.0.0/{bits}") }]], "routes": [{ "dst": "0.0.0.0/0" }] });
    let list = json!({ "cniVersion": "1.0.0", "name": "test", "plugins": [
        { "type": "bridge", "bridge": "cni-test", "isGateway": true, "hairpinMode": true, "ipam": ipam },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ] });
    fs::write(folder.join("10-test.conflist"), list.to_string()).unwrap();
    let folder = folder.display().to_string();
    let args = ["--allow-host-rootfs", "--pod-network", "auto", "--cni-conf-dir", &folder, "--cni-bin-dir", plugins];
    Some(args.map(str::to_owned).into())
}

/// Whether the plugin for host ports can do its work here: it uses a program, which uses parts of the kernel.
fn has_iptables() -> bool {
    let rule = "-w -t nat -A OUTPUT -p tcp -m comment --comment test -m multiport --destination-ports 1 -j RETURN";
    let works = std::process::Command::new("iptables").args(rule.split(' ')).status().is_ok_and(|done| done.success());
    if !works {
        eprintln!("skipped in part: host ports by CNI plugins need iptables");
    }
    works
}

/// The addresses that the plugin has handed out.
fn handed_out(daemon: &Daemon) -> usize {
    let entries = fs::read_dir(daemon.data.path().join("addresses/test")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.99.")).count()
}

/// Runs a test with a daemon that does not run yet, on a machine of its own.
fn on_a_machine_with_plugins(bits: u8, test: impl FnOnce(&mut Daemon, &[&str]) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: networks need root");
        return;
    }
    let machine = std::thread::spawn(move || {
        stint_runtime::namespace::enter_new_network().unwrap();
        let mut daemon = Daemon::folder();
        if let Some(args) = cni(&daemon, bits) {
            test(&mut daemon, &args.iter().map(String::as_str).collect::<Vec<_>>());
        }
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn plugins_give_a_pod_its_network_which_outlives_the_daemon_and_goes_with_the_pod() {
    on_a_machine_with_plugins(24, |daemon, args| {
        daemon.start_again(args);
        let has_host_ports = has_iptables();
        let port = json!([{ "name": "c", "image": "host", "command": ["perl", "-MIO::Socket::INET", "-e",
            "my $l = IO::Socket::INET->new(LocalPort => 80, Listen => 5) or die; while (my $c = $l->accept) { close $c }"],
            "ports": if has_host_ports { json!([{ "containerPort": 80, "hostPort": 8080 }]) } else { json!([]) } }]);
        create_pod(daemon, "long", "", &json!({ "containers": port }));
        until("the pod runs", || phase(daemon, "long") == "Running");
        let status = |daemon: &Daemon| daemon.get(&format!("{PODS}/long"))["status"].clone();
        let ip = status(daemon)["podIP"].as_str().unwrap().to_owned();
        assert!(ip.starts_with("10.99.0."), "{ip}");
        let reaches = |address: &str| std::net::TcpStream::connect(address).is_ok();
        until("it listens", || reaches(&format!("{ip}:80")));
        let script =
            format!("set -e; grep -q eth0: /proc/net/dev; grep {ip} /etc/hosts || : < /dev/tcp/{ip}/80; echo reached");
        create_pod(daemon, "other", &script, &json!({}));
        assert_eq!(said(daemon, "other"), "reached\n");
        if has_host_ports {
            assert!(reaches("10.99.0.1:8080"), "by its host port");
        }
        until("only one address is handed out", || handed_out(daemon) == 1);

        daemon.kill();
        assert!(reaches(&format!("{ip}:80")), "without a daemon");
        daemon.start_again(args);
        until("the pod is known again", || phase(daemon, "long") == "Running");
        assert_eq!((status(daemon)["podIP"].clone(), handed_out(daemon)), (json!(ip), 1));
        daemon.ask("DELETE", &format!("{PODS}/long"), "");
        until("the pod is gone", || daemon.ask("GET", &format!("{PODS}/long"), "").0 == 404);
        until("its address is given back", || handed_out(daemon) == 0);
        until("no record is left", || fs::read_dir(daemon.data.path().join("cni")).unwrap().next().is_none());
        daemon.stop();
    });
}

#[test]
fn a_pod_that_plugins_have_no_network_for_waits_and_says_so() {
    // One address is the bridge's, and one a pod's.
    on_a_machine_with_plugins(30, |daemon, args| {
        daemon.start_again(args);
        create_pod(daemon, "first", "while :; do sleep 0.1; done", &json!({}));
        until("the first pod runs", || phase(daemon, "first") == "Running");
        create_pod(daemon, "second", "echo here", &json!({}));
        let told =
            || daemon.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=second").to_string();
        until("that is told", || told().contains("FailedCreatePodSandBox"));
        let told = told();
        assert!(told.contains("Failed to create pod sandbox: "), "{told}");
        assert!(told.contains("plugin type=\\\"bridge\\\" failed (add): "), "{told}");
        assert!(told.contains("no IP addresses available"), "{told}");
        assert_eq!(phase(daemon, "second"), "Pending");
        daemon.ask("DELETE", &format!("{PODS}/first?gracePeriodSeconds=0"), "");
        assert_eq!(said(daemon, "second"), "here\n");
        daemon.stop();
    });
}

#[test]
fn without_a_configuration_that_can_be_used_a_daemon_for_plugins_does_not_start() {
    on_a_machine_with_plugins(24, |daemon, _| {
        let folder = daemon.data.path().join("net.d");
        let refused = |kind: &str| {
            let mut command = daemon.command(&["serve", "--listen", "none", "--pod-network", kind]);
            let output =
                command.arg("--cni-conf-dir").arg(&folder).args(["--cni-bin-dir", "/usr/lib/cni"]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        fs::write(folder.join("05-broken.conf"), "{").unwrap();
        assert!(refused("auto").contains("05-broken.conf"));
        fs::write(folder.join("05-broken.conf"), r#"{"cniVersion":"1.0.0","name":"x","type":"none"}"#).unwrap();
        for kind in ["cni", "auto"] {
            let said = refused(kind);
            assert!(said.contains("there is no CNI plugin \"none\" in /usr/lib/cni"), "{said}");
            assert!(said.contains("--pod-network own"), "what else can be done: {said}");
        }
        fs::remove_dir_all(&folder).unwrap();
        assert!(refused("cni").contains("there is no CNI configuration"));
        // What plugins handed out would never be given back.
        fs::create_dir_all(daemon.data.path().join("cni")).unwrap();
        fs::write(daemon.data.path().join("cni/of-a-pod.json"), "{}").unwrap();
        for kind in ["own", "host", "auto"] {
            assert!(refused(kind).contains("CNI plugins made"), "{kind}");
        }
    });
}

fn template(script: &str, more: &Value) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "c", "image": "host", "command": ["bash", "-c", script] }],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({ "metadata": { "annotations": { "stint.dev/rootfs": "host" }, "labels": { "app": "test" } }, "spec": spec })
}

fn create_pod(daemon: &Daemon, name: &str, script: &str, more: &Value) {
    let mut pod = template(script, more);
    pod["metadata"]["name"] = json!(name);
    daemon.create(PODS, &pod);
}

fn phase(daemon: &Daemon, name: &str) -> String {
    daemon.get(&format!("{PODS}/{name}"))["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

fn log_of(daemon: &Daemon, name: &str) -> String {
    let (code, log) = daemon.ask("GET", &format!("{PODS}/{name}/log"), "");
    assert_eq!(code, 200, "{log}");
    log
}

/// What a pod that comes to its end said.
fn said(daemon: &Daemon, name: &str) -> String {
    until(&format!("{name} has ended"), || ["Succeeded", "Failed"].contains(&phase(daemon, name).as_str()));
    let log = log_of(daemon, name);
    assert_eq!(phase(daemon, name), "Succeeded", "{log}");
    log
}

#[test]
fn a_pod_has_an_address_names_and_a_way_to_the_api() {
    on_a_machine(|daemon| {
        let script = "set -e; cat /proc/net/dev /etc/hosts /etc/resolv.conf; hostname
            : < /dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT && echo reached
            getent hosts kubernetes.default && echo IP $IP";
        let more = json!({
            "hostname": "me", "subdomain": "them", "setHostnameAsFQDN": true,
            "hostAliases": [{ "ip": "192.0.2.7", "hostnames": ["alias"] }],
            "dnsConfig": { "searches": ["example"], "options": [{ "name": "timeout", "value": "30" }] },
            "containers": [{ "name": "c", "image": "host", "command": ["bash", "-c", script],
                "env": [{ "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }] }],
        });
        create_pod(daemon, "own", script, &more);
        let log = said(daemon, "own");
        let status = daemon.get(&format!("{PODS}/own"))["status"].clone();
        let ip = status["podIP"].as_str().unwrap();
        assert!(ip.starts_with("10.85.") && status["podIPs"] == json!([{ "ip": ip }]), "{status}");
        assert_ne!(status["hostIP"], status["podIP"]);
        for line in [
            "eth0:",
            "# Kubernetes-managed hosts file.",
            &format!("{ip}\tme.them.default.svc.cluster.local\tme"),
            "192.0.2.7\talias",
            "search default.svc.cluster.local svc.cluster.local cluster.local",
            "options ndots:5 timeout:30",
            "me.them.default.svc.cluster.local",
            "reached",
            &format!("IP {ip}"),
        ] {
            assert!(log.contains(line), "no {line:?} in\n{log}");
        }

        create_pod(daemon, "host", "hostname; cat /proc/net/dev", &json!({ "hostNetwork": true }));
        let log = said(daemon, "host");
        let node = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        assert!(log.contains(&node) && log.contains("stint-0a55"), "it is on the machine's network: {log}");
        let status = daemon.get(&format!("{PODS}/host"))["status"].clone();
        assert_eq!(status["podIP"], status["hostIP"]);
    });
}

#[test]
fn pods_of_an_indexed_job_find_each_other_by_hostname() {
    on_a_machine(|daemon| {
        let service = json!({ "metadata": { "name": "workers" },
            "spec": { "clusterIP": "None", "selector": { "app": "test" } } });
        daemon.create("/api/v1/namespaces/default/services", &service);
        // Each listens on the same port, and is heard by the other.
        let script = "perl -MIO::Socket::INET -e '
            my $listener = IO::Socket::INET->new(LocalPort => 5000, Listen => 5, ReuseAddr => 1) or die;
            my $other = \"sum-\" . (1 - $ENV{JOB_COMPLETION_INDEX}) . \".workers\";
            my $peer; for (1 .. 3000) { last if $peer = IO::Socket::INET->new(\"$other:5000\"); select undef, undef, undef, 0.1 }
            die \"$other was not found\" unless $peer;
            print $peer \"hello from $ENV{JOB_COMPLETION_INDEX}\\n\"; close $peer;
            my $client = $listener->accept or die; print scalar <$client>;'";
        let job = json!({ "metadata": { "name": "sum" }, "spec": {
            "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0,
            "template": template(script, &json!({ "subdomain": "workers" })) } });
        daemon.create("/apis/batch/v1/namespaces/default/jobs", &job);
        let finished = || {
            let status = daemon.get("/apis/batch/v1/namespaces/default/jobs/sum")["status"].clone();
            status["succeeded"] == 2 || status["failed"].as_i64().unwrap_or(0) > 0
        };
        until("the Job has ended", finished);
        let pods = daemon.get(PODS)["items"].as_array().unwrap().clone();
        let mut heard: Vec<String> =
            pods.iter().map(|pod| log_of(daemon, pod["metadata"]["name"].as_str().unwrap())).collect();
        heard.sort();
        assert!(heard[0].contains("hello from 0") && heard[1].contains("hello from 1"), "{heard:?}");
    });
}

#[test]
fn a_pods_network_outlives_the_daemon_and_goes_with_the_pod() {
    on_a_machine(|daemon| {
        let script = "cat /proc/net/fib_trie | grep -q 10.85; while :; do sleep 0.1; done";
        let port = json!([{ "name": "c", "image": "host", "command": ["perl", "-MIO::Socket::INET", "-e",
            "my $l = IO::Socket::INET->new(LocalPort => 80, Listen => 5) or die; while (my $c = $l->accept) { close $c }"],
            "ports": [{ "containerPort": 80, "hostPort": 8080 }] }]);
        create_pod(daemon, "long", script, &json!({ "containers": port }));
        until("the pod runs", || phase(daemon, "long") == "Running");
        let status = |daemon: &Daemon| daemon.get(&format!("{PODS}/long"))["status"].clone();
        let ip = status(daemon)["podIP"].as_str().unwrap().to_owned();
        let reaches = |address: &str| std::net::TcpStream::connect(address).is_ok();
        until("it listens", || reaches(&format!("{ip}:80")));
        assert!(reaches("127.0.0.1:8080"), "by its host port");
        daemon.kill();
        assert!(reaches(&format!("{ip}:80")) && reaches("127.0.0.1:8080"), "without a daemon");
        daemon.start_again(&["--allow-host-rootfs", "--pod-network", "own"]);
        until("the pod is known again", || phase(daemon, "long") == "Running");
        assert_eq!(status(daemon)["podIP"], json!(ip));
        assert!(reaches(&format!("{ip}:80")) && reaches("127.0.0.1:8080"), "with the next daemon");
        let (code, body) = daemon.ask("DELETE", &format!("{PODS}/long"), "");
        assert_eq!(code, 200, "{body}");
        until("the pod is gone", || daemon.ask("GET", &format!("{PODS}/long"), "").0 == 404);
        let cable = format!("st-{:08x}", u32::from(ip.parse::<std::net::Ipv4Addr>().unwrap()));
        until("its cable is gone", || !interfaces().contains(&cable));
        let gone = std::net::TcpStream::connect_timeout(&"127.0.0.1:8080".parse().unwrap(), Duration::from_secs(1));
        assert!(gone.is_err(), "its host port is closed");
    });
}
