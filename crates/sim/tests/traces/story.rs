//! What of a run matters, and how two runs differ in it.
//!
//! Names, uids, revisions and moments differ between any two runs; a pod is known by its place, and of a moment only how
//! many seconds after the Job's creation it is, give or take [`TOLERANCE`].

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::trace::{Entry, Place, owners, places, without_nulls};

/// By how many seconds two moments may differ: the recorded cluster was slow.
const TOLERANCE: i64 = 2;

/// A state that lasts no longer is followed by the controller's own next write.
const MOMENT: Duration = Duration::from_millis(50);

/// What matters of a run.
pub struct Story {
    /// The states in which a Job's controller had nothing to do, in order.
    rests: Vec<Rest>,
    /// When the Job started and ended, in seconds after its creation; as often as that changed.
    moments: Vec<(String, i64)>,
    /// The conditions of each Job in the order in which they came, each with the whole list.
    conditions: Vec<Value>,
    /// The Events, as their names say when they happened.
    events: Vec<Value>,
    /// The pods of the controllers.
    pods: BTreeMap<Place, Pod>,
}

/// A state in which a Job's controller had nothing to do.
struct Rest {
    state: Value,
    /// How many of its pods were active.
    active: usize,
    lasted: Duration,
}

impl Rest {
    /// Whether `other` is the same state. Upstream writes no active pods while replacements wait, whatever is active; ours
    /// writes how many there are.
    fn is_like(&self, other: &Rest) -> bool {
        let mut wanted = self.state.clone();
        if wanted["status"]["active"].is_null() && !other.state["status"]["active"].is_null() {
            wanted["status"]["active"] = json!(self.active);
        }
        wanted == other.state
    }
}

/// What matters of a pod.
#[derive(Debug)]
struct Pod {
    /// What the Job controller gave it.
    created: Value,
    /// What is left on it.
    ended: Value,
    /// When it was created, in seconds after its Job.
    at: i64,
}

impl Pod {
    fn is_like(&self, other: &Pod) -> bool {
        self.created == other.created && self.ended == other.ended && is_near(self.at, other.at)
    }
}

impl Story {
    /// What matters of this run.
    pub fn of(entries: &[Entry]) -> Story {
        let jobs = || entries.iter().filter(|entry| entry.kind == "job");
        let mut conditions: Vec<Value> = jobs().map(|job| list_conditions(&job.object)).collect();
        conditions.dedup();
        let moments = |field: &'static str| {
            let mut moments: Vec<(String, i64)> = jobs()
                .filter_map(|job| Some((field.to_owned(), seconds_after(job, &job.object["status"][field])?)))
                .collect();
            moments.dedup();
            moments
        };
        let moments = [moments("startTime"), moments("completionTime")].concat();
        Story {
            rests: list_rests(entries),
            moments,
            conditions,
            events: list_events(entries),
            pods: list_pods(entries),
        }
    }

    /// How `other` differs from this one, which is the right one; in sentences.
    pub fn differences(&self, other: &Story) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, wanted: &[Value], got: &[Value]| {
            for number in 0..wanted.len().max(got.len()) {
                let (wanted, got) = (wanted.get(number), got.get(number));
                if wanted != got {
                    let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
                    differences.push(format!(
                        "{what} {number}:\n    wanted {}\n    got    {}",
                        text(wanted),
                        text(got)
                    ));
                    break;
                }
            }
        };
        compare("conditions", &self.conditions, &other.conditions);
        compare("event", &self.events, &other.events);
        differences.extend(self.different_rests(other));
        differences.extend(self.different_moments(other));
        differences.extend(self.different_pods(other));
        differences
    }

    /// The states have to be the same, but for those of the other story that last for a moment only.
    fn different_rests(&self, other: &Story) -> Option<String> {
        let mut wanted = self.rests.iter().peekable();
        for rest in &other.rests {
            if wanted.next_if(|wanted| wanted.is_like(rest)).is_none() && rest.lasted > MOMENT {
                let next = wanted.peek().map_or("nothing more".to_owned(), |wanted| wanted.state.to_string());
                return Some(format!("state:\n    wanted {next}\n    got    {}", rest.state));
            }
        }
        wanted.next().map(|missing| format!("state:\n    wanted {}\n    got    nothing more", missing.state))
    }

    fn different_moments(&self, other: &Story) -> Option<String> {
        let alike = |(mine, theirs): (&(String, i64), &(String, i64))| mine.0 == theirs.0 && is_near(mine.1, theirs.1);
        let same = self.moments.len() == other.moments.len() && self.moments.iter().zip(&other.moments).all(alike);
        (!same).then(|| format!("moments: wanted {:?}, got {:?}", self.moments, other.moments))
    }

    fn different_pods(&self, other: &Story) -> Vec<String> {
        let mut differences = Vec::new();
        for place in self.pods.keys().chain(other.pods.keys()) {
            match (self.pods.get(place), other.pods.get(place)) {
                (Some(wanted), Some(got)) if wanted.is_like(got) => {}
                (Some(wanted), Some(got)) => {
                    differences.push(format!("{place:?}:\n    wanted {wanted:?}\n    got    {got:?}"));
                }
                (wanted, _) => differences.push(format!("{place:?} is there: {}", wanted.is_none())),
            }
        }
        differences.dedup();
        differences
    }
}

