//! `POST …/eviction`: deletes a pod after its status says why.
//!
//! Upstream: `pkg/registry/core/pod/storage/eviction.go`, v1.36. Left out: disruption budgets, of which there are none.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use stint_core::json;

use crate::dispatch::{Call, reply};
use crate::managed::Entries;
use crate::rules;
use crate::status::{Error, Result, encode};
use crate::update::{Change, Part, Replaced, find, load, replace};
use crate::verbs::delete::{Options, remove};

pub(crate) async fn evict(call: &Call, name: &str) -> Result<Response> {
    let Call { api, place, params, .. } = call;
    let dry_run = params.dry_run("CreateOptions")?;
    let eviction: Eviction = json::read(&call.body).map_err(|error| {
        Error::BadRequest(format!("Eviction in version \"v1\" cannot be handled as a Eviction: {error}"))
    })?;
    if eviction.metadata.name.as_deref().is_some_and(|given| !given.is_empty() && given != name) {
        return Err(Error::BadRequest("name in URL does not match name in Eviction object".into()));
    }
    let options = Options::meant(eviction.delete_options.unwrap_or_default(), dry_run)?;
    loop {
        let entry = find(api, place, name)?;
        let old = load(api, place, &entry)?;
        options.check_preconditions(place, name, old.as_ref())?;
        let mut new = old.duplicate();
        if !new.evict(rules::seconds(api.clock.now()).0) {
            return Err(Error::MethodNotAllowed);
        }
        if options.is_dry_run() {
            break;
        }
        if let Replaced::Done(..) =
            replace(api, place, &entry, &old, new, Change { part: Part::Whole, entries: Entries::Kept, dry_run: false })
                .await?
        {
            break;
        }
    }
    // What the pod's own preconditions said, was true of the state before the condition.
    match remove(api, place, name, &options.without_revision()).await {
        Ok(_) | Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let done = Status { status: Some("Success".into()), code: Some(201), ..Status::default() };
    Ok(reply(StatusCode::CREATED, Bytes::from(encode(&done)), &[]))
}
