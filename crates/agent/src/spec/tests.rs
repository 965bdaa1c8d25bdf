//! What containers get, as tables.
#![allow(clippy::needless_pass_by_value)] // `json!` reads best by value

use oci_spec::runtime::{Capability, Spec};
use serde_json::{Value, json};

use super::*;
use crate::downward::Limits;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "uid-1"},
        "spec": spec,
        "status": {"qosClass": "BestEffort"}
    }))
    .unwrap()
}

fn machine() -> Machine {
    Machine {
        name: "n".into(),
        ip: Some("10.0.0.1".into()),
        cpu_milli: 2000,
        memory: 1000,
        lowest_oom_score: 0,
        limits: Limits::ALL,
        limits_huge_pages: true,
    }
}

fn image() -> ImageRun {
    let list = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect();
    ImageRun {
        entrypoint: list(&["/entry"]),
        cmd: list(&["c1", "c2"]),
        env: list(&["PATH=/image/bin", "FROM_IMAGE=yes"]),
        working_dir: "/image".into(),
        user: "app".into(),
        stop_signal: None,
    }
}

fn users(name: &str) -> Result<User, String> {
    let user = |uid, home: &str| User { uid, gid: uid, additional_gids: vec![7], home: home.into(), name: None };
    match name {
        "" | "0" => Ok(user(0, "/root")),
        "app" => Ok(user(100, "/home/app")),
        other => other.parse().map(|uid| user(uid, "/")).map_err(|_| format!("image has no user {other:?}")),
    }
}

fn built(spec: Value, image: &ImageRun, sources: &Sources) -> Result<Spec, String> {
    built_for(None, spec, image, sources)
}

