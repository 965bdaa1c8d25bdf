//! What a pod's spec says about its life, taken once.
//!
//! Invariant: nothing that a running pod may change is in here, but `activeDeadlineSeconds`, images and ephemeral containers,
//! whose changes are events.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec, ResourceRequirements, VolumeMountStatus,
};

use super::hook::Hooks;
use super::probe::ProbeSet;

/// Whether an init container is a sidecar: one that stays, beside the containers after it.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The containers that run together once a pod has started: its main ones and its sidecars.
pub fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let init = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(init.filter(|init| is_sidecar(init)))
}

/// The container of this name, of whatever sort.
pub fn find(spec: &PodSpec, name: &str) -> Option<Container> {
    let mut main = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ephemeral = || spec.ephemeral_containers.iter().flatten().find(|container| container.name == name);
    main.find(|container| container.name == name).cloned().or_else(|| ephemeral().map(as_container))
}

/// An ephemeral container as any other: it has the same members, but for whom it is to look at.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// What the spec says.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`, in seconds.
    pub grace: i64,
    /// `spec.activeDeadlineSeconds`.
    pub deadline: Option<SignedDuration>,
    /// `spec.initContainers`, then `spec.containers`, then `spec.ephemeralContainers`, in the spec's order.
    pub containers: Vec<ContainerFacts>,
}

/// What the spec says of one container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerFacts {
    /// Its name, unique in the pod.
    pub name: String,
    /// `image`.
    pub image: String,
    /// When it runs.
    pub role: Role,
    /// Whether it is started again after it ended.
    pub restart_policy: RestartPolicy,
    /// By which exit codes it is started again whatever the policy says (`restartPolicyRules`).
    pub restart_rules: Vec<RestartRule>,
    /// `imagePullPolicy`.
    pub pull_policy: PullPolicy,
    /// `lifecycle.stopSignal`, e.g. `SIGUSR1`.
    pub stop_signal: Option<String>,
    /// `startupProbe`, `livenessProbe` and `readinessProbe`, without how they are asked.
    pub probes: ProbeSet,
    /// Whether `lifecycle.postStart` and `lifecycle.preStop` are set.
    pub hooks: Hooks,
    /// `volumeMounts`, as the status tells them.
    pub mounts: Vec<VolumeMountStatus>,
    /// `resources`, if it asks for any.
    pub resources: Option<ResourceRequirements>,
}

/// When a container of a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To its end, before the next one starts.
    Init,
    /// From its turn among the init containers until the main containers have ended.
    Sidecar,
    /// With the other main containers, after the init containers.
    Main,
    /// At once, whatever the others do, and once (`kubectl debug`). The pod's end does not wait for it.
    Ephemeral,
}

/// Which ends of a container make it start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// None.
    Never,
    /// A failure.
    OnFailure,
    /// Every end.
    Always,
}

/// Exit codes after which a container is started again (KEP-5307).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartRule {
    /// One of these.
    In(Vec<i32>),
    /// Any but these.
    NotIn(Vec<i32>),
}

/// When an image is asked for at its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When it is not on the node.
    IfNotPresent,
    /// Never; it must be on the node.
    Never,
}

impl Facts {
    /// The facts of a pod. Fields that defaulting fills in are taken at their defaults when absent.
    pub fn of(pod: &Pod) -> Facts {
        let spec = pod.spec.clone().unwrap_or_default();
        let policy = RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
        let init = spec.init_containers.iter().flatten().map(|c| ContainerFacts::of_init(c, policy));
        let main = spec.containers.iter().map(|c| ContainerFacts::of_main(c, policy));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(ContainerFacts::of_ephemeral);
        Facts {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            restart_policy: policy,
            grace: spec.termination_grace_period_seconds.unwrap_or(30),
            deadline: spec.active_deadline_seconds.map(SignedDuration::from_secs),
            containers: init.chain(main).chain(ephemeral).collect(),
        }
    }
}

impl ContainerFacts {
    /// An init container is restarted when it fails, unless the pod never restarts any; one with policy Always is a
    /// sidecar.
    fn of_init(container: &Container, pod: RestartPolicy) -> ContainerFacts {
        let own = RestartPolicy::parse(container.restart_policy.as_deref());
        let (role, policy) = match (own, pod) {
            (Some(RestartPolicy::Always), _) => (Role::Sidecar, RestartPolicy::Always),
            (Some(own), _) => (Role::Init, own),
            (None, RestartPolicy::Never) => (Role::Init, RestartPolicy::Never),
            (None, _) => (Role::Init, RestartPolicy::OnFailure),
        };
        ContainerFacts::of(container, role, policy)
    }

    fn of_main(container: &Container, pod: RestartPolicy) -> ContainerFacts {
        let own = RestartPolicy::parse(container.restart_policy.as_deref());
        ContainerFacts::of(container, Role::Main, own.unwrap_or(pod))
    }

    /// What the spec says of an ephemeral container: it runs once.
    pub fn of_ephemeral(container: &EphemeralContainer) -> ContainerFacts {
        ContainerFacts::of(&as_container(container), Role::Ephemeral, RestartPolicy::Never)
    }

    fn of(container: &Container, role: Role, restart_policy: RestartPolicy) -> ContainerFacts {
        let image = container.image.clone().unwrap_or_default();
        ContainerFacts {
            name: container.name.clone(),
            role,
            restart_policy,
            restart_rules: container.restart_policy_rules.iter().flatten().filter_map(RestartRule::of).collect(),
            pull_policy: PullPolicy::of(container.image_pull_policy.as_deref(), &image),
            image,
            stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
            probes: ProbeSet::of(container),
            hooks: Hooks::of(container),
            mounts: mounts(container),
            resources: container.resources.clone().filter(|asked| *asked != ResourceRequirements::default()),
        }
    }
}

