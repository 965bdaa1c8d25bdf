//! Containers: what runs in them, as whom, with how much, and how it is looked after.

use super::{
    AGENT, APP_ARMOR, ApiType, FOR_WINDOWS, HANDLER, HOOKS, POD, PROBE, PROBES, REAL, SPEC, Tests, moot, of, partly,
    warned, yes,
};

const ENVIRONMENT: Tests = &[(SPEC, "the_environment_is_layered_and_expanded")];
const SOURCES: Tests = &[(SPEC, "config_maps_and_secrets_reach_the_environment_or_are_missed")];
const THRESHOLDS: Tests = &[(PROBE, "thresholds_count_answers_in_a_row")];
const HTTP: Tests = &[(HANDLER, "http_is_judged_by_its_status_and_the_body_stays_secret")];
const PORTS: Tests = &[(HANDLER, "ports_have_numbers_and_names")];
const WHO: Tests = &[(SPEC, "the_user_is_the_containers_the_pods_or_the_images")];
const SETTINGS: Tests = &[(SPEC, "security_settings_reach_the_spec_or_are_refused")];
const HOST_PORTS: Tests = &[
    ("crates/agent/src/network.rs", "host_ports_are_those_of_what_runs_with_the_main_containers"),
    ("crates/network/src/tests.rs", "a_host_port_leads_to_its_pod_from_everywhere"),
];

