//! `PUT` of an object or its status.

use axum::response::Response;
use http::StatusCode;
use stint_core::admit::dedup_owner_references;
use stint_core::field::{Fault, Path};

use crate::dispatch::Call;
use crate::managed::Entries;
use crate::params::object_revision;
use crate::path::Place;
use crate::status::{Error, Result};
use crate::strategy::Object;
use crate::update::{Change, Part, Replaced, find, load, replace};
use crate::verbs::create;
use crate::{auth, body};

pub(crate) async fn update(call: &Call, name: &str, part: Part) -> Result<Response> {
    let Call { api, place, params, .. } = call;
    let dry_run = params.dry_run("UpdateOptions")?;
    let validation = params.field_validation("UpdateOptions")?;
    let writer = call.writer(part, "UpdateOptions")?;
    let entries = writer.as_ref().map_or(Entries::Kept, Entries::TrackedFor);
    let (mut object, mut warnings) = body::decode(place.kind, &call.body, validation)?;
    expect_same_place(place, name, object.as_mut())?;
    warnings.extend(dedup_owner_references(object.meta_mut()));
    let expected = object_revision(object.meta().resource_version.as_deref())?;
    let facts = &place.kind.facts;
    loop {
        let entry = match find(api, place, name) {
            Err(Error::NotFound { .. }) if facts.create_on_update && part == Part::Main => {
                auth::expect_may_create(api, place, name)?;
                let mut new = object.duplicate();
                new.meta_mut().resource_version = None;
                return create::make(call, new, entries, warnings, dry_run).await;
            }
            found => found?,
        };
        if expected.is_none() && !facts.unconditional_update {
            let root = Path::root();
            let field = root.field("metadata");
            let fault = Fault::invalid(&field.field("resourceVersion"), 0, "must be specified for an update");
            return Err(Error::invalid(place.kind, name, vec![fault]));
        }
        if expected.is_some_and(|expected| expected != entry.revision) {
            return Err(Error::modified(place.kind, name));
        }
        let old = load(api, place, &entry)?;
        expect_same_uid(place, name, object.as_ref(), old.as_ref())?;
        let new = object.duplicate();
        match replace(api, place, &entry, &old, new, Change { part, entries, dry_run }).await? {
            Replaced::Done(value, told) => return Ok(told.reply(StatusCode::OK, place.kind.shown(value), warnings)),
            Replaced::Lost if expected.is_some() => return Err(Error::modified(place.kind, name)),
            Replaced::Lost => {}
        }
    }
}

/// The body must be about the object that the URL names.
pub(crate) fn expect_same_place(place: &Place, name: &str, object: &mut dyn Object) -> Result<()> {
    let meta = object.meta_mut();
    match meta.name.as_deref() {
        Some(given) if given == name => {}
        None | Some("") => {
            let message = format!("name must be provided on the object ({name} was named on the URL)");
            return Err(Error::BadRequest(message));
        }
        Some(given) => {
            return Err(Error::BadRequest(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
    }
    match (&place.namespace, meta.namespace.as_deref().filter(|given| !given.is_empty())) {
        (Some(namespace), Some(given)) if namespace != given => Err(Error::BadRequest(format!(
            "the namespace of the object ({given}) does not match the namespace on the URL ({namespace})"
        ))),
        (namespace, _) => {
            meta.namespace.clone_from(namespace);
            Ok(())
        }
    }
}

/// What a patch makes is about the same object, too; what is said of a namespace is said later than for a whole object.
pub(crate) fn expect_same_patched_place(place: &Place, name: &str, object: &mut dyn Object) -> Result<()> {
    let given = object.meta().namespace.as_deref().filter(|given| !given.is_empty());
    if given.is_some_and(|given| place.namespace.as_deref() != Some(given)) {
        return Err(create::wrong_namespace());
    }
    expect_same_place(place, name, object)
}

/// A uid in the new state is a precondition.
pub(crate) fn expect_same_uid(place: &Place, name: &str, new: &dyn Object, old: &dyn Object) -> Result<()> {
    let uid = |object: &dyn Object| object.meta().uid.clone().unwrap_or_default();
    let (given, stored) = (uid(new), uid(old));
    if given.is_empty() || given == stored {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {stored}");
    Err(Error::conflict(place.kind, name, why))
}