impl ContainerFacts {
    /// Whether the container is started again after it ended with `code`: the rules first, then the policy.
    /// Upstream: `pkg/api/v1/pod/util.go` (`ContainerShouldRestart`), v1.36.
    pub fn restarts(&self, code: i32) -> bool {
        self.restart_rules.iter().any(|rule| rule.matches(code)) || self.restart_policy.restarts(code)
    }
}

impl Role {
    /// Whether it is one of `spec.initContainers`.
    pub fn is_init(self) -> bool {
        matches!(self, Role::Init | Role::Sidecar)
    }
}

impl RestartRule {
    /// A rule that restarts the container; others are not for it alone.
    fn of(rule: &ContainerRestartRule) -> Option<RestartRule> {
        let codes = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart")?;
        let values = codes.values.clone().unwrap_or_default();
        match codes.operator.as_str() {
            "In" => Some(RestartRule::In(values)),
            "NotIn" => Some(RestartRule::NotIn(values)),
            _ => None,
        }
    }

    fn matches(&self, code: i32) -> bool {
        match self {
            RestartRule::In(codes) => codes.contains(&code),
            RestartRule::NotIn(codes) => !codes.contains(&code),
        }
    }
}

/// Whether a mount is read-only throughout is told of those that are read-only at all. Upstream:
/// `convertToAPIContainerStatuses`, `resolveRecursiveReadOnly` (`pkg/kubelet/kubelet_pods.go`, v1.36); our runtime can.
fn mounts(container: &Container) -> Vec<VolumeMountStatus> {
    let all = container.volume_mounts.iter().flatten().map(|mount| {
        let read_only = mount.read_only.filter(|is| *is);
        let throughout = matches!(mount.recursive_read_only.as_deref(), Some("IfPossible" | "Enabled"))
            && mount.mount_propagation.as_deref().is_none_or(|propagation| propagation == "None");
        let mode = if throughout { "Enabled" } else { "Disabled" };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| mode.to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    all.collect()
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Option<RestartPolicy> {
        match text? {
            "Never" => Some(RestartPolicy::Never),
            "OnFailure" => Some(RestartPolicy::OnFailure),
            "Always" => Some(RestartPolicy::Always),
            _ => None,
        }
    }

    /// Whether an end with `code` makes it start again.
    pub fn restarts(self, code: i32) -> bool {
        match self {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Always => true,
        }
    }
}

impl PullPolicy {
    /// The policy that is named, else the default: Always for `:latest` and for no tag at all.
    pub fn of(named: Option<&str>, image: &str) -> PullPolicy {
        match named {
            Some("Always") => return PullPolicy::Always,
            Some("Never") => return PullPolicy::Never,
            Some(_) => return PullPolicy::IfNotPresent,
            None => {}
        }
        let last = image.rsplit('/').next().unwrap_or_default();
        match last.rsplit_once(':') {
            _ if image.contains('@') => PullPolicy::IfNotPresent,
            None | Some((_, "latest")) => PullPolicy::Always,
            Some(_) => PullPolicy::IfNotPresent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_asked_before_the_policy() {
        let restarts = |policy: &str, operator: &str, action: &str| {
            let rules =
                serde_json::json!([{"action": action, "exitCodes": {"operator": operator, "values": [42, 43]}}]);
            let container = serde_json::json!({"name": "c", "restartPolicy": policy, "restartPolicyRules": rules});
            let container: Container = serde_json::from_value(container).unwrap();
            let facts = ContainerFacts::of_main(&container, RestartPolicy::Never);
            [0, 1, 42].map(|code| facts.restarts(code))
        };
        assert_eq!(restarts("Never", "In", "Restart"), [false, false, true]);
        assert_eq!(restarts("Never", "NotIn", "Restart"), [true, true, false]);
        assert_eq!(restarts("OnFailure", "In", "Restart"), [false, true, true]);
        assert_eq!(restarts("Always", "In", "Restart"), [true, true, true]);
        assert_eq!(restarts("Never", "In", "RestartAllContainers"), [false, false, false]);
    }

    #[test]
    fn a_status_tells_which_mounts_are_read_only_and_how_far() {
        let told = |mount: serde_json::Value| {
            let container = serde_json::json!({"name": "c", "volumeMounts": [mount]});
            let told = mounts(&serde_json::from_value(container).unwrap()).remove(0);
            (told.read_only, told.recursive_read_only)
        };
        let mount = |mode: Option<&str>, read_only: bool| serde_json::json!({"name": "v", "mountPath": "/v", "readOnly": read_only, "recursiveReadOnly": mode});
        assert_eq!(told(mount(None, false)), (None, None));
        assert_eq!(told(mount(None, true)), (Some(true), Some("Disabled".into())));
        for mode in ["IfPossible", "Enabled"] {
            assert_eq!(told(mount(Some(mode), true)), (Some(true), Some("Enabled".into())));
        }
        let mut shared = mount(Some("IfPossible"), true);
        shared["mountPropagation"] = "HostToContainer".into();
        assert_eq!(told(shared), (Some(true), Some("Disabled".into())));
    }

    #[test]
    fn pull_policy_defaults_by_tag() {
        let of = |image| PullPolicy::of(None, image);
        assert_eq!(of("perl:5.34.0"), PullPolicy::IfNotPresent);
        assert_eq!(of("perl"), PullPolicy::Always);
        assert_eq!(of("host:5000/perl"), PullPolicy::Always);
        assert_eq!(of("host:5000/perl:latest"), PullPolicy::Always);
        assert_eq!(of("perl@sha256:00"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(Some("Never"), "perl"), PullPolicy::Never);
    }
}