pub(super) static TYPES: &[ApiType] = &[
    of(
        "Container",
        &[
            yes("name", "", &[(AGENT, "a_pod_succeeds_and_its_status_tells_it_all")]),
            yes(
                "image",
                "",
                &[
                    ("crates/stint/tests/run.rs", "an_image_is_pulled_through_a_mirror_and_kept"),
                    (AGENT, "a_missing_image_backs_off"),
                ],
            ),
            yes("command", "", &[(SPEC, "command_and_args_follow_the_table_of_the_documentation")]),
            yes("args", "", &[(SPEC, "command_and_args_follow_the_table_of_the_documentation")]),
            yes("workingDir", "", &[(SPEC, "a_container_begins_in_its_own_folder_or_its_images")]),
            yes("ports", "", HOST_PORTS),
            yes("envFrom", "", SOURCES),
            yes("env", "", ENVIRONMENT),
            yes("resources", "", &[(SPEC, "limits_are_set_only_when_asked_for")]),
            moot("resizePolicy", "pods can't be resized"),
            yes(
                "restartPolicy",
                "",
                &[
                    ("crates/core/src/pod/facts.rs", "rules_are_asked_before_the_policy"),
                    (POD, "sidecars_outlive_the_main_containers_and_end_in_reverse_order"),
                ],
            ),
            partly(
                "restartPolicyRules",
                "the action `Restart`",
                &[("crates/core/src/pod/facts.rs", "rules_are_asked_before_the_policy")],
            ),
            yes("volumeMounts", "", &[(REAL, "config_maps_and_shared_volumes_are_seen")]),
            warned("volumeDevices"),
            yes("livenessProbe", "", &[(REAL, "a_container_that_is_not_live_is_ended")]),
            yes("readinessProbe", "", &[(REAL, "a_container_is_ready_when_its_command_and_its_port_say_so")]),
            yes("startupProbe", "", &[(PROBE, "others_wait_for_the_startup_probe_and_are_then_asked_at_once")]),
            yes(
                "lifecycle",
                "",
                &[(
                    "crates/agent/tests/hooks.rs",
                    "a_pod_runs_when_its_hook_has_ended_and_is_asked_to_end_after_the_other",
                )],
            ),
            yes("terminationMessagePath", "", &[(REAL, "a_failure_is_told_with_its_last_words")]),
            yes(
                "terminationMessagePolicy",
                "",
                &[("crates/agent/src/termination.rs", "the_file_wins_over_the_log_and_both_are_bounded")],
            ),
            yes(
                "imagePullPolicy",
                "",
                &[
                    ("crates/core/src/pod/facts.rs", "pull_policy_defaults_by_tag"),
                    (AGENT, "a_missing_image_backs_off"),
                ],
            ),
            yes("securityContext", "", SETTINGS),
            yes("stdin", "", &[(REAL, "who_attaches_writes_to_the_container")]),
            yes("stdinOnce", "", &[("crates/server/tests/api/kubectl.rs", "attach_joins_the_main_process")]),
            yes("tty", "", &[(REAL, "who_attaches_is_on_the_containers_terminal")]),
        ],
    ),
    of(
        "ContainerPort",
        &[
            yes("name", "probes and hooks find the port by it", PORTS),
            yes("hostPort", "in `stint serve`", HOST_PORTS),
            yes("containerPort", "", PORTS),
            yes("protocol", "TCP and UDP", HOST_PORTS),
            yes("hostIP", "", HOST_PORTS),
        ],
    ),
    of("EnvFromSource", &[yes("prefix", "", SOURCES), yes("configMapRef", "", SOURCES), yes("secretRef", "", SOURCES)]),
    of("ConfigMapEnvSource", &[yes("name", "", SOURCES), yes("optional", "", SOURCES)]),
    of("SecretEnvSource", &[yes("name", "", SOURCES), yes("optional", "", SOURCES)]),
    of("EnvVar", &[yes("name", "", ENVIRONMENT), yes("value", "", ENVIRONMENT), yes("valueFrom", "", SOURCES)]),
    of(
        "EnvVarSource",
        &[
            yes("fieldRef", "", &[("crates/agent/src/downward.rs", "fields_and_resources_are_read")]),
            yes("resourceFieldRef", "", &[("crates/agent/src/downward.rs", "fields_and_resources_are_read")]),
            yes("configMapKeyRef", "", SOURCES),
            yes("secretKeyRef", "", SOURCES),
            warned("fileKeyRef"),
        ],
    ),
    of(
        "ResourceFieldSelector",
        &[
            yes("containerName", "", &[("crates/agent/src/downward.rs", "fields_and_resources_are_read")]),
            yes("resource", "", &[("crates/agent/src/downward.rs", "fields_and_resources_are_read")]),
            yes("divisor", "", &[("crates/agent/src/downward.rs", "fields_and_resources_are_read")]),
        ],
    ),
    of(
        "ResourceRequirements",
        &[
            partly(
                "limits",
                "cpu, memory, ephemeral-storage, and hugepages where the kernel has a controller for them",
                &[
                    (SPEC, "limits_are_set_only_when_asked_for"),
                    ("crates/agent/src/huge_pages.rs", "limits_have_the_kernels_names"),
                    ("crates/core/src/pod/local_storage.rs", "what_is_exceeded_is_told_in_the_words_of_the_kubelet"),
                ],
            ),
            yes(
                "requests",
                "",
                &[
                    (super::WISH, "a_pod_needs_its_containers_together_or_its_hungriest_moment_before"),
                    ("crates/agent/src/spec/resources.rs", "shares_and_quota_are_the_kubelets"),
                ],
            ),
            warned("claims"),
        ],
    ),
    of(
        "Probe",
        &[
            yes("exec", "", &[(REAL, "a_container_is_ready_when_its_command_and_its_port_say_so")]),
            yes("httpGet", "", HTTP),
            yes("tcpSocket", "", &[(REAL, "a_container_is_ready_when_its_command_and_its_port_say_so")]),
            yes("grpc", "", &[(HANDLER, "grpc_health_is_asked_by_service")]),
            yes("initialDelaySeconds", "", &[(PROBE, "others_wait_for_the_startup_probe_and_are_then_asked_at_once")]),
            yes("timeoutSeconds", "", &[(HANDLER, "a_server_that_says_nothing_runs_out_of_time")]),
            yes("periodSeconds", "", THRESHOLDS),
            yes("successThreshold", "", THRESHOLDS),
            yes("failureThreshold", "", THRESHOLDS),
            yes("terminationGracePeriodSeconds", "", &[(PROBES, "a_probe_may_have_a_grace_of_its_own")]),
        ],
    ),
    of(
        "HTTPGetAction",
        &[
            yes("path", "", HTTP),
            yes("port", "", PORTS),
            yes("host", "", HTTP),
            yes("scheme", "", &[(HANDLER, "https_is_asked_without_a_look_at_the_certificate")]),
            yes("httpHeaders", "", HTTP),
        ],
    ),
    of(
        "TCPSocketAction",
        &[
            yes("port", "", PORTS),
            yes("host", "", &[(HANDLER, "a_port_that_nobody_listens_at_is_told_as_go_tells_it")]),
        ],
    ),
    of(
        "Lifecycle",
        &[
            yes(
                "postStart",
                "",
                &[
                    (HOOKS, "a_container_is_told_to_run_when_its_hook_has_ended_and_others_wait_for_it"),
                    ("crates/agent/tests/hooks.rs", "a_hook_that_fails_ends_its_container"),
                ],
            ),
            yes(
                "preStop",
                "",
                &[
                    (HOOKS, "the_hook_before_the_end_is_within_the_grace"),
                    ("crates/agent/tests/hooks.rs", "a_hook_that_hangs_takes_no_more_than_the_grace"),
                ],
            ),
            yes("stopSignal", "", &[("crates/agent/src/signal.rs", "signals_have_names_and_numbers")]),
        ],
    ),
    of(
        "LifecycleHandler",
        &[
            yes("exec", "", &[("crates/agent/tests/hooks.rs", "a_hook_that_fails_ends_its_container")]),
            yes("httpGet", "", HTTP),
            yes("tcpSocket", "fails, as in a cluster", &[(HANDLER, "what_can_not_be_asked_is_no_failure")]),
            yes(
                "sleep",
                "",
                &[(
                    "crates/agent/tests/hooks.rs",
                    "a_pod_runs_when_its_hook_has_ended_and_is_asked_to_end_after_the_other",
                )],
            ),
        ],
    ),
    of(
        "SecurityContext",
        &[
            yes("capabilities", "", &[(SPEC, "capabilities_are_added_and_dropped")]),
            yes("privileged", "", &[(REAL, "isolation::a_privileged_container_has_the_machine")]),
            warned("seLinuxOptions"),
            moot("windowsOptions", FOR_WINDOWS),
            yes("runAsUser", "", WHO),
            yes("runAsGroup", "", WHO),
            yes("runAsNonRoot", "", WHO),
            yes("readOnlyRootFilesystem", "", SETTINGS),
            yes("allowPrivilegeEscalation", "", SETTINGS),
            yes("procMount", "", &[(SPEC, "a_pod_without_host_users_has_ids_of_its_own")]),
            yes(
                "seccompProfile",
                "`RuntimeDefault` is the default; `Localhost` is below `DATA/seccomp`",
                &[(REAL, "isolation::a_seccomp_profile_of_the_node_is_loaded")],
            ),
            yes(
                "appArmorProfile",
                APP_ARMOR,
                &[
                    ("crates/stint/tests/kernel.rs", "containers_are_confined_by_app_armor_on_debians_kernel"),
                    (REAL, "isolation::a_pod_that_wants_app_armor_is_rejected_without_it"),
                ],
            ),
        ],
    ),
    of(
        "Capabilities",
        &[
            yes("add", "", &[(SPEC, "capabilities_are_added_and_dropped")]),
            yes("drop", "", &[(SPEC, "capabilities_are_added_and_dropped")]),
        ],
    ),
];
