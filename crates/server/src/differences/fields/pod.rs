//! The pod's own fields, and its security context.

use super::{
    ACCOUNT, ADMISSION, AGENT, APP_ARMOR, ApiType, BIND, ETC, FOR_WINDOWS, NEEDS_SELINUX, NETWORK, PLACE, POD, REAL,
    SPEC, WISH, moot, of, partly, warned, yes,
};

pub(super) static TYPES: &[ApiType] = &[
    of(
        "PodSpec",
        &[
            warned("schedulingGroup"),
            yes("volumes", "", &[(REAL, "config_maps_and_shared_volumes_are_seen")]),
            yes(
                "initContainers",
                "in order; sidecars too",
                &[
                    (AGENT, "init_containers_come_first"),
                    (POD, "sidecars_outlive_the_main_containers_and_end_in_reverse_order"),
                ],
            ),
            yes("containers", "", &[(AGENT, "a_pod_succeeds_and_its_status_tells_it_all")]),
            yes(
                "ephemeralContainers",
                "added to a pod that runs (`kubectl debug`); their fields are as those of containers, and `targetContainerName` \
                 is whose processes they see",
                &[
                    (
                        "crates/core/src/pod/tests/ephemeral.rs",
                        "a_container_that_joins_runs_once_beside_the_others_and_counts_for_nothing",
                    ),
                    ("crates/server/tests/api/objects.rs", "ephemeral_containers_are_added_to_a_pod_and_stay"),
                    (REAL, "a_container_is_added_to_a_pod_that_runs"),
                    ("crates/stint/tests/serve.rs", "kubectl_debug_looks_into_a_pod_that_runs"),
                ],
            ),
            yes(
                "restartPolicy",
                "",
                &[(AGENT, "on_failure_restarts_with_counts_and_back_off"), (POD, "always_restarts_even_success")],
            ),
            yes("terminationGracePeriodSeconds", "", &[(AGENT, "deletion_sends_term_waits_for_the_grace_and_kills")]),
            yes(
                "activeDeadlineSeconds",
                "may be set and lowered while the pod runs",
                &[(POD, "the_active_deadline_ends_the_pod"), (POD, "a_deadline_that_is_moved_is_the_one_that_counts")],
            ),
            yes("dnsPolicy", "", &[(ETC, "whom_to_ask_follows_from_policy_and_config")]),
            yes("nodeSelector", "", &[(PLACE, "selector_and_affinity_must_both_be_met")]),
            yes(
                "serviceAccountName",
                "",
                &[
                    (ADMISSION, "a_pod_of_a_cluster_gets_account_tolerations_and_priority"),
                    (
                        "crates/stint/tests/access.rs",
                        "a_pod_reaches_the_api_as_its_account_and_does_what_a_role_lets_it",
                    ),
                ],
            ),
            yes("serviceAccount", "the older name of `serviceAccountName`, kept the same", super::IN_MANIFESTS),
            yes("automountServiceAccountToken", "", &[(ACCOUNT, "the_pod_decides_about_the_token_before_its_account")]),
            yes("nodeName", "", &[(BIND, "only_a_waiting_pod_of_the_default_scheduler_without_gates_waits")]),
            yes("hostNetwork", "", &[(SPEC, "host_namespaces_and_names")]),
            yes("hostPID", "", &[(SPEC, "host_namespaces_and_names")]),
            yes("hostIPC", "", &[(SPEC, "host_namespaces_and_names")]),
            yes("shareProcessNamespace", "", &[(REAL, "isolation::containers_of_a_pod_share_their_processes")]),
            yes("securityContext", "", &[(REAL, "the_user_is_who_the_pod_says")]),
            yes(
                "imagePullSecrets",
                "of type `kubernetes.io/dockerconfigjson`",
                &[("crates/agent/src/images.rs", "a_pull_secret_holds_logins_by_registry")],
            ),
            yes("hostname", "", &[(ETC, "names_follow_from_the_spec")]),
            yes(
                "subdomain",
                "with a headless Service of that name",
                &[(ETC, "names_follow_from_the_spec"), (NETWORK, "pods_of_an_indexed_job_find_each_other_by_hostname")],
            ),
            partly(
                "affinity",
                "what is required; what is preferred has no effect, as there is one node",
                &[(BIND, "a_pod_that_another_keeps_away_does_not_hold_up_those_that_wish_for_the_same")],
            ),
            yes(
                "schedulerName",
                "pods of other schedulers wait for them",
                &[(BIND, "only_a_waiting_pod_of_the_default_scheduler_without_gates_waits")],
            ),
            yes("tolerations", "", &[(PLACE, "a_taint_needs_a_toleration_of_its_key_value_and_effect")]),
            yes("hostAliases", "", &[(ETC, "the_hosts_file_is_the_kubelets")]),
            yes(
                "priorityClassName",
                "",
                &[("crates/core/src/admission/priority.rs", "a_pod_has_the_priority_of_its_class_or_none")],
            ),
            yes(
                "priority",
                "orders who is bound first",
                &[(BIND, "priority_comes_before_age_and_a_small_pod_passes_a_big_one")],
            ),
            yes("dnsConfig", "", &[(ETC, "whom_to_ask_follows_from_policy_and_config")]),
            warned("readinessGates"),
            warned("runtimeClassName"),
            partly(
                "enableServiceLinks",
                "containers get the variables of the API's Service, and those of no other",
                &[(SPEC, "a_container_finds_the_api_as_in_a_cluster_unless_it_says_otherwise")],
            ),
            moot("preemptionPolicy", "nobody is preempted: a pod waits until there is room"),
            yes("overhead", "counts as used", &[(WISH, "the_whole_pods_figure_counts_instead_and_overhead_is_added")]),
            yes("topologySpreadConstraints", "what must be met; one node is one domain", super::SPREAD),
            yes("setHostnameAsFQDN", "", &[(ETC, "names_follow_from_the_spec")]),
            warned("os"),
            yes(
                "hostUsers",
                "from Linux 6.15 on; else the pod will not start",
                &[(REAL, "isolation::pods_without_host_users_have_ids_of_their_own")],
            ),
            yes("schedulingGates", "", &[(BIND, "only_a_waiting_pod_of_the_default_scheduler_without_gates_waits")]),
            warned("resourceClaims"),
            yes("resources", "", &[(REAL, "isolation::a_pods_own_limit_holds_for_its_containers")]),
            yes("hostnameOverride", "", &[(ETC, "names_follow_from_the_spec")]),
        ],
    ),
    of(
        "PodSecurityContext",
        &[
            warned("seLinuxOptions"),
            moot("windowsOptions", FOR_WINDOWS),
            yes("runAsUser", "", &[(SPEC, "the_user_is_the_containers_the_pods_or_the_images")]),
            yes("runAsGroup", "", &[(SPEC, "the_user_is_the_containers_the_pods_or_the_images")]),
            yes("runAsNonRoot", "", &[(SPEC, "the_user_is_the_containers_the_pods_or_the_images")]),
            yes("supplementalGroups", "", &[(SPEC, "the_user_is_the_containers_the_pods_or_the_images")]),
            yes("supplementalGroupsPolicy", "", &[(SPEC, "the_user_is_the_containers_the_pods_or_the_images")]),
            yes(
                "fsGroup",
                "",
                &[(
                    "crates/agent/src/volumes/ownership.rs",
                    "a_volume_is_given_to_the_group_and_nothing_that_its_links_lead_to",
                )],
            ),
            yes(
                "sysctls",
                "the kubelet's safe ones, and those of `--allowed-unsafe-sysctls`",
                &[(REAL, "isolation::sysctls_are_set_or_the_pod_is_rejected")],
            ),
            yes(
                "fsGroupChangePolicy",
                "",
                &[(
                    "crates/agent/src/volumes/ownership.rs",
                    "a_volume_is_given_to_the_group_and_nothing_that_its_links_lead_to",
                )],
            ),
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
            moot("seLinuxChangePolicy", NEEDS_SELINUX),
        ],
    ),
    of(
        "PodDNSConfig",
        &[
            yes("nameservers", "", &[(ETC, "whom_to_ask_follows_from_policy_and_config")]),
            yes(
                "searches",
                "",
                &[
                    (ETC, "whom_to_ask_follows_from_policy_and_config"),
                    (ETC, "no_more_is_asked_for_than_the_c_library_takes"),
                ],
            ),
            yes("options", "", &[(ETC, "whom_to_ask_follows_from_policy_and_config")]),
        ],
    ),
    of(
        "Toleration",
        &[
            yes("key", "", &[(PLACE, "a_taint_needs_a_toleration_of_its_key_value_and_effect")]),
            yes("operator", "", &[(PLACE, "a_taint_needs_a_toleration_of_its_key_value_and_effect")]),
            yes("value", "", &[(PLACE, "a_taint_needs_a_toleration_of_its_key_value_and_effect")]),
            yes("effect", "", &[(PLACE, "a_taint_needs_a_toleration_of_its_key_value_and_effect")]),
            moot("tolerationSeconds", "nobody is evicted for a taint"),
        ],
    ),
];
