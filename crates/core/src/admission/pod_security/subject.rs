//! What the rules of Pod Security look at: a pod, with its containers of every sort seen alike.

use k8s_openapi::api::core::v1::{ContainerPort, Lifecycle, PodSecurityContext, PodSpec, Probe, SecurityContext};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A pod that is looked at.
pub(super) struct Subject<'a> {
    pub(super) meta: &'a ObjectMeta,
    pub(super) spec: &'a PodSpec,
    /// Init containers, then main ones, then ephemeral ones.
    pub(super) containers: Vec<Member<'a>>,
}

/// One container of it.
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) security: Option<&'a SecurityContext>,
    pub(super) ports: &'a [ContainerPort],
    pub(super) probes: [Option<&'a Probe>; 3],
    pub(super) lifecycle: Option<&'a Lifecycle>,
}

/// The members that ordinary and ephemeral containers have in common.
macro_rules! member {
    ($container:expr) => {
        Member {
            name: &$container.name,
            security: $container.security_context.as_ref(),
            ports: $container.ports.as_deref().unwrap_or_default(),
            probes: [
                $container.liveness_probe.as_ref(),
                $container.readiness_probe.as_ref(),
                $container.startup_probe.as_ref(),
            ],
            lifecycle: $container.lifecycle.as_ref(),
        }
    };
}

impl<'a> Subject<'a> {
    pub(super) fn new(meta: &'a ObjectMeta, spec: &'a PodSpec) -> Subject<'a> {
        let main = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| member!(container));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| member!(container));
        Subject { meta, spec, containers: main.chain(ephemeral).collect() }
    }

    /// The pod's own security context.
    pub(super) fn security(&self) -> Option<&'a PodSecurityContext> {
        self.spec.security_context.as_ref()
    }

    /// The names of the containers that are so.
    pub(super) fn those(&self, mut is_so: impl FnMut(&Member<'a>) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|member| is_so(member)).map(|member| member.name).collect()
    }

    /// Whether its users are others than the node's, so that root in it is nobody.
    pub(super) fn has_own_users(&self) -> bool {
        self.spec.host_users == Some(false)
    }

    pub(super) fn is_for_windows(&self) -> bool {
        self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }
}

/// `"a", "b"`.
pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// The word for this many.
pub(super) fn plural(one: &'static str, several: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { several }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// Who sets something that it may not: `pod and containers "a", "b"`. `None`: nobody does.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let containers = (!names.is_empty()).then(|| containers(names));
    match (pod, containers) {
        (false, None) => None,
        (true, None) => Some("pod".to_owned()),
        (false, Some(containers)) => Some(containers),
        (true, Some(containers)) => Some(format!("pod and {containers}")),
    }
}
