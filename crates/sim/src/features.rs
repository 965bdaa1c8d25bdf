//! What of a Job is done, and which test shows it: the page `docs/jobs.md` and README's rows, made of one table.
//!
//! Invariant: nothing is claimed that no test shows. A test of this crate asserts that every test named here is there, and
//! that page and rows are current.

use std::fmt::Write as _;

/// Features that belong together: a row of README, a part of the page.
#[derive(Debug)]
pub struct Group {
    /// What they are about.
    pub name: &'static str,
    /// What README says of them.
    pub summary: &'static str,
    /// The features.
    pub features: &'static [Feature],
}

/// A feature.
#[derive(Debug)]
pub struct Feature {
    /// The field, or what it is called.
    pub name: &'static str,
    /// What Stint does.
    pub does: &'static str,
    /// The tests that show it: the file, seen from the repository's root, and the function.
    pub tests: &'static [(&'static str, &'static str)],
}

const TESTS: &str = "crates/core/src/job/tests.rs";
const MODELS: &str = "crates/core/src/job/models.rs";
const INDEX: &str = "crates/core/src/job/index.rs";
const RULES: &str = "crates/sim/tests/traces/rules.rs";
const STORIES: &str = "crates/sim/tests/traces/stories.rs";
const TRACES: &str = "crates/sim/tests/traces/main.rs";
const WORLDS: &str = "crates/sim/tests/worlds.rs";
const EXPLAIN: &str = "crates/stint/tests/explain.rs";
const ATTACHED: &str = "crates/stint/tests/controllers/ownership.rs";

