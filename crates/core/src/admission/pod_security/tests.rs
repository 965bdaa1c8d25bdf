//! One row per rule and version: a pod, and what is said of it. The rows are upstream's own cases, by meaning.

use serde_json::{Value, json};

use super::*;

const RESTRICTED: &str = "restricted:latest";

fn rules(text: &str) -> Rules {
    let (level, version) = text.split_once(':').unwrap();
    Rules { level: Level::parse(level).unwrap(), version: Version::parse(version).unwrap() }
}

fn pod(spec: &Value) -> Pod {
    let mut spec = spec.clone();
    let annotations = spec.as_object_mut().unwrap().remove("annotations");
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "annotations": annotations}, "spec": spec})).unwrap()
}

/// Everything that is said at `text`, one violation a line.
fn said(text: &str, spec: &Value) -> String {
    let pod = pod(spec);
    let all = violations(rules(text), &pod.metadata, pod.spec.as_ref().unwrap());
    all.iter().map(|one| format!("{} ({})", one.reason, one.detail)).collect::<Vec<_>>().join("\n")
}

/// A container that keeps every rule, but for what is laid over it.
fn careful(name: &str, own: &Value) -> Value {
    let mut security = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    for (key, value) in own.as_object().unwrap() {
        security[key] = value.clone();
    }
    json!({"name": name, "securityContext": security})
}

fn secured(own: &[(&str, Value)]) -> Value {
    let list: Vec<Value> = own.iter().map(|(name, own)| json!({"name": name, "securityContext": own})).collect();
    json!({ "containers": list })
}

#[test]
fn baseline_forbids_what_gives_a_pod_its_node() {
    let host = |host: &str| json!({"httpGet": {"port": 1, "host": host}});
    for (version, spec, expected) in [
        ("latest", json!({}), ""),
        (
            "latest",
            json!({"hostPID": true, "hostNetwork": true, "hostIPC": false}),
            "host namespaces (hostNetwork, hostPID)",
        ),
        (
            "latest",
            secured(&[("a", json!({"privileged": true})), ("b", json!({"privileged": false}))]),
            r#"privileged (container "a" must not set securityContext.privileged=true)"#,
        ),
        (
            "latest",
            secured(&[
                ("a", json!({"capabilities": {"add": ["FOO", "BAR", "CHOWN"]}})),
                ("b", json!({"capabilities": {"add": ["BAZ", "NET_RAW"]}})),
            ]),
            r#"non-default capabilities (containers "a", "b" must not include "BAR", "BAZ", "FOO", "NET_RAW" in securityContext.capabilities.add)"#,
        ),
        (
            "latest",
            json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "emptyDir": {}}]}),
            r#"hostPath volumes (volume "a")"#,
        ),
        (
            "latest",
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 20}, {"containerPort": 2}]}],
                   "initContainers": [{"name": "i", "ports": [{"containerPort": 1, "hostPort": 10}]}]}),
            r#"hostPort (containers "i", "a" use hostPorts 10, 20)"#,
        ),
        (
            "latest",
            json!({"containers": [{"name": "b", "livenessProbe": host("8.8.8.8"), "readinessProbe": host("")},
                                  {"name": "a", "lifecycle": {"preStop": host("::1")}}]}),
            r#"probe or lifecycle host (containers "a", "b" use probe or lifecycle hosts "8.8.8.8", "::1")"#,
        ),
        ("v1.33", json!({"containers": [{"name": "b", "livenessProbe": host("8.8.8.8")}]}), ""),
        (
            "latest",
            secured(&[("a", json!({"procMount": "Unmasked"}))]),
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            "latest",
            json!({"securityContext": {"seLinuxOptions": {"type": "foo", "user": "bar", "role": "baz"}},
                   "containers": [{"name": "d", "securityContext": {"seLinuxOptions": {"type": "bar"}}},
                                  {"name": "e", "securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}]}),
            r#"seLinuxOptions (pod and container "d" set forbidden securityContext.seLinuxOptions: types "bar", "foo"; user may not be set; role may not be set)"#,
        ),
        (
            "v1.30",
            json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}),
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "container_engine_t")"#,
        ),
        (
            "latest",
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}},
                   "containers": [{"name": "a", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}),
            r#"seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            "v1.18",
            json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined",
                                   "container.seccomp.security.alpha.kubernetes.io/c": "localhost/x"}}),
            r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#,
        ),
        (
            "latest",
            json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"},
                   "containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}),
            concat!(
                r#"forbidden AppArmor profiles (container "a" and annotation must not set AppArmor profile type to "#,
                r#""Unconfined", "container.apparmor.security.beta.kubernetes.io/c="unconfined"")"#
            ),
        ),
        (
            "latest",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}, {"name": "a", "value": "1"},
                                                   {"name": "b", "value": "1"}]}}),
            "forbidden sysctls (a, b)",
        ),
        (
            "v1.31",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"},
                                                   {"name": "net.ipv4.tcp_fin_timeout", "value": "1"}]}}),
            "forbidden sysctls (net.ipv4.tcp_rmem)",
        ),
        (
            "v1.28",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports", "value": "1"},
                                                   {"name": "net.ipv4.tcp_fin_timeout", "value": "1"}]}}),
            "forbidden sysctls (net.ipv4.tcp_fin_timeout)",
        ),
        (
            "latest",
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}},
                   "containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": true}}}]}),
            r#"hostProcess (pod and container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
        ),
    ] {
        assert_eq!(said(&format!("baseline:{version}"), &spec), expected, "{spec}");
    }
}

