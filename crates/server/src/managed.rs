//! Who owns which fields: `metadata.managedFields`, kept on every write, and what server-side apply does with it.
//!
//! ```text
//!   create, update, patch ─▶ track ─▶ the writer owns what it changed; nobody else does any more
//!   apply ─────────────────▶ apply ─▶ merged with the live object, or refused: somebody owns what would change
//! ```
//!
//! Objects are compared as the client left them, after defaulting and before its kind's strategy adds what it generates:
//! so defaults belong to whoever creates an object, and generated labels to nobody.
//!
//! While a request is carried out, the entries of an object stand apart from it, in a [`Ledger`]: as the text that is stored,
//! and as sets that share what does not change.
//!
//! Invariant: a write that changes nothing leaves every entry as it is, its time included.
//! Left out: writes that are the server's own (deletion marks, bindings), which upstream does not track either; more than
//! one version of a kind.
//! Upstream: `apimachinery/pkg/util/managedfields/internal`, `structured-merge-diff/merge/update.go`, v1.36.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, header};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, StatusCause, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stint_core::field::quote;
use stint_schema::fields::{Element, FieldPath, FieldSet};
use stint_schema::form::Form;
use stint_schema::merge::{compare, complete, faults, fields_of, merge, remove, with_named_fields};

use crate::dispatch::Call;
use crate::encoding::{Encoded, to_json};
use crate::kinds::{KINDS, Kind, Subresource};
use crate::rules;
use crate::status::{Error, Result};
use crate::strategy::Object;
use crate::update::{Loaded, Part};

/// More entries of updates than these are folded into one.
const MOST_UPDATERS: usize = 10;
/// The most bytes of a manager's name.
pub(crate) const LONGEST_MANAGER: usize = 128;
/// The name of that one.
const ANCIENT: &str = "ancient-changes";
/// The manager that may take over from client-side apply.
const KUBECTL: &str = "kubectl";
/// Where client-side apply keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most bytes of an object's annotations.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// What nobody owns.
const NEVER_OWNED: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.clusterName",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// Who writes, by which way, and when.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// `fieldManager`, or what the client calls itself.
    pub(crate) manager: String,
    /// Which part of the object.
    pub(crate) part: Part,
    /// Now.
    pub(crate) now: Timestamp,
}

impl Writer {
    fn subresource(&self) -> Option<&'static str> {
        match self.part {
            Part::Status => Some("status"),
            Part::EphemeralContainers => Some("ephemeralcontainers"),
            Part::Main | Part::Finalize | Part::Whole => None,
        }
    }
}

/// How the entries of an object that is about to be stored come about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entries<'a> {
    /// By what this writer changes.
    TrackedFor(&'a Writer),
    /// These.
    Signed(&'a Ledger),
    /// They stay what they were.
    Kept,
}

/// Whether the API keeps account of who owns which fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Every write is tracked, so that server-side apply knows conflicts.
    #[default]
    Tracked,
    /// Nothing is: for a process whose clients all are its own, and whose objects end with it.
    Untracked,
}

impl Call {
    /// Who makes this request. None: nothing is tracked.
    pub(crate) fn writer(&self, part: Part, options: &'static str) -> Result<Option<Writer>> {
        let manager = match self.params.field_manager(options)? {
            Some(manager) => manager.to_owned(),
            None => called_itself(&self.headers),
        };
        let tracked = self.api.ownership == Ownership::Tracked;
        Ok(tracked.then(|| Writer { manager, part, now: self.api.clock.now() }))
    }
}

/// What a client calls itself: its `User-Agent` up to the first slash.
fn called_itself(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    let name: String =
        agent.unwrap_or_default().split('/').next().unwrap_or_default().chars().fold(String::new(), |mut name, c| {
            if !c.is_control() && name.len() + c.len_utf8() <= LONGEST_MANAGER {
                name.push(c);
            }
            name
        });
    if name.is_empty() { "unknown".to_owned() } else { name }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn word(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Whose an entry is. Ordered as upstream orders managers: by the JSON of an entry without its fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    manager: String,
    operation: Operation,
    subresource: Option<String>,
}

impl Owner {
    fn of(writer: &Writer, operation: Operation) -> Self {
        Self { manager: writer.manager.clone(), operation, subresource: writer.subresource().map(str::to_owned) }
    }

    /// As conflicts name it.
    fn describe(&self, api_version: &str) -> String {
        let mut text = quote(&self.manager);
        if let Some(subresource) = &self.subresource {
            text = format!("{text} with subresource {}", quote(subresource));
        }
        match self.operation {
            Operation::Apply => text,
            Operation::Update => format!("{text} using {api_version}"),
        }
    }
}

/// One entry.
#[derive(Clone, Debug)]
struct Held {
    owner: Owner,
    time: Option<Time>,
    /// Shared by all states of the object between which it stays the same.
    fields: Arc<FieldSet>,
}

/// The entries of an object.
#[derive(Clone, Debug, Default)]
struct Managed(Vec<Held>);

/// The entries of an object, apart from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// `metadata.managedFields` as it is stored. Empty: there are none.
    json: Bytes,
    /// What that means, once it was asked. None: it is not what entries must be.
    read: OnceLock<Option<Arc<Managed>>>,
}

