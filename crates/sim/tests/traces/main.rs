//! What the real controllers did, and whether ours do the same: recorded runs of a 1.36.2 controller manager, replayed.
//!
//! A recording holds every watch event of Jobs, pods and Events, with its time. What came from outside (creations, what
//! users changed, what the node told of pods) is done again, at the same times of a virtual clock, to the real router
//! with our controllers; then the two stories are compared.
//!
//! Left out: states that last only until the controller's own next write. Upstream's order of creating and counting
//! differs there from ours, see `core::job`.

mod metrics;
mod rules;
mod stage;
mod stories;
mod story;
mod trace;

use std::time::Duration;

use serde_json::json;
use stage::Stage;
use stint_controllers::Metrics;
use story::Story;

/// How long the controllers may go on after the recording's end.
const LINGER: Duration = Duration::from_secs(3);

#[test]
fn recorded_runs_of_jobs_replay_equal() {
    let Some(recordings) = trace::recordings() else { return };
    let (mut equal, mut different) = (Vec::new(), Vec::new());
    for (name, recorded) in &recordings {
        let ours = replay(recorded, &Metrics::default());
        let differences = Story::of(recorded).differences(&Story::of(&ours));
        if differences.is_empty() {
            equal.push(name.as_str());
        } else {
            different.push(format!("{name}:\n  {}\n{}", differences.join("\n  "), trace::show(&ours)));
        }
    }
    println!("{} of {} traces equal: {}", equal.len(), recordings.len(), equal.join(", "));
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What our controllers do when what came from outside in `recorded` happens again.
fn replay(recorded: &[trace::Entry], metrics: &Metrics) -> Vec<trace::Entry> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O needs nothing");
    runtime.block_on(async {
        let mut stage = Stage::open(trace::begin(recorded), metrics.clone());
        for deed in trace::outside(recorded) {
            stage.perform(deed).await;
        }
        let end = recorded.last().expect("a recording holds something").at;
        stage.wait_until(end + LINGER).await;
        stage.close()
    })
}

/// Whatever may be in a recording can be done again: what users change, pods that are deleted, times that come.
#[test]
fn a_run_of_our_own_replays_equal() {
    let scenes: [(&str, Vec<trace::Entry>); 4] = [
        (
            "a deadline",
            rules::record(async |scene| {
                scene.job(&json!({ "parallelism": 2, "completions": 2, "activeDeadlineSeconds": 5 })).await;
                rules::pass(8).await;
            }),
        ),
        (
            "a failure policy",
            rules::record(async |scene| {
                let rules = json!([{ "action": "Ignore", "onExitCodes": { "operator": "In", "values": [7] } }]);
                scene.job(&json!({ "parallelism": 2, "completions": 2, "podFailurePolicy": { "rules": rules } })).await;
                let pods = scene.active().await;
                scene.end(&pods[0], 7, 0).await;
                rules::pass(15).await;
            }),
        ),
        (
            "a replacement",
            rules::record(async |scene| {
                scene.job(&json!({ "podReplacementPolicy": "Failed" })).await;
                let pod = scene.active().await[0].clone();
                scene.delete(&format!("{}/{pod}", rules::PODS), &json!({})).await;
                rules::pass(3).await;
                scene.end(&pod, 137, 3).await;
                rules::pass(15).await;
            }),
        ),
        (
            "an elastic Job",
            rules::record(async |scene| {
                scene.job(&json!({ "parallelism": 2, "completions": 2, "completionMode": "Indexed" })).await;
                rules::pass(2).await;
                scene.change(&json!({ "parallelism": 3, "completions": 3 })).await;
                rules::pass(2).await;
                let pods = scene.active().await;
                scene.end(&pods[0], 0, 4).await;
                scene.change(&json!({ "parallelism": 1, "completions": 1 })).await;
                rules::pass(4).await;
            }),
        ),
    ];
    for (name, recorded) in &scenes {
        let ours = replay(recorded, &Metrics::default());
        let differences = Story::of(recorded).differences(&Story::of(&ours));
        let shown = || format!("{}\n{}", trace::show(recorded), trace::show(&ours));
        assert!(differences.is_empty(), "{name}: {}\n{}", differences.join("\n"), shown());
    }
}

/// The comparison has to be able to fail: each of these changes to what happened is one that it is to see.
#[test]
fn a_changed_story_is_told_from_the_recorded_one() {
    let Some(recordings) = trace::recordings() else { return };
    for (name, recorded) in &recordings {
        let story = Story::of(recorded);
        let changes: [&dyn Fn(&mut trace::Entry); 4] = [
            &|entry| entry.replace_text("event", "message", "something else"),
            &|entry| entry.replace_text("event", "reason", "SomethingElse"),
            &|entry| entry.drop_field("pod", "/metadata", "finalizers"),
            &|entry| entry.drop_field("job", "", "status"),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = recorded.clone();
            changed.iter_mut().for_each(change);
            let is_changed = trace::objects(&changed) != trace::objects(recorded);
            let differences = story.differences(&Story::of(&changed));
            assert_eq!(!differences.is_empty(), is_changed, "{name}: change {number}");
        }
    }
}
