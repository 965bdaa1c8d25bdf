//! Volumes, and what of a claim's is the pod's own.

use super::{ApiType, REAL, TOKENS, VOLUMES, of, partly, warned, yes};

const FILES: &str = "crates/agent/src/volumes.rs";
const HOST_PATH: &str = "crates/agent/src/volumes/host_path.rs";
const LIMITS: &str = "crates/core/src/pod/local_storage.rs";

pub(super) static TYPES: &[ApiType] = &[
    of(
        "Volume",
        &[
            yes("name", "", &[(REAL, "config_maps_and_shared_volumes_are_seen")]),
            yes("hostPath", "", &[(HOST_PATH, "host_paths_are_checked")]),
            yes("emptyDir", "", &[(REAL, "config_maps_and_shared_volumes_are_seen")]),
            warned("gcePersistentDisk"),
            warned("awsElasticBlockStore"),
            warned("gitRepo"),
            yes("secret", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            warned("nfs"),
            warned("iscsi"),
            warned("glusterfs"),
            yes(
                "persistentVolumeClaim",
                "",
                &[(VOLUMES, "what_a_pod_writes_to_its_claim_is_there_for_the_next_one_and_goes_with_the_claim")],
            ),
            warned("rbd"),
            warned("flexVolume"),
            warned("cinder"),
            warned("cephfs"),
            warned("flocker"),
            yes("downwardAPI", "", &[(TOKENS, "a_running_container_sees_other_labels_at_once")]),
            warned("fc"),
            warned("azureFile"),
            yes(
                "configMap",
                "",
                &[
                    (FILES, "config_maps_and_secrets_become_files"),
                    (TOKENS, "a_running_container_sees_a_changed_config_map_within_a_minute_and_all_of_it_at_once"),
                ],
            ),
            warned("vsphereVolume"),
            warned("quobyte"),
            warned("azureDisk"),
            warned("photonPersistentDisk"),
            yes("projected", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            warned("portworxVolume"),
            warned("scaleIO"),
            warned("storageos"),
            warned("csi"),
            yes("ephemeral", "", &[(VOLUMES, "an_ephemeral_volume_is_the_pods_own_and_goes_with_it")]),
            yes("image", "", &[(VOLUMES, "what_is_in_an_image_is_a_volume_that_can_only_be_read")]),
        ],
    ),
    of(
        "HostPathVolumeSource",
        &[
            yes("path", "", &[(HOST_PATH, "host_paths_are_checked")]),
            yes("type", "", &[(HOST_PATH, "host_paths_are_checked")]),
        ],
    ),
    of(
        "EmptyDirVolumeSource",
        &[
            partly(
                "medium",
                "the default, `Memory`, and `HugePages` of those that the machine has set aside",
                &[
                    (FILES, "an_empty_folder_is_everyones"),
                    (REAL, "config_maps_and_shared_volumes_are_seen"),
                    (REAL, "a_volume_of_huge_pages_holds_what_is_set_aside"),
                ],
            ),
            yes(
                "sizeLimit",
                "the pod is evicted when it is exceeded",
                &[
                    (LIMITS, "what_is_exceeded_is_told_in_the_words_of_the_kubelet"),
                    (REAL, "a_pod_that_fills_its_volume_past_its_limit_is_evicted"),
                ],
            ),
        ],
    ),
    of(
        "SecretVolumeSource",
        &[
            yes("secretName", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("items", "", &[(FILES, "what_is_missing_or_unknown_is_refused_by_name")]),
            yes("defaultMode", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("optional", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "ConfigMapVolumeSource",
        &[
            yes("name", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("items", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("defaultMode", "", &[(REAL, "a_script_in_a_config_map_runs")]),
            yes("optional", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "KeyToPath",
        &[
            yes("key", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("path", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("mode", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "DownwardAPIVolumeSource",
        &[
            yes("items", "", &[(TOKENS, "a_running_container_sees_other_labels_at_once")]),
            yes("defaultMode", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "DownwardAPIVolumeFile",
        &[
            yes("path", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("fieldRef", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("resourceFieldRef", "", &[("crates/agent/src/downward.rs", "fields_and_resources_are_read")]),
            yes("mode", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "PersistentVolumeClaimVolumeSource",
        &[
            yes(
                "claimName",
                "",
                &[(VOLUMES, "what_a_pod_writes_to_its_claim_is_there_for_the_next_one_and_goes_with_the_claim")],
            ),
            yes("readOnly", "", &[(super::SPEC, "volumes_are_mounted_outer_ones_first_and_in_place_of_defaults")]),
        ],
    ),
    of(
        "EphemeralVolumeSource",
        &[partly(
            "volumeClaimTemplate",
            "as PersistentVolumeClaims (see below)",
            &[(VOLUMES, "an_ephemeral_volume_is_the_pods_own_and_goes_with_it")],
        )],
    ),
    of(
        "PersistentVolumeClaimTemplate",
        &[
            yes("metadata", "", &[(VOLUMES, "an_ephemeral_volume_is_the_pods_own_and_goes_with_it")]),
            partly(
                "spec",
                "`dataSource`, `dataSourceRef` and `volumeMode: Block` find no volume",
                &[(VOLUMES, "an_ephemeral_volume_is_the_pods_own_and_goes_with_it")],
            ),
        ],
    ),
    of(
        "ImageVolumeSource",
        &[
            yes("reference", "", &[(VOLUMES, "what_is_in_an_image_is_a_volume_that_can_only_be_read")]),
            yes("pullPolicy", "", &[(VOLUMES, "what_is_in_an_image_is_a_volume_that_can_only_be_read")]),
        ],
    ),
    of(
        "ProjectedVolumeSource",
        &[
            yes("sources", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("defaultMode", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "VolumeProjection",
        &[
            yes("secret", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("downwardAPI", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("configMap", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes(
                "serviceAccountToken",
                "in `stint serve`",
                &[(TOKENS, "a_pod_has_a_token_of_its_own_that_ends_with_it")],
            ),
            warned("clusterTrustBundle"),
            warned("podCertificate"),
        ],
    ),
    of(
        "SecretProjection",
        &[
            yes("name", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("items", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("optional", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of(
        "ConfigMapProjection",
        &[
            yes("name", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("items", "", &[(FILES, "config_maps_and_secrets_become_files")]),
            yes("optional", "", &[(FILES, "config_maps_and_secrets_become_files")]),
        ],
    ),
    of("DownwardAPIProjection", &[yes("items", "", &[(FILES, "config_maps_and_secrets_become_files")])]),
    of(
        "ServiceAccountTokenProjection",
        &[
            yes("audience", "", &[("crates/agent/src/tokens.rs", "a_pod_asks_once_for_what_two_volumes_hold")]),
            yes("expirationSeconds", "", &[(TOKENS, "a_token_is_replaced_before_it_ends_also_by_the_next_agent")]),
            yes("path", "", &[(TOKENS, "a_pod_has_a_token_of_its_own_that_ends_with_it")]),
        ],
    ),
    of(
        "VolumeMount",
        &[
            yes("name", "", &[(REAL, "config_maps_and_shared_volumes_are_seen")]),
            yes("readOnly", "", &[(super::SPEC, "volumes_are_mounted_outer_ones_first_and_in_place_of_defaults")]),
            yes("recursiveReadOnly", "", &[(REAL, "a_container_sees_the_parts_of_volumes_that_it_asks_for")]),
            yes("mountPath", "", &[(super::SPEC, "volumes_are_mounted_outer_ones_first_and_in_place_of_defaults")]),
            yes(
                "subPath",
                "",
                &[
                    (REAL, "a_container_sees_the_parts_of_volumes_that_it_asks_for"),
                    (REAL, "a_sub_path_swapped_for_a_link_while_pods_start_shows_nothing_of_the_host"),
                ],
            ),
            yes(
                "mountPropagation",
                "`Bidirectional` where the volume is on a shared mount",
                &[(REAL, "isolation::a_privileged_container_mounts_for_the_host")],
            ),
            yes("subPathExpr", "", &[(REAL, "a_container_sees_the_parts_of_volumes_that_it_asks_for")]),
        ],
    ),
];
