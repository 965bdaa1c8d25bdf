//! Replacing one state of an object by the next: the last steps that PUT, PATCH and binding share.
//!
//! Invariant: one call is at most one write, made only if the stored state is still the one that was read.
//! Left out: how the new state came about.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use stint_store::{Entry, Mutation, Outcome};

use crate::admission::pod_security::{self, Told};
use crate::encoding::{Encoded, without_entries};
use crate::kinds::Kind;
use crate::managed::{Entries, Ledger, enter};
use crate::path::Place;
use crate::status::{Error, Result};
use crate::strategy::{Object, without_empty_lists};
use crate::{Api, auth, rules};

/// Which part of an object a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status, and metadata.
    Status,
    /// The ephemeral containers of a pod.
    EphemeralContainers,
    /// What only the finalize subresource changes.
    Finalize,
    /// What the server itself has changed.
    Whole,
}

/// What a request may change, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// Which part of the object.
    pub(crate) part: Part,
    /// Where the entries of its owners come from.
    pub(crate) entries: Entries<'a>,
    /// Whether nothing is to be stored.
    pub(crate) dry_run: bool,
}

/// How replacing ended.
pub(crate) enum Replaced {
    /// The object as it is now, or as it was when its last finalizer went; and what is said of that.
    Done(Bytes, Told),
    /// Somebody else was faster: read again.
    Lost,
}

/// A stored object, decoded. The entries of its field managers stand apart from it.
#[derive(Clone)]
pub(crate) struct Loaded {
    /// The object, without entries.
    pub(crate) object: Arc<dyn Object>,
    /// Its entries.
    pub(crate) entries: Ledger,
}

impl Deref for Loaded {
    type Target = dyn Object;

    fn deref(&self) -> &Self::Target {
        &*self.object
    }
}

impl AsRef<dyn Object> for Loaded {
    fn as_ref(&self) -> &(dyn Object + 'static) {
        &*self.object
    }
}

impl Loaded {
    /// The object of a kind that is stored as `value`.
    pub(crate) fn read(kind: &Kind, value: &Bytes) -> serde_json::Result<Self> {
        if let Some((value, entries)) = without_entries(value) {
            return Ok(Self { object: (kind.facts.load)(&value)?.into(), entries: Ledger::stored(entries) });
        }
        let mut object = (kind.facts.load)(value)?;
        let entries = Ledger::taken_from(object.as_mut());
        Ok(Self { object: object.into(), entries })
    }
}

/// The stored object.
pub(crate) fn load(api: &Api, place: &Place, entry: &Entry) -> Result<Loaded> {
    if let Some(known) = api.recent.get(place.kind, entry) {
        return Ok(known);
    }
    let loaded = Loaded::read(place.kind, &entry.value)
        .map_err(|error| Error::Internal(format!("cannot read the stored {}: {error}", entry.key)))?;
    api.recent.put(place.kind, entry, loaded.clone());
    Ok(loaded)
}

/// The entry of an object that has to be there.
pub(crate) fn find(api: &Api, place: &Place, name: &str) -> Result<Entry> {
    api.store.get(&place.key(name)).ok_or_else(|| Error::NotFound { kind: place.kind, name: name.to_owned() })
}

impl Place {
    /// Where the object `name` is stored.
    pub(crate) fn key(&self, name: &str) -> String {
        self.kind.key(self.namespace.as_deref(), name)
    }
}

/// Carries a mutation out.
pub(crate) async fn write(api: &Api, mutation: Mutation) -> Result<Outcome> {
    let what = mutation.key().clone();
    api.store.write(mutation).await.map_err(|source| Error::Store { what: what.to_string(), source })
}

