//! Request bodies: how many bytes, of which media type, and the object in them.
//!
//! Invariant: no more than [`LIMIT`] bytes of a body are ever held.
//! Upstream: `apiserver/pkg/endpoints/handlers/create.go`, `rest.go` (`transformDecodeError`), v1.36.
//! Left out: strict decoding of protobuf, which has no names to be wrong.

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use stint_core::decode::{DecodeError, Tree};
use stint_core::manifest::{self, Limits};
use stint_schema::protobuf;

use crate::kinds::Kind;
use crate::media::PROTOBUF;
use crate::params::FieldValidation;
use crate::status::{Error, Result, encode};
use crate::strategy::Object;

/// The most bytes of a body: 3 MiB.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;

/// Reads a body to its end.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes> {
    let too_large = || Error::TooLarge(format!("limit is {LIMIT}"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > LIMIT) {
        return Err(too_large());
    }
    to_bytes(body, LIMIT).await.map_err(|error| {
        let error = error.into_inner();
        if error.is::<http_body_util::LengthLimitError>() {
            too_large()
        } else {
            Error::BadRequest(format!("cannot read the request's body: {error}"))
        }
    })
}

/// The media type of a body without its parameters. None: there is no such header, which means JSON.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

/// A body as JSON, whatever form the client has sent it in.
pub(crate) fn to_json(parts: &Parts, body: Bytes) -> Result<Bytes> {
    if parts.method == Method::DELETE && body.is_empty() {
        return Ok(body);
    }
    match media_type(&parts.headers).as_deref() {
        None | Some("application/json") => Ok(body),
        Some("application/yaml") => from_yaml(&body),
        Some(PROTOBUF) => from_protobuf(&body),
        Some(_) => Err(Error::UnsupportedMediaType),
    }
}

fn from_protobuf(body: &[u8]) -> Result<Bytes> {
    match protobuf::decode_object(body) {
        Ok(object) => Ok(encode(&object).into()),
        Err(why) => Err(Error::BadRequest(match why {
            protobuf::Error::NoEnvelope => {
                "the object provided is unrecognized: couldn't get version/kind; provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into()
            }
            why => why.to_string(),
        })),
    }
}

fn from_yaml(body: &[u8]) -> Result<Bytes> {
    let refuse =
        |line: usize, why: &str| Error::BadRequest(format!("error converting YAML to JSON: yaml: line {line}: {why}"));
    let text = std::str::from_utf8(body).map_err(|_| refuse(1, "invalid leading UTF-8 octet"))?;
    let limits = Limits { bytes: LIMIT, ..Limits::default() };
    manifest::to_json(text, &limits).map(Bytes::from).map_err(|problem| refuse(problem.line, &problem.message))
}

/// The object of `kind` in `json`, defaulted, with warnings about what was dropped.
pub(crate) fn decode(kind: &Kind, json: &[u8], validation: FieldValidation) -> Result<(Box<dyn Object>, Vec<String>)> {
    decode_tree(kind, &Tree::read(json).map_err(|error| refusal(kind, &error, json))?, validation)
}

fn refusal(kind: &Kind, error: &DecodeError, json: &[u8]) -> Error {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    Error::BadRequest(error.bad_request(group, kind.version, kind.kind, json))
}

/// [`decode`], of what was read already.
pub(crate) fn decode_tree(
    kind: &Kind,
    tree: &Tree,
    validation: FieldValidation,
) -> Result<(Box<dyn Object>, Vec<String>)> {
    let mut decoded = (kind.facts.decode)(tree).map_err(|error| refusal(kind, &error, &tree.to_json()))?;
    let warnings = match (validation, decoded.strict_error()) {
        (FieldValidation::Strict, Some(why)) => {
            let (kind, version) = (kind.kind, kind.version);
            return Err(Error::BadRequest(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
            )));
        }
        (FieldValidation::Ignore, _) => Vec::new(),
        (FieldValidation::Warn | FieldValidation::Strict, _) => decoded.unknown,
    };
    decoded.object.default_fields();
    Ok((decoded.object, warnings))
}