impl Ledger {
    /// Those that are stored as `json`.
    pub(crate) fn stored(json: Bytes) -> Self {
        Self { json, read: OnceLock::new() }
    }

    /// Those that an object brings, which loses them.
    pub(crate) fn taken_from(object: &mut dyn Object) -> Self {
        let entries = object.meta_mut().managed_fields.take().filter(|entries| !entries.is_empty());
        Self::stored(entries.map_or_else(Bytes::new, |entries| to_json(&entries).into()))
    }

    /// The object with these entries, as it is stored. It must have none of its own.
    pub(crate) fn encode(&self, object: &dyn Object) -> Encoded {
        object.encode().with_entries(&self.json)
    }

    /// None: they are not what entries must be.
    fn read(&self, kind: &Kind) -> Option<&Managed> {
        let read =
            || if self.json.is_empty() { Some(Arc::default()) } else { Managed::parse(&self.json, kind).map(Arc::new) };
        self.read.get_or_init(read).as_deref()
    }

    /// Whether both are the same, times included.
    pub(crate) fn is_the_same_as(&self, other: &Self) -> bool {
        self.json == other.json
    }

    /// Whether both are the same but for times, and not the same times.
    pub(crate) fn differs_in_times_only(&self, other: &Self, kind: &Kind) -> bool {
        let (Some(new), Some(old)) = (self.read(kind), other.read(kind)) else { return false };
        let alike = |new: &Held, old: &Held| new.owner == old.owner && new.fields == old.fields;
        self.json != other.json
            && new.0.len() == old.0.len()
            && new.0.iter().zip(&old.0).all(|(new, old)| alike(new, old))
    }
}

/// An entry as it is stored: its members in alphabetical order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    api_version: &'static str,
    fields_type: &'static str,
    fields_v1: &'a FieldSet,
    manager: &'a str,
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subresource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a Time>,
}

impl<'a> Written<'a> {
    fn of(held: &'a Held, kind: &Kind) -> Self {
        Self {
            api_version: kind.api_version,
            fields_type: "FieldsV1",
            fields_v1: &held.fields,
            manager: &held.owner.manager,
            operation: held.owner.operation.word(),
            subresource: held.owner.subresource.as_deref(),
            time: held.time.as_ref(),
        }
    }
}

/// An entry as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    api_version: Option<String>,
    fields_type: Option<String>,
    fields_v1: Option<FieldSet>,
    manager: Option<String>,
    operation: Option<String>,
    subresource: Option<String>,
    time: Option<Time>,
}

impl Managed {
    /// The entries in `json`. None: they are not what such entries must be.
    fn parse(json: &[u8], kind: &Kind) -> Option<Self> {
        Self::of(serde_json::from_slice::<Vec<Read>>(json).ok()?, kind)
    }

    /// The entries that an object brings. None: as above.
    fn given(entries: &[ManagedFieldsEntry], kind: &Kind) -> Option<Self> {
        let read = |entry: &ManagedFieldsEntry| {
            let fields_v1 = match &entry.fields_v1 {
                Some(fields) => Some(FieldSet::from_json(&fields.0)?),
                None => None,
            };
            Some(Read {
                api_version: entry.api_version.clone(),
                fields_type: entry.fields_type.clone(),
                fields_v1,
                manager: entry.manager.clone(),
                operation: entry.operation.clone(),
                subresource: entry.subresource.clone(),
                time: entry.time.clone(),
            })
        };
        Self::of(entries.iter().map(read).collect::<Option<_>>()?, kind)
    }

