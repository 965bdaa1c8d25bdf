//! The table against what Kubernetes' reference says about its types.

use stint_schema::{Field, ListRule, Schema, Shape, Value};

fn field(path: &str) -> &'static Field {
    let (owner, name) = path.rsplit_once('.').expect("a path names a type and a member");
    let (group, owner) = owner.split_once('/').expect("a path starts with a group");
    let package = if group == "meta" { "apimachinery.pkg.apis.meta.v1".into() } else { format!("api.{group}.v1") };
    let owner = Schema::get().named(&format!("io.k8s.{package}.{owner}")).unwrap_or_else(|| panic!("{path}: no type"));
    owner.field(name).unwrap_or_else(|| panic!("{path}: no member"))
}

/// Members, their strategic merge key (`-`: replaced, `merge`: a set), and their list type (or `-` for none).
const RULES: &[(&str, &str, &str)] = &[
    ("meta/ObjectMeta.ownerReferences", "uid", "uid"),
    ("meta/ObjectMeta.finalizers", "merge", "set"),
    ("core/PodSpec.containers", "name", "name"),
    ("core/PodSpec.initContainers", "name", "name"),
    ("core/PodSpec.ephemeralContainers", "name", "name"),
    ("core/PodSpec.volumes", "name,retainKeys", "name"),
    ("core/PodSpec.resourceClaims", "name,retainKeys", "name"),
    ("core/PodSpec.imagePullSecrets", "name", "name"),
    ("core/PodSpec.schedulingGates", "name", "name"),
    ("core/PodSpec.hostAliases", "ip", "ip"),
    ("core/PodSpec.topologySpreadConstraints", "topologyKey", "topologyKey,whenUnsatisfiable"),
    ("core/PodSpec.tolerations", "-", "atomic"),
    ("core/PodSpec.readinessGates", "-", "atomic"),
    ("core/Container.env", "name", "name"),
    ("core/Container.ports", "containerPort", "containerPort,protocol"),
    ("core/Container.volumeMounts", "mountPath", "mountPath"),
    ("core/Container.volumeDevices", "devicePath", "devicePath"),
    ("core/Container.args", "-", "atomic"),
    ("core/Container.command", "-", "atomic"),
    ("core/Container.envFrom", "-", "atomic"),
    ("core/Container.resizePolicy", "-", "atomic"),
    ("core/EphemeralContainer.env", "name", "name"),
    ("core/ResourceRequirements.claims", "-", "name"),
    ("core/PodStatus.conditions", "type", "type"),
    ("core/PodStatus.podIPs", "ip", "ip"),
    ("core/PodStatus.hostIPs", "ip", "atomic"),
    ("core/PodStatus.containerStatuses", "-", "atomic"),
    ("core/PodStatus.initContainerStatuses", "-", "atomic"),
    ("batch/JobStatus.conditions", "type", "atomic"),
    ("batch/UncountedTerminatedPods.succeeded", "-", "set"),
    ("batch/UncountedTerminatedPods.failed", "-", "set"),
    ("batch/CronJobStatus.active", "-", "atomic"),
    ("batch/PodFailurePolicy.rules", "-", "atomic"),
    ("batch/PodFailurePolicyRule.onPodConditions", "-", "atomic"),
    ("batch/SuccessPolicy.rules", "-", "atomic"),
    ("batch/PodFailurePolicyOnExitCodesRequirement.values", "-", "set"),
    ("core/NamespaceStatus.conditions", "type", "type"),
    ("core/NodeStatus.conditions", "type", "type"),
    ("core/NodeStatus.addresses", "type", "type"),
    ("core/NodeSpec.taints", "-", "atomic"),
    ("core/NodeSpec.podCIDRs", "merge", "set"),
    ("core/ServiceAccount.secrets", "name", "name"),
    ("core/ServiceAccount.imagePullSecrets", "-", "atomic"),
    ("rbac/Role.rules", "-", "atomic"),
    ("rbac/RoleBinding.subjects", "-", "atomic"),
];

