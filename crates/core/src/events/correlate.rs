//! Which Events are told, and which are told together: those that say the same are counted, those that say alike are
//! combined, and an object that has much to tell is heard less often.
//!
//! Invariant: what is remembered is bounded; what is forgotten costs an Event of its own and nothing else. Pure: the time
//! is an argument.
//! Upstream: `client-go/tools/record/events_cache.go` (`EventCorrelator` with its defaults), v1.36.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};

/// How many keys of each sort are remembered (`maxLruCacheEntries`).
const REMEMBERED: usize = 4096;
/// From how many different messages of one reason on they are combined (`defaultAggregateMaxEvents`).
const ALIKE: usize = 10;
/// For how long a reason that is silent is remembered (`defaultAggregateIntervalInSeconds`).
const INTERVAL: SignedDuration = SignedDuration::from_mins(10);
/// How many Events an object may tell at once (`defaultSpamBurst`).
const BURST: f64 = 25.0;
/// After how many seconds it may tell one more (`defaultSpamQPS`).
const REFILL: f64 = 300.0;

/// Something that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft<'a> {
    /// Whom it is about: the uid.
    pub about: &'a str,
    /// Which part of it: `involvedObject.fieldPath`.
    pub part: Option<&'a str>,
    /// `type`.
    pub kind: &'static str,
    /// `reason`.
    pub reason: &'a str,
    /// `message`.
    pub message: &'a str,
}

/// How it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// `metadata.name`: a new one, or that of the Event which is counted up.
    pub name: String,
    /// `message`.
    pub message: String,
    /// `count`. Above 1, the Event is there already.
    pub count: i32,
    /// `firstTimestamp`.
    pub first: Timestamp,
}

/// What is told by one component.
#[derive(Debug, Default)]
pub struct Correlator {
    alike: HashMap<Reason, Alike>,
    told: HashMap<Told, Seen>,
    budgets: HashMap<String, Budget>,
}