    fn of(entries: Vec<Read>, kind: &Kind) -> Option<Self> {
        let mut held: Vec<Held> = Vec::with_capacity(entries.len() + 1);
        for entry in entries {
            let operation = match entry.operation.as_deref() {
                Some("Apply") => Operation::Apply,
                Some("Update") => Operation::Update,
                _ => return None,
            };
            let version = entry.api_version.filter(|version| !version.is_empty())?;
            if entry.fields_type.as_deref() != Some("FieldsV1") {
                return None;
            }
            if version != kind.api_version {
                continue; // a version that is not served any more
            }
            let owner = Owner {
                manager: entry.manager.unwrap_or_default(),
                operation,
                subresource: entry.subresource.filter(|subresource| !subresource.is_empty()),
            };
            held.retain(|other| other.owner != owner);
            held.push(Held { owner, time: entry.time, fields: Arc::new(entry.fields_v1.unwrap_or_default()) });
        }
        Some(Self(held))
    }

    /// The entries to start from: those that the request brings, else those of the live object. A list that is there and
    /// empty begins anew.
    fn requested(given: Option<&[ManagedFieldsEntry]>, live: &Ledger, part: Part, kind: &Kind) -> Self {
        let live = || live.read(kind).cloned().unwrap_or_default();
        if part == Part::Status {
            return live();
        }
        match given {
            Some(entries) if entries.is_empty() || entries == [ManagedFieldsEntry::default()] => Self::default(),
            Some(given) => match Self::given(given, kind) {
                Some(managed) if !managed.0.is_empty() => managed,
                _ => live(),
            },
            None => live(),
        }
    }

    /// As they are stored.
    fn written(mut self, kind: &Kind) -> Ledger {
        let seconds = |time: &Option<Time>| time.as_ref().map_or(0, |time| time.0.as_second());
        self.0.sort_by(|a, b| {
            let key = |held: &Held| (held.owner.operation, seconds(&held.time));
            key(a).cmp(&key(b)).then_with(|| a.owner.cmp(&b.owner))
        });
        if self.0.is_empty() {
            return Ledger::default();
        }
        let json = to_json(&self.0.iter().map(|held| Written::of(held, kind)).collect::<Vec<_>>());
        Ledger { json: json.into(), read: OnceLock::from(Some(Arc::new(self))) }
    }

    /// As the entries of an object whose metadata is looked at with them.
    fn shown(&self, kind: &Kind) -> Option<Vec<ManagedFieldsEntry>> {
        let entry = |held: &Held| ManagedFieldsEntry {
            api_version: Some(kind.api_version.to_owned()),
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(FieldsV1(held.fields.to_json())),
            manager: Some(held.owner.manager.clone()),
            operation: Some(held.owner.operation.word().to_owned()),
            subresource: held.owner.subresource.clone(),
            time: held.time.clone(),
        };
        Some(self.0.iter().map(entry).collect::<Vec<_>>()).filter(|entries| !entries.is_empty())
    }

    /// Takes `lost` from all but `writer`.
    fn take(&mut self, lost: &FieldSet, writer: Option<&Owner>) {
        for held in self.0.iter_mut().filter(|held| Some(&held.owner) != writer && held.fields.meets(lost)) {
            held.fields = Arc::new(held.fields.difference(lost));
        }
        self.0.retain(|held| !held.fields.is_empty());
    }

    /// Folds the oldest updates into one entry, until there are few enough.
    fn fold(&mut self) {
        let updates = |held: &&Held| held.owner.operation == Operation::Update;
        let mut excess = self.0.iter().filter(updates).count().saturating_sub(MOST_UPDATERS);
        if excess == 0 {
            return;
        }
        let seconds = |held: &Held| held.time.as_ref().map_or(0, |time| time.0.as_second());
        self.0.sort_by(|a, b| seconds(a).cmp(&seconds(b)).then_with(|| a.owner.cmp(&b.owner)));
        let mut bucket: Option<Held> = None;
        let mut kept = Vec::with_capacity(self.0.len());
        for held in self.0.drain(..) {
            match &mut bucket {
                _ if held.owner.operation == Operation::Apply => kept.push(held),
                None => bucket = Some(held),
                Some(bucket) if excess > 0 => {
                    excess -= 1;
                    bucket.owner =
                        Owner { manager: ANCIENT.to_owned(), operation: Operation::Update, subresource: None };
                    bucket.fields = Arc::new(bucket.fields.union(&held.fields));
                    bucket.time = held.time;
                }
                Some(_) => kept.push(held),
            }
        }
        kept.extend(bucket);
        self.0 = kept;
    }
}