/// Replaces `entry` (which holds `old`) by `new`.
pub(crate) async fn replace(
    api: &Api,
    place: &Place,
    entry: &Entry,
    loaded: &Loaded,
    mut new: Box<dyn Object>,
    Change { part, entries, dry_run }: Change<'_>,
) -> Result<Replaced> {
    let entries = enter(place.kind, entries, Some(loaded), new.as_mut());
    let old = loaded.as_ref();
    rules::update(new.meta_mut(), old.meta());
    match part {
        Part::Main => new.prepare_update(old),
        Part::Status => new.prepare_status_update(old),
        Part::EphemeralContainers if !new.prepare_ephemeral_update(old) => return Err(Error::MethodNotAllowed),
        Part::Finalize if !new.prepare_finalize(old) => return Err(Error::MethodNotAllowed),
        Part::Finalize | Part::EphemeralContainers | Part::Whole => {}
    }
    if matches!(part, Part::Main | Part::EphemeralContainers) && !new.desires_the_same_as(old) {
        let generation = old.meta().generation.unwrap_or(0) + 1;
        new.meta_mut().generation = Some(generation);
    }
    let faults = match part {
        Part::Main | Part::Finalize => new.update_faults(old),
        Part::Status => new.status_update_faults(old),
        Part::EphemeralContainers => new.ephemeral_update_faults(old),
        Part::Whole => Vec::new(),
    };
    if !faults.is_empty() {
        let name = old.meta().name.as_deref().unwrap_or_default();
        return Err(Error::invalid(place.kind, name, faults));
    }
    if part == Part::Main {
        auth::confirm_grant(api, place, Some(old), new.as_ref())?;
    }
    let told = pod_security::update(api, place, part, old, new.as_ref())?;
    new.meta_mut().managed_fields = None; // they were validated
    let encoded = entries.encode(new.as_ref());
    if rules::releases(new.as_ref(), old.meta()) {
        if dry_run {
            return Ok(Replaced::Done(encoded.at(entry.revision), told));
        }
        // Watchers see the deletion of the state that still had the finalizer.
        let last = old_encoded(loaded);
        let mutation = Mutation::delete(entry.key.clone(), entry.revision, move |revision| last.at(revision));
        return Ok(match write(api, mutation).await? {
            Outcome::Written(gone) => Replaced::Done(encoded.at(gone.revision), told),
            Outcome::Conflict { .. } => Replaced::Lost,
        });
    }
    if encoded.says_the_same_as(&entry.value)
        || means_the_same(place.kind, new.as_ref(), &entries, &encoded, loaded, &entry.value)
    {
        return Ok(Replaced::Done(entry.value.clone(), told));
    }
    if dry_run {
        return Ok(Replaced::Done(encoded.at(entry.revision), told));
    }
    let mutation = Mutation::update(entry.key.clone(), entry.revision, move |revision| encoded.at(revision));
    Ok(match write(api, mutation).await? {
        Outcome::Written(entry) => {
            api.recent.wrote(place.kind, &entry, new, entries);
            Replaced::Done(entry.value, told)
        }
        Outcome::Conflict { .. } => Replaced::Lost,
    })
}

/// Whether nothing but the times of entries would change, or lists that are empty: who writes the same again changes
/// nothing.
fn means_the_same(
    kind: &Kind,
    new: &dyn Object,
    entries: &Ledger,
    encoded: &Encoded,
    old: &Loaded,
    stored: &[u8],
) -> bool {
    let has_empty_list = |json: &[u8]| json.windows(3).any(|bytes| bytes == b":[]");
    let only_times = entries.differs_in_times_only(&old.entries, kind);
    let same_entries = only_times || entries.is_the_same_as(&old.entries);
    if !same_entries || !(only_times || has_empty_list(encoded.json()) || has_empty_list(stored)) {
        return false;
    }
    let value = |object: &dyn Object| {
        let mut value = object.to_value();
        if let Some(Value::Object(meta)) = value.get_mut("metadata") {
            meta.remove("resourceVersion");
        }
        without_empty_lists(value)
    };
    value(new) == value(old.as_ref())
}

/// A stored object, to be encoded with another revision.
pub(crate) fn old_encoded(old: &Loaded) -> Encoded {
    let mut last = old.duplicate();
    last.meta_mut().resource_version = None;
    old.entries.encode(last.as_ref())
}
