//! A recording, and what of it came from outside the controllers.
//!
//! Invariant: every recorded change is either the controllers' or one that can be done again; a change of a sort that is
//! not known here is a panic, not something that is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The finalizer that the Job controller puts on pods and takes from them.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The annotation that says a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// One watch event.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How long after the first one.
    pub at: Duration,
    /// `job`, `pod` or `event`.
    pub kind: String,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub change: String,
    /// The object.
    pub object: Value,
}

impl Entry {
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().expect("every object has a name")
    }

    /// Writes another text, where there is one.
    pub fn replace_text(&mut self, kind: &str, field: &str, text: &str) {
        if self.kind == kind {
            self.object[field] = json!(text);
        }
    }

    /// Takes a field away.
    pub fn drop_field(&mut self, kind: &str, parent: &str, field: &str) {
        if self.kind == kind
            && let Some(Value::Object(parent)) = self.object.pointer_mut(parent)
        {
            parent.remove(field);
        }
    }
}

/// Something that was done from outside.
#[derive(Clone, Debug)]
pub struct Deed {
    /// When.
    pub at: Duration,
    /// How many pods the controllers had created by then.
    pub after_pods: usize,
    /// What.
    pub act: Act,
}

/// What was done.
#[derive(Clone, Debug)]
pub enum Act {
    /// An object was created: its resource, and the manifest.
    Create(&'static str, Value),
    /// An object was changed by a merge patch.
    Patch(Target, Value),
    /// An object's status was told.
    Tell(Target, Value),
    /// An object was deleted with these options.
    Delete(Target, Value),
}

/// To what it was done.
#[derive(Clone, Debug)]
pub enum Target {
    /// To the object of this resource and name.
    Named(&'static str, String),
    /// To a pod that a controller created, under another name each time.
    Pod(Place),
}

/// Which of the pods of its Job a pod is, whatever its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The Job's name.
    pub job: String,
    /// The completion index.
    pub index: Option<String>,
    /// How many of that Job and index were created before it.
    pub number: usize,
}

/// The places of the pods that a controller created, by name.
pub fn places(entries: &[Entry]) -> BTreeMap<String, Place> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.kind == "pod" && entry.change == "ADDED") {
        let Some(owner) = owners(&entry.object).into_iter().next() else { continue };
        let job = owner["name"].as_str().unwrap_or_default().to_owned();
        let index = entry.object["metadata"]["annotations"][INDEX].as_str().map(str::to_owned);
        let number = places.values().filter(|place| place.job == job && place.index == index).count();
        places.insert(entry.name().to_owned(), Place { job, index, number });
    }
    places
}

/// Every recording of Jobs, by name; `None`, and a word about it, where there are none.
pub fn recordings() -> Option<BTreeMap<String, Vec<Entry>>> {
    let folder = format!("{}/../../../shared/reference/golden/traces", env!("CARGO_MANIFEST_DIR"));
    let Ok(files) = fs::read_dir(&folder) else {
        println!("skipped: no recorded runs at {folder}");
        return None;
    };
    let mut recordings = BTreeMap::new();
    for file in files {
        let path = file.expect("the folder can be read").path();
        let text = fs::read_to_string(&path).expect("a recording can be read");
        let entries = parse(&text);
        if entries.iter().all(|entry| matches!(entry.kind.as_str(), "job" | "pod" | "event")) {
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            recordings.insert(name, entries);
        }
    }
    assert!(!recordings.is_empty(), "{folder} holds recordings of Jobs");
    Some(recordings)
}

fn parse(text: &str) -> Vec<Entry> {
    let values: Vec<Value> = serde_json::from_str(text).expect("a recording is JSON");
    let entry = |value: Value| Entry {
        at: Duration::from_secs_f64(value["t"].as_f64().expect("an entry has a time")),
        kind: value["kind"].as_str().expect("an entry has a kind").to_owned(),
        change: value["event"]["type"].as_str().expect("a watch event has a type").to_owned(),
        object: value["event"]["object"].clone(),
    };
    let mut entries: Vec<Entry> = values.into_iter().map(entry).collect();
    // The three watches were recorded side by side; the revision says what came first.
    entries.sort_by_key(|entry| revision(&entry.object));
    entries
}