/// The entries of `new`, which replaces `old` (none: which is created). Those that it brings it keeps until they were
/// validated.
pub(crate) fn enter(kind: &'static Kind, entries: Entries<'_>, old: Option<&Loaded>, new: &mut dyn Object) -> Ledger {
    match entries {
        Entries::TrackedFor(writer) => track(kind, writer, old, new),
        Entries::Signed(ledger) => ledger.clone(),
        Entries::Kept => {
            new.meta_mut().managed_fields = None;
            old.map(|old| old.entries.clone()).unwrap_or_default()
        }
    }
}

/// Records what `writer` has changed of `old` in `new`; of nothing, when it creates.
fn track(kind: &'static Kind, writer: &Writer, old: Option<&Loaded>, new: &mut dyn Object) -> Ledger {
    let Some(form) = kind.form() else { return Ledger::taken_from(new) };
    let nothing = Ledger::default();
    let given = new.meta_mut().managed_fields.take();
    let live = old.map_or(&nothing, |old| &old.entries);
    let mut managed = Managed::requested(given.as_deref(), live, writer.part, kind);
    let old = old.map(|old| -> &dyn Object { &*old.object });
    let reset = kind.reset_fields(writer.part);
    let spec = if old.is_some_and(|old| reset.contains(&[Element::field("spec")]) || new.has_same_spec(old)) {
        Spec::Alike
    } else {
        Spec::Compared
    };
    let live = live_value(kind, form, old, new, spec);
    let next = value_of(form, new, old, spec);
    let found = compare(form, &live, &next).outside(reset);
    let changed = found.changed();
    managed.take(&changed.union(&found.removed), None);
    let owned = changed.difference(never_owned());
    if !owned.is_empty() {
        let owner = Owner::of(writer, Operation::Update);
        let now = Some(rules::seconds(writer.now));
        match managed.0.iter_mut().find(|held| held.owner == owner) {
            Some(held) => (held.fields, held.time) = (Arc::new(held.fields.union(&owned)), now),
            None => managed.0.push(Held { owner, time: now, fields: Arc::new(owned) }),
        }
    }
    managed.fold();
    if given.is_some() {
        new.meta_mut().managed_fields = managed.shown(kind);
    }
    managed.written(kind)
}

fn never_owned() -> &'static FieldSet {
    static SET: OnceLock<FieldSet> = OnceLock::new();
    SET.get_or_init(|| FieldSet::of_fields(&NEVER_OWNED))
}

/// What is compared of two objects' specs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// All of them.
    Compared,
    /// Nothing: they are alike, or how they differ does not matter.
    Alike,
}

/// An object as it is compared with another: without its entries, and with what Go's structs always have.
fn value_of(form: Form, object: &dyn Object, other: Option<&dyn Object>, spec: Spec) -> Value {
    let outline = other.filter(|_| spec == Spec::Alike).and_then(|other| object.outline(other));
    let mut value = outline.as_deref().unwrap_or(object).to_value();
    if let Some(Value::Object(meta)) = value.get_mut("metadata") {
        meta.remove("managedFields");
    }
    complete(form, &mut value);
    value
}

fn live_value(
    kind: &'static Kind,
    form: Form,
    old: Option<&dyn Object>,
    new: &dyn Object,
    spec: Spec,
) -> Cow<'static, Value> {
    match old {
        Some(old) => Cow::Owned(value_of(form, old, Some(new), spec)),
        None => Cow::Borrowed(kind.nothing()),
    }
}

/// What an apply makes of an object.
pub(crate) struct Applied {
    /// The merged object in JSON, without entries.
    pub(crate) object: Value,
    entries: Managed,
}

impl Applied {
    /// The entries of the decoded object.
    pub(crate) fn entries(self, kind: &Kind) -> Ledger {
        self.entries.written(kind)
    }
}

