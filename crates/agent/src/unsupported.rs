//! What a pod asks for and this node does not do yet, so that nobody has to find out the hard way.
//!
//! Invariant: a field that would be ignored in silence and whose loss somebody may notice is named here. Fields whose
//! loss would be unsafe, or change what the pod means, are refused where they are used; those that refuse are named
//! here too, so that the command line can tell before anything runs.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// The fields by path, each with what happens instead.
pub fn unsupported(spec: &PodSpec) -> Vec<String> {
    let mut told = Vec::new();
    let mut say = |holds: bool, path: &str, why: &str| {
        if holds {
            told.push(format!("{path}: {why}"));
        }
    };
    say(
        spec.share_process_namespace == Some(true),
        "shareProcessNamespace",
        "each container still has its own processes",
    );
    say(spec.host_users == Some(false), "hostUsers", "user namespaces are not supported yet; the pod will not start");
    say(
        spec.host_aliases.as_ref().is_some_and(|list| !list.is_empty()),
        "hostAliases",
        "not written to /etc/hosts on the host's root filesystem, which `stint run --host` uses",
    );
    say(
        spec.dns_config.is_some(),
        "dnsConfig",
        "not written to /etc/resolv.conf on the host's root filesystem, which `stint run --host` uses",
    );
    say(spec.subdomain.is_some(), "subdomain", "pods find each other by name in `stint serve` only");
    say(spec.runtime_class_name.is_some(), "runtimeClassName", "there is one runtime");
    say(
        spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()),
        "ephemeralContainers",
        "they are not started",
    );
    say(
        spec.readiness_gates.as_ref().is_some_and(|list| !list.is_empty()),
        "readinessGates",
        "they are not waited for",
    );
    say(
        spec.resource_claims.as_ref().is_some_and(|list| !list.is_empty()),
        "resourceClaims",
        "devices can't be claimed",
    );
    say(spec.resources.is_some(), "resources", "limits of a whole pod are not applied; set those of its containers");
    if let Some(context) = &spec.security_context {
        say(
            context.sysctls.as_ref().is_some_and(|list| !list.is_empty()),
            "securityContext.sysctls",
            "the pod will not start",
        );
        say(context.se_linux_options.is_some(), "securityContext.seLinuxOptions", "the pod will not start");
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let known = volume.empty_dir.is_some()
            || volume.host_path.is_some()
            || volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.persistent_volume_claim.is_some()
            || volume.ephemeral.is_some()
            || volume.image.is_some()
            || volume.projected.is_some();
        say(!known, &format!("volumes[{index}]"), "this kind of volume is not supported yet; the pod will not start");
        for (at, source) in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).enumerate() {
            let token = source.service_account_token.is_some();
            let known = source.config_map.is_some() || source.secret.is_some() || source.downward_api.is_some();
            let path = format!("volumes[{index}].projected.sources[{at}]");
            say(token, &path, "there are no ServiceAccounts outside of `stint serve`; the pod will not start here");
            say(!known && !token, &path, "this source is not supported yet; the pod will not start");
        }
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        of_container(container, &format!("initContainers[{index}]"), &mut told);
    }
    for (index, container) in spec.containers.iter().enumerate() {
        of_container(container, &format!("containers[{index}]"), &mut told);
    }
    told
}

fn of_container(container: &Container, path: &str, told: &mut Vec<String>) {
    let mut say = |holds: bool, field: &str, why: &str| {
        if holds {
            told.push(format!("{path}.{field}: {why}"));
        }
    };
    say(
        container.restart_policy_rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers"),
        "restartPolicyRules",
        "RestartAllContainers is not followed: the other rules and the restart policy decide",
    );
    say(
        container.volume_devices.as_ref().is_some_and(|list| !list.is_empty()),
        "volumeDevices",
        "block devices are not supported yet",
    );
    let ports = container.ports.iter().flatten().any(|port| port.host_port.is_some());
    say(
        ports,
        "ports[].hostPort",
        "in `stint run` pods are on the host's network: the container's own port is open there",
    );
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        say(
            mount.mount_propagation.as_deref() == Some("Bidirectional"),
            &format!("volumeMounts[{index}].mountPropagation"),
            "it needs a privileged container; the pod will not start",
        );
    }
    let limits = container.resources.iter().flat_map(|r| r.limits.iter().flatten());
    for (name, _) in limits.filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")) {
        say(true, &format!("resources.limits[{name}]"), "not enforced yet");
    }
    if let Some(context) = &container.security_context {
        say(context.privileged == Some(true), "securityContext.privileged", "the pod will not start");
        let unmasked = context.proc_mount.as_deref().is_some_and(|kind| kind != "Default");
        say(unmasked, "securityContext.procMount", "the pod will not start");
        let localhost = context.seccomp_profile.as_ref().is_some_and(|profile| profile.type_ == "Localhost");
        say(
            localhost,
            "securityContext.seccompProfile",
            "profiles of the node are not supported yet; the pod will not start",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_ignored_is_named_by_its_path() {
        let spec: PodSpec = serde_json::from_value(json!({
            "shareProcessNamespace": true,
            "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}],
            "containers": [{"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}],
                            "resources": {"limits": {"cpu": "1", "hugepages-2Mi": "2Mi"}}}]
        }))
        .unwrap();
        let paths: Vec<String> = unsupported(&spec).iter().map(|t| t.split(": ").next().unwrap().to_owned()).collect();
        assert_eq!(
            paths,
            [
                "shareProcessNamespace",
                "volumes[0]",
                "containers[0].volumeDevices",
                "containers[0].resources.limits[hugepages-2Mi]",
            ]
        );
        let plain: PodSpec = serde_json::from_value(json!({"containers": [{"name": "c"}]})).unwrap();
        assert_eq!(unsupported(&plain), Vec::<String>::new());
    }
}