#[test]
fn members_merge_as_the_reference_says() {
    for (path, patch, list) in RULES {
        let field = field(path);
        let found = match (field.patch.merge, field.patch.key, field.patch.retain_keys) {
            (true, Some(key), true) => format!("{key},retainKeys"),
            (true, Some(key), false) => key.to_owned(),
            (true, None, false) => "merge".to_owned(),
            _ => "-".to_owned(),
        };
        assert_eq!(found, *patch, "the patch rule of {path}");
        let found = match &field.list {
            Some(ListRule::Atomic) => "atomic".to_owned(),
            Some(ListRule::Set) => "set".to_owned(),
            Some(ListRule::Map(keys)) => keys.join(","),
            None => "-".to_owned(),
        };
        assert_eq!(found, *list, "the list rule of {path}");
    }
}

#[test]
fn selectors_and_references_are_atomic() {
    let schema = Schema::get();
    for name in [
        "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
        "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
        "io.k8s.api.core.v1.ConfigMapKeySelector",
        "io.k8s.api.core.v1.SecretKeySelector",
        "io.k8s.api.core.v1.ObjectReference",
        "io.k8s.api.core.v1.LocalObjectReference",
        "io.k8s.api.core.v1.NodeSelector",
        "io.k8s.api.core.v1.NodeSelectorTerm",
        "io.k8s.api.rbac.v1.RoleRef",
        "io.k8s.api.rbac.v1.Subject",
    ] {
        assert!(schema.named(name).expect("the type is there").atomic, "{name} is atomic");
    }
    assert!(!schema.named("io.k8s.api.core.v1.PodSpec").expect("the type is there").atomic);
    assert!(field("core/PodSpec.nodeSelector").atomic, "a node selector is one value");
    assert!(!field("meta/ObjectMeta.labels").atomic, "labels are merged");
}

#[test]
fn every_type_is_whole() {
    let schema = Schema::get();
    let mut count = 0;
    for of in schema.types() {
        count += 1;
        let mut places = Vec::new();
        assert!(of.fields().is_empty() || of.shape == Shape::Struct, "{} has members", of.name);
        for field in of.fields() {
            assert!(std::ptr::eq(of.field(field.name).expect("a member is found by name"), field));
            if field.tag != 0 {
                let found = of.tagged(field.via, field.tag).expect("a member is found by its place");
                assert!(std::ptr::eq(found, field), "{}.{}", of.name, field.name);
                assert!(!of.embeds(field.tag) || field.via.is_some(), "{}.{} hides a message", of.name, field.name);
                places.push((field.via, field.tag));
            }
            if let Some(ListRule::Map(keys)) = &field.list {
                let Value::List(item) = &field.value else { panic!("{}.{} is no list", of.name, field.name) };
                let Value::Object(item) = **item else { panic!("{}.{} has plain items", of.name, field.name) };
                for key in keys {
                    assert!(schema.at(item).field(key).is_some(), "{}.{}: no key {key}", of.name, field.name);
                }
            }
        }
        let all = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), all, "{}: two members at one place", of.name);
    }
    assert!(count > 400, "{count} types");
}

#[test]
fn kinds_are_found_with_their_lists() {
    let schema = Schema::get();
    for (version, kind) in [
        ("v1", "Pod"),
        ("v1", "Binding"),
        ("v1", "Status"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("apps/v1", "Deployment"),
        ("coordination.k8s.io/v1", "Lease"),
        ("events.k8s.io/v1", "Event"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
        ("policy/v1", "Eviction"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ] {
        let found = schema.kind(version, kind).unwrap_or_else(|| panic!("{version} {kind} is there"));
        assert_eq!(found.kind, Some((version, kind)));
        assert!(!found.doc().is_empty() || kind == "TokenRequest", "{kind} is described");
    }
    assert!(schema.kind("batch/v1", "JobList").is_some());
    assert!(schema.kind("batch/v1", "Pod").is_none());
}

#[test]
fn the_table_is_parsed_in_a_few_milliseconds() {
    // What this thread is at work, whatever else the machine does.
    let worked = || -> Option<u64> {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        times.split(' ').next()?.parse().ok()
    };
    let before = worked();
    Schema::get();
    let Some((before, after)) = before.zip(worked()) else {
        println!("skipped: this kernel does not tell how long a thread was at work");
        return;
    };
    let took = std::time::Duration::from_nanos(after - before);
    println!("parsed in {took:?}");
    assert!(took.as_millis() < 200, "an unoptimised build took {took:?}");
}