/// Merges `config` into the live object (none: creates one), for `writer` to own.
pub(crate) fn apply(
    kind: &'static Kind,
    writer: &Writer,
    old: Option<&Loaded>,
    config: &Value,
    force: bool,
) -> Result<Applied> {
    let Some(form) = kind.form() else {
        return Err(Error::Internal(format!("no type is known of {}, so nothing can be applied to it", kind.kind)));
    };
    expect_config(kind, config)?;
    let wrong = faults(form, config);
    if !wrong.is_empty() {
        let why = match wrong.as_slice() {
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        return Err(Error::Internal(format!("failed to create typed patch object ({}): {why}", named(config))));
    }
    let live = match old {
        Some(old) => Cow::Owned(value_of(form, old.as_ref(), None, Spec::Compared)),
        None => Cow::Borrowed(kind.nothing()),
    };
    let nothing = Ledger::default();
    let entries = old.map_or(&nothing, |old| &old.entries).read(kind);
    let entries = entries.ok_or_else(|| Error::Internal("failed to decode managed fields".into()))?;
    let state = State { kind, form, live: &live, entries };
    let mut result = state.apply(writer, config, force);
    if let Err(conflicts) = &result
        && writer.manager == KUBECTL
        && let Some(allowed) = state.last_applied()
    {
        // What client-side apply has set is kubectl's own, whatever the entries say.
        let left: Vec<_> = conflicts.iter().filter(|conflict| !allowed.contains(&conflict.path.0)).cloned().collect();
        result = if left.is_empty() { state.apply(writer, config, true) } else { Err(left) };
    }
    let (mut object, mut entries) = result.map_err(|conflicts| refusal(kind, &conflicts))?;
    if writer.manager == KUBECTL {
        keep_last_applied(&live, config, &mut object);
    }
    let owner = Owner::of(writer, Operation::Apply);
    for held in entries.0.iter_mut().filter(|held| held.owner == owner) {
        held.fields = Arc::new(held.fields.difference(never_owned()));
        held.time = Some(rules::seconds(writer.now));
    }
    entries.0.retain(|held| !held.fields.is_empty());
    Ok(Applied { object, entries })
}

/// A configuration must be of the kind, and say nothing about entries.
fn expect_config(kind: &Kind, config: &Value) -> Result<()> {
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    let (version, of) = (text("apiVersion"), text("kind"));
    if version != kind.api_version || of != kind.kind {
        return Err(Error::BadRequest(format!("invalid object type: {}", group_version_kind(version, of))));
    }
    if config["metadata"].get("managedFields").is_some_and(|entries| !entries.is_null()) {
        return Err(Error::BadRequest("metadata.managedFields must be nil".into()));
    }
    Ok(())
}

/// `batch/v1, Kind=Job`.
fn group_version_kind(api_version: &str, kind: &str) -> String {
    let separator = if api_version.contains('/') { "" } else { "/" };
    format!("{separator}{api_version}, Kind={kind}")
}

/// `namespace/name; batch/v1, Kind=Job`, as a configuration says it.
fn named(config: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &config["metadata"];
    let kind = group_version_kind(&text(&config["apiVersion"]), &text(&config["kind"]));
    format!("{}/{}; {kind}", text(&meta["namespace"]), text(&meta["name"]))
}

/// A field that would change under its owner.
#[derive(Clone, Debug)]
struct Conflict {
    owner: Owner,
    path: FieldPath,
}

/// What an apply starts from.
struct State<'a> {
    kind: &'static Kind,
    form: Form,
    live: &'a Value,
    entries: &'a Managed,
}

impl State<'_> {
    fn apply(
        &self,
        writer: &Writer,
        config: &Value,
        force: bool,
    ) -> std::result::Result<(Value, Managed), Vec<Conflict>> {
        let ignored = self.kind.reset_fields(writer.part);
        let owner = Owner::of(writer, Operation::Apply);
        let mut entries = self.entries.clone();
        let last = entries.0.iter().position(|held| held.owner == owner).map(|at| entries.0.swap_remove(at).fields);
        let fields = fields_of(self.form, config).outside(ignored);
        entries.0.push(Held { owner: owner.clone(), time: None, fields: Arc::new(fields) });
        let mut object = merge(self.form, self.live, config);
        if let Some(last) = last.filter(|last| !last.is_empty()) {
            object = self.prune(&object, &last, &entries);
        }
        let found = compare(self.form, self.live, &object).outside(ignored);
        let changed = found.changed();
        let mut conflicts = Vec::new();
        for held in entries.0.iter().filter(|held| held.owner != owner) {
            let paths = held.fields.intersection(&changed).paths();
            conflicts.extend(paths.into_iter().map(|path| Conflict { owner: held.owner.clone(), path }));
        }
        if !force && !conflicts.is_empty() {
            conflicts.sort_by(|a, b| a.owner.cmp(&b.owner));
            return Err(conflicts);
        }
        entries.take(&changed.union(&found.removed), Some(&owner));
        Ok((object, entries))
    }

    /// Removes what the applier owned and gives up, unless somebody else owns it.
    fn prune(&self, merged: &Value, last: &FieldSet, entries: &Managed) -> Value {
        let named = |set: &FieldSet| with_named_fields(self.form, set);
        let last = named(last);
        let all = named(&fields_of(self.form, merged));
        let kept = |object: &Value| named(&fields_of(self.form, object));
        let owned = entries.0.iter().fold(FieldSet::default(), |owned, held| owned.union(&held.fields));
        let pruned = remove(self.form, merged, &last);
        // What somebody still owns comes back, and then what the applier never owned.
        let pruned = remove(self.form, merged, &all.difference(&kept(&pruned).union(&named(&owned))));
        remove(self.form, merged, &all.difference(&kept(&pruned)).intersection(&last))
    }

    /// What client-side apply has set and nobody has changed since.
    fn last_applied(&self) -> Option<FieldSet> {
        let text = self.live["metadata"]["annotations"].get(LAST_APPLIED)?.as_str()?;
        let applied: Value = serde_json::from_str(text).ok()?;
        if applied["apiVersion"] != self.kind.api_version || !faults(self.form, &applied).is_empty() {
            return None;
        }
        let found = compare(self.form, &applied, self.live);
        let fields = fields_of(self.form, &applied);
        Some(fields.difference(&found.changed()).difference(&found.removed))
    }
}