fn is_near(a: i64, b: i64) -> bool {
    (a - b).abs() <= TOLERANCE
}

/// Whether the controller has nothing to do any more about this Job until something else happens: every finished pod is
/// counted, and the end is not decided, or reached.
fn is_at_rest(job: &Value) -> bool {
    let holds = |kinds: [&str; 2]| {
        let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        conditions
            .filter(|condition| condition["status"] == "True")
            .any(|c| kinds.iter().any(|kind| c["type"] == *kind))
    };
    let is_counted = job["status"]["uncountedTerminatedPods"].as_object().is_none_or(serde_json::Map::is_empty);
    is_counted && (!holds(["FailureTarget", "SuccessCriteriaMet"]) || holds(["Failed", "Complete"]))
}

fn list_rests(entries: &[Entry]) -> Vec<Rest> {
    let mut pods: BTreeMap<&str, &Entry> = BTreeMap::new();
    let mut rests: Vec<Rest> = Vec::new();
    // Since when the Job is in the state that it is in, and whether that is one of rest.
    let mut latest: Option<(Duration, bool)> = None;
    for entry in entries {
        match entry.kind.as_str() {
            "pod" if entry.change == "DELETED" => drop(pods.remove(entry.name())),
            "pod" => drop(pods.insert(entry.name(), entry)),
            "job" => {
                if let (Some((since, true)), Some(rest)) = (latest, rests.last_mut()) {
                    rest.lasted += entry.at.saturating_sub(since);
                }
                let rests_now = is_at_rest(&entry.object);
                latest = Some((entry.at, rests_now));
                let state = state(entry);
                if rests_now && rests.last().is_none_or(|rest| rest.state != state) {
                    let active = pods.values().filter(|pod| is_active_pod(&pod.object, entry.name())).count();
                    rests.push(Rest { state, active, lasted: Duration::ZERO });
                }
            }
            _ => {}
        }
    }
    if let (Some((_, true)), Some(rest)) = (latest, rests.last_mut()) {
        rest.lasted = Duration::MAX;
    }
    rests
}