#[test]
fn restricted_wants_a_pod_to_say_that_it_needs_little() {
    let with = |own: Value| json!({"containers": [careful("a", &own)]});
    for (version, spec, expected) in [
        ("latest", with(json!({})), ""),
        (
            "latest",
            json!({}),
            concat!(
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)\n",
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])\n",
                "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)\n",
                "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ),
        ),
        (
            "v1.0",
            json!({}),
            r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#,
        ),
        (
            "latest",
            json!({"containers": [careful("a", &json!({"capabilities": {"add": ["FOO", "BAR"]}})),
                                  careful("b", &json!({"capabilities": {"add": ["BAR", "BAZ"]}})),
                                  careful("c", &json!({"capabilities": {"add": ["NET_BIND_SERVICE", "CHOWN"], "drop": ["ALL"]}}))]}),
            concat!(
                r#"unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"]; "#,
                r#"containers "a", "b", "c" must not include "BAR", "BAZ", "CHOWN", "FOO" in securityContext.capabilities.add)"#
            ),
        ),
        (
            "latest",
            json!({"containers": [careful("a", &json!({}))],
                   "volumes": [{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {"server": "s", "path": "/"}},
                               {"name": "m", "nfs": {"server": "s", "path": "/"}}, {"name": "u"}, {"name": "i", "image": {}}]}),
            r#"restricted volume types (volumes "h", "n", "m", "u" use restricted volume types "hostPath", "nfs", "unknown")"#,
        ),
        (
            "latest",
            json!({"securityContext": {"runAsNonRoot": false},
                   "containers": [careful("a", &json!({"runAsNonRoot": false})), careful("b", &json!({}))]}),
            r#"runAsNonRoot != true (pod and container "a" must not set securityContext.runAsNonRoot=false)"#,
        ),
        (
            "latest",
            json!({"securityContext": {"runAsUser": 0}, "containers": [careful("a", &json!({"runAsUser": 0}))]}),
            r#"runAsUser=0 (pod and container "a" must not set runAsUser=0)"#,
        ),
        ("v1.22", with(json!({"runAsUser": 0})), ""),
        (
            "latest",
            json!({"hostUsers": false, "containers": [careful("a", &json!({"runAsUser": 0, "runAsNonRoot": false}))]}),
            "",
        ),
        (
            "v1.34",
            json!({"hostUsers": false, "containers": [careful("a", &json!({"runAsUser": 0}))]}),
            r#"runAsUser=0 (container "a" must not set runAsUser=0)"#,
        ),
        (
            "latest",
            json!({"hostUsers": false, "containers": [careful("a", &json!({"procMount": "Unmasked"}))]}),
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            "latest",
            with(json!({"seccompProfile": {"type": "Unconfined"}})),
            r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        ("latest", json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}}), ""),
        (
            "v1.24",
            json!({"os": {"name": "windows"}, "containers": [careful("a", &json!({"allowPrivilegeEscalation": null}))]}),
            r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)"#,
        ),
        (
            "latest",
            json!({"containers": [careful("a", &json!({}))], "ephemeralContainers": [{"name": "e"}],
                   "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}}}),
            concat!(
                "allowPrivilegeEscalation != false (container \"e\" must set securityContext.allowPrivilegeEscalation=false)\n",
                "unrestricted capabilities (container \"e\" must set securityContext.capabilities.drop=[\"ALL\"])",
            ),
        ),
    ] {
        assert_eq!(said(&format!("restricted:{version}"), &spec), expected, "{spec}");
    }
    let own = json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]});
    assert_eq!(said("baseline:latest", &own), "", "root of another user namespace may see all of /proc");
    assert!(!said("baseline:v1.34", &own).is_empty());
    assert_eq!(said("privileged:latest", &json!({"hostPID": true})), "");
}

fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), (*value).to_owned())).collect()
}

