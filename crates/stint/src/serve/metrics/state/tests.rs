//! What is shown of one object.

use serde_json::json;

use super::*;

fn shown<T: DeserializeOwned>(metrics: &[Metric<T>], object: serde_json::Value) -> Vec<String> {
    let object: T = serde_json::from_value(object).unwrap();
    let line = |name: &str, (labels, value): Series| {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{name}{{{}}} {value}", labels.join(","))
    };
    metrics.iter().flat_map(|(name, _, series)| series(&object).into_iter().map(|one| line(name, one))).collect()
}

#[test]
fn a_job_that_failed_says_why_and_who_made_it() {
    let lines = shown(
        JOBS,
        json!({
            "metadata": { "name": "j", "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{ "kind": "CronJob", "name": "c", "controller": true }] },
            "spec": { "parallelism": 2, "completions": 4 },
            "status": { "failed": 3, "ready": 0, "startTime": "2026-01-01T00:00:01Z", "conditions": [
                { "type": "Failed", "status": "True", "reason": "DeadlineExceeded" } ] },
        }),
    );
    let expected = [
        "kube_job_info{} 1",
        "kube_job_created{} 1767225600",
        "kube_job_spec_parallelism{} 2",
        "kube_job_spec_completions{} 4",
        "kube_job_status_succeeded{} 0",
        "kube_job_status_failed{reason=BackoffLimitExceeded} 0",
        "kube_job_status_failed{reason=DeadlineExceeded} 1",
        "kube_job_status_failed{reason=Evicted} 0",
        "kube_job_status_active{} 0",
        "kube_job_status_ready{} 0",
        "kube_job_failed{condition=true} 1",
        "kube_job_failed{condition=false} 0",
        "kube_job_failed{condition=unknown} 0",
        "kube_job_status_start_time{} 1767225601",
        "kube_job_owner{owner_kind=CronJob,owner_name=c,owner_is_controller=true} 1",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn failed_pods_of_a_job_that_goes_on_have_no_reason() {
    let lines = shown(JOBS, json!({ "metadata": {}, "status": { "failed": 3 } }));
    assert!(lines.contains(&"kube_job_status_failed{reason=} 3".to_owned()), "{lines:?}");
}

#[test]
fn a_cron_job_is_due_after_its_last_time_unless_it_is_suspended() {
    let due = |spec: serde_json::Value, last: Option<&str>| {
        let cron_job: CronJob = serde_json::from_value(json!({
            "metadata": { "creationTimestamp": "2026-01-01T10:00:00Z" },
            "spec": spec, "status": { "lastScheduleTime": last },
        }))
        .unwrap();
        cron_job.next(&Zone::utc()).map(|time| time.to_string())
    };
    let daily = |more: serde_json::Value| {
        let mut spec = json!({ "schedule": "@daily" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    assert_eq!(due(daily(json!({})), None).as_deref(), Some("2026-01-02T00:00:00Z"));
    assert_eq!(due(daily(json!({})), Some("2026-01-05T00:00:00Z")).as_deref(), Some("2026-01-06T00:00:00Z"));
    let berlin = daily(json!({ "timeZone": "Europe/Berlin" }));
    assert_eq!(due(berlin, None).as_deref(), Some("2026-01-01T23:00:00Z"));
    assert_eq!(due(daily(json!({ "suspend": true })), None), None);
}

#[test]
fn a_cron_job_says_when_and_how_it_creates_jobs() {
    let lines = shown(
        CRON_JOBS,
        json!({
            "metadata": { "name": "c", "resourceVersion": "7" },
            "spec": { "schedule": "@daily", "concurrencyPolicy": "Forbid", "suspend": false, "jobTemplate": {} },
            "status": { "active": [{ "name": "j" }], "lastScheduleTime": "2026-01-01T00:00:00Z" },
        }),
    );
    let expected = [
        "kube_cronjob_info{schedule=@daily,concurrency_policy=Forbid,timezone=local} 1",
        "kube_cronjob_status_active{} 1",
        "kube_cronjob_status_last_schedule_time{} 1767225600",
        "kube_cronjob_spec_suspend{} 0",
        "kube_cronjob_metadata_resource_version{} 7",
    ];
    assert_eq!(lines, expected);
}
