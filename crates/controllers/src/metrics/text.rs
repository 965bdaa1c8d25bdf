//! Names and texts of the metrics, letter for letter those of a cluster: dashboards and linters read them.
//!
//! The encoder puts `_total` behind the names of counters, and escapes the line breaks.

type Text = (&'static str, &'static str);

/// Indexes that completed or failed.
pub const INDEXES_FINISHED: Text = (
    "job_controller_job_finished_indexes",
    "[ALPHA] The number of finished indexes. Possible values for the\n\t\t\tstatus label are: \"succeeded\", \"failed\". Possible values for the\n\t\t\tbackoffLimit label are: \"perIndex\" and \"global\"",
);
/// Pods that were created, and why.
pub const PODS_CREATED: Text = (
    "job_controller_job_pods_creation",
    "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation.\nThis metric also distinguishes between Pods created using different PodReplacementPolicy settings.\nPossible values of the \"reason\" label are:\n\"new\", \"recreate_terminating_or_failed\", \"recreate_failed\".\nPossible values of the \"status\" label are:\n\"succeeded\", \"failed\".",
);
/// Finished pods that were counted.
pub const PODS_FINISHED: Text =
    ("job_controller_job_pods_finished", "[STABLE] The number of finished Pods that are fully tracked");
/// Plans that were carried out.
pub const SYNCS: Text = ("job_controller_job_syncs", "[STABLE] The number of job syncs");
/// How long that took.
pub const SYNC_DURATIONS: Text =
    ("job_controller_job_sync_duration_seconds", "[STABLE] The time it took to sync a job");
/// Jobs that others manage.
pub const EXTERNAL: Text =
    ("job_controller_jobs_by_external_controller", "[ALPHA] The number of Jobs managed by an external controller");
/// Jobs that ended, and how.
pub const JOBS_FINISHED: Text = ("job_controller_jobs_finished", "[STABLE] The number of finished jobs");
/// Failed pods that a rule decided about.
pub const FAILURES_HANDLED: Text = (
    "job_controller_pod_failures_handled_by_failure_policy",
    "[BETA] The number of failed Pods handled by failure policy with\n\t\t\trespect to the failure policy action applied based on the matched\n\t\t\trule. Possible values of the action label correspond to the\n\t\t\tpossible values for the failure policy rule action, which are:\n\t\t\t\"FailJob\", \"Ignore\" and \"Count\".",
);
/// Finished pods that wait to be counted.
pub const FINALIZERS: Text = (
    "job_controller_terminated_pods_tracking_finalizer",
    "[BETA] The number of terminated pods (phase=Failed|Succeeded)\nthat have the finalizer batch.kubernetes.io/job-tracking\nThe event label can be \"add\" or \"delete\".",
);
/// How late CronJobs create Jobs.
pub const SKEW: Text = (
    "cronjob_controller_job_creation_skew_duration_seconds",
    "[STABLE] Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
);
/// How late finished Jobs go.
pub const EXPIRED: Text = (
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    "[ALPHA] The time it took to delete the job since it became eligible for deletion",
);
/// What was put into a queue.
pub const ADDS: Text = ("workqueue_adds", "[ALPHA] Total number of adds handled by workqueue");
/// What is in a queue.
pub const DEPTH: Text = ("workqueue_depth", "[ALPHA] Current depth of workqueue");
/// How long it was there.
pub const QUEUED: Text = (
    "workqueue_queue_duration_seconds",
    "[ALPHA] How long in seconds an item stays in workqueue before being requested.",
);
/// How long work on it took.
pub const WORKED: Text =
    ("workqueue_work_duration_seconds", "[ALPHA] How long in seconds processing an item from workqueue takes.");
/// How long work goes on.
pub const UNFINISHED: Text = (
    "workqueue_unfinished_work_seconds",
    "[ALPHA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
);
/// How long the longest work goes on.
pub const LONGEST: Text = (
    "workqueue_longest_running_processor_seconds",
    "[ALPHA] How many seconds has the longest running processor for workqueue been running.",
);
/// What was put back after a failure.
pub const RETRIES: Text = ("workqueue_retries", "[ALPHA] Total number of retries handled by workqueue");
