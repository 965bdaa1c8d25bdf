//! `GET` of one object: its stored bytes.

use axum::response::Response;
use http::StatusCode;

use crate::Api;
use crate::path::Place;
use crate::status::{Result, json};
use crate::update::find;

pub(crate) fn get(api: &Api, place: &Place, name: &str) -> Result<Response> {
    Ok(json(StatusCode::OK, place.kind.shown(find(api, place, name)?.value)))
}
