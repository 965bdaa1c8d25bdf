//! `POST …/binding`: assigns a pod to a node.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use stint_core::field::{Fault, Path};
use stint_core::json;

use crate::dispatch::{Call, reply};
use crate::managed::Entries;
use crate::rules;
use crate::status::{Error, Result, encode};
use crate::update::{Change, Part, Replaced, find, load, replace};

pub(crate) async fn bind(call: &Call, name: &str) -> Result<Response> {
    let Call { api, place, params, .. } = call;
    let dry_run = params.dry_run("CreateOptions")?;
    let binding: Binding = json::read(&call.body).map_err(|error| {
        Error::BadRequest(format!("Binding in version \"v1\" cannot be handled as a Binding: {error}"))
    })?;
    let Some(node) = binding.target.name.filter(|node| !node.is_empty()) else {
        let root = Path::root();
        let faults = vec![Fault::required(&root.field("target").field("name"), "")];
        return Err(Error::Invalid { kind: "Binding", group: "", name: name.to_owned(), faults });
    };
    loop {
        let entry = find(api, place, name)?;
        let old = load(api, place, &entry)?;
        if let Some(uid) = binding.metadata.uid.as_deref().filter(|uid| !uid.is_empty())
            && old.meta().uid.as_deref() != Some(uid)
        {
            let stored = old.meta().uid.as_deref().unwrap_or_default();
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
            return Err(Error::conflict(place.kind, name, why));
        }
        let mut new = old.duplicate();
        match new.bind(&node, rules::seconds(api.clock.now()).0) {
            None => return Err(Error::MethodNotAllowed),
            Some(Err(why)) => {
                let resource = format!("{}/binding", place.kind.qualified_plural());
                return Err(Error::Conflict { kind: place.kind, resource, name: name.to_owned(), why });
            }
            Some(Ok(())) => {}
        }
        let done =
            replace(api, place, &entry, &old, new, Change { part: Part::Whole, entries: Entries::Kept, dry_run })
                .await?;
        if let Replaced::Done(..) = done {
            let done = Status { status: Some("Success".into()), code: Some(201), ..Status::default() };
            return Ok(reply(StatusCode::CREATED, Bytes::from(encode(&done)), &[]));
        }
    }
}