/// The table.
pub static GROUPS: &[Group] = &[
    Group {
        name: "Jobs: how many pods",
        summary: "parallelism and completions, work queues, pauses, suspension and resumption with changed places",
        features: &[
            Feature {
                name: "`parallelism`, `completions`",
                does: "as many pods as are wanted at once; a lower number sends the newest away, uncounted",
                tests: &[
                    (TESTS, "a_job_of_one_pod_is_recorded_released_counted_and_completed"),
                    (TESTS, "lower_parallelism_sends_the_newest_pending_pod_away_uncounted"),
                    (MODELS, "surplus_pods_go_in_upstreams_order"),
                    (TESTS, "the_pod_whose_container_was_restarted_most_goes_first"),
                    (TESTS, "a_pod_that_has_begun_to_be_sent_away_goes_though_it_is_wanted_again"),
                ],
            },
            Feature {
                name: "`parallelism: 0`",
                does: "pauses the Job, without a condition",
                tests: &[
                    (TESTS, "zero_parallelism_pauses_without_a_condition"),
                    (STORIES, "no_parallelism_pauses_a_job_without_a_condition"),
                ],
            },
            Feature {
                name: "`completions: 0`",
                does: "completes at once, also while it is suspended",
                tests: &[
                    (TESTS, "zero_completions_complete_at_once_in_two_writes"),
                    (RULES, "a_job_of_no_completions_completes_also_while_it_is_suspended"),
                ],
            },
            Feature {
                name: "no `completions`",
                does: "a work queue: it is done when one pod has succeeded and all have ended, which nobody ends then",
                tests: &[
                    (TESTS, "a_job_without_completions_ends_when_one_pod_succeeded_and_all_have_ended"),
                    (TESTS, "a_work_queue_with_a_success_keeps_the_pods_that_run_when_fewer_may"),
                    (TESTS, "a_work_queue_that_is_suspended_after_its_success_is_complete"),
                ],
            },
            Feature {
                name: "more successes than completions",
                does: "are counted and warned of",
                tests: &[(STORIES, "more_successes_than_completions_are_warned_of")],
            },
            Feature {
                name: "`suspend`",
                does: "its pods go, uncounted; resumed, it starts anew with its deadline and keeps its counts and delays",
                tests: &[
                    (TESTS, "a_suspended_job_has_no_pods_and_no_start_until_it_is_resumed"),
                    (TESTS, "a_job_created_suspended_starts_nothing"),
                    (TESTS, "pods_that_were_sent_away_delay_no_others"),
                    (STORIES, "a_resumed_job_starts_anew_with_its_deadline_but_keeps_its_counts"),
                ],
            },
            Feature {
                name: "scheduling directives and resources while suspended",
                does: "may be changed, and hold for the pods that come then",
                tests: &[(STORIES, "a_suspended_job_may_get_other_places_for_its_pods")],
            },
        ],
    },
    Group {
        name: "Indexed Jobs",
        summary: "index in annotation, label, variable and host name; elastic resizing; retries per index",
        features: &[
            Feature {
                name: "`completionMode: Indexed`",
                does: "each index gets a pod that knows it, and is completed once",
                tests: &[
                    (TESTS, "each_index_gets_a_pod_that_knows_it_and_is_completed_once"),
                    (STORIES, "pods_of_no_index_of_the_job_go_and_are_not_counted"),
                ],
            },
            Feature {
                name: "`completedIndexes`, `failedIndexes`",
                does: "are written as ranges",
                tests: &[
                    (INDEX, "sets_are_written_as_ranges_of_three_and_more"),
                    (INDEX, "a_set_is_the_set_of_its_indexes"),
                ],
            },
            Feature {
                name: "elastic resizing",
                does: "completions and parallelism grow and shrink together, and may complete the Job",
                tests: &[
                    (RULES, "an_elastic_job_grows_shrinks_and_may_be_complete_by_that"),
                    (TESTS, "fewer_completions_forget_what_lies_beyond_and_more_go_on"),
                    (TESTS, "a_counter_that_may_not_fall_stays_and_the_job_goes_on"),
                ],
            },
            Feature {
                name: "`backoffLimitPerIndex`",
                does: "an index is tried again with its own delay and count, until it has failed, and keeps its place meanwhile",
                tests: &[
                    (TESTS, "an_index_is_tried_again_with_its_count_until_it_has_failed"),
                    (TESTS, "an_index_that_has_failed_is_not_completed_by_a_pod_that_was_being_deleted"),
                    (TESTS, "an_index_that_waits_for_its_delay_is_not_overtaken"),
                    (MODELS, "indexes_fail_and_wait_as_counting_their_pods_says"),
                ],
            },
            Feature {
                name: "`maxFailedIndexes`",
                does: "too many failed indexes end the Job at once",
                tests: &[
                    (TESTS, "too_many_failed_indexes_end_the_job_at_once"),
                    (STORIES, "an_index_fails_at_once_by_policy_or_after_its_retries_and_too_many_end_the_job"),
                ],
            },
        ],
    },
    Group {
        name: "Jobs: failure and success",
        summary: "backoffLimit with exponential delay, pod failure, success and replacement policies, deadlines",
        features: &[
            Feature {
                name: "`backoffLimit`, `restartPolicy: Never`",
                does: "a failed pod is replaced after 10 s, twice as long each time, at most 10 min; a success resets that",
                tests: &[
                    (TESTS, "a_failed_pod_is_replaced_after_ten_seconds_and_the_limit_ends_the_job"),
                    (TESTS, "delay_doubles_with_each_failure_and_a_success_resets_it"),
                    (MODELS, "the_delay_is_that_of_a_record_kept_pod_by_pod"),
                ],
            },
            Feature {
                name: "`backoffLimit`, `restartPolicy: OnFailure`",
                does: "restarts of containers are what is counted",
                tests: &[(TESTS, "restarts_in_place_reach_the_limit_with_on_failure")],
            },
            Feature {
                name: "`podFailurePolicy`",
                does: "FailJob, FailIndex, Ignore and Count by exit codes and conditions; the first rule that matches decides",
                tests: &[
                    (TESTS, "a_fatal_exit_code_fails_the_job_at_once"),
                    (TESTS, "an_ignored_failure_counts_for_nothing_but_the_delay"),
                    (TESTS, "a_disrupted_pod_that_is_ignored_is_not_counted_when_the_job_fails"),
                    (RULES, "an_ignored_failure_is_replaced_after_its_delay_and_a_fatal_one_ends_the_job"),
                    (MODELS, "a_failed_pod_is_judged_as_by_trying_every_rule"),
                ],
            },
            Feature {
                name: "`successPolicy`",
                does: "enough indexes complete the Job; those that run are ended and not counted",
                tests: &[
                    (TESTS, "enough_indexes_by_policy_complete_the_job_and_end_the_others"),
                    (STORIES, "enough_indexes_complete_a_job_and_those_that_run_are_neither_counted_nor_left"),
                    (MODELS, "a_rule_of_success_is_fulfilled_as_the_sets_say"),
                ],
            },
            Feature {
                name: "`podReplacementPolicy`",
                does: "a pod that leaves is replaced at once, or when it has ended",
                tests: &[
                    (RULES, "a_pod_that_leaves_is_replaced_at_once_or_only_when_it_has_failed"),
                    (TESTS, "a_pod_that_is_deleted_counts_at_once_or_as_it_ends"),
                    (TESTS, "a_pod_that_was_deleted_before_the_job_succeeded_has_failed"),
                ],
            },
            Feature {
                name: "`activeDeadlineSeconds`",
                does: "ends the Job's pods, counted as failed; may be changed while it runs",
                tests: &[
                    (TESTS, "a_job_is_ended_at_its_deadline_and_woken_for_it"),
                    (TESTS, "a_job_that_may_not_be_active_at_all_fails_without_a_pod"),
                    (RULES, "a_job_past_its_deadline_ends_its_pods_counted_as_failed"),
                    (RULES, "a_later_deadline_gives_a_running_job_more_time_and_an_earlier_one_ends_it"),
                ],
            },
            Feature {
                name: "eviction and deletion of pods",
                does: "count as failures, and are replaced",
                tests: &[
                    ("crates/server/tests/api/admission.rs", "an_evicted_pod_says_so_and_goes"),
                    (TESTS, "a_deleted_pod_counts_as_failed_and_is_replaced"),
                ],
            },
            Feature {
                name: "sidecars",
                does: "init containers that always restart hold no Job open",
                tests: &[(
                    "crates/core/src/pod/tests.rs",
                    "sidecars_outlive_the_main_containers_and_end_in_reverse_order",
                )],
            },
        ],
    },
    Group {
        name: "Jobs: exactness",
        summary: "each finished pod counted exactly once, whatever crashes; a cluster's conditions, Events and metrics",
        features: &[
            Feature {
                name: "tracking",
                does: "recorded by UID, released, counted: whatever crashes in between",
                tests: &[
                    (TESTS, "any_order_of_crashes_and_failures_keeps_the_books"),
                    (WORLDS, "the_first_worlds_break_no_invariant"),
                    (WORLDS, "a_crash_before_or_after_any_write_breaks_no_invariant"),
                    (WORLDS, "a_planted_bug_is_found_within_40_worlds"),
                ],
            },
            Feature {
                name: "`uncountedTerminatedPods`",
                does: "holds 500 at most (`--job-max-uncounted-pods`)",
                tests: &[
                    (TESTS, "more_finished_pods_than_the_status_may_hold_are_counted_in_turns"),
                    (TESTS, "no_plan_does_more_at_once_than_it_may"),
                ],
            },
            Feature {
                name: "slow start, 500 pods at a time",
                does: "a refusal is asked for once, and not 500 times (`--job-slow-start`, `--job-max-pods-per-sync`)",
                tests: &[
                    (
                        "crates/controllers/src/execute/tests.rs",
                        "creations_start_slowly_and_end_with_the_first_batch_that_is_refused",
                    ),
                    ("crates/controllers/src/execute/tests.rs", "creations_may_begin_with_more_than_one"),
                ],
            },
            Feature {
                name: "a cluster's course of events",
                does: "recorded runs of Kubernetes 1.36 replay equal: counters, conditions, reasons, messages, Events",
                tests: &[
                    (TRACES, "recorded_runs_of_jobs_replay_equal"),
                    (TRACES, "a_run_of_our_own_replays_equal"),
                    (RULES, "a_job_of_many_pods_tells_25_events_and_combines_those_from_the_tenth_on"),
                ],
            },
            Feature {
                name: "terminal conditions",
                does: "`FailureTarget` and `SuccessCriteriaMet` first; an end never changes",
                tests: &[(STORIES, "a_finished_job_keeps_its_end_whatever_its_pods_and_spec_do")],
            },
            Feature {
                name: "metrics",
                does: "`job_controller_*` with a cluster's names, texts and counts",
                tests: &[(
                    "crates/sim/tests/traces/metrics.rs",
                    "metrics_have_the_names_and_texts_of_a_cluster_and_count_the_same",
                )],
            },
        ],
    },
    Group {
        name: "Jobs: whose pods",
        summary: "adoption and release, manual selectors, other controllers, deletion in three ways, time to live",
        features: &[
            Feature {
                name: "adoption, release, `manualSelector`",
                does: "pods that the selector selects are adopted, unless another controller has them",
                tests: &[
                    (TESTS, "pods_are_adopted_and_let_go_by_the_selector"),
                    (STORIES, "pods_that_the_selector_selects_are_adopted_unless_another_controller_has_them"),
                ],
            },
            Feature {
                name: "`managedBy`",
                does: "a Job that another controller manages is not touched; `stint controllers` manages those that name it",
                tests: &[
                    (TESTS, "a_job_managed_elsewhere_is_left_alone"),
                    (RULES, "a_job_that_another_controller_manages_is_not_touched"),
                    (ATTACHED, "beside_a_cluster_only_what_asks_for_stint_is_worked_on"),
                ],
            },
            Feature {
                name: "deletion",
                does: "takes the pods along, waits for them, or leaves them free",
                tests: &[
                    (RULES, "a_deleted_job_takes_its_pods_along_or_leaves_them_free"),
                    (TESTS, "pods_of_a_job_that_is_gone_lose_their_finalizer"),
                    (TESTS, "a_job_that_is_being_deleted_is_complete_when_its_pods_have_succeeded"),
                ],
            },
            Feature {
                name: "`ttlSecondsAfterFinished`",
                does: "to the second, also across restarts and steps of the clock",
                tests: &[
                    ("crates/core/src/ttl.rs", "a_finished_job_goes_at_its_second_and_not_before"),
                    (RULES, "a_change_of_the_time_to_live_counts_at_once"),
                ],
            },
            Feature {
                name: "quotas",
                does: "a Job whose pods are refused has started, and says why it waits",
                tests: &[(RULES, "a_job_whose_pods_a_quota_refuses_has_started_and_says_why_it_waits")],
            },
            Feature {
                name: "`stint explain`",
                does: "attempts with exit codes, what is waited for and until when, what comes next",
                tests: &[
                    (EXPLAIN, "a_failed_attempt_is_told_with_its_code_and_when_the_next_one_comes"),
                    (EXPLAIN, "a_daemon_tells_its_delays_whichever_way_it_is_asked"),
                    (EXPLAIN, "a_suspended_job_a_full_quota_and_what_is_no_job_are_told"),
                ],
            },
        ],
    },
];

