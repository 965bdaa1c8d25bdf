//! Several replicas, of which one works.

use rustix::process::Signal;
use serde_json::json;

use crate::attached::{Attached, JOBS, api, finish_pods, job, pods_of, succeeded};
use crate::support::{Daemon, until};

const OURS: Option<&str> = Some("stint.dev/job-controller");
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/stint-controllers";
/// A short one, since tests wait for it.
const SHORT: [&str; 2] = ["--lease-duration", "3s"];

fn runs(daemon: &Daemon, name: &str) {
    daemon.create(JOBS, &job(name, OURS));
    until(&format!("{name} is complete"), || {
        finish_pods(daemon);
        succeeded(daemon, name)
    });
    assert_eq!(pods_of(daemon, name), 1, "{name}");
}

#[test]
fn one_of_two_works_and_the_other_goes_on_at_once_when_it_is_stopped() {
    let daemon = api();
    // So long that nobody could wait for its end here.
    let args = ["--lease-duration", "15m"];
    let first = Attached::start(&daemon, &args);
    first.says("leads lease");
    runs(&daemon, "a");
    let second = Attached::start(&daemon, &args);
    second.says("the lease is held");
    assert!(!second.said().contains("leads lease"), "{}", second.said());
    let holder = daemon.get(LEASE)["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    first.stop();
    assert_eq!(daemon.get(LEASE)["spec"]["holderIdentity"], "", "it was released");
    // The next look is a matter of minutes by these terms: a third one looks at once.
    second.stop();
    let third = Attached::start(&daemon, &args);
    third.says("leads lease");
    let lease = daemon.get(LEASE);
    assert_eq!(lease["spec"]["leaseTransitions"], 1, "{lease:#}");
    assert_ne!(lease["spec"]["holderIdentity"], json!(holder));
    runs(&daemon, "b");
    third.stop();
}

#[test]
fn one_that_is_paused_or_killed_is_followed_and_does_no_harm_when_it_comes_back() {
    let daemon = api();
    let first = Attached::start(&daemon, &SHORT);
    first.says("leads lease");
    let second = Attached::start(&daemon, &SHORT);
    // Where the first one is too busy to renew so short a lease, the second one has taken it already.
    until("the second one has looked", || {
        ["the lease is held", "leads lease"].iter().any(|it| second.said().contains(it))
    });
    first.signal(Signal::STOP);
    (0..5).for_each(|number| daemon.create(JOBS, &job(&format!("paused-{number}"), OURS)));
    second.says("leads lease");
    first.signal(Signal::CONT);
    first.says("leads no more");
    (0..5).for_each(|number| runs_already(&daemon, &format!("paused-{number}")));
    second.kill();
    first.says_times("leads lease", 2);
    runs(&daemon, "killed");
    first.stop();
}

fn runs_already(daemon: &Daemon, name: &str) {
    until(&format!("{name} is complete"), || {
        finish_pods(daemon);
        succeeded(daemon, name)
    });
    assert_eq!(pods_of(daemon, name), 1, "{name}");
}