/// On a node that is told where the API is, or not.
fn built_for(api: Option<&str>, spec: Value, image: &ImageRun, sources: &Sources) -> Result<Spec, String> {
    let pod = pod(spec);
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    let node = machine();
    let folder = PodFolder::new(&crate::folder::Folders::within(Path::new("/data")), "uid-1").unwrap();
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let request = Request {
        pod: &pod,
        container: &container,
        attempt: Attempt(0),
        image,
        users: &users,
        sources,
        node: &node,
        folder: &folder,
        cgroup_parent: Path::new("/stint/run"),
        hostname: "h",
        addresses: &["10.85.0.2".parse().unwrap()],
        network: (!on_host).then_some(Path::new("/run/net/10.85.0.2")),
        etc: false,
        api: api.map(|api| api.parse().unwrap()),
        ids: pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false)).then_some(131_072),
        processes: pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.share_process_namespace == Some(true))
            .then_some(Path::new("/proc/7/ns/pid")),
        devices: &[],
        held: &[Capability::Chown, Capability::SysAdmin].into(),
        app_armor: Some("stint-default"),
        profile: &|name| match name {
            "p.json" => Ok(br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#.to_vec()),
            "broken.json" => Ok(b"{".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
    };
    build(request).map(|built| built.spec).map_err(|error| error.to_string())
}

fn of(container: Value) -> Result<Spec, String> {
    built(json!({"containers": [container]}), &image(), &Sources::default())
}

fn args(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().args().clone().unwrap()
}

fn env(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().env().clone().unwrap()
}

#[test]
fn command_and_args_follow_the_table_of_the_documentation() {
    for (container, expected) in [
        (json!({"name": "c"}), "/entry c1 c2"),
        (json!({"name": "c", "command": ["/own"]}), "/own"),
        (json!({"name": "c", "args": ["a"]}), "/entry a"),
        (json!({"name": "c", "command": ["/own"], "args": ["a"]}), "/own a"),
        (json!({"name": "c", "command": [], "args": ["a"]}), "/entry a"),
        (
            json!({"name": "c", "args": ["$(X)-$$(X)-$(NO)"], "env": [{"name": "X", "value": "1"}]}),
            "/entry 1-$(X)-$(NO)",
        ),
    ] {
        assert_eq!(args(&of(container.clone()).unwrap()).join(" "), expected, "{container}");
    }
}

#[test]
fn a_container_begins_in_its_own_folder_or_its_images() {
    let folder = |container| of(container).unwrap().process().as_ref().unwrap().cwd().display().to_string();
    assert_eq!(folder(json!({"name": "c"})), "/image");
    assert_eq!(folder(json!({"name": "c", "workingDir": "/own"})), "/own");
    assert_eq!(folder(json!({"name": "c", "workingDir": ""})), "/image");
}

#[test]
fn a_container_with_nothing_to_run_is_told_so() {
    let fault = built(json!({"containers": [{"name": "c", "args": ["a"]}]}), &ImageRun::default(), &Sources::default());
    assert_eq!(args(&fault.unwrap()), ["a"], "as the container world has it");
    let fault = built(json!({"containers": [{"name": "c"}]}), &ImageRun::default(), &Sources::default()).unwrap_err();
    assert!(fault.contains("`command`"), "{fault}");
}

#[test]
fn the_environment_is_layered_and_expanded() {
    let spec = of(json!({"name": "c", "env": [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2 $(FROM_IMAGE)"},
        {"name": "FROM_IMAGE", "value": "no"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]}))
    .unwrap();
    assert_eq!(
        env(&spec),
        ["PATH=/image/bin", "HOSTNAME=h", "FROM_IMAGE=no", "A=1", "B=12 $(FROM_IMAGE)", "POD=p", "HOME=/home/app"]
    );
    let spec =
        built(json!({"containers": [{"name": "c", "command": ["x"]}]}), &ImageRun::default(), &Sources::default());
    let plain = env(&spec.unwrap());
    assert!(plain[0].starts_with("PATH=/usr/local/sbin:") && plain.contains(&"HOME=/root".to_owned()), "{plain:?}");
}

#[test]
fn a_container_finds_the_api_as_in_a_cluster_unless_it_says_otherwise() {
    let container = json!({"name": "c", "command": ["x", "$(KUBERNETES_SERVICE_PORT)"], "env": [
        {"name": "URL", "value": "https://$(KUBERNETES_SERVICE_HOST)"}, {"name": "KUBERNETES_PORT", "value": "mine"}]});
    let of = |api: Option<&str>| {
        let spec = json!({"containers": [container], "enableServiceLinks": false});
        built_for(api, spec, &image(), &Sources::default()).unwrap()
    };
    let spec = of(Some("10.0.0.1:6443"));
    let mut found: Vec<String> =
        env(&spec).into_iter().filter(|v| v.contains("KUBERNETES") || v.contains("URL")).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "KUBERNETES_PORT=mine",
            "KUBERNETES_PORT_6443_TCP=tcp://10.0.0.1:6443",
            "KUBERNETES_PORT_6443_TCP_ADDR=10.0.0.1",
            "KUBERNETES_PORT_6443_TCP_PORT=6443",
            "KUBERNETES_PORT_6443_TCP_PROTO=tcp",
            "KUBERNETES_SERVICE_HOST=10.0.0.1",
            "KUBERNETES_SERVICE_PORT=6443",
            "KUBERNETES_SERVICE_PORT_HTTPS=6443",
            "URL=https://10.0.0.1",
        ]
    );
    assert_eq!(args(&spec), ["x", "6443"]);
    let six = env(&of(Some("[::1]:1")));
    assert!(
        ["KUBERNETES_SERVICE_HOST=::1", "KUBERNETES_PORT_1_TCP=tcp://[::1]:1"]
            .iter()
            .all(|v| six.contains(&(*v).to_owned()))
    );
    assert!(!env(&of(None)).iter().any(|variable| variable.starts_with("KUBERNETES_SERVICE")), "nobody serves it");
}