const HEAD: &str = "\
# What Stint does with a Job

<!-- Made by `cargo run -p stint-sim --example features > docs/jobs.md`; a test asserts that it is current. -->

Stint's Job controller does what that of Kubernetes 1.36 does, with its conditions, reasons, messages, Events and metrics.
Each feature is shown by the tests that are named beside it. How fast the controller goes can be set:
[serve.md](serve.md#the-pace-of-jobs). What differs is in [compatibility.md](compatibility.md).
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for Group { name, features, .. } in GROUPS {
        let _ = write!(page, "\n## {name}\n\n| feature | what Stint does | shown by |\n|---|---|---|\n");
        for Feature { name, does, tests } in *features {
            let test = |(file, test): &(&str, &str)| format!("[{test}](../{file})");
            let tests: Vec<String> = tests.iter().map(test).collect();
            let _ = writeln!(page, "| {name} | {does} | {} |", tests.join("<br>"));
        }
    }
    page
}

/// The rows of README's table.
pub fn rows() -> String {
    GROUPS.iter().fold(String::new(), |mut rows, Group { name, summary, .. }| {
        let anchor = name.to_lowercase().replace(' ', "-").replace(':', "");
        let _ = writeln!(rows, "| [{name}](docs/jobs.md#{anchor}) | {summary} |");
        rows
    })
}