/// Where client-side apply has left its annotation, it must not see server-side changes as somebody else's.
fn keep_last_applied(live: &Value, config: &Value, object: &mut Value) {
    if live["metadata"]["annotations"].get(LAST_APPLIED).is_none() {
        return;
    }
    let Some(Value::Object(annotations)) = object["metadata"].get_mut("annotations") else { return };
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config["metadata"].get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), Value::String(format!("{config}\n")));
    let size = |annotations: &Map<String, Value>| -> usize {
        annotations.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum()
    };
    if size(annotations) > ANNOTATIONS_LIMIT {
        annotations.remove(LAST_APPLIED);
    }
}

fn refusal(kind: &Kind, conflicts: &[Conflict]) -> Error {
    let describe = |owner: &Owner| owner.describe(kind.api_version);
    let causes = conflicts
        .iter()
        .map(|conflict| StatusCause {
            reason: Some("FieldManagerConflict".into()),
            message: Some(format!("conflict with {}", describe(&conflict.owner))),
            field: Some(conflict.path.to_string()),
        })
        .collect();
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", describe(&one.owner), one.path),
        many => {
            let mut lines = Vec::new();
            let mut last = None;
            for Conflict { owner, path } in many {
                if last != Some(owner) {
                    lines.push(format!("conflicts with {}:", describe(owner)));
                    last = Some(owner);
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Error::ApplyConflict { message, causes }
}

/// What a kind's type says about tracking.
struct Merging {
    form: Form,
    /// An object of which nothing is set, as Go has it.
    nothing: Value,
    reset_by_main: FieldSet,
    reset_by_status: FieldSet,
}

impl Merging {
    fn of(kind: &Kind) -> Option<Self> {
        let form = Form::of_kind(kind.api_version, kind.kind)?;
        let mut nothing = json!({});
        complete(form, &mut nothing);
        let has_status = kind.subresources.contains(&Subresource::Status);
        let fields = |fields: &[&str]| FieldSet::of_fields(if has_status { fields } else { &[] });
        let reset_by_main = fields(&["status"]);
        Some(Self { form, nothing, reset_by_main, reset_by_status: fields(kind.facts.status_resets) })
    }
}

impl Kind {
    fn merging(&self) -> Option<&'static Merging> {
        static ALL: OnceLock<HashMap<(&str, &str), Merging>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            KINDS.iter().filter_map(|kind| Some(((kind.api_version, kind.kind), Merging::of(kind)?))).collect()
        });
        all.get(&(self.api_version, self.kind))
    }

    /// How objects of this kind merge. None: the table of types does not have it.
    pub(crate) fn form(&self) -> Option<Form> {
        self.merging().map(|merging| merging.form)
    }

    fn nothing(&self) -> &'static Value {
        self.merging().map_or(&Value::Null, |merging| &merging.nothing)
    }

    /// What writing this part of an object never changes, whatever the request says.
    fn reset_fields(&self, part: Part) -> &'static FieldSet {
        static NONE: FieldSet = FieldSet::EMPTY;
        match (self.merging(), part) {
            (Some(merging), Part::Main | Part::Finalize | Part::EphemeralContainers) => &merging.reset_by_main,
            (Some(merging), Part::Status) => &merging.reset_by_status,
            (None, _) | (_, Part::Whole) => &NONE,
        }
    }
}