#[test]
fn config_maps_and_secrets_reach_the_environment_or_are_missed() {
    let sources = Sources {
        config_maps: [("m".to_owned(), serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap())].into(),
        secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"p": "cHc="}})).unwrap())].into(),
        ..Sources::default()
    };
    let with = |container: Value| built(json!({"containers": [container]}), &image(), &sources);
    let spec = with(json!({"name": "c",
        "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "none", "optional": true}}],
        "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                {"name": "Q", "valueFrom": {"secretKeyRef": {"name": "s", "key": "q", "optional": true}}},
                {"name": "R", "value": "$(M_k)$(P)"}]}))
    .unwrap();
    let all = env(&spec);
    assert!(["M_k=v", "M_l=w", "P=pw", "R=vpw"].iter().all(|e| all.contains(&(*e).to_owned())), "{all:?}");
    assert!(!all.iter().any(|e| e.starts_with("Q=")));
    for (container, fault) in [
        (json!({"name": "c", "envFrom": [{"configMapRef": {"name": "x"}}]}), "configmap \"x\" not found"),
        (
            json!({"name": "c", "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "q"}}}]}),
            "couldn't find key q in Secret ns/s",
        ),
    ] {
        assert_eq!(with(container).unwrap_err(), fault);
    }
}

#[test]
fn the_user_is_the_containers_the_pods_or_the_images() {
    let user = |spec: Value| {
        let spec = built(spec, &image(), &Sources::default())?;
        let user = spec.process().as_ref().unwrap().user().clone();
        Ok::<_, String>((user.uid(), user.gid(), user.additional_gids().clone().unwrap_or_default()))
    };
    assert_eq!(user(json!({"containers": [{"name": "c"}]})), Ok((100, 100, vec![7])));
    assert_eq!(
        user(json!({"securityContext": {"runAsUser": 5, "runAsGroup": 6, "fsGroup": 9, "supplementalGroups": [8]},
                    "containers": [{"name": "c", "securityContext": {"runAsUser": 4}}]})),
        Ok((4, 6, vec![7, 8, 9]))
    );
    let strict = json!({"supplementalGroupsPolicy": "Strict", "supplementalGroups": [8]});
    assert_eq!(user(json!({"securityContext": strict, "containers": [{"name": "c"}]})), Ok((100, 100, vec![8])));
    let fault = user(json!({"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true, "runAsUser": 0}}]}));
    assert!(fault.unwrap_err().contains("breaks non-root policy"));
    assert!(user(json!({"containers": [{"name": "c", "securityContext": {"runAsUser": -1}}]})).is_err());
}

#[test]
fn capabilities_are_added_and_dropped() {
    let set = |context: Value| {
        let spec = of(json!({"name": "c", "securityContext": {"capabilities": context}}))?;
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        Ok::<_, String>(sets.bounding().clone().unwrap_or_default())
    };
    assert!(set(json!({"add": ["SYS_PTRACE"]})).unwrap().contains(&Capability::SysPtrace));
    assert!(!set(json!({"drop": ["CAP_CHOWN"]})).unwrap().contains(&Capability::Chown));
    assert_eq!(set(json!({"drop": ["ALL"], "add": ["kill"]})).unwrap(), [Capability::Kill].into());
    assert_eq!(set(json!({"add": ["ALL"]})).unwrap().len(), 2, "as many as there are to give");
    assert!(set(json!({"add": ["FLY"]})).unwrap_err().contains("FLY"));
}

#[test]
fn security_settings_reach_the_spec_or_are_refused() {
    let spec = of(json!({"name": "c", "securityContext": {
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "seccompProfile": {"type": "Unconfined"}}}))
    .unwrap();
    assert_eq!(spec.process().as_ref().unwrap().no_new_privileges(), Some(true));
    assert_eq!(spec.process().as_ref().unwrap().apparmor_profile().as_deref(), Some("stint-default"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
    assert!(of(json!({"name": "c"})).unwrap().linux().as_ref().unwrap().seccomp().is_some());
}

#[test]
fn seccomp_profiles_of_the_node_are_read() {
    let with = |file: &str| {
        let profile = json!({"type": "Localhost", "localhostProfile": file});
        of(json!({"name": "c", "securityContext": {"seccompProfile": profile}}))
    };
    let seccomp = with("p.json").unwrap().linux().as_ref().unwrap().seccomp().clone().unwrap();
    assert_eq!(seccomp.default_action(), oci_spec::runtime::LinuxSeccompAction::ScmpActAllow);
    assert!(with("none.json").unwrap_err().starts_with("cannot load seccomp profile \"none.json\": "));
    assert!(with("broken.json").unwrap_err().contains("cannot be decoded"));
}

#[test]
fn a_privileged_container_has_all_that_the_machine_has() {
    let spec = of(json!({"name": "c", "securityContext": {
        "privileged": true, "seccompProfile": {"type": "RuntimeDefault"}}}))
    .unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none() && linux.masked_paths().is_none() && linux.readonly_paths().is_none());
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert!(rules.len() == 1 && rules[0].allow() && rules[0].major().is_none());
    let sys = spec.mounts().iter().flatten().find(|mount| mount.destination() == Path::new("/sys")).unwrap();
    assert!(!sys.options().as_ref().unwrap().contains(&"ro".to_owned()));
    let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(sets.permitted().as_ref().unwrap().len(), 2, "what there is to give");
}

#[test]
fn a_pod_without_host_users_has_ids_of_its_own() {
    let spec = json!({"hostUsers": false, "volumes": [{"name": "e", "emptyDir": {}}], "containers": [{
        "name": "c", "volumeMounts": [{"name": "e", "mountPath": "/e"}],
        "securityContext": {"procMount": "Unmasked", "capabilities": {"add": ["ALL"]}}}]});
    let spec = built(spec, &image(), &Sources::default()).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let ids = linux.uid_mappings().clone().unwrap();
    assert_eq!((ids[0].container_id(), ids[0].host_id(), ids[0].size()), (0, 131_072, 65_536));
    assert_eq!(linux.gid_mappings().as_ref(), Some(&ids));
    assert!(linux.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::User && n.path().is_none()));
    assert!(linux.masked_paths().is_none(), "procMount");
    let mount = spec.mounts().iter().flatten().find(|mount| mount.destination() == Path::new("/e")).unwrap();
    assert!(mount.options().as_ref().unwrap().contains(&"ridmap".to_owned()));
    let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(sets.permitted().as_ref().unwrap().len(), 41, "all of its own user namespace");
}

#[test]
fn containers_that_share_processes_join_the_pods() {
    let spec = json!({"shareProcessNamespace": true, "containers": [{"name": "c"}]});
    let spec = built(spec, &image(), &Sources::default()).unwrap();
    let kinds = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let all: Vec<_> = kinds.iter().filter(|n| n.typ() == LinuxNamespaceType::Pid).collect();
    assert!(all.len() == 1 && all[0].path().as_deref() == Some(Path::new("/proc/7/ns/pid")));
}

#[test]
fn limits_are_set_only_when_asked_for() {
    let resources = |container| of(container).unwrap().linux().as_ref().unwrap().resources().clone().unwrap();
    let none = resources(json!({"name": "c"}));
    assert!(none.cpu().is_none() && none.memory().is_none() && none.pids().is_none());
    let some = resources(json!({"name": "c", "resources": {
        "limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}));
    let cpu = some.cpu().as_ref().unwrap();
    assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(256), Some(50_000), Some(100_000)));
    assert_eq!(some.memory().as_ref().unwrap().limit(), Some(64 << 20));
    assert!(none.hugepage_limits().is_none() && some.hugepage_limits().is_none());
    let huge = resources(json!({"name": "c", "resources": {"limits": {"memory": "1Mi", "hugepages-2Mi": "4Mi"}}}));
    let huge = huge.hugepage_limits().as_ref().unwrap();
    assert_eq!((huge.len(), huge[0].page_size().as_str(), huge[0].limit()), (1, "2MB", 4 << 20));
}

#[test]
fn volumes_are_mounted_outer_ones_first_and_in_place_of_defaults() {
    let spec = built(
        json!({"volumes": [{"name": "e", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}},
                           {"name": "h", "hostPath": {"path": "/srv"}}],
               "containers": [{"name": "c", "volumeMounts": [
                   {"name": "m", "mountPath": "/a/b/c"}, {"name": "e", "mountPath": "/a"},
                   {"name": "e", "mountPath": "/dev/shm"}, {"name": "h", "mountPath": "/h", "readOnly": true}]}]}),
        &image(),
        &Sources::default(),
    )
    .unwrap();
    let mounts = spec.mounts().clone().unwrap();
    let shown: Vec<String> = mounts
        .iter()
        .filter(|m| m.typ().as_deref() == Some("bind"))
        .map(|m| {
            let source = m.source().as_ref().unwrap().display().to_string();
            format!("{} {} {}", m.destination().display(), source, m.options().as_ref().unwrap().join(","))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "/a /data/scratch/uid-1/volumes/e rbind,rprivate,rw",
            "/h /srv rbind,rprivate,ro",
            "/dev/termination-log /data/pods/uid-1/containers/c/0/termination-log rbind,rprivate",
            "/dev/shm /data/scratch/uid-1/volumes/e rbind,rprivate,rw",
            "/a/b/c /data/pods/uid-1/files/m rbind,rprivate,ro,exec",
        ]
    );
    assert_eq!(mounts.iter().filter(|m| m.destination() == Path::new("/dev/shm")).count(), 1);
    for (mount, field) in [
        (json!({"name": "e", "mountPath": "/x", "recursiveReadOnly": "Enabled"}), "not read-only"),
        (
            json!({"name": "e", "mountPath": "/x", "readOnly": true, "recursiveReadOnly": "Enabled",
                   "mountPropagation": "HostToContainer"}),
            "not compatible with propagation",
        ),
        (json!({"name": "e", "mountPath": "/x", "mountPropagation": "Bidirectional"}), "mountPropagation"),
        (json!({"name": "none", "mountPath": "/x"}), "no volume"),
    ] {
        let spec = json!({"volumes": [{"name": "e", "emptyDir": {}}],
                          "containers": [{"name": "c", "volumeMounts": [mount]}]});
        assert!(built(spec, &image(), &Sources::default()).unwrap_err().contains(field), "{field}");
    }
}

#[test]
fn a_part_of_a_volume_is_named_as_a_path_in_it() {
    let with = |mount: Value| {
        let mut mount = mount;
        mount["name"] = json!("e");
        mount["mountPath"] = json!("/x");
        let spec = json!({"volumes": [{"name": "e", "emptyDir": {}}],
                          "containers": [{"name": "c", "volumeMounts": [mount],
                                          "env": [{"name": "A", "value": "a"}, {"name": "UP", "value": "../b"}]}]});
        let spec = built(spec, &image(), &Sources::default())?;
        let mount = spec.mounts().iter().flatten().find(|m| m.destination() == Path::new("/x")).unwrap().clone();
        assert_eq!(mount.source().as_deref(), Some(Path::new("/data/scratch/uid-1/volumes/e")));
        Ok::<_, String>(mount.options().as_ref().unwrap().join(","))
    };
    assert_eq!(with(json!({"subPath": "s/t"})).unwrap(), "rbind,rprivate,rw,X-mount.subdir=s/t");
    assert_eq!(with(json!({"subPath": ""})).unwrap(), "rbind,rprivate,rw");
    let read_only = json!({"subPathExpr": "$(A)/$$(A)", "readOnly": true, "recursiveReadOnly": "IfPossible"});
    assert_eq!(with(read_only).unwrap(), "rbind,rprivate,rro,X-mount.subdir=a/$(A)");
    for (mount, fault) in [
        (json!({"subPath": "/etc"}), "error SubPath `/etc` must not be an absolute path"),
        (json!({"subPath": "a/../../b"}), "unable to provision SubPath `a/../../b`: must not contain '..'"),
        (json!({"subPathExpr": "$(UP)"}), "unable to provision SubPath `../b`: must not contain '..'"),
        (json!({"subPathExpr": "$(NO)"}), "missing value for \"NO\""),
    ] {
        let told = with(mount).unwrap_err();
        assert!(told.contains(fault), "{told}");
    }
}

#[test]
fn host_namespaces_and_names() {
    let spec = built(
        json!({"hostPID": true, "hostNetwork": true, "containers": [{"name": "c"}]}),
        &image(),
        &Sources::default(),
    )
    .unwrap();
    let kinds = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    assert!(!kinds.iter().any(|n| matches!(n.typ(), LinuxNamespaceType::Pid | LinuxNamespaceType::Network)));
    assert_eq!(spec.hostname().as_deref(), Some("h"));
    assert_eq!(spec.linux().as_ref().unwrap().cgroups_path().as_deref(), Some(Path::new("/stint/run/uid-1/c_0")));
    let spec = built(json!({"containers": [{"name": "c"}]}), &image(), &Sources::default()).unwrap();
    let kinds = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let network = kinds.iter().find(|n| n.typ() == LinuxNamespaceType::Network).unwrap();
    assert_eq!(network.path().as_deref(), Some(Path::new("/run/net/10.85.0.2")), "the pod's, not the container's own");
}
