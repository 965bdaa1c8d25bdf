//! `DELETE` of an object or of a collection.
//!
//! Upstream: `registry/generic/registry/store.go` (`Delete`, `DeleteCollection`), v1.36.
//! Left out: who removes the finalizers that a propagation policy sets (a controller).

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Status, StatusDetails};
use stint_core::field::{Fault, Path, Value};
use stint_core::json;
use stint_store::{Entry, Mutation, Outcome};

use crate::Api;
use crate::dispatch::{Call, reply};
use crate::path::Place;
use crate::rules::{self, Propagation, Removal};
use crate::selector::Selector;
use crate::status::{Error, Result, encode};
use crate::strategy::Object;
use crate::update::{find, load, old_encoded, write};
use crate::verbs::list;

/// What the client wants of a deletion.
pub(crate) struct Options {
    given: DeleteOptions,
    propagation: Option<Propagation>,
    dry_run: bool,
}

pub(crate) async fn delete(call: &Call, name: &str) -> Result<Response> {
    let options = Options::of(call)?;
    let warnings = options.warnings(&call.place);
    Ok(match remove(&call.api, &call.place, name, &options).await {
        Ok(body) => reply(StatusCode::OK, body, &warnings),
        Err(error) => {
            let mut response = error.into_response();
            let warned = reply(StatusCode::OK, Bytes::new(), &warnings);
            response.headers_mut().extend(
                warned
                    .headers()
                    .iter()
                    .filter(|(name, _)| *name == http::header::WARNING)
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
            response
        }
    })
}

pub(crate) async fn delete_collection(call: &Call) -> Result<Response> {
    let Call { api, place, params, .. } = call;
    let options = Options::of(call)?;
    let selector = Selector::parse(place.kind, params.get("labelSelector"), params.get("fieldSelector"))?;
    let listing = list::select(api, place, &selector);
    for entry in &listing.entries {
        let mut path = entry.key.rsplit('/');
        let name = path.next().unwrap_or_default();
        let namespace = place.namespace.clone().or_else(|| path.next().map(str::to_owned));
        let namespace = namespace.filter(|_| place.kind.scope == crate::kinds::Scope::Namespaced);
        let place = Place { kind: place.kind, namespace };
        match remove(api, &place, name, &options).await {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut response = reply(StatusCode::OK, Bytes::new(), &options.warnings(place));
    *response.body_mut() = list::body(place.kind, listing);
    Ok(response)
}

/// Takes one object away, or marks it. Returns what the client is to see.
pub(crate) async fn remove(api: &Api, place: &Place, name: &str, options: &Options) -> Result<Bytes> {
    if place.kind.facts.undeletable.contains(&name) {
        let why = format!("this {} may not be deleted", place.kind.singular);
        return Err(Error::refused(place.kind, name, why));
    }
    loop {
        let entry = find(api, place, name)?;
        let old = load(api, place, &entry)?;
        options.check_preconditions(place, name, old.as_ref())?;
        let orphans = place.kind.facts.orphans_by_default.is_some();
        let propagation = rules::propagation(options.propagation, old.meta(), orphans);
        let mut new = old.duplicate();
        new.meta_mut().resource_version = None;
        let removal = rules::delete(new.as_mut(), options.given.grace_period_seconds, propagation, api.clock.now());
        let marked = old.entries.encode(new.as_ref());
        if removal == Removal::Nothing || (removal == Removal::Mark && marked.says_the_same_as(&entry.value)) {
            return Ok(place.kind.shown(entry.value));
        }
        if options.dry_run {
            return Ok(match removal {
                Removal::Mark => place.kind.shown(marked.at(entry.revision)),
                _ => gone(place, old.as_ref(), entry.value),
            });
        }
        let entry = if removal == Removal::Now {
            entry
        } else {
            let mark = marked.clone();
            let mutation = Mutation::update(entry.key.clone(), entry.revision, move |revision| mark.at(revision));
            match write(api, mutation).await? {
                Outcome::Written(entry) if removal == Removal::Mark => return Ok(place.kind.shown(entry.value)),
                Outcome::Written(entry) => entry,
                Outcome::Conflict { .. } => continue,
            }
        };
        let Entry { key, revision, .. } = entry;
        let last = if removal == Removal::Now { old_encoded(&old) } else { marked };
        match write(api, Mutation::delete(key, revision, move |revision| last.at(revision))).await? {
            Outcome::Written(entry) => return Ok(gone(place, old.as_ref(), entry.value)),
            // Whoever wrote in between may have finished the deletion.
            Outcome::Conflict { current: None } => return Ok(gone(place, old.as_ref(), Bytes::new())),
            Outcome::Conflict { .. } => {}
        }
    }
}

/// What is said about an object that is there no more.
fn gone(place: &Place, old: &dyn Object, last: Bytes) -> Bytes {
    if place.kind.facts.deletion_returns_object && !last.is_empty() {
        return place.kind.shown(last);
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let status = Status {
        status: Some("Success".into()),
        details: Some(StatusDetails {
            name: old.meta().name.clone(),
            group: some(place.kind.group),
            kind: some(place.kind.plural),
            uid: old.meta().uid.clone(),
            ..StatusDetails::default()
        }),
        ..Status::default()
    };
    encode(&status).into()
}

impl Options {
    /// From the body, or else from the query.
    fn of(call: &Call) -> Result<Self> {
        let Call { params, body, .. } = call;
        let given: DeleteOptions = if body.is_empty() {
            DeleteOptions {
                grace_period_seconds: params.number("gracePeriodSeconds")?,
                propagation_policy: params.get("propagationPolicy").map(str::to_owned),
                orphan_dependents: params.get("orphanDependents").map(|_| params.flag("orphanDependents")),
                ..DeleteOptions::default()
            }
        } else {
            json::read(body)
                .map_err(|error| Error::BadRequest(format!("couldn't get version/kind; json parse error: {error}")))?
        };
        Self::meant(given, params.dry_run("DeleteOptions")?)
    }

    /// What `given` options mean.
    pub(crate) fn meant(mut given: DeleteOptions, dry_run: bool) -> Result<Self> {
        let dry_run = given.dry_run.take().is_some_and(|how| how == ["All"]) || dry_run;
        let root = Path::root();
        let field = root.field("propagationPolicy");
        let refuse = |fault| Err(Error::options("DeleteOptions", vec![fault]));
        let propagation = match (given.orphan_dependents, given.propagation_policy.as_deref()) {
            (Some(_), Some(policy)) => {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                return refuse(Fault::invalid(&field, policy, detail));
            }
            (Some(true), None) | (None, Some("Orphan")) => Some(Propagation::Orphan),
            (Some(false), None) | (None, Some("Background")) => Some(Propagation::Background),
            (None, Some("Foreground")) => Some(Propagation::Foreground),
            (None, None) => None,
            (None, Some(other)) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                return refuse(Fault::not_supported(&field, Value::from(other), &supported));
            }
        };
        Ok(Self { given, propagation, dry_run })
    }

    fn warnings(&self, place: &Place) -> Vec<String> {
        let warning = place.kind.facts.orphans_by_default.filter(|_| self.propagation.is_none());
        warning.map(str::to_owned).into_iter().collect()
    }

    /// Whether nothing is to be done.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The same, about whatever state the object is in.
    pub(crate) fn without_revision(mut self) -> Self {
        if let Some(preconditions) = &mut self.given.preconditions {
            preconditions.resource_version = None;
        }
        self
    }

    pub(crate) fn check_preconditions(&self, place: &Place, name: &str, object: &dyn Object) -> Result<()> {
        let Some(preconditions) = &self.given.preconditions else { return Ok(()) };
        let differs = |wanted: &Option<String>, stored: &Option<String>| {
            let wanted = wanted.clone()?;
            let stored = stored.clone().unwrap_or_default();
            (wanted != stored).then_some((wanted, stored))
        };
        let meta = object.meta();
        if let Some((wanted, stored)) = differs(&preconditions.uid, &meta.uid) {
            let why = format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({stored}). The object might have been deleted and then recreated"
            );
            return Err(Error::precondition(place.kind, name, why));
        }
        if let Some((wanted, stored)) = differs(&preconditions.resource_version, &meta.resource_version) {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({stored}). The object might have been modified"
            );
            return Err(Error::precondition(place.kind, name, why));
        }
        Ok(())
    }
}