/// Whom, type and reason.
type Reason = (String, &'static str, String);
/// The same, and which part of it and the message; without them for what is combined.
type Told = (Reason, Option<(Option<String>, String)>);

#[derive(Debug)]
struct Alike {
    messages: BTreeSet<String>,
    latest: Timestamp,
}

#[derive(Debug)]
struct Seen {
    name: String,
    count: i32,
    first: Timestamp,
    latest: Timestamp,
}

#[derive(Debug)]
struct Budget {
    left: f64,
    latest: Timestamp,
}

impl Correlator {
    /// How `draft` is told now; `name` is for a new Event. `None`: its object has told too much already.
    pub fn tell(&mut self, draft: &Draft<'_>, name: String, now: Timestamp) -> Option<Telling> {
        let reason = (draft.about.to_owned(), draft.kind, draft.reason.to_owned());
        let is_combined = self.is_one_of_many(reason.clone(), draft.message, now);
        let prefix = if is_combined { "(combined from similar events): " } else { "" };
        let message = format!("{prefix}{}", draft.message);
        make_room(&mut self.told, |seen| seen.latest);
        let words = || (draft.part.map(str::to_owned), draft.message.to_owned());
        let key = (reason, (!is_combined).then(words));
        let seen = self.told.entry(key).or_insert(Seen { name, count: 0, first: now, latest: now });
        seen.count = seen.count.saturating_add(1);
        seen.latest = now;
        let telling = Telling { name: seen.name.clone(), message, count: seen.count, first: seen.first };
        self.may_tell(draft.about, now).then_some(telling)
    }

    /// Whether this reason has had so many messages that they are combined.
    fn is_one_of_many(&mut self, reason: Reason, message: &str, now: Timestamp) -> bool {
        make_room(&mut self.alike, |alike| alike.latest);
        let alike = self.alike.entry(reason).or_insert(Alike { messages: BTreeSet::new(), latest: now });
        if now.duration_since(alike.latest) > INTERVAL {
            alike.messages.clear();
        }
        alike.latest = now;
        alike.messages.insert(message.to_owned());
        if alike.messages.len() < ALIKE {
            return false;
        }
        alike.messages.pop_first(); // so that there are never more
        true
    }

    fn may_tell(&mut self, about: &str, now: Timestamp) -> bool {
        make_room(&mut self.budgets, |budget| budget.latest);
        let budget = self.budgets.entry(about.to_owned()).or_insert(Budget { left: BURST, latest: now });
        let passed = now.duration_since(budget.latest).as_secs_f64().max(0.0);
        budget.left = (budget.left + passed / REFILL).min(BURST);
        budget.latest = now;
        let may = budget.left >= 1.0;
        if may {
            budget.left -= 1.0;
        }
        may
    }
}

/// Forgets the older half, when there is no room for one more.
fn make_room<K: Eq + Hash, V>(map: &mut HashMap<K, V>, latest: impl Fn(&V) -> Timestamp) {
    if map.len() < REMEMBERED {
        return;
    }
    let mut moments: Vec<Timestamp> = map.values().map(&latest).collect();
    let (_, middle, _) = moments.select_nth_unstable(REMEMBERED / 2);
    let middle = *middle;
    map.retain(|_, value| latest(value) > middle);
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn draft<'a>(about: &'a str, message: &'a str) -> Draft<'a> {
        Draft { about, part: None, kind: "Normal", reason: "SuccessfulCreate", message }
    }

    #[test]
    fn what_is_said_again_is_counted_on_the_first_event() {
        let mut correlator = Correlator::default();
        let told: Vec<Telling> =
            (0..3).filter_map(|n| correlator.tell(&draft("u", "same"), format!("name{n}"), T0 + n.seconds())).collect();
        let counts: Vec<(&str, i32, Timestamp)> =
            told.iter().map(|telling| (telling.name.as_str(), telling.count, telling.first)).collect();
        assert_eq!(counts, [("name0", 1, T0), ("name0", 2, T0), ("name0", 3, T0)]);
    }

    #[test]
    fn what_two_containers_say_is_not_the_same() {
        let mut correlator = Correlator::default();
        let mut tell = |part| {
            let draft = Draft { part: Some(part), ..draft("u", "Container started") };
            correlator.tell(&draft, part.to_owned(), T0).map(|telling| (telling.name, telling.count)).unwrap()
        };
        assert_eq!(tell("a"), ("a".to_owned(), 1));
        assert_eq!(tell("b"), ("b".to_owned(), 1));
        assert_eq!(tell("a"), ("a".to_owned(), 2));
    }

    #[test]
    fn the_tenth_message_of_a_reason_and_those_after_it_are_combined() {
        let mut correlator = Correlator::default();
        let mut told = Vec::new();
        for n in 1..=12 {
            let message = format!("Created pod: p{n}");
            told.push(correlator.tell(&draft("u", &message), format!("name{n}"), T0).unwrap());
        }
        assert!(told[..9].iter().all(|telling| telling.count == 1 && telling.message.starts_with("Created")));
        let rest: Vec<(&str, i32, &str)> =
            told[9..].iter().map(|t| (t.name.as_str(), t.count, t.message.as_str())).collect();
        let combined = |n| format!("(combined from similar events): Created pod: p{n}");
        assert_eq!(
            rest,
            [
                ("name10", 1, combined(10).as_str()),
                ("name10", 2, combined(11).as_str()),
                ("name10", 3, combined(12).as_str()),
            ]
        );
        let later = correlator.tell(&draft("u", "Created pod: p13"), "name13".to_owned(), T0 + 601.seconds()).unwrap();
        assert_eq!((later.count, later.message.as_str()), (1, "Created pod: p13"), "ten silent minutes end it");
    }

    #[test]
    fn an_object_tells_25_events_at_once_and_then_one_in_five_minutes() {
        let mut correlator = Correlator::default();
        let mut tell = |about: &str, at| correlator.tell(&draft(about, "same"), "name".to_owned(), at).map(|t| t.count);
        assert_eq!((0..30).filter_map(|_| tell("u", T0)).count(), 25);
        assert_eq!(tell("other", T0), Some(1));
        assert_eq!(tell("u", T0 + 299.seconds()), None);
        assert_eq!(tell("u", T0 + 300.seconds()), Some(32), "what was not told was counted");
        assert_eq!(tell("u", T0 + 301.seconds()), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..3 * REMEMBERED {
            let at = T0 + i64::try_from(n).unwrap().milliseconds();
            correlator.tell(&draft(&n.to_string(), "m"), String::new(), at).unwrap();
        }
        assert!(correlator.told.len() <= REMEMBERED && correlator.told.len() >= REMEMBERED / 2);
        assert!(correlator.alike.len() <= REMEMBERED && correlator.budgets.len() <= REMEMBERED);
    }
}