fn is_active_pod(pod: &Value, job: &str) -> bool {
    let is_finished = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
    owners(pod).iter().any(|owner| owner["name"] == job)
        && !is_finished
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// A Job's state without what differs between any two runs.
fn state(entry: &Entry) -> Value {
    let (metadata, mut status) = (&entry.object["metadata"], without_nulls(&entry.object["status"]));
    for field in ["startTime", "completionTime"] {
        if let Some(time) = status.get_mut(field) {
            *time = json!("<TIME>");
        }
    }
    if !status["conditions"].is_null() {
        status["conditions"] = list_conditions(&entry.object);
    }
    json!({
        "name": metadata["name"], "generation": metadata["generation"], "status": status,
        "finalizers": metadata["finalizers"], "gone": entry.change == "DELETED",
    })
}

fn list_conditions(job: &Value) -> Value {
    let without_times = |condition: &Value| {
        let mut condition = condition.clone();
        for field in ["lastProbeTime", "lastTransitionTime"] {
            condition[field] = json!(condition[field].is_string());
        }
        condition
    };
    job["status"]["conditions"].as_array().into_iter().flatten().map(without_times).collect()
}

/// How many seconds after the creation of the object of `entry` this time is, if it is one.
fn seconds_after(entry: &Entry, time: &Value) -> Option<i64> {
    let parse = |value: &Value| value.as_str()?.parse::<Timestamp>().ok();
    Some(parse(time)?.as_second() - parse(&entry.object["metadata"]["creationTimestamp"])?.as_second())
}

/// The Events about Jobs in order, with pods by their places. Those of one reason in a row have no order among them.
fn list_events(entries: &[Entry]) -> Vec<Value> {
    let places = places(entries);
    let uids: BTreeMap<&str, &str> = entries
        .iter()
        .filter(|entry| entry.kind == "job")
        .filter_map(|entry| Some((entry.object["metadata"]["uid"].as_str()?, entry.name())))
        .collect();
    let mut events: Vec<(&str, Value)> = entries
        .iter()
        .filter(|entry| entry.kind == "event")
        .map(|entry| {
            let mut event = without_nulls(&entry.object);
            let (object, moment) = entry.name().rsplit_once('.').expect("an Event's name has two parts");
            assert!(moment.len() == 16 && moment.chars().all(|c| c.is_ascii_hexdigit()), "{moment} are nanoseconds");
            event["metadata"] = json!({ "name": object, "namespace": event["metadata"]["namespace"] });
            event["change"] = json!(entry.change);
            for field in ["firstTimestamp", "lastTimestamp"] {
                event[field] = json!(event[field].as_str().is_some_and(|text| text.len() == 20));
            }
            let about = &mut event["involvedObject"];
            about["uid"] = json!(about["uid"].as_str().and_then(|uid| uids.get(uid)));
            about["resourceVersion"] = json!(about["resourceVersion"].is_string());
            let message = event["message"].as_str().unwrap_or_default();
            if let Some((text, pod)) = message.rsplit_once(' ')
                && let Some(place) = places.get(pod)
            {
                event["message"] = json!(format!("{text} {place:?}"));
            }
            (moment, event)
        })
        .collect();
    events.sort_by(|a, b| a.0.cmp(b.0));
    let mut events: Vec<Value> = events.into_iter().map(|(_, event)| event).collect();
    for run in events.chunk_by_mut(|a, b| a["reason"] == b["reason"]) {
        run.sort_by_key(|event| event["message"].to_string());
    }
    events
}

/// The controllers' pods.
fn list_pods(entries: &[Entry]) -> BTreeMap<Place, Pod> {
    let is_of = |entry: &&Entry, kind: &str, name: &str| entry.kind == kind && entry.name() == name;
    let story = |(name, place): (String, Place)| {
        let first = entries.iter().find(|entry| is_of(entry, "pod", &name))?;
        let last = entries.iter().rfind(|entry| is_of(entry, "pod", &name))?;
        let job = entries.iter().find(|entry| is_of(entry, "job", &place.job))?;
        let at = seconds_after(job, &first.object["metadata"]["creationTimestamp"])?;
        Some((place, Pod { created: created_as(&first.object), ended: ended_as(last), at }))
    };
    places(entries).into_iter().filter_map(story).collect()
}

/// What the Job controller gives a pod.
fn created_as(pod: &Value) -> Value {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let uid = owners(pod)[0]["uid"].as_str().unwrap_or_default().to_owned();
    let prefix = metadata["generateName"].as_str().unwrap_or_default();
    let suffix = metadata["name"].as_str().unwrap_or_default().strip_prefix(prefix).unwrap_or_default();
    let containers = |field: &str| -> Value {
        let list = spec[field].as_array().into_iter().flatten();
        list.map(|c| json!({ "name": c["name"], "image": c["image"], "env": c["env"] })).collect()
    };
    let known = json!({
        "generateName": prefix, "suffix": suffix.len(),
        "labels": metadata["labels"], "annotations": metadata["annotations"],
        "finalizers": metadata["finalizers"], "ownerReferences": metadata["ownerReferences"],
        "hostname": spec["hostname"], "subdomain": spec["subdomain"], "restartPolicy": spec["restartPolicy"],
        "containers": containers("containers"), "initContainers": containers("initContainers"),
        "phase": pod["status"]["phase"],
    });
    let text = known.to_string().replace(&uid, "<UID>");
    serde_json::from_str(&text).expect("one text in it is another")
}

/// What is left on a pod.
fn ended_as(entry: &Entry) -> Value {
    let metadata = &entry.object["metadata"];
    let is_gone = entry.change == "DELETED";
    // What was on a pod that is gone, the write that let it go decides.
    let finalizers = if is_gone { &Value::Null } else { &metadata["finalizers"] };
    json!({
        "gone": is_gone, "leaving": !metadata["deletionTimestamp"].is_null(), "finalizers": finalizers,
        "owned": !owners(&entry.object).is_empty(), "phase": entry.object["status"]["phase"],
    })
}
