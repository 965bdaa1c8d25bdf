//! Plugins that note what they are told, and Debian's own, in network namespaces of the tests' own.

use std::path::Path;

use super::*;
use crate::filter::Protocol;

/// `false`, with a notice, where there can be no namespaces.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: network namespaces need root");
    }
    is_root
}

/// A network namespace in the place of this machine's, for one test.
fn on_a_machine(test: impl AsyncFnOnce(&Path) + Send + 'static) {
    if !is_root() {
        return;
    }
    let machine = std::thread::spawn(|| {
        stint_runtime::namespace::enter_new_network().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio.block_on(test(folder.path()));
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

fn open(at: &Path, plugins: &Path, list: &Value) -> Result<Cni, Error> {
    let configurations = at.join("net.d");
    fs::create_dir_all(&configurations).unwrap();
    fs::write(configurations.join("10-test.conflist"), list.to_string()).unwrap();
    let config = CniConfig {
        configurations,
        plugins: vec![at.join("none"), plugins.to_owned()],
        folder: at.join("namespaces"),
        records: at.join("records"),
    };
    Cni::open(&config).map(Option::unwrap)
}

/// A plugin that notes what it is told in its own folder, and fails as files there say.
fn noting(folder: &Path, kind: &str, result: &str) {
    let script = format!(
        "#!/bin/sh\nd=$(dirname \"$0\")\ncat >\"$d/$CNI_COMMAND.{kind}\"\n\
         ns=$(test -e \"$CNI_NETNS\" && echo there || echo gone)\n\
         echo \"$CNI_COMMAND {kind} $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $ns\" >>\"$d/log\"\n\
         if test -e \"$d/fail.$CNI_COMMAND.{kind}\"; then echo '{{\"code\":7,\"msg\":\"no way\",\"details\":\"x\"}}'; exit 1; fi\n\
         if test $CNI_COMMAND = ADD; then echo '{result}'; fi\n"
    );
    let path = folder.join(kind);
    // By another process: a program that this one writes could still be open where another test forks meanwhile.
    let mut writer = std::process::Command::new("sh");
    let writer = writer.args(["-c", "cat > $0 && chmod 755 $0"]).arg(&path).stdin(std::process::Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    std::io::Write::write_all(&mut writer.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

fn log(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let _ = fs::remove_file(folder.join("log"));
    text.lines().map(str::to_owned).collect()
}

fn told(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

fn joining(name: &str) -> Joining {
    Joining { name: name.to_owned(), args: vec![("K".to_owned(), "v".to_owned())], ..Joining::default() }
}

const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.9.0.1/24","interface":0},{"address":"10.9.0.2/24","interface":1},{"address":"fd00::2/64"}]}"#;

#[test]
fn plugins_do_their_parts_in_order_and_take_them_back_in_reverse() {
    on_a_machine(async |at| {
        let plugins = at.join("bin");
        fs::create_dir(&plugins).unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "test", "plugins": [
            {"type": "first"}, {"type": "second", "capabilities": {"portMappings": true, "bandwidth": true}},
        ]});
        let error = open(at, &plugins, &list).unwrap_err().to_string();
        assert!(error.contains("\"first\"") && error.contains(plugins.to_str().unwrap()), "{error}");
        noting(&plugins, "first", r#"{"ips":[]}"#);
        noting(&plugins, "second", RESULT);
        let cni = open(at, &plugins, &list).unwrap();

        let port = HostPort { protocol: Protocol::Udp, address: None, host: 8053, pod: 53 };
        let bandwidth = Bandwidth { ingress: Some(1_000_000), egress: None };
        let pod = cni.take(Joining { ports: vec![port], bandwidth, ..joining("a") }).await.unwrap();
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.9.0.2", "fd00::2"], "its own, and not the bridge's");
        assert!(pod.path.exists());
        assert_eq!(log(&plugins), ["ADD first a eth0 K=v there", "ADD second a eth0 K=v there"]);
        let second = told(&plugins, "ADD.second");
        assert_eq!(second["prevResult"], json!({"ips": []}));
        let ports = json!([{"hostPort": 8053, "containerPort": 53, "protocol": "udp", "hostIP": ""}]);
        assert_eq!(second["runtimeConfig"]["portMappings"], ports);
        assert_eq!(second["runtimeConfig"]["bandwidth"]["ingressRate"], 1_000_000);
        assert_eq!(told(&plugins, "ADD.first").get("runtimeConfig"), None);

        // What fails in the middle of the way back is tried again from its beginning.
        fs::write(plugins.join("fail.DEL.first"), "").unwrap();
        let error = cni.leave(&pod).await.unwrap_err().to_string();
        assert_eq!(error, "plugin type=\"first\" failed (delete): no way; x");
        fs::remove_file(plugins.join("fail.DEL.first")).unwrap();
        log(&plugins);
        cni.leave(&pod).await.unwrap();
        cni.leave(&pod).await.unwrap();
        assert_eq!(log(&plugins), ["DEL second a eth0 K=v there", "DEL first a eth0 K=v there"]);
        assert_eq!(told(&plugins, "DEL.second")["prevResult"]["ips"][1]["address"], "10.9.0.2/24");
        assert!(!pod.path.exists());
    });
}

#[test]
fn a_pod_that_can_not_have_its_network_has_nothing_of_it() {
    on_a_machine(async |at| {
        let plugins = at.join("bin");
        fs::create_dir(&plugins).unwrap();
        noting(&plugins, "first", RESULT);
        noting(&plugins, "second", RESULT);
        let list = json!({"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "first"}, {"type": "second"}]});
        let cni = open(at, &plugins, &list).unwrap();
        fs::write(plugins.join("fail.ADD.second"), "").unwrap();
        let error = cni.take(joining("a")).await.unwrap_err().to_string();
        assert_eq!(error, "plugin type=\"second\" failed (add): no way; x");
        let undone = ["ADD first", "ADD second", "DEL second", "DEL first"];
        let log = log(&plugins);
        assert!(log.iter().zip(undone).all(|(line, begins)| line.starts_with(begins)) && log.len() == 4, "{log:?}");
        for folder in ["namespaces", "records"] {
            assert_eq!(fs::read_dir(at.join(folder)).unwrap().count(), 0, "{folder}");
        }
        let port = HostPort { protocol: Protocol::Tcp, address: None, host: 80, pod: 80 };
        let error = cni.take(Joining { ports: vec![port], ..joining("b") }).await.unwrap_err().to_string();
        assert!(error.contains("portMappings"), "{error}");
    });
}

#[test]
fn after_a_restart_and_after_a_reboot_what_no_pod_has_is_given_back() {
    on_a_machine(async |at| {
        let plugins = at.join("bin");
        fs::create_dir(&plugins).unwrap();
        noting(&plugins, "first", RESULT);
        let list = json!({"cniVersion": "1.0.0", "name": "test", "type": "first"});
        let cni = open(at, &plugins, &list).unwrap();
        let (kept, unwanted, rebooted) = (
            cni.take(joining("kept")).await.unwrap(),
            cni.take(joining("unwanted")).await.unwrap(),
            cni.take(joining("rebooted")).await.unwrap(),
        );
        drop(cni);
        rustix::mount::unmount(&rebooted.path, rustix::mount::UnmountFlags::DETACH).unwrap();
        fs::remove_file(&rebooted.path).unwrap();
        log(&plugins);
        let cni = open(at, &plugins, &list).unwrap();
        let lost = cni.keep(&[kept.clone(), rebooted.clone()]);
        assert_eq!(lost, [rebooted]);
        let mut log = log(&plugins);
        log.sort();
        assert_eq!(log, ["DEL first rebooted eth0 K=v gone", "DEL first unwanted eth0 K=v there"]);
        assert!(kept.path.exists() && !unwanted.path.exists());
        cni.leave(&kept).await.unwrap();
    });
}

#[test]
fn debians_plugins_give_each_pod_an_address_and_take_it_back() {
    on_a_machine(async |at| {
        let plugins = Path::new("/usr/lib/cni");
        if !plugins.join("bridge").exists() {
            return eprintln!("skipped: containernetworking-plugins is not installed");
        }
        let ipam = json!({"type": "host-local", "dataDir": at.join("ipam"), "ranges": [[{"subnet": "10.99.0.0/24"}]]});
        let list = json!({"cniVersion": "1.0.0", "name": "real", "plugins": [
            {"type": "bridge", "bridge": "cni-test", "isGateway": true, "ipam": ipam},
        ]});
        let cni = open(at, plugins, &list).unwrap();
        let ignoring =
            |name: &str| Joining { args: vec![("IgnoreUnknown".to_owned(), "1".to_owned())], ..joining(name) };
        let (a, b) = (cni.take(ignoring("a")).await.unwrap(), cni.take(ignoring("b")).await.unwrap());
        let texts = |pod: &Sandbox| pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((texts(&a), texts(&b)), (vec!["10.99.0.2".to_owned()], vec!["10.99.0.3".to_owned()]));
        let taken = || {
            let names = fs::read_dir(at.join("ipam/real")).unwrap().flatten();
            names.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.99.0.")).count()
        };
        assert_eq!(taken(), 2);
        cni.leave(&a).await.unwrap();
        cni.leave(&b).await.unwrap();
        assert_eq!(taken(), 0);
    });
}