#[test]
fn labels_are_read_and_what_is_wrong_with_them_is_told() {
    let (policy, faults) =
        Policy::of(Some(&labels(&[("enforce", "baseline"), ("enforce-version", "v1.30"), ("warn", "restricted")])));
    assert_eq!((policy.enforce, policy.warn), (rules("baseline:v1.30"), rules(RESTRICTED)));
    assert_eq!((policy.audit, faults), (rules("privileged:latest"), vec![]));
    assert_eq!(Policy::of(None), (Policy::NONE, vec![]));
    let wrong =
        labels(&[("enforce", "strict"), ("audit", "x"), ("warn-version", "v1.07"), ("enforce-version", "v2.0")]);
    let (policy, faults) = Policy::of(Some(&wrong));
    assert_eq!(policy.enforce, rules(RESTRICTED), "what is not understood is no way out");
    assert_eq!((policy.audit.level, policy.warn), (Level::Privileged, ANYTHING));
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#,
            r#"metadata.labels[pod-security.kubernetes.io/enforce-version]: Invalid value: "v2.0": must be "latest" or "v1.x""#,
            r#"metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: "x": must be one of privileged, baseline, restricted"#,
            r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.07": must be "latest" or "v1.x""#,
        ]
    );
    let meta = ObjectMeta { labels: Some(wrong), ..ObjectMeta::default() };
    assert_eq!(label_faults(&meta, None).len(), 4);
    assert_eq!(label_faults(&meta, Some(&meta)), [], "what was wrong may stay");
}

#[test]
fn each_mode_says_what_it_is_for() {
    let policy =
        Policy { enforce: rules("baseline:latest"), audit: rules("baseline:v1.5"), warn: rules("restricted:v1.0") };
    let verdict = judge_pod(&policy, &pod(&json!({"hostPID": true})));
    assert_eq!(
        verdict.refusal.as_deref(),
        Some(r#"violates PodSecurity "baseline:latest": host namespaces (hostPID)"#)
    );
    assert_eq!(
        verdict.audit.as_deref(),
        Some(r#"would violate PodSecurity "baseline:v1.5": host namespaces (hostPID)"#)
    );
    assert_eq!(verdict.warning, None, "who is refused is not warned");
    let warned = r#"would violate PodSecurity "restricted:v1.0": runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#;
    let good = pod(&json!({}));
    assert_eq!(judge_pod(&policy, &good), Verdict { refusal: None, warning: Some(warned.into()), audit: None });
    let bad = pod(&json!({"hostPID": true}));
    let verdict = judge_template(&policy, &bad.metadata, bad.spec.as_ref().unwrap());
    assert_eq!(verdict.refusal, None, "its pods are refused, not what makes them");
    assert!(verdict.audit.is_some() && verdict.warning.is_some());
}

#[test]
fn only_a_change_that_may_matter_is_judged() {
    let base = pod(&json!({}));
    assert!(!is_significant(&base, &base));
    let mut other = base.clone();
    other.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    assert!(!is_significant(&other, &base));
    assert!(is_significant(&pod(&json!({"containers": [{"name": "c", "image": "x"}]})), &base));
    assert!(is_significant(&pod(&json!({"ephemeralContainers": [{"name": "e"}]})), &base));
    let profile = json!({"annotations": {"container.seccomp.security.alpha.kubernetes.io/c": "unconfined"}});
    assert!(is_significant(&pod(&profile), &base));
}

#[test]
fn pods_that_a_stricter_namespace_would_refuse_are_named() {
    let meta = |all: &[(&str, &str)]| ObjectMeta { labels: Some(labels(all)), ..ObjectMeta::default() };
    let (none, baseline) = (meta(&[]), meta(&[("enforce", "baseline")]));
    assert_eq!(stricter(&baseline, &none), Some(rules("baseline:latest")));
    assert_eq!(stricter(&none, &baseline), None);
    assert_eq!(stricter(&baseline, &meta(&[("enforce", "restricted")])), None);
    let named = |name: &str, spec: Value| {
        let mut pod = pod(&spec);
        pod.metadata.name = Some(name.to_owned());
        pod
    };
    let pods = [
        named("b", json!({"hostPID": true})),
        named("a", json!({"hostNetwork": true})),
        named("good", json!({})),
        named("c", json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]})),
    ];
    let told = existing_pods(rules("baseline:latest"), "ns", &pods);
    assert_eq!(
        told,
        [
            r#"existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest""#,
            "a (and 1 other pod): host namespaces",
            "c: privileged",
        ]
    );
    assert_eq!(existing_pods(rules("baseline:latest"), "ns", &pods[2..3]), Vec::<String>::new());
}