/// The objects' revisions, which are in the order of what happened.
pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a revision is a number")
}

/// The bare objects.
pub fn objects(entries: &[Entry]) -> Vec<&Value> {
    entries.iter().map(|entry| &entry.object).collect()
}

/// The wall clock at the first entry.
pub fn begin(entries: &[Entry]) -> Timestamp {
    let text = entries[0].object["metadata"]["creationTimestamp"].as_str().expect("an object has a creation");
    text.parse().expect("a creation is a time")
}

/// What came from outside, in order.
pub fn outside(entries: &[Entry]) -> Vec<Deed> {
    let named_in = |prefix: &str| -> BTreeSet<String> {
        let messages = entries.iter().filter(|e| e.kind == "event").filter_map(|e| e.object["message"].as_str());
        messages.filter_map(|message| message.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let sent_away = named_in("Deleted pod: ");
    let places = places(entries);
    let mut reader = Reader { known: BTreeMap::new(), places, pods: 0, sent_away, deeds: Vec::new() };
    for entry in entries {
        match entry.kind.as_str() {
            "job" => reader.job(entry),
            "pod" => reader.pod(entry),
            _ => {}
        }
    }
    reader.deeds
}

struct Reader {
    /// Jobs and pods as they were shown last.
    known: BTreeMap<(String, String), Value>,
    places: BTreeMap<String, Place>,
    /// How many pods the controllers have created.
    pods: usize,
    /// The pods that the Job controller has deleted.
    sent_away: BTreeSet<String>,
    deeds: Vec<Deed>,
}

impl Reader {
    fn does(&mut self, entry: &Entry, act: Act) {
        self.deeds.push(Deed { at: entry.at, after_pods: self.pods, act });
    }

    fn turn(&mut self, entry: &Entry) -> Option<Value> {
        let key = (entry.kind.clone(), entry.name().to_owned());
        if entry.change == "DELETED" {
            return self.known.remove(&key);
        }
        self.known.insert(key, entry.object.clone())
    }

    fn job(&mut self, entry: &Entry) {
        let target = Target::Named("jobs", entry.name().to_owned());
        let Some(old) = self.turn(entry) else { return self.does(entry, Act::Create("jobs", manifest(&entry.object))) };
        let new = &entry.object;
        if entry.change == "DELETED" {
            if old["metadata"]["deletionTimestamp"].is_null() {
                self.does(entry, Act::Delete(target, json!({ "propagationPolicy": "Background" })));
            }
            return;
        }
        let is_leaving = |job: &Value| !job["metadata"]["deletionTimestamp"].is_null();
        if is_leaving(new) && !is_leaving(&old) {
            if new["spec"]["ttlSecondsAfterFinished"].is_null() {
                let policy = if has_finalizer(new, "orphan") { "Orphan" } else { "Foreground" };
                self.does(entry, Act::Delete(target, json!({ "propagationPolicy": policy })));
            }
            return;
        }
        let mut patch = changed(&old["metadata"], &new["metadata"], &["labels", "annotations", "finalizers"])
            .map_or(json!({}), |metadata| json!({ "metadata": metadata }));
        if let Some(spec) = merge_patch(&old["spec"], &new["spec"]) {
            patch["spec"] = spec;
        }
        if patch != json!({}) {
            self.does(entry, Act::Patch(target, patch));
        }
    }

    fn pod(&mut self, entry: &Entry) {
        let name = entry.name().to_owned();
        let new = &entry.object;
        let Some(old) = self.turn(entry) else {
            if !self.places.contains_key(&name) {
                return self.does(entry, Act::Create("pods", manifest(new)));
            }
            self.pods += 1;
            return;
        };
        let place = self.places.get(&name).cloned();
        let target = place.map_or_else(|| Target::Named("pods", name.clone()), Target::Pod);
        let is_leaving = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        if entry.change == "DELETED" {
            let lingers = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
            if lingers || (!is_leaving(&old) && !self.sent_away.contains(&name) && !self.owner_is_leaving(&old)) {
                self.does(entry, Act::Delete(target, json!({ "gracePeriodSeconds": 0 })));
            }
            return;
        }
        assert_eq!(old["spec"], new["spec"], "a change of a pod's spec is not known here");
        if old["status"] != new["status"] {
            self.does(entry, Act::Tell(target.clone(), without_nulls(&new["status"])));
        }
        let is_sent_away = self.sent_away.contains(&name) || self.owner_is_leaving(&old);
        if is_leaving(new) && !is_leaving(&old) && !is_sent_away {
            let grace = &new["metadata"]["deletionGracePeriodSeconds"];
            self.does(entry, Act::Delete(target.clone(), json!({ "gracePeriodSeconds": grace })));
        }
        let mut patch = changed(&old["metadata"], &new["metadata"], &["labels", "annotations"]).unwrap_or(json!({}));
        // The controllers take owner and finalizer away together, and give them together.
        let is_tracked_still = has_finalizer(&old, TRACKING) && has_finalizer(new, TRACKING);
        if !owners(&old).is_empty() && owners(new).is_empty() && is_tracked_still && !self.owner_is_leaving(&old) {
            patch["ownerReferences"] = Value::Null;
        }
        if patch != json!({}) {
            self.does(entry, Act::Patch(target, json!({ "metadata": patch })));
        }
    }

    /// Whether the Job that owns `pod` is being deleted, or gone.
    fn owner_is_leaving(&self, pod: &Value) -> bool {
        owners(pod).iter().any(|owner| {
            let name = owner["name"].as_str().unwrap_or_default().to_owned();
            let job = self.known.get(&("job".to_owned(), name));
            job.is_none_or(|job| !job["metadata"]["deletionTimestamp"].is_null())
        })
    }
}

/// The owner references.
pub fn owners(object: &Value) -> Vec<Value> {
    object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default()
}

/// Whether `finalizer` is on the object.
pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| list.iter().any(|one| one == finalizer))
}

