//! What means something else in `stint run` than where pods have a network and an API.
//!
//! Left out: what no pod is given here at all, which whoever creates it is warned about (`stint_core::validate::unhonoured`).

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
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    say(
        sysctls.into_iter().any(|sysctl| sysctl.name.starts_with("net")),
        "securityContext.sysctls",
        "pods are on the host's network in `stint run`; the pod will be rejected",
    );
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        for (at, source) in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).enumerate() {
            say(
                source.service_account_token.is_some(),
                &format!("volumes[{index}].projected.sources[{at}]"),
                "there are no ServiceAccounts outside of `stint serve`; the pod will not start here",
            );
        }
    }
    let init = spec.init_containers.iter().flatten().enumerate();
    let main = spec.containers.iter().enumerate();
    for (list, (index, container)) in init.map(|one| ("initContainers", one)).chain(main.map(|one| ("containers", one)))
    {
        say(
            has_host_port(container),
            &format!("{list}[{index}].ports[].hostPort"),
            "in `stint run` pods are on the host's network: the container's own port is open there",
        );
    }
    told
}

fn has_host_port(container: &Container) -> bool {
    container.ports.iter().flatten().any(|port| port.host_port.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_run_does_otherwise_is_named_by_its_path() {
        let spec: PodSpec = serde_json::from_value(json!({
            "subdomain": "s",
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {}}, {"serviceAccountToken": {"path": "t"}}]}}],
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]
        }))
        .unwrap();
        let paths: Vec<String> = unsupported(&spec).iter().map(|t| t.split(": ").next().unwrap().to_owned()).collect();
        assert_eq!(paths, ["subdomain", "volumes[0].projected.sources[1]", "containers[0].ports[].hostPort"]);
        let plain: PodSpec = serde_json::from_value(json!({"containers": [{"name": "c"}]})).unwrap();
        assert_eq!(unsupported(&plain), Vec::<String>::new());
    }
}
