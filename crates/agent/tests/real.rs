//! Pods on the real runtime and this machine's own root filesystem. Needs root; says so and passes when it is not.
//!
//! It has its own `main`, because the zygote must be forked before the process has threads. Run one case with
//! `cargo test -p stint-agent --test real -- <part of its name>`.

#[path = "real/isolation.rs"]
mod isolation;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Extension;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStateTerminated, Pod, PodStatus, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};
use stint_agent::service::{ContainerRef, LogOptions, PodRef, Process, Service, ServiceError, Streams};
use stint_agent::{Agent, AgentConfig, Attempt, Clock, Folders, Machine, RootfsMode, log_path, logs, sweep};
use stint_auth::keys::Keyring;
use stint_auth::token::Tokens;
use stint_runtime::{Native, zygote};
use stint_server::Peer;
use stint_server::auth::Auth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// The wall clock, and how many seconds a test has put it forward.
struct WallClock(AtomicI64);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

struct CountingIds(AtomicU64);

impl stint_server::Ids for CountingIds {
    fn uid(&self) -> String {
        format!("{:08x}-0000-4000-8000-{:012}", std::process::id(), self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn suffix(&self) -> String {
        format!("{:05}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

struct World {
    client: Client,
    clock: Arc<WallClock>,
    service: Service,
    pods: Api<Pod>,
    data: PathBuf,
}

/// How long a case may take: a machine may be busy with much else.
const PATIENCE: Duration = Duration::from_mins(10);

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    if !rustix::process::geteuid().is_root() {
        println!("notice: pods on the real runtime need root; nothing was tested");
        return;
    }
    let zygote = zygote::spawn().expect("the zygote is forked while there is one thread");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failed = tokio.block_on(async {
        let data = tempfile::tempdir().unwrap();
        let store = stint_store::Store::in_memory();
        let clock = Arc::new(WallClock(AtomicI64::new(0)));
        let ids = Arc::new(CountingIds(AtomicU64::new(0)));
        let mut api = stint_server::Api::new(store.clone(), clock.clone(), ids);
        let keys = Keyring::from_pem(&stint_auth::keys::generate().unwrap()).unwrap();
        api.auth = Some(Arc::new(Auth::new(store, 0).with_tokens(Tokens::new("https://issuer", keys))));
        let client = Client::new(stint_server::router(api).layer(Extension(Peer::InProcess)), "default");
        let cgroups = PathBuf::from(format!("/stint/agent-test-{}", std::process::id()));
        let rootfs = RootfsMode::Host { size: Some(64 << 20) };
        let folders = Folders::within(data.path());
        let memory = Memory::at(folders.state.clone());
        let mut config = AgentConfig::new(Machine::here("node"), folders, rootfs, cgroups.clone());
        config.sync_period = Duration::from_millis(100);
        config.measure_period = Duration::from_millis(100);
        config.volumes = Some(data.path().join("volumes"));
        config.isolation.pod_max_pids = Some(200);
        let runtime = Arc::new(Native::new(zygote));
        let agent = Agent::new(config, client.clone(), runtime.clone(), clock.clone());
        let service = agent.service();
        let agent = tokio::spawn(agent.run(std::future::pending()));
        let world = World {
            service,
            pods: Api::namespaced(client.clone(), "default"),
            client,
            clock,
            data: data.path().to_path_buf(),
        };
        let mut failed = 0;
        macro_rules! case {
            ($($name:ident)::+) => {
                let name = stringify!($($name)::+).replace(' ', "");
                if name.contains(&filter) {
                    let began = Instant::now();
                    let run = tokio::time::timeout(PATIENCE, $($name)::+(&world)).await;
                    let verdict = match run {
                        Ok(verdict) => verdict,
                        Err(_) => Err(format!("took longer than {PATIENCE:?}: {}", world.pods_that_go_on().await)),
                    };
                    failed += usize::from(verdict.is_err());
                    let told = verdict.map_or_else(|fault| format!("FAILED: {fault}"), |()| "ok".to_owned());
                    println!("{name} ... {told} ({:.1?})", began.elapsed());
                }
            };
        }
        case!(a_pod_says_hello_and_succeeds);
        case!(a_failure_is_told_with_its_last_words);
        case!(nothing_that_is_written_survives);
        case!(config_maps_and_shared_volumes_are_seen);
        case!(a_volume_of_huge_pages_holds_what_is_set_aside);
        case!(a_script_in_a_config_map_runs);
        case!(a_container_sees_the_parts_of_volumes_that_it_asks_for);
        case!(a_volume_nested_deeper_than_any_stack_is_removed);
        case!(a_pod_that_fills_its_volume_past_its_limit_is_evicted);
        case!(a_sub_path_swapped_for_a_link_while_pods_start_shows_nothing_of_the_host);
        case!(deletion_ends_a_polite_and_a_deaf_container);
        case!(a_missing_command_and_a_missing_setting_are_told);
        case!(the_user_is_who_the_pod_says);
        case!(a_log_is_followed_to_the_end_of_its_container);
        case!(a_log_that_there_is_not_is_told_in_the_kubelets_words);
        case!(a_large_log_comes_whole);
        case!(a_command_runs_in_a_container);
        case!(a_command_has_a_terminal_in_a_container);
        case!(an_onlooker_sees_what_comes_from_now_on);
        case!(who_attaches_writes_to_the_container);
        case!(who_attaches_is_on_the_containers_terminal);
        case!(a_container_is_added_to_a_pod_that_runs);
        case!(a_port_of_a_pod_is_reached);
        case!(a_container_is_ready_when_its_command_and_its_port_say_so);
        case!(a_container_that_is_not_live_is_ended);
        case!(a_hundred_pods_one_after_the_other);
        case!(a_running_container_sees_its_token_replaced);
        case!(isolation::pods_without_host_users_have_ids_of_their_own);
        case!(isolation::a_privileged_container_has_the_machine);
        case!(isolation::a_privileged_container_mounts_for_the_host);
        case!(isolation::sysctls_are_set_or_the_pod_is_rejected);
        case!(isolation::a_pod_that_wants_app_armor_is_rejected_without_it);
        case!(isolation::a_seccomp_profile_of_the_node_is_loaded);
        case!(isolation::containers_of_a_pod_share_their_processes);
        case!(isolation::a_fork_bomb_is_its_pods_own_trouble);
        case!(isolation::a_pods_own_limit_holds_for_its_containers);
        case!(nothing_is_left);
        // The agent is gone while a container runs: what is left of it is swept up.
        world.sh("orphan", "sleep 1000").await;
        world.wait("orphan", |status| status.phase.as_deref() == Some("Running")).await;
        agent.abort();
        let _ = agent.await;
        let swept = sweep(&Folders::within(data.path()), &*runtime).await;
        let pods = std::fs::read_dir(data.path().join("pods")).map_or(0, Iterator::count);
        if swept.is_err() || pods > 0 {
            println!("FAILED: {pods} pods are left after the sweep: {swept:?}");
            failed += 1;
        }
        drop(memory);
        let began = Instant::now();
        while !leftovers(&cgroups).is_empty() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left = leftovers(&cgroups);
        if !left.is_empty() {
            println!("FAILED: cgroups are left: {left:?}");
            failed += 1;
        }
        failed
    });
    std::process::exit(i32::from(failed > 0));
}

/// A memory filesystem as `/run` often is: no programs, no devices. It is unmounted when it is dropped.
struct Memory(PathBuf);

impl Memory {
    fn at(path: PathBuf) -> Memory {
        std::fs::create_dir_all(&path).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("stint-test", &path, "tmpfs", flags, c"mode=0700").unwrap();
        Memory(path)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

type Verdict = Result<(), String>;

fn check(holds: bool, what: impl std::fmt::Debug) -> Verdict {
    if holds { Ok(()) } else { Err(format!("{what:?}")) }
}

impl World {
    async fn create(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!("node");
        spec["restartPolicy"] = json!("Never");
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap()
    }

    async fn sh(&self, name: &str, script: &str) -> Pod {
        self.create(name, json!({"containers": [sh(script)]})).await
    }

    async fn wait(&self, name: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        loop {
            let status = self.pods.get(name).await.unwrap().status.unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn ended(&self, name: &str) -> (String, ContainerStateTerminated) {
        let over = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let status = self.wait(name, over).await;
        let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
        (status.phase.unwrap(), state.terminated.unwrap_or_default())
    }

    async fn output(&self, pod: &Pod) -> String {
        let uid = pod.metadata.uid.as_deref().unwrap();
        let (end, ended) = watch::channel(false);
        end.send(true).unwrap();
        let mut follow =
            logs::Follow::new(log_path(&Folders::within(&self.data), uid, "c", Attempt(0)).unwrap(), ended);
        let mut text = Vec::new();
        while let Some(line) = follow.next().await.unwrap() {
            text.extend(line.bytes);
            text.push(b'\n');
        }
        String::from_utf8(text).unwrap()
    }

    /// For who waits in vain: the pods that have not ended, and how they are.
    async fn pods_that_go_on(&self) -> String {
        let pods = self.pods.list(&kube::api::ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let is_over = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let statuses = pods.into_iter().map(|pod| (pod.metadata.name, pod.status.unwrap_or_default()));
        let go_on: Vec<_> = statuses.filter(|(_, status)| !is_over(status)).collect();
        json!(go_on).to_string()
    }

    async fn delete(&self, name: &str, grace: u32) {
        let params = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
        self.pods.delete(name, &params).await.unwrap();
        while self.pods.get_opt(name).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn sh(script: &str) -> Value {
    json!({"name": "c", "image": "none", "command": ["/bin/sh", "-c", script]})
}

async fn a_pod_says_hello_and_succeeds(world: &World) -> Verdict {
    let pod = world.sh("hello", "echo hello from $(hostname); echo $HOME >&2").await;
    let (phase, ended) = world.ended("hello").await;
    check(phase == "Succeeded" && ended.reason.as_deref() == Some("Completed"), (&phase, &ended))?;
    let output = world.output(&pod).await;
    check(output == "hello from hello\n/root\n" || output == "/root\nhello from hello\n", output)
}

async fn a_failure_is_told_with_its_last_words(world: &World) -> Verdict {
    world.sh("words", "echo -n farewell > /dev/termination-log; exit 3").await;
    let (phase, ended) = world.ended("words").await;
    check(phase == "Failed" && ended.exit_code == 3 && ended.message.as_deref() == Some("farewell"), ended)
}

async fn nothing_that_is_written_survives(world: &World) -> Verdict {
    let mark = format!("/var/stint-agent-test-{}", std::process::id());
    world.sh("writes", &format!("touch {mark} && test -e {mark}")).await;
    let (phase, ended) = world.ended("writes").await;
    check(phase == "Succeeded", ended)?;
    check(!Path::new(&mark).exists(), mark)
}

async fn config_maps_and_shared_volumes_are_seen(world: &World) -> Verdict {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let mounts = json!([{"name": "m", "mountPath": "/run/m"}, {"name": "e", "mountPath": "/run/e"},
                        {"name": "t", "mountPath": "/run/t"}]);
    let mut init = sh("echo from init > /run/e/f; echo in memory > /run/t/f");
    init["name"] = json!("i");
    init["volumeMounts"] = mounts.clone();
    let mut main = sh(
        "cat /run/m/k; echo; cat /run/e/f /run/t/f; grep -c ' /run/t tmpfs' /proc/mounts; touch /run/m/x 2> /dev/null || echo read-only",
    );
    main["volumeMounts"] = mounts;
    let pod = world
        .create(
            "volumes",
            json!({"initContainers": [init], "containers": [main], "volumes": [
            {"name": "m", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}},
            {"name": "t", "emptyDir": {"medium": "Memory"}}]}),
        )
        .await;
    let (phase, ended) = world.ended("volumes").await;
    let output = world.output(&pod).await;
    check(phase == "Succeeded", (&ended, &output))?;
    check(output.starts_with("v\nfrom init\nin memory\n1\n") && output.ends_with("read-only\n"), output)
}

/// Two more huge pages than there were, as long as it lives.
struct HugePages {
    before: u32,
}

impl HugePages {
    const COUNT: &str = "/proc/sys/vm/nr_hugepages";

    /// `None`, with a notice, where the kernel gives none.
    fn set_aside() -> Option<HugePages> {
        let count = || std::fs::read_to_string(HugePages::COUNT).ok()?.trim().parse::<u32>().ok();
        let is_usual = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
        let before = count().filter(|_| is_usual)?;
        let _ = std::fs::write(HugePages::COUNT, (before + 2).to_string());
        let pages = HugePages { before };
        if count() == Some(before + 2) {
            return Some(pages);
        }
        eprintln!(
            "a_volume_of_huge_pages_holds_what_is_set_aside: skipped: the kernel sets no huge pages of 2 MiB aside"
        );
        None
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(HugePages::COUNT, self.before.to_string());
    }
}

async fn a_volume_of_huge_pages_holds_what_is_set_aside(world: &World) -> Verdict {
    let Some(_pages) = HugePages::set_aside() else { return Ok(()) };
    let mut main = sh("grep -o ' /run/h hugetlbfs.*pagesize=2M' /proc/mounts | cut -d ' ' -f 3
        fallocate -l 2M /run/h/one && echo one; fallocate -l 2M /run/h/two 2> /dev/null || echo no more");
    main["volumeMounts"] = json!([{"name": "h", "mountPath": "/run/h"}]);
    main["resources"] = json!({"limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"}});
    let volume = json!({"name": "h", "emptyDir": {"medium": "HugePages", "sizeLimit": "2Mi"}});
    let pod = world.create("huge", json!({"containers": [main], "volumes": [volume]})).await;
    let (_, ended) = world.ended("huge").await;
    let output = world.output(&pod).await;
    check(output == "hugetlbfs\none\nno more\n", (output, ended))
}

/// Though the node keeps it on a filesystem that is not for programs.
async fn a_script_in_a_config_map_runs(world: &World) -> Verdict {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = json!({"metadata": {"name": "script"}, "data": {"run": "#!/bin/sh\necho I run\n"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let mut main = sh("exec /v/run");
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volume = json!({"name": "v", "configMap": {"name": "script", "defaultMode": 0o755}});
    let pod = world.create("script", json!({"containers": [main], "volumes": [volume]})).await;
    let (_, ended) = world.ended("script").await;
    let output = world.output(&pod).await;
    check(output == "I run\n", (output, ended))
}

async fn a_volume_nested_deeper_than_any_stack_is_removed(world: &World) -> Verdict {
    let script = "import os\nos.chdir('/v')\nfor n in range(5000):\n    os.mkdir('d')\n    os.chdir('d')\n";
    let mut main = json!({"name": "c", "image": "none", "command": ["/usr/bin/env", "python3", "-c", script]});
    main["volumeMounts"] = json!([{"name": "e", "mountPath": "/v"}]);
    let volumes = json!([{"name": "e", "emptyDir": {}}]);
    let pod = world.create("deep", json!({"containers": [main], "volumes": volumes})).await;
    let (_, ended) = world.ended("deep").await;
    if ended.exit_code == 127 {
        println!("notice: there is no python3 to nest folders with");
    }
    world.delete("deep", 0).await;
    let left = world.data.join("scratch").join(pod.metadata.uid.unwrap());
    // The folder goes after the object.
    while left.exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn a_pod_that_fills_its_volume_past_its_limit_is_evicted(world: &World) -> Verdict {
    let mut main = sh("head -c 3000000 /dev/zero > /v/large; trap '' TERM; while :; do sleep 0.05; done");
    main["volumeMounts"] = json!([{"name": "e", "mountPath": "/v"}]);
    let volumes = json!([{"name": "e", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let spec = json!({"containers": [main], "volumes": volumes, "terminationGracePeriodSeconds": 100_000});
    world.create("full", spec).await;
    let status = world.wait("full", |status| status.phase.as_deref() == Some("Failed")).await;
    let said = "Usage of EmptyDir volume \"e\" exceeds the limit \"1Mi\". ";
    check(status.reason.as_deref() == Some("Evicted") && status.message.as_deref() == Some(said), &status)?;
    // It may take a second to end, and not as long as it asks for; its volume goes with it.
    let disrupted = status.conditions.iter().flatten().any(|condition| condition.type_ == "DisruptionTarget");
    check(!disrupted, "it is its own fault")?;
    world.delete("full", 0).await;
    Ok(())
}

async fn a_container_sees_the_parts_of_volumes_that_it_asks_for(world: &World) -> Verdict {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = json!({"metadata": {"name": "parts"}, "data": {"k": "one file", "l": "another"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let mut first = sh("id -u > /v/own; touch /v/new/mine && stat -c %a /v/new");
    first["name"] = json!("i");
    first["volumeMounts"] =
        json!([{"name": "e", "mountPath": "/v"}, {"name": "e", "mountPath": "/v/new", "subPath": "a/b"}]);
    let mut main = sh("cat /run/k /run/own; ls /v; touch /run/k 2> /dev/null || echo read-only");
    main["env"] = json!([{"name": "B", "value": "b"}]);
    main["volumeMounts"] = json!([
        {"name": "m", "mountPath": "/run/k", "subPath": "k"}, {"name": "e", "mountPath": "/run/own", "subPath": "own"},
        {"name": "e", "mountPath": "/v", "subPathExpr": "a/$(B)", "readOnly": true, "recursiveReadOnly": "Enabled"}]);
    let volumes = json!([{"name": "m", "configMap": {"name": "parts"}}, {"name": "e", "emptyDir": {}}]);
    let pod = world.create("parts", json!({"initContainers": [first], "containers": [main], "volumes": volumes})).await;
    let (phase, ended) = world.ended("parts").await;
    let output = world.output(&pod).await;
    check(phase == "Succeeded" && output == "one file0\nmine\nread-only\n", (&ended, &output))?;
    let status = world.wait("parts", |_| true).await.container_statuses.unwrap();
    let told = status[0].volume_mounts.clone().unwrap_or_default();
    check(told[2].recursive_read_only.as_deref() == Some("Enabled") && told[0].read_only.is_none(), told)
}

/// The volume is a folder of the host that somebody else writes to: a folder in it is a link to the host's at every other
/// moment.
async fn a_sub_path_swapped_for_a_link_while_pods_start_shows_nothing_of_the_host(world: &World) -> Verdict {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside, link) = (dir.path().join("volume"), dir.path().join("outside"), dir.path().join("link"));
    for (folder, text) in [(volume.join("part"), "inside"), (outside.clone(), "outside")] {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("text"), text).unwrap();
    }
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let (stop, part) = (Arc::new(AtomicU64::new(0)), volume.join("part"));
    let swapper = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while stop.load(Ordering::Relaxed) == 0 {
                renameat_with(CWD, &link, CWD, &part, RenameFlags::EXCHANGE).unwrap();
            }
        }
    });
    let (mut seen, mut refused) = (0, 0);
    // Until both were seen to happen, which is a matter of chance.
    for n in 0.. {
        if n >= 60 && seen > 0 && refused > 0 {
            break;
        }
        let name = format!("race-{n}");
        let mut main = sh("cat /v/text");
        main["volumeMounts"] = json!([{"name": "h", "mountPath": "/v", "subPath": "part"}]);
        let volumes = json!([{"name": "h", "hostPath": {"path": volume}}]);
        let pod = world.create(&name, json!({"containers": [main], "volumes": volumes})).await;
        let settled = |status: &PodStatus| {
            let state = status.container_statuses.as_ref().and_then(|all| all[0].state.clone()).unwrap_or_default();
            state.terminated.is_some()
                || state.waiting.is_some_and(|is| is.reason.as_deref() == Some("CreateContainerConfigError"))
        };
        let status = world.wait(&name, settled).await;
        if status.phase.as_deref() == Some("Succeeded") {
            let output = world.output(&pod).await;
            check(output == "inside\n", &output)?;
            seen += 1;
        } else {
            refused += 1;
        }
        world.delete(&name, 0).await;
    }
    stop.store(1, Ordering::Relaxed);
    swapper.join().unwrap();
    Ok(())
}

async fn deletion_ends_a_polite_and_a_deaf_container(world: &World) -> Verdict {
    let running = |status: &PodStatus| status.phase.as_deref() == Some("Running");
    let polite = world.sh("polite", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done").await;
    world.wait("polite", running).await;
    // Before it has its trap, a signal is lost on it.
    while log(world, &polite, LogOptions::default()).await? != "ready\n" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who waited for all of this grace would be stopped for taking so long.
    world.delete("polite", 100_000).await;
    let began = Instant::now();
    world.sh("deaf", "trap '' TERM; while :; do sleep 0.05; done").await;
    world.wait("deaf", running).await;
    world.delete("deaf", 1).await;
    check(began.elapsed() >= Duration::from_secs(1), began.elapsed())
}

async fn a_missing_command_and_a_missing_setting_are_told(world: &World) -> Verdict {
    world.create("missing", json!({"containers": [{"name": "c", "image": "x", "command": ["/no/such"]}]})).await;
    let (_, ended) = world.ended("missing").await;
    check(ended.exit_code == 128 && ended.reason.as_deref() == Some("StartError"), ended)?;
    world.create("empty", json!({"containers": [{"name": "c", "image": "x"}]})).await;
    let reason = |status: &PodStatus| {
        let state = status.container_statuses.as_ref()?[0].state.clone()?;
        state.waiting?.reason
    };
    world.wait("empty", |status| reason(status).as_deref() == Some("CreateContainerConfigError")).await;
    world.delete("empty", 0).await;
    Ok(())
}

async fn the_user_is_who_the_pod_says(world: &World) -> Verdict {
    let mut container = sh("id -u; id -g; id -G; grep NoNewPrivs /proc/self/status");
    container["securityContext"] = json!({"runAsUser": 1234, "runAsGroup": 55, "allowPrivilegeEscalation": false});
    let spec = json!({"securityContext": {"supplementalGroups": [66]}, "containers": [container]});
    let pod = world.create("user", spec).await;
    let (phase, ended) = world.ended("user").await;
    let output = world.output(&pod).await;
    check(phase == "Succeeded" && output == "1234\n55\n55 66\nNoNewPrivs:\t1\n", (ended, output))
}

/// The server is in the container: pods may have a network of their own.
async fn a_container_is_ready_when_its_command_and_its_port_say_so(world: &World) -> Verdict {
    // Bound to the end, and so nobody else's; the server may have it too, since nobody listens here.
    let held = tokio::net::TcpSocket::new_v4().map_err(|e| e.to_string())?;
    held.set_reuseaddr(true).map_err(|e| e.to_string())?;
    held.bind("127.0.0.1:0".parse().unwrap()).map_err(|e| e.to_string())?;
    let port = held.local_addr().map_err(|e| e.to_string())?.port();
    // Not the whole of a web server: it answers the first line.
    let server = format!(
        "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => {port}, Listen => 5, ReuseAddr => 1) or die; \
         while (my $c = $s->accept) {{ my $l = <$c>; while (<$c> =~ /\\S/) {{}} \
         my $code = $l =~ m{{^GET /ready }} && -e '/tmp/ready' ? 200 : 503; \
         print $c qq(HTTP/1.1 $code Whatever\\r\\nContent-Length: 0\\r\\n\\r\\n); close $c }}"
    );
    let mut container = json!({"name": "c", "image": "none", "command": ["/usr/bin/perl", "-e", server],
                               "ports": [{"name": "web", "containerPort": port}]});
    container["startupProbe"] =
        json!({"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 600, "timeoutSeconds": 60});
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "timeoutSeconds": 60});
    container["livenessProbe"] =
        json!({"exec": {"command": ["/bin/sh", "-c", "test $(cat /proc/1/comm) = perl"]}, "timeoutSeconds": 60});
    let pod = world.create("ready", json!({"containers": [container]})).await;
    let first = |status: &PodStatus| status.container_statuses.as_ref().map(|all| (all[0].started, all[0].ready));
    world.wait("ready", |status| first(status) == Some((Some(true), false))).await;
    let touched = run(world, &pod, &["touch", "/tmp/ready"], Streams::default()).await?;
    check(touched.0 == 0, touched)?;
    world.wait("ready", |status| first(status) == Some((Some(true), true))).await;
    let status = world.pods.get("ready").await.map_err(|e| e.to_string())?.status.unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    check(ready && status.container_statuses.iter().flatten().all(|c| c.restart_count == 0), &status)?;
    let removed = run(world, &pod, &["rm", "/tmp/ready"], Streams::default()).await?;
    check(removed.0 == 0, removed)?;
    world.wait("ready", |status| first(status) == Some((Some(true), false))).await;
    drop(held);
    world.delete("ready", 0).await;
    Ok(())
}

async fn a_container_that_is_not_live_is_ended(world: &World) -> Verdict {
    let mut container =
        sh("trap 'echo -n bye > /dev/termination-log; exit 7' TERM; touch /run/trapped; while :; do sleep 0.05; done");
    // Before it has its trap, a signal is lost on it.
    container["startupProbe"] = json!({"exec": {"command": ["test", "-e", "/run/trapped"]}, "periodSeconds": 1,
        "failureThreshold": 600, "timeoutSeconds": 60});
    let slow = json!({"exec": {"command": ["/bin/sleep", "1000"]}, "timeoutSeconds": 1, "failureThreshold": 1});
    container["livenessProbe"] = slow;
    world.create("dead", json!({"containers": [container], "terminationGracePeriodSeconds": 100_000})).await;
    let (phase, ended) = world.ended("dead").await;
    check(phase == "Failed" && ended.exit_code == 7 && ended.message.as_deref() == Some("bye"), &ended)
}

async fn a_hundred_pods_one_after_the_other(world: &World) -> Verdict {
    let mut times = Vec::new();
    for n in 0..100 {
        let name = format!("true-{n}");
        let began = Instant::now();
        world.create(&name, json!({"containers": [{"name": "c", "image": "x", "command": ["/bin/true"]}]})).await;
        let (phase, ended) = world.ended(&name).await;
        times.push(began.elapsed());
        check(phase == "Succeeded", ended)?;
    }
    times.sort();
    println!("  create to Succeeded of `true`: p50 {:.1?}, p99 {:.1?}", times[50], times[98]);
    Ok(())
}

/// It runs as one user, so the token is that user's and nobody else's. It never sees a folder without a token.
async fn a_running_container_sees_its_token_replaced(world: &World) -> Verdict {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "default");
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let mut main = sh("id -u; stat -c '%a %u' /v/..data/token; first=$(cat /v/token) || exit 1; echo begun; \
                       while now=$(cat /v/token) || exit 2; test \"$now\" = \"$first\"; do sleep 0.01; done; echo $now");
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 600}});
    let volume = json!({"name": "v", "projected": {"sources": [token]}});
    let context = json!({"runAsUser": 1000});
    let spec =
        json!({"containers": [main], "volumes": [volume], "serviceAccountName": "default", "securityContext": context});
    let pod = world.create("token", spec).await;
    world.wait("token", |status| status.phase.as_deref() == Some("Running")).await;
    while !log(world, &pod, LogOptions::default()).await?.ends_with("begun\n") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = world.pods.get("token").await.unwrap().status.unwrap_or_default();
    check(status.phase.as_deref() == Some("Running"), ("a young token stays", status))?;
    world.clock.0.store(500, Ordering::Relaxed);
    let (phase, ended) = world.ended("token").await;
    let output = world.output(&pod).await;
    check(phase == "Succeeded", (&ended, &output))?;
    let now = output.strip_prefix("1000\n600 1000\nbegun\n").unwrap_or_default();
    check(now.split('.').count() == 3, &output)
}

async fn nothing_is_left(world: &World) -> Verdict {
    for pod in world.pods.list(&kube::api::ListParams::default()).await.unwrap() {
        world.delete(&pod.metadata.name.unwrap(), 0).await;
    }
    let folder = world.data.join("pods");
    let count = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    let mounts = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.matches(world.data.to_str().unwrap()).count()
    };
    let began = Instant::now();
    while (count(), mounts()) != (0, 1) && began.elapsed() < PATIENCE / 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    check(count() == 0, format!("{} pods' folders are left", count()))?;
    check(mounts() == 1, format!("{} mounts are left, and the test has made one", mounts()))
}

/// The cgroups that are left below `parent`, in every hierarchy.
fn leftovers(parent: &Path) -> Vec<PathBuf> {
    let relative = parent.strip_prefix("/").unwrap();
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies
        .chain([root.to_path_buf()])
        .map(|hierarchy| hierarchy.join(relative))
        .filter(|path| path.exists())
        .filter(|path| std::fs::read_dir(path).unwrap().flatten().any(|entry| entry.path().is_dir()))
        .collect()
}

fn reference(pod: &Pod) -> PodRef {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    PodRef { namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
}

fn container(pod: &Pod) -> ContainerRef {
    ContainerRef { pod: reference(pod), container: "c".into() }
}

async fn is_running(world: &World, name: &str) {
    world
        .wait(name, |status| {
            let first = status.container_statuses.iter().flatten().next();
            first.and_then(|c| c.state.as_ref()).is_some_and(|state| state.running.is_some())
        })
        .await;
}

async fn log(world: &World, pod: &Pod, options: LogOptions) -> Result<String, String> {
    let mut log = world.service.logs(&container(pod), options).await.map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    while let Some(piece) = log.next().await {
        text.extend_from_slice(&piece.map_err(|e| e.to_string())?);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn a_log_is_followed_to_the_end_of_its_container(world: &World) -> Verdict {
    let pod = world.sh("follow", "echo one; echo two; sleep 0.3; echo three; exit 1").await;
    is_running(world, "follow").await;
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let text = log(world, &pod, follow).await?;
    check(text == "one\ntwo\nthree\n", text)?;
    world.ended("follow").await;
    let last = log(world, &pod, LogOptions { tail_lines: Some(1), ..LogOptions::default() }).await?;
    check(last == "three\n", last)
}

async fn a_log_that_there_is_not_is_told_in_the_kubelets_words(world: &World) -> Verdict {
    let mut broken = sh("true");
    broken["env"] = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "nowhere", "key": "k"}}}]);
    let pod = world.create("broken", json!({"containers": [broken]})).await;
    world
        .wait("broken", |status| {
            let first = status.container_statuses.iter().flatten().next();
            first.and_then(|c| c.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
                == Some("CreateContainerConfigError")
        })
        .await;
    let told = world.service.logs(&container(&pod), LogOptions::default()).await.err();
    let words = "container \"c\" in pod \"broken\" is waiting to start: CreateContainerConfigError";
    check(told == Some(ServiceError::BadRequest(words.into())), told)?;
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    let told = world.service.logs(&container(&pod), previous).await.err();
    let words = "previous terminated container \"c\" in pod \"broken\" not found";
    check(told == Some(ServiceError::BadRequest(words.into())), told)?;
    let mut other = container(&pod);
    other.pod.uid = "another".into();
    let told = world.service.logs(&other, LogOptions::default()).await.err();
    check(matches!(told, Some(ServiceError::NotFound(_))), told)?;
    let told = world.service.exec(&container(&pod), vec!["true".into()], Streams::default()).await.err();
    check(told == Some(ServiceError::NotFound("container not found (\"c\")".into())), told)?;
    world.delete("broken", 0).await;
    Ok(())
}

async fn a_large_log_comes_whole(world: &World) -> Verdict {
    const SIZE: usize = 32 << 20;
    let pod = world
        .sh("large", &format!("yes 0123456789012345678901234567890123456789012345678901234567890 | head -c {SIZE}"))
        .await;
    world.ended("large").await;
    let began = Instant::now();
    let text = log(world, &pod, LogOptions::default()).await?;
    let took = began.elapsed();
    println!("  a log of {} MB was read in {took:.1?}", SIZE >> 20);
    check(
        text.len() == SIZE
            && text
                .lines()
                .all(|line| "0123456789012345678901234567890123456789012345678901234567890".starts_with(line)),
        text.len(),
    )
}

/// Everything that a process says, and its exit code.
async fn outcome(process: Process) -> Result<(i32, String, String), String> {
    let Process { stdin, stdout, stderr, exit, .. } = process;
    drop(stdin);
    let all = |stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>| async move {
        let mut text = String::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_string(&mut text).await;
        }
        text
    };
    let (stdout, stderr, exit) = tokio::join!(all(stdout), all(stderr), exit);
    Ok((exit.map_err(|e| e.to_string())?, stdout, stderr))
}

async fn run(world: &World, pod: &Pod, command: &[&str], streams: Streams) -> Result<(i32, String, String), String> {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    outcome(world.service.exec(&container(pod), command, streams).await.map_err(|e| e.to_string())?).await
}

async fn a_command_runs_in_a_container(world: &World) -> Verdict {
    let pod = world.sh("exec", "hostname > /run/mine; exec sleep 1000").await;
    is_running(world, "exec").await;
    let both = Streams { stdout: true, stderr: true, ..Streams::default() };
    let did = run(
        world,
        &pod,
        &["sh", "-c", "until test -s /run/mine; do sleep 0.01; done; cat /run/mine; echo err >&2; exit 3"],
        both,
    )
    .await?;
    check(did == (3, "exec\n".into(), "err\n".into()), did)?;
    let did = run(world, &pod, &["no-such-command"], both).await?;
    let words = "exec: \"no-such-command\": executable file not found in $PATH\n";
    check(did == (127, String::new(), words.into()), did)?;
    let did = run(world, &pod, &["/etc/passwd"], both).await?;
    check(did.0 == 126 && did.2.contains("/etc/passwd"), did)?;
    // As `kubectl cp` does it.
    let streams = Streams { stdin: true, ..both };
    let copy = ["sh", "-c", "cat > /run/copy && cksum < /run/copy"].map(str::to_owned).to_vec();
    let mut process = world.service.exec(&container(&pod), copy, streams).await.map_err(|e| e.to_string())?;
    let mut stdin = process.stdin.take().ok_or("no input")?;
    let data = vec![b'x'; 3 << 20];
    let wrote = tokio::spawn(async move {
        stdin.write_all(&data).await?;
        stdin.shutdown().await
    });
    let did = outcome(process).await?;
    wrote.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    check(did.0 == 0 && did.1.ends_with(" 3145728\n"), did)?;
    world.delete("exec", 0).await;
    // Until the container is dead a command may still begin in it, and dies with it.
    let mut gone = run(world, &pod, &["true"], both).await;
    while gone.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gone = run(world, &pod, &["true"], both).await;
    }
    check(gone == Err("container not found (\"c\")".into()), gone)
}

async fn a_command_has_a_terminal_in_a_container(world: &World) -> Verdict {
    let pod = world.sh("tty", "exec sleep 1000").await;
    is_running(world, "tty").await;
    let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    let command =
        ["sh", "-c", "stty -echo; echo ready; read x; stty size; echo $x $TERM; exit 4"].map(str::to_owned).to_vec();
    let mut process = world.service.exec(&container(&pod), command, streams).await.map_err(|e| e.to_string())?;
    let mut resize = process.resize.take().ok_or("no terminal")?;
    resize(100, 30);
    let (mut stdin, mut stdout) = (process.stdin.take().ok_or("no input")?, process.stdout.take().ok_or("no output")?);
    let mut ready = [0; 7];
    stdout.read_exact(&mut ready).await.map_err(|e| e.to_string())?;
    stdin.write_all(b"typed\n").await.map_err(|e| e.to_string())?;
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.map_err(|e| e.to_string())?;
    let code = process.exit.await.map_err(|e| e.to_string())?;
    check(code == 4 && text == "30 100\r\ntyped xterm\r\n", (code, text))?;
    world.delete("tty", 0).await;
    Ok(())
}

async fn an_onlooker_sees_what_comes_from_now_on(world: &World) -> Verdict {
    let pod = world
        .sh("attach", "echo before; until test -e /run/go; do sleep 0.05; done; echo after; echo err >&2; exit 5")
        .await;
    is_running(world, "attach").await;
    while log(world, &pod, LogOptions::default()).await? != "before\n" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let both = Streams { stdout: true, stderr: true, ..Streams::default() };
    let process = world.service.attach(&container(&pod), both).await.map_err(|e| e.to_string())?;
    run(world, &pod, &["touch", "/run/go"], Streams::default()).await?;
    let did = outcome(process).await?;
    check(did == (5, "after\n".into(), "err\n".into()), did)?;
    world.ended("attach").await;
    let over = world.service.attach(&container(&pod), both).await.err();
    check(over == Some(ServiceError::NotFound("container not found (\"c\")".into())), over)
}

async fn who_attaches_writes_to_the_container(world: &World) -> Verdict {
    let mut reader = sh("cat; echo over; exit 4");
    reader["stdin"] = json!(true);
    reader["stdinOnce"] = json!(true);
    let pod = world.create("stdin", json!({"containers": [reader]})).await;
    is_running(world, "stdin").await;
    let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
    let mut process = world.service.attach(&container(&pod), streams).await.map_err(|e| e.to_string())?;
    let mut stdin = process.stdin.take().ok_or("no input")?;
    stdin.write_all(b"hello\n").await.map_err(|e| e.to_string())?;
    stdin.shutdown().await.map_err(|e| e.to_string())?;
    let did = outcome(process).await?;
    check(did == (4, "hello\nover\n".into(), String::new()), did)
}

async fn who_attaches_is_on_the_containers_terminal(world: &World) -> Verdict {
    let mut shell = sh("test -t 0 || exit 9; stty -echo; echo $TERM; read a; stty size; echo got $a; exit 6");
    shell["stdin"] = json!(true);
    shell["tty"] = json!(true);
    let pod = world.create("tty", json!({"containers": [shell]})).await;
    is_running(world, "tty").await;
    while log(world, &pod, LogOptions::default()).await? != "xterm\r\n" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let streams = Streams { stdin: true, stdout: true, tty: true, ..Streams::default() };
    let mut process = world.service.attach(&container(&pod), streams).await.map_err(|e| e.to_string())?;
    process.resize.as_mut().ok_or("no terminal")?(132, 50);
    let mut stdin = process.stdin.take().ok_or("no input")?;
    stdin.write_all(b"it\n").await.map_err(|e| e.to_string())?;
    let did = outcome(process).await?;
    check(did == (6, "50 132\r\ngot it\r\n".into(), String::new()), did)
}

async fn a_container_is_added_to_a_pod_that_runs(world: &World) -> Verdict {
    let pod = world.sh("debugged", "exec sleep 1001").await;
    is_running(world, "debugged").await;
    let script = "until grep -q ^sleep /proc/1/cmdline; do sleep 0.01; done; tr '\\0' ' ' < /proc/1/cmdline; echo; exec sleep 1002";
    let debugger =
        json!({"name": "d", "image": "none", "command": ["/bin/sh", "-c", script], "targetContainerName": "c"});
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    world
        .pods
        .patch_ephemeral_containers("debugged", &PatchParams::default(), &patch)
        .await
        .map_err(|e| e.to_string())?;
    let runs = |status: &PodStatus| {
        let status = status.ephemeral_container_statuses.iter().flatten().next();
        status.and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some())
    };
    world.wait("debugged", runs).await;
    let mut added = container(&pod);
    "d".clone_into(&mut added.container);
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut log = world.service.logs(&added, options).await.map_err(|e| e.to_string())?;
    let line = log.next().await.ok_or("the log ended")?.map_err(|e| e.to_string())?;
    check(String::from_utf8_lossy(&line).starts_with("sleep 1001"), &line)?;
    let command = ["cat", "/proc/1/comm"].map(str::to_owned).to_vec();
    let streams = Streams { stdout: true, ..Streams::default() };
    let did = outcome(world.service.exec(&added, command, streams).await.map_err(|e| e.to_string())?).await?;
    check(did == (0, "sleep\n".into(), String::new()), did)?;
    world.delete("debugged", 0).await;
    Ok(())
}

async fn a_port_of_a_pod_is_reached(world: &World) -> Verdict {
    let pod = world.sh("port", "exec sleep 1000").await;
    is_running(world, "port").await;
    // Pods are on the host's network.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"hello").await
    });
    let mut stream = world.service.forward(&reference(&pod), port).await.map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(|e| e.to_string())?;
    served.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    check(text == "hello", text)?;
    let refused = world.service.forward(&reference(&pod), port).await.err();
    check(matches!(&refused, Some(ServiceError::Internal(text)) if text.contains("localhost")), refused)?;
    world.delete("port", 0).await;
    let gone = world.service.forward(&reference(&pod), port).await.err();
    check(matches!(gone, Some(ServiceError::NotFound(_))), gone)
}