/// What a user sent to have this object: without what the API and the controllers add.
fn manifest(object: &Value) -> Value {
    let mut manifest = without_nulls(object);
    let metadata = json!({ "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] });
    let generated = |labels: &Value| -> Value {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let own = labels.as_object().into_iter().flatten();
        let is_generated = |key: &str, value: &Value| {
            (key.ends_with("controller-uid") && value == uid) || (key.ends_with("job-name") && value == name)
        };
        own.filter(|(key, value)| !is_generated(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    manifest["metadata"] = metadata;
    manifest["metadata"]["labels"] = generated(&object["metadata"]["labels"]);
    manifest["metadata"]["annotations"] = object["metadata"]["annotations"].clone();
    manifest.as_object_mut().expect("an object is a map").remove("status");
    if object["kind"] == "Job" && object["spec"]["manualSelector"] != true {
        manifest["spec"].as_object_mut().expect("a spec is a map").remove("selector");
        let labels = generated(&object["spec"]["template"]["metadata"]["labels"]);
        manifest["spec"]["template"]["metadata"]["labels"] = labels;
    }
    without_nulls(&manifest)
}

/// The members of `fields` that differ, as a merge patch.
fn changed(old: &Value, new: &Value, fields: &[&str]) -> Option<Value> {
    let pick = |object: &Value| -> Value {
        let members = fields.iter().map(|field| ((*field).to_owned(), object[*field].clone()));
        without_nulls(&Value::Object(members.collect()))
    };
    merge_patch(&pick(old), &pick(new))
}

/// The merge patch that makes `new` of `old`.
fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for (key, value) in to {
        patch.extend(merge_patch(from.get(key).unwrap_or(&Value::Null), value).map(|patch| (key.clone(), patch)));
    }
    patch.extend(from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    Some(Value::Object(patch))
}

/// The same without members that are null.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, member)| !member.is_null())
            .map(|(key, member)| (key.clone(), without_nulls(member)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// The entries for whoever looks for the difference.
pub fn show(entries: &[Entry]) -> String {
    let mut text = String::new();
    for Entry { at, kind, change, object } in entries {
        let what = match kind.as_str() {
            "event" => format!("{} {}", object["reason"], object["message"]),
            "pod" => format!("{} {}", object["metadata"]["finalizers"], object["status"]["phase"]),
            _ => object["status"].to_string(),
        };
        let _ = writeln!(text, "    {:7.3} {kind} {change} {} {what}", at.as_secs_f64(), object["metadata"]["name"]);
    }
    text
}
