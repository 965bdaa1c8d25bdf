//! `POST` to a collection.
//!
//! Order of steps as upstream: decode, default, identity and name, namespace, validation, write.

use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use stint_core::admit::dedup_owner_references;
use stint_core::names::generate_name;
use stint_store::{Mutation, Outcome};

use crate::dispatch::Call;
use crate::kinds::Kind;
use crate::managed::{Entries, enter};
use crate::path::Place;
use crate::status::{Error, Result};
use crate::strategy::Object;
use crate::update::{Part, write};
use crate::{Api, admission, auth, body, rules};

/// How many generated names are tried.
const TRIES: usize = 8;

pub(crate) async fn create(call: &Call) -> Result<Response> {
    let Call { place, params, .. } = call;
    let kind = place.kind;
    let dry_run = params.dry_run("CreateOptions")?;
    let validation = params.field_validation("CreateOptions")?;
    let writer = call.writer(Part::Main, "CreateOptions")?;
    let entries = writer.as_ref().map_or(Entries::Kept, Entries::TrackedFor);
    let (mut object, warnings) = body::decode(kind, &call.body, validation)?;
    place_in(place, object.as_mut())?;
    make(call, object, entries, warnings, dry_run).await
}

/// A new object is in the namespace that the URL names, and was in none before.
pub(crate) fn place_in(place: &Place, object: &mut dyn Object) -> Result<()> {
    let meta = object.meta_mut();
    if meta.resource_version.as_deref().is_some_and(|version| !version.is_empty()) {
        return Err(Error::Internal("resourceVersion should not be set on objects to be created".into()));
    }
    match (&place.namespace, meta.namespace.as_deref().filter(|given| !given.is_empty())) {
        (Some(namespace), Some(given)) if namespace != given => return Err(wrong_namespace()),
        (None, Some(_)) => return Err(wrong_namespace()),
        (namespace, _) => meta.namespace.clone_from(namespace),
    }
    Ok(())
}

/// Makes an object that was decoded, of this place.
pub(crate) async fn make(
    call: &Call,
    mut object: Box<dyn Object>,
    entries: Entries<'_>,
    mut warnings: Vec<String>,
    dry_run: bool,
) -> Result<Response> {
    let Call { api, place, .. } = call;
    let kind = place.kind;
    let entries = enter(kind, entries, None, object.as_mut());
    let meta = object.meta_mut();
    warnings.extend(dedup_owner_references(meta));
    let now = api.clock.now();
    let uid = api.ids.uid();
    let name_given = meta.name.as_deref().is_some_and(|name| !name.is_empty());
    let base = meta.generate_name.clone().filter(|base| !base.is_empty());
    let mut left = if name_given || base.is_none() { 1 } else { TRIES };
    loop {
        let mut object = object.duplicate();
        if !name_given && let Some(base) = &base {
            object.meta_mut().name = Some(generate_name(base, &api.ids.suffix()));
        }
        let name = object.meta().name.clone().unwrap_or_default();
        if let Some(namespace) = &place.namespace {
            expect_namespace(api, kind, &name, namespace)?;
        }
        admission::mutate(api, place, object.as_mut()).await?;
        object.prepare_create(&uid);
        rules::create(object.meta_mut(), &uid, now, kind.facts.generation);
        let faults = object.create_faults();
        if !faults.is_empty() {
            return Err(Error::invalid(kind, &name, faults));
        }
        auth::confirm_grant(api, place, None, object.as_ref())?;
        let told = admission::pod_security::create(api, place, object.as_ref())?;
        let _admitted = admission::validate(api, place, object.as_ref(), dry_run).await?;
        warnings.extend(object.create_warnings());
        object.meta_mut().managed_fields = None; // they were validated
        let encoded = entries.encode(object.as_ref());
        let key = place.key(&name);
        if dry_run && api.store.get(&key).is_none() {
            return Ok(told.reply(StatusCode::CREATED, kind.shown(encoded.unversioned()), warnings));
        }
        if !dry_run
            && let Outcome::Written(entry) =
                write(api, Mutation::create(key, move |revision| encoded.at(revision))).await?
        {
            api.recent.wrote(kind, &entry, object, entries);
            return Ok(told.reply(StatusCode::CREATED, kind.shown(entry.value), warnings));
        }
        left -= 1;
        if left == 0 {
            return Err(Error::AlreadyExists { kind, name, generated: base.is_some() });
        }
    }
}

pub(crate) fn wrong_namespace() -> Error {
    Error::BadRequest("the namespace of the provided object does not match the namespace sent on the request".into())
}

#[derive(Default, Deserialize)]
struct NamespacePhase {
    #[serde(default)]
    metadata: NamespaceMeta,
}

#[derive(Default, Deserialize)]
struct NamespaceMeta {
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<String>,
}

/// Refuses new content where it could not stay.
fn expect_namespace(api: &Api, kind: &'static Kind, name: &str, namespace: &str) -> Result<()> {
    let namespaces = Kind::namespaces();
    let missing = || Error::NotFound { kind: namespaces, name: namespace.to_owned() };
    let entry = api.store.get(&namespaces.key(None, namespace)).ok_or_else(missing)?;
    let found: NamespacePhase = serde_json::from_slice(&entry.value).unwrap_or_default();
    if found.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    Err(Error::NamespaceTerminating { kind, name: name.to_owned(), namespace: namespace.to_owned() })
}
