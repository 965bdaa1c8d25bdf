//! Where a pod may run, seen from its neighbours and its node.

use super::{ApiType, NEIGHBOURS, ONE_NODE, PLACE, SPREAD, moot, of, partly, yes};

pub(super) static TYPES: &[ApiType] = &[
    of(
        "Affinity",
        &[
            partly("nodeAffinity", "what is required", &[(PLACE, "selector_and_affinity_must_both_be_met")]),
            partly(
                "podAffinity",
                "what is required",
                &[(NEIGHBOURS, "affinity_and_its_opposite_are_kept_in_both_directions")],
            ),
            partly(
                "podAntiAffinity",
                "what is required",
                &[(NEIGHBOURS, "affinity_and_its_opposite_are_kept_in_both_directions")],
            ),
        ],
    ),
    of(
        "NodeAffinity",
        &[
            yes(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "",
                &[(PLACE, "selector_and_affinity_must_both_be_met")],
            ),
            moot("preferredDuringSchedulingIgnoredDuringExecution", ONE_NODE),
        ],
    ),
    of(
        "PodAffinity",
        &[
            yes(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "",
                &[(NEIGHBOURS, "affinity_and_its_opposite_are_kept_in_both_directions")],
            ),
            moot("preferredDuringSchedulingIgnoredDuringExecution", ONE_NODE),
        ],
    ),
    of(
        "PodAntiAffinity",
        &[
            yes(
                "requiredDuringSchedulingIgnoredDuringExecution",
                "",
                &[(NEIGHBOURS, "affinity_and_its_opposite_are_kept_in_both_directions")],
            ),
            moot("preferredDuringSchedulingIgnoredDuringExecution", ONE_NODE),
        ],
    ),
    of(
        "PodAffinityTerm",
        &[
            yes("labelSelector", "", &[(NEIGHBOURS, "affinity_and_its_opposite_are_kept_in_both_directions")]),
            yes("namespaces", "", &[(NEIGHBOURS, "a_term_says_in_which_namespaces_it_looks")]),
            yes("topologyKey", "", &[(NEIGHBOURS, "affinity_and_its_opposite_are_kept_in_both_directions")]),
            partly(
                "namespaceSelector",
                "selects by `kubernetes.io/metadata.name` only",
                &[(NEIGHBOURS, "a_term_says_in_which_namespaces_it_looks")],
            ),
            moot("matchLabelKeys", "for Deployments, which there are not"),
            moot("mismatchLabelKeys", "for Deployments, which there are not"),
        ],
    ),
    of(
        "TopologySpreadConstraint",
        &[
            yes("maxSkew", "", SPREAD),
            yes("topologyKey", "", SPREAD),
            yes("whenUnsatisfiable", "`ScheduleAnyway` has no effect, as there is one node", SPREAD),
            yes("labelSelector", "", SPREAD),
            yes("minDomains", "", SPREAD),
            moot("nodeAffinityPolicy", ONE_NODE),
            moot("nodeTaintsPolicy", ONE_NODE),
            yes("matchLabelKeys", "", SPREAD),
        ],
    ),
];
