//! What is counted in the replays, beside what the recorded controller manager had counted when it had done them all.

use std::collections::BTreeMap;
use std::fs;

use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::registry::Registry;
use stint_controllers::Metrics;

use crate::{replay, trace};

/// The scenarios that add to [`EXACT`].
const SCENARIOS: [&str; 5] = ["fail", "onfailure", "perindex", "success", "ttl"];

/// Series that no other scenario of the recorded controller manager adds to.
const EXACT: [&str; 7] = [
    r#"job_controller_jobs_finished_total{completion_mode="Indexed",reason="FailedIndexes",result="failed"}"#,
    r#"job_controller_jobs_finished_total{completion_mode="Indexed",reason="SuccessPolicy",result="succeeded"}"#,
    r#"job_controller_jobs_finished_total{completion_mode="NonIndexed",reason="BackoffLimitExceeded",result="failed"}"#,
    r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="failed"}"#,
    r#"job_controller_job_finished_indexes_total{backoffLimit="perIndex",status="failed"}"#,
    r#"job_controller_job_finished_indexes_total{backoffLimit="perIndex",status="succeeded"}"#,
    "ttl_after_finished_controller_job_deletion_duration_seconds_count",
];

#[test]
fn metrics_have_the_names_and_texts_of_a_cluster_and_count_the_same() {
    let Some(recordings) = trace::recordings() else { return };
    let path = format!("{}/../../../shared/reference/golden/kcm_metrics.txt", env!("CARGO_MANIFEST_DIR"));
    let recorded = fs::read_to_string(path).expect("the metrics were recorded, too");
    let metrics = Metrics::default();
    for scenario in SCENARIOS {
        replay(&recordings[scenario], &metrics);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics));
    let mut ours = String::new();
    encode(&mut ours, &registry).expect("a String takes everything");

    for line in recorded.lines().filter(|line| line.starts_with('#')) {
        let is_shown = ours.lines().any(|shown| shown == line);
        // A family without a series is not shown; these two count what no replay does.
        let is_silent = line.contains("by_external_controller") || line.contains("handled_by_failure_policy");
        assert!(is_shown || is_silent, "{line}\nis not in\n{ours}");
    }
    let (wanted, got) = (series(&recorded), series(&ours));
    for name in EXACT {
        assert_eq!(got.get(name), Some(&wanted[name]), "{name}");
    }
    let unknown: Vec<&String> = got.keys().filter(|name| !wanted.contains_key(*name)).collect();
    let is_known = |name: &&&String| name.starts_with("workqueue_") || name.contains("_sync");
    assert!(unknown.iter().all(|name| is_known(&name)), "{unknown:?}");
    let finalizers =
        |event| got[&format!("job_controller_terminated_pods_tracking_finalizer_total{{event=\"{event}\"}}")];
    assert!((finalizers("add") - finalizers("delete")).abs() < 0.5, "every finished pod was let go");
}

/// The values by name and labels.
fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(value).collect()
}
