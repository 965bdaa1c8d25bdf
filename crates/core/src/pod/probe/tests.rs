use ProbeKind::{Liveness, Readiness, Startup};

use super::*;

const T0: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    T0 + SignedDuration::from_secs(seconds)
}

fn facts(period: i64, successes: u32, failures: u32) -> ProbeFacts {
    let second = SignedDuration::from_secs;
    ProbeFacts {
        initial_delay: second(0),
        period: second(period),
        timeout: second(1),
        successes,
        failures,
        grace: None,
    }
}

fn prober(set: &ProbeSet) -> Prober {
    Prober::new(set, T0, set.at_first())
}

/// Asks at the time at which something is due; `answers` says what is answered. In short: when, which and what changed.
fn live(prober: &mut Prober, until: i64, mut answer: impl FnMut(ProbeKind, i64) -> Answer) -> Vec<String> {
    let mut told = vec![];
    while let Some(wake) = prober.wake().filter(|wake| *wake <= at(until)) {
        for (kind, _) in prober.due(wake) {
            let second = wake.as_second();
            if let Some(report) = prober.take(kind, answer(kind, second), wake) {
                told.push(match report.change {
                    Some(change) => format!("{second} {} {change:?}", kind.as_str()),
                    None => format!("{second} {}", report.told.unwrap().1),
                });
            }
        }
    }
    told
}

fn bad() -> Answer {
    Answer::Failure("no".to_owned())
}

#[test]
fn thresholds_count_answers_in_a_row() {
    let set = ProbeSet { readiness: Some(facts(10, 2, 3)), ..ProbeSet::default() };
    let mut all = prober(&set);
    let good_at = [0, 10, 20, 30, 60, 70, 100, 110];
    let told = live(&mut all, 150, |_, second| if good_at.contains(&second) { Answer::Success } else { bad() });
    let changes: Vec<&String> = told.iter().filter(|line| !line.contains("failed")).collect();
    assert_eq!(changes, ["10 Readiness Ready", "140 Readiness NotReady"], "{told:?}");
    assert!(told.contains(&"40 Readiness probe failed: no".to_owned()), "each failure is told: {told:?}");
}

#[test]
fn others_wait_for_the_startup_probe_and_are_then_asked_at_once() {
    let readiness = ProbeFacts { initial_delay: SignedDuration::from_secs(3), ..facts(10, 1, 3) };
    let set = ProbeSet { startup: Some(facts(5, 1, 4)), liveness: Some(facts(10, 1, 1)), readiness: Some(readiness) };
    let mut all = prober(&set);
    assert_eq!(set.at_first(), Health { started: false, ready: false });
    let mut asked = vec![];
    let told = live(&mut all, 20, |kind, second| {
        asked.push((kind, second));
        if kind == Startup && second < 10 { bad() } else { Answer::Success }
    });
    let all_told =
        ["0 Startup probe failed: no", "5 Startup probe failed: no", "10 Startup Started", "10 Readiness Ready"];
    assert_eq!(told, all_told);
    let expected =
        [(Startup, 0), (Startup, 5), (Startup, 10), (Liveness, 10), (Readiness, 10), (Liveness, 20), (Readiness, 20)];
    assert_eq!(asked, expected);
}

#[test]
fn a_probe_that_fails_for_good_stops_those_that_kill() {
    let set = ProbeSet { liveness: Some(facts(1, 1, 2)), readiness: Some(facts(1, 1, 1)), ..ProbeSet::default() };
    let mut all = prober(&set);
    let told = live(&mut all, 9, |kind, _| if kind == Liveness { bad() } else { Answer::Success });
    assert_eq!(told, ["0 Liveness probe failed: no", "0 Readiness Ready", "1 Liveness Failed"]);
    assert_eq!(all.wake(), Some(at(10)), "readiness is still asked for");

    let set = ProbeSet { startup: Some(facts(1, 1, 1)), readiness: Some(facts(1, 1, 1)), ..ProbeSet::default() };
    let mut all = prober(&set);
    assert_eq!(live(&mut all, 9, |_, _| bad()), ["0 Startup Failed"]);
    assert_eq!(all.wake(), None);
}

#[test]
fn what_could_not_be_asked_counts_for_nothing() {
    let set = ProbeSet { liveness: Some(facts(1, 1, 2)), ..ProbeSet::default() };
    let mut all = prober(&set);
    let told = live(&mut all, 2, |_, second| if second == 1 { Answer::Errored("gone".to_owned()) } else { bad() });
    let errored = "1 Liveness probe errored and resulted in unknown state: gone";
    assert_eq!(told, ["0 Liveness probe failed: no", errored, "2 Liveness Failed"]);
}

#[test]
fn a_warning_counts_as_success_and_is_told() {
    let set = ProbeSet { readiness: Some(facts(1, 1, 1)), ..ProbeSet::default() };
    let mut all = prober(&set);
    all.due(T0);
    let report = all.take(Readiness, Answer::Warning("elsewhere".to_owned()), T0).unwrap();
    assert_eq!(report.change, Some(Change::Ready));
    assert_eq!(report.told, Some(("ProbeWarning", "Readiness probe warning: elsewhere".to_owned())));
}

#[test]
fn a_slow_answer_puts_the_next_question_off_and_is_never_asked_for_twice() {
    let set = ProbeSet { liveness: Some(facts(10, 1, 3)), ..ProbeSet::default() };
    let mut all = prober(&set);
    assert_eq!(all.due(T0), [(Liveness, SignedDuration::from_secs(1))]);
    assert_eq!((all.due(at(15)), all.wake()), (vec![], None), "it has not answered");
    assert_eq!(all.take(Liveness, Answer::Success, at(25)), None);
    assert_eq!(all.take(Liveness, bad(), at(25)), None, "nobody asked");
    assert_eq!(all.wake(), Some(at(25)));
}

#[test]
fn a_clock_that_is_put_back_puts_no_probe_off_for_long() {
    let set = ProbeSet { liveness: Some(facts(10, 1, 3)), ..ProbeSet::default() };
    let mut all = Prober::new(&set, at(-100_000), set.at_first());
    all.due(T0);
    all.take(Liveness, Answer::Success, T0);
    assert_eq!(all.due(at(-50_000)), []);
    assert_eq!(all.wake(), Some(at(-49_990)));
}

#[test]
fn a_container_that_was_found_running_keeps_how_it_stood() {
    let set = ProbeSet { startup: Some(facts(1, 1, 1)), readiness: Some(facts(10, 1, 2)), ..ProbeSet::default() };
    let mut all = Prober::new(&set, T0, Health { started: true, ready: true });
    assert_eq!(all.due(at(100)), [(Readiness, SignedDuration::from_secs(1))]);
    assert_eq!(all.take(Readiness, Answer::Success, at(100)), None, "that is nothing new");
}

#[test]
fn members_that_are_absent_have_their_defaults() {
    let told = ProbeFacts::of(&api::Probe { initial_delay_seconds: Some(3), ..api::Probe::default() });
    let second = SignedDuration::from_secs;
    let expected = ProbeFacts {
        initial_delay: second(3),
        period: second(10),
        timeout: second(1),
        successes: 1,
        failures: 3,
        grace: None,
    };
    assert_eq!(told, expected);
}
